"""The cost model against numbers worked out by hand, its limits, its table, its errors."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ggdjax import cost
from ggdjax._errors import GgdjaxError, UnsupportedError
from ggdjax.cost import Dataflow, EnergyTable, HardwareModel, Widths
from ggdjax.cost._hardware_model import FIXED16, FLOAT32
from ggdjax.network import Graph, Network, Node, count_macs, trace
from ggdjax.quantization import QuantConfig, QuantizedNetwork, Quantizers, calibrate, quantize
from ggdjax.steps import Quantizer

PLENTY = 2**30


def conv(name, x, y, *, strides=(1, 1), padding=((1, 1), (1, 1)), dilation=(1, 1), groups=1, bias=True):
    attrs = {"strides": strides, "padding": padding, "dilation": dilation, "groups": groups}
    params = (("kernel", f"{name}/kernel"), *((("bias", f"{name}/bias"),) if bias else ()))
    return Node(name=name, op="conv", inputs=(x,), output=y, attrs=tuple(sorted(attrs.items())), params=params)


def one_conv(x, kernel, y, **attrs) -> Network:
    graph = Graph(
        nodes=(conv("c", "x", "y", bias=False, **attrs),),
        inputs=("x",),
        outputs=("y",),
        shapes=(("x", (None, *x)), ("y", (None, *y))),
    )
    return Network(graph=graph, params={"c/kernel": jnp.ones(kernel)})


@pytest.fixture(scope="module")
def net():
    """3 × 3, 2 to 4 channels on 6 × 6, with bias; ReLU; dense 144 to 10, without."""
    nodes = (
        conv("conv", "x", "sums"),
        Node(name="relu", op="relu", inputs=("sums",), output="map"),
        Node(name="flat", op="reshape", inputs=("map",), output="row", attrs=(("shape", (-1, 144)),)),
        Node(name="dense", op="dense", inputs=("row",), output="logits", params=(("kernel", "dense/kernel"),)),
    )
    shapes = {"x": (6, 6, 2), "sums": (6, 6, 4), "map": (6, 6, 4), "row": (144,), "logits": (10,)}
    graph = Graph(
        nodes=nodes,
        inputs=("x",),
        outputs=("logits",),
        shapes=tuple((name, (None, *shape)) for name, shape in shapes.items()),
    )
    params = {"conv/kernel": (3, 3, 2, 4), "conv/bias": (4,), "dense/kernel": (144, 10)}
    return Network(graph=graph, params={name: jnp.ones(shape) for name, shape in params.items()})


def cost_of(net, dataflow=Dataflow.ROW_STATIONARY, *, widths=None, **machine):
    return cost.estimate(net, HardwareModel(dataflow=dataflow, **machine), widths=widths or Widths())


@pytest.mark.parametrize("dataflow", Dataflow)
def test_every_tensor_moves_once_through_a_large_buffer(net, dataflow):
    for layer in cost_of(net, dataflow, buffer_bytes=PLENTY).layers:
        parts = (layer.weight_bytes, layer.bias_bytes, layer.input_bytes, layer.output_bytes)
        assert layer.dram_bytes == sum(parts)
        assert parts == ((72, 8, 72, 144) if layer.shape.name == "conv" else (1440, 0, 144, 40))


@pytest.mark.parametrize(
    ("dataflow", "buffer_bytes", "dram_bytes", "tile"),
    [
        # Sums 576, inputs of one channel 36, weights of one channel in 36: all stay in 648 bytes.
        ("output-stationary", 648, 296, (6, 1, 4)),
        # Two channels out at a time: the inputs are read twice.
        ("output-stationary", 647, 296 + 72, (6, 1, 2)),
        # Weights 72, three rows of the inputs 36, four sums 16.
        ("weight-stationary", 124, 296, (6, 2, 4)),
        ("weight-stationary", 123, 296 + 72, (6, 2, 2)),
        # Inputs 72, the sums of one channel 144, its weights of one channel in 9.
        ("row-stationary", 225, 296, (6, 2, 1)),
        # Two strips of three rows: the weights are read twice, and eight rows of inputs in place of six.
        ("row-stationary", 224, 296 + 72 + 24, (3, 2, 1)),
    ],
)
def test_traffic_of_a_convolution(dataflow, buffer_bytes, dram_bytes, tile):
    net = one_conv((6, 6, 2), (3, 3, 2, 4), (6, 6, 4))
    layer = cost_of(net, dataflow, buffer_bytes=buffer_bytes).layers[0]
    # The output leaves as sums here: 432 bytes more than codes; there is no bias: 8 bytes less.
    assert layer.dram_bytes == dram_bytes + 432 - 8
    assert (layer.tile.rows_out, layer.tile.channels_in, layer.tile.channels_out) == tile


@pytest.mark.parametrize(
    ("dataflow", "conv_cycles", "conv_array", "dense_cycles"),
    [
        ("output-stationary", 9 * 2 * 18, (72 * 9 + 8, 36 * 18 * 2, 0), 5 * 144),
        ("weight-stationary", 5 * 2 * 36, (72 + 8, 36 * 18 * 2, 4 * 2 * 4 * 144), 36 * 5),
        ("row-stationary", 8 * 3 * 3 * 6, (72 * 3 + 8, 72 * 2, 0), 1440 // 8),
    ],
)
def test_cycles_and_buffer_traffic(net, dataflow, conv_cycles, conv_array, dense_cycles):
    registers = {"weight_registers": 12, "input_registers": 6, "sum_registers": 2}
    report = cost_of(net, dataflow, rows=4, columns=2, **registers)
    first, last = report.layers
    assert (first.cycles, last.cycles) == (conv_cycles, dense_cycles)
    assert first.utilization == pytest.approx(2592 / (conv_cycles * 8))
    assert report.utilization == pytest.approx((2592 + 1440) / ((conv_cycles + dense_cycles) * 8))
    moved = first.array
    assert (moved.weight_bytes, moved.input_bytes, moved.partial_sum_bytes) == conv_array
    assert moved.output_bytes == 144


@pytest.mark.parametrize("dataflow", Dataflow)
def test_larger_is_never_worse(net, dataflow):
    traffic = [cost_of(net, dataflow, buffer_bytes=size).dram_bytes for size in (300, 400, 600, 900, 2000, PLENTY)]
    assert all(more >= less for more, less in pairwise(traffic))
    for size in (1, 3, 8, 64):
        report = cost_of(net, dataflow, rows=size, columns=size)
        assert all(0 < layer.utilization <= 1 for layer in report.layers)


def test_counts_and_energy_by_hand(net):
    report = cost_of(net, buffer_bytes=32 * 1024)
    assert [layer.macs for layer in report.layers] == [2592, 1440]
    assert report.bops == 4032 * 64
    assert report.macs_by_widths == {(8, 8): 4032}
    assert report.weight_bytes == 72 + 8 + 1440
    assert report.feature_map_bytes == 72 + 144
    multiply, add = (0.2 * 3.1 / (64 * 1024)) ** 0.5 * 64, (0.03 * 0.1 / (8 * 32)) ** 0.5 * 32
    assert report.mac_pj == pytest.approx(4032 * (multiply + add))
    assert report.dram_pj == pytest.approx((296 + 1624) * 1300 / 8)
    assert report.buffer_pj == pytest.approx(report.buffer_bytes * 20 / 8)
    assert report.energy_pj == pytest.approx(report.mac_pj + report.buffer_pj + report.dram_pj)


def test_totals_add_up_and_are_plain(net):
    report = cost_of(net)
    totals, rows = report.totals(), report.rows()
    for name in ("macs", "bops", "weight_bytes", "dram_bytes", "buffer_bytes", "cycles", "mac_pj", "energy_pj"):
        expected = sum(row[name] + (row["bias_bytes"] if name == "weight_bytes" else 0) for row in rows)
        assert totals[name] == pytest.approx(expected), name
    assert json.loads(json.dumps([totals, rows])) == [totals, rows]


def test_float_network_costs_float32(net):
    report = cost.estimate(net)
    assert report == report.at(FLOAT32)
    assert report.mac_pj == pytest.approx(4032 * (0.9 + 3.7))


def test_against_float32_and_16_bits(net):
    report = cost_of(net, buffer_bytes=PLENTY)
    ratios = report.against()
    assert list(ratios) == ["float32", "16/16"]
    assert (ratios["float32"].bops, ratios["16/16"].bops) == (16, 4)
    assert ratios["float32"].weight_bytes == pytest.approx((4 * 1512 + 16) / 1520)
    assert (ratios["float32"].feature_map_bytes, ratios["16/16"].feature_map_bytes) == (4, 2)
    assert ratios["float32"].cycles == 1
    assert ratios["16/16"].energy_pj == pytest.approx(report.at(FIXED16).energy_pj / report.energy_pj)
    assert report.against(Widths())["8/8"].energy_pj == 1


def quantized(net, **changes) -> QuantizedNetwork:
    def codes(bits):
        return Quantizer(step=jnp.float32(1), bits=bits, signed=False)

    def fixed(bits):
        return Quantizer.fixed_point(0, bits)

    parts = {"activations": {"x": codes(8), "row": codes(6)}, "weights": {"conv": fixed(4), "dense": fixed(8)}}
    quantizers = Quantizers(**(parts | {"biases": {"conv": fixed(32)}} | changes))
    return QuantizedNetwork(graph=net.graph, params=net.params, quantizers=quantizers)


def test_mixed_widths_of_a_quantized_network(net):
    report = cost.estimate(quantized(net), HardwareModel(buffer_bytes=PLENTY))
    assert report.macs_by_widths == {(4, 8): 2592, (8, 6): 1440}
    first, last = report.layers
    assert (first.weight_bytes, first.bias_bytes, first.input_bytes) == (36, 16, 72)
    # The output is stored as the 6-bit codes that the dense layer reads; logits leave as 32-bit sums.
    assert (first.output_bytes, last.input_bytes, last.output_bytes) == (108, 108, 40)
    assert cost.estimate(quantized(net), widths=Widths()) == cost_of(net)


def test_depthwise_and_grouped_convolutions():
    depthwise = cost_of(one_conv((6, 6, 4), (3, 3, 1, 4), (6, 6, 4), groups=4), rows=12, columns=6, buffer_bytes=PLENTY)
    (layer,) = depthwise.layers
    assert (layer.macs, layer.dram.weight_bytes, layer.dram.input_bytes) == (36 * 9 * 4, 36, 144)
    # Four groups of three window rows fill twelve rows at once.
    assert (layer.cycles, layer.utilization) == (3 * 6, 1)
    grouped = one_conv((6, 6, 4), (3, 3, 2, 4), (3, 3, 4), groups=2, strides=(2, 2))
    for dataflow in Dataflow:
        (layer,) = cost_of(grouped, dataflow, buffer_bytes=PLENTY).layers
        assert (layer.macs, layer.dram.weight_bytes, layer.dram.input_bytes) == (9 * 18 * 4, 72, 144)


def transposed(*, dilation=(1, 1)) -> Network:
    """4 × 4, 2 to 3 channels, stride 2: 6 × 5 becomes 14 × 12 by a window of 4 × 4."""
    net = one_conv((6, 5, 2), (4, 4, 2, 3), (14, 12, 3), padding=((3, 3), (3, 3)), dilation=dilation)
    (node,) = net.graph.nodes
    return Network(graph=replace(net.graph, nodes=(node.with_attrs(input_dilation=(2, 2)),)), params=net.params)


@pytest.mark.parametrize("dataflow", Dataflow)
def test_zeros_of_a_transposed_convolution_cost_nothing(dataflow):
    layer = cost_of(transposed(), dataflow, buffer_bytes=PLENTY).layers[0]
    # Of four by four weights every output takes two by two.
    assert (layer.macs, layer.shape.inputs) == (14 * 12 * 3 * 2 * 4, 6 * 5 * 2)
    assert layer.dram_bytes == 96 + 60 + 4 * 14 * 12 * 3
    assert 0 < layer.utilization <= 1
    assert layer.array.weight_bytes >= 96
    assert layer.array.input_bytes >= 60
    (one,) = cost_of(transposed(), dataflow, rows=1, columns=1, buffer_bytes=PLENTY).layers
    assert (one.cycles, one.utilization) == (one.macs, 1)


def test_strips_of_a_transposed_convolution():
    # Three rows of the input for two output rows of four: 30 inputs, 24 sums of one channel, 16 weights.
    layer = cost_of(transposed(), Dataflow.ROW_STATIONARY, buffer_bytes=30 + 24 * 4 + 16).layers[0]
    assert layer.tile.rows_out == 2
    # Seven strips overlap by up to two rows of the input; every strip reads the weights again.
    assert (layer.dram.weight_bytes, layer.dram.input_bytes) == (7 * 96, (6 + 6 * 2) * 5 * 2)


def test_spread_taps_meet_values_or_zeros_alone():
    """With a dilation of two as well, every other output row takes all four rows of the window, the others none."""
    shape = cost_of(transposed(dilation=(2, 1)), buffer_bytes=PLENTY).layers[0].shape
    assert (shape.row_products, shape.taps_rows) == (7 * 4, 2)


def attention() -> Network:
    def function(x):
        q, k, v = (x @ jnp.ones((4, size)) for size in (3, 3, 5))
        return jax.nn.softmax(jnp.einsum("bqc,bkc->bqk", q, k)) @ v

    return trace(function, jnp.zeros((1, 6, 4)))


@pytest.mark.parametrize("dataflow", Dataflow)
def test_products_of_two_feature_maps_are_layers_without_weights(dataflow):
    report = cost_of(attention(), dataflow, buffer_bytes=PLENTY)
    assert [layer.macs for layer in report.layers] == [6 * 4 * 3] * 2 + [6 * 4 * 5, 6 * 6 * 3, 6 * 6 * 5]
    scores, values = report.layers[3:]
    assert (scores.weight_bytes, scores.input_bytes, scores.dram.weight_bytes) == (0, 36, 0)
    assert (values.weight_bytes, values.dram_bytes) == (0, 36 + 30 + 4 * 30)
    assert report.weight_bytes == 4 * 11
    # The input, queries, keys, values, and what softmax gives.
    assert report.feature_map_bytes == 24 + 18 + 18 + 30 + 36
    assert report.macs == count_macs(attention())


def test_widths_of_a_product_are_those_of_its_factors():
    net = attention()
    x = np.random.default_rng(0).normal(size=(8, 6, 4)).astype(np.float32)
    product = net.graph.producer(net.graph.outputs[0])
    bits = dict(zip(product.inputs, (3, 6), strict=True))
    config = QuantConfig(scheme="max-abs", activation_bits_of=bits)
    report = cost.estimate(quantize(net, calibrate(net, [x]), config), HardwareModel(buffer_bytes=PLENTY))
    assert (report.layers[-1].widths.weight_bits, report.layers[-1].widths.activation_bits) == (6, 3)
    assert report.macs_by_widths[6, 3] == 6 * 6 * 5


def test_published_energies_are_met():
    table = EnergyTable()
    for bits, energy in table.integer_add_pj:
        assert table.add_pj(bits) == pytest.approx(energy, rel=0.1)
    for bits, energy in table.integer_multiply_pj:
        assert table.multiply_pj(bits, bits) == pytest.approx(energy, rel=0.02)
    for bits in (16, 32):
        assert table.add_pj(bits, floating=True) == dict(table.float_add_pj)[bits]
        assert table.multiply_pj(bits, bits, floating=True) == dict(table.float_multiply_pj)[bits]
    for size, energy in table.buffer_access_pj:
        assert table.buffer_pj_per_bit(size) * 64 == pytest.approx(energy)
    assert table.multiply_pj(4, 8) == pytest.approx(table.multiply_pj(8, 8) / 2)
    sizes = [table.buffer_pj_per_bit(2**k) for k in range(8, 26)]
    assert sizes == sorted(sizes)


def test_own_energy_table(net, tmp_path):
    path = tmp_path / "table.json"
    path.write_text('{"source": "ours", "integer_multiply_pj": [[8, 1.0]], "integer_add_pj": [[32, 0.5]]}')
    table = EnergyTable.load(path)
    assert cost_of(net, energy=table).mac_pj == pytest.approx(4032 * 1.5)
    table.save(path)
    assert EnergyTable.load(path) == table


def test_scale_sim_topology(net, tmp_path):
    path = tmp_path / "net.csv"
    cost.export_scale_sim(net, path)
    header, *lines = path.read_text().splitlines()
    assert header.startswith("Layer name, IFMAP Height, IFMAP Width, Filter Height, Filter Width, Channels, Num Filter")
    # Padding and dilation are in the input's size.
    assert lines == ["conv, 8, 8, 3, 3, 2, 4, 1,", "dense, 1, 1, 1, 1, 144, 10, 1,"]
    cost.export_scale_sim(one_conv((6, 6, 4), (3, 3, 1, 4), (3, 3, 4), groups=4, strides=(2, 2)), path)
    assert path.read_text().splitlines()[1:] == ["c_DP, 7, 7, 3, 3, 4, 1, 2,"]
    cost.export_scale_sim(one_conv((6, 6, 4), (3, 3, 2, 4), (6, 6, 4), groups=2), path)
    assert path.read_text().splitlines()[1:] == [f"c_{k}, 8, 8, 3, 3, 2, 2, 1," for k in (0, 1)]
    with pytest.raises(UnsupportedError, match="`c` has strides 2 and 1"):
        cost.export_scale_sim(one_conv((6, 6, 2), (3, 3, 2, 4), (3, 6, 4), strides=(2, 1)), path)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: HardwareModel(rows=0), "`rows` must be an integer from 1 to 65536, got 0"),
        (lambda: HardwareModel(buffer_bytes=1.5), "`buffer_bytes` must be an integer"),
        (lambda: HardwareModel(accelerator={}), "`accelerator` must be an Accelerator"),
        (lambda: HardwareModel(dataflow="row"), "`dataflow` is 'row'; .*row-stationary"),
        (lambda: HardwareModel(energy={}), "`energy` must be an EnergyTable"),
        (lambda: Widths(weight_bits=33), "`weight_bits` must be an integer from 1 to 32, got 33"),
        (lambda: Widths(floating=True), "`floating` takes one width of 16 or 32 bits"),
        (lambda: EnergyTable(dram_access_pj=0), "`dram_access_pj` must be a positive number"),
        (lambda: EnergyTable(integer_add_pj=((32, 1), (8, 1))), "`integer_add_pj` must be .* ascending"),
        (lambda: EnergyTable(buffer_access_pj=((8, 1),)), "`buffer_access_pj` must be at least 2"),
        (lambda: EnergyTable(float_add_pj=3), "`float_add_pj` must be pairs"),
        (lambda: EnergyTable(float_add_pj=((16, 0.4),)).add_pj(32, floating=True), "no floating-point width of 32"),
    ],
)
def test_fields_out_of_range(make, message):
    with pytest.raises(GgdjaxError, match=message):
        make()


def test_errors(net, tmp_path):
    with pytest.raises(GgdjaxError, match=r"`buffer_bytes` 50 cannot hold .* tile of `conv`: it needs 51 bytes"):
        cost_of(net, Dataflow.OUTPUT_STATIONARY, buffer_bytes=50)
    with pytest.raises(GgdjaxError, match="`network` leaves `dense` or its input in float"):
        cost.estimate(quantized(net, weights={"conv": quantized(net).quantizers.weights["conv"]}))
    with pytest.raises(GgdjaxError, match="`network` is 3; expected a QuantizedNetwork or Network"):
        cost.estimate(3)
    path = tmp_path / "table.json"
    with pytest.raises(GgdjaxError, match="cannot read the energy table"):
        EnergyTable.load(path)
    path.write_text('{"dram_pj": 1}')
    with pytest.raises(GgdjaxError, match=r"unknown field `dram_pj`.*dram_access_pj"):
        EnergyTable.load(path)
    path.write_text('{"dram_access_pj": -1}')
    with pytest.raises(GgdjaxError, match=r"table\.json: `dram_access_pj` must be"):
        EnergyTable.load(path)
    path.write_text("[]")
    with pytest.raises(GgdjaxError, match="must hold one table of fields, got list"):
        EnergyTable.load(path)
