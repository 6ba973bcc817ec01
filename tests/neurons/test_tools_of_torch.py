"""The neurons under torch's transforms, exports and counters: what works, and the remedy for what does not."""

import io
import os
import subprocess
import sys
import warnings

import pytest
import torch
from registered import EVERY, MULTI_BIT, build, currents
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

import neurons

every_neuron = pytest.mark.parametrize("name", EVERY)
multi_bit_neuron = pytest.mark.parametrize("name", MULTI_BIT)
both_backends = pytest.mark.parametrize("backend", ["auto", "torch"])


def loss(neuron: neurons.Neuron, x: Tensor) -> Tensor:
    y, _ = neuron(x)
    return (y * torch.arange(y.numel()).view_as(y).cos()).sum()


def gradient(neuron: neurons.Neuron, x: Tensor) -> Tensor:
    x = x.detach().clone().requires_grad_()
    loss(neuron, x).backward()
    return x.grad


# Transforms


@every_neuron
@both_backends
def test_a_batch_of_gradients_is_each_of_them(name, backend):
    neuron = build(name, 4, backend)
    x = currents(neuron, 6, 2, 4, 0).requires_grad_()
    y, _ = neuron(x)
    grads = torch.randn(3, *y.shape)
    (together,) = torch.autograd.grad(y, x, grads, is_grads_batched=True, retain_graph=True)
    for grad, found in zip(grads, together):
        torch.testing.assert_close(found, torch.autograd.grad(y, x, grad, retain_graph=True)[0])


@every_neuron
@both_backends
def test_a_vectorized_jacobian_is_the_jacobian(name, backend):
    neuron = build(name, 3, backend).eval()
    x = currents(neuron, 5, 1, 3, 0)
    jacobians = [
        torch.autograd.functional.jacobian(lambda x: neuron(x)[0].sum((1, 2)), x, vectorize=vectorize)
        for vectorize in (False, True)
    ]
    torch.testing.assert_close(*jacobians)


@every_neuron
@both_backends
def test_vmap_is_a_loop(name, backend):
    neuron = build(name, 4, backend).eval()
    xs = torch.stack([currents(neuron, 6, 2, 4, seed) for seed in range(3)])
    found = torch.func.vmap(lambda x: neuron(x)[0])(xs)
    torch.testing.assert_close(found, torch.stack([neuron(x)[0] for x in xs]))


DERIVATIVES = {
    "derivative for torch.func": lambda neuron, x: torch.func.grad(lambda x: loss(neuron, x))(x),
    "forward-mode derivative": lambda neuron, x: torch.func.jvp(lambda x: neuron(x)[0], (x,), (torch.ones_like(x),)),
    "second derivative": lambda neuron, x: torch.autograd.functional.hessian(lambda x: loss(neuron, x).square(), x),
}


@every_neuron
@pytest.mark.parametrize("kind", DERIVATIVES)
def test_a_derivative_that_a_kernel_lacks_is_an_error_whose_way_out_works(name, kind):
    neuron = build(name, 3, "auto").eval()
    x = currents(neuron, 5, 1, 3, 0)
    with pytest.raises(NotImplementedError, match=f'no {kind}; set backend = "torch" on the neuron'):
        DERIVATIVES[kind](neuron, x)
    neuron.backend = "torch"
    DERIVATIVES[kind](neuron, x)


@every_neuron
def test_torch_func_gives_the_gradients_of_autograd_alone_and_in_batches(name):
    neuron = build(name, 4, "torch").eval()
    xs = torch.stack([currents(neuron, 6, 2, 4, seed) for seed in range(3)])
    single = torch.func.grad(lambda x: loss(neuron, x))
    expected = torch.stack([gradient(neuron, x) for x in xs])
    torch.testing.assert_close(torch.stack([single(x) for x in xs]), expected)
    torch.testing.assert_close(torch.func.vmap(single)(xs), expected)


@every_neuron
def test_a_forward_mode_derivative_is_the_product_with_the_jacobian(name):
    neuron = build(name, 3, "torch").eval()
    x = currents(neuron, 5, 1, 3, 0)
    tangent = torch.randn_like(x)
    _, found = torch.func.jvp(lambda x: neuron(x)[0].flatten(), (x,), (tangent,))
    jacobian = torch.autograd.functional.jacobian(lambda x: neuron(x)[0].flatten(), x)
    torch.testing.assert_close(found, jacobian.flatten(1) @ tangent.flatten())


@multi_bit_neuron
def test_a_range_that_torch_func_cannot_move_is_an_error_whose_ways_out_work(name):
    neuron = build(name, 3, "torch").train()
    x = currents(neuron, 5, 1, 3, 0)
    before = {key: value.clone() for key, value in neuron.state_dict().items()}
    call = torch.func.grad(lambda x: loss(neuron, x))
    with pytest.raises(RuntimeError, match=r'\.eval\(\) on the network, or fix the range \(range_tracking="fixed"\)'):
        call(x)
    assert all(torch.equal(value, before[key]) for key, value in neuron.state_dict().items())
    assert torch.func.grad(lambda x: loss(neuron.eval(), x))(x).shape == x.shape
    fixed = build(name, 3, "torch", range_tracking="fixed").train()
    assert torch.func.grad(lambda x: loss(fixed, x))(x).shape == x.shape


# Tracing and export


@every_neuron
def test_a_traced_neuron_takes_sequences_of_any_length(name):
    neuron = build(name, 4, "auto").eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own warnings about tracing
        traced = torch.jit.trace(neuron, (currents(neuron, 6, 2, 4, 0),), check_trace=False)
    x = currents(neuron, 15, 2, 4, 1)
    assert torch.equal(traced(x)[0], neuron(x)[0])


@every_neuron
@both_backends
@pytest.mark.parametrize("dynamo", [pytest.param(False, marks=pytest.mark.slow), True])
def test_an_exported_neuron_computes_the_same_in_onnx(name, backend, dynamo, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime", reason="pip install onnx onnxscript onnxruntime")
    neuron = build(name, 4, backend).eval()
    x, file = currents(neuron, 6, 2, 4, 0), str(tmp_path / "neuron.onnx")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(neuron, (x,), file, dynamo=dynamo, verbose=False)
    session = onnxruntime.InferenceSession(file)
    y = session.run(None, {session.get_inputs()[0].name: x.numpy()})[0]
    torch.testing.assert_close(torch.from_numpy(y), neuron(x)[0].detach())


def test_an_export_to_onnx_needs_nothing_but_torch_s_operators():
    neuron = build("input-gated-lif", 4, "auto").eval()
    x = currents(neuron, 6, 2, 4, 0)
    exported = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            torch.onnx.export(neuron, (x,), exported, dynamo=False)
        except Exception as error:
            assert "onnx is not installed" in str(error).lower()
    assert neuron.last_backend == "torch"


# Counters


@pytest.mark.parametrize("training", [False, True])
def test_torch_counts_the_products_of_the_recurrent_scan(training):
    neuron = build("recurrent-gated-lif", 8, "cpu").train(training)
    x = currents(neuron, 5, 3, 8, 0).requires_grad_()
    with FlopCounterMode(display=False) as counter:
        neuron(x)[0].sum().backward()
    one = 2 * 5 * 3 * 8 * 16
    assert counter.get_total_flops() == 3 * one
    assert neuron.last_backend == "cpu"


# Without a compiler


def test_with_numba_switched_off_auto_runs_in_torch_and_says_so():
    code = (
        "import torch, neurons, warnings\n"
        "neuron = neurons.InputGatedLIF().eval()\n"
        "with warnings.catch_warnings(record=True) as said:\n"
        "    warnings.simplefilter('always')\n"
        "    neuron(torch.rand(3, 2, 4))\n"
        "print(neuron.last_backend, said[0].message)\n"
        "neuron.backend = 'cpu'\n"
    )
    environment = {**os.environ, "NUMBA_DISABLE_JIT": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.stdout.startswith("torch ") and "NUMBA_DISABLE_JIT is set" in done.stdout
    assert done.stderr.splitlines()[-1].startswith('ImportError: backend "cpu" needs a Numba that compiles')
