"""Whether times that were measured somewhere may be used here."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from precut._environment import environment
from precut.errors import PrecutError

__all__ = ["check_machine"]

_MACHINE = ("cpu", "cpu_flags", "cores", "device")


def check_machine(path: Path, there: Mapping[str, Any]) -> None:
    """Refuses what was measured on another machine than this.

    Args:
        path: of the file, for the message.
        there: the environment that it was measured in.
    """
    here = environment()
    if there.get("device") in _accelerators():  # one machine may have several devices
        here["device"] = there["device"]
    for key in _MACHINE:
        if there.get(key) != here.get(key):
            raise PrecutError(
                f"{str(path)!r} was measured on another machine ({key} {_brief(there.get(key))}, here "
                f"{_brief(here.get(key))}): its times do not hold here. Profile again, or pass other_machine=True "
                "(precut replay --other-machine)"
            )


def _accelerators() -> set[str]:
    """The names of this machine's, as ``environment`` tells them."""
    found = torch.accelerator.current_accelerator(check_available=True)
    names = set() if found is None else {found.type}
    return names | {torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())}


def _brief(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else text[:37] + "..."
