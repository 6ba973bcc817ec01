"""The weights of a network as a safetensors file, in half precision or in integers, and back.

A parameter ``[N, ...]`` that integers of eight bits, with one scale per output channel, hold exactly
(:mod:`zoo.engine.integers`) is stored so: the integers under its name, the scales ``[N]`` in float32 under its name
with ``.scale`` at the end. (The scales of ``[K, N]``, whose outputs come last, are ``[1, N]``.) Other parameters with
at least one dimension are stored as float16. Single numbers (a leak, a tracked range), all other buffers, and
parameters with a value that float16 cannot hold are stored as float32. A loaded network holds only values that are
stored exactly, so saving it again gives the same bytes.

Files of earlier releases, in which tracked ranges have other names, can also be read.

A tensor that a network holds under several names (tied weights) is stored once, under the first name.

The header of a file names its tensors with their types and shapes. It is compared with the network before any tensor is
read, so that refusing a file costs no more than reading its header.
"""

import io
import math
from pathlib import Path
from typing import BinaryIO, NamedTuple

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from neurons.checks import check_values
from neurons.spike import earlier_names
from zoo import errors, strict_json
from zoo.engine.integers import exact_integers, over_outputs

SCALE = ".scale"
"""The end of the name of the scales of a weight that is stored as integers."""
LARGEST_HEADER = 2**20
"""The most bytes of a header: enough for some 10,000 tensors."""
_TYPES = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "U16": torch.uint16,
    "I16": torch.int16,
    "U32": torch.uint32,
    "I32": torch.int32,
    "U64": torch.uint64,
    "I64": torch.int64,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "F64": torch.float64,
    "C64": torch.complex64,
}
"""The types of safetensors that torch also has."""
_STORED_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
"""The types that a network's numbers may be stored in, if the network's own type holds them without loss."""


class Stored(NamedTuple):
    """A header's description of a tensor."""

    dtype: torch.dtype
    shape: list[int]


def pack(network: nn.Module) -> bytes:
    """The weights of ``network`` as the bytes of a safetensors file.

    Raises ValueError for numbers that are not finite, for entries of the state dict that are not tensors, and on the
    meta device.
    """
    check_values(network)
    state = network.state_dict(keep_vars=True)
    tensors: dict[str, Tensor] = {}
    for name in dict.fromkeys(_stored_names(state).values()):
        tensors |= _compact(name, state[name])
    return safetensors.torch.save(tensors)


def read_header(file: BinaryIO, size: int, path: Path) -> dict[str, Stored]:
    """The tensors in a safetensors file of this size; only its header is read.

    Raises DamagedModelError unless the tensors are in the file as the header says, without gaps.
    """
    length = int.from_bytes(file.read(8), "little")
    if size < 8 or length > size - 8:
        raise errors.no_safetensors(path, "its header does not fit into it")
    if length > LARGEST_HEADER:
        raise errors.no_safetensors(path, f"its header has {length} bytes, and {LARGEST_HEADER} are the most")
    try:
        content = strict_json.parse(file.read(length))
        if not isinstance(content, dict):
            raise ValueError("holds no object")
        content.pop("__metadata__", None)
        parts = sorted(content.items(), key=lambda part: part[1]["data_offsets"])
        end = 0
        for name, part in parts:
            end = _end_of(name, part, end)
    except (ValueError, TypeError, LookupError) as error:
        raise errors.no_safetensors(path, f"its header {error}") from None
    if end != size - 8 - length:
        raise errors.no_safetensors(path, f"its header has {end} bytes of tensors, and {size - 8 - length} are there")
    return {name: Stored(_TYPES[part["dtype"]], part["shape"]) for name, part in parts}


def _end_of(name: str, part: dict, begin: int) -> int:
    """The end of a tensor that begins at ``begin``; ValueError if it does not begin there."""
    if part.keys() != {"dtype", "shape", "data_offsets"} or part["dtype"] not in _TYPES:
        raise ValueError(f"describes the tensor {name!r} in a way unknown to torch: {part}")
    if not all(type(length) is int and length >= 0 for length in part["shape"]):
        raise ValueError(f"has the shape {part['shape']} for the tensor {name!r}")
    end = begin + math.prod(part["shape"]) * _TYPES[part["dtype"]].itemsize
    if part["data_offsets"] != [begin, end]:
        raise ValueError(f"has the tensor {name!r} at {part['data_offsets']} and not at {[begin, end]}")
    return end


def check_fits(header: dict[str, Stored], network: nn.Module, path: Path) -> None:
    """Raise WeightsMismatchError unless a file with this header has exactly the tensors of ``network``.

    Each must have the same shape, and a type that the network's type holds without loss. ``network`` may be on the meta
    device.
    """
    state = network.state_dict(keep_vars=True)
    stored = _stored_names(state)
    in_file = _names_in_file(header, network, stored)
    expected = {in_file[name]: state[name] for name in dict.fromkeys(stored.values())}
    problems = [f"no tensor {name!r}, {_describe(expected[name])}" for name in expected if name not in header]
    scales = {name + SCALE: own for name, own in expected.items() if _is_integers(header.get(name), own)}
    problems += [
        f"no tensor {name!r}, float32 {list(own.shape[:1])}" for name, own in scales.items() if name not in header
    ]
    problems += [f"an unexpected tensor {name!r}" for name in header if name not in expected and name not in scales]
    problems += [
        f"{name!r} as {_describe(header[name])}, where {_describe(own)} is expected"
        for name, own in expected.items()
        if name in header and not (_is_integers(header[name], own) or _fits(header[name], own))
    ]
    problems += [
        f"{name!r} as {_describe(header[name])}, where float32 {list(own.shape[:1])} is expected"
        for name, own in scales.items()
        if name in header and not _are_scales(header[name], own)
    ]
    if problems:
        raise errors.weights_mismatch(path, problems)


def unpack(data: bytes, network: nn.Module, path: Path) -> None:
    """Fill ``network`` with the weights in ``data``; ``path`` is their file, for error messages.

    Raises DamagedModelError and WeightsMismatchError as :func:`read_header` and :func:`check_fits` do, and
    DamagedModelError for numbers that are not finite. After an error the network is unchanged.
    """
    header = read_header(io.BytesIO(data), len(data), path)
    check_fits(header, network, path)
    try:
        tensors = safetensors.torch.load(data)
    except SafetensorError as error:
        raise errors.no_safetensors(path, str(error)) from None
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not _is_finite(tensor):
            raise errors.not_finite(path, name)
    state = network.state_dict(keep_vars=True)
    stored = _stored_names(state)
    in_file = _names_in_file(header, network, stored)
    for name in dict.fromkeys(stored.values()):
        if _is_integers(header[in_file[name]], state[name]):
            integers, scale = tensors[in_file[name]], tensors[in_file[name] + SCALE]
            tensors[in_file[name]] = integers * over_outputs(scale, integers)
    network.load_state_dict({in_file[name]: tensors[in_file[stored[name]]] for name in stored}, strict=True)


def _names_in_file(header: dict[str, Stored], network: nn.Module, stored: dict[str, str]) -> dict[str, str]:
    """For every name in the state dict of ``network``, the name in a file with this header."""
    earlier = earlier_names(network)
    return {name: earlier[name] if earlier.get(stored[name]) in header else name for name in stored}


def _stored_names(state: dict[str, Tensor]) -> dict[str, str]:
    """For every name in a state dict (with ``keep_vars=True``), the name under which its tensor is stored."""
    first: dict[int, str] = {}
    for name, tensor in state.items():
        if not isinstance(tensor, Tensor):
            raise ValueError(f"{name!r} cannot be stored: it is no tensor but {type(tensor).__name__}")
        first.setdefault(id(tensor), name)
    return {name: first[id(tensor)] for name, tensor in state.items()}


def _compact(name: str, tensor: Tensor) -> dict[str, Tensor]:
    """``tensor`` as it is stored: one tensor, or integers and their scales."""
    value = tensor.detach().cpu().contiguous()
    if not value.is_floating_point():
        return {name: value}
    if not _is_finite(value):
        kind = "parameter" if isinstance(tensor, nn.Parameter) else "buffer"
        raise ValueError(f"the {kind} {name!r} holds NaN or infinity; such a network is not saved")
    if not isinstance(tensor, nn.Parameter):
        return {name: value.float()}
    integers = exact_integers(value)
    if integers is not None:
        return {name: integers[0], name + SCALE: integers[1]}
    half = value.half()
    return {name: half if value.dim() and _is_finite(half) else value.float()}


def _is_integers(stored: Stored | None, own: Tensor) -> bool:
    """Whether this may be the integers of the parameter ``own``."""
    is_weight = isinstance(own, nn.Parameter) and own.dtype == torch.float32 and own.dim() > 1
    return stored == Stored(torch.int8, list(own.shape)) and is_weight


def _are_scales(stored: Stored, own: Tensor) -> bool:
    """Whether this may be the scales of the parameter ``own``: one per output, which come first or last."""
    shapes = [list(own.shape[:1])] + [[1, own.shape[1]]] * (own.dim() == 2)
    return stored.dtype == torch.float32 and stored.shape in shapes


def _is_finite(tensor: Tensor) -> bool:
    return bool(torch.isfinite(tensor).all())


def _fits(stored: Stored, own: Tensor) -> bool:
    if stored.shape != list(own.shape):
        return False
    if not own.is_floating_point():
        return stored.dtype == own.dtype
    return stored.dtype in _STORED_FLOATS and torch.promote_types(stored.dtype, own.dtype) == own.dtype


def _describe(tensor: Tensor | Stored) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"
