"""Which layers of a model are meant: by module, by name or by glob."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable

from torch import nn

from precut.errors import PrecutError, unknown

__all__ = ["check_unshared", "ignored_names", "owners_of"]


def ignored_names(model: nn.Module, ignored: Iterable[nn.Module | str] | nn.Module | str) -> set[str]:
    """Qualified names of all modules that ``ignored`` (modules, names or globs) covers, with all that is inside them.

    Raises:
        PrecutError: for what is no part of the model.
    """
    if isinstance(ignored, (nn.Module, str)):
        ignored = [ignored]
    elif not isinstance(ignored, Iterable):
        raise PrecutError(f"ignored_layers takes modules, names or globs; got {ignored!r}")
    modules = dict(model.named_modules(remove_duplicate=False))  # a module that is used twice has two names
    names = [name for name in modules if name]
    inside: set[nn.Module] = set()
    for item in ignored:
        if isinstance(item, nn.Module):
            found = [module for module in modules.values() if module is item]
            if not found:
                raise PrecutError(f"ignored_layers holds a {type(item).__name__} that is not part of the model")
        elif isinstance(item, str):
            found = [modules[name] for name in names if fnmatch.fnmatchcase(name, item)]
            if not found:
                raise unknown("layer in ignored_layers", item, names, "model.named_modules()")
        else:
            raise PrecutError(f"ignored_layers takes modules, names or globs; got {item!r}")
        for root in found:
            inside.update(root.modules())
    return {name for name, module in modules.items() if module in inside}


def owners_of(model: nn.Module) -> dict[int, list[str]]:
    """The names of the modules that own each parameter, by its id."""
    owners: dict[int, list[str]] = {}
    for name, module in model.named_modules():
        for parameter in module.parameters(recurse=False):
            owners.setdefault(id(parameter), []).append(name)
    return owners


def check_unshared(layer: nn.Module, owners: dict[int, list[str]], instead: str) -> None:
    """Raises a PrecutError where another module owns one of the layer's own parameters.

    Args:
        owners: of :func:`owners_of`.
        instead: what else than untying helps; "{names}" stands for the layers' names.
    """
    for parameter in layer.parameters(recurse=False):
        names = owners[id(parameter)]
        if len(names) > 1:
            raise PrecutError(
                f"layers {', '.join(map(repr, names))} share a parameter, which sparse layers cannot; untie them, or "
                + instead.format(names=names)
            )
