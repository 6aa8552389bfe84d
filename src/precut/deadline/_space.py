"""The family of networks that a search may grow: ordered choices, cheap ones first."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from precut.errors import PrecutError

__all__ = ["DEFAULT_SPACE", "Space", "check_count"]

DEFAULT_SPACE: dict[str, list[Any]] = {
    "model": ["resnet8", "resnet20", "resnet32"],
    "width_mult": [0.5, 0.75, 1.0, 1.5],
    "support": ["PS2_P6", "synflow 0.3", "PS4_P4", "dense"],
    "resolution": [16, 24, 32],
}


class Space:
    """Choices by name, each a list from the cheapest to the dearest; one of each is a candidate.

    ``model`` (depth: names of the zoo), ``width_mult``, ``support`` ("PS4_P4"; or pruning at initialisation by a score and
    the share of weights that it keeps, "synflow 0.3"), ``density`` (that share for SynFlow, with dense supports) and
    ``resolution`` (side in pixels) have a meaning of their own; any other name is an argument of ``create_model``.

    Args:
        choices: name to list; a single value is a list of one.

    Raises:
        PrecutError: no choices, an empty list, or one value twice.
    """

    def __init__(self, choices: Mapping[str, Any]) -> None:
        if not choices:
            raise PrecutError("a search space needs at least one name with its choices; got none")
        self.choices: dict[str, list[Any]] = {}
        for name, values in choices.items():
            given = list(values) if isinstance(values, (list, tuple)) else [values]
            if name == "support" and not all(isinstance(value, str) for value in given):
                raise PrecutError(f"supports are names (in YAML, quote those with a colon: '2:4'); got {given!r}")
            labels = [self.label(value) for value in given]
            if not given or len(set(labels)) != len(labels):
                raise PrecutError(f"{name!r} of the search space needs different choices, at least one; got {values!r}")
            self.choices[str(name)] = given

    @classmethod
    def read(cls, path: str | Path) -> Space:
        """The space in a YAML file: ``width_mult: [0.5, 1.0]`` and so on."""
        import yaml

        try:
            found = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise PrecutError(f"there is no search space {str(path)!r}: {error.strerror}") from None
        except yaml.YAMLError as error:
            raise PrecutError(f"{str(path)!r} is not valid YAML: {error}") from None
        if not isinstance(found, dict):
            raise PrecutError(f"{str(path)!r} must map names to lists of choices; got {type(found).__name__}")
        return cls(found)

    def __len__(self) -> int:
        return math.prod(len(values) for values in self.choices.values())

    @staticmethod
    def label(value: Any) -> Any:
        """The value as a database keeps it: plain, lists as JSON text."""
        return value if isinstance(value, (str, int, float, bool)) or value is None else json.dumps(value)

    def labels(self, name: str) -> list[Any]:
        """The labels of a name's choices."""
        return [self.label(value) for value in self.choices[name]]

    def candidate(self, places: Mapping[str, int]) -> dict[str, Any]:
        """The values at these places."""
        return {name: values[places[name]] for name, values in self.choices.items()}

    def places(self, labels: Mapping[str, Any]) -> dict[str, int] | None:
        """The places of these labels; None if they are not of this space."""
        try:
            return {name: self.labels(name).index(labels[name]) for name in self.choices}
        except (KeyError, ValueError):
            return None

    def smallest(self) -> dict[str, int]:
        """The cheapest candidate."""
        return dict.fromkeys(self.choices, 0)

    def neighbours(self, places: Mapping[str, int]) -> Iterator[dict[str, int]]:
        """One step along one dimension: the dearer ones first."""
        for step in (1, -1):
            for name, values in self.choices.items():
                if 0 <= places[name] + step < len(values):
                    yield {**places, name: places[name] + step}

    def all(self) -> Iterator[dict[str, int]]:
        """Every candidate's places."""
        for combined in itertools.product(*(range(len(values)) for values in self.choices.values())):
            yield dict(zip(self.choices, combined, strict=True))

    def to_dict(self) -> dict[str, list[Any]]:
        """The choices."""
        return {name: list(values) for name, values in self.choices.items()}


def check_count(space: Space, trials: int) -> None:
    """Refuses more trials than there are candidates."""
    if trials > len(space):
        raise PrecutError(
            f"the space has {len(space)} candidates, fewer than the {trials} trials; add choices or ask fewer"
        )
