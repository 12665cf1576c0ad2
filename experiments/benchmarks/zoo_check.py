"""Every network of the zoo at its published size: parameters, MACs, and its trace against the module.

    python -m experiments.benchmarks.zoo_check [NAME …]

Each network is drawn at random, with normalizations that are no identity, and run on one random image: by its own
module, by the traced graph, by the graph with normalizations folded, and by ONNX Runtime on the exported file.
Differences are the largest ones, relative to the largest output. Without names, the figures of all are written.
"""

from __future__ import annotations

import argparse
import gc
import json
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import onnxruntime
from flax import nnx

import ggdjax as gd
from ggdjax import network, report, zoo

RESULT = Path(__file__).resolve().parents[1] / "results" / "zoo_check.json"


def draw_normalizations(module: nnx.Module, rng: np.random.Generator) -> None:
    """Draw scales, shifts and statistics of all normalizations, and biases, near their usual values."""
    state = nnx.state(module, (nnx.Param, nnx.BatchStat))
    for path, variable in nnx.to_flat_state(state):
        shape = variable.get_value().shape
        if path[-1] in {"scale", "var"}:
            variable.set_value(jnp.asarray(rng.uniform(0.5, 1.5, shape), jnp.float32))
        elif path[-1] in {"mean", "bias"}:
            variable.set_value(jnp.asarray(0.1 * rng.standard_normal(shape), jnp.float32))
    nnx.update(module, state)


def by_onnxruntime(net: gd.Network, x: np.ndarray) -> np.ndarray:
    """Return the output of the exported file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.onnx"
        network.export_onnx(net, path)
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        (output,) = session.run(None, {session.get_inputs()[0].name: x})
    return output


def check(name: str) -> dict[str, float]:
    """Return the figures of one network."""
    known, rng = zoo.entry(name), np.random.default_rng(0)
    module = zoo.create(name)
    draw_normalizations(module, rng)
    x = rng.standard_normal((1, *known.input_shape), np.float32)
    with jax.default_matmul_precision("highest"):
        expected = np.asarray(jax.jit(module.__call__)(x))
    net = gd.trace(module, x)
    folded = network.fold_batch_norm(net)
    figures = {"parameters": network.count_parameters(net), "macs": network.count_macs(net)}
    outputs = {"trace": net(x), "folded": folded(x), "onnxruntime": by_onnxruntime(folded, x)}
    for way, output in outputs.items():
        figures[way] = float(np.abs(output - expected).max() / np.abs(expected).max())
    agrees = known.parameters.agrees(figures["parameters"]) and known.macs.agrees(figures["macs"])
    return figures | {"published": agrees}


def main() -> None:
    """Check, print a Markdown table, write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="networks to check (default: all)")
    names = parser.parse_args().names
    figures = {}
    print("| network | parameters | MACs | as published | trace | folded | ONNX Runtime |")
    print("|---|---|---|---|---|---|---|")
    for name in names or zoo.names():
        figures[name] = f = check(name)
        sizes = f"{f['parameters']:,} | {f['macs']:,} | {'yes' if f['published'] else 'NO'}"
        differences = " | ".join(f"{f[way]:.1e}" for way in ("trace", "folded", "onnxruntime"))
        print(f"| {name} | {sizes} | {differences} |", flush=True)
        jax.clear_caches()
        gc.collect()
    if not names:
        RESULT.write_text(json.dumps({"networks": figures} | report.environment(), indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
