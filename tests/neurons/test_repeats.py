"""A forward that a backward repeats gives the outputs, gradients, states and ranges of a network that saves all."""

import copy
import gc
import inspect
import pickle
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from registered import EVERY, MULTI_BIT, build, currents
from torch import library, nn
from torch.utils.checkpoint import checkpoint

import neurons
from neurons import repeats
from neurons.kernels import available

every_neuron = pytest.mark.parametrize("name", EVERY)
multi_bit_neuron = pytest.mark.parametrize("name", MULTI_BIT)
both_kinds = pytest.mark.parametrize("reentrant", [True, False], ids=["reentrant", "not reentrant"])
by_each = pytest.mark.parametrize("backend", [name for name in ("torch", "cpu") if name in available()])
N = 3


class Repeated(torch.autograd.Function):
    """Activation checkpointing of another library: the forward without gradients, repeated in the backward."""

    @staticmethod
    def forward(ctx, function, *inputs):
        ctx.function = function
        ctx.save_for_backward(*inputs)
        with torch.no_grad():
            return function(*inputs)

    @staticmethod
    def backward(ctx, *gradients):
        inputs = [x.detach().requires_grad_() for x in ctx.saved_tensors]
        with torch.enable_grad():
            outputs = ctx.function(*inputs)
        torch.autograd.backward(outputs, gradients)
        return None, *[x.grad for x in inputs]


WAYS = {
    "reentrant": lambda function, *inputs: checkpoint(function, *inputs, use_reentrant=True),
    "not reentrant": lambda function, *inputs: checkpoint(function, *inputs, use_reentrant=False),
    "of somebody else": Repeated.apply,
}
every_way = pytest.mark.parametrize("way", WAYS)


def plainly(function, *inputs):
    return function(*inputs)


def compare(run, neuron: nn.Module, way: str, exactly: bool = True) -> None:
    """``run(neuron, save)`` returns a loss; ``save(function, *inputs)`` calls the function. Twice in a row."""
    saving = copy.deepcopy(neuron)
    for _ in range(2):
        losses = []
        for module, save in ((neuron, plainly), (saving, WAYS[way])):
            module.zero_grad()
            loss, inputs = run(module, save)
            loss.backward()
            losses.append([loss, *[x.grad for x in inputs], *[p.grad for p in module.parameters()]])
        close = {"rtol": 1e-4, "atol": 1e-5}
        torch.testing.assert_close(losses[1], losses[0], **close)
        for (part, ours), theirs in zip(saving.state_dict().items(), neuron.state_dict().values(), strict=True):
            assert torch.equal(ours, theirs), part


def weighed(y: torch.Tensor, seed: int = 0) -> torch.Tensor:
    """A loss that depends differently on every output."""
    generator = torch.Generator().manual_seed(seed)
    return (y * torch.randn(y.shape, generator=generator)).sum()


def leaf(x: torch.Tensor) -> torch.Tensor:
    return x.clone().requires_grad_()


@multi_bit_neuron
@by_each
@every_way
@pytest.mark.parametrize("tracking", ["sequence", "step", "fixed"])
def test_a_checkpointed_sequence_is_as_one_that_saves_all(name, backend, way, tracking):
    neuron = build(name, N, "torch" if tracking == "step" else backend, range_tracking=tracking)
    x = currents(neuron, 6, 2, N, seed=0)

    def run(module, save):
        inputs = [leaf(x)]
        return weighed(save(lambda v: module(v)[0], *inputs)), inputs

    compare(run, neuron, way)


pieces = st.lists(
    st.tuples(st.integers(1, 3), st.booleans(), st.booleans()), min_size=1, max_size=4
)  # single steps, each checkpointed


@multi_bit_neuron
@pytest.mark.parametrize("tracking", ["sequence", "step"])
@settings(max_examples=15, deadline=None)
@given(sequences=st.lists(pieces, min_size=1, max_size=2), way=st.sampled_from(sorted(WAYS)), seed=st.integers(0, 99))
def test_sequences_cut_in_any_way_and_one_backward_are_as_without_checkpointing(name, tracking, sequences, way, seed):
    neuron = build(name, N, "auto", range_tracking=tracking)
    lengths = [[steps for steps, _, _ in cut] for cut in sequences]
    inputs = [currents(neuron, sum(length), 2, N, seed + i) for i, length in enumerate(lengths)]

    def steps_of(module, x_seq, *state):
        outputs = []
        for x in x_seq:
            y, state = module.single_step(x, state or None)
            outputs.append(y)
        return torch.stack(outputs), *state

    def scan_of(module, x_seq, *state):
        y_seq, state = module(x_seq, state or None)
        return y_seq, *state

    def run(module, save):
        leaves, loss = [leaf(x) for x in inputs], 0
        for cut, length, x in zip(sequences, lengths, leaves):
            state = ()
            for (_, stepwise, saved), piece in zip(cut, x.split(length)):
                function = steps_of if stepwise else scan_of
                call = save if saved else plainly
                y, *state = call(lambda *given, function=function: function(module, *given), piece, *state)
                loss = loss + weighed(y)
        return loss, leaves

    compare(run, neuron, way)


@multi_bit_neuron
@every_way
def test_one_neuron_in_two_places_and_one_input_used_twice_keep_their_ranges_apart(name, way):
    neuron = build(name, N, "auto")
    x = currents(neuron, 5, 2, N, seed=0)

    def twice(module, v):
        return module(v)[0] + 2 * module(v)[0]

    def together(module, save):
        inputs = [leaf(x)]
        return weighed(save(lambda v: twice(module, v), *inputs)), inputs

    def apart(module, save):
        inputs = [leaf(x)]
        one, other = (save(lambda v: module(v)[0], *inputs) for _ in range(2))
        return weighed(one) + weighed(other, seed=1), inputs

    def apart_and_together(module, save):
        inputs = [leaf(x)]
        return weighed(save(lambda v: twice(module, v), *inputs)) + apart(module, lambda f, v: save(f, *inputs))[
            0
        ], inputs

    for run in (together, apart, apart_and_together):
        compare(run, copy.deepcopy(neuron), way)


@every_way
def test_a_backward_of_the_earlier_of_two_forwards_alone_uses_its_range(way):
    neuron = build("multibit-lif", N, "auto")
    compare_to, x = copy.deepcopy(neuron), currents(neuron, 5, 2, N, seed=0)
    for first, last in ((0, 1), (1, 0)):
        gradients = []
        for module, save in ((compare_to, plainly), (neuron, WAYS[way])):
            inputs = [leaf(x), leaf(x)]
            outputs = [save(lambda v, module=module: module(v)[0], v) for v in inputs]
            for i in (first, last):
                weighed(outputs[i]).backward()
            gradients.append([v.grad for v in inputs])
        torch.testing.assert_close(*gradients)


@multi_bit_neuron
@both_kinds
def test_checkpoints_inside_of_checkpoints(name, reentrant):
    neuron = nn.Sequential(nn.Linear(4, N * build(name, N).inputs_per_neuron), build(name, N, "auto"))
    x = torch.randn(5, 2, 4)

    def run(module, save):
        inputs = [leaf(x)]

        def inner(v):
            return save(lambda u: module[1](u)[0], module[0](v))

        return weighed(save(lambda v: inner(v) + inner(v - 1), *inputs)), inputs

    for _ in range(2):  # the second time, the same input finds notes of the first time
        compare(run, neuron, "reentrant" if reentrant else "not reentrant")


@both_kinds
def test_gradients_that_accumulate_and_copies_made_in_between(reentrant):
    neuron = build("input-gated-lif", N, "auto")
    saving = copy.deepcopy(neuron)
    gradients = []
    for module, save in ((neuron, plainly), (saving, WAYS["reentrant" if reentrant else "not reentrant"])):
        inputs = [leaf(currents(neuron, 5, 2, N, seed)) for seed in range(3)]
        outputs = [save(lambda v, module=module: module(v)[0], v) for v in inputs]
        twin = copy.deepcopy(module)
        twin_input = leaf(inputs[0].detach())
        twin_output = save(lambda v, twin=twin: twin(v)[0], twin_input)
        module(currents(neuron, 5, 2, N, 9))
        for y in (*outputs, twin_output):
            weighed(y).backward()
        gradients.append([*[v.grad for v in inputs], twin_input.grad, *module.state_dict().values()])
    torch.testing.assert_close(*gradients)


def test_a_forward_inside_a_backward_that_repeats_none_is_an_error_and_moves_nothing():
    neuron = build("multibit-lif", N, "auto")
    x = leaf(currents(neuron, 5, 2, N, seed=0))
    y = checkpoint(lambda v: neuron(v)[0], x, use_reentrant=False)
    before = copy.deepcopy(neuron.state_dict())
    y.register_hook(lambda gradient: neuron(2 * x.detach() + 1) and None)
    with pytest.raises(RuntimeError, match="inside a backward"):
        y.sum().backward()
    assert all(torch.equal(value, before[part]) for part, value in neuron.state_dict().items())


def test_forwards_that_cannot_be_repeated_leave_no_notes():
    neuron = build("multibit-lif", N, "auto")
    x = currents(neuron, 5, 2, N, seed=0)
    neuron(x)[0]
    with torch.inference_mode():
        neuron(x)
    neuron.eval()
    with torch.no_grad():
        neuron(x)
    assert not neuron.spike_range._notes._kept
    with torch.no_grad():
        neuron.train()(x)
    assert len(neuron.spike_range._notes._kept) == 1
    for copied in (copy.deepcopy(neuron), pickle.loads(pickle.dumps(neuron))):
        assert not copied.spike_range._notes._kept


def test_notes_end_with_their_module_and_with_the_backward_that_used_them():
    neuron = build("multibit-lif", N, "auto")
    for seed in range(3):
        x = leaf(currents(neuron, 5, 2, N, seed))
        checkpoint(neuron, x, use_reentrant=True)[0].sum().backward()
        assert len(neuron.spike_range._notes._kept) == 1
    number = int(neuron.spike_range._notes.number)
    assert number in repeats._NOTES
    del neuron
    gc.collect()
    assert number not in repeats._NOTES


def test_a_repetition_with_inputs_that_differ_in_their_last_bits_is_recognised():
    notes = repeats.Notes()
    inputs = [torch.randn(5, 4, 30, generator=torch.Generator().manual_seed(seed)) for seed in range(4)]
    notes_of = [x + 1e-6 * torch.randn_like(x) for x in inputs]
    for i, x in enumerate(inputs):
        notes.add((x, torch.zeros(4, 30)), i)
    for i, x in reversed(list(enumerate(notes_of))):
        assert notes.find((x, torch.zeros(4, 30))) == i
    with pytest.raises(RuntimeError, match="inside a backward"):
        notes.find((inputs[0] * 1.1, torch.zeros(4, 30)))
    with pytest.raises(RuntimeError, match="inside a backward"):
        notes.find((inputs[0].double(), torch.zeros(4, 30)))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 0.0])
def test_inputs_of_nothing_but_one_value_are_recognised(value):
    notes = repeats.Notes()
    x = torch.full((3, 2), value)
    notes.add((x,), "value")
    assert notes.find((x.clone(),)) == "value"


# The plug-ins


def plugged(name: str, library: str, **options) -> nn.Module:
    wanted = inspect.signature(neurons.neuron_class(name)).parameters
    size = {"channels": N} if "channels" in wanted else {}
    return neurons.create(name, library=library, **size, **options)


@every_neuron
@by_each
@both_kinds
@pytest.mark.parametrize("mode", ["s", "m"])
@pytest.mark.parametrize("training", [True, False])
def test_a_checkpointed_node_of_spikingjelly_starts_from_the_memories_it_had(name, backend, reentrant, mode, training):
    functional = pytest.importorskip("spikingjelly.activation_based.functional")
    if reentrant and not training:
        pytest.skip("refused, see below")
    node = plugged(name, "spikingjelly", step_mode=mode, backend=backend if mode == "m" else "auto").train(training)
    x = currents(build(name, N), 6, 2, N, seed=0)

    def call(module, v):
        return module(v) if mode == "m" else torch.stack([module(step) for step in v])

    def run(module, save):
        functional.reset_net(module)
        inputs = [leaf(part) for part in x.split(6 if reentrant else 2)]  # reentrant: states have no graph
        outputs = [save(lambda v: call(module, v), part) for part in inputs]
        functional.reset_net(module)
        return weighed(torch.cat(outputs)), inputs

    compare(run, node, "reentrant" if reentrant else "not reentrant")


@every_neuron
@both_kinds
@pytest.mark.parametrize("style", ["hidden", "explicit", pytest.param("multi_step", marks=pytest.mark.slow)])
def test_a_checkpointed_neuron_of_snntorch_starts_from_the_state_it_had(name, reentrant, style):
    plug_in = pytest.importorskip("neurons.snntorch")
    lif = plugged(name, "snntorch", init_hidden=style == "hidden")
    x = currents(build(name, N), 6, 2, N, seed=0)

    def call(module, v, *state):
        if style == "multi_step":
            return module.multi_step(v)[:1]
        outputs = []
        for step in v:
            result = module(step, *state)
            y, *others = result if isinstance(result, tuple) else (result,)
            state = () if style == "hidden" else (y, *others) if name == "recurrent-gated-lif" else others
            outputs.append(y)
        return torch.stack(outputs), *state

    def run(module, save):
        plug_in.reset(module)
        inputs, state, outputs = [leaf(part) for part in x.split(6 if reentrant else 2)], (), []
        for part in inputs:
            y, *state = save(lambda *given: call(module, *given), part, *state)
            outputs.append(y)
        return weighed(torch.cat(outputs)), inputs

    compare(run, lif, "reentrant" if reentrant else "not reentrant")


def test_a_repetition_leaves_what_a_plug_in_carries_by_then():
    lif, node = (plugged("multibit-lif", library) for library in ("snntorch", "spikingjelly"))
    x = leaf(torch.randn(2, N))
    for module, carried in ((lif, lambda: lif.mem), (node, lambda: node.v)):
        y = checkpoint(lambda v, module=module: module(v), x, use_reentrant=False)
        module(torch.ones(2, N))
        before = carried().clone()
        (y[0] if isinstance(y, tuple) else y).sum().backward()
        assert torch.equal(carried(), before)


def test_reentrant_checkpoints_of_a_plug_in_in_evaluation_are_refused():
    node = plugged("multibit-lif", "spikingjelly", step_mode="m").eval()
    y = checkpoint(node, torch.randn(4, 2, N, requires_grad=True), use_reentrant=True)
    with pytest.raises(RuntimeError, match="use_reentrant=False"):
        y.sum().backward()


@multi_bit_neuron
@pytest.mark.parametrize("mode", ["s", "m"])
@pytest.mark.parametrize("tracking", ["sequence", "step"])
def test_a_functional_forward_is_pure_and_gives_what_the_next_call_gives(name, mode, tracking):
    node = plugged(name, "spikingjelly", step_mode=mode, range_tracking=tracking)
    x = currents(build(name, N), 3, 2, N, seed=0)
    x = x if mode == "m" else x[0]
    node(x)  # an unfinished sequence
    forward = node.multi_step_functional_forward if mode == "m" else node.single_step_functional_forward
    states, before = tuple(node._memories.values()), copy.deepcopy(node.state_dict())
    twin = copy.deepcopy(node)
    results = [forward((2 * x,), states) for _ in range(2)]
    for (y,), after in results:
        assert torch.equal(y, results[0][0][0])
        assert all(map(torch.equal, after, results[0][1]))
    assert all(torch.equal(value, before[part]) for part, value in node.state_dict().items())
    assert torch.equal(node(2 * x), results[0][0][0])
    twin(2 * x)
    assert all(map(torch.equal, node.state_dict().values(), twin.state_dict().values()))
    assert not torch.equal(node.spike_range.current, before["spike_range.current"]), "regular calls no longer track"


# torch.compile


@pytest.mark.parametrize("name", ["multibit-lif", pytest.param("recurrent-gated-lif", marks=pytest.mark.slow)])
@pytest.mark.parametrize("where", ["the neuron", "inside of a checkpoint", "around a checkpoint"])
@both_kinds
@pytest.mark.parametrize("single", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["scan", "steps"])
def test_compiled_and_checkpointed_is_as_neither(name, where, reentrant, single):
    torch.compiler.reset()
    neuron = build(name, N, "auto")
    x = currents(neuron, 4, 2, N, seed=0)
    saving = copy.deepcopy(neuron)
    way = WAYS["reentrant" if reentrant else "not reentrant"]

    def call(module, v):
        if not single:
            return module(v)[0]
        outputs, state = [], None
        for step in v:
            y, state = module.single_step(step, state)
            outputs.append(y)
        return torch.stack(outputs)

    compiled = torch.compile(lambda v: call(saving, v), backend="aot_eager", fullgraph=True)
    around = torch.compile(lambda v: way(lambda u: call(saving, u), v), backend="aot_eager")
    run = {
        "the neuron": compiled,
        "inside of a checkpoint": lambda v: way(compiled, v),
        "around a checkpoint": around,
    }[where]
    for _ in range(2):
        gradients = []
        for module, function in ((neuron, lambda v: call(neuron, v)), (saving, run)):
            inputs = [leaf(x), leaf(x + 1)]
            outputs = [function(v) for v in inputs]
            (weighed(outputs[0]) + weighed(outputs[1])).backward()
            gradients.append([*outputs, *[v.grad for v in inputs], *module.state_dict().values()])
        torch.testing.assert_close(gradients[1], gradients[0])


@pytest.mark.parametrize("name", ["multibit-lif", "learnable-lif"])
@pytest.mark.parametrize("library", ["spikingjelly", "snntorch"])
@pytest.mark.parametrize("scan", [pytest.param(False, marks=pytest.mark.slow), True], ids=["steps", "scan"])
@pytest.mark.parametrize("around", [False, True], ids=["inside of a checkpoint", "around a checkpoint"])
def test_a_compiled_plug_in_is_checkpointed_alike_or_refused(name, library, scan, around):
    torch.compiler.reset()
    module = plugged(name, library, **({"init_hidden": True} if library == "snntorch" else {"step_mode": "sm"[scan]}))
    saving = copy.deepcopy(module)
    x = currents(build(name, N), 4, 2, N, seed=0)

    def call(module, v):
        run = module.multi_step if scan and library == "snntorch" else module
        return run(v) if scan else torch.stack([run(step) for step in v])

    def compiled(function):
        return torch.compile(function, backend="aot_eager")

    def saved(function):
        return lambda v: checkpoint(function, v, use_reentrant=False)

    def saves(v):
        return call(saving, v)

    inputs = leaf(x), leaf(x)
    weighed(call(module, inputs[0])).backward()
    y = compiled(saved(saves))(inputs[1]) if around else saved(compiled(saves))(inputs[1])
    if not around:
        with pytest.raises(RuntimeError, match="compiled neuron that carries its own state"):
            weighed(y).backward()
        return
    weighed(y).backward()
    torch.testing.assert_close(inputs[1].grad, inputs[0].grad)
    for part, value in module.state_dict().items():
        torch.testing.assert_close(saving.state_dict()[part], value)


def test_the_operators_that_compiled_graphs_ask_are_as_torch_wants_them():
    notes = repeats.Notes()
    arguments = notes.number, [torch.randn(3, 2), torch.zeros(2)], [torch.tensor(1.0), torch.tensor(2.0)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        library.opcheck(torch.ops.snn_zoo.start_of_forward.default, arguments)
        library.opcheck(torch.ops.snn_zoo.refuse_repetition.default, arguments[:1])
