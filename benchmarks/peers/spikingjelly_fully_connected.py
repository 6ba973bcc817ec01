"""After SpikingJelly's lif_fc_mnist: one layer, Poisson spikes step by step, and a loss of the firing rate."""

import torch
from spikingjelly.activation_based import encoding, functional, layer, surrogate
from spikingjelly.activation_based.neuron import LIFNode
from torch import nn

from benchmarks.peers.data import batches, digits

STEPS = 10


def rates(net, encoder, x):
    fired = sum(net(encoder(x)) for _ in range(STEPS))
    functional.reset_net(net)
    return fired / STEPS


def main(seed: int) -> float:
    torch.manual_seed(seed)
    data = digits()
    net = nn.Sequential(
        layer.Flatten(),
        layer.Linear(64, 10, bias=False),
        LIFNode(tau=2.0, surrogate_function=surrogate.ATan()),
    )
    encoder, optimizer = encoding.PoissonEncoder(), torch.optim.Adam(net.parameters(), lr=2e-2)
    for x, y in batches(data, 64, 150, seed):
        loss = nn.functional.mse_loss(rates(net, encoder, x), nn.functional.one_hot(y, 10).float())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        return (rates(net, encoder, data.test_x).argmax(1) == data.test_y).float().mean().item()
