"""Values on this machine's accelerator against float64 on its host: `python -m pytest -m gpu`.

They run on whatever JAX takes for its default backend, a CPU too, where a few of the many alike are enough.
"""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy
import tiny_models  # noqa: F401

from symjax import models, nearest_permutation, projection_birkhoff, zoo
from symjax.data import Split
from symjax.data.dataset import Source
from symjax.data.splitting import build
from symjax.flops import segment_flops, step_flops
from symjax.ops.parallel import FORMS as CONV_FORMS
from symjax.ops.parallel import Execution, over_members
from symjax.similarity import MEASURES, cka, pairwise
from symjax.stitching import Stitch, feature_moments, least_squares, stitched_output
from symjax.stitching.families.orthogonal import newton_schulz
from symjax.training import Recipe, create_state, train_epoch
from symjax.training.loop import device_data
from symjax.zoo import ZooConfig
from symjax.zoo.stored import StoredMember

ON_CPU = jax.default_backend() == "cpu"
pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("ignore::symjax.similarity.FewExamplesWarning")]
covered = pytest.mark.slow  # by other tests on a CPU; `-m gpu` runs it all the same


def some(names, few):
    """All names as parameters; on a CPU but a few of them by default."""
    return [pytest.param(name, marks=() if name in few else covered) for name in names]


@contextlib.contextmanager
def on_host(float64=True):
    with jax.enable_x64(float64), jax.default_device(jax.devices("cpu")[0]):
        yield


def representations(shape, seed=0):
    """Two related ones."""
    rng = np.random.default_rng(seed)
    shared = rng.normal(size=shape)
    return [np.float32(np.maximum(shared + rng.normal(size=shape) + 0.3, 0)) for _ in range(2)]


def test_backend(capsys):
    with capsys.disabled():
        print(f"\nbackend {jax.default_backend()}, {jax.devices()[0].device_kind}, jax {jax.__version__}")


@pytest.mark.parametrize("name", some(MEASURES, ("cka_lange",)))
def test_measure_is_that_of_float64(name):
    x, y = representations((40, 3, 3, 6))
    value = MEASURES[name].fn(x, y)
    assert value.dtype == jnp.float32
    with on_host():
        exact = float(MEASURES[name].fn(np.float64(x), np.float64(y)))
    if name == "feature_sampled_cka":  # undefined, because these neurons have nothing in common
        assert np.isnan([value, exact]).all()
    else:
        assert abs(float(value) - exact) < 2e-5


@pytest.mark.parametrize("name", some(["cca", "pwcca", "procrustes", "cka", "wreath_cka", "soft_matching"], ()))
def test_pairwise_is_that_of_float64(name):
    x, y = representations((30, 2, 2, 4))
    similarities = pairwise({"layer": np.stack([x, y])}, name, devices=jax.devices()[:1]).values[0, :, 0]
    with on_host():
        exact = [[float(MEASURES[name].fn(np.float64(a), np.float64(b))) for b in (x, y)] for a in (x, y)]
    np.testing.assert_allclose(similarities, exact, atol=1e-3 if MEASURES[name].kind == "distance" else 2e-5)


@pytest.mark.parametrize("form", ["gram", "features"])
def test_hsic_under_tf32_asks_for_float32(form):
    """Of unrelated features, whose unbiased HSIC is what large terms leave when they cancel."""
    rng = np.random.default_rng(0)
    x, y = (np.float32(rng.normal(size=(120, 200)) + 1) for _ in range(2))
    with jax.default_matmul_precision("tensorfloat32"):
        value = float(cka(x, y, form=form))
    with on_host():
        exact = float(cka(np.float64(x), np.float64(y)))
    assert abs(exact) < 0.05 and abs(value - exact) < 2e-6


@covered
def test_birkhoff_projection_and_its_gradient():
    rng = np.random.default_rng(0)
    matrices, weights = (np.float32(rng.normal(size=(3, 24, 24))) for _ in range(2))

    def weighted(matrices, weights):
        return (projection_birkhoff(matrices) * weights).sum()

    projected, info = projection_birkhoff(matrices, full_output=True)
    gradient = jax.jit(jax.grad(weighted))(matrices, weights)
    assert info.converged.all()
    with on_host():
        exact = projection_birkhoff(np.float64(matrices), tol=1e-12)
        exact_gradient = jax.jit(jax.grad(weighted))(np.float64(matrices), np.float64(weights))
    np.testing.assert_allclose(projected, exact, atol=5e-6)
    np.testing.assert_allclose(gradient, exact_gradient, atol=1e-4)


def test_assignments_inside_a_program():
    matrices = np.float32(np.random.default_rng(0).normal(size=(3, 20, 20)))
    assignments = jax.jit(jax.vmap(nearest_permutation))(matrices)
    exact = [scipy.optimize.linear_sum_assignment(matrix, maximize=True)[1] for matrix in matrices]
    np.testing.assert_array_equal(assignments, exact)


def test_closed_forms_of_stitches():
    x, y = representations((50, 4, 4, 12))
    matrix = jax.jit(lambda x, y: least_squares(feature_moments(x, y), ridge=0))(x, y)
    exact = scipy.linalg.lstsq(np.float64(x).reshape(-1, 12), np.float64(y).reshape(-1, 12))[0].T
    np.testing.assert_allclose(matrix, exact, atol=2e-4)
    left, _, right = np.linalg.svd(exact)
    np.testing.assert_allclose(jax.jit(newton_schulz)(np.float32(exact)), left @ right, atol=2e-5)


def tiny(form="native", dtype=jnp.float32):
    return models.create("stitch_tiny", image_size=8, channels=1, classes=3, dtype=dtype).with_form(form)


def test_operations_are_counted():
    """By the CPU's compiler, since clients of accelerators count none."""
    network = tiny()
    operations = segment_flops(network, (8, 8, 1))
    assert min(operations) > 1 and step_flops(network, (8, 8, 1), RECIPE) > 3 * RECIPE.batch_size * sum(operations[1:])


@pytest.mark.slow
def test_stitched_output():
    network, key = tiny(), jax.random.key(0)
    images, matrix = np.asarray(jax.random.normal(key, (5, 8, 8, 1))), np.asarray(jax.random.normal(key, (8, 8)))

    def logits(images, matrix):
        a, b = (network.init(jax.random.key(seed)) for seed in (1, 2))
        return stitched_output(network, b, network.front(a, images, 1), Stitch(matrix), 1, "train")[0]

    with on_host(float64=False):
        exact = np.asarray(logits(images, matrix))
    with jax.default_matmul_precision("highest"):
        np.testing.assert_allclose(logits(images, matrix), exact, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(logits(images, matrix), exact, atol=0.03 * np.abs(exact).max())


def stripes(n, seed):
    rng = np.random.default_rng(seed)
    labels = (np.arange(n) % 3).astype(np.int32)
    rows, columns = np.meshgrid(np.arange(8) // 2 % 2, np.arange(8) // 2 % 2, indexing="ij")
    pictures = np.stack([rows, columns, 0 * rows])[labels][..., None]
    return Split((rng.integers(0, 100, (n, 8, 8, 1)) + 100 * pictures).astype(np.uint8), labels)


def dataset():
    source = Source("stripes", stripes(40, 0), stripes(25, 1), ("a", "b", "c"))
    return build(source, validation=0.2, train_size=None, test_size=None, seed=0)


RECIPE = Recipe(epochs=2, batch_size=8, learning_rate=0.01, flip=True, translate=1)


def epoch(network, execution):
    """Losses and members of two after an epoch of a few steps."""
    images = dataset()
    steps = len(images.train) // RECIPE.batch_size
    states = jax.jit(jax.vmap(lambda seed: create_state(network, RECIPE, steps, seed)))(jnp.arange(2))
    run = over_members(
        lambda state, data: train_epoch(network, RECIPE, state, data), execution, devices=jax.devices()[:1]
    )
    states, metrics = run(states, device_data(images, None))
    return np.asarray(metrics["loss"]), states


@pytest.fixture(scope="module")
def reference():
    """On the host, one member after the other."""
    with on_host(float64=False):
        images = dataset()
        network, steps = tiny(), len(images.train) // RECIPE.batch_size
        data = device_data(images, None)
        step = jax.jit(lambda state: train_epoch(network, RECIPE, state, data))
        return np.array([step(create_state(network, RECIPE, steps, jnp.int32(seed)))[1]["loss"] for seed in (0, 1)])


FORMS = [f"{members}-{conv}" for members in ("vmap", "map") for conv in CONV_FORMS]


@pytest.mark.parametrize("form", some(FORMS, ()))
def test_a_zoo_trains_alike_in_every_form(form, reference):
    execution = Execution(*form.split("-"))
    with jax.default_matmul_precision("highest"):
        losses, _ = epoch(tiny(execution.conv), execution)
    np.testing.assert_allclose(losses, reference, rtol=2e-3)


@pytest.mark.parametrize("dtype", some(["float32", "bfloat16"], ()))
def test_a_zoo_trains_at_the_precision_of_the_backend(dtype, reference):
    losses, _ = epoch(tiny("matmul", jnp.dtype(dtype)), Execution("vmap", "matmul"))
    np.testing.assert_allclose(losses, reference, rtol=0.1)


@covered
def test_an_interrupted_zoo_goes_on(tmp_path, monkeypatch):
    images, config = dataset(), ZooConfig("stripes", "stitch_tiny", recipe=RECIPE)
    options = {"devices": jax.devices()[:1], "progress": False, "save_every_seconds": 0}
    whole = zoo.train(config, images, (0, 1), tmp_path / "whole", **options)
    save, saves = StoredMember.save, []

    def interrupted(self, state, metrics):
        saves.append(self.seed)
        if len(saves) == 3:  # the first member of the second epoch
            raise KeyboardInterrupt
        save(self, state, metrics)

    with monkeypatch.context() as patch:
        patch.setattr(zoo.jobs, "SAVING_SHARE", np.inf)
        patch.setattr(StoredMember, "save", interrupted)
        with pytest.raises(KeyboardInterrupt):
            zoo.train(config, images, (0, 1), tmp_path / "cut", **options)
    assert len(list((tmp_path / "cut").glob("member-*/epoch-00001"))) == 2
    resumed = zoo.train(config, images, (0, 1), tmp_path / "cut", **options)
    # An accelerator may add in another order each time.
    atol = 0 if ON_CPU else 1e-3
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=atol, rtol=0), resumed.members, whole.members)
