"""Pruning before training: scores, an allocation and a schedule become a network of real sparse layers."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional as F

from precut.errors import PrecutError, real, unknown, whole
from precut.layers import SparseLayer, scattered
from precut.pruning._allocation import Allocation, GivenDensities, allocation_of
from precut.pruning._dead import drop_channels_, without_dead
from precut.pruning._network import Network, prunable_layers
from precut.pruning._paths import Conservation, conservation, on_paths
from precut.pruning._prices import macs_of_a_weight
from precut.pruning._report import PruneReport
from precut.pruning._result import read_elsewhere, sparse_model
from precut.pruning._rounds import Plan, ScoreFunction, run_rounds, score_of
from precut.pruning._schedule import exponential, linear, schedule_of
from precut.pruning._scores import Score
from precut.pruning._select import check_scores
from precut.pruning._structured import structure_of
from precut.supports import SupportMaker, Unstructured

if TYPE_CHECKING:
    from precut.supports import Support

__all__ = ["as_masks", "prune", "score_weights"]

_LIKE = "like:"


def prune(
    model: nn.Module,
    score: str | Score | type[Score] | ScoreFunction = "synflow",
    density: float | None = None,
    example_inputs: Any = None,
    allocation: str | Allocation | Mapping[str, Any] | PruneReport = "global",
    rounds: int = 1,
    schedule: str | Callable[[float, float], float] = "exponential",
    data: Iterable[Any] | None = None,
    loss: Callable[..., torch.Tensor] | None = None,
    ignored_layers: Iterable[nn.Module | str] | nn.Module | str = (),
    min_per_layer: int = 0,
    structure: Any = None,
    budget: str = "weights",
    official: bool = False,
    remove_dead: bool = False,
    seed: int = 0,
    on_round: Callable[[int, int, int], None] | None = None,
) -> tuple[nn.Module, PruneReport]:
    """A new model in which only the best weights exist, and a report of what was kept.

    Prunable are the weights of all convolutions and linear layers of ``torch.nn``, 1x1 ones and the classifier too; a
    weight that several layers share counts once. The kept weights keep their values; biases and norms stay. Scores look
    at the model in eval mode.

    Args:
        model: any module; it is not changed.
        score: one of ``precut.pruning.scores`` ("synflow", "snip", "grasp", "magnitude", "random", "force", "ntk-sap"),
            a Score, or a function of a ``precut.pruning.Network`` that returns ``{layer name: tensor of the dense
            weight's shape}``, the highest kept.
        density: kept / prunable weights, above 0 and at most 1; exactly ``ceil(density * N)`` weights are kept, of
            equal scores those that come first. None takes the densities of ``allocation``, or of ``structure``, as they
            are.
        example_inputs: a tensor, a tuple of arguments or a dict of them; shapes and dtypes count, values do not.
        allocation: "global", "uniform", "erdos-renyi", "erdos-renyi-kernel", ``{layer name or glob: density}``,
            ``{layer: mask}`` or the report of another pruning, whose densities are scaled together to meet ``density``;
            or "like:synflow", the layers' densities that another score comes to, in its paper's rounds.
        rounds: how often to score and cut. SynFlow's paper takes 100, FORCE's 60, NTK-SAP's 20; one-shot SynFlow is
            known to empty layers.
        schedule: "exponential", "linear" or a function of (share of rounds done, density).
        data: for snip, grasp and force: batches ``(inputs, targets)``; any iterable.
        loss: of (model's result, targets), one number; cross-entropy unless given.
        ignored_layers: modules, names or globs that stay dense and are not counted.
        min_per_layer: weights that each layer keeps whatever their scores.
        structure: the scores choose whole parts of a pattern, never more than the budget: "class:8" (the positions of
            every pair of 8 x 8 residue classes), "kernel", "block:16", "weight", or a Periodic or NM maker or its name,
            which fix the density (leave it out). See :func:`structure_of`.
        budget: "weights", or "macs": ``density`` is then the share of the prunable layers' multiply-adds, and scores
            are compared by what they give for each; never more than that share is kept.
        official: follows the published code of SynFlow's authors: float64, its rule for k (all that ties with the k-th
            lowest score goes), weights that may return, and its treatment of means and biases.
        remove_dead: also removes kept weights that no output depends on, and channels that nothing reads; the outputs in
            eval mode, at the example's size, are unchanged. ``report.kept`` says what was kept before.
        seed: of random scores and noise.
        on_round: called with (rounds done, rounds in all, weights left).

    Returns:
        The model, with SparseConv2d and SparseLinear in place of pruned layers (other kinds of layers hold their kept
        weights through a parametrization), and the PruneReport.

    Raises:
        PrecutError: for arguments that cannot be used, or a model that cannot be pruned so.
    """
    network, report = _chosen(
        model, score, density, example_inputs, allocation, rounds, schedule, data, loss, ignored_layers, min_per_layer,
        structure, budget, official, seed, on_round,
    )  # fmt: skip
    dense = read_elsewhere(network)
    if not remove_dead:
        return sparse_model(model, network.layers, report.makers, dense), report
    before = report.k
    network.masks = without_dead(network)
    pruned = sparse_model(model, network.layers, _makers(network, {}), dense)
    channels = drop_channels_(pruned, network.example_inputs)
    left = sum(int(mask.sum()) for mask in network.masks.values())
    return pruned, dataclasses.replace(report, dead_removed=before - left, channels_removed=channels)


def _chosen(
    model: nn.Module, score: Any, density: float | None, example_inputs: Any, allocation: Any, rounds: int,
    schedule: Any, data: Any, loss: Any, ignored_layers: Any, min_per_layer: int, structure: Any, budget: str,
    official: bool, seed: int, on_round: Any,
) -> tuple[Network, PruneReport]:  # fmt: skip
    """The masks, in the network, and the report."""
    network = make_network(model, example_inputs, ignored_layers, data, loss, official, seed)
    scorer, name = score_of(score)
    _check_data(scorer, name, data)
    if density is not None:
        density = real("density (kept / prunable weights)", density, above=0, most=1)
    rounds, least = whole("rounds", rounds), whole("min_per_layer", min_per_layer, 0)
    falling = schedule_of(schedule)
    if on_round is not None and not callable(on_round):
        raise PrecutError(f"on_round must be a function of (rounds done, rounds, weights left); got {on_round!r:.60}")
    if isinstance(allocation, str) and allocation.startswith(_LIKE):
        spread: Allocation = _like(network, allocation.removeprefix(_LIKE), density, falling)
    else:
        spread = allocation_of(allocation)
    form = None if structure is None else structure_of(structure)
    prices = None
    if budget == "macs" and not (form is not None and form.fixed):
        prices, form = macs_of_a_weight(network), form or structure_of("weight")
    elif budget not in ("weights", "macs"):
        raise unknown("budget", budget, ("weights", "macs"))
    if official:
        _check_official(allocation, falling, least, form)
    if form is not None and form.fixed:
        free = {"density": density is None, "min_per_layer": not least, "budget": budget == "weights"}
        free["allocation"] = isinstance(allocation, str) and allocation == "global"
        for given, left_out in free.items():
            if not left_out:
                raise PrecutError(f"structure {str(form)!r} fixes how many weights there are; leave the {given} out")
        plan = Plan.make(network, 1.0, rounds, falling, allocation_of("global"), 0)
    else:
        plan = Plan.make(network, density, rounds, falling, spread, least, prices)
    preferred = getattr(scorer, "rounds", 1)
    if rounds == 1 and preferred > 1:
        network.note(f"{name} ran in one round; its paper takes {preferred}: rounds={preferred}")
    chosen = run_rounds(network, scorer, name, plan, on_round, form)
    if prices is not None:
        spent = sum(int(mask.sum()) * prices[key] for key, mask in network.masks.items())
        network.note(f"the budget is in multiply-adds: {spent:,} of {sum(plan.sizes.values()):,} in prunable layers")
    live, flow = _paths(network)
    network.buffers.clear()
    report = PruneReport(
        score=name,
        allocation=allocation if isinstance(allocation, str) else "given" if density is None else "given, scaled",
        schedule=schedule if isinstance(schedule, str) else getattr(schedule, "__name__", "own"),
        density=density,
        rounds=rounds,
        official=official,
        structure=None if form is None else str(form),
        kept={key: int(mask.sum()) for key, mask in network.masks.items()},
        dense={key: layer.size for key, layer in network.layers.items()},
        live=live,
        conservation=flow,
        held=dict(plan.acted),
        notes=list(network.notes),
        makers=_makers(network, chosen),
        shapes={key: layer.shape for key, layer in network.layers.items()},
        groups={key: layer.groups for key, layer in network.layers.items()},
    )
    return network, report


def _like(network: Network, name: str, density: float | None, falling: Callable[[float, float], float]) -> Allocation:
    """The layers' densities that another score comes to, in its paper's rounds."""
    scorer, name = score_of(name)
    _check_data(scorer, name, network.data)
    plan = Plan.make(network, density, getattr(scorer, "rounds", 1), falling, allocation_of("global"), 0)
    run_rounds(network, scorer, name, plan)
    densities = {key: float(mask.double().mean()) for key, mask in network.masks.items()}
    network.masks, network.removed = {}, {}
    return GivenDensities(densities)


def _check_data(scorer: Any, name: str, data: Any) -> None:
    if getattr(scorer, "needs_data", False) and data is None:
        raise PrecutError(f"score {name!r} needs data=[(inputs, targets), ...] (any iterable of batches)")


def make_network(
    model: Any, example_inputs: Any, ignored_layers: Any, data: Any, loss: Any, official: bool, seed: int
) -> Network:
    """The Network of a model, with its arguments checked."""
    if not isinstance(model, nn.Module):
        hint = f": pass an instance, {model.__name__}(...)" if isinstance(model, type) else ""
        raise PrecutError(f"prune takes an nn.Module; got {type(model).__name__} {model!r:.60}{hint}")
    if example_inputs is None:
        raise PrecutError(
            "prune needs example_inputs: a tensor of the shape that the model takes, torch.zeros(1, 3, 32, 32)"
        )
    layers, notes = prunable_layers(model, ignored_layers)
    if data is not None and not isinstance(data, Iterable):
        raise PrecutError(f"data must be an iterable of batches (inputs, targets); got {type(data).__name__}")
    if loss is not None and not callable(loss):
        raise PrecutError(f"loss must be a function of (the model's result, targets); got {loss!r:.60}")
    if isinstance(data, Iterator):
        data = list(data)  # some scores look twice
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = {}
    if isinstance(example_inputs, dict):
        kwargs = dict(example_inputs)
    else:
        args = tuple(example_inputs) if isinstance(example_inputs, (tuple, list)) else (example_inputs,)
    if not any(isinstance(item, torch.Tensor) for item in (*args, *kwargs.values())):
        raise PrecutError(
            "example_inputs must be a tensor, a tuple of arguments or a dict of them, with at least one tensor; got "
            f"{type(example_inputs).__name__} {example_inputs!r:.60}"
        )
    generator = torch.Generator().manual_seed(whole("seed", seed, 0, 2**63 - 1))
    network = Network(model, layers, (args, kwargs), data, loss or F.cross_entropy, generator, official)
    network.notes += notes
    return network


def _check_official(allocation: Any, schedule: Any, least: int, structure: Any) -> None:
    if allocation not in ("global", "uniform") or schedule not in (exponential, linear) or least or structure:
        raise PrecutError(
            "official=True follows code that knows allocation='global' or 'uniform', schedule='exponential' or 'linear', "
            "no min_per_layer and no structure; leave the others out"
        )


def _makers(network: Network, chosen: Mapping[str, Support]) -> dict[str, SupportMaker]:
    """Of each layer's support: the structure's where one chose, else the mask's bits."""
    return {name: chosen[name].maker if name in chosen else Unstructured(mask) for name, mask in network.masks.items()}


def _paths(network: Network) -> tuple[dict[str, int] | None, Conservation | None]:
    """Live weights by layer, and conservation; None where the model cannot be captured or linearised."""
    try:
        found = on_paths(network)
        live = {name: int(torch.count_nonzero(found[name])) for name in network.layers}
        del found
        return live, conservation(network)
    except PrecutError as error:
        network.note(f"paths and flow were not looked at: {error}")
        return None, None


def score_weights(
    model: nn.Module,
    score: str | Score | type[Score] | ScoreFunction,
    example_inputs: Any,
    masks: Mapping[str, torch.Tensor] | None = None,
    data: Iterable[Any] | None = None,
    loss: Callable[..., torch.Tensor] | None = None,
    ignored_layers: Iterable[nn.Module | str] | nn.Module | str = (),
    official: bool = False,
    seed: int = 0,
) -> dict[str, torch.Tensor]:
    """The scores themselves: ``{layer name: tensor of the dense weight's shape}``; see :func:`prune`.

    Args:
        masks: of the dense weights' shapes, by layer: the network as pruned so far.
    """
    network = make_network(model, example_inputs, ignored_layers, data, loss, official, seed)
    scorer, called = score_of(score)
    for name, mask in (masks or {}).items():
        shape = tuple(mask.shape) if isinstance(mask, torch.Tensor) else type(mask).__name__
        if name not in network.layers or shape != network.layers[name].shape:
            raise PrecutError(f"masks holds {name!r} of shape {shape}, which is no prunable layer's")
        network.masks[name] = (mask != 0).to(network.layers[name].weight.device)
    shapes = {name: layer.shape for name, layer in network.layers.items()}
    with network.evaluating():
        given = scorer(network)
        check_scores(given, shapes, f"score {called!r}")
        return {name: given[name] for name in shapes}


def as_masks(pruned: nn.Module | PruneReport) -> dict[str, torch.Tensor]:
    """Bool masks of the dense weights' shapes by layer name, for code that masks dense layers itself. Layers that hold
    their weights through a parametrization are among them.

    Args:
        pruned: a report of :func:`prune`, or a model with sparse layers (then as they are now).
    """
    if isinstance(pruned, PruneReport):
        return pruned.masks()
    if isinstance(pruned, nn.Module):
        found = {name: mask for name, layer in pruned.named_modules() if (mask := _mask_of(layer)) is not None}
        if found:
            return found
        raise PrecutError(
            "as_masks found no sparse layer in the model; pass the report, or the model that prune returned"
        )
    raise PrecutError(f"as_masks takes a report of prune, or its model; got {type(pruned).__name__}")


def _mask_of(layer: nn.Module) -> torch.Tensor | None:
    if isinstance(layer, SparseLayer):
        return layer.support.mask()
    held = scattered(layer)
    return None if held is None else held.mask()
