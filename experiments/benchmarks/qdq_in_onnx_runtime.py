"""The exported QDQ file in ONNX Runtime at its default optimization, against fake quantization, on the real networks.

    python -m experiments.benchmarks.qdq_in_onnx_runtime                 weights per tensor and per channel, 700 images
    python -m experiments.benchmarks.qdq_in_onnx_runtime --network resnet20

Weights and feature maps of 8 bits, scheme `ggd`. Expected: the same class for at least 99.5 % of the images, on CPUs
whose 16-bit sums of products saturate too (x86 without VNNI; the first line says what this one does).
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime

import ggdjax as gd
from experiments.images import some
from experiments.real_networks import NETWORKS
from experiments.rows import merged
from ggdjax import datapath, export, report

RESULTS = Path(__file__).resolve().parents[1] / "results" / "qdq_in_onnx_runtime.json"


def session(model: Path | bytes) -> onnxruntime.InferenceSession:
    """Return a session at the default optimization."""
    source = str(model) if isinstance(model, Path) else model
    return onnxruntime.InferenceSession(source, providers=["CPUExecutionProvider"])


def saturates() -> bool:
    """Whether sums of two products saturate at 16 bits here: 64 · 255 · 127, in integers."""
    node = onnx.helper.make_node("MatMulInteger", ["x", "w"], ["y"])
    kinds = onnx.TensorProto
    graph = onnx.helper.make_graph(
        [node],
        "pairs",
        [onnx.helper.make_tensor_value_info("x", kinds.UINT8, [1, 64])],
        [onnx.helper.make_tensor_value_info("y", kinds.INT32, [1, 16])],
        [onnx.numpy_helper.from_array(np.full((64, 16), 127, np.int8), "w")],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    (sums,) = session(model.SerializeToString()).run(None, {"x": np.full((1, 64), 255, np.uint8)})
    return bool((sums != 64 * 255 * 127).any())


def run(args: argparse.Namespace) -> None:
    """Compare on every network, weights per tensor and per channel."""
    saturating = saturates()
    print(f"ONNX Runtime {onnxruntime.__version__}, sums of two products saturate here: {saturating}", flush=True)
    for name in args.network or NETWORKS:
        real = NETWORKS[name]
        net = real.load()
        images = real.open_images(net)
        parts = real.split(images)
        calibration = gd.calibrate(net, (x for x, _ in images.batches(parts.calibration, real.batch_size)))
        chosen = some(images, parts.held_out, args.images)
        for per in ("tensor", "channel"):
            q = gd.quantize(net, calibration, gd.QuantConfig(weights_per=per))
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "qdq.onnx"
                export.export_onnx(datapath.compile(q), path)
                runtime = session(path)
            same = 0
            for x, _ in images.batches(chosen, real.batch_size):
                (logits,) = runtime.run(None, {runtime.get_inputs()[0].name: np.asarray(x)})
                same += int((logits.argmax(-1) == np.asarray(q(x)).argmax(-1)).sum())
            row = {"network": name, "weights_per": per, "saturates": saturating, "images": len(chosen)}
            row["same_top1"] = same / len(chosen)
            rows = merged(RESULTS, [row], "network", "weights_per", "saturates")
            RESULTS.write_text(json.dumps({**report.environment(), "rows": rows}, indent=1) + "\n", encoding="utf-8")
            print(f"{name:20} weights per {per:8} same class {row['same_top1']:.2%} of {len(chosen)}", flush=True)


def main() -> None:
    """Read the command line, run, write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", action="append", choices=list(NETWORKS), help="only this network (repeatable)")
    parser.add_argument("--images", type=int, default=700, help="up to N held-out images")
    run(parser.parse_args())


if __name__ == "__main__":
    main()
