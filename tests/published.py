"""Networks of the papers' own code, and checks that a library's neurons reproduce its numbers.

``build(name, **options)`` makes a neuron; ``run(neuron, x)`` scans a sequence with it.
"""

import numpy as np
import pytest
import torch
from torch import nn

import neurons

PR22 = ["pr22_traditional", "pr22_v1", "pr22_v2"]


class PublishedNetwork(nn.Module):
    """PR22's two-layer network: encoder, then twice linear, batch norm, neuron, then linear and batch norm."""

    def __init__(self, kind: str, bits: int, threshold: int, build=neurons.create):
        super().__init__()
        self.gated = kind != "pr22_traditional"
        spike = {"bits": bits, "threshold_levels": threshold, "range_tracking": "step"}
        self.encoder = build("multibit-lif", leak=1.0, learn_leak=False, **spike)
        per = 2 if self.gated else 1
        self.linears = nn.ModuleList([nn.Linear(n, 16 * per, bias=False) for n in (12, 16)])
        self.norms = nn.ModuleList([nn.ModuleList([nn.BatchNorm1d(16) for _ in range(per)]) for _ in range(2)])
        name = {
            "pr22_traditional": "multibit-synaptic-lif",
            "pr22_v1": "input-gated-lif",
            "pr22_v2": "recurrent-gated-lif",
        }[kind]
        size = {} if kind == "pr22_v1" else {"channels": 16}
        self.neurons = nn.ModuleList([build(name, **size, **spike) for _ in range(2)])
        self.final = nn.Linear(16, 7, bias=False)
        self.final_norm = nn.BatchNorm1d(7)

    def layer_inputs(self, layer: int, y: torch.Tensor) -> torch.Tensor:
        current = self.linears[layer](y)
        parts = current.chunk(len(self.norms[layer]), dim=-1)
        normed = [norm(p.flatten(0, 1)).view_as(p) for norm, p in zip(self.norms[layer], parts)]
        return torch.cat(normed, dim=-1)

    def forward(self, x: torch.Tensor, run=lambda neuron, x: neuron(x)[0]):
        spikes = [run(self.encoder, x)]
        for layer in range(2):
            spikes.append(run(self.neurons[layer], self.layer_inputs(layer, spikes[-1])))
        return spikes, torch.log_softmax(self.final_norm(self.final(spikes[-1]).flatten(0, 1)), -1)


def load_published(network: PublishedNetwork, numbers, when: str) -> None:
    """Fill the network from the published state dict, from "before" or "after" training (``when``)."""

    def put(target: torch.Tensor, name: str, transpose: bool = False) -> None:
        value = torch.from_numpy(numbers[f"{when}/{name}"])
        with torch.no_grad():
            target.copy_(value.T if transpose else value.reshape(target.shape))

    def put_norm(norm: nn.BatchNorm1d, name: str) -> None:
        for part in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):
            put(getattr(norm, part), f"{name}.{part}")

    def put_range(neuron, name: str) -> None:
        # Averages that start from zero, as in our earlier state dicts.
        parts = {"minimum": "tracked_min_biased", "maximum": "tracked_max_biased", "updates": "iter_count"}
        state = {part: torch.from_numpy(numbers[f"{when}/{name}.{key}"]).reshape(()) for part, key in parts.items()}
        neuron.spike_range.load_state_dict({"initial": torch.tensor(1.0), **state})

    put_range(network.encoder, "fsq_x")
    for i in range(2):
        put(network.linears[i].weight, f"linear_ws.{i}.weight")
        names = ["bn_zs", "bn_cs"] if network.gated else ["bn_ws"]
        for norm, name in zip(network.norms[i], names):
            put_norm(norm, f"{name}.{i}")
        put_range(network.neurons[i], f"fsq_hs.{i}")
        if hasattr(network.neurons[i], "tau"):
            put(network.neurons[i].tau, f"taus.{i}")
        if hasattr(network.neurons[i], "recurrent_weight"):
            put(network.neurons[i].recurrent_weight, f"linear_us.{i}.weight", transpose=True)
    put(network.final.weight, "final_linear.weight")
    put_norm(network.final_norm, "final_bn")


def published_gradients(network: PublishedNetwork, numbers) -> dict[str, tuple[torch.Tensor, np.ndarray]]:
    """Our gradient and the published one, for every parameter."""
    pairs = {}
    for i in range(2):
        pairs[f"linear_ws.{i}.weight"] = network.linears[i].weight.grad
        for norm, name in zip(network.norms[i], ["bn_zs", "bn_cs"] if network.gated else ["bn_ws"]):
            pairs[f"{name}.{i}.weight"], pairs[f"{name}.{i}.bias"] = norm.weight.grad, norm.bias.grad
        if hasattr(network.neurons[i], "tau"):
            pairs[f"taus.{i}"] = network.neurons[i].tau.grad
        if hasattr(network.neurons[i], "recurrent_weight"):
            pairs[f"linear_us.{i}.weight"] = network.neurons[i].recurrent_weight.grad.T
    pairs["final_linear.weight"] = network.final.weight.grad
    pairs["final_bn.weight"], pairs["final_bn.bias"] = network.final_norm.weight.grad, network.final_norm.bias.grad
    return {name: (ours, numbers[f"grad/{name}"]) for name, ours in pairs.items()}


def close(ours: torch.Tensor, published: np.ndarray, **tolerance) -> None:
    published = torch.from_numpy(np.asarray(published)).view_as(ours).to(ours.dtype)
    torch.testing.assert_close(ours.detach(), published, **tolerance)


def check_published_network(network, numbers, run=lambda neuron, x: neuron(x)[0]) -> None:
    """Outputs, gradients and range statistics of training, then outputs of evaluation."""
    load_published(network, numbers, "before")
    x, target = torch.from_numpy(numbers["x"]), torch.from_numpy(numbers["target"])

    spikes, log_softmax = network.train()(x, run)
    for ours, name in zip(spikes, ["input", "layer1", "layer2"]):
        close(ours, numbers[f"train/{name}_spikes"], rtol=1e-4, atol=1e-5)
    close(log_softmax, numbers["log_softmax"], rtol=1e-4, atol=1e-4)
    loss = nn.functional.nll_loss(log_softmax, target)
    assert loss.item() == pytest.approx(float(numbers["loss"]), rel=1e-5)
    loss.backward()
    for name, (ours, published) in published_gradients(network, numbers).items():
        close(ours, published, rtol=1e-3, atol=1e-5, msg=f"the gradient of {name} differs")
    for neuron, name in zip([network.encoder, *network.neurons], ["fsq_x", "fsq_hs.0", "fsq_hs.1"]):
        tracked = neuron.spike_range
        corrected = 1 - (1 - tracked.momentum) ** tracked.updates
        close(tracked.minimum * corrected, numbers[f"after/{name}.tracked_min_biased"], rtol=1e-5, atol=1e-6)
        close(tracked.maximum * corrected, numbers[f"after/{name}.tracked_max_biased"], rtol=1e-5, atol=1e-6)
        close(tracked.updates, numbers[f"after/{name}.iter_count"])
        close(neuron.spike().scale, numbers[f"after/{name}.scale"], rtol=1e-5, atol=0)

    load_published(network, numbers, "after")
    with torch.no_grad():
        spikes, log_softmax = network.eval()(x, run)
    for ours, name in zip(spikes, ["input", "layer1", "layer2"]):
        close(ours, numbers[f"eval/{name}_spikes"], rtol=1e-4, atol=1e-5)
    close(log_softmax, numbers["eval_log_softmax"], rtol=1e-4, atol=1e-4)


def check_published_learnable_lif(numbers, build, run=lambda neuron, x: neuron(x)) -> None:
    """Spikes, membrane and the gradients of x, leak and threshold."""
    neuron = build(
        "learnable-lif",
        leak=float(numbers["leak"]),
        threshold=float(numbers["threshold"]),
        gamma=float(numbers["gamma"]),
    )
    x = torch.from_numpy(numbers["x"]).requires_grad_()
    spikes, state = run(neuron, x)
    close(spikes, numbers["spikes"], rtol=0, atol=0)
    close(state.membrane, numbers["membrane"][-1], rtol=1e-5, atol=1e-5)
    weight = torch.from_numpy(numbers["spike_weight"])
    last_weight = torch.from_numpy(numbers["last_membrane_weight"])
    ((spikes * weight).sum() + (state.membrane * last_weight).sum()).backward()
    gradients = {k: numbers[k] for k in numbers.files if "grad" in k}
    ours = {"x": x.grad, "leak": neuron.leak.grad, "threshold": neuron.threshold.grad}
    for name, published in gradients.items():
        key = next(k for k in ours if k in name.replace("grad", ""))
        close(ours[key], published, rtol=1e-4, atol=1e-5)
