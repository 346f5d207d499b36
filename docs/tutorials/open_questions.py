# %% [markdown]
# # Open questions of the SVCCA tutorials
#
# The last notebook of [google/svcca](https://github.com/google/svcca/tree/master/tutorials), 004, lists six questions
# and has no code. This page shows how to work on each of them, on small networks that train in seconds. The outcomes
# are those of one small model on one data set.

# %%
import itertools
import tempfile

import jax
import matplotlib.pyplot as plt
import numpy as np
import optax
from flax import nnx
from sklearn.datasets import load_digits

import symjax

images, labels = load_digits(return_X_y=True)
images = np.float32(images.reshape(-1, 8, 8, 1) / 16)
train, test = slice(0, 1000), slice(1000, None)
data = {"x_train": images[train], "y_train": labels[train], "x_test": images[test], "y_test": labels[test]}
data["normalize"] = False

# %% [markdown]
# ## 1. Generative models
#
# A representation is an array (examples, ..., channels), whatever computed it. Here two autoencoders are trained from
# two seeds at once, and `symjax.capture` reads their codes.


# %%
class Autoencoder(nnx.Module):
    def __init__(self, rngs):
        self.encoder = nnx.Sequential(nnx.Linear(64, 128, rngs=rngs), nnx.relu, nnx.Linear(128, 16, rngs=rngs))
        self.decoder = nnx.Sequential(nnx.Linear(16, 128, rngs=rngs), nnx.relu, nnx.Linear(128, 64, rngs=rngs))

    def __call__(self, x):
        return self.decoder(self.encoder(x))


pixels, optimizer = images.reshape(-1, 64), optax.adam(3e-3)


def fit(key):
    graph, params = nnx.split(Autoencoder(nnx.Rngs(key)))

    def step(carry, _):
        params, state = carry
        loss, grads = jax.value_and_grad(
            lambda p: optax.squared_error(nnx.merge(graph, p)(pixels[train]), pixels[train]).mean()
        )(params)
        updates, state = optimizer.update(grads, state)
        return (optax.apply_updates(params, updates), state), loss

    (params, _), losses = jax.lax.scan(step, (params, optimizer.init(params)), length=300)
    return params, losses[-1]


params, losses = jax.jit(jax.vmap(fit))(jax.random.split(jax.random.key(0), 2))
graph = nnx.graphdef(nnx.eval_shape(lambda: Autoencoder(nnx.Rngs(0))))
models = [nnx.merge(graph, jax.tree.map(lambda leaf, i=i: leaf[i], params)) for i in (0, 1)]
first, second = (symjax.capture(model, [pixels[test]], points=["encoder"])["encoder"] for model in models)
print(f"reconstruction errors {np.round(losses, 4)}, variance of the pixels {pixels.var(0).mean():.3f}")
print(f"codes: CCA {symjax.cca_similarity(first, second):.3f}, CKA {symjax.cka(first, second):.3f}")

# %% [markdown]
# ## 2. Compression of low rank
#
# The weight of a layer is replaced by one of rank \(k\): its input is projected onto \(k\) directions, so that
# \(W \approx B (B^\top W)\) has \(k (d_\text{in} + d_\text{out})\) parameters in place of \(d_\text{in} d_\text{out}\).
# PCA and PLS choose the directions from data, the singular value decomposition (SVD) from the weight alone.


# %%
class CNN(nnx.Module):
    def __init__(self, rngs):
        self.conv1 = nnx.Conv(1, 16, (3, 3), rngs=rngs)
        self.conv2 = nnx.Conv(16, 32, (3, 3), strides=2, rngs=rngs)
        self.dense = nnx.Linear(512, 128, rngs=rngs)
        self.head = nnx.Linear(128, 10, rngs=rngs)

    def __call__(self, x):
        x = symjax.stitch_point(self.conv1(x), "conv1")
        x = symjax.stitch_point(nnx.relu(x), "relu1")
        x = symjax.stitch_point(self.conv2(x), "conv2")
        x = symjax.stitch_point(nnx.relu(x).reshape(len(x), -1), "relu2")
        x = symjax.stitch_point(self.dense(x), "dense")
        x = symjax.stitch_point(nnx.relu(x), "relu3")
        return self.head(x)


net = symjax.Network.from_nnx(CNN, example=images[:1])
epochs, folder = [1, 4, 32], tempfile.TemporaryDirectory()
zoo = symjax.zoo.train(net, data, 3, f"{folder.name}/generalizing", epochs=32, keep=epochs, progress=False)
members = [zoo.member(seed) for seed in zoo.seeds]
features_of = jax.jit(net.features)
features = [features_of(member, images) for member in members]

inputs, other = (np.asarray(f["relu2"]) for f in features[:2])
mean, weight = inputs[train].mean(0), np.asarray(net.to_module(members[0]).dense.kernel[...])
directions = {
    "PLS": symjax.pls(inputs[train], other[train]).x_directions,
    "PCA": symjax.pca(inputs[train]).components,
    "SVD of the weight": np.linalg.svd(weight)[0],
}
tail = jax.jit(lambda x: net.tail(members[0], (x,), "relu2").argmax(-1))
ranks = [2, 4, 8, 16, 32, 64]
print(f"accuracy of the network: {100 * np.mean(tail(inputs[test]) == labels[test]):.1f} %")
fig, ax = plt.subplots(figsize=(5, 3))
for name, columns in directions.items():
    accuracy = []
    for k in ranks:
        basis, _ = np.linalg.qr(np.asarray(columns)[:, :k])
        accuracy.append(100 * np.mean(tail(mean + (inputs[test] - mean) @ basis @ basis.T) == labels[test]))
    print(f"{name:18}", np.round(accuracy, 1))
    ax.semilogx([k * sum(weight.shape) / weight.size for k in ranks], accuracy, marker="o", base=2, label=name)
ax.set(xlabel="share of the layer's parameters", ylabel="accuracy (%)")
ax.legend()

# %% [markdown]
# [`experiments.project`](../experiments.md#project) does this for all layers of a zoo in one program, with intervals.
#
# ## 3. Generalizing and memorizing networks through training
#
# The zoo above has kept its members after epochs 1, 4 and 32 (`keep`). A second one is trained on permuted labels.

# %%
permuted = {**data, "y_train": np.random.default_rng(0).permutation(data["y_train"])}
symjax.zoo.train(net, permuted, 3, f"{folder.name}/memorizing", epochs=32, keep=epochs, progress=False)
for name in ("generalizing", "memorizing"):
    for epoch in epochs:
        snapshot = symjax.zoo.load(f"{folder.name}/{name}", epoch=epoch, network=net)
        layers = [features_of(snapshot.member(seed), images)["relu3"][test] for seed in snapshot.seeds]
        values = [symjax.pwcca(a, b) for a, b in itertools.permutations(layers, 2)]
        print(f"{name:13} epoch {epoch:2}: PWCCA between members {np.mean(values):.3f}")

# %% [markdown]
# Networks that generalize are more alike than networks that memorize, as Morcos et al. (2018) found on CIFAR-10.
# [`experiments.memorize`](../experiments.md#memorize) has all layers, both groups of pairs, and intervals.
#
# ## 4. How many neurons are important, and for which classes?
#
# Bartlett's test counts the canonical correlations between two layers that differ from zero. For class sensitivity,
# correlate a layer with the indicator of each class: the squared correlation is the share of the indicator's variance
# that the layer explains linearly, or that its best single neuron explains.

# %%
x, y = (np.asarray(f["relu3"][test]) for f in features[:2])
result = symjax.cca(x, y)
print("directions of relu3 in common, of 128:", int(symjax.bartlett_test(result, len(x)).num_significant))
alive = x.std(0) > 0
indicators = np.eye(10, dtype=np.float32)[labels[test]]
for digit in (1, 8):
    indicator = indicators[:, [digit]]
    neurons = np.corrcoef(x[:, alive].T, indicator.T)[-1, :-1]
    whole = float(symjax.cca_similarity(x, indicator))
    print(f"digit {digit}: layer {whole**2:.2f}, its best neuron alone {(neurons**2).max():.2f}")

# %% [markdown]
# [`experiments.classes`](../experiments.md#classes) follows classes through training;
# [`experiments.dissect`](../experiments.md#dissect) assigns concepts to neurons.
#
# ## 5. What each kind of layer does to a representation
#
# Compare the input of each layer with its output. All arrays are flattened to (examples, values), as `relu2` is.

# %%
names = [point.name for point in net.points]
for before, after in itertools.pairwise(names):
    values = [symjax.cka(f[before][test], f[after][test], samples="flatten") for f in features]
    print(f"{before:6} to {after:6} CKA {np.mean(values):.3f}")

# %% [markdown]
# ## 6. Biological and artificial networks
#
# Recordings are noisy, which bounds every similarity from above. Here the "recording" is a random half of one
# network's neurons with noise. The values between two halves of the recording's trials give the scale.

# %%
rng = np.random.default_rng(0)
recorded = x[:, rng.permutation(128)[:64]]
noise = 2 * recorded.std()
trials = recorded + noise * rng.standard_normal((2, *recorded.shape))
print(f"between trials {symjax.cka(*trials):.3f}")
for name, layer in {"the same network": x, "another network": y, "pixels": images[test].reshape(-1, 64)}.items():
    print(f"trial and {name:16} {symjax.cka(trials[0], layer):.3f}")

# %% [markdown]
# Activations of any source enter as files: `symjax.activations` and [`experiments.compare`](../experiments.md#compare)
# read arrays with the identifiers of their examples. `symjax.compare` adds error bars and p-values.
