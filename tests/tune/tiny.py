"""A tiny network with a branch, quantized to few bits, and labelled images it is better on than chance."""

from __future__ import annotations

import numpy as np

from ggdjax import data, network, quantization, zoo


def tiny_quantized():
    """Return (quantized network, images, labels): the embedded digits network at 3 bits."""
    net = network.fold_batch_norm(network.trace(zoo.digits_net(), np.zeros((1, 8, 8, 1), np.float32)))
    images = data.digits()
    parts = data.split(images, 100, 0)
    calibration = quantization.calibrate(net, (x for x, _ in images.batches(parts.calibration, 50)))
    # A scheme that compiles fast: the search does not care where it starts.
    config = quantization.QuantConfig(weight_bits=2, activation_bits=3, scheme="octav")
    q = quantization.quantize(net, calibration, config)
    pairs = list(images.batches(parts.held_out[:96], 96))
    return q, pairs[0][0], pairs[0][1]
