"""Which backend runs: depending on what is asked for, what is installed, and what an input allows."""

import copy
import pickle
import subprocess
import sys
import warnings

import pytest
import torch
from registered import EVERY, MULTI_BIT, build, currents

import neurons
from neurons import kernels

every_neuron = pytest.mark.parametrize("name", EVERY)
INSTALL = {"cpu": r"pip install numba", "cupy": r'pip install "snn-zoo\[cupy\]"'}


@pytest.fixture
def without(monkeypatch):
    """Make a backend's library look as if it were not installed."""

    def remove(backend: str) -> None:
        monkeypatch.setitem(kernels._INSTALLED, backend, False)
        kernels._warn.cache_clear()

    return remove


@pytest.fixture
def with_cupy(monkeypatch):
    monkeypatch.setitem(kernels._INSTALLED, "cupy", True)


def test_the_public_names_are_these():
    assert set(kernels.__all__) == {
        "BACKENDS",
        "OPERATORS",
        "Kernel",
        "available",
        "check_backend",
        "choose",
        "missing",
        "scan",
    }


def test_available_names_what_can_run_here(without):
    assert kernels.available()[:2] == ("torch", "cpu")
    assert ("cupy" in kernels.available()) <= torch.cuda.is_available()
    without("cpu")
    without("cupy")
    assert kernels.available() == ("torch",)


# Asking


@every_neuron
def test_by_default_a_tensor_on_the_cpu_is_scanned_by_the_cpu_kernels(name):
    neuron = build(name, 3, "auto")
    assert (neuron.backend, neuron.last_backend) == ("auto", None)
    neuron(currents(neuron, 4, 2, 3, 0))
    assert neuron.last_backend == "cpu"


@every_neuron
@pytest.mark.parametrize("backend", ["torch", "cpu"])
def test_what_is_asked_for_runs_and_can_be_read_back(name, backend):
    neuron = build(name, 3, backend)
    neuron(currents(neuron, 4, 2, 3, 0))
    assert (neuron.backend, neuron.last_backend) == (backend, backend)


@every_neuron
def test_a_single_step_is_always_torchs_and_says_so(name):
    neuron = build(name, 3, "cpu")
    x = currents(neuron, 4, 2, 3, 0)
    neuron(x)
    neuron.single_step(x[0])
    assert neuron.last_backend == "torch"


def test_the_choice_is_copied_and_pickled_with_a_neuron():
    neuron = build("learnable-lif", 3, "cpu")
    assert copy.deepcopy(neuron).backend == pickle.loads(pickle.dumps(neuron)).backend == "cpu"
    assert neurons.LearnableLIF().backend == "auto"


@pytest.mark.parametrize("backend", ["cuda", "CPU", "", None, 1])
def test_an_unknown_backend_is_an_error_that_names_the_known_ones(backend):
    neuron = neurons.LearnableLIF()
    with pytest.raises(ValueError, match="auto, torch, cpu, cupy"):
        neuron.backend = backend
    assert neuron.backend == "auto"


@pytest.mark.parametrize("backend", INSTALL)
def test_asking_for_what_is_not_installed_is_an_error_with_the_install_line(backend, without):
    without(backend)
    neuron = neurons.LearnableLIF()
    with pytest.raises(ImportError, match=INSTALL[backend]):
        neuron.backend = backend


def test_a_neuron_that_was_pickled_with_a_backend_that_is_missing_here_is_an_error_when_called(without):
    saved = pickle.dumps(build("learnable-lif", 3, "cpu"))
    without("cpu")
    with pytest.raises(ImportError, match=INSTALL["cpu"]):
        pickle.loads(saved)(torch.zeros(2, 1, 3))


def test_asking_for_cupy_with_a_tensor_on_the_cpu_is_an_error(with_cupy):
    neuron = build("learnable-lif", 3, "cupy")
    with pytest.raises(ValueError, match='"cupy" cannot scan a tensor on cpu'):
        neuron(torch.zeros(2, 1, 3))


def test_asking_for_the_cpu_with_a_tensor_elsewhere_is_an_error():
    neuron = build("integrator", 3, "cpu")
    with pytest.raises(ValueError, match='"cpu" cannot scan a tensor on meta'):
        neuron(torch.zeros(2, 1, 3, device="meta"))


# What "auto" falls back to


def test_without_numba_the_torch_loop_runs_with_one_warning_that_has_the_install_line(without):
    without("cpu")
    neuron = neurons.LearnableLIF()
    with pytest.warns(UserWarning, match=INSTALL["cpu"]):
        y, _ = neuron(torch.ones(2, 1, 3))
    assert neuron.last_backend == "torch"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        neuron(torch.ones(2, 1, 3))
    neuron.backend = "torch"
    assert torch.equal(y, neuron(torch.ones(2, 1, 3))[0])


def test_on_a_device_without_kernels_the_torch_loop_runs_with_a_warning(without):
    kernels._warn.cache_clear()
    neuron = neurons.Integrator()
    with pytest.warns(UserWarning, match="no fused kernel for tensors on meta"):
        y, _ = neuron(torch.zeros(2, 1, 3, device="meta"))
    assert (y.shape, neuron.last_backend) == ((2, 1, 3), "torch")


@pytest.mark.parametrize("name", EVERY)
def test_every_neuron_gives_shapes_on_the_meta_device(name):
    neuron = build(name, 3).to("meta")
    x = currents(neuron, 4, 2, 3, seed=0).to("meta")
    y, state = neuron(x)
    assert (y.shape, {part.shape for part in state}) == ((4, 2, 3), {(2, 3)})
    assert neuron.single_step(x[0], state)[0].shape == (2, 3)


def test_importing_the_neurons_imports_neither_numba_nor_cupy(environment_with_checkout):
    code = "import sys, neurons; sys.exit(bool({'numba', 'cupy', 'snntorch', 'spikingjelly'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code], env=environment_with_checkout, check=False).returncode == 0


# Neurons without a kernel


class Doubling(neurons.LearnableLIF):
    """A neuron from outside the package, whose step differs from its parent's."""

    @staticmethod
    def step(x, state, parameters):
        return neurons.learnable_lif_step(2 * x, state, parameters)


class Resting(neurons.LearnableLIF):
    """Its step is its parent's, but its parameters are its own."""

    def step_parameters(self):
        return super().step_parameters()._replace(threshold=2 * self.threshold)


class Plain(neurons.Neuron):
    State = neurons.MembraneState

    @staticmethod
    def step(x, state, parameters):
        return x, state

    def step_parameters(self):
        return ()


@pytest.mark.parametrize("kind", [Doubling, Plain])
def test_a_neuron_with_a_step_of_its_own_runs_by_torch_and_not_by_its_parents_kernel(kind):
    neuron = kind()
    x = torch.tensor([0.6, 0.6, -3.0]).view(3, 1, 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        y, _ = neuron(x)
    assert neuron.last_backend == "torch"
    assert y.flatten().tolist() == ([1, 1, 0] if kind is Doubling else x.flatten().tolist())
    neuron.backend = "cpu"
    with pytest.raises(ValueError, match=f'{kind.__name__} has no fused kernel.*"torch" or "auto"'):
        neuron(x)


def test_a_neuron_with_parameters_of_its_own_runs_by_its_parents_kernel():
    x = torch.tensor([0.6, 0.6, 1.5]).view(3, 1, 1)
    neuron = Resting(leak=1.0)
    y, _ = neuron(x)
    assert (y.flatten().tolist(), neuron.last_backend) == ([0, 0, 1], "cpu")


# A range that moves at every step


@pytest.mark.parametrize("name", MULTI_BIT)
def test_a_range_tracked_by_step_is_the_references_in_training_and_the_kernels_in_evaluation(name):
    neuron = build(name, 3, "auto", range_tracking="step")
    x = currents(neuron, 4, 2, 3, 0)
    neuron(x)
    assert neuron.last_backend == "torch"
    neuron.eval()(x)
    assert neuron.last_backend == "cpu"
    neuron.train().backend = "cpu"
    with pytest.raises(ValueError, match=r'range_tracking="step" moves its range.*"torch" or "auto", not "cpu"'):
        neuron(x)


# Bad input is one error, the same by every backend

BAD = {
    "integers": (lambda x, s: (x.long(), s), TypeError, "floating-point"),
    "a list": (lambda x, s: (x.tolist(), s), TypeError, "takes a tensor"),
    "no batch": (lambda x, s: (x[0, 0], s), ValueError, "takes input of shape"),
    "too many parts": (lambda x, s: (x, (*s, s[0])), ValueError, "takes a state of"),
    "another batch": (lambda x, s: (x, type(s)(*[part[:1] for part in s])), ValueError, "this input needs"),
    "another type": (lambda x, s: (x, type(s)(*[part.double() for part in s])), TypeError, "keeps its state in"),
    "another device": (lambda x, s: (x, type(s)(*[part.to("meta") for part in s])), ValueError, "the input on cpu"),
    "no tensors": (lambda x, s: (x, type(s)(*[0.0 for _ in s])), TypeError, "must be a tensor"),
}


@every_neuron
@pytest.mark.parametrize("backend", ["auto", "torch", "cpu"])
@pytest.mark.parametrize("kind", BAD)
def test_bad_input_is_one_clear_error_by_every_backend(name, backend, kind):
    neuron = build(name, 3, backend)
    x = currents(neuron, 4, 2, 3, 0)
    spoil, error, message = BAD[kind]
    inputs = spoil(x, neuron.initial_state(x))
    with pytest.raises(error, match=message):
        neuron(*inputs)


@pytest.mark.parametrize("name", [name for name in EVERY if name != "integrator"])
def test_an_input_on_another_device_than_the_neuron_is_an_error(name):
    neuron = build(name, 3, "auto")
    with pytest.raises(ValueError, match=r"is on cpu and its input on meta; move one with \.to\(device\)"):
        neuron(currents(neuron, 4, 2, 3, 0).to("meta"))
