"""What an answer may cost, and how good it must be: one record for everything that chooses a network."""

from __future__ import annotations

from dataclasses import dataclass

from precut.errors import PrecutError, real

__all__ = ["Constraints"]


@dataclass(frozen=True)
class Constraints:
    """Limits that a choice must keep; None is no limit.

    Args:
        deadline_s: seconds until the answer is needed.
        min_accuracy: share of right answers, from 0 to 1, at least.
        energy_j: joules of one call, at most.
        throughput: examples a second, at least.
        memory_bytes: bytes of memory, at most.

    Raises:
        PrecutError: for anything but a number, and for one that no network could ever meet or fail.
    """

    deadline_s: float | None = None
    min_accuracy: float | None = None
    energy_j: float | None = None
    throughput: float | None = None
    memory_bytes: int | None = None

    def __post_init__(self) -> None:
        for name in ("deadline_s", "min_accuracy", "energy_j", "throughput", "memory_bytes"):
            value = getattr(self, name)
            if value is None:
                continue
            # A deadline may lie in the past: that is a state of the world, not a mistake.
            real(name, value, None if name == "deadline_s" else 0, what="number or None")
        if self.min_accuracy is not None and self.min_accuracy > 1:
            raise PrecutError(f"min_accuracy is a share from 0 to 1; got {self.min_accuracy!r} (write 90 % as 0.9)")
