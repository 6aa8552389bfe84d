"""The table of leaf modules: those of torch.nn that become one node, with their canonical op and the attributes kept.

A module that follows the layer protocol (``precut_op`` and the attributes of the torch module that it stands for) is a
leaf too. Everything else is traced through.
"""

from __future__ import annotations

from typing import Any

from torch import nn

__all__ = ["is_leaf", "leaf_attrs", "leaf_op"]

_CONV = "in_channels out_channels kernel_size stride padding dilation groups padding_mode"
_NORM = "num_features eps momentum affine track_running_stats"
_POOL = "kernel_size stride padding ceil_mode"

_ROWS: dict[type[nn.Module], tuple[str, str]] = {
    nn.Conv1d: ("conv1d", _CONV), nn.Conv2d: ("conv2d", _CONV), nn.Conv3d: ("conv3d", _CONV),
    nn.ConvTranspose1d: ("conv_transpose1d", _CONV + " output_padding"),
    nn.ConvTranspose2d: ("conv_transpose2d", _CONV + " output_padding"),
    nn.ConvTranspose3d: ("conv_transpose3d", _CONV + " output_padding"),
    nn.Linear: ("linear", "in_features out_features"),
    nn.BatchNorm1d: ("batch_norm", _NORM), nn.BatchNorm2d: ("batch_norm", _NORM), nn.BatchNorm3d: ("batch_norm", _NORM),
    nn.SyncBatchNorm: ("batch_norm", _NORM), nn.InstanceNorm1d: ("instance_norm", _NORM),
    nn.InstanceNorm2d: ("instance_norm", _NORM), nn.InstanceNorm3d: ("instance_norm", _NORM),
    nn.GroupNorm: ("group_norm", "num_groups num_channels eps affine"), nn.LayerNorm: ("layer_norm", "normalized_shape eps"),
    nn.RMSNorm: ("rms_norm", "normalized_shape eps"), nn.LocalResponseNorm: ("local_response_norm", "size alpha beta k"),
    nn.ReLU: ("relu", "inplace"), nn.ReLU6: ("relu6", "inplace"), nn.Hardtanh: ("hardtanh", "min_val max_val inplace"),
    nn.LeakyReLU: ("leaky_relu", "negative_slope inplace"), nn.PReLU: ("prelu", "num_parameters"), nn.ELU: ("elu", "alpha inplace"),
    nn.SELU: ("selu", "inplace"), nn.CELU: ("celu", "alpha inplace"), nn.GELU: ("gelu", "approximate"), nn.SiLU: ("silu", "inplace"),
    nn.Mish: ("mish", "inplace"), nn.Hardswish: ("hardswish", "inplace"), nn.Hardsigmoid: ("hardsigmoid", "inplace"),
    nn.Sigmoid: ("sigmoid", ""), nn.Tanh: ("tanh", ""), nn.Softplus: ("softplus", "beta threshold"), nn.Softsign: ("softsign", ""),
    nn.LogSigmoid: ("logsigmoid", ""), nn.Tanhshrink: ("tanhshrink", ""), nn.Softshrink: ("softshrink", "lambd"),
    nn.Hardshrink: ("hardshrink", "lambd"), nn.Threshold: ("threshold", "threshold value inplace"),
    nn.Softmax: ("softmax", "dim"), nn.LogSoftmax: ("log_softmax", "dim"), nn.GLU: ("glu", "dim"),
    nn.MaxPool1d: ("max_pool1d", _POOL + " dilation return_indices"), nn.MaxPool2d: ("max_pool2d", _POOL + " dilation return_indices"),
    nn.MaxPool3d: ("max_pool3d", _POOL + " dilation return_indices"), nn.AvgPool1d: ("avg_pool1d", _POOL + " count_include_pad"),
    nn.AvgPool2d: ("avg_pool2d", _POOL + " count_include_pad divisor_override"),
    nn.AvgPool3d: ("avg_pool3d", _POOL + " count_include_pad divisor_override"),
    nn.AdaptiveAvgPool1d: ("adaptive_avg_pool1d", "output_size"), nn.AdaptiveAvgPool2d: ("adaptive_avg_pool2d", "output_size"),
    nn.AdaptiveAvgPool3d: ("adaptive_avg_pool3d", "output_size"),
    nn.AdaptiveMaxPool1d: ("adaptive_max_pool1d", "output_size return_indices"),
    nn.AdaptiveMaxPool2d: ("adaptive_max_pool2d", "output_size return_indices"),
    nn.AdaptiveMaxPool3d: ("adaptive_max_pool3d", "output_size return_indices"),
    nn.Dropout: ("dropout", "p inplace"), nn.Dropout1d: ("dropout1d", "p inplace"), nn.Dropout2d: ("dropout2d", "p inplace"),
    nn.Dropout3d: ("dropout3d", "p inplace"), nn.AlphaDropout: ("alpha_dropout", "p inplace"),
    nn.FeatureAlphaDropout: ("feature_alpha_dropout", "p inplace"),
    nn.Identity: ("identity", ""), nn.Flatten: ("flatten", "start_dim end_dim"), nn.Unflatten: ("unflatten", "dim unflattened_size"),
    nn.PixelShuffle: ("pixel_shuffle", "upscale_factor"), nn.PixelUnshuffle: ("pixel_unshuffle", "downscale_factor"),
    nn.ChannelShuffle: ("channel_shuffle", "groups"), nn.Upsample: ("interpolate", "size scale_factor mode align_corners"),
    nn.UpsamplingNearest2d: ("interpolate", "size scale_factor mode align_corners"),
    nn.UpsamplingBilinear2d: ("interpolate", "size scale_factor mode align_corners"),
}  # fmt: skip
for _kind, _mode in (("Zero", "constant"), ("Constant", "constant"), ("Reflection", "reflect"), ("Replication", "replicate"),
                     ("Circular", "circular")):  # fmt: skip
    for _dims in (1, 2, 3):
        _ROWS[getattr(nn, f"{_kind}Pad{_dims}d")] = ("pad", f"padding value mode={_mode}")

# What a subclass may change and still be the same operation.
_HARMLESS = {"__init__", "__repr__", "extra_repr", "reset_parameters", "__setstate__", "_load_from_state_dict"}


def _row(module: nn.Module) -> tuple[str, str] | None:
    """The row of a module whose computation is the table's: the exact type, or a subclass that leaves it alone."""
    for base in type(module).__mro__:
        if base in _ROWS:
            changed = {
                name
                for kind in type(module).__mro__[: type(module).__mro__.index(base)]
                for name, item in vars(kind).items()
                if callable(item) and name not in _HARMLESS and getattr(base, name, None) is not None
            }
            return None if changed else _ROWS[base]
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
        names = next((names for kind_op, names in _ROWS.values() if kind_op == op), "")
    else:
        names = row[1]  # type: ignore[index]
    attrs: dict[str, Any] = {}
    for name in names.split():
        name, equals, fixed = name.partition("=")
        if equals:
            attrs[name] = fixed
        elif hasattr(module, name):
            attrs[name] = getattr(module, name)
    if "dropout" in leaf_op(module):
        attrs["training"] = module.training
    return attrs
