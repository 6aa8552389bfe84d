"""Questions about paths from the inputs to the outputs of a pruned network: which weights lie on one, whether flow is
conserved, and which weights nothing depends on."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from precut.graph import Graph, Node, Value
from precut.pruning._linear import Flow, Linear, Mode
from precut.pruning._matmul import Weight
from precut.pruning._network import Network

__all__ = ["Conservation", "conservation", "on_paths"]


def on_paths(network: Network, constants: bool = False) -> dict[str, torch.Tensor]:
    """Which of the kept weights lie on a path from an input to an output, at the example's size: bool, by layer.

    A path exists where every weight on it does, whatever its value; a kernel position that only ever meets padding is
    on none. Pools pass on all that they look at, gates count as paths.

    Args:
        network: with masks of all its layers.
        constants: biases, means and activations of zero begin paths as well. What then is on none can be set to zero
            without any change of the outputs.
    """
    weights = {name: network.buffer(name) for name in network.masks}
    for name, weight in weights.items():
        weight.value.copy_(network.masks[name])
        weight.clear()
        weight.few = None
    run = Linear(network.graph, _by_parameter(network, weights), Mode(paths=True, constants=constants))
    with torch.enable_grad():
        run.run().tensor.backward()
    return {name: (weight.gradient() > 0).logical_and_(network.masks[name]) for name, weight in weights.items()}


def _by_parameter(network: Network, weights: dict[str, Weight]) -> dict[int, Weight]:
    return {id(network.layers[name].weight): weight for name, weight in weights.items()}


@dataclass(frozen=True)
class Conservation:
    """How well SynFlow's flow is conserved; both are relative, None where nothing could be compared.

    Attributes:
        neurons: the largest difference of the flow into and out of a hidden channel, over the larger of the two; channels
            with less than 1e-12 of the network's flow are left out.
        cuts: the largest difference between the flow through a cut (layers of which every path crosses exactly one) and
            the network's.
        channels, layers_cut: how many channels and cuts were compared.
        flow: whether anything flows from the inputs to the outputs at all.
    """

    neurons: float | None
    cuts: float | None
    channels: int
    layers_cut: int
    flow: bool


def conservation(network: Network) -> Conservation:
    """Checks that, in the linearised network, flow is conserved in every channel and over every cut of layers."""
    graph = network.graph
    weights = {name: network.buffer(name) for name in network.masks}
    for name, weight in weights.items():
        weight.value.copy_(network.layers[name].weight.detach().abs()).mul_(network.masks[name])
        weight.clear()
        weight.few = None
    run = Linear(graph, _by_parameter(network, weights))
    with torch.enable_grad():
        total = run.run()
        total.tensor.backward()
    flow = float(total.tensor.detach())
    if not flow > 0:
        return Conservation(None, None, 0, 0, False)
    sums = _Sums(graph, run)
    neurons, channels = _neurons(graph, sums, flow)
    cuts, count = _cuts(graph, run, sums, flow)
    return Conservation(neurons, cuts, channels, count, True)


def _owners(graph: Graph) -> dict[str, list[Node]]:
    found: dict[str, list[Node]] = {}
    for node in graph.layers():
        if "weight" in node.params:
            found.setdefault(node.path if node.module is not None else node.params["weight"][0], []).append(node)
    return found


def _neurons(graph: Graph, sums: _Sums, flow: float) -> tuple[float | None, int]:
    """The largest relative difference between what flows into and out of a channel that only layers read and make."""
    owners = _owners(graph)
    worst, compared = 0.0, 0
    if any(place.axis == "index" for space in graph.spaces for place in space.occurrences):
        return None, 0  # channels picked by an index tensor lie in several spaces
    for space in graph.spaces:
        if space.frozen is not None:
            continue
        into = torch.zeros(space.size, dtype=torch.float64)
        out = torch.zeros(space.size, dtype=torch.float64)
        whole = True
        for place in space.occurrences:
            nodes = owners.get(place.owner)
            if place.axis == "param":
                continue
            if nodes is None or place.axis not in ("in", "out"):
                whole = False
                break
            node = nodes[0]
            if len(sums.uses[id(node.params["weight"][1])]) > 1:
                whole = False  # a weight that several layers share, or one layer twice: its score is of all its uses
                break
            known = sums.by_axis.get((id(node.params["weight"][1]), place.axis))
            if known is None:
                whole = False
                break
            if len(known):  # a depthwise layer passes its channels on
                (into if place.axis == "out" else out).add_(known[torch.from_numpy(place.positions)].sum(1))
        if not whole:
            continue
        larger = torch.maximum(into, out)
        seen = larger > 1e-12 * flow
        if bool(seen.any()):
            worst = max(worst, float(((into - out).abs()[seen] / larger[seen]).max()))
            compared += int(seen.sum())
    return (worst, compared) if compared else (None, 0)


class _Sums:
    """Scores of the linearised network, summed: by weight in all, and by weight and axis over everything else; and the
    layers that use each weight."""

    def __init__(self, graph: Graph, run: Linear) -> None:
        self.total: dict[int, float] = {}
        self.by_axis: dict[tuple[int, str], torch.Tensor] = {}
        self.uses: dict[int, list[Node]] = {}
        for node in graph.layers():
            if "weight" in node.params:
                self.uses.setdefault(id(node.params["weight"][1]), []).append(node)
        for node in graph.layers():
            key = id(node.params["weight"][1]) if "weight" in node.params else 0
            if key not in run.weights or key in self.total:
                continue
            weight = run.weights[key]
            score = weight.gradient().mul_(weight.value)
            self.total[key] = float(score.sum())
            for axis in ("in", "out"):
                self.by_axis[key, axis] = _axis_sums(node, score, axis).cpu()


def _axis_sums(node: Node, score: torch.Tensor, axis: str) -> torch.Tensor:
    """Scores summed over all but one axis of channels; empty for a depthwise layer."""
    transposed = node.op.startswith("conv_transpose")
    groups = int(node.attrs.get("groups", 1) or 1)
    inner = score.flatten(2).sum(2) if score.ndim > 2 else score
    own, grouped = (0, 1) if (axis == "out") != transposed else (1, 0)
    if groups > 1 and groups == (inner.shape[0] if transposed else inner.shape[1] * groups):
        return score.new_empty(0)
    # Dimension 0 counts channels over all groups, dimension 1 within one.
    if own == 0:
        return inner.sum(1)
    return torch.cat([block.sum(grouped) for block in inner.chunk(groups, 0)])


def _cuts(graph: Graph, run: Linear, sums: _Sums, flow: float) -> tuple[float | None, int]:
    """The largest relative difference between the network's flow and that over a cut of layers."""
    layers = [node for node in graph.layers() if "weight" in node.params]
    number = {node.index: place for place, node in enumerate(layers)}
    inputs = 1 << len(layers)
    above: dict[int, int] = {}  # value to the layers on its way from the inputs, as bits
    carried: dict[int, int] = {}  # value to the layers whose outputs it carries, without another layer between
    last: dict[int, int] = {}
    for value in graph.inputs:
        above[value.id], carried[value.id] = 0, inputs
    for node in graph.nodes:
        flows = [value for value in node.inputs if isinstance(run.flows.get(value.id), Flow)]
        for value in flows:
            last[value.id] = node.index
        before = _join(above.get(value.id, 0) for value in flows)
        own = 1 << number[node.index] if node.index in number else 0
        for value in node.outputs:
            above[value.id] = before | own
            carried[value.id] = own or _join(carried.get(value.id, 0) for value in flows)
    for value in graph.outputs:
        last[value.id] = len(graph.nodes)
    worst, found = 0.0, set()
    alive: list[Value] = list(graph.inputs)
    for node in graph.nodes:
        alive = [value for value in (*alive, *node.outputs) if last.get(value.id, -1) > node.index]
        crossing = _join(carried.get(value.id, 0) for value in alive)
        if not crossing or crossing & inputs or crossing in found:
            continue
        cut = [layers[place] for place in range(len(layers)) if crossing >> place & 1]
        upstream = _join(_join(above.get(value.id, 0) for value in layer.inputs) for layer in cut)
        if upstream & crossing or any(len(sums.uses[id(layer.params["weight"][1])]) > 1 for layer in cut):
            continue
        found.add(crossing)
        through = sum(sums.total[id(layer.params["weight"][1])] for layer in cut)
        worst = max(worst, abs(through - flow) / flow)
    return (worst, len(found)) if found else (None, 0)


def _join(bits: object) -> int:
    joined = 0
    for item in bits:  # type: ignore[attr-defined]
        joined |= item
    return joined
