"""Calibrate, evaluate, round and tune the tiny network with other devices or processes: devices_elsewhere.py OUT RANK
RANKS PORT."""

from __future__ import annotations

import pickle
import sys

import jax
import numpy as np


def results(mesh=None) -> dict:
    """Return every figure by name: counts, scores, parameters."""
    from tiny import tiny_quantized

    import ggdjax as gd
    from ggdjax import tune
    from ggdjax.quantization._calibration import _observe

    q, images, labels = tiny_quantized()
    batches = [images[:30], images[30:55], images[55:]]
    before = _observe._cache_size()
    found = gd.calibrate(q.float_network, batches, per_channel=True, values_per_batch=512, mesh=mesh)
    programs = _observe._cache_size() - before
    evaluation = gd.evaluate(q, [(images[:50], labels[:50]), (images[50:], labels[50:])], mesh=mesh)
    rounded = tune.round_weights(q, images, tune.RoundingConfig(batch_size=16), mesh=mesh)
    settings = tune.GradientConfig(steps=4, batch_size=16, held_back=0.25)
    tuned = tune.gradient(q, images, labels, settings, mesh=mesh)
    return jax.device_get(
        {
            "programs": programs,
            "histograms": found.histograms,
            "channels": found.channels,
            "ranges": found.ranges,
            "moments": found.moments.to_arrays(),
            "correct": (evaluation.float_correct, evaluation.quantized_correct),
            "sqnr": evaluation.sqnr_db,
            "rounded": {name: np.asarray(value) for name, value in rounded.params.items()},
            "tuned": {name: np.asarray(value) for name, value in tuned.params.items()},
            "losses": tuned.history.losses,
        }
    )


def main() -> None:
    """Write the results of the first process."""
    out, rank, ranks, port = sys.argv[1], *map(int, sys.argv[2:])
    if ranks > 1:
        jax.distributed.initialize(f"localhost:{port}", num_processes=ranks, process_id=rank)
    mesh = jax.sharding.Mesh(np.asarray(jax.devices()).reshape(-1, 2 if ranks == 1 else 1), ("data", "candidate"))
    found = results(mesh)
    if rank == 0:
        with open(out, "wb") as file:
            pickle.dump(found, file)


if __name__ == "__main__":
    main()
