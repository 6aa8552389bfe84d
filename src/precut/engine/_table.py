"""The table of supported operations: importing this registers every lowering."""

from __future__ import annotations

from precut.engine import _lower_channels, _lower_layers, _lower_math, _lower_pools  # noqa: F401  (they register rows)
from precut.engine._lower import LOWERINGS
from precut.report import Table

__all__ = ["LOWERINGS", "supported_operations"]

_HEAD = """# Operations that compile runs natively

`precut.compile` gives these to `libprecut`; whatever else a network does runs in torch between native calls, and
`explain()` tells why. Names are the canonical ones of `precut.graph`: `torch.add`, `x + y` and `x += y` are all `add`,
`nn.ReLU` and `F.relu` are both `relu`. All values are float32, (N, C) or (N, C, H, W).

This page is generated: `python -m precut.engine` prints it.

"""


def supported_operations() -> str:
    """The published table (docs/supported-operations.md), in Markdown."""
    rows = [
        {"operation": f"`{name}`", "becomes": LOWERINGS[name].native, "when": LOWERINGS[name].when}
        for name in LOWERINGS.names()
    ]
    return _HEAD + Table(rows, ["operation", "becomes", "when"]).to_markdown()
