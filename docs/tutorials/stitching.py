# %% [markdown]
# # Stitch your own network
#
# Stitching asks whether the features of network A can be used by network B. The layers of A up to some point, the
# *front*, are joined to the layers of B behind that point, the *tail*, by a linear map of the channels, the *stitch*.
# Both networks stay as they are; only the stitch is trained. What the stitched network loses in accuracy is the
# *penalty*.
#
# ## A network with named values
#
# Any JAX model works unchanged, except that the values at which it can be split get names.

# %%
import numpy as np
from flax import nnx
from sklearn.datasets import load_digits

import symjax


class MLP(nnx.Module):
    def __init__(self, rngs, width=32):
        self.a = nnx.Linear(64, width, rngs=rngs)
        self.b = nnx.Linear(width, width, rngs=rngs)
        self.c = nnx.Linear(width, 10, rngs=rngs)

    def __call__(self, x):
        x = symjax.stitch_point(nnx.relu(self.a(x)), "relu1")
        x = symjax.stitch_point(nnx.relu(self.b(x)), "relu2")
        return self.c(x)


x, y = load_digits(return_X_y=True)
x = np.float32(x / 16)
data = {"x_train": x[:1500], "y_train": y[:1500], "x_test": x[1500:], "y_test": y[1500:]}
net = symjax.Network.from_nnx(MLP, example=x[:1])
print([(point.name, point.shape) for point in net.points])

# %% [markdown]
# ## Two members
#
# `symjax.zoo.train` trains networks that differ in their seed alone, at the same time. Pass `folder=` to keep them.

# %%
zoo = symjax.zoo.train(net, data, seeds=2, epochs=20, progress=False)
a, b = zoo.member(0), zoo.member(1)

# %% [markdown]
# ## Stitches
#
# A *family* says which matrices are allowed: `identity` (no stitch), `full` (any matrix), `rank1`, and `birkhoff`: a
# permutation times positive scalings, the group [G_ReLU](../concepts/g-relu.md).

# %%
train, test = (x[:1500], y[:1500]), (x[1500:], y[1500:])
families = "identity,full,rank1,birkhoff"
result = symjax.stitch((net, a), (net, b), at=["relu1", "relu2"], families=families, train=train, test=test)
print(result.table.pivot(index="family", columns="layer", values="penalty").round(1))
figure = result.plot()

# %% [markdown]
# Penalties are in percentage points, from one pair of networks on 297 test images: one image is a third of a point.
# A negative penalty means that the stitched network was better than the mean of the two.
# [What a penalty means](../concepts/penalty.md) says what follows from such numbers, and what does not.
#
# The trained matrices are in `result.stitches`. A row without an entry is a channel whose scale has become zero:

# %%
stitch = result.stitches["relu2", "birkhoff"]
matrix = np.asarray(stitch.matrix)
print("shape", matrix.shape, "entries in each row that are not zero", np.unique((matrix != 0).sum(1)))

# %% [markdown]
# ## Different networks
#
# The two networks may differ. Points with different names, or of different widths, are a tuple; a stitch is then a
# matrix of shape (channels of B, channels of A), and families of square matrices do not apply.

# %%
wide = symjax.Network.from_nnx(lambda rngs: MLP(rngs, width=48), example=x[:1], name="wide")
c = symjax.zoo.train(wide, data, seeds=1, epochs=20, progress=False).member(0)
across = symjax.stitch((net, a), (wide, c), at=("relu1", "relu2"), families="full,rank1", train=train, test=test)
print(across.table[["layer", "layer_b", "family", "penalty"]].round(1).to_string(index=False))
print("matrix", across.stitches["relu1", "relu2", "full"].matrix.shape)

# %% [markdown]
# ## Where to go on
#
# - [Your own models, data and losses](../own-models.md): Linen, Equinox, functions, tokens, regression.
# - [Every experiment](../experiments.md): the same for whole zoos, from the command line.
# - [The symmetries of your network](symmetries.py).
