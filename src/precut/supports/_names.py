"""The papers' names of supports, as the command line and the tables write them."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable

from precut.errors import PrecutError
from precut.supports._center import CenterOnly
from precut.supports._dense import Dense
from precut.supports._nm import NM
from precut.supports._periodic import Periodic
from precut.supports._random_kernel import RandomKernel
from precut.supports._support import SupportMaker

__all__ = ["FAMILIES", "parse"]

# The families of Kundu et al., IEEE TC 2020: dense, random, periodic and boosted.
FAMILIES = (
    *("dense", "pSC4", "PS4_P4", "PSD4_P8", "PSD4_P16", "pSC2", "PS2_P6"),
    *("PSD2_P8", "PSD2_P16", "pSC1", "PS1_P9", "PSD1_P8", "PSD1_P16"),
)


def _periodic(match: re.Match[str]) -> SupportMaker:
    boosted, kss, period, align, phase, nested = match.groups()
    return Periodic(
        kss=int(kss),
        period=int(period),
        full_kernel=bool(boosted),
        phase=int(phase) if phase else 1,
        align=int(align) if align else None,
        nested=bool(nested),
    )


_FORMS: list[tuple[str, Callable[[re.Match[str]], SupportMaker]]] = [
    (r"PS(D?)(\d{1,9})_P(\d{1,9})(?:_A(\d{1,9}))?(?:_phase(-?\d{1,9}))?(_nested)?", _periodic),
    (r"pSC(\d{1,9})(?:_seed(\d{1,20}))?", lambda m: RandomKernel(int(m[1]), seed=int(m[2] or 0))),
    (r"(\d{1,9}):(\d{1,9})", lambda m: NM(int(m[1]), int(m[2]))),
    (r"center(?:_P(\d{1,9}))?", lambda m: CenterOnly(int(m[1]) if m[1] else None)),
    (r"dense", lambda m: Dense()),
]


def parse(name: str | SupportMaker) -> SupportMaker:
    """The maker that a name stands for; a maker is returned as it is.

    ``PS4_P4``, ``PSD1_P16`` (with ``_A16`` for align, ``_phase2``, ``_nested``, in this order), ``pSC4`` (``_seed3``),
    ``2:4``, ``center``, ``center_P4``, ``dense``; upper and lower case are the same.

    Raises:
        PrecutError: for a name of no such form.
    """
    if isinstance(name, SupportMaker):
        return name
    if not isinstance(name, str):
        raise PrecutError(f"a support is a maker or its name ('PSD4_P8'); got {name!r}")
    for form, make in _FORMS:
        match = re.fullmatch(form, name, flags=re.IGNORECASE | re.ASCII)
        if match:
            return make(match)
    near = difflib.get_close_matches(name.upper(), [family.upper() for family in FAMILIES], n=1, cutoff=0.6)
    hint = f": did you mean {next(f for f in FAMILIES if f.upper() == near[0])!r}?" if near else "."
    raise PrecutError(
        f"unknown support {name!r}{hint} The forms are PS<kss>_P<period>, PSD<kss>_P<period> (one full kernel a "
        "period), pSC<kss>, <n>:<m>, center, center_P<period>, dense"
    )
