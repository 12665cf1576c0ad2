"""From calibration histograms to a quantized network: every step, every fractional length."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from ggdjax import schemes, steps
from ggdjax._errors import GgdjaxError
from ggdjax.ggd import Histogram, fit
from ggdjax.network import fold_batch_norm
from ggdjax.network._chunks import run_in_chunks
from ggdjax.quantization.config import QuantConfig, refuse_unknown
from ggdjax.quantization.evaluation import sqnr_db
from ggdjax.quantization.numerics import FakeQuant, fake_quantize
from ggdjax.quantization.parameters import FixedPoint, QuantParams, as_range, best_format, rows_of

if TYPE_CHECKING:
    from collections.abc import Mapping

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
    calibration: Calibration | None
    """What the steps were chosen from; None where a file brought them (see `load_qdq`)."""
    fit: FitResult | None
    """The generalized gamma fit of each feature map's nonzero magnitudes, in the order of ``calibration.names``."""
    predicted_sqnr_db: Float[np.ndarray, " tensor"]
    """SQNR of each feature map that its fit predicts for the chosen step, dB; NaN where the zero point is not 0, and
    for all where steps are per channel or a feature map stays in float."""
    weight_sqnr_db: dict[str, float]
    """SQNR in dB of each rounded kernel against that of ``network``, by node name; infinite where nothing is lost."""
    bias_sqnr_db: dict[str, float]
    """SQNR in dB of each rounded bias against the one that was rounded, which may be an adjusted one, by node name."""
    adjusted: dict[str, Array] = field(default_factory=dict)
    """Kernels and biases, by parameter key, that take the place of the float network's before they are rounded: what
    rounding offsets and bias correction changed. The float network stays what it was."""
    history: Any = None
    """How the parameters were tuned (see `ggdjax.tune`); None where they were not."""

    @property
    def float_params(self) -> dict[str, Array]:
        """The parameters that are rounded: the float network's, with the adjusted ones in their place."""
        return {**self.network.params, **self.adjusted}

    def with_params(
        self, params: QuantParams, *, adjusted: dict[str, Array] | None = None, history: Any = None
    ) -> QuantizedNetwork:
        """Return a copy with other quantization parameters; predicted and measured SQNR follow them."""
        adjusted = self.adjusted if adjusted is None else adjusted
        graph, floats = self.network.graph, self.network.params
        used = {**floats, **adjusted}
        return replace(
            self,
            params=params,
            adjusted=adjusted,
            predicted_sqnr_db=_predicted(self.fit, params, self.calibration),
            weight_sqnr_db=_sqnr_of_all(graph, params.weights, "kernel", floats, used),
            bias_sqnr_db=_sqnr_of_all(graph, params.biases, "bias", used, used),
            history=self.history if history is None else history,
        )

    def __call__(self, x: ArrayLike) -> Any:
        """Return the fake-quantized network's output for a batch, in the layouts of the float network.

        Raises:
            DataError: the shape of ``x`` does not fit the network.
        """
        x = jnp.asarray(x, jnp.float32)
        self.network.check_input(x)
        return _forward(self.network.graph, self.float_params, self.params, x)


@partial(jax.jit, static_argnums=0)
def _forward(graph: Graph, params: dict[str, Array], quant: QuantParams, x: Array) -> Any:
    return run_in_chunks(graph, params, x, partial(FakeQuant, quant))


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

    Example:
        >>> x = jax.random.normal(jax.random.key(0), (256, 4))
        >>> net = gd.trace(lambda x: jax.nn.relu(x @ jnp.eye(4)) @ jnp.ones((4, 2)), jnp.zeros((1, 4)))
        >>> q = gd.quantize(net, gd.calibrate(net, [x]), gd.QuantConfig(activation_bits=4, scheme="max-abs"))
        >>> [int(quantizer.qmax) for quantizer in q.params.activations.values()]
        [7, 15]
    """
    config = QuantConfig() if config is None else config
    net = fold_batch_norm(net)
    if tuple(feature_map.tensor for feature_map in net.graph.feature_maps()) != calibration.names:
        raise GgdjaxError("`calibration` belongs to another network: its feature maps differ; calibrate this one")
    refuse_unknown("weight_bits_of", config.weight_bits_of, [node.name for node in net.graph.quantizable])
    refuse_unknown("activation_bits_of", config.activation_bits_of, calibration.names)
    histograms = calibration.histograms
    signed = np.asarray(histograms.is_signed)
    widths = np.asarray([config.activation_bits_of.get(name, config.activation_bits) for name in calibration.names])
    if config.activations_per == "channel":
        activations = _per_channel(calibration, config, signed, widths)
    else:
        chosen = schemes.choose(config.scheme, histograms, widths, signed)
        activations = {name: _pick(chosen, i) for i, name in enumerate(calibration.names)}
    weights, biases = {}, {}
    for node in net.graph.quantizable:
        bits = config.weight_bits_of.get(node.name, config.weight_bits)
        weights[node.name] = _weight_quantizer(net.params[_key(node, "kernel")], bits, config)
        if (bias := node.param("bias")) is not None:
            biases[node.name] = best_format(net.params[bias], config.bias_bits)
    params = QuantParams(activations=activations, weights=weights, biases=biases)
    fitted = fit(histograms)
    return QuantizedNetwork(
        network=net,
        params=params,
        config=config,
        calibration=calibration,
        fit=fitted,
        predicted_sqnr_db=_predicted(fitted, params, calibration),
        weight_sqnr_db=_sqnr_of_all(net.graph, weights, "kernel", net.params, net.params),
        bias_sqnr_db=_sqnr_of_all(net.graph, biases, "bias", net.params, net.params),
    )


def _predicted(
    fitted: FitResult | None, params: QuantParams, calibration: Calibration | None
) -> Float[np.ndarray, " tensor"]:
    """Return the SQNR that the fits predict for the steps of whole feature maps, dB; NaN where they do not tell."""
    if fitted is None or calibration is None:
        return np.full(len(params.activations), np.nan)
    quantizers = [params.activations.get(name) for name in calibration.names]
    if any(q is None or q.step.ndim for q in quantizers):
        return np.full(len(quantizers), np.nan)
    step, zero_point, qmin, qmax = (
        np.asarray([getattr(q, name) for q in quantizers]) for name in ("step", "zero_point", "qmin", "qmax")
    )
    widths = np.round(np.log2(qmax.astype(np.float64) - qmin + 1)).astype(np.int32)
    predicted = steps.predict(fitted.tail, step, widths, signed=np.asarray(calibration.histograms.is_signed))
    return np.where(zero_point == 0, np.asarray(predicted.sqnr_db), np.nan)


#: Channels whose steps are chosen in one call: bounds the memory (256 KiB a channel), and one shape compiles once.
_CHANNELS = 128


def _per_channel(
    calibration: Calibration, config: QuantConfig, signed: np.ndarray, widths: np.ndarray
) -> dict[str, Range]:
    """Return a step per channel of every feature map; its channels are signed where the whole is."""
    if calibration.channels is None:
        raise GgdjaxError("`activations_per` is 'channel', but channels were not counted: calibrate with `per_channel`")
    sizes = [len(calibration.channels[name].zeros) for name in calibration.names]
    all_channels = jax.tree.map(
        lambda *leaves: np.concatenate(leaves), *(calibration.channels[name] for name in calibration.names)
    )
    all_signed, all_widths = np.repeat(signed, sizes), np.repeat(widths, sizes)
    blocks = []
    for start in range(0, sum(sizes), _CHANNELS):
        block = jax.tree.map(lambda leaf: _filled_up(leaf[start : start + _CHANNELS]), all_channels)  # noqa: B023
        block_signed = _filled_up(all_signed[start : start + _CHANNELS])
        block_widths = np.maximum(_filled_up(all_widths[start : start + _CHANNELS]), 2)
        blocks.append(jax.device_get(schemes.choose(config.scheme, block, block_widths, block_signed)))
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


def _weight_quantizer(kernel: Array, bits: int, config: QuantConfig) -> FixedPoint | Range:
    """Return the quantizer of a kernel (output channels last)."""
    per_channel = config.weights_per == "channel"
    if config.weight_scheme == "fixed-point":
        return best_format(kernel, bits, per_channel=per_channel)
    rows = rows_of(kernel, per_channel=per_channel)
    free = schemes.choose(config.weight_scheme, Histogram.from_samples(rows, axis=1), bits, True)
    return free if per_channel else _pick(free, 0)


def _sqnr_of_all(
    graph: Graph,
    quantizers: Mapping[str, FixedPoint | Range],
    role: str,
    wanted: Mapping[str, Array],
    rounded: Mapping[str, Array],
) -> dict[str, float]:
    """Return the SQNR in dB, against what was wanted, of every rounded kernel or bias that has a quantizer."""
    found = {}
    for name, quantizer in quantizers.items():
        key = _key(graph.node(name), role)
        error = wanted[key] - fake_quantize(rounded[key], as_range(quantizer))
        found[name] = sqnr_db(float(jnp.sum(jnp.square(wanted[key]))), float(jnp.sum(jnp.square(error))))
    return found
