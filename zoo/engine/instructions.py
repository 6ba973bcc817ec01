"""The instructions of a program, by number, and the constants shared by :mod:`zoo.engine.program` and the kernels."""

EMBED, NORM, WINDOWS, PRODUCT, RESCALE, ATTENTION, BEST = range(7)
SPARSE_CONVOLUTION, PATCHES, INTEGRATOR = range(7, 10)
LEARNABLE_LIF, MULTIBIT_LIF, MULTIBIT_SYNAPTIC_LIF, INPUT_GATED_LIF, RECURRENT_GATED_LIF = range(10, 15)
FIRST_NEURON = LEARNABLE_LIF
"""From here on the instructions are those of neurons."""
ARGUMENTS = 15
"""The most arguments of an instruction."""
NONE = -1
"""Stands for an argument that an instruction does not have."""
LANES = 16
"""A sum of floats is computed as this many partial sums, like vector instructions do, added in a fixed order."""
EPSILON = 1e-5
"""The epsilon of layer norm."""
KERNEL = 3
"""The width and height of a convolution's kernel; its padding is 1."""
