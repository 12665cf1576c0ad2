"""Wrong numbers: samples, orders, widths and axes."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

import ggdjax as gd
from tests.errors.given import file
from tests.errors.world import Case, World

GGD = gd.GeneralizedGamma(a=jnp.float32(1.0), d=jnp.float32(1.0), p=jnp.float32(1.0))
SOME = np.linspace(0.1, 2.0, 50, dtype=np.float32)


def choose(bits) -> Any:
    return gd.schemes.choose("max-abs", gd.Histogram.from_samples(SOME[None], axis=1), bits, False)


def dense() -> Any:
    return gd.trace(lambda x: x @ jnp.eye(4), jnp.zeros((1, 4)))


def _negative(w: World) -> None:
    from ggdjax import _files

    sparse = gd.Histogram.from_samples(SOME).to_arrays()
    _files.write(w.given / "h", "histogram", {}, sparse | {"count": -sparse["count"]})


# fmt: off
NUMBERS = [
    Case("negative order", lambda w: gd.fit(SOME, order=-1.0), "`order` | negative | ≥ 0"),
    Case("order is NaN", lambda w: gd.fit(SOME, order=float("nan")), "`order` | NaN | ≥ 0"),
    Case("unknown order", lambda w: gd.fit(SOME, order="best"), "`order` | 'best' | number"),
    Case("unknown side", lambda w: gd.fit(SOME, side="left"), "'left' | 'magnitude'"),
    Case("no samples", lambda w: gd.fit(np.zeros((3, 0), np.float32)), "(3, 0) | at least one sample"),
    Case("complex samples", lambda w: gd.fit(SOME * 1j), "`data` has type complex64 | real numbers"),
    Case("complex values to count", lambda w: gd.Histogram.from_samples(SOME * 1j), "`x` has type complex64 | real"),
    Case("texts to count", lambda w: gd.Histogram.from_samples(["a"]), "`x` has type <U1 | real numbers"),
    Case("step at 1 bit", lambda w: gd.closed_form_step(GGD, bits=1), "`bits` is 1 | 2"),
    Case("step at 17 bits", lambda w: gd.closed_form_step(GGD, bits=17), "`bits` is 17 | 16"),
    Case("no level", lambda w: gd.closed_form_step(GGD, levels=1), "`levels` is 1 | 2"),
    Case("bits and levels", lambda w: gd.closed_form_step(GGD, bits=8, levels=3), "`bits` | `levels` | exactly one"),
    Case("step of samples", lambda w: gd.closed_form_step(SOME, bits=8), "`source` is | fit them first"),
    Case("negative step", lambda w: gd.steps.predict(GGD, jnp.float32(-1.0), 8), "`step` is -1.0 | positive"),
    Case("widths that are real", lambda w: choose(8.0), "`bits` | float | say 8"),
    Case("width out of range", lambda w: choose(40), "`bits` | from 2 to | 40"),
    Case("weight without values", lambda w: gd.steps.best_fractional_length(np.zeros(0, np.float32), 8),
         "(0,) | at least one value"),
    Case("weight at 40 bits", lambda w: gd.steps.best_fractional_length(SOME, 40), "`bits` is 40 | from 2 to 32"),
    Case("axis beyond the weight", lambda w: gd.steps.best_fractional_length(SOME, 8, axis=3),
         "`axis` is 3 | distinct axes"),
    Case("power beyond the second", lambda w: gd.Histogram.from_samples(SOME).power_sum(3), "`power` is 3 | 1 or 2"),
    Case("axis beyond the batch", lambda w: gd.Histogram.from_samples(SOME).merge(2), "`axis` is 2 | batch shape"),
    Case("no histograms", lambda w: gd.Histogram.stack([]), "`histograms` is empty | at least one"),
    Case("no calibration images in Python", lambda w: gd.calibrate(w.net, []), "no images | `batches` is empty | give"),
    Case("NaN in a feature map", lambda w: gd.calibrate(w.net, [w.x * np.nan]),
         "`input | NaN | check the preprocessing"),
    Case("input of another shape", lambda w: w.net(w.x[:, :2]), "(6, 2, 8, 8) | expects (batch, 3, 8, 8)"),
    Case("calibration of another network", lambda w: gd.quantize(dense(), w.calibration),
         "`calibration` | another network | calibrate this one"),
    Case("histogram file damaged", lambda w: gd.Histogram.load(w.given / "h"),
         "given/h | no file of ggdjax | name a file that `save` wrote", file("h", "x")),
    Case("histogram file of negative counts", lambda w: gd.Histogram.load(w.given / "h"),
         "given/h | `count` holds -1 | at least 0", _negative),
]
# fmt: on
