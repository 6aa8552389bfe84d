"""The table of torch functions: one row a function, with its canonical name and its arguments by name.

``torch.add``, ``Tensor.add``, ``x + y``, ``y + x`` and ``x += y`` are all "add". A function without a row is recorded
as "torch.<name>"; it still runs, and channels are not followed through it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

__all__ = ["DATA_READS", "QUESTIONS", "SIZES", "canonical", "function_name"]

# Signatures of what has a row; "*name" collects the rest, or unpacks a single tuple.
_SIGNATURES = """
conv1d            input weight bias=None stride=1 padding=0 dilation=1 groups=1
conv2d            input weight bias=None stride=1 padding=0 dilation=1 groups=1
conv3d            input weight bias=None stride=1 padding=0 dilation=1 groups=1
conv_transpose1d  input weight bias=None stride=1 padding=0 output_padding=0 groups=1 dilation=1
conv_transpose2d  input weight bias=None stride=1 padding=0 output_padding=0 groups=1 dilation=1
conv_transpose3d  input weight bias=None stride=1 padding=0 output_padding=0 groups=1 dilation=1
linear            input weight bias=None
batch_norm        input running_mean=None running_var=None weight=None bias=None training=False momentum=0.1 eps=1e-05
group_norm        input num_groups weight=None bias=None eps=1e-05
layer_norm        input normalized_shape weight=None bias=None eps=1e-05
rms_norm          input normalized_shape weight=None eps=None
instance_norm input running_mean=None running_var=None weight=None bias=None use_input_stats=True momentum=0.1 eps=1e-05
normalize         input p=2.0 dim=1 eps=1e-12
local_response_norm input size alpha=0.0001 beta=0.75 k=1.0
relu              input inplace=False
relu6             input inplace=False
hardtanh          input min_val=-1.0 max_val=1.0 inplace=False
leaky_relu        input negative_slope=0.01 inplace=False
prelu             input weight
elu               input alpha=1.0 inplace=False
celu              input alpha=1.0 inplace=False
selu              input inplace=False
gelu              input approximate='none'
silu              input inplace=False
mish              input inplace=False
hardswish         input inplace=False
hardsigmoid       input inplace=False
sigmoid           input
tanh              input
softplus          input beta=1.0 threshold=20.0
softsign          input
logsigmoid        input
tanhshrink        input
softshrink        input lambd=0.5
hardshrink        input lambd=0.5
threshold         input threshold value inplace=False
dropout           input p=0.5 training=True inplace=False
dropout1d         input p=0.5 training=True inplace=False
dropout2d         input p=0.5 training=True inplace=False
dropout3d         input p=0.5 training=True inplace=False
alpha_dropout     input p=0.5 training=False inplace=False
feature_alpha_dropout input p=0.5 training=False inplace=False
softmax           input dim=None dtype=None
log_softmax       input dim=None dtype=None
glu               input dim=-1
max_pool1d        input kernel_size stride=None padding=0 dilation=1 ceil_mode=False return_indices=False
max_pool2d        input kernel_size stride=None padding=0 dilation=1 ceil_mode=False return_indices=False
max_pool3d        input kernel_size stride=None padding=0 dilation=1 ceil_mode=False return_indices=False
avg_pool1d        input kernel_size stride=None padding=0 ceil_mode=False count_include_pad=True
avg_pool2d        input kernel_size stride=None padding=0 ceil_mode=False count_include_pad=True divisor_override=None
avg_pool3d        input kernel_size stride=None padding=0 ceil_mode=False count_include_pad=True divisor_override=None
lp_pool2d         input norm_type kernel_size stride=None ceil_mode=False
adaptive_avg_pool1d input output_size
adaptive_avg_pool2d input output_size
adaptive_avg_pool3d input output_size
adaptive_max_pool1d input output_size return_indices=False
adaptive_max_pool2d input output_size return_indices=False
adaptive_max_pool3d input output_size return_indices=False
interpolate       input size=None scale_factor=None mode='nearest' align_corners=None recompute_scale_factor=None
pixel_shuffle     input upscale_factor
pixel_unshuffle   input downscale_factor
channel_shuffle   input groups
pad               input padding mode='constant' value=None
add               input other alpha=1
sub               input other alpha=1
mul               input other
div               input other rounding_mode=None
pow               input exponent
maximum           input other
minimum           input other
where             condition input other
clamp             input min=None max=None
eq                input other
ne                input other
lt                input other
le                input other
gt                input other
ge                input other
lerp              input end weight
addcmul           input tensor1 tensor2 value=1
neg               input
abs               input
exp               input
log               input
sqrt              input
rsqrt             input
reciprocal        input
square            input
sin               input
cos               input
erf               input
sign              input
round             input
floor             input
ceil              input
clone             input
detach            input
contiguous        input
to                input *args
float             input
double            input
half              input
fill              input value
zero              input
cat               tensors dim=0
stack             tensors dim=0
split             input split_size_or_sections dim=0
chunk             input chunks dim=0
unbind            input dim=0
getitem           input index
index_select      input dim index
narrow            input dim start length
select            input dim index
flip              input *dims
roll              input shifts dims=None
view              input *shape
reshape           input *shape
flatten           input start_dim=0 end_dim=-1
unflatten         input dim sizes
squeeze           input dim=None
unsqueeze         input dim
permute           input *dims
transpose         input dim0 dim1
movedim           input source destination
expand            input *sizes
expand_as         input other
view_as           input other
sum               input dim=None keepdim=False dtype=None
mean              input dim=None keepdim=False dtype=None
amax              input dim=None keepdim=False
amin              input dim=None keepdim=False
max               input dim=None keepdim=False
min               input dim=None keepdim=False
var               input dim=None *rest
std               input dim=None *rest
matmul            input other
zeros             *size
ones              *size
full              size fill_value
zeros_like        input
ones_like         input
full_like         input fill_value
new_zeros         input *size
new_ones          input *size
new_full          input size fill_value
"""

# Other spellings of the same function. In-place forms ("add_") need no entry.
_SPELLINGS = """
add: __add__ __radd__ __iadd__
sub: __sub__ __isub__ subtract
mul: __mul__ __rmul__ __imul__ multiply
div: __truediv__ __div__ __itruediv__ __idiv__ divide true_divide
pow: __pow__ __ipow__
neg: __neg__ negative
abs: __abs__ absolute
matmul: __matmul__
clamp: clip
getitem: __getitem__
cat: concat concatenate
transpose: swapaxes swapdims mT
permute: T
movedim: moveaxis
split: split_with_sizes
sigmoid: special_expit
interpolate: upsample
detach: data
to: type_as
channel_shuffle: native_channel_shuffle
eq: __eq__
ne: __ne__
lt: __lt__
le: __le__
gt: __gt__
ge: __ge__
"""
_ALIASES = {
    spelling: op
    for op, _, spellings in (line.partition(":") for line in _SPELLINGS.strip().splitlines())
    for spelling in spellings.split()
}
_REVERSED = {"__rsub__": "sub", "rsub": "sub", "__rdiv__": "div", "__rtruediv__": "div", "__rpow__": "pow"}
_RENAMED = {
    "self": "input",
    "x": "input",
    "pad": "padding",
    "axis": "dim",
    "axes": "dim",
    "split_size": "split_size_or_sections",
}

# Questions about a tensor that its values do not decide; their answers are plain facts of the example.
_QUESTIONS = """
ndim dim dtype device layout is_cuda is_cpu is_meta is_sparse is_quantized is_nested is_leaf requires_grad grad grad_fn
names name output_nr is_floating_point is_complex is_signed is_contiguous stride storage_offset element_size nbytes
itemsize data_ptr storage untyped_storage is_pinned is_inference is_shared is_mkldnn is_xpu is_mps is_xla is_vulkan
is_ipu is_mtia is_maia is_sparse_csr get_device type _version __repr__ __format__ __hash__ __dir__ __deepcopy__
__reduce_ex__ retain_grad register_hook requires_grad_ can_cast result_type is_tensor is_storage has_names _is_view
is_same_size broadcast_shapes get_default_dtype is_conj is_neg is_distributed _base retains_grad
is_non_overlapping_and_dense
"""
QUESTIONS = frozenset(_QUESTIONS.split())
SIZES = frozenset(("shape", "size", "numel", "nelement", "__len__"))
# Reads of values that Python then acts on: a capture cannot follow.
_DATA_READS = """
__bool__ __int__ __float__ __complex__ __index__ item tolist numpy __array__ __contains__ __dlpack__ equal allclose
is_nonzero
"""
DATA_READS = frozenset(_DATA_READS.split())


def _parse(line: str) -> tuple[str, list[tuple[str, Any]]]:
    name, *parameters = line.split()
    parsed: list[tuple[str, Any]] = []
    for parameter in parameters:
        key, equals, default = parameter.partition("=")
        parsed.append((key, _literal(default) if equals else inspect.Parameter.empty))
    return name, parsed


def _literal(text: str) -> Any:
    words = {"None": None, "True": True, "False": False}
    if text in words:
        return words[text]
    if text.startswith("'"):
        return text.strip("'")
    return float(text) if "." in text or "e" in text else int(text)


SIGNATURES: dict[str, list[tuple[str, Any]]] = dict(_parse(line) for line in _SIGNATURES.strip().splitlines())


def function_name(function: Callable[..., Any]) -> str:
    """The bare name of what a torch function mode sees: "add_", "__radd__", "shape"; "precut::expand" for the operators
    of other libraries."""
    name = getattr(function, "__name__", type(function).__name__)
    if name == "__get__":
        return str(getattr(function.__self__, "__name__", name))  # type: ignore[attr-defined]
    if name in ("__set__", "__delete__"):
        return f"{getattr(function.__self__, '__name__', '')}.{name}"  # type: ignore[attr-defined]
    qualified = getattr(function, "_qualified_op_name", None) or getattr(function, "_name", None)
    if isinstance(qualified, str) and "::" in qualified:
        namespace, _, short = qualified.partition("::")
        short = short.partition(".")[0]
        return short if namespace == "aten" else f"{namespace}::{short}"
    return str(name)


def canonical(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """The canonical op of a call and its arguments by name; ("torch.<name>", {}) for a function without a row."""
    op = _ALIASES.get(name) or _REVERSED.get(name) or (name if name in SIGNATURES else name.rstrip("_"))
    op = _ALIASES.get(op, op)
    if op not in SIGNATURES:
        return (name if "::" in name else f"torch.{name}"), {}
    if name == "T":
        return op, {"input": args[0], "dims": tuple(reversed(range(args[0].ndim)))}
    bound = _bind(SIGNATURES[op], (*args, -2, -1) if name == "mT" else args, kwargs)
    if bound is None:
        return f"torch.{name}", {}
    if name in _REVERSED:
        bound["reverse"] = True
    return op, bound


def _bind(signature: list[tuple[str, Any]], args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any] | None:
    """Arguments by name, or None where the call has another form than the row's (an overload)."""
    named = {_RENAMED.get(key, key): value for key, value in kwargs.items()}
    names = [name for name, _ in signature]
    if named.keys() & {"self", "dim"} and "dims" in names:
        named["dims"] = named.pop("dim", named.get("dims"))
    bound: dict[str, Any] = {}
    rest = list(args)
    for name, default in signature:
        if name.startswith("*"):
            plain = name[1:]
            single = len(rest) == 1 and isinstance(rest[0], (tuple, list))
            bound[plain] = tuple(rest[0]) if single else tuple(rest) if rest else _as_tuple(named.pop(plain, ()))
            rest = []
        elif rest:
            if name in named:
                return None
            bound[name] = rest.pop(0)
        elif name in named:
            bound[name] = named.pop(name)
        elif default is inspect.Parameter.empty:
            return None
        else:
            bound[name] = default
    if rest:
        return None
    bound.update(named)  # dtype=, device=, out= and the like
    return bound


def _as_tuple(item: Any) -> tuple[Any, ...]:
    return tuple(item) if isinstance(item, (tuple, list)) else (item,)
