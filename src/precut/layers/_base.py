"""What sparse layers share: the compact weight, its dense copy, loading, initialisation, and editing of channels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import nn

from precut.errors import PrecutError, unknown
from precut.layers._move import SupportMove, reshape_parameter_
from precut.ops import compact, expand
from precut.supports import ClassTable, Support, SupportMaker, Unstructured, parse

__all__ = ["SparseLayer"]


class SparseLayer(nn.Module):
    """A layer whose ``weight`` holds only the weights on its support.

    ``weight`` is (out, weights per filter) where every filter is equally full, so that fan-in rules just work, and
    (n, 1) otherwise; in C order of the dense weight. Nothing else of it exists: not in the optimiser, not on disk.

    Attributes:
        support: the bound Support.
        precut_op: the operator that this layer stands for ("conv2d" or "linear"), by which captures know it.
        dense_grad: see ``keep_dense_grad_``; None before.
    """

    precut_op: ClassVar[str]
    weight: nn.Parameter
    bias: nn.Parameter | None
    support_index: torch.Tensor | None
    dense_grad: torch.Tensor | None

    def __init__(self, support: Support, bias: bool, device: Any = None, dtype: Any = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(support.weight_shape, device=device, dtype=dtype))
        self._set_support(support)
        self.dense_grad, self._keeps_dense_grad = None, False
        if bias:
            self.bias = nn.Parameter(torch.empty(support.shape[0], device=device, dtype=dtype))
        else:
            self.register_parameter("bias", None)
        self.reset_parameters()

    def _set_support(self, support: Support) -> None:
        """Takes this support, with its index tensor (if any) where the weight is."""
        self.support = support
        # Only a support that is nothing but its bits needs an index tensor; it moves with the module and is not saved.
        unstructured = isinstance(support.maker, Unstructured)
        index = support.indices().to(device=self.weight.device, dtype=torch.int32) if unstructured else None
        self.register_buffer("support_index", index, persistent=False)
        self._key = "" if unstructured else support.key

    @property
    def dense_shape(self) -> tuple[int, ...]:
        """Shape of the dense weight: (out, in // groups, kh, kw) or (out, in)."""
        return self.support.shape

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> SparseLayer:
        super()._apply(fn, recurse)
        if self.support_index is not None:  # to_empty() and type() would leave numbers that are no positions
            self._set_support(self.support)
        return self

    def dense_weight(self) -> torch.Tensor:
        """A copy of the weight in its dense shape, zero where nothing exists.

        Differentiable; writing to it changes nothing.
        """
        return expand(self.weight, self.support_index, self._key, list(self.support.shape))

    @torch.no_grad()
    def set_dense_weight_(self, dense: torch.Tensor) -> None:
        """Takes the weights on the support from a dense tensor of ``dense_shape``; the others are dropped."""
        if tuple(dense.shape) != self.support.shape:
            raise PrecutError(f"the dense weight must have shape {self.support.shape}; got {tuple(dense.shape)}")
        weight_shape = list(self.support.weight_shape)
        self.weight.copy_(compact(dense, self.support_index, self._key, list(self.support.shape), weight_shape))

    def keep_dense_grad_(self, keep: bool = True) -> None:
        """From now on, backward passes also leave the gradient by the *dense* weight in ``dense_grad``, summed like
        ``weight.grad``: what each weight that does not exist would have got. With False no longer; the sum goes.

        Such a pass runs the dense operator, so switch it on for the steps that need it only.
        """
        self._keeps_dense_grad = keep
        if not keep:
            self.dense_grad = None

    def _watched_weight(self) -> torch.Tensor:
        """The dense weight of a pass whose backward tells ``dense_grad``."""
        dense = self.dense_weight()
        if not dense.requires_grad:
            dense.requires_grad_()
        dense.register_hook(self._add_dense_grad)
        return dense

    def _add_dense_grad(self, grad: torch.Tensor) -> None:
        grad = grad.detach()
        self.dense_grad = grad.clone() if self.dense_grad is None else self.dense_grad + grad

    def _watched(self) -> bool:
        return self._keeps_dense_grad and torch.is_grad_enabled()

    @torch.no_grad()
    def move_support_(self, support: Support | SupportMaker | torch.Tensor | str) -> SupportMove:
        """Lets other weights exist, in place: those that stay keep their values (and ``weight.grad`` its entries), new
        ones are zero.

        ``weight`` stays the same Parameter, but its shape is that of the new support, which may be another. An
        optimiser's state does not move by itself: ``carry`` of the result moves any tensor of the weight's shape.

        Args:
            support: a maker, its name, a bound Support, or a mask (non-zero where a weight exists).

        Raises:
            PrecutError: when the layer cannot have this support; it is then unchanged.
        """
        new = self._bound(support)
        before, after = self.support.indices(), new.indices()
        place = torch.full((self.support.numel,), -1, device="cpu")
        place[before] = torch.arange(len(before), device="cpu")
        move = SupportMove(place[after], tuple(self.weight.shape), new.weight_shape)
        value = move.carry(self.weight)
        grad = None if self.weight.grad is None else move.carry(self.weight.grad)
        self.weight.grad = None
        self._set_support(new)
        reshape_parameter_(self.weight, value)
        self.weight.grad = grad
        return move

    def _bound(self, support: Support | SupportMaker | torch.Tensor | str) -> Support:
        if isinstance(support, torch.Tensor):
            support = Unstructured(support)
        if not isinstance(support, Support):
            support = parse(support).support(self.support.shape, self.support.groups)
        if (support.shape, support.groups) != (self.support.shape, self.support.groups):
            raise PrecutError(
                f"the support is for a weight of shape {support.shape} in {support.groups} groups; this layer's is "
                f"{self.support.shape} in {self.support.groups}"
            )
        return support

    def fan_in(self) -> torch.Tensor:
        """How many weights the filter has that each weight belongs to: float, CPU, broadcasts to ``weight``."""
        counts = self.support.filter_counts
        equal = self.support.per_filter is not None
        return (counts if equal else counts.repeat_interleave(counts)).unsqueeze(1).float()

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """torch's default for dense layers, with the fan-in that exists: uniform in +-1/sqrt(weights of the filter)."""
        self.weight.uniform_(-1, 1, generator=generator).mul_(self.fan_in().rsqrt().to(self.weight))
        if self.bias is not None:
            bounds = self.support.filter_counts.clamp(min=1).float().rsqrt()
            self.bias.uniform_(-1, 1, generator=generator).mul_(bounds.to(self.bias))

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        given = state_dict.get(prefix + "weight")
        if isinstance(given, torch.Tensor) and self.weight.shape != given.shape == self.support.shape:
            # A dense checkpoint: keep what the support keeps. The caller's dict stays as it was (torch passes a copy).
            index = None if self.support_index is None else self.support.indices().to(given.device)
            state_dict[prefix + "weight"] = compact(
                given.detach(), index, self._key, list(self.support.shape), list(self.support.weight_shape)
            )
        super()._load_from_state_dict(state_dict, prefix, *args)
        if self.support_index is not None and self.support_index.device != self.weight.device:
            self._set_support(self.support)  # load_state_dict(assign=True) has moved the weight

    @torch.no_grad()
    def take_channels_(self, axis: str, index: torch.Tensor) -> None:
        """New channel j becomes what channel ``index[j]`` was: permutes, restricts and drops channels, in place.

        Of a convolution with groups, "in" counts the channels within a group, and takes the same ones in every group;
        "out" takes whole groups, in any order, or else equally many channels of every group, each group's together (of
        a depthwise convolution, then, any channels). The groups' input channels come along: the new group j reads the
        input channels of the group that its outputs are from.

        The support keeps its rule where the rule (or one of as many classes) gives the mask that results, and spells
        the mask out otherwise. ``weight`` and ``bias`` become new Parameters, unknown to an optimiser made before.

        Args:
            axis: "out" or "in".
            index: whole numbers, one-dimensional, at least one.

        Raises:
            PrecutError: for another axis or index; the layer is then unchanged.
        """
        if axis not in ("in", "out"):
            raise unknown("axis", axis, ("in", "out"))
        dim = 0 if axis == "out" else 1
        index = self._checked_index(axis, index, self.support.shape[dim])
        groups = self._groups_after(axis, index)
        support = self._support_for(self.support.mask().index_select(dim, index), groups)
        index = index.to(self.weight.device)
        dense = self.dense_weight().index_select(dim, index)
        self._set_support(support)
        self.weight = nn.Parameter(dense.new_empty(support.weight_shape), requires_grad=self.weight.requires_grad)
        self.set_dense_weight_(dense)
        if axis == "out" and self.bias is not None:
            self.bias = nn.Parameter(self.bias[index], requires_grad=self.bias.requires_grad)
        self._set_sizes(support.shape, groups)

    def _checked_index(self, axis: str, index: torch.Tensor, size: int) -> torch.Tensor:
        index = torch.as_tensor(index, device="cpu")
        if index.ndim != 1 or not len(index) or index.is_floating_point() or index.dtype is torch.bool:
            raise PrecutError(
                f"the channels to take are a one-dimensional tensor of at least one whole number; got {index.dtype} of "
                f"shape {tuple(index.shape)}"
            )
        outside = index[(index < 0) | (index >= size)]
        if len(outside):
            raise PrecutError(f"the {axis!r} axis has channels 0 to {size - 1}; the index holds {int(outside[0])}")
        return index.long()

    def _support_for(self, mask: torch.Tensor, groups: int) -> Support:
        """A Support with exactly this mask: of the present rule, else of a table of as many classes, else spelt out."""
        makers: list[SupportMaker] = [self.support.maker]
        table = self.support.table
        if table is not None:
            found = ClassTable.of_mask(mask, table.out_classes, table.in_classes, table.align)
            makers += [] if found is None else [found]
        for maker in makers:
            try:
                support = Support(maker, tuple(mask.shape), groups)
            except PrecutError:
                continue
            if torch.equal(support.mask(), mask):
                return support
        return Support(Unstructured(mask), tuple(mask.shape), groups)

    def _groups_after(self, axis: str, index: torch.Tensor) -> int:
        return 1

    def _set_sizes(self, shape: tuple[int, ...], groups: int) -> None:
        raise NotImplementedError

    def _support_repr(self) -> str:
        return f"support={self.support.maker}, weights={self.support.nnz}/{self.support.numel}"
