"""Attributes in one form, whether a module or a function brought them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["normal_attrs", "refine_op"]

_PER_DIMENSION = ("kernel_size", "stride", "padding", "dilation", "output_padding", "output_size")
_REDUCTIONS = ("sum", "mean", "amax", "amin", "max", "min", "var", "std")


def _spatial(op: str) -> int:
    """Image dimensions of a convolution or pool; 0 for other ops."""
    return int(op[-2]) if op[-2:] in ("1d", "2d", "3d") and not op.startswith("dropout") else 0


def normal_attrs(op: str, attrs: Mapping[str, Any], ndim: int) -> dict[str, Any]:
    """``attrs`` with per-dimension settings as tuples and dimensions as non-negative integers.

    Args:
        ndim: dimensions of the op's first input.
    """
    normal = {name: value for name, value in attrs.items() if name != "inplace"}
    spatial = _spatial(op)
    if spatial:
        for name in _PER_DIMENSION:
            if name in normal:
                normal[name] = _as_tuple(normal[name], spatial)
        if "pool" in op and not op.startswith("adaptive") and not normal.get("stride"):
            normal["stride"] = normal["kernel_size"]
    for name in ("dim", "dim0", "dim1", "start_dim", "end_dim", "dims", "source", "destination"):
        if name in normal:
            normal[name] = _non_negative(normal[name], ndim + (op in ("unsqueeze", "stack")))
    if op in ("softmax", "log_softmax") and normal.get("dim") is None:
        normal["dim"] = 0 if ndim in (0, 1, 3) else 1  # torch's rule for a missing dim
    return normal


def _as_tuple(value: Any, count: int) -> Any:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, (tuple, list)):
        value = tuple(value)
        return value * count if len(value) == 1 else value
    return (value,) * count


def _non_negative(dim: Any, ndim: int) -> Any:
    if isinstance(dim, (tuple, list)):
        return tuple(_non_negative(item, ndim) for item in dim)
    return dim + ndim if isinstance(dim, int) and not isinstance(dim, bool) and dim < 0 else dim


def refine_op(
    op: str, bound: Mapping[str, Any], attrs: dict[str, Any], shape: tuple[int, ...], out: tuple[int, ...]
) -> str:
    """The canonical op where the arguments decide it.

    A ``view``, ``reshape`` or ``flatten`` is "flatten" when it joins all dimensions from 1 on and keeps the batch
    whatever its size, else "reshape". ``hardtanh`` or ``clamp`` from 0 to 6 is "relu6". Any reduction over all
    elements has dim None.
    """
    if op in ("view", "reshape", "flatten", "unflatten", "view_as"):
        if op == "flatten":
            first, last = attrs["start_dim"], attrs["end_dim"]
            joins = first == 1 and last == len(shape) - 1
        else:
            # A batch that is written as a number stays that number: then it is no flatten of any batch.
            spec = bound.get("shape", ())
            joins = len(spec) == 2 and (not isinstance(spec[0], int) or spec[0] == -1)
        joined = 1
        for size in shape[1:]:
            joined *= size
        if joins and len(shape) > 2 and out == (shape[0], joined):
            for name in ("shape", "sizes", "dim"):
                attrs.pop(name, None)
            attrs.update(start_dim=1, end_dim=len(shape) - 1)
            return "flatten"
        return "reshape"
    if op == "hardtanh" and (attrs["min_val"], attrs["max_val"]) == (0, 6):
        return "relu6"
    if op == "clamp" and (attrs["min"], attrs["max"]) == (0, 6):
        return "relu6"
    if op in _REDUCTIONS and isinstance(attrs.get("dim"), int):
        attrs["dim"] = (attrs["dim"],)
    return op
