"""Muon, and products in bfloat16, on machines with and without instructions for it."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from recipes import bfloat16
from recipes.muon import in_float32, muon, orthogonal

COEFFICIENTS = (3.4445, -4.775, 2.0315)
"""Those of torch's Muon."""


@settings(deadline=None)
@given(rows=st.integers(1, 40), columns=st.integers(1, 40), seed=st.integers(0, 99))
def test_the_step_has_the_directions_of_the_matrix_and_sizes_near_one(rows, columns, seed):
    torch.manual_seed(seed)
    u, _, v = torch.linalg.svd(torch.randn(rows, columns), full_matrices=False)
    sizes = torch.linspace(0.5, 2.0, min(rows, columns))
    found = u.T @ orthogonal(u * sizes @ v, COEFFICIENTS, 5, 1e-7) @ v.T
    assert (found.diagonal() > 0.6).all() and (found.diagonal() < 1.3).all()
    assert torch.allclose(found, found.diagonal().diag(), atol=1e-3)


def test_a_step_of_nothing_is_nothing():
    assert (orthogonal(torch.zeros(3, 5), COEFFICIENTS, 5, 1e-7) == 0).all()


def trained(kind, weights: list[nn.Parameter], steps: int, state=None) -> torch.optim.Optimizer:
    """An optimiser after some steps towards a fixed target, and ``weights`` too."""
    optimiser = kind(weights, 0.02, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    if state:
        optimiser.load_state_dict(state)
    for step in range(steps):
        torch.manual_seed(step)
        for weight in weights:
            F.mse_loss(torch.randn(20, weight.shape[1]) @ weight.T, torch.ones(20, len(weight))).backward()
        optimiser.step()
        optimiser.zero_grad()
    return optimiser


def matrices() -> list[nn.Parameter]:
    torch.manual_seed(1)
    return [nn.Parameter(torch.randn(shape)) for shape in ((6, 9), (9, 6), (5, 5))]


def test_steps_in_float32_are_those_of_torch_but_for_rounding():
    own, others, before = matrices(), matrices(), matrices()
    ours, torchs = trained(in_float32(), own, 6), trained(torch.optim.Muon, others, 6)
    for mine, theirs, start in zip(own, others, before):
        moved = (theirs - start).norm()
        assert moved > 0.1 and (mine - theirs).norm() < 0.03 * moved
    assert ours.state_dict()["param_groups"] == torchs.state_dict()["param_groups"]


def test_a_training_with_torch_s_goes_on_in_float32_and_back():
    weights, expected = matrices(), matrices()
    first = trained(torch.optim.Muon, weights, 3)
    second = trained(in_float32(), weights, 3, copy.deepcopy(first.state_dict()))
    trained(torch.optim.Muon, weights, 3, copy.deepcopy(second.state_dict()))
    trained(torch.optim.Muon, expected, 3, trained(torch.optim.Muon, expected, 6).state_dict())
    for found, right in zip(weights, expected):
        assert (found - right).norm() < 0.03 * right.norm()


@pytest.mark.parametrize("fast", [True, False])
def test_the_machine_decides_which_one_is_used(fast, monkeypatch):
    monkeypatch.setattr(bfloat16, "is_fast", lambda device_type: fast)
    assert (type(muon(matrices(), 0.01)) is torch.optim.Muon) == fast
    a = torch.randn(4, 4)
    with bfloat16.products("cpu", True):
        assert (a @ a).dtype == (torch.bfloat16 if fast else torch.float32)
    with bfloat16.products("cpu", False):
        assert (a @ a).dtype == torch.float32
