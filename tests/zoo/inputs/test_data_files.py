"""Untrusted data files: good ones are read as by NumPy; damage is one ValueError that names the file."""

import contextlib
import io
import os
import random
import struct
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of

from tests.fuzz import events as fuzzer
from zoo.inputs.data_files import plain_file, read_npy, read_npz
from zoo.inputs.events import read_aedat, read_events

PLENTY = 2**30
TYPES = [np.int64, np.uint8, np.float32, np.dtype(">i4"), np.bool_, np.dtype([("t", "<i8"), ("x", "<i2")]), "U3"]
ARRAYS = st.sampled_from(TYPES).flatmap(
    lambda kind: arrays_of.arrays(kind, arrays_of.array_shapes(min_dims=0, min_side=0))
)


def npy_bytes(header: bytes, values: bytes = b"", version: int = 1, length: int | None = None) -> bytes:
    size = struct.pack("<H" if version == 1 else "<I", len(header) if length is None else length)
    return b"\x93NUMPY" + bytes([version, 0]) + size + header + values


def described(descr: str, shape: str) -> bytes:
    return f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}\n".encode()


@given(array=ARRAYS, by_column=st.booleans(), version=st.sampled_from([(1, 0), (2, 0), (3, 0)]), packed=st.booleans())
@settings(max_examples=80, deadline=None)
def test_arrays_are_read_as_numpy_reads_them(tmp_path_factory, array, by_column, version, packed):
    folder = tmp_path_factory.mktemp("arrays")
    array = np.asfortranarray(array) if by_column else array
    with (folder / "one.npy").open("wb") as file:
        np.lib.format.write_array(file, array, version)
    (np.savez_compressed if packed else np.savez)(folder / "two.npz", first=array, second=np.arange(3))
    for found in (read_npy(folder / "one.npy", PLENTY), read_npz(folder / "two.npz", ["first"], PLENTY)["first"]):
        assert found.dtype == array.dtype and found.shape == array.shape
        assert found.tobytes() == array.tobytes() and found.flags.f_contiguous == array.flags.f_contiguous


DAMAGE = {
    "more values than the file has": npy_bytes(described("'<i8'", "(1000000000000,)"), bytes(80)),
    "fewer values than the file has": npy_bytes(described("'<i8'", "(2,)"), bytes(80)),
    "a negative length": npy_bytes(described("'<i8'", "(-2, -5)"), bytes(80)),
    "a length beyond any machine": npy_bytes(described("'<i8'", f"(0, {10**30})")),
    "values of no bytes": npy_bytes(described("'|S0'", "(1000000000000,)")),
    "objects": npy_bytes(described("'|O'", "(10,)"), bytes(80)),
    "objects in a field": npy_bytes(described("[('t', '<i8'), ('x', '|O')]", "(5,)"), bytes(80)),
    "no type": npy_bytes(described("'<f99'", "(10,)"), bytes(80)),
    "an open bracket": npy_bytes(b"{'descr': ('<i8', ", bytes(80)),
    "an open string": npy_bytes(b"{'''descr': '<i8'", bytes(80)),
    "a thousand signs": npy_bytes(b"-" * 9000 + b"1", bytes(80)),
    "a thousand brackets": npy_bytes(b"[" * 9000, bytes(80)),
    "a header longer than the file": npy_bytes(described("'<i8'", "(10,)"), bytes(80), version=2, length=2**32 - 1),
    "a version to come": npy_bytes(described("'<i8'", "(10,)"), bytes(80), version=9),
    "another format": b"PK\x03\x04" + bytes(80),
    "one byte": b"\x93",
}


@contextlib.contextmanager
def little_memory():
    """Context that asserts that less than 8 MiB of memory is used at any moment, also if an error is raised."""
    tracemalloc.start()
    try:
        yield
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 2**23


@pytest.mark.parametrize("content", DAMAGE.values(), ids=DAMAGE)
@pytest.mark.parametrize("end", [".npy", ".npz"])
def test_a_damaged_array_is_one_error_that_names_the_file_and_takes_no_memory(tmp_path, content, end):
    path = tmp_path / f"damaged{end}"
    if end == ".npy":
        path.write_bytes(content)
    else:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for field in "txyp":
                archive.writestr(f"{field}.npy", content)
    with pytest.raises(ValueError, match=f"damaged{end} is damaged, or no {end} file: .") as caught, little_memory():
        read_events(path)
    assert len(str(caught.value)) < 400


def test_an_archive_that_unpacks_to_far_more_than_its_file_is_refused_before_it_is_unpacked(tmp_path):
    path = tmp_path / "bomb.npz"
    np.savez_compressed(path, **{field: np.zeros(2**22, np.int64) for field in "txyp"})
    assert path.stat().st_size < 2**18
    problem = f"bomb.npz is damaged, .* unpack to {4 * (2**25 + 128)} bytes, more than"
    with pytest.raises(ValueError, match=problem), little_memory():
        read_events(path)


def test_a_recording_that_packs_well_is_read(tmp_path):
    count = 300_000
    events = {
        "t": np.arange(count) * 10,
        "x": np.zeros(count, int),
        "y": np.zeros(count, int),
        "p": np.ones(count, int),
    }
    np.savez_compressed(tmp_path / "dull.npz", **events)
    assert len(read_events(tmp_path / "dull.npz")) == count


def test_a_file_of_holes_is_refused_before_it_is_read(tmp_path):
    path = tmp_path / "holes.npy"
    path.write_bytes(npy_bytes(described("'<i8'", f"({2**28 - 64}, 4)")))
    os.truncate(path, path.stat().st_size + (2**28 - 64) * 32)
    with pytest.raises(ValueError, match=r"holes.npy is damaged, .* needs \d+ bytes, more than the 2147483648"):
        read_events(path)


@pytest.mark.parametrize("method", [zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2])
def test_ways_of_packing_that_numpy_does_not_use_are_refused(tmp_path, method):
    with zipfile.ZipFile(tmp_path / "other.npz", "w", method) as archive:
        for field in "txyp":
            stream = io.BytesIO()
            np.save(stream, np.arange(3))
            archive.writestr(f"{field}.npy", stream.getvalue())
    with pytest.raises(ValueError, match=rf"other.npz is damaged, .* t.npy is packed by method {method}"):
        read_events(tmp_path / "other.npz")


def test_an_archive_that_wants_a_password_is_refused(tmp_path):
    np.savez(tmp_path / "locked.npz", **{field: np.arange(3) for field in "txyp"})
    content = bytearray((tmp_path / "locked.npz").read_bytes())
    for mark, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.index(mark) + flags] |= 1
    (tmp_path / "locked.npz").write_bytes(content)
    with pytest.raises(ValueError, match=r"locked.npz is damaged, or no .npz file: .*encrypted"):
        read_events(tmp_path / "locked.npz")


def test_an_array_that_is_missing_is_named(tmp_path):
    np.savez(tmp_path / "part.npz", t=np.arange(3), x=np.arange(3), other=np.arange(3))
    with pytest.raises(ValueError, match=r"part.npz is damaged, or no .npz file: it has no array y, p"):
        read_events(tmp_path / "part.npz")


READERS = {
    ".aedat": [read_events, read_aedat],
    ".npy": [read_events, lambda path: read_npy(path, PLENTY)],
    ".npz": [read_events, lambda path: read_npz(path, "txyp", PLENTY)],
}


@pytest.mark.parametrize(("end", "read"), [(end, read) for end, readers in READERS.items() for read in readers])
def test_what_is_no_plain_file_is_refused_by_every_reader_and_never_waited_for(tmp_path, end, read):
    os.mkfifo(tmp_path / f"pipe{end}")
    (tmp_path / f"folder{end}").mkdir()
    (tmp_path / f"empty{end}").touch()
    (tmp_path / f"link{end}").symlink_to(tmp_path / "not there")
    (tmp_path / f"loop{end}").symlink_to(tmp_path / f"loop{end}")
    (tmp_path / f"device{end}").symlink_to("/dev/zero")
    for name, problem in {"pipe": "a pipe or device", "device": "a pipe or device", "folder": "a directory"}.items():
        with pytest.raises(ValueError, match=f"{name}{end} is no .* file: it is {problem}"):
            read(tmp_path / f"{name}{end}")
    with pytest.raises(ValueError, match=f"empty{end} is empty"):
        read(tmp_path / f"empty{end}")
    for name in ("link", "loop", "nothing"):
        with pytest.raises(FileNotFoundError, match=f"there is no .* file .*{name}{end}"):
            read(tmp_path / f"{name}{end}")


def test_a_link_to_a_file_is_that_file(tmp_path):
    np.save(tmp_path / "array.npy", np.arange(3))
    (tmp_path / "link.npy").symlink_to(tmp_path / "array.npy")
    assert plain_file(tmp_path / "link.npy", "file") == tmp_path / "link.npy"
    assert read_npy(tmp_path / "link.npy", PLENTY).tolist() == [0, 1, 2]


@pytest.mark.parametrize("seed", range(150))
def test_a_damaged_or_odd_recording_is_read_right_or_refused_by_name(tmp_path: Path, seed):
    with contextlib.suppress(*fuzzer.ALLOWED):
        fuzzer.run(fuzzer.make(random.Random(seed), tmp_path))
