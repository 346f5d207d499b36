"""Centered kernel alignment (Kornblith et al. 2019): the cosine of the angle between two centered kernel matrices."""

import math
from functools import partial

import jax

from symjax.checks import one_of
from symjax.errors import InputError
from symjax.similarity.angles import angle, arccos, cosine, ratio
from symjax.similarity.channels import pad_to_common_width, subtract_ninther, unit_norm, zero_if_equal
from symjax.similarity.cka_split import split, standardized
from symjax.similarity.hsic import center_kernel, check_estimator, hsic_of_features
from symjax.similarity.inputs import as_pair, paired_representations
from symjax.similarity.kernels import check_kernel, kernel_of
from symjax.similarity.measure import ORTHOGONAL, Measure

FORMS = ("auto", "gram", "features")


def cka(
    x, y, estimator="song", kernel="linear", *, bandwidth=1.0, samples="flatten", layout=None, mask=None, form="auto"
):
    """Compute the centered kernel alignment, CKA(x, y) = HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L)).

    K and L are the kernel matrices of the examples of x and of y.

    Args:
        x, y: (n, p) and (n, q), or maps (n, h, w, c) whose sizes and channels may differ; floating (integers become the
            default float, half precisions float32).
        estimator: estimator of HSIC (see `hsic`). "song" is unbiased and near 0 for independent data. "gretton" is
            biased, as in Kornblith et al.: about p / (n + p) for independent standard normal data with p = q. "lange"
            is biased less: p / (n^2 + p). With n = 50 and p = q = 5000 they give -.03, .99 and .66.
        kernel: "linear", K = X X'; or "rbf", K_ij = exp(-|x_i - x_j|^2 / (2 s^2)), where s^2 is `bandwidth`^2 times the
            median of |x_i - x_j|^2 over all pairs of different examples, for x and y separately. Distances are computed
            from inner products. Where these would lose the digits, as for examples in distant clusters, they are
            computed from differences: n^2 (p + q) operations outside of matrix products.
        bandwidth: positive number; Kornblith et al. use 0.2, 0.4 and 0.8.
        samples: how tokens and maps become matrices: "flatten" (as published), "positions" (each token or pixel is a
            sample), "pool" (the mean over them), "first" or "last" (one of them); see `as_matrix`.
        layout: "nhwc" or "nchw", for maps; None means "nhwc", with a `LayoutWarning` if "nchw" seems likely.
        mask: which tokens or pixels count, (n, t) or (n, h, w), true or 1; all by default. See `as_matrix`.
        form: "gram" takes n^2 (p + q) operations and n^2 memory; "features" takes n (p^2 + p q + q^2) operations and
            supports the linear kernel only. Both give the same value. "auto" takes the cheaper one.

    Returns:
        0-d array in [-1, 1] ([0, 1] for "gretton"); negative values are valid estimates of small ones. NaN where all
        examples of x or of y are equal; for "rbf" where half of the pairs are equal; for "song" with "rbf" where only
        one example differs from the others, since U-centering makes such kernels 0. Symmetric. Invariant to
        translation, isotropic scaling and orthogonal transformations.

    Raises:
        InputError: wrong shapes, dtypes or numbers of examples; fewer than 4 examples for "song" and "lange"; an
            unknown option; a bandwidth that is not positive; concrete NaN or infinite entries.

    Reference: Kornblith et al. 2019, equation 4; for the estimators see `hsic`.

    Example:
        >>> import numpy as np
        >>> from symjax import cka
        >>> x = np.random.default_rng(0).normal(size=(16, 4))
        >>> print(f"{cka(x, 3 * x[:, ::-1] + 1):.3f}")  # permuted, scaled and translated
        1.000
    """
    return _cka(*_check_arguments(x, y, estimator, kernel, bandwidth, samples, layout, mask, form))


def cka_distance(
    x, y, estimator="song", kernel="linear", *, bandwidth=1.0, samples="flatten", layout=None, mask=None, form="auto"
):
    """Compute arccos(CKA(x, y)), the angle between the centered kernel matrices.

    A metric on centered kernel matrices up to scaling, for every estimator, since each is an inner product.

    Args, Raises and invariances: as for `cka`.

    Returns:
        0-d array in [0, pi] ([0, pi / 2] for "gretton"), 0 for equal arrays. Accurate near 0 in the Gram form. The form
        of features has an error up to the root of the rounding error there, 5e-4 in float32.

    Reference: Williams et al. 2021, supplement.

    Example:
        >>> import numpy as np
        >>> from symjax import cka_distance
        >>> x = np.random.default_rng(0).normal(size=(16, 4))
        >>> print(f"{cka_distance(x, x):.3f}")
        0.000
    """
    return _cka(*_check_arguments(x, y, estimator, kernel, bandwidth, samples, layout, mask, form), as_angle=True)


def channel_normalized_cka(x, y, estimator="song", *, layout=None, form="auto"):
    """Compute linear CKA after centering each channel and scaling it to unit norm.

    Means and norms are over examples and pixels, before flattening.

    Godfrey et al. 2022 publish it as "orthogonal CKA". Normalization makes it invariant to positive diagonal matrices,
    but it loses the invariance of `cka` to orthogonal matrices.

    Args:
        x, y: (n, p) and (n, q), or maps (n, h, w, c) whose sizes and channels may differ.
        estimator, layout, form: as in `cka`.

    Returns:
        0-d array in [-1, 1]. Constant channels are ignored; NaN where all are constant. Symmetric. Invariant to
        translation, isotropic and positive diagonal scaling, permutations and sign flips.

    Raises:
        InputError: as `cka`.

    Reference: Godfrey et al. 2022.

    Example:
        >>> import numpy as np
        >>> from symjax import channel_normalized_cka
        >>> x = np.random.default_rng(0).normal(size=(16, 4))
        >>> print(f"{channel_normalized_cka(x, x * np.arange(1, 5)):.3f}")
        1.000
    """
    x, y = (standardized(z) for z in paired_representations(x, y, layout=layout, translation_invariant=True))
    return _cka(*_check_arguments(x, y, estimator, "linear", 1.0, "flatten", "nhwc", None, form))


def _check_arguments(x, y, estimator, kernel, bandwidth, samples, layout, mask, form):
    """Check the arguments of `cka` and return those of `_cka`."""
    x, y = as_pair(x, y, samples, mask, layout=layout, translation_invariant=True)
    check_estimator(estimator, len(x))
    check_kernel(kernel, bandwidth)
    one_of("form", form, FORMS)
    bandwidth = float(bandwidth) if isinstance(bandwidth, int) else bandwidth  # JAX rejects integers from 2**31 on
    if kernel == "rbf" and form == "features":
        raise InputError("form: got 'features', expected 'gram' or 'auto' for the kernel 'rbf'")
    form = cheaper_form(x, y, kernel) if form == "auto" else form
    return *pad_to_common_width(x, y), bandwidth, estimator, kernel, form


def cheaper_form(x, y, kernel):
    (n, p), q = x.shape, y.shape[1]
    return "gram" if kernel == "rbf" or n * (p + q) <= p * p + p * q + q * q else "features"


@partial(jax.jit, static_argnames=("estimator", "kernel", "form", "as_angle"))
def _cka(x, y, bandwidth, estimator, kernel, form, as_angle=False):
    # At unit norm, fourth powers neither overflow nor vanish.
    (x, _), (y, _) = unit_norm(subtract_ninther(x)), unit_norm(subtract_ninther(y))
    if form == "features":
        similarity = ratio(*hsic_of_features(x, y, estimator))
        return zero_if_equal(arccos(similarity), x, y) if as_angle else similarity
    kernels = (center_kernel(kernel_of(z, kernel, bandwidth), estimator) for z in (x, y))
    return (angle if as_angle else cosine)(*kernels)


_INVARIANT = ORTHOGONAL | {"translation", "isotropic_scaling", "cyclic_shift"}
_OF_CHANNELS = frozenset(
    {"translation", "isotropic_scaling", "permutation", "positive_diagonal", "sign_flip", "cyclic_shift"}
)
_KORNBLITH = "Kornblith et al. 2019, equation 4"


def _similarity(name, fn, reference, least=-1.0, invariances=_INVARIANT, split=split, title="", **notes):
    more = {"zero_channels": True, "title": title, **notes}
    return Measure(
        name=name,
        fn=fn,
        reference=reference,
        range=(least, 1.0),
        kind="similarity",
        symmetric=True,
        invariances=invariances,
        split=split,
        **more,
    )


def _biased(name, reference, least, bias):
    notes = {"bias": f"{bias} for independent normal data with p = q", "use": "comparison with published values"}
    fn, parts = (partial(function, estimator=name) for function in (cka, split))
    return _similarity(f"cka_{name}", fn, reference, least, split=parts, **notes)


_NOTES = {
    "cost": "n^2 p once, n^2 a pair; or n p^2 and n p q",
    "bias": "none: about 0 for independent data",
    "use": "similarity of all distances between examples; the first choice for any widths",
}

MEASURES = (
    _similarity("cka", cka, f"{_KORNBLITH}; Song et al. 2012, equation 5", title="CKA", **_NOTES),
    _biased("gretton", _KORNBLITH, 0.0, "about p / (n + p)"),
    _biased("lange", f"{_KORNBLITH}; Lange et al. 2023", -1.0, "about p / (n^2 + p)"),
    _similarity(
        "cka_rbf",
        partial(cka, kernel="rbf"),
        f"{_KORNBLITH}; Song et al. 2012, equation 5",
        split=partial(split, kernel="rbf"),
        use="as cka, with more weight on close examples",
    ),
    _similarity(
        "channel_normalized_cka",
        channel_normalized_cka,
        "Godfrey et al. 2022",
        invariances=_OF_CHANNELS,
        split=partial(split, normalized=True),
        title="CKA, channels normalized",
        use="as cka, where channels have arbitrary scales, as after ReLU",
    ),
    Measure(
        name="cka_distance",
        fn=cka_distance,
        reference="Williams et al. 2021, supplement",
        range=(0.0, math.pi),
        kind="distance",
        symmetric=True,
        invariances=_INVARIANT,
        split=partial(split, as_angle=True),
        zero_channels=True,
    ),
)
