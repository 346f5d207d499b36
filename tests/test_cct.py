"""Compact convolutional transformers: sizes, the forward pass against NumPy, stochastic depth, learning, stitching."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import erf
from test_models import check_front_and_tail, drawn, images

from experiments.settings import ZooSettings, zoo_folder
from experiments.stitch import Settings, main
from symjax import runs, zoo
from symjax.errors import InputError
from symjax.models import MODELS, Member, create
from symjax.models.cct import SPECS, sine_positions
from symjax.models.layers import overlapping_max_pool
from symjax.training import Recipe
from symjax.zoo import ZooConfig

KEY = jax.random.key(0)


def small(name="cct2", **options):
    return create(name, **{"width": 8, "image_size": 8, **options})


# --- sizes ---


@pytest.mark.parametrize(
    ("name", "side", "classes", "count"),
    [
        # The published counts: 0.28, 0.48, 3.33, 3.76, 3.85 and 22.36 million.
        ("cct2", 32, 10, 283_723),
        ("cct4_3x2", 32, 10, 482_123),
        ("cct6_3x2", 32, 10, 3_326_923),
        ("cct7_3x1", 32, 10, 3_760_139),
        ("cct7_3x2", 32, 10, 3_853_259),
        ("cct14", 224, 1000, 22_367_273),
    ],
)
def test_published_sizes(name, side, classes, count):
    spec = SPECS[name]
    assert create(name, image_size=side, classes=classes).num_parameters == count
    assert counted(spec.size, spec.kernel, spec.layers, side, classes) == count


def counted(size, kernel, layers, side, classes):
    """By hand, from the paper's description."""
    d, hidden = size.width, size.ratio * size.width
    widths = [3, *[64] * (layers - 1), d]
    tokenizer = sum(kernel**2 * a * b for a, b in itertools.pairwise(widths))
    tokens = (side // (2 * max(1, kernel // 2 - 1)) ** layers) ** 2
    block = 2 * 2 * d + 3 * d * d + (d + 1) * d + (d + 1) * hidden + (hidden + 1) * d
    return tokenizer + tokens * d + size.blocks * block + 2 * d + (d + 1) + (d + 1) * classes


def test_variants():
    learnable, sine, still = (create(name, width=8, image_size=16) for name in ("cct2", "cct2_sine", "cct2_nodrop"))
    assert learnable.num_parameters - sine.num_parameters == 4 * 4 * 8
    assert still.num_parameters == learnable.num_parameters
    sizes = {int(name.removeprefix("cct")) for name in SPECS if name.removeprefix("cct").isdecimal()}
    assert sizes == {2, 4, 6, 7, 14} and set(SPECS) <= set(MODELS)
    for number, blocks in ((2, 2), (14, 14)):
        network = create(f"cct{number}_sine_nodrop", width=12, image_size=16)
        assert [point.name for point in network.points] == [f"block{i + 1}" for i in range(blocks)]


def test_sine_positions():
    positions = sine_positions(2, 3, 4).reshape(6, 4)
    for p in range(6):
        wanted = [np.sin(p), np.cos(p), np.sin(p / 100), np.cos(p / 100)]
        np.testing.assert_allclose(positions[p], wanted, atol=1e-12)


# --- the forward pass ---


@pytest.mark.parametrize("shape", [(2, 4, 4, 3), (2, 5, 7, 3), (1, 1, 2, 1)])
def test_overlapping_max_pool(shape):
    """Against windows written out, and its gradient against finite sums: ones go to maxima."""
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    n, h, w, c = shape
    wanted = np.stack(
        [
            np.stack(
                [x[:, max(0, i - 1) : i + 2, max(0, j - 1) : j + 2].max(axis=(1, 2)) for j in range(0, w, 2)], axis=1
            )
            for i in range(0, h, 2)
        ],
        axis=1,
    )
    np.testing.assert_array_equal(overlapping_max_pool(x), wanted)
    gradient = jax.grad(lambda x: overlapping_max_pool(x).sum())(x)
    assert gradient.sum() == wanted.size and np.all(np.asarray(gradient) == np.round(gradient))


def numpy_forward(params, x, heads):
    """The encoder of tokens x (n, tokens, d) and what follows it, in float64, from the definition."""

    def softmax(a, axis):
        a = np.exp(a - a.max(axis=axis, keepdims=True))
        return a / a.sum(axis=axis, keepdims=True)

    def norm(p, x):
        centred = x - x.mean(-1, keepdims=True)
        return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5) * p["scale"] + p["bias"]

    def dense(p, x):
        return x @ p["kernel"] + p.get("bias", 0)

    for segment in params[:-1]:
        p = segment.get("block", segment)
        normed, mixed = norm(p["norm1"], x), []
        q, k, v = (dense(p["attention"][name], normed) for name in ("query", "key", "value"))
        size = x.shape[-1] // heads
        for head in range(heads):
            mine = slice(head * size, (head + 1) * size)
            scores = np.einsum("nqc,nkc->nqk", q[..., mine], k[..., mine]) / np.sqrt(size)
            mixed.append(softmax(scores, -1) @ v[..., mine])
        x = x + dense(p["attention"]["write"], np.concatenate(mixed, -1))
        hidden = dense(p["expand"], norm(p["norm2"], x))
        x = x + dense(p["contract"], hidden * 0.5 * (1 + erf(hidden / np.sqrt(2))))
    x = norm(params[-1]["norm"], x)
    weights = softmax(dense(params[-1]["score"], x), 1)
    return dense(params[-1]["dense"], (weights * x).sum(axis=1))


@pytest.mark.parametrize("name", ["cct2", "cct2_sine"])
def test_the_forward_pass_is_the_definition(name):
    with jax.enable_x64(True):
        network = small(name, dtype=jnp.float64)
        member = jax.tree.map(lambda a: np.asarray(a, np.float64), drawn(network))
        x = jnp.asarray(images(2, 8), jnp.float64)
        logits = network.run(member, x)[0]
        p = member.params[0]["tokenizer"]
        for conv in ("conv1", "conv2"):
            maps = jax.lax.conv_general_dilated(
                x, p[conv]["kernel"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
            )
            x = overlapping_max_pool(jnp.maximum(maps, 0))
        x = x + (p["positions"] if name == "cct2" else sine_positions(2, 2, 8))
        wanted = numpy_forward(member.params, np.asarray(x).reshape(2, 4, 8), heads=2)
    np.testing.assert_allclose(logits, wanted, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", ["cct2", pytest.param("cct6_sine", marks=pytest.mark.slow)])
def test_front_and_tail_make_the_whole(name):
    network = create(name, width=8, image_size=16)
    check_front_and_tail(network, range(len(network.points)))
    side = {"cct2": 4, "cct6_sine": 8}[name]  # tokens lie on a map
    assert jax.eval_shape(lambda: network.front(drawn(network), images(), 0)).shape == (2, side, side, 8)


def test_stochastic_depth():
    """Only in training and with a key; each example keeps or skips a branch, and the mean over keys is the whole."""
    network, still = small(), small("cct2_nodrop")
    member = drawn(network)
    x = jnp.repeat(images(1, 8), 512, axis=0)
    plain = network.logits(member, x)[0]
    for options in ({"key": KEY}, {"mode": "train"}, {"mode": "batch", "key": KEY}):
        np.testing.assert_array_equal(network.logits(member, x, **options)[0], plain)
    np.testing.assert_array_equal(still.logits(member, x, mode="train", key=KEY)[0], plain)
    # The first block never drops, the last one a tenth: its input travels on with 0, 1 or 2 of the two branches.
    front = network.front(member, x, 0)
    behind = network.run(member, front, start=1, stop=2, mode="train", key=KEY)[0]
    kinds, counts = np.unique(np.round(np.asarray(behind[:, 0, 0, 0]), 4), return_counts=True)
    assert len(kinds) == 4 and abs(counts.max() / 512 - 0.81) < 0.06
    again = network.run(member, front, start=1, stop=2, mode="train", key=KEY)[0]
    np.testing.assert_array_equal(behind, again)
    skipped = np.isclose(behind, front, atol=1e-6).all(axis=(1, 2, 3)).mean()
    assert 0 < skipped < 0.04  # a hundredth


# --- training and stitching ---


def test_bad_widths_and_sizes():
    with pytest.raises(InputError, match="7 channels do not divide among 2"):
        create("cct2", width=7)
    with pytest.raises(InputError, match="image_size: got 0"):
        create("cct2", image_size=0)
    with pytest.raises(InputError, match=r"known: mcnn.*cct2, cct4, cct6, cct7, cct14.*\(also as"):
        create("cct3")


def test_settings_that_suit():
    """Transformers get theirs, others what they had; both by flag otherwise."""
    recipe = ZooSettings(model="cct2").zoo_config().recipe
    assert (recipe.optimizer, recipe.schedule, recipe.warmup) == ("adamw", "cosine", 0.1)
    assert ZooSettings(model="cct7_3x1", dataset="cifar10").zoo_config().recipe.learning_rate == 5e-4
    assert ZooSettings(model="cct2", schedule="halving", warmup=0.0).zoo_config().recipe.schedule == "halving"
    others = ZooSettings().zoo_config()
    assert others.recipe == Recipe(epochs=10, learning_rate=3e-3, flip=False, translate=1)
    # Zoos from before transformers are found again.
    assert zoo_folder(others).name == "digits-mcnn8-93c971ae19"
    for config in (others, ZooSettings(model="cct2").zoo_config()):
        assert ZooConfig.from_json(config.to_json()) == config
    assert "schedule" in ZooSettings(model="cct2").zoo_config().to_json()["recipe"]


@pytest.mark.slow
def test_a_tiny_one_learns_and_is_stitched(tmp_path, monkeypatch):
    """Digits of 8 x 8: far above chance in a few epochs; a full stitch costs less than one of rank 1."""
    monkeypatch.chdir(tmp_path)
    settings = Settings(
        model="cct2",
        width=16,
        image_size=8,
        epochs=8,
        learning_rate=1e-2,
        seeds="2",
        pairs="1",
        families="full,rank1",
        stitch_epochs=2,
        train_size=960,
        test_size=200,
    )
    main(settings)
    (out,) = (tmp_path / "runs" / "stitch").iterdir()
    rows = runs.read_csv(out / "results.csv")
    assert set(rows.layer) == {"block1", "block2"} and set(rows.family) == {"full", "rank1"}
    assert (rows.clean_accuracy > 70).all()
    penalty = rows.set_index(["layer", "family"]).penalty
    for layer in ("block1", "block2"):
        assert penalty[layer, "full"] + 10 < penalty[layer, "rank1"]
    (folder,) = (tmp_path / "runs" / "zoo").iterdir()
    metrics = zoo.load(folder).metrics
    assert (metrics.groupby("seed").loss.last() < 0.5 * metrics.groupby("seed").loss.first()).all()


@pytest.mark.slow
def test_stochastic_depth_is_part_of_training():
    """The same member trains otherwise where branches are dropped."""
    from symjax.data.dataset import Split
    from symjax.training import create_state, pad_batches, train_epoch
    from symjax.training.loop import TrainData

    rng = np.random.default_rng(0)
    split = Split(rng.integers(0, 255, (16, 8, 8, 3)).astype(np.uint8), (np.arange(16) % 10).astype(np.int32))
    data = TrainData(split.images, split.labels, np.zeros(3), np.full(3, 255.0), pad_batches(split, 8))
    recipe = Recipe(epochs=2, batch_size=8, flip=False, translate=0)
    trained = []
    for name in ("cct2", "cct2", "cct2_nodrop"):
        network = small(name)
        state = create_state(network, recipe, 2, jnp.int32(0))
        trained.append(jax.jit(lambda s, d, network=network: train_epoch(network, recipe, s, d))(state, data)[0].member)
    assert isinstance(trained[0], Member)
    first, again, without = (jax.tree.leaves(member) for member in trained)
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(first, without, strict=True))
