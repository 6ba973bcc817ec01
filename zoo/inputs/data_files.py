"""Untrusted data files: whether a path is a file at all, and the NumPy arrays in it, without pickles.

NumPy allocates as much memory as a file's header asks for, and its readers may raise any error on damaged bytes. Here
the header is read first, an array is allocated only if the file holds as many bytes as its header says, and every
problem is a ValueError with the file's name.
"""

import io
import math
import os
import zipfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np

LONGEST_HEADER = 10_000
"""The most bytes of an array's header; NumPy's own limit."""
_BLOCK = 1 << 20
_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
    (3, 0): np.lib.format.read_array_header_2_0,  # the same, with field names in UTF-8
}


def plain_file(path: str | os.PathLike, kind: str) -> Path:
    """The path of an existing file that is not empty; ``kind`` says in errors what file was expected.

    Raises FileNotFoundError, and ValueError for a directory, for a pipe or device (opening a FIFO may block forever),
    and for an empty file.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"there is no {kind} {path}")
    if not path.is_file():
        raise ValueError(f"{path} is no {kind}: it is a {'directory' if path.is_dir() else 'pipe or device'}")
    if not path.stat().st_size:
        raise ValueError(f"{path} is empty")
    return path


def warranted(path: Path) -> int:
    """The most bytes that the events of a compressed file may take.

    Events are compressed to between a tenth and a thirtieth. A file that unpacks to far more was made to exhaust the
    memory.
    """
    return max(2**26, 100 * path.stat().st_size)


def read_npy(path: str | os.PathLike, most: int) -> np.ndarray:
    """The array of a ``.npy`` file.

    Raises ValueError for a file that is damaged, holds Python objects or needs more than ``most`` bytes of memory.
    """
    path = plain_file(path, ".npy file")
    with _damage_named(path, ".npy file"), path.open("rb") as file:
        return _read_array(file, path.stat().st_size, most)


def read_npz(path: str | os.PathLike, names: Collection[str], most: int) -> dict[str, np.ndarray]:
    """The named arrays of a ``.npz`` file.

    Raises ValueError for a file that is damaged, lacks one of them, holds Python objects, or whose arrays need more
    than ``most`` bytes of memory together.
    """
    path = plain_file(path, ".npz file")
    with _damage_named(path, ".npz file"), zipfile.ZipFile(path) as archive:
        held = {member.filename: member for member in archive.infolist()}
        missing = [name for name in names if f"{name}.npy" not in held]
        if missing:
            raise ValueError(f"it has no array {', '.join(missing)}")
        members = {name: held[f"{name}.npy"] for name in names}
        needed = sum(member.file_size for member in members.values())
        if needed > most:
            raise ValueError(f"its arrays unpack to {needed} bytes, more than the {most} that are taken from it")
        return {name: _read_member(archive, member, most) for name, member in members.items()}


def _read_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo, most: int) -> np.ndarray:
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"{member.filename} is packed by method {member.compress_type}, which NumPy does not use")
    with archive.open(member) as stream:
        array = _read_array(stream, member.file_size, most)
        stream.read(1)  # reading to the end makes zipfile compare the checksum
    return array


def _read_array(stream: IO[bytes], size: int, most: int) -> np.ndarray:
    """The array in ``size`` bytes of a stream."""
    shape, by_column, dtype, start = _read_header(stream)
    if dtype.hasobject:
        raise ValueError("it holds Python objects, which need a pickle; pickles are not read")
    if not dtype.itemsize or any(length < 0 for length in shape):
        raise ValueError(f"there is no array of shape {list(shape)} and type {dtype}")
    needed = math.prod(shape) * dtype.itemsize
    if needed != size - start:
        raise ValueError(f"its header asks for {needed} bytes of values, and there are {size - start}")
    if needed > most:
        raise ValueError(f"its array needs {needed} bytes, more than the {most} that are taken from it")
    array = np.empty(math.prod(shape), dtype)
    values, place = array.view(np.uint8).data, 0
    while place < needed:
        block = stream.read(min(_BLOCK, needed - place))
        if not block:
            raise ValueError(f"it is cut off after {place} of {needed} bytes of values")
        values[place : place + len(block)] = block
        place += len(block)
    return array.reshape(shape, order="F" if by_column else "C")


def _read_header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype, int]:
    """Shape, whether it is stored by columns, type, and the byte at which the values begin."""
    magic = stream.read(8)
    version = tuple(magic[6:])
    if magic[:6] != b"\x93NUMPY" or version not in _HEADERS:
        raise ValueError("it does not begin as an array of NumPy does")
    length = stream.read(2 if version == (1, 0) else 4)
    count = int.from_bytes(length, "little")
    if count > LONGEST_HEADER:
        raise ValueError(f"its header would be of {count} bytes, more than {LONGEST_HEADER}")
    header = stream.read(count)
    try:
        shape, by_column, dtype = _HEADERS[version](io.BytesIO(length + header))
    except Exception:  # NumPy parses it as Python, and that parser may raise any error
        raise ValueError(f"its header gives no shape and type: {header[:60]!r}") from None
    return shape, by_column, dtype, len(magic) + len(length) + len(header)


@contextmanager
def _damage_named(path: Path, kind: str) -> Iterator[None]:
    """Turns errors of reading a file into a ValueError that names the file; those of the operating system pass."""
    try:
        yield
    except Exception as error:  # on damaged bytes, zipfile and NumPy's header parser raise nearly any kind
        if isinstance(error, OSError) and error.filename is not None:
            raise
        said = str(error) or type(error).__name__
        raise ValueError(f"{path} is damaged, or no {kind}: {said}") from None
