"""From how many seeds a small network of learnable LIF learns, with each surrogate gradient.

::

    python -m benchmarks.surrogates

8 inputs, 16 and 3 neurons, Adam with a learning rate of 1e-2. The inputs of each of three classes are levels that the
seed draws, under noise, over 20 steps; the loss is the cross-entropy of the numbers of spikes. A network has learned if
it is right in more than 90 % of new inputs.
"""

from pathlib import Path
from typing import Annotated

import torch
import typer
from torch import Tensor, nn

import neurons
from benchmarks import report
from neurons.surrogate import SURROGATES

INPUTS, HIDDEN, CLASSES, STEPS, BATCH = 8, 16, 3, 20, 64
LEARNED = 0.9


class Net(nn.Module):
    """Two layers of learnable LIF."""

    def __init__(self, surrogate: str):
        super().__init__()
        self.fc1, self.lif1 = nn.Linear(INPUTS, HIDDEN), neurons.LearnableLIF(surrogate=surrogate)
        self.fc2, self.lif2 = nn.Linear(HIDDEN, CLASSES), neurons.LearnableLIF(surrogate=surrogate)

    def forward(self, x: Tensor) -> Tensor:
        """The spikes ``[B, CLASSES]`` of each output neuron over all steps of ``x [T, B, INPUTS]``."""
        hidden, _ = self.lif1(self.fc1(x))
        return self.lif2(self.fc2(hidden))[0].sum(0)


def accuracy(surrogate: str, seed: int, updates: int) -> float:
    """The share of new inputs that a network is right in after its training."""
    torch.manual_seed(seed)
    net, levels = Net(surrogate), torch.randn(CLASSES, INPUTS)

    def batch() -> tuple[Tensor, Tensor]:
        y = torch.randint(CLASSES, (BATCH,))
        return levels[y] + 0.5 * torch.randn(STEPS, BATCH, INPUTS), y

    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    for _ in range(updates):
        x, y = batch()
        loss = nn.functional.cross_entropy(net(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    x, y = batch()
    with torch.no_grad():
        return (net(x).argmax(1) == y).float().mean().item()


def described(rows: list[dict], where: dict) -> str:
    """The results as Markdown."""
    table = [[row["surrogate"], str(row["learned"]), ", ".join(map(str, row["accuracies"]))] for row in rows]
    parts = [
        "# Surrogate gradients",
        "`python -m benchmarks.surrogates`. A seed has learned if its accuracy is above 0.9.",
        report.described(where),
        report.table(["surrogate", "seeds that learned", "accuracies"], table),
    ]
    return "\n\n".join(parts) + "\n"


def main(
    seeds: Annotated[int, typer.Option(min=1, help="networks of each surrogate")] = 20,
    updates: Annotated[int, typer.Option(min=1, help="updates of each network")] = 200,
    output: Annotated[Path, typer.Option(help="folder for the results")] = report.RESULTS,
) -> None:
    """Count how many networks learn with each surrogate, and write the table."""
    where, rows = report.environment(torch.device("cpu"), report.use_threads(1)), []
    for surrogate in SURROGATES:
        found = [accuracy(surrogate, seed, updates) for seed in range(seeds)]
        rows.append(row_of(surrogate, found))
        print(rows[-1], flush=True)
    report.save(output, "surrogates", described(rows, where), {**where, "updates": updates, "rows": rows})


def row_of(surrogate: str, accuracies: list[float]) -> dict:
    """The figures of a surrogate."""
    learned = sum(right > LEARNED for right in accuracies)
    return {"surrogate": surrogate, "learned": learned, "accuracies": [round(right, 2) for right in accuracies]}


if __name__ == "__main__":
    report.application(main)()
