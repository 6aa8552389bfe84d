"""Whether a test set can tell two networks apart."""

from __future__ import annotations

import math
from collections.abc import Sequence

from precut.errors import PrecutError

__all__ = ["mcnemar"]


def mcnemar(first: Sequence[bool | int], second: Sequence[bool | int]) -> float:
    """The exact two-sided p-value of McNemar's test (1947) that both are right equally often.

    Only the images on which they differ count: under the null hypothesis each is a fair coin.

    Args:
        first, second: for each test image whether the network was right, in the same order.

    Raises:
        PrecutError: for sequences of different lengths, or empty ones.
    """
    if len(first) != len(second) or not len(first):
        raise PrecutError(f"McNemar's test pairs the same images; got {len(first)} and {len(second)} of them")
    only_first = sum(bool(a) and not b for a, b in zip(first, second, strict=True))
    only_second = sum(bool(b) and not a for a, b in zip(first, second, strict=True))
    n, few = only_first + only_second, min(only_first, only_second)
    if only_first == only_second:
        return 1.0
    log_all = n * math.log(2)
    tail = math.fsum(
        math.exp(math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) - log_all) for k in range(few + 1)
    )
    return min(1.0, 2 * tail)
