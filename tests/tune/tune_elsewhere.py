"""Run the search of the tests with other devices or processes: tune_elsewhere.py OUT RANK RANKS PORT."""

from __future__ import annotations

import sys

import jax
import numpy as np


def main() -> None:
    """Tune and let the first process write the parameters."""
    out, rank, ranks, port = sys.argv[1], *map(int, sys.argv[2:])
    if ranks > 1:
        jax.distributed.initialize(f"localhost:{port}", num_processes=ranks, process_id=rank)
    from test_backward_forward import CONFIG
    from tiny import tiny_quantized

    from ggdjax import tune
    from ggdjax.quantization._serialize import quantizers_record

    q, images, labels = tiny_quantized()
    tuned = tune.backward_forward(q, images, labels, CONFIG)
    if rank == 0:
        np.savez(out, **quantizers_record(tuned.quantizers)[1])


if __name__ == "__main__":
    main()
