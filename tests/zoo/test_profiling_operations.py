"""The closed list of operations: it has all operations of ordinary networks, and none that are never reached."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import rnn

import zoo
from tests.zoo.test_profiling import ELEMENTWISE, MOVES, Of, counts_of, real, written_step_by_step
from tests.zoo.test_profiling_results import TEXT, gesture_network, recording, text_classifier, translator
from zoo.networks import gesture, sentiment, speech, translation
from zoo.profiling import Counts, meter, operations

B, C, N = 2, 4, 6
SIZE, ROWS = B * C * N, B * C
"""Numbers in ``[B, C, N]``, and rows of N."""
X = real(B, C, N)


def pictures(dimensions):
    return real(B, C, *[N] * dimensions)


def normed(rows, weights):
    """The counts of mean and variance of each of ``rows`` rows, and of an affine map."""
    multiplications, additions = 2 * SIZE + 2 * rows + weights * SIZE, 3 * SIZE - rows + weights * SIZE
    return Counts(multiplications=multiplications, additions=additions, functions={"rsqrt": rows})


def of_functions(**functions):
    return Counts(functions=functions)


def convolved(layer, dimensions):
    """A convolution, its input, and its counts: one product per pair of input and weight."""
    x, y = pictures(dimensions), layer(pictures(dimensions))
    products = (x if layer.transposed else y).numel() * layer.weight[0].numel()
    return layer, x, Counts(products, products, additions=products + y.numel())


def averaged(layer, dimensions, window):
    """A pooling, its input, and its counts: the mean of some numbers per output."""
    n = layer(pictures(dimensions)).numel()
    return layer, pictures(dimensions), Counts(multiplications=n, additions=n * (window - 1))


LAYERS = {
    "ReLU": (nn.ReLU(), X, Counts()),
    "ReLU6": (nn.ReLU6(), X, Counts()),
    "hard tanh": (nn.Hardtanh(), X, Counts()),
    "leaky ReLU": (nn.LeakyReLU(), X, Counts(multiplications=SIZE)),
    "PReLU": (nn.PReLU(), X, Counts(multiplications=SIZE)),
    "ELU": (nn.ELU(), X, of_functions(elu=SIZE)),
    "SELU": (nn.SELU(), X, of_functions(elu=SIZE)),
    "CELU": (nn.CELU(), X, of_functions(celu=SIZE)),
    "GELU": (nn.GELU(), X, Counts(multiplications=SIZE, functions={"gelu": SIZE})),
    "SiLU": (nn.SiLU(), X, Counts(multiplications=SIZE, functions={"sigmoid": SIZE})),
    "mish": (nn.Mish(), X, of_functions(mish=SIZE)),
    "hard swish": (nn.Hardswish(), X, Counts(multiplications=2 * SIZE, additions=SIZE)),
    "hard sigmoid": (nn.Hardsigmoid(), X, of_functions(hardsigmoid=SIZE)),
    "softplus": (nn.Softplus(), X, of_functions(softplus=SIZE)),
    "softsign": (nn.Softsign(), X, Counts(multiplications=SIZE, additions=SIZE)),
    "sigmoid": (nn.Sigmoid(), X, of_functions(sigmoid=SIZE)),
    "log sigmoid": (nn.LogSigmoid(), X, of_functions(log_sigmoid_forward=SIZE)),
    "tanh": (nn.Tanh(), X, of_functions(tanh=SIZE)),
    "layer norm": (nn.LayerNorm(N), X, normed(ROWS, True)),
    "group norm": (nn.GroupNorm(2, C), X, normed(B * 2, True)),
    "instance norm": (nn.InstanceNorm1d(C), X, normed(ROWS, False)),
    "RMS norm": (
        nn.RMSNorm(N),
        X,
        Counts(multiplications=3 * SIZE + ROWS, additions=SIZE, functions={"rsqrt": ROWS}),
    ),
    "batch norm": (nn.BatchNorm1d(C).eval(), X, Counts(multiplications=SIZE, additions=SIZE)),
    "batch norm without statistics": (nn.BatchNorm1d(C, track_running_stats=False), X, normed(C, True)),
    "convolution": convolved(nn.Conv1d(C, 3, 2), 1),
    "convolution in 2 dimensions": convolved(nn.Conv2d(C, 3, 2), 2),
    "convolution in 3 dimensions": convolved(nn.Conv3d(C, 3, 2), 3),
    "transposed convolution": convolved(nn.ConvTranspose1d(C, 3, 2), 1),
    "transposed convolution in 2 dimensions": convolved(nn.ConvTranspose2d(C, 3, 2), 2),
    "transposed convolution in 3 dimensions": convolved(nn.ConvTranspose3d(C, 3, 2), 3),
    "largest of 2": (nn.MaxPool1d(2), X, Counts()),
    "largest of 2 x 2": (nn.MaxPool2d(2), pictures(2), Counts()),
    "largest of 2 x 2 x 2": (nn.MaxPool3d(2), pictures(3), Counts()),
    "mean of 3": averaged(nn.AvgPool1d(3), 1, 3),
    "mean of 3 x 3": averaged(nn.AvgPool2d(3), 2, 9),
    "mean of 1 x 3": averaged(nn.AvgPool2d((1, 3)), 2, 3),
    "means of halves": averaged(nn.AdaptiveAvgPool1d(2), 1, 3),
    "means of quarters": averaged(nn.AdaptiveAvgPool2d(2), 2, 9),
    "mean of a picture": averaged(nn.AdaptiveAvgPool2d(1), 2, N * N),
    "larger": (nn.Upsample(scale_factor=2), pictures(1), Counts()),
    "larger in 2 dimensions": (nn.Upsample(scale_factor=2), pictures(2), Counts()),
    "larger in 3 dimensions": (nn.Upsample(scale_factor=2), pictures(3), Counts()),
    "embedding": (nn.Embedding(C, N), torch.tensor([[1, 2]]), Counts()),
}


@pytest.mark.parametrize("name", LAYERS)
def test_every_ordinary_layer_is_counted(name):
    layer, x, expected = LAYERS[name]
    assert counts_of(layer, x) == expected


FREE = {
    "comparisons": lambda x: ((x > 0) & (x <= 1) | ~(x >= -1) & (x != 2) & (x < 3)) == (x == 0),
    "logic": lambda x: torch.logical_and(torch.logical_or(x, x), torch.logical_not(x)).any() or (x > 0).all(),
    "rounding": lambda x: [x.trunc(), x.round(), x.floor(), x.ceil(), x.sign(), torch.heaviside(x, x.new_zeros(()))],
    "bounds": lambda x: [x.clamp(0, 1), x.clamp_min(0), torch.maximum(x, x), torch.minimum(x, x)],
    "extremes": lambda x: [x.max(), x.max(0), x.min(0), x.amax(0), x.amin(0), x.argmax(0), x.topk(2), x.sort()],
    "magnitudes": lambda x: [x.abs(), -x, x.isinf(), x.isnan()],
    "ones": lambda x: [torch.ones(2), torch.ones_like(x), x.new_ones(2)],
    "constants": lambda x: [torch.full((2,), 0.5), torch.full_like(x, 0.5), x.new_full((2,), 0.5)],
    "memory": lambda x: [torch.empty(2), torch.empty_like(x), x.new_empty(2), x.clone().zero_(), x.clone().fill_(1)],
    "ranges": lambda x: [torch.linspace(0, 1, 5), torch.arange(3), torch.ones(3, 3).tril().triu()],
    "random numbers": lambda x: [torch.randn(2), torch.rand(2), torch.randn_like(x), torch.rand_like(x).bernoulli()],
    "places": lambda x: [torch.searchsorted(torch.arange(9), torch.arange(3)), (x > 0).nonzero()],
    "repeats": lambda x: [x.repeat(2, 1, 1), x.repeat_interleave(2, 0), F.pad(x, (1, 1)), F.dropout(x, 0.5, False)],
}


@pytest.mark.parametrize("name", FREE)
def test_what_is_no_arithmetic_is_free(name):
    assert counts_of(Of(lambda net, x: (FREE[name](x), x)[1]), X) == Counts()


SUMS = SIZE - ROWS
ARITHMETIC = {
    "a square": (lambda x: x**2, Counts(multiplications=SIZE)),
    "a power": (lambda x: x**x, of_functions(pow=SIZE)),
    "one divided by it": (torch.reciprocal, Counts(multiplications=SIZE)),
    "a difference from one": (lambda x: 1 - x, Counts(additions=SIZE)),
    "a remainder": (lambda x: x % 2, Counts(multiplications=SIZE)),
    "a quotient without its remainder": (lambda x: x // 2, Counts(multiplications=SIZE)),
    "products added": (lambda x: torch.addcmul(x, x, x), Counts(multiplications=SIZE, additions=SIZE)),
    "running sums": (lambda x: x.cumsum(-1), Counts(additions=SUMS)),
    "lengths": (
        lambda x: x.norm(dim=-1),
        Counts(multiplications=SIZE, additions=SUMS, functions={"sqrt": ROWS}),
    ),
    "a vector with a vector": (lambda x: x[0, 0] @ x[0, 1], Counts(N, N, additions=N)),
    "a matrix with a vector": (lambda x: x[0] @ x[0, 0], Counts(C * N, C * N, additions=C * N)),
    "log softmax": (
        lambda x: x.log_softmax(-1),
        Counts(additions=3 * SIZE - ROWS, functions={"exp": SIZE, "log": ROWS}),
    ),
    "log-sum-exp": (lambda x: x.logsumexp(-1), of_functions(logsumexp=ROWS)),
} | {
    name: (getattr(torch, name), of_functions(**{name: SIZE}))
    for name in ("exp", "log", "log1p", "sqrt", "rsqrt", "sin", "cos")
}


@pytest.mark.parametrize("name", ARITHMETIC)
def test_arithmetic_is_counted(name):
    function, expected = ARITHMETIC[name]
    assert counts_of(Of(lambda net, x: function(x)), X.abs()) == expected


def causal(x):
    """The mask of attention to the past only."""
    return nn.Transformer.generate_square_subsequent_mask(len(x))


BLOCKS = {
    "attention": (nn.MultiheadAttention(N, 2), lambda net, x: net.part(x, x, x, attn_mask=causal(x))),
    "encoder": (nn.TransformerEncoderLayer(N, 2, 8), lambda net, x: net.part(x)),
    "decoder": (nn.TransformerDecoderLayer(N, 2, 8, activation="gelu"), lambda net, x: net.part(x, x, causal(x))),
    "packed": (
        nn.LSTM(N, N),
        lambda net, x: rnn.pad_packed_sequence(net.part(rnn.pack_padded_sequence(x, torch.tensor([2, 2, 1, 1])))[0]),
    ),
}


@pytest.mark.parametrize("name", BLOCKS)
@pytest.mark.parametrize("inferring", [False, True])
def test_every_ordinary_block_is_counted_in_inference_mode_too(name, inferring):
    part, forward = BLOCKS[name]

    def call(net, x):
        with torch.inference_mode(inferring):
            return forward(net, x)

    counts = counts_of(Of(call, part=part), X)
    assert counts.multiplications >= counts.dense_macs > 0


@pytest.fixture
def reached(monkeypatch):
    """The names of all operations that the profiles of a test see."""
    found, classified = set(), meter._classified

    def noted(func):
        name, kind, in_place = classified(func)
        found.add(name)
        return name, kind, in_place

    monkeypatch.setattr(meter, "_classified", noted)
    return found


def test_every_operation_on_the_list_is_reached_by_a_model_a_twin_or_a_test(reached):
    for mixer in translation.MIXERS:
        zoo.profile(translator(mixer), ["Ein Hund."])
    for mixer in sentiment.MIXERS:
        zoo.profile(text_classifier(mixer, ngrams=5), [TEXT])
    for mixer in gesture.MIXERS:
        zoo.profile(gesture_network(mixer), [recording()])
    for mixer in speech.MIXERS:
        zoo.profile(speech.SpeechRecogniser(speech.SpeechConfig(mixer=mixer, width=8)), (real(5, 2, 120),))
    for layer, x, _ in LAYERS.values():
        zoo.profile(layer, (x,))
    for part, forward in BLOCKS.values():
        zoo.profile(Of(forward, part=part), (X,))
    of_one = [*FREE.values(), *(function for function, _ in ARITHMETIC.values())]
    of_two = [function for function, _ in ELEMENTWISE.values()]
    for function in of_one:
        zoo.profile(Of(lambda net, x, function=function: function(x)), (X,))
    for function in of_two:
        zoo.profile(Of(lambda net, x, function=function: function(x, x)), (real(6, 2, 5),))
    for function in (*MOVES.values(), written_step_by_step):
        zoo.profile(Of(lambda net, x, function=function: function(x)), (real(6, 2, 5),))
    listed = set().union(*operations.WITHOUT_ARITHMETIC, operations.WRITTEN, operations.FUNCTIONS, operations.COUNTED)
    assert listed - reached == {"cudnn_batch_norm"}  # which only runs on a GPU
