"""The contenders that are timed: our scans and the usual alternatives, each a module from a sequence to a sequence.

The others get the options that give them the least work: no gradient through the reset, no stored membranes. All
parameters that can be learned are learned, in float32. SpikingJelly's nodes get the subthreshold equation of the
learnable LIF (``decay_input=False``, soft reset), so that they compute the same spikes; they keep their own surrogate
gradients.
"""

import contextlib
import functools
import importlib
import importlib.metadata
import importlib.util
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

import neurons
from neurons import kernels

TAU = 16.0
LEAK = 1 - 1 / TAU  # so that v - v / tau and leak * v round to the same number
BITS = 4
FUSED = {"cpu": "cpu", "cuda": "cupy"}
"""The backend of our kernels for each device."""
OURS = "ours, "
"""The first part of our contenders' names; the backend follows."""
BYTES_ALONE = "bytes alone (copy)"
OLD_SPIKINGJELLY = "SPIKINGJELLY_14"
"""Environment variable: the folder that holds SpikingJelly 0.0.0.0.14."""


class Unavailable(Exception):
    """This contender cannot run here; the message says why."""


class Contender(NamedTuple):
    """One side of a comparison."""

    name: str
    build: Callable[[int], nn.Module]
    """Build the module for ``width`` channels; raises :class:`Unavailable`."""
    same: str = ""
    """What must equal the first contender's: "outputs", "gradients" (both), or nothing."""


class Family(NamedTuple):
    """Contenders for one neuron; the others are compared with the first that can run."""

    neuron: str
    contenders: tuple[Contender, ...]
    inputs: int = 1
    """Input channels per output channel."""
    widths: tuple[int, ...] = (256, 1024, 4096)
    steps: tuple[int, ...] = (4, 16, 100, 400)
    checked_steps: int | None = None
    """If small differences grow, only the outputs of this many first steps are compared. None compares everything."""
    bytes_alone: bool = True
    """Whether to measure copying the bytes alone, as a lower bound."""

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the contenders and of the lower bound."""
        return (*(contender.name for contender in self.contenders), *((BYTES_ALONE,) if self.bytes_alone else ()))

    def compared(self, name: str, results: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """The part of a call's results (outputs, then any gradients) that must equal the first contender's."""
        same = next((contender.same for contender in self.contenders if contender.name == name), "")
        if self.checked_steps is not None:
            return (results[0][: self.checked_steps],) if same else ()
        return {"": (), "outputs": results[:1], "gradients": results}[same]


# ---- Ours ----


class Scan(nn.Module):
    """One of our neurons without its explicit state."""

    def __init__(self, neuron: neurons.Neuron):
        super().__init__()
        self.neuron = neuron

    def forward(self, x_seq: Tensor) -> Tensor:
        return self.neuron(x_seq)[0]


def scan(name: str, backend: str, **options) -> Scan:
    if backend not in kernels.available():
        raise Unavailable(f'backend "{backend}" cannot run here; there are {", ".join(kernels.available())}')
    neuron = neurons.create(name, **options)
    if backend != "torch" and (reason := neuron.reference_only()):
        raise Unavailable(reason)
    neuron.backend = backend
    return Scan(neuron)


def ours(device: str, build: Callable[[str, int], nn.Module]) -> tuple[Contender, ...]:
    """The contenders that ``build(backend, width)`` makes with each backend for the device, the fused one first."""
    return tuple(
        Contender(f"{OURS}{backend}", functools.partial(build, backend), same="gradients")
        for backend in (FUSED[device], "torch")
    )


# ---- Loops in plain torch ----


def steps_of(x_seq: Tensor, indexed: bool) -> Iterator[Tensor]:
    """The steps of a sequence by ``x_seq[t]``, whose backward is quadratic in T, or by ``unbind``."""
    return (x_seq[t] for t in range(len(x_seq))) if indexed else iter(x_seq.unbind(0))


class TriangularSpike(torch.autograd.Function):
    """1 where u > 0; backward 0.3 max(0, 1 - |u|)."""

    @staticmethod
    def forward(ctx, u: Tensor) -> Tensor:
        ctx.save_for_backward(u)
        return (u > 0).to(u.dtype)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        (u,) = ctx.saved_tensors
        return gradient * 0.3 * (1 - u.abs()).clamp(min=0)


class LearnableLIFLoop(nn.Module):
    """The learnable LIF as usually written by hand."""

    def __init__(self, indexed: bool):
        super().__init__()
        self.indexed = indexed
        self.leak, self.threshold = nn.Parameter(torch.tensor(LEAK)), nn.Parameter(torch.tensor(1.0))

    def forward(self, x_seq: Tensor) -> Tensor:
        leak, membrane, spikes = self.leak.clamp(0, 1), torch.zeros_like(x_seq[0]), []
        for x in steps_of(x_seq, self.indexed):
            membrane = leak * membrane + x
            spike = TriangularSpike.apply(membrane / self.threshold - 1)
            membrane = membrane - self.threshold * spike.detach()
            spikes.append(spike)
        return torch.stack(spikes)


class QuantisedSpike(torch.autograd.Function):
    """The multi-bit spike with a fixed range of 1; backward straight through inside it."""

    @staticmethod
    def forward(ctx, membrane: Tensor) -> Tensor:
        ctx.save_for_backward(membrane)
        scale = 2 ** (BITS - 1) * (1 - 1e-4)
        return torch.trunc(scale * membrane.clamp(-1, 1)) / scale

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        (membrane,) = ctx.saved_tensors
        return gradient * (membrane.abs() <= 1)


class InputGatedLIFLoop(nn.Module):
    """The input-gated LIF as usually written by hand, without tracking the range."""

    def __init__(self, indexed: bool):
        super().__init__()
        self.indexed = indexed

    def forward(self, x_seq: Tensor) -> Tensor:
        current = membrane = torch.zeros_like(x_seq[0].chunk(2, dim=1)[0])
        spikes = []
        for x in steps_of(x_seq, self.indexed):
            f, c = x.chunk(2, dim=1)
            gate = torch.sigmoid(f)
            current = gate * current + (1 - gate) * torch.relu(c)
            membrane = membrane + current
            spike = QuantisedSpike.apply(membrane)
            membrane = membrane - spike
            spikes.append(spike)
        return torch.stack(spikes)


# ---- snnTorch, as its tutorials write the loop ----


class SnnTorchLeaky(nn.Module):
    def __init__(self, indexed: bool = True):
        import snntorch as snn

        super().__init__()
        self.indexed = indexed
        self.lif = snn.Leaky(beta=LEAK, learn_beta=True, learn_threshold=True)

    def forward(self, x_seq: Tensor) -> Tensor:
        mem = self.lif.reset_mem()
        spk_rec = []
        for x in steps_of(x_seq, self.indexed):
            spk, mem = self.lif(x, mem)
            spk_rec.append(spk)
        return torch.stack(spk_rec)


class SnnTorchSynaptic(nn.Module):
    def __init__(self, indexed: bool = True):
        import snntorch as snn

        super().__init__()
        self.indexed = indexed
        self.lif = snn.Synaptic(alpha=0.9, beta=LEAK, learn_alpha=True, learn_beta=True, learn_threshold=True)

    def forward(self, x_seq: Tensor) -> Tensor:
        syn, mem = self.lif.reset_mem()
        spk_rec = []
        for x in steps_of(x_seq, self.indexed):
            spk, syn, mem = self.lif(x, syn, mem)
            spk_rec.append(spk)
        return torch.stack(spk_rec)


# ---- SpikingJelly in multi-step mode ----


class SpikingJellyNode(nn.Module):
    """A node of SpikingJelly, reset before every sequence."""

    def __init__(self, node: nn.Module):
        super().__init__()
        self.node = node

    def forward(self, x_seq: Tensor) -> Tensor:
        self.node.reset()
        return self.node(x_seq)


class OldSpikingJellyNode(SpikingJellyNode):
    """A node of 0.0.0.0.14; outside of training mode it uses a loop in torch instead of its CuPy kernels."""

    def train(self, mode: bool = True):
        return super().train(True)


def spikingjelly_version() -> str:
    return importlib.metadata.version("spikingjelly")


def spikingjelly_node(kind: str, device: str, **options) -> SpikingJellyNode:
    if device == "cuda" and importlib.util.find_spec("triton") is None:
        raise Unavailable("Triton is not installed")
    node = getattr(importlib.import_module("spikingjelly.activation_based.neuron"), kind, None)
    if node is None:
        raise Unavailable(f"SpikingJelly {spikingjelly_version()} has no {kind}; pip install spikingjelly==2.0.0")
    return SpikingJellyNode(node(detach_reset=True, step_mode="m", **options))


LIKE_OURS = {"decay_input": False, "v_reset": None}


def spikingjelly(kind: str, device: str, same: str = "", **options) -> Contender:
    provider = ", Triton" if device == "cuda" else ""
    name = f"SpikingJelly {spikingjelly_version()} {kind}{provider}"
    return Contender(name, lambda width: spikingjelly_node(kind, device, **options), same)


def ask_for_triton() -> None:
    """Have SpikingJelly 2.0.0 run its Triton kernels on a GPU, or raise. It reads this setting at import."""
    for node in ("LIF", "PLIF", "ILIF"):
        os.environ[f"SJ_{node}_CUDA_IMPLEMENTATION"] = "triton"


@contextlib.contextmanager
def another_spikingjelly(folder: Path):
    """Context in which ``import spikingjelly`` finds the release in ``folder``; modules imported before are kept."""

    def imported() -> dict:
        return {name: sys.modules.pop(name) for name in list(sys.modules) if name.split(".")[0] == "spikingjelly"}

    before = imported()
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        imported()
        sys.modules.update(before)


def old_spikingjelly_lif(backend: str) -> OldSpikingJellyNode:
    """The LIF node of SpikingJelly 0.0.0.0.14, run by ``backend``."""
    folder = os.environ.get(OLD_SPIKINGJELLY, "")
    if not (Path(folder) / "spikingjelly").is_dir():
        raise Unavailable(
            f"{OLD_SPIKINGJELLY} does not name a folder with SpikingJelly 0.0.0.0.14; "
            "make one with: pip install --no-deps --target FOLDER spikingjelly==0.0.0.0.14"
        )
    with another_spikingjelly(Path(folder)):
        library = importlib.import_module("spikingjelly.activation_based.neuron")
    if backend == "cupy" and library.cupy is None:
        raise Unavailable('SpikingJelly 0.0.0.0.14 could not import CuPy; pip install "snn-zoo[cupy]"')
    return OldSpikingJellyNode(library.LIFNode(TAU, detach_reset=True, step_mode="m", backend=backend, **LIKE_OURS))


# ---- Recurrent layers: the input product is part of them ----


class RecurrentGatedLayer(nn.Module):
    """Input product and recurrent-gated LIF."""

    def __init__(self, backend: str, width: int):
        super().__init__()
        self.currents = nn.Linear(width, 2 * width)
        self.scan = scan("recurrent-gated-lif", backend, channels=width, bits=BITS)

    def forward(self, x_seq: Tensor) -> Tensor:
        return self.scan(self.currents(x_seq))


class RecurrentLayer(nn.Module):
    """torch's own LSTM or GRU; cuDNN's on a GPU."""

    def __init__(self, kind: type[nn.RNNBase], width: int):
        super().__init__()
        self.network = kind(width, width)

    def forward(self, x_seq: Tensor) -> Tensor:
        return self.network(x_seq)[0]


# ---- The comparisons ----


def families(device: str) -> tuple[Family, ...]:
    """All comparisons for a device, "cpu" or "cuda"."""
    gpu = device == "cuda"
    old = Contender("SpikingJelly 0.0.0.0.14 LIFNode, CuPy", lambda width: old_spikingjelly_lif("cupy"), same="outputs")
    learnable = (
        *ours(device, lambda backend, width: scan("learnable-lif", backend, leak=LEAK)),
        Contender("torch loop, unbind", lambda width: LearnableLIFLoop(indexed=False), same="gradients"),
        Contender("torch loop, x_seq[t]", lambda width: LearnableLIFLoop(indexed=True), same="gradients"),
        Contender("snnTorch Leaky, x_seq[t]", lambda width: SnnTorchLeaky()),
        Contender("snnTorch Leaky, unbind", lambda width: SnnTorchLeaky(indexed=False)),
        spikingjelly("LIFNode", device, "outputs", tau=TAU, **LIKE_OURS),
        spikingjelly("ParametricLIFNode", device, "outputs", init_tau=TAU, **LIKE_OURS),
        *([old] if gpu else []),
    )
    gated = (
        *ours(device, lambda backend, width: scan("input-gated-lif", backend, bits=BITS)),
        Contender("torch loop, unbind", lambda width: InputGatedLIFLoop(indexed=False), same="gradients"),
        Contender("torch loop, x_seq[t]", lambda width: InputGatedLIFLoop(indexed=True), same="gradients"),
    )
    synaptic = (
        *ours(
            device, lambda backend, width: scan("multibit-synaptic-lif", backend, channels=width, bits=BITS, tau=0.9)
        ),
        Contender("snnTorch Synaptic, x_seq[t]", lambda width: SnnTorchSynaptic()),
    )
    multibit = (
        *ours(device, lambda backend, width: scan("multibit-lif", backend, leak=LEAK, bits=BITS)),
        spikingjelly("ILIFNode", device),
    )
    integrator = ours(device, lambda backend, width: scan("integrator", backend))
    recurrent = (
        *ours(device, RecurrentGatedLayer),
        Contender("cuDNN LSTM" if gpu else "torch LSTM", lambda width: RecurrentLayer(nn.LSTM, width)),
        Contender("cuDNN GRU" if gpu else "torch GRU", lambda width: RecurrentLayer(nn.GRU, width)),
    )
    few = {} if gpu else {"widths": (256, 1024), "steps": (16, 100)}
    return (
        Family("learnable-lif", learnable),
        Family("input-gated-lif", gated, inputs=2),
        Family("multibit-lif", multibit),
        Family("multibit-synaptic-lif", synaptic),
        Family("integrator", integrator, widths=(1024,), steps=(4, 100)),
        Family("recurrent-gated-lif", recurrent, checked_steps=4, bytes_alone=False, **few),
    )
