"""After snnTorch's second regression tutorial: classes as targets of the membranes, with the library's loss."""

import snntorch.functional as SF
import snntorch.utils as utils
import torch
from snntorch import Leaky
from torch import nn

from benchmarks.peers.data import batches, digits

STEPS = 8


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1 = nn.Linear(64, 100)
        self.lif1 = Leaky(beta=0.9, learn_beta=True, init_hidden=True)
        self.fc2 = nn.Linear(100, 10)
        self.lif2 = Leaky(beta=0.9, learn_threshold=True, init_hidden=True, output=True)

    def forward(self, x):
        utils.reset(self)
        membranes = []
        for _ in range(STEPS):
            _, mem = self.lif2(self.fc2(self.lif1(self.fc1(x))))
            membranes.append(mem)
        return torch.stack(membranes)


def main(seed: int) -> float:
    torch.manual_seed(seed)
    data, net = digits(), Net()
    optimizer, loss_of = (
        torch.optim.Adam(net.parameters(), lr=3e-3),
        SF.mse_membrane_loss(on_target=1.05, off_target=0.2),
    )
    for x, y in batches(data, 64, 150, seed):
        loss = loss_of(net(x.flatten(1)), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        return (net(data.test_x.flatten(1)).sum(0).argmax(1) == data.test_y).float().mean().item()
