"""Loading a model: find it, check it, build it, fill in its weights."""

import os
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

import torch
from torch.nn.modules.module import (
    register_module_buffer_registration_hook,
    register_module_module_registration_hook,
    register_module_parameter_registration_hook,
)
from torch.overrides import TorchFunctionMode

import neurons
from neurons import kernels
from zoo import errors, files, registry, weights
from zoo.adapting import with_labels
from zoo.engine.precision import check_precision, set_precision

if TYPE_CHECKING:
    from zoo.networks.gesture import GestureNetwork
    from zoo.networks.sentiment import TextClassifier
    from zoo.networks.speech import SpeechRecogniser
    from zoo.networks.translation import Translator

SOON_READ = 2**26
"""The most bytes of weights that are read to explain why they do not fit; a larger file may be only holes."""
PARTS_PER_TENSOR = 16
"""The most modules, parameters and buffers of a network per tensor of its weights; ours have at most four."""
_OF_A_CONFIG = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
"""The errors that an architecture may raise, by intent or not, for a config or assets that make no sense."""
_default_type = threading.RLock()
"""Held while torch's default type may be changed."""


# The type of a bundled model is known from its name; a folder or a repository may hold any architecture.
# A type checker reads these names here and nowhere else, so a new bundled model is added here too.
@overload
def load(
    name_or_repo_or_folder: Literal["lite-snn-multi30k"],
    *,
    revision: str | None = None,
    source: str = "package",
    device: str | torch.device | None = None,
    backend: str = "auto",
    precision: str = "auto",
) -> "Translator": ...
@overload
def load(
    name_or_repo_or_folder: Literal["lite-snn-imdb"],
    *,
    revision: str | None = None,
    source: str = "package",
    device: str | torch.device | None = None,
    backend: str = "auto",
    precision: str = "auto",
    labels: Sequence[str] | None = None,
) -> "TextClassifier": ...
@overload
def load(
    name_or_repo_or_folder: Literal["lite-snn-dvs-gesture"],
    *,
    revision: str | None = None,
    source: str = "package",
    device: str | torch.device | None = None,
    backend: str = "auto",
    precision: str = "auto",
    labels: Sequence[str] | None = None,
) -> "GestureNetwork": ...
@overload
def load(
    name_or_repo_or_folder: Literal["improved-snn-librispeech", "improved-snn-timit"],
    *,
    revision: str | None = None,
    source: str = "package",
    device: str | torch.device | None = None,
    backend: str = "auto",
    precision: str = "auto",
    labels: Sequence[str] | None = None,
) -> "SpeechRecogniser": ...
@overload
def load(
    name_or_repo_or_folder: str | os.PathLike,
    *,
    revision: str | None = None,
    source: str = "package",
    device: str | torch.device | None = None,
    backend: str = "auto",
    precision: str = "auto",
    labels: Sequence[str] | None = None,
) -> Any: ...
def load(
    name_or_repo_or_folder: str | os.PathLike,
    *,
    revision: str | None = None,
    source: str = "package",
    device: str | torch.device | None = None,
    backend: str = "auto",
    precision: str = "auto",
    labels: Sequence[str] | None = None,
) -> Any:
    """Load a model, ready to use: in evaluation mode, in float32, with its preprocessing attached.

    The name is that of a bundled model (``"lite-snn-multi30k"``), of a repository on the Hugging Face Hub
    (``"org/name"``, at the commit, tag or branch ``revision``), or of a local folder, given as a ``Path`` or as text
    that starts like a path (``"./folder"``). Bundled models and folders need no network connection, nor does a commit
    that is already in the Hub's cache. ``source="hub"`` takes a bundled model from the Hub, at the commit that this
    release pins, instead of from this package. No code of a repository is ever run, so there is no
    ``trust_remote_code``.

    ``device`` is the model's device (by default the CPU) and ``backend`` what runs its neurons' scans: ``"auto"``,
    ``"torch"``, ``"cpu"`` or ``"cupy"``. ``precision`` is what the products of spikes are computed with
    (:class:`zoo.engine.precision.Precise`): ``"auto"`` (on a CPU integers of eight bits where the model can),
    ``"float32"`` or ``"int8"`` (also on a CUDA device).

    ``labels`` are other labels for a classifier, or other phones for a recogniser, to be learned by fine-tuning
    (:func:`zoo.adapting.with_labels`). What is new then is listed in the model's ``newly_initialised``, the names of
    tensors, and a warning says so. The model's ``origin`` is what a model that was trained from it inherits, as entries
    of ``metrics.json``: ``base_model``, ``licence`` and ``languages``.

    Raises ``zoo.errors.UnknownNameError`` (with a suggestion), ``DamagedModelError`` for a file that is missing,
    truncated or altered, ``NewerFormatError``, ``WeightsMismatchError`` (naming the tensors), ``HubError``,
    FileNotFoundError for a missing folder, ValueError for labels that the model cannot have (TypeError for what is no
    list of texts), for a device that cannot be used, an unknown backend or precision and, saying why, for
    ``precision="int8"`` of a model that cannot compute so, and ImportError for a backend whose library is not
    installed.
    """
    device = usable_device(device)
    kernels.check_backend(backend)
    check_precision(precision)
    folder = registry.locate(name_or_repo_or_folder, revision, source=source)
    config = files.read_config(folder)
    record, path = config["files"][files.WEIGHTS], folder / files.WEIGHTS
    others = {name: of_other for name, of_other in config["files"].items() if name != files.WEIGHTS}
    assets = {name: files.read_checked(folder, name, of_other) for name, of_other in others.items()}
    try:
        header = _header(folder, record)
        with _no_larger_than(header):
            weights.check_fits(header, _build(config, assets, folder, "meta"), path)
    except (errors.DamagedModelError, errors.WeightsMismatchError):
        if record["bytes"] <= SOON_READ:
            files.read_checked(folder, files.WEIGHTS, record)  # an altered file explains it better
        raise
    data = files.read_checked(folder, files.WEIGHTS, record)
    network = _build(config, assets, folder, "cpu")
    weights.unpack(data, network, path)
    network.newly_initialised = []
    if labels is not None:
        network = _with_labels(network, labels)
    network.origin = _origin(name_or_repo_or_folder, folder, config)
    for module in network.modules():
        if isinstance(module, neurons.Neuron):
            module.backend = backend
    network = network.to(device).eval()
    set_precision(network, precision)
    return network


def _with_labels(network: Any, labels: Sequence[str]) -> Any:
    with torch.random.fork_rng(devices=[]), float32_on_cpu():
        made = with_labels(network, labels)
    if made.newly_initialised:
        new = [label for label in labels if label not in network.config["labels"]]
        warnings.warn(
            f"new labels: {', '.join(map(repr, new))}. Their rows of {', '.join(made.newly_initialised)} are zero, so "
            "fine-tune the model before you use it",
            stacklevel=3,
        )
    return made


def _origin(name: str | os.PathLike, folder: Path, config: dict) -> dict[str, Any]:
    """What a model that is trained from this one inherits; licence and languages if its metrics say them."""
    of_the_hub = isinstance(name, str) and "/" in name and name[0] not in ".~" and not os.path.isabs(name)
    origin: dict[str, Any] = {"base_model": name if of_the_hub else config["name"]}
    try:
        metrics = files.read_metrics(folder)
    except ValueError:  # a model works without them
        return origin
    return origin | {key: metrics[key] for key in ("licence", "languages") if key in metrics}


def pipeline(task: str, **options: Any) -> Any:
    """The best bundled model of a task ("translation"), loaded with the ``options`` of :func:`load`.

    Raises ``zoo.errors.UnknownNameError`` for an unknown task, ValueError for one without a bundled model.
    """
    return load(registry.best(task), **options)


def float32_on_cpu() -> AbstractContextManager[None]:
    """Context in which networks are built in float32 on the CPU, whatever torch's default type and device are.

    Another default type is replaced for all threads, because torch has only one; several threads may build at once.
    """
    return _float32_on("cpu")


class _WithoutValues(TorchFunctionMode):
    """Context in which meta tensors are made without operations for which torch imports its compiler and sympy."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in (torch.Tensor.normal_, torch.nn.init.normal_):
            tensor = args[0] if args else kwargs["tensor"]
            if tensor.is_meta:
                return tensor
        count = {torch.linspace: args[2:3], torch.arange: args if len(args) == 1 else ()}.get(func)
        if count and kwargs.get("device") == torch.device("meta"):
            return torch.empty(*count, **kwargs)
        return func(*args, **kwargs)


@contextmanager
def _float32_on(device: str) -> Iterator[None]:
    with _default_type, _WithoutValues() if device == "meta" else nullcontext(), torch.device(device):
        usual = torch.get_default_dtype()
        if usual != torch.float32:
            torch.set_default_dtype(torch.float32)
        try:
            yield
        finally:
            if usual != torch.float32:
                torch.set_default_dtype(usual)


def _header(folder: Path, record: dict) -> dict[str, weights.Stored]:
    """The header of the weights file; no weights are read."""
    with files.open_recorded(folder, files.WEIGHTS, record) as file:
        return weights.read_header(file, record["bytes"], folder / files.WEIGHTS)


@contextmanager
def _no_larger_than(header: dict[str, weights.Stored]) -> Iterator[None]:
    """Context in which this thread builds no network with many more parts than a file with this header has tensors.

    A number in a config may ask for more layers than can be built in reasonable time, even without memory for them.
    """
    most, found, here = PARTS_PER_TENSOR * (len(header) + PARTS_PER_TENSOR), 0, threading.get_ident()

    def count(module: torch.nn.Module, name: str, part: Any) -> None:
        nonlocal found
        found += threading.get_ident() == here
        if found > most:
            raise ValueError(
                f"it asks for a network of more than {most} parts, and the weights are {len(header)} tensors"
            )

    hooks = (
        register_module_parameter_registration_hook(count),
        register_module_buffer_registration_hook(count),
        register_module_module_registration_hook(count),
    )
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _build(config: dict, assets: dict[str, bytes], folder: Path, device: str) -> Any:
    """The network with arbitrary weights or, on the meta device, without values."""
    path = folder / files.CONFIG
    architecture = registry.architecture(config["architecture"])
    if architecture.task != config["task"]:
        raise errors.bad_config(
            path, f"says the task is {config['task']!r}, but {config['architecture']!r} is for {architecture.task!r}"
        )
    try:
        # The initial values are overwritten later; drawing them does not change the caller's random numbers.
        with torch.random.fork_rng(devices=[]), _float32_on(device):
            return architecture.from_config(config["architecture_config"], assets)
    except _OF_A_CONFIG as error:
        raise errors.does_not_build(path, config["architecture"], error) from error


def usable_device(device: str | torch.device | None) -> torch.device:
    try:
        usable = torch.device("cpu" if device is None else device)
        torch.empty(0, device=usable)
    except (RuntimeError, AssertionError, TypeError) as error:
        raise errors.unusable_device(device, error) from None
    if usable.type == "meta":
        raise errors.unusable_device(device, ValueError("it holds no values, so no weights can be loaded to it"))
    return usable
