"""After snnTorch's tutorial 6: a convolutional Sequential with hidden state, a surrogate, and a loss of spike rates."""

import snntorch.functional as SF
import snntorch.surrogate as surrogate
import snntorch.utils as utils
import torch
from snntorch import Leaky
from torch import nn

from benchmarks.peers.data import batches, digits

STEPS = 6


def network() -> nn.Sequential:
    options = {"beta": 0.5, "spike_grad": surrogate.fast_sigmoid(slope=25), "init_hidden": True}
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1),
        nn.MaxPool2d(2),
        Leaky(**options),
        nn.Conv2d(8, 16, 3, padding=1),
        nn.MaxPool2d(2),
        Leaky(**options),
        nn.Flatten(),
        nn.Linear(64, 10),
        Leaky(**options, output=True),
    )


def forward_pass(net, x):
    utils.reset(net)
    spikes = []
    for _ in range(STEPS):
        spk, _ = net(x)
        spikes.append(spk)
    return torch.stack(spikes)


def main(seed: int) -> float:
    torch.manual_seed(seed)
    data, net = digits(), network()
    optimizer, loss_of = torch.optim.Adam(net.parameters(), lr=1e-2), SF.ce_rate_loss()
    for x, y in batches(data, 64, 120, seed):
        loss = loss_of(forward_pass(net, x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        return float(SF.accuracy_rate(forward_pass(net, data.test_x), data.test_y))
