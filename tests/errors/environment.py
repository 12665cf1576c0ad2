"""Wrong places of outputs, and what is missing around the program."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest

import ggdjax as gd
from ggdjax._errors import GgdjaxError
from ggdjax.data import open_images, preset
from tests.errors.given import TRAINING, file, in_place, member, tar_of
from tests.errors.world import TRAIN, Case, Q, World, held, shell


def without(*packages: str) -> Callable[[Callable[[World], Any]], Callable[[World], Any]]:
    """Return what runs a function where some packages are not installed."""

    def wrap(run: Callable[[World], Any]) -> Callable[[World], Any]:
        def wrapped(w: World) -> Any:
            with pytest.MonkeyPatch.context() as patch:
                for name in [n for n in sys.modules if n.split(".")[0] in packages]:
                    patch.delitem(sys.modules, name)
                for name in packages:
                    patch.setitem(sys.modules, name, None)
                return run(w)

        return wrapped

    return wrap


def with_variable(name: str, value: Callable[[World], str], run: Callable[[World], Any]) -> Callable[[World], Any]:
    def wrapped(w: World) -> Any:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv(name, value(w))
            return run(w)

    return wrapped


def data_folder(w: World) -> Any:
    from experiments.real_networks import data_folder

    try:
        return data_folder()
    except SystemExit as stop:
        raise GgdjaxError(str(stop.code)) from None


def open_tar(w: World) -> Any:
    return open_images(w.given / "set.tar.gz", preset("cifar10"))


# fmt: off
ENVIRONMENT = [
    Case("out holds something else", Q, "place/run | no run folder | choose another", in_place("run/thesis.tex")),
    Case("out is a file", Q, "place/run | is a file | choose a folder", in_place("run")),
    Case("out below a file", Q.replace("/run", "/f/run"), "f/run | cannot be written | choose", in_place("f")),
    Case("out is not writable", Q.replace("{place}", "/proc/ggdjax"), "/proc/ggdjax/run | cannot be written | choose"),
    Case("out in use", lambda w: held(w, lambda: shell(w, Q)), "place/run | another process | wait"),
    Case("training over something else", TRAIN, "place/run | no checkpoints | choose another",
         in_place("run/thesis.tex")),
    Case("training over a finished run", TRAIN, "place/run | finished run | choose another",
         in_place("run/metrics.json")),
    Case("training into a file", TRAIN, "place/run | is a file | choose a folder", in_place("run")),
    Case("training that runs already", lambda w: held(w, lambda: shell(w, TRAIN)),
         "place/run | another process | wait"),
    Case("training below a file", TRAIN.replace("/run", "/f/run"), "f/run | cannot be written | choose", in_place("f")),
    Case("report of nothing", "report {given}/gone", "gone | no result.json | `ggdjax quantize --out`"),
    Case("report of another folder", "report {images}", "images | no result.json | `ggdjax quantize --out`"),
    Case("report of a damaged run", "report {place}", "result.json | cannot be read | ggdjax quantize",
         in_place("result.json", "{")),
    Case("report of another program's", "report {place}", "result.json | not written by ggdjax | ggdjax quantize",
         in_place("result.json", "{}")),
    Case("package orbax missing", without("orbax")(lambda w: shell(w, TRAIN)), "`orbax-checkpoint` | pip install",
         TRAINING),
    Case("Icarus Verilog missing",
         with_variable("PATH", lambda w: str(w.given), lambda w: gd.export.verify_rtl(w.program, w.x)),
         "`iverilog` was not found | install"),
    Case("GGDJAX_DATA points nowhere", with_variable("GGDJAX_DATA", lambda w: str(w.given / "gone"), data_folder),
         "given/gone | set GGDJAX_DATA"),
    Case("cache is not writable", with_variable("XDG_CACHE_HOME", lambda w: str(w.given / "f"), open_tar),
         "set.tar.gz | given/f | XDG_CACHE_HOME", lambda w: [file("f")(w), tar_of(member("a/x.png"))(w)]),
]
# fmt: on
