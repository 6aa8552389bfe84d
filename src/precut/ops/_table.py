"""The table of operators: every way to multiply by a Support. Dispatch, tests and benchmarks all read it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch

from precut._registry import Registry

__all__ = ["Operator", "choose", "operators", "reference_only"]


@dataclass(frozen=True)
class Operator:
    """One way to run an operation.

    Attributes:
        operation: "conv2d" or "linear".
        run: takes the arguments of ``precut.ops.sparse_conv2d`` or ``sparse_linear``, gives the output.
        fits: takes the same; whether this operator can run them. It may look at shapes, dtypes, devices, the key, and
            at whether gradients are asked for (an operator that autograd does not see through must then decline), but
            never at values: it is also called with tensors that have none.
    """

    operation: str
    run: Callable[..., torch.Tensor]
    fits: Callable[..., bool]


# Names say dtype, operation, support kind, tile and instruction set.
operators: Registry[Operator] = Registry("operator", "precut.ops.operators.names()")


_reference_only = ContextVar("reference_only", default=False)


@contextmanager
def reference_only() -> Iterator[None]:
    """Calls within it run on the references, as they all do where the environment says PRECUT_OPS=reference."""
    token = _reference_only.set(True)
    try:
        yield
    finally:
        _reference_only.reset(token)


def choose(operation: str, *args: Any) -> tuple[str, Operator]:
    """The operator that runs this call, with its name: the last registered of those that fit (see ``reference_only``).

    The reference of each operation is registered first and fits every call.
    """
    names = list(operators)
    if not (_reference_only.get() or os.environ.get("PRECUT_OPS") == "reference"):
        names.reverse()
    for name in names:
        operator = operators[name]
        if operator.operation == operation and operator.fits(*args):
            return name, operator
    raise NotImplementedError(f"no operator for {operation}")
