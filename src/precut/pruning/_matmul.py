"""Convolutions of one image as products of matrices that are read in the order in which they lie in memory.

Scores are taken in float64 over a single image, where almost all the time goes into reading weights, and torch's own
float64 convolution reads them across their rows. Gradients of weights go straight into buffers that live as long as the
score, since fresh memory for all of them, every round, would cost as much as the products.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional as F

__all__ = ["Weight", "conv2d", "suits"]

_WIDE = 64  # pixels: up to here a product reads the weights' rows as they lie, above it reads the image's


class Weight:
    """An absolute weight and the buffer for its gradient.

    Attributes:
        value: float64, contiguous; of the dense shape.
        gradient: of the same shape; holds the gradient after a backward pass, if ``used``.
        used: whether a backward pass has reached it since ``clear``.
    """

    def __init__(self, value: torch.Tensor) -> None:
        self.value = value.contiguous()
        self.gradient = torch.empty_like(self.value)
        self.used = False

    @classmethod
    def like(cls, tensor: torch.Tensor) -> Weight:
        """One of a tensor's shape and device, without values yet."""
        return cls(torch.empty(tensor.shape, dtype=torch.float64, device=tensor.device))

    def clear(self) -> None:
        """Forgets the gradient."""
        self.used = False

    def add_(self, left: torch.Tensor, right: torch.Tensor) -> None:
        """Adds the product of two matrices to the gradient."""
        flat = self.gradient.view(len(self.gradient), -1)
        if self.used:
            flat.addmm_(left, right)
        else:
            torch.mm(left, right, out=flat)
        self.used = True

    def leaf(self) -> torch.Tensor:
        """The value for torch's own operators: a tensor whose gradient comes to this one's."""
        return _Leaf.apply(self.value, _Flag.of(self.value), self)


class _Flag:
    """What makes autograd call a function whose tensor inputs need no gradient."""

    @staticmethod
    def of(like: torch.Tensor) -> torch.Tensor:
        return like.new_zeros(()).requires_grad_()


class _Leaf(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: torch.Tensor, flag: torch.Tensor, weight: Weight) -> torch.Tensor:
        ctx.weight = weight
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        weight: Weight = ctx.weight
        if weight.used:
            weight.gradient.add_(gradients[0])
        else:
            weight.gradient.copy_(gradients[0])
        weight.used = True
        return None, None, None


class _Conv(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, flag: torch.Tensor, weight: Weight, how: tuple[Any, ...]) -> torch.Tensor:
        stride, padding, dilation = how
        kernel = weight.value.shape[2:]
        rows, across = (
            (x.shape[2 + d] + 2 * padding[d] - dilation[d] * (kernel[d] - 1) - 1) // stride[d] + 1 for d in (0, 1)
        )
        matrix = weight.value.view(len(weight.value), -1)
        columns = F.unfold(x, kernel, dilation, padding, stride)[0]
        if rows * across > _WIDE:
            made = torch.mm(matrix, columns)
        else:
            columns = columns.t().contiguous()
            made = torch.mm(columns, matrix.t()).t().contiguous()
        ctx.save_for_backward(columns)
        ctx.weight, ctx.how, ctx.size, ctx.places = weight, how, x.shape[2:], rows * across
        return made.reshape(1, -1, rows, across)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        weight: Weight = ctx.weight
        stride, padding, dilation = ctx.how
        gradient, columns = gradients[0].reshape(len(weight.value), -1), ctx.saved_tensors[0]
        matrix = weight.value.view(len(weight.value), -1)
        wide = ctx.places > _WIDE
        weight.add_(gradient, columns.t() if wide else columns)
        given = None
        if ctx.needs_input_grad[0]:
            back = torch.mm(matrix.t(), gradient) if wide else torch.mm(gradient.t().contiguous(), matrix).t()
            given = F.fold(back[None], ctx.size, weight.value.shape[2:], dilation, padding, stride)
        return given, None, None, None


def suits(x: torch.Tensor, weight: Weight, groups: int, padding: Any) -> bool:
    """Whether ``conv2d`` takes this call."""
    return x.ndim == 4 and len(x) == 1 and groups == 1 and not isinstance(padding, str)


def conv2d(x: torch.Tensor, weight: Weight, stride: Any, padding: Any, dilation: Any) -> torch.Tensor:
    """The convolution of one image, (1, C, H, W) float64, without bias; the weight's gradient goes to its buffer."""
    return _Conv.apply(x, _Flag.of(x), weight, (stride, padding, dilation))
