"""Checks of the model and the example inputs that every measurement takes."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from precut.errors import PrecutError

__all__ = ["as_inputs", "batch_of", "check_model"]


def as_inputs(example_inputs: Any) -> tuple[Any, ...]:
    """``example_inputs`` as a tuple of the model's arguments.

    Args:
        example_inputs: a tensor, or a tuple or list of arguments with at least one tensor; batch first.

    Raises:
        PrecutError: for anything else; a shape is answered with the tensor it may have meant.
    """
    if isinstance(example_inputs, torch.Tensor):
        return (example_inputs,)
    if isinstance(example_inputs, (tuple, list)):
        sizes = tuple(example_inputs)
        if sizes and all(isinstance(size, int) and not isinstance(size, bool) for size in sizes):
            raise PrecutError(
                f"example_inputs must be a tensor or a tuple of tensors; got the shape {sizes}: pass "
                f"torch.zeros({', '.join(map(str, sizes))})"
            )
        if any(isinstance(item, torch.Tensor) for item in sizes):
            return sizes
    shown = repr(example_inputs)
    raise PrecutError(
        "example_inputs must be a tensor or a tuple of tensors, batch first; got "
        f"{type(example_inputs).__name__} {shown if len(shown) <= 60 else shown[:57] + '...'}"
    )


def batch_of(inputs: tuple[Any, ...]) -> int:
    """The first dimension of the first tensor; 1 where it has none."""
    first = next(item for item in inputs if isinstance(item, torch.Tensor))
    if first.ndim == 0:
        return 1
    if first.shape[0] == 0:
        raise PrecutError(f"example_inputs holds no example: its shape is {tuple(first.shape)}")
    return int(first.shape[0])


def check_model(model: Any, what: str) -> nn.Module:
    """The model, if it is one whose parameters have values."""
    if not isinstance(model, nn.Module):
        hint = f": pass an instance, {model.__name__}(...)" if isinstance(model, type) else ""
        raise PrecutError(f"{what} takes an nn.Module; got {type(model).__name__} {model!r:.60}{hint}")
    for name, parameter in model.named_parameters():
        if isinstance(parameter, nn.parameter.UninitializedParameter):
            raise PrecutError(f"parameter {name!r} has no shape yet (a lazy layer): run the model once first")
    return model
