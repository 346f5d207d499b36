# %% [markdown]
# # CCA and SVCCA from zero
#
# This tutorial follows the three notebooks of [google/svcca](https://github.com/google/svcca/tree/master/tutorials),
# the code of Raghu et al. 2017 and Morcos et al. 2018, with symjax. Where those notebooks print a number, it is
# printed beside ours. Part 1 is their notebook 001, part 2 is 002, part 3 is 003.
#
# ## 1. Canonical correlations
#
# Feed \(n\) examples to a network. A neuron is the vector of its \(n\) activations, and a layer of \(d\) neurons is a
# matrix \(X\) of shape \((n, d)\). Let \(X\) and \(Y\) be two layers, centered over the examples. Canonical correlation
# analysis (CCA) finds the linear combinations of both that correlate most:
#
# \[
# \rho_i = \max_{a, b} \frac{\langle X a, Y b \rangle}{\lVert X a \rVert \, \lVert Y b \rVert},
# \]
#
# among combinations that are uncorrelated with the ones before. With orthonormal bases \(Q_x\) and \(Q_y\) of the
# column spaces, the \(\rho_i\) are the singular values of \(Q_x^\top Q_y\). They do not change if \(X\) is replaced by
# \(X A\) with an invertible \(A\).
#
# ### A toy example
#
# Two independent layers of 100 and 50 neurons on 2,000 examples should not be similar.

# %%
import warnings

import jax
import matplotlib.pyplot as plt
import numpy as np
from flax import nnx
from sklearn.datasets import load_digits

import symjax

rng = np.random.default_rng(0)
a, b = rng.standard_normal((2000, 100)), rng.standard_normal((2000, 50))
result = symjax.cca(a, b)
print(f"{len(result.correlations)} correlations, mean {symjax.mean_correlation(result):.4f} (published: 0.2074)")

transformed = a @ rng.standard_normal((100, 100))
print(f"after an invertible map: mean {symjax.cca_similarity(a, transformed):.4f} (published: 1.0000)")

# %% [markdown]
# The draws differ from those of the notebook, which are not seeded; the means agree to about 0.003.
#
# ### How many examples?
#
# The correlations of independent layers are not zero: with few examples, some linear combination always fits.

# %%
sizes = [101, 300, 1000, 10000]
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    means = [symjax.cca_similarity(*rng.standard_normal((2, n, 100))) for n in sizes]
print("warning for", sizes[0], "examples:", str(caught[0].message)[:70], "...")

fig, ax = plt.subplots(figsize=(5, 3))
ax.semilogx(sizes, means, marker="o")
ax.set(xlabel="examples", ylabel="mean correlation", title="Independent layers of 100 neurons", ylim=(0, 1.05))

# %% [markdown]
# Take at least five to ten times as many examples as neurons, and compare with a baseline of independent data of the
# same shape. If correlations are 1 for any data, symjax warns; `symjax.diagnose` reports this beforehand.
#
# ### Two trained networks
#
# The notebook compares two networks on MNIST whose activations are in its repository. Here two small convolutional
# networks are trained on scikit-learn's digits, from two seeds.


# %%
class CNN(nnx.Module):
    def __init__(self, rngs):
        self.conv1 = nnx.Conv(1, 16, (3, 3), rngs=rngs)
        self.conv2 = nnx.Conv(16, 32, (3, 3), strides=2, rngs=rngs)
        self.dense = nnx.Linear(512, 128, rngs=rngs)
        self.head = nnx.Linear(128, 10, rngs=rngs)

    def __call__(self, x):
        x = symjax.stitch_point(nnx.relu(self.conv1(x)), "conv1")
        x = symjax.stitch_point(nnx.relu(self.conv2(x)), "conv2")
        x = symjax.stitch_point(nnx.relu(self.dense(x.reshape(len(x), -1))), "hidden")
        return self.head(x)


images, labels = load_digits(return_X_y=True)
images = np.float32(images.reshape(-1, 8, 8, 1) / 16)
data = {"x_train": images[:1000], "y_train": labels[:1000], "x_test": images[1000:], "y_test": labels[1000:]}
net = symjax.Network.from_nnx(CNN, example=images[:1])
zoo = symjax.zoo.train(net, {**data, "normalize": False}, seeds=2, epochs=8, progress=False)
members = [zoo.member(seed) for seed in (0, 1)]
features = [net.features(member, images) for member in members]
print({name: value.shape for name, value in features[0].items()})

# %% [markdown]
# The mean of all correlations understates what two layers share, since most directions of a layer carry little
# variance. Three summaries give them less weight: the mean of the largest 20 correlations; SVCCA, which keeps the
# leading principal directions of each layer first; and PWCCA, the mean weighted by
# \(\alpha_i = \sum_j |\langle h_i, x_j \rangle|\), with canonical variates \(h_i\) and neurons \(x_j\).


# %%
def leading(x, k):
    """The k leading principal components; `symjax.pca` has all of them."""
    x = x - x.mean(0)
    return x @ np.linalg.eigh(x.T @ x)[1][:, -k:]


def summaries(x, y):
    result = symjax.cca(x, y)
    correlations = result.correlations
    variates = (x - result.x_mean) @ result.x_directions
    weights = abs(variates.T @ (x - result.x_mean)).sum(1)
    return {
        "mean": correlations.mean(),
        "mean of the top 20": correlations[:20].mean(),
        "SVCCA, 20 directions": symjax.cca_similarity(leading(x, 20), leading(y, 20)),
        "PWCCA": (weights * correlations).sum() / weights.sum(),
    }


pair = summaries(*(f["hidden"] for f in features))
noise = summaries(*rng.standard_normal((2, 10000, 500), dtype=np.float32))
published = {"mean": (0.407, 0.191), "mean of the top 20": (0.958, 0.411)}
published |= {"SVCCA, 20 directions": (0.733, 0.035), "PWCCA": (0.715, 0.192)}
print(f"{'':22}   digits    MNIST    noise      noise")
print(f"{'':22}     ours    publ.     ours      publ.")
for name in pair:
    print(f"{name:22}{pair[name]:9.3f}{published[name][0]:9.3f}{noise[name]:9.3f}{published[name][1]:11.3f}")

# %% [markdown]
# The columns of noise are the same experiment: independent Gaussian layers of 500 neurons on 10,000 examples. The other
# two columns are different networks on different data, so that only the pattern can be compared: all three summaries
# separate trained networks from noise better than the plain mean does.
#
# Two details of the notebook depart from the definitions, see
# [faults of published implementations](../published-faults.md): its PWCCA takes directions of the whitened data for
# canonical variates, and it calls \(\sum_{i \le 20} s_i / \sum_i s_i\) a share of variance, which is
# \(\sum_{i \le 20} s_i^2 / \sum_i s_i^2\).

# %%
singular = np.linalg.svd(features[0]["hidden"] - features[0]["hidden"].mean(0), compute_uv=False)
print(f"20 of {len(singular)} directions: {(singular[:20] ** 2).sum() / (singular**2).sum():.3f} of the variance")
print(f"symjax.pwcca: {symjax.pwcca(*(f['hidden'] for f in features)):.3f}")
similarity, kept = symjax.svcca(*(f["hidden"] for f in features), variance=0.99, full_output=True)
print(f"SVCCA with 99 % of the variance: {similarity:.3f}, from {kept.x_rank} and {kept.y_rank} directions")

# %% [markdown]
# ## 2. Convolutional layers
#
# A convolutional layer has the shape (examples, height, width, channels). The channels are compared; the option
# `samples` says what becomes of the pixels.

# %%
first, second = (f["conv1"] for f in features)
for samples in ("positions", "pool"):
    print(f"conv1, samples={samples!r}: {symjax.cca_similarity(first, second, samples=samples):.3f}")

# %% [markdown]
# - `"positions"`, the default: each pixel is an example, with the patch of the image around it as input. Both layers
#   need maps of one size.
# - `"pool"`: the mean of each channel over its map. Maps may differ in size.
# - Fourier CCA (Raghu et al. 2017, supplement): CCA of the channels at each spatial frequency, then the mean over
#   frequencies. Maps may differ in size; the common frequencies are compared.

# %%
other = features[1]["conv2"]
print("shapes", first.shape, other.shape)
print(f"conv1 and conv2, pooled: {symjax.cca_similarity(first, other, samples='pool'):.3f}")
print(f"conv1 and conv2, Fourier CCA: {symjax.fourier_cca_similarity(first, other):.3f}")

# %% [markdown]
# ## 3. PLS, PCA, and compression
#
# CCA does not depend on the size of activations. Partial least squares (PLS) does: it maximizes the covariance
# \(\langle X a, Y b \rangle\) over unit vectors \(a\) and \(b\). Principal component analysis (PCA) uses one layer
# alone.
#
# Each of the three yields directions of a layer. Notebook 003 asks how many of them the network needs: project the
# activations of a layer onto the first \(k\) directions, and run the rest of the network on them.

# %%
train, test = slice(0, 1000), slice(1000, None)
x, y = (np.asarray(f["hidden"]) for f in features)
directions = {
    "CCA": symjax.cca(x[train], y[train]).x_directions,
    "PLS": symjax.pls(x[train], y[train]).x_directions,
    "PCA": symjax.pca(x[train]).components,
}
mean, ranks = x[train].mean(0), [1, 2, 4, 8, 16, 32, 64]


@jax.jit
def tail(hidden):
    return net.tail(members[0], (hidden,), "hidden").argmax(-1)


fig, ax = plt.subplots(figsize=(5, 3))
for name, columns in directions.items():
    accuracy = []
    for k in ranks:
        basis, _ = np.linalg.qr(np.asarray(columns)[:, :k])
        projected = mean + (x[test] - mean) @ basis @ basis.T
        accuracy.append(100 * float(np.mean(tail(projected) == labels[test])))
    print(name, [round(value, 1) for value in accuracy])
    ax.semilogx(ranks, accuracy, marker="o", base=2, label=name)
ax.set(xlabel="directions kept, of 128", ylabel="accuracy (%)")
ax.legend()

# %% [markdown]
# The notebook has no figures here; it reports that PLS performed best in its case. Directions are computed from
# training examples and accuracy from others.
#
# ## Where to go on
#
# - [CKA and its bias](cka.py), the other family of measures.
# - [Open questions of the tutorials](open_questions.py), and how to work on them.
# - [Compare many layers](../how-to/compare.py) of many networks at once, and put [error bars](../how-to/error-bars.py)
#   on a value.
# - [Data that come in batches](../how-to/streams.py).
