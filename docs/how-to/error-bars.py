# %% [markdown]
# # Error bars and tests
#
# A similarity is an estimate from a sample of examples. `symjax.error_bars` estimates how much it would vary with
# other examples.

# %%
import jax
import numpy as np

import symjax

rng = np.random.default_rng(0)
x = rng.standard_normal((200, 20)).astype(np.float32)
y = (x @ rng.standard_normal((20, 20)) + 4 * rng.standard_normal((200, 20))).astype(np.float32)
bars = symjax.error_bars("cka", x, y, jax.random.key(0))
print(f"CKA {bars.estimate:.3f}, 95 % interval [{bars.low:.3f}, {bars.high:.3f}], bias {bars.bias:+.4f}")

# %% [markdown]
# The interval comes from random halves of the examples. A bootstrap repeats examples, and all of these measures count a
# repeated example as agreement, so it is not the default; `method="bootstrap"` selects it.
#
# ## Is there anything in common?
#
# `symjax.permutation_test` compares the value with those after the examples of one side have been shuffled.

# %%
test = symjax.permutation_test("cka", x, y, jax.random.key(0), num_permutations=199)
print(f"related: p = {test.p_value:.3f}")
unrelated = rng.standard_normal((200, 20)).astype(np.float32)
test = symjax.permutation_test("cka", x, unrelated, jax.random.key(1), num_permutations=199)
print(f"unrelated: p = {test.p_value:.3f}")

# %% [markdown]
# ## Means over pairs of networks
#
# Pairs that share a network are not independent, and the standard deviation over pairs understates the error.
# `symjax.mean_over_pairs` leaves out one network at a time; `symjax.group_means` does so for groups of pairs.

# %%
pairs, values = [(0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3)], np.array([0.70, 0.80, 0.75, 0.72, 0.77, 0.74])
mean = symjax.mean_over_pairs(values, pairs)
print(f"{mean.estimate:.3f} ± {mean.standard_error:.3f}, 95 % interval [{mean.low:.3f}, {mean.high:.3f}]")
