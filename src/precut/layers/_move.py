"""What becomes of a layer's weights when its support moves, and of whatever else there is one number a weight of."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from precut.errors import PrecutError

__all__ = ["SupportMove", "reshape_parameter_"]


@dataclass(frozen=True, eq=False)
class SupportMove:
    """How the weights of one layer moved.

    Attributes:
        origin: int64, CPU, one entry for each weight that now exists, in the order of ``weight.flatten()``: which of
            the former weights (in their order) it is, or -1 for a weight that is new.
        old_shape, new_shape: of ``weight``, before and after.
    """

    origin: torch.Tensor
    old_shape: tuple[int, ...]
    new_shape: tuple[int, ...]

    @property
    def kept(self) -> int:
        """How many weights there were before and still are."""
        return int((self.origin >= 0).sum())

    @property
    def grown(self) -> int:
        """How many weights are new."""
        return len(self.origin) - self.kept

    def carry(self, tensor: torch.Tensor) -> torch.Tensor:
        """A new tensor of ``new_shape`` with the kept weights' entries of ``tensor`` (of ``old_shape``), zero for new
        ones: for momenta, averages and all else that belongs to the weights.

        Raises:
            PrecutError: for a tensor of another shape.
        """
        if tuple(tensor.shape) != self.old_shape:
            raise PrecutError(
                f"a tensor that moves with a weight must have the weight's former shape {self.old_shape}; got "
                f"{tuple(tensor.shape)}"
            )
        origin = self.origin.to(tensor.device)
        kept = origin >= 0
        carried = tensor.new_zeros(len(origin))
        carried[kept] = tensor.detach().reshape(-1)[origin[kept]]
        return carried.view(self.new_shape)


def reshape_parameter_(parameter: nn.Parameter, value: torch.Tensor) -> None:
    """Gives a parameter other contents, of another shape too; it stays the same object, so optimisers keep it."""
    if parameter.shape == value.shape:
        parameter.data.copy_(value)
        return
    # While anything of an earlier graph lives (a loss that somebody still holds), autograd would go on to check
    # gradients against the old shape: it begins anew only for a parameter whose dtype has changed in between.
    parameter.data = value.to(torch.float64 if value.dtype != torch.float64 else torch.float32)
    parameter.data = value
