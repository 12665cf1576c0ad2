"""T5, distributions: which family fits which feature maps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from experiments.tables.content import Content
from experiments.tables.entries import Entry, lookup, networks_of, number, pivot, select
from experiments.tables.plots import BLUE, GREEN, ORANGE, PINK, SKY, YELLOW, heat_map, new_figure
from experiments.tables.results import Results
from experiments.tables.results import networks_of as networks_in
from experiments.tables.table import Table
from ggdjax.ggd import FAMILIES

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CRITERIA = {
    "kolmogorov_smirnov": "KS distance",
    "anderson_darling": "AD distance",
    "kl": "KL divergence, nats",
    "bic": "BIC",
}
METRICS = {f"wins_{c}": f"feature maps that the family fits best by {text}" for c, text in CRITERIA.items()}
METRICS |= {f"mean_{c}": f"mean {text} over the feature maps" for c, text in CRITERIA.items() if c != "bic"}
METRICS |= {"kolmogorov_smirnov": "KS distance on one feature map"}
ORDER = ("ggd", *(family for family in FAMILIES if family != "ggd"))
COLOURS = (BLUE, SKY, GREEN, YELLOW, ORANGE, PINK, "#999999", "#444444")


def entries(results: Results) -> list[Entry]:
    """Return wins and means per family, then the distance on every feature map."""
    rows = {row["network"]: row for row in results.rows("families")}
    made, maps = [], []
    for name in networks_in(rows.values()):
        row = rows.get(name, {})
        for family in ORDER:
            for metric in METRICS:
                kind, _, criterion = metric.partition("_")
                if metric in CRITERIA:
                    continue
                value = row.get("wins" if kind == "wins" else "mean", {}).get(criterion, {}).get(family)
                said = {"images": row.get("calibration_images"), "row": row.get("place")}
                made.append(Entry(network=name, scheme=family, metric=metric, value=value, **said))
        for item, distances in row.get("kolmogorov_smirnov", {}).items():
            for family in ORDER:
                key = {"network": name, "item": item, "scheme": family, "row": row["place"]}
                maps.append(Entry(**key, metric="kolmogorov_smirnov", value=distances[family]))
    return made + maps


def tables(found: Sequence[Entry]) -> list[Table]:
    """Return wins, means, and the feature maps of every network."""
    whole = [e for e in found if not e.item]
    layout = {"rows": {"network": "network", "family": "scheme"}, "columns": "metric"}
    made = [
        pivot(
            [e for e in whole if e.metric.startswith("wins")],
            title="How many feature maps each family fits best",
            heads={f"wins_{c}": f"by {text.split(',')[0]}" for c, text in CRITERIA.items()},
            cell=lambda cell: number(cell, next(iter(cell)), 0),
            **layout,
        ),
        pivot(
            [e for e in whole if e.metric.startswith("mean")],
            title="How far each family is from the feature maps, mean",
            heads={f"mean_{c}": text for c, text in CRITERIA.items()},
            cell=lambda cell: number(cell, next(iter(cell)), 5),
            **layout,
        ),
    ]
    for name in networks_of(found):
        maps = [e for e in select(found, network=name) if e.item]
        if maps:
            made.append(_by_feature_map(name, maps))
    return made


def _by_feature_map(name: str, maps: Sequence[Entry]) -> Table:
    """Return the distances with the least of each feature map bold."""
    distance = lookup(maps, "item", "scheme")
    rows = []
    for item in dict.fromkeys(e.item for e in maps):
        of = [distance[item, family] for family in ORDER]
        rows.append((item, *(f"**{v:.4f}**" if v == min(of) else f"{v:.4f}" for v in of)))
    return Table(title=f"{name}: KS distance on each feature map", columns=("feature map", *ORDER), rows=tuple(rows))


def draw(found: Sequence[Entry]) -> Figure:
    """Draw the shares of feature maps that each family fits best, and the mean distances."""
    names = networks_of(found)
    figure = new_figure(10, 0.5 * len(names) + 3.2)
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.25))
    wins = lookup(select(found, metric="wins_kolmogorov_smirnov"), "network", "scheme")
    for place, name in enumerate(names):
        start = 0.0
        for family, colour in zip(ORDER, COLOURS, strict=True):
            count = wins.get((name, family), 0.0)
            left.barh(place, count, left=start, color=colour, label=family if place == 0 else None, edgecolor="white")
            if count:
                ink = "white" if colour in (BLUE, "#444444", GREEN, ORANGE) else "black"
                left.text(start + count / 2, place, f"{count:.0f}", ha="center", va="center", fontsize=8, color=ink)
            start += count
        if not start:
            left.text(0.2, place, "not run", va="center", fontsize=8)
    left.set_yticks(range(len(names)), names)
    left.invert_yaxis()
    left.set_title("feature maps that a family fits best (KS)")
    left.legend(loc="upper center", bbox_to_anchor=(0.4, -0.08), ncols=3, fontsize=8, frameon=False)
    left.spines[["left", "bottom"]].set_visible(False)
    left.tick_params(length=0)
    left.set_xticks([])
    mean = lookup(select(found, metric="mean_kolmogorov_smirnov"), "network", "scheme")
    values = [[mean.get((name, family)) for name in names] for family in ORDER]
    texts = [["not run" if v is None else f"{v:.4f}" for v in row] for row in values]
    short = [name.replace("-", "\n", 1) for name in names]
    heat_map(right, values, ORDER, short, texts, colours="cividis_r", low=0.0, high=0.12)
    right.set_title("mean KS distance")
    return figure


CONTENT = Content(
    name="T5",
    title="Distributions: which family fits which feature maps",
    about=(
        "Eight families fitted by maximum likelihood to the nonzero magnitudes of each quantized feature map's "
        "calibration images (CIFAR-10 256, ImageNet sample 100), a point mass at the largest magnitude taken out "
        "before. `ggd` holds half-normal, exponential, gamma, Weibull and generalized normal as special cases, so it "
        "can only lose to them by a criterion other than the likelihood; BIC charges for its third parameter."
    ),
    sources=("families",),
    metrics=METRICS,
    entries=entries,
    tables=tables,
    draw=draw,
    caption="Left: how many feature maps each family fits best. Right: mean KS distance, light is near.",
)
