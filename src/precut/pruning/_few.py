"""A layer of which few weights are left, as sparse matrices: products then cost what the weights that are left cost."""

from __future__ import annotations

import warnings

import torch

__all__ = ["Few", "worthwhile"]

_SHARE = 0.1  # of a layer's weights; with more, dense products are as quick
_NARROW = 8  # pixels up to which picking rows is quicker than torch's sampled product
_PICKED = 1 << 16  # numbers picked at a time, which stay in the cache


def worthwhile(left: int, size: int, device: torch.device) -> bool:
    """Whether so few weights of a layer are left. torch multiplies sparse matrices on a CPU by MKL alone."""
    return left <= _SHARE * size and device.type == "cpu" and torch.backends.mkl.is_available()


class Few:
    """What is left of a weight, seen as a matrix (rows, width).

    Args:
        places: flat positions, ascending.
        values: float64, one for each.
        rows, width: of the matrix.
    """

    def __init__(self, places: torch.Tensor, values: torch.Tensor, rows: int, width: int) -> None:
        self.rows, self.width = rows, width
        self.places, self.values = places.long(), values
        self.row = torch.div(self.places, width, rounding_mode="floor")
        self.column = self.places - self.row * width
        self.by_column = torch.argsort(self.column, stable=True)

    def keep(self, mask: torch.Tensor) -> None:
        """Forgets the weights whose bit in ``mask`` is not set."""
        renumbered = torch.cumsum(mask, 0) - 1
        self.by_column = renumbered[self.by_column[mask[self.by_column]]]
        self.places, self.values = self.places[mask], self.values[mask]
        self.row, self.column = self.row[mask], self.column[mask]

    def matrix(self) -> torch.Tensor:
        """The weight, (rows, width), in compressed rows."""
        return _compressed(self.row, self.column, self.values, self.rows, self.width)

    def transposed(self) -> torch.Tensor:
        """The weight's transpose, (width, rows), likewise: torch's own transpose sorts anew for every product."""
        order = self.by_column
        return _compressed(self.column[order], self.row[order], self.values[order], self.width, self.rows)

    def gradient(self, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        """The product of (rows, pixels) and (pixels, width) at the weights that are left."""
        pixels = left.shape[1]
        if pixels > _NARROW:
            zero = _compressed(self.row, self.column, torch.zeros_like(self.values), self.rows, self.width)
            return torch.sparse.sampled_addmm(zero, left, right, beta=0.0).values()
        right = right.t().contiguous()
        made = torch.empty_like(self.values)
        step = _PICKED // pixels
        for start in range(0, len(made), step):
            end = start + step
            picked = left.index_select(0, self.row[start:end])
            torch.sum(picked.mul_(right.index_select(0, self.column[start:end])), 1, out=made[start:end])
        return made


def _compressed(row: torch.Tensor, column: torch.Tensor, values: torch.Tensor, rows: int, width: int) -> torch.Tensor:
    starts = torch.searchsorted(row, torch.arange(rows + 1, device=row.device))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch calls its sparse matrices beta
        return torch.sparse_csr_tensor(starts, column, values, (rows, width), check_invariants=False)
