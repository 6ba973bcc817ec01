"""What every recipe's trainer must do after an interruption."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from recipes.training import Trainer


def ends_as_if_never_interrupted(trainer: Callable[[Path], Trainer], folder: Path) -> None:
    """Assert that a run of two epochs, interrupted after the first, has the weights and log of an uninterrupted run."""
    whole = trainer(folder / "whole")
    whole.train()
    interrupted = trainer(folder / "interrupted")
    interrupted.save_checkpoint = lambda save=interrupted.save_checkpoint: (save(), exec("raise KeyboardInterrupt"))
    with pytest.raises(KeyboardInterrupt):
        interrupted.train()
    resumed = trainer(folder / "interrupted")
    assert resumed.epoch == 1
    resumed.train()

    for model, again in ((whole.network, resumed.network), (whole.average, resumed.average)):
        for name, value in model.state_dict().items():
            assert torch.equal(value, again.state_dict()[name]), name
    log = [json.loads(line) for line in (folder / "interrupted" / "log.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in log] == [1, 2]
    assert (folder / "interrupted" / "training.png").stat().st_size > 1000
