"""Counts compared with those of NeuroBench itself, wherever both mean the same."""

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import neurons
import zoo

pytest.importorskip("neurobench", reason='NeuroBench is not installed: pip install "snn-zoo[neurobench]"')
from neurobench.benchmarks import Benchmark
from neurobench.metrics.static import Footprint, ParameterCount
from neurobench.metrics.workload import ActivationSparsity, SynapticOperations

from zoo.profiling.neurobench import NetworkForNeuroBench

T, B, C, N = 9, 4, 6, 8


class Network(nn.Module):
    """Convolution and linear layers around two neurons, on ``[T, B, 1, 6, 6]``."""

    def __init__(self, first, second):
        super().__init__()
        self.conv = nn.Conv2d(1, 3, 3, stride=2, bias=False)
        self.first, self.second = first, second
        self.flat = nn.Flatten(2)
        self.linear = nn.Linear(12, N)
        self.readout = nn.Linear(N, 3)

    def forward(self, x):
        y, _ = self.first(self.conv(x.flatten(0, 1)).unflatten(0, x.shape[:2]))
        y, _ = self.second(self.linear(self.flat(y)))
        return self.readout(y)


def measured_by_neurobench(net, x, **options):
    data = DataLoader(TensorDataset(x.transpose(0, 1), torch.zeros(x.shape[1])), batch_size=x.shape[1])
    metrics = [[Footprint, ParameterCount], [ActivationSparsity, SynapticOperations]]
    benchmark = Benchmark(NetworkForNeuroBench(net), data, [], [], metrics)
    return benchmark.run(quiet=True, **options)


def weight_layers(net, x):
    total = zoo.profiling.Counts()
    profile = zoo.profile(net, (x,))
    for row in profile.rows:
        if row.kind in ("Conv2d", "Linear"):
            total += row.counts
    biases = x.shape[0] * x.shape[1] * (N + 3)
    return profile, total, biases


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("input_kind", ["spikes", "numbers"])
def test_synaptic_operations_sparsity_and_footprint_are_neurobench_s(binary, input_kind):
    torch.manual_seed(0)
    neuron = neurons.LearnableLIF if binary else neurons.MultiBitLIF
    net = Network(neuron(), neuron()).eval()
    x = torch.randn(T, B, 1, 6, 6) if input_kind == "numbers" else (torch.rand(T, B, 1, 6, 6) < 0.3).float()
    theirs = measured_by_neurobench(net, x)
    profile, ours, biases = weight_layers(net, x)

    operations = {key: value * B for key, value in theirs["SynapticOperations"].items()}
    nonzero = ours.multiplications - ours.multiplications_by_zero
    assert operations["Dense"] == ours.dense_macs
    assert operations["Effective_MACs"] == nonzero + ours.integer_multiplications
    binary_spikes = ours.additions - biases - ours.multiplications - ours.integer_multiplications
    assert operations["Effective_ACs"] == binary_spikes
    assert operations["Effective_ACs"] + operations["Effective_MACs"] > 0
    assert theirs["ActivationSparsity"] == pytest.approx(1 - profile.spike_rate)
    assert theirs["Footprint"] == profile.bytes
    assert theirs["ParameterCount"] == profile.parameters


@pytest.mark.parametrize("cell", [nn.LSTMCell, nn.GRUCell])
def test_recurrent_cells_multiply_as_often_as_neurobench_says(cell):
    class Loop(nn.Module):
        def __init__(self):
            super().__init__()
            self.cell = cell(C, N)

        def forward(self, x):
            state = (torch.rand(x.shape[1], N), torch.rand(x.shape[1], N)) if cell is nn.LSTMCell else torch.rand(B, N)
            outputs = []
            for step in x:
                state = self.cell(step, state)
                outputs.append(state[0] if isinstance(state, tuple) else state)
            return torch.stack(outputs)

    net = Loop()
    x = torch.randn(T, B, C)
    dense = measured_by_neurobench(net, x)["SynapticOperations"]["Dense"] * B
    assert dense == zoo.profile(net, (x,)).counts.multiplications


def test_what_it_returns_has_the_batch_first():
    net = nn.Sequential(nn.Linear(C, N), neurons.LearnableLIF())
    x = torch.randn(T, B, C)
    torch.testing.assert_close(NetworkForNeuroBench(net)(x.transpose(0, 1)).transpose(0, 1), net(x)[0])
