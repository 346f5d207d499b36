# %% [markdown]
# # Data that come in batches
#
# A stream computes a measure from batches, in memory that does not grow with their number. For CCA, SVCCA, PWCCA, PLS
# and the Procrustes forms the result equals that of the whole data; CKA and wreath CKA take the minibatch form of
# Nguyen et al. 2021, the ratio of three means of \(\mathrm{HSIC}_1\) over batches.

# %%
import tempfile
from pathlib import Path

import numpy as np

import symjax

rng = np.random.default_rng(0)
x = rng.standard_normal((1000, 20)).astype(np.float32)
y = (x @ rng.standard_normal((20, 30)) + 3 * rng.standard_normal((1000, 30))).astype(np.float32)

stream = symjax.cca_stream()
state = stream.init(x[:500], y[:500])  # arrays of a batch, or their shapes
for begin in range(0, 1000, 500):
    state = stream.update(state, x[begin : begin + 500], y[begin : begin + 500])
whole = symjax.cca(x, y)
difference = abs(stream.finalize(state).correlations - whole.correlations).max()
print(f"largest difference from the whole data {difference:.1e}")

# %% [markdown]
# States of parts of the data can be merged, and saved between runs.

# %%
halves = []
for part in (slice(0, 500), slice(500, 1000)):
    halves.append(stream.update(stream.init(x[part], y[part]), x[part], y[part]))
merged = stream.merge(*halves)
with tempfile.TemporaryDirectory() as folder:
    path = Path(folder, "state.npz")
    symjax.save_stream(path, stream, merged)
    loaded = symjax.load_stream(path, stream, like=merged)
print(f"mean correlation {symjax.mean_correlation(stream.finalize(loaded)):.4f}")
print(f"of the whole data {symjax.mean_correlation(whole):.4f}")
