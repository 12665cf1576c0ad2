"""T10, exactness: integers against fake quantization, Verilog and exported files against the integers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from experiments.real_networks import NETWORKS
from experiments.tables.content import Content
from experiments.tables.entries import Cell, Entry, by_images, lookup, number, pivot, select
from experiments.tables.plots import labelled_bars, new_figure
from experiments.tables.results import Results
from experiments.tables.table import Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Metric -> heading, factor, digits.
SHOWN = {
    "equal": ("equal codes, %", 100, 4),
    "equal_given_inputs": ("given equal inputs, %", 100, 5),
    "largest_given_inputs": ("and then apart by, LSB", 1, 0),
    "same_top1": ("same class, %", 100, 2),
    "values": ("values", 1, 0),
    "checks": ("comparisons", 1, 0),
    "overflows": ("sums that overflow", 1, 0),
    "wrong": ("wrong", 1, 0),
    "integers_differing_from_program": ("integers that differ", 1, 0),
    "sqnr_db": ("integers against fake quantization, dB", 1, 1),
    "one_code_db": ("fake quantization with one code of the input changed, dB", 1, 1),
    "unequal_given_inputs": ("codes that differ given equal inputs", 1, 0),
    "count": ("networks", 1, 0),
}
METRICS = {
    "equal": "share of all codes that are equal, both networks run by themselves",
    "equal_given_inputs": "the same, each layer of the program fed with the codes of the fake-quantized network",
    "largest_given_inputs": "largest difference then, LSB",
    "same_top1": "share of the images with the same class",
    "values": "values of feature maps compared",
    "checks": "comparisons, with every rounding",
    "overflows": "sums that the accumulator could not hold: wrapped or saturated in both",
    "wrong": "comparisons that failed",
    "integers_differing_from_program": "outputs of ONNX Runtime that are not the program's integers",
    "sqnr_db": "outputs of the integers against those of fake quantization, dB",
    "one_code_db": "outputs of fake quantization with one code of one pixel another by one, against those as is, dB",
    "unequal_given_inputs": "codes that differ given equal inputs",
    "count": "random networks, one per seed",
}
#: Variants that are drawn: those of the default accelerator.
DRAWN = ("default", "nearest")
PROGRAM, VERILOG, ELSEWHERE = "integer program", "Verilog", "elsewhere"
MANY, RANDOM = "integers-on-networks", "fuzz"


def entries(results: Results) -> list[Entry]:
    """Return the figures; `item` is what is compared, `scheme` the variant."""
    return [*_program(results), *_verilog(results), *_elsewhere(results), *_many(results), *_random(results)]


def _of(results: Results, row: dict[str, Any], metrics: Sequence[str], **key: str) -> Iterator[Entry]:
    said = {**key, **results.said_of(row)}
    for metric in metrics:
        yield Entry(**said, metric=metric, value=row.get(metric))


def _program(results: Results) -> Iterator[Entry]:
    rows = results.rows("agreement")
    for row in rows or [{"network": name, "variant": "default", "bits": 8} for name in NETWORKS]:
        exact = ", exact sums" if row.get("reference") == "float64" else ""
        key = {"network": row["network"], "scheme": row["variant"] + exact, "bits": str(row["bits"])}
        yield from _of(results, row, list(SHOWN)[:4], item=PROGRAM, **key)


def _verilog(results: Results) -> Iterator[Entry]:
    for row in results.rows("rtl") or [{"network": "resnet20", "variant": "default"}]:
        key = {"network": row["network"], "scheme": row["variant"], "bits": "8"}
        yield from _of(results, row, ("values", "checks", "overflows", "wrong"), item=VERILOG, **key)


def _elsewhere(results: Results) -> Iterator[Entry]:
    for row in results.rows("exported"):
        key = {"network": row["network"], "scheme": f"{row['form']}, weights per {row['per']}", "bits": row["widths"]}
        wrong = "integers_differing_from_program"
        filled = row if row["form"] == "integer" else {**row, wrong: "–"}  # has no integers
        yield from _of(results, filled, ("same_top1", wrong), item=ELSEWHERE, **key)


def _many(results: Results) -> Iterator[Entry]:
    for row in results.rows(MANY) or [{"network": "all"}]:
        refused = row.get("refused")
        sqnr = f"refused ({refused})" if refused else "equal" if row.get("sqnr_db", 0) is None else row.get("sqnr_db")
        metrics = ("sqnr_db", "one_code_db", "unequal_given_inputs", "values", "same_top1")
        key = {"network": row["network"], "scheme": "default", "bits": "8"}
        one = "equal" if row.get("one_code_db", 0) is None else row.get("one_code_db")
        yield from _of(results, {**row, "sqnr_db": sqnr, "one_code_db": one}, metrics, item=MANY, **key)


def _random(results: Results) -> Iterator[Entry]:
    rows = [row for row in results.rows(RANDOM) if row["kind"] == "integers"]
    counts = Counter() if rows else {"equal": None}
    for row in rows:
        counts.update(row["states"] | {"of them in Verilog, comparisons": row.get("verilog_comparisons", 0)})
    place = rows[0]["place"] if rows else None
    for state, count in counts.items():
        yield Entry(network="random", item=RANDOM, scheme=state, metric="count", value=count, row=place)


def tables(found: Sequence[Entry]) -> list[Table]:
    """Return one table for what is compared and the images it is compared on."""
    titles = {
        PROGRAM: "The integer program against fake quantization",
        VERILOG: "Verilog against the integer simulator, every layer, five roundings",
        ELSEWHERE: "Loaded by another process, and in ONNX Runtime, against the network in memory",
        MANY: "Many networks: the integer program against fake quantization",
        RANDOM: "Random networks: fake quantization, integers, ONNX Runtime and Verilog against each other",
    }
    heads = {metric: heading for metric, (heading, _, _) in SHOWN.items()}
    return [
        pivot(
            group,
            title=title + (f": {label}" if label else ""),
            rows={"network": "network", "bits": "bits", "variant": "scheme"},
            columns="metric",
            heads=heads,
            cell=_shown,
        )
        for item, title in titles.items()
        for label, group in by_images(select(found, item=item)).items()
    ]


def _shown(cell: Cell) -> str:
    (metric,) = cell
    _, scale, digits = SHOWN[metric]
    return number(cell, metric, digits, scale)


def draw(found: Sequence[Entry]) -> Figure:
    """Draw, per network and variant, how many of a million codes differ given equal inputs."""
    figure = new_figure(10, 3.2)
    axes = figure.subplots()
    axes.set_title("codes of a million that differ given equal inputs")
    shares = lookup(select(found, metric="equal_given_inputs"), "network", "scheme", "bits")
    bars = [(f"{n}, {s}, {b} bits", 1e6 * (1 - v)) for (n, s, b), v in shares.items() if s.split(",")[0] in DRAWN]
    labelled_bars(axes, bars, ".2g", 8)
    return figure


CONTENT = Content(
    name="T10",
    title="Exactness: integers against fake quantization, and Verilog and exported files against the integers",
    about=(
        "Scheme `ggd`, weights and feature maps of the same width. `default`: all defaults of `gd.recipe`, weights "
        "rounded for the output; `nearest`, `own-biases` (16 bits), `power-of-two` (steps), and changes of the "
        "accelerator: see `experiments/configs/agreement.py`. Where both run by themselves one changed code changes "
        "others in all layers after it. The rows of 300 and 1,000 images are of earlier code, whose fake quantization "
        "had exact sums; `float32-sums` is what it computes today."
    ),
    sources=("agreement", "rtl", "exported", MANY, RANDOM),
    metrics=METRICS,
    entries=entries,
    tables=tables,
    draw=draw,
    shows=lambda name, cell: name != RANDOM,  # of seeds there are always more
    caption="Codes of a million that differ where each layer is given equal inputs, default accelerator.",
)
