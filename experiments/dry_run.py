"""What a run would cost, by network: cells, passes of images and multiply-accumulates, memory. Nothing is measured."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from itertools import groupby
from math import prod
from typing import TYPE_CHECKING

import numpy as np
from rich.table import Table

from experiments import networks
from experiments.bench import choose_parts
from experiments.networks import OwnNetwork
from experiments.plan import plan
from ggdjax import network, zoo

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import Console

    from experiments.experiment import Cell, Experiment
    from experiments.networks import AnyNetwork
    from ggdjax.network import Network

#: Images of a network without `--data`: the validation images of ImageNet.
ASSUMED = 50_000
_MIB = 2**20


def print_cost(experiment: Experiment, folder: Path, shard: tuple[int, int], console: Console) -> None:
    """Print the cost of the cells that are not finished.

    Raises:
        GgdjaxError: a setting that cannot be, or a network that cannot be read.
    """
    dataclasses.replace(experiment, networks=(experiment.FREE,), own=()).check()
    todo = plan(experiment, folder, shard).todo
    table = Table("network", "cells", "images run", "TMACs", "MiB: weights", "images", "feature maps", box=None)
    assumed = False
    for name, group in groupby(todo, key=lambda cell: cell["network"]):
        cells = list(group)
        if experiment.passes(None) is None:
            table.add_row(name, str(len(cells)), *["not stated"] * 5)
            continue
        real = experiment.network(name)
        net = _shape(real)
        assumed |= isinstance(real, OwnNetwork) and not real.data and experiment.NEEDS_IMAGES
        runs, held = _images(experiment, real, net, cells)
        one = 4 * prod(net.input_shape[1:])
        memory = (8 * network.count_parameters(net), one * held, real.batch_size * live_bytes(net) if runs else 0)
        macs = runs * network.count_macs(net) / 1e12
        table.add_row(
            name,
            str(len(cells)),
            f"{runs:,.0f}",
            f"{macs:,.0f}" if macs >= 1000 else f"{macs:.3g}",
            *(f"{m / _MIB:,.0f}" for m in memory),
        )
    console.print(f"{folder}: {experiment.NAME}: {len(todo)} cells to do; nothing is run", highlight=False)
    console.print(table)
    said = ["An image run forward counts once, with gradients three times; TMACs: 10^12 multiply-accumulates."]
    said += [f"Not counted: {experiment.BESIDES}."] if experiment.BESIDES else []
    said += [f"Without `--data`: {ASSUMED:,} images."] if assumed else []
    console.print(" ".join(said), soft_wrap=True, highlight=False)


def _shape(real: AnyNetwork) -> Network:
    """Return the network; one of the zoo without its weights, which cost nothing to do without."""
    if isinstance(real, OwnNetwork) and real.of_zoo:
        return network.trace(zoo.create(real.model), np.zeros((1, *zoo.entry(real.model).input_shape), np.float32))
    networks.check([real.name], [real] if isinstance(real, OwnNetwork) else (), images=False)
    return real.load()


def _images(experiment: Experiment, real: AnyNetwork, net: Network, cells: list[Cell]) -> tuple[float, int]:
    """Return how many images run through the network, and how many are held in memory."""
    wanted = [getattr(experiment, f"{part}_images", None) for part in ("calibration", "held_out")]
    tuning = experiment.tuning_count(real.name)
    runs, sizes = 0.0, defaultdict(int, {"": 1})
    for seed, group in groupby(cells, key=lambda cell: cell["seed"]):
        if not experiment.NEEDS_IMAGES:
            break
        if isinstance(real, OwnNetwork) and not real.data:
            calibration = wanted[0] or 512
            left = ASSUMED - calibration - tuning
            sizes |= {"calibration": calibration, "tuning": tuning, "held_out": left, "accuracy": wanted[1] or left}
        else:
            parts = choose_parts(real, real.open_images(net), *wanted, tuning, seed)
            sizes |= {part: len(indices) for part, indices in parts.items()}
        for cell in (None, *group):
            runs += sum(times * sizes[part] for part, times in experiment.passes(cell).items())
    return runs, sum(sizes[part] for part in experiment.HOLDS)


def live_bytes(net: Network) -> int:
    """Return the most bytes of feature maps that one image has at a time, each until its last use."""

    def size(tensor: str) -> int:
        return 4 * prod(side for side in net.graph.shape(tensor) if side is not None)

    last = {tensor: place for place, node in enumerate(net.graph.nodes) for tensor in node.inputs}
    live = most = sum(map(size, net.graph.inputs))
    for place, node in enumerate(net.graph.nodes):
        live += size(node.output)
        most = max(most, live)
        live -= sum(size(tensor) for tensor in dict.fromkeys(node.inputs) if last[tensor] == place)
    return most
