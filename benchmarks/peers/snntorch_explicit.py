"""After snnTorch's tutorials 3 and 5: two layers with explicit state, rates as input, a loss at every time step."""

import snntorch.spikegen as spikegen
import torch
from snntorch import Leaky
from torch import nn

from benchmarks.peers.data import batches, digits

STEPS, BETA = 10, 0.95


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1 = nn.Linear(64, 100)
        self.lif1 = Leaky(beta=BETA)
        self.fc2 = nn.Linear(100, 10)
        self.lif2 = Leaky(beta=BETA, threshold=1.0, reset_mechanism="subtract")

    def forward(self, spikes_in):
        mem1, mem2 = self.lif1.reset_mem(), self.lif2.reset_mem()
        spikes, membranes = [], []
        for step in range(STEPS):
            spk1, mem1 = self.lif1(self.fc1(spikes_in[step]), mem1)
            spk2, mem2 = self.lif2(self.fc2(spk1), mem2)
            spikes.append(spk2)
            membranes.append(mem2)
        return torch.stack(spikes), torch.stack(membranes)


def main(seed: int) -> float:
    torch.manual_seed(seed)
    data, net = digits(), Net()
    optimizer, loss_of = torch.optim.Adam(net.parameters(), lr=2e-3), nn.CrossEntropyLoss()
    for x, y in batches(data, 64, 150, seed):
        _, membranes = net(spikegen.rate(x.flatten(1), num_steps=STEPS))
        loss = sum(loss_of(membrane, y) for membrane in membranes)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        spikes, _ = net(spikegen.rate(data.test_x.flatten(1), num_steps=STEPS))
    return (spikes.sum(0).argmax(1) == data.test_y).float().mean().item()
