"""Neurons by name: the registry, the package's public names, and what importing it costs."""

import subprocess
import sys
import types
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from registered import EVERY, build

import neurons
from neurons import registry

BUILT_IN = [
    "input-gated-lif",
    "integrator",
    "leaky-integrator",
    "learnable-lif",
    "multibit-lif",
    "multibit-synaptic-lif",
    "recurrent-gated-lif",
]


@pytest.fixture
def own_registry(monkeypatch):
    """A copy of the registry for one test, so that what the test registers is removed afterwards."""
    monkeypatch.setattr(registry, "_registered", dict(registry._registered))


class TraceState(NamedTuple):
    fast: torch.Tensor
    slow: torch.Tensor


class TraceNeuron(neurons.Neuron):
    """A third party's neuron: two traces with different decay of the sum of three input channels per neuron."""

    State = TraceState
    inputs_per_neuron = 3

    def __init__(self, decay: float = 0.5):
        super().__init__()
        self.decay = torch.nn.Parameter(torch.tensor(decay))

    @staticmethod
    def step(x, state, decay):
        total = sum(x.chunk(3, dim=1))
        fast, slow = decay * state.fast + total, 0.5 * (1 + decay) * state.slow + total
        return fast - slow, TraceState(fast, slow)

    def step_parameters(self):
        return self.decay


def test_the_seven_neurons_are_registered():
    assert EVERY == BUILT_IN


@pytest.mark.parametrize("name", BUILT_IN)
def test_a_neuron_knows_its_name_and_is_created_by_it(name):
    neuron = build(name, 3)
    assert type(neuron) is neurons.neuron_class(name)
    assert neuron.name == name
    assert name.replace("-", "") in type(neuron).__name__.lower()


def test_create_hands_on_arguments_and_options():
    assert neurons.create("recurrent-gated-lif", 5, bits=3).channels == 5
    assert neurons.create("multibit-lif", leak=0.25).leak.item() == 0.25
    assert neurons.create("learnable-lif", library="torch", gamma=0.5).gamma == 0.5


def test_the_list_is_sorted_and_cannot_change_the_registry():
    names = neurons.list_neurons()
    assert names == sorted(names)
    names.clear()
    assert neurons.list_neurons() == BUILT_IN


@pytest.mark.parametrize("find", [neurons.create, neurons.neuron_class])
@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("learnable-lf", "learnable-lif"),
        ("integrater", "integrator"),
        ("input_gated_lif", "input-gated-lif"),
        ("RecurrentGatedLIF", "recurrent-gated-lif"),
    ],
)
def test_a_typo_in_a_name_gets_a_suggestion(find, typed, meant):
    with pytest.raises(ValueError, match=f"no neuron is called '{typed}'; did you mean '{meant}'"):
        find(typed)


@pytest.mark.parametrize("typed", ["xyz", "", None, 3])
def test_a_name_like_no_other_gets_the_list(typed):
    with pytest.raises(ValueError, match="there are input-gated-lif, integrator, leaky-integrator, learnable-lif"):
        neurons.create(typed)


def test_an_unknown_library_gets_the_list():
    with pytest.raises(ValueError, match=r"library must be one of torch, spikingjelly, snntorch; got 'norse'"):
        neurons.create("integrator", library="norse")


@pytest.mark.parametrize("library", ["spikingjelly", "snntorch"])
def test_a_library_that_is_not_installed_is_an_error_with_the_install_line(library):
    code = (
        f"import sys; sys.modules['{library}'] = None\n"
        "import neurons\n"
        f"try: neurons.create('integrator', library='{library}')\n"
        "except ImportError as error: print(error)"
    )
    assert f"pip install {library}" in run_python(code)


# A third party's neuron


def test_a_third_party_registers_a_neuron_from_outside_the_package(own_registry):
    assert neurons.register("trace")(TraceNeuron) is TraceNeuron
    assert neurons.list_neurons() == [*BUILT_IN, "trace"]
    neuron = neurons.create("trace", decay=0.25)
    assert neuron.name == "trace"
    # One neuron. Sums 3 and 1: fast 3, 1.75; slow 3, 0.625 * 3 + 1 = 2.875.
    x = torch.tensor([[[1.0, 1.0, 1.0]], [[2.0, -1.0, 0.0]]])
    y, state = neuron(x)
    torch.testing.assert_close(y.flatten(), torch.tensor([0.0, -1.125]))
    torch.testing.assert_close(torch.cat(state).flatten(), torch.tensor([1.75, 2.875]))
    first, between = neuron(x[:1])
    second, _ = neuron.single_step(x[1], between)
    assert torch.equal(torch.stack([first[0], second]), y)
    y.sum().backward()
    # y2 = 3 d + 1 - (1.5 (1 + d) + 1)
    assert neuron.decay.grad.item() == pytest.approx(1.5)
    with pytest.raises(ValueError, match="multiple of 3; got 4"):
        neuron(torch.zeros(1, 1, 4))


def test_what_a_test_registers_is_forgotten_after_it():
    assert "trace" not in neurons.list_neurons()


def test_a_name_that_is_taken_is_refused(own_registry):
    with pytest.raises(ValueError, match="the neuron name 'integrator' is taken by Integrator"):
        neurons.register("integrator")(TraceNeuron)
    assert neurons.neuron_class("integrator") is neurons.Integrator


def test_a_class_has_one_name(own_registry):
    neurons.register("trace")(TraceNeuron)
    with pytest.raises(ValueError, match="TraceNeuron is registered already, as 'trace'"):
        neurons.register("trace-again")(TraceNeuron)
    assert TraceNeuron.name == "trace"


class NoState(neurons.Neuron):
    """A Neuron without a ``State``."""


@pytest.mark.parametrize("wrong", [torch.nn.Linear, neurons.Integrator(), neurons.integrator_step, None, NoState])
def test_only_a_neuron_class_with_a_state_can_be_registered(own_registry, wrong):
    with pytest.raises(TypeError, match=r"'mine' can only name a subclass of neurons\.Neuron that has a State; got"):
        neurons.register("mine")(wrong)
    assert "mine" not in neurons.list_neurons()


def test_registering_without_a_name_says_how_it_is_done(own_registry):
    with pytest.raises(TypeError, match=r'@neurons\.register\("my-neuron"\)'):
        neurons.register(TraceNeuron)


# The package


def test_the_public_names_are_what_they_are_meant_to_be():
    names = {"Neuron", "MultiBitNeuron", "MultiBitSpike", "TrackedRange", "reference_scan"}
    names |= {"create", "list_neurons", "neuron_class", "register", "unchanging", "GatedCurrents", "start_gates"}
    for name in BUILT_IN:
        neuron = build(name, 3)
        parameters = type(neuron.step_parameters())
        names |= {type(neuron).__name__, neuron.State.__name__, parameters.__name__, neuron.step.__name__}
        assert parameters.__name__ == f"{type(neuron).__name__}Parameters"
        assert neuron.step.__name__ == f"{name.replace('-', '_')}_step"
    assert set(neurons.__all__) == names
    assert len(neurons.__all__) == len(names)
    assert neurons.__all__ == sorted(neurons.__all__)


def test_every_public_name_is_listed_and_documented():
    visible = {
        name
        for name, value in vars(neurons).items()
        if not name.startswith("_") and not isinstance(value, types.ModuleType)
    }
    assert visible == set(neurons.__all__)
    assert all(getattr(neurons, name).__doc__ for name in neurons.__all__)


def run_python(code: str) -> str:
    """What a fresh interpreter prints."""
    root = Path(__file__).parents[2]
    return subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True).stdout


def test_importing_neurons_imports_torch_and_no_library_around_it():
    # Modules that torch itself imports (numpy, and more in some versions) do not count.
    code = (
        "import sys, torch; before = set(sys.modules)\n"
        "import neurons; neurons.create('integrator')\n"
        "print(*sorted({name.partition('.')[0] for name in set(sys.modules) - before}))"
    )
    imported = set(run_python(code).split())
    heavy = {"snntorch", "spikingjelly", "numba", "llvmlite", "cupy", "zoo", "recipes", "matplotlib", "scipy"}
    assert "neurons" in imported
    assert not imported & heavy
    # Everything else must be Python's own.
    assert not imported - set(sys.stdlib_module_names) - {"neurons", "torch"}


CELL = """
import neurons
import torch


@neurons.register("from-a-notebook")
class Doubler(neurons.Integrator):
    @staticmethod
    def step(x, state, parameters):
        return FACTOR * x, state
"""


@pytest.mark.parametrize("library", ["torch", "spikingjelly", "snntorch"])
def test_a_class_that_is_defined_again_takes_the_place_of_the_one_before(own_registry, library):
    found = []
    for factor in (2, 3):
        cell = {"__name__": "__main__", "FACTOR": factor}
        exec(CELL, cell)
        neuron = neurons.create("from-a-notebook", library=library)
        assert isinstance(neuron, cell["Doubler"])
        found.append(neurons.neuron_class("from-a-notebook").step(torch.ones(1), None, None)[0].item())
    assert found == [2, 3]


def test_another_class_does_not_take_a_name_however_it_is_called(own_registry):
    exec(CELL, {"__name__": "one", "FACTOR": 2})
    with pytest.raises(ValueError, match="the neuron name 'from-a-notebook' is taken by Doubler"):
        exec(CELL, {"__name__": "another", "FACTOR": 2})
