"""The engine's computation, compiled by Numba: the instructions of a program, one after another, row by row.

A **row** is one time step of one element of the batch. Every instruction computes a row only from that row and its own
past, in a fixed order. So a result has the same bits whatever the batch, the number of threads and the processor; sums
of integers are exact in any order.

Memory is a few one-dimensional arrays. Instructions are rows of integers: the operation, then the places in the arrays
that it reads and writes. :mod:`zoo.engine.program` writes them and defines their arguments.
"""

import hashlib
import inspect
from typing import Any, NamedTuple

import numpy as np

from neurons.kernels import cpu_kernels
from neurons.kernels.cpu_kernels import Spike, _inline, _kernel, _level, exponential, sigmoid
from zoo.engine.instructions import (
    ATTENTION,
    BEST,
    EMBED,
    EPSILON,
    FIRST_NEURON,
    INPUT_GATED_LIF,
    INTEGRATOR,
    KERNEL,
    LANES,
    LEARNABLE_LIF,
    MULTIBIT_LIF,
    NONE,
    NORM,
    PATCHES,
    PRODUCT,
    RECURRENT_GATED_LIF,
    RESCALE,
    SPARSE_CONVOLUTION,
    WINDOWS,
)

_ZERO, _ONE = np.float32(0), np.float32(1)

# ---- Products of spikes, exact in integers ----


@_kernel
def _add_four(sums, w0, w1, w2, w3, q0, q1, q2, q3):
    for n in range(len(sums)):
        first = np.int16(q0) * np.int16(w0[n]) + np.int16(q1) * np.int16(w1[n])
        second = np.int16(q2) * np.int16(w2[n]) + np.int16(q3) * np.int16(w3[n])
        sums[n] += np.int16(np.int16(first) + np.int16(second))


@_kernel
def _add_one(sums, weights, level):
    for n in range(len(sums)):
        sums[n] += np.int32(level) * np.int32(weights[n])


@_kernel
def _hand_over(short, sums):
    for n in range(len(sums)):
        sums[n] += np.int32(short[n])
        short[n] = 0


@_kernel
def _find(levels, first, places, count):
    """Note the places of the levels that are not zero, counted from ``first``, after ``count`` others."""
    for k in range(len(levels)):
        places[count] = first + k
        count += levels[k] != 0
    return count


@_kernel
def _add_rows(levels, weights, sums, places, count, short, most):
    """``sums [N] = levels @ weights [K, N]``, of the levels at the first ``count`` of the ``places``.

    Sums of up to ``most`` products fit into 16 bits, where twice as many are added at once as in 32.
    """
    sums[:] = 0
    done = 0
    if most >= 4:
        short = short[: len(sums)]
        short[:] = 0
        held = 0
        while done + 3 < count:
            if held + 4 > most:
                _hand_over(short, sums)
                held = 0
            a, b, c, d = places[done], places[done + 1], places[done + 2], places[done + 3]
            _add_four(short, weights[a], weights[b], weights[c], weights[d], levels[a], levels[b], levels[c], levels[d])
            done += 4
            held += 4
        _hand_over(short, sums)
    while done < count:
        _add_one(sums, weights[places[done]], levels[places[done]])
        done += 1


@_kernel
def spike_product(levels, weights, sums, places, short, most):
    """``sums [N] = levels [K] @ weights [K, N]``, adding up the rows of the levels that are not zero."""
    _add_rows(levels, weights, sums, places, _find(levels, 0, places, 0), short, most)


@_kernel
def _rescale(sums, unit, out, first):
    for n in range(len(out)):
        value = np.float32(sums[n]) * unit
        out[n] = value if first else out[n] + value


@_kernel
def _scale(out, scale):
    for n in range(len(out)):
        out[n] *= scale[n]


@_kernel
def _add(values, out):
    for n in range(len(out)):
        out[n] += values[n]


@_kernel
def _affine(sums, unit, scale, bias, out):
    for n in range(len(out)):
        out[n] = np.float32(sums[n]) * unit * scale[n] + bias[n]


# ---- Floats ----


@_kernel
def _lane_sum(x, lanes):
    """The sum of x, in lanes."""
    lanes[:] = 0
    whole = len(x) // LANES * LANES
    for i in range(0, whole, LANES):
        for j in range(LANES):
            lanes[j] += x[i + j]
    for i in range(whole, len(x)):
        lanes[i - whole] += x[i]
    return _all_lanes(lanes)


@_inline
def _all_lanes(lanes):
    for width in (8, 4, 2, 1):
        for j in range(width):
            lanes[j] += lanes[j + width]
    return lanes[0]


@_kernel
def _dot(x, y, lanes):
    lanes[:] = 0
    whole = len(x) // LANES * LANES
    for i in range(0, whole, LANES):
        for j in range(LANES):
            lanes[j] += x[i + j] * y[i + j]
    for i in range(whole, len(x)):
        lanes[i - whole] += x[i] * y[i]
    return _all_lanes(lanes)


@_kernel
def _centre(x, mean, out):
    for i in range(len(x)):
        out[i] = x[i] - mean


@_kernel
def _stretch(x, by, weight, bias):
    for i in range(len(x)):
        x[i] = x[i] * by * weight[i] + bias[i]


@_kernel
def layer_norm(x, weight, bias, out, lanes):
    count = np.float32(len(x))
    _centre(x, _lane_sum(x, lanes) / count, out)
    variance = _dot(out, out, lanes) / count
    _stretch(out, _ONE / np.sqrt(variance + np.float32(EPSILON)), weight, bias)


@_kernel
def _exponentials(x, largest, out):
    for i in range(len(x)):
        out[i] = exponential(x[i] - largest)


@_kernel
def _largest(x, lanes):
    """The largest value of x, whose values are finite or minus infinity."""
    lanes[:] = -np.inf
    whole = len(x) // LANES * LANES
    for i in range(0, whole, LANES):
        for j in range(LANES):
            lanes[j] = x[i + j] if x[i + j] > lanes[j] else lanes[j]
    for i in range(whole, len(x)):
        lanes[i - whole] = x[i] if x[i] > lanes[i - whole] else lanes[i - whole]
    largest = lanes[0]
    for j in range(1, LANES):
        largest = lanes[j] if lanes[j] > largest else largest
    return largest


@_kernel
def _add_scaled(values, by, out):
    for i in range(len(out)):
        out[i] += by * values[i]


@_kernel
def _add_weighted(rows, row, column, weights, by, out):
    """Add ``by * weights[k]`` times row ``row + k``, from ``column`` on, to ``out``, one k after another.

    Four are added at once, so that ``out`` is read and written less often.
    """
    whole, stop = len(weights) // 4 * 4, column + len(out)
    for k in range(0, whole, 4):
        a, b, c, d = by * weights[k], by * weights[k + 1], by * weights[k + 2], by * weights[k + 3]
        first, second = rows[row + k][column:stop], rows[row + k + 1][column:stop]
        third, fourth = rows[row + k + 2][column:stop], rows[row + k + 3][column:stop]
        for i in range(len(out)):
            out[i] = out[i] + a * first[i] + b * second[i] + c * third[i] + d * fourth[i]
    for k in range(whole, len(weights)):
        _add_scaled(rows[row + k][column:stop], by * weights[k], out)


@_kernel
def _divide(x, by):
    for i in range(len(x)):
        x[i] /= by


@_kernel
def attend(query, keys, values, count, heads, out, scores, lanes):
    """Context ``out [N]`` of ``query [N]``: softmax(query . key / sqrt(N / heads)) times the values, head by head.

    ``keys [N, S]`` and ``values [S, N]``; only the first ``count`` of S are used.
    """
    part = len(query) // heads
    by = _ONE / np.sqrt(np.float32(part))
    whole = min(-(-count // LANES) * LANES, keys.shape[1])  # whole vectors take less time than parts of them
    products, row = scores[:whole], scores[:count]
    for head in range(heads):
        a, b = head * part, (head + 1) * part
        products[:] = 0
        _add_weighted(keys, a, 0, query[a:b], by, products)
        _exponentials(row, _largest(row, lanes), row)
        _divide(row, _lane_sum(row, lanes))
        out[a:b] = 0
        _add_weighted(values, 0, a, row, _ONE, out[a:b])


@_kernel
def _any_above(x, bound):
    found = False
    for i in range(len(x)):
        found |= x[i] > bound
    return found


@_kernel
def best(logits, exponentials, values, places, lanes):
    """The log-probabilities and places of the ``len(values)`` largest of ``logits``, the largest first.

    Of equal logits, the earlier comes first.
    """
    largest = _largest(logits, lanes)
    # Apart from the sum, exponentials become vector instructions.
    _exponentials(logits, largest, exponentials)
    norm = largest + np.log(_lane_sum(exponentials, lanes))
    values[:] = -np.inf
    places[:] = 0
    last, group = len(values) - 1, 4 * LANES
    for start in range(0, len(logits), group):
        stop = min(start + group, len(logits))
        if not _any_above(logits[start:stop], values[last]):
            continue
        for n in range(start, stop):
            if logits[n] > values[last]:
                at = last
                while at > 0 and logits[n] > values[at - 1]:
                    values[at], places[at] = values[at - 1], places[at - 1]
                    at -= 1
                values[at], places[at] = logits[n], n
    for i in range(len(values)):
        values[i] -= norm


# ---- Neurons: the spikes of one step as levels, the state in place. True if a membrane is NaN ----


@_kernel
def learnable_lif(x, membrane, leak, threshold, levels):
    strange = False
    for i in range(len(membrane)):
        new = leak[i] * membrane[i] + x[i]
        spike = _ONE if new / threshold[i] - _ONE > _ZERO else _ZERO
        strange |= new != new
        levels[i] = np.int8(spike)
        membrane[i] = new - threshold[i] * spike
    return strange


@_kernel
def multibit_lif(x, membrane, leak, levels, spike):
    strange = False
    for i in range(len(membrane)):
        new = leak[i] * membrane[i] + x[i]
        level = _level(new, spike)
        strange |= new != new
        levels[i] = np.int8(level)
        membrane[i] = new - level / spike.scale
    return strange


@_kernel
def multibit_synaptic_lif(x, current, membrane, tau, levels, spike):
    strange = False
    for i in range(len(membrane)):
        new_current = tau[i] * current[i] + x[i]
        new = membrane[i] + new_current
        level = _level(new, spike)
        strange |= new != new
        levels[i] = np.int8(level)
        current[i], membrane[i] = new_current, new - level / spike.scale
    return strange


@_kernel
def input_gated_lif(f, c, current, membrane, levels, spike):
    strange = False
    for i in range(len(membrane)):
        gate = sigmoid(f[i])
        candidate = c[i]
        candidate = spike.zero if candidate <= spike.zero else candidate
        new_current = gate * current[i] + (spike.one - gate) * candidate
        new = membrane[i] + new_current
        level = _level(new, spike)
        strange |= new != new
        levels[i] = np.int8(level)
        current[i], membrane[i] = new_current, new - level / spike.scale
    return strange


@_kernel
def _copy(values, out):
    for i in range(len(out)):
        out[i] = values[i]


# ---- Instructions: what each does with one row ----


class Memory(NamedTuple):
    """The memory that a program reads and writes. ``[...]`` is one dimension."""

    steps: int
    batch: int
    constants: np.ndarray
    """float32 ``[...]``."""
    weights: np.ndarray
    """int8 ``[...]``."""
    numbers: np.ndarray
    """float32 ``[...]``; this and the next two hold the buffers."""
    levels: np.ndarray
    """int8 ``[...]``."""
    sums: np.ndarray
    """int32 ``[...]``."""
    tokens: np.ndarray
    """``[T, B]``."""
    lengths: np.ndarray
    """``[B]``, the lengths of the sequences."""
    state: np.ndarray
    """``[B, ...]``, the state of the neurons before the run; ``after`` is that after the run."""
    after: np.ndarray
    past: np.ndarray
    """int8 ``[B, ...]``, last inputs of windows and last spikes before the run; ``past_after`` are those after it."""
    past_after: np.ndarray
    context: np.ndarray
    """The memory of attention (:class:`zoo.engine.program.Context`): ``sequences`` sequences of ``keys`` keys."""
    sequences: int
    keys: int
    sources: np.ndarray
    source_lengths: np.ndarray
    values: np.ndarray
    """``[T * B, count]``: the best outputs, and their ``places``."""
    places: np.ndarray


class Room(NamedTuple):
    """The temporary memory of an instruction, one per thread."""

    floats: np.ndarray
    sums: np.ndarray
    """int32."""
    short: np.ndarray
    """int16."""
    indices: np.ndarray
    lanes: np.ndarray
    """:data:`zoo.engine.instructions.LANES` floats."""


@_inline
def _row(values, start, row, size):
    return values[start + row * size : start + (row + 1) * size]


@_inline
def _product(a, m, room, row):
    x, k, weights, n, sums, most, places = a[0], a[1], a[2], a[3], a[4], a[5], a[7]
    matrix = m.weights[weights : weights + k * n].reshape(k, n)
    for place in range(row * places, (row + 1) * places):
        levels, out = _row(m.levels, x, place, k), _row(m.sums, sums, place, n)
        spike_product(levels, matrix, out, room.indices, room.short, most)


@_inline
def _rescaled(a, m, row):
    start, n, parts, scale, bias, residual, places = a[0], a[1], a[2], a[3], a[4], a[5], a[6]
    for place in range(row * places, (row + 1) * places):
        out = _row(m.numbers, start, place, n)
        for part in range(parts):
            sums, unit = a[7 + 2 * part], a[8 + 2 * part]
            _rescale(_row(m.sums, sums, place, n), m.constants[unit], out, part == 0)
        _scale(out, m.constants[scale : scale + n])
        if bias != NONE:
            _add(m.constants[bias : bias + n], out)
        if residual != NONE:
            _add(_row(m.numbers, residual, place, n), out)


@_inline
def _normalised(a, m, room, t, b, row):
    x, start, n, parts, weight, bias, masked = a[0], a[1], a[2], a[3], a[4], a[5], a[6]
    width = n // parts
    out = _row(m.numbers, start, row, n)
    for first in range(0, n, width):
        part = m.numbers[x + row * n + first : x + row * n + first + width]
        scales = m.constants[weight + first : weight + first + width]
        biases = m.constants[bias + first : bias + first + width]
        layer_norm(part, scales, biases, out[first : first + width], room.lanes)
    if masked and t >= m.lengths[b]:
        out[:] = 0


@_inline
def _embedded(a, m, t, b, row):
    start, n, weights, scale, tokens = a[0], a[1], a[2], a[3], a[4]
    token = m.tokens[t, b]
    out = _row(m.numbers, start, row, n)
    for i in range(n):
        out[i] = np.float32(m.weights[weights + i * tokens + token]) * m.constants[scale + token]


@_inline
def _windows(a, m, t, b, row):
    x, start, n, kernel, left, column = a[0], a[1], a[2], a[3], a[4], a[5]
    out = _row(m.levels, start, row, kernel * n)
    for i in range(kernel):
        source = t + i - left
        tap = out[i * n : (i + 1) * n]
        if 0 <= source < m.steps:
            _copy(_row(m.levels, x, source * m.batch + b, n), tap)
        elif source < 0 and column != NONE:
            before = column + (source + kernel - 1) * n
            _copy(m.past[b, before : before + n], tap)
        else:
            tap[:] = 0
    if column != NONE and t == m.steps - 1:
        _copy(out[n:], m.past_after[b, column : column + (kernel - 1) * n])


@_kernel
def _convolved_numbers(a, m, row):
    """Convolution of a picture most of whose numbers are zero: each of the others is added where it is seen."""
    x, start, height, width, inputs, outputs, stride, weights, bias = (
        a[0],
        a[1],
        a[2],
        a[3],
        a[4],
        a[5],
        a[6],
        a[7],
        a[8],
    )
    high, wide = (height + stride - 1) // stride, (width + stride - 1) // stride
    picture, out = _row(m.numbers, x, row, height * width * inputs), _row(m.numbers, start, row, high * wide * outputs)
    for place in range(high * wide):
        _copy(m.constants[bias : bias + outputs], out[place * outputs : (place + 1) * outputs])
    for i in range(len(picture)):
        if picture[i] != 0:
            y, across, channel = i // (width * inputs), i // inputs % width, i % inputs
            for tap in range(KERNEL * KERNEL):
                down, right = y + 1 - tap // KERNEL, across + 1 - tap % KERNEL
                if down % stride or right % stride:
                    continue
                down, right = down // stride, right // stride
                if 0 <= down < high and 0 <= right < wide:
                    place, first = (down * wide + right) * outputs, weights + (tap * inputs + channel) * outputs
                    _add_scaled(m.constants[first : first + outputs], picture[i], out[place : place + outputs])


@_kernel
def _patches(a, m, row):
    """The levels around each place of a picture, ``[taps, inputs]`` each; zeros beyond its edges."""
    x, start, height, width, inputs, stride = a[0], a[1], a[2], a[3], a[4], a[5]
    high, wide = (height + stride - 1) // stride, (width + stride - 1) // stride
    picture, line = _row(m.levels, x, row, height * width * inputs), KERNEL * inputs
    out = _row(m.levels, start, row, high * wide * KERNEL * line)
    for i in range(high * wide * KERNEL):
        place, down = i // KERNEL, i % KERNEL
        y, left, taps = place // wide * stride + down - 1, place % wide * stride - 1, out[i * line : (i + 1) * line]
        if y < 0 or y >= height:
            taps[:] = 0
        elif left >= 0 and left + KERNEL <= width:
            first = (y * width + left) * inputs
            _copy(picture[first : first + line], taps)
        else:
            for tap in range(KERNEL):
                tapped = taps[tap * inputs : (tap + 1) * inputs]
                if 0 <= left + tap < width:
                    first = (y * width + left + tap) * inputs
                    _copy(picture[first : first + inputs], tapped)
                else:
                    tapped[:] = 0


@_inline
def _integrated(a, m, b):
    """All steps of an integrator of one element of the batch. True if a membrane is NaN."""
    x, start, n, column = a[0], a[1], a[2], a[3]
    state = m.after[b, column : column + n]
    _copy(m.state[b, column : column + n], state)
    strange = False
    for t in range(m.steps):
        row = t * m.batch + b
        _add(_row(m.numbers, x, row, n), state)
        _copy(state, _row(m.numbers, start, row, n))
    for i in range(n):
        strange |= state[i] != state[i]
    return strange


@_inline
def _attended(a, m, room, b, row):
    query, start, n, heads, layer = a[0], a[1], a[2], a[3], a[4]
    source = m.sources[b]
    keys = (layer * m.sequences + source) * 2 * n * m.keys
    values = keys + n * m.keys
    attend(
        _row(m.numbers, query, row, n),
        m.context[keys:values].reshape(n, m.keys),
        m.context[values : values + n * m.keys].reshape(m.keys, n),
        m.source_lengths[source],
        heads,
        _row(m.numbers, start, row, n),
        room.floats,
        room.lanes,
    )


@_inline
def _best(a, m, room, row):
    sums, n, unit, scale, bias = a[0], a[1], a[2], a[3], a[4]
    logits, exponentials = room.floats[:n], room.floats[n : 2 * n]
    scales, biases = m.constants[scale : scale + n], m.constants[bias : bias + n]
    _affine(_row(m.sums, sums, row, n), m.constants[unit], scales, biases, logits)
    best(logits, exponentials, m.values[row], m.places[row], room.lanes)


@_inline
def _recurrent_gated_lif(a, constants, weights, room, currents, state, before, out, settings):
    """One step; ``before`` are the levels of the last one, none at the first step from rest."""
    n, unit, scale, first, most = a[2], a[3] + 4, a[9], a[10], a[11]
    sums = room.floats[2 * n : 4 * n]
    _copy(currents, sums)
    if len(before):
        product = room.sums[: 2 * n]
        matrix = weights[first : first + 2 * n * n].reshape(n, 2 * n)
        spike_product(before, matrix, product, room.indices, room.short, most)
        _rescale(product, constants[unit], sums, True)
        _scale(sums, constants[scale : scale + 2 * n])
        _add(currents, sums)
    return input_gated_lif(sums[:n], sums[n:], state[:n], state[n:], out, settings)


@_inline
def _input_gated_lif(a, currents, state, out, settings):
    """One step, place by place of a picture; each place has its gate currents, then its candidates."""
    size, n = a[2], a[9]
    strange = False
    for i in range(0, size, n):
        f, c = currents[2 * i : 2 * i + n], currents[2 * i + n : 2 * (i + n)]
        strange |= input_gated_lif(f, c, state[i : i + n], state[size + i : size + i + n], out[i : i + n], settings)
    return strange


@_inline
def _fire(op, a, constants, weights, room, currents, state, before, out, settings):
    """One step of the neurons of one element of the batch. True where a membrane is NaN."""
    size = a[2]
    if op == INPUT_GATED_LIF:
        return _input_gated_lif(a, currents, state, out, settings)
    if op == RECURRENT_GATED_LIF:
        return _recurrent_gated_lif(a, constants, weights, room, currents, state, before, out, settings)
    first = constants[a[9] : a[9] + size]
    if op == LEARNABLE_LIF:
        return learnable_lif(currents, state, first, constants[a[10] : a[10] + size], out)
    if op == MULTIBIT_LIF:
        return multibit_lif(currents, state, first, out, settings)
    return multibit_synaptic_lif(currents, state[:size], state[size:], first, out, settings)


@_inline
def _neurons(op, a, m, room, b):
    """All steps of the neurons of one element of the batch. True if a membrane is NaN."""
    x, start, size, spike, column = a[0], a[1], a[2], a[3], a[4]
    backwards, masked, inputs, first = a[5], a[6], a[7], a[8]
    c = m.constants
    settings = Spike(c[spike], c[spike + 1], c[spike + 2], c[spike + 3], _ZERO, _ONE, False, _ZERO, c[spike])
    width = 2 * size if op in (INPUT_GATED_LIF, RECURRENT_GATED_LIF) else size
    parts = size if op in (LEARNABLE_LIF, MULTIBIT_LIF) else 2 * size
    before, keeps_spikes = m.levels[:0], op == RECURRENT_GATED_LIF and column != NONE
    if column == NONE:
        state = room.floats[:parts]
        state[:] = 0
    else:
        state = m.after[b, column : column + parts]
        _copy(m.state[b, column : column + parts], state)
    if keeps_spikes:
        before = m.past[b, a[12] : a[12] + size]
    strange = False
    for i in range(m.steps):
        t = m.steps - 1 - i if backwards else i
        row = t * m.batch + b
        out = _row(m.levels, start, row, size)
        currents = m.numbers[x + row * inputs + first : x + row * inputs + first + width]
        strange |= _fire(op, a, c, m.weights, room, currents, state, before, out, settings)
        if masked and t >= m.lengths[b]:
            out[:] = 0
        before = out
    if keeps_spikes:
        _copy(before, m.past_after[b, a[12] : a[12] + size])
    return strange


_digest = hashlib.sha256(inspect.getsource(cpu_kernels).encode()).hexdigest()


def _interpreter(made_of: str) -> Any:
    """The interpreter. Numba keeps it on disk until this file, or a value that the function closes over, changes."""

    @_kernel
    def run(code, memory, room, start, stop):
        """Run the instructions ``code`` for the elements of the batch from ``start`` to ``stop``.

        True if a membrane is NaN.
        """
        _ = made_of
        for i in range(len(code)):
            op, a = code[i, 0], code[i, 1:]
            for b in range(start, stop):
                if op >= FIRST_NEURON:
                    if _neurons(op, a, memory, room, b):
                        return True
                    continue
                if op == INTEGRATOR:
                    if _integrated(a, memory, b):
                        return True
                    continue
                for t in range(memory.steps):
                    row = t * memory.batch + b
                    if op == PRODUCT:
                        _product(a, memory, room, row)
                    elif op == RESCALE:
                        _rescaled(a, memory, row)
                    elif op == NORM:
                        _normalised(a, memory, room, t, b, row)
                    elif op == EMBED:
                        _embedded(a, memory, t, b, row)
                    elif op == WINDOWS:
                        _windows(a, memory, t, b, row)
                    elif op == ATTENTION:
                        _attended(a, memory, room, b, row)
                    elif op == BEST:
                        _best(a, memory, room, row)
                    elif op == SPARSE_CONVOLUTION:
                        _convolved_numbers(a, memory, row)
                    elif op == PATCHES:
                        _patches(a, memory, row)
        return False

    return run


run = _interpreter(_digest)
