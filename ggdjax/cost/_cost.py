"""What a network costs on an accelerator: operations, bytes, traffic, cycles and energy, layer by layer.

Counted are convolutions, dense layers and products of two feature maps, for one image. Activations, pooling and
additions are taken as done while data pass by: they cost nothing, and neither do control, clocks, leakage and registers
beside the multipliers. So ratios between widths are what the model is for; absolute figures are bounds from below.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from math import fsum
from typing import TYPE_CHECKING, Any

from ggdjax._errors import GgdjaxError, expect
from ggdjax.cost._dataflow import LayerWidths, Tile, Traffic, array_use, dram_traffic, packed_bytes
from ggdjax.cost._hardware_model import FIXED16, FLOAT32, HardwareModel, Widths
from ggdjax.network import Network, fold_batch_norm
from ggdjax.network._layer_shapes import LayerShape, layer_shapes
from ggdjax.quantization import QuantizedNetwork

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ggdjax.quantization import Quantizers

#: Figures that a layer and a whole network both have.
_FIGURES = (
    "macs",
    "bops",
    "weight_bytes",
    "dram_bytes",
    "buffer_bytes",
    "cycles",
    "utilization",
    "mac_pj",
    "buffer_pj",
    "dram_pj",
    "energy_pj",
)


@dataclass(frozen=True, kw_only=True)
class LayerCost:
    """What one layer costs for one image."""

    shape: LayerShape
    widths: LayerWidths
    weight_bytes: int
    """Packed weights; none in a product of two feature maps."""
    bias_bytes: int
    """Packed biases."""
    input_bytes: int
    """The packed feature map that enters; in a product, both."""
    output_bytes: int
    """The packed tensor that leaves."""
    dram: Traffic
    """Between DRAM and buffer."""
    tile: Tile
    """What the buffer holds at a time."""
    array: Traffic
    """Between buffer and array."""
    cycles: int
    """Of the array."""
    utilization: float
    """Share of the units that multiply, on average over the cycles, 0 to 1."""
    mac_pj: float
    """Energy of multiplications, and of additions at the width of the sums."""
    buffer_pj: float
    """Energy of accesses to the buffer, from the array and from DRAM."""
    dram_pj: float
    """Energy of accesses to DRAM."""

    @property
    def macs(self) -> int:
        """Multiply-accumulates."""
        return self.shape.macs

    @property
    def bops(self) -> int:
        """Bit operations, MACs × weight bits × activation bits (van Baalen et al., Bayesian Bits, NeurIPS 2020)."""
        return self.macs * self.widths.weight_bits * self.widths.activation_bits

    @property
    def dram_bytes(self) -> int:
        """Bytes between DRAM and buffer."""
        return self.dram.total_bytes

    @property
    def buffer_bytes(self) -> int:
        """Bytes read from and written to the buffer, from both sides."""
        return self.dram.total_bytes + self.array.total_bytes

    @property
    def energy_pj(self) -> float:
        """Energy of multiply-accumulates, buffer and DRAM together."""
        return self.mac_pj + self.buffer_pj + self.dram_pj

    def row(self) -> dict[str, Any]:
        """Return name, widths and figures as one flat record."""
        figures = (*_FIGURES, "bias_bytes", "input_bytes", "output_bytes")
        return {"name": self.shape.name, **vars(self.widths), **{name: getattr(self, name) for name in figures}}


@dataclass(frozen=True, kw_only=True)
class CostRatios:
    """How many times as much another network costs: above 1 the report's own saves."""

    bops: float
    weight_bytes: float
    feature_map_bytes: float
    dram_bytes: float
    buffer_bytes: float
    cycles: float
    mac_pj: float
    energy_pj: float


@dataclass(frozen=True, kw_only=True)
class CostReport:
    """What a network costs for one image: its layers, and their totals."""

    hardware: HardwareModel
    layers: tuple[LayerCost, ...]
    leaving: frozenset[str] = field(repr=False)
    """Names of the layers whose output enters no other: it leaves at the width of the sums."""

    @property
    def macs(self) -> int:
        """Multiply-accumulates."""
        return sum(layer.macs for layer in self.layers)

    @property
    def macs_by_widths(self) -> dict[tuple[int, int], int]:
        """Multiply-accumulates by (weight bits, activation bits), the most first."""
        counts: Counter[tuple[int, int]] = Counter()
        for layer in self.layers:
            counts[layer.widths.weight_bits, layer.widths.activation_bits] += layer.macs
        return dict(counts.most_common())

    @property
    def bops(self) -> int:
        """Bit operations."""
        return sum(layer.bops for layer in self.layers)

    @property
    def weight_bytes(self) -> int:
        """Packed weights and biases; those that layers share, once."""
        kernels = {layer.shape.kernel: layer.weight_bytes for layer in self.layers}
        biases = {layer.shape.bias: layer.bias_bytes for layer in self.layers}
        return sum(kernels.values()) + sum(biases.values())

    @property
    def feature_map_bytes(self) -> int:
        """Packed feature maps that enter layers, each once."""
        maps = {}
        for layer in self.layers:
            maps[layer.shape.feature_map] = packed_bytes(layer.shape.inputs, layer.widths.activation_bits)
            if layer.shape.is_product:
                maps[layer.shape.kernel] = packed_bytes(layer.shape.weights, layer.widths.weight_bits)
        return sum(maps.values())

    @property
    def dram_bytes(self) -> int:
        """Bytes between DRAM and buffer."""
        return sum(layer.dram_bytes for layer in self.layers)

    @property
    def buffer_bytes(self) -> int:
        """Bytes read from and written to the buffer, from both sides."""
        return sum(layer.buffer_bytes for layer in self.layers)

    @property
    def cycles(self) -> int:
        """Cycles of the array, layer after layer."""
        return sum(layer.cycles for layer in self.layers)

    @property
    def utilization(self) -> float:
        """Share of the units that multiply, on average over all cycles."""
        return self.macs / (self.cycles * self.hardware.rows * self.hardware.columns)

    @property
    def mac_pj(self) -> float:
        """Energy of multiplications and additions."""
        return fsum(layer.mac_pj for layer in self.layers)

    @property
    def buffer_pj(self) -> float:
        """Energy of accesses to the buffer."""
        return fsum(layer.buffer_pj for layer in self.layers)

    @property
    def dram_pj(self) -> float:
        """Energy of accesses to DRAM."""
        return fsum(layer.dram_pj for layer in self.layers)

    @property
    def energy_pj(self) -> float:
        """Energy of multiply-accumulates, buffer and DRAM together."""
        return self.mac_pj + self.buffer_pj + self.dram_pj

    def rows(self) -> list[dict[str, Any]]:
        """Return one flat record per layer."""
        return [layer.row() for layer in self.layers]

    def totals(self) -> dict[str, Any]:
        """Return the totals as one record."""
        by_widths = [{"weight_bits": w, "activation_bits": a, "macs": n} for (w, a), n in self.macs_by_widths.items()]
        figures = {name: getattr(self, name) for name in (*_FIGURES, "feature_map_bytes")}
        return {**figures, "macs_by_widths": by_widths}

    def at(self, widths: Widths) -> CostReport:
        """Return the cost of the same network on the same hardware at other widths."""
        shapes = [layer.shape for layer in self.layers]
        return _report(shapes, self.leaving, _uniform(shapes, self.leaving, widths, self.hardware), self.hardware)

    def against(self, *others: Widths) -> dict[str, CostRatios]:
        """Return the costs at other widths divided by this report's, by the others' names.

        Args:
            others: what to compare with; 32-bit floating point (``float32``) and 16-bit fixed point (``16/16``) where
                none is given.
        """
        return {widths.name: self._ratios(self.at(widths)) for widths in others or (FLOAT32, FIXED16)}

    def _ratios(self, other: CostReport) -> CostRatios:
        names = CostRatios.__dataclass_fields__
        return CostRatios(**{name: getattr(other, name) / getattr(self, name) for name in names})


def estimate(
    network: Network | QuantizedNetwork, hardware: HardwareModel | None = None, *, widths: Widths | None = None
) -> CostReport:
    """Return what a network costs on ``hardware`` for one image, by analytical models.

    Traffic and cycles: see the formulas at the head of ``ggdjax/cost/_dataflow.py``. Energy: see `EnergyTable`.
    Products of two feature maps (attention) are layers whose weights are one of them; the zeros between the inputs of a
    transposed convolution cost nothing.

    Args:
        network: a float network (batch normalization is folded first), or a quantized one.
        hardware: array, buffer and energy table; the defaults of `HardwareModel` where None.
        widths: one set for all layers. None: 32-bit floating point for a float network, its own widths, layer by
            layer, for a quantized one.

    Raises:
        GgdjaxError: the network has no convolution, dense layer or product, one of them is not quantized, a dimension
            other than the first depends on the batch size, the buffer cannot hold the smallest tile of a layer, or the
            energy table has no floating-point operation of that width.

    Example:
        >>> report = gd.cost.estimate(gd.trace(lambda x: x @ jnp.ones((64, 10)), jnp.zeros((1, 64))))
        >>> report.macs
        640
    """
    expect("network", network, "QuantizedNetwork", "Network")
    hardware = HardwareModel() if hardware is None else expect("hardware", hardware, "HardwareModel")
    if isinstance(network, QuantizedNetwork):
        net = network.network
    else:
        net = fold_batch_norm(network)
    shapes = layer_shapes(net)
    if not shapes:
        raise GgdjaxError(
            "`network` has no convolution, dense layer or product, so that nothing costs: give one that has"
        )
    entered = {shape.name: net.graph.feature_maps_from(net.graph.node(shape.name).output) for shape in shapes}
    leaving = frozenset(name for name, maps in entered.items() if not maps)
    if isinstance(network, QuantizedNetwork) and widths is None:
        layer_widths = _own(shapes, entered, network.quantizers, hardware)
    else:
        layer_widths = _uniform(shapes, leaving, FLOAT32 if widths is None else widths, hardware)
    return _report(shapes, leaving, layer_widths, hardware)


def _report(
    shapes: Sequence[LayerShape], leaving: frozenset[str], widths: Sequence[LayerWidths], hardware: HardwareModel
) -> CostReport:
    layers = tuple(_layer(shape, bits, hardware) for shape, bits in zip(shapes, widths, strict=True))
    return CostReport(hardware=hardware, layers=layers, leaving=leaving)


def _layer(shape: LayerShape, widths: LayerWidths, hardware: HardwareModel) -> LayerCost:
    dram, tile = dram_traffic(shape, widths, hardware)
    cycles, array = array_use(shape, widths, hardware)
    table = hardware.energy
    mac_pj = table.multiply_pj(widths.weight_bits, widths.activation_bits, floating=widths.floating)
    mac_pj += table.add_pj(widths.sum_bits, floating=widths.floating)
    second = packed_bytes(shape.weights, widths.weight_bits)
    buffer_bits = 8 * (dram.total_bytes + array.total_bytes)
    return LayerCost(
        shape=shape,
        widths=widths,
        weight_bytes=0 if shape.is_product else second,
        bias_bytes=packed_bytes(shape.biases, widths.bias_bits),
        input_bytes=packed_bytes(shape.inputs, widths.activation_bits) + (second if shape.is_product else 0),
        output_bytes=packed_bytes(shape.outputs, widths.output_bits),
        dram=dram,
        tile=tile,
        array=array,
        cycles=cycles,
        utilization=shape.macs / (cycles * hardware.rows * hardware.columns),
        mac_pj=shape.macs * mac_pj,
        buffer_pj=buffer_bits * table.buffer_pj_per_bit(hardware.buffer_bytes),
        dram_pj=8 * dram.total_bytes * table.dram_pj_per_bit,
    )


def _uniform(
    shapes: Sequence[LayerShape], leaving: frozenset[str], widths: Widths, hardware: HardwareModel
) -> list[LayerWidths]:
    sum_bits = widths.activation_bits if widths.floating else hardware.sum_bits
    return [
        LayerWidths(
            weight_bits=widths.activation_bits if shape.is_product else widths.weight_bits,
            bias_bits=widths.bias_bits,
            activation_bits=widths.activation_bits,
            output_bits=sum_bits if shape.name in leaving else widths.activation_bits,
            sum_bits=sum_bits,
            floating=widths.floating,
        )
        for shape in shapes
    ]


def _own(
    shapes: Sequence[LayerShape], entered: dict[str, set[str]], quantizers: Quantizers, hardware: HardwareModel
) -> list[LayerWidths]:
    """Return the widths that a quantized network gives each layer; an output has the widest of what it becomes."""
    for shape in shapes:
        second = shape.kernel in quantizers.activations if shape.is_product else shape.name in quantizers.weights
        missing = not second or shape.feature_map not in quantizers.activations
        if missing or (shape.bias is not None and shape.name not in quantizers.biases):
            raise GgdjaxError(f"`network` leaves `{shape.name}` or its input in float; quantize it, or pass `widths`")
    maps = {name: quantizer.bits for name, quantizer in quantizers.activations.items()}
    return [
        LayerWidths(
            weight_bits=maps[shape.kernel] if shape.is_product else quantizers.weights[shape.name].bits,
            bias_bits=hardware.sum_bits if (own := quantizers.biases.get(shape.name)) is None else own.bits,
            activation_bits=maps[shape.feature_map],
            output_bits=max((maps[name] for name in entered[shape.name]), default=hardware.sum_bits),
            sum_bits=hardware.sum_bits,
        )
        for shape in shapes
    ]
