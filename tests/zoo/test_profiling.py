"""Counts against hand counts: layers, moved spikes, neurons, the formula of PR22, and what cannot be counted."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from registered import EVERY, build, currents
from torch import nn

import neurons
import zoo
from zoo.profiling import Counts, UncountableError, layers, register_counter

T, B, C, N = 6, 2, 5, 7


class Of(nn.Module):
    """A network made of one function and the parts that it needs."""

    def __init__(self, function, **parts):
        super().__init__()
        self.function = function
        for name, part in parts.items():
            setattr(self, name, part)
        self.eval()  # so that no test moves the range of a multi-bit spike

    def forward(self, *inputs):
        return self.function(self, *inputs)


def counts_of(model, *inputs, **options) -> Counts:
    return zoo.profile(model, inputs, **options).counts


def row_of(model, name, *inputs):
    return next(row for row in zoo.profile(model, inputs).rows if row.name == name)


def real(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def binary(*shape, rate=0.3, seed=0):
    return (torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < rate).float()


def spiking(bits, initial_range=1.0):
    return neurons.MultiBitLIF(bits=bits, initial_range=initial_range)


# Products with weights


def test_a_linear_layer_of_real_numbers_is_multiply_accumulates_and_a_bias():
    x = real(T, B, C)
    x[0] = 0
    counts = counts_of(nn.Linear(C, N), x)
    macs = T * B * C * N
    assert counts == Counts(macs, macs, B * C * N, additions=macs + T * B * N)


def test_binary_spikes_cost_an_addition_for_each_weight_they_meet():
    x = binary(T, B, C)
    counts = counts_of(nn.Linear(C, N, bias=False), x)
    added = int(x.sum()) * N
    assert counts == Counts(dense_macs=T * B * C * N, additions=added, integer_additions=added)


def test_a_layer_after_a_learnable_lif_takes_its_spikes_for_binary():
    net = Of(lambda net, x: net.linear(net.lif(x)[0]), lif=neurons.LearnableLIF(), linear=nn.Linear(C, N))
    x = 2 * real(T, B, C)
    fired = int(net.lif(x)[0].sum())
    row = row_of(net, "linear", x)
    added = fired * N
    assert row.counts == Counts(dense_macs=T * B * C * N, additions=added + T * B * N, integer_additions=added)
    assert (row.parameters, row.bytes) == (C * N + N, 4 * (C * N + N))


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 6, 8])
def test_multi_bit_spikes_cost_integer_multiplications_by_their_width(bits):
    net = Of(lambda net, x: net.linear(net.lif(x)[0]), lif=spiking(bits), linear=nn.Linear(C, N, bias=False))
    x = real(T, B, C)
    met = int(net.lif(x)[0].count_nonzero()) * N
    multiplied = met if bits > 2 else 0
    assert row_of(net, "linear", x).counts == Counts(
        dense_macs=T * B * C * N,
        additions=met,
        integer_additions=met,
        integer_multiplications=multiplied,
        shift_additions=multiplied * max(bits - 2, 0),
    )


def test_full_precision_outputs_are_real_numbers():
    net = Of(lambda net, x: net.linear(net.lif(x)[0]), lif=spiking(32), linear=nn.Linear(C, N, bias=False))
    counts = row_of(net, "linear", real(T, B, C)).counts
    assert (counts.multiplications, counts.integer_multiplications) == (T * B * C * N, 0)


GEOMETRIES = [
    {"padding": 0},
    {"padding": 2, "stride": 2},
    {"groups": 2, "dilation": 2},
    {"padding": 1, "stride": 3, "groups": 4},
]


def connections(layer, shape):
    """For each input of ``[1, *shape]``, the number of its products: one input at a time, with weights of one."""
    ones = torch.zeros(shape)
    with torch.no_grad():
        layer.weight.fill_(1)
    found = torch.zeros(shape)
    for place in itertools.product(*map(range, shape)):
        ones.zero_()[place] = 1
        found[place] = layer(ones.unsqueeze(0)).sum()
    return found


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("kind", [nn.Conv1d, nn.Conv2d, nn.ConvTranspose2d])
def test_a_convolution_costs_what_its_spikes_meet_at_the_border_too(kind, geometry):
    torch.manual_seed(0)
    layer = kind(4, 8, 3, bias=False, **geometry)
    shape = (4, *[7] * (1 if kind is nn.Conv1d else 2))
    x = binary(1, *shape)
    met = int((connections(layer, shape) * x[0]).sum())
    y = layer(x)
    per_output = layer.weight[0].numel()
    dense = x.numel() * per_output if kind is nn.ConvTranspose2d else y.numel() * per_output
    assert counts_of(layer, x) == Counts(dense_macs=dense, additions=met, integer_additions=met)
    values = real(1, *shape) * x
    counts = counts_of(layer, values)
    assert (counts.multiplications, counts.additions, counts.dense_macs) == (dense, dense, dense)
    assert counts.multiplications - counts.multiplications_by_zero == met


def test_a_convolution_after_multi_bit_spikes_and_its_bias():
    layer = nn.Conv2d(2, 3, 2)
    net = Of(lambda net, x: net.conv(net.lif(x)[0].squeeze(0)), lif=spiking(4), conv=layer)
    x = real(1, 1, 2, 4, 4)
    met = int((connections(nn.Conv2d(2, 3, 2, bias=False), (2, 4, 4)) * (net.lif(x)[0][0, 0] != 0)).sum())
    counts = row_of(net, "conv", x).counts
    assert (counts.integer_multiplications, counts.shift_additions) == (met, 2 * met)
    assert counts.additions == met + 3 * 3 * 3
    assert counts.multiplications == 0


def test_tied_weights_used_as_a_function_are_counted_where_they_run():
    net = Of(lambda net, t: F.linear(net.embedding(t), net.embedding.weight), embedding=nn.Embedding(N, C))
    profile = zoo.profile(net, torch.randint(N, (T, B)))
    rows = {row.name: row for row in profile.rows}
    assert rows["Of"].counts.multiplications == T * B * C * N
    assert rows["embedding"].counts == Counts()
    assert profile.parameters == N * C


# Products of two dynamic operands


def test_attention_costs_its_two_products_its_scale_and_its_softmax():
    heads, queries, keys, width = 3, 4, 5, 8
    q, k, v = real(1, heads, queries, width), real(1, heads, keys, width), real(1, heads, keys, width)
    counts = counts_of(Of(lambda net, *x: F.scaled_dot_product_attention(*x)), q, k, v)
    scores = heads * queries * keys
    assert counts.dense_macs == 2 * scores * width
    # PyTorch's definition scales queries and keys, each by the root; the softmax divides.
    assert counts.multiplications == 2 * scores * width + q.numel() + k.numel() + scores
    assert counts.additions == 2 * scores * width + 2 * scores - heads * queries
    assert counts.functions == {"exp": scores}


def test_multi_head_attention_is_seen_through_its_fused_path():
    layer = nn.MultiheadAttention(8, 2).eval()
    x = real(4, 1, 8)
    counts = counts_of(layer, x, x, x)
    assert counts.dense_macs == 4 * 8 * 24 + 2 * 2 * 4 * 4 * 4 + 4 * 8 * 8


@pytest.mark.parametrize("bits_q, bits_k", [(0, 0), (0, 4), (4, 4), (4, 6)])
def test_a_product_of_spikes_with_spikes_costs_what_fires_on_both_sides(bits_q, bits_k):
    def neuron(bits):
        return spiking(bits) if bits else neurons.LearnableLIF()

    net = Of(lambda net, x, z: net.q(x)[0] @ net.k(z)[0].transpose(-1, -2), q=neuron(bits_q), k=neuron(bits_k))
    x, z = 2 * real(B, 4, C), 2 * real(B, 3, C, seed=1)
    q, k = (net.q(x)[0] != 0).double(), (net.k(z)[0] != 0).double()
    met = int((q @ k.transpose(-1, -2)).sum())
    counts = row_of(net, "Of", x, z).counts
    both = bits_q and bits_k
    assert counts.additions == met
    assert counts.integer_multiplications == (met if both else 0)
    assert counts.shift_additions == (met * (min(bits_q, bits_k) - 2) if both else 0)
    assert counts.multiplications == (B * 4 * 3 if bits_q or bits_k else 0)  # the scale, which no weight takes up


# Recurrent layers

GATES = {nn.LSTM: (4, 3, 1), nn.GRU: (3, 3, 3), nn.RNN: (1, 0, 0)}


@pytest.mark.parametrize("kind", GATES)
@pytest.mark.parametrize("bidirectional", [False, True])
def test_recurrent_layers_by_the_equations_of_their_documentation(kind, bidirectional):
    gates, multiplied, added = GATES[kind]
    layer = kind(C, N, num_layers=2, bidirectional=bidirectional)
    counts = counts_of(layer, real(T, B, C))
    directions = 1 + bidirectional
    macs = T * B * directions * gates * N * ((C + N) + (directions * N + N))
    units = 2 * directions * T * B * N
    assert counts.dense_macs == macs
    assert counts.multiplications == macs + units * multiplied
    assert counts.additions == macs + units * (added + 2 * gates)


@pytest.mark.parametrize("kind, cell", [(nn.LSTM, nn.LSTMCell), (nn.GRU, nn.GRUCell), (nn.RNN, nn.RNNCell)])
def test_cells_in_a_loop_cost_what_the_layer_does(kind, cell):
    def loop(net, x):
        state = None
        for step in x:
            state = net.cell(step, state)
        return state

    x = real(T, B, C)
    assert counts_of(Of(loop, cell=cell(C, N)), x) == counts_of(kind(C, N), x)


def test_padding_of_a_packed_sequence_costs_nothing():
    lengths = torch.tensor([T, 2])

    def packed(net, x):
        return net.layer(nn.utils.rnn.pack_padded_sequence(x, lengths))

    layer = nn.GRU(C, N)
    assert row_of(Of(packed, layer=layer), "layer", real(T, 2, C)).counts == counts_of(layer, real(T + 2, 1, C))


def test_a_projected_lstm_has_one_product_more():
    counts = counts_of(nn.LSTM(C, N, proj_size=3, bias=False), real(T, B, C))
    assert counts.dense_macs == T * B * (4 * N * (C + 3) + N * 3)


def test_spikes_into_an_lstm_cost_what_they_cause_and_its_own_recurrence_in_full():
    x = binary(T, B, C)
    counts = counts_of(nn.LSTM(C, N, bias=False), x)
    assert counts.multiplications == T * B * (4 * N * N + 3 * N)
    assert counts.additions == int(x.sum()) * 4 * N + T * B * (4 * N * N + N)


def test_state_of_recurrent_layers_is_bytes_a_sample():
    assert zoo.profile(nn.LSTM(C, N, 2, bidirectional=True), real(T, B, C)).state_bytes == 2 * 2 * 2 * N * 4
    assert zoo.profile(nn.GRU(C, N), real(T, B, C)).state_bytes == N * 4


# Element by element

SIZE = T * B * C
ELEMENTWISE = {
    "a sum": (lambda x, z: x + z, Counts(additions=SIZE)),
    "a difference": (lambda x, z: x - 2 * z, Counts(multiplications=SIZE, additions=SIZE)),
    "a product": (lambda x, z: x * z, Counts(multiplications=SIZE)),
    "a quotient": (lambda x, z: x / z, Counts(multiplications=SIZE)),
    "a number": (lambda x, z: 3 * x, Counts(multiplications=SIZE)),
    "a mask": (lambda x, z: x * (z > 0), Counts()),
    "in place": (lambda x, z: x.clone().mul_(z).add_(z), Counts(multiplications=SIZE, additions=SIZE)),
    "a total": (lambda x, z: x.sum(), Counts(additions=SIZE - 1)),
    "a mean": (lambda x, z: x.mean(-1), Counts(multiplications=T * B, additions=T * B * (C - 1))),
    "relu": (lambda x, z: torch.relu(x), Counts()),
    "tanh": (lambda x, z: torch.tanh(x), Counts(functions={"tanh": SIZE})),
    "softmax": (
        lambda x, z: x.softmax(-1),
        Counts(multiplications=SIZE, additions=T * B * (2 * C - 1), functions={"exp": SIZE}),
    ),
    "places": (lambda x, z: torch.arange(10) * 3 // 2 + 1, Counts()),
    "layer norm": (
        lambda x, z: F.layer_norm(x, (C,), torch.ones(C), torch.ones(C)),
        Counts(multiplications=T * B * (3 * C + 2), additions=T * B * (4 * C - 1), functions={"rsqrt": T * B}),
    ),
}


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_elementwise_operations_and_norms(name):
    function, expected = ELEMENTWISE[name]
    assert counts_of(Of(lambda net, x, z: function(x, z)), real(T, B, C), real(T, B, C, seed=1)) == expected


def test_a_batch_norm_in_evaluation_is_a_scale_and_a_shift():
    n = B * C * 4
    assert counts_of(nn.BatchNorm1d(C), real(B, C, 4)) == Counts(multiplications=n, additions=n)


def test_inference_mode_makes_no_difference():
    net = nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8), nn.Dropout(0.5), nn.TransformerEncoderLayer(8, 2, 16))
    x = real(T, B, 8)

    def inferring(net, x):
        with torch.inference_mode():
            return net.inner(x)

    assert counts_of(Of(inferring, inner=net), x) == counts_of(net, x)


# Spikes that move

MOVES = {
    "view": lambda y: y.reshape(-1, C),
    "transpose": lambda y: y.transpose(0, 1),
    "contiguous": lambda y: y.transpose(0, 1).contiguous(),
    "unbind and stack": lambda y: torch.stack(y.unbind(0)[::-1]),
    "padding": lambda y: F.pad(y, (0, 0, 0, 0, 2, 1)),
    "flip": lambda y: y.flip(0),
    "cat with itself": lambda y: torch.cat([y, y]),
    "cat with zeros": lambda y: torch.cat([torch.zeros_like(y), y]),
    "index": lambda y: y[torch.tensor([0, 3, 3])],
    "mask as an index": lambda y: y[torch.arange(T) % 2 == 0],
    "index select": lambda y: y.index_select(1, torch.tensor([1])),
    "masking": lambda y: y * (torch.arange(T).view(T, 1, 1) < 3),
    "float mask": lambda y: (torch.arange(T).view(T, 1, 1) < 3).float() * y,
    "masked fill": lambda y: y.masked_fill(torch.arange(T).view(T, 1, 1) < 3, 0.0),
    "where": lambda y: torch.where(torch.arange(T).view(T, 1, 1) < 3, y, torch.zeros(())),
    "where with a constant": lambda y: torch.where(torch.arange(T).view(T, 1, 1) < 3, y, 0.0),
    "max pooling": lambda y: F.max_pool2d(y, (2, 1)),
    "relu": lambda y: y.relu(),
    "double": lambda y: y.double().float(),
    "dropout": lambda y: F.dropout(y, 0.5, training=False),
    "expand": lambda y: y.unsqueeze(1).expand(T, 3, B, C),
    "roll and chunk": lambda y: torch.cat(y.roll(1, 0).chunk(2, dim=1), dim=1),
    "two directions": lambda y: torch.cat([y[..., :2], y[..., 2:].flip(0)], dim=-1),
    "detach": lambda y: y.detach().clone(),
}


def written_step_by_step(y):
    buffer = torch.zeros_like(y)
    for t in range(T):
        buffer[t] = y[t]
    return buffer


@pytest.mark.parametrize("name", [*MOVES, "a buffer"])
@pytest.mark.parametrize("bits", [0, 4])
def test_spikes_are_spikes_wherever_they_are_moved(name, bits):
    move = MOVES.get(name, written_step_by_step)
    neuron = (spiking(bits) if bits else neurons.LearnableLIF()).eval()
    net = Of(lambda net, x: net.linear(move(net.lif(x)[0])), lif=neuron, linear=nn.Linear(C, N, bias=False))
    x = 2 * real(T, B, C)
    y = move(neuron(x)[0])
    met = int(y.count_nonzero()) * N
    assert met
    counts = row_of(net, "linear", x).counts
    assert counts == Counts(
        dense_macs=y.numel() * N,
        additions=met,
        integer_additions=met,
        integer_multiplications=met if bits else 0,
        shift_additions=2 * met if bits else 0,
    )


def two(function, narrow=4, wide=6):
    return Of(
        lambda net, x: net.linear(function(net.a(x)[0], net.b(x)[0])),
        a=spiking(narrow, 1.0),
        b=spiking(wide, 2.0),
        linear=nn.LazyLinear(N, bias=False),
    )


@pytest.mark.parametrize("move", [lambda y: y, lambda y: y.flip(0), lambda y: F.pad(y, (0, 0, 0, 0, 1, 0))])
def test_two_scales_side_by_side_are_spikes_of_two_widths(move):
    net, x = two(lambda a, b: move(torch.cat([a, b], dim=-1))), real(T, B, C)
    net(x)
    a, b = (int(neuron(x)[0].count_nonzero()) * N for neuron in (net.a, net.b))
    counts = row_of(net, "linear", x).counts
    assert counts.multiplications == 0
    assert counts.integer_multiplications == counts.additions == a + b
    assert counts.shift_additions == 2 * a + 4 * b


def test_two_scales_in_one_column_are_made_real_numbers_first():
    net, x = two(lambda a, b: torch.cat([a, b])), real(T, B, C)
    net(x)
    a, b = (int(neuron(x)[0].count_nonzero()) for neuron in (net.a, net.b))
    counts = row_of(net, "linear", x).counts
    assert counts.multiplications == counts.additions == 2 * T * B * C * N
    assert counts.integer_multiplications == a + b
    assert counts.multiplications - counts.multiplications_by_zero == (a + b) * N


def test_real_numbers_beside_spikes_are_multiplied_and_the_spikes_are_not():
    net = Of(
        lambda net, x: net.linear(torch.cat([net.lif(x)[0], x], dim=-1)),
        lif=neurons.LearnableLIF(),
        linear=nn.Linear(2 * C, N, bias=False),
    )
    x = 2 * real(T, B, C)
    counts = row_of(net, "linear", x).counts
    assert counts.multiplications == T * B * C * N
    assert counts.additions == counts.multiplications + int(net.lif(x)[0].sum()) * N


def test_a_residual_of_spikes_adds_only_where_they_fired():
    net = Of(lambda net, x: x + net.lif(x)[0], lif=spiking(4))
    x = real(T, B, C)
    fired = int(net.lif(x)[0].count_nonzero())
    assert row_of(net, "Of", x).counts == Counts(
        additions=fired, integer_multiplications=fired, shift_additions=2 * fired
    )


@pytest.mark.parametrize("batch", [1, 2])
def test_a_number_that_is_computed_makes_spikes_real_even_where_it_is_one(batch):
    net = Of(
        lambda net, x: net.linear(net.lif(x)[0] * net.gate(x).sigmoid()),
        lif=neurons.LearnableLIF(),
        gate=nn.Linear(C, 1),
        linear=nn.Linear(C, N, bias=False),
    )
    assert row_of(net, "linear", 2 * real(1, batch, C)).counts.multiplications == batch * C * N


def test_a_constant_that_is_no_level_makes_its_column_real():
    def filled(net, x):
        return net.linear(torch.where(torch.arange(C) < 2, net.lif(x)[0], 5.0))

    net = Of(filled, lif=spiking(4), linear=nn.Linear(C, N, bias=False))
    x = real(T, B, C)
    counts = row_of(net, "linear", x).counts
    assert counts.multiplications == T * B * (C - 2) * N
    assert counts.integer_multiplications == int(net.lif(x)[0][..., :2].count_nonzero()) * N


def test_what_was_computed_from_spikes_is_spikes_no_more():
    def membrane(net, x):
        y = net.lif(x)[0]
        y += x
        return net.linear(y)

    net = Of(membrane, lif=neurons.LearnableLIF(), linear=nn.Linear(C, N, bias=False))
    assert row_of(net, "linear", real(T, B, C)).counts.multiplications == T * B * C * N


# Neurons

UPDATES = {  # multiplications, additions and sigmoids per neuron and step, without the reset
    "learnable-lif": (1, 1, 0),
    "integrator": (0, 1, 0),
    "leaky-integrator": (1, 1, 0),
    "multibit-lif": (1, 1, 0),
    "multibit-synaptic-lif": (1, 2, 0),
    "input-gated-lif": (2, 3, 1),
    "recurrent-gated-lif": (2, 3, 1),
}


@pytest.fixture(params=UPDATES)
def neuron(request):
    built = build(request.param, C).eval()
    with torch.no_grad():
        for parameter in built.parameters():
            if request.param != "recurrent-gated-lif":
                parameter.fill_(0.9)
    return built


def test_updates_of_each_neuron_are_those_of_its_equations(neuron):
    x = currents(neuron, T, B, C, seed=0)
    y = neuron(x)[0]
    multiplications, additions, sigmoids = UPDATES[neuron.name]
    n = T * B * C
    resets = 0 if neuron.resets == "none" else int(y.count_nonzero())
    recurrent = int(y[:-1].count_nonzero()) * 2 * C if neuron.name == "recurrent-gated-lif" else 0
    assert counts_of(neuron, x) == Counts(
        dense_macs=n * 2 * C if recurrent else 0,
        multiplications=multiplications * n,
        integer_multiplications=recurrent,
        shift_additions=2 * recurrent,
        additions=additions * n + resets + recurrent,
        integer_additions=recurrent,
        functions={"sigmoid": n} if sigmoids else {},
    )


def test_a_leak_of_one_or_zero_multiplies_nothing():
    leak = torch.tensor([0.0, 0.5, 1.0, 1.0, 1.5])
    for lif in (neurons.LearnableLIF(leak.clip(0, 1)), neurons.MultiBitLIF(leak.clip(0, 1))):
        with torch.no_grad():
            lif.leak.copy_(leak)  # as training may do
        assert counts_of(lif, real(T, B, C)).multiplications == T * B


def test_rates_levels_and_state_of_each_neuron(neuron):
    x = currents(neuron, T, B, C, seed=0)
    y, state = neuron(x)
    (row,) = [row for row in zoo.profile(neuron, x).rows if row.kind == type(neuron).__name__]
    assert row.state_bytes == len(state) * C * 4
    if neuron.resets == "none":
        assert row.spike_rate is None
        return
    scale = neuron.spike().scale if isinstance(neuron, neurons.MultiBitNeuron) else 1
    values, found = torch.round(y * scale).int().unique(return_counts=True)
    assert row.levels == dict(zip(values.tolist(), found.tolist()))
    assert row.spike_rate == pytest.approx(float(y.count_nonzero()) / y.numel())


@pytest.mark.parametrize("name", EVERY)
def test_both_plug_ins_cost_what_the_plain_neuron_does(name):
    pytest.importorskip("spikingjelly")
    pytest.importorskip("snntorch")
    size = {} if build(name, C).channels is None else {"channels": C}
    torch.manual_seed(0)
    plain = neurons.create(name, **size)
    x = currents(plain, T, B, C, seed=0)
    options = {"torch": {}, "spikingjelly": {"step_mode": "m"}, "snntorch": {"init_hidden": True}}
    found = []
    for library, option in options.items():
        node = neurons.create(name, library=library, **size, **option)
        node.load_state_dict(plain.state_dict())
        net = (
            Of(lambda net, x: [net.node(step) for step in x], node=node)
            if library == "snntorch"
            else Of(lambda net, x: net.node(x), node=node)
        )
        found.append(row_of(net, "node", x))
    assert found[0].counts == found[1].counts == found[2].counts
    assert found[0].levels == found[1].levels == found[2].levels


@pytest.mark.parametrize("step_mode", ["s", "m"])
@pytest.mark.parametrize("name", [name for name in EVERY if hasattr(build(name, C), "leak")])
def test_an_input_that_spikingjelly_s_decay_input_scales_costs_a_multiplication_more(name, step_mode):
    pytest.importorskip("spikingjelly")
    x = 1e-3 * real(T, B, C)  # too weak for a spike, so that no reset differs
    for tau in (4.0, torch.linspace(1.5, 4, C)):
        plain, scaled = (
            Of(
                lambda net, x: net.node(x) if step_mode == "m" else [net.node(step) for step in x],
                node=neurons.create(name, library="spikingjelly", tau=tau, decay_input=decays, step_mode=step_mode),
            )
            for decays in (False, True)
        )
        wanted = row_of(plain, "node", x).counts
        wanted += Counts(multiplications=x.numel())
        assert row_of(scaled, "node", x).counts == wanted
    spikes = binary(T, B, C)
    assert counts_of(scaled, spikes).multiplications == counts_of(plain, spikes).multiplications  # a choice of 1 - leak


def test_neurons_of_snntorch_and_spikingjelly_fire_binary_spikes():
    snntorch, node = pytest.importorskip("snntorch"), pytest.importorskip("spikingjelly.activation_based.neuron")
    x = 3 * real(B, C)
    for lif in (snntorch.Leaky(beta=0.9, init_hidden=True), node.LIFNode()):
        net = nn.Sequential(lif, nn.Linear(C, N, bias=False))
        profile = zoo.profile(net, x)
        fired = profile.rows[0 if profile.rows[0].levels else 1]
        assert fired.levels[1]
        linear = next(row for row in profile.rows if row.kind == "Linear")
        added = fired.levels[1] * N
        assert linear.counts == Counts(dense_macs=B * C * N, additions=added, integer_additions=added)


def test_a_neuron_with_a_step_of_its_own_is_counted_by_what_it_runs():
    class Doubled(neurons.LearnableLIF):
        @staticmethod
        def step(x, state, parameters):
            return x * x * 0.5, neurons.MembraneState(state.membrane + x)

    assert counts_of(Doubled(), real(T, B, C)) == Counts(multiplications=2 * T * B * C, additions=T * B * C)


# The formula of PR22


def test_two_recurrent_gated_layers_cost_what_pr22_s_equations_say():
    """The network of PR22: an encoder, two gated layers without bias, a classifier; every spike counted separately."""
    inputs, hidden, classes, bits = 4, 6, 3, 6
    torch.manual_seed(0)
    net = Of(
        lambda net, x: net.classifier(net.second(net.b(net.first(net.a(net.encoder(x)[0]))[0]))[0]),
        encoder=neurons.MultiBitLIF(leak=1.0, bits=bits, threshold_levels=3, initial_range=2.0),
        a=nn.Linear(inputs, 2 * hidden, bias=False),
        first=neurons.RecurrentGatedLIF(hidden, bits=bits, threshold_levels=3),
        b=nn.Linear(hidden, 2 * hidden, bias=False),
        second=neurons.RecurrentGatedLIF(hidden, bits=bits, threshold_levels=3),
        classifier=nn.Linear(hidden, classes, bias=False),
    ).eval()
    x = 2 * real(30, 1, inputs)
    with torch.no_grad():
        encoded = net.encoder(x)[0]
        first = net.first(net.a(encoded))[0]
        second = net.second(net.b(first))[0]

    gates = 2 * hidden  # F and C each have a row of weights per input and per output of the layer itself
    by_levels = by_reals = 0
    silent = torch.zeros(hidden)
    for t in range(len(x)):
        for spikes, outputs in ((encoded, first), (first, second)):
            last = outputs[t - 1, 0] if t else silent
            by_levels += gates * (int((spikes[t, 0] != 0).sum()) + int((last != 0).sum()))
            by_reals += 2 * hidden  # F * I and (1 - F) * C
        by_levels += classes * int((second[t, 0] != 0).sum())
    counts = counts_of(net, x)
    assert 0 < by_levels < counts.dense_macs
    assert (counts.integer_multiplications, counts.multiplications) == (by_levels, by_reals)

    gru = counts_of(nn.Sequential(nn.GRU(inputs, hidden, 2)), x)
    assert gru.multiplications == len(x) * 3 * hidden * (inputs + hidden + hidden + hidden + 2)
    assert gru.multiplications > counts.all_multiplications


# Whole models


def test_every_input_of_a_task_is_decoded_by_itself(network):
    sentences = ["Ein Hund", "Schnee", "Zwei Hunde rennen"]
    together = zoo.profile(network, sentences)
    alone = Counts()
    for sentence in sentences:
        alone += zoo.profile(network, [sentence]).counts
    assert together.counts == alone
    assert together.inputs == 3
    steps = sum(len(sentence.encode()) for sentence in sentences)
    assert sum(sum(row.levels.values()) for row in together.rows) == steps * 4


def test_the_parameters_and_bytes_of_all_rows_are_the_model_s(network):
    profile = zoo.profile(network, ["Hund"])
    held = [*network.parameters(), *network.buffers()]
    assert profile.parameters == sum(p.numel() for p in network.parameters())
    assert profile.bytes == sum(t.numel() * t.element_size() for t in held)


def test_a_profile_leaves_the_model_as_it_was(network):
    network.train()
    network.neuron.backend = "cpu"
    backends = network.neuron.backend, network.neuron.last_backend
    before = {name: value.clone() for name, value in network.state_dict().items()}
    hooks = len(network._forward_hooks)
    zoo.profile(network, ["Ein Hund"])
    assert network.training
    assert network.neuron.training
    assert (network.neuron.backend, network.neuron.last_backend) == backends
    assert not {"step", "step_parameters"} & vars(network.neuron).keys()
    assert len(network._forward_hooks) == hooks
    torch.testing.assert_close(network.state_dict(), before, rtol=0, atol=0)


def test_several_calls_are_a_list_of_arguments():
    layer = nn.Linear(C, N)
    profile = zoo.profile(layer, [(real(2, C),), (real(3, C),)])
    assert profile.inputs == 2
    assert profile.counts == counts_of(layer, real(5, C))


# What cannot be counted


class Fourier(nn.Module):
    def forward(self, x):
        return torch.fft.rfft(x).abs()


def test_a_layer_that_cannot_be_counted_is_named():
    net = nn.Sequential(nn.Linear(C, N), nn.Sequential(Fourier()))
    with pytest.raises(UncountableError, match=r"layer '1\.0' \(Fourier\) runs aten\._fft_r2c.*register_counter\(Four"):
        zoo.profile(net, real(B, C))


def test_a_counter_that_is_registered_makes_it_known(monkeypatch):
    monkeypatch.setattr(layers, "_counters", dict(layers._counters))

    @register_counter(Fourier)
    def fourier(call):
        (x,) = call.inputs
        return Counts(multiplications=int(x.numel() * math.log2(x.shape[-1])))

    net = nn.Sequential(Fourier(), nn.Linear(5, N, bias=False))
    counts = counts_of(net, real(B, 8))
    assert counts.multiplications == B * 8 * 3 + B * 5 * N


def test_a_counter_can_declare_spikes_and_count_those_that_come_in(monkeypatch):
    monkeypatch.setattr(layers, "_counters", dict(layers._counters))

    class Ternary(nn.Linear):
        def forward(self, x):
            return torch.sign(torch.round(super().forward(x)))

    @register_counter(Ternary)
    def ternary(call):
        (x,) = call.inputs
        call.spikes(call.output, bits=2, levels=call.output)
        return call.product(x, call.module.out_features)

    net = nn.Sequential(Ternary(C, N), nn.Linear(N, 3, bias=False))
    x = binary(B, C)
    rows = {row.name: row for row in zoo.profile(net, x).rows}
    for name, macs, added in (("0", B * C * N, int(x.sum()) * N), ("1", B * N * 3, int(net[0](x).count_nonzero()) * 3)):
        assert rows[name].counts == Counts(dense_macs=macs, additions=added, integer_additions=added)


def test_inputs_that_are_none_are_refused():
    layer = nn.Linear(C, N)
    for bad, error, text in (
        ([], ValueError, "there are no inputs"),
        ("Ein Hund", TypeError, "got str"),
        (["Ein Hund"], TypeError, "Linear has no task of the zoo"),
        (torch.full((1, C), torch.nan), ValueError, "input 0 holds NaN"),
    ):
        with pytest.raises(error, match=text):
            zoo.profile(layer, bad)
    with pytest.raises(TypeError, match="beam_size: options are for the method of a task"):
        zoo.profile(layer, real(1, C), beam_size=1)
    with pytest.raises(TypeError, match=r"a profile is of an nn\.Module; got function"):
        zoo.profile(lambda x: x, real(1, C))
    with pytest.raises(TypeError, match=r"register_counter takes classes of nn\.Module"):
        register_counter(print)


# Synaptic operations: for each spike, the weights that it meets


def fired(row) -> int:
    return sum(count for level, count in row.levels.items() if level)


def test_a_spike_causes_as_many_synaptic_operations_as_weights_that_it_meets():
    def both(of, x):
        y, _ = of.neuron(x)
        return of.one(y), of.other(y)

    model = Of(both, neuron=spiking(4), one=nn.Linear(C, N), other=nn.Linear(C, 2))
    row = row_of(model, "neuron", 2 * real(T, B, C))
    assert row.synaptic_operations == fired(row) * (N + 2) > 0


def test_neurons_side_by_side_have_their_own_synaptic_operations():
    def joined(of, x):
        return of.weight(torch.cat([of.first(x)[0], of.second(3 * x)[0]], dim=-1))

    model = Of(joined, first=spiking(4), second=spiking(4, 5.0), weight=nn.Linear(2 * C, N))
    x = real(T, B, C)
    for name in ("first", "second"):
        row = row_of(model, name, x)
        assert row.synaptic_operations == fired(row) * N > 0


def test_a_recurrent_spike_meets_the_recurrent_weights_too():
    neuron = build("recurrent-gated-lif", C, bits=4)
    model = Of(lambda of, x: of.weight(of.neuron(x)[0]), neuron=neuron, weight=nn.Linear(C, N))
    row = row_of(model, "neuron", currents(neuron, T, B, C, 0))
    last = zoo.profile(Of(lambda of, x: of.neuron(x)[0], neuron=neuron), (currents(neuron, T, B, C, 0),)).rows
    recurrent = next(one for one in last if one.name == "neuron").synaptic_operations
    assert row.synaptic_operations == fired(row) * N + recurrent and recurrent > 0


def test_a_spike_before_a_convolution_meets_the_weights_that_reach_it():
    model = Of(lambda of, x: of.weight(of.neuron(x)[0][0]), neuron=spiking(4), weight=nn.Conv2d(C, N, 1, bias=False))
    row = row_of(model, "neuron", 2 * real(1, B, C, 3, 3))
    assert row.synaptic_operations == fired(row) * N > 0


def test_the_synaptic_operations_of_a_translation_are_its_products_of_spikes():
    profile = zoo.profile(zoo.load("lite-snn-multi30k"), ["Ein Hund rennt."], beam_size=1)
    assert sum(row.synaptic_operations for row in profile.rows) == profile.counts.integer_multiplications
