"""The training loop, which all recipes share: options, loss, optimisers, and the run in its folder.

A recipe derives a :class:`Trainer`, which defines the batches of an epoch, their loss and the score of a model. All
else (averaging the weights, resuming, the log and its plot, several processes) is here.
"""

import contextlib
import copy
import json
import math
import os
import time
import warnings
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import neurons
import zoo
from neurons.checks import flag
from neurons.kernels import cpu_memory
from neurons.monitors import figure
from recipes import bfloat16, processes
from recipes.distillation import Soft
from recipes.extras import need, png
from recipes.muon import muon
from recipes.processes import WHOLE, Part, Together
from recipes.run_folder import BEST, LOG, PLOT, RUN_CONFIG, RunFolder, write_json
from recipes.sparsity import Controller
from recipes.spikes import SpikeMeter, in_full_precision, with_thresholds
from zoo import files, tasks, weights
from zoo.engine.precision import Precise
from zoo.engine.program import NotInIntegers
from zoo.loading import float32_on_cpu
from zoo.options import number, whole_number

Options = TypeVar("Options", bound="Training")
Example = TypeVar("Example")


@dataclass(frozen=True)
class Training:
    """How a network is trained.

    The learning rate rises over ``warmup`` of the training and falls to zero as a cosine; ``average`` is the decay per
    step of the moving average of the weights, which is validated and kept; ``bfloat16`` runs the matrix products in
    that type, where the device is fast at it (:mod:`recipes.bfloat16`); ``spike_penalty`` is the weight of the mean
    spike size in the loss; ``operations`` is the share of the possible synaptic operations that the spikes are trained
    to cause (:mod:`recipes.sparsity`), 1 for any; ``muon`` trains the weight matrices with Muon (:mod:`recipes.muon`).
    In training, the multi-bit neurons fire in full precision for the first ``full_precision`` (a share) of the epochs,
    and then in their own bits; their threshold then rises from zero to its own levels, and the operations fall to their
    share, over ``threshold_rise`` (a share) of the epochs. The network that is validated and kept always fires in its
    own bits, at its own threshold.
    """

    epochs: int
    learning_rate: float
    warmup: float = 0.1
    weight_decay: float = 0.01
    label_smoothing: float = 0.1
    spike_penalty: float = 0.0
    operations: float = 1.0
    average: float = 0.995
    bfloat16: bool = True
    gradient_norm: float = 1.0
    seed: int = 0
    muon: bool = False
    full_precision: float = 0.0
    threshold_rise: float = 0.0

    without_noise: ClassVar[dict[str, Any]] = {}
    """Values of a recipe's own options that remove all randomness."""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if isinstance(value, np.generic):  # settings.json cannot hold NumPy's numbers
                object.__setattr__(self, name, value.item())
        whole = {name: whole_number(name, getattr(self, name), low) for name, low in (("epochs", 1), ("seed", 0))}
        shares = ("warmup", "weight_decay", "label_smoothing", "average")
        of_spikes = ("full_precision", "threshold_rise", "operations")
        numbers = {name: number(name, getattr(self, name), 0, 1) for name in ("learning_rate", *shares, *of_spikes)}
        numbers |= {name: number(name, getattr(self, name), 0) for name in ("spike_penalty", "gradient_norm")}
        if not numbers["operations"]:
            raise ValueError(f"operations is a share of the possible ones, above 0; got {self.operations!r}")
        if numbers["threshold_rise"] and numbers["full_precision"] + numbers["threshold_rise"] > 1:
            raise ValueError(
                f"thresholds that rise over {self.threshold_rise} of the epochs after {self.full_precision} in full "
                "precision would not reach their levels: full_precision and threshold_rise add up to at most 1"
            )
        for name, value in (whole | numbers).items():
            object.__setattr__(self, name, value)
        for name in ("bfloat16", "muon"):
            flag(getattr(self, name), name)

    def for_scoring(self: "Options") -> "Options":
        """These options for a loss that is compared: exact, without randomness and without penalty."""
        return replace(
            self, label_smoothing=0.0, spike_penalty=0.0, operations=1.0, bfloat16=False, **self.without_noise
        )


def cross_entropy(
    model: nn.Module,
    inputs: tuple,
    targets: Tensor,
    options: Training,
    count: float | None = None,
    share: float = 1.0,
    soft: Soft | None = None,
) -> Tensor:
    """Cross-entropy of the model's logits with smoothed labels, over ``count`` (all) targets, plus spike penalty.

    Of a part of a batch, ``count`` is that of the batch, and ``share`` the part's share of the rows. ``soft`` are
    targets of teachers, mixed with the labels by their weight.
    """
    with SpikeMeter(model) as meter, bfloat16.products(targets.device.type, options.bfloat16):
        logits = model(*inputs)
    logits = logits.float()
    loss = F.cross_entropy(logits, targets, label_smoothing=options.label_smoothing, reduction="sum")
    if soft:
        loss = (1 - soft.weight) * loss + soft.weight * soft.cross_entropy(logits)
    loss = loss / (count or len(targets))
    if options.spike_penalty and meter.outputs:
        loss = loss + share * options.spike_penalty * meter.mean_size()
    return loss


def padded_groups(examples: Iterable[Example], length: Callable[[Example], int], most: int) -> list[list[Example]]:
    """``examples`` in their order, in groups of at most ``most`` steps, counting the padding to the longest of each."""
    groups: list[list[Example]] = [[]]
    longest = 0
    for example in examples:
        longest = max(longest, length(example))
        if groups[-1] and longest * (len(groups[-1]) + 1) > most:
            groups.append([])
            longest = length(example)
        groups[-1].append(example)
    return groups


def learning_rate(progress: float, options: Training) -> float:
    """One cycle: a linear rise over ``warmup`` of the training, then a cosine to zero."""
    if progress < options.warmup:
        return options.learning_rate * progress / options.warmup
    rest = (progress - options.warmup) / (1 - options.warmup)
    return options.learning_rate * 0.5 * (1 + math.cos(math.pi * rest))


def optimisers_of(network: nn.Module, options: Training) -> list[torch.optim.Optimizer]:
    """AdamW for all parameters; or, with ``options.muon``, Muon for the weight matrices and AdamW for the rest.

    AdamW trains the embeddings, because a batch uses only a few of their rows. Biases, norms and the neurons' own
    parameters have no weight decay. Raises ImportError if torch has no Muon (:mod:`recipes.muon`).
    """
    embeddings = {id(m.weight) for m in network.modules() if isinstance(m, nn.Embedding)}
    by_muon: list[nn.Parameter] = []
    matrices: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for p in network.parameters():
        if p.dim() < 2:
            others.append(p)
        else:
            (by_muon if options.muon and p.dim() == 2 and id(p) not in embeddings else matrices).append(p)
    groups = [{"params": matrices, "weight_decay": options.weight_decay}, {"params": others, "weight_decay": 0.0}]
    optimisers: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(groups, lr=options.learning_rate, betas=(0.9, 0.98), fused=True)
    ]
    if by_muon:
        optimisers.append(muon(by_muon, options.learning_rate))
    return optimisers


def update(
    model: nn.Module,
    optimisers: list[torch.optim.Optimizer],
    backward: Callable[[], Tensor],
    progress: float,
    options: Training,
) -> Tensor:
    """One step of the optimisers at ``progress`` (0 to 1) of the training; returns the loss before the step.

    ``backward`` computes the loss and its gradients.
    """
    loss = backward()
    nn.utils.clip_grad_norm_(model.parameters(), options.gradient_norm)
    for optimiser in optimisers:
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(progress, options)
        optimiser.step()
        optimiser.zero_grad()
    return loss


def gradients(loss: Tensor) -> Tensor:
    """The ``loss``, after its gradients have been computed."""
    loss.backward()
    return loss.detach()


PROFILED = 2
"""Inputs on which synaptic operations are counted; that takes seconds for each."""
RETUNED = ("bits", "threshold_levels", "gated_threshold_levels", "dropout")
"""Fields of a network's config that can be changed in a trained model, because no weight depends on them."""


def begun(initial: str | None, config: Any, usual: Any) -> Any:
    """The config of the model that a training starts from, with the :data:`RETUNED` fields that are not the ``usual``.

    ``config`` itself, if it starts from none.
    """
    if initial is None:
        return config
    own = type(usual)(**zoo.info(initial).config["architecture_config"])
    return replace(own, **{name: value for name, value in changes(config, usual).items() if name in RETUNED})


def changes(config: Any, usual: Any) -> dict[str, Any]:
    """The fields of ``config`` that are not the ``usual`` ones."""
    return {name: value for name, value in asdict(config).items() if value != getattr(usual, name)}


def retuned(network: Any, config: Any) -> Any:
    """``network`` with the values of ``config`` for the :data:`RETUNED` fields."""
    wanted = {name: getattr(config, name) for name in RETUNED if hasattr(config, name)}
    if all(network.config[name] == value for name, value in wanted.items()):
        return network
    other = type(network).from_config(network.config | wanted, network.assets())
    other.load_state_dict(network.state_dict())
    return other


def risen(options: Training, progress: float) -> float | None:
    """How far thresholds have risen at ``progress`` (0 to 1) of the training; None in full precision."""
    quantised = progress - options.full_precision
    if quantised < 0:
        return None
    return min(1.0, quantised / options.threshold_rise) if options.threshold_rise else 1.0


def spikes_in_training(network: nn.Module, options: Training, epoch: int) -> AbstractContextManager[None]:
    """Context of the training of one ``epoch``, counted from 0: its precision of spikes and share of thresholds."""
    share = risen(options, epoch / options.epochs)
    return in_full_precision(network) if share is None else with_thresholds(network, share)


Network = TypeVar("Network", bound=nn.Module)


class Trainer(Generic[Network]):
    """A training run in a folder: model, average of its weights, optimiser and log; it continues where it stopped.

    The folder holds ``state.pt`` (all of the last finished epoch; see :mod:`recipes.run_folder`), ``log.jsonl`` (one
    line per epoch), ``training.png`` and ``best`` (the model with the best score on the validation data so far, as
    ``zoo.load`` reads it, with weights of eight bits where it computes in integers; with a spike penalty or fewer
    ``operations`` the latest, because the best would be one from before these took effect). A trainer holds its folder
    until its training ends. A recipe's trainer has ``plan(seed)``, the batches of an epoch in their order;
    ``size_of(batch)``, its number of rows; ``loss_of(batch, part)``, what a part of the rows adds to the loss of the
    batch; and ``score(model)``, the main score of the network's task. The score's name is ``metric`` in the log and
    ``metric_label`` in the plot.
    With ``operations``, its ``profiled()`` are a few inputs of the task.

    Several processes train together if they were started together (:mod:`recipes.processes`); the first one writes. A
    batch is computed in parts, one per process and per step of gradient accumulation (Accelerate's variable
    ``ACCELERATE_GRADIENT_ACCUMULATION_STEPS``). It stays the same batch, and the result is the same but for rounding
    and the random numbers of dropout: so neither number is part of the options, and a training can be continued with
    others.
    """

    metric: str
    metric_label: str
    needs: tuple[str, ...] = ("accelerate", "tqdm", "matplotlib")
    """Packages of the extra ``train``; checked before anything is computed."""

    def __init__(
        self,
        run: Path,
        config: Any,
        build: Callable[[], Network],
        options: Training,
        initial: str | None = None,
        backend: str = "auto",
    ):
        """``build`` makes a new network; one that is started from takes from ``config`` what is :data:`RETUNED`."""
        need("training", *self.needs)
        # oneDNN keeps the code that it made for 1024 shapes. An epoch has more, and making code anew takes longer and
        # longer.
        os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "50000")
        torch.backends.cuda.matmul.allow_tf32 = True
        self.accelerator = processes.join()
        processes.check_precision(self.accelerator.mixed_precision, options.bfloat16)
        if options.bfloat16 and not bfloat16.is_fast(self.accelerator.device.type):
            warnings.warn(
                "this processor has no instructions for bfloat16: the products are computed in float32, which is much "
                "faster here (--no-bfloat16 asks for it)",
                stacklevel=2,
            )
        self.folder, self.options = RunFolder(run), options
        if self.accelerator.is_main_process:
            self.folder.hold()
        try:
            self._start(config, build, initial, backend)
        except BaseException:
            self.folder.let_go()
            raise

    def _start(self, config: Any, build: Callable[[], Network], initial: str | None, backend: str) -> None:
        torch.manual_seed(self.options.seed)
        with float32_on_cpu():
            network = retuned(self.loaded(initial), config) if initial else build()
        for module in network.modules():
            if isinstance(module, neurons.Neuron):
                module.backend = backend
        self.network = network.to(self.accelerator.device)
        processes.begin_alike(self.network)
        own, steps = processes.place(), self.accelerator.gradient_accumulation_steps
        whole_number("the number of steps of gradient accumulation", steps, 1)
        self.parts = [Part(own.index * steps + step, own.count * steps) for step in range(steps)]
        """The parts of a batch that this process computes."""
        processes.check_divisible(self.network, own.count * steps, own.count)
        self.optimisers = optimisers_of(self.network, self.options)
        self.controller: Controller | None = None
        if self.options.operations < 1:
            self.controller = Controller(self.network, self.profiled(), self.options.operations)
        self.average = AveragedModel(self.network, multi_avg_fn=get_ema_multi_avg_fn(self.options.average))
        self.judged_by = tasks.named(self.network.task).score
        self.epoch, self.best, self.seconds = 0, -math.inf, 0.0
        self.log: list[dict[str, Any]] = []
        self.kept: dict[str, Tensor] = {}
        """The averaged weights, for ``best``."""
        self.run_config: dict[str, Any] = {"model": self.network.config, "training": asdict(self.options)}
        if initial:
            self.run_config["initial"] = initial
        processes.agree("the options and the network", json.dumps(self.run_config), cast(Any, self.network).assets())
        self.resume()
        if own.count > 1:
            processes.share_norms(self.network)
        self.together = Together(self.network)
        if self.accelerator.is_main_process:
            write_json(self.folder.path / RUN_CONFIG, self.run_config)
            if self.epoch:
                self.write_files()
        self.accelerator.wait_for_everyone()

    def loaded(self, initial: str) -> Network:
        """The network of the model that the training starts from."""
        return cast(Network, zoo.load(initial))

    def plan(self, seed: int) -> list:
        raise NotImplementedError

    def size_of(self, batch: Any) -> int:
        return len(batch)

    def loss_of(self, batch: Any, part: Part = WHOLE) -> Tensor:
        raise NotImplementedError

    def score(self, model: Network) -> float:
        raise NotImplementedError

    def profiled(self) -> list:
        """A few inputs of the network's task, on which its synaptic operations are counted."""
        raise NotImplementedError

    def resume(self) -> None:
        """Continue from the folder's checkpoint if there is one; an error if it was made with other options."""
        main = self.accelerator.is_main_process
        checkpoint = processes.of_the_first(self.folder.read_checkpoint() if main else None)
        if checkpoint is None:
            return
        if json.loads(checkpoint["settings"]) != self.run_config:
            raise ValueError(
                f"{self.folder.path} was started with other options; use another folder, or the same options"
            )
        self.network.load_state_dict(checkpoint["model"])
        self.average.load_state_dict(checkpoint["average"])
        for optimiser, kept in zip(self.optimisers, checkpoint["optimisers"]):
            optimiser.load_state_dict(kept)
        if self.controller:
            self.controller.load_state_dict(checkpoint["controller"])
        self.epoch, self.best, self.seconds = checkpoint["epoch"], checkpoint["best"], checkpoint["seconds"]
        self.log, self.kept = json.loads(checkpoint["log"]), checkpoint["kept"]

    def save_checkpoint(self) -> None:
        self.folder.write_checkpoint(
            {
                "settings": json.dumps(self.run_config),
                "model": self.network.state_dict(),
                "average": self.average.state_dict(),
                "optimisers": [optimiser.state_dict() for optimiser in self.optimisers],
                "controller": self.controller and self.controller.state_dict(),
                "epoch": self.epoch,
                "best": self.best,
                "seconds": self.seconds,
                "log": json.dumps(self.log),
                "kept": self.kept,
            }
        )

    def train(self) -> None:
        """Run the remaining epochs, and release the folder."""
        if self.accelerator.is_main_process and not self.folder.is_held:
            raise RuntimeError("this trainer's training has ended; make a new one, which continues where it stopped")
        try:
            cpu_memory.keep_freed()
            while self.epoch < self.options.epochs:
                self.run_epoch()
                cpu_memory.give_back()
                self.accelerator.wait_for_everyone()
        except KeyboardInterrupt:
            raise KeyboardInterrupt("; the same command continues after the last finished epoch") from None
        finally:
            self.folder.let_go()

    def run_epoch(self) -> None:
        """One epoch of training and its validation; write the checkpoint first, then the other files."""
        started = time.perf_counter()
        loss = self.train_epoch()
        self.seconds += time.perf_counter() - started
        self.epoch += 1
        self.validate(loss)
        if self.accelerator.is_main_process:
            self.save_checkpoint()
            self.write_files()
            print(json.dumps({k: round(v, 3) for k, v in self.log[-1].items()}), flush=True)

    def train_epoch(self) -> float:
        """One pass over the training data; its randomness depends only on the seed and the epoch."""
        from tqdm import tqdm

        seed = self.options.seed * 1000 + self.epoch
        own = processes.place()
        torch.manual_seed(seed * own.count + own.index)
        plan = self.plan(seed)
        processes.agree("the batches", [self.size_of(batch) for batch in plan])
        self.network.train()
        total = torch.zeros((), device=self.accelerator.device)
        title = f"epoch {self.epoch + 1}/{self.options.epochs}"
        steps = tqdm(plan, desc=title, leave=False, mininterval=1, disable=own.index > 0)
        with spikes_in_training(self.network, self.options, self.epoch):
            for i, batch in enumerate(steps):
                progress = (self.epoch + i / len(plan)) / self.options.epochs
                total += update(self.network, self.optimisers, partial(self.backward, batch), progress, self.options)
                self.average.update_parameters(self.network)
                if self.controller and (share := risen(self.options, progress)) is not None:
                    self.controller.follow(share)
        loss = total.item() / len(plan)
        if not math.isfinite(loss):
            raise FloatingPointError(f"the loss is {loss} in epoch {self.epoch + 1}; lower the learning rate")
        return loss

    def backward(self, batch: Any) -> Tensor:
        """The loss of a batch, and its gradients."""
        counted = self.controller and risen(self.options, self.epoch / self.options.epochs) is not None
        loss_of = self.loss_with_operations if counted else self.loss_of
        return self.together.backward(partial(loss_of, batch), self.size_of(batch), self.parts)

    def loss_with_operations(self, batch: Any, part: Part) -> Tensor:
        """What a part of the rows adds to the loss, and to that of its synaptic operations."""
        assert self.controller is not None
        with SpikeMeter(self.network) as meter:
            loss = self.loss_of(batch, part)
        return loss + self.controller.loss(meter, part.share(self.size_of(batch)))

    def validate(self, loss: float) -> None:
        """Score the averaged weights on the validation data; keep them if they are to be ``best``."""
        score = self.score(cast(Network, self.average.module))
        seconds = round(self.seconds, 1)
        self.log.append({"epoch": self.epoch, "loss": loss, self.metric: score, "seconds": seconds})
        if self.controller:
            self.log[-1] |= {"operations": self.controller.mean, "weight": self.controller.weight}
        merit = self.judged_by.merit(score)
        sparser = self.options.spike_penalty or self.controller
        if merit >= self.best or sparser:  # of equal scores the latest, at the lowest learning rate
            self.best = merit
            self.kept = {name: value.cpu().clone() for name, value in self.average.module.state_dict().items()}

    def write_files(self) -> None:
        """Make ``log.jsonl``, ``training.png`` and ``best`` agree with the checkpoint."""
        log = "".join(json.dumps(row) + "\n" for row in self.log).encode()
        if self.folder.write(LOG, log) or not (self.folder.path / PLOT).exists():
            self.folder.write(PLOT, self.plot_log())
        network = cast(Any, copy.deepcopy(self.average.module))
        network.load_state_dict(self.kept)
        if isinstance(network, Precise):  # it computes the same in integers, and takes half the room
            with contextlib.suppress(NotInIntegers):
                network.eval().round_weights()
        best = self.folder.path / BEST
        try:
            if weights.pack(zoo.load(best)) == weights.pack(network):
                return
        except (ValueError, FileNotFoundError):  # damaged, or does not exist yet
            self.folder.clear(BEST, {files.CARD, files.CONFIG, files.METRICS, files.WEIGHTS, *network.assets()})
        zoo.save(network, best)

    def plot_log(self) -> bytes:
        """The log as a PNG file: loss and validation score over the epochs."""
        epochs = [row["epoch"] for row in self.log]
        drawn, ((left, right),) = figure(1, 2, (9, 3.5))
        left.plot(epochs, [row["loss"] for row in self.log], marker=".")
        left.set(xlabel="epoch", ylabel="training loss (nats)")
        right.plot(epochs, [row[self.metric] for row in self.log], marker=".", color="tab:green")
        right.set(xlabel="epoch", ylabel=self.metric_label)
        for axis in (left, right):
            axis.grid(alpha=0.3)
        return png(drawn)
