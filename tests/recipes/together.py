"""A training by the processes that ``accelerate launch`` starts, of which each writes down what it has in the end.

``python together.py DATA RUN EPOCHS`` writes ``RUN-<number of the process>.pt`` beside the folder of the run.
"""

import atexit
import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist

from recipes import processes
from recipes.multi30k import Trainer, Training, TranslatorConfig

CONFIG = TranslatorConfig(
    vocabulary=70, width=16, encoder_layers=1, decoder_layers=1, dropout=0.0, range_tracking="sequence"
)
OPTIONS = Training(
    epochs=2, tokens=60, learning_rate=1e-2, average=0.5, token_dropout=0.0, spike_penalty=0.1, bfloat16=False
)
"""No random numbers but those of the order of the batches."""


def train(data: Path, run: Path) -> Trainer:
    trainer = Trainer(data, run, CONFIG, OPTIONS)
    trainer.train()
    return trainer


def check_left() -> None:
    """Fail if the process still belongs to the others at its end, when their threads can abort it."""
    if dist.is_initialized():
        os._exit(3)


if __name__ == "__main__":
    atexit.register(check_left)  # before the training joins: what is registered later is called earlier
    data, run = map(Path, sys.argv[1:])
    ended = train(data, run)
    torch.save(
        {
            "model": ended.network.state_dict(),
            "average": ended.average.state_dict(),
            "log": [{k: v for k, v in row.items() if k != "seconds"} for row in ended.log],
            "shared": processes.shared(lambda part: [(x, processes.place().index) for x in part], range(5)),
        },
        f"{run}-{processes.place().index}.pt",
    )
