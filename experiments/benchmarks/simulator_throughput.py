"""Images per second: the integer simulator, the jitted float network, ONNX Runtime on the exported 8-bit files.

    python -m experiments run timings --benchmarks simulator-throughput

All on the same cores, one batch in memory, the least of several runs. Expected: the simulator at least 0.8 times as
fast as the float graph. ONNX Runtime runs the QDQ file with its own 8-bit kernels (not bit-exact) and the integer file
(bit-exact: checked here, on all logits).
"""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from experiments.bench import Bench
from experiments.onnx_runtime import predictor
from experiments.real_networks import NETWORKS
from experiments.timing import seconds
from ggdjax import datapath, export


def measure(name: str, quick: bool) -> dict[str, Any]:
    """Return the figures of one network."""
    repeats = 1 if quick else 5
    bench = Bench(NETWORKS[name], held_out=NETWORKS[name].batch_size)
    q, x = datapath.align(bench.quantized((8, 8))), bench.batches[0][0]
    rows = {"float": lambda: q.float_network(x), "fake_quantized": lambda: q(x)}
    for bits in (31, 16):
        program = datapath.compile(q, datapath.Accelerator(multiplier_bits=bits))
        rows[f"simulator_multiplier_{bits}"] = lambda program=program: program(x)
    times = {key: seconds(call, repeats) for key, call in rows.items()}
    exact = {}
    with tempfile.TemporaryDirectory() as folder:
        program = datapath.compile(q)
        for form in ("qdq", "integer"):
            path = Path(folder) / f"{form}.onnx"
            export.export_onnx(program, path, form=form)
            run = partial(predictor(path), np.asarray(x))
            times[f"onnxruntime_{form}"] = seconds(run, repeats)
            expected = program.integers(x) if form == "integer" else program(x)
            exact[form] = float(np.mean(run() == np.asarray(expected)))
    row = {"batch": len(x)}
    row |= {f"{key}_images_per_second": len(x) / t for key, t in times.items()}
    row["simulator_over_float"] = times["float"] / times["simulator_multiplier_31"]
    row["integer_logits_equal_to_onnxruntime"] = exact["integer"]
    return row
