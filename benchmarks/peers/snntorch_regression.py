"""After snnTorch's first regression tutorial: the membrane of a neuron that is never reset follows a curve over time.

The score is the share of the variance that is explained.
"""

import torch
from snntorch import Leaky
from torch import nn

STEPS = 20


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1 = nn.Linear(1, 64)
        self.lif1 = Leaky(beta=torch.rand(64), learn_beta=True, threshold=1.0)
        self.fc2 = nn.Linear(64, 64)
        self.lif2 = Leaky(beta=torch.rand(64), learn_beta=True, threshold=1.0)
        self.fc3 = nn.Linear(64, 1)
        self.lif3 = Leaky(beta=0.8, learn_beta=True, reset_mechanism="none")

    def forward(self, x):
        mem1, mem2, mem3 = self.lif1.reset_mem(), self.lif2.reset_mem(), self.lif3.reset_mem()
        membranes = []
        for step in x:
            spk1, mem1 = self.lif1(self.fc1(step), mem1)
            spk2, mem2 = self.lif2(self.fc2(spk1), mem2)
            _, mem3 = self.lif3(self.fc3(spk2), mem3)
            membranes.append(mem3)
        return torch.stack(membranes)


def curves(examples: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Ramps of different slope ``[STEPS, examples, 1]``, and their square roots."""
    slope = torch.rand(1, examples, 1)
    ramp = slope * torch.linspace(0, 2, STEPS)[:, None, None]
    return ramp, ramp.sqrt()


def main(seed: int) -> float:
    torch.manual_seed(seed)
    net = Net()
    optimizer, loss_of = torch.optim.Adam(net.parameters(), lr=5e-3), nn.MSELoss()
    for _ in range(120):
        x, y = curves(64)
        loss = loss_of(net(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        x, y = curves(256)
        return 1 - (loss_of(net(x), y) / y.var()).item()
