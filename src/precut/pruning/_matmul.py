"""Convolutions of one image as products of matrices that are read in the order in which they lie in memory.

Scores are taken in float64 over a single image, where almost all the time goes into reading weights, and torch's own
float64 convolution reads them across their rows. A weight's gradient is the product of two small matrices, and stays one:
whoever looks at it multiplies part by part, in the cache, and never writes it all down.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch.nn import functional as F

from precut.pruning._few import Few
from precut.pruning._select import PART, Floats, Piece

__all__ = ["Weight", "conv2d", "linear", "suits"]

_WIDE = 64  # pixels: up to here a product reads the weights' rows as they lie, above it reads the image's
_ALWAYS = 1 << 20
_GATHERED = 3  # picking one number of the gradient costs about as much as multiplying three


class Weight:
    """An absolute weight, and its gradient as what it is the product of.

    Attributes:
        value: float64, contiguous; of the dense shape.
        left, right: matrices whose products sum to the gradient, rows of the weight by columns of it.
        rest: what else the gradient has, of the dense shape; or None.
        few: the weights that are left, once these are few; ``value`` is then out of date.
    """

    def __init__(self, value: torch.Tensor) -> None:
        self.value = value.contiguous()
        self.left: list[torch.Tensor] = []
        self.right: list[torch.Tensor] = []
        self.rest: torch.Tensor | None = None
        self.few: Few | None = None

    @property
    def matrix(self) -> torch.Tensor:
        """The value, (rows, columns)."""
        return self.value.view(len(self.value), -1)

    @classmethod
    def like(cls, tensor: torch.Tensor) -> Weight:
        """One of a tensor's shape and device, without values yet."""
        return cls(torch.empty(tensor.shape, dtype=torch.float64, device=tensor.device))

    def clear(self) -> None:
        """Forgets the gradient."""
        self.left, self.right, self.rest = [], [], None

    def add_(self, gradient: torch.Tensor) -> None:
        """Adds to the gradient."""
        self.rest = (
            gradient.clone(memory_format=torch.contiguous_format) if self.rest is None else self.rest.add_(gradient)
        )

    def gradient(self) -> torch.Tensor:
        """The whole gradient, a new tensor; zeros where no backward pass came."""
        made = torch.zeros_like(self.value) if self.rest is None else self.rest.clone()
        if self.left:
            made.view(len(made), -1).addmm_(*self._factors())
        return made

    def saliency(self) -> Piece:
        """The gradient times the value, for selection; good until the next ``clear``."""
        if self.few is not None:
            made = torch.zeros_like(self.few.values)
            for left, right in zip(self.left, self.right, strict=True):
                made += self.few.gradient(left, right)
            if self.rest is not None:
                made += self.rest.view(-1)[self.few.places]
            return _Left(made.mul_(self.few.values), self.few.places, self.value.shape)
        if not self.left:
            return Piece(torch.zeros_like(self.value) if self.rest is None else self.rest, self.value)
        if self.rest is not None:
            return Piece(self.gradient(), self.value)
        return _Outer(*self._factors(), self.value)

    def _factors(self) -> tuple[torch.Tensor, torch.Tensor]:
        if len(self.left) == 1:
            return self.left[0], self.right[0]
        return torch.cat(self.left, 1), torch.cat(self.right)

    def leaf(self) -> torch.Tensor:
        """The value for torch's own operators: a tensor whose gradient comes to this one's."""
        if self.few is not None:
            self.value.zero_().view(-1)[self.few.places] = self.few.values
        return _Leaf.apply(self.value, _flag(self.value), self)


class _Outer(Piece):
    """The product of two matrices, times a tensor, number by number."""

    def __init__(self, left: torch.Tensor, right: torch.Tensor, value: torch.Tensor) -> None:
        super().__init__(value)
        self.left, self.right = left.contiguous(), right

    def parts(self, scratch: Floats) -> Iterator[tuple[int, Floats]]:
        width = self.right.shape[1]
        rows = max(1, PART // width)
        value = self.first.view(-1, width)
        room = torch.empty(rows * width, dtype=torch.float64, device=self.device)
        for start in range(0, len(value), rows):
            end = min(start + rows, len(value))
            part = room[: (end - start) * width].view(-1, width)
            torch.mm(self.left[start:end], self.right, out=part)
            yield start * width, part.mul_(value[start:end]).view(-1).cpu().numpy()

    def at(self, index: torch.Tensor) -> torch.Tensor:
        pixels, width = self.right.shape
        index = index.long()
        if _GATHERED * len(index) * pixels > max(len(self), _ALWAYS):
            return self.whole().view(-1).index_select(0, index)
        columns = self.right.t().contiguous()
        rows = torch.div(index, width, rounding_mode="floor")
        found = self.left.index_select(0, rows).mul_(columns.index_select(0, index - rows * width)).sum(1)
        return found.mul_(self.first.index_select(0, index))

    def sample(self, stride: int, alive: torch.Tensor | None) -> torch.Tensor:
        index = torch.arange(0, len(self), stride, device=self.device)
        return self.at(index if alive is None else index[alive[::stride]])

    def whole(self) -> torch.Tensor:
        return torch.mm(self.left, self.right).view(self.shape).mul_(self.first.view(self.shape))


class _Left(Piece):
    """The numbers of the few weights that are left; zeros elsewhere."""

    def __init__(self, numbers: torch.Tensor, places: torch.Tensor, shape: torch.Size) -> None:
        super().__init__(numbers)
        self.places, self.shape = places, shape

    def at(self, index: torch.Tensor) -> torch.Tensor:
        return self.first if len(index) == len(self.places) else self.whole().view(-1).index_select(0, index)

    def whole(self) -> torch.Tensor:
        made = self.first.new_zeros(self.shape)
        made.view(-1)[self.places] = self.first
        return made


def _flag(like: torch.Tensor) -> torch.Tensor:
    """What makes autograd call a function whose other tensors need no gradient."""
    return like.new_zeros(()).requires_grad_()


class _Leaf(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: torch.Tensor, flag: torch.Tensor, weight: Weight) -> torch.Tensor:
        ctx.weight = weight
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        ctx.weight.add_(gradients[0])
        return None, None, None


class _Product(torch.autograd.Function):
    """The weight's matrix times columns (columns of it, pixels): (rows, pixels)."""

    @staticmethod
    def forward(ctx: Any, columns: torch.Tensor, flag: torch.Tensor, weight: Weight) -> torch.Tensor:
        ctx.weight, ctx.narrow = weight, columns.shape[1] <= _WIDE and weight.few is None
        if ctx.narrow:
            columns = columns.t().contiguous()
            made = torch.mm(columns, weight.matrix.t()).t().contiguous()
        else:
            made = torch.mm(weight.matrix if weight.few is None else weight.few.matrix(), columns)
        ctx.save_for_backward(columns)
        return made

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        weight: Weight = ctx.weight
        gradient, columns = gradients[0].contiguous(), ctx.saved_tensors[0].detach()
        weight.left.append(gradient)
        weight.right.append(columns if ctx.narrow else columns.t())
        if not ctx.needs_input_grad[0]:
            return None, None, None
        if weight.few is not None:
            return torch.mm(weight.few.transposed(), gradient), None, None
        if ctx.narrow:
            return torch.mm(gradient.t().contiguous(), weight.matrix).t(), None, None
        return torch.mm(weight.matrix.t(), gradient), None, None


def suits(x: torch.Tensor, groups: int, padding: Any) -> bool:
    """Whether ``conv2d`` takes this call."""
    return x.ndim == 4 and len(x) == 1 and groups == 1 and not isinstance(padding, str)


def conv2d(x: torch.Tensor, weight: Weight, stride: Any, padding: Any, dilation: Any) -> torch.Tensor:
    """The convolution of one image, (1, C, H, W) float64, without bias; the weight's gradient goes to the Weight."""
    kernel = weight.value.shape[2:]
    rows, across = (
        (x.shape[2 + d] + 2 * padding[d] - dilation[d] * (kernel[d] - 1) - 1) // stride[d] + 1 for d in (0, 1)
    )
    columns = F.unfold(x, kernel, dilation, padding, stride)[0]
    made: torch.Tensor = _Product.apply(columns, _flag(x), weight)
    return made.view(1, -1, rows, across)


def linear(x: torch.Tensor, weight: Weight) -> torch.Tensor:
    """(..., columns) to (..., rows), likewise."""
    made: torch.Tensor = _Product.apply(x.reshape(-1, x.shape[-1]).t(), _flag(x), weight)
    return made.t().reshape(*x.shape[:-1], -1)
