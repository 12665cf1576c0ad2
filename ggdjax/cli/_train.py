"""`ggdjax train`: train a network of the zoo from scratch, go on after a kill, measure, write."""

from __future__ import annotations

import dataclasses
import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from ggdjax._atomic import atomic_write
from ggdjax._errors import GgdjaxError
from ggdjax._lock import exclusive
from ggdjax.cli._runs import KEPT
from ggdjax.zoo._recipe import Recipe  # Tyro reads the annotation when the command line is built

if TYPE_CHECKING:
    import numpy as np
    from flax import nnx

    from ggdjax.data import ImageSet

#: Held-out images on which each epoch is measured; all of them are, at the end.
_SAMPLE = 1000


@dataclass(frozen=True, kw_only=True)
class Train:
    """Train a network of the zoo from scratch on labelled images.

    Batches are spread over all devices that JAX sees. A checkpoint is kept every 100 steps: the same command resumes
    where a killed one stopped, and ends with the same weights. Held out is the part `test` of the images, or, without
    such a part, a tenth of the part `train` or of all images. The folder gets weights.safetensors, log.jsonl (a line
    per epoch) and metrics.json.

    For example:
        ggdjax train resnet20 --data cifar10.tar.gz --preset cifar10 --out runs/resnet20
        ggdjax train mobilenet_v2_small --data cifar10.tar.gz --preset cifar10 --epochs 60 --out runs/mobilenet
        ggdjax train lenet5 --data tfds:mnist --preset mnist --no-flip --out runs/lenet5
        ggdjax train resnet18 --data imagenet/ --preset imagenet --batch-size 256 --out runs/resnet18
    """

    name: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="NAME")]
    """The network; an unknown name lists the known ones."""
    data: Path
    """Images: a folder of class folders, a flat folder with labels.csv, an .npz (image, label), a tar archive,
    or tfds:NAME for a set that TensorFlow Datasets has prepared."""
    out: Path
    """Folder to write; one that holds an unfinished run of the same arguments is resumed."""
    preset: str = "cifar10"
    """Preprocessing: cifar10, mnist, imagenet, imagenet-caffe or imagenet-tf."""
    recipe: Annotated[Recipe, tyro.conf.arg(name="")] = field(
        default_factory=lambda: Recipe(
            batch_size=128,
            optimizer="sgd",
            learning_rate=0.2,
            weight_decay=5e-4,
            label_smoothing=0.0,
            shift=4,
            flip=True,
        )
    )

    def run(self) -> None:
        """Do the job.

        Raises:
            GgdjaxError: a user error, before training starts.
        """
        KEPT[:] = [self.out / "checkpoints"]
        with exclusive(self.out, "--out"):
            self._check_out()
            self._train()

    def _train(self) -> None:
        import jax
        import numpy as np

        from ggdjax import zoo
        from ggdjax.cli import _console
        from ggdjax.report import environment

        console = _console.console()
        net, images = self._open()
        train, held_out = _parts(images, self.recipe.seed)
        sample = held_out[:_SAMPLE]
        log = self.out / "log.jsonl"
        started = time.perf_counter()

        def write_log(history: list[dict[str, Any]]) -> None:
            with atomic_write(log, "--out") as part:
                part.write_text("".join(json.dumps(_rounded(record)) + "\n" for record in history), encoding="utf-8")
            console.print(", ".join(f"{key} {value}" for key, value in _rounded(history[-1]).items()))

        steps = self.recipe.epochs * (len(train) // self.recipe.batch_size)
        with _console.progress_bar(console, f"Training {self.name}", steps) as advance:
            shown = 0

            def on_step(done: int, _: int) -> None:
                nonlocal shown
                advance(done - shown)
                shown = done

            trained = zoo.fit(
                net,
                images,
                self.recipe,
                indices=train,
                mesh=jax.sharding.Mesh(np.asarray(jax.devices()), ("data",)),
                checkpoints=self.out / "checkpoints",
                on_step=on_step,
                measure=lambda now: {"held_out_sample_top1": zoo.top1(now, images, sample)},
                on_epoch=write_log,
            )
        seconds = round(time.perf_counter() - started, 1)
        self._write(trained, images, train, held_out, {"seconds_of_last_start": seconds, **environment()})
        console.print(f"Written to {self.out}: weights.safetensors, log.jsonl, metrics.json", soft_wrap=True)

    def _check_out(self) -> None:
        if (self.out / "metrics.json").exists():
            raise GgdjaxError(f"`--out` {self.out} holds a finished run: choose another folder, or remove it")
        if self.out.exists() and not self.out.is_dir():
            raise GgdjaxError(f"`--out` {self.out} is a file: choose a folder")
        if self.out.is_dir() and any(self.out.iterdir()) and not (self.out / "checkpoints").is_dir():
            raise GgdjaxError(f"`--out` {self.out} exists and holds no checkpoints: choose another folder")

    def _open(self) -> tuple[nnx.Module, ImageSet]:
        from ggdjax import data, zoo

        shape = (None, *zoo.entry(self.name).input_shape)
        preprocessing = data.preset(self.preset, layout="NHWC").for_input(shape)
        images = data.open_images(self.data, preprocessing)
        net = zoo.create(self.name, seed=self.recipe.seed, num_classes=images.label_range[1] + 1)
        net.train()
        return net, images

    def _write(self, net: nnx.Module, images: ImageSet, train: np.ndarray, held_out: np.ndarray, more: dict) -> None:
        import jax

        from ggdjax import zoo
        from ggdjax.quantization import accuracy

        measured = accuracy(jax.jit(net.__call__), images.batches(held_out, 100))
        metrics = {
            "network": self.name,
            "held_out_top1": measured.top1,
            "held_out_top1_interval": list(measured.interval()),
            "held_out_top5": measured.top5,
            "held_out_images": measured.images,
            "train_images": len(train),
            "recipe": dataclasses.asdict(self.recipe),
            "preprocessing": images.preprocessing.to_dict(),
            "classes": list(images.classes) if images.classes is not None else None,
            **more,
        }
        metadata = {
            "network": self.name,
            "recipe": json.dumps(metrics["recipe"]),
            "preprocessing": json.dumps(metrics["preprocessing"]),
            "held_out_top1": f"{measured.top1:.4f}",
            "held_out_images": str(measured.images),
        }
        zoo.save_weights(net, self.out / "weights.safetensors", metadata)
        # Last, since it is what makes the run a finished one.
        with atomic_write(self.out / "metrics.json", "--out") as part:
            part.write_text(json.dumps(metrics, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _parts(images: ImageSet, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the training images, and the held-out ones in an order that any first part of them represents."""
    import numpy as np

    from ggdjax.data import hash_order

    order = hash_order(images.ids, seed)
    train = images.parts.get("train", order)
    if "test" in images.parts:
        held_out = order[np.isin(order, images.parts["test"])]
    else:
        candidates = order[np.isin(order, train)]
        held_out = candidates[: max(len(candidates) // 10, 1)]
    return np.setdiff1d(train, held_out), held_out


def _rounded(record: dict[str, Any]) -> dict[str, Any]:
    return {key: round(value, 4) if isinstance(value, float) else value for key, value in record.items()}
