"""Weights first: the steps of feature maps chosen again, from what the rounded weights compute."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from ggdjax._errors import GgdjaxError, expect
from ggdjax.quantization._calibration import VALUES_PER_BATCH, calibrate
from ggdjax.quantization._quantize import beside_bias, choose_activations
from ggdjax.quantization._quantizers import short_step
from ggdjax.quantization._record import Stage

if TYPE_CHECKING:
    from collections.abc import Iterable

    from jaxtyping import Array, Float

    from ggdjax.data import Preprocessing
    from ggdjax.quantization._quantized_network import QuantizedNetwork


def recalibrate(
    q: QuantizedNetwork,
    batches: Iterable[Float[Array, "batch ..."]],
    *,
    preprocessing: Preprocessing | None = None,
    values_per_batch: int | None = VALUES_PER_BATCH,
) -> QuantizedNetwork:
    """Return the network with the steps of its feature maps chosen for its rounded weights.

    Calibrates `QuantizedNetwork.rounded_network`, the network whose weights and biases are rounded and whose feature
    maps are not, and lets the scheme of ``q.record.config`` choose again, at the present widths. Weights stay as they
    are, on their grids, and biases on theirs. Tuned steps are replaced: call it before tuning. Costs one pass.

    Args:
        q: what :func:`ggdjax.quantize` or :func:`ggdjax.tune.round_weights` returned.
        batches: the calibration images, as for :func:`ggdjax.calibrate`.
        preprocessing: of the images, likewise.
        values_per_batch: likewise.

    Raises:
        GgdjaxError: the network has no record of the settings that its steps were chosen by.
        DataError: see :func:`ggdjax.calibrate`.

    Example:
        >>> x = jax.random.normal(jax.random.key(0), (256, 4))
        >>> net = gd.trace(lambda x: jax.nn.relu(x @ jnp.eye(4)) @ jnp.ones((4, 2)), jnp.zeros((1, 4)))
        >>> q = gd.quantize(net, gd.calibrate(net, [x]), gd.QuantConfig(weight_bits=4))
        >>> [stage.name for stage in gd.recalibrate(q, [x]).record.stages]
        ['quantize', 'recalibrate']
    """
    expect("q", q, "QuantizedNetwork")
    if q.record is None or q.record.config is None:
        raise GgdjaxError("`q` has no record of how its steps were chosen: give what `gd.quantize` returned")
    config, old = q.record.config, q.quantizers
    per_channel = config.activations_per == "channel"
    calibration = calibrate(
        q.rounded_network,
        batches,
        preprocessing=preprocessing,
        per_channel=per_channel,
        values_per_batch=values_per_batch,
    )
    widths = [old.activations[name].bits if name in old.activations else 2 for name in calibration.names]
    choices = choose_activations(calibration, config, np.asarray(widths))
    choices = {name: choice for name, choice in choices.items() if name in old.activations}
    activations = {name: replace(choice.quantizer, step=short_step(choice.step)) for name, choice in choices.items()}
    weights = dict(old.weights)
    for node in q.graph.quantizable:
        source, bias = activations.get(node.inputs[0]), node.param("bias")
        if node.name in weights and bias is not None and source is not None:
            weights[node.name] = beside_bias(weights[node.name], q.params[bias], source)
    ratio = {name: (np.asarray(a.step) / np.asarray(old.activations[name].step)) for name, a in activations.items()}
    stage = Stage(
        name="recalibrate",
        images=calibration.images,
        figures={"step_ratio": {name: value.tolist() for name, value in ratio.items()}},
    )
    q = q.changed(stage, quantizers=replace(old, activations=activations, weights=weights))
    return replace(q, record=replace(q.record, calibration=calibration, choices=choices))
