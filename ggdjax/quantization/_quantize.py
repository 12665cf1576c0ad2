"""From calibration histograms to a quantized network: every step, every fractional length."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import jax
import numpy as np

from ggdjax import schemes
from ggdjax._errors import GgdjaxError, expect
from ggdjax.ggd import Histogram
from ggdjax.network import fold_batch_norm
from ggdjax.quantization._config import QuantConfig, widths_of
from ggdjax.quantization._factors import round_factors
from ggdjax.quantization._powers_of_two import powers_of_two
from ggdjax.quantization._quantized_network import QuantizedNetwork
from ggdjax.quantization._quantizers import Quantizers, short_step
from ggdjax.quantization._record import Record, Stage
from ggdjax.steps import Quantizer
from ggdjax.steps._host_search import fractional_lengths

if TYPE_CHECKING:
    from jaxtyping import Array, Float, Int

    from ggdjax.network import Network, Node
    from ggdjax.quantization._calibration import Calibration
    from ggdjax.schemes import Choice


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
        GgdjaxError: the calibration is another network's or did not count the channels that ``config`` asks for.

    Example:
        >>> x = jax.random.normal(jax.random.key(0), (256, 4))
        >>> net = gd.trace(lambda x: jax.nn.relu(x @ jnp.eye(4)) @ jnp.ones((4, 2)), jnp.zeros((1, 4)))
        >>> q = gd.quantize(net, gd.calibrate(net, [x]), gd.QuantConfig(activation_bits=4, scheme="max-abs"))
        >>> [quantizer.qmax for quantizer in q.quantizers.activations.values()]
        [7, 15]
    """
    config = QuantConfig() if config is None else config
    expect("net", net, "Network")
    expect("calibration", calibration, "Calibration")
    expect("config", config, "QuantConfig")
    net = fold_batch_norm(net)
    if tuple(feature_map.tensor for feature_map in net.graph.feature_maps()) != calibration.names:
        raise GgdjaxError("`calibration` belongs to another network: its feature maps differ; calibrate this one")
    widths = widths_of(config, "activation_bits", calibration.names)
    bits_of = widths_of(config, "weight_bits", [node.name for node in net.graph.quantizable])
    given = np.asarray([config.activation_bits if bits is None else bits for bits in widths.values()])
    choices = choose_activations(calibration, config, given)
    choices = {name: choice for name, choice in choices.items() if widths[name] is not None}
    activations = {
        name: dataclasses.replace(choice.quantizer, step=short_step(choice.step)) for name, choice in choices.items()
    }
    weights, biases, coarser = {}, {}, {}
    for node in net.graph.quantizable:
        if (bits := bits_of[node.name]) is None:
            continue
        weights[node.name] = finest = choose_weights(net.params[node.param("kernel")], bits, config)
        if (bias := node.param("bias")) is not None:
            biases[node.name] = None if config.bias_bits is None else fixed_point(net.params[bias], config.bias_bits)
            if (source := activations.get(node.inputs[0])) is not None:
                weights[node.name] = beside_bias(finest, net.params[bias], source)
            if weights[node.name] is not finest:
                coarser[node.name] = np.max(np.asarray(weights[node.name].step) / np.asarray(finest.step)).item()
    stage = Stage(
        name="quantize",
        settings=dataclasses.asdict(config),
        images=calibration.images,
        figures={"coarser_for_the_bias": coarser} if coarser else {},
    )
    return QuantizedNetwork(
        graph=net.graph if config.factor_bits is None else round_factors(net.graph, calibration, config.factor_bits),
        params=net.params,
        quantizers=Quantizers(activations=activations, weights=weights, biases=biases),
        record=Record(float_network=net, config=config, calibration=calibration, choices=choices, stages=(stage,)),
    )


def choose_activations(
    calibration: Calibration, config: QuantConfig, widths: Int[np.ndarray, "*setting tensor"]
) -> dict[str, Choice]:
    """Return what the scheme of ``config`` chooses for every feature map, whatever widths ``config`` names.

    Args:
        calibration: of the network.
        config: its scheme and ``activations_per``.
        widths: of each feature map, in the order of ``calibration.names``; leading axes are settings, which stay.

    Returns:
        NumPy choices of shape ``[*setting]``, or ``[*setting, chan]`` with steps per channel.
    """
    signed = np.asarray(calibration.histograms.is_signed) | config.activations_signed
    if is_predictive(calibration, config):
        calibration = calibration.predictive()
    if config.activations_per == "channel":
        return _choose_channels(calibration, config, widths, signed)
    size = padded_size(len(signed))  # the choices for the padding are dropped below
    histograms = jax.tree.map(lambda leaf: pad_tensors(leaf, size), calibration.histograms)
    widths = np.maximum(pad_tensors(widths.T, size).T, 2)
    chosen = jax.device_get(schemes.choose(config.scheme, histograms, widths, pad_tensors(signed, size)))
    if config.activation_steps == "power-of-two":
        chosen = powers_of_two(chosen, histograms)
    return {name: chosen[..., i] for i, name in enumerate(calibration.names)}


#: From this many images on the predictive histogram changes nothing any more.
PREDICTIVE_BELOW = 1000


def is_predictive(calibration: Calibration, config: QuantConfig) -> bool:
    """Return whether the scheme gets predictive histograms (`QuantConfig.predictive`)."""
    if config.predictive is None:
        return schemes.get(config.scheme).predictive and calibration.images < PREDICTIVE_BELOW
    return config.predictive


def choose_weights(kernel: Float[Array, "*window cin cout"], bits: int, config: QuantConfig) -> Quantizer:
    """Return the quantizer of a kernel, by the rule that ``config`` names."""
    per_channel = config.weights_per == "channel"
    if config.weight_scheme == "fixed-point":
        return fixed_point(kernel, bits, per_channel=per_channel)
    rows = _rows_of(kernel, per_channel=per_channel)
    free = schemes.choose(config.weight_scheme, Histogram.from_samples(rows, axis=1), bits, True)
    return (free if per_channel else free[0]).quantizer


def fixed_point(w: Float[Array, "*rest chan"], bits: int, *, per_channel: bool = False) -> Quantizer:
    """Return the fixed-point quantizer of least squared error for a kernel (output channels last) or bias."""
    frac_bits = fractional_lengths(_rows_of(w, per_channel=per_channel), bits)
    return Quantizer.fixed_point(frac_bits if per_channel else frac_bits[0], bits)


#: Largest integer of a bias: the other half of an accumulator of 32 bits is left to the products.
_MOST_BIAS = 2.0**30


def beside_bias(weights: Quantizer, bias: Float[Array, " cout"], source: Quantizer) -> Quantizer:
    """Return the weights' quantizer, its steps coarser where the bias would not fit on the accumulator's grid.

    The grid is Δ_in · Δ_w, so that very small weights beside an ordinary bias make it too fine: |b| ≤ 2^30 Δ_in Δ_w.
    Powers of two stay powers of two.
    """
    if np.ndim(source.step):
        return weights
    step, size = np.asarray(weights.step, np.float64), np.abs(np.asarray(bias, np.float64))
    least = (size if step.ndim else size.max(initial=0.0)) / (_MOST_BIAS * float(source.step))
    if (step >= least).all():
        return weights
    if weights.frac_bits is not None:
        least = np.exp2(np.ceil(np.log2(np.maximum(least, step))))
    return dataclasses.replace(weights, step=jax.device_put(np.maximum(step, least).astype(np.float32)))


def changed_bias(node: Node, bias: Float[Array, " cout"], old: Quantizers) -> Quantizer | None:
    """Return the quantizer of a bias that was changed: its accumulator's grid (None) where it was, else fixed point."""
    was = old.biases[node.name]
    return None if was is None else fixed_point(bias, was.bits)


def _rows_of(w: Float[Array, "*rest chan"], *, per_channel: bool) -> Float[np.ndarray, "row value"]:
    """Return the values that share one quantizer as rows: one, or one per output channel."""
    w = np.asarray(w)
    return w.reshape(-1, w.shape[-1]).T if per_channel else w.reshape(1, -1)


#: Channels whose steps are chosen in one call: bounds the memory (256 KiB a channel), and one shape compiles once.
_CHANNELS = 128


def _choose_channels(
    calibration: Calibration, config: QuantConfig, widths: np.ndarray, signed: np.ndarray
) -> dict[str, Choice]:
    """Return a step per channel of every feature map; its channels are signed where the whole is."""
    if calibration.channels is None:
        raise GgdjaxError("`activations_per` is 'channel', but channels were not counted: calibrate with `per_channel`")
    sizes = [len(calibration.channels[name].zeros) for name in calibration.names]
    all_channels = jax.tree.map(
        lambda *leaves: np.concatenate(leaves), *(calibration.channels[name] for name in calibration.names)
    )
    all_signed, all_widths = np.repeat(signed, sizes), np.repeat(widths, sizes, axis=-1)
    blocks = []
    for start in range(0, sum(sizes), _CHANNELS):
        block = jax.tree.map(lambda leaf: pad_tensors(leaf[start : start + _CHANNELS], _CHANNELS), all_channels)  # noqa: B023
        block_signed = pad_tensors(all_signed[start : start + _CHANNELS], _CHANNELS)
        block_widths = pad_tensors(all_widths[..., start : start + _CHANNELS].T, _CHANNELS).T
        chosen = schemes.choose(config.scheme, block, np.maximum(block_widths, 2), block_signed)
        blocks.append(jax.device_get(chosen))
    axis = widths.ndim - 1
    chosen = jax.tree.map(lambda *leaves: np.concatenate(leaves, axis=axis)[..., : sum(sizes)], *blocks)
    if config.activation_steps == "power-of-two":
        chosen = powers_of_two(chosen, all_channels)
    ends = np.cumsum(sizes)
    return {name: chosen[..., end - size : end] for name, size, end in zip(calibration.names, sizes, ends, strict=True)}


def padded_size(tensors: int) -> int:
    """Return to how many tensors a batch is padded: few sizes, so that networks share compiled programs."""
    return max(8, 1 << (tensors - 1).bit_length())


def pad_tensors(leaf: np.ndarray, size: int) -> np.ndarray:
    """Return ``leaf`` with zeros behind, ``size`` long along its first axis."""
    leaf = np.asarray(leaf)
    return np.concatenate([leaf, np.zeros((size - len(leaf), *leaf.shape[1:]), leaf.dtype)])
