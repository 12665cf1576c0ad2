"""A tuned ResNet-20 in memory, loaded from its file by another process, and exported: the same accuracy.

    python -m experiments.benchmarks.saved_networks                 tune for 120 steps, save, load, export, evaluate
    python -m experiments.benchmarks.saved_networks --steps 400

CIFAR-10, weights and feature maps of 4 bits. Calibrated on 512 training images, tuned by gradients on 2,000 others
without labels, evaluated on the 10,000 test images, as the experiment `gradient` does. Four times the same network:

- `in memory`: what `tune.gradient` returned;
- `loaded`: what `gd.load` gives for its file in a process that has nothing else. Expected: the same bits as logits;
- `aligned`: `datapath.align` of it, which is what is compiled;
- `ONNX`: the compiled program in ONNX Runtime. Quantize and dequantize nodes (`qdq`) have codes of 8 bits, so that 4
  bits are written in the form `integer`. Expected: the integers of the program, bit for bit.

Writes `experiments/results/saved_networks.json` after every part. Ten minutes on one core beside other work.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime

import ggdjax as gd
from experiments.configs.gradient import METHODS, Gradient
from experiments.experiment import widths_of
from experiments.provenance import code_version
from ggdjax import datapath, export, quantization, report

if TYPE_CHECKING:
    from collections.abc import Callable

    from ggdjax.datapath import Program

RESULTS = Path(__file__).resolve().parents[1] / "results" / "saved_networks.json"
BITS = "4/4"
#: The whole of another process: the file is all it is given of the network.
FRESH = """
import sys
import numpy as np
import ggdjax as gd
file, images, size, out = sys.argv[1:]
q, x, size = gd.load(file), np.load(images), int(size)
np.save(out, np.concatenate([np.asarray(q(x[i : i + size])) for i in range(0, len(x), size)]))
"""


def run(steps: int) -> None:
    """Tune the network, and write what each form of it gives."""
    experiment = Gradient(networks=("resnet20",), steps=steps)
    prepared = experiment.prepare("resnet20", 0)
    q, tuned = experiment.tuned(prepared, *widths_of(BITS), METHODS["gradient"])
    bench = prepared["bench"]
    batches, labels = [x for x, _ in bench.batches], np.concatenate([y for _, y in bench.batches])
    found: dict[str, Any] = {"network": "resnet20", "bits": BITS, "evaluation_images": 0, "rows": [], "tuning": tuned}
    found |= {"code": code_version(), **report.environment()}

    def keep(form: str, logits: np.ndarray, **more: Any) -> None:
        accuracy = quantization.accuracy(lambda batch: batch, [(logits, labels)])
        row = {"form": form, "top1": accuracy.top1, "top1_interval": accuracy.interval(), "top5": accuracy.top5}
        found["evaluation_images"] = accuracy.images
        found["rows"].append(row | more)
        RESULTS.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        print(f"{form:10} top-1 {accuracy.top1:.2%}, top-5 {accuracy.top5:.2%} of {accuracy.images} {more}", flush=True)

    def compared(logits: np.ndarray, other: np.ndarray) -> dict[str, Any]:
        same = np.mean(logits.argmax(axis=1) == other.argmax(axis=1))
        equal = bool(np.array_equal(logits, other)) and logits.dtype == other.dtype
        return {"logits_equal": equal, "same_class": float(same), "largest": float(np.abs(logits - other).max())}

    keep("float", logits_of(bench.net, batches))
    keep("before", logits_of(bench.quantized(widths_of(BITS)), batches))
    in_memory = logits_of(q, batches)
    keep("in memory", in_memory)
    with tempfile.TemporaryDirectory() as place:
        file = Path(place) / "resnet20.safetensors"
        q.save(file)
        loaded = in_fresh_process(file, np.concatenate(batches), bench.size)
        keep("loaded", loaded, file_bytes=file.stat().st_size, **compared(loaded, in_memory))
        aligned = datapath.align(q)
        logits = logits_of(aligned, batches)
        keep("aligned", logits, **compared(logits, in_memory))
        program = datapath.compile(aligned)
        form, refused = exported(program, Path(place) / "resnet20.onnx")
        logits, wrong, seconds = in_onnxruntime(program, Path(place) / "resnet20.onnx", form, batches)
    more = compared(logits, in_memory) | {"integers_differing_from_program": wrong, "seconds": round(seconds, 1)}
    keep("ONNX", logits, onnx_form=form, qdq_refused=refused, **more)


def logits_of(forward: Callable[[Any], Any], batches: list[np.ndarray]) -> np.ndarray:
    """Return the logits of all images."""
    return np.concatenate([np.asarray(forward(x)) for x in batches])


def in_fresh_process(file: Path, images: np.ndarray, size: int) -> np.ndarray:
    """Return the logits of a network's file, loaded and run by another process."""
    x, out = file.with_name("images.npy"), file.with_name("logits.npy")
    np.save(x, images)
    subprocess.run([sys.executable, "-c", FRESH, file, x, str(size), out], check=True)
    return np.load(out)


def exported(program: Program, path: Path) -> tuple[str, str | None]:
    """Write a program as ONNX; return the form, and why it is not `qdq` where it is not."""
    try:
        export.export_onnx(program, path, form="qdq")
    except gd.GgdjaxError as error:
        export.export_onnx(program, path, form="integer")
        return "integer", str(error)
    return "qdq", None


def in_onnxruntime(
    program: Program, path: Path, form: str, batches: list[np.ndarray]
) -> tuple[np.ndarray, int | None, float]:
    """Return the logits by ONNX Runtime, how many integers are not those of the program, and seconds."""
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # waiting threads would take the cores
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    began = time.perf_counter()
    outputs = np.concatenate([session.run(None, {session.get_inputs()[0].name: x})[0] for x in batches])
    seconds = time.perf_counter() - began
    if form == "qdq":
        return outputs, None, seconds
    wrong = np.count_nonzero(outputs != logits_of(program.integers, batches))
    return outputs.astype(np.float32) * np.float32(program.output_scale[0]), int(wrong), seconds


def main() -> None:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=120, help="gradient steps")
    run(parser.parse_args().steps)


if __name__ == "__main__":
    main()
