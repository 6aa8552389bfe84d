"""What users get wrong with sparse layers, and the exact words that they are told."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

import precut
from precut.errors import PrecutError
from precut.layers import SparseConv2d, SparseLinear, from_masks, replace_layer_, sparse_like, sparsify
from precut.supports import Dense, Periodic, parse


def conv(*sizes: Any, support: Any = "PS4_P4", **options: Any) -> SparseConv2d:
    return SparseConv2d(*(sizes or (8, 8, 3)), support=support, **options)


def net() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 1))


def pruned_norm() -> nn.Module:
    model = net()
    prune.random_unstructured(model[1], "weight", 0.5)
    return model


def pruned_with_hook() -> nn.Module:
    model = net()
    prune.random_unstructured(model[2], "weight", 0.5)
    model[2].register_forward_hook(lambda module, inputs, output: None)
    return model


WRONG: list[tuple[Callable[[], object], str]] = [
    # SparseConv2d
    (lambda: conv(0, 8, 3), "in_channels must be a whole number of at least 1; got 0"),
    (lambda: conv(8, 8.0, 3), "out_channels must be a whole number of at least 1; got 8.0"),
    (lambda: conv(8, 8, 0), "kernel_size must be a whole number of at least 1; got 0"),
    (lambda: conv(8, 8, (3, 3, 3)), "kernel_size must be one whole number or a pair of them; got (3, 3, 3)"),
    (lambda: conv(8, 8, "3"), "kernel_size must be a whole number of at least 1; got '3'"),
    (lambda: conv(stride=0), "stride must be a whole number of at least 1; got 0"),
    (lambda: conv(dilation=(1, 0)), "dilation must be a whole number of at least 1; got 0"),
    (lambda: conv(padding=-1), "padding must be a whole number of at least 0; got -1"),
    (lambda: conv(padding=(1, 1, 1, 1)), "padding must be one whole number or a pair of them; got (1, 1, 1, 1)"),
    (lambda: conv(padding="full"), "padding must be a number, a pair of them, 'same' or 'valid'; got 'full'"),
    (lambda: conv(padding="same", stride=2), "padding='same' needs stride 1; got stride (2, 2)"),
    (lambda: conv(padding_mode="mirror"), "unknown padding_mode 'mirror': choose one of 'circular', 'reflect', "),
    (
        lambda: conv(groups=3),
        "groups must divide in_channels and out_channels; got groups=3, in_channels=8, out_channels=8",
    ),
    (lambda: conv(groups=0), "groups must be a whole number of at least 1; got 0"),
    (lambda: conv(support=0.5), "a support is a maker or its name ('PSD4_P8'); got 0.5"),
    (
        lambda: conv(support=Dense().support((8, 8, 5, 5))),
        "the support is for a weight of shape (8, 8, 5, 5) in 1 groups; this layer's is (8, 8, 3, 3) in 1",
    ),
    (
        lambda: conv(groups=2, support=Dense().support((8, 4, 3, 3))),
        "the support is for a weight of shape (8, 4, 3, 3) in 1 groups; this layer's is (8, 4, 3, 3) in 2",
    ),
    (
        lambda: conv(8, 8, 1),
        "PS4_P4 asks for kss=4 weights of a 1x1 kernel, which has 1: choose kss <= 1, or leave such layers dense "
        "(ignored_layers)",
    ),
    # SparseLinear
    (lambda: SparseLinear(0, 4, support="2:4"), "in_features must be a whole number of at least 1; got 0"),
    (lambda: SparseLinear(4, None, support="2:4"), "out_features must be a whole number of at least 1; got None"),
    (
        lambda: SparseLinear(6, 4, support="2:4"),
        "2:4 needs input channels (per group) that are a multiple of 4; the layer has 6",
    ),
    (
        lambda: SparseLinear(4, 8, support=Dense().support((4, 8))),
        "the support is for a weight of shape (4, 8); this layer's is (8, 4)",
    ),
    # editing layers
    (
        lambda: conv().set_dense_weight_(torch.zeros(8, 8, 5, 5)),
        "the dense weight must have shape (8, 8, 3, 3); got (8, 8, 5, 5)",
    ),
    (lambda: conv().take_channels_("input", torch.arange(4)), "unknown axis 'input': did you mean 'in'?"),
    (
        lambda: conv().take_channels_("out", torch.tensor([0, 8])),
        "the 'out' axis has channels 0 to 7; the index holds 8",
    ),
    (
        lambda: conv(groups=2).take_channels_("in", torch.tensor([-1])),
        "the 'in' axis has channels 0 to 3; the index holds -1",
    ),
    (
        lambda: conv().take_channels_("in", torch.tensor([])),
        "the channels to take are a one-dimensional tensor of at least one whole number; got torch.float32 of "
        "shape (0,)",
    ),
    (
        lambda: conv().take_channels_("in", torch.ones(8, dtype=torch.bool)),
        "the channels to take are a one-dimensional tensor of at least one whole number; got torch.bool of shape (8,)",
    ),
    (
        lambda: conv(groups=2).take_channels_("out", torch.tensor([0, 1, 2, 4])),
        "of a convolution with 2 groups of 4 output channels, 'out' takes whole groups, or equally many channels of "
        "every group, together; the index takes from groups [0, 0, 0, 1]",
    ),
    (
        lambda: conv(groups=2).take_channels_("out", torch.tensor([0, 4, 1, 5])),
        "of a convolution with 2 groups of 4 output channels, 'out' takes whole groups, or equally many channels of "
        "every group, together; the index takes from groups [0, 1, 0, 1]",
    ),
    (
        lambda: conv(groups=2).take_channels_("out", torch.tensor([0, 1])),
        "of a convolution with 2 groups of 4 output channels, 'out' takes whole groups, or equally many channels of "
        "every group, together; the index takes from groups [0, 0]",
    ),
    # sparsify
    (lambda: sparsify(net(), "PS4P4"), "unknown support 'PS4P4': did you mean 'PS4_P4'? The forms are "),
    (lambda: sparsify("resnet18", "PS4_P4"), "sparsify takes an nn.Module; got str"),
    (
        lambda: sparsify(nn.Conv2d(8, 8, 3), "PS4_P4"),
        "sparsify needs a model with layers inside; for a single layer use SparseConv2d(..., support=...)",
    ),
    (lambda: sparsify(net(), "PS4_P4", init="frehs"), "unknown init 'frehs': did you mean 'fresh'?"),
    (lambda: sparsify(net(), "PS4_P4", seed=-1), "seed must be a whole number from 0 to 9223372036854775807; got -1"),
    (
        lambda: sparsify(nn.Sequential(nn.Conv2d(3, 8, 3), nn.Linear(8, 8)), "PS4_P4"),
        "no layer to make sparse: the model has 1 nn.Conv2d layers, and the first one, 1x1 ones and the ignored ones "
        "stay dense",
    ),
    (
        lambda: sparsify(net(), "PS4_P4", ignored_layers="2"),
        "no layer to make sparse: the model has 3 nn.Conv2d layers, and the first one, 1x1 ones and the ignored ones "
        "stay dense",
    ),
    (
        lambda: sparsify(net(), "PS4_P4", ignored_layers=["2", "4"]),
        "unknown layer in ignored_layers '4': choose one of '0', '1', '2', '3'",
    ),
    (
        lambda: sparsify(net(), "PS4_P4", ignored_layers=[nn.Conv2d(8, 8, 3)]),
        "ignored_layers holds a Conv2d that is not part of the model",
    ),
    (lambda: sparsify(net(), "PS4_P4", ignored_layers=[2]), "ignored_layers takes modules, names or globs; got 2"),
    (lambda: sparsify(net(), "PS4_P4", ignored_layers=2), "ignored_layers takes modules, names or globs; got 2"),
    (
        lambda: sparsify(net(), Periodic(10, 4)),
        "layer '2': PS10_P4 asks for kss=10 weights of a 3x3 kernel, which has 9: choose kss <= 9, or leave such "
        "layers dense (ignored_layers)",
    ),
    (
        lambda: sparse_like(nn.Conv1d(8, 8, 3), parse("dense").support((8, 8))),
        "a Conv1d cannot be made sparse; nn.Conv2d and nn.Linear can, and subclasses that keep their forward",
    ),
    (
        lambda: replace_layer_(net(), "7", nn.Identity()),
        "unknown layer '7': choose one of '0', '1', '2', '3'",
    ),
    # from_masks
    (
        lambda: from_masks(net()),
        "from_masks found no mask: no layer has a weight_mask, and no masks={layer: mask} was given",
    ),
    (lambda: from_masks({}), "from_masks takes an nn.Module; got dict"),
    (
        lambda: from_masks(net(), {"conv": torch.ones(8, 3, 3, 3)}),
        "unknown layer in masks 'conv': choose one of '0', '1', '2', '3'",
    ),
    (
        lambda: from_masks(net(), {"0": torch.ones(8, 3, 3)}),
        "the mask of layer '0' has shape (8, 3, 3); its weight has (8, 3, 3, 3)",
    ),
    (lambda: from_masks(net(), {"0": [1, 0]}), "the mask of layer '0' must be a tensor; got list"),
    (
        lambda: from_masks(net(), {"1": torch.ones(8)}),
        "layer '1' with a mask is a BatchNorm2d; nn.Conv2d and nn.Linear can be made sparse",
    ),
    (
        lambda: from_masks(pruned_norm()),
        "layer '1' with a mask is a BatchNorm2d; nn.Conv2d and nn.Linear can be made sparse",
    ),
    (
        lambda: from_masks(pruned_with_hook()),
        "layer '2' has hooks, which a sparse layer in its place would lose; remove them first, or keep the layer dense",
    ),
    # the package
    (lambda: precut.sparsify(net(), "PSD"), "unknown support 'PSD': did you mean "),
]


@pytest.mark.parametrize(("use", "message"), WRONG, ids=[message[:60] for _, message in WRONG])
def test_message(use: Callable[[], object], message: str) -> None:
    with pytest.raises(PrecutError) as raised:
        use()
    if message.endswith(" "):  # longer ones are told in full elsewhere
        assert str(raised.value).startswith(message)
    else:
        assert str(raised.value) == message


def test_an_error_leaves_the_layer_as_it_was() -> None:
    layer = conv(groups=2)
    weight, shape = layer.weight, layer.dense_shape
    for axis, index in (("out", [0, 4, 1, 5]), ("in", [7]), ("both", [0])):
        with pytest.raises(PrecutError):
            layer.take_channels_(axis, torch.tensor(index))
    assert layer.weight is weight
    assert (layer.dense_shape, layer.groups, layer.out_channels) == (shape, 2, 8)


def test_wrong_inputs_fail_as_torchs_own_layers_do() -> None:
    with pytest.raises(RuntimeError, match=r"expected input\[1, 4, 5, 5\] to have 8 channels"):
        conv()(torch.zeros(1, 4, 5, 5))
    few = SparseConv2d(8, 8, 3, support="PS1_P9")  # runs natively, where the library is
    for channels in (4, 16):
        with pytest.raises(RuntimeError, match=rf"expected input\[2, {channels}, 5, 5\] to have 8 channels"):
            few(torch.zeros(2, channels, 5, 5))
    with pytest.raises(RuntimeError, match="mat1 and mat2 shapes cannot be multiplied"):
        SparseLinear(8, 4, support="2:4")(torch.zeros(2, 4))
