# %% [markdown]
# # Compare many layers
#
# `symjax.pairwise` compares all layers of all networks. For two networks, `symjax.compare` returns a table, with
# intervals and p-values if requested ([two networks](../similarity.md#two-networks)).
#
# Representations are a mapping from the name of a layer to an array (networks, examples, ...), or, for networks of
# different layers or widths, a mapping from networks to mappings from layers to arrays (examples, ...).

# %%
import matplotlib.pyplot as plt
import numpy as np

import symjax

rng = np.random.default_rng(0)
signal = rng.standard_normal((300, 10))
layers = {}
for depth, noise in enumerate((0.3, 1.0, 3.0), 1):
    mixing = rng.standard_normal((4, 10, 24))  # of each of four networks
    features = np.einsum("nk,mkd->mnd", signal, mixing) + noise * rng.standard_normal((4, 300, 24))
    layers[f"relu{depth}"] = np.maximum(features, 0).astype(np.float32)

similarity = symjax.pairwise(layers, "cka")
print(similarity.values.shape, "layers, networks, layers, networks")
print(similarity.to_frame().head(4).to_string(index=False))

# %% [markdown]
# `select` returns the table of networks by networks for two layers. Values of pairs that share a network are not
# independent; `symjax.mean_over_pairs` leaves out one network at a time for its standard error.

# %%
for name in layers:
    values = similarity.select(layer_a=name, layer_b=name)
    pairs = [(i, j) for i in range(4) for j in range(i)]
    mean = symjax.mean_over_pairs(np.array([values[i, j] for i, j in pairs]), pairs)
    print(f"{name}: {mean.estimate:.3f} ± {mean.standard_error:.3f}")

fig, ax = plt.subplots(figsize=(4, 3.4))
picture = ax.imshow(similarity.values[:, 0, :, 1], vmin=0, vmax=1)
ax.set(xticks=range(3), yticks=range(3), xticklabels=layers, yticklabels=layers)
ax.set(xlabel="network 1", ylabel="network 0")
fig.colorbar(picture, label="CKA")

# %% [markdown]
# - `layers="same"` compares equal layers only, `pairs=[(0, 1), (2, 3)]` these pairs of networks only. Other values are
#   NaN, and `similarity.computed` is False there.
# - `against=` takes a second set of representations.
# - `memory=` bounds the memory on each device in bytes; [what it costs](../cost.md#memory-of-pairwise) has the details.
# - For a zoo, `symjax.representations.representations` returns such a mapping, and `python -m experiments.align`
#   does all of this in one command.
