"""Draw the figure of the README: a feature map of ResNet-20, its fit, and the levels of two steps at 4 bits.

    python -m experiments.readme_figure

Needs the real network and CIFAR-10 (512 calibration images); writes `docs/images/feature_map.svg`.
"""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
import numpy as np

import ggdjax as gd
from experiments.images import calibrate
from experiments.real_networks import NETWORKS
from ggdjax import network, schemes

PATH = Path(__file__).resolve().parents[1] / "docs" / "images" / "feature_map.svg"
BITS = 4
SHOWN = ("ggd", "max-abs")


def main() -> None:
    """Calibrate, choose both steps for every feature map, draw one."""
    real = NETWORKS["resnet20"]
    net = network.fold_batch_norm(real.load())
    images = real.open_images(net)
    found = calibrate(net, images, real.split(images).calibration, real.batch_size, real.name)
    ours, largest = (schemes.choose(name, found.histograms, BITS, found.histograms.is_signed) for name in SHOWN)
    unsigned = ~np.asarray(found.histograms.is_signed)
    ratio = np.where(unsigned, np.asarray(largest.step) / np.asarray(ours.step), 0.0)
    i = int(np.argsort(ratio)[-3])  # among those that gain most
    histogram, top = found.histograms[i], 2**BITS - 1
    title = f"ResNet-20, {found.names[i]}, levels at {BITS} bits;"
    figure = gd.report.plot_feature_map(histogram, ours[i].evidence.tail, title=title)
    (axes,) = figure.axes
    for name, choice, height, colour in (("ggd", ours, 0.07, "#1a7f37"), ("max-abs", largest, 0.025, "#8250df")):
        levels = float(choice.step[i]) * np.arange(top + 1)
        heights, where = np.full(top + 1, height), axes.get_xaxis_transform()
        axes.plot(levels, heights, "|", ms=9, mew=1.5, color=colour, transform=where, label=f"levels of {name}")
    axes.legend(loc="upper right", fontsize=8, frameon=False)
    PATH.parent.mkdir(exist_ok=True)
    with mpl.rc_context({"svg.hashsalt": "ggdjax", "svg.fonttype": "none"}):
        figure.savefig(PATH, metadata={"Date": None})
    print(f"{found.names[i]}: {PATH}")


if __name__ == "__main__":
    main()
