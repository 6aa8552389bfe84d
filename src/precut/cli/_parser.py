"""Arguments of a command, with errors in precut's words."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from precut.errors import PrecutError, unknown

__all__ = ["MOST_PIXELS", "Parser", "assignments", "number", "seed", "share", "whole"]


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that raises PrecutError, and names the nearest option for one that it does not know."""

    def __init__(self, prog: str, description: str | None) -> None:
        super().__init__(prog=prog, description=description, allow_abbrev=False)

    def parse(self, words: Sequence[str]) -> argparse.Namespace | None:
        """The arguments, or None when the help was asked for (and printed)."""
        if "-h" in words or "--help" in words:
            self.print_help()
            return None
        # Before argparse looks: it would first complain of what a misspelt option leaves out.
        known = {option for action in self._actions for option in action.option_strings}
        for word in words:
            name = word.split("=", 1)[0]
            if name.startswith("-") and name not in known and not _is_number(word):
                options = [option for option in known if option.startswith("--")]
                raise unknown(f"option of {self.prog}", name, options, f"{self.prog} --help")
        arguments, left = self.parse_known_args(words)
        if left:
            raise PrecutError(f"{self.prog} cannot use the word {left[0]!r}; see {self.prog} --help")
        return arguments

    def error(self, message: str) -> NoReturn:
        raise PrecutError(f"{message}; see {self.prog} --help")


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


MOST_PIXELS = 1 << 16  # of an image's side


def whole(least: int = 1, most: int = 2**63 - 1) -> Callable[[str], int]:
    """Reads a whole number of at least ``least``, at most ``most``."""

    def read(word: str) -> int:
        try:
            value = int(word)
        except ValueError:
            value = least - 1
        if value < least:
            raise argparse.ArgumentTypeError(f"expected a whole number of at least {least}, got {word!r}")
        if value > most:
            raise argparse.ArgumentTypeError(f"expected a whole number of at most {most}, got {word!r}")
        return value

    return read


seed = whole(0)


def number(word: str) -> float:
    """Reads a number above 0."""
    try:
        value = float(word)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a number above 0, got {word!r}")
    return value


def share(word: str) -> float:
    """Reads a number above 0 and at most 1."""
    try:
        value = float(word)
    except ValueError:
        value = 0.0
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"expected a share above 0, at most 1 (90 % is 0.9), got {word!r}")
    return value


def _value(read: Any) -> Any:
    """YAML 1.1 takes 1e-1, without a point, for a word."""
    exponential = isinstance(read, str) and re.fullmatch(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+", read)
    return float(read) if exponential else read


def assignments(words: Sequence[str], option: str) -> dict[str, Any]:
    """``["epochs=2", "flip=false"]`` as a mapping; values are read as YAML."""
    import yaml

    found: dict[str, Any] = {}
    for word in words:
        name, equals, text = word.partition("=")
        if not (name and equals):
            raise PrecutError(f"{option} takes NAME=VALUE (such as epochs=2); got {word!r}")
        try:
            found[name] = _value(yaml.safe_load(text))
        except yaml.YAMLError:
            raise PrecutError(f"{option} {name}: {text!r} is not a number, a word, true, false or a [list]") from None
    return found
