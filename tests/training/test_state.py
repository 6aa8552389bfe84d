import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from precut.errors import PrecutError
from precut.training._state import get_rng, load_optimizer, optimizer_state, read_tree, set_rng, write_tree

LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(-(2**60), 2**60)
    | st.floats(allow_nan=False)
    | st.text(max_size=5)
    | st.lists(st.integers(0, 3), max_size=3).map(lambda shape: torch.rand(shape))
    | st.sampled_from([torch.bool, torch.uint8, torch.int64, torch.bfloat16]).map(lambda t: torch.ones(2, dtype=t))
)
TREES = st.dictionaries(
    st.text(max_size=4),
    st.recursive(
        LEAVES,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
        max_leaves=8,
    ),
    max_size=4,
)


def equal(one: Any, other: Any) -> bool:
    if type(one) is not type(other):
        return False
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(equal, one, other))
    return bool(one == other)


@given(TREES)
def test_any_tree_comes_back(tree: dict[str, Any]) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tree.safetensors"
        write_tree(path, tree)
        assert equal(read_tree(path), tree)


def test_names_with_dots_do_not_meet(tmp_path: Path) -> None:
    tree = {"a.b": torch.zeros(1), "a": {"b": torch.ones(1)}}
    write_tree(tmp_path / "t", tree)
    assert equal(read_tree(tmp_path / "t"), tree)


def test_strided_and_shared_tensors_come_back_whole(tmp_path: Path) -> None:
    base = torch.arange(24.0).reshape(2, 3, 2, 2)
    tree = {"last": base.contiguous(memory_format=torch.channels_last), "part": base[:, 1], "same": base[:, 1]}
    write_tree(tmp_path / "t", tree)
    assert equal(read_tree(tmp_path / "t"), tree)


def test_what_cannot_be_kept(tmp_path: Path) -> None:
    with pytest.raises(PrecutError) as caught:
        write_tree(tmp_path / "t", {"a": [1, nn.ReLU()]})
    assert str(caught.value) == (
        "a checkpoint cannot hold 'a.1', a ReLU; expected tensors, numbers, strings, lists and dicts"
    )
    with pytest.raises(PrecutError) as caught:
        write_tree(tmp_path / "t", {"a": {1: 2}})
    assert str(caught.value) == "a checkpoint's dicts need string keys; a has [1]"
    assert not list(tmp_path.iterdir())


def test_damaged_files(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    path = tmp_path / "state.safetensors"
    with pytest.raises(PrecutError) as caught:
        read_tree(path)
    assert str(caught.value) == f"there is no checkpoint at {str(path)!r}"
    write_tree(path, {"weight": torch.arange(100.0), "step": 3})
    whole = path.read_bytes()
    for size in (0, 5, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(PrecutError, match="is not a whole safetensors file"):
            read_tree(path)
    changed = bytearray(whole)
    changed[-7] ^= 1
    path.write_bytes(changed)
    with pytest.raises(PrecutError) as caught:
        read_tree(path)
    assert str(caught.value) == (
        f"{str(path)!r} was altered after it was written: its checksum does not match its contents"
    )
    save_file({"weight": torch.zeros(2)}, path)
    with pytest.raises(PrecutError) as caught:
        read_tree(path)
    assert str(caught.value) == (
        f"{str(path)!r} is not a training checkpoint of this version of precut ('precut-training-1')"
    )


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    path = tmp_path / "state.safetensors"
    write_tree(path, {"step": 1})

    def full(descriptor: int) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="disk full"):
        write_tree(path, {"step": 2})
    monkeypatch.undo()
    assert read_tree(path) == {"step": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_random_generators_come_back(tmp_path: Path) -> None:
    cpu = torch.device("cpu")
    random.gauss(0, 1)  # leaves a second number behind
    np.random.standard_normal()
    path = tmp_path / "rng"
    write_tree(path, get_rng(cpu))

    def draw() -> list[float]:
        return [torch.rand(()).item(), random.random(), random.gauss(0, 1), np.random.standard_normal()]

    first = draw()
    assert draw() != first
    set_rng(read_tree(path), cpu)
    assert draw() == first


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW])
def test_optimisers_come_back(kind: Any, tmp_path: Path) -> None:
    def make() -> tuple[nn.Conv2d, torch.optim.Optimizer]:
        torch.manual_seed(0)
        layer = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
        return layer, kind(layer.parameters(), lr=0.1, **({"momentum": 0.9} if kind is torch.optim.SGD else {}))

    def step(layer: nn.Conv2d, optimizer: torch.optim.Optimizer) -> None:
        optimizer.zero_grad()
        layer(torch.ones(2, 3, 5, 5)).square().sum().backward()
        optimizer.step()

    layer, optimizer = make()
    step(layer, optimizer)
    write_tree(tmp_path / "t", {"optimizer": optimizer_state(optimizer)})
    other, resumed = make()
    other.load_state_dict(layer.state_dict())
    load_optimizer(resumed, read_tree(tmp_path / "t")["optimizer"])
    for parameter, twin in zip(layer.parameters(), other.parameters(), strict=True):
        for key, value in optimizer.state[parameter].items():
            if isinstance(value, torch.Tensor):
                assert resumed.state[twin][key].stride() == value.stride()
    step(layer, optimizer)
    step(other, resumed)
    assert all(map(torch.equal, layer.parameters(), other.parameters()))
    with pytest.raises(PrecutError) as caught:
        load_optimizer(resumed, [])
    assert str(caught.value) == "the checkpoint's optimiser has 0 parameters, the model's 2"
