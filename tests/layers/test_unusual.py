"""Uses of sparse layers, and of files and trainings of them, that once came out wrong."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, prune

import precut
from precut import PrecutError, layers, training
from precut.layers import SparseConv2d
from precut.ops import reference_only
from precut.supports import Unstructured
from precut.training._ema import WeightAverage
from training.toy import RECIPE, Crash, toy_dataset


def layer(support: Any = "PS4_P4") -> SparseConv2d:
    torch.manual_seed(0)
    return SparseConv2d(16, 16, 3, padding=1, support=support)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_the_default_dtype_does_not_matter(dtype):
    made, x = layer(), torch.randn(2, 16, 8, 8, requires_grad=True)
    wanted = made(x)
    gradients = torch.autograd.grad(wanted.square().sum(), [x, made.weight])
    torch.set_default_dtype(dtype)
    try:
        found = made(x)
        again = torch.autograd.grad(found.square().sum(), [x, made.weight])
    finally:
        torch.set_default_dtype(torch.float32)
    assert found.dtype == torch.float32
    assert torch.equal(found, wanted)
    assert all(torch.equal(a, b) for a, b in zip(again, gradients, strict=True))


LAYOUTS = {
    "every second column": lambda base: base[..., ::2],
    "a part of the channels": lambda base: base.repeat(1, 2, 1, 1)[:, 8:24, :, :8],
    "expanded": lambda base: base[:, :, :, :1].expand(-1, -1, -1, 8),
    "transposed": lambda base: base[..., :8].transpose(2, 3),
}


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("support", ["PS4_P4", "pSC4"])
def test_double_backward_through_any_layout(name, support):
    made, view = layer(support), LAYOUTS[name]
    base = torch.randn(2, 16, 8, 16, requires_grad=True)

    def penalty(run: Any) -> Tensor:
        first = torch.autograd.grad(run(view(base)).square().sum(), made.weight, create_graph=True)[0]
        return torch.autograd.grad(first.square().sum(), base)[0]

    found = penalty(made)
    wanted = penalty(lambda x: F.conv2d(x, made.dense_weight(), made.bias, padding=1))
    assert torch.allclose(found, wanted, rtol=1e-3, atol=1e-4 * float(wanted.abs().max()))


@pytest.mark.filterwarnings("ignore")  # torch.jit's own
def test_many_gradients_at_once_and_forward_mode():
    made, x = layer(), torch.randn(1, 16, 4, 4)
    with reference_only():
        wanted = torch.autograd.functional.jacobian(lambda t: made(t).mean((2, 3)), x, vectorize=True)
    found = torch.autograd.functional.jacobian(lambda t: made(t).mean((2, 3)), x, vectorize=True)
    assert torch.allclose(found, wanted, atol=1e-5)
    with torch.autograd.forward_ad.dual_level():
        made_dual = made(torch.autograd.forward_ad.make_dual(x, torch.ones_like(x)))
        tangent = torch.autograd.forward_ad.unpack_dual(made_dual).tangent
    assert torch.allclose(tangent, F.conv2d(torch.ones_like(x), made.dense_weight(), padding=1), atol=1e-5)


def test_layers_that_are_made_for_inference(tmp_path):
    mask = torch.rand(16, 16, 3, 3) < 0.3
    x = torch.randn(1, 16, 8, 8)
    with torch.inference_mode():
        made = SparseConv2d(16, 16, 3, padding=1, support=Unstructured(mask))
        found = made(x)
    assert torch.allclose(found, F.conv2d(x, made.dense_weight(), made.bias, padding=1), atol=1e-5)
    model, _ = precut.prune(precut.create_model("resnet8"), "random", 0.2, torch.zeros(1, 3, 32, 32))
    precut.save(model.eval(), tmp_path / "net.safetensors")
    x = torch.randn(1, 3, 32, 32)
    with torch.inference_mode():
        assert torch.equal(precut.load(tmp_path / "net.safetensors")(x), model(x))


def _swap(model: nn.Module, kind: type[nn.Module], made: Any) -> nn.Module:
    for module in list(model.modules()):
        for name, child in list(module._modules.items()):
            if isinstance(child, kind):
                module._modules[name] = made(child)
    return model


CHANGES = {
    "no max pool": (
        "resnet18",
        {"input_size": 72, "width_mult": 0.25},
        lambda m: _swap(m, nn.MaxPool2d, lambda _: nn.Identity()),
    ),
    "another activation": ("vgg11", {"width_mult": 0.25}, lambda m: _swap(m, nn.ReLU, lambda _: nn.SiLU())),
    "another stride": ("resnet8", {"width_mult": 0.25}, lambda m: setattr(next(_convs(m)), "stride", (2, 2)) or m),
    "another eps": ("resnet8", {"width_mult": 0.25}, lambda m: [setattr(n, "eps", 0.1) for n in _norms(m)] and m),
    "dilation of a sparse layer": ("speednet", {"widths": [8, 8, 8]}, lambda m: _dilated(precut.sparsify(m, "PS4_P4"))),
}


def _convs(model: nn.Module) -> Any:
    return (module for module in model.modules() if isinstance(module, nn.Conv2d))


def _norms(model: nn.Module) -> list[Any]:
    return [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]


def _dilated(model: nn.Module) -> nn.Module:
    first = next(module for module in model.modules() if isinstance(module, SparseConv2d))
    first.dilation = first.padding = (2, 2)
    return model


@pytest.mark.parametrize("name", CHANGES)
def test_a_changed_network_is_not_taken_for_the_one_of_its_spec(name, tmp_path):
    model, options, change = CHANGES[name]
    changed = change(precut.create_model(model, **options)).eval()
    precut.save(changed, tmp_path / "net.safetensors")
    with pytest.raises(PrecutError, match="pass an instance of its class"):
        precut.load(tmp_path / "net.safetensors")
    x = torch.randn(2, 3, options.get("input_size", 32), options.get("input_size", 32))
    assert torch.equal(precut.load(tmp_path / "net.safetensors", changed).eval()(x), changed(x))


def test_what_does_not_matter_is_no_change(tmp_path):
    model = precut.create_model("mobilenetv1", width_mult=0.25)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.3
        if isinstance(module, nn.ReLU):
            module.inplace = not module.inplace
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.01
    model.head = nn.Linear(model.head.in_features, 3)
    model, _ = precut.prune(model, "random", 0.3, torch.zeros(1, 3, 32, 32))
    precut.save(model.eval(), tmp_path / "net.safetensors")
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(precut.load(tmp_path / "net.safetensors")(x), model(x))


@pytest.mark.filterwarnings("ignore")  # torch.compile's own
def test_a_compiled_network_is_saved_as_what_was_compiled(tmp_path):
    model = precut.create_model("resnet8", width_mult=0.25).eval()
    precut.save(torch.compile(model), tmp_path / "net.safetensors")
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(precut.load(tmp_path / "net.safetensors")(x), model(x))
    with pytest.raises(PrecutError, match=r"fit got what torch\.compile made"):
        training.fit(torch.compile(model), toy_dataset(), RECIPE)


def test_tensors_that_share_memory_are_saved(tmp_path):
    model = nn.Sequential(nn.Linear(4, 4))
    whole = torch.randn(8)
    model.register_buffer("whole", whole)
    model.register_buffer("part", whole[:4])
    precut.save(model, tmp_path / "net.safetensors", beside={"w": model[0].weight})
    assert torch.equal(precut.checkpoint.read_beside(tmp_path / "net.safetensors")["w"], model[0].weight)
    assert torch.equal(precut.load(tmp_path / "net.safetensors", model).get_buffer("part"), whole[:4])


def _scattered(seed: int) -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 8), nn.ReLU(), nn.Linear(8, 5))
    mask = torch.rand(8, 192, generator=torch.Generator().manual_seed(seed)).argsort().argsort() < 20
    layers.scatter_(model[1], Unstructured(mask))
    return model


def test_a_run_does_not_go_on_with_other_positions(tmp_path):
    data = toy_dataset()
    options: dict[str, Any] = {"run_dir": tmp_path / "run", "progress": False, "checkpoint_steps": 1}
    with pytest.raises(RuntimeError):
        training.fit(_scattered(0), data, RECIPE, callbacks=[Crash(2)], **options)
    with pytest.raises(PrecutError, match="cannot resume"):
        training.fit(_scattered(1), data, RECIPE, callbacks=[Crash(0)], resume=True, **options)
    training.fit(_scattered(0), data, RECIPE, callbacks=[Crash(0)], resume=True, **options)


@pytest.mark.parametrize("average", ["ema", "lookahead"])
def test_a_shared_weight_is_averaged_once(average):
    recipe = RECIPE.replace(average=average, average_decay=0.9, average_every=1)
    single = nn.Sequential(nn.Linear(4, 4))
    tied = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    tied[1].weight = tied[0].weight
    tied[0].load_state_dict(single[0].state_dict())
    averages = [WeightAverage(model, recipe, 10) for model in (single, tied)]
    for step in range(10):
        for model, mean in zip((single, tied), averages, strict=True):
            with torch.no_grad():
                model[0].weight.add_(1)
            mean.update(step)
    assert torch.equal(tied[0].weight, single[0].weight)
    for mean, model in zip(averages, (single, tied), strict=True):
        with mean.applied():
            assert torch.equal(model[0].weight, averages[0].tensors["0.weight"])


def test_masks_do_not_untie():
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8))
    model[2].weight = model[0].weight
    mask = torch.rand(8, 8) < 0.5
    for masks in ({"0": mask}, {"0": mask, "2": mask}):
        with pytest.raises(PrecutError, match="layers '0', '2' share a parameter"):
            precut.from_masks(model, masks)


def test_muons_step_is_no_longer_where_filters_are_unequal():
    sizes = []
    for support in ("dense", Unstructured(torch.rand(64, 64, 3, 3) < 0.1)):
        torch.manual_seed(0)
        made = SparseConv2d(64, 64, 3, padding=1, support=support)
        before = made.weight.detach().clone()
        made(torch.randn(4, 64, 8, 8)).square().mean().backward()
        training._muon.Muon([made.weight], lr=0.02).step()
        sizes.append(float((made.weight.detach() - before).square().mean().sqrt()))
    assert sizes[1] < 2 * sizes[0]


@pytest.mark.parametrize("kind", ["masked", "normalised"])
def test_a_computed_sparse_weight_is_counted_once(kind):
    made: Any = nn.Sequential(SparseConv2d(16, 16, 3, support="PS4_P4"), nn.Flatten(), nn.Linear(576, 4))
    if kind == "masked":
        prune.l1_unstructured(made[0], "weight", 0.5)
    else:
        parametrizations.weight_norm(made[0])
    counts = precut.summary(made, torch.zeros(1, 16, 8, 8))
    assert counts.params == sum(parameter.numel() for parameter in made.parameters())


def test_images_are_float32_whatever_the_default():
    torch.set_default_dtype(torch.float64)
    try:
        data = toy_dataset()
        images, _ = next(iter(precut.data.BatchLoader(data.train, 4, data.mean, data.std)))
    finally:
        torch.set_default_dtype(torch.float32)
    assert images.dtype == torch.float32
