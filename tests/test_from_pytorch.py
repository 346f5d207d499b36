"""State dictionaries of PyTorch: weights of published code give its logits; wrong keys and shapes."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from test_cct import numpy_cct
from test_models import close, drawn, images, numpy_myrtle, run, values_of

from symjax.errors import InputError
from symjax.models.cct import sine_positions
from symjax.models.pytorch import from_pytorch

# --- without PyTorch: dictionaries under the published names, made from a module's values ---


def layer(name, values):
    """Return tensors of a convolution, linear layer or norm in the layout of PyTorch."""
    names = {"scale": "weight", "kernel": "weight", "mean": "running_mean", "var": "running_var"}
    entries = {}
    for leaf, value in values.items():
        if leaf == "kernel":
            value = value.transpose(3, 2, 0, 1) if value.ndim == 4 else value.T
        entries[f"{name}.{names.get(leaf, leaf)}"] = value.astype(np.float32)
    if "mean" in values:
        entries[f"{name}.num_batches_tracked"] = np.array(7)
    return entries


def myrtle_dictionary(p):
    """Return a state of an nn.Sequential, in which layers without parameters are numbered too: two after each norm."""
    entries = layer("12", p["dense"])
    for i in p["convs"]:
        entries |= layer(f"{4 * i}", p["convs"][i]) | layer(f"{4 * i + 1}", p["norms"][i])
    return entries


def resnet_dictionary(p, block, dense="linear", shortcut="shortcut"):
    entries = layer("conv1", p["stem"]["conv"]) | layer("bn1", p["stem"]["norm"]) | layer(dense, p["dense"])
    for i, values in p["blocks"].items():
        for place, part in [("first", "1"), ("second", "2")]:
            entries |= layer(f"{block(i)}.conv{part}", values[place]["conv"])
            entries |= layer(f"{block(i)}.bn{part}", values[place]["norm"])
        if "shortcut" in values:
            entries |= layer(f"{block(i)}.{shortcut}.0", values["shortcut"]["conv"])
            entries |= layer(f"{block(i)}.{shortcut}.1", values["shortcut"]["norm"])
    return entries


def cct_dictionary(p):
    entries = layer("classifier.norm", p["norm"]) | layer("classifier.attention_pool", p["score"])
    entries |= layer("classifier.fc", p["dense"])
    for i, conv in p["convs"].items():
        entries |= layer(f"tokenizer.conv_layers.{i}.0", conv)
    for i, block in p["blocks"].items():
        name, attention = f"classifier.blocks.{i}", block["attention"]
        width = len(attention["out"]["bias"])
        joint = np.concatenate([attention[part]["kernel"].reshape(width, -1).T for part in ("query", "key", "value")])
        entries[f"{name}.self_attn.qkv.weight"] = joint
        out = {"kernel": attention["out"]["kernel"].reshape(-1, width), "bias": attention["out"]["bias"]}
        entries |= layer(f"{name}.self_attn.proj", out)
        for part, values in [("pre_norm", "norm1"), ("norm1", "norm2"), ("linear1", "expand"), ("linear2", "contract")]:
            entries |= layer(f"{name}.{part}", block[values])
    if "positions" in p:
        entries["classifier.positional_emb"] = p["positions"].reshape(1, -1, p["positions"].shape[-1])
    return entries


MYRTLE = {"width": 2, "multiples": (1, 2, 2), "pools": (1, 2, 2)}
CCT = {"width": 8, "image_size": 8}


def test_myrtle():
    module = drawn("mcnn", 1, **MYRTLE)
    module.eval()
    loaded = from_pytorch(module, myrtle_dictionary(values := values_of(drawn("mcnn", **MYRTLE))))
    close(run(loaded, images()), numpy_myrtle(values, images(), MYRTLE["pools"], "relu"), 1e-5)
    assert not np.array_equal(module.dense.kernel[...], loaded.dense.kernel[...])  # the module given stays as it is


@pytest.mark.parametrize(
    ("block", "names", "shortcut"),
    [
        (lambda i: f"module.block_seq.{i}", {}, "pad"),
        (lambda i: f"layer{1 + (i >= 11)}.{i % 11}", {}, "projection"),
        (lambda i: f"layer{1 + (i >= 11)}.{i % 11}", {"dense": "fc", "shortcut": "downsample"}, "projection"),
    ],
)
@pytest.mark.few(2)
def test_resnet(block, names, shortcut):
    """Twelve blocks test that 10 comes after 9."""
    options = {"width": 2, "blocks": (11, 1), "shortcut": shortcut}
    values, module = values_of(drawn("resnet20", **options)), drawn("resnet20", 1, **options)
    loaded = from_pytorch(module, resnet_dictionary(values, block, **names))
    for path, value in nnx.to_flat_state(nnx.state(loaded, nnx.Any(nnx.Param, nnx.BatchStat))):
        expected = values
        for part in path:
            expected = expected[part]
        np.testing.assert_array_equal(value[...], expected.astype(np.float32))


def test_cct():
    values = values_of(drawn("cct2", **CCT))
    module = drawn("cct2", 1, **CCT)
    module.eval()
    loaded = from_pytorch(module, cct_dictionary(values))
    close(run(loaded, images(size=8)), numpy_cct(values, images(size=8), "published", values["positions"]), 1e-5)
    assert nnx.state(loaded, nnx.RngState)  # dropout still has its keys


def test_sine_positions_are_checked():
    module = drawn("cct2", positional_embedding="sine", **CCT)
    entries = cct_dictionary(values_of(module))
    from_pytorch(module, entries)
    entries["classifier.positional_emb"] = sine_positions(2, 2, 8).reshape(1, 4, 8)
    from_pytorch(module, entries)
    entries["classifier.positional_emb"] = entries["classifier.positional_emb"] + 1
    with pytest.raises(
        InputError, match=r"got other positional_emb \[1, 4, 8\], expected the sine positions of 4 tokens"
    ):
        from_pytorch(module, entries)


def test_by_name():
    values = values_of(drawn("mcnn_k", width=2, classes=3))
    entries = layer("segments.9", values["dense"])
    for i, conv in values["convs"].items():
        entries |= layer(f"segments.{2 * i}.0", conv)
    loaded = from_pytorch("mcnn_k", entries, width=2, classes=3)
    np.testing.assert_array_equal(loaded.convs[3].kernel[...], values["convs"][3]["kernel"].astype(np.float32))


@pytest.fixture(scope="module")
def plain():
    module = drawn("mcnn", **MYRTLE)
    return module, myrtle_dictionary(values_of(module))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda d: d.pop("0.weight"), ("missing: convs.2.kernel", "other shape: 4.weight as [3, 3, 2, 4]")),
        (lambda d: d.pop("12.bias"), ("Myrtle. missing: dense.bias",)),
        (lambda d: d.update({"13.scale": np.ones(3)}), ("Myrtle. unexpected: 13.scale",)),
        (lambda d: d.update({"12.bias": np.ones(3)}), ("another shape: 12.bias as [3], expected [10]",)),
        (lambda d: d.update({"12.bias": "many"}), ("state_dict: 12.bias: got <U4, expected real numbers",)),
        (lambda d: d.update({3: np.ones(3)}), ("expected a mapping of names to tensors",)),
    ],
)
def test_dictionaries_that_do_not_fit(plain, change, words):
    module, entries = plain
    change(entries := dict(entries))
    with pytest.raises(InputError) as error:
        from_pytorch(module, entries)
    assert all(word in str(error.value) for word in words), error.value


def test_other_modules_and_names():
    with pytest.raises(
        InputError, match="got a Linear, expected a name of symjax.models.MODELS or one of Myrtle, ResNet"
    ):
        from_pytorch(nnx.Linear(1, 1, rngs=nnx.Rngs(0)), {})
    with pytest.raises(InputError, match="got 'vgg' .did you mean vgg11.., expected one of"):
        from_pytorch("vgg", {})
    with pytest.raises(InputError, match="missing: .*stem.conv.kernel"):
        from_pytorch(drawn("resnet20", width=1, blocks=(1,)), {})


# --- with PyTorch: the published architectures, written from their definitions ---


def torch_modules():
    torch = pytest.importorskip("torch")
    nn = torch.nn

    def conv(before, after, kernel=3, stride=1, bias=False):
        return nn.Conv2d(before, after, kernel, stride, kernel // 2, bias=bias)

    def myrtle(width, norm):
        layers, before = [], 3
        for multiple, pool in [(1, 1), (2, 2), (4, 2), (8, 2)]:
            after = multiple * width
            layers += [conv(before, after, bias=not norm), *([nn.BatchNorm2d(after)] if norm else []), nn.ReLU()]
            layers += [nn.MaxPool2d(pool)] if pool > 1 else []
            before = after
        return nn.Sequential(*layers, nn.MaxPool2d(4), nn.Flatten(), nn.Linear(before, 10))

    class Basic(nn.Module):
        def __init__(self, before, after, stride, projection):
            super().__init__()
            self.conv1, self.bn1 = conv(before, after, 3, stride), nn.BatchNorm2d(after)
            self.conv2, self.bn2 = conv(after, after), nn.BatchNorm2d(after)
            self.shortcut, self.stride, self.new = nn.Sequential(), stride, after - before
            if projection and (stride > 1 or self.new):
                self.shortcut = nn.Sequential(conv(before, after, 1, stride), nn.BatchNorm2d(after))

        def forward(self, x):
            branch = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
            if not len(self.shortcut):
                x = x[:, :, :: self.stride, :: self.stride]
                x = nn.functional.pad(x, (0, 0, 0, 0, self.new // 2, self.new // 2))
            return torch.relu(branch + self.shortcut(x))

    class Residual(nn.Module):
        def __init__(self, width, blocks, projection):
            super().__init__()
            self.conv1, self.bn1 = conv(3, width), nn.BatchNorm2d(width)
            before, layers = width, []
            for stage, count in enumerate(blocks):
                for block in range(count):
                    layers.append(Basic(before, width * 2**stage, 2 if stage and not block else 1, projection))
                    before = width * 2**stage
            self.block_seq, self.linear = nn.Sequential(*layers), nn.Linear(before, 10)

        def forward(self, x):
            return self.linear(self.block_seq(torch.relu(self.bn1(self.conv1(x)))).mean((2, 3)))

    class SelfAttention(nn.Module):
        def __init__(self, width, heads):
            super().__init__()
            self.qkv, self.proj, self.heads = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width), heads

        def forward(self, x):
            n, tokens, width = x.shape
            query, key, value = self.qkv(x).view(n, tokens, 3, self.heads, -1).unbind(2)
            scores = torch.einsum("nqhc,nkhc->nhqk", query, key) / (width / self.heads) ** 0.5
            return self.proj(torch.einsum("nhqk,nkhc->nqhc", scores.softmax(-1), value).reshape(n, tokens, width))

    class EncoderLayer(nn.Module):
        def __init__(self, width, heads, hidden):
            super().__init__()
            self.pre_norm, self.norm1 = nn.LayerNorm(width), nn.LayerNorm(width)
            self.self_attn = SelfAttention(width, heads)
            self.linear1, self.linear2 = nn.Linear(width, hidden), nn.Linear(hidden, width)

        def forward(self, x):
            x = self.norm1(x + self.self_attn(self.pre_norm(x)))
            return x + self.linear2(nn.functional.gelu(self.linear1(x)))

    class Compact(nn.Module):
        def __init__(self, width, layers, heads, ratio, kernel, convs, side, positions):
            super().__init__()
            widths, stride = [3, *[width // 2] * (convs - 1), width], max(1, kernel // 2 - 1)
            self.tokenizer, self.classifier = nn.Module(), nn.Module()
            self.tokenizer.conv_layers = nn.Sequential(
                *(
                    nn.Sequential(conv(widths[i], widths[i + 1], kernel, stride), nn.ReLU(), nn.MaxPool2d(3, 2, 1))
                    for i in range(convs)
                )
            )
            c = self.classifier
            tokens = self.tokenizer.conv_layers(torch.zeros(1, 3, side, side))[0, 0].numel()
            if positions == "learnable":
                c.positional_emb = nn.Parameter(torch.randn(1, tokens, width) * 0.2)
            else:
                table = [[t / 10000 ** (2 * (i // 2) / width) for i in range(width)] for t in range(tokens)]
                table = torch.tensor(table)
                table = torch.where(torch.arange(width) % 2 == 0, table.sin(), table.cos())
                c.positional_emb = nn.Parameter(table[None], requires_grad=False)
            c.blocks = nn.ModuleList(EncoderLayer(width, heads, ratio * width) for _ in range(layers))
            c.norm, c.attention_pool, c.fc = nn.LayerNorm(width), nn.Linear(width, 1), nn.Linear(width, 10)

        def forward(self, x):
            c = self.classifier
            x = self.tokenizer.conv_layers(x).flatten(2).transpose(1, 2) + c.positional_emb
            for block in c.blocks:
                x = block(x)
            x = c.norm(x)
            return c.fc((c.attention_pool(x).softmax(1) * x).sum(1))

    return torch, myrtle, Residual, Compact


@pytest.mark.parametrize(
    ("name", "options", "side"),
    [
        ("mcnn", {"width": 2}, 32),
        ("mcnn_k", {"width": 2}, 32),
        ("resnet20", {"width": 4}, 16),
        ("resnet18", {"width": 2}, 16),
        ("cct2_3x2", {"width": 8, "image_size": 16}, 16),
        ("cct7_3x1", {"width": 16, "image_size": 8, "positional_embedding": "sine"}, 8),
    ],
)
def test_logits_are_those_of_pytorch(name, options, side):
    torch, myrtle, residual, compact = torch_modules()
    torch.manual_seed(0)
    width = options["width"]
    reference = {
        "mcnn": lambda: myrtle(width, norm=True),
        "mcnn_k": lambda: myrtle(width, norm=False),
        "resnet20": lambda: residual(width, (3, 3, 3), projection=False),
        "resnet18": lambda: residual(width, (2, 2, 2, 2), projection=True),
        "cct2_3x2": lambda: compact(width, 2, 2, 1, 3, 2, side, "learnable"),
        "cct7_3x1": lambda: compact(width, 7, 4, 2, 3, 1, side, "sine"),
    }[name]()
    with torch.no_grad():
        for key, value in reference.state_dict().items():
            if value.ndim == 1 and value.dtype == torch.float32:  # norms and biases that matter
                value.uniform_(0.5, 1.5) if key.endswith(("weight", "var")) else value.normal_(0, 0.3)
        x = images(3, side)
        expected = reference.eval()(torch.from_numpy(x).permute(0, 3, 1, 2)).numpy()
    module = drawn(name, **options)
    module.eval()
    logits = run(from_pytorch(module, reference.state_dict()), x)
    assert logits.dtype == jnp.float32
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-5 * max(1, np.abs(expected).max()))
