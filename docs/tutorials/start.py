# %% [markdown]
# # Start in five minutes
#
# Install symjax with Python 3.11 or newer, from a checkout of the repository. No GPU is needed.
#
# ```sh
# pip install -r requirements.txt
# ```
#
# On a GPU machine install `jax[cuda12]` or `jax[cuda13]` first.
#
# ## 1. Compare two representations
#
# A representation is an array with the examples first and the channels last. Here are two: noisy copies of each
# other, up to a permutation and a positive scaling of the channels.

# %%
import jax
import numpy as np

import symjax

rng = np.random.default_rng(0)
x = np.maximum(rng.standard_normal((200, 4, 4, 20)), 0).astype(np.float32)  # (examples, height, width, channels)
y = x[..., rng.permutation(20)] * np.exp(rng.standard_normal(20)) + 0.3 * rng.standard_normal(x.shape)
y = np.maximum(y, 0).astype(np.float32)

for name in ("cka", "procrustes", "wreath_procrustes", "svcca"):
    print(f"{name:18} {getattr(symjax, name)(x, y):.3f}")

# %% [markdown]
# Measures whose name begins with `wreath` ignore permutations and positive scalings of the channels, the symmetries of
# ReLU. The CCA family ignores every invertible linear map. The
# [reference](../reference/symjax.similarity.md) states for each measure its range and its invariances;
# `symjax.similarity.MEASURES` holds the same as data.
#
# ## 2. Check the data first

# %%
print(symjax.diagnose(x))

# %% [markdown]
# ## 3. Train a zoo and stitch its members
#
# This command trains four small convolutional networks on scikit-learn's digits, stitches the front of one to the tail
# of another at every layer, and writes tables and figures to `runs/stitch/`. It takes one to two minutes on two cores.
#
# ```sh
# python -m experiments.stitch
# ```
#
# ![Stitching penalties on digits](../images/digits-penalties.png)
#
# The figure shows how many percentage points of accuracy each family of stitches loses. A free matrix (`full`) costs
# almost nothing, rank 1 fails in deep layers, and permutations with scalings (`birkhoff`) lie between.
#
# ## 4. Use the projection onto the Birkhoff polytope

# %%
matrix = jax.random.normal(jax.random.key(0), (64, 64))
nearest, info = symjax.projection_birkhoff(matrix, full_output=True)  # the nearest doubly stochastic matrix
print("row sums", float(nearest.sum(1).min()), "to", float(nearest.sum(1).max()))
print("converged", bool(info.converged), "residual", float(info.residual))

# %% [markdown]
# ## Next
#
# - [Stitch your own network](stitching.py): a Flax model of your own, in about twenty lines.
# - [CCA and SVCCA from zero](cca.py) and [CKA and its bias](cka.py): what the measures compute.
# - [Every experiment](../experiments.md): one command each.
