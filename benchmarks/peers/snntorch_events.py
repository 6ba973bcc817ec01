"""After snnTorch's tutorial 7: an event camera's recordings of digits, frame by frame, and a loss of spike counts."""

from pathlib import Path

import snntorch.functional as SF
import snntorch.surrogate as surrogate
import snntorch.utils as utils
import torch
from snntorch import Leaky
from torch import nn

from benchmarks.peers.data import batches, events


def network() -> nn.Sequential:
    options = {"beta": 0.5, "spike_grad": surrogate.atan(), "init_hidden": True}
    return nn.Sequential(
        nn.Conv2d(2, 8, 5),
        nn.MaxPool2d(2),
        Leaky(**options),
        nn.Conv2d(8, 16, 5),
        nn.MaxPool2d(2),
        Leaky(**options),
        nn.Flatten(),
        nn.Linear(16 * 5 * 5, 10),
        Leaky(**options, output=True),
    )


def forward_pass(net, x):
    utils.reset(net)
    spikes = []
    for step in x.transpose(0, 1):
        spk, _ = net(step)
        spikes.append(spk)
    return torch.stack(spikes)


def main(seed: int, folder: Path) -> float:
    torch.manual_seed(seed)
    data, net = events(folder), network()
    optimizer = torch.optim.Adam(net.parameters(), lr=5e-3)
    loss_of = SF.mse_count_loss(correct_rate=0.8, incorrect_rate=0.2)
    for x, y in batches(data, 32, 120, seed):
        loss = loss_of(forward_pass(net, x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        return float(SF.accuracy_rate(forward_pass(net, data.test_x), data.test_y))
