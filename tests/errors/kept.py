"""Wrong checkpoints and bundles, and programs that do not fit their accelerator."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

import ggdjax as gd
from ggdjax.datapath import Accelerator
from tests.errors.given import TRAINING, folder, foreign, in_place
from tests.errors.world import TRAIN, Case, World, held, tune


def kept(**changes) -> Callable[[World], None]:
    """Return what leaves a tuning checkpoint of another config at the place."""
    return lambda w: tune(w, checkpoint=w.place / "c", rows=8, **changes)


def bundle(change: Callable[[Path], Any]) -> Callable[[World], None]:
    def write(w: World) -> None:
        gd.export.export_bundle(w.program, w.given / "a")
        change(w.given / "a")

    return write


def manifest(change: Callable[[dict], Any]) -> Callable[[World], None]:
    """Return what changes a bundle's manifest, checksum and all."""
    import hashlib

    def rewrite(root: Path) -> None:
        record = json.loads((root / "manifest.json").read_text())
        change(record)
        text = json.dumps(record).encode()
        (root / "manifest.json").write_bytes(text)
        (root / "manifest.sha256").write_text(f"{hashlib.sha256(text).hexdigest()}  manifest.json\n")

    return bundle(rewrite)


def loads(w: World) -> Any:
    return gd.export.load_bundle(w.given / "a")


def other_recipe(w: World) -> None:
    from ggdjax.zoo._checkpoints import Checkpoints

    keeper = Checkpoints(w.place / "run" / "checkpoints", {"epochs": 9})
    keeper.save(4, {"x": jnp.zeros(1)}, {})
    keeper.close()


# fmt: off
KEPT = [
    Case("checkpoint damaged", lambda w: tune(w, checkpoint=w.place / "c"),
         "`checkpoint` | no file of ggdjax | remove it",
         lambda w: (w.place / "c").write_text("x" * 99)),
    Case("checkpoint is a folder", lambda w: tune(w, checkpoint=w.place / "c"),
         "`checkpoint` | is a folder | remove it", lambda w: (w.place / "c").mkdir()),
    Case("checkpoint of another config", lambda w: tune(w, checkpoint=w.place / "c", rows=8, seed=1),
         "place/c | another network, other images or other settings | remove it", kept()),
    Case("checkpoint of other images", lambda w: tune(w, checkpoint=w.place / "c", rows=8, images=w.x + 1),
         "place/c | other images | remove it", kept()),
    Case("checkpoint of another kind", lambda w: tune(w, checkpoint=w.place / "w"),
         "place/w | safetensors file of another program | name a file | remove it",
         lambda w: [foreign(w), (w.given / "w").rename(w.place / "w")]),
    Case("checkpoint in use", lambda w: held(w, lambda: tune(w, checkpoint=w.place / "c"), "c"),
         "`checkpoint` | place/c | another process | wait"),
    Case("training checkpoint damaged", TRAIN, "run/checkpoints/4 | damaged | remove it",
         lambda w: [TRAINING(w), in_place("run/checkpoints/4/junk")(w)]),
    Case("training checkpoint of another recipe", TRAIN, "run/checkpoints | `epochs` was 9 | same arguments",
         lambda w: [TRAINING(w), other_recipe(w)]),
    Case("no bundle", loads, "given/a | no hardware bundle | was exported", folder("a")),
    Case("bundle lacks a file", loads, "program.h | cannot be read | export it again",
         bundle(lambda a: (a / "program.h").unlink())),
    Case("bundle corrupted", loads, "program.h | corrupted | export it again",
         bundle(lambda a: (a / "program.h").write_text("x"))),
    Case("bundle's manifest corrupted", loads, "manifest.json | corrupted | export it again",
         bundle(lambda a: (a / "manifest.json").write_text("{}"))),
    Case("bundle of another version", loads, "version 9 | version 1 | export it again",
         manifest(lambda m: m.update(version=9))),
    Case("bundle over other files", lambda w: gd.export.export_bundle(w.program, w.place),
         "`folder` | no bundle | choose another", lambda w: (w.place / "thesis").write_text("x")),
    Case("bundle below a file", lambda w: gd.export.export_bundle(w.program, w.place / "f" / "a"),
         "f/a | cannot be written | choose", lambda w: (w.place / "f").write_text("x")),
    Case("accumulator too narrow", lambda w: gd.datapath.compile(w.q, Accelerator(accumulator_bits=14, bias_bits=14)),
         "`conv` | needs | `accumulator_bits` are 14 | raise them"),
    Case("codes wider than the accelerator's", lambda w: gd.datapath.compile(w.q, Accelerator(activation_bits=4)),
         "8 bits | `activation_bits` are 4 | raise them"),
    Case("shift only", lambda w: gd.datapath.compile(w.q, Accelerator(requantization="shift")),
         "no power of two | 'multiplier_and_shift'"),
    Case("program's input is NaN", lambda w: w.program(w.x * np.nan), "`x` holds NaN | check the preprocessing"),
    Case("program's input of another shape", lambda w: w.program(w.x[0]), "(3, 8, 8) | expects (batch, 3, 8, 8)"),
    Case("program's input is complex", lambda w: w.program(w.x * 1j), "`x` has type complex64 | real numbers"),
    Case("unknown form", lambda w: gd.export.export_onnx(w.program, w.place / "a", form="qqd"),
         "'qqd' | did you mean `qdq`"),
    Case("cost of nothing", lambda w: gd.cost.estimate(gd.trace(jnp.tanh, jnp.zeros((1, 4)))),
         "`network` | no convolution | give"),
]
# fmt: on
