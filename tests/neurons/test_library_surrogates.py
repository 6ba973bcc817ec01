"""The libraries' surrogates in the CPU's kernel, and single steps as one node of the graph."""

import copy
import pickle

import pytest
import snntorch.surrogate as snn_surrogate
import torch
from spikingjelly.activation_based import surrogate
from torch import Tensor
from torch.utils.checkpoint import checkpoint

import neurons
from neurons.surrogate import RESETS, SHAPES, SURROGATES, known

SNNTORCH = [snn_surrogate.atan(), snn_surrogate.fast_sigmoid(slope=5), snn_surrogate.sigmoid(slope=4)]
SPIKINGJELLY = [
    surrogate.ATan(alpha=3.0),
    surrogate.Sigmoid(),
    surrogate.PiecewiseQuadratic(alpha=1.5),
    surrogate.SoftSign(),
    surrogate.SuperSpike(alpha=0.5),
]
KNOWN = SNNTORCH + SPIKINGJELLY
CHANNELS = 5


def name_of(function) -> str:
    return function if isinstance(function, str) else getattr(function, "__qualname__", repr(function))


def lif_of(function, reset: str = "subtract", per_channel: bool = False) -> neurons.LearnableLIF:
    leak, threshold = torch.linspace(0.6, 0.9, CHANNELS), torch.linspace(0.8, 1.1, CHANNELS)
    start = {"leak": leak, "threshold": threshold} if per_channel else {"leak": 0.75, "threshold": 0.5}
    return neurons.LearnableLIF(**start, surrogate=function, reset_mechanism=reset)


def currents(dtype=torch.float32) -> Tensor:
    x = (0.8 * torch.rand(21, 3, CHANNELS, 2, generator=torch.Generator().manual_seed(0))).to(dtype)
    x[0] = 0.5  # exactly the threshold of a layer that shares one
    return x.requires_grad_()


def found(lif, run, x: Tensor) -> list[Tensor]:
    """Outputs, and the gradients of a weighted sum of them."""
    y, (membrane,) = run(x)
    weights = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(y.dtype)
    loss = (weights * y).sum() + (weights[0] * membrane).sum()
    return [y, membrane, *torch.autograd.grad(loss, [x, lif.leak, lif.threshold])]


def same(got: list[Tensor], wanted: list[Tensor]) -> None:
    """The same outputs, to the bit, and the same gradients. Those of snnTorch are rounded to float32."""
    assert torch.equal(got[0], wanted[0]) and torch.equal(got[1], wanted[1])
    assert 0 < wanted[0].mean() < 1 and all(grad.any() for grad in wanted[2:])
    for one, other in zip(got[2:], wanted[2:]):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("reset", RESETS)
@pytest.mark.parametrize("function", KNOWN, ids=name_of)
def test_a_librarys_surrogate_in_the_kernel_equals_its_steps_in_torch(function, reset, per_channel, dtype):
    lif, x = lif_of(function, reset, per_channel), currents(dtype)
    fused = found(lif, lif, x)
    assert lif.last_backend == "cpu"
    lif.backend = "torch"
    same(fused, found(lif, lif, x))


def by_steps(step):
    def run(x_seq):
        outputs, state = [], neurons.MembraneState(torch.zeros_like(x_seq[0]))
        for x in x_seq:
            y, state = step(x, state)
            outputs.append(y)
        return torch.stack(outputs), state

    return run


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("reset", RESETS)
@pytest.mark.parametrize("function", [*SURROGATES, *KNOWN, surrogate.Erf()], ids=name_of)
def test_a_single_step_equals_the_definition(function, reset, per_channel):
    lif, x = lif_of(function, reset, per_channel), currents()
    definition = by_steps(lambda x, state: lif.step(x, state, lif.step_parameters()))
    same(found(lif, by_steps(lif.single_step), x), found(lif, definition, x))


@pytest.mark.parametrize("function", [*SURROGATES, surrogate.ATan()], ids=name_of)
def test_a_single_step_of_odd_values_equals_the_definition(function):
    lif = lif_of(function)
    below, above = (torch.nextafter(lif.threshold.detach(), torch.tensor(to)) for to in (0.0, 1.0))
    x = torch.tensor([[float("nan"), float("inf"), -float("inf"), 0.5, below, above, -0.0]])
    state = lif.initial_state(x, sequence=False)
    for got, wanted in zip(lif.single_step(x, state), lif.step(x, state, lif.step_parameters())):
        torch.testing.assert_close(got, wanted, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("function", [*SURROGATES, surrogate.ATan()], ids=name_of)
def test_the_second_derivative_of_single_steps_is_that_of_the_definition(function):
    lif, x = lif_of(function), currents(torch.float64)

    def second(step):
        y, _ = by_steps(step)(x[:4])
        weights = torch.linspace(-1, 2, y.numel(), dtype=y.dtype).view_as(y)
        (first,) = torch.autograd.grad((weights * y).sum(), x, create_graph=True)
        return torch.autograd.grad(first.square().sum(), [x, lif.leak, lif.threshold])

    got, wanted = second(lif.single_step), second(lambda x, state: lif.step(x, state, lif.step_parameters()))
    for one, other in zip(got, wanted):
        assert other.any()
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("make", [neurons.LearnableLIF, neurons.MultiBitLIF])
def test_many_gradients_of_a_single_step_can_be_computed_at_once(make):
    neuron, x = make(), currents()[1].detach().requires_grad_()
    y, _ = neuron.single_step(x, neurons.MembraneState(torch.full_like(x, 0.3)))
    vectors = torch.randn(4, *y.shape, generator=torch.Generator().manual_seed(0))
    inputs = [x, neuron.leak]
    at_once = torch.autograd.grad(y, inputs, vectors, is_grads_batched=True, retain_graph=True)
    for i, vector in enumerate(vectors):
        for many, one in zip(at_once, torch.autograd.grad(y, inputs, vector, retain_graph=True)):
            torch.testing.assert_close(many[i], one)


def test_a_multi_bit_step_can_be_differentiated_twice():
    lif, x = neurons.MultiBitLIF(range_tracking="fixed"), currents()[:3].detach().requires_grad_()
    y, _ = by_steps(lif.single_step)(x)
    (first,) = torch.autograd.grad((y**3).sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), x)
    lif.advance = lambda x, state: lif.step(x, state, lif.step_parameters())
    with torch.profiler.profile():  # torch's own operations have to be seen
        y, _ = by_steps(lif.single_step)(x)
    (first,) = torch.autograd.grad((y**3).sum(), x, create_graph=True)
    torch.testing.assert_close(second, torch.autograd.grad(first.sum(), x)[0])


def test_a_parameter_of_a_surrogate_that_is_set_later_is_the_one_in_use():
    function = surrogate.ATan(alpha=2.0)
    lif, x = lif_of(function), currents()
    before = found(lif, lif, x)[2]
    function.alpha = 5.0
    after = found(lif, lif, x)[2]
    assert lif.last_backend == "cpu" and not torch.allclose(before, after)
    lif.backend = "torch"
    torch.testing.assert_close(after, found(lif, lif, x)[2], rtol=1e-4, atol=1e-5)


def test_copies_of_a_surrogate_are_known_too():
    for function in SPIKINGJELLY:
        assert known(copy.deepcopy(function)) == known(pickle.loads(pickle.dumps(function))) == known(function)
    assert {known(function).shape for function in KNOWN} == {*SHAPES}


@pytest.mark.parametrize("step", [False, True])
@pytest.mark.parametrize("reentrant", [False, True])
def test_a_surrogate_that_is_first_used_in_a_checkpoint_has_the_same_gradients(reentrant, step):
    lif = lif_of(surrogate.ATan(alpha=2.5 + 0.25 * reentrant + 0.125 * step))
    x = (currents()[1] if step else currents()).detach().requires_grad_()
    run = lif.single_step if step else lif
    checkpoint(lambda x: run(x)[0], x, use_reentrant=reentrant).sum().backward()
    (wanted,) = torch.autograd.grad(run(x)[0].sum(), x)
    assert wanted.any()
    torch.testing.assert_close(x.grad, wanted)


class Widened(surrogate.ATan):
    """A subclass, which may compute anything."""


def with_a_hook():
    function = surrogate.ATan()
    function.register_forward_hook(lambda module, inputs, output: 2 * output)
    return function


@pytest.mark.parametrize(
    "make",
    [
        Widened,
        with_a_hook,
        lambda: surrogate.ATan(spiking=False),
        lambda: surrogate.ATan(alpha=torch.tensor(2.0)),
        surrogate.Erf,
        snn_surrogate.triangular,
        lambda: snn_surrogate.fast_sigmoid(slope=torch.tensor(5.0)),
        lambda: snn_surrogate.custom_surrogate(lambda x, gradient, spikes: gradient),
        lambda: lambda x: snn_surrogate.atan()(x),
        lambda: torch.sigmoid,
    ],
)
def test_a_surrogate_that_may_compute_something_else_is_not_known(make):
    assert known(make()) is None


def test_a_library_that_computes_something_else_by_the_same_name_is_not_known(monkeypatch):
    monkeypatch.setattr(snn_surrogate.ATan, "backward", staticmethod(lambda ctx, gradient: (gradient, None)))
    assert known(snn_surrogate.atan(alpha=2.125)) is None
