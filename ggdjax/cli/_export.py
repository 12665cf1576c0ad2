"""`ggdjax export`: a saved run as a file for another tool, or as a hardware bundle."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from ggdjax._errors import GgdjaxError
from ggdjax.cli._runs import integer_program, opened


@dataclass(frozen=True, kw_only=True)
class Export:
    """Write the network of a run for another tool.

    qdq: ONNX with pairs of QuantizeLinear and DequantizeLinear, for ONNX Runtime and TensorRT (8 bits at most).
    integer-onnx: the integer program itself, the same integers in any runtime. qonnx: Quant nodes of any width, for
    FINN and hls4ml. bundle: a folder of memory images, C header, Verilog parameters and golden vectors.

    For example:
        ggdjax export runs/r20 --to qdq --out r20.onnx
        ggdjax export runs/r20 --to bundle --out hardware/ --images 4
    """

    run_folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Folder that `ggdjax quantize --out` or `ggdjax tune --out` wrote."""
    to: Literal["qdq", "integer-onnx", "qonnx", "bundle"]
    """What is written."""
    out: Path
    """File to write; with `--to bundle` a folder."""
    accelerator: Path | None = None
    """TOML or JSON specification of the accelerator; none: that of the `--target` of RUN, or one with
    the widths of the network."""
    images: int = 0
    """Golden vectors of every tensor for this many held-out images; only with `--to bundle`."""

    def run(self) -> None:
        """Do the job.

        Raises:
            GgdjaxError: a user error.
        """
        from ggdjax import export, report
        from ggdjax.cli._console import console

        bundle = self.to == "bundle"
        if self.images < 0:
            raise GgdjaxError(f"`--images` must be at least 0, got {self.images}")
        if self.images and not bundle:
            raise GgdjaxError("`--images` are golden vectors: they need `--to bundle`")
        if not bundle and (self.out.is_dir() or not self.out.absolute().parent.is_dir()):
            raise GgdjaxError(f"`--out` {self.out} cannot be written: name a file, in a folder that is there")
        saved, screen = report.load_run(self.run_folder), console()
        quantized = saved.network
        _, program = integer_program(quantized, saved.recipe, self.accelerator)
        if program.in_float and self.to in ("integer-onnx", "bundle"):
            raise GgdjaxError(
                f"{', '.join(program.in_float)} stay in float, but `--to {self.to}` holds integers alone: export "
                "`--to qdq` or `--to qonnx`, or quantize all layers"
            )
        if self.to == "qonnx":
            export.export_qonnx(program, self.out)
        elif not bundle:
            export.export_onnx(program, self.out, form=self.to.removesuffix("-onnx"))
        else:
            golden = None
            if self.images:
                images = opened(saved.data, quantized, saved.recipe, screen, saved.targets)
                index_of = {id_: i for i, id_ in enumerate(images.ids)}
                chosen = [index_of[id_] for id_ in saved.result["images"]["held_out_ids"][: self.images]]
                golden = next(images.batches(chosen, len(chosen)))[0]
            export.export_bundle(program, self.out, golden)
        screen.print(f"Written to {self.out}", soft_wrap=True)
