"""After SpikingJelly's rsnn_sequential_fmnist: an image row by row, through a layer that takes its own last spikes."""

import torch
from spikingjelly.activation_based import functional, layer, surrogate
from spikingjelly.activation_based.neuron import IFNode
from torch import nn

from benchmarks.peers.data import batches, digits


class FeedBackNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Sequential(
            layer.Linear(8, 32),
            layer.LinearRecurrentContainer(
                IFNode(surrogate_function=surrogate.ATan(), detach_reset=True),
                in_features=32,
                out_features=32,
                bias=True,
            ),
            layer.Linear(32, 10),
            IFNode(surrogate_function=surrogate.ATan()),
        )
        functional.set_step_mode(self, step_mode="m")

    def forward(self, x):
        return self.fc(x.squeeze(1).transpose(0, 1)).mean(0)  # rows are time steps


def main(seed: int) -> float:
    torch.manual_seed(seed)
    data, net = digits(), FeedBackNet()
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    for x, y in batches(data, 64, 400, seed):
        loss = nn.functional.cross_entropy(net(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        functional.reset_net(net)
    with torch.no_grad():
        return (net(data.test_x).argmax(1) == data.test_y).float().mean().item()
