"""Network dissection: each step against a simple computation in NumPy, and units that detect known concepts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from broden_helpers import write_broden
from scipy import linalg

from symjax import Network, models, stitch_point
from symjax.dissection import (
    Broden,
    SegmentedArrays,
    TopQuantile,
    best_concepts,
    composites,
    dissect,
    dissect_activations,
    intersection_over_union,
    rotation_powers,
    special_orthogonal,
    unique_detectors,
    unit_masks,
)
from symjax.dissection.composites import CONCEPTS
from symjax.errors import InputError
from symjax.ops import parallel
from symjax.rotation import sample_rotation


def rotation(*blocks):
    """Return the rotation with these diagonal blocks, in a random basis."""
    z = linalg.qr(np.random.default_rng(0).standard_normal((sum(map(len, blocks)),) * 2))[0]
    return z @ linalg.block_diag(*blocks) @ z.T


def plane_rotation(angle):
    """Return the rotation of the plane by an angle."""
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


ROTATIONS = {
    "one": np.eye(1),
    "Haar": special_orthogonal(jax.random.key(0), 6),
    "odd": special_orthogonal(jax.random.key(1), 7),
    "half turns": rotation(-np.eye(4), np.eye(1)),
    "negative angles": rotation(plane_rotation(-2), plane_rotation(-0.5), plane_rotation(3)),
    "equal angles": rotation(plane_rotation(1), plane_rotation(1), np.eye(2)),
    "swap of two pairs": np.eye(4)[[1, 0, 3, 2]],
}


@pytest.mark.parametrize("q", ROTATIONS.values(), ids=ROTATIONS)
def test_powers_of_rotations_are_a_path_from_the_identity(q):
    a = np.array([0, 1, 0.3, 0.7, -1.0, 2.0, 0.5])
    powers = rotation_powers(q, a)
    np.testing.assert_array_equal(powers[0], np.eye(len(q)))
    np.testing.assert_allclose(powers[1], q, atol=1e-13)
    for first, second, total in ((2, 3, 1), (1, 4, 0), (1, 1, 5), (6, 6, 1)):
        np.testing.assert_allclose(powers[first] @ powers[second], powers[total], atol=1e-13)
    np.testing.assert_allclose(np.swapaxes(powers, 1, 2) @ powers, np.tile(np.eye(len(q)), (7, 1, 1)), atol=1e-13)


def test_powers_equal_fractional_matrix_powers():
    for name in ("Haar", "negative angles"):
        q = ROTATIONS[name]
        np.testing.assert_allclose(rotation_powers(q, [0.3])[0], linalg.fractional_matrix_power(q, 0.3), atol=1e-12)


@pytest.mark.parametrize(
    ("q", "a", "message"),
    [
        (np.diag([1.0, -1.0]), [0.5], "rotation: got determinant -1"),
        (2 * np.eye(2), [0.5], "rotation: got a matrix with .Q.T Q - I. up to 3.0e.00, expected an orthogonal matrix"),
        (np.ones((2, 3)), [0.5], "rotation: got shape .2, 3."),
        (np.full((2, 2), np.nan), [0.5], "rotation: got NaN or infinite entries"),
        (np.eye(2), [np.inf], "exponents: got NaN or infinite entries"),
        (np.eye(2), 0.5, "exponents: got shape"),
    ],
)
def test_matrices_without_powers_raise(q, a, message):
    with pytest.raises(InputError, match=message):
        rotation_powers(q, a)


def test_special_orthogonal_matrices_are_rotations():
    qs = np.array([special_orthogonal(jax.random.key(seed), 3) for seed in range(40)])
    np.testing.assert_allclose(np.linalg.det(qs), 1, atol=1e-12)
    np.testing.assert_allclose(qs @ np.swapaxes(qs, 1, 2), np.tile(np.eye(3), (40, 1, 1)), atol=1e-12)
    # Traces of Haar rotations of three dimensions have mean 0 and variance 1.
    traces = np.trace(qs, axis1=1, axis2=2)
    assert abs(traces.mean()) < 0.5 and 0.5 < traces.var() < 1.7


@pytest.mark.parametrize("batch", [1, 7, 100])
def test_thresholds_are_exact_for_any_batches(batch):
    x = np.random.default_rng(0).integers(0, 60, (2, 3, 100)).astype(np.float32)  # with many equal values
    top = TopQuantile(100, 0.13)
    for start in range(0, 100, batch):
        top.update(x[..., start : start + batch])
    thresholds = top.thresholds()
    np.testing.assert_array_equal(thresholds, np.sort(x)[..., -14])
    assert ((x > thresholds[..., None]).sum(-1) <= 13).all() and ((x >= thresholds[..., None]).sum(-1) > 13).all()


def test_wrong_activations_and_quantiles_raise():
    top = TopQuantile(4, 0.5)
    top.update(np.array([[1.0, np.nan], [1.0, 2.0]]))
    with pytest.raises(InputError, match="activations: got 2 for each unit, expected 4"):
        top.thresholds()
    with pytest.raises(InputError, match="activations: got shape .3, 2., expected .2, n."):
        top.update(np.ones((3, 2)))
    top.update(np.zeros((2, 2)))
    np.testing.assert_array_equal(top.thresholds(), [np.nan, 0])
    with pytest.raises(InputError, match="activations: got 5 for each unit, expected 4"):
        top.update(np.ones((2, 1)))
    for quantile in (0, 1, np.nan, 0.2):
        with pytest.raises(InputError, match="quantile: got"):
            TopQuantile(4, quantile)


def upsampled(image, size):
    """Return the bilinear interpolation between pixel centers, by NumPy in float64."""
    for axis, length in enumerate(size):
        old = image.shape[axis]
        at = (np.arange(length) + 0.5) * old / length - 0.5
        image = np.apply_along_axis(lambda row, at=at, old=old: np.interp(at, np.arange(old), row), axis, image)
    return image


def iou_by_loops(maps, masks, annotated, category, quantile):
    """Return the IoU of each unit and concept, computed with loops."""
    n, units, concepts = len(maps), maps.shape[-1], masks.shape[-1]
    iou = np.zeros((units, concepts))
    for u in range(units):
        values = np.sort(maps[..., u].ravel())
        threshold = values[-1 - int(quantile * len(values))]
        on = np.array([upsampled(maps[i, ..., u], masks.shape[1:3]) for i in range(n)]) > threshold
        for c in range(concepts):
            both = area = 0
            for i in range(n):
                both += (on[i] & masks[i, ..., c]).sum()
                area += on[i].sum() * annotated[i, category[c]]
            union = area + masks[..., c].sum() - both
            iou[u, c] = both / union if union else 0
    return iou


def segmented(n=11, size=8, concepts=5, seed=0):
    """Return images with random blobs of five concepts in two categories.

    A third of the images have no annotations of the second category. The last concept does not occur.
    """
    rng = np.random.default_rng(seed)
    masks = np.repeat(np.repeat(rng.random((n, size // 2, size // 2, concepts)) < 0.2, 2, axis=1), 2, axis=2)
    annotated = np.ones((n, 2), bool)
    annotated[::3, 1] = False
    masks[::3, ..., 3:] = False
    masks[..., 4] = False
    names, categories = [f"concept {c}" for c in range(concepts)], ["first"] * 3 + ["second"] * 2
    images = rng.integers(0, 256, (n, size, size, 3), np.uint8)
    return SegmentedArrays(images, masks, names, categories, annotated)


@pytest.mark.parametrize("batch", [4, pytest.param(64, marks=pytest.mark.slow)])
def test_iou_equals_loops_over_units_and_concepts(batch):
    data, rng = segmented(), np.random.default_rng(1)
    maps = rng.standard_normal((2, len(data), 4, 4, 3)).astype(np.float32)
    q = np.array([special_orthogonal(jax.random.key(seed), 3) for seed in range(2)])
    bases = np.stack([np.tile(np.eye(3), (2, 1, 1)), q], axis=1)  # the second basis differs between members
    result = dissect_activations(maps, data, bases=bases, quantile=0.1, batch_size=batch)
    assert result.iou.shape == (2, 2, 3, 5) and result.thresholds.shape == (2, 2, 3)
    for m in range(2):
        for b in range(2):
            rotated = maps[m].astype(float) @ bases[m, b].T
            expected = iou_by_loops(rotated, data.masks, data.annotated, data.category, 0.1)
            np.testing.assert_allclose(result.iou[m, b], expected, atol=1e-12)
    assert (result.iou[..., 4] == 0).all() and result.iou.max() > 0.05


def test_permutations_and_positive_scalings_only_reorder_units():
    """IoU and labels are exactly those of the reordered units."""
    data, units = segmented(n=20), 6
    maps = np.maximum(np.random.default_rng(2).standard_normal((1, 20, 4, 4, units)), 0).astype(np.float32)
    kinds = ("none", "permutation", "g_relu", "orthogonal")
    bases = np.array([sample_rotation(jax.random.key(3), kind, units) for kind in kinds])
    result = dissect_activations(maps, data, bases=bases, quantile=0.1)
    labels, best = result.labels()
    for b in (1, 2):
        order = bases[b].argmax(axis=1)
        np.testing.assert_array_equal(result.iou[0, b], result.iou[0, 0, order])
        np.testing.assert_array_equal(labels[0, b], labels[0, 0, order])
        assert result.detectors()[0, b] == result.detectors()[0, 0]
    assert abs(best[0, 3] - best[0, 0]).max() > 0.01


def test_units_that_are_masks_are_labeled_and_a_rotation_removes_the_labels():
    """Positive control: units are the masks of concepts. The concepts are rarer than the quantile, so the IoU is 1."""
    data, _ = composites("test", 120, seed=1)
    concepts = [c for c, name in enumerate(CONCEPTS) if CONCEPTS[name] in ("digit", "color", "stroke")]
    units = data.masks[None, ..., concepts].astype(np.float32)
    q = special_orthogonal(jax.random.key(0), len(concepts))
    result = dissect_activations(units, data, bases=rotation_powers(q, [0, 0.5, 1]), quantile=0.05)
    labels, best = result.labels()
    np.testing.assert_array_equal(labels[0, 0], concepts)
    np.testing.assert_array_equal(best[0, 0], 1)
    assert result.detectors()[0, 0] == len(concepts)
    assert result.detectors()[0, 2] < 0.8 * len(concepts)
    assert best[0, 1].mean() < 0.7 and best[0, 2].mean() < 0.4
    # At half the resolution labels are the same, but interpolation adds or removes pixels at the edges of masks.
    coarse = units.reshape(1, 120, 12, 2, 12, 2, -1).mean((3, 5))
    interpolated = dissect_activations(coarse, data, quantile=0.05)
    np.testing.assert_array_equal(interpolated.labels()[0][0, 0], concepts)
    assert 0.2 < interpolated.labels()[1].min() < interpolated.labels()[1].mean() < 0.6


def test_a_unit_that_is_zero_has_no_label_and_a_member_with_nan_has_nan():
    data = segmented()
    maps = np.random.default_rng(0).random((2, len(data), 4, 4, 3)).astype(np.float32)
    maps[..., 0], maps[1, 3, 1, 1, 1] = 0, np.nan
    result = dissect_activations(maps, data, quantile=0.1)
    labels, best = (array[:, 0] for array in result.labels())
    assert labels[0, 0] == -1 and best[0, 0] == 0 and (best[0, 1:] > 0).all()
    assert (labels[1] == -1).all() and np.isnan(best[1]).all()
    assert np.isnan(result.detectors()).tolist() == [[False], [True]]


def test_a_network_is_dissected_at_all_layers_and_members():
    def apply(w, x):
        x = stitch_point(jax.nn.relu(x @ w["a"]), "first")
        return stitch_point(jax.nn.relu(x[:, ::2, ::2] @ w["b"]), "second").mean((1, 2))

    keys = jax.random.split(jax.random.key(0), 6)
    members = {"a": jnp.stack([jax.random.normal(k, (3, 4)) for k in keys[:3]])}
    members["b"] = jnp.stack([jax.random.normal(k, (4, 2)) for k in keys[3:]])
    net = Network.from_function(
        apply, jax.tree.map(lambda w: w[0], members), example=np.zeros((1, 8, 8, 3), np.float32)
    )
    stacked = jax.tree.map(lambda *ws: jnp.stack(ws), *(net.member(parallel.take(members, i)) for i in range(3)))
    data = segmented()
    bases, calls = {"second": np.array([np.eye(2), [[0, 1], [1, 0]]])}, []
    options = {"quantile": 0.1, "batch_size": 4}
    results = dissect(net, stacked, data, 100.0, 50.0, bases=bases, on_batch=lambda: calls.append(1), **options)
    assert list(results) == ["first", "second"] and len(calls) == 6
    x = (data.images.astype(np.float32) - 100) / 50
    maps = np.maximum(np.einsum("nhwc,mcu->mnhwu", x, members["a"]), 0)
    expected = dissect_activations(maps, data, **options)
    np.testing.assert_allclose(results["first"].iou, expected.iou, atol=1e-6)
    assert results["second"].iou.shape == (3, 2, 2, 5)
    np.testing.assert_array_equal(results["second"].iou[:, 1], results["second"].iou[:, 0, ::-1])
    with pytest.raises(InputError, match="bases: got third"):
        dissect(net, stacked, data, 100.0, 50.0, bases={"third": np.eye(2)[None]})
    with pytest.raises(InputError, match="bases of first: got shape .1, 3, 3., expected .3, bases, 4, 4."):
        dissect(net, stacked, data, 100.0, 50.0, bases={"first": np.eye(3)[None]})


def test_labels_and_unique_detectors():
    iou = np.array([[0.2, 0.5, 0.5], [0.03, 0.02, 0.04], [0.1, 0.3, 0], [0.9, 0, 0.1]])
    labels, best = best_concepts(iou)
    assert labels.tolist() == [1, -1, 1, 0] and best.tolist() == [0.5, 0.04, 0.3, 0.9]
    assert unique_detectors(iou) == 2 and unique_detectors(iou, 0.4) == 2 and unique_detectors(iou, 0.6) == 1
    assert unique_detectors(np.stack([iou, 0 * iou])).tolist() == [2, 0]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: best_concepts(np.zeros(3)), "iou: got shape .3,."),
        (lambda: best_concepts(np.zeros((2, 3)), 1.5), "threshold: got 1.5"),
        (lambda: intersection_over_union(np.ones((2, 3)), np.ones((2, 2)), np.ones(3)), "concept_pixels: got shapes"),
        (lambda: intersection_over_union([[2]], [[1]], [3]), "common: got more pixels"),
        (lambda: unit_masks(np.zeros((1, 2, 2, 3)), np.zeros(2), (4, 4)), "thresholds: got shapes"),
        (lambda: dissect_activations(np.zeros((2, 3, 4, 4, 1)), segmented()), "activations: got shape"),
        (lambda: dissect_activations(np.zeros((1, 11, 4, 4, 1)), segmented(), quantile=1e-3), "quantile: got 0.001"),
        (lambda: SegmentedArrays(np.zeros((2, 4, 4, 1)), np.zeros((2, 4, 4, 1)), ["a"]), "masks: got float64"),
        (lambda: SegmentedArrays(np.zeros((2, 4, 4, 1)), np.zeros((2, 4, 4, 2), bool), ["a", "a"]), "names: got 1"),
        (
            lambda: SegmentedArrays(
                np.zeros((1, 2, 2, 1)), np.ones((1, 2, 2, 1), bool), "a", "b", np.zeros((1, 1), bool)
            ),
            "names: got 'a'",
        ),
        (
            lambda: SegmentedArrays(np.zeros((1, 2)), np.ones((1, 2, 2, 1), bool), ["a"], None, np.zeros((1, 1), bool)),
            "annotated: got a mask with pixels",
        ),
        (lambda: composites("both"), "part: got 'both'"),
        (lambda: composites(count=0), "count: got 0"),
    ],
)
def test_wrong_arguments_are_named(call, message):
    with pytest.raises(InputError, match=message):
        call()


def test_composites_have_exact_masks():
    data, digits = composites("test", 60)
    again, _ = composites("test", 60)
    np.testing.assert_array_equal(data.images, again.images)
    assert (composites("train", 60)[0].images != data.images).any()
    masks = {name: data.masks[..., c] for c, name in enumerate(data.names)}
    union = {category: data.masks[..., data.category == c].any(-1) for c, category in enumerate(data.categories)}
    present = data.masks.any((1, 2))
    for c in range(5):
        np.testing.assert_array_equal(present[:, data.category == c].sum(1), 1)  # one concept of each category
    np.testing.assert_array_equal(present[:, :10].argmax(1), digits)
    np.testing.assert_array_equal(union["digit"], union["color"])
    np.testing.assert_array_equal(union["texture"], ~(union["digit"] | union["stroke"]))
    assert not (union["digit"] & union["stroke"]).any() and not (union["digit"] & ~union["quadrant"]).any()
    red, white = data.images[masks["red ink"]].mean(0), data.images[union["stroke"]].mean(0)
    assert red[0] > 200 and red[1:].max() < 60 and white.min() > 235
    assert masks["digit upper left"][:, :12, :12].any() and not masks["digit upper left"][:, 12:].any()


@pytest.mark.parametrize("batch", [4, pytest.param(1, marks=pytest.mark.slow)])
def test_a_folder_in_brodens_format_is_read(tmp_path, batch):
    data = Broden(write_broden(tmp_path / "broden"))
    assert data.names == ("wheel", "street-s", "sky") and data.categories == ("object", "part", "scene")
    assert data.category.tolist() == [1, 2, 0] and len(data) == 6
    masks, annotated = np.zeros((6, 8, 8, 3), bool), []
    for i, part in enumerate(data.batches(batch, 4)):
        assert part.images.shape[1:] == (4, 4, 3)
        masks[i * batch : (i + 1) * batch][..., part.concepts] = part.masks
        annotated += part.annotated.tolist()
    expected = np.zeros_like(masks)
    expected[:5, 4:, 4:, 0] = expected[::3, ..., 1] = expected[::2, :, :4, 2] = True
    np.testing.assert_array_equal(masks, expected)
    np.testing.assert_array_equal(annotated, [[True, i < 5, i % 3 == 0] for i in range(6)])
    memory = SegmentedArrays(np.zeros((6, 8, 8, 1)), masks, data.names, ["part", "scene", "object"])
    memory.annotated = np.array(annotated)[:, [1, 2, 0]]
    maps = np.random.default_rng(0).random((1, 6, 4, 4, 2))
    results = [dissect_activations(maps, source, quantile=0.2, batch_size=batch).iou for source in (data, memory)]
    np.testing.assert_array_equal(*results)


def test_damaged_folders_in_brodens_format_raise(tmp_path):
    folder = write_broden(tmp_path / "broden")
    with pytest.raises(InputError, match="categories: got color, expected some of object, part, scene, material"):
        Broden(folder, ["color"])
    (folder / "images" / "a" / "0_object.png").write_text("no image")
    with pytest.raises(InputError, match="folder: got .*0_object.png, which cannot be read .*, expected an image"):
        next(Broden(folder).batches(4))
    (folder / "label.csv").write_text("number,name\n1,x\n")
    with pytest.raises(
        InputError,
        match="folder: got .*label.csv without rows or some columns, expected the columns number, name, category",
    ):
        Broden(folder)
    with pytest.raises(
        InputError, match="folder: got .*category.csv, which cannot be read .*, expected a table of Broden"
    ):
        Broden(tmp_path / "none")


@pytest.mark.slow
def test_outputs_of_residual_blocks_without_relu_are_negative_too():
    x = np.random.default_rng(0).random((2, 8, 8, 1)).astype(np.float32)
    options = {"width": 2, "classes": 3, "blocks": (1,), "image_size": 8, "channels": 1}
    net = models.create("resnet20", **options, residual_relu=False)
    features = net.features(net.init(jax.random.key(0)), x)
    negative = {name: bool((values < 0).any()) for name, values in features.items()}
    assert negative == {"stem": False, "block1.1*": False, "block1.1": True}
    with pytest.raises(InputError, match="residual_relu: got 'yes'"):
        models.create("resnet20", **options, residual_relu="yes")
