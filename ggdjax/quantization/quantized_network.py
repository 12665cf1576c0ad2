"""From calibration histograms to a quantized network: every step, every fractional length."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from ggdjax import schemes, steps
from ggdjax._errors import GgdjaxError
from ggdjax.ggd import Histogram, fit
from ggdjax.network import fold_batch_norm, run
from ggdjax.quantization.config import QuantConfig
from ggdjax.quantization.evaluation import sqnr_db
from ggdjax.quantization.numerics import FakeQuant, fake_quantize
from ggdjax.quantization.parameters import FixedPoint, QuantParams

if TYPE_CHECKING:
    from jax.typing import ArrayLike
    from jaxtyping import Array, Float

    from ggdjax.ggd import FitResult
    from ggdjax.network import Graph, Network, Node
    from ggdjax.quantization.calibration import Calibration
    from ggdjax.schemes import Range


@dataclass(frozen=True, kw_only=True)
class QuantizedNetwork:
    """A network whose convolutions and dense layers compute with rounded inputs, weights and biases.

    ``q(x)`` is the fake-quantized network: float32 arithmetic on rounded values, straight-through gradients.
    """

    network: Network
    """The float network, batch normalization folded."""
    params: QuantParams
    """All steps and fractional lengths; replace them (``dataclasses.replace``) to try others."""
    config: QuantConfig
    calibration: Calibration
    fit: FitResult
    """The generalized gamma fit of each feature map's nonzero magnitudes, in the order of ``calibration.names``."""
    predicted_sqnr_db: Float[np.ndarray, " tensor"]
    """SQNR of each feature map that its fit predicts for the chosen step, dB; NaN for steps per channel, and where the
    zero point is not 0."""
    weight_sqnr_db: dict[str, float]
    """SQNR of each kernel in dB, by node name; infinite where nothing is lost."""
    bias_sqnr_db: dict[str, float]
    """SQNR of each bias in dB, by node name."""

    def __call__(self, x: ArrayLike) -> Any:
        """Return the fake-quantized network's output for a batch, in the layouts of the float network.

        Raises:
            DataError: the shape of ``x`` does not fit the network.
        """
        x = jnp.asarray(x, jnp.float32)
        self.network.check_input(x)
        return _forward(self.network.graph, self.network.params, self.params, x)


@partial(jax.jit, static_argnums=0)
def _forward(graph: Graph, params: dict[str, Array], quant: QuantParams, x: Array) -> Any:
    return run(graph, params, x, FakeQuant(quant))


def quantize(net: Network, calibration: Calibration, config: QuantConfig | None = None) -> QuantizedNetwork:
    """Choose the step of every feature map and the fractional length of every weight and bias.

    Batch normalization is folded first. Feature maps are the tensors that enter convolutions and dense layers, one
    step each (or one per channel), signed codes where calibration saw a negative value. Weights and biases get the
    fractional length of least squared error (the paper's rule), or weights a free step, for comparison.

    Args:
        net: the network that was calibrated.
        calibration: what :func:`ggdjax.calibrate` returned for it.
        config: widths and schemes; the defaults of :class:`QuantConfig` where None.

    Raises:
        GgdjaxError: the calibration is another network's or did not count the channels that ``config`` asks for, or
            a scheme is unknown.
    """
    config = QuantConfig() if config is None else config
    net = fold_batch_norm(net)
    if tuple(feature_map.tensor for feature_map in net.graph.feature_maps()) != calibration.names:
        raise GgdjaxError("`calibration` belongs to another network: its feature maps differ; calibrate this one")
    histograms = calibration.histograms
    signed = np.asarray(histograms.is_signed)
    chosen = schemes.choose(config.scheme, histograms, config.activation_bits, signed)
    fitted = fit(histograms)
    predicted = steps.predict(fitted.tail, chosen.step, config.activation_bits, signed=signed)
    known = np.asarray(chosen.zero_point) == 0
    if config.activations_per == "channel":
        activations = _per_channel(calibration, config, signed)
        known = np.zeros_like(known)
    else:
        activations = {name: _pick(chosen, i) for i, name in enumerate(calibration.names)}
    weights, biases = {}, {}
    for node in net.graph.quantizable:
        kernel = net.params[_key(node, "kernel")]
        weights[node.name] = _weight_quantizer(kernel, config)
        if node.param("bias") is not None:
            biases[node.name] = _fixed_point(net.params[_key(node, "bias")], config.bias_bits, per_channel=False)
    return QuantizedNetwork(
        network=net,
        params=QuantParams(
            activations=activations,
            weights={name: fixed for name, (fixed, _) in weights.items()},
            biases={name: fixed for name, (fixed, _) in biases.items()},
        ),
        config=config,
        calibration=calibration,
        fit=fitted,
        predicted_sqnr_db=np.where(known, np.asarray(predicted.sqnr_db), np.nan),
        weight_sqnr_db={name: sqnr for name, (_, sqnr) in weights.items()},
        bias_sqnr_db={name: sqnr for name, (_, sqnr) in biases.items()},
    )


#: Channels whose steps are chosen in one call: bounds the memory (256 KiB a channel), and one shape compiles once.
_CHANNELS = 128


def _per_channel(calibration: Calibration, config: QuantConfig, signed: np.ndarray) -> dict[str, Range]:
    """Return a step per channel of every feature map; its channels are signed where the whole is."""
    if calibration.channels is None:
        raise GgdjaxError("`activations_per` is 'channel', but channels were not counted: calibrate with `per_channel`")
    sizes = [len(calibration.channels[name].zeros) for name in calibration.names]
    all_channels = jax.tree.map(
        lambda *leaves: np.concatenate(leaves), *(calibration.channels[name] for name in calibration.names)
    )
    all_signed = np.repeat(signed, sizes)
    blocks = []
    for start in range(0, sum(sizes), _CHANNELS):
        block = jax.tree.map(lambda leaf: _filled_up(leaf[start : start + _CHANNELS]), all_channels)  # noqa: B023
        block_signed = _filled_up(all_signed[start : start + _CHANNELS])
        blocks.append(jax.device_get(schemes.choose(config.scheme, block, config.activation_bits, block_signed)))
    chosen = jax.tree.map(lambda *leaves: np.concatenate(leaves), *blocks)
    ends = np.cumsum(sizes)
    return {
        name: jax.tree.map(lambda leaf: jnp.asarray(leaf[end - size : end]), chosen)  # noqa: B023
        for name, size, end in zip(calibration.names, sizes, ends, strict=True)
    }


def _filled_up(leaf: np.ndarray) -> np.ndarray:
    return np.concatenate([leaf, np.zeros((_CHANNELS - len(leaf), *leaf.shape[1:]), leaf.dtype)])


def _pick(chosen: Range, index: int) -> Range:
    return jax.tree.map(lambda leaf: leaf[index], chosen)


def _key(node: Node, role: str) -> str:
    key = node.param(role)
    if key is None:
        raise GgdjaxError(f"node `{node.name}` has no {role}")
    return key


def _weight_quantizer(kernel: Array, config: QuantConfig) -> tuple[FixedPoint | Range, float]:
    """Return the quantizer of a kernel (output channels last), and its SQNR in dB."""
    per_channel = config.weights_per == "channel"
    if config.weight_scheme == "fixed-point":
        return _fixed_point(kernel, config.weight_bits, per_channel=per_channel)
    rows = _rows(kernel, per_channel=per_channel)
    free = schemes.choose(config.weight_scheme, Histogram.from_samples(rows, axis=1), config.weight_bits, True)
    free = free if per_channel else _pick(free, 0)
    return free, _sqnr_of(kernel, free)


def _fixed_point(w: Array, bits: int, *, per_channel: bool) -> tuple[FixedPoint, float]:
    """Return the best fixed-point format of a kernel (output channels last) or bias, and its SQNR in dB."""
    rows = _rows(w, per_channel=per_channel)
    # Zeros cost nothing under any format: padded to a power of four, all layers share a few compiled searches.
    size = 4 ** math.ceil(math.log(max(rows.shape[1], 2), 4))
    rows = jnp.pad(rows, ((0, 0), (0, size - rows.shape[1])))
    best = steps.best_fractional_length(rows, bits, axis=1)
    frac_bits = best.frac_bits if per_channel else best.frac_bits[0]
    fixed = FixedPoint(frac_bits=frac_bits, bits=jnp.int32(bits))
    return fixed, _sqnr_of(w, fixed.as_range())


def _rows(w: Array, *, per_channel: bool) -> Array:
    return w.reshape(-1, w.shape[-1]).T if per_channel else w.reshape(1, -1)


def _sqnr_of(w: Array, quantizer: Range) -> float:
    error = float(jnp.sum(jnp.square(w - fake_quantize(w, quantizer))))
    return sqnr_db(float(jnp.sum(jnp.square(w))), error)
