"""Loading, planning and running: shapes, threads, memory, errors."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from precut.errors import PrecutError
from precut.runtime import ACTIVATIONS, Act, BlobBuilder, ClassSupport, load, ops_table, version

from . import oracle

TABLE = ClassSupport([[[(a + b) % 4, 4 + (a + b) % 4] for b in range(4)] for a in range(4)])


def small_net(seed: int = 0, channels: int = 32) -> bytes:
    rng = np.random.default_rng(seed)

    def w(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape).astype(np.float32) / np.sqrt(np.prod(shape[1:]) / 2)

    b = BlobBuilder()
    x = b.input("image", (1, 3, 16, 16))
    y = b.conv2d(x, w(channels, 3, 3, 3), w(channels), padding=(1, 1), act="relu", name="stem")
    kept = w(channels, channels * 2)
    z = b.conv2d(y, kept, shape=(channels, channels, 3, 3), support=TABLE, padding=(1, 1), act="relu", name="a")
    y = b.conv2d(
        z, kept, shape=(channels, channels, 3, 3), support=TABLE, padding=(1, 1), residual=y, act="relu", name="b"
    )
    y = b.max_pool(y, (2, 2), (2, 2))
    y = b.flatten(b.adaptive_avg_pool(y))
    b.output(b.linear(y, w(10, channels), w(10), name="fc"), "logits")
    return b.bytes()


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(5).standard_normal((64, 3, 16, 16)).astype(np.float32)


def test_any_batch_gives_the_same_images(images: np.ndarray) -> None:
    with load(small_net(), threads=2, autotune=False) as model:
        whole = model.run(images)
        for n in (1, 2, 7, 31):
            np.testing.assert_allclose(model.run(images[:n]), whole[:n], rtol=1e-5, atol=1e-6)


def test_other_image_sizes(images: np.ndarray) -> None:
    wide = np.concatenate([images[:2], images[2:4]], axis=3)[:, :, :11]
    with load(small_net(), threads=1, autotune=False) as model, load(small_net(), isa="reference") as reference:
        np.testing.assert_allclose(model.run(wide), reference.run(wide), rtol=1e-4, atol=1e-5)
        assert model.prepare((5, 3, 9, 40)) == [(5, 10)]


def test_many_shapes_drop_old_plans(images: np.ndarray) -> None:
    with load(small_net(), threads=1, autotune=False) as model:
        first = model.run(images[:1])
        for n in range(2, 14):
            model.run(images[:n])
        np.testing.assert_array_equal(model.run(images[:1]), first)


def test_new_weights_same_shapes(images: np.ndarray) -> None:
    results = []
    for seed in (0, 1):
        with load(small_net(seed), threads=1, autotune=False) as model, load(small_net(seed), isa="reference") as ref:
            results.append(model.run(images[:2]))
            np.testing.assert_allclose(results[-1], ref.run(images[:2]), rtol=1e-4, atol=1e-5)
    assert np.abs(results[0] - results[1]).max() > 0.01


def test_models_run_at_the_same_time(images: np.ndarray) -> None:
    models = [load(small_net(seed), threads=2, autotune=False) for seed in range(3)]
    want = [m.run(images) for m in models]
    wrong: list[int] = []

    def work(i: int) -> None:
        for _ in range(20):
            if not np.array_equal(models[i % 3].run(images), want[i % 3]):
                wrong.append(i)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(6)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    for m in models:
        m.close()
    assert not wrong


@pytest.mark.parametrize("kind", ACTIVATIONS)
def test_activations(kind: str) -> None:
    x = np.concatenate([np.linspace(-12, 12, 4001), [-100, 100, 0.0]]).astype(np.float32)
    x = np.resize(x, (1, 20, 1, 201))
    act = Act(kind, 0.3, 2.5, np.linspace(0, 1, 20, dtype=np.float32) if kind == "prelu" else None)
    b = BlobBuilder()
    b.output(b.activation(b.input("x", x.shape), act))
    want = oracle.activation(kind, x.astype(np.float64), act.alpha, act.beta, act.slopes)
    for isa in ("reference", None, "portable"):
        with load(b.bytes(), threads=1, isa=isa) as model:
            np.testing.assert_allclose(model.run(x), want, rtol=3e-6, atol=1e-6)


def test_not_a_number_passes() -> None:
    x = np.zeros((1, 3, 16, 16), np.float32)
    x[0, 1, 3, 3] = np.nan
    with load(small_net(), threads=1, autotune=False) as model:
        assert np.isnan(model.run(x)).all()
        assert not np.isnan(model.run(np.zeros_like(x))).any()


def test_max_pooling_passes_not_a_number() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 20, 9, 9)).astype(np.float32)
    x[rng.random(x.shape) < 0.02] = np.nan
    x[0, 0] = np.inf
    x[0, 1, ::2], x[0, 1, 1::2] = np.inf, -np.inf
    b = BlobBuilder()
    b.output(b.max_pool(b.input("x", x.shape), (3, 3), (2, 2), (1, 1)))
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)), constant_values=-np.inf)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (2, 3))[:, :, ::2, ::2]
    want = windows.max((4, 5))
    assert np.isnan(want).any()
    for isa in ("reference", None, "portable"):
        with load(b.bytes(), threads=1, isa=isa) as model:
            np.testing.assert_array_equal(model.run(x), want)


def test_concatenation_shuffle_and_slices() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 24, 6, 6)).astype(np.float32)
    w1, w2 = rng.standard_normal((12, 24, 1, 1)), rng.standard_normal((16, 36, 3, 3))
    shuffle = np.arange(36).reshape(3, 12).T.reshape(-1)
    b = BlobBuilder()
    value = b.input("x", x.shape)
    y = b.cat([value, b.conv2d(value, w1, act="relu")])
    y = b.gather(y, shuffle.tolist())
    b.output(b.conv2d(y, w2, padding=(1, 1)), "conv")
    b.output(b.gather(y, [35, 0, -1, 3]), "some")
    cat = np.concatenate([x, np.maximum(oracle.conv2d(x, w1), 0)], axis=1)[:, shuffle]
    with load(b.bytes(), threads=1, autotune=False) as model:
        conv, some = model.run(x)
    np.testing.assert_allclose(conv, oracle.conv2d(cat, w2, padding=(1, 1, 1, 1)), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(some[:, [0, 1, 3]], cat[:, [35, 0, 3]], rtol=1e-6, atol=1e-6)
    assert not some[:, 2].any()


def test_describe_tells_every_op(images: np.ndarray) -> None:
    with load(small_net(), threads=1, autotune=False) as model:
        d = model.describe((4, 3, 16, 16), rounds=2)
    ops = {op["name"]: op for op in d["ops"]}
    assert {"image", "stem", "a", "b", "fc", "logits"} <= set(ops)
    assert ops["stem"]["macs"] == 32 * 3 * 9 * 256
    assert ops["a"]["macs"] == 32 * 32 * 2 * 256
    assert ops["a"]["support"] == "classes 4x4"
    assert ops["fc"]["macs"] == 320
    assert all(op["us"] >= 0 for op in d["ops"] if op["kernel"] != "none")
    kernels = {row["kernel"] for row in ops_table()}
    assert all(op["kernel"] in kernels for op in d["ops"] if op["op"] in ("conv2d", "linear", "max_pool"))


def test_describe_orders_small_classes_without_waste() -> None:
    with load(small_net(channels=64), threads=1, autotune=False, isa="portable") as model:
        for op in model.describe()["ops"]:
            if op["name"] in ("a", "b"):
                assert op["executed_macs"] == op["macs"]


def test_file_and_bytes_agree(tmp_path: Path, images: np.ndarray) -> None:
    data = small_net()
    path = tmp_path / "m.precut"
    path.write_bytes(data)
    with load(path, threads=1, autotune=False) as a, load(data, threads=1, autotune=False) as b:
        assert a.input_shapes == [(1, 3, 16, 16)]
        np.testing.assert_array_equal(a.run(images), b.run(images))


def test_tuning_results_are_kept(tmp_path: Path, images: np.ndarray) -> None:
    cache = tmp_path / "folder" / "tune.txt"
    with load(small_net(), threads=1, cache=cache) as model:
        first = model.run(images[:1])
    lines = cache.read_text().splitlines()
    assert lines
    assert all(version() in line and "\tf32_conv" in line for line in lines)
    with load(small_net(), threads=1, cache=cache) as model:
        np.testing.assert_array_equal(model.run(images[:1]), first)
    assert cache.read_text().splitlines() == lines


ERRORS = {
    "truncated": (lambda d: d[:-1], "truncated"),
    "changed": (lambda d: d[:-1] + bytes([d[-1] ^ 1]), "checksum"),
    "foreign": (lambda d: b"PK" + d[2:], "signature"),
    "version": (lambda d: d[:8] + b"\x63" + d[9:], "format version 99; this library reads version 1"),
    "empty": (lambda d: b"", "signature"),
}


@pytest.mark.parametrize("name", ERRORS)
def test_damaged_files_are_refused(name: str) -> None:
    change, message = ERRORS[name]
    with pytest.raises(PrecutError, match=message):
        load(change(small_net()))


def test_wrong_use_is_told(images: np.ndarray, tmp_path: Path) -> None:
    with pytest.raises(PrecutError, match="cannot open the model file"):
        load(tmp_path / "none.precut")
    with pytest.raises(PrecutError, match=r'unknown instruction set "sse9"; this build has .*reference'):
        load(small_net(), isa="sse9")
    with pytest.raises(PrecutError, match="threads must be a whole number from 1 to 1024; got 0"):
        load(small_net(), threads=0)
    with load(small_net(), threads=1, autotune=False) as model:
        with pytest.raises(
            PrecutError, match=r"input image has shape \(1, 4, 16, 16\); it was compiled for \(1, 3, 16, 16\)"
        ):
            model.run(images[:1, [0, 1, 2, 0]])
        with pytest.raises(PrecutError, match="2 or 4 axes"):
            model.run(images[0])
        with pytest.raises(PrecutError, match="the network has 1 inputs, got 2"):
            model.run(images, images)
        model.run(images[:1])
    with pytest.raises(PrecutError, match="has been closed"):
        model.run(images[:1])


def test_builder_tells_wrong_use() -> None:
    b = BlobBuilder()
    x = b.input("x", (1, 8, 4, 4))
    with pytest.raises(PrecutError, match="unknown activation 'rleu': did you mean 'relu'"):
        b.activation(x, "rleu")
    with pytest.raises(PrecutError, match="value 7 is not computed yet"):
        b.activation(7, "relu")
    with pytest.raises(PrecutError, match="needs the dense weight shape"):
        b.conv2d(x, np.zeros(12))
    with pytest.raises(PrecutError, match="at least one input and one output"):
        b.bytes()
    b.output(b.conv2d(x, np.zeros(11), shape=(4, 8, 1, 1), name="short"))
    with pytest.raises(PrecutError, match="short: the weight has 11 numbers, expected 32"):
        load(b.bytes())


def test_torch_is_never_imported() -> None:
    code = (
        "import sys; from precut import runtime; import numpy as np\n"
        "b = runtime.BlobBuilder(); b.output(b.activation(b.input('x', (1, 2)), 'relu'))\n"
        "print(runtime.load(b.bytes()).run(np.ones((1, 2))).sum(), 'torch' in sys.modules)"
    )
    env = dict(os.environ, PYTHONPATH=os.pathsep.join(p for p in sys.path if p))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, check=True)
    assert done.stdout.split() == ["2.0", "False"]
