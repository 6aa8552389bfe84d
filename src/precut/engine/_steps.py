"""The steps of a native segment: what is folded and fused, and then written as a `.precut` file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from precut.runtime import Act, BlobBuilder

__all__ = ["NO_ACT", "TAKES_ACT", "Ids", "Step", "write"]

Ids = Sequence[int]
NO_ACT = Act("none")
# The native operations that can end with an activation.
TAKES_ACT = frozenset(
    [
        "conv2d",
        "linear",
        "max_pool",
        "avg_pool",
        "adaptive_avg_pool",
        "adaptive_max_pool",
        "add",
        "mul",
        "cat",
        "gather",
        "activation",
        "affine",
    ]
)


@dataclass(eq=False)
class Step:
    """One native operation.

    Attributes:
        op: the name of the BlobBuilder's method.
        name: that of the node it came from.
        inputs, output: numbers of values.
        args: the method's other arguments.
        act: what ends it.
        residual: a value that is added before ``act`` (conv2d and linear).
        per_filter: int64 (out,), the kept weights of each filter (conv2d and linear).
        fused: names of the nodes that went into it.
        same_size: the inputs have equal heights and widths whatever the network's input is.
    """

    op: str
    name: str
    inputs: list[int]
    output: int
    args: dict[str, Any] = field(default_factory=dict)
    act: Act = NO_ACT
    residual: int | None = None
    per_filter: npt.NDArray[np.int64] | None = None
    fused: list[str] = field(default_factory=list)
    same_size: bool = True

    @property
    def reads(self) -> list[int]:
        """Every value that it takes."""
        return self.inputs if self.residual is None else [*self.inputs, self.residual]


def write(
    steps: Sequence[Step], inputs: Sequence[tuple[int, str, Sequence[int]]], outputs: Sequence[tuple[int, str]]
) -> bytes:
    """The `.precut` file of these steps.

    Args:
        inputs: (value, name, example shape).
        outputs: (value, name).
    """
    builder = BlobBuilder()
    at = {value: builder.input(name, shape) for value, name, shape in inputs}
    for step in steps:
        kwargs = dict(step.args, name=step.name)
        if step.op in TAKES_ACT:
            kwargs["act"] = step.act
        if step.residual is not None:
            kwargs["residual"] = at[step.residual]
        taken = [at[value] for value in step.inputs]
        method = getattr(builder, step.op)
        at[step.output] = method(taken, **kwargs) if step.op == "cat" else method(*taken, **kwargs)
    for value, name in outputs:
        builder.output(at[value], name)
    return builder.bytes()
