"""Several processes that train or score together, as ``accelerate launch`` starts them.

Each process has the whole network, and computes its part of every batch: every n-th row. The sums are the same as in
one process: gradients are added up, batch norm takes its mean and variance over the whole batch, and the ranges of
multi-bit spikes follow the extremes of all rows. So n processes train as one does, but for rounding and the random
numbers of dropout.

The networks are small (1 to 6 million parameters, at most 100 MB with gradients and the state of the optimiser), so
there is nothing to gain from sharding them (FSDP, DeepSpeed): that saves memory and costs communication.
"""

import atexit
import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from neurons.spike import Statistics, TrackedRange, joined
from recipes.extras import need

Input = TypeVar("Input")
Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Part:
    """One of ``count`` parts of a batch: every ``count``-th row, beginning with row ``index``."""

    index: int = 0
    count: int = 1

    def rows(self, size: int) -> slice:
        """The rows of this part in a batch of ``size`` rows; row 0 in place of none (see :meth:`weight`)."""
        return slice(self.index, None, self.count) if self.index < size else slice(0, 1)

    def weight(self, size: int) -> float:
        """1; 0 if the batch has too few rows for this part, which then only keeps the other processes company."""
        return float(self.index < size)

    def share(self, size: int) -> float:
        """The share of the batch's rows that this part computes."""
        return len(range(size)[self.rows(size)]) / size


WHOLE = Part()


_joined = WHOLE


def started() -> int:
    """The number of processes that were started together."""
    return int(os.environ.get("WORLD_SIZE", 1))


def place() -> Part:
    """Which of the processes that work together this one is, and how many there are; one of one before :func:`join`."""
    return _joined


def join() -> Any:
    """Accelerate's ``Accelerator``, which lets the processes that were started together find each other.

    Raises ImportError without accelerate, and ValueError if it was told to do what these trainings do not do.
    """
    need("work by several processes", "accelerate")
    from accelerate import Accelerator, DistributedType

    accelerator = Accelerator()
    if accelerator.num_processes != started():
        raise ValueError(
            f"{started()} processes were started, but each would work alone, because there is no GPU for them; set "
            "ACCELERATE_USE_CPU=1 to use processes on the CPU"
        )
    kinds = (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU)
    if accelerator.distributed_type not in kinds:
        raise ValueError(
            f"{accelerator.distributed_type} is not used here: every process has the whole network, which is small; "
            "launch with --multi_gpu"
        )
    global _joined
    _joined = Part(accelerator.process_index, accelerator.num_processes)
    atexit.register(leave)
    return accelerator


def leave() -> None:
    """Part from the other processes; nothing if that is done, or if there are none.

    A process that ends without it can be aborted: threads of the process group outlive what they use.
    """
    if dist.is_initialized():
        dist.destroy_process_group()


def device() -> torch.device:
    """Where this process computes: on its own GPU if there is one."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", torch.cuda.current_device() if place().count > 1 else 0)


def check_precision(mixed_precision: str, bfloat16: bool) -> None:
    """Raise ValueError for a launch with a precision that is not that of the training's own option."""
    if mixed_precision not in ("no", *["bf16"] * bfloat16):
        raise ValueError(
            f"the precision is an option of the training (--bfloat16 or --no-bfloat16), not {mixed_precision!r} of "
            "accelerate launch; fp16 and fp8 are not used"
        )


def check_divisible(network: nn.Module, parts: int, processes: int) -> None:
    """Raise ValueError for a network whose result would depend on the ``parts`` that its batches are computed in."""
    ranges = [module for module in network.modules() if isinstance(module, TrackedRange)]
    if parts > 1 and any(module.tracking == "step" for module in ranges):
        raise ValueError(
            'with range_tracking="step" each step is quantised by the extremes of the whole batch, so a batch cannot '
            "be computed in parts: use one process without gradient accumulation, or another range_tracking"
        )
    if parts > processes and any(isinstance(module, _BatchNorm) for module in network.modules()):
        raise ValueError(
            "batch norm needs the whole batch at once: use more processes, or smaller batches, in place of gradient "
            "accumulation"
        )


# ---- Training ----


def share_norms(network: nn.Module) -> None:
    """Let the batch norms of ``network`` take mean and variance, in training, over the rows of all processes."""
    for module in network.modules():
        if isinstance(module, _BatchNorm):
            own = type(module)
            module.__class__ = type(f"Shared{own.__name__}", (own, _SharedNorm), {"weight_of_rows": 1.0})


class _Sum(torch.autograd.Function):
    """The sum over all processes. Backward too: each process has a loss that the sum is a part of."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        total = x.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        total = gradient.contiguous().clone()
        dist.all_reduce(total)
        return total


class _SharedNorm(_BatchNorm):
    """Batch norm over all processes; a process with ``weight_of_rows`` 0 adds nothing.

    torch's ``SyncBatchNorm`` does not run on a CPU.
    """

    weight_of_rows: float

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        dims = [d for d in range(x.dim()) if d != 1]
        wide = x.float()
        ones = torch.full((1,), self.weight_of_rows * x.numel() / x.shape[1], device=x.device)
        total = _Sum.apply(torch.cat([ones, self.weight_of_rows * wide.sum(dims)]))
        count = total[0].detach()
        mean = total[1:] / count
        shape = [1, -1] + [1] * (x.dim() - 2)
        centred = wide - mean.view(shape)
        variance = _Sum.apply(self.weight_of_rows * (centred**2).sum(dims)) / count
        self._follow(mean.detach(), (variance * count / (count - 1).clamp(min=1)).detach())
        y = centred * torch.rsqrt(variance + self.eps).view(shape)
        if self.affine:
            y = y * self.weight.view(shape) + self.bias.view(shape)
        return y.to(x.dtype)

    @torch.no_grad()
    def _follow(self, mean: Tensor, variance: Tensor) -> None:
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked.add_(1)
        rate = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, rate)
        self.running_var.lerp_(variance, rate)


class Together:
    """The gradients and ranges of a network whose batches are computed in parts, in one process or in several."""

    def __init__(self, network: nn.Module):
        self.network = network
        self.ranges = [m for m in network.modules() if isinstance(m, TrackedRange) and m.tracking == "sequence"]
        self.norms = [m for m in network.modules() if isinstance(m, _SharedNorm)]

    def backward(self, loss_of: Callable[[Part], Tensor], size: int, parts: Sequence[Part]) -> Tensor:
        """The loss of a batch of ``size`` rows, and its gradients in the parameters, the same in every process.

        ``loss_of`` gives what a part adds to the loss; this process computes ``parts``, one after another. Each part
        begins with the same ranges; these then move once, by the extremes of all parts in all processes.
        """
        total = torch.zeros((), device=next(self.network.parameters()).device)
        start, after = self._statistics(), []
        for part in parts:
            self._write(start)
            for norm in self.norms:
                norm.weight_of_rows = part.weight(size)
            loss = part.weight(size) * loss_of(part)
            loss.backward()
            total += loss.detach()
            after.append(torch.stack(self._statistics()))
        if len(parts) * place().count > 1:
            self._write(joined(Statistics(*start), Statistics(*gathered(torch.stack(after)).unbind(1))))
        return self._added_up(total)

    def _statistics(self) -> list[Tensor]:
        """Those of all ranges, ``[ranges]`` each."""
        fields = zip(*[module.statistics() for module in self.ranges])
        return [torch.stack(values) for values in fields] or [torch.empty(0)] * len(Statistics._fields)

    def _write(self, statistics: Sequence[Tensor]) -> None:
        for module, *values in zip(self.ranges, *statistics):
            module.write(Statistics(*values))

    def _added_up(self, loss: Tensor) -> Tensor:
        """Add up the gradients of all processes, in each; returns the sum of the losses."""
        if place().count == 1:
            return loss
        gradients = [p.grad for p in self.network.parameters() if p.grad is not None]
        flat = torch.cat([loss.view(1), *(gradient.flatten() for gradient in gradients)])
        dist.all_reduce(flat)
        loss, *sums = flat.split([1, *(gradient.numel() for gradient in gradients)])
        for gradient, found in zip(gradients, sums):
            gradient.copy_(found.view_as(gradient))
        return loss.squeeze(0)


def gathered(own: Tensor) -> Tensor:
    """The tensors of all processes, which have one shape, one after another along the first dimension."""
    if place().count == 1:
        return own
    found = [torch.empty_like(own) for _ in range(place().count)]
    dist.all_gather(found, own.contiguous())
    return torch.cat(found)


@torch.no_grad()
def begin_alike(network: nn.Module) -> None:
    """Give the network of every process the weights of the first."""
    if place().count > 1:
        for tensor in network.state_dict().values():
            dist.broadcast(tensor, 0)


def of_the_first(value: Any) -> Any:
    """The ``value`` of the first process, in all."""
    values = [value]
    if place().count > 1:
        dist.broadcast_object_list(values, 0)
    return values[0]


def agree(what: str, *values: Any) -> None:
    """Raise ValueError if these values are not the same in all processes."""
    if place().count > 1:
        digests: list[Any] = [None] * place().count
        dist.all_gather_object(digests, hashlib.sha256(repr(values).encode()).hexdigest())
        if len(set(digests)) > 1:
            raise ValueError(f"{what} are not the same in all processes: give all the same files and releases")


# ---- Scoring ----


def shared(answer: Callable[[list[Input]], Sequence[Answer]], inputs: Sequence[Input]) -> list[Answer]:
    """``answer(inputs)``, one answer per input, of which each process computes a part; all get all, in their order."""
    own = place()
    mine = list(inputs[own.index :: own.count])
    found = list(answer(mine)) if mine else []
    if own.count == 1:
        return found
    parts: list[Any] = [None] * own.count
    dist.all_gather_object(parts, found)
    answers: list[Any] = [None] * len(inputs)
    for index, part in enumerate(parts):
        answers[index :: own.count] = part
    return answers
