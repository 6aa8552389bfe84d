"""Saving and loading: every model x support round trip, and files that are damaged, foreign or hostile."""

import json
import re
import struct

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import precut
from precut.checkpoint import read_spec
from precut.supports import FAMILIES, Unstructured

SUPPORTS = [*FAMILIES, "2:4", "center", "center_P4", "unstructured"]


def narrow(name: str) -> nn.Module:
    size = 64 if name.startswith(("shufflenet", "mobilenet")) else 32
    return precut.create_model(name, width_mult=0.25, input_size=size)


def cut(model: nn.Module, support: str) -> nn.Module:
    if support != "unstructured":
        dense = [n for n, m in model.named_modules() if isinstance(m, nn.Conv2d) and m.weight.shape[1] % 4]
        return precut.sparsify(model, support, ignored_layers=dense if support == "2:4" else ())
    generator = torch.Generator().manual_seed(3)
    masks = {
        name: torch.rand(m.weight.shape, generator=generator) < 0.2
        for name, m in model.named_modules()
        if isinstance(m, nn.Conv2d)
    }
    return precut.from_masks(model, masks)


def randomise_norms_(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)


@pytest.mark.parametrize("support", SUPPORTS)
@pytest.mark.parametrize("name", precut.list_models())
def test_round_trip(name, support, tmp_path):
    try:
        model = cut(narrow(name), support).eval()
    except precut.PrecutError as error:
        pytest.skip(str(error))  # such a network cannot be built, which tests of the layers hold
    randomise_norms_(model)
    loaded = precut.load(precut.save(model, tmp_path / "m.safetensors"))
    size = model.precut_spec["kwargs"]["input_size"]
    x = torch.randn(1, 3, size, size)
    with torch.no_grad():
        assert torch.equal(loaded(x), model(x))
    assert [n for n, _ in loaded.named_parameters()] == [n for n, _ in model.named_parameters()]
    assert loaded.precut_spec == model.precut_spec


def test_equal_models_give_equal_bytes(tmp_path):
    model = precut.sparsify(narrow("resnet8"), "PSD1_P8")
    files = [precut.save(model, tmp_path / f"{i}.safetensors", extra={"a": 1}).read_bytes() for i in range(8)]
    assert len(set(files)) == 1


def test_a_structured_support_costs_bytes_not_bitmaps(tmp_path):
    dense = precut.create_model("resnet20")
    sparse = precut.sparsify(dense, "PS1_P9")
    file = precut.save(sparse, tmp_path / "m.safetensors")
    values = 4 * sum(p.numel() for p in sparse.state_dict().values())
    assert file.stat().st_size < values + 300 * len(list(sparse.modules()))


def test_extra_and_spec(tmp_path):
    file = precut.save(narrow("resnet8"), tmp_path / "m.safetensors", extra={"accuracy": 0.5})
    assert read_spec(file)["extra"] == {"accuracy": 0.5}


def test_dtypes_and_ties_survive(tmp_path):
    model = narrow("speednet").bfloat16()
    model.head.float()
    loaded = precut.load(precut.save(model, tmp_path / "m.safetensors"))
    assert loaded.stem.weight.dtype == torch.bfloat16
    assert loaded.head.weight.dtype == torch.float32

    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(4, 4)
            self.b = nn.Linear(4, 4)
            self.b.weight = self.a.weight

    tied = Tied()
    other = precut.load(precut.save(tied, tmp_path / "t.safetensors"), model=Tied())
    assert other.a.weight is other.b.weight
    assert torch.equal(other.a.weight, tied.a.weight)


def test_loading_leaves_random_numbers_alone(tmp_path):
    file = precut.save(narrow("resnet8"), tmp_path / "m.safetensors")
    before = torch.random.get_rng_state()
    precut.load(file)
    assert torch.equal(before, torch.random.get_rng_state())


class Own(nn.Module):
    def __init__(self, width=8):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, width, 3, padding=1), nn.ReLU())

    def forward(self, x):
        return self.body(x)


def test_own_module(tmp_path):
    model = precut.sparsify(Own(), "PS4_P4")
    file = precut.save(model, tmp_path / "own.safetensors")
    x = torch.randn(1, 3, 8, 8)
    blank = Own()
    loaded = precut.load(file, model=blank)
    assert torch.equal(loaded(x), model(x))
    assert isinstance(blank.body[2], nn.Conv2d)  # not changed
    assert torch.equal(precut.load(file, model=precut.sparsify(Own(), "PS4_P4"))(x), model(x))


def edited(path, change):
    """The same file with its spec changed and a right checksum: what a hostile writer can make."""
    from precut.checkpoint import _checksum, _read

    spec, tensors = _read(path)
    change(spec)
    text = json.dumps(spec)
    save_file(tensors, path, {"precut": f"{_checksum(tensors, text)} {text}"})
    return path


@pytest.fixture
def file(tmp_path):
    return precut.save(precut.sparsify(narrow("resnet8"), "PS4_P4"), tmp_path / "m.safetensors")


def test_arguments_of_other_kinds(tmp_path, file):
    model, target = narrow("resnet8"), tmp_path / "n.safetensors"
    cases = [
        (lambda: precut.save(target, model), "save takes an nn.Module, then a path; got PosixPath "),
        (lambda: precut.save(model.state_dict(), target), "save takes an nn.Module, then a path; got OrderedDict "),
        (lambda: precut.save(model, tmp_path), f"'{tmp_path}' is a folder; name a file in it: "),
        (
            lambda: precut.load(file, "resnet8"),
            "load takes model=, an instance of the saved model's class; got 'resnet8'",
        ),
    ]
    for call, message in cases:
        with pytest.raises(precut.PrecutError, match=f"^{re.escape(message)}"):
            call()
    assert not target.exists()


def test_missing(tmp_path):
    with pytest.raises(precut.PrecutError, match=r"there is no model file at '.*nothing.safetensors'"):
        precut.load(tmp_path / "nothing.safetensors")


@pytest.mark.parametrize("keep", [0, 4, 100, -1])
def test_truncated(file, keep):
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(precut.PrecutError, match=r"is not a whole safetensors file \(truncated or damaged\)"):
        precut.load(file)


@pytest.mark.parametrize("where", [-1, -1000, -5001])
def test_altered_values(file, where):
    data = bytearray(file.read_bytes())
    data[where] ^= 1
    file.write_bytes(data)
    with pytest.raises(precut.PrecutError, match="was altered after it was written"):
        precut.load(file)


def test_altered_spec(file):
    data = file.read_bytes()
    assert data.count(b"num_classes") == 1
    file.write_bytes(data.replace(b"num_classes", b"num_klasses"))
    with pytest.raises(precut.PrecutError, match="was altered after it was written"):
        precut.load(file)


def test_foreign_safetensors(tmp_path):
    save_file({"a": torch.ones(2)}, tmp_path / "f.safetensors")
    with pytest.raises(precut.PrecutError, match="is a safetensors file, but not a precut model"):
        precut.load(tmp_path / "f.safetensors")


def test_a_pickle_is_refused(tmp_path):
    torch.save(nn.Linear(2, 2).state_dict(), tmp_path / "p.pt")
    with pytest.raises(precut.PrecutError, match="is not a whole safetensors file"):
        precut.load(tmp_path / "p.pt")


def test_huge_header_is_refused(tmp_path):
    (tmp_path / "h.safetensors").write_bytes(struct.pack("<Q", 2**62) + b"{}")
    with pytest.raises(precut.PrecutError, match="is not a whole safetensors file"):
        precut.load(tmp_path / "h.safetensors")


def test_own_module_needs_an_instance(tmp_path):
    saved = precut.save(Own(), tmp_path / "own.safetensors")
    with pytest.raises(
        precut.PrecutError, match=r"pass an instance of its class: precut.load\(path, model=MyModel\(\)\)"
    ):
        precut.load(saved)
    with pytest.raises(
        precut.PrecutError, match=r"'body.2.weight' has shape \(8, 8, 3, 3\), the model's has \(16, 8, 3, 3\)"
    ):
        precut.load(saved, model=Own(width=16))


HOSTILE = {
    "another format": (lambda s: s.update(format="other"), "has format 'other'; this version of precut reads"),
    "unknown model": (lambda s: s["model"].update(model="resnet9000"), "unknown model 'resnet9000'"),
    "missing part": (lambda s: s.pop("supports"), "holds a spec that does not describe a model"),
    "unknown support": (
        lambda s: next(iter(s["supports"].values()))["maker"].update(kind="evil"),
        "unknown support kind 'evil'",
    ),
    "unknown layer": (
        lambda s: s["supports"].update(nowhere=next(iter(s["supports"].values()))),
        "has a sparse layer 'nowhere' that the model lacks",
    ),
    "resized relu": (lambda s: s["resized"].update({"": {"num_features": 3}}), "which it cannot"),
    "huge resize": (
        lambda s: s["resized"].update({"head": {"in_features": 10**12, "out_features": 10**12}}),
        "holds a spec that does not describe a model|does not fit|has no|lacks",
    ),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_specs(file, case):
    change, message = HOSTILE[case]
    with pytest.raises(precut.PrecutError, match=message):
        precut.load(edited(file, change))


def test_state_that_is_not_tensors_is_refused(tmp_path):
    class Odd(nn.Module):
        def get_extra_state(self):
            return {"a": 1}

        def set_extra_state(self, state):
            pass

    with pytest.raises(precut.PrecutError, match="holds '_extra_state', a dict; only tensors can be saved"):
        precut.save(Odd(), tmp_path / "o.safetensors")


def test_unserialisable_extra(tmp_path):
    with pytest.raises(precut.PrecutError, match="the model's spec or extra is not JSON-able"):
        precut.save(narrow("resnet8"), tmp_path / "m.safetensors", extra={"a": object()})


def test_edited_channels_survive(tmp_path):
    from precut import graph

    model = precut.create_model("resnet8", width_mult=1.0).eval()
    x = torch.randn(2, 3, 32, 32)
    captured = graph.capture(model, x)
    space = next(s for s in captured.spaces if s.frozen is None and s.droppable)
    smaller = graph.drop(model, space, [0, 1])
    loaded = precut.load(precut.save(smaller, tmp_path / "m.safetensors"))
    with torch.no_grad():
        assert torch.equal(loaded(x), smaller(x))


def test_unstructured_bits_travel(tmp_path):
    model = cut(narrow("resnet8"), "unstructured")
    loaded = precut.load(precut.save(model, tmp_path / "m.safetensors"))
    kinds = [type(m.support.maker) for m in loaded.modules() if hasattr(m, "support")]
    assert kinds
    assert set(kinds) == {Unstructured}


def test_a_transposed_tie_is_no_alias(tmp_path):
    net = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))
    net[1].weight = nn.Parameter(net[0].weight.data.t())
    x = torch.randn(2, 3)
    again = precut.load(precut.save(net, tmp_path / "m.safetensors"), model=net)
    assert torch.equal(again(x), net(x))
