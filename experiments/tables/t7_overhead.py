"""T7, overhead: what every step of the method costs beside running the network."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from experiments.real_networks import NETWORKS
from experiments.tables.content import Content
from experiments.tables.entries import NOT_RUN, Cell, Entry, lookup, networks_of, number, pivot, select
from experiments.tables.plots import BLUE, GREY, LIGHT, ORANGE, figure_of_panels, says_not_run
from experiments.tables.results import Results
from experiments.tables.table import Table
from ggdjax import schemes
from ggdjax.quantization._calibration import VALUES_PER_BATCH

if TYPE_CHECKING:
    from matplotlib.figure import Figure

METRICS = {
    "seconds": "seconds, compiled",
    "over_float_pass": "the same over one float pass over the calibration images",
    "first_call_seconds": "seconds of the first call, which compiles",
    "images_per_second": "images per second",
    "cpu_over_float": "CPU time over that of the float network",
    "figure": "as the row says",
    "over_float_pass_low": "seconds of calibration over one float pass by ONNX Runtime, from",
    "over_float_pass_high": "the same, to",
}
PASS, COUNT, TUNE = "float pass over the calibration images", "counting every feature map", "tuning"
CHOOSE = "choosing every step: "
#: What of the single operations is shown: row -> benchmark, keys.
OPERATIONS = {
    "fits of 1,000 histograms in one call, per second (order 0)": ("fit-throughput", "fits_per_second_order_0"),
    "the same at order 2": ("fit-throughput", "fits_per_second_order_2"),
    "closed-form steps, a million in one call, per second": ("steps-throughput", "closed_form", "per_second"),
    "solutions of the support equation, per second": ("steps-throughput", "support", "per_second"),
    "exact minima at 8 bits, per second": ("steps-throughput", "optimal", "per_second"),
    "best powers of two at 8 bits, per second": ("steps-throughput", "power_of_two", "per_second"),
    "seconds of `scipy.stats.gengamma.fit`, one tensor": ("fit-against-scipy", "scipy_seconds_per_tensor"),
    "seconds of `fit` on the same samples": ("fit-against-scipy", "seconds_per_tensor_samples"),
    "seconds of `fit` on their histogram": ("fit-against-scipy", "seconds_per_tensor_histogram"),
    "peak memory of calibration with 100 images, MiB": ("calibration-memory", "folder", "100"),
    "the same with 3,000 images": ("calibration-memory", "folder", "3000"),
    "backward-forward on some layers of ResNet-20: seconds of a naive search": ("search-cost", "naive_seconds"),
    "the same by suffixes and screening": ("search-cost", "seconds"),
}
RATES = {
    "float": "float network",
    "fake_quantized": "fake-quantized network",
    "simulator_multiplier_31": "integer simulator",
    "simulator_multiplier_16": "integer simulator, 16-bit multipliers",
    "onnxruntime_qdq": "ONNX Runtime, exported QDQ file",
    "onnxruntime_integer": "ONNX Runtime, exported integer file",
}
ANY = "any"


def entries(results: Results) -> list[Entry]:
    """Return steps of the method, rates, single operations and the calibration of other tools."""
    return [*_steps(results), *_rates(results), *_operations(results), *_peers(results)]


def _steps(results: Results) -> Iterator[Entry]:
    choose, counted = (_timings(results, benchmark) for benchmark in ("time-to-choose", "counting"))
    gradient = {(r["network"], r["widths"]): r for r in results.rows("gradient") if r["method"] == "gradient"}
    search = {
        (r["network"], r["widths"]): r
        for r in results.rows("tuning")
        if r["objective"] == "top1" and r.get("rounding", "nearest") == "nearest"
    }
    for name in dict.fromkeys([*NETWORKS, *choose]):
        row = choose.get(name, {})
        one = row.get("float_pass_seconds")
        share = counted.get(name, {}).get("passes", {}).get(f"{VALUES_PER_BATCH} values")
        counting = None if share is None or one is None else share * one
        steps: list[tuple[str, float | None, float | None]] = [(PASS, one, None), (COUNT, counting, None)]
        for scheme in schemes.names():
            taken = row.get("schemes", {}).get(scheme, {})
            steps.append((CHOOSE + scheme, taken.get("seconds"), taken.get("first")))
        steps.append((f"{TUNE}: gradients, W4A4", gradient.get((name, "4/4"), {}).get("tuning_seconds"), None))
        steps.append((f"{TUNE}: backward-forward, W4A4", search.get((name, "4/4"), {}).get("search_seconds"), None))
        for step, seconds, first in steps:
            made_by = gradient if "gradients" in step else search if step.startswith(TUNE) else {}
            place = made_by[name, "4/4"]["place"] if (name, "4/4") in made_by else row.get("place")
            place = counted.get(name, {}).get("place") if step == COUNT else place
            key = {"network": name, "scheme": step, "row": place}
            yield Entry(**key, metric="seconds", value=seconds)
            ratio = seconds / one if seconds is not None and one else None
            yield Entry(**key, metric="over_float_pass", value=ratio)
            if step.startswith(CHOOSE):
                yield Entry(**key, metric="first_call_seconds", value=first)


def _timings(results: Results, benchmark: str) -> dict[str, dict[str, Any]]:
    """Return the figures of a benchmark by network, and the place of each."""
    rows = [row for row in results.rows("timings") if row["benchmark"] == benchmark]
    return {row["network"]: {**row["figures"], "place": row["place"]} for row in rows}


def _rates(results: Results) -> Iterator[Entry]:
    rows, passes = (_timings(results, f"{one}-throughput") for one in ("simulator", "float"))
    for name in NETWORKS:
        for key, label in RATES.items():
            row = rows.get(name, {})
            value = row.get(f"{key}_images_per_second")
            yield Entry(network=name, scheme=label, metric="images_per_second", value=value, row=row.get("place"))
        cpu, place = passes.get(name, {}).get("cpu_ms", {}), passes.get(name, {}).get("place")
        for key, label in (("observe", "observing pass"), ("onnxruntime", "ONNX Runtime, float")):
            value = cpu[key] / cpu["float"] if cpu else None
            yield Entry(network=name, scheme=label, metric="cpu_over_float", value=value, row=place)


def _operations(results: Results) -> Iterator[Entry]:
    counting = _timings(results, "fit-throughput").get(ANY, {})
    key = {"network": ANY, "metric": "figure"}
    for label, name in (
        ("counting pass, ns per value", "histogram_seconds"),
        ("`jnp.log(x).sum()`, ns per value", "log_sum_seconds"),
    ):
        value = 1e9 * counting[name] / counting["values"] if counting else None
        yield Entry(**key, scheme=label, value=value, row=counting.get("place"))
    for label, (file, *keys) in OPERATIONS.items():
        value = figures = _timings(results, file).get(ANY, {})
        for one in keys:
            value = value.get(one, {})
        yield Entry(**key, scheme=label, value=value or None, row=figures.get("place"))
    scaling = _timings(results, "tuning-scaling").get(ANY, {})
    place = scaling.pop("place", None)
    for setting, found in scaling.items():
        label = f"backward-forward, part of one sweep on {setting}, seconds"
        yield Entry(**key, scheme=label, value=found["seconds"], row=place)


def _peers(results: Results) -> Iterator[Entry]:
    found: dict[tuple[str, str, str], list[float]] = {}
    places: dict[tuple[str, str, str], str] = {}
    for row in results.peers():
        if "calibration_over_float_pass_low" in row:
            ends = [row["calibration_over_float_pass_low"], row["calibration_over_float_pass_high"]]
            cell = (row["network"], f"{row['tool']}, {row['weights_per']}", row["scheme"])
            found.setdefault(cell, []).extend(ends)
            places.setdefault(cell, row["place"])
    for (name, item, scheme), ratios in found.items():
        for metric, value in (("over_float_pass_low", min(ratios)), ("over_float_pass_high", max(ratios))):
            key = {"network": name, "item": item, "scheme": scheme, "row": places[name, item, scheme]}
            yield Entry(**key, metric=metric, value=value)


def tables(found: Sequence[Entry]) -> list[Table]:
    """Return steps, rates, single operations, other tools."""
    made = [
        pivot(
            select(found, metric=("seconds", "over_float_pass")),
            title="Steps of the method: times one float pass over the calibration images (seconds)",
            rows={"step": "scheme"},
            columns="network",
            cell=_ratio,
        )
    ]
    for title, row, metric, digits in (
        ("Choosing every step: seconds of the first call, which compiles", "step", "first_call_seconds", 1),
        ("Images per second", "what runs", "images_per_second", 0),
        ("CPU time over that of our float network", "what runs", "cpu_over_float", 2),
    ):
        cell = partial(number, metric=metric, digits=digits)
        rows = {row: "scheme"}
        made.append(pivot(select(found, metric=metric), title=title, rows=rows, columns="network", cell=cell))
    operations, rows = select(found, metric="figure"), {"operation": "scheme"}
    made.append(pivot(operations, title="Single operations", rows=rows, columns="metric", cell=_figure))
    if beside := select(found, metric=("over_float_pass_low", "over_float_pass_high")):
        title = "Calibration of other tools, over one float pass by ONNX Runtime (from, to)"
        rows = {"tool, a weight step per": "item", "scheme": "scheme"}
        made.append(pivot(beside, title=title, rows=rows, columns="network", cell=_span))
    return made


def _ratio(cell: Cell) -> str:
    ratio, seconds = (cell[m].value if m in cell else None for m in ("over_float_pass", "seconds"))
    if seconds is None and ratio is None:
        return NOT_RUN
    shown = "–" if ratio is None else f"{ratio:.3g}" if ratio < 1000 else f"{ratio:,.0f}"
    return f"{shown} ({seconds:.3g})" if seconds is not None else shown


def _figure(cell: Cell) -> str:
    value = cell["figure"].value
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def _span(cell: Cell) -> str:
    ends = [number(cell, f"over_float_pass_{end}", 1) for end in ("low", "high")]
    return ends[0] if ends[0] == ends[1] else f"{ends[0]} to {ends[1]}"


def draw(found: Sequence[Entry]) -> Figure:
    """Draw what each step takes, in float passes, on a logarithmic axis."""
    names = networks_of([e for e in found if e.network != ANY])
    ratio = lookup(select(found, metric="over_float_pass"), "network", "scheme")
    shown = [COUNT, *(CHOOSE + s for s in ("max-abs", "ggd-plain", "ggd-tail", "ggd", "mse-search", "kl"))]
    shown += [f"{TUNE}: gradients, W4A4", f"{TUNE}: backward-forward, W4A4"]
    labels = ["count feature maps", *(f"choose: {step.removeprefix(CHOOSE)}" for step in shown[1:7])]
    labels += ["tune: gradients, W4A4", "tune: search, W4A4"]
    figure, panels = figure_of_panels(len(names), 2.5, 0.4, sharex=True, sharey=True)
    for axes, name in zip(panels, names, strict=True):
        axes.set_title(f"{name}: over one float pass")
        axes.set_xscale("log")
        axes.set_xlim(1e-4, 1e5)
        axes.axvline(1.0, color=GREY, lw=0.8, ls=":")
        if not any((name, step) in ratio for step in shown):
            says_not_run(axes)
        for place, step in enumerate(shown):
            value = ratio.get((name, step))
            ours = step == COUNT or "ggd" in step
            if value is None:
                axes.text(1.3e-4, place, NOT_RUN, va="center", fontsize=7, color=GREY)
                continue
            axes.barh(place, value, color=BLUE if ours else ORANGE if step.startswith(TUNE) else LIGHT)
            axes.text(value, place, f" {value:.2g}" if value < 100 else f" {value:.0f}", va="center", fontsize=8)
        axes.set_yticks(range(len(shown)), labels)
    panels[0].set_ylim(len(shown) - 0.4, -0.6)
    return figure


CONTENT = Content(
    name="T7",
    title="Overhead: what every step of the method costs",
    about=(
        "The unit is one pass of our own float network over the calibration images in memory (CIFAR-10 512, ImageNet "
        "sample 100), without counting. Steps are chosen from histograms, at 8 bits, by compiled programs, the least "
        "of three runs. Tuning is wall time with compiling, on whatever else the machine did, over the same unit. "
        "Images per second: one batch, the fastest of several runs."
    ),
    sources=("timings", "gradient", "tuning", "peers"),
    metrics=METRICS,
    entries=entries,
    tables=tables,
    draw=draw,
    caption="Each step over one float pass over the calibration images (dotted: as long as that pass), logarithmic.",
)
