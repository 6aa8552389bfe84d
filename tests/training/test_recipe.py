import dataclasses
from pathlib import Path

import pytest

from precut.errors import PrecutError
from precut.training import Recipe, list_recipes, load_recipe


@pytest.mark.parametrize("name", list_recipes())
def test_every_bundled_recipe_loads_and_survives_its_dict(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.name == name
    assert Recipe(**recipe.to_dict()) == recipe


def test_the_bundled_recipes_are_these() -> None:
    assert list_recipes() == ["demo", "imagenet", "modern-cifar", "paper-cifar"]


def test_paper_cifar_is_the_authors_training() -> None:
    recipe = load_recipe("paper-cifar")
    assert (recipe.optimizer, recipe.lr, recipe.momentum, recipe.nesterov) == ("sgd", 0.1, 0.9, False)
    assert (recipe.epochs, recipe.batch_size) == (150, 128)
    assert recipe.weight_decay == 5 * 1e-4
    assert recipe.decay_all
    assert recipe.gamma == 0.2
    # scheduler.step() at the start of an epoch: the rate of milestone m is in force from epoch m - 1 on
    assert recipe.milestones == tuple(m - 1 for m in (40, 80, 100, 115, 130, 140))
    assert (recipe.crop_padding, recipe.pad_mode, recipe.flip, recipe.cutout) == (4, "zeros", True, 0)
    assert (recipe.label_smoothing, recipe.average, recipe.init) == (0.0, "none", "kundu")


def test_a_recipe_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("base: paper-cifar\nepochs: 3\nschedule: cosine\nmilestones: []\nweight_decay: 5e-5\n")
    recipe = load_recipe(file, lr=1)
    assert recipe.name == "mine"
    assert (recipe.epochs, recipe.schedule, recipe.weight_decay, recipe.lr) == (3, "cosine", 5e-5, 1.0)
    assert recipe.batch_size == 128


def test_a_recipe_file_on_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "first.yaml").write_text("base: paper-cifar\nepochs: 130\n")
    (tmp_path / "second.yaml").write_text("base: first.yaml\nbatch_size: 64\n")
    (tmp_path / "round.yaml").write_text("base: again.yaml\n")
    (tmp_path / "again.yaml").write_text("base: round.yaml\n")
    monkeypatch.chdir("/")  # a base lies beside the file, wherever one is
    recipe = load_recipe(tmp_path / "second.yaml")
    assert (recipe.name, recipe.epochs, recipe.batch_size, recipe.init) == ("second", 130, 64, "kundu")
    with pytest.raises(PrecutError, match=r"round\.yaml' is its own base"):
        load_recipe(tmp_path / "round.yaml")


def test_replace_leaves_the_original_alone() -> None:
    recipe = Recipe()
    assert recipe.replace(epochs=7).epochs == 7
    assert recipe == Recipe()
    with pytest.raises(dataclasses.FrozenInstanceError):
        recipe.epochs = 7  # type: ignore[misc]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epoch": 3}, "unknown recipe field 'epoch': did you mean 'epochs'?"),
        ({"epochs": 0}, "recipe epochs=0: expected a whole number of at least 1"),
        ({"epochs": 2.5}, "recipe epochs=2.5: expected a whole number of at least 1"),
        ({"batch_size": True}, "recipe batch_size=True: expected a whole number of at least 1"),
        ({"lr": 0}, "recipe lr=0: expected a number above 0"),
        ({"lr": float("nan")}, "recipe lr=nan: expected a number above 0"),
        ({"lr": "fast"}, "recipe lr='fast': expected a number above 0"),
        ({"momentum": 1}, "recipe momentum=1: expected a number at least 0 and below 1"),
        ({"warmup": 1.0}, "recipe warmup=1.0: expected a number at least 0 and below 1"),
        ({"final_lr": 1.5}, "recipe final_lr=1.5: expected a number at least 0 and at most 1"),
        ({"weight_decay": -1e-4}, "recipe weight_decay=-0.0001: expected a number at least 0"),
        ({"average_decay": 1}, "recipe average_decay=1: expected a number above 0 and below 1"),
        ({"optimizer": "sdg"}, "unknown recipe optimizer 'sdg': did you mean 'sgd'?"),
        (
            {"schedule": "triangle"},
            "unknown recipe schedule 'triangle': choose one of 'constant', 'cosine', 'multistep', 'one-cycle'",
        ),
        ({"precision": "bf16"}, "unknown recipe precision 'bf16': did you mean 'bf16-mixed'?"),
        ({"nesterov": 1}, "recipe nesterov=1: expected True or False"),
        ({"name": ""}, "recipe name='': expected a name"),
        ({"schedule": "multistep", "milestones": [5, 3]}, "recipe milestones=[5, 3]: expected epochs that rise"),
        ({"schedule": "multistep", "milestones": 3}, "recipe milestones=3: expected a list of epochs"),
        ({"milestones": [3]}, "recipe milestones need schedule='multistep', got 'one-cycle'"),
        ({"vector_lr": 0.1}, "recipe vector_lr=0.1 needs optimizer='muon', got 'sgd'"),
        (
            {"nesterov": True, "momentum": 0},
            "recipe nesterov=True needs optimizer='sgd' or 'muon' and a momentum above 0",
        ),
        (
            {"area": (0.5, 0.2)},
            "recipe area=(0.5, 0.2): expected (smallest, largest) with 0 < smallest <= largest <= 1",
        ),
    ],
)
def test_wrong_fields_and_values(changes: dict[str, object], message: str) -> None:
    with pytest.raises(PrecutError) as caught:
        Recipe().replace(**changes)
    assert str(caught.value) == message


def test_wrong_names_and_files(tmp_path: Path) -> None:
    with pytest.raises(PrecutError) as caught:
        load_recipe("modern_cifar")
    assert str(caught.value) == "unknown recipe 'modern_cifar': did you mean 'modern-cifar'?"
    with pytest.raises(PrecutError) as caught:
        load_recipe("absent.yaml")
    assert str(caught.value) == (
        "recipe file 'absent.yaml' does not exist; bundled recipes: demo, imagenet, modern-cifar, paper-cifar"
    )
    file = tmp_path / "list.yaml"
    file.write_text("- 1\n")
    with pytest.raises(PrecutError) as caught:
        load_recipe(file)
    assert str(caught.value) == f"recipe {str(file)!r} holds a list; expected one 'field: value' a line"
    file.write_text("epochs: [1\n")
    with pytest.raises(PrecutError, match=r"is not valid YAML"):
        load_recipe(file)
    file.write_text("lrr: 1\n")
    with pytest.raises(PrecutError) as caught:
        load_recipe(file)
    assert str(caught.value) == "unknown recipe field 'lrr': did you mean 'lr'?"
