"""The instructions of a program, by number, and what :mod:`zoo.engine.program` and the kernels must agree on."""

EMBED, NORM, WINDOWS, PRODUCT, RESCALE, ATTENTION, BEST = range(7)
LEARNABLE_LIF, MULTIBIT_LIF, MULTIBIT_SYNAPTIC_LIF, INPUT_GATED_LIF, RECURRENT_GATED_LIF = range(7, 12)
FIRST_NEURON = LEARNABLE_LIF
"""From here on the instructions are those of neurons."""
ARGUMENTS = 15
"""Of an instruction, at most."""
NONE = -1
"""In the place of what an instruction does without."""
LANES = 16
"""Sums of floats are added up in so many parts, as vector instructions do, and the parts in a fixed order."""
EPSILON = 1e-5
"""Of layer norm."""
