"""Muon, the optimiser of weight matrices (https://kellerjordan.github.io/posts/muon).

It makes the momentum of a matrix orthogonal, so that a step is equally large in all directions. Its steps are scaled to
the size of AdamW's, so that one learning rate serves both, and its weight decay is 0.1 (Liu et al. 2025,
https://arxiv.org/abs/2502.16982).
"""

from typing import Any

import torch
from torch import Tensor, nn

from recipes import bfloat16


def muon(matrices: list[nn.Parameter], learning_rate: float) -> torch.optim.Optimizer:
    """torch's Muon for ``matrices``; with products in float32 where torch's own, in bfloat16, are slow.

    Raises ImportError if torch has no Muon.
    """
    if not hasattr(torch.optim, "Muon"):
        raise ImportError(
            f"Muon came with torch 2.9 and this is {torch.__version__}: pip install 'torch>=2.9,<2.14', or train "
            "all with AdamW (--no-muon)"
        )
    kind = torch.optim.Muon if bfloat16.is_fast(matrices[0].device.type) else in_float32()
    return kind(matrices, learning_rate, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")


def in_float32() -> type[torch.optim.Muon]:
    """Muon with products in the precision of the weights; its state and options are those of torch's."""

    class Muon(torch.optim.Muon):
        @torch.no_grad()
        def step(self, closure: Any = None) -> Any:
            for group in self.param_groups:
                for p in (p for p in group["params"] if p.grad is not None):
                    momentum = self.state[p].setdefault("momentum_buffer", torch.zeros_like(p))
                    momentum.lerp_(p.grad, 1 - group["momentum"])
                    ahead = p.grad.lerp(momentum, group["momentum"])
                    step = orthogonal(ahead, group["ns_coefficients"], group["ns_steps"], group["eps"])
                    p.mul_(1 - group["lr"] * group["weight_decay"])
                    p.add_(step, alpha=-0.2 * max(p.shape) ** 0.5 * group["lr"])

    return Muon


def orthogonal(matrix: Tensor, coefficients: tuple[float, float, float], steps: int, smallest: float) -> Tensor:
    """About ``U V^T`` of ``matrix = U S V^T``, by Newton-Schulz steps ``X = a X + (b X X^T + c (X X^T)^2) X``.

    ``a, b, c`` are the ``coefficients``; ``X`` starts as the matrix over its Frobenius norm, at least ``smallest``.
    """
    a, b, c = coefficients
    tall = len(matrix) > matrix.shape[1]
    x = matrix.T if tall else matrix
    x = x / x.norm().clamp(min=smallest)
    for _ in range(steps):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.T if tall else x
