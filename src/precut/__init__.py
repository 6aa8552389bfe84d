"""precut: convolutional networks cut to size before they are trained, run at the speed their size promises.

Importing this costs nothing: every name below is loaded when it is first used (PEP 562).
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from precut.errors import PrecutError as PrecutError

if TYPE_CHECKING:
    from precut.checkpoint import load as load
    from precut.checkpoint import save as save
    from precut.engine import compile as compile
    from precut.engine import export as export
    from precut.layers import SparseConv2d as SparseConv2d
    from precut.layers import SparseLinear as SparseLinear
    from precut.layers import from_masks as from_masks
    from precut.layers import sparsify as sparsify
    from precut.layers import sparsify_ as sparsify_
    from precut.measure import summary as summary
    from precut.models import create_model as create_model
    from precut.models import list_models as list_models
    from precut.pruning import prune as prune
    from precut.training import param_groups as param_groups

__version__ = "0.1.0"

_ROOMS = (
    "bench",
    "checkpoint",
    "data",
    "deadline",
    "dynamic",
    "engine",
    "experiments",
    "graph",
    "layers",
    "measure",
    "models",
    "ops",
    "pruning",
    "report",
    "runtime",
    "supports",
    "topology",
    "training",
)
_NAMES = {
    "create_model": "models",
    "list_models": "models",
    "sparsify": "layers",
    "sparsify_": "layers",
    "from_masks": "layers",
    "SparseConv2d": "layers",
    "SparseLinear": "layers",
    "compile": "engine",
    "export": "engine",
    "prune": "pruning",
    "summary": "measure",
    "save": "checkpoint",
    "load": "checkpoint",
    "param_groups": "training",
}

__all__ = ["PrecutError", "__version__", *_NAMES, *_ROOMS]


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return importlib.import_module(f"precut.{name}")
    if name in _NAMES:
        return getattr(importlib.import_module(f"precut.{_NAMES[name]}"), name)
    raise AttributeError(f"module 'precut' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
