"""What every registered network must do: any listed name gets the whole battery."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, fx, nn

from precut.models import create_model, list_models
from precut.models._links import Links, PooledLinks
from precut.models._registry import MODELS

slow = pytest.mark.slow


def small(name: str, width_mult: float = 0.25) -> tuple[nn.Module, Tensor]:
    """A narrow instance at its smallest image and two images."""
    torch.manual_seed(0)
    size = MODELS[name].min_input_size
    return create_model(name, num_classes=5, input_size=size, width_mult=width_mult), torch.randn(2, 3, size, size)


@pytest.mark.parametrize("name", list_models())
@pytest.mark.parametrize("size", [pytest.param(32, marks=slow), pytest.param(64, marks=slow), 224])
def test_forward_shape_at_full_width(name: str, size: int) -> None:
    with torch.device("meta"):
        model = create_model(name, num_classes=200, input_size=size, in_channels=1)
        assert model.training
        assert model.eval()(torch.empty(2, 1, size, size)).shape == (2, 200)


@pytest.mark.parametrize("name", list_models())
def test_forward_and_backward(name: str) -> None:
    model, images = small(name)
    loss = nn.functional.cross_entropy(model(images), torch.tensor([1, 3]))
    loss.backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all(), key
    weights = [p.grad for p in model.parameters() if p.ndim > 1 and p.grad is not None]
    assert all(grad.abs().sum() > 0 for grad in weights)


@pytest.mark.parametrize("name", list_models())
def test_eval_treats_images_one_by_one(name: str) -> None:
    model, images = small(name)
    model.eval()
    with torch.no_grad():
        both, single = model(images), model(images[1:])
        before = images.clone()
        model(images)
    assert both.shape == (2, 5)
    assert both.isfinite().all()
    assert both.std() > 0
    torch.testing.assert_close(both[1:], single, rtol=1e-4, atol=1e-5)
    assert torch.equal(images, before)


@pytest.mark.parametrize("name", list_models())
def test_traceable_and_plain(name: str) -> None:
    """Symbolic tracing sees the whole network, so no branch depends on data; weights lie in torch's own layers."""
    model, images = small(name)
    model.eval()
    traced = fx.symbolic_trace(model)
    with torch.no_grad():
        assert torch.equal(traced(images), model(images))
    for module in model.modules():
        if list(module.parameters(recurse=False)) or list(module.buffers(recurse=False)):
            assert type(module) in {nn.Conv2d, nn.Linear, nn.BatchNorm2d, Links, PooledLinks}
        assert not getattr(module, "inplace", False)


@pytest.mark.parametrize("name", list_models())
@pytest.mark.parametrize("width_mult", [0.3, pytest.param(0.7, marks=slow), pytest.param(1.3, marks=slow)])
def test_scaled_widths_are_multiples_of_eight(name: str, width_mult: float) -> None:
    model = create_model(name, width_mult=width_mult).eval()
    with torch.no_grad():
        assert model(torch.randn(1, 3, 32, 32)).shape == (1, 10)
    # ShuffleNets split their stages, multiples of 8, in halves or quarters; with 3 groups of 24, in quarters.
    multiple = {"shufflenetv1": 6, "shufflenetv2": 4}.get(name, 8)
    widths = [module.out_channels for module in model.modules() if isinstance(module, nn.Conv2d)]
    widths = widths or [module.out_features for module in model.modules() if isinstance(module, nn.Linear)][:-1]
    assert widths
    assert all(width % multiple == 0 for width in widths)


@slow
@pytest.mark.parametrize("name", list_models())
@pytest.mark.parametrize("size", [32, 64])
def test_full_width_forward_and_backward(name: str, size: int) -> None:
    torch.manual_seed(0)
    model = create_model(name, input_size=size)
    output = model(torch.randn(2, 3, size, size))
    assert output.isfinite().all()
    output.sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
