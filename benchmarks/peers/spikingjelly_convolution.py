"""After SpikingJelly's conv_fashion_mnist: convolutions and batch normalisation over whole sequences (mode "m")."""

import torch
from spikingjelly.activation_based import functional, layer, surrogate
from spikingjelly.activation_based.neuron import IFNode
from torch import nn

from benchmarks.peers.data import batches, digits

STEPS = 4


class CSNN(nn.Module):
    def __init__(self, channels: int = 8):
        super().__init__()
        self.conv_fc = nn.Sequential(
            layer.Conv2d(1, channels, kernel_size=3, padding=1, bias=False),
            layer.BatchNorm2d(channels),
            IFNode(surrogate_function=surrogate.ATan()),
            layer.MaxPool2d(2, 2),
            layer.Conv2d(channels, channels, kernel_size=3, padding=1, bias=False),
            layer.BatchNorm2d(channels),
            IFNode(surrogate_function=surrogate.ATan()),
            layer.MaxPool2d(2, 2),
            layer.Flatten(),
            layer.Linear(channels * 4, 64, bias=False),
            IFNode(surrogate_function=surrogate.ATan()),
            layer.Linear(64, 10, bias=False),
            IFNode(surrogate_function=surrogate.ATan()),
        )
        functional.set_step_mode(self, step_mode="m")

    def forward(self, x):
        return self.conv_fc(x.unsqueeze(0).expand(STEPS, -1, -1, -1, -1)).mean(0)


def main(seed: int) -> float:
    torch.manual_seed(seed)
    data, net = digits(), CSNN()
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    for x, y in batches(data, 64, 100, seed):
        loss = nn.functional.mse_loss(net(x), nn.functional.one_hot(y, 10).float())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        functional.reset_net(net)
    net.eval()
    with torch.no_grad():
        return (net(data.test_x).argmax(1) == data.test_y).float().mean().item()
