"""One accelerator in eight minutes: the same integers as a CPU, and how fast every part of the pipeline is.

    python -m experiments.benchmarks.on_device                                  ResNet-50, batch 256
    python -m experiments.benchmarks.on_device --network digits --batch 32      small, also on a CPU

Checks, each against this machine's CPU, to the integer: codes of values around every threshold of 8-bit grids, counts
of a histogram, the integer program with weights of 8 and of 12 bits. Figures: images per second of the Flax module, and
as ratios to it the float graph, fake quantization, the integer program and the counting pass; fits and steps a second;
seconds of a gradient step and per candidate of the backward-forward search; peak memory. Weights are random: times and
equality alone count. A piece that would begin after `--seconds` is left out and listed. Prints a table, writes `--out`.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import ggdjax as gd
from experiments.lowering import counted
from experiments.timing import seconds
from ggdjax import network, report, zoo
from ggdjax.ggd import Counter
from ggdjax.quantization._quantizers import short_step

#: Side of the images of each network.
_SIDE = {"digits": 8}


class Bench:
    """One network on one device, and what was found."""

    def __init__(self, name: str, batch: int, fits: int) -> None:
        self.fits = fits
        module = zoo.digits_net() if name == "digits" else zoo.create(name)
        module.eval()
        side, chan = _SIDE.get(name, 224), 1 if name == "digits" else 3
        self.x = np.random.default_rng(0).normal(size=(batch, side, side, chan)).astype(np.float32)
        self.module = module
        self.net = gd.trace(module, jax.ShapeDtypeStruct(self.x.shape, jnp.float32))
        few = self.x[: min(batch, 32)]
        self.calibration = gd.calibrate(self.net, few)
        self.q = gd.quantize(self.net, self.calibration)
        self.few = few

    # ------------------------------------------------------------------------------------------------ checks

    def codes(self) -> bool:
        """Return whether values around every threshold get NumPy's codes."""
        rng, equal, encode = np.random.default_rng(1), True, jax.jit(lambda quantizer, x: quantizer.encode(x))
        for step in np.asarray(short_step(rng.uniform(1e-3, 10, 32))):
            centre = ((np.arange(-128, 128) + 0.5) * step).astype(np.float32)
            x = (centre.view(np.int32)[:, None] + np.arange(-32, 33, dtype=np.int32)).view(np.float32)
            quantizer = gd.Quantizer(step=jnp.float32(step), bits=8, signed=True)
            equal &= bool((np.asarray(encode(quantizer, x)) == quantizer.encode(x)).all())
        return equal

    def counts(self) -> bool:
        """Return whether a histogram counts as on a CPU."""
        x = np.maximum(np.random.default_rng(2).standard_t(3, 1 << 20), -0.5).astype(np.float32)
        here, there = self._both(lambda: gd.Histogram.from_samples(x))
        return all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(here), jax.tree.leaves(there), strict=True))

    def integers(self, weight_bits: int) -> bool:
        """Return whether the integer program's logits are those of a CPU."""
        config = gd.QuantConfig(weight_bits=weight_bits)
        accelerator = gd.datapath.Accelerator(weight_bits=weight_bits)
        program = gd.datapath.compile(gd.quantize(self.net, self.calibration, config), accelerator)
        here, there = self._both(lambda: np.asarray(program.integers(self.few[:8])))
        return bool(np.array_equal(here, there))

    @staticmethod
    def _both(function: Callable[[], Any]) -> tuple[Any, Any]:
        here = jax.device_get(function())
        with jax.default_device(jax.devices("cpu")[0]):
            return here, jax.device_get(function())

    # ------------------------------------------------------------------------------------------------ figures

    def images_per_second(self) -> dict[str, float]:
        """Return the throughput of a Flax forward pass, and of the others over it."""
        graph, state = nnx.split(self.module)
        plain = jax.jit(lambda state, x: nnx.merge(graph, state)(x))
        x, q, program = jax.device_put(self.x), self.q, gd.datapath.compile(self.q)
        net = network.fold_batch_norm(self.net)
        counters = {feature_map.tensor: Counter.empty() for feature_map in net.graph.feature_maps()}

        observing = jax.jit(partial(counted, net.graph))
        quantized = jax.jit(lambda q, x: q(x))
        passes = {
            "float graph": lambda: net(x),
            "fake quantization": lambda: quantized(q, x),
            "integer program": lambda: program(x),
            "counting pass": lambda: observing(net.params, x, counters),
        }
        alone = seconds(lambda: plain(state, x))
        found = {"Flax forward, images per second": len(x) / alone}
        return found | {f"{name}, share of that": alone / seconds(call) for name, call in passes.items()}

    def fits_per_second(self) -> dict[str, float]:
        """Return how many histograms are fitted, and steps chosen, in a second, all in one call."""
        rng = np.random.default_rng(3)
        x = rng.gamma(rng.uniform(0.4, 2, (self.fits, 1)), size=(self.fits, 4096)).astype(np.float32)
        histograms = jax.device_put(gd.Histogram.from_samples(x, axis=1))
        fit = jax.jit(partial(gd.fit, order=4))
        fitted = fit(histograms)
        closed = jax.jit(lambda f: gd.closed_form_step(f.tail, bits=8))
        optimal = jax.jit(lambda f: gd.optimal_step(f.distribution, bits=8))
        calls = {"fits": lambda: fit(histograms), "closed-form steps": lambda: closed(fitted)}
        calls["exact steps"] = lambda: optimal(fitted)
        return {f"{name} per second": self.fits / seconds(call) for name, call in calls.items()}

    def tuning(self) -> dict[str, float]:
        """Return the seconds of one gradient step, and of one candidate of the search on the same images."""
        size, times = len(self.few), {}
        for steps in (2, 2, 6):  # the first compiles
            config = gd.tune.GradientConfig(steps=steps, batch_size=size, held_back=0.0)
            start = time.perf_counter()
            gd.tune.gradient(self.q, self.few, config=config)
            times[steps] = time.perf_counter() - start
        search = gd.tune.TuneConfig(objective="kl", sweeps=1, allow_few_images=True, max_float_passes=20.0)
        history = gd.tune.backward_forward(self.q, self.few, config=search).history
        candidates = max(len(history.decisions) * history.candidates, 1)
        busy = sum(decision.seconds for decision in history.decisions)
        return {
            f"gradient step of {size} images, seconds": (times[6] - times[2]) / 4,
            f"search, seconds per candidate on {size} images": busy / candidates,
        }

    @staticmethod
    def memory() -> dict[str, float]:
        """Return the most memory that was in use, where the device says it."""
        peak = (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use")
        return {} if peak is None else {"peak memory, GiB": peak / 2**30}


def measure(name: str, batch: int, fits: int, limit: float) -> dict[str, Any]:
    """Return the checks, the figures, and what the time did not allow."""
    start = time.perf_counter()
    bench = Bench(name, batch, fits)
    checks: dict[str, bool] = {}
    figures: dict[str, float] = {}
    left_out = []
    pieces: dict[str, Callable[[], Any]] = {
        "codes around thresholds": bench.codes,
        "counts of a histogram": bench.counts,
        "integers, weights of 8 bits": lambda: bench.integers(8),
        "integers, weights of 12 bits": lambda: bench.integers(12),
        "images per second": bench.images_per_second,
        "fits and steps": bench.fits_per_second,
        "tuning": bench.tuning,
    }
    for piece, call in pieces.items():
        if time.perf_counter() - start > limit:
            left_out.append(piece)
            continue
        found = call()
        if isinstance(found, dict):
            figures |= found
        else:
            checks[piece] = found
    figures |= bench.memory() | {"seconds in all": time.perf_counter() - start}
    return {"network": name, "batch": batch, "checks": checks, "figures": figures, "left_out": left_out}


def main(words: list[str] | None = None) -> None:
    """Check, measure, print and write; exit status 1 where a check fails."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default="resnet50", choices=["digits", *zoo.names()], help="random weights")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--fits", type=int, default=1000, help="histograms in one call")
    parser.add_argument("--seconds", type=float, default=420.0, help="no piece begins later than this")
    parser.add_argument("--out", type=Path, default=Path("on_device.json"))
    args = parser.parse_args(words)
    found = measure(args.network, args.batch, args.fits, args.seconds) | report.environment()
    print(f"| {args.network}, batch {args.batch}, {found['device']['kind']} | |\n|---|---|")
    for name, equal in found["checks"].items():
        print(f"| {name} | {'equal' if equal else 'DIFFERENT'} |")
    for name, figure in found["figures"].items():
        print(f"| {name} | {figure:.4g} |")
    for name in found["left_out"]:
        print(f"| {name} | left out: no time |")
    args.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    raise SystemExit(0 if all(found["checks"].values()) else 1)


if __name__ == "__main__":
    main()
