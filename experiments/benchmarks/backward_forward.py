"""Backward-forward tuning on real networks: accuracy sweep by sweep on images never used for tuning, and its cost.

    python -m experiments.benchmarks.backward_forward                        ResNet-20 and SqueezeNet, all widths
    python -m experiments.benchmarks.backward_forward --network resnet20 --widths 4/4 --images 500
    python -m experiments.benchmarks.backward_forward --rounding output --images 500 --network resnet20
    python -m experiments.benchmarks.backward_forward --naive                the cost against a naive loop, ResNet-20
    python -m experiments.benchmarks.backward_forward --tables               what is there, as Markdown

Widths are weights/feature maps. The start is the default scheme, its weights rounded to nearest or, with
``--rounding output``, for the output of their layer on the calibration images. Tuning images are disjoint from those of
calibration and evaluation (ImageNet sample: 200 of the 900 held-out images, so that the others evaluate). Intervals are
Wilson's, 95 %; p is McNemar's exact test against the untuned network. One JSON line per cell is appended to
`experiments/results/backward_forward.jsonl` (`backward_forward_rounded.jsonl` after rounding for the output); finished
cells are skipped, and each search resumes from its checkpoint.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
from rich.progress import Progress, track

from experiments.images import calibrate, read, some
from experiments.real_networks import NETWORKS, RealNetwork
from experiments.rows import append_line, read_lines
from ggdjax import data, network, quantization, report, tune
from ggdjax._ranking import rank_of_label
from ggdjax.tune._candidates import candidates_of
from ggdjax.tune._segments import Unit

FOLDER = Path(__file__).resolve().parents[1] / "results"
#: How weights are rounded at the start -> file of the rows.
RESULTS = {"nearest": FOLDER / "backward_forward.jsonl", "output": FOLDER / "backward_forward_rounded.jsonl"}
WIDTHS = ("8/8", "6/6", "5/5", "4/4", "8/4")
#: Network -> tuning images by default.
IMAGES = {"resnet20": 1000, "squeezenet": 200}
#: Network -> gradient steps after the search, and images per step; the larger networks' steps take half a minute.
FINISH = {"resnet20": (120, 32)}
FEW = (16, 16)


class Bench:
    """One network with its images in memory, calibrated once."""

    def __init__(self, real: RealNetwork, tuning: int, held_out: int | None, seed: int) -> None:
        net = real.load()
        images = real.open_images(net)
        parts, chosen = data.split_tuning(images, real.split(images), tuning, seed)
        size = real.batch_size
        self.calibration = calibrate(net, images, parts.calibration, size, f"{real.name}: calibrate")
        self.net = network.fold_batch_norm(net)
        self.rounding_images = np.concatenate([x for x, _ in images.batches(parts.calibration, size)])
        pairs = list(images.batches(chosen, size))
        self.images, self.labels = (np.concatenate(part) for part in zip(*pairs, strict=True))
        evaluated = some(images, parts.held_out, held_out)
        self.held_out = list(read(images, evaluated, size, f"{real.name}: load held-out images"))
        self.ids = {
            name: [images.ids[i] for i in part]
            for name, part in (("calibration", parts.calibration), ("tuning", chosen), ("held_out", evaluated))
        }

    def quantized(self, widths: str, rounding: str = "nearest") -> quantization.QuantizedNetwork:
        """Return the untuned network of these widths."""
        weights, maps = map(int, widths.split("/"))
        config = quantization.QuantConfig(weight_bits=weights, activation_bits=maps)
        q = quantization.quantize(self.net, self.calibration, config)
        return tune.round_weights(q, self.rounding_images) if rounding == "output" else q

    def evaluate(self, q: quantization.QuantizedNetwork) -> np.ndarray:
        """Return of every held-out image how many classes stand before its own."""
        ranks = []
        for x, labels in track(self.held_out, "evaluate"):
            logits = np.asarray(q(x)).reshape(len(labels), -1)
            ranks.append(rank_of_label(logits, labels))
        return np.concatenate(ranks)


@contextmanager
def progress_of(what: str) -> Iterator[Callable[[int, int, float], None]]:
    """Show a bar with the best score so far."""
    with Progress() as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total, score: bar.update(
            task, completed=done, total=total, description=f"{what}: {score:.4f}"
        )


def search(
    bench: Bench, q: quantization.QuantizedNetwork, what: str, config: tune.TuneConfig, checkpoint: Path
) -> tuple[quantization.QuantizedNetwork, float, dict[str, np.ndarray]]:
    """Tune backward, then forward; return the tuned network, the seconds taken, and the ranks of both stages."""
    tuned, stages, seconds = q, {}, 0.0
    for sweeps, name in ((1, "backward"), (2, "forward")):
        settings, start = replace(config, sweeps=sweeps), time.perf_counter()
        with progress_of(f"{what} {name}") as progress:
            tuned = tune.backward_forward(
                q, bench.images, bench.labels, settings, checkpoint=checkpoint, progress=progress
            )
        seconds += time.perf_counter() - start
        stages[name] = bench.evaluate(tuned)
    return tuned, seconds, stages


def finish(
    bench: Bench, q: quantization.QuantizedNetwork, what: str, config: tune.GradientConfig
) -> quantization.QuantizedNetwork:
    """Tune by gradients what the search has found."""
    with progress_of(f"{what} gradient") as progress:
        return tune.gradient(
            q, bench.images, config=config, progress=lambda step, loss: progress(step, config.steps, loss)
        )


def stage_record(before: np.ndarray, after: np.ndarray) -> dict:
    """Return the accuracies of one stage, and the paired test against the untuned network."""
    accuracy = quantization.Accuracy(top1=float(np.mean(after < 1)), top5=float(np.mean(after < 5)), images=len(after))
    return {
        "top1": accuracy.top1,
        "top5": accuracy.top5,
        "interval": accuracy.interval(),
        "held_out_images": accuracy.images,
        "p_value": tune.mcnemar(before < 1, after < 1).p_value,
    }


def cell(bench: Bench, real: RealNetwork, widths: str, config: tune.TuneConfig, rounding: str) -> dict:
    """Tune one network at one pair of widths; return the row to keep."""
    q = bench.quantized(widths, rounding)
    stages = {"before": bench.evaluate(q)}
    mark = f"{real.name}-{widths.replace('/', '-')}-{config.objective}-{config.seed}-{len(bench.images)}-{rounding}"
    path = Path(tempfile.gettempdir()) / "ggdjax-backward-forward" / f"{mark}.safetensors"
    tuned, seconds, after = search(bench, q, f"{real.name} {widths}", config, path)
    steps, size = FINISH.get(real.name, FEW)
    history, settings = (
        tuned.history,
        tune.GradientConfig(steps=steps, batch_size=size, held_back=0.0, seed=config.seed),
    )
    stages |= after
    stages["gradient"] = bench.evaluate(finish(bench, tuned, f"{real.name} {widths}", settings))
    row = {
        "network": real.name,
        "widths": widths,
        "rounding": rounding,
        "objective": config.objective,
        "seed": config.seed,
        "tuning_images": len(bench.images),
        "seconds": round(seconds, 1),
        "float_passes": round(history.float_passes, 2),
        "naive_float_passes": history.naive_float_passes,
        "compile_seconds": round(history.compile_seconds, 1),
        "tuning_score": [history.start_score, history.score],
        "changes": [f"{d.sweep}: {d.tensor}: {d.change}" for d in history.decisions if d.change],
        "stages": {name: stage_record(stages["before"], result) for name, result in stages.items()},
    }
    return row | report.environment()


def naive(bench: Bench, widths: str, visits: int) -> dict:
    """Time a search that runs the whole network for every candidate, against ours, on the same layers and images."""
    q = bench.quantized(widths)
    layers = tuple(fm.tensor for fm in q.graph.feature_maps())
    chosen = layers[:: max(1, len(layers) // visits)]
    size = 128
    batches = [bench.images[i : i + size] for i in range(0, len(bench.images) - size + 1, size)]
    config = tune.TuneConfig(layers=chosen, sweeps=1)
    start = time.perf_counter()
    passes = 0
    segments = {fm.tensor: fm for fm in q.graph.feature_maps()}
    for layer in track(chosen, "naive loop"):
        unit = Unit(tensor=layer, readers=segments[layer].readers)
        for candidate in candidates_of(unit, q.quantizers, config):
            other = replace(q, quantizers=candidate.apply(q.quantizers, layer))
            for x in batches:
                np.asarray(other(x))
            passes += 1
    slow = time.perf_counter() - start
    start = time.perf_counter()
    tuned = tune.backward_forward(q, bench.images[: len(batches) * size], bench.labels[: len(batches) * size], config)
    fast = time.perf_counter() - start
    history = tuned.history
    print("\n| search | network passes | seconds, compiling included | ratio |\n|---|---|---|---|")
    print(f"| every candidate, whole network | {passes} | {slow:.1f} | 1 |")
    print(
        f"| backward-forward | {history.float_passes:.1f} ({history.float_passes / passes:.3f}) | {fast:.1f} "
        f"({history.compile_seconds:.1f} compiling) | {slow / fast:.1f} times faster |"
    )
    return {
        "network": "resnet20",
        "widths": widths,
        "layers": len(chosen),
        "images": len(batches) * size,
        "naive_passes": passes,
        "naive_seconds": slow,
        "float_passes": history.float_passes,
        "seconds": fast,
        "compile_seconds": history.compile_seconds,
    } | report.environment()


def tables(path: Path) -> None:
    """Print one Markdown table per network."""
    rows = read_lines(path)
    for name in dict.fromkeys(row["network"] for row in rows):
        print(f"\n### {name}: top-1 / top-5 in % on held-out images\n")
        print(
            "| widths | objective | tuning images | before | backward | forward | gradient finish | p of the search "
            "| passes (naive) | seconds |"
        )
        print("|---|---|---|---|---|---|---|---|---|---|")
        for row in (row for row in rows if row["network"] == name):
            cells = []
            for stage in ("before", "backward", "forward", "gradient"):
                s = row["stages"][stage]
                low, high = s["interval"]
                cells.append(f"{100 * s['top1']:.2f} [{100 * low:.1f}, {100 * high:.1f}] / {100 * s['top5']:.2f}")
            print(
                f"| {row['widths']} | {row['objective']} | {row['tuning_images']} | {' | '.join(cells)} "
                f"| {row['stages']['forward']['p_value']:.2g} | {row['float_passes']:.0f} "
                f"({row['naive_float_passes']:.0f}) | {row['seconds']:.0f} |"
            )


def main() -> None:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", action="append", choices=list(NETWORKS), help="only this network (repeatable)")
    parser.add_argument("--widths", action="append", help="weights/feature maps, such as 6/6 (repeatable)")
    parser.add_argument("--objective", default="top1", help="what is tuned for (default: top1)")
    parser.add_argument("--images", type=int, help="tuning images (default: 1000, ImageNet sample 200)")
    parser.add_argument("--held-out", type=int, help="evaluate on up to N held-out images")
    parser.add_argument("--seed", type=int, default=0, help="chooses the tuning images and the screening order")
    parser.add_argument("--naive", action="store_true", help="time a naive loop beside the search on a few layers")
    parser.add_argument("--visits", type=int, default=6, help="layers for --naive")
    parser.add_argument("--tables", action="store_true", help="print the tables of what is there and stop")
    parser.add_argument("--rounding", choices=list(RESULTS), default="nearest", help="of the weights, at the start")
    args = parser.parse_args()
    path = RESULTS[args.rounding]
    if args.naive:
        record = naive(
            Bench(NETWORKS["resnet20"], args.images or 1000, 128, 0), (args.widths or ["4/4"])[0], args.visits
        )
        (FOLDER / "backward_forward_cost.json").write_text(json.dumps(record, indent=1) + "\n")
        return
    keys = ("network", "widths", "objective", "seed", "tuning_images")
    if not args.tables:
        for name in args.network or list(IMAGES):
            count = args.images or IMAGES.get(name, 200)
            done = {tuple(row[key] for key in keys) for row in read_lines(path)}
            todo = [w for w in args.widths or WIDTHS if (name, w, args.objective, args.seed, count) not in done]
            bench = Bench(NETWORKS[name], count, args.held_out, args.seed) if todo else None
            for widths in todo:
                # The ImageNet sample has fewer tuning images than classes.
                config = tune.TuneConfig(objective=args.objective, seed=args.seed, allow_few_images=True)
                append_line(path, cell(bench, NETWORKS[name], widths, config, args.rounding))
    tables(path)


if __name__ == "__main__":
    main()
