# %% [markdown]
# # CKA and its bias
#
# Centered kernel alignment (Kornblith et al. 2019) compares two layers through the similarities of their examples. With
# kernel matrices \(K = X X^\top\) and \(L = Y Y^\top\), of shape \((n, n)\),
#
# \[
# \mathrm{CKA}(X, Y) = \frac{\mathrm{HSIC}(K, L)}{\sqrt{\mathrm{HSIC}(K, K) \, \mathrm{HSIC}(L, L)}} .
# \]
#
# It is invariant to translations, to orthogonal maps, and to one common scaling of the channels. It is not invariant to
# other invertible maps.

# %%
import json

import matplotlib.pyplot as plt
import numpy as np

import symjax

rng = np.random.default_rng(0)
x = rng.standard_normal((400, 20)) * np.arange(1, 21)
rotation, _ = np.linalg.qr(rng.standard_normal((20, 20)))
stretch = np.exp(rng.standard_normal(20))
for name, y in {"rotated": x @ rotation, "times 3": 3 * x, "channels rescaled": x * stretch}.items():
    print(f"{name:18} CKA {symjax.cka(x, y):.3f}   CCA {symjax.cca_similarity(x, y):.3f}")

# %% [markdown]
# ## Three estimators of HSIC
#
# HSIC measures dependence: it is zero for independent layers. It has to be estimated from \(n\) examples, and the
# estimators differ when there are many channels and few examples.
#
# - `"gretton"`: \(\frac{1}{(n-1)^2} \operatorname{tr}(K H L H)\) with the centering matrix \(H\). This is the published
#   form, and it is biased.
# - `"song"`: unbiased (Song et al. 2012). With \(\tilde K\) and \(\tilde L\) for kernel matrices whose diagonals are
#   set to zero,
#
# \[
# \mathrm{HSIC}_1 = \frac{1}{n (n - 3)} \left[ \operatorname{tr}(\tilde K \tilde L)
# + \frac{\mathbf 1^\top \tilde K \mathbf 1 \; \mathbf 1^\top \tilde L \mathbf 1}{(n - 1)(n - 2)}
# - \frac{2}{n - 2} \mathbf 1^\top \tilde K \tilde L \mathbf 1 \right].
# \]
#
# - `"lange"`: the diagonals are set to zero after centering. It is found in published code, and is biased, too.
#
# Independent Gaussian layers have nothing in common, whatever their width:

# %%
n, widths = 50, [5, 50, 500, 5000]
layers = [rng.standard_normal((2, n, width)).astype(np.float32) for width in widths]
fig, ax = plt.subplots(figsize=(5.5, 3.2))
for estimator in ("gretton", "lange", "song"):
    values = [float(symjax.cka(*pair, estimator=estimator)) for pair in layers]
    print(f"{estimator:8}", [round(value, 2) for value in values])
    ax.semilogx(widths, values, marker="o", label=estimator)
ax.axhline(0, color="gray", linewidth=0.8)
ax.set(xlabel="channels", ylabel="CKA", title=f"Independent layers, {n} examples")
ax.legend()

# %% [markdown]
# With more channels than examples, the biased estimator approaches 1: the diagonal of \(K\) outweighs everything else.
# A flattened convolutional layer has thousands of channels, so this is the ordinary case. The default of symjax is
# `"song"`.
#
# ## Negative values
#
# An unbiased estimate of zero is sometimes negative. Such values are correct; setting them to zero brings the bias
# back into every average.

# %%
values = np.array([symjax.cka(*rng.standard_normal((2, n, 500)).astype(np.float32)) for _ in range(40)])
print(f"mean {values.mean():+.4f}, standard error {values.std(ddof=1) / np.sqrt(len(values)):.4f}")
print(f"mean with negative values set to zero {np.maximum(values, 0).mean():+.4f}")

# %% [markdown]
# ## "Orthogonal CKA" as published, and the form for G_ReLU
#
# Godfrey et al. 2022 normalize every channel before they compute CKA. The result is not invariant to rotations, so
# symjax has it under another name, `channel_normalized_cka`. Their G_ReLU-CKA replaces the kernel by
# \(K_{ij} = \max_c \langle H_i^c, H_j^c \rangle\), with channels \(H^c\) centered and of unit norm; here it is
# `wreath_cka`. It is invariant to permutations and positive scalings of the channels.
#
# These are the values of the published implementation on two generated data sets, beside ours:

# %%
cases = json.loads("""[
  {"seed": 101, "n": 32, "h": 8, "c": 6, "wreath_cka": 0.34759133, "channel_normalized_cka": 0.50059474},
  {"seed": 111, "n": 48, "h": 4, "c": 16, "wreath_cka": 0.56527459, "channel_normalized_cka": 0.69154316}
]""")


def generated(seed, n, h, c):
    def activations(seed):
        return np.maximum(np.random.default_rng(seed).standard_normal((n, h, h, c)), 0).astype(np.float32)

    draws = np.random.default_rng(seed + 2)
    permutation = draws.permutation(c)
    scaling = np.exp(draws.standard_normal(c)).astype(np.float32)
    x = activations(seed)
    return x, 0.7 * x[..., permutation] * scaling + 0.3 * activations(seed + 1)


for case in cases:
    x, y = generated(*(case[key] for key in ("seed", "n", "h", "c")))
    for name in ("wreath_cka", "channel_normalized_cka"):
        print(f"{x.shape!s:15} {name:23} ours {getattr(symjax, name)(x, y):.6f}   published {case[name]:.6f}")

# %% [markdown]
# More places where published CKA departs from its definition are in
# [faults of published implementations](../published-faults.md). Large data sets go through
# [streams](../how-to/streams.py).
