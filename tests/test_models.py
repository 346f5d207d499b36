"""Built-in models as NNX modules: sizes, stitch points, values against NumPy, training, wrong options."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from symjax.errors import InputError
from symjax.jaxprs import equations
from symjax.models import MODELS, build, register
from symjax.models.myrtle import Myrtle
from symjax.network.naming import stitch_point

NAMES = [
    pytest.param(name, marks=pytest.mark.slow if name in ("resnet56", "resnet110") else ())
    for name in MODELS
    # Of images; resnet1202 takes minutes to trace; mlp has own tests.
    if "cct" not in name and name not in ("resnet1202", "mlp") and "channels" in MODELS[name].defaults
]


def images(count=2, size=16):
    return np.random.default_rng(7).normal(size=(count, size, size, 3)).astype(np.float32)


def close(actual, expected, tolerance=1e-6):
    scale = np.abs(np.asarray(expected)).max()
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * scale)


def abstract(name, **options):
    """Return graph and state of a model as shapes; nothing is computed."""
    return nnx.split(nnx.eval_shape(lambda: build(name, rngs=nnx.Rngs(0), **options)))


def draw(shapes, seed=0, dtype=jnp.float32):
    """Return NumPy values of unit scale for a pytree of shapes, since compiling initializers takes seconds."""
    generator = np.random.default_rng(seed)

    def values(leaf):
        if not jnp.issubdtype(leaf.dtype, jnp.floating):  # random state
            is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
            return jax.random.key(seed) if is_key else jnp.zeros(leaf.shape, leaf.dtype)
        if len(leaf.shape) < 2:
            return jnp.asarray(generator.uniform(0.5, 1.5, leaf.shape), dtype)
        return jnp.asarray(generator.normal(size=leaf.shape) * np.sqrt(2 / np.prod(leaf.shape[:-1])), dtype)

    return jax.tree.map(values, shapes)


def drawn(name, seed=0, **options):
    """Return a module with such parameters and statistics."""
    graph, state = abstract(name, **options)
    return nnx.merge(graph, draw(state, seed, jnp.promote_types(options.get("dtype", jnp.float32), jnp.float32)))


@nnx.jit
def run(module, x):
    return module(x)


def named(name, size=16, **options):
    """Return the named values of a model, {name: shape and dtype}, in program order."""
    graph, state = abstract(name, **options)
    program = jax.make_jaxpr(lambda state, x: nnx.merge(graph, state)(x))(state, images(size=size))
    values = [(e.params["name"], e.outvars[0].aval) for e in equations(program.jaxpr) if e.primitive.name == "name"]
    assert len(dict(values)) == len(values)
    return dict(values)


def number_of_parameters(name, **options):
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.filter_state(abstract(name, **options)[1], nnx.Param)))


# --- sizes and points ---


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("mcnn", 1_557_066),
        ("resnet20", 269_722),
        ("resnet18", 11_173_962),
        ("vgg11", 9_225_610),
        ("mlp", 512 * (3072 + 1) + 2 * 512 * 513 + 10 * 513),
        pytest.param("resnet110", 1_727_962, marks=pytest.mark.slow),
    ],
)
def test_published_sizes(name, count):
    assert number_of_parameters(name) == count


def test_published_size_of_the_deepest():
    """Each further block of all stages adds equally many parameters; tracing 1202 layers would take minutes."""
    one, two = (number_of_parameters("resnet1202", blocks=(n, n, n)) for n in (1, 2))
    assert MODELS["resnet1202"].defaults["blocks"] == (200, 200, 200)
    assert one + 199 * (two - one) == 19_421_274


def points_of(options):
    """Return names and channels of stitch points, written by hand."""
    width = options["width"]
    if "pools" in options:
        return {f"{options['activation']}{i + 1}": m * width for i, m in enumerate(options["multiples"])}
    points = {"stem": width}
    for stage, blocks in enumerate(options["blocks"]):
        for block in range(blocks):
            for suffix in ("*", ""):
                points[f"block{stage + 1}.{block + 1}{suffix}"] = width * 2**stage
    return points


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.few(6)
def test_points(name):
    values = named(name, width=2)
    channels = {point: value.shape[-1] for point, value in values.items()}
    assert list(channels.items()) == list(points_of({**MODELS[name].defaults, "width": 2}).items())
    assert all(value.shape[0] == 2 and len(value.shape) == 4 for value in values.values())


def test_shortcuts_belong_to_the_front():
    """A branch is named after its first convolution and the shortcut are computed."""
    graph, state = abstract("resnet18", width=2, blocks=(1, 1))
    program = jax.make_jaxpr(lambda state, x: nnx.merge(graph, state)(x))(state, images())
    order = [e for e in equations(program.jaxpr) if e.primitive.name in ("conv_general_dilated", "name")]
    order = [e.params.get("name") or f"{e.invars[1].aval.shape[0]}x{e.params['window_strides'][0]}" for e in order]
    first = ["3x1", "stem", "3x1", "block1.1*", "3x1", "block1.1"]
    assert order == [*first, "1x2", "3x2", "block2.1*", "3x1", "block2.1"]


def test_stitch_point():
    x = jnp.ones((2, 3), jnp.bfloat16)
    program = jax.make_jaxpr(lambda x: stitch_point(x, "relu1"))(x)
    assert [(e.primitive.name, e.params["name"]) for e in program.eqns] == [("name", "relu1")]
    assert stitch_point(x, "relu1").dtype == jnp.bfloat16
    for value, name, words in [
        (x, "", "name: got ''"),
        (x, None, "name: got None"),
        (jnp.ones(3), "a", r"x: got float32\[3\] at stitch point 'a'"),
        (jnp.ones((2, 3), int), "a", "x: got int32"),
        ([[1.0]], "a", r"x: got \[\[1.0\]\]"),
    ]:
        with pytest.raises(InputError, match=words):
            stitch_point(value, name)


# --- values ---


def numpy_convolution(x, kernel, stride=1):
    size = kernel.shape[0]
    x = np.pad(x, ((0, 0), (size // 2,) * 2, (size // 2,) * 2, (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(x, (size, size), (1, 2))[:, ::stride, ::stride]
    return np.einsum("nhwcij,ijcd->nhwd", windows, kernel)


def numpy_norm(p, x):
    if "mean" not in p:
        p = {**p, "mean": x.mean(-1, keepdims=True), "var": x.var(-1, keepdims=True)}
    return (x - p["mean"]) / np.sqrt(p["var"] + 1e-5) * p["scale"] + p["bias"]


def numpy_pool(x, size):
    n, h, w, c = x.shape
    x = x[:, : h // size * size, : w // size * size]
    return x.reshape(n, h // size, size, w // size, size, c).max(axis=(2, 4))


def numpy_myrtle(p, x, pools, activation):
    for i, pool in enumerate(pools):
        x = numpy_convolution(x, p["convs"][i]["kernel"]) + p["convs"][i].get("bias", 0)
        x = numpy_norm(p["norms"][i], x) if "norms" in p else x
        x = numpy_pool(np.maximum(x, 0) if activation == "relu" else 1 / (1 + np.exp(-x)), pool)
    return x.max(axis=(1, 2)) @ p["dense"]["kernel"] + p["dense"]["bias"]


def numpy_resnet(p, x, stages):
    def conv_norm(p, x, stride=1):
        return numpy_norm(p["norm"], numpy_convolution(x, p["conv"]["kernel"], stride))

    x = np.maximum(conv_norm(p["stem"], x), 0)
    for i, (stage, block) in enumerate((stage, block) for stage, count in enumerate(stages) for block in range(count)):
        stride, q = 2 if stage and not block else 1, p["blocks"][i]
        new = q["first"]["conv"]["kernel"].shape[-1] - x.shape[-1]
        skip = np.pad(x[:, ::stride, ::stride], ((0, 0), (0, 0), (0, 0), (new // 2, new - new // 2)))
        skip = conv_norm(q["shortcut"], x, stride) if "shortcut" in q else skip
        x = np.maximum(conv_norm(q["second"], np.maximum(conv_norm(q["first"], x, stride), 0)) + skip, 0)
    return x.mean(axis=(1, 2)) @ p["dense"]["kernel"] + p["dense"]["bias"]


def values_of(module):
    """Return parameters and statistics as nested dictionaries of float64 arrays."""
    state = nnx.state(module, nnx.Any(nnx.Param, nnx.BatchStat))
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), nnx.to_pure_dict(state))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("mcnn", {}),
        ("mcnn_k_sigmoid", {"multiples": (1, 2), "pools": (3, 2)}),
        ("resnet20", {"blocks": (2, 1), "width": 3}),
        ("resnet18", {"blocks": (1, 2)}),
        ("resnet20_ln", {"blocks": (1, 1)}),
    ],
)
def test_evaluation_is_the_definition(name, options):
    with jax.enable_x64(True):
        options = {"width": 2, **options}
        module = drawn(name, dtype=jnp.float64, **options)
        module.eval()
        before = values_of(module)
        x = images(size=10).astype(np.float64)
        logits = run(module, x)
        assert logits.dtype == np.float64
        jax.tree.map(np.testing.assert_array_equal, values_of(module), before)
    options = {**MODELS[name].defaults, **options}
    if "pools" in options:
        expected = numpy_myrtle(before, x, options["pools"], options["activation"])
    else:
        expected = numpy_resnet(before, x, options["blocks"])
    close(logits, expected, 1e-11)


@pytest.mark.parametrize("norm", [False, True])
def test_mlp_is_the_definition(norm):
    module = drawn("mlp", width=3, multiples=(1, 2), norm=norm, image_size=4)
    module.eval()
    p, x = values_of(module), images(size=4)
    hidden = x.reshape(2, -1)
    for i in range(2):
        hidden = hidden @ p["layers"][i]["kernel"] + p["layers"][i].get("bias", 0)
        hidden = np.maximum(numpy_norm(p["norms"][i], hidden) if norm else hidden, 0)
    close(run(module, x), hidden @ p["dense"]["kernel"] + p["dense"]["bias"], 1e-5)
    with pytest.raises(InputError, match="x: got images of 16 x 16, expected 4 x 4"):
        module(images())


def test_training_uses_and_moves_statistics():
    module = drawn("mcnn", width=2, multiples=(1,), pools=(2,))
    before, x = values_of(module), images()
    logits = run(module, x)
    maps = numpy_convolution(x.astype(np.float64), before["convs"][0]["kernel"])
    mean, var = maps.mean(axis=(0, 1, 2)), maps.var(axis=(0, 1, 2))
    norm = before["norms"][0]
    batch = {**before, "norms": {0: {**norm, "mean": mean, "var": var}}}
    close(logits, numpy_myrtle(batch, x, (2,), "relu"), 1e-5)
    after = values_of(module)["norms"][0]
    close(after["mean"], 0.9 * norm["mean"] + 0.1 * mean)
    close(after["var"], 0.9 * norm["var"] + 0.1 * var)


def test_init_draws_the_published_variances():
    module = build("resnet20", width=16, blocks=(1, 1), rngs=nnx.Rngs(0))
    kernels = [leaf for leaf in jax.tree.leaves(values_of(module)) if leaf.ndim == 4 and leaf.size > 2000]
    assert len(kernels) == 4
    for kernel in kernels:
        deviation = np.sqrt(2 / np.prod(kernel.shape[:3]))
        assert abs(kernel.std() / deviation - 1) < 0.06 and abs(kernel.mean()) < 0.1 * deviation
        assert np.abs(kernel).max() < 2.3 * deviation
    assert len({kernel.ravel()[0] for kernel in kernels}) == len(kernels)
    assert not np.any(module.dense.bias[...])


def test_init_depends_on_the_key_alone():
    first, again, other = (
        jax.tree.leaves(values_of(build("mcnn_k", width=2, multiples=(1, 2), pools=(1, 2), rngs=nnx.Rngs(seed))))
        for seed in (0, 0, 1)
    )
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not any(np.array_equal(a, b) for a, b in zip(first, other, strict=True) if a.ndim > 1)


@pytest.mark.parametrize("name", ["mcnn", "resnet18"])
@pytest.mark.few(1)
def test_bfloat16(name):
    options = {"width": 4, **({"blocks": (1, 1)} if name == "resnet18" else {})}
    assert {value.dtype for value in named(name, dtype=jnp.bfloat16, **options).values()} == {jnp.dtype("bfloat16")}
    single, half = drawn(name, **options), drawn(name, dtype=jnp.bfloat16, **options)
    close(run(half, images(4)), run(single, images(4)), 0.05)

    @nnx.jit
    def gradients(module):
        return nnx.grad(lambda module: jax.nn.log_softmax(module(images(4)))[:, 0].mean())(module)

    leaves = jax.tree.leaves((gradients(half), nnx.state(half, nnx.BatchStat), run(half, images(4))))
    assert {leaf.dtype for leaf in leaves} == {jnp.dtype("float32")}
    assert all(np.isfinite(leaf).all() for leaf in leaves)


# --- registry ---


def test_a_new_model_is_one_decorator():
    @register({"dense": {"width": 3}, "dense_wide": {"width": 5}})
    class Tiny(nnx.Module):
        def __init__(self, *, width=4, channels=3, classes=10, rngs):
            self.dense = nnx.Linear(channels, classes, rngs=rngs)
            self.width = width

    try:
        assert MODELS["dense"].build is Tiny
        assert MODELS["dense_wide"].defaults == {"width": 5, "channels": 3, "classes": 10}
        assert build("dense", rngs=nnx.Rngs(0), image_size=9, channels=1).dense.kernel.shape == (1, 10)
        with pytest.raises(ValueError, match="dense is already registered"):
            register({"dense": {}})(Tiny)
        with pytest.raises(ValueError, match="Tiny has no option depth"):
            register({"tinier": {"depth": 3}})(Tiny)
        assert "tinier" not in MODELS
    finally:
        del MODELS["dense"], MODELS["dense_wide"]


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("resnet21", {}, ("resnet21", "resnet20", "mcnn")),
        ("mcnn", {"shortcut": "pad"}, ("shortcut", "mcnn", "pools")),
        ("mcnn", {"width": 0}, ("width", "0")),
        ("mcnn", {"channels": 0}, ("channels",)),
        ("mcnn", {"classes": -1}, ("classes", "-1")),
        ("mcnn", {"pools": (1, 2)}, ("pools", "2", "4 convolutions")),
        ("mcnn", {"multiples": (0,)}, ("multiples", "0")),
        ("mcnn", {"activation": "gelu"}, ("activation", "gelu", "relu, sigmoid")),
        ("resnet20", {"shortcut": "skip"}, ("shortcut", "pad, projection")),
        ("resnet20", {"blocks": ()}, ("blocks",)),
    ],
)
def test_wrong_options(name, options, words):
    with pytest.raises(InputError) as error:
        build(name, rngs=nnx.Rngs(0), **options)
    assert all(word in str(error.value) for word in words)


def test_wrong_images():
    graph, state = abstract("mcnn", width=2)
    for shape, words in [
        ((16, 16, 3), r"got float32\[16, 16, 3\], expected images \(examples, height, width, 3\)"),
        ((2, 16, 16, 1), "expected images"),
        ((2, 4, 4, 3), "got maps of 1 x 1 after convolution 4, expected larger images"),
    ]:
        with pytest.raises(InputError, match=words):
            jax.eval_shape(lambda s, x: nnx.merge(graph, s)(x), state, jax.ShapeDtypeStruct(shape, jnp.float32))
    assert isinstance(nnx.merge(graph, state), Myrtle)
