"""The table of networks, and the one call that builds any of them."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from torch import nn

from precut._registry import Registry
from precut.errors import PrecutError, real, unknown

__all__ = ["create_model", "list_models", "model_options", "register"]

COMMON = ("num_classes", "input_size", "in_channels", "width_mult")

Build = TypeVar("Build", bound=Callable[..., nn.Module])


@dataclass(frozen=True)
class Entry:
    """One named network.

    Attributes:
        build: the family's function; takes the four common arguments and the family's own by keyword.
        fixed: the family arguments that make this member (a depth); callers cannot pass them.
        min_input_size: the smallest side in pixels whose last feature map is a whole pixel.
    """

    build: Callable[..., nn.Module]
    fixed: dict[str, Any]
    min_input_size: int

    @property
    def options(self) -> dict[str, Any]:
        """The family's own arguments that callers may pass, with their defaults."""
        parameters = inspect.signature(self.build).parameters.values()
        return {p.name: p.default for p in parameters if p.name not in COMMON and p.name not in self.fixed}


MODELS: Registry[Entry] = Registry("model", "precut.list_models()")


def register(name: str, *, min_input_size: int, **fixed: Any) -> Callable[[Build], Build]:
    """A decorator: ``create_model(name, ...)`` calls what it decorates, with ``fixed`` added. It may be stacked.

    The decorated function takes ``num_classes, input_size, in_channels, width_mult`` and, by keyword and each with a
    default unless fixed, what else its family knows. All of these must be values that JSON can hold.
    """

    def add(build: Build) -> Build:
        MODELS.register(name)(Entry(build, fixed, min_input_size))
        return build

    return add


def list_models(glob: str = "*") -> list[str]:
    """The names that :func:`create_model` knows, sorted; ``glob`` narrows them (``"resnet*"``)."""
    return MODELS.names(glob)


def model_options(name: str) -> dict[str, Any]:
    """The arguments that ``create_model(name, ...)`` takes beside the common four, with their defaults."""
    return MODELS[name].options


def create_model(
    name: str,
    num_classes: int = 10,
    input_size: int = 32,
    in_channels: int = 3,
    width_mult: float = 1.0,
    **family_kwargs: Any,
) -> nn.Module:
    """A freshly initialised network that maps float images (N, in_channels, input_size, input_size) to logits
    (N, num_classes).

    Args:
        name: one of :func:`list_models`.
        num_classes: how many logits.
        input_size: the images' side in pixels. Up to 64 the networks take their stem and strides for small images,
            above 64 the published ones for 224 pixels.
        in_channels: the images' channels.
        width_mult: scales every hidden width; 1.0 keeps the published widths exactly. Scaled widths are rounded to a
            multiple of 8, at least 8 (families that publish another rule use theirs).
        **family_kwargs: what the family knows beside these; see :func:`model_options`.

    Returns:
        The network on the current default device, in training mode. Its ``precut_spec`` is a JSON-able
        ``{"model": name, "kwargs": {...}}``; ``create_model(spec["model"], **spec["kwargs"])`` builds the same
        network again (with fresh weights).

    Raises:
        PrecutError: an unknown name or argument, or a value that cannot be built.
    """
    entry = MODELS[name]
    options = entry.options
    for key in family_kwargs:
        if key not in options:
            raise unknown(f"argument of model {name!r}", key, [*COMMON, *options])
    _check_common(name, entry, num_classes, input_size, in_channels, width_mult)
    kwargs: dict[str, Any] = {
        "num_classes": num_classes,
        "input_size": input_size,
        "in_channels": in_channels,
        "width_mult": width_mult,
        **options,
        **family_kwargs,
    }
    try:
        plain = json.loads(json.dumps({key: value for key, value in kwargs.items() if value is not None}))
    except TypeError as error:
        raise PrecutError(
            f"model {name!r} got {family_kwargs!r}: arguments must be numbers, strings or lists of them ({error})"
        ) from None
    model = entry.build(**kwargs, **entry.fixed)
    model.precut_spec = {"model": name, "kwargs": plain}  # type: ignore[assignment]
    return model


def _check_common(
    name: str, entry: Entry, num_classes: int, input_size: int, in_channels: int, width_mult: float
) -> None:
    for key, value in (("num_classes", num_classes), ("input_size", input_size), ("in_channels", in_channels)):
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise PrecutError(f"{key} must be a whole number from 1 up, got {value!r}")
    if input_size < entry.min_input_size:
        raise PrecutError(
            f"model {name!r} cannot take input_size={input_size}: "
            f"the smallest that fills its strides is {entry.min_input_size}"
        )
    real("width_mult", width_mult, above=0, finite=True)
