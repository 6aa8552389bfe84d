"""Muon: SGD with momentum whose steps are orthogonalised matrices."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

__all__ = ["Muon", "orthogonalise"]

# The quintic's coefficients of K. Jordan et al., "Muon: An optimizer for hidden layers in neural networks" (2024):
# steepest at zero, at the price of singular values that end between about 0.7 and 1.2.
_QUINTIC = (3.4445, -4.7750, 2.0315)


def orthogonalise(matrix: Tensor, steps: int = 5) -> Tensor:
    """Nearly U V^T of the matrix U S V^T, by Newton-Schulz iterations; float32 of shape (rows, columns)."""
    a, b, c = _QUINTIC
    x = matrix.float()
    tall = x.shape[0] > x.shape[1]
    if tall:
        x = x.T
    x = x / (x.norm() + 1e-7)
    for _ in range(steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * (gram @ gram)) @ x
    return x.T if tall else x


class Muon(torch.optim.Optimizer):
    """Muon for tensors of two or more dimensions, SGD with momentum for the others.

    A tensor (out, ...) is taken as a matrix of ``out`` rows. Its step is scaled by sqrt(max(1, rows / columns)), and
    its weight decay is decoupled: w <- w (1 - lr * weight_decay).

    Args:
        params: tensors or groups.
        lr: learning rate.
        momentum: of the average of gradients that is orthogonalised.
        nesterov: look one step ahead.
        weight_decay: decoupled for matrices, coupled for the others.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float,
        momentum: float = 0.9,
        nesterov: bool = True,
        weight_decay: float = 0.0,
    ) -> None:
        defaults = {"lr": lr, "momentum": momentum, "nesterov": nesterov, "weight_decay": weight_decay}
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One update from the gradients."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, group)
        return loss

    def _update(self, parameter: Tensor, group: dict[str, Any]) -> None:
        gradient = parameter.grad
        assert gradient is not None
        if not parameter.numel():  # of a layer that lost all its weights
            return
        matrix = parameter.dim() >= 2
        if not matrix and group["weight_decay"]:
            gradient = gradient.add(parameter, alpha=group["weight_decay"])
        state = self.state[parameter]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        buffer = state["momentum_buffer"].mul_(group["momentum"]).add_(gradient)
        update = gradient.add(buffer, alpha=group["momentum"]) if group["nesterov"] else buffer
        if matrix:
            if group["weight_decay"]:
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
            flat = update.reshape(update.shape[0], -1)
            # A single column is what a layer of unequal filters holds: no matrix, and as long as it has weights.
            scale = max(1.0, flat.shape[0] / flat.shape[1]) ** 0.5 if flat.shape[1] > 1 else 1.0
            update = orthogonalise(flat).reshape(update.shape).mul_(scale)
        parameter.add_(update, alpha=-group["lr"])
