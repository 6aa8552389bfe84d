"""What a weight costs in multiply-adds."""

from __future__ import annotations

from precut.errors import PrecutError
from precut.measure import summary
from precut.pruning._network import Network

__all__ = ["macs_of_a_weight"]


def macs_of_a_weight(network: Network) -> dict[str, int]:
    """Multiply-adds of one weight of each prunable layer, for one example: for a convolution its output pixels.

    Raises:
        PrecutError: for a layer that did not run, or whose multiply-adds do not come from its weight evenly.
    """
    args, kwargs = network.example
    if kwargs:
        raise PrecutError("budget='macs' needs example_inputs as a tensor or a tuple of them, not a dict")
    rows = {row.name: row for row in summary(network.model, args).layers}
    prices = {}
    for name, layer in network.layers.items():
        macs = rows[name].macs_dense if name in rows else 0
        if macs == 0 or macs % layer.size:
            raise PrecutError(
                f"budget='macs' cannot price layer {name!r}: {macs} multiply-adds for {layer.size} weights; keep it "
                f"dense with ignored_layers=[{name!r}]"
            )
        prices[name] = macs // layer.size
    return prices
