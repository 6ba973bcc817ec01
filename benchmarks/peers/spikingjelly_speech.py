"""After SpikingJelly's Speech Commands network: convolutions over time and frequency, each before a LIF over the time.

The wrapper hands the neurons ``[T, channels, batch, bands]``, as there.
"""

import torch
from spikingjelly.activation_based import functional, surrogate
from spikingjelly.activation_based.neuron import LIFNode
from torch import nn

from benchmarks.peers.data import batches, tones


class LIFWrapper(nn.Module):
    def __init__(self, module: nn.Module, flatten: bool = False):
        super().__init__()
        self.module = module
        self.flatten = flatten

    def forward(self, x_seq):
        y_seq = self.module(x_seq.transpose(0, 2))
        return y_seq.permute(2, 0, 1, 3).flatten(2) if self.flatten else y_seq.transpose(0, 2)


def lif() -> nn.Module:
    return LIFNode(tau=10.0 / 7, surrogate_function=surrogate.Sigmoid(alpha=10.0), step_mode="m")


class Net(nn.Module):
    def __init__(self, channels: int = 8):
        super().__init__()
        self.conv = nn.Sequential(
            nn.Conv2d(1, channels, kernel_size=(4, 3), padding=(2, 1), bias=False),
            nn.BatchNorm2d(channels),
            LIFWrapper(lif()),
            nn.Conv2d(
                channels, channels, kernel_size=(4, 3), stride=(1, 2), padding=(6, 3), dilation=(4, 3), bias=False
            ),
            nn.BatchNorm2d(channels),
            LIFWrapper(lif(), flatten=True),
        )
        self.fc = nn.Linear(channels * 8, 3)

    def forward(self, x):
        return self.fc(self.conv(x)).mean(1)


def main(seed: int) -> float:
    torch.manual_seed(seed)
    data, net = tones(seed), Net()
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    for x, y in batches(data, 32, 80, seed):
        loss = nn.functional.cross_entropy(net(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        functional.reset_net(net)
    net.eval()
    with torch.no_grad():
        return (net(data.test_x).argmax(1) == data.test_y).float().mean().item()
