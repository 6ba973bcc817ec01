"""The CPU kernels, compiled by Numba. All are in this one file: when it changes, Numba compiles them anew.

A kernel takes the memory of whole tensors: ``[T, rows, elements]`` for sequences and ``[rows, elements]`` for a state.
It computes the blocks from ``start`` to ``stop`` one after another: within a block step by step, within a step element
by element.
"""

import warnings
from typing import Any, NamedTuple

import numpy as np
from numba import njit, types
from numba.core.compiler import Compiler
from numba.extending import overload

STEPS = 16
"""Time steps from one checkpoint to the next."""
WIDTH = 1024
"""Elements of a block."""


class _Disjoint(Compiler):
    """Numba's compiler, told that a function's arrays never overlap, so that it does not check before every loop."""

    def define_pipelines(self):
        self.state.flags.noalias = True
        return super().define_pipelines()


def _can_keep() -> bool:
    """Whether Numba finds a folder for compiled kernels: beside this file, or the user's cache folder."""
    try:
        njit(cache=True)(_can_keep)
    except RuntimeError:
        warnings.warn(
            "no folder can be written to keep compiled kernels in, so every process compiles them anew; name one in "
            "the environment variable NUMBA_CACHE_DIR",
            stacklevel=2,
        )
        return False
    return True


_OPTIONS: dict[str, Any] = {"cache": _can_keep(), "nogil": True, "error_model": "numpy"}
_kernel = njit(**_OPTIONS, pipeline_class=_Disjoint)
# Inlined: a call in a loop over elements would prevent vector instructions.
_INLINED: Any = {"error_model": "numpy", "forceinline": True}
_inline = njit(**_OPTIONS, forceinline=True)


# ---- Numbers: half-precision types are raw bits in memory, uint16 for float16 and int16 for bfloat16 ----

_SIGN, _EXPONENT, _ONE_BIT = np.uint32(0x80000000), np.uint32(0x7F800000), np.uint32(1)
_BITS_13, _BITS_16, _BITS_23 = np.uint32(13), np.uint32(16), np.uint32(23)


def widen(value):
    """A number from memory, converted to the type that kernels compute with."""
    raise NotImplementedError("compiled code only")


def narrow(value, like):
    """A computed number, converted to the type of the array ``like``; rounds to nearest, ties to even."""
    raise NotImplementedError("compiled code only")


def sigmoid(value):
    """1 / (1 + exp(-value))."""
    raise NotImplementedError("compiled code only")


@_inline
def _half_to_float(half):
    wide = np.uint32(half)
    magnitude = np.uint32((wide & np.uint32(0x7FFF)) << _BITS_13)
    # The product moves the exponent from float16's bias to float32's, subnormal numbers included.
    moved = np.float32(magnitude.view(np.float32) * np.float32(2.0**112))
    not_finite = _EXPONENT if magnitude >= np.uint32(0x0F800000) else np.uint32(0)
    bits = np.uint32(moved.view(np.uint32) | not_finite | ((wide & np.uint32(0x8000)) << _BITS_16))
    return bits.view(np.float32)


@_inline
def _float_to_half(value):
    bits = np.float32(value).view(np.uint32)
    sign = np.uint32(bits & _SIGN)
    magnitude = np.uint32(bits ^ sign)
    odd = np.uint32((magnitude >> _BITS_13) & _ONE_BIT)
    normal = np.uint32((magnitude + np.uint32(0xC8000FFF) + odd) >> _BITS_13)
    # Adding 0.5 makes the processor round a number that is too small for float16's normal range.
    shifted = np.float32(magnitude.view(np.float32) + np.float32(0.5))
    small = np.uint32(shifted.view(np.uint32) - np.uint32(0x3F000000))
    half = small if magnitude < np.uint32(0x38800000) else normal
    half = np.uint32(0x7C00) if magnitude >= np.uint32(0x47800000) else half
    half = np.uint32(0x7E00) if magnitude > _EXPONENT else half
    return np.uint16(half | (sign >> _BITS_16))


@_inline
def _bfloat16_to_float(half):
    bits = np.uint32(np.uint32(half) << _BITS_16)
    return bits.view(np.float32)


@_inline
def _float_to_bfloat16(value):
    bits = np.float32(value).view(np.uint32)
    odd = np.uint32((bits >> _BITS_16) & _ONE_BIT)
    rounded = np.uint32((bits + np.uint32(0x7FFF) + odd) >> _BITS_16)
    return np.int16(np.uint32(0x7FC0) if value != value else rounded)


_LOG2_E, _ROUND = np.float32(1.4426950408889634), np.float32(1.5 * 2**23)
_LN2_HIGH, _LN2_LOW = np.float32(0.693359375), np.float32(-2.12194440e-4)
_C0, _C1, _C2 = np.float32(1.9875691500e-4), np.float32(1.3981999507e-3), np.float32(8.3334519073e-3)
_C3, _C4, _C5 = np.float32(4.1665795894e-2), np.float32(1.6666665459e-1), np.float32(5.0000001201e-1)
_SMALLEST, _LARGEST, _ONE = np.float32(-87.3), np.float32(88.8), np.float32(1)


@_inline
def exponential(value):
    """exp(value) in float32, in vector instructions: right to one unit in the last place from -87 to 88.

    Infinite above. exp(x) = 2^n exp(x - n ln 2), the second factor by the polynomial of the Cephes library
    (S. Moshier).
    A call of the C library's exp would not become vector instructions.
    """
    x = _SMALLEST if value < _SMALLEST else value
    x = _LARGEST if x > _LARGEST else x
    shifted = np.float32(x * _LOG2_E + _ROUND)  # the lowest bits now hold the nearest whole number n
    n = shifted - _ROUND
    rest = (x - n * _LN2_HIGH) - n * _LN2_LOW
    series = ((((_C0 * rest + _C1) * rest + _C2) * rest + _C3) * rest + _C4) * rest + _C5
    power = np.uint32((shifted.view(np.uint32) + np.uint32(127)) << _BITS_23)
    return (series * rest * rest + rest + _ONE) * power.view(np.float32)


@_inline
def _sigmoid_float(value):
    return _ONE / (_ONE + exponential(-value))


@overload(widen)
def _widen(value):
    if value == types.uint16:
        return lambda value: _half_to_float(value)
    if value == types.int16:
        return lambda value: _bfloat16_to_float(value)
    return lambda value: value


@overload(narrow)
def _narrow(value, like):
    if like.dtype == types.uint16:
        return lambda value, like: _float_to_half(value)
    if like.dtype == types.int16:
        return lambda value, like: _float_to_bfloat16(value)
    return lambda value, like: value


@overload(sigmoid)
def _sigmoid(value):
    if value == types.float32:
        return lambda value: _sigmoid_float(value)
    return lambda value: 1.0 / (1.0 + np.exp(-value))


# ---- The multi-bit spike ----


class Spike(NamedTuple):
    """The multi-bit spike as numbers in the state's type; ``lowest`` is where the membrane is clipped from below."""

    range: np.floating
    lowest: np.floating
    scale: np.floating
    threshold: np.floating
    zero: np.floating
    one: np.floating
    full_precision: bool
    centre: np.floating
    """The gradient passes where the membrane is no further than ``reach`` from here."""
    reach: np.floating


class Firing(NamedTuple):
    """The learnable LIF's surrogate gradient and reset: its height, and the numbers 0 and 1, in the state's type."""

    gamma: np.floating
    zero: np.floating
    one: np.floating
    tail: bool
    """Whether the surrogate gradient is the arctan's; if not, it is the triangle."""
    to_zero: bool
    """Whether a spike resets the membrane to zero."""
    no_reset: bool
    """Whether a spike leaves the membrane as it is. If neither, it subtracts the threshold."""


class LibraryFiring(NamedTuple):
    """A library's surrogate gradient (:class:`neurons.surrogate.Known`), and the reset; by shape, a type of its own."""

    height: np.floating
    slope: np.floating
    zero: np.floating
    one: np.floating
    fires_at_threshold: bool
    to_zero: bool
    no_reset: bool


class TriangularFiring(LibraryFiring):
    """With a triangle."""


class ArctanFiring(LibraryFiring):
    """With the derivative of the arctan."""


class FastSigmoidFiring(LibraryFiring):
    """With the derivative of z / (1 + |z|)."""


class SigmoidFiring(LibraryFiring):
    """With the derivative of the sigmoid."""


@_inline
def _clip(membrane, spike):
    clipped = spike.lowest if membrane < spike.lowest else membrane
    return spike.range if clipped > spike.range else clipped


@_inline
def _level(membrane, spike):
    """The spike as the integer that it is, in the state's type."""
    level = np.trunc(spike.scale * _clip(membrane, spike))
    return spike.zero if abs(level) <= spike.threshold else level


@_inline
def _quantise(membrane, spike):
    return _clip(membrane, spike) if spike.full_precision else _level(membrane, spike) / spike.scale


@_inline
def _through(gradient, membrane, spike):
    """The gradient with respect to the membrane, from the one with respect to the spike."""
    outside = spike.zero if spike.full_precision else gradient * spike.zero
    return gradient if abs(membrane - spike.centre) <= spike.reach else outside


@_inline
def _lower(value, lowest):
    """The smaller of the two; ``value`` where either is NaN."""
    return lowest if value >= lowest else value


@_inline
def _upper(value, highest):
    return highest if value <= highest else value


@_kernel
def _note_extremes(extremes, block, lowest, highest):
    """Store the extremes of a block; NaN if any element is NaN."""
    low, high = lowest[0], highest[0]
    for i in range(len(lowest)):
        low = low if lowest[i] >= low or low != low else lowest[i]
        high = high if highest[i] <= high or high != high else highest[i]
    extremes[0, block], extremes[1, block] = low, high


@_kernel
def _block(block, x_row):
    """The row and the range of elements of a block."""
    a_row = (x_row + WIDTH - 1) // WIDTH
    start = block % a_row * WIDTH
    return block // a_row, start, min(start + WIDTH, x_row)


@_kernel
def _of_block(parameter, row, start, stop):
    """The values of a parameter for a block. If all elements share one value, it is a single row of block size."""
    return parameter[row, start:stop] if stop <= parameter.shape[1] else parameter[row, : stop - start]


@_kernel
def _give(shares, gradient, row, start, block):
    """Store a block's gradient of a parameter: one per element, or the sum if ``gradient`` has one value per block."""
    if gradient.shape[1] == 1:
        total = 0.0
        for i in range(len(shares)):
            total += shares[i]
        gradient[block, 0] = total
    else:
        gradient[row, start : start + len(shares)] = shares


# ---- Input-gated LIF. x is [T, B, 2N], all else has rows of N ----


@_kernel
def _gated_step(f, c, y, current, membrane, lowest, highest, spike):
    one = spike.one
    for i in range(len(current)):
        gate = sigmoid(widen(f[i]))
        candidate = widen(c[i])
        candidate = spike.zero if candidate <= spike.zero else candidate
        new_current = gate * current[i] + (one - gate) * candidate
        new_membrane = membrane[i] + new_current
        if lowest is not None:
            lowest[i], highest[i] = _lower(new_membrane, lowest[i]), _upper(new_membrane, highest[i])
        output = _quantise(new_membrane, spike)
        y[i] = narrow(output, y)
        current[i], membrane[i] = new_current, new_membrane - output


@_kernel
def input_gated_lif_forward(
    x, currents, membranes, y, final_currents, final_membranes, checkpoints, extremes, spike, start, stop
):
    size = y.shape[2]
    for block in range(start, stop):
        row, a, b = _block(block, size)
        current, membrane = final_currents[row, a:b], final_membranes[row, a:b]
        current[:], membrane[:] = currents[row, a:b], membranes[row, a:b]
        lowest = None if extremes is None else np.full(b - a, np.inf, membrane.dtype)
        highest = None if extremes is None else np.full(b - a, -np.inf, membrane.dtype)
        for t in range(len(x)):
            if len(checkpoints) and t % STEPS == 0:
                checkpoints[t // STEPS, 0, row, a:b], checkpoints[t // STEPS, 1, row, a:b] = current, membrane
            f, c = x[t, row, a:b], x[t, row, size + a : size + b]
            _gated_step(f, c, y[t, row, a:b], current, membrane, lowest, highest, spike)
        if extremes is not None:
            _note_extremes(extremes, block, lowest, highest)


@_kernel
def _gated_again(f, c, current, membrane, gates, candidates, currents, membranes, spike):
    """Repeat one step; return what its derivative needs: gate, candidate, last current, membrane before the spike."""
    for i in range(len(current)):
        gate = sigmoid(widen(f[i]))
        candidate = widen(c[i])
        candidate = spike.zero if candidate <= spike.zero else candidate
        gates[i], candidates[i], currents[i] = gate, candidate, current[i]
        new_current = gate * current[i] + (spike.one - gate) * candidate
        new_membrane = membrane[i] + new_current
        membranes[i] = new_membrane
        current[i], membrane[i] = new_current, new_membrane - _quantise(new_membrane, spike)


@_kernel
def _gated_step_backward(
    gate, candidate, current, membrane, grad_y, grad_current, grad_membrane, grad_f, grad_c, spike
):
    """Gradients of one step; the state's gradients are replaced by those of the previous state."""
    for i in range(len(grad_current)):
        reset = grad_membrane[i]
        to_membrane = reset + _through(widen(grad_y[i]) - reset, membrane[i], spike)
        to_current = grad_current[i] + to_membrane
        closed = spike.one - gate[i]
        to_gate = to_current * current[i] - to_current * candidate[i]
        grad_f[i] = narrow(to_gate * closed * gate[i], grad_f)
        grad_c[i] = narrow(spike.zero if candidate[i] <= spike.zero else to_current * closed, grad_c)
        grad_current[i], grad_membrane[i] = to_current * gate[i], to_membrane


@_kernel
def input_gated_lif_backward(x, checkpoints, grad_y, grad_x, grad_currents, grad_membranes, spike, start, stop):
    size = grad_y.shape[2]
    saved = np.empty((5, STEPS, WIDTH), checkpoints.dtype)
    for block in range(start, stop):
        row, a, b = _block(block, size)
        current, membrane = saved[4, 0, : b - a], saved[4, 1, : b - a]
        grad_current, grad_membrane = grad_currents[row, a:b], grad_membranes[row, a:b]
        for part in range(len(checkpoints) - 1, -1, -1):
            current[:], membrane[:] = checkpoints[part, 0, row, a:b], checkpoints[part, 1, row, a:b]
            first, last = part * STEPS, min(part * STEPS + STEPS, len(x))
            for t in range(first, last):
                i, f, c = t - first, x[t, row, a:b], x[t, row, size + a : size + b]
                _gated_again(f, c, current, membrane, saved[0, i], saved[1, i], saved[2, i], saved[3, i], spike)
            for t in range(last - 1, first - 1, -1):
                i, g_f, g_c = t - first, grad_x[t, row, a:b], grad_x[t, row, size + a : size + b]
                before = saved[0, i], saved[1, i], saved[2, i], saved[3, i]
                _gated_step_backward(*before, grad_y[t, row, a:b], grad_current, grad_membrane, g_f, g_c, spike)


# ---- Learnable LIF. From here on all elements form one row ----


# What is compared with the threshold is u = U / theta - 1, or U - theta with a library's surrogate. The backward keeps
# U / theta or U - theta. A compiled kernel is for one type of settings.


def _lif_kept(membrane, threshold, settings):
    """What the backward keeps of the membrane before the reset."""
    raise NotImplementedError("compiled code only")


def _lif_over(kept, settings):
    """By how much the membrane exceeds the threshold, from what is kept."""
    raise NotImplementedError("compiled code only")


def _lif_spike(over, settings):
    """1 above zero."""
    raise NotImplementedError("compiled code only")


def _lif_charge(grad_y, over, inverse, settings):
    """The gradient with respect to the membrane through the spike."""
    raise NotImplementedError("compiled code only")


def _lif_share(charge, kept, settings):
    """What the charge takes from the gradient of the threshold."""
    raise NotImplementedError("compiled code only")


def _is_ours(settings):
    return settings.instance_class is Firing


@overload(_lif_kept, jit_options=_INLINED)
def _kept(membrane, threshold, settings):
    if _is_ours(settings):
        return lambda membrane, threshold, settings: membrane / threshold
    return lambda membrane, threshold, settings: membrane - threshold


@overload(_lif_over, jit_options=_INLINED)
def _over(kept, settings):
    if _is_ours(settings):
        return lambda kept, settings: kept - settings.one
    return lambda kept, settings: kept


@_inline
def _spike_or_nan(ratio, settings):
    """1 above zero; NaN stays NaN."""
    spike = settings.one if ratio > settings.zero else settings.zero
    return ratio if ratio != ratio else spike


@_inline
def _library_spike(over, settings):
    """1 above zero, or also at zero; NaN gives 0."""
    fires = over >= settings.zero if settings.fires_at_threshold else over > settings.zero
    return settings.one if fires else settings.zero


@overload(_lif_spike, jit_options=_INLINED)
def _spike(over, settings):
    if _is_ours(settings):
        return lambda over, settings: _spike_or_nan(over, settings)
    return lambda over, settings: _library_spike(over, settings)


@_inline
def _triangle(z, settings):
    triangle = settings.one - abs(z)
    return settings.zero if triangle < settings.zero else triangle


@_inline
def _arctan(z, settings):
    return settings.one / (settings.one + z * z)


@_inline
def _fast_sigmoid(z, settings):
    root = settings.one / (settings.one + abs(z))
    return root * root


@_inline
def _sigmoid_slope(z, settings):
    value = sigmoid(z)
    return value * (settings.one - value)


@_inline
def _lif_surrogate(over, settings):
    """Our surrogate gradient of height 1."""
    return _arctan(over, settings) if settings.tail else _triangle(over, settings)


_SHAPES = {
    TriangularFiring: _triangle,
    ArctanFiring: _arctan,
    FastSigmoidFiring: _fast_sigmoid,
    SigmoidFiring: _sigmoid_slope,
}


@overload(_lif_charge, jit_options=_INLINED)
def _charge(grad_y, over, inverse, settings):
    if _is_ours(settings):
        return lambda grad_y, over, inverse, settings: (
            grad_y * settings.gamma * _lif_surrogate(over, settings) * inverse
        )
    shape = _SHAPES[settings.instance_class]
    return lambda grad_y, over, inverse, settings: grad_y * settings.height * shape(settings.slope * over, settings)


@overload(_lif_share, jit_options=_INLINED)
def _share(charge, kept, settings):
    if _is_ours(settings):
        return lambda charge, kept, settings: charge * kept
    return lambda charge, kept, settings: charge


@_inline
def _lif_reset(membrane, threshold, spike, settings):
    """The membrane after the reset."""
    if settings.to_zero:
        return settings.zero if spike > settings.zero else membrane
    if settings.no_reset:
        return membrane
    return membrane - threshold * spike


@_kernel
def _lif_step(x, membrane, leak, threshold, y, settings):
    for i in range(len(membrane)):
        new = leak[i] * membrane[i] + widen(x[i])
        spike = _lif_spike(_lif_over(_lif_kept(new, threshold[i], settings), settings), settings)
        y[i] = narrow(spike, y)
        membrane[i] = _lif_reset(new, threshold[i], spike, settings)


@_kernel
def learnable_lif_forward(x, membranes, leaks, thresholds, y, final, checkpoints, extremes, settings, start, stop):
    for block in range(start, stop):
        row, a, b = _block(block, y.shape[2])
        membrane, leak, threshold = final[row, a:b], _of_block(leaks, row, a, b), _of_block(thresholds, row, a, b)
        membrane[:] = membranes[row, a:b]
        for t in range(len(x)):
            if len(checkpoints) and t % STEPS == 0:
                checkpoints[t // STEPS, 0, row, a:b] = membrane
            _lif_step(x[t, row, a:b], membrane, leak, threshold, y[t, row, a:b], settings)


@_kernel
def _lif_again(x, membrane, leak, threshold, before, kept, settings):
    for i in range(len(membrane)):
        new = leak[i] * membrane[i] + widen(x[i])
        before[i], kept[i] = membrane[i], _lif_kept(new, threshold[i], settings)
        membrane[i] = _lif_reset(new, threshold[i], _lif_spike(_lif_over(kept[i], settings), settings), settings)


@_kernel
def _lif_step_backward(before, kept, leak, inverse, grad_y, grad_x, grad, to_leak, to_threshold, settings):
    """Back through one step; ``inverse`` is 1 / threshold, because a product takes less time than a division."""
    for i in range(len(grad)):
        over = _lif_over(kept[i], settings)
        charge = _lif_charge(widen(grad_y[i]), over, inverse[i], settings)
        spike = _lif_spike(over, settings)
        past_reset = settings.zero if settings.to_zero and spike > settings.zero else grad[i]
        by_reset = settings.zero if settings.to_zero or settings.no_reset else grad[i] * spike
        to_threshold[i] -= by_reset + _lif_share(charge, kept[i], settings)
        to_membrane = past_reset + charge
        to_leak[i] += to_membrane * before[i]
        grad_x[i] = narrow(to_membrane, grad_x)
        grad[i] = to_membrane * leak[i]


@_kernel
def learnable_lif_backward(
    x, leaks, thresholds, checkpoints, grad_y, grad_x, grads, to_leaks, to_thresholds, settings, start, stop
):
    saved = np.empty((3, STEPS, WIDTH), checkpoints.dtype)
    for block in range(start, stop):
        row, a, b = _block(block, grad_y.shape[2])
        leak, threshold, grad = _of_block(leaks, row, a, b), _of_block(thresholds, row, a, b), grads[row, a:b]
        membrane, inverse = saved[2, 0, : b - a], saved[2, 1, : b - a]
        to_leak, to_threshold = saved[2, 2, : b - a], saved[2, 3, : b - a]
        inverse[:] = settings.one / threshold
        to_leak[:], to_threshold[:] = 0, 0
        for part in range(len(checkpoints) - 1, -1, -1):
            membrane[:] = checkpoints[part, 0, row, a:b]
            first, last = part * STEPS, min(part * STEPS + STEPS, len(x))
            for t in range(first, last):
                before, kept = saved[0, t - first], saved[1, t - first]
                _lif_again(x[t, row, a:b], membrane, leak, threshold, before, kept, settings)
            for t in range(last - 1, first - 1, -1):
                before, kept = saved[0, t - first], saved[1, t - first]
                g_y, g_x = grad_y[t, row, a:b], grad_x[t, row, a:b]
                _lif_step_backward(before, kept, leak, inverse, g_y, g_x, grad, to_leak, to_threshold, settings)
        _give(to_leak, to_leaks, row, a, block)
        _give(to_threshold, to_thresholds, row, a, block)


# ---- Integrator ----


@_kernel
def _integrate(x, membrane, y):
    for i in range(len(membrane)):
        membrane[i] += widen(x[i])
        y[i] = narrow(membrane[i], y)


@_kernel
def integrator_forward(x, membranes, y, final, checkpoints, extremes, settings, start, stop):
    for block in range(start, stop):
        row, a, b = _block(block, y.shape[2])
        final[row, a:b] = membranes[row, a:b]
        for t in range(len(x)):
            _integrate(x[t, row, a:b], final[row, a:b], y[t, row, a:b])


@_kernel
def integrator_backward(x, checkpoints, grad_y, grad_x, grads, settings, start, stop):
    for block in range(start, stop):
        row, a, b = _block(block, grad_y.shape[2])
        for t in range(len(x) - 1, -1, -1):
            _integrate(grad_y[t, row, a:b], grads[row, a:b], grad_x[t, row, a:b])


# ---- Leaky integrator ----


@_kernel
def _leak_and_integrate(x, membrane, leak, y):
    for i in range(len(membrane)):
        membrane[i] = leak[i] * membrane[i] + widen(x[i])
        y[i] = narrow(membrane[i], y)


@_kernel
def leaky_integrator_forward(x, membranes, leaks, y, final, checkpoints, extremes, settings, start, stop):
    for block in range(start, stop):
        row, a, b = _block(block, y.shape[2])
        membrane, leak = final[row, a:b], _of_block(leaks, row, a, b)
        membrane[:] = membranes[row, a:b]
        for t in range(len(x)):
            if len(checkpoints) and t % STEPS == 0:
                checkpoints[t // STEPS, 0, row, a:b] = membrane
            _leak_and_integrate(x[t, row, a:b], membrane, leak, y[t, row, a:b])


@_kernel
def _leaky_again(x, membrane, leak, before):
    for i in range(len(membrane)):
        before[i] = membrane[i]
        membrane[i] = leak[i] * membrane[i] + widen(x[i])


@_kernel
def _leaky_step_backward(before, leak, grad_y, grad_x, grad, to_leak):
    for i in range(len(grad)):
        to_membrane = grad[i] + widen(grad_y[i])
        to_leak[i] += to_membrane * before[i]
        grad_x[i] = narrow(to_membrane, grad_x)
        grad[i] = to_membrane * leak[i]


@_kernel
def leaky_integrator_backward(x, leaks, checkpoints, grad_y, grad_x, grads, to_leaks, settings, start, stop):
    saved = np.empty((2, STEPS, WIDTH), checkpoints.dtype)
    for block in range(start, stop):
        row, a, b = _block(block, grad_y.shape[2])
        leak, grad = _of_block(leaks, row, a, b), grads[row, a:b]
        membrane, to_leak = saved[1, 0, : b - a], saved[1, 1, : b - a]
        to_leak[:] = 0
        for part in range(len(checkpoints) - 1, -1, -1):
            membrane[:] = checkpoints[part, 0, row, a:b]
            first, last = part * STEPS, min(part * STEPS + STEPS, len(x))
            for t in range(first, last):
                _leaky_again(x[t, row, a:b], membrane, leak, saved[0, t - first])
            for t in range(last - 1, first - 1, -1):
                g_y, g_x = grad_y[t, row, a:b], grad_x[t, row, a:b]
                _leaky_step_backward(saved[0, t - first], leak, g_y, g_x, grad, to_leak)
        _give(to_leak, to_leaks, row, a, block)


# ---- Multi-bit LIF ----


@_kernel
def _multibit_step(x, membrane, leak, y, lowest, highest, spike):
    for i in range(len(membrane)):
        new = leak[i] * membrane[i] + widen(x[i])
        if lowest is not None:
            lowest[i], highest[i] = _lower(new, lowest[i]), _upper(new, highest[i])
        output = _quantise(new, spike)
        y[i] = narrow(output, y)
        membrane[i] = new - output


@_kernel
def multibit_lif_forward(x, membranes, leaks, y, final, checkpoints, extremes, spike, start, stop):
    for block in range(start, stop):
        row, a, b = _block(block, y.shape[2])
        membrane, leak = final[row, a:b], _of_block(leaks, row, a, b)
        membrane[:] = membranes[row, a:b]
        lowest = None if extremes is None else np.full(b - a, np.inf, membrane.dtype)
        highest = None if extremes is None else np.full(b - a, -np.inf, membrane.dtype)
        for t in range(len(x)):
            if len(checkpoints) and t % STEPS == 0:
                checkpoints[t // STEPS, 0, row, a:b] = membrane
            _multibit_step(x[t, row, a:b], membrane, leak, y[t, row, a:b], lowest, highest, spike)
        if extremes is not None:
            _note_extremes(extremes, block, lowest, highest)


@_kernel
def _multibit_again(x, membrane, leak, before, charged, spike):
    for i in range(len(membrane)):
        new = leak[i] * membrane[i] + widen(x[i])
        before[i], charged[i] = membrane[i], new
        membrane[i] = new - _quantise(new, spike)


@_kernel
def _multibit_step_backward(before, charged, leak, grad_y, grad_x, grad, to_leak, spike):
    for i in range(len(grad)):
        reset = grad[i]
        to_membrane = reset + _through(widen(grad_y[i]) - reset, charged[i], spike)
        to_leak[i] += to_membrane * before[i]
        grad_x[i] = narrow(to_membrane, grad_x)
        grad[i] = to_membrane * leak[i]


@_kernel
def multibit_lif_backward(x, leaks, checkpoints, grad_y, grad_x, grads, to_leaks, spike, start, stop):
    saved = np.empty((3, STEPS, WIDTH), checkpoints.dtype)
    for block in range(start, stop):
        row, a, b = _block(block, grad_y.shape[2])
        membrane, to_leak, leak = saved[2, 0, : b - a], saved[2, 1, : b - a], _of_block(leaks, row, a, b)
        to_leak[:] = 0
        for part in range(len(checkpoints) - 1, -1, -1):
            membrane[:] = checkpoints[part, 0, row, a:b]
            first, last = part * STEPS, min(part * STEPS + STEPS, len(x))
            for t in range(first, last):
                _multibit_again(x[t, row, a:b], membrane, leak, saved[0, t - first], saved[1, t - first], spike)
            for t in range(last - 1, first - 1, -1):
                before, charged, grad = saved[0, t - first], saved[1, t - first], grads[row, a:b]
                g_y, g_x = grad_y[t, row, a:b], grad_x[t, row, a:b]
                _multibit_step_backward(before, charged, leak, g_y, g_x, grad, to_leak, spike)
        _give(to_leak, to_leaks, row, a, block)


# ---- Multi-bit synaptic LIF ----


@_kernel
def _synaptic_step(x, current, membrane, tau, y, lowest, highest, spike):
    for i in range(len(membrane)):
        new_current = tau[i] * current[i] + widen(x[i])
        new = membrane[i] + new_current
        if lowest is not None:
            lowest[i], highest[i] = _lower(new, lowest[i]), _upper(new, highest[i])
        output = _quantise(new, spike)
        y[i] = narrow(output, y)
        current[i], membrane[i] = new_current, new - output


@_kernel
def multibit_synaptic_lif_forward(
    x, currents, membranes, taus, y, final_currents, final_membranes, checkpoints, extremes, spike, start, stop
):
    for block in range(start, stop):
        row, a, b = _block(block, y.shape[2])
        current, membrane, tau = final_currents[row, a:b], final_membranes[row, a:b], _of_block(taus, row, a, b)
        current[:], membrane[:] = currents[row, a:b], membranes[row, a:b]
        lowest = None if extremes is None else np.full(b - a, np.inf, membrane.dtype)
        highest = None if extremes is None else np.full(b - a, -np.inf, membrane.dtype)
        for t in range(len(x)):
            if len(checkpoints) and t % STEPS == 0:
                checkpoints[t // STEPS, 0, row, a:b], checkpoints[t // STEPS, 1, row, a:b] = current, membrane
            _synaptic_step(x[t, row, a:b], current, membrane, tau, y[t, row, a:b], lowest, highest, spike)
        if extremes is not None:
            _note_extremes(extremes, block, lowest, highest)


@_kernel
def _synaptic_again(x, current, membrane, tau, before, charged, spike):
    for i in range(len(membrane)):
        new_current = tau[i] * current[i] + widen(x[i])
        new = membrane[i] + new_current
        before[i], charged[i] = current[i], new
        current[i], membrane[i] = new_current, new - _quantise(new, spike)


@_kernel
def _synaptic_step_backward(before, charged, tau, grad_y, grad_x, grad_current, grad_membrane, to_tau, spike):
    for i in range(len(tau)):
        reset = grad_membrane[i]
        to_membrane = reset + _through(widen(grad_y[i]) - reset, charged[i], spike)
        to_current = grad_current[i] + to_membrane
        to_tau[i] += to_current * before[i]
        grad_x[i] = narrow(to_current, grad_x)
        grad_current[i], grad_membrane[i] = to_current * tau[i], to_membrane


@_kernel
def multibit_synaptic_lif_backward(
    x, taus, checkpoints, grad_y, grad_x, grad_currents, grad_membranes, to_taus, spike, start, stop
):
    saved = np.empty((3, STEPS, WIDTH), checkpoints.dtype)
    for block in range(start, stop):
        row, a, b = _block(block, grad_y.shape[2])
        tau, grad_current, grad_membrane = _of_block(taus, row, a, b), grad_currents[row, a:b], grad_membranes[row, a:b]
        current, membrane, to_tau = saved[2, 0, : b - a], saved[2, 1, : b - a], saved[2, 2, : b - a]
        to_tau[:] = 0
        for part in range(len(checkpoints) - 1, -1, -1):
            current[:], membrane[:] = checkpoints[part, 0, row, a:b], checkpoints[part, 1, row, a:b]
            first, last = part * STEPS, min(part * STEPS + STEPS, len(x))
            for t in range(first, last):
                before, charged = saved[0, t - first], saved[1, t - first]
                _synaptic_again(x[t, row, a:b], current, membrane, tau, before, charged, spike)
            for t in range(last - 1, first - 1, -1):
                before, charged = saved[0, t - first], saved[1, t - first]
                g_y, g_x = grad_y[t, row, a:b], grad_x[t, row, a:b]
                _synaptic_step_backward(before, charged, tau, g_y, g_x, grad_current, grad_membrane, to_tau, spike)
        _give(to_tau, to_taus, row, a, block)


# ---- Recurrent-gated LIF: the input-gated step on x plus the recurrent product, which torch computes ----


# Two functions, into new memory and in place, because the compiler is told that arrays never overlap.
@_kernel
def _sum(values, products, sums):
    for i in range(len(sums)):
        sums[i] = widen(values[i]) + products[i]


@_kernel
def _add(values, sums):
    for i in range(len(sums)):
        sums[i] = widen(values[i]) + sums[i]


@_kernel
def _store(values, stored):
    for i in range(len(values)):
        stored[i] = narrow(values[i], stored)


@_kernel
def recurrent_forward(x, products, sums, currents, membranes, spikes, y, lowest, highest, spike, start, stop):
    """One step that updates the state in place. ``sums [B, 2N]``, x plus the recurrent product, are both currents."""
    size = y.shape[1]
    for block in range(start, stop):
        row, a, b = _block(block, size)
        f, c = sums[row, a:b], sums[row, size + a : size + b]
        _sum(x[row, a:b], products[row, a:b], f)
        _sum(x[row, size + a : size + b], products[row, size + a : size + b], c)
        low = None if lowest is None else lowest[row, a:b]
        high = None if highest is None else highest[row, a:b]
        _gated_step(f, c, spikes[row, a:b], currents[row, a:b], membranes[row, a:b], low, high, spike)
        _store(spikes[row, a:b], y[row, a:b])


@_kernel
def recurrent_again(sums, currents, membranes, gates, candidates, before, charged, spikes, spike, start, stop):
    """Repeat all steps from gate and candidate currents. ``spikes [T, B, N]`` receives the previous step's spikes."""
    size = gates.shape[2]
    for block in range(start, stop):
        row, a, b = _block(block, size)
        for t in range(len(sums)):
            f, c = sums[t, row, a:b], sums[t, row, size + a : size + b]
            saved = gates[t, row, a:b], candidates[t, row, a:b], before[t, row, a:b], charged[t, row, a:b]
            _gated_again(f, c, currents[row, a:b], membranes[row, a:b], *saved, spike)
            if t + 1 < len(sums):
                for i in range(a, b):
                    spikes[t + 1, row, i] = _quantise(charged[t, row, i], spike)


@_kernel
def recurrent_backward(
    gates,
    candidates,
    before,
    charged,
    grad_y,
    grad_spikes,
    grad_currents,
    grad_membranes,
    grad_sums,
    spike,
    start,
    stop,
):
    """Back through one step, in place: the sums' gradient from those of y, the next step's product and the state."""
    size = grad_y.shape[1]
    for block in range(start, stop):
        row, a, b = _block(block, size)
        _add(grad_y[row, a:b], grad_spikes[row, a:b])
        saved = gates[row, a:b], candidates[row, a:b], before[row, a:b], charged[row, a:b]
        grads = grad_spikes[row, a:b], grad_currents[row, a:b], grad_membranes[row, a:b]
        _gated_step_backward(*saved, *grads, grad_sums[row, a:b], grad_sums[row, size + a : size + b], spike)
