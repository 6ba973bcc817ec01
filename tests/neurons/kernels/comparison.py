"""A provider's scan beside the reference scan: one case in, every output and gradient compared."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

import neurons
from neurons.spike import FULL_PRECISION, MultiBitSpike, ObservedSpike, level_count

POINTWISE = (
    "learnable-lif",
    "integrator",
    "leaky-integrator",
    "multibit-lif",
    "multibit-synaptic-lif",
    "input-gated-lif",
)
MULTI_BIT = ("multibit-lif", "multibit-synaptic-lif", "input-gated-lif", "recurrent-gated-lif")
INEXACT = ("input-gated-lif", "recurrent-gated-lif")
"""Neurons whose sigmoid or sums may differ by a rounding."""
CLOSE = {torch.float64: 1e-9, torch.float32: 1e-4, torch.float16: 2e-3, torch.bfloat16: 2e-2}


class Case(NamedTuple):
    """The arguments of a scan; in ``parameters`` of a multi-bit neuron the range is last."""

    neuron: str
    x: Tensor
    state: list[Tensor]
    parameters: list[Tensor]
    settings: list

    def to(self, device: str) -> "Case":
        return Case(
            self.neuron,
            self.x.to(device),
            [part.to(device) for part in self.state],
            [parameter.to(device) for parameter in self.parameters],
            self.settings,
        )


class Result(NamedTuple):
    """All results of a scan, forward and backward; for ``sensitive [B, C, ...]`` see :func:`reference`."""

    y: Tensor
    final_state: list[Tensor]
    extremes: Tensor
    grad_x: Tensor
    grad_state: list[Tensor]
    grad_parameters: list[Tensor]
    sensitive: Tensor | None = None


def random_case(
    neuron: str,
    shape: tuple[int, ...] = (21, 3, 5, 2),
    dtype: torch.dtype = torch.float32,
    bits: int = 4,
    threshold_levels: int = 0,
    per_channel: bool = False,
    seed: int = 0,
    spike_range: float = 1.7,
    surrogate: str = "triangular",
    reset_mechanism: str = "subtract",
) -> Case:
    """A case of ``[T, B, C, ...]`` outputs with input strong enough that the neurons fire and clip.

    ``bits``, ``threshold_levels`` and ``spike_range`` belong to multi-bit neurons, ``surrogate`` and
    ``reset_mechanism`` to the learnable LIF.
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(*size: int) -> Tensor:
        return torch.randn(size, generator=generator, dtype=torch.float64)

    kind = neurons.neuron_class(neuron)
    steps, batch, channels, *inner = shape
    numbers = torch.promote_types(dtype, torch.float32)
    x = (1.2 * normal(steps, batch, channels * kind.inputs_per_neuron, *inner)).to(dtype)
    state = [(0.5 * normal(batch, channels, *inner)).to(numbers) for _ in kind.State._fields]
    parameters, settings = parameters_of(neuron, channels if per_channel else 1, generator)
    if neuron == "learnable-lif":
        settings[1:] = surrogate, reset_mechanism
    if neuron == "recurrent-gated-lif":
        parameters = [normal(channels, 2 * channels) / channels**0.5]
    if neuron in MULTI_BIT:
        parameters.append(torch.tensor([spike_range]))
        settings = [bits, threshold_levels]
    return Case(neuron, x, state, [parameter.to(numbers) for parameter in parameters], settings)


def parameters_of(neuron: str, size: int, generator: torch.Generator) -> tuple[list[Tensor], list]:
    """Learned parameters of ``size`` elements, and settings, for a pointwise neuron."""

    def around(center: float) -> Tensor:
        return center + 0.1 * torch.rand(size, generator=generator, dtype=torch.float64)

    if neuron == "learnable-lif":
        return [around(0.8), around(0.9)], [0.3, "triangular", "subtract"]
    if neuron in ("leaky-integrator", "multibit-lif", "multibit-synaptic-lif"):
        return [around(0.8)], []
    return [], []


class RecordingSpike(ObservedSpike):
    """It also marks the elements whose membrane comes so near to a level's edge that a rounding changes the level."""

    def __init__(self, spike: MultiBitSpike):
        super().__init__(spike)
        self.sensitive: Tensor | bool = False

    def __call__(self, membrane: Tensor) -> Tensor:
        r, value = self.spike.spike_range, membrane.detach()
        near = (value.abs() / r - 1).abs() < 1e-5
        if self.spike.bits != FULL_PRECISION:
            level = (self.spike.scale * value).abs()
            edge = level.round()
            near |= ((level - edge).abs() < 1e-5 * level_count(self.spike.bits)) & (edge > 0)
        self.sensitive = near | self.sensitive
        return super().__call__(membrane)


def step_parameters(neuron: str, parameters: list[Tensor], settings: list) -> tuple[Any, RecordingSpike | None]:
    """The parameters as the neuron's step takes them, and their spike function, if there is one."""
    parameters = [p.reshape(()) if p.numel() == 1 and p.dim() == 1 else p for p in parameters]
    if neuron == "learnable-lif":
        return neurons.LearnableLIFParameters(*parameters, *settings), None
    if neuron == "integrator":
        return neurons.IntegratorParameters(), None
    if neuron == "leaky-integrator":
        return neurons.LeakyIntegratorParameters(*parameters), None
    bits, threshold_levels = settings
    spike = RecordingSpike(MultiBitSpike(parameters[-1], bits, threshold_levels))
    kind = {
        "multibit-lif": neurons.MultiBitLIFParameters,
        "multibit-synaptic-lif": neurons.MultiBitSynapticLIFParameters,
        "input-gated-lif": neurons.InputGatedLIFParameters,
        "recurrent-gated-lif": neurons.RecurrentGatedLIFParameters,
    }[neuron]
    return kind(*parameters[:-1], spike), spike


def reference(case: Case, grad_y: Tensor, grad_final_state: list[Tensor]) -> Result:
    """The reference scan, and autograd through it. Recurrent neurons run on ``[T, B, C]``, as they must."""
    kind = neurons.neuron_class(case.neuron)
    learned = case.parameters[:-1] if case.neuron in MULTI_BIT else case.parameters
    x, *leaves = (t.detach().clone().requires_grad_() for t in (case.x, *case.state, *learned))
    state, learned = leaves[: len(case.state)], leaves[len(case.state) :]
    constants, spike = step_parameters(case.neuron, [*learned, *case.parameters[len(learned) :]], case.settings)
    flat = case.neuron == "recurrent-gated-lif"
    inputs = (x.squeeze(-1), [part.squeeze(-1) for part in state]) if flat else (x, state)
    y, final_state = neurons.reference_scan(kind.step, inputs[0], kind.State(*inputs[1]), constants)
    if flat:
        y, final_state = y.unsqueeze(-1), [part.unsqueeze(-1) for part in final_state]
    outputs, gradients = [y, *final_state], [grad_y, *grad_final_state]
    reached = [pair for pair in zip(outputs, gradients) if pair[0].requires_grad]
    outputs, gradients = zip(*reached)
    wanted = [x, *state, *learned]
    grads = torch.autograd.grad(outputs, wanted, gradients, allow_unused=True, materialize_grads=True)
    sensitive = None
    extremes = x.new_empty(0)
    if spike:
        extremes = torch.stack([spike.minimum, spike.maximum])
        if case.neuron in INEXACT:
            sensitive = spike.sensitive
        if flat:  # a changed spike of one neuron changes others of its row
            sensitive = sensitive.any(1)[:, None, None].expand_as(state[0])
    return Result(
        y.detach(),
        [part.detach() for part in final_state],
        extremes,
        grads[0],
        list(grads[1 : 1 + len(state)]),
        [grad.reshape(p.shape) for grad, p in zip(grads[1 + len(state) :], case.parameters)],
        sensitive,
    )


def output_gradients(case: Case, seed: int = 1) -> tuple[Tensor, list[Tensor]]:
    """Random gradients of the outputs and of the final state."""
    generator = torch.Generator().manual_seed(seed)
    steps, shape = len(case.x), case.state[0].shape

    def normal(size, dtype) -> Tensor:
        return torch.randn(size, generator=generator, dtype=torch.float64).to(dtype).to(case.x.device)

    return normal((steps, *shape), case.x.dtype), [normal(shape, part.dtype) for part in case.state]


def run(provider, case: Case, grad_y: Tensor, grad_final_state: list[Tensor]) -> Result:
    """The provider's forward, once for inference and once for training, and its backward."""
    track = case.neuron in MULTI_BIT
    arguments = (case.neuron, case.x, case.state, case.parameters, case.settings)
    before = [t.clone() for t in (case.x, *case.state, *case.parameters)]
    y, final_state, checkpoints, extremes = provider.scan_forward(*arguments, True, track)
    y_alone, final_alone, nothing, no_extremes = provider.scan_forward(*arguments, False, False)
    assert nothing is None and no_extremes is None
    for kept, alone in zip((y, *final_state), (y_alone, *final_alone)):
        same(alone, kept)
    gradients = provider.scan_backward(*arguments, checkpoints, grad_y, grad_final_state)
    for now, then in zip((case.x, *case.state, *case.parameters), before):
        same(now, then)
    return Result(y, final_state, extremes, *gradients)


def same(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=0, equal_nan=True)


def close(actual: Tensor, expected: Tensor) -> None:
    """Assert that values are close for their type, relative to the largest finite value and to each value."""
    tolerance = CLOSE[expected.dtype]
    finite = expected[expected.isfinite()].abs()
    largest = finite.max().item() if finite.numel() else 0.0
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance * max(1.0, largest), equal_nan=True)


def compare(provider, case: Case) -> None:
    """Assert that the provider gives what the reference gives."""
    grad_y, grad_final_state = output_gradients(case)
    expected = reference(case, grad_y, grad_final_state)
    agree = close if case.neuron in INEXACT else same
    if left_out := expected.sensitive is not None and bool(expected.sensitive.any()):
        # A sigmoid or a sum that differs by one rounding may change the spikes of these elements only.
        grad_y = grad_y.masked_fill(expected.sensitive, 0)
        grad_final_state = [grad.masked_fill(expected.sensitive, 0) for grad in grad_final_state]
        expected = reference(case, grad_y, grad_final_state)
    actual = run(provider, case, grad_y, grad_final_state)
    if left_out:
        sound = ~expected.sensitive
        expected, actual = (only(result, sound, neurons.neuron_class(case.neuron)) for result in (expected, actual))
    agree(actual.y, expected.y)
    for one, other in zip(actual.final_state, expected.final_state, strict=True):
        agree(one, other)
    if expected.extremes.numel():
        agree(actual.extremes, expected.extremes.to(actual.extremes.dtype))
    close(actual.grad_x, expected.grad_x)
    for one, other in zip(actual.grad_state, expected.grad_state, strict=True):
        close(one, other)
    for one, other in zip(actual.grad_parameters, expected.grad_parameters, strict=True):
        close(one, other)


def only(result: Result, sound: Tensor, neuron: type) -> Result:
    """The result at the elements ``[B, C, ...]`` that are ``sound``."""
    return result._replace(
        y=result.y[:, sound],
        final_state=[part[sound] for part in result.final_state],
        extremes=result.extremes[:0],
        grad_x=result.grad_x[:, torch.cat([sound] * neuron.inputs_per_neuron, dim=1)],
        grad_state=[grad[sound] for grad in result.grad_state],
    )


def compare_step_by_step(provider, case: Case) -> None:
    """Assert that a recurrent provider is right at every step given its own steps before.

    One spike that a rounding changes alters all later steps of a recurrent layer, so a large layer cannot be compared
    with the reference in another way. The gated step runs on the arguments that the provider kept, and these are
    compared with the products of the previous spikes.
    """
    weight, spike_range = case.parameters
    arguments = (case.neuron, case.x, case.state, case.parameters, case.settings)
    grad_y, grad_final_state = output_gradients(case)
    y, final_state, kept, extremes = provider.scan_forward(*arguments, True, True)
    found = provider.scan_backward(*arguments, kept, grad_y, grad_final_state)

    x, *state = (t.detach().clone().requires_grad_() for t in (kept, *case.state))
    learned = weight.detach().clone().requires_grad_()
    spike = RecordingSpike(MultiBitSpike(spike_range.reshape(()), *case.settings))
    current, membrane, before = state
    spikes, expected_before = [], [before.detach()]
    for argument in x.unbind(0):
        # Adds zero, but passes on the same gradients as the recurrent product.
        flat = before.squeeze(-1)
        product = (flat - flat.detach()) @ weight + flat.detach() @ (learned - weight)
        gated = neurons.SynapticState(current, membrane)
        constants = neurons.InputGatedLIFParameters(spike)
        before, (current, membrane) = neurons.input_gated_lif_step(argument + product.unsqueeze(-1), gated, constants)
        spikes.append(before)
        expected_before.append(before.detach())
    outputs = torch.stack(spikes)

    moved = outputs.detach().to(y.dtype) != y
    assert not (moved & ~spike.sensitive).any() and moved.float().mean() < 1e-4
    # An error in any product would make a difference much larger than the rounding of a sum.
    products = torch.stack(expected_before[:-1]).squeeze(-1).double() @ weight.double()
    assert distance(kept, case.x.double() + products.unsqueeze(-1)) < (1e-6 if kept.dtype == torch.float32 else 1e-14)
    for one, other in zip(final_state, (current, membrane, before), strict=True):
        assert distance(one, other) < 1e-3
    close(extremes, torch.stack([spike.minimum, spike.maximum]))

    gradients = [grad_y.to(outputs.dtype), *grad_final_state]
    expected = torch.autograd.grad([outputs, current, membrane, before], [x, *state, learned], gradients)
    tolerance = max(1e-5, CLOSE[case.x.dtype] / 4)
    assert distance(found[0], expected[0]) < tolerance
    for one, other in zip((*found[1], *found[2]), expected[1:], strict=True):
        assert distance(one, other) < 1e-5


def distance(actual: Tensor, expected: Tensor) -> float:
    """The norm of the difference, relative to that of the expected values; NaN if either has a NaN."""
    expected = expected.detach().double()
    return ((actual.double() - expected).norm() / expected.norm()).item()
