"""The table of named things that lists, messages and tests are driven from."""

from __future__ import annotations

import pytest

from precut._registry import Registry
from precut.errors import PrecutError


@pytest.fixture
def registry() -> Registry[int]:
    made: Registry[int] = Registry("score", "precut.list_scores()")
    for number, name in enumerate(["snip", "magnitude", "synflow"]):
        assert made.register(name)(number) == number  # a decorator that gives back what it decorates
    return made


def test_entries_are_found_in_order(registry: Registry[int]) -> None:
    assert list(registry) == ["snip", "magnitude", "synflow"]
    assert [registry[name] for name in registry] == [0, 1, 2]
    assert len(registry) == 3
    assert "snip" in registry
    assert "grasp" not in registry
    assert 0 not in registry


@pytest.mark.parametrize(
    ("pattern", "names"),
    [("*", ["magnitude", "snip", "synflow"]), ("s*", ["snip", "synflow"]), ("S*", []), ("snip", ["snip"]), ("", [])],
)
def test_names_match_globs_and_are_sorted(registry: Registry[int], pattern: str, names: list[str]) -> None:
    assert registry.names(pattern) == names


def test_a_name_is_registered_once(registry: Registry[int]) -> None:
    with pytest.raises(PrecutError) as raised:
        registry.register("snip")(9)
    assert str(raised.value) == "score 'snip' is registered already; choose another name"
    assert registry["snip"] == 0


def test_unknown_names(registry: Registry[int]) -> None:
    with pytest.raises(PrecutError) as raised:
        registry["sniper"]
    assert str(raised.value) == "unknown score 'sniper': did you mean 'snip'?"
    assert raised.value.__suppress_context__
    with pytest.raises(PrecutError) as raised:
        registry["x"]
    assert str(raised.value) == "unknown score 'x': choose one of 'magnitude', 'snip', 'synflow'"
    for number in range(10):
        registry.register(f"more{number}")(number)
    with pytest.raises(PrecutError) as raised:
        registry["x"]
    assert str(raised.value) == "unknown score 'x': see precut.list_scores()"


def test_registries_do_not_share_entries(registry: Registry[int]) -> None:
    assert len(Registry("score", "")) == 0


def test_classes_can_be_decorated() -> None:
    kinds: Registry[type] = Registry("kind", "")

    @kinds.register("a")
    class First:
        pass

    assert kinds["a"] is First
