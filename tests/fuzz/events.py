"""Damaged and odd recordings for every reader of event files: AEDAT 3.1, .npz, .npy, labels files, N-MNIST's sample.

The result is compared with that of another reader of the same file: for AEDAT 3.1 the one below, which follows the
definition of the format one event at a time, for arrays NumPy's own. Each error must name the file.
"""

import functools
import io
import os
import random as randomness
import struct
import tempfile
import zipfile
from pathlib import Path

import numpy as np

from recipes import dvs_gesture, n_mnist
from zoo.inputs.events import Binning, Events, bin_events, naming, read_events
from zoo.networks.gesture import GestureConfig, GestureNetwork

NAME = "events"
ALLOWED = (ValueError, OSError)
EXTREMES = (-(2**63), -(2**31), -1, 0, 1, 2**15, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**62, 2**63 - 1)
FIELDS = ("t", "x", "y", "p")


def prepare() -> None:
    """Compile the code that reads recordings."""
    with tempfile.TemporaryDirectory() as folder:
        for name in ("plain.npz", "plain.aedat"):
            path = Path(folder) / name
            if name.endswith("npz"):
                t = np.arange(200_000)
                np.savez(path, t=t, x=t % 99, y=t % 99, p=t % 2)
            else:
                fields, events = (1, 0, 8, 4, 0, 9, 9, 9), b"".join(struct.pack("<Ii", 1, 9_000 * i) for i in range(9))
                path.write_bytes(b"#!AER-DAT3.1\r\n#!END-HEADER\r\n" + struct.pack("<hhiiiiii", *fields) + events)
            recording(path)


# ---- Making them ----


def make(random: randomness.Random, folder: Path) -> Path:
    """Write one damaged or odd input of a kind drawn at random."""
    return random.choice([aedat, aedat, npz, npz, npy, labels, sample, no_plain_file])(random, folder)


def aedat(random: randomness.Random, folder: Path) -> Path:
    header = random.choice([b"#!AER-DAT3.1\r\n#Format: RAW\r\n#!END-HEADER\r\n", b"#!AER-DAT3.1\n#!END-HEADER\n"])
    time, packets = random.choice([0, 0, 2**31 - 400, 2**33]), []
    for _ in range(random.randint(0, 6)):
        kind = random.choice([1, 1, 1, 0, 2, 3])
        count, body = random.randint(0, 5), b""
        overflow = time >> 31
        for _ in range(count):
            time = max(overflow << 31, time + random.choice([0, 3, 900, 70_000, -5]))
            time = min(time, (overflow << 31) + 2**31 - 1)
            data = random.getrandbits(32) & 0x00FE_01FE | 1 if kind else random.choice([0, 1, 1, 5]) << 1 | 1
            data &= ~random.choice([0, 0, 0, 0, 1])
            body += struct.pack("<Ii", data, time & 0x7FFF_FFFF)
        time = random.choice([time, time, time + 100, (overflow + 1) << 31, 0])
        fields = [kind, random.choice([0, 1, 7]), 8, 4, overflow, count, count, count]
        if random.random() < 0.08:
            place = random.randrange(8)
            half = 2**15 if place < 2 else 2**31
            fields[place] = random.choice([value for value in EXTREMES if -half <= value < half])
        packets.append(struct.pack("<hhiiiiii", *fields) + body)
    content = header + b"".join(packets)
    return write(folder / "recording.aedat", damaged(random, content) if random.random() < 0.5 else content)


def column(random: randomness.Random, field: str, count: int) -> np.ndarray:
    """A column of events, usually a sensible one."""
    highest = {"t": 60_000, "x": 127, "y": 127, "p": 1}[field]
    values = [random.randint(0, highest) for _ in range(count)]
    values = np.cumsum(values) if field == "t" else np.array(values)
    types = ["<i8", "<i8", "<u8", ">i8", "<i4", "<f8", "<f4", "?" if field == "p" else "<i2"]
    if field == "t" and random.random() < 0.7:
        types = ["<i8", "<u8", "<f8"]
    values = values.astype(random.choice(types))
    if random.random() < 0.85:
        return values
    odd = random.randrange(6)
    if odd == 0 and count:
        place = random.randrange(count)
        with np.errstate(all="ignore"):
            values = values.astype(random.choice(["<f8", "<f2", "<g"] if random.random() < 0.5 else ["<i8", "<u8"]))
            extreme = random.choice([*EXTREMES, 2**64 - 1])
            if values.dtype.kind == "f":
                values[place] = random.choice([np.nan, np.inf, -np.inf, 1e30, 0.5, float(extreme)])
            else:
                values[place] = np.array(extreme, dtype=object).astype("u8" if extreme > 0 else "i8")
    elif odd == 1:
        values = values[:-1]
    elif odd == 2:
        values = values.reshape(-1, 1)
    elif odd == 3:
        values = values.astype(random.choice(["<U5", "S3", "<c16", "<M8[us]", "<m8[us]"]))
    elif odd == 4:
        values = values.astype(object)
    else:
        values = np.array(7)
    return values


def array_bytes(random: randomness.Random, array: np.ndarray) -> bytes:
    """An array as the bytes of a .npy file, sometimes with another header."""
    stream = io.BytesIO()
    np.lib.format.write_array(stream, array, allow_pickle=True)
    content = stream.getvalue()
    if random.random() < 0.75:
        return content
    header, values = content[10:128], content[128:]
    shape = repr(array.shape).encode()
    strange = random.choice(
        [b"(-1,)", b"(1000000000000,)", b"(True,)", b"(3, 0, 99999999999999999999)", b"5", b"(1,)" * 9]
    )
    kind = random.choice(
        [b"'|O'", b"'<V0'", b"'|S0'", b"'<f99'", b"[('t', '<i8', (1000000000,))]", b"[('t', '|O')]", b"None"]
    )
    header = random.choice(
        [
            header.replace(shape, strange),
            header.replace(repr(array.dtype.str).encode(), kind),
            header.replace(b"False", random.choice([b"True", b"1", b"None"])),
            header.replace(b"{", b"{" * random.choice([2, 50, 9000])),
            b"-" * random.choice([100, 9000]) + b"1",
            b"[" * 9000,
            b"(" * 60 + b")" * 60,
            header.replace(b"'descr'", b"'''desc"),
            header.replace(b",", b" L,"),
            bytes(random.getrandbits(8) for _ in range(len(header))),
            b"",
        ]
    )
    version = random.choice([1, 1, 1, 2, 3, 9])
    length = random.choice([len(header)] * 8 + [2**16 - 1, 0])
    size = struct.pack("<H", length & 0xFFFF) if version == 1 else struct.pack("<I", random.choice([length, 2**32 - 1]))
    return b"\x93NUMPY" + bytes([version, 0]) + size + header + values


def archive(random: randomness.Random, arrays: dict[str, np.ndarray], path: Path) -> Path:
    """A .npz file of arrays; some members are missing, duplicated, bombs, or compressed in another way."""
    stream = io.BytesIO()
    usual = random.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
    with zipfile.ZipFile(stream, "w", usual) as file:
        for name, array in arrays.items():
            method = random.choice([zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2]) if random.random() < 0.03 else usual
            content = array_bytes(random, array) if random.random() < 0.3 else plain(array)
            if random.random() < 0.01:
                content, method = plain(np.zeros(2**24, np.int64)), zipfile.ZIP_DEFLATED
            if random.random() < 0.97:
                file.writestr(f"{name}.npy", content, method)
    content = stream.getvalue()
    if random.random() < 0.3:
        content = damaged(random, content)
    elif random.random() < 0.4:  # a field of the archive's records
        starts = [content.rfind(mark) for mark in (b"PK\x01\x02", b"PK\x03\x04", b"PK\x05\x06")]
        place = max(0, random.choice(starts)) + random.randrange(4, 44)
        value = random.choice([1, 8, 12, 14, 2**16 - 1, 2**31 - 1, 2**32 - 1, 2**30])
        packed = struct.pack("<I", value) if random.random() < 0.5 else struct.pack("<H", value & 0xFFFF)
        content = content[:place] + packed + content[place + len(packed) :]
    return write(path, content)


def plain(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array(stream, array, allow_pickle=True)
    return stream.getvalue()


def npz(random: randomness.Random, folder: Path) -> Path:
    count = random.choice([0, 1, 5, 60])
    return archive(random, {field: column(random, field, count) for field in FIELDS}, folder / "recording.npz")


def npy(random: randomness.Random, folder: Path) -> Path:
    count = random.choice([0, 1, 5, 60])
    columns = [np.resize(column(random, field, count).astype(object).ravel(), count) for field in FIELDS]
    if random.random() < 0.5:
        names = random.choice([FIELDS, FIELDS, ("t", "x", "y"), ("time", "x", "y", "p")])
        types = [random.choice(["<i8", "<i8", "<f8", ">i4", "|b1"]) for _ in names]
        array = np.zeros(random.choice([count, count, (count, 2)]), list(zip(names, types)))
    else:
        array = np.zeros((count, random.choice([4, 4, 4, 3])), random.choice(["<i8", "<f8", "<u4", "<i2"]))
    for place, values in enumerate(columns):
        try:
            if array.dtype.names and array.ndim == 1:
                array[array.dtype.names[place]] = values
            elif not array.dtype.names:
                array[:, [3, 0, 1, 2][place]] = values
        except (ValueError, TypeError, OverflowError, IndexError):
            continue  # not a number of this type: the zeros stay
    content = array_bytes(random, np.asfortranarray(array) if random.random() < 0.2 else array)
    path = write(folder / "recording.npy", damaged(random, content) if random.random() < 0.3 else content)
    if random.random() < 0.05:  # holes, which take no space on the disk
        os.truncate(path, 6 << 30)
    return path


def labels(random: randomness.Random, folder: Path) -> Path:
    rows = [b"class,startTime_usec,endTime_usec"] if random.random() < 0.6 else []
    time = 0
    for _ in range(random.randint(0, 8)):
        time += random.randint(1, 10**6)
        cells = [random.randint(1, 11), time, time + 10**6]
        if random.random() < 0.1:
            cells[random.randrange(3)] = random.choice([*EXTREMES, 10**30, 10**5000])
        with_text = [b"%d" % cell if cell < 10**4000 else b"9" * 5000 for cell in cells]
        if random.random() < 0.1:
            with_text[random.randrange(3)] = random.choice([b"", b"ten", b"1_0", b"nan", b'"5"', b"\xd9\xa3", b"\0"])
        rows.append(b",".join(with_text))
    content = random.choice([b"", b"", b"\xef\xbb\xbf"]) + random.choice([b"\n", b"\r\n"]).join(rows)
    return write(folder / "user01_labels.csv", damaged(random, content) if random.random() < 0.3 else content)


def sample(random: randomness.Random, folder: Path) -> Path:
    """N-MNIST's two files; the path is that of the first."""
    count, each = random.randint(1, 4), 30
    arrays = {field: column(random, field, count * each) for field in ("x", "y", "p")}
    arrays["x"], arrays["y"] = (
        values % 34 if values.dtype.kind in "iu" else values for values in (arrays["x"], arrays["y"])
    )
    arrays |= {
        "t_us": column(random, "t", count * each),
        "label": np.arange(count),
        "offsets": np.arange(count + 1) * each,
    }
    for name in ("label", "offsets"):
        if random.random() < 0.15 and len(arrays[name]):
            arrays[name] = arrays[name].copy()
            arrays[name][random.randrange(len(arrays[name]))] = random.choice([e for e in EXTREMES if abs(e) < 2**63])
    for name in ("label", "offsets"):
        if random.random() < 0.1:
            arrays[name] = column(random, "t", count)
    return archive(random, arrays, folder / "train.npz")


def no_plain_file(random: randomness.Random, folder: Path) -> Path:
    path = folder / f"odd{random.choice(['.aedat', '.npz', '.npy', '_labels.csv', '.AEDAT', '.txt', ''])}"
    kind = random.choice(["pipe", "folder", "link to nothing", "link to itself", "link", "empty", "nothing", "device"])
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "link to nothing":
        path.symlink_to(folder / "not there")
    elif kind == "link to itself":
        path.symlink_to(path)
    elif kind == "link":
        path.symlink_to(aedat(random, folder))
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "empty":
        path.touch()
    return path


def damaged(random: randomness.Random, content: bytes) -> bytes:
    """``data`` with some bytes changed, cut off, left out or doubled."""
    for _ in range(random.choice([1, 1, 2, 5])):
        place, length = random.randrange(len(content) + 1), random.choice([1, 2, 4, 8, 40])
        before, part, after = content[:place], content[place : place + length], content[place + length :]
        flipped = bytes(byte ^ 1 << random.randrange(8) for byte in part)
        extreme = struct.pack("<i", random.choice([e for e in EXTREMES if -(2**31) <= e < 2**31]))
        changed = [
            before + flipped + after,
            before + extreme + after[4:],
            before,
            before + after,
            before + part + part + after,
        ]
        content = random.choice(changed)
    return content


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


# ---- Reading them ----


def run(path: Path) -> None:
    """Read the file with the reader for its name; compare the result, and check that an error names the file."""
    try:
        if path.name.endswith("labels.csv"):
            for label, start, end in dvs_gesture.read_labels(path):
                assert 0 <= label < 11 and 0 <= start <= end < 2**62
        elif path.name == "train.npz":
            n_mnist.read_samples(path.parent, "val")
        else:
            recording(path)
    except ALLOWED as error:
        assert path.name in str(error), f"an error without the file's name: {error!r}"
        raise


def recording(path: Path) -> None:
    try:
        found = read_events(path)
    except ValueError as error:
        assert path.name != "recording.aedat" or by_definition(path) is None, f"a good file was refused: {error}"
        raise
    expected = by_definition(path) if path.suffix == ".aedat" else by_numpy(path)
    assert expected is not None, "a file was read that contradicts its format"
    for field in FIELDS:
        assert np.array_equal(getattr(found, field), getattr(expected, field)), f"another {field}"
    if found.t[-1] - found.t[0] < 100_000_000:
        network().predict(path)
    else:  # tens of thousands of frames: a network takes time for each
        with naming(path):
            bin_events(found, Binning(2**15, 2**15, 2**10))


@functools.cache
def network() -> GestureNetwork:
    return GestureNetwork(GestureConfig(["yes", "no"], 512, 512, pool=64, channels=2, blocks=2, head=2))


def by_numpy(path: Path) -> Events:
    """The events of a file without errors, read by ``np.load``."""
    held = np.load(path)
    if path.suffix == ".npy" and not held.dtype.names:
        held = {field: held[:, place] for field, place in zip("xypt", range(4))} | {
            "t": held[:, 3].astype(np.int64) * 1000
        }
    t, x, y, p = (held[field] for field in FIELDS)
    order = np.argsort(t.astype(np.int64), kind="stable")
    return Events(
        t.astype(np.int64)[order], x.astype(np.int16)[order], y.astype(np.int16)[order], p.astype(bool)[order]
    )


def by_definition(path: Path) -> Events | None:
    """The events of an AEDAT 3.1 file; None if it contradicts the format or has no events."""
    content = path.read_bytes()
    if content.split(b"\n", 1)[0].strip() != b"#!AER-DAT3.1":
        return None
    place = 0
    while True:
        end = content.find(b"\n", place)
        if content[place : place + 1] != b"#" or end < 0:
            return None
        line, place = content[place:end].strip(), end + 1
        if line == b"#!END-HEADER":
            break
    parts: list[list[tuple[int, int, int, int]]] = [[]]
    begun = False
    while place < len(content):
        if place + 28 > len(content):
            return None
        kind, source, size, offset, overflow, capacity, count, valid = struct.unpack(
            "<hhiiiiii", content[place : place + 28]
        )
        place += 28
        if (
            min(kind, source, offset, overflow, valid) < 0
            or size < 1
            or offset + 4 > size
            or not valid <= count == capacity
        ):
            return None
        if place + count * size > len(content) or (kind == 1 and (size, offset) != (8, 4)):
            return None
        reset = False
        for event in range(place, place + count * size, size):
            if kind == 1:
                begun = True
                data, low = struct.unpack("<Ii", content[event : event + 8])
                if low < 0:
                    return None
                if data & 1:
                    parts[-1].append((overflow * 2**31 + low, data >> 17, data >> 2 & 2**15 - 1, data >> 1 & 1))
            elif kind == 0:
                reset |= content[event] == 3
        if reset and begun:
            parts.append([])
        place += count * size
    rows: list[tuple[int, int, int, int]] = []
    for part in filter(None, parts):
        begins = rows[-1][0] + 1 if rows else 0
        rows += [(begins + t, x, y, p) for t, x, y, p in sorted(part, key=lambda row: row[0])]
    if not rows or rows[-1][0] >= 2**62:
        return None
    t, x, y, p = (np.array(values) for values in zip(*rows))
    return Events(t, x, y, p.astype(bool))
