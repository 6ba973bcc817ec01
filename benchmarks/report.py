"""The output of a benchmark: the machine it ran on, tables in Markdown, all figures in JSON."""

import datetime
import importlib.metadata
import importlib.util
import json
import os
import platform
import re
from collections.abc import Callable
from pathlib import Path

import torch
import typer

import zoo

RESULTS = Path(__file__).with_name("results")
LIBRARIES = ("numpy", "numba", "snntorch", "spikingjelly", "triton", "ctranslate2")


def use_threads(threads: int | None) -> int:
    """Have torch and our kernels use this many threads (None: one per processor core); returns the number.

    Raises ValueError for fewer than one.
    """
    threads = (os.cpu_count() or 1) if threads is None else threads
    if threads < 1:
        raise ValueError(f"threads must be at least 1; got {threads}")
    torch.set_num_threads(threads)
    return threads


def device() -> torch.device:
    """The GPU if torch sees one, else the CPU."""
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")


def device_name(device: torch.device) -> str:
    """The model of the GPU, or of the processor."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    information = Path("/proc/cpuinfo")
    if information.exists():
        found = re.search(r"^model name\s*: (.+)$", information.read_text(), re.MULTILINE)
        if found:
            return found[1]
    return platform.processor() or platform.machine()


def environment(device: torch.device, threads: int) -> dict:
    """The machine and the versions that the figures were measured with."""
    versions = {"snn-zoo": zoo.__version__, "python": platform.python_version(), "torch": torch.__version__}
    versions |= {name: importlib.metadata.version(name) for name in LIBRARIES if importlib.util.find_spec(name)}
    if device.type == "cuda":
        versions |= {"cuda": torch.version.cuda, "cudnn": str(torch.backends.cudnn.version())}
        if importlib.util.find_spec("cupy"):
            versions["cupy"] = importlib.import_module("cupy").__version__
    return {
        "device": device_name(device),
        "threads": threads,
        "system": f"{platform.system()} {platform.machine()}",
        "versions": versions,
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
    }


def described(where: dict) -> str:
    """The environment as two lines of Markdown."""
    versions = ", ".join(f"{name} {version}" for name, version in where["versions"].items())
    return f"{where['device']}, {where['threads']} threads, {where['system']}, {where['date']}.  \n{versions}."


def stem(name: str, device: torch.device, quick: bool) -> str:
    """The name of the result files, without their endings."""
    on = "cpu" if device.type == "cpu" else re.sub(r"\W+", "-", device_name(device).lower()).strip("-")
    return f"{'quick-' if quick else ''}{name}-{on}"


def table(head: list[str], rows: list[list[str]]) -> str:
    """A table in Markdown; all columns but the first are numbers."""
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def short(value: float) -> str:
    """Three significant digits, without an exponent."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}" if value >= 1e-3 else f"{value:.4f}"


def save(folder: Path, name: str, text: str, figures: dict) -> None:
    """Write ``name.md`` and ``name.json``."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.md").write_text(text, encoding="utf-8")
    (folder / f"{name}.json").write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


def application(main: Callable) -> typer.Typer:
    """A benchmark's command line, of its ``main``."""
    app = typer.Typer(add_completion=False)
    app.command()(main)
    return app
