import pytest
import torch
from torch import nn

from precut.errors import PrecutError
from precut.training import evaluate
from training.toy import same, toy_dataset, toy_model, weights


def by_hand(model: nn.Module, images: torch.Tensor, labels: torch.Tensor, flip: bool) -> tuple[float, float]:
    """One image at a time, with the definition of cross-entropy."""
    loss = right = 0.0
    model.eval()
    for image, label in zip(images, labels.tolist(), strict=True):
        x = ((image / 255 - 0.5) / 0.25)[None]
        with torch.no_grad():
            logits = (model(x) + model(x.flip(3))) / 2 if flip else model(x)
        loss -= logits.log_softmax(1)[0, label].item()
        right += logits.argmax(1).item() == label
    return loss / len(labels), right / len(labels)


@pytest.mark.parametrize("flip", [False, True])
def test_against_one_image_at_a_time(flip: bool) -> None:
    model, dataset = toy_model(), toy_dataset()
    model(torch.randn(20, 3, 8, 8))  # statistics that are not 0 and 1
    expected = by_hand(model, dataset.test.images, dataset.test.labels, flip)
    assert evaluate(model, "test", dataset, batch_size=7, flip=flip) == pytest.approx(expected, rel=1e-5)
    assert evaluate(model, dataset.test, dataset, flip=flip) == pytest.approx(expected, rel=1e-5)


def test_nothing_changes() -> None:
    model = toy_model()
    model.train()
    model[1].eval()
    before, random = weights(model), torch.get_rng_state()
    evaluate(model, "train", toy_dataset())
    assert same(weights(model), before)
    assert torch.equal(torch.get_rng_state(), random)
    assert [module.training for module in model] == [True, False, True, True, True, True, True]


def test_bfloat16_is_near() -> None:
    model, dataset = toy_model(), toy_dataset()
    exact, near = evaluate(model, "test", dataset), evaluate(model, "test", dataset, precision="bf16-mixed")
    assert near[0] == pytest.approx(exact[0], rel=0.02)
    assert near != exact


def test_wrong_uses() -> None:
    model, dataset = toy_model(), toy_dataset()
    with pytest.raises(PrecutError) as caught:
        evaluate(model, "tst", dataset)
    assert str(caught.value) == "unknown split 'tst': did you mean 'test'?"
    with pytest.raises(PrecutError) as caught:
        evaluate(model, "test", dataset, precision="fp32")
    assert str(caught.value) == "unknown precision 'fp32': choose one of '32-true', 'bf16-mixed'"
    model[6] = nn.Linear(32, 7)
    with pytest.raises(PrecutError) as caught:
        evaluate(model, "test", dataset)
    assert str(caught.value) == (
        "the model gave (50, 7) for 50 images of 5 classes; expected (50, 5): create it with num_classes=5"
    )
    with pytest.raises(PrecutError) as caught:
        evaluate(Pair(), "test", dataset)
    assert str(caught.value) == (
        "the model gave a tuple for 50 images of 5 classes; expected (50, 5): create it with num_classes=5"
    )


class Pair(nn.Module):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return x, x
