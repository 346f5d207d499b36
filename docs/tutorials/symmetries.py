# %% [markdown]
# # The symmetries of your network
#
# Different weights can be the same function. If the neurons of a hidden layer are permuted, and the rows and columns of
# the weights around it accordingly, nothing changes at the output. With ReLU, a neuron can also be scaled by \(s > 0\)
# if the next layer divides by \(s\). This tutorial finds these symmetries, acts with them, and shows which measures of
# similarity ignore them.

# %%
import jax
import matplotlib.pyplot as plt
import numpy as np

import symjax
from symjax.groups import INTERTWINERS, is_intertwiner


def init(key, sizes=(6, 16, 16, 3)):
    keys = jax.random.split(key, len(sizes))
    return [
        {"kernel": jax.random.normal(k, (i, o)) / np.sqrt(i), "bias": 0.1 * jax.random.normal(k, (o,))}
        for k, i, o in zip(keys, sizes[:-1], sizes[1:], strict=False)
    ]


def mlp(layers, x):
    for i, layer in enumerate(layers[:-1]):
        x = symjax.stitch_point(jax.nn.relu(x @ layer["kernel"] + layer["bias"]), f"relu{i + 1}")
    return x @ layers[-1]["kernel"] + layers[-1]["bias"]


x = jax.random.normal(jax.random.key(0), (200, 6))
net = symjax.Network.from_function(mlp, init=init, example=x[:1])
member = net.init(jax.random.key(1))

# %% [markdown]
# ## Find them
#
# `Network.symmetry` reads the network's jaxpr, the list of operations that JAX has traced, so that layers need no
# declarations. Every group that it reports has been verified by acting with it.

# %%
symmetry = net.symmetry(member, x)
print(symmetry)

# %% [markdown]
# ## Act with them
#
# An element has a matrix for each space of channels. It changes the weights, but not the output.

# %%
element = symmetry.sample(jax.random.key(2))
other = symmetry.act(member, element)
before, after = net.features(member, x), net.features(other, x)
print("largest change of the output  ", float(abs(net.apply(other, x) - net.apply(member, x)).max()))
print("largest change of the features", float(abs(after["relu1"] - before["relu1"]).max()))
predicted = before["relu1"] @ symmetry.at("relu1", element).T
print("the matrix explains the change", bool(np.allclose(predicted, after["relu1"], atol=1e-4)))

# %% [markdown]
# A network and its image under a symmetry compute the same function, so a measure of similarity that respects the
# symmetries of ReLU has to be 1 between their layers.

# %%
names = ("wreath_procrustes", "cca_similarity", "procrustes", "cka")
values = [float(getattr(symjax, name)(before["relu1"], after["relu1"])) for name in names]
for name, value in zip(names, values, strict=True):
    print(f"{name:18} {value:.3f}")
fig, ax = plt.subplots(figsize=(5.5, 2.6))
ax.barh(names[::-1], values[::-1])
ax.set(xlabel="similarity of relu1 before and after", xlim=(0, 1))

# %% [markdown]
# G_ReLU-Procrustes and CCA are 1. Procrustes and CKA are not, since they depend on the scalings. On two generated data
# sets the published implementation of G_ReLU-Procrustes has printed these values:

# %%
for seed, n, h, c, published in ((101, 32, 8, 6, 0.66139270), (111, 48, 4, 16, 0.74588501)):
    draws = np.random.default_rng(seed + 2)
    first, noise = (
        np.maximum(np.random.default_rng(s).standard_normal((n, h, h, c)), 0).astype(np.float32)
        for s in (seed, seed + 1)
    )
    permutation, scaling = draws.permutation(c), np.exp(draws.standard_normal(c)).astype(np.float32)
    second = 0.7 * first[..., permutation] * scaling + 0.3 * noise
    print(f"{first.shape!s:15} ours {symjax.wreath_procrustes(first, second):.6f}   published {published:.6f}")

# %% [markdown]
# ## Which matrices pass through an activation
#
# Permutations and positive scalings are the *intertwiner group* of ReLU: the matrices \(A\) for which there is a \(B\)
# with \(\sigma(A z) = B \sigma(z)\) for all \(z\). Other activations have other groups.

# %%
matrices = {
    "permutation": np.eye(4)[[1, 2, 3, 0]],
    "positive scaling": np.diag([1.0, 2.0, 3.0, 4.0]),
    "sign flip": np.diag([1.0, -1.0, 1.0, 1.0]),
    "rotation": np.linalg.qr(np.random.default_rng(0).standard_normal((4, 4)))[0],
}
print(f"{'':12}" + "".join(f"{name:>17}" for name in matrices))
for name in ("relu", "leaky_relu", "sigmoid", "gelu", "power2", "rbf"):
    row = INTERTWINERS[name]
    verdicts = (is_intertwiner(row.activation, matrix).verdict for matrix in matrices.values())
    print(f"{name:12}" + "".join(f"{verdict!s:>17}" for verdict in verdicts) + f"   {row.group.name}")

# %% [markdown]
# ## Where to go on
#
# - [Symmetries of any JAX function](../discovery.md): attention heads, residual streams, batch norm; the method and its
#   limits.
# - [Intertwiner groups](../concepts/intertwiner-groups.md) and [G_ReLU](../concepts/g-relu.md).
# - `python -m experiments.symmetry` does this with every network of a zoo, and stitches each to its image.
