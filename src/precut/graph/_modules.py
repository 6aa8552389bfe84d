"""The table of leaf modules: those of torch.nn that become one node, with their canonical op and the attributes kept.

A module that follows the layer protocol (``precut_op`` and the attributes of the torch module that it stands for) is a
leaf too. Everything else is traced through.
"""

from __future__ import annotations

from typing import Any

from torch import nn

__all__ = ["ROWS", "is_leaf", "leaf_attrs", "leaf_op"]

_SETS = {
    "@conv": "in_channels out_channels kernel_size stride padding dilation groups padding_mode",
    "@norm": "num_features eps momentum affine track_running_stats",
    "@pool": "kernel_size stride padding ceil_mode",
    "@resize": "size scale_factor mode align_corners",
}
# Class in torch.nn, canonical op, attributes that are kept ("name=text" for one that the class stands for).
_TABLE = """
Conv1d            conv1d             @conv
Conv2d            conv2d             @conv
Conv3d            conv3d             @conv
ConvTranspose1d   conv_transpose1d   @conv output_padding
ConvTranspose2d   conv_transpose2d   @conv output_padding
ConvTranspose3d   conv_transpose3d   @conv output_padding
Linear            linear             in_features out_features
BatchNorm1d       batch_norm         @norm
BatchNorm2d       batch_norm         @norm
BatchNorm3d       batch_norm         @norm
SyncBatchNorm     batch_norm         @norm
InstanceNorm1d    instance_norm      @norm
InstanceNorm2d    instance_norm      @norm
InstanceNorm3d    instance_norm      @norm
GroupNorm         group_norm         num_groups num_channels eps affine
LayerNorm         layer_norm         normalized_shape eps
RMSNorm           rms_norm           normalized_shape eps
LocalResponseNorm local_response_norm size alpha beta k
ReLU              relu               inplace
ReLU6             relu6              inplace
Hardtanh          hardtanh           min_val max_val inplace
LeakyReLU         leaky_relu         negative_slope inplace
PReLU             prelu              num_parameters
ELU               elu                alpha inplace
SELU              selu               inplace
CELU              celu               alpha inplace
GELU              gelu               approximate
SiLU              silu               inplace
Mish              mish               inplace
Hardswish         hardswish          inplace
Hardsigmoid       hardsigmoid        inplace
Sigmoid           sigmoid
Tanh              tanh
Softplus          softplus           beta threshold
Softsign          softsign
LogSigmoid        logsigmoid
Tanhshrink        tanhshrink
Softshrink        softshrink         lambd
Hardshrink        hardshrink         lambd
Threshold         threshold          threshold value inplace
Softmax           softmax            dim
LogSoftmax        log_softmax        dim
GLU               glu                dim
MaxPool1d         max_pool1d         @pool dilation return_indices
MaxPool2d         max_pool2d         @pool dilation return_indices
MaxPool3d         max_pool3d         @pool dilation return_indices
AvgPool1d         avg_pool1d         @pool count_include_pad
AvgPool2d         avg_pool2d         @pool count_include_pad divisor_override
AvgPool3d         avg_pool3d         @pool count_include_pad divisor_override
AdaptiveAvgPool1d adaptive_avg_pool1d output_size
AdaptiveAvgPool2d adaptive_avg_pool2d output_size
AdaptiveAvgPool3d adaptive_avg_pool3d output_size
AdaptiveMaxPool1d adaptive_max_pool1d output_size return_indices
AdaptiveMaxPool2d adaptive_max_pool2d output_size return_indices
AdaptiveMaxPool3d adaptive_max_pool3d output_size return_indices
Dropout           dropout            p inplace
Dropout1d         dropout1d          p inplace
Dropout2d         dropout2d          p inplace
Dropout3d         dropout3d          p inplace
AlphaDropout      alpha_dropout      p inplace
FeatureAlphaDropout feature_alpha_dropout p inplace
Identity          identity
Flatten           flatten            start_dim end_dim
Unflatten         unflatten          dim unflattened_size
PixelShuffle      pixel_shuffle      upscale_factor
PixelUnshuffle    pixel_unshuffle    downscale_factor
ChannelShuffle    channel_shuffle    groups
Upsample          interpolate        @resize
UpsamplingNearest2d interpolate      @resize
UpsamplingBilinear2d interpolate     @resize
"""


def _parsed() -> dict[type[nn.Module], tuple[str, list[str]]]:
    lines = [line.split() for line in _TABLE.strip().splitlines()]
    for kind, mode in (("Zero", "constant"), ("Constant", "constant"), ("Reflection", "reflect"),
                       ("Replication", "replicate"), ("Circular", "circular")):  # fmt: skip
        lines += [[f"{kind}Pad{dims}d", "pad", "padding", "value", f"mode={mode}"] for dims in (1, 2, 3)]
    return {
        getattr(nn, name): (op, [each for word in words for each in _SETS.get(word, word).split()])
        for name, op, *words in lines
    }


ROWS = _parsed()

# What a subclass may change and still be the same operation.
_HARMLESS = {"__init__", "__repr__", "extra_repr", "reset_parameters", "__setstate__", "_load_from_state_dict"}


def _row(module: nn.Module) -> tuple[str, list[str]] | None:
    """The row of a module whose computation is the table's: the exact type, or a subclass that leaves it alone."""
    for base in type(module).__mro__:
        if base in ROWS:
            changed = {
                name
                for kind in type(module).__mro__[: type(module).__mro__.index(base)]
                for name, item in vars(kind).items()
                if callable(item) and name not in _HARMLESS and getattr(base, name, None) is not None
            }
            return None if changed else ROWS[base]
    return None


def is_leaf(module: nn.Module) -> bool:
    """Whether a module becomes one node."""
    if "forward" in vars(module):
        return False  # replaced on the instance: whatever it does now is traced
    return isinstance(getattr(module, "precut_op", None), str) or _row(module) is not None


def leaf_op(module: nn.Module) -> str:
    """Canonical op of a leaf module."""
    op = getattr(module, "precut_op", None)
    row = _row(module)
    return op if isinstance(op, str) else row[0]  # type: ignore[index]


def leaf_attrs(module: nn.Module) -> dict[str, Any]:
    """The attributes that the op's row names, as the module holds them."""
    op = getattr(module, "precut_op", None)
    row = _row(module)
    if isinstance(op, str):
        names = next((names for kind_op, names in ROWS.values() if kind_op == op), [])
    else:
        names = row[1]  # type: ignore[index]
    attrs: dict[str, Any] = {}
    for word in names:
        name, equals, fixed = word.partition("=")
        if equals:
            attrs[name] = fixed
        elif hasattr(module, name):
            attrs[name] = getattr(module, name)
    if "dropout" in leaf_op(module):
        attrs["training"] = module.training
    return attrs
