"""The zoo by name: published sizes, and traces that equal the modules."""

from __future__ import annotations

from functools import partial
from math import prod

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from experiments.generated import draw_normalizations
from ggdjax._errors import GgdjaxError
from ggdjax.network import count_macs, count_parameters, fold_batch_norm, node_counts, trace
from ggdjax.zoo import abstract, create, entry, initialize, names
from ggdjax.zoo._densenet import DenseNet
from ggdjax.zoo._efficientnet import B0, EfficientNet
from ggdjax.zoo._googlenet import TABLE1, GoogLeNet
from ggdjax.zoo._lenet import LeNet5
from ggdjax.zoo._mobilenet_v1 import TABLE1 as MOBILENET_V1
from ggdjax.zoo._mobilenet_v1 import MobileNetV1
from ggdjax.zoo._mobilenet_v2 import MobileNetV2, Stage
from ggdjax.zoo._plain import VGG, AlexNet
from ggdjax.zoo._resnet import BasicBlock, Bottleneck, CifarResNet, ResNet
from ggdjax.zoo._squeezenet import V1_0, SqueezeNet
from ggdjax.zoo._tiny_yolo import TinyYoloV2


def parameters_of(module: nnx.Module) -> int:
    return sum(prod(leaf.shape) for leaf in jax.tree.leaves(nnx.state(module, nnx.Param)))


def macs_of(module: nnx.Module, shape: tuple[int, ...]) -> int:
    """Count the products of a jaxpr: independent of the project's own graph, and without any weights."""
    graph, state = nnx.split(module)
    call = jax.make_jaxpr(lambda state, x: nnx.merge(graph, state)(x))
    return _products(call(state, jax.ShapeDtypeStruct((1, *shape), jnp.float32)).jaxpr)


def _products(jaxpr) -> int:
    total = 0
    for eqn in jaxpr.eqns:
        out = prod(eqn.outvars[0].aval.shape)
        if eqn.primitive.name == "conv_general_dilated":
            out_features = eqn.params["dimension_numbers"].rhs_spec[0]
            total += out * prod(n for axis, n in enumerate(eqn.invars[1].aval.shape) if axis != out_features)
        elif eqn.primitive.name == "dot_general":
            (contracted, _), _ = eqn.params["dimension_numbers"]
            total += out * prod(eqn.invars[0].aval.shape[axis] for axis in contracted)
        for inner in eqn.params.values():
            total += (
                _products(getattr(inner, "jaxpr", inner)) if hasattr(inner, "eqns") or hasattr(inner, "jaxpr") else 0
            )
    return total


@pytest.mark.parametrize("name", names())
def test_sizes_are_the_published_ones(name):
    known, module = entry(name), abstract(name)
    count = parameters_of(module)
    assert known.parameters.agrees(count), f"{count:,} parameters, {known.parameters}"
    macs = macs_of(module, known.input_shape)
    assert known.macs.agrees(macs), f"{macs:,} MACs, {known.macs}"


#: Every family in a form that compiles within seconds: few blocks, but each kind of block. Name -> (build, image size).
SMALL = {
    "lenet": (LeNet5, 32),
    "alexnet": (partial(AlexNet, size=63, hidden=16), 63),
    "vgg": (partial(VGG, ((8,), (8, 16)), size=16, hidden=16), 16),
    "googlenet": (partial(GoogLeNet, TABLE1[:1]), 32),
    "resnet": (partial(ResNet, BasicBlock, (1, 1)), 32),
    "resnet with bottlenecks": (partial(ResNet, Bottleneck, (2, 1)), 32),
    "cifar resnet": (partial(CifarResNet, 8), 16),
    "squeezenet": (partial(SqueezeNet, V1_0[:1], chan=24, kernel=7), 40),
    "mobilenet v1": (partial(MobileNetV1, MOBILENET_V1[:3], width=0.25), 32),
    "mobilenet v2": (
        partial(MobileNetV2, (Stage(1, 16, 1, 1), Stage(6, 24, 2, 2)), stem=16, stem_stride=1, last=32),
        16,
    ),
    "densenet": (partial(DenseNet, (2, 2), growth=8), 32),
    "efficientnet": (partial(EfficientNet, (B0[0], B0[2])), 32),
    "tiny yolo": (partial(TinyYoloV2, (8, 8, 16, 16, 24)), 32),
}
CHANNELS = {"lenet": 1}


@pytest.mark.parametrize("name", SMALL)
def test_trace_equals_the_module(name):
    build, size = SMALL[name]
    module = nnx.eval_shape(lambda: build(num_classes=3, rngs=nnx.Rngs(0)))
    module.eval()
    initialize(module, 0)
    draw_normalizations(module, np.random.default_rng(1))  # so that folding them is no identity
    shape = (size, size, CHANNELS.get(name, 3))
    x = np.random.default_rng(0).standard_normal((2, *shape), np.float32)
    # The graph computes in float32; some accelerators would run the module with less.
    with jax.default_matmul_precision("highest"):
        expected = np.asarray(jax.jit(module.__call__)(x))
    net = trace(module, x)
    largest = np.abs(expected).max()
    assert expected.std(axis=0).max() > 0.01 * largest, "the images must differ in their outputs"
    np.testing.assert_allclose(net(x), expected, rtol=0, atol=2e-6 * largest)
    folded = fold_batch_norm(net)
    np.testing.assert_allclose(folded(x), expected, rtol=0, atol=1e-4 * largest)
    # A normalization in front of its convolution cannot be folded: ReLU stands between.
    assert name == "densenet" or "affine" not in {node.op for node in folded.graph.nodes}
    assert count_macs(net) == count_macs(folded) == macs_of(module, shape)
    assert count_parameters(net) == parameters_of(module)
    assert sum(count.parameters for count in node_counts(net)) == count_parameters(net)


def test_create_depends_on_the_seed_alone():
    first, same, other = create("resnet20"), create("resnet20", seed=0), create("resnet20", seed=1)
    jax.tree.map(np.testing.assert_array_equal, nnx.state(first), nnx.state(same))
    assert not np.array_equal(first.stem.conv.kernel[...], other.stem.conv.kernel[...])
    kernel = first.stages[2][1].conv1.conv.kernel[...]
    assert float(jnp.var(kernel)) == pytest.approx(2 / prod(kernel.shape[:-1]), rel=0.05)


def test_create_is_in_inference_mode_and_can_be_trained():
    module = create("resnet20", num_classes=3)
    assert module.head.bias.shape == (3,)
    x = jnp.asarray(np.random.default_rng(0).standard_normal((2, 8, 8, 3)), jnp.float32)
    before = jax.tree.map(np.asarray, nnx.state(module))
    module.stem(x)
    jax.tree.map(np.testing.assert_array_equal, before, nnx.state(module))
    module.train()
    module.stem(x)
    assert not np.array_equal(before["stem"]["norm"]["mean"], module.stem.norm.mean[...])


def test_unknown_names_and_classes():
    with pytest.raises(GgdjaxError, match=r"`name` is 'resnet21'.*did you mean .*`resnet20`"):
        create("resnet21")
    with pytest.raises(GgdjaxError, match="`num_classes` is 0, expected at least 1"):
        create("resnet20", num_classes=0)
