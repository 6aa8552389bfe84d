"""Networks to test captures on: random programs of many kinds of coupling, and brute force on small networks."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SIDE = 4


def randomise_(model: nn.Module, seed: int = 0) -> nn.Module:
    """float64, eval mode, and values under which no two channels are alike."""
    generator = torch.Generator().manual_seed(seed)
    model = model.double().eval()
    with torch.no_grad():
        for tensor in model.parameters():
            fan = max(1, tensor[0].numel()) if tensor.ndim > 1 else 1
            tensor.copy_(torch.randn(tensor.shape, generator=generator, dtype=torch.float64) / fan**0.5)
            if tensor.ndim == 1:
                tensor.add_(0.5)
        for name, tensor in model.named_buffers():
            if tensor.is_floating_point():
                tensor.copy_(
                    torch.rand(tensor.shape, generator=generator, dtype=torch.float64) + (0.5 if "var" in name else 0)
                )
    return model


def close(first: Any, second: Any) -> bool:
    """Equal up to the order of sums, relative to the largest value."""
    scale = max(1.0, second.abs().max().item())
    return first.shape == second.shape and (first - second).abs().max().item() <= 1e-10 * scale


class Gate(nn.Module):
    """Squeeze and excitation."""

    def __init__(self, channels: int, functional: bool) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(channels, 3, 1)
        self.excite = nn.Conv2d(3, channels, 1)
        self.functional = functional

    def forward(self, x: Tensor) -> Tensor:
        pooled = x.mean((2, 3), keepdim=True) if self.functional else F.adaptive_avg_pool2d(x, 1)
        return x * torch.sigmoid(self.excite(F.relu(self.squeeze(pooled))))


class Program(nn.Module):
    """A random network: a list of steps, each on tensors of (N, C, 4, 4) that earlier steps made.

    ``mixing`` allows operations that compute over channels (norms over groups, means, maps that scale all channels),
    where one channel disturbs others.
    """

    STEPS = (
        "conv", "conv", "conv", "grouped", "depthwise", "batch_norm", "prelu", "elu", "add", "add", "cat", "shuffle",
        "view_shuffle", "chunk", "split", "gate", "slice", "shared", "pad", "scale", "glu", "gather", "functional",
        "stack", "bias", "halves", "transposed",
    )  # fmt: skip
    MIXING = ("group_norm", "layer_norm", "mean_gate", "softmax", "attention")

    def __init__(self, seed: int, steps: int, mixing: bool = True) -> None:
        super().__init__()
        draw = random.Random(seed)
        self.modules_made = nn.ModuleList()
        self.weights = nn.ParameterDict()
        self.code: list[tuple[str, tuple[Any, ...]]] = []
        self.channels = [draw.choice((2, 3))]
        self.layers_by_input: dict[int, list[int]] = defaultdict(list)
        kinds = self.STEPS + (self.MIXING if mixing else ())
        self.add_step("conv", draw, force=0)
        for _ in range(steps):
            self.add_step(draw.choice(kinds), draw)
        self.tail = draw.choice(("pool", "flatten", "conv"))
        wanted = self.used_last()
        width = sum(self.channels[k] for k in wanted) * (SIDE * SIDE if self.tail == "flatten" else 1)
        self.head: nn.Module = nn.Conv2d(width, 3, 1) if self.tail == "conv" else nn.Linear(width, 3)

    def used_last(self) -> list[int]:
        """Every tensor that no step took."""
        taken = {k for _, args in self.code for k in args[0]}
        return [k for k in range(len(self.channels)) if k not in taken]

    def keep(self, module: nn.Module) -> int:
        self.modules_made.append(module)
        return len(self.modules_made) - 1

    def add_step(self, kind: str, draw: random.Random, force: int | None = None) -> None:
        source = draw.randrange(max(0, len(self.channels) - 4), len(self.channels)) if force is None else force
        count = self.channels[source]
        out = draw.choice((2, 4, 6, 8))
        if kind == "conv":
            kernel = draw.choice((1, 3))
            module = self.keep(nn.Conv2d(count, out, kernel, padding=kernel // 2, bias=draw.random() < 0.5))
            self.layers_by_input[count].append(module)
            self.emit("module", (source,), (module,), out)
        elif kind == "grouped":
            groups = draw.choice([g for g in (1, 2, 3) if count % g == 0])
            out = groups * draw.choice((1, 2, 3))
            self.emit("module", (source,), (self.keep(nn.Conv2d(count, out, 1, groups=groups)),), out)
        elif kind == "transposed":
            groups = draw.choice([g for g in (1, 2) if count % g == 0])
            out = groups * draw.choice((1, 2, 3))
            self.emit(
                "module", (source,), (self.keep(nn.ConvTranspose2d(count, out, 3, padding=1, groups=groups)),), out
            )
        elif kind == "depthwise":
            out = count * draw.choice((1, 1, 2))
            self.emit("module", (source,), (self.keep(nn.Conv2d(count, out, 3, padding=1, groups=count)),), out)
        elif kind == "batch_norm":
            self.emit("module", (source,), (self.keep(nn.BatchNorm2d(count)),), count)
        elif kind == "prelu":
            self.emit("module", (source,), (self.keep(nn.PReLU(draw.choice((1, count)))),), count)
        elif kind == "gate":
            self.emit("module", (source,), (self.keep(Gate(count, draw.random() < 0.5)),), count)
        elif kind == "group_norm":
            groups = draw.choice([g for g in (1, 2, count) if count % g == 0])
            self.emit("module", (source,), (self.keep(nn.GroupNorm(groups, count)),), count)
        elif kind == "layer_norm":
            self.emit("last", (source,), (self.keep(nn.LayerNorm(count)),), count)
        elif kind in ("elu", "mean_gate", "softmax"):
            self.emit(kind, (source,), (), count)
        elif kind == "attention":
            self.emit("attend", (source,), (self.keep(nn.Conv2d(count, 1, 1)),), count)
        elif kind == "add":
            same = [k for k, c in enumerate(self.channels) if c == count]
            self.emit("add", (source, draw.choice(same)), (), count)
        elif kind == "cat":
            other = draw.randrange(len(self.channels))
            if count + self.channels[other] <= 24:
                self.emit("cat", (source, other), (), count + self.channels[other])
        elif kind == "stack":
            same = [k for k, c in enumerate(self.channels) if c == count]
            if count <= 12:
                self.emit("stack", (source, draw.choice(same)), (), 2 * count)
        elif kind in ("shuffle", "view_shuffle"):
            groups = draw.choice([g for g in (1, 2, 3) if count % g == 0])
            if count > groups:  # with one channel in a group a capture cannot tell which dimension of size 1 it is
                self.emit(kind, (source,), (groups,), count)
        elif kind in ("chunk", "split", "glu", "halves"):
            if count % 2 == 0 and (kind != "halves" or count > 2):
                for half in (0, 1) if kind in ("chunk", "split") else (0,):
                    self.emit(kind, (source,), (half,), count // 2)
        elif kind == "slice":
            first = draw.randrange(count)
            last = draw.randrange(first + 1, count + 1)
            self.emit("slice", (source,), (first, last), last - first)
        elif kind == "pad":
            before, after = draw.choice(((1, 1), (0, 2), (2, 0)))
            self.emit("pad", (source,), (before, after), count + before + after)
        elif kind == "gather":
            index = torch.tensor([draw.randrange(count) for _ in range(draw.choice((2, 4)))])
            name = f"index{len(self.code)}"
            self.register_buffer(name, index)
            self.emit("gather", (source,), (name,), len(index))
        elif kind == "scale":
            name = f"w{len(self.code)}"
            shape = draw.choice(((count, 1, 1), (1, count, 1, 1), (1, count, SIDE, SIDE)))
            self.weights[name] = nn.Parameter(torch.empty(shape))
            self.emit("scale", (source,), (name,), count)
        elif kind == "bias":
            name = f"w{len(self.code)}"
            self.weights[name] = nn.Parameter(torch.empty(count))
            self.emit("bias", (source,), (name,), count)
        elif kind == "functional":
            name = f"w{len(self.code)}"
            self.weights[name] = nn.Parameter(torch.empty(out, count, 1, 1))
            self.weights[name + "b"] = nn.Parameter(torch.empty(out))
            self.emit("functional", (source,), (name,), out)
        elif kind == "shared" and self.layers_by_input[count]:
            module = draw.choice(self.layers_by_input[count])
            self.emit("module", (source,), (module,), self.modules_made[module].out_channels)

    def emit(self, kind: str, sources: tuple[int, ...], rest: tuple[Any, ...], channels: int) -> None:
        self.code.append((kind, (sources, *rest)))
        self.channels.append(channels)

    def forward(self, x: Tensor) -> Tensor:
        made = [x]
        for kind, (sources, *rest) in self.code:
            made.append(self.step(kind, [made[k] for k in sources], rest))
        parts = [made[k] for k in self.used_last()]
        if self.tail == "pool":
            return self.head(torch.cat([F.adaptive_avg_pool2d(part, 1).flatten(1) for part in parts], 1))
        if self.tail == "flatten":
            return self.head(torch.cat([part.reshape(part.shape[0], -1) for part in parts], 1))
        return self.head(torch.cat(parts, 1))

    def step(self, kind: str, given: list[Tensor], rest: list[Any]) -> Tensor:
        x = given[0]
        if kind == "module":
            return self.modules_made[rest[0]](x)
        if kind == "last":
            return self.modules_made[rest[0]](x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        if kind == "attend":
            return x * torch.sigmoid(self.modules_made[rest[0]](x))
        if kind == "view_shuffle":
            n, c, h, w = x.size()
            return x.view(n, rest[0], c // rest[0], h, w).transpose(1, 2).contiguous().view(n, -1, h, w)
        if kind == "slice":
            return x[:, rest[0] : rest[1]]
        if kind == "functional":
            return F.conv2d(x, self.weights[rest[0]], self.weights[rest[0] + "b"])
        simple: dict[str, Callable[[], Tensor]] = {
            "elu": lambda: F.elu(x),  # no dead zone, so that brute force sees every way
            "mean_gate": lambda: x * x.mean(1, keepdim=True),
            "softmax": lambda: torch.softmax(x, 1),
            "add": lambda: x + given[1],
            "cat": lambda: torch.cat(given, 1),
            "stack": lambda: torch.stack(given, 2).flatten(1, 2),
            "shuffle": lambda: F.channel_shuffle(x, rest[0]),
            "chunk": lambda: x.chunk(2, 1)[rest[0]],
            "split": lambda: x.split(x.shape[1] // 2, 1)[rest[0]],
            "glu": lambda: F.glu(x, 1),
            "halves": lambda: x.unflatten(1, (2, -1))[:, 0] * x.unflatten(1, (2, -1))[:, 1].tanh(),
            "pad": lambda: F.pad(x, (0, 0, 0, 0, rest[0], rest[1])),
            "gather": lambda: x[:, getattr(self, rest[0])],
            "scale": lambda: x * self.weights[rest[0]],
            "bias": lambda: x + self.weights[rest[0]].view(1, -1, 1, 1),
        }
        return simple[kind]()


# ---- brute force ---------------------------------------------------------------------------------------------------


def is_layer(module: nn.Module) -> bool:
    """A convolution or linear layer that mixes channels (a depthwise one passes them on)."""
    convolution = isinstance(module, nn.modules.conv._ConvNd)
    return isinstance(module, nn.Linear) or (
        convolution and not (module.groups > 1 and module.groups == module.in_channels)
    )


def reached(model: nn.Module, x: Tensor) -> dict[tuple[str, int], set[tuple[str, int]]]:
    """By brute force: (layer, output channel) to every (layer, input position) that it reaches without another layer
    between.

    Every layer is made to return what it once returned; one channel of one of them is then disturbed, and what changes
    at the inputs of the layers shows where it went.
    """
    layers = {name: module for name, module in model.named_modules() if is_layer(module)}
    kept: dict[str, list[Tensor]] = defaultdict(list)
    inputs: dict[str, list[Tensor]] = defaultdict(list)
    calls: Counter[str] = Counter()
    disturbed: list[tuple[str, int, float]] = []

    def hook(name: str) -> Callable[..., Tensor]:
        def replace(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
            inputs[name].append(args[0].clone())
            if len(kept[name]) <= calls[name]:
                kept[name].append(output.clone())
            result = kept[name][calls[name]].clone()
            calls[name] += 1
            for layer, channel, amount in disturbed:
                if layer == name:
                    result.select(-1 if result.ndim == 2 else 1, channel).add_(amount)
            return result

        return replace

    def positions(name: str, before: Tensor, after: Tensor) -> set[tuple[str, int]]:
        dim = before.ndim - 1 if isinstance(layers[name], nn.Linear) else 1
        changed = (before != after).movedim(dim, 0).flatten(1).any(1)
        return {(name, int(k)) for k in changed.nonzero()}

    handles = [module.register_forward_hook(hook(name)) for name, module in layers.items()]
    found: dict[tuple[str, int], set[tuple[str, int]]] = {}
    try:
        with torch.no_grad():
            model(x)
            reference = dict(inputs)
            for name, module in layers.items():
                count = module.out_features if isinstance(module, nn.Linear) else module.out_channels
                for channel in range(count):
                    here: set[tuple[str, int]] = set()
                    for amount in (50.0, -50.0):
                        inputs.clear()
                        calls.clear()
                        disturbed[:] = [(name, channel, amount)]
                        model(x)
                        for other, before in reference.items():
                            for first, second in zip(before, inputs[other], strict=True):
                                here |= positions(other, first, second)
                    found[name, channel] = here
    finally:
        for handle in handles:
            handle.remove()
    return found


def without_inputs(model: nn.Module, positions: set[tuple[str, int]]) -> nn.Module:
    """The model with zeros where these (layer, input position) are read."""
    layers = dict(model.named_modules())
    with torch.no_grad():
        for name, position in positions:
            layer = layers[name]
            transposed = isinstance(layer, nn.modules.conv._ConvTransposeNd)
            groups = getattr(layer, "groups", 1)
            if transposed:
                layer.weight[position] = 0
            elif groups == 1:
                layer.weight[:, position] = 0
            else:
                inner = layer.in_channels // groups
                group, rows = position // inner, layer.out_channels // groups
                layer.weight[group * rows : (group + 1) * rows, position % inner] = 0
    return model
