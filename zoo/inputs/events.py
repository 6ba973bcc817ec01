"""Recordings of event cameras: event files, events as arrays, and frames made of bins of events.

An event is a change of brightness: a time t in microseconds, a pixel (x, y) with (0, 0) at the top left, and a
polarity p, 1 where it became brighter and 0 where it became darker.

Files that are read:

- ``.aedat``, AEDAT 3.1 (:func:`read_aedat`);
- ``.npz`` with arrays ``t, x, y, p``, as SpikingJelly converts its data sets;
- ``.npy`` with a structured array of those fields, t in microseconds, or with the plain ``[N, 4]`` array of Tonic's
  DVS128 Gesture, whose columns are x, y, p and t in *milliseconds*.

Source of the format: iniVation, "AEDAT 3.1", https://docs.inivation.com (file formats).
"""

import os
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from zoo.inputs.data_files import plain_file, read_npy, read_npz, warranted

FIELDS = ("t", "x", "y", "p")
AEDAT_VERSION, AEDAT_END = b"#!AER-DAT3.1", b"#!END-HEADER"
SPECIAL_EVENT, POLARITY_EVENT, POLARITY_BYTES, TIMESTAMP_OFFSET = 0, 1, 8, 4
TIMESTAMP_RESET = 1 << 1 | 1
"""First byte of the special event that resets the camera's clock: valid mark in bit 0, type in the bits above."""
_PACKET_HEADER = struct.Struct("<hhiiiiii")
_POLARITY = np.dtype([("data", "<u4"), ("timestamp", "<i4")])
LATEST = 2**62 - 1
"""The last time that an event may have, in microseconds."""
MOST_EVENTS = 2**26
"""The most events of one file: half a gigabyte of AEDAT 3.1, several times the longest trial of DVS128 Gesture."""
MOST_BINS = 100_000
"""Events given at once that span more bins than this have damaged times, or times in another unit."""
LONGEST_GAP = 60_000_000
"""The longest gap between events, in microseconds. A camera's noise alone gives events more often. An overflow counter
that is off by one makes a gap of 36 minutes, in which a network would compute thousands of empty frames."""
COUNTS_AT_ONCE = 2**18


@dataclass(frozen=True, eq=False)
class Events:
    """Events in the order of time: ``t`` int64 in microseconds, ``x`` and ``y`` int16, ``p`` bool; all ``[N]``."""

    t: np.ndarray
    x: np.ndarray
    y: np.ndarray
    p: np.ndarray

    def __len__(self) -> int:
        return len(self.t)

    def __getitem__(self, part: slice | np.ndarray) -> "Events":
        """The events selected by a slice or a mask."""
        return Events(self.t[part], self.x[part], self.y[part], self.p[part])

    def between(self, start: int, end: int) -> "Events":
        """The events with ``start <= t < end``."""
        return self[slice(*np.searchsorted(self.t, [start, end]))]


def join(parts: list[Events]) -> Events:
    """The events of all parts, one part after another."""
    return Events(*(np.concatenate([getattr(part, field) for part in parts]) for field in FIELDS))


def one_after_another(parts: list[Events]) -> Events:
    """Join events of parts that each have their own clock, on the clock of the first.

    Each later clock starts one microsecond after the last event of the part before; the true gap is not known. Raises
    ValueError if times become too large.
    """
    whole = parts[:1]
    for part in parts[1:]:
        start = int(whole[-1].t[-1]) + 1
        if start + int(part.t[-1]) > LATEST:
            raise ValueError(f"the parts of the recording together last longer than {LATEST} us")
        whole.append(Events(part.t + start, part.x, part.y, part.p))
    return join(whole) if len(whole) > 1 else whole[0]


def as_events(source: Any) -> Events:
    """Events from the path of a file, from a structured array or mapping with t, x, y and p, or from :class:`Events`.

    Events that are not in the order of time are sorted. Raises TypeError for any other source, ValueError for missing
    fields, columns of different length, and impossible values, naming the first.
    """
    if isinstance(source, Events):
        return _checked(*(_whole_numbers(field, getattr(source, field)) for field in FIELDS))
    if isinstance(source, str | os.PathLike):
        return read_events(source)
    if isinstance(source, Mapping):
        names = tuple(source)
    elif isinstance(source, np.ndarray) and source.dtype.names:
        names = source.dtype.names
    else:
        raise TypeError(
            "events are the path of a file, or a structured array or a dict with t, x, y and p; "
            f"got {type(source).__name__}"
        )
    missing = [field for field in FIELDS if field not in names]
    if missing:
        raise ValueError(f"events need the fields t, x, y and p; there is no {', '.join(missing)}")
    return _checked(*(_whole_numbers(field, source[field]) for field in FIELDS))


def _whole_numbers(field: str, values: Any) -> np.ndarray:
    try:
        column = np.asarray(values)
    except ValueError:
        raise ValueError(f"{field} must be one number per event; its rows are of different lengths") from None
    if column.ndim != 1:
        raise ValueError(f"{field} must be one number per event, of shape [N]; got shape {list(column.shape)}")
    if column.dtype.kind == "f" and np.isfinite(column).all() and (column == np.trunc(column)).all():
        return column.astype(np.promote_types(column.dtype, np.float64), copy=False)
    if column.dtype.kind not in "iub":
        hint = " of microseconds" if field == "t" else ""
        raise ValueError(f"{field} must hold whole numbers{hint}; got {column.dtype} {column[:3].tolist()}")
    return column


def _checked(t: np.ndarray, x: np.ndarray, y: np.ndarray, p: np.ndarray) -> Events:
    """The columns as :class:`Events`, in the order of time."""
    lengths = [len(column) for column in (t, x, y, p)]
    if len(set(lengths)) > 1:
        raise ValueError(f"t, x, y and p must be of one length; got {', '.join(map(str, lengths))}")
    for field, column, highest in (("t", t, LATEST), ("x", x, 2**15 - 1), ("y", y, 2**15 - 1), ("p", p, 1)):
        _check_range(field, column, highest)
    events = Events(t.astype(np.int64), x.astype(np.int16), y.astype(np.int16), p.astype(bool))
    if (np.diff(events.t) < 0).any():
        events = events[np.argsort(events.t, kind="stable")]
    return events


def _check_range(field: str, column: np.ndarray, highest: int) -> None:
    wrong = np.flatnonzero((column < 0) | (column > highest))
    if len(wrong):
        expected = "0 (darker) or 1 (brighter)" if field == "p" else f"from 0 to {highest}"
        raise ValueError(f"event {wrong[0]} has {field} = {column[wrong[0]]}; {field} is {expected}")


@contextmanager
def naming(source: Any) -> Iterator[None]:
    """Context in which ValueErrors begin with the source, if that is the path of a file or a description."""
    try:
        yield
    except ValueError as error:
        if not isinstance(source, str | os.PathLike):
            raise
        raise ValueError(f"{os.fspath(source)}: {error}") from None


# ---- Files ----


def read_events(path: str | os.PathLike) -> Events:
    """The events of a file; its extension says the format.

    Raises FileNotFoundError, and ValueError for a file that is empty, damaged, in no known format, or has more than
    :data:`MOST_EVENTS` events.
    """
    path = Path(path)
    readers = {".aedat": read_aedat, ".npz": _read_npz, ".npy": _read_npy}
    if path.suffix not in readers:
        raise ValueError(f"{path} is no event file known here; they end in {', '.join(readers)}")
    events = readers[path.suffix](plain_file(path, "event file"))
    if not len(events):
        raise ValueError(f"{path} holds no events")
    return events


def read_aedat(path: str | os.PathLike) -> Events:
    """The polarity events of an AEDAT 3.1 file.

    After header lines that begin with ``#``, up to ``#!END-HEADER``, packets follow, all little-endian: a header of
    28 bytes (eventType and eventSource of 16 bits; eventSize, eventTSOffset, eventTSOverflow, eventCapacity,
    eventNumber and eventValid of 32 bits, signed) and eventNumber events of eventSize bytes. A polarity event is 32
    bits of data (valid mark in bit 0, polarity in bit 1, y in bits 2 to 16, x in bits 17 to 31) and a timestamp of 31
    bits, which eventTSOverflow extends. Packets of other types and events without the valid mark are left out.

    If the camera's clock was reset during the recording (:func:`read_aedat_parts`), the parts are joined by
    :func:`one_after_another`.

    Raises ValueError for another version, and for a packet that is cut off or contradicts the format, naming its place.
    """
    parts = read_aedat_parts(path)
    with naming(path):
        return one_after_another(parts)


def read_aedat_parts(path: str | os.PathLike) -> list[Events]:
    """The polarity events of an AEDAT 3.1 file in parts: a new part begins where the camera's clock was reset to zero.

    The times of each part are those of its own clock. A reset before the first event or after the last makes no part; a
    file without events has one empty part. Errors are those of :func:`read_aedat`.
    """
    path = plain_file(path, "event file")
    content = np.memmap(path, dtype=np.uint8, mode="r")
    parts = _polarity_packets(content, _aedat_header(content, path), path)
    total = sum(count for places in parts for _, count, _ in places)
    if total > MOST_EVENTS:
        raise ValueError(f"{path} holds {total} events, more than the {MOST_EVENTS} that are read from one file")
    found = [_polarity_events(content, places, path) for places in parts]
    return [part for part in found if len(part)] or found[:1]


def _polarity_events(content: np.ndarray, places: list[tuple[int, int, int]], path: Path) -> Events:
    """The valid events of some packets, given as by :func:`_polarity_packets`."""
    total = sum(count for _, count, _ in places)
    raw, overflow = np.empty(total, _POLARITY), np.empty(total, np.int64)
    filled = 0
    for start, count, high in places:
        raw[filled : filled + count] = content[start : start + count * POLARITY_BYTES].view(_POLARITY)
        overflow[filled : filled + count] = high
        filled += count
    data, low = raw["data"], raw["timestamp"]
    if total and low.min() < 0:
        raise ValueError(f"{path} is damaged: event {np.argmax(low < 0)} has a negative timestamp")
    valid = (data & 1).astype(bool)
    if not valid.all():
        data, low, overflow = data[valid], low[valid], overflow[valid]
    return _checked(overflow << 31 | low, data >> 17, data >> 2 & 0x7FFF, data >> 1 & 1)


def _aedat_header(content: np.ndarray, path: Path) -> int:
    """The byte at which the packets of an AEDAT 3.1 file begin."""
    start = bytes(content[: 1 << 16])
    version = start.split(b"\n", 1)[0].strip()
    if version != AEDAT_VERSION:
        found = version[:20].decode("ascii", "replace")
        raise ValueError(f"{path} is no AEDAT 3.1 file: it must begin with {AEDAT_VERSION.decode()}, not {found!r}")
    place = 0
    while start[place : place + 1] == b"#":
        end = start.find(b"\n", place)
        line, place = start[place:end], end + 1
        if end < 0:
            break
        if line.strip() == AEDAT_END:
            return place
    raise ValueError(f"{path} is damaged: its header has no line {AEDAT_END.decode()}")


def _polarity_packets(content: np.ndarray, place: int, path: Path) -> list[list[tuple[int, int, int]]]:
    """(first byte, number of events, timestamp overflow) of each packet of polarity events, in one list per clock.

    The special event that reports that timestamps passed 31 bits is ignored: the overflow counter says the same.
    """
    data, number = content.data, 0
    parts: list[list[tuple[int, int, int]]] = [[]]
    while place < len(content):
        problem, left = None, len(content) - place - _PACKET_HEADER.size
        if left < 0:
            raise ValueError(f"{path} is cut off in the header of packet {number}, at byte {place}")
        kind, source, size, offset, overflow, capacity, count, valid = _PACKET_HEADER.unpack_from(data, place)
        if min(kind, source, offset, overflow, valid) < 0 or size < 1 or offset + 4 > size:
            problem = "its header contradicts itself"
        elif not valid <= count == capacity:
            problem = f"it says it holds {count} events, {valid} of them valid, and has room for {capacity}"
        elif kind == POLARITY_EVENT and (size, offset) != (POLARITY_BYTES, TIMESTAMP_OFFSET):
            problem = f"its polarity events have {size} bytes, not {POLARITY_BYTES}"
        elif count * size > left:
            problem = f"it needs {count * size} bytes and the file has {left} left; the file is cut off"
        if problem:
            raise ValueError(f"{path} is damaged at packet {number}, byte {place}: {problem}")
        place += _PACKET_HEADER.size
        end = place + count * size
        if kind == POLARITY_EVENT and count:
            parts[-1].append((place, count, overflow))
        elif kind == SPECIAL_EVENT and parts[-1] and (content[place:end:size] == TIMESTAMP_RESET).any():
            parts.append([])
        place, number = end, number + 1
    return parts


def write_aedat(path: str | os.PathLike, events: Events, packet: int = 4096) -> None:
    """Write ``events`` as an AEDAT 3.1 file with ``packet`` events per packet, from source 1, a DVS128."""
    events = as_events(events)
    raw = np.empty(len(events), _POLARITY)
    x, y, p = (column.astype(np.uint32) for column in (events.x, events.y, events.p))
    raw["data"] = x << 17 | y << 2 | p << 1 | 1
    raw["timestamp"] = events.t & 0x7FFFFFFF
    overflow = events.t >> 31
    # A packet has one overflow counter, so all its events must have the same overflow.
    cuts = sorted({*range(0, len(events), packet), *(np.flatnonzero(np.diff(overflow)) + 1).tolist(), len(events)})
    with open(path, "wb") as file:
        header = (AEDAT_VERSION, b"#Format: RAW", b"#Source 1: DVS128", AEDAT_END)
        file.write(b"".join(line + b"\r\n" for line in header))
        for start, end in pairwise(cuts):
            count = end - start
            fields = (POLARITY_EVENT, 1, POLARITY_BYTES, TIMESTAMP_OFFSET, int(overflow[start]), count, count, count)
            file.write(_PACKET_HEADER.pack(*fields) + raw[start:end].tobytes())


def _read_npz(path: Path) -> Events:
    columns = read_npz(path, FIELDS, min(warranted(path), MOST_EVENTS * 32))
    with naming(path):
        return as_events(columns)


def _read_npy(path: Path) -> Events:
    array = read_npy(path, MOST_EVENTS * 32)
    with naming(path):
        if array.dtype.names:
            return as_events(array)
        if array.ndim != 2 or array.shape[1] != 4:
            raise ValueError(f"it must hold events [N, 4] (x, y, p, t in milliseconds); it is {list(array.shape)}")
        try:
            times = _whole_numbers("t", array[:, 3])
        except ValueError:
            raise ValueError("t, the last column, must hold whole numbers of milliseconds") from None
        _check_range("t", times, LATEST // 1000)
        return as_events({**dict(zip("xyp", array.T)), "t": times.astype(np.int64) * 1000})


# ---- Bins ----


@dataclass(frozen=True)
class Binning:
    """How events become frames ``[T, 2, height / pool, width / pool]`` of counts.

    ``height`` and ``width`` are the camera's pixels; ``pool`` by ``pool`` pixels share a cell. ``by`` is "time" or
    "number", and ``size`` the microseconds, or events, per bin. Channel 0 counts the events that became darker, channel
    1 those that became brighter. The first bin starts at the first event.
    """

    height: int = 128
    width: int = 128
    pool: int = 4
    by: str = "time"
    size: int = 50_000

    def __post_init__(self):
        for name in ("height", "width", "pool", "size"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"{name} must be a whole number of at least 1; got {value!r}")
        if self.height % self.pool or self.width % self.pool:
            raise ValueError(f"pool must divide {self.height} and {self.width}; got {self.pool}")
        if self.by not in ("time", "number"):
            raise ValueError(f'by must be "time" or "number"; got {self.by!r}')

    @property
    def shape(self) -> tuple[int, int, int]:
        """The shape of one frame."""
        return 2, self.height // self.pool, self.width // self.pool


class BinStream:
    """Makes frames of events that come in slices: each bin is returned once it is complete.

    A bin of time is complete when a later event comes; a bin of a number of events when it has that many.
    """

    def __init__(self, binning: Binning):
        self.binning = binning
        self.start: int | None = None
        """Time of the first event."""
        self.pending: Events | None = None
        """The events of the incomplete bin."""
        self.last = 0
        """Time of the last event."""
        self.count = 0
        """The number of bins returned so far."""

    def push(self, events: Events) -> np.ndarray:
        """The frames ``[K, 2, height, width]`` (uint8, at most 255) of the bins that these events complete.

        Raises ValueError, and takes none of the events, for an event outside the camera's pixels or earlier than the
        event before it, for times that would make more than 100,000 bins, and, with bins of time, for a minute or more
        without an event.
        """
        if not len(events):
            return np.zeros((0, *self.binning.shape), np.uint8)
        self._check(events)
        start = int(events.t[0]) if self.start is None else self.start
        held = events if self.pending is None else join([self.pending, events])
        bins = self._bins(held, start)
        complete = int(bins[-1])
        if complete > MOST_BINS:
            seconds = (int(events.t[-1]) - int(held.t[0])) / 1e6
            raise ValueError(
                f"the events span {seconds:g} s, more than {MOST_BINS} bins; are their times damaged, or not in "
                "microseconds?"
            )
        if self.binning.by == "time":
            self._check_gaps(held.t)
        inside = int(np.searchsorted(bins, complete))
        self.start, self.last = start, int(events.t[-1])
        self.pending, self.count = held[inside:], self.count + complete
        return self._frames(held[:inside], bins[:inside], complete)

    def _check(self, events: Events) -> None:
        height, width = self.binning.height, self.binning.width
        if min(events.x.min(), events.y.min()) < 0 or events.x.max() >= width or events.y.max() >= height:
            i = np.argmax((events.x < 0) | (events.y < 0) | (events.x >= width) | (events.y >= height))
            raise ValueError(
                f"event {i} is at x = {events.x[i]}, y = {events.y[i]}, outside of {width} by {height} pixels"
            )
        if self.start is not None and events.t[0] < self.last:
            raise ValueError(
                f"an event at {events.t[0]} us comes after one at {self.last} us; a stream must be fed in order of time"
            )
        back = events.t[1:] < events.t[:-1]
        if back.any():
            i = np.argmax(back)
            raise ValueError(f"events are not in the order of time: {events.t[i + 1]} us comes after {events.t[i]} us")

    def _check_gaps(self, times: np.ndarray) -> None:
        if times[-1] - times[0] < LONGEST_GAP:
            return
        gaps = np.diff(times)
        i = np.argmax(gaps)
        if gaps[i] >= LONGEST_GAP:
            raise ValueError(
                f"there is no event for {gaps[i] / 1e6:g} s after {times[i]} us; either times are damaged, or another "
                f"recording begins there: {LONGEST_GAP // 1_000_000} s without an event are too long for one"
            )

    def _bins(self, events: Events, start: int) -> np.ndarray:
        """For each event the index of its bin, counted after those already returned; the last bin is not complete.

        With bins of a number, one more event would start the next bin, so a full last bin is complete.
        """
        if self.binning.by == "time":
            return (events.t - start) // self.binning.size - self.count
        full = np.arange(len(events)) // self.binning.size
        return full if len(events) % self.binning.size else np.append(full, full[-1] + 1)

    def _frames(self, events: Events, bins: np.ndarray, count: int) -> np.ndarray:
        channels, height, width = self.binning.shape
        row, column = events.y // self.binning.pool, events.x // self.binning.pool
        cell = ((bins * channels + events.p) * height + row) * width + column
        cells = channels * height * width
        frames = np.zeros((count, cells), np.uint8)
        # Counts take eight bytes until they are reduced to one, so a long recording is counted a few bins at a time.
        block = max(1, COUNTS_AT_ONCE // cells)
        edges = np.searchsorted(bins, np.arange(0, count + block, block))
        for first, (start, end) in zip(range(0, count, block), pairwise(edges)):
            if start < end:
                part = frames[first : first + block]
                counts = np.bincount(cell[start:end] - first * cells, minlength=part.size)
                np.minimum(counts.reshape(part.shape), 255, out=part, casting="unsafe")
        return frames.reshape(count, channels, height, width)


def bin_events(events: Events, binning: Binning) -> np.ndarray:
    """The frames ``[T, 2, height, width]`` of a whole recording; the last, incomplete bin is left out.

    Raises ValueError for a recording without events or shorter than one bin, and as :meth:`BinStream.push` does.
    """
    stream = BinStream(binning)
    frames = stream.push(events)
    if not len(frames):
        raise ValueError(too_short(stream))
    return frames


def too_short(stream: BinStream) -> str:
    """The message for a stream that has not completed a bin."""
    if stream.start is None:
        return "there are no events"
    if stream.binning.by == "number":
        count = 0 if stream.pending is None else len(stream.pending)
        return f"the recording has {count} events, less than one bin of {stream.binning.size}"
    lasts = (stream.last - stream.start) / 1000
    return f"the recording lasts {lasts:g} ms, less than one bin of {stream.binning.size / 1000:g} ms"
