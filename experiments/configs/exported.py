"""A network in memory, and the same one elsewhere: loaded by another process, and exported for ONNX Runtime.

    python -m experiments run exported                                             8 bits, QDQ files
    python -m experiments run exported --networks resnet20 --widths 4/4 --forms loaded integer --gradient-steps 120

Scheme `ggd`, weights per tensor and per channel; with ``--gradient-steps`` tuned before as the experiment `gradient`
does. Forms: `loaded`, what `gd.load` gives for its file in a process that has nothing else (expected: the same bits as
logits); `qdq`, the exported file in ONNX Runtime at its default optimization (the same class for at least 99.5 % of the
images, on CPUs whose 16-bit sums of products saturate, too: x86 without VNNI); `integer`, likewise (the integers of the
program, bit for bit).
"""

from __future__ import annotations

import functools
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from experiments.bench import Bench
from experiments.configs.gradient import METHODS, Gradient
from experiments.experiment import Cell, Experiment, check_numbers, widths_of
from experiments.onnx_runtime import predictor
from experiments.real_networks import NETWORKS
from ggdjax import GgdjaxError, datapath, export
from ggdjax._ranking import rank_of_label

#: The whole of another process: the file is all it is given of the network.
_FRESH = """
import sys
import numpy as np
import ggdjax as gd
file, images, size, out = sys.argv[1:]
q, x, size = gd.load(file), np.load(images), int(size)
np.save(out, np.concatenate([np.asarray(q(x[i : i + size])) for i in range(0, len(x), size)]))
"""


@dataclass(frozen=True, kw_only=True)
class Exported(Experiment):
    """Logits of loaded and of exported networks against those in memory, of networks × widths × granularity × forms."""

    NAME: ClassVar[str] = "exported"
    AXES: ClassVar[tuple[str, ...]] = ("widths", "per", "forms")
    PASSES: ClassVar = {"calibration": 1}, {"accuracy": 2}
    BESIDES: ClassVar[str] = "gradients"

    widths: tuple[str, ...] = ("8/8",)
    """Bits of weights/feature maps."""
    per: tuple[Literal["tensor", "channel"], ...] = ("tensor", "channel")
    """What shares a fractional length."""
    forms: tuple[Literal["loaded", "qdq", "integer"], ...] = ("qdq",)
    """Where the network runs."""
    gradient_steps: int = 0
    """Gradient steps before."""
    held_out_images: int | None = 700
    """On up to N held-out images; none: on all of them."""

    def check(self) -> None:
        """Refuse unknown names, missing data and numbers out of range."""
        check_numbers(self, "gradient_steps", least=0)
        if self.gradient_steps and "channel" in self.per:
            raise GgdjaxError("`gradient_steps` tune fractional lengths per layer: choose `per` tensor")
        super().check()

    def prepare(self, network: str, seed: int) -> dict[str, Any]:
        """Return the network, calibrated."""
        if not self.gradient_steps:
            return {"bench": Bench(self.network(network), held_out=self.held_out_images, seed=seed)}
        return self._gradient.prepare(network, seed)

    @functools.cached_property
    def _gradient(self) -> Gradient:
        steps, images = self.gradient_steps, self.held_out_images
        return Gradient(networks=self.networks, own=self.own, steps=steps, held_out_images=images)

    def image_ids(self, prepared: dict[str, Any]) -> dict[str, list[str]]:
        """Return the images of every part."""
        return prepared["bench"].ids

    def measure(self, prepared: dict[str, Any], cell: Cell, folder: Path) -> dict[str, Any]:
        """Return top-1 in memory and there, and how the logits agree."""
        bench: Bench = prepared["bench"]
        if self.gradient_steps:
            q, _ = self._gradient.tuned(prepared, *widths_of(cell["widths"]), METHODS["gradient"])
        else:
            q = bench.quantized(widths_of(cell["widths"]), weights_per=cell["per"])
        batches, labels = [x for x, _ in bench.batches], np.concatenate([y for _, y in bench.batches])
        here = _all(q, batches)
        with tempfile.TemporaryDirectory() as place:
            if cell["form"] == "loaded":
                there, more = _in_fresh_process(q, Path(place), batches), {}
            else:
                there, more = _in_onnxruntime(datapath.compile(q), cell["form"], Path(place) / "net.onnx", batches)
        return {
            "held_out_images": len(labels),
            "top1_in_memory": float(np.mean(rank_of_label(here, labels) == 0)),
            "top1": float(np.mean(rank_of_label(there, labels) == 0)),
            "same_top1": float(np.mean(here.argmax(-1) == there.argmax(-1))),
            "logits_equal": here.dtype == there.dtype and np.array_equal(here, there),
            "largest": float(np.abs(here - there).max()),
            **more,
        }

    def shown(self, row: dict[str, Any]) -> dict[str, str]:
        """Return how many images have the same class, and whether the logits are equal."""
        said = {"same class": f"{row['same_top1']:.2%} of {row['held_out_images']}"}
        if "integers_differing_from_program" in row:
            said["logits"] = f"{row['integers_differing_from_program']} integers differ from the program's"
        elif "largest" in row:
            said["logits"] = "equal" if row["logits_equal"] else f"up to {row['largest']:.3g} apart"
        return said


def _all(forward: Any, batches: list[np.ndarray]) -> np.ndarray:
    found = np.concatenate([np.asarray(forward(x)) for x in batches])
    return found.reshape(len(found), -1)


def _in_fresh_process(q: Any, place: Path, batches: list[np.ndarray]) -> np.ndarray:
    q.save(place / "net.safetensors")
    np.save(place / "images.npy", np.concatenate(batches))
    files = [str(place / name) for name in ("net.safetensors", "images.npy", "logits.npy")]
    command = [sys.executable, "-c", _FRESH, *files[:2], str(len(batches[0])), files[2]]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        raise GgdjaxError(f"a fresh process could not load the network: {done.stderr.strip().splitlines()[-1]}")
    found = np.load(files[2])
    return found.reshape(len(found), -1)


def _in_onnxruntime(
    program: datapath.Program, form: str, path: Path, batches: list[np.ndarray]
) -> tuple[np.ndarray, dict[str, Any]]:
    import onnxruntime

    export.export_onnx(program, path, form=form)
    outputs = _all(predictor(path, spin=False), batches)
    said: dict[str, Any] = {"onnxruntime": onnxruntime.__version__, "saturates": saturates()}
    if form == "qdq":
        return outputs, said
    said["integers_differing_from_program"] = int(np.count_nonzero(outputs != _all(program.integers, batches)))
    return outputs.astype(np.float32) * np.float32(program.output_scale[0]), said


@functools.cache
def saturates() -> bool:
    """Whether ONNX Runtime's sums of two products saturate at 16 bits here: 64 · 255 · 127, in integers."""
    import onnx

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
    sums = predictor(model.SerializeToString())(np.full((1, 64), 255, np.uint8))
    return bool((sums != 64 * 255 * 127).any())


CONFIGS = {
    "exported": Exported(networks=tuple(NETWORKS)),
    "exported-tiny": Exported(per=("tensor",), forms=("loaded", "integer"), held_out_images=100),
}
