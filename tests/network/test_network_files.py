"""Networks as files: the same graph, the same bits."""

from __future__ import annotations

import copy
import enum
import json
import math
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

import ggdjax as gd
from ggdjax import _files, zoo
from ggdjax._errors import GgdjaxError
from ggdjax.network import Graph, Network, Node, load_onnx, supported_ops
from ggdjax.network._serialize import graph_from_record, graph_record
from tests.small_onnx import write_network


def through_json(graph: Graph, **options) -> Graph:
    return graph_from_record(_files.loads(_files.dumps(graph_record(graph))), **options)


def same_network(net: Network, x: np.ndarray, path: Path) -> Network:
    net.save(path)
    loaded = gd.load(path)
    assert type(loaded) is Network
    assert (loaded.graph, hash(loaded.graph)) == (net.graph, hash(net.graph))
    assert repr((loaded.graph, loaded.graph.shapes)) == repr((net.graph, net.graph.shapes))
    assert loaded.params.keys() == net.params.keys()
    for key, value in net.params.items():
        assert loaded.params[key].dtype == value.dtype
        np.testing.assert_array_equal(loaded.params[key], value)
    np.testing.assert_array_equal(loaded(x), net(x))
    return loaded


LAYERS = {
    "relu": lambda x, _: nnx.relu(x),
    "silu": lambda x, _: nnx.silu(x),
    "clip": lambda x, _: jnp.clip(x, -0.5, 2.0),
    "scale": lambda x, w: x * w[:1, :1, :1, :],
    "pool": lambda x, _: nnx.max_pool(x, (2, 2), (1, 1), padding="SAME"),
    "residual": lambda x, w: x + nnx.relu(x * w[:1, :1, :1, :]),
    "conv": lambda x, w: jax.lax.conv_general_dilated(
        x, w, (1, 1), ((1, 1), (0, 2)), dimension_numbers=("NHWC", "HWIO", "NHWC")
    ),
    "dense": lambda x, w: x @ w[0, 0],
}


@settings(max_examples=20, deadline=None)
@given(st.lists(st.sampled_from(sorted(LAYERS)), min_size=1, max_size=6), st.integers(0, 2**31))
def test_small_networks_come_back(tmp_path_factory, names, seed):
    rng = np.random.default_rng(seed)
    kernels = [jnp.asarray(rng.normal(size=(3, 3, 4, 4)), jnp.float32) for _ in names]

    def function(x):
        for name, kernel in zip(names, kernels, strict=True):
            x = LAYERS[name](x, kernel)
        return x

    x = rng.normal(size=(3, 5, 6, 4)).astype(np.float32)
    net = gd.trace(function, x[:1])
    same_network(net, x, tmp_path_factory.mktemp("net") / "net.safetensors")


def test_onnx_network_without_its_file(tmp_path):
    net = load_onnx(write_network(tmp_path / "net.onnx"))
    (tmp_path / "net.onnx").unlink()
    x = np.random.default_rng(0).normal(size=(2, *net.input_shape[1:])).astype(np.float32)
    same_network(net, x, tmp_path / "net.safetensors")


def test_zoo_network_comes_back_and_quantizes_the_same(tmp_path):
    net = gd.trace(zoo.digits_net(), jnp.zeros((1, 8, 8, 1)))
    x = np.random.default_rng(0).normal(size=(16, 8, 8, 1)).astype(np.float32)
    loaded = same_network(net, x, tmp_path / "net")
    np.testing.assert_array_equal(gd.calibrate(loaded, [x]).histograms.counts, gd.calibrate(net, [x]).histograms.counts)
    assert (tmp_path / "net").stat().st_size < sum(p.nbytes for p in net.params.values()) + 20_000


class Rule(enum.StrEnum):
    UP = "up"


TEXT = st.text(max_size=5)
STATIC = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3).map(tuple),
    max_leaves=6,
)


@st.composite
def graphs(draw) -> Graph:
    """Graphs whose nodes make no sense, but are well formed."""
    tensors = draw(st.lists(TEXT, min_size=2, max_size=6, unique=True))
    nodes = []
    for k, output in enumerate(tensors[1:], start=1):
        attrs = draw(st.dictionaries(TEXT, STATIC, max_size=3)) | draw(st.sampled_from([{}, {"the rule": Rule.UP}]))
        nodes.append(
            Node(
                name=f"{k}",
                op=draw(st.sampled_from([op for op in supported_ops() if op != "resize"])),
                inputs=tuple(draw(st.lists(st.sampled_from(tensors[:k]), max_size=3))),
                output=output,
                attrs=tuple(attrs.items()),
                params=tuple(draw(st.dictionaries(TEXT, TEXT, max_size=2)).items()),
            )
        )
    sizes = st.lists(st.none() | st.integers(0, 2**40), max_size=3).map(tuple)
    return Graph(
        nodes=tuple(nodes),
        inputs=(tensors[0],),
        outputs=tuple(draw(st.lists(st.sampled_from(tensors), max_size=2))),
        shapes=tuple((tensor, draw(sizes)) for tensor in draw(st.permutations(tensors))),
    )


@settings(max_examples=200, deadline=None)
@given(graphs())
def test_graphs_are_exact(graph):
    found = through_json(graph, enums={"the rule": Rule})
    assert (found, hash(found)) == (graph, hash(graph))
    assert repr((found, found.shapes)) == repr((graph, graph.shapes))


def small() -> Graph:
    node = Node(name="a", op="relu", inputs=("x",), output="y", attrs=(("low", -math.inf), ("rounding", "floor")))
    return Graph(nodes=(node,), inputs=("x",), outputs=("y",), shapes=(("x", (None, 2)), ("y", (None, 2))))


def test_rounding_of_a_resize_is_no_rule():
    graph = replace(small(), nodes=(replace(small().nodes[0], op="resize"),))
    assert type(through_json(graph, enums={"rounding": Rule}).nodes[0].attr("rounding")) is str


def test_attributes_left_out_and_numbers_of_numpy():
    assert graph_record(small(), omit={"low"})["nodes"][0]["attrs"] == {"rounding": "floor"}
    node = small().nodes[0].with_attrs(low=np.float32(0.1), high=np.int64(3))
    graph = replace(small(), nodes=(node,))
    assert (through_json(graph), hash(through_json(graph))) == (graph, hash(graph))


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda r: r["nodes"][0].update(op="rely"), "node `a` has the unknown operation `rely`; did you mean `relu`"),
        (lambda r: r["nodes"][0].update(inputs=["z"]), "node `a` reads the tensor `z`, which nothing before it"),
        (lambda r: r["nodes"][0].update(output="x"), "node `a` produces the tensor `x`, which is there already"),
        (lambda r: r["nodes"].append({**r["nodes"][0], "output": "z"}), "two nodes are called `a`"),
        (lambda r: r.update(outputs=["z"]), "the output `z` is produced by no node"),
        (lambda r: r["shapes"].pop("y"), "the tensor `y` has no shape"),
        (lambda r: r["nodes"][0].update(params={"kernel": "a/kernel"}), "the parameter `a/kernel` is missing"),
        (lambda r: r.pop("nodes"), "KeyError: 'nodes'"),
        (lambda r: r["nodes"][0].pop("attrs"), "KeyError: 'attrs'"),
        (lambda r: r["nodes"][0].update(name=3), "TypeError: expected names"),
        (lambda r: r["nodes"][0].update(inputs="x"), "TypeError: expected names"),
        (lambda r: r["nodes"][0].update(attrs=[1]), "AttributeError"),
        (lambda r: r["nodes"][0].update(attrs={"low": {"a": 1}}), "TypeError: a dict is no static argument"),
        (lambda r: r["shapes"].update(x=[1.5]), "TypeError: expected a size or None"),
        (lambda r: r.update(nodes=3), "TypeError"),
    ],
)
def test_wrong_graphs_are_refused_in_one_line(tmp_path, change, match):
    record = copy.deepcopy(json.loads(_files.dumps(graph_record(small()))))
    change(record)
    _files.write(tmp_path / "x", "network", {"graph": record}, {})
    with pytest.raises(GgdjaxError, match=match) as caught:
        gd.load(tmp_path / "x")
    assert "\n" not in str(caught.value)
