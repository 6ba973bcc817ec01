"""Spiking neurons for sequences, as pure functions with explicit state and as layers for PyTorch.

``neurons.spikingjelly`` and ``neurons.snntorch`` hold the same neurons as nodes of those libraries; only they
import them.
"""

from neurons.gated_currents import GatedCurrents, start_gates
from neurons.input_gated_lif import InputGatedLIF, InputGatedLIFParameters, input_gated_lif_step
from neurons.integrator import Integrator, IntegratorParameters, integrator_step
from neurons.leaky_integrator import LeakyIntegrator, LeakyIntegratorParameters, leaky_integrator_step
from neurons.learnable_lif import LearnableLIF, LearnableLIFParameters, learnable_lif_step
from neurons.multibit_lif import MultiBitLIF, MultiBitLIFParameters, multibit_lif_step
from neurons.multibit_synaptic_lif import (
    MultiBitSynapticLIF,
    MultiBitSynapticLIFParameters,
    multibit_synaptic_lif_step,
)
from neurons.neuron import MembraneState, MultiBitNeuron, Neuron, SynapticState, reference_scan, unchanging
from neurons.recurrent_gated_lif import (
    RecurrentGatedLIF,
    RecurrentGatedLIFParameters,
    RecurrentState,
    recurrent_gated_lif_step,
)
from neurons.registry import create, list_neurons, neuron_class, register
from neurons.spike import MultiBitSpike, TrackedRange

__all__ = [
    "GatedCurrents",
    "InputGatedLIF",
    "InputGatedLIFParameters",
    "Integrator",
    "IntegratorParameters",
    "LeakyIntegrator",
    "LeakyIntegratorParameters",
    "LearnableLIF",
    "LearnableLIFParameters",
    "MembraneState",
    "MultiBitLIF",
    "MultiBitLIFParameters",
    "MultiBitNeuron",
    "MultiBitSpike",
    "MultiBitSynapticLIF",
    "MultiBitSynapticLIFParameters",
    "Neuron",
    "RecurrentGatedLIF",
    "RecurrentGatedLIFParameters",
    "RecurrentState",
    "SynapticState",
    "TrackedRange",
    "create",
    "input_gated_lif_step",
    "integrator_step",
    "leaky_integrator_step",
    "learnable_lif_step",
    "list_neurons",
    "multibit_lif_step",
    "multibit_synaptic_lif_step",
    "neuron_class",
    "recurrent_gated_lif_step",
    "reference_scan",
    "register",
    "start_gates",
    "unchanging",
]
