"""Trained weights: shipped, from files in both layouts, from addresses; and the real ResNet-20."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import save_file

import ggdjax as gd
from ggdjax._errors import GgdjaxError, ModelError, UnsupportedError
from ggdjax.network import Network, fold_batch_norm
from ggdjax.zoo import _loading as loading
from ggdjax.zoo import abstract, create, digits_net, load, load_state_dict, load_weights, names, save_weights
from ggdjax.zoo._mobilenet_v2 import MobileNetV2
from ggdjax.zoo._resnet import BasicBlock, ResNet

RNG = np.random.default_rng(0)


def conv(chan_out, chan_in, kernel):
    return RNG.normal(size=(chan_out, chan_in, kernel, kernel)).astype(np.float32) / np.sqrt(chan_in * kernel**2)


def norm(name, chan):
    """Return the arrays of a batch normalization, with the counter that PyTorch keeps."""
    draw = lambda low, high: RNG.uniform(low, high, chan).astype(np.float32)  # noqa: E731
    arrays = {"weight": draw(0.5, 1.5), "bias": draw(-1, 1), "running_mean": draw(-1, 1), "running_var": draw(0.5, 1.5)}
    return {f"{name}.{key}": a for key, a in arrays.items()} | {f"{name}.num_batches_tracked": np.asarray(7)}


def resnet_state_dict():
    """Return the state dict of a ResNet of two stages of one basic block, as torchvision names it."""
    arrays = {"conv1.weight": conv(64, 3, 7), **norm("bn1", 64)}
    for stage, (chan_in, chan) in enumerate(((64, 64), (64, 128)), 1):
        block = f"layer{stage}.0"
        arrays |= {f"{block}.conv1.weight": conv(chan, chan_in, 3), **norm(f"{block}.bn1", chan)}
        arrays |= {f"{block}.conv2.weight": conv(chan, chan, 3), **norm(f"{block}.bn2", chan)}
    arrays |= {"layer2.0.downsample.0.weight": conv(128, 64, 1), **norm("layer2.0.downsample.1", 128)}
    return arrays | {
        "fc.weight": RNG.normal(size=(5, 128)).astype(np.float32),
        "fc.bias": np.arange(5, dtype=np.float32),
    }


def np_conv(x, weight, stride, padding):
    """Convolve channels-first in NumPy: a sum over the window of strided products."""
    size = weight.shape[2]
    x = np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    out = (x.shape[2] - size) // stride + 1
    y = 0.0
    for i in range(size):
        for j in range(size):
            window = x[:, :, i : i + stride * (out - 1) + 1 : stride, j : j + stride * (out - 1) + 1 : stride]
            y = y + np.einsum("nchw,oc->nohw", window, weight[:, :, i, j])
    return y


def np_norm(x, arrays, name):
    w, b, mean, var = (
        arrays[f"{name}.{key}"].astype(np.float64)[None, :, None, None]
        for key in ("weight", "bias", "running_mean", "running_var")
    )
    return (x - mean) / np.sqrt(var + 1e-5) * w + b


def np_resnet(x, arrays):
    """Run the state dict of `resnet_state_dict` channels first in float64."""
    relu = lambda v: np.maximum(v, 0)  # noqa: E731
    x = relu(np_norm(np_conv(x, arrays["conv1.weight"], 2, 3), arrays, "bn1"))
    x = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))  # the values are not negative: zeros never win
    out = (x.shape[2] - 3) // 2 + 1
    x = np.max([x[:, :, i : i + 2 * out - 1 : 2, j : j + 2 * out - 1 : 2] for i in range(3) for j in range(3)], axis=0)
    for stage in (1, 2):
        block = f"layer{stage}.0"
        y = relu(np_norm(np_conv(x, arrays[f"{block}.conv1.weight"], stage, 1), arrays, f"{block}.bn1"))
        y = np_norm(np_conv(y, arrays[f"{block}.conv2.weight"], 1, 1), arrays, f"{block}.bn2")
        if stage == 2:
            x = np_norm(np_conv(x, arrays[f"{block}.downsample.0.weight"], 2, 0), arrays, f"{block}.downsample.1")
        x = relu(x + y)
    return x.mean((2, 3)) @ arrays["fc.weight"].T + arrays["fc.bias"]


def small_resnet(num_classes=5):
    module = nnx.eval_shape(lambda: ResNet(BasicBlock, (1, 1), num_classes=num_classes, rngs=nnx.Rngs(0)))
    module.eval()
    return module


def test_a_resnet_state_dict_computes_what_pytorch_would():
    arrays, module = resnet_state_dict(), small_resnet()
    load_state_dict(module, arrays)
    x = RNG.normal(size=(2, 3, 21, 21)).astype(np.float32)
    expected = np_resnet(x, arrays)
    logits = jax.jit(module.__call__)(jnp.asarray(x.transpose(0, 2, 3, 1)))
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-4 * np.abs(expected).max())


def mobilenet_state_dict(convention):
    """Return the names and shapes of MobileNet V2's state dict, written down anew from the paper's Table 2."""
    arrays = {}

    def add(conv_name, norm_name, *shape):
        arrays[f"{conv_name}.weight"] = RNG.normal(size=shape).astype(np.float32)
        arrays.update(norm(norm_name, shape[0]))

    torchvision = convention == "torchvision"
    add(*(("features.0.0", "features.0.1") if torchvision else ("conv_stem", "bn1")), 32, 3, 3, 3)
    rows = [(1, 16, 1), (6, 24, 2), (6, 32, 3), (6, 64, 4), (6, 96, 3), (6, 160, 3), (6, 320, 1)]
    chan, index = 32, 0
    for stage, (expansion, chan_out, count) in enumerate(rows):
        for block in range(count):
            inner, index = chan * expansion, index + 1
            shapes = [(inner, chan, 1, 1)] * (expansion > 1) + [(inner, 1, 3, 3), (chan_out, inner, 1, 1)]
            for k, shape in enumerate(shapes):
                last = k == len(shapes) - 1
                if torchvision:
                    conv_name = f"features.{index}.conv.{k}" + ("" if last else ".0")
                    norm_name = f"features.{index}.conv.{k + 1}" if last else f"features.{index}.conv.{k}.1"
                else:
                    kinds = ("conv_pw", "conv_dw", "conv_pwl") if expansion > 1 else ("conv_dw", "conv_pw")
                    conv_name, norm_name = f"blocks.{stage}.{block}.{kinds[k]}", f"blocks.{stage}.{block}.bn{k + 1}"
                add(conv_name, norm_name, *shape)
            chan = chan_out
    add(*(("features.18.0", "features.18.1") if torchvision else ("conv_head", "bn2")), 1280, 320, 1, 1)
    head = "classifier.1" if torchvision else "classifier"
    arrays[f"{head}.weight"] = RNG.normal(size=(1000, 1280)).astype(np.float32)
    arrays[f"{head}.bias"] = RNG.normal(size=1000).astype(np.float32)
    return arrays


@pytest.mark.parametrize("convention", ["torchvision", "timm"])
def test_a_mobilenet_state_dict_fills_every_array(convention):
    arrays, module = mobilenet_state_dict(convention), abstract("mobilenet_v2")
    load_state_dict(module, arrays)
    first, second, last = (
        ("features.1.conv.0", "features.1.conv.1", "features.18.1.running_var")
        if convention == "torchvision"
        else ("blocks.0.0.conv_dw", "blocks.0.0.conv_pw", "bn2.running_var")
    )
    depthwise = arrays[f"{first}.0.weight" if convention == "torchvision" else f"{first}.weight"]
    np.testing.assert_array_equal(module.blocks[0].depthwise.conv.kernel[...], depthwise.transpose(2, 3, 1, 0))
    np.testing.assert_array_equal(
        module.blocks[0].project.conv.kernel[...], arrays[f"{second}.weight"].transpose(2, 3, 1, 0)
    )
    np.testing.assert_array_equal(module.last.norm.var[...], arrays[last])
    stored = [np.asarray(leaf) for leaf in jax.tree.leaves(nnx.state(module, (nnx.Param, nnx.BatchStat)))]
    given = [a for name, a in arrays.items() if not name.endswith("tracked")]
    assert sorted(float(np.sum(a, dtype=np.float64)) for a in stored) == pytest.approx(
        sorted(float(np.sum(a, dtype=np.float64)) for a in given)
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a.pop("layer1.0.conv2.weight"), "`layer1.0.conv2.weight` is missing from the state dict"),
        (lambda a: a.update(more=np.zeros(3)), "`more` has no place in the network"),
        (lambda a: a.update({"fc.bias": np.zeros(4)}), r"`fc.bias` of the state dict has shape \(4,\).*`num_classes`"),
    ],
)
def test_state_dicts_that_do_not_fit(change, message):
    arrays = resnet_state_dict()
    change(arrays)
    with pytest.raises(ModelError, match=message):
        load_state_dict(small_resnet(), arrays)


def test_a_family_whose_names_are_not_known():
    with pytest.raises(UnsupportedError, match="LeNet5; known: ResNet"):
        load_state_dict(abstract("lenet5"), {})


def test_timm_names_need_the_published_stages():
    module = nnx.eval_shape(lambda: MobileNetV2(num_classes=2, rngs=nnx.Rngs(0)))
    with pytest.raises(ModelError, match="is missing from"):
        load_state_dict(module, {"conv_stem.weight": np.zeros(1)})
    with pytest.raises(ModelError, match="is missing from"):
        load_state_dict(abstract("mobilenet_v2_small"), {"conv_stem.weight": np.zeros(1)})


def test_shipped_weights():
    x = RNG.uniform(size=(2, 8, 8, 1)).astype(np.float32)
    np.testing.assert_allclose(load("digits")(x), digits_net()(jnp.asarray(x)), rtol=1e-5, atol=1e-5)


def test_weights_from_a_file(tmp_path):
    path = tmp_path / "weights.safetensors"
    module = create("lenet5", seed=3, num_classes=4)
    save_weights(module, path)
    net = load("lenet5", path, num_classes=4)
    x = RNG.normal(size=(1, 32, 32, 1)).astype(np.float32)
    expected = jax.jit(module.__call__)(jnp.asarray(x))
    np.testing.assert_allclose(net(x), expected, rtol=0, atol=1e-5 * float(jnp.abs(expected).max()))


def test_a_state_dict_from_a_file(tmp_path):
    path, arrays = tmp_path / "weights.safetensors", resnet_state_dict()
    save_file(arrays, path, {"format": "pt"})
    module, direct = small_resnet(), small_resnet()
    assert load_weights(module, path) == {"format": "pt"}
    load_state_dict(direct, arrays)
    jax.tree.map(np.testing.assert_array_equal, nnx.state(module), nnx.state(direct))
    with pytest.raises(ModelError, match=r"`fc.weight` of `.*safetensors` has shape \(5, 128\)|`fc.bias` of"):
        load_weights(small_resnet(num_classes=6), path)


def test_published_networks_and_addresses_are_downloaded(tmp_path, monkeypatch):
    asked = []
    path = tmp_path / "weights.safetensors"
    save_weights(create("lenet5"), path)

    def fake(url, sha256, progress):
        asked.append((url, sha256))
        return path

    monkeypatch.setattr(loading, "download", fake)
    monkeypatch.setattr(loading, "load_onnx", lambda path: path)
    assert load("resnet50", "published") == path
    assert asked[0] == (loading.PUBLISHED["resnet50"].url, loading.PUBLISHED["resnet50"].sha256)
    load("lenet5", "https://example.org/lenet5.safetensors", sha256="0" * 64)
    assert asked[1] == ("https://example.org/lenet5.safetensors", "0" * 64)


def test_the_table_of_published_files():
    assert loading.PUBLISHED.keys() <= set(names())
    assert len({file.sha256 for file in loading.PUBLISHED.values()}) == len(loading.PUBLISHED)
    for file in loading.PUBLISHED.values():
        assert file.url.startswith("https://")
        assert len(bytes.fromhex(file.sha256)) == 32


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("resnet5",), "no network of the zoo"),
        (("vgg11",), r"no weights of `vgg11` come with the package: give `weights` \(a safetensors file or address\)"),
        (("vgg16",), 'or address, "published"'),
        (("vgg11", "published"), "no published weights of `vgg11` are known, only of densenet121"),
        (("lenet5", "nowhere.safetensors"), "`nowhere.safetensors` cannot be read as safetensors"),
        (("lenet5", "https://example.org/x"), "give the `sha256` of its file"),
    ],
)
def test_weights_that_are_not_there(arguments, message):
    with pytest.raises(GgdjaxError, match=message):
        load(*arguments)


@pytest.mark.parametrize("weights", ["x.safetensors", "published", None])
def test_a_checksum_without_an_address_is_refused(weights):
    with pytest.raises(GgdjaxError, match="`sha256` is for addresses"):
        load("vgg16", weights, sha256="0" * 64)


def test_other_classes_than_the_published_ones_are_refused():
    with pytest.raises(ModelError, match="`num_classes` is 10, the published `vgg16` has 1000"):
        load("vgg16", "published", num_classes=10)


@pytest.mark.parametrize(
    ("name", "file", "size", "num_classes"),
    [
        ("mobilenet_v1_025", "mobilenet_v1_025_128_imagenet", 128, 1001),
        ("squeezenet1_0", "squeezenet1.0_imagenet", 227, 1000),
    ],
)
def test_real_weights_in_the_same_places_compute_the_same(real_data, name, file, size, num_classes):
    # The real files have no normalizations left: theirs and ours, folded, have the same layers in the same order.
    theirs = gd.load_onnx(real_data / "models" / f"{file}.onnx")
    module = create(name, num_classes=num_classes)
    ours = fold_batch_norm(gd.trace(module, jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)))
    params, nodes = {}, list(ours.graph.nodes)
    for node, real in zip(ours.graph.quantizable, theirs.graph.quantizable, strict=True):
        for role, key in node.params:
            params[key] = theirs.params[real.param(role)].reshape(ours.params[key].shape)
        if file.startswith("squeezenet") and node.name == "head/conv":
            # The original pads its last convolution by 1; torchvision's, which ours is, does not.
            nodes[nodes.index(node)] = node.with_attrs(padding=real.attr("padding"))
        else:
            assert node.op == "dense" or node.attrs == real.attrs, node.name
    ours = Network(graph=dataclasses.replace(ours.graph, nodes=tuple(nodes)), params=params)
    x = RNG.normal(size=(1, size, size, 3)).astype(np.float32)
    expected = np.asarray(theirs(x.transpose(0, 3, 1, 2)))
    np.testing.assert_allclose(ours(x), expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_the_real_resnet20(real_data):
    models = real_data / "models"
    module = abstract("resnet20")
    with np.load(models / "resnet20_cifar10.npz") as arrays:
        load_state_dict(module, dict(arrays))
    x = RNG.normal(size=(4, 32, 32, 3)).astype(np.float32)
    expected = np.asarray(gd.load_onnx(models / "resnet20_cifar10.onnx")(x.transpose(0, 3, 1, 2)))
    logits = jax.jit(module.__call__)(jnp.asarray(x))
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-4 * np.abs(expected).max())
    net = gd.trace(module, x)
    np.testing.assert_allclose(net(x), expected, rtol=0, atol=1e-4 * np.abs(expected).max())
