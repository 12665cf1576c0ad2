"""A quantized network as an argument of JAX's transformations, of optax, and of `jax.export`."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import export

import ggdjax as gd
from ggdjax import datapath
from ggdjax.quantization import QuantizedNetwork, Quantizers, Stage

CONFIG = gd.QuantConfig(weight_bits=4, activation_bits=4, scheme="max-abs")


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).normal(size=(32, 6, 6, 2)).astype(np.float32)


@pytest.fixture(scope="module")
def net():
    rng = np.random.default_rng(1)
    kernel, head = (jnp.asarray(rng.normal(0, 0.4, shape), jnp.float32) for shape in ((3, 3, 2, 4), (4, 3)))

    def convolve(x):
        y = jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
        return jax.nn.relu(y + jnp.full((1, 1, 1, 4), 0.1)).mean(axis=(1, 2)) @ head + jnp.full((1, 3), 0.2)

    return gd.trace(convolve, jnp.zeros((1, 6, 6, 2)))


@pytest.fixture(scope="module")
def q(net, images):
    return gd.quantize(net, gd.calibrate(net, [images]), CONFIG)


@pytest.fixture(scope="module")
def others(q, net, images, tmp_path_factory):
    """The same network by every way on which its values change."""
    path = tmp_path_factory.mktemp("saved") / "q.safetensors"
    q.save(path)
    labels = np.arange(32) % 3
    settings = gd.tune.GradientConfig(steps=2, batch_size=16)
    search = gd.tune.TuneConfig(factors=(0.8, 1.0), allow_few_images=True)
    return {
        "other images": gd.quantize(net, gd.calibrate(net, [2 * images]), CONFIG),
        "bias correction": gd.tune.correct_biases(q, images),
        "gradient": gd.tune.gradient(q, images, config=settings),
        "search": gd.tune.backward_forward(q, images, labels, search),
        "loaded": gd.load(path),
        "NumPy": jax.device_get(dataclasses.replace(q, record=None)),
        "doubled": jax.tree.map(lambda leaf: 2 * leaf, q),
    }


def same(a, b):
    np.testing.assert_array_equal(a, b, strict=True)


def test_one_program_for_all_values(q, others, images):
    traces = []

    @jax.jit
    def logits(q, x):
        traces.append(1)
        return q(x)

    same(logits(q, images), q(images))
    for name, other in others.items():
        np.testing.assert_allclose(logits(other, images), other(images), rtol=1e-5, err_msg=name)
    assert len(traces) == 1
    for name, other in others.items():
        for leaf in jax.tree.leaves(other):
            assert leaf.dtype == np.float32, name
            assert name == "NumPy" or not leaf.weak_type, name


def test_other_widths_are_another_program(q, net, images):
    wider = gd.quantize(net, gd.calibrate(net, [images]), dataclasses.replace(CONFIG, activation_bits=8))
    assert jax.tree.structure(wider) != jax.tree.structure(q)


def test_gradient_is_a_network(q, images):
    slope = jax.grad(lambda q: jnp.mean(jnp.square(q(images))))(q)
    assert isinstance(slope, QuantizedNetwork)
    assert slope.record is None
    assert jax.tree.structure(slope) == jax.tree.structure(q)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(slope))
    # The head's bias moves every logit alike: d mean(y²) / d b_j = Σ_i 2 y_ij / (images · classes).
    key = q.graph.quantizable[-1].param("bias")
    np.testing.assert_allclose(slope.params[key], 2 * q(images).sum(0) / 96, rtol=1e-4)


def test_stacked_networks_under_vmap(q, images):
    doubled = jax.tree.map(lambda leaf: 2 * leaf, q)
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), q, doubled)
    outputs = jax.vmap(lambda q: q(images))(stacked)
    for output, single in zip(outputs, (q, doubled), strict=True):
        np.testing.assert_allclose(output, single(images), rtol=1e-5, atol=1e-6)


def test_optax_step(q, images):
    labels = jnp.arange(32) % 3
    kinds = dataclasses.replace(
        q, params="trained", quantizers=Quantizers(activations="trained", weights="fixed", biases="fixed"), record=None
    )
    optimizer = optax.partition({"trained": optax.adam(1e-3), "fixed": optax.set_to_zero()}, lambda _: kinds)

    def loss(q):
        return optax.softmax_cross_entropy_with_integer_labels(q(images), labels).mean()

    @jax.jit
    def update(q, state):
        updates, state = optimizer.update(jax.grad(loss)(q), state)
        return optax.apply_updates(q, updates), state

    with jax.numpy_dtype_promotion("standard"):  # Adam raises a float to the power of an integer
        trained, state = q, optimizer.init(q)
        for _ in range(20):
            trained, state = update(trained, state)
    assert loss(trained) < loss(q)
    assert trained.record is None
    jax.tree.map(same, trained.quantizers.weights, q.quantizers.weights)
    kept = q.changed(Stage(name="training"), params=trained.params, quantizers=trained.quantizers)
    assert [stage.name for stage in kept.record.stages] == ["quantize", "training"]
    assert kept.float_network is q.float_network
    same(kept(images), trained(images))


def round_trip(function, *examples):
    """Return the function after it was exported, serialized and read again."""
    exported = export.export(jax.jit(function))(*examples)
    again = export.deserialize(exported.serialize())
    assert (again.in_tree, again.out_tree) == (exported.in_tree, exported.out_tree)
    return again.call


def test_exported_network_is_the_same(q, net, images):
    for network in (q, net):
        same(round_trip(lambda x, n=network: n(x), images)(images), jax.jit(lambda x, n=network: n(x))(images))


def test_exported_function_of_a_network(q, others, net, images):
    call = round_trip(lambda q, x: q(x), q, images)
    for network in (q, others["other images"], others["loaded"]):
        same(call(network, images), jax.jit(lambda q, x: q(x))(network, images))
    same(round_trip(lambda n, x: n(x), net, images)(net, images), net(images))
    slope = round_trip(lambda q, x: jax.grad(lambda q: q(x).sum())(q), q, images)(q, images)
    assert isinstance(slope, QuantizedNetwork)
    assert slope.graph == q.graph


def test_exported_program_is_the_same_integers(q, images):
    program = datapath.compile(datapath.align(q), datapath.Accelerator(activation_bits=4, weight_bits=4))
    x = jax.ShapeDtypeStruct(export.symbolic_shape("b, 6, 6, 2"), jnp.float32)
    same(round_trip(program.__call__, images)(images), program(images))
    integers = round_trip(program.integers, x)
    for count in (1, 7, 32):
        same(integers(images[:count]), program.integers(images[:count]))


def test_exported_for_any_batch_size(q, net, images):
    x = jax.ShapeDtypeStruct(export.symbolic_shape("b, 6, 6, 2"), jnp.float32)
    aligned = datapath.align(q)
    for network in (net, aligned):
        call = round_trip(lambda x, n=network: n(x), x)
        for count in (1, 7, 32):
            np.testing.assert_allclose(call(images[:count]), network(images[:count]), rtol=1e-5, atol=1e-6)
    call = round_trip(lambda q, x: q(x), aligned, x)
    np.testing.assert_allclose(call(aligned, images[:5]), aligned(images[:5]), rtol=1e-5, atol=1e-6)
