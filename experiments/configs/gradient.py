"""What gradient tuning, bias correction, equalization and bit allocation win on real networks.

    python -m experiments run gradient
    python -m experiments run gradient --networks resnet20 --widths 4/4 --methods before gradient

Three disjoint sets of images: the conventional ones calibrate; 2,000 other training images of CIFAR-10 tune ResNet-20,
200 of the 900 held-out images of the ImageNet sample the others, and the 700 that are left evaluate. Seconds are wall
time of the tuning, compilation included, on whatever else the machine was doing.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from experiments import accuracy
from experiments.bench import Bench
from experiments.configs.tuning import finished
from experiments.experiment import Cell, Experiment, check_known, check_numbers, widths_of
from ggdjax import data, quantization, tune

#: Method -> whether calibration is that of the equalized network, what is done, and whether weight steps are free:
#: not powers of two, which is not the paper's form but that of most other tools.
METHODS: dict[str, tuple[str, ...]] = {
    "before": (),
    "bias correction": ("biases",),
    "equalized": ("equalize",),
    "equalized, bias correction": ("equalize", "biases"),
    "gradient": ("gradient",),
    "layer by layer": ("layers",),
    "bits": ("bits",),
    "bits, gradient": ("bits", "gradient"),
    "free weight steps": ("free",),
    "free weight steps, gradient": ("free", "gradient"),
}
#: Images to tune on, images per gradient step, gradient steps.
BUDGETS = {"resnet20": (2000, 32, 400), "digits": (512, 32, 100)}
_FEW = (200, 16, 100)


@dataclass(frozen=True, kw_only=True)
class Gradient(Experiment):
    """Top-1 and top-5 after ways of tuning without labels, of networks × widths × methods × seeds."""

    NAME: ClassVar[str] = "gradient"
    AXES: ClassVar[tuple[str, ...]] = ("widths", "methods")
    HOLDS: ClassVar[tuple[str, ...]] = ("tuning", "accuracy")
    BESIDES: ClassVar[str] = "the choice of widths per layer"

    widths: tuple[str, ...] = ("8/8", "6/6", "5/5", "4/4", "8/4")
    """Bits of weights/feature maps."""
    methods: tuple[str, ...] = tuple(METHODS)
    """What is done to the network."""
    tuning_images: int | None = None
    """Images to tune on; none: 2000 for resnet20, 512 for digits, 200 for the others."""
    held_out_images: int | None = None
    """Evaluate on up to N held-out images; none: on all of them."""
    steps: int | None = None
    """Gradient steps; none: 400 for resnet20, 100 for the others."""

    def check(self) -> None:
        """Refuse unknown names, missing data and numbers out of range."""
        check_known(self, "methods", METHODS)
        check_numbers(self, "steps")
        super().check()

    def cells_of(self, network: str) -> list[Cell]:
        """Return the float network, then the others; allocated widths are the same for weights and feature maps."""
        pairs = [("float", "float"), *((w, m) for w in self.widths for m in self.methods)]
        return [
            {"widths": widths, "method": method}
            for widths, method in pairs
            if widths == "float" or "bits" not in METHODS[method] or len(set(widths_of(widths))) == 1
        ]

    def tuning_count(self, network: str) -> int:
        """Return how many images tune a network."""
        return self.tuning_images or BUDGETS.get(network, _FEW)[0]

    def passes(self, cell: Cell | None) -> dict[str, float]:
        """Return one pass to calibrate; each cell is evaluated, and corrects biases or takes gradients."""
        if cell is None:
            return {"calibration": 1}
        done = METHODS.get(cell["method"], ())
        _, size, steps = BUDGETS.get(cell["network"], _FEW)
        slopes = 3 * size * (self.steps or steps) * bool({"gradient", "layers"} & {*done})
        return {"accuracy": 1, "": slopes, "calibration": 2.0 * ("biases" in done) + ("equalize" in done)}

    def prepare(self, network: str, seed: int) -> dict[str, Any]:
        """Return the network, its images, and where the calibration of the equalized network is kept."""
        _, size, steps = BUDGETS.get(network, _FEW)
        images, real = self.tuning_count(network), self.network(network)
        bench = Bench(real, held_out=self.held_out_images, tuning=images, seed=seed + 1, folded=True)
        order = data.hash_order(bench.ids["tuning"], seed + 1)
        tuning = bench.decoded("tuning")[0][order]
        return {"bench": bench, "tuning": tuning, "size": min(size, images), "steps": self.steps or steps, "equal": {}}

    def image_ids(self, prepared: dict[str, Any]) -> dict[str, list[str]]:
        """Return the images of every part."""
        return prepared["bench"].ids

    def measure(self, prepared: dict[str, Any], cell: Cell, folder: Path) -> dict[str, Any]:
        """Return the accuracies of the tuned network, and what tuning cost."""
        bench: Bench = prepared["bench"]
        net: Callable[[Any], Any] = bench.net
        record: dict[str, Any] = {}
        if cell["widths"] != "float":
            net, record = self.tuned(prepared, *widths_of(cell["widths"]), METHODS[cell["method"]])
        return accuracy.figures(bench.ranks(net)) | {"tuning_images": len(prepared["tuning"]), **record}

    def tuned(
        self, prepared: dict[str, Any], weight_bits: int, activation_bits: int, done: tuple[str, ...]
    ) -> tuple[quantization.QuantizedNetwork, dict[str, Any]]:
        """Return the network quantized and improved, and what to record of it."""
        bench, images, size = prepared["bench"], prepared["tuning"], prepared["size"]
        scheme = "mse-search" if "free" in done else "fixed-point"
        config = quantization.QuantConfig(
            weight_bits=weight_bits, activation_bits=activation_bits, weight_scheme=scheme
        )
        net, calibration = bench.net, bench.calibration
        if "equalize" in done:
            if not prepared["equal"]:
                net = tune.equalize(bench.net)
                counted = bench.calibrated(net)
                prepared["equal"] |= {"net": net, "calibration": counted}
            net, calibration = prepared["equal"]["net"], prepared["equal"]["calibration"]
        q = quantization.quantize(net, calibration, config)
        record, began = {}, time.perf_counter()
        if "biases" in done:
            q = tune.correct_biases(q, bench.calibration_inputs)
        if "bits" in done:
            widths = range(2, weight_bits + 5)
            chosen = tune.allocate_bits(q, images[:256], budget=weight_bits, widths=widths, batch_size=size)
            fields = {"weight_bits_of": chosen.weight_bits_of, "activation_bits_of": chosen.activation_bits_of}
            q = quantization.quantize(net, calibration, dataclasses.replace(config, **fields))
            record |= {"weight_bits": chosen.weight_bits_of, "activation_bits": chosen.activation_bits_of}
        if {"gradient", "layers"} & {*done}:
            settings = tune.GradientConfig(
                steps=prepared["steps"], batch_size=size, held_back=0.0, per_layer="layers" in done
            )
            q = finished(q, images, settings, f"{bench.name} {weight_bits}/{activation_bits}")
            history = q.history
            record |= {"before": history.before, "after": history.after, "config": dataclasses.asdict(settings)}
        return q, record | {"tuning_seconds": round(time.perf_counter() - began, 3)}

    def shown(self, row: dict[str, Any]) -> dict[str, str]:
        """Return the accuracies and the seconds."""
        return accuracy.shown(row) | {"seconds of tuning": f"{row.get('tuning_seconds', 0):.0f}"}


CONFIGS = {
    "gradient": Gradient(networks=("resnet20", "squeezenet", "mobilenet-0.25-128", "mobilenet-0.75-192")),
    "gradient-tiny": Gradient(
        widths=("4/4",), methods=("before", "equalized, bias correction"), tuning_images=32, held_out_images=100
    ),
}
