"""Throughput of the jitted float graph and of the observing pass, against ONNX Runtime float in the same run.

    python -m experiments.benchmarks.float_throughput [--quick] [--by-op]

Same images, same batch, same threads (all that the process may use); the runs of the three alternate, and the least
time counts. CPU time is given beside wall time: on a machine that does other things too it is the fairer ratio. ONNX
Runtime's threads do not spin, since their spinning would be counted against it, and slow the others.

The observing pass is the float network that also counts every quantizable feature map into its histogram.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections import Counter as Tally
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.real_networks import NETWORKS, RealNetwork, data_folder
from ggdjax import network, report
from ggdjax.ggd import Counter
from ggdjax.quantization._numerics import Observe

RESULT = Path(__file__).resolve().parents[1] / "results" / "float_throughput.json"
#: Images per batch: so many that a pass takes tens of milliseconds, and so few that feature maps stay below the size
#: (32 MiB) from which the C library returns memory to the system after each pass.
BATCH = {"resnet20": 32, "squeezenet": 4, "mobilenet-0.25-128": 16, "mobilenet-0.75-192": 4}


def main() -> None:
    """Measure, print Markdown tables, write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few repeats; writes nothing")
    parser.add_argument("--by-op", action="store_true", help="also time every node by itself: where the time goes")
    arguments = parser.parse_args()
    figures: dict[str, Any] = {}
    print(
        "| network | batch | ONNX Runtime ms | ggdjax ms | ratio | ratio of CPU time | observing / float, wall | CPU |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for name, batch in BATCH.items():
        figure = measure(NETWORKS[name], batch, rounds=3 if arguments.quick else 8)
        figures[name] = figure
        wall, cpu = figure["wall_ms"], figure["cpu_ms"]
        print(
            f"| {name} | {batch} | {wall['onnxruntime']:.1f} | {wall['float']:.1f} "
            f"| {wall['onnxruntime'] / wall['float']:.2f} | {cpu['onnxruntime'] / cpu['float']:.2f} "
            f"| {wall['observe'] / wall['float']:.2f} | {cpu['observe'] / cpu['float']:.2f} |"
        )
    if arguments.by_op:
        for name, batch in BATCH.items():
            figures[name]["cpu_ms_by_op"] = by_op(NETWORKS[name], batch)
            print(f"\n{name}, CPU ms of each kind of node by itself:", figures[name]["cpu_ms_by_op"])
    if not arguments.quick:
        figures["threads"] = len(os.sched_getaffinity(0))
        RESULT.write_text(json.dumps(figures | report.environment(), indent=1) + "\n", encoding="utf-8")


def _prepare(real: RealNetwork, batch: int) -> tuple[network.Network, jax.Array]:
    net = real.load()
    images = real.open_images(net)
    x, _ = next(iter(images.batches(real.split(images).calibration[:batch], batch)))
    return network.fold_batch_norm(net), jnp.asarray(x)


def measure(real: RealNetwork, batch: int, rounds: int) -> dict[str, Any]:
    """Return least wall and CPU times of a pass in ms: ONNX Runtime, the float graph, the observing pass."""
    import onnxruntime

    net, x = _prepare(real, batch)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = len(os.sched_getaffinity(0))
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(str(data_folder() / "models" / real.file), options)
    feed = {session.get_inputs()[0].name: np.asarray(x)}
    counters = {feature_map.tensor: Counter.empty() for feature_map in net.graph.feature_maps()}

    @partial(jax.jit, donate_argnums=2)
    def observing(params: dict[str, jax.Array], x: jax.Array, counters: dict[str, Counter]) -> tuple[Any, Any]:
        numerics = Observe(counters, {})
        return network.run(net.graph, params, x, numerics), numerics.counters

    def observe() -> None:
        nonlocal counters
        logits, counters = observing(net.params, x, counters)
        jax.block_until_ready((logits, counters))

    passes: dict[str, Callable[[], Any]] = {
        "onnxruntime": lambda: session.run(None, feed),
        "float": lambda: jax.block_until_ready(net(x)),
        "observe": observe,
    }
    wall, cpu = ({name: np.inf for name in passes} for _ in range(2))
    for function in passes.values():
        function()
    for _ in range(rounds):
        for name, function in passes.items():
            for _ in range(3):
                start, busy = time.perf_counter(), time.process_time()
                function()
                wall[name] = min(wall[name], 1e3 * (time.perf_counter() - start))
                cpu[name] = min(cpu[name], 1e3 * (time.process_time() - busy))
    difference = np.abs(np.asarray(net(x)) - session.run(None, feed)[0]).max() / np.ptp(np.asarray(net(x)))
    return {"batch": batch, "wall_ms": wall, "cpu_ms": cpu, "logits_differ_by": float(difference)}


def by_op(real: RealNetwork, batch: int) -> dict[str, float]:
    """Return the CPU time of every kind of node, each compiled by itself: no fusion, so the sum is above the whole."""
    net, x = _prepare(real, batch)
    values = {net.graph.inputs[0]: x}
    total: Tally[str] = Tally()
    for node in net.graph.nodes:
        roles = {role: net.params[key] for role, key in node.params}
        inputs = [values[tensor] for tensor in node.inputs]
        apply = jax.jit(partial(network.Float().apply, node))
        values[node.output] = jax.block_until_ready(apply(roles, *inputs))
        times = []
        for _ in range(5):
            busy = time.process_time()
            jax.block_until_ready(apply(roles, *inputs))
            times.append(time.process_time() - busy)
        total[_kind(node, roles)] += 1e3 * min(times)
    return {kind: round(taken, 2) for kind, taken in total.most_common()}


def _kind(node: network.Node, roles: dict[str, jax.Array]) -> str:
    if node.op != "conv":
        return node.op
    window = "x".join(map(str, roles["kernel"].shape[:-2]))
    return f"conv {window}" + (" depthwise" if node.attr("groups") > 1 else "")


if __name__ == "__main__":
    main()
