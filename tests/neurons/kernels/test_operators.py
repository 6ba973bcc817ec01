"""The operators as seen by the rest of torch: autograd, torch.compile, export, autocast, transforms."""

import shutil

import pytest
import torch
from registered import EVERY, MULTI_BIT, build, currents
from torch import library
from torch._dynamo.testing import CompileCounterWithBackend
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

import neurons
from neurons.kernels import OPERATORS
from tests.neurons.kernels.comparison import close, random_case, same

every_neuron = pytest.mark.parametrize("name", EVERY)
RECURRENT = "recurrent-gated-lif"
SPATIAL = [name for name in EVERY if name != RECURRENT]


def twins(name: str, channels: int = 6, **spike):
    """The same neuron twice: one for the kernels, one for the reference."""
    fused, plain = build(name, channels, "auto", **spike), build(name, channels, "torch", **spike)
    plain.load_state_dict(fused.state_dict())
    return fused, plain


def results(neuron, x_seq, state=None, call=None) -> list[torch.Tensor]:
    """Outputs, final state, gradients of input, state and parameters, and buffers afterwards."""
    x_seq = x_seq.detach().requires_grad_()
    state = neuron.initial_state(x_seq) if state is None else state
    state = type(state)(*[part.detach().clone().requires_grad_() for part in state])
    for parameter in neuron.parameters():
        parameter.grad = None
    y, final = (neuron if call is None else call)(x_seq, state)
    weights = torch.linspace(-1, 1, y.numel(), dtype=torch.float64).view(y.shape)
    ((y * weights.to(y.dtype)).sum() + sum(part.square().sum() for part in final)).backward()
    leaves = [x_seq, *state, *neuron.parameters()]
    gradients = [torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for leaf in leaves]
    return [y.detach(), *(part.detach() for part in final), *gradients, *(b.clone() for b in neuron.buffers())]


def agree(ours, theirs) -> None:
    for one, other in zip(ours, theirs, strict=True):
        close(one, other.to(one.dtype))


# A layer and its gradients


@every_neuron
@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
def test_a_layer_equals_its_reference_in_outputs_gradients_and_range_statistics(name, training):
    fused, plain = twins(name)
    fused.train(training)
    plain.train(training)
    for seed in range(3):  # the range moves from one sequence to the next
        x = currents(fused, 11, 3, 6, seed, torch.float64)
        agree(results(fused.double(), x), results(plain.double(), x))
    assert (fused.last_backend, plain.last_backend) == ("cpu", "torch")


@pytest.mark.parametrize("name", MULTI_BIT)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_training_range_statistics_equal_the_references(name, dtype):
    fused, plain = twins(name, bits=32)  # levels that a rounding of the sigmoid cannot change
    x = currents(fused, 40, 4, 6, 0, dtype)
    for _ in range(3):
        fused(x)
        plain(x)
    assert fused.spike_range.updates == 3
    agree(fused.buffers(), plain.buffers())


@pytest.mark.parametrize(
    "leak, threshold", [(0.9, [0.7, 1.0, 1.3]), ([0.2, 0.9, 1.0], 1.1), ([1.2, 0.5, -0.3], [1.0] * 3)]
)
def test_parameters_per_layer_and_per_channel_mix(leak, threshold):
    options = {"leak": torch.full((3,), 0.5) if isinstance(leak, list) else 0.5, "threshold": torch.tensor(threshold)}
    fused, plain = neurons.LearnableLIF(**options), neurons.LearnableLIF(**options)
    plain.backend = "torch"
    with torch.no_grad():  # training may move a leak to a value that no neuron starts at
        for neuron in (fused, plain):
            neuron.leak.copy_(torch.tensor(leak))
    x = currents(fused, 9, 2, 3, 0)[..., None, None].repeat(1, 1, 1, 2, 3) + torch.linspace(0, 1, 6).view(2, 3)
    agree(results(fused, x), results(plain, x))


@pytest.mark.parametrize("name", SPATIAL)
@pytest.mark.parametrize("inner", [(5,), (2, 3), (2, 1, 3)])
def test_dimensions_after_the_channels_are_scanned_too(name, inner):
    fused, plain = (neuron.double() for neuron in twins(name))
    x = currents(fused, 7, 2, 6, 0, torch.float64)
    x = x.view(*x.shape, *[1] * len(inner)) + torch.linspace(-1, 1, torch.Size(inner).numel()).view(inner)
    agree(results(fused, x), results(plain, x))


def layouts(x: torch.Tensor) -> dict[str, torch.Tensor]:
    """The same ``[T, B, C, H, W]`` with other memory layouts."""
    channels_last = x.flatten(0, 1).contiguous(memory_format=torch.channels_last).view_as(x)
    batch_first = x.transpose(0, 1).contiguous().transpose(0, 1)
    padded = torch.zeros(*x.shape[:-1], x.shape[-1] + 3, dtype=x.dtype)
    padded[..., 1:-2] = x
    return {
        "channels last": channels_last,
        "batch first": batch_first,
        "part of a larger tensor": padded[..., 1:-2],
        "every other step": x.repeat_interleave(2, 0)[::2],
        "backwards": x.flip(0).contiguous().flip(0),
    }


@pytest.mark.parametrize("name", SPATIAL)
def test_the_memory_layout_of_the_input_changes_nothing(name):
    neuron = build(name, 4, "cpu")
    x = currents(neuron, 5, 2, 4, 0)[..., None, None] + torch.linspace(-1, 1, 6).view(2, 3)
    start = {key: value.clone() for key, value in neuron.state_dict().items()}
    expected = results(neuron, x)
    for kind, other in layouts(x).items():
        assert torch.equal(other, x)
        neuron.load_state_dict(start)
        for one, two in zip(results(neuron, other), expected, strict=True):
            assert torch.equal(one, two), kind


def test_an_expanded_input_and_state_and_an_expanded_gradient_are_taken():
    fused, plain = twins("multibit-lif")
    x = torch.full((1, 1, 1), 0.7).expand(6, 2, 6)
    state = neurons.MembraneState(torch.tensor(0.2).expand(2, 6))
    found = []
    for neuron in (fused, plain):
        leaf = x.clone().requires_grad_()
        y, _ = neuron(leaf.mean((0, 1, 2)).expand_as(x), state)
        y.sum().backward()  # the gradient of a sum is one number, expanded
        found.append([y, leaf.grad])
    agree(*found)


@every_neuron
def test_outputs_that_nobody_uses_need_no_gradient(name):
    fused, plain = (neuron.double() for neuron in twins(name))
    for part in range(1 + len(fused.State._fields)):
        found = []
        for neuron in (fused, plain):
            x = currents(fused, 5, 2, 6, 0, torch.float64).requires_grad_()
            y, final = neuron(x)
            output = (y, *final)[part]
            grad, *rest = torch.autograd.grad(output.sum(), [x, *neuron.parameters()], allow_unused=True)
            found.append([grad, *(torch.zeros(()) if g is None else g for g in rest)])
        for one, other in zip(*found):
            assert torch.allclose(one, other.to(one.dtype).expand_as(one))


@every_neuron
@pytest.mark.parametrize("shape", [(0, 2, 3), (4, 0, 3), (0, 0, 3)], ids=str)
def test_gradients_of_nothing_are_zero(name, shape):
    steps, batch, channels = shape
    neuron = build(name, channels, "cpu")
    x = currents(neuron, steps, batch, channels, 0).requires_grad_()
    state = type(neuron.initial_state(x))(*[part.requires_grad_() for part in neuron.initial_state(x)])
    y, final = neuron(x, state)
    (y.sum() + sum((2 * part).sum() for part in final)).backward()
    assert y.shape == shape and x.grad.shape == x.shape
    assert all((part.grad == (2 if steps == 0 else 0)).all() for part in state)
    assert all(p.grad is None or not p.grad.any() for p in neuron.parameters())


@every_neuron
def test_the_final_state_is_no_view_of_the_given_one(name):
    neuron = build(name, 3, "cpu").eval()
    for steps in (0, 4):
        x = currents(neuron, steps, 2, 3, 0)
        state = neuron.initial_state(x)
        _, final = neuron(x, state)
        for part in final:
            part.add_(1)
        assert not any(part.any() for part in state)


# Torch's own checks


def leaves(name: str, requires_grad: bool, dtype=torch.float32):
    case = random_case(name, (5, 2, 3, 1 if name == RECURRENT else 2), dtype)
    learned = case.parameters[:-1] if name in MULTI_BIT else case.parameters
    for leaf in (case.x, *case.state, *learned):
        leaf.requires_grad_(requires_grad)
    return case


@pytest.mark.parametrize("name", list(OPERATORS))
@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_operators_pass_torchs_checks(name, keep, dtype):
    case = leaves(name, keep, dtype)
    arguments = case.x, *case.state, *case.parameters, *case.settings, keep, keep and name in MULTI_BIT
    library.opcheck(OPERATORS[name].function, arguments)


@pytest.mark.parametrize("name", list(OPERATORS))
@pytest.mark.parametrize("size", [(0, 2), (3, 0)])
def test_the_operators_pass_torchs_checks_on_nothing(name, size):
    case = random_case(name, (5, 2, 3, 1))
    x, state = case.x[: size[0], : size[1]], [part[: size[1]].contiguous() for part in case.state]
    arguments = x.contiguous(), *state, *case.parameters, *case.settings, True, name in MULTI_BIT
    library.opcheck(OPERATORS[name].function, arguments)


def test_every_neuron_of_the_package_has_an_operator():
    assert {name for name in EVERY if neurons.neuron_class(name).__module__.startswith("neurons.")} == set(OPERATORS)


# Compiled and exported


@every_neuron
@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
def test_compiled_whole_a_layer_gives_the_same_and_never_compiles_again_for_another_length(name, training):
    torch._dynamo.reset()
    fused, plain = twins(name)
    fused.train(training)
    plain.train(training)
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(fused, fullgraph=True, backend=counter)
    graphs = []
    for steps in (5, 7, 12, 33, 2):
        x = currents(fused, steps, 3, 6, steps)
        for one, other in zip(results(fused, x, call=compiled), results(plain, x), strict=True):
            close(one, other)
        graphs.append(counter.frame_count)
    assert fused.last_backend == "cpu"
    assert graphs == [1, 2, 2, 2, 2]


@pytest.mark.skipif(not any(map(shutil.which, ("c++", "g++", "clang++"))), reason="there is no C++ compiler")
@pytest.mark.parametrize("name", ["learnable-lif", RECURRENT])
def test_a_layer_compiled_to_machine_code_trains_as_it_does_uncompiled(name):
    torch._dynamo.reset()
    fused, plain = twins(name)
    x = currents(fused, 9, 3, 6, 0)
    compiled = torch.compile(fused, fullgraph=True, dynamic=True)
    agree(results(fused, x, call=compiled), results(plain, x))


@every_neuron
def test_an_exported_layer_takes_any_number_of_steps(name):
    neuron = build(name, 6, "auto").eval()
    steps = torch.export.Dim("steps", min=2)
    program = torch.export.export(neuron, (currents(neuron, 5, 2, 6, 0),), dynamic_shapes={"x_seq": {0: steps}})
    for length in (2, 40):
        x = currents(neuron, length, 2, 6, 1)
        (y, state), (expected, expected_state) = program.module()(x), neuron(x)
        assert torch.equal(y, expected)
        assert all(torch.equal(a, b) for a, b in zip(state, expected_state, strict=True))


# Precision


@every_neuron
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_autocast_runs_the_kernels_with_the_state_in_float32(name, dtype):
    fused, plain = twins(name)
    linear = torch.nn.Linear(4, 6 * fused.inputs_per_neuron)
    x = torch.randn(8, 3, 4, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", dtype):
        current = linear(x)
        y, state = fused(current)
        y.float().sum().backward()
    assert fused.last_backend == "cpu"
    assert current.dtype == y.dtype == dtype
    assert {part.dtype for part in state} == {torch.float32}
    assert linear.weight.grad.dtype == torch.float32 and linear.weight.grad.isfinite().all()
    # Nothing inside is rounded to half precision: the result equals that of the reference without autocast.
    agree([y, *state], [*(out := plain(current.detach()))[:1], *out[1]])


@every_neuron
def test_a_layer_in_half_precision_is_computed_in_float32(name):
    fused, plain = twins(name)
    fused.to(torch.bfloat16)
    plain.to(torch.bfloat16)
    x = currents(fused, 9, 2, 6, 0, torch.bfloat16)
    y, state = fused(x)
    expected, expected_state = plain(x)
    assert y.dtype == torch.bfloat16 and {part.dtype for part in state} == {torch.float32}
    agree([y, *state], [expected, *expected_state])


# What a backward needs


class Outputs(TorchDispatchMode):
    """Records what the fused operators return."""

    def __init__(self):
        super().__init__()
        self.forward = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if function in {operator.function for operator in OPERATORS.values()}:
            self.forward.append(result)
        return result


@every_neuron
def test_nothing_is_kept_for_a_backward_that_will_not_come(name):
    neuron = build(name, 6, "cpu").eval()
    x = currents(neuron, 40, 3, 6, 0)
    with Outputs() as without_grad, torch.no_grad():
        neuron(x)
    for parameter in neuron.parameters():
        parameter.requires_grad_(False)
    with Outputs() as frozen:
        neuron(x)
    for seen in (without_grad, frozen):
        (outputs,) = seen.forward
        assert outputs[-2].numel() == 0


@pytest.mark.parametrize("name", SPATIAL)
def test_training_keeps_the_input_and_a_fraction_of_the_states(name):
    neuron = build(name, 6, "cpu")
    x = currents(neuron, 64, 3, 6, 0).requires_grad_()
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        y, _ = neuron(x)
    sizes = {t.data_ptr(): t.numel() for t in kept}
    assert sum(sizes.values()) - x.numel() <= y.numel() * len(neuron.State._fields) / 8 + 200


@every_neuron
def test_activation_checkpointing_gives_the_same_gradients(name):
    neuron = build(name, 6, "cpu").eval()
    x = currents(neuron, 8, 2, 6, 0)
    expected = results(neuron, x)

    def scan(x, *state):
        y, final = neuron(x, neuron.State(*state))
        return y, *final

    for reentrant in (True, False):

        def again(x, state, reentrant=reentrant):
            y, *final = checkpoint(scan, x, *state, use_reentrant=reentrant)
            return y, final

        for one, other in zip(results(neuron, x, call=again), expected, strict=True):
            same(one, other)


@every_neuron
def test_inference_mode_runs_the_kernels(name):
    neuron = build(name, 6, "cpu").eval()
    x = currents(neuron, 8, 2, 6, 0)
    with torch.inference_mode():
        y, _ = neuron(x)
    same(y, neuron(x)[0].detach())


@pytest.mark.parametrize("steps", [1, 8])
@every_neuron
def test_a_scan_that_nothing_watches_gives_what_its_operator_gives(name, steps):
    neuron = build(name, 6, "cpu").eval()
    x = currents(neuron, steps, 2, 6, 0)
    with torch.no_grad():
        alone, state = neuron(x)
        with Outputs() as watched:
            y, final = neuron(x)
        with torch.profiler.profile(acc_events=True) as profile:
            neuron(x)
    assert len(watched.forward) == 1 and neuron.last_backend == "cpu"
    assert any(OPERATORS[name].name == event.key for event in profile.key_averages())
    same(alone, y)
    for one, other in zip(state, final, strict=True):
        same(one, other)


def test_an_input_changed_in_place_before_the_backward_is_an_error():
    neuron = build("learnable-lif", 6, "cpu")
    x = currents(neuron, 8, 2, 6, 0).requires_grad_() * 1
    y, _ = neuron(x)
    x.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


# Derivatives of other kinds

OTHER_DERIVATIVES = {
    "grad": lambda f, x: torch.func.grad(lambda v: f(v).sum())(x),
    "vjp": lambda f, x: torch.func.vjp(f, x)[1](f(x)),
    "jacrev": lambda f, x: torch.func.jacrev(f)(x),
    "grad of a batch": lambda f, x: torch.func.vmap(torch.func.grad(lambda v: f(v).sum()))(x[None]),
    "jvp": lambda f, x: torch.func.jvp(f, (x,), (x,)),
    "jacfwd": lambda f, x: torch.func.jacfwd(f)(x),
}


@every_neuron
@pytest.mark.parametrize("kind", OTHER_DERIVATIVES)
def test_a_derivative_that_the_kernels_lack_is_one_clear_error(name, kind):
    neuron = build(name, 2, "auto").eval()
    x = currents(neuron, 3, 1, 2, 0)
    with pytest.raises(NotImplementedError, match=f'the fused scan of {name} has no .*backend = "torch"'):
        OTHER_DERIVATIVES[kind](lambda v: neuron(v)[0], x)


@every_neuron
def test_a_second_derivative_is_one_clear_error(name):
    neuron = build(name, 2, "auto").eval()
    x = currents(neuron, 3, 1, 2, 0).requires_grad_()
    (grad,) = torch.autograd.grad(neuron(x)[0].square().sum(), x, create_graph=True)
    with pytest.raises(NotImplementedError, match=f'the fused scan of {name} has no second derivative.*"torch"'):
        grad.square().sum().backward()


@every_neuron
def test_forward_mode_is_one_clear_error(name):
    neuron = build(name, 2, "auto").eval()
    x = currents(neuron, 3, 1, 2, 0)
    with torch.autograd.forward_ad.dual_level(), pytest.raises(NotImplementedError, match="forward-mode"):
        neuron(torch.autograd.forward_ad.make_dual(x, x))


@every_neuron
@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_vmap_scans_every_element(name):
    neuron = build(name, 3, "auto").eval()
    x = torch.stack([currents(neuron, 5, 2, 3, seed) for seed in range(3)])
    y = torch.func.vmap(lambda v: neuron(v)[0])(x)
    same(y, torch.stack([neuron(v)[0] for v in x]))
