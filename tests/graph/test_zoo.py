"""Every network of the zoo, dense and sparse: captured exactly, permuted without change, sliced exactly."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import precut
from graph.nets import close, randomise_
from precut.graph import ChannelSpace, ChannelSpaces, Graph, capture, drop, permute, restrict

NAMES = precut.list_models()
SUPPORTS = [None, "PSD4_P8", *(pytest.param(name, marks=pytest.mark.slow) for name in ("PS2_P8", "pSC4"))]


def make(name: str, support: str | None, width: float = 0.25) -> tuple[nn.Module, torch.Tensor, Graph]:
    model = precut.create_model(name, width_mult=width)
    if support is not None and name != "dense_mlp":  # it has no convolution
        model = precut.sparsify(model, support)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 3, 32, 32, generator=generator, dtype=torch.float64)
    model = randomise_(model)
    return model, x, capture(model, x)


def halves(spaces: ChannelSpaces, seed: int) -> dict[ChannelSpace, torch.Tensor]:
    """For every space that can shrink by itself, a random half of its channels, in random order."""
    generator = torch.Generator().manual_seed(seed)
    return {
        space: torch.randperm(space.size, generator=generator)[: max(1, space.size // 2)]
        for space in spaces
        if space.frozen is None and space.droppable
    }


def with_picks(spaces: ChannelSpaces, kept: dict[ChannelSpace, torch.Tensor]) -> dict[ChannelSpace, torch.Tensor]:
    """``kept`` without the entries of index buffers whose channels are gone: they go with them."""
    kept = dict(kept)
    found = spaces.analysis.found.gathers
    for _ in found:  # a pick may pick from picks
        for gather in found:
            sources, picks = spaces.members(gather.sources), spaces.members(gather.codes)
            for k in range(len(gather.codes)):
                source, pick = spaces[int(sources[0][k])], spaces[int(picks[0][k])]
                if source in kept and int(sources[1][k]) not in kept[source]:
                    left = kept.get(pick, torch.arange(pick.size))
                    kept[pick] = left[left != int(picks[1][k])]
    return kept


def with_zeros(model: nn.Module, spaces: ChannelSpaces, kept: dict[ChannelSpace, torch.Tensor]) -> nn.Module:
    """The model with zeros in the weights that read channels which are not kept."""
    model = copy.deepcopy(model)
    kept = with_picks(spaces, kept)
    with torch.no_grad():
        for space, index in kept.items():
            gone = [k for k in range(space.size) if k not in set(index.tolist())]
            for occurrence in space.occurrences:
                if occurrence.axis == "in":
                    layer = model.get_submodule(occurrence.owner)
                    dense = layer.dense_weight() if hasattr(layer, "dense_weight") else layer.weight
                    dense = dense.clone()
                    dense[:, torch.from_numpy(occurrence.positions[gone].ravel())] = 0
                    if hasattr(layer, "set_dense_weight_"):
                        layer.set_dense_weight_(dense)
                    else:
                        layer.weight.copy_(dense)
    return model


@pytest.mark.parametrize("name", NAMES)
def test_graphs_run_as_the_model_does(name: str) -> None:
    model = randomise_(precut.create_model(name, width_mult=0.25)).float()
    graph = capture(model, torch.randn(2, 3, 32, 32))
    graph.verify()
    graph.verify(torch.randn(1, 3, 32, 32))
    if name != "dense_mlp":
        graph.verify(torch.randn(3, 3, 48, 40))
    assert len(graph.layers()) == sum(isinstance(m, (nn.Conv2d, nn.Linear)) for m in model.modules())
    assert not [node.op for node in graph.nodes if node.op.startswith("torch.")]


@pytest.mark.parametrize("support", SUPPORTS)
@pytest.mark.parametrize("name", NAMES)
def test_permuting_every_space_changes_nothing(name: str, support: str | None) -> None:
    model, x, graph = make(name, support)
    spaces = graph.spaces
    assert {space.frozen for space in spaces} == {
        None,
        "they are an input of the network",
        "they are an output of the network",
    }
    generator = torch.Generator().manual_seed(1)
    moved = permute(model, {s: torch.randperm(s.size, generator=generator) for s in spaces if s.frozen is None})
    assert close(moved(x), model(x))
    differ = [
        name for (name, a), b in zip(model.named_parameters(), moved.parameters(), strict=True) if not torch.equal(a, b)
    ]
    assert len(differ) >= len(graph.layers())
    assert [p.shape for p in moved.parameters()] == [p.shape for p in model.parameters()]


@pytest.mark.parametrize("support", SUPPORTS)
@pytest.mark.parametrize("name", NAMES)
def test_taking_half_of_every_space_is_exact(name: str, support: str | None) -> None:
    model, x, graph = make(name, support)
    kept = halves(graph.spaces, 2)
    smaller = precut.graph.take(model, kept)
    assert close(smaller(x), with_zeros(model, graph.spaces, kept)(x))
    if kept:
        assert sum(p.numel() for p in smaller.parameters()) < sum(p.numel() for p in model.parameters())
        again = capture(smaller, x)
        again.verify()
        assert close(
            permute(smaller, {s: list(range(s.size))[::-1] for s in again.spaces if s.frozen is None})(x), smaller(x)
        )


def test_the_published_couplings_of_residual_stages() -> None:
    _, _, graph = make("resnet20", None, 1.0)
    sizes = sorted(space.size for space in graph.spaces if space.frozen is None)
    # The stem's 16 channels go through all three stages (shortcut "pad"); 16 and 32 join them; two layers a block have
    # their first one's output to themselves.
    assert sizes == sorted([16] * 3 + [32] * 3 + [64] * 3 + [16] + [16, 32])
    _, _, graph = make("resnet50", None, 0.25)
    stage = graph.spaces.find("stages.0.0.body.6")
    assert len(stage) == 1
    assert len(stage[0].producers) == 4  # three blocks and the shortcut


@pytest.mark.slow
@pytest.mark.parametrize("support", [None, "PSD4_P8"])
@pytest.mark.parametrize("name", [name for name in NAMES if "110" not in name and "101" not in name])
def test_single_spaces(name: str, support: str | None) -> None:
    model, x, graph = make(name, support)
    expected = model(x)
    free = [space for space in graph.spaces if space.frozen is None]
    for number, space in enumerate(free[:: max(1, len(free) // 16)]):
        order = torch.randperm(space.size, generator=torch.Generator().manual_seed(number))
        assert close(permute(model, space, order)(x), expected)
        for size in {1, space.size // 2} - {0, space.size}:
            kept = torch.arange(size)
            if space.why_not(size) is None:
                assert close(restrict(model, space, size)(x), with_zeros(model, graph.spaces, {space: kept})(x))
        if space.droppable:
            gone = order[: space.size // 2].tolist()
            kept = torch.tensor([k for k in range(space.size) if k not in gone])
            assert close(drop(model, space, gone)(x), with_zeros(model, graph.spaces, {space: kept})(x))


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in NAMES if "110" not in name and "101" not in name])
def test_full_width_at_64_pixels(name: str) -> None:
    model = randomise_(precut.create_model(name, input_size=64))
    x = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    graph = capture(model, x)
    moved = permute(model, {s: list(range(s.size))[::-1] for s in graph.spaces if s.frozen is None})
    assert close(moved(x), model(x))
