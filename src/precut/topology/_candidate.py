"""One network that a design may return, with its counted costs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from precut.errors import PrecutError
from precut.measure import LatencyReport
from precut.models import create_model

__all__ = ["Candidate", "Frame", "several"]


def several(name: str, given: Any) -> list[Any]:
    """The values to try, as a list.

    Raises:
        PrecutError: for a single one, or none.
    """
    made = [] if isinstance(given, str) or not isinstance(given, Iterable) else list(given)
    if not made:
        raise PrecutError(f"{name} must be a list of values to try; got {given!r:.60}")
    return made


@dataclass(frozen=True)
class Frame:
    """What all candidates of a design share: the images and the classes."""

    num_classes: int = 10
    input_size: int = 32
    in_channels: int = 3

    def kwargs(self) -> dict[str, int]:
        """As arguments of ``create_model``."""
        return {"num_classes": self.num_classes, "input_size": self.input_size, "in_channels": self.in_channels}


@dataclass(frozen=True)
class Candidate:
    """A network, counted without being built.

    Attributes:
        model: name for ``create_model``.
        kwargs: all of its arguments.
        group: what candidates that are compared along one line share ("x1.1").
        mass, degree: see ``nn_mass``.
        params, macs: counted; MACs of one image.
        depth: convolutions and linear layers.
        latency: measured on this machine, where that was asked for.
    """

    model: str
    kwargs: Mapping[str, Any]
    group: str
    mass: float
    degree: float
    params: int
    macs: int
    depth: int
    latency: LatencyReport | None = field(default=None, compare=False)

    def create(self) -> nn.Module:
        """The network, freshly initialised."""
        return create_model(self.model, **self.kwargs)

    @property
    def seconds(self) -> float | None:
        """Median measured seconds, if measured."""
        return None if self.latency is None else self.latency.median

    def shown(self) -> str:
        """The arguments that tell it from others of its family."""
        hidden = ("num_classes", "input_size", "in_channels", "seed", "official")
        parts = [f"{key}={_short(value)}" for key, value in self.kwargs.items() if key not in hidden]
        return " ".join(parts)

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain data; latency in seconds."""
        keys = ("model", "group", "mass", "degree", "params", "macs", "depth", "seconds")
        return {"kwargs": dict(self.kwargs), **{key: getattr(self, key) for key in keys}}


def _short(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return ",".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
