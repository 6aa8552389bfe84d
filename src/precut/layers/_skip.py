"""Taking a residual block's branch out of a model: what is left in its place is what follows the addition."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from precut.errors import PrecutError
from precut.layers._replace import replace_layer_

__all__ = ["skip_block_"]


class Shortcut(nn.Identity):
    """The identity, called as the block was: what the block took besides its input is of no use to it."""

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        return next(item for item in (*args, *kwargs.values()) if isinstance(item, Tensor))


def skip_block_(model: nn.Module, name: str, tail: str = "") -> nn.Module:
    """Replaces the block called ``name`` by its own child ``tail``, or by the identity for "", in place.

    For a residual block ``tail(x + branch(x))`` with an identity shortcut that is the block without its branch.

    Returns:
        The model.

    Raises:
        PrecutError: when the model has no such block or child.
    """
    modules = dict(model.named_modules(remove_duplicate=False))
    child = f"{name}.{tail}"
    if tail and name in modules and child not in modules:
        raise PrecutError(f"block {name!r} has no module {tail!r} to stand in its place")
    replace_layer_(model, name, modules[child] if tail and child in modules else Shortcut())
    return model
