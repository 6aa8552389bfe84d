"""What one cell is, counted."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["Cell"]


@dataclass(frozen=True)
class Cell:
    """Layers between which links skip others, counted.

    Attributes:
        name: the module that says it is a cell, or where its last link ends.
        kind: "concatenation" or "addition".
        depth: how many layers.
        widths: channels that the layers pass on to each other: of a concatenating cell what all layers but the last
            make, of a block with an addition what its layers read.
        links: channels that skip at least one layer, counted where they end.
        possible: how many could.
        repeated: how many of ``links`` only repeat a channel that the layer reads anyway.
        place: of its end in the graph's order.
    """

    name: str
    kind: str
    depth: int
    widths: tuple[int, ...]
    links: int
    possible: int
    repeated: int = 0
    place: int = 0

    @property
    def width(self) -> float:
        """Mean channels a layer."""
        return sum(self.widths) / len(self.widths)

    @property
    def density(self) -> float:
        """Links over possible links."""
        return self.links / self.possible if self.possible else 0.0

    @property
    def neurons(self) -> float:
        """Channels of all layers; the last one of a concatenating cell counts as a mean one, whatever it makes."""
        return self.width * self.depth if self.kind == "concatenation" else float(sum(self.widths))

    @property
    def mass(self) -> float:
        """Channels of all layers times density."""
        return self.neurons * self.density

    @property
    def degree(self) -> float:
        """Mean number of channels that a channel reads: the mean width from its layer's direct input, and links. A
        concatenated channel is read by every channel of its layer, an added one by one."""
        each = self.width if self.kind == "concatenation" else 1.0
        return self.width + each * self.links / self.neurons

    def to_dict(self) -> dict[str, Any]:
        """Everything as plain data."""
        derived = {key: getattr(self, key) for key in ("width", "density", "mass", "degree")}
        return {**asdict(self), "widths": list(self.widths), **derived}
