"""Compiling and launching the CUDA kernels: CuPy compiles them at first use and keeps them on disk.

Tensors are passed by address, on torch's current stream; nothing here waits for the device.
"""

import ctypes
import functools
import struct
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

SOURCES = tuple(Path(__file__).with_name(name) for name in ("scan.cu", "recurrent.cu"))
SCALARS = {torch.float32: "float", torch.float16: "Half", torch.bfloat16: "BFloat16", torch.float64: "double"}
STEPS = 8
"""Time steps loaded ahead, and from one checkpoint to the next."""
WARP = 32
_EXTREMES = struct.Struct("=3q")


class Limits(NamedTuple):
    """Properties of a device that decide how kernels are launched."""

    multiprocessors: int
    shared_bytes: int
    """The most shared memory of a block, in bytes."""
    tensor_cores: bool
    """Whether its tensor cores support bfloat16."""


@functools.cache
def limits(device: torch.device) -> Limits:
    from cupy.cuda import runtime

    shared_bytes = runtime.deviceGetAttribute(runtime.cudaDevAttrMaxSharedMemoryPerBlockOptin, device.index)
    properties = torch.cuda.get_device_properties(device)
    return Limits(properties.multi_processor_count, shared_bytes, properties.major >= 8)


class _Arguments(threading.local):
    """Per layout, a buffer for a kernel's arguments and the list of their addresses; one set per thread."""

    def __init__(self):
        self.ready = {}
        self.devices = set()

    def pack(self, layout: struct.Struct, values: Sequence) -> int:
        """Write the arguments to the buffer; return the address of the list of their addresses."""
        if layout not in self.ready:
            buffer = ctypes.create_string_buffer(layout.size)
            start = ctypes.addressof(buffer)
            addresses = (ctypes.c_void_p * (layout.size // 8))(*range(start, start + layout.size, 8))
            self.ready[layout] = buffer, addresses, ctypes.addressof(addresses)
        buffer, _, address = self.ready[layout]
        layout.pack_into(buffer, 0, *values)
        return address


_arguments = _Arguments()


def options(definitions: tuple[str, ...]) -> tuple[str, ...]:
    """The options for the compiler."""
    # Without contraction to fused multiply-adds the spikes equal the reference's bit for bit.
    return "--fmad=false", f"-DSTEPS={STEPS}", *(f"-D{definition}" for definition in definitions)


@functools.cache
def _module(device: torch.device, definitions: tuple[str, ...]):
    """The kernels compiled for and loaded on the current device."""
    import cupy

    code = "\n".join(source.read_text() for source in SOURCES)
    return cupy.RawModule(code=code, options=options(definitions)).module


@functools.cache
def _function(device: torch.device, definitions: tuple[str, ...], kernel: str, shares: bool):
    """One kernel on the current device, as CuPy's Function; with ``shares`` it may ask for all of the shared memory."""
    from cupy.cuda import driver

    function = _module(device, definitions).get_function(kernel)
    if shares:
        attribute = driver.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
        driver.funcSetAttribute(function.ptr, attribute, limits(device).shared_bytes)
    return function


def launch(
    device: torch.device,
    definitions: tuple[str, ...],
    kernel: str,
    layout: struct.Struct,
    values: Sequence,
    grid: tuple[int, int],
    threads: int,
    shared_bytes: int = 0,
    together: bool = False,
) -> None:
    """Launch a kernel on the current stream of ``device``; with ``together`` all blocks are on the device at once.

    It calls the driver with a prepared list of addresses, because CuPy's own call builds an object per argument.
    """
    from cupy.cuda import driver, runtime

    if torch.cuda.current_device() != device.index:
        with torch.cuda.device(device):
            return launch(device, definitions, kernel, layout, values, grid, threads, shared_bytes, together)
    if device.index not in _arguments.devices:  # a new thread may have no context yet
        runtime.setDevice(device.index)
        runtime.free(0)
        _arguments.devices.add(device.index)
    function = _function(device, definitions, kernel, shared_bytes > 0)
    stream = torch.cuda.current_stream(device).cuda_stream
    size = (*grid, 1, threads, 1, 1, shared_bytes)
    if together:
        driver.launchCooperativeKernel(function.ptr, *size, stream, _arguments.pack(layout, values))
    else:
        driver.launchKernel(function.ptr, *size, stream, _arguments.pack(layout, values), 0)


def pointers(tensors: Sequence[Tensor | None], count: int = 0) -> list[int]:
    """The tensors' addresses, zero for None, padded with zeros to ``count``."""
    found = [0 if tensor is None else tensor.data_ptr() for tensor in tensors]
    return found + [0] * (count - len(found))


def gather_extremes(partial_extremes: Tensor, definitions: tuple[str, ...]) -> Tensor:
    """The overall extremes ``[minimum, maximum]`` from those of each warp, ``[warps, 2]``."""
    extremes = partial_extremes.new_empty(2)
    values = partial_extremes.data_ptr(), extremes.data_ptr(), len(partial_extremes)
    launch(extremes.device, definitions, "extremes", _EXTREMES, values, (1, 1), 32 * WARP)
    return extremes
