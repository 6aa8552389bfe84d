"""Cutting a model to size: its convolutions become sparse ones."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from precut.errors import PrecutError, unknown, whole
from precut.graph import capture
from precut.layers._conv import SparseConv2d
from precut.layers._linear import SparseLinear
from precut.layers._read_as_dense import read_as_dense
from precut.layers._replace import check_hooks, replace_layer_, sparse_like
from precut.layers._select import check_unshared, ignored_names, owners_of
from precut.supports import Dense, SupportMaker, parse

__all__ = ["init_fresh_", "sparsify", "sparsify_"]

_INITS = ("fresh", "project")


@torch.no_grad()
def _fresh_(layer: SparseConv2d | SparseLinear, generator: torch.Generator) -> None:
    # He initialisation with the fan-in that exists; drawn on the CPU so that a seed means the same on every device.
    drawn = torch.randn(layer.weight.shape, generator=generator, device="cpu")
    layer.weight.copy_(drawn * (2 / layer.fan_in()).sqrt())
    if layer.bias is not None:
        layer.bias.zero_()


def init_fresh_(model: nn.Module, seed: int = 0) -> nn.Module:
    """Draws new weights for every sparse layer, in place, as ``sparsify(init="fresh")`` does: He normal with the fan-in
    that exists, biases zero. For networks whose supports, but not whose weights, come from pruning.

    Returns:
        The model.
    """
    generator = torch.Generator().manual_seed(whole("seed", seed, 0, 2**63 - 1))
    for module in model.modules():
        if isinstance(module, (SparseConv2d, SparseLinear)):
            _fresh_(module, generator)
    return model


def _check_plain(name: str, layer: nn.Conv2d, owners: dict[int, list[str]]) -> None:
    """Raises a PrecutError when putting a sparse layer in place of this one would lose something."""
    advice = f"or keep it dense: ignored_layers=[{name!r}]"
    if "weight" not in layer._parameters:
        raise PrecutError(
            f"layer {name!r} computes its weight (a mask or parametrization); use precut.from_masks first, {advice}"
        )
    if isinstance(layer.weight, nn.UninitializedParameter):
        raise PrecutError(f"layer {name!r} does not know its input channels yet; run the model once first, {advice}")
    check_hooks(name, layer)
    check_unshared(layer, owners, "keep all dense: ignored_layers={names}")


def _checked(model: nn.Module, support: SupportMaker | str, init: str, seed: int) -> SupportMaker:
    if init not in _INITS:
        raise unknown("init", init, _INITS)
    if not isinstance(model, nn.Module):
        raise PrecutError(f"sparsify takes an nn.Module; got {type(model).__name__}")
    if isinstance(model, nn.Conv2d):
        raise PrecutError(
            "sparsify needs a model with layers inside; for a single layer use SparseConv2d(..., support=...)"
        )
    whole("seed", seed, 0, 2**63 - 1)
    return parse(support)


def _dense_readers(model: nn.Module, example_inputs: Any) -> set[str]:
    return set() if example_inputs is None else read_as_dense(model, capture(model, example_inputs))


def _replace_all_(
    model: nn.Module, maker: SupportMaker, ignored: set[str], read: set[str], init: str, seed: int
) -> nn.Module:
    if isinstance(maker, Dense):
        return model
    convolutions = [(name, module) for name, module in model.named_modules() if isinstance(module, nn.Conv2d)]
    chosen = [
        (name, module) for name, module in convolutions[1:] if math.prod(module.kernel_size) > 1 and name not in ignored
    ]
    if not chosen:
        raise PrecutError(
            f"no layer to make sparse: the model has {len(convolutions)} nn.Conv2d layers, and the first one, 1x1 ones "
            "and the ignored ones stay dense"
        )
    generator = torch.Generator().manual_seed(seed)
    owners = owners_of(model)
    made: list[tuple[str, SparseConv2d | SparseLinear]] = []
    for number, (name, module) in enumerate(chosen):
        if name in read:
            raise PrecutError(
                f"layer {name!r} has a weight that other code reads as a dense one, which no support fits; keep it dense: "
                f"ignored_layers=[{name!r}]"
            )
        _check_plain(name, module, owners)
        try:
            layer = sparse_like(module, maker.for_layer(number).support(module.weight.shape, module.groups))
        except PrecutError as error:
            raise PrecutError(f"layer {name!r}: {error}") from error
        if init == "fresh":
            _fresh_(layer, generator)
        made.append((name, layer))
    for name, layer in made:  # only once every layer is known to fit is the model touched
        replace_layer_(model, name, layer)
    return model


def sparsify_(
    model: nn.Module,
    support: SupportMaker | str,
    ignored_layers: Iterable[nn.Module | str] | nn.Module | str = (),
    init: str = "fresh",
    seed: int = 0,
    example_inputs: Any = None,
) -> nn.Module:
    """Makes the convolutions of ``model`` sparse, in place; see ``sparsify``. Returns the model.

    On an error the model is as it was.
    """
    maker = _checked(model, support, init, seed)
    ignored = ignored_names(model, ignored_layers)
    return _replace_all_(model, maker, ignored, _dense_readers(model, example_inputs), init, seed)


def sparsify(
    model: nn.Module,
    support: SupportMaker | str,
    ignored_layers: Iterable[nn.Module | str] | nn.Module | str = (),
    init: str = "fresh",
    seed: int = 0,
    example_inputs: Any = None,
) -> nn.Module:
    """A new model in which the convolutions have only the weights on their support.

    The first convolution (in the order of ``model.named_modules()``), 1x1 convolutions and linear layers stay dense.
    Depthwise and grouped convolutions are made sparse like others; name them in ``ignored_layers`` to keep them. The
    support "dense" leaves every layer as it is, its weights too.

    Args:
        model: any module that holds ``nn.Conv2d`` layers; it is not changed.
        support: a maker, or its name ("PSD4_P8").
        ignored_layers: modules, names or globs ("layer4.*") that stay dense, with all that is inside them.
        init: "fresh" draws new weights (He normal with the fan-in that exists; biases zero); "project" keeps the
            trained weights on the support.
        seed: of the fresh weights; torch's own random numbers are not touched.
        example_inputs: what the model takes (a tensor, a tuple of arguments or a dict of them). With it, layers whose
            weight other code reads (``F.conv2d(x, self.conv.weight)``) are refused; without, they fail when the model
            runs.

    Raises:
        PrecutError: when a layer cannot have the support, or no layer would become sparse.
    """
    maker = _checked(model, support, init, seed)
    ignored = ignored_names(model, ignored_layers)  # before the copy, whose modules are others
    read = _dense_readers(model, example_inputs)
    return _replace_all_(copy.deepcopy(model), maker, ignored, read, init, seed)
