"""The forms of a quantized network, each against the others: fake quantization, integer program, ONNX, Verilog."""

from __future__ import annotations

import re
import shutil
import tempfile
import warnings
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
import onnxruntime

import ggdjax as gd
from experiments.random_networks import RandomNetwork, random_network
from ggdjax import GgdjaxError, datapath, export, tune
from ggdjax.datapath._agreement import _Forced
from ggdjax.export._rtl import rtl_layers
from ggdjax.network import Float, run
from ggdjax.quantization import Calibration, FakeQuant
from ggdjax.quantization._calibration import _refuse_nonfinite, limits_of
from ggdjax.quantization._limits import is_input
from ggdjax.quantization._observing import tensors_with_ranges

if TYPE_CHECKING:
    from collections.abc import Mapping

    from jaxtyping import Array

    from ggdjax.network import Node
    from ggdjax.quantization._quantizers import Quantizers

#: Networks between two that run in Verilog.
VERILOG = 20
#: Least SQNR of the logits of a program against fake quantization, each layer given equal inputs.
LEAST_DB = 40.0
#: Two codes are both right of a real number that is no further than this, in LSB, from the middle between them: where
#: the ratio of two steps is a fraction such as 1/12, one number in twelve is there.
TIE = 2.0**-14


def calibrated(net: gd.Network, images: np.ndarray) -> Calibration:
    """Return what `gd.calibrate` does, without its moments, counted by NumPy: what a pass compiles takes longer."""
    graph = replace(net.graph, outputs=(*(m.tensor for m in net.graph.feature_maps()), *tensors_with_ranges(net.graph)))
    found = jax.jit(partial(run, graph, numerics=Float()))(net.params, jax.device_put(images))
    found = jax.device_get(found if isinstance(found, tuple) else (found,))
    values = dict(zip(graph.outputs, map(np.ravel, found), strict=True))
    names = tuple(m.tensor for m in net.graph.feature_maps())
    histograms = gd.Histogram.stack([counted(values[name]) for name in names])
    _refuse_nonfinite(names, histograms)
    ranges = {name: (float(x.min()), float(x.max())) for name, x in values.items() if name not in names}
    return Calibration(
        names=names,
        histograms=histograms,
        images=len(images),
        ranges={name: ends for name, ends in ranges.items() if np.isfinite(ends).all()},
        limits=limits_of(net, names, None),
        inputs=tuple(name for name in names if is_input(net.graph, name)),
    )


def counted(x: np.ndarray) -> gd.Histogram:
    """Return the histogram of float32 values."""
    counts = np.bincount(x[x != 0].view(np.uint32) >> 16, minlength=1 << 16).astype(np.int32)
    finite = x[np.isfinite(x)]
    low, high = (finite.min(), finite.max()) if finite.size else (np.float32(0), np.float32(0))
    return gd.Histogram(counts=counts, zeros=np.int32(np.sum(x == 0)), minimum=low, maximum=high)


@dataclass(kw_only=True)
class Outcome:
    """What happened to one network."""

    seed: int
    state: str
    """``equal``, ``warned`` (equal, though compiling warned of inexact codes), ``inexact`` (codes differ that it warned
    of), ``beyond`` (it differs, and says which tensors saturated), ``different``, ``refused``, ``skipped``."""
    said: str = ""
    differ: dict[str, int] = field(default_factory=dict)
    """Feature map -> codes that differ given equal inputs."""
    largest: int = 0
    """Largest difference of codes given equal inputs."""
    logits_db: float = float("inf")
    remedy: str = ""
    """Of a refusal: whether its remedy worked."""
    onnx: str = "not written"
    verilog: int = 0
    """Comparisons in Verilog."""
    parts: tuple[str, ...] = field(default=())


def check(seed: int) -> Outcome:
    """Quantize the network of a seed, compile it, and compare every form of it with every other.

    Every eighth seed rounds weights for the output of their layer, the others to nearest: what rounding compiles for
    each layer takes a third of the time.
    """
    try:
        drawn = random_network(seed)
    except GgdjaxError as error:
        return Outcome(seed=seed, state="refused", said=str(error))
    if drawn is None:
        return Outcome(seed=seed, state="skipped", said="no layer, or outputs not finite")
    out = Outcome(seed=seed, state="equal", parts=drawn.parts)
    try:
        q = gd.quantize(drawn.net, calibrated(drawn.net, drawn.calibration), drawn.config)
        if seed % 8 == 1:
            q = tune.round_weights(q, drawn.calibration)
        with warnings.catch_warnings(action="ignore"):  # held against what is found
            program = datapath.compile(q)
    except GgdjaxError as error:
        return replace(out, state="refused", said=str(error), remedy=followed(drawn, str(error)))
    x = drawn.images
    found = compared(program, q, x)
    if not all(np.isfinite(v).all() and np.abs(v).max() < 1e30 for v in found.real):
        return replace(out, state="skipped", said="outputs of fake quantization are not finite")
    out.differ, out.largest, out.logits_db = found.differ, max(found.largest.values()), found.logits_db
    if not found.holds:
        # Float32 cancels where exp(x) − 1 does, and rounds to ties; in float64 the difference is the program's own.
        with jax.enable_x64(True):
            found = compared(program, q, x.astype(np.float64))
        out.differ, out.largest, out.logits_db = found.differ, max(found.largest.values()), found.logits_db
        out.said = "only in float64"
    if found.holds and program.inexact:
        out.state, out.said = "warned", str(program.inexact)
    elif not found.holds:
        out.state, out.said = found.explained(program, x)
    out.onnx = onnx_equal(program, x, found.integers)
    if "lower `multiplier_bits`" in out.onnx:
        narrow = datapath.compile(q, datapath.Accelerator(multiplier_bits=16))
        out.onnx = onnx_equal(narrow, x, jax.tree.leaves(narrow.integers(x)))
        out.onnx += " with `multiplier_bits` 16"
    if out.onnx.startswith("DIFFERENT"):
        out.state, out.said = "different", out.onnx
    if seed % VERILOG == 0 and shutil.which("iverilog") and rtl_layers(program):
        result = export.verify_rtl(program, x[:1])
        out.verilog = result.checks
        if result.wrong:
            out.state, out.said = "different", f"{result.wrong} wrong in Verilog"
    return out


#: What a message advises -> the accelerator or configuration that follows it.
_REMEDIES: dict[str, tuple[dict, dict]] = {
    "narrow weights or feature maps": ({"weight_bits": 2, "activation_bits": 2}, {}),
    "'saturate' or 'wrap'": ({}, {"overflow": "saturate"}),
}


def followed(drawn: RandomNetwork, message: str) -> str:
    """Follow the remedy of a refusal; return whether it worked, or that none is known."""
    for advice, (config, accelerator) in _REMEDIES.items():
        if advice in message:
            calibration = calibrated(drawn.net, drawn.calibration)
            q = gd.quantize(drawn.net, calibration, replace(drawn.config, **config))
            try:
                datapath.compile(q, datapath.Accelerator(**accelerator))
            except GgdjaxError as error:
                return f"does not work: {error}"
            return "works"
    return ""


@dataclass(frozen=True, kw_only=True)
class Compared:
    """A program against fake quantization, every layer given the codes of the fake-quantized network."""

    differ: dict[str, int]
    """Feature map -> codes that are not equal, ties left out."""
    values: dict[str, int]
    """Feature map -> codes."""
    largest: dict[str, int]
    """Feature map -> largest difference of codes, in LSB."""
    real: list[np.ndarray]
    """Outputs of fake quantization, before a softmax at the end."""
    given: list[np.ndarray]
    """Those of the program, given equal inputs."""
    integers: list[np.ndarray]
    """The program's own integers."""

    @property
    def logits_db(self) -> float:
        """SQNR of the program's outputs."""
        return min(_db(a, b) for a, b in zip(self.real, self.given, strict=True))

    @property
    def wrong(self) -> set[str]:
        """Feature maps of which 1 % of the codes differ, or one by more than one LSB."""
        # One or two ties of a small map are no 1 %.
        many = {name for name, n in self.differ.items() if n > max(2, 0.01 * self.values[name])}
        return many | {name for name, lsb in self.largest.items() if lsb > 1}

    @property
    def holds(self) -> bool:
        """Whether no feature map is wrong, and the outputs are near."""
        return not self.wrong and self.logits_db >= LEAST_DB

    def explained(self, program: datapath.Program, x: np.ndarray) -> tuple[str, str]:
        """Return the state of a network that differs, and what the program itself says of it."""
        if self.wrong <= program.inexact.keys() and self.logits_db >= LEAST_DB:
            return "inexact", str(program.inexact)
        beyond = program.run(x).beyond
        return ("beyond", str(beyond)) if beyond else ("different", "against fake quantization")


class _Unrounded(FakeQuant):
    """Fake quantization that keeps its feature maps as they were before rounding, too."""

    def __init__(self, quantizers: Quantizers) -> None:
        super().__init__(quantizers)
        self.unrounded: dict[str, Array] = {}

    def apply(self, node: Node, params: Mapping[str, Array], *inputs: Array) -> Array:
        """Keep the feature maps among the inputs, compute the node."""
        self.unrounded |= dict(zip(node.feature_maps, inputs, strict=False))
        return super().apply(node, params, *inputs)


class _HalfForced(_Forced):
    """The same for a batch's first half alone, ties left out: in one run of two halves, since compiling takes longest.

    Given are the codes, the levels that were rounded to them, and the axis of the batch.
    """

    def replaced(self, tensor: str, output: Array) -> Array:
        """Return the codes, and the second half as it is."""
        codes, levels, batch = self._given[tensor]
        found, free = jnp.split(output, 2, batch)
        tie = jnp.abs((found + codes) / 2 - levels) < TIE
        self.difference[tensor] = jnp.where(tie & (jnp.abs(found - codes) == 1), 0, jnp.abs(found - codes))
        return jnp.concatenate([codes, free], batch)


def compared(program: datapath.Program, q: gd.QuantizedNetwork, x: np.ndarray) -> Compared:
    """Run fake quantization, the program, and the program given fake quantization's codes, in one compilation."""
    maps = program.feature_maps

    @jax.jit
    def all_three(params: dict, integers: dict, x: Array) -> tuple:
        fake = _Unrounded(q.quantizers)
        real = run(q.graph.up_to_logits(), params, x, fake)
        steps = {name: q.quantizers.activations[name].step.astype(x.dtype) for name in maps}
        codes = {name: jnp.round(fake.feature_maps[name] / step).astype(jnp.int32) for name, step in steps.items()}
        levels = {name: fake.unrounded[name] / step for name, step in steps.items()}
        # One integer network is compiled: the first half of its batch is forced, the second runs by itself.
        batch = {t: program.graph.shape(t).index(None) for t in maps.values()}
        halves = _HalfForced(program.graph, {t: (codes[name], levels[name], batch[t]) for name, t in maps.items()})
        both = run(program.graph, integers, jnp.concatenate([x, x]).astype(jnp.float32), halves)
        given, free = (jax.tree.map(lambda y, h=half: jnp.split(y, 2)[h], both) for half in (0, 1))
        return real, given, free, halves.difference

    params = {key: jnp.asarray(value, x.dtype) for key, value in q.params.items()}
    real, given, free, difference = jax.device_get(all_three(params, program.params, jax.device_put(x)))
    found = {name: difference[tensor] for name, tensor in maps.items()}
    outputs = zip(jax.tree.leaves(given), program.output_scale, strict=True)
    return Compared(
        differ={name: int((d != 0).sum()) for name, d in found.items()},
        values={name: d.size for name, d in found.items()},
        largest={name: int(d.max()) for name, d in found.items()},
        real=[np.asarray(v, np.float64) for v in jax.tree.leaves(real)],
        given=[np.asarray(v, np.float64) * scale for v, scale in outputs],
        integers=jax.tree.leaves(free),
    )


def _db(wanted: np.ndarray, found: np.ndarray) -> float:
    error = np.sum((wanted - found) ** 2, dtype=np.float64)
    return float(10 * np.log10(np.sum(wanted**2, dtype=np.float64) / error)) if error > 0 else float("inf")


def onnx_equal(program: datapath.Program, x: np.ndarray, wanted: list[np.ndarray]) -> str:
    """Write the integer form; return ``equal``, ``DIFFERENT …``, or why it was refused."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "integer.onnx"
        try:
            export.export_onnx(program, path, form="integer")
        except GgdjaxError as error:
            return str(error)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        outputs = session.run(None, {session.get_inputs()[0].name: x})
    wrong = sum(int(np.sum(np.asarray(a) != b)) for a, b in zip(wanted, outputs, strict=True))
    return f"DIFFERENT in ONNX Runtime: {wrong} values" if wrong else "equal"


def kind_of(message: str) -> str:
    """Return a message without names and numbers, to count refusals by kind."""
    return re.sub(r"`[^`]*`", "`…`", re.sub(r"-?\d[\d.e+-]*", "#", message))
