"""Sizes that remember where they came from, so that ``x.view(x.size(0), -1)`` works for other batches than the
example's."""

from __future__ import annotations

import contextlib
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

__all__ = ["Guard", "SizeInt", "SizeRef", "listening", "tell", "trace_sizes"]

Shapes = Mapping[int, Sequence[int]]


@dataclass(frozen=True)
class SizeRef:
    """An integer computed from the shape of recorded values.

    Attributes:
        function: what joins the operands; None for a plain dimension.
        operands: (value id, dimension) of a plain dimension, else integers and further SizeRefs.
        example: its value at capture.
    """

    function: Callable[..., int] | None
    operands: tuple[Any, ...]
    example: int

    def resolve(self, shapes: Shapes) -> int:
        """The integer for these shapes, by value id."""
        if self.function is None:
            value, dim = self.operands
            return int(shapes[value][dim])
        return int(self.function(*(_resolved(operand, shapes) for operand in self.operands)))

    def __repr__(self) -> str:
        return f"SizeRef({self.example})"


def _resolved(item: Any, shapes: Shapes) -> Any:
    return item.resolve(shapes) if isinstance(item, SizeRef) else item


@dataclass(frozen=True)
class Guard:
    """Something that the model's Python code learned from sizes, and that the capture therefore holds fixed.

    Attributes:
        function: what was computed: a comparison, or the plain number.
        operands: integers and SizeRefs.
        outcome: what it gave in the example.
        source: "file.py:12".
    """

    function: Callable[..., Any]
    operands: tuple[Any, ...]
    outcome: Any
    source: str

    def holds(self, shapes: Shapes) -> bool:
        """Whether it gives the same for these shapes."""
        return bool(self.function(*(_resolved(operand, shapes) for operand in self.operands)) == self.outcome)


Listener = Callable[[Callable[..., Any], tuple[Any, ...], Any], None]
_listeners: list[Listener] = []


@contextlib.contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Calls ``listener(function, operands, outcome)`` for everything that code learns from a SizeInt."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)


def tell(function: Callable[..., Any], operands: tuple[Any, ...], outcome: Any) -> None:
    """Tells the listeners what code learned from sizes."""
    for listener in _listeners:
        listener(function, tuple(item.ref if isinstance(item, SizeInt) else item for item in operands), outcome)


class SizeInt(int):
    """An ``int`` that carries its SizeRef. Whole-number arithmetic with + - * // % keeps it. Whatever else is learned
    from it (comparisons, ``int()``, ``float()``, division with ``/``, arithmetic with floats, repeated lists) is an
    ordinary result, of which listeners are told. What reads an ``int`` directly (``range``, ``math.log``) is not seen."""

    ref: SizeRef

    def __new__(cls, ref: SizeRef) -> SizeInt:
        made = super().__new__(cls, ref.example)
        made.ref = ref
        return made

    def __reduce__(self) -> tuple[Any, ...]:
        return int, (self.ref.example,)  # a copy or a pickle is a plain number

    __hash__ = int.__hash__


def _arithmetic(function: Callable[[int, int], int], reverse: bool) -> Callable[[SizeInt, Any], Any]:
    def method(self: SizeInt, other: Any) -> Any:
        if not isinstance(other, int):
            # The other side goes on with the plain number: a float, a list that is repeated. Tensors are recorded.
            if not isinstance(other, torch.Tensor):
                tell(int.__int__, (self,), self.ref.example)
            return NotImplemented
        plain = other.ref.example if isinstance(other, SizeInt) else other
        operands = (self.ref, other.ref if isinstance(other, SizeInt) else other)
        numbers = (self.ref.example, plain)
        if reverse:
            return SizeInt(SizeRef(function, operands[::-1], function(*numbers[::-1])))
        return SizeInt(SizeRef(function, operands, function(*numbers)))

    return method


def _learned(name: str) -> Callable[..., Any]:
    plain = getattr(int, name)

    def method(self: SizeInt, *others: Any) -> Any:
        numbers = (self.ref.example, *(item.ref.example if isinstance(item, SizeInt) else item for item in others))
        outcome = plain(*numbers)
        if outcome is not NotImplemented:
            tell(plain, (self, *others), outcome)
        elif others and isinstance(others[0], float):
            tell(int.__int__, (self,), numbers[0])
        return outcome

    return method


_KEPT = ("add", "sub", "mul", "floordiv", "mod")
_TOLD = (
    "eq", "ne", "lt", "le", "gt", "ge", "bool", "float", "int", "pow", "rpow", "truediv", "rtruediv", "divmod",
    "rdivmod", "and", "or", "xor", "lshift", "rshift", "round", "ceil", "floor", "trunc", "abs", "invert",
)  # fmt: skip
for _name in _KEPT:
    _function = getattr(operator, _name)
    setattr(SizeInt, f"__{_name}__", _arithmetic(_function, False))
    setattr(SizeInt, f"__r{_name}__", _arithmetic(_function, True))
for _name in _TOLD:
    setattr(SizeInt, f"__{_name}__", _learned(f"__{_name}__"))
setattr(SizeInt, "__neg__", lambda self: 0 - self)  # noqa: B010
setattr(SizeInt, "__pos__", lambda self: self)  # noqa: B010


def trace_sizes(shape: torch.Size, value: int) -> torch.Size:
    """The same torch.Size with SizeInts of value number ``value`` inside."""
    return torch.Size(SizeInt(SizeRef(None, (value, dim), size)) for dim, size in enumerate(tuple(shape)))
