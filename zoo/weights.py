"""The weights of a network as a safetensors file, in half precision, and back.

Parameters of one dimension or more are stored as float16; numbers that stand alone (a leak, a tracked range)
and all other buffers as float32; a parameter with a value that float16 cannot hold, as float32 too. A network
that was loaded holds only values that are stored exactly, so saving it again gives the same bytes.

Files of earlier releases, in which tracked ranges have other names, are read as well.

A tensor that a network holds under several names (tied weights) is stored once, under the first of them.
"""

from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from neurons.spike import earlier_names
from zoo import errors


def pack(network: nn.Module) -> bytes:
    """The weights of ``network`` as the bytes of a safetensors file.

    Raises ValueError for parameters that are not finite, and for state that is no tensor.
    """
    state = network.state_dict(keep_vars=True)
    stored = _stored_names(state)
    return safetensors.torch.save({name: _compact(name, state[name]) for name in dict.fromkeys(stored.values())})


def unpack(data: bytes, network: nn.Module, path: Path) -> None:
    """Fill ``network`` with the weights that ``data`` holds; ``path`` is where they lie, for the messages.

    Raises WeightsMismatchError unless the file has every tensor of the network, in its shape and in a type that
    the network's holds without loss, and no other; the network is then unchanged.
    """
    try:
        tensors = safetensors.torch.load(data)
    except SafetensorError as error:
        raise errors.no_safetensors(path, error) from None
    state = network.state_dict()
    stored = _stored_names(network.state_dict(keep_vars=True))
    earlier = earlier_names(network)
    in_file = {name: earlier[name] if earlier.get(stored[name]) in tensors else name for name in state}
    expected = {in_file[name]: state[name] for name in dict.fromkeys(stored.values())}
    problems = [f"no tensor {name!r}, {_describe(expected[name])}" for name in expected if name not in tensors]
    problems += [f"an unexpected tensor {name!r}" for name in tensors if name not in expected]
    problems += [
        f"{name!r} as {_describe(tensors[name])}, where {_describe(own)} is expected"
        for name, own in expected.items()
        if name in tensors and not _fits(tensors[name], own)
    ]
    if problems:
        raise errors.weights_mismatch(path, problems)
    network.load_state_dict({in_file[name]: tensors[in_file[stored[name]]] for name in state}, strict=True)


def _stored_names(state: dict[str, Tensor]) -> dict[str, str]:
    """For every name in a state dict (with ``keep_vars=True``) the name that its tensor is stored under."""
    first: dict[int, str] = {}
    for name, tensor in state.items():
        if not isinstance(tensor, Tensor):
            raise ValueError(f"{name!r} cannot be stored: it is no tensor but {type(tensor).__name__}")
        first.setdefault(id(tensor), name)
    return {name: first[id(tensor)] for name, tensor in state.items()}


def _compact(name: str, tensor: Tensor) -> Tensor:
    """``tensor`` as it is stored."""
    value = tensor.detach().cpu().contiguous()
    if not value.is_floating_point():
        return value
    if not isinstance(tensor, nn.Parameter):
        return value.float()
    if not torch.isfinite(value).all():
        raise ValueError(f"the parameter {name!r} holds NaN or infinity; such a network is not saved")
    half = value.half()
    return half if value.dim() and torch.isfinite(half).all() else value.float()


def _fits(stored: Tensor, own: Tensor) -> bool:
    return stored.shape == own.shape and torch.promote_types(stored.dtype, own.dtype) == own.dtype


def _describe(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"
