"""SynFlow (Tanaka, Kunin, Yamins, Ganguli, NeurIPS 2020, arXiv 2006.05467): the flow through each weight of the
linearised network."""

from __future__ import annotations

from typing import ClassVar

import torch

from precut.errors import PrecutError
from precut.pruning._few import Few, worthwhile
from precut.pruning._linear import Linear
from precut.pruning._matmul import Weight
from precut.pruning._network import Network, floats
from precut.pruning._registry import scores
from precut.pruning._scores import Score
from precut.pruning._select import Piece

__all__ = ["SynFlow"]


@scores.register("synflow")
class SynFlow(Score):
    """dR/dw times w, where R is the sum of the outputs of the linearised network on ones; no data is looked at.

    One forward and one backward pass over a single image, in float64; a common power of two is left out, so scores are
    finite at any depth. Weights that are gone score 0.
    """

    rounds: ClassVar[int] = 100

    def __call__(self, network: Network) -> dict[str, torch.Tensor]:
        return {name: piece.whole() for name, piece in self.pieces(network).items()}

    def pieces(self, network: Network) -> dict[str, Piece]:
        """The same as products of two tensors that live until the next call."""
        if network.official:
            return {name: Piece(score) for name, score in _official(network).items()}
        weights = {name: network.buffer(name) for name in network.layers}
        filled = network.cache.get("filled", -2)  # the round for which the weights were last filled in
        for name, weight in weights.items():
            weight.clear()
            if filled < network.round - 1:
                weight.few = None
                _set_absolute_(network, name, weight)
                if name in network.masks:
                    weight.value.mul_(network.masks[name])
            elif filled == network.round:
                pass  # asked again in the same round
            elif weight.few is not None:
                weight.few.keep(network.stayed[name])
            elif name in network.removed:
                weight.value.view(-1).index_fill_(0, network.removed[name], 0)
            elif name in network.masks:
                weight.value.mul_(network.masks[name])
            places = network.places.get(name)
            if (
                weight.few is None
                and places is not None
                and worthwhile(len(places), weight.value.numel(), places.device)
            ):
                values = weight.value.view(-1).index_select(0, places)
                weight.few = Few(places, values, len(weight.value), weight.value[0].numel())
        network.cache["filled"] = network.round  # the next round only takes weights away
        run = Linear(network.graph, {id(network.layers[name].weight): w for name, w in weights.items()})
        with torch.enable_grad():
            run.run().tensor.backward()
        for note in run.notes:
            network.note(note)
        return {name: weight.saliency() for name, weight in weights.items()}


def _set_absolute_(network: Network, name: str, weight: Weight) -> None:
    weight.value.copy_(network.layers[name].weight.detach().abs())
    if not bool(torch.isfinite(weight.value.sum())):
        raise PrecutError(f"layer {name!r} holds weights that are not finite, or too large to be added")


def _official(network: Network) -> dict[str, torch.Tensor]:
    """As the authors' code does it, in float64: the absolute value of everything that the model holds, running means
    and biases too, and the model itself, activations and all, on one input of ones."""
    model = network.model
    absolute = {
        name: value.detach().double().abs() if value.is_floating_point() else value
        for name, value in (*model.named_parameters(), *model.named_buffers())
    }
    leaves = {}
    for name, layer in network.layers.items():
        leaf = absolute[layer.parameter].clone().requires_grad_()
        mask = network.masks.get(name)
        absolute[layer.parameter] = leaf if mask is None else leaf * mask
        leaves[name] = leaf
    args, kwargs = network.ones()
    with torch.enable_grad():
        result = torch.func.functional_call(model, absolute, args, kwargs)
        total = torch.stack([item.sum() for item in floats(result)]).sum()
        gradients = torch.autograd.grad(total, list(leaves.values()), allow_unused=True)
    return {
        name: torch.zeros_like(leaf) if gradient is None else (gradient * leaf.detach()).abs()
        for (name, leaf), gradient in zip(leaves.items(), gradients, strict=True)
    }
