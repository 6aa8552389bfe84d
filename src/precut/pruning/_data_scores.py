"""Scores that look at data and a loss, and the one that looks at noise."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, ClassVar

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from precut.errors import PrecutError, first_line
from precut.graph import leaves, rebuild
from precut.pruning._network import Network, floats
from precut.pruning._registry import scores
from precut.pruning._scores import Score

__all__ = ["NTKSAP", "Force", "GraSP", "Snip"]


@contextlib.contextmanager
def _on_batch(inputs: Any, targets: Any, what: str = "data") -> Iterator[None]:
    """What the model or the loss says of a batch that it does not take is the user's to know."""
    try:
        yield
    except (RuntimeError, TypeError, ValueError, IndexError) as error:
        shown = ", ".join(
            f"{tuple(leaf.shape)} {leaf.dtype}" if hasattr(leaf, "shape") else type(leaf).__name__
            for leaf in (*leaves(inputs), *leaves(targets))
        )
        why = f"{type(error).__name__}: {first_line(error)}"
        raise PrecutError(f"the model and its loss do not take this batch of {what} ({shown}): {why}") from error


def _loss(network: Network, result: Any, targets: Any) -> torch.Tensor:
    assert network.loss is not None
    value = network.loss(result, targets)
    if not isinstance(value, torch.Tensor) or value.numel() != 1:
        shown = tuple(value.shape) if isinstance(value, torch.Tensor) else type(value).__name__
        raise PrecutError(f"loss(result, targets) must give one number, a tensor; got {shown}")
    if not value.requires_grad:
        raise PrecutError("the loss does not depend on the weights that are scored, as far as gradients tell")
    return value


def _gradients(value: torch.Tensor, weights: dict[str, torch.Tensor], graph: bool = False) -> dict[str, torch.Tensor]:
    """Of a number by each weight; zeros where it does not depend on it."""
    if not value.requires_grad:
        return {name: torch.zeros_like(weight) for name, weight in weights.items()}
    given = torch.autograd.grad(value, list(weights.values()), create_graph=graph, allow_unused=True)
    return {
        name: torch.zeros_like(weight) if gradient is None else gradient
        for (name, weight), gradient in zip(weights.items(), given, strict=True)
    }


@scores.register("snip")
class Snip(Score):
    """|dL/dm|, m a factor of 1 on each weight, summed over the batches (Lee, Ajanthan, Torr, ICLR 2019, 1810.02340)."""

    needs_data: ClassVar[bool] = True

    def __call__(self, network: Network) -> dict[str, torch.Tensor]:
        # dL/dm is dL/d(m w) times w, also where m is 0.
        weights = network.effective()
        summed = {name: torch.zeros_like(weight) for name, weight in weights.items()}
        for inputs, targets in network.batches():
            with _on_batch(inputs, targets):
                found = _gradients(_loss(network, network(inputs, weights), targets), weights)
            for name, gradient in found.items():
                summed[name] += gradient
        made = {name: (summed[name] * network.weight(name)).abs_() for name in weights}
        if network.official:
            total = torch.cat([score.reshape(-1) for score in made.values()]).sum()
            made = {name: score / total for name, score in made.items()}
        return made


@scores.register("force")
class Force(Snip):
    """SNIP's score of the network pruned so far, for all weights, so that they may return (de Jorge et al., ICLR 2021,
    2006.09081)."""

    regrows: ClassVar[bool] = True
    rounds: ClassVar[int] = 60


@scores.register("grasp")
class GraSP(Score):
    """w times (H g), H the Hessian and g the gradient of the loss of logits over 200; negative scores go first (Wang,
    Zhang, Grosse, ICLR 2020, 2002.07376, with the sign of SynFlow's authors)."""

    needs_data: ClassVar[bool] = True
    temperature: ClassVar[float] = 200.0

    def __call__(self, network: Network) -> dict[str, torch.Tensor]:
        with sdpa_kernel(SDPBackend.MATH):  # the others have no second derivative
            return self._scores(network)

    def _scores(self, network: Network) -> dict[str, torch.Tensor]:
        held = {name: network.weight(name).clone().requires_grad_() for name in network.layers}

        def gradients(inputs: Any, targets: Any, graph: bool) -> dict[str, torch.Tensor]:
            weights = {name: network.masked(name, weight) for name, weight in held.items()}
            with _on_batch(inputs, targets):
                result = network(inputs, weights)
                if not isinstance(result, torch.Tensor):
                    raise PrecutError(
                        f"grasp divides the model's result, a tensor; the model gives a {type(result).__name__}"
                    )
                return _gradients(_loss(network, result / self.temperature, targets), held, graph)

        first = {name: torch.zeros_like(weight) for name, weight in held.items()}
        for inputs, targets in network.batches():
            for name, gradient in gradients(inputs, targets, False).items():
                first[name] += gradient
        second = {name: torch.zeros_like(weight) for name, weight in held.items()}
        for inputs, targets in network.batches():
            again = gradients(inputs, targets, True)
            product = torch.cat([(first[name] * again[name]).reshape(-1) for name in held]).sum()
            with _on_batch(inputs, targets):
                found = _gradients(product, held)
            for name, gradient in found.items():
                second[name] += gradient
        made = {name: second[name] * network.weight(name) for name in held}
        if network.official:
            norm = torch.cat([score.reshape(-1) for score in made.values()]).sum().abs() + 1e-10
            made = {name: score / norm for name, score in made.items()}
        return made


@scores.register("ntk-sap")
class NTKSAP(Score):
    """|d/dm E ||f(x; m w) - f(x; m (w + e))||^2|, a stand-in for the spectrum of the neural tangent kernel (Wang, Li,
    Sun, ICLR 2023, 2304.02840). Needs shapes only: x is noise, and so, anew each time, are the weights, normal with each
    layer's own spread.

    Args:
        repeats: draws of inputs and weights a round.
        epsilon: spread of the disturbance e.
        batch: noise images a draw.
    """

    rounds: ClassVar[int] = 20

    def __init__(self, repeats: int = 5, epsilon: float = 0.01, batch: int = 64) -> None:
        self.repeats, self.epsilon, self.batch = repeats, epsilon, batch

    def __call__(self, network: Network) -> dict[str, torch.Tensor]:
        held = {name: network.weight(name) for name in network.layers}
        summed = {name: torch.zeros_like(weight) for name, weight in held.items()}
        for _ in range(self.repeats):
            args, kwargs = network.example
            noise, named = rebuild((args, kwargs), lambda leaf: self._noise(network, leaf))
            drawn, moved = {}, {}
            for name, weight in held.items():
                drawn[name] = network.draw(weight) * weight.std(correction=0)
                moved[name] = drawn[name] + network.draw(weight) * self.epsilon
            factors = {
                name: network.masked(name, torch.ones_like(weight)).requires_grad_() for name, weight in held.items()
            }
            with _on_batch((noise, named), (), "noise"):
                results = [
                    network.call(noise, named, {name: factors[name] * weight for name, weight in weights.items()})
                    for weights in (drawn, moved)
                ]
            pairs = zip(*(floats(result) for result in results), strict=True)
            distance = sum((((a - b) ** 2).sum() for a, b in pairs), torch.zeros((), device=network.device))
            if not distance.requires_grad:
                raise PrecutError("ntk-sap: the model's result does not depend on its weights")
            for name, gradient in _gradients(distance, factors).items():
                summed[name] += gradient
        return {name: gradient.abs_() for name, gradient in summed.items()}

    def _noise(self, network: Network, leaf: Any) -> Any:
        if not isinstance(leaf, torch.Tensor) or not leaf.is_floating_point():
            return leaf
        return network.draw(leaf.new_empty((self.batch, *leaf.shape[1:])))
