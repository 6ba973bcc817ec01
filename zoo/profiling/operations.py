"""The cost of each torch operation: a closed list. An operation that is not on it cannot be counted, and is an error.

The operations are those that reach torch's dispatcher (ATen), whatever Python code called them. There are four kinds:
operations that only move values, operations that cost no arithmetic (:data:`FREE`), operations that are counted, and
operations that evaluate a function (:data:`FUNCTIONS`), which is noted by name. Comparisons, rounding, random numbers
and arithmetic on whole numbers (indices, lengths) are free.
"""

import math
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from zoo.profiling.counts import Counts
from zoo.profiling.ledger import Ledger
from zoo.profiling.spikes import BINARY, REAL, ZERO


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


MOVED: dict[str, tuple[int, ...]] = dict.fromkeys(
    _words(
        """view _unsafe_view t transpose permute expand squeeze unsqueeze slice select split split_with_sizes unbind
        index_select gather index flip roll repeat cat stack _pack_padded_sequence"""
    ),
    (0,),
) | {
    "constant_pad_nd": (0, 2),
    "masked_fill": (0, 2),
    "where": (1, 2),
    "scatter": (0, 3),
    "index_put": (0, 2),
}
"""Operations whose results are values of the arguments at these places (tensors or constants)."""

KEPT = _words("clone _to_copy detach lift_fresh relu abs neg")
"""Operations that keep each value in its place: a result is zero where its input is zero, and a level where that is."""

CHOSEN = _words(
    """max_pool2d_with_indices max_pool3d_with_indices upsample_nearest1d upsample_nearest2d upsample_nearest3d
    amax amin"""
)
"""Operations whose results are some of the values; they are levels if all values have one scale."""

WRITTEN = {"copy": (1,), "fill": (1,), "zero": (), "index_put": (2,), "masked_fill": (2,), "scatter": (3,)}
"""Operations in place (``copy_``), and the places of the arguments that they write."""

ZEROS = _words("zeros zeros_like new_zeros")

FREE = _words(
    """empty empty_like new_empty ones ones_like new_ones full full_like new_full scalar_tensor arange linspace
    tril triu eq ne gt ge lt le isinf isnan logical_and logical_or logical_not bitwise_and bitwise_or bitwise_not all
    any nonzero max min argmax topk sort searchsorted maximum minimum clamp clamp_min hardtanh trunc round
    floor ceil sign heaviside embedding rand rand_like randn randn_like bernoulli _local_scalar_dense"""
)

WITHOUT_ARITHMETIC = (MOVED, KEPT, CHOSEN, ZEROS, FREE)

FUNCTIONS = _words(
    """exp log log1p sqrt rsqrt sin cos tanh sigmoid log_sigmoid_forward softplus elu celu mish hardsigmoid logsumexp"""
)


def _size(out: Any) -> int:
    return (out[0] if isinstance(out, tuple | list) else out).numel()


# Products of matrices


def _columns(
    ledger: Ledger, tensor: Tensor, dim: int, constant_other: bool, each: int, counts: Counts
) -> dict[int, tuple]:
    """For each place of the summed dimension, the number of values of each kind over dimension ``dim``.

    A key is the bits of a spike, with value ``(non-zero, non-zero)``; the key REAL, for real numbers, has
    ``(all, non-zero)``. Levels can only be summed if they have one scale: one per place if the other operand's
    constants can absorb it, else one for the whole tensor. Otherwise they are first turned into real numbers, which
    takes one integer multiplication each. Each value meets ``each`` values of the other operand.
    """
    tag = ledger.tags.of(tensor)
    if tag is None and ledger.is_parameter(tensor):
        everywhere = torch.full_like(tensor.select(dim, 0), tensor.shape[dim], dtype=torch.float64)
        return {REAL: (everywhere, everywhere)}
    nonzero = tensor != 0
    found = nonzero.sum(dim).double()
    if tag is None:
        return {REAL: (torch.full_like(found, tensor.shape[dim]), found)}
    if constant_other:
        ledger.note_operations(tag.sources, nonzero, each)
    if isinstance(tag.sources, int):
        return {ledger.tags.bits[tag.sources]: (found, found)}
    sources = torch.where(nonzero, tag.sources, ZERO)
    over = (dim,) if constant_other else tuple(range(tensor.dim()))
    mixed = (sources != sources.amax(over, keepdim=True)) & (sources != ZERO) | (tag.sources == REAL)
    real = mixed.any(dim, keepdim=True) if constant_other else mixed.any().expand(tensor.shape)
    real = real.expand(tensor.shape)
    for source in sources[real & (sources > BINARY)].unique().tolist():
        _convert(counts, ledger.tags.bits[source], int((sources[real] == source).sum()))
    kinds = {REAL: (real.sum(dim).double(), (real & nonzero).sum(dim).double())}
    for source in sources[~real & nonzero].unique().tolist():
        bits, here = ledger.tags.bits[source], (~real & (sources == source)).sum(dim).double()
        kinds[bits] = tuple(before + here for before in kinds.get(bits, (0, 0)))
    return kinds


def _convert(counts: Counts, bits: int, spikes: int) -> None:
    """Count turning levels into real numbers: one integer multiplication each."""
    if bits > 2:
        counts.integer_multiplications += spikes
        counts.shift_additions += spikes * (bits - 2)


def add_products(counts: Counts, bits: tuple[int, int], pairs: int, nonzero: int) -> None:
    """Count ``pairs`` products, each added to a sum, of two numbers whose ``bits`` are those of spikes, or REAL."""
    counts.additions += pairs
    spikes = [b for b in bits if b != REAL]
    if not spikes:
        counts.multiplications += pairs
        counts.multiplications_by_zero += pairs - nonzero
    else:
        _convert(counts, min(spikes), pairs)
        counts.integer_additions += pairs


def matrix_product(ledger: Ledger, a: Tensor, b: Tensor) -> Counts:
    """``a [..., R, K] @ b [..., K, N]``."""
    counts = Counts(dense_macs=a.numel() * b.shape[-1])
    constant = ledger.is_parameter(a), ledger.is_parameter(b)
    left = _columns(ledger, a, -2, constant[1], b.shape[-1], counts)
    right = _columns(ledger, b, -1, constant[0], a.shape[-2], counts)
    for bits_a, (all_a, some_a) in left.items():
        for bits_b, (all_b, some_b) in right.items():
            add_products(counts, (bits_a, bits_b), int((all_a * all_b).sum()), int((some_a * some_b).sum()))
    if not any(constant) and max(*left, *right) > BINARY:
        counts.multiplications += a.numel() // max(a.shape[-1], 1) * b.shape[-1]  # the scale, which no weight absorbs
    return counts


def fan_out_product(ledger: Ledger, x: Tensor, fan_out: int) -> Counts:
    """Count each value of ``x [..., K]`` times ``fan_out`` weights of its column, with every product added to a sum."""
    counts = Counts(dense_macs=x.numel() * fan_out)
    flat = x.reshape(-1, x.shape[-1])
    tag = ledger.tags.of(x)
    if tag is not None:
        ledger.tags.set(flat, tag.sources if isinstance(tag.sources, int) else tag.sources.reshape(flat.shape))
    for bits, (pairs, nonzero) in _columns(ledger, flat, 0, True, fan_out, counts).items():
        add_products(counts, (bits, REAL), int(pairs.sum()) * fan_out, int(nonzero.sum()) * fan_out)
    return counts


def _with_bias(counts: Counts, out: Tensor, args: tuple, kwargs: dict, alpha: Any, beta: Any) -> Counts:
    counts.additions += out.numel() if beta != 0 else 0
    counts.multiplications += out.numel() * ((alpha not in (0, 1)) + (beta not in (0, 1)))
    return counts


def _mm(ledger, args, kwargs, out) -> Counts:
    return matrix_product(ledger, *args[:2])


def _mv(ledger, args, kwargs, out) -> Counts:
    a, vector = args[:2]
    column, rows = vector.unsqueeze(-1), a if a.dim() > 1 else a.unsqueeze(0)
    ledger.tags.share(vector, column)
    if rows is not a:
        ledger.tags.share(a, rows)
    return matrix_product(ledger, rows, column)


def _addmm(ledger, args, kwargs, out) -> Counts:
    product = (_mv if args[2].dim() == 1 else _mm)(ledger, args[1:3], {}, out)
    return _with_bias(product, out, args, kwargs, kwargs.get("alpha", 1), kwargs.get("beta", 1))


def _convolution(ledger, args, kwargs, out) -> Counts:
    x, weight, bias, *geometry = args[:9]
    transposed, groups = geometry[3], geometry[5]
    positions = x.numel() if transposed else out.numel()
    counts = Counts(dense_macs=positions * weight[0].numel())
    counts.additions += out.numel() if bias is not None else 0
    shape = (weight.shape[0], 1) if transposed else (groups, weight.shape[1])
    ones = torch.ones(*shape, *weight.shape[2:], dtype=torch.float64, device=x.device)
    copies = weight.shape[1] if transposed else weight.shape[0] // groups

    def reached(mask: Tensor) -> int:
        """The total number of products of the marked inputs with weights; padding has none."""
        return round(torch.ops.aten.convolution(mask.double(), ones, None, *geometry).sum().item()) * copies

    nonzero, tag = x != 0, ledger.tags.of(x)
    if tag is None:
        counts.multiplications_by_zero += counts.dense_macs - reached(nonzero)
        counts.multiplications += counts.dense_macs
        counts.additions += counts.dense_macs
        return counts
    sources = torch.where(nonzero, ledger.tags.full(x), ZERO)
    first = sources.amax([d for d in range(x.dim()) if d != x.dim() - weight.dim() + 1], keepdim=True)
    real = ~((sources == first) | (sources == ZERO)) | (sources == REAL)
    if real.any():  # two scales in one channel, or real numbers beside spikes
        for source in sources[sources > BINARY].unique().tolist():
            _convert(counts, ledger.tags.bits[source], int((sources == source).sum()))
        add_products(counts, (REAL, REAL), counts.dense_macs, reached(nonzero))
        return counts
    for source in sources.unique().tolist():
        if source != ZERO:
            products = reached(sources == source)
            add_products(counts, (ledger.tags.bits[source], REAL), products, 0)
            ledger.note_operations(source, torch.ones(1, dtype=torch.bool), products)
    return counts


# Element by element


def _elements(ledger: Ledger, operands: tuple, out: Tensor, counts: Counts) -> int:
    """The number of elements of ``out`` without a zero spike as operand; counts turning levels into real numbers."""
    active = None
    for operand in operands:
        tag = ledger.tags.of(operand)
        if tag is None or (isinstance(tag.sources, int) and tag.sources == ZERO):  # a state at rest is not spikes
            continue
        nonzero = operand != 0
        sources = torch.where(nonzero, ledger.tags.full(operand), ZERO)
        for source in sources.unique().tolist():
            if source > BINARY:
                _convert(counts, ledger.tags.bits[source], int((sources == source).sum()))
        maybe = nonzero | (ledger.tags.full(operand) == REAL)
        active = maybe.expand(out.shape) if active is None else active & maybe
    return out.numel() if active is None else int(active.sum())


def _add(ledger, args, kwargs, out) -> Counts:
    counts = Counts()
    counts.additions = _elements(ledger, args[:2], out, counts)
    alpha = args[2] if len(args) > 2 else kwargs.get("alpha", 1)
    if alpha not in (1, -1):
        counts.multiplications += out.numel()
    return counts


def _mul(ledger, args, kwargs, out) -> Counts:
    counts, (a, b) = Counts(), args[:2]
    for mask, other in ((a, b), (b, a)):
        tag = ledger.tags.of(mask)
        if tag is not None and isinstance(tag.sources, int) and tag.sources in (BINARY, ZERO):
            ledger.result_tag = _chosen(ledger, other, out)
            return counts  # a choice, not a multiplication
    counts.multiplications = _elements(ledger, (a, b), out, counts)
    return counts


def _chosen(ledger: Ledger, other: Any, out: Tensor) -> int | Tensor | None:
    """The sources of a choice between zero and ``other``."""
    kept = ledger.tags.of(other)
    if kept is not None:
        return kept.sources if isinstance(kept.sources, int) else kept.sources.expand(out.shape).clone()
    if isinstance(other, Tensor) and not (other.numel() == 1 and ledger.is_parameter(other)):
        return None
    value = float(other)  # one level with this scale
    return BINARY if value == 1 else ledger.tags.source(f"{ledger.innermost} * {value}", 1)


def _div(ledger, args, kwargs, out) -> Counts:
    counts = Counts()
    counts.multiplications = _elements(ledger, args[:2], out, counts)
    return counts


def _each(multiplications: int = 0, additions: int = 0, function: str | None = None) -> Callable:
    """A handler for an operation with the given cost per element of the result."""

    def handler(ledger, args, kwargs, out) -> Counts:
        n, counts = _size(out), Counts()
        _elements(ledger, args[:1], out[0] if isinstance(out, tuple) else out, counts)
        counts.multiplications, counts.additions = multiplications * n, additions * n
        if function:
            counts.functions = Counter({function: n})
        return counts

    return handler


def _power(ledger, args, kwargs, out) -> Counts:
    """A square is one multiplication; any other power is a function."""
    is_square = not isinstance(args[1], Tensor) and args[1] == 2
    return (_each(1) if is_square else _each(function="pow"))(ledger, args, kwargs, out)


# Sums and norms


def _sum(ledger, args, kwargs, out) -> Counts:
    counts = Counts()
    terms = _elements(ledger, args[:1], args[0], counts)
    counts.additions = max(terms - out.numel(), 0)
    return counts


def _mean(ledger, args, kwargs, out) -> Counts:
    counts = _sum(ledger, args, kwargs, out)
    counts.multiplications += out.numel()
    return counts


def _cumsum(ledger, args, kwargs, out) -> Counts:
    return Counts(additions=out.numel() - out.numel() // max(out.shape[args[1]] if out.dim() else 1, 1))


def _rows(x: Tensor, dim: int) -> int:
    return x.numel() // max(x.shape[dim] if x.dim() else 1, 1)


def _softmax(ledger, args, kwargs, out) -> Counts:
    """exp(x - max) / sum: two additions and a division per element, except that a sum's first term is free."""
    n, rows = out.numel(), _rows(out, args[1])
    return Counts(additions=2 * n - rows, multiplications=n, functions=Counter(exp=n))


def _log_softmax(ledger, args, kwargs, out) -> Counts:
    """x - max - log(sum(exp(x - max)))."""
    n, rows = out.numel(), _rows(out, args[1])
    return Counts(additions=3 * n - rows, functions=Counter(exp=n, log=rows))


def _normalised(n: int, rows: int, weight: bool, bias: bool) -> Counts:
    """Mean and variance of each row, then (x - mean) / deviation, and an affine map.

    A row of m values takes m - 1 additions and a multiplication for the mean, m subtractions, m squares, m - 1
    additions and a multiplication for the variance, an addition for epsilon, and m multiplications to scale.
    """
    return Counts(
        multiplications=2 * n + 2 * rows + n * weight,
        additions=3 * n - rows + n * bias,
        functions=Counter(rsqrt=rows),
    )


def _layer_norm(ledger, args, kwargs, out) -> Counts:
    x, shape, weight, bias = args[:4]
    return _normalised(x.numel(), x.numel() // max(math.prod(shape), 1), weight is not None, bias is not None)


def _group_norm(ledger, args, kwargs, out) -> Counts:
    x, weight, bias, batch, _, _, groups = args[:7]
    return _normalised(x.numel(), batch * groups, weight is not None, bias is not None)


def _batch_norm(ledger, args, kwargs, out) -> Counts:
    """With statistics from training, one scale and one shift per channel; otherwise also the input's statistics."""
    x, weight, bias, _, _, by_input = args[:6]
    if by_input:  # an instance norm passes samples times channels as channels
        return _normalised(x.numel(), x.shape[1], weight is not None, bias is not None)
    counts = Counts()
    _elements(ledger, args[:1], args[0], counts)
    counts.multiplications += args[0].numel()
    counts.additions += args[0].numel()
    return counts


def _average_pool(ledger, args, kwargs, out) -> Counts:
    kernel = args[1]
    window = math.prod(kernel) if len(kernel) > 1 else kernel[0] ** 2
    return Counts(additions=out.numel() * (window - 1), multiplications=out.numel())


def _adaptive_average_pool(ledger, args, kwargs, out) -> Counts:
    if any(size % target for size, target in zip(args[0].shape[-len(args[1]) :], args[1])):
        raise NotImplementedError("adaptive pooling to a size that does not divide the input's")
    return Counts(additions=args[0].numel() - out.numel(), multiplications=out.numel())


def _vector_norm(ledger, args, kwargs, out) -> Counts:
    n = args[0].numel()
    return Counts(multiplications=n, additions=n - out.numel(), functions=Counter(sqrt=out.numel()))


COUNTED: dict[str, Callable] = {
    "mm": _mm,
    "bmm": _mm,
    "dot": _mv,
    "mv": _mv,
    "addmm": _addmm,
    "baddbmm": _addmm,
    "convolution": _convolution,
    "add": _add,
    "sub": _add,
    "rsub": _add,
    "mul": _mul,
    "div": _div,
    "floor_divide": _div,
    "remainder": _div,
    "reciprocal": _each(1),
    "pow": _power,
    "addcmul": _each(1, 1),
    "silu": _each(1, 0, "sigmoid"),
    "gelu": _each(1, 0, "gelu"),
    "hardswish": _each(2, 1),
    "leaky_relu": _each(1),
    "_prelu_kernel": _each(1),
    "sum": _sum,
    "mean": _mean,
    "cumsum": _cumsum,
    "_softmax": _softmax,
    "_safe_softmax": _softmax,
    "_log_softmax": _log_softmax,
    "native_layer_norm": _layer_norm,
    "native_group_norm": _group_norm,
    "native_batch_norm": _batch_norm,
    "cudnn_batch_norm": _batch_norm,  # the same on a GPU
    "avg_pool2d": _average_pool,
    "_adaptive_avg_pool2d": _adaptive_average_pool,
    "linalg_vector_norm": _vector_norm,
}
