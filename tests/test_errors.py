"""The error matrix: each wrong input gives one line that says what was given, what was expected and what to do.

Longer than other files, since it is one table. A case is (name, what to run, what the line must say, what is prepared);
what is run is a command line or a function of the `World`. Nothing may be left half written: the folder `place`, which
the outputs go to, must be as it was.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import onnx
import pytest
from flax import nnx
from onnx import TensorProto, helper

import ggdjax as gd
from ggdjax._errors import GgdjaxError
from ggdjax._lock import exclusive
from ggdjax.cli import main
from ggdjax.data import from_arrays, open_images, preset, split_by_ids
from ggdjax.datapath import Accelerator
from ggdjax.quantization import QuantizedNetwork, Quantizers, Record
from ggdjax.steps import Quantizer
from tests.small_onnx import CLASSES, write_images, write_network

if TYPE_CHECKING:
    from collections.abc import Callable


class World:
    """What is right: a network, images, their quantized forms; and the folders of one case."""

    def __init__(self, folder: Path) -> None:
        self.model = write_network(folder / "net.onnx")
        self.images = write_images(folder / "images")
        self.x = np.random.default_rng(2).normal(size=(6, 3, 8, 8)).astype(np.float32)
        self.labels = np.arange(6) % CLASSES
        self.given = self.place = folder

    @cached_property
    def net(self):
        return gd.load_onnx(self.model)

    @cached_property
    def calibration(self):
        return gd.calibrate(self.net, [self.x])

    @cached_property
    def q(self):
        """The network at 8 bits, by steps that were set by hand: choosing them would compile for seconds."""
        step, fixed = Quantizer(step=jnp.float32(0.02), bits=8), Quantizer.fixed_point(5, 8)
        layers = [node.name for node in self.net.graph.quantizable]
        quantizers = Quantizers(
            activations={fm.tensor: step for fm in self.net.graph.feature_maps()},
            weights=dict.fromkeys(layers, fixed),
            biases=dict.fromkeys(layers, Quantizer.fixed_point(5, 16)),
        )
        return QuantizedNetwork(
            graph=self.net.graph,
            params=self.net.params,
            quantizers=quantizers,
            record=Record(float_network=self.net, config=gd.QuantConfig()),
        )

    @cached_property
    def program(self):
        return gd.datapath.compile(self.q, Accelerator())


@dataclass(frozen=True)
class Case:
    """One wrong input."""

    name: str
    run: str | Callable[[World], Any]
    """A command line, split at blanks after its {names} are filled in, or a function."""
    says: str
    """What was given, and what was expected or is to be done: parts of the line, between bars."""
    given: Callable[[World], Any] | None = None
    """Prepares the wrong input."""


ON = "--data {images} --size 8 --calibration-images 12 --out {place}/run"
Q = "quantize {model} " + ON
OF = "--size 8 --calibration-images 12 --out {place}/run"
TRAIN = "train lenet5 --data {given}/set.npz --preset mnist --batch-size 8 --out {place}/run "


# Files --------------------------------------------------------------------------------------------------------------


def file(name: str, content: bytes | str = b"") -> Callable[[World], None]:
    """Return what writes a file among the given ones."""

    def write(w: World) -> None:
        path = w.given / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)

    return write


def folder(name: str) -> Callable[[World], None]:
    return lambda w: (w.given / name).mkdir(parents=True)


def truncated(w: World) -> None:
    whole = w.model.read_bytes()
    (w.given / "bad.onnx").write_bytes(whole[: len(whole) // 2])


def network(nodes, *, size=(8, 8), inputs=("x",), opset=17, constants=(), path="bad.onnx") -> Callable[[World], None]:
    """Return what writes an ONNX file of these nodes, from `x` to `y`."""

    def write(w: World) -> None:
        values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 3, *size]) for name in inputs]
        result = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
        graph = helper.make_graph(nodes, "bad", values, [result], list(constants))
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
        (w.given / path).write_bytes(model.SerializeToString())

    return write


def external(w: World) -> None:
    model = onnx.load(w.model)
    onnx.save_model(model, w.given / "bad.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0)
    (w.given / "weights.bin").unlink()


def batch_norm() -> Any:
    constants = [helper.make_tensor(n, TensorProto.FLOAT, [3], np.ones(3)) for n in "smvu"]
    node = helper.make_node("BatchNormalization", ["x", *"smvu"], ["y"], "norm", training_mode=1)
    return network([node], constants=constants)


def lstm() -> Any:
    shapes = {"w": (1, 16, 8), "r": (1, 16, 4)}
    constants = [helper.make_tensor(n, TensorProto.FLOAT, s, np.zeros(s).ravel()) for n, s in shapes.items()]
    return network([helper.make_node("LSTM", ["x", "w", "r"], ["y"], "cell", hidden_size=4)], constants=constants)


B = "quantize {given}/bad.onnx " + ON
# fmt: off
FILES = [
    Case("model missing", "quantize {given}/gone.onnx " + ON, "no model file | gone.onnx | ONNX file"),
    Case("model empty", B, "bad.onnx | cannot be read as ONNX | export it again", file("bad.onnx")),
    Case("model truncated", B, "bad.onnx | truncated | export it again", truncated),
    Case("model is text", B, "bad.onnx | another kind of file | export it", file("bad.onnx", "no network\n" * 9)),
    Case("model is a folder", B, "bad.onnx | folder | ONNX file", folder("bad.onnx")),
    Case("external data missing", B, "external data | bad.onnx | weights.bin | beside", external),
    Case("operator set too old", B, "operator set 6 | 7 is the oldest | version_converter",
         network([helper.make_node("Relu", ["x"], ["y"])], opset=6)),
    Case("dynamic shape", B, "`x` | open dimensions | (None, 3, None, None) | `--input-shape`",
         network([helper.make_node("Relu", ["x"], ["y"])], size=("h", "w"))),
    Case("two inputs", B, "`x`, `z` | one input | `--constant NAME=NUMBER`",
         network([helper.make_node("Add", ["x", "z"], ["y"])], inputs=("x", "z"))),
    Case("recurrent layer", B, "recurrent layer | LSTM | feed-forward | `cell`", lstm()),
    Case("unsupported operator", B, "unsupported operator | Asinh | `angle` | supported:  | Relu",
         network([helper.make_node("Asinh", ["x"], ["y"], "angle")])),
    Case("batch normalization in training mode", B, "training mode | BatchNormalization | `norm`",
         batch_norm()),
    Case("NaN in the weights", B, "`k` | NaN | repair",
         lambda w: write_network(w.given / "bad.onnx", kernel_scale=float("nan"))),
    Case("ids missing", Q + " --calibration-ids {given}/gone", "--calibration-ids | gone | one id a line"),
    Case("ids in another encoding", Q + " --calibration-ids {given}/ids",
         "--calibration-ids | ids | text | one id a line", file("ids", b"\xff\xfe\x80")),
    Case("ids is a folder", Q + " --calibration-ids {given}/ids", "--calibration-ids | one id a line", folder("ids")),
    Case("ids unknown", Q + " --calibration-ids {given}/ids", "class0/99.png | 0/0.png",
         file("ids", "class0/99.png\n")),
    Case("ids empty", Q + " --calibration-ids {given}/ids", "calibration | give", file("ids")),
]
# fmt: on


# Data ---------------------------------------------------------------------------------------------------------------


def npz(**arrays) -> Callable[[World], None]:
    return lambda w: np.savez(w.given / "set.npz", **arrays)


def pixels(count=30, chan=3, dtype=np.uint8) -> np.ndarray:
    return np.zeros((count, 8, 8, chan), dtype)


def labels(count=30) -> np.ndarray:
    return np.arange(count) % CLASSES


def copied(change: Callable[[Path], Any]) -> Callable[[World], None]:
    """Return what copies the right images and changes something about them."""

    def write(w: World) -> None:
        shutil.copytree(w.images, w.given / "set")
        change(w.given / "set")

    return write


def labelled(text: str) -> Callable[[World], None]:
    def change(root: Path) -> None:
        (root / "class0").rename(root / "all")
        (root / "labels.csv").write_text(text)

    return copied(change)


def other_size(root: Path) -> None:
    from PIL import Image

    Image.new("RGB", (9, 7)).save(root / "class0" / "0.png")


def tar_of(*members: tarfile.TarInfo) -> Callable[[World], None]:
    def write(w: World) -> None:
        with tarfile.open(w.given / "set.tar.gz", "w:gz") as tar:
            for member in members:
                tar.addfile(member, io.BytesIO(b"x" * member.size))

    return write


def member(name: str, size: int = 1, **fields) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size = size
    for key, value in fields.items():
        setattr(info, key, value)
    return info


def breaks(root: Path) -> None:
    for i in range(4):
        (root / "class0" / f"{i}.png").write_bytes(b"no picture")


def _npy(w: World) -> None:
    with (w.given / "set.npz").open("wb") as stream:
        np.save(stream, pixels())


def _objects(w: World) -> None:
    np.savez(w.given / "set.npz", image=np.array([{}], object), label=np.zeros(1, np.int64))


def _move(root: Path, part: str, classes: tuple[int, ...]) -> None:
    (root / part).mkdir()
    for c in classes:
        (root / f"class{c}").rename(root / part / f"class{c}")


def _copy(root: Path, part: str, classes: tuple[int, ...]) -> None:
    for c in classes:
        shutil.copytree(root / "train" / f"class{c}", root / part / f"class{c}")


ANY = "--calibration-images 12 --out {place}/run"
F = "quantize {model} --data {given}/set " + OF
N = "quantize {model} --data {given}/set.npz " + ANY + " --scale 1"
T = "quantize {model} --data {given}/set.tar.gz " + OF
# fmt: off
DATA = [
    Case("images missing", "quantize {model} --data {given}/gone " + OF, "no images at | gone | folder"),
    Case("empty folder", F, "given/set | no images | expected", folder("set")),
    Case("class folders without images", F, "given/set | no images | expected", folder("set/class0")),
    Case("flat folder without labels", "quantize {model} --data {images}/class0 " + OF,
         "class0 | no `labels.csv` | columns `file`, `label`"),
    Case("labels.csv without a column", F, "name, kind | expected `file`", labelled("name,kind\nall/0.png,0\n")),
    Case("labels.csv is empty", F, "labels.csv | columns none | expected `file`", labelled("")),
    Case("label is no number", F, "line 2 | 'cat' | integer", labelled("file,label\nall/0.png,cat\n")),
    Case("label negative", F, "-1 | from 0 on", labelled("file,label\nall/0.png,-1\n")),
    Case("label out of range", F, "class 7 | all/1.png | 3 classes | `label_offset`",
         labelled("file,label\nall/0.png,0\nall/1.png,7\n")),
    Case("labelled file missing", F, "gone.png | relative to", labelled("file,label\nall/gone.png,0\n")),
    Case("image named twice", F, "all/0.png | more than once", labelled("file,label\n" + "all/0.png,0\n" * 2)),
    Case("broken images", F, "class0/0.png | unreadable | more than 1.00% | repair or remove", copied(breaks)),
    Case("images of different sizes", F.replace("--size 8", "--scale 1"), "given/set | different sizes | give `size`",
         copied(other_size)),
    Case("size that the network does not read", Q.replace("--size 8", "--size 9"), "`size` is 9 | 8×8"),
    Case("images of another size", N, "(batch, 3, 9, 9) | (batch, 3, 8, 8) | `size`",
         npz(image=np.zeros((30, 9, 9, 3), np.uint8), label=labels())),
    Case("npz with other keys", N, "img, label | no `image`", npz(img=pixels(), label=labels())),
    Case("npz of weights", N, "holds a, b, c, d, e, …, | but no `image`", npz(**{k: pixels(1) for k in "abcdefgh"})),
    Case("npz is one array", N, "set.npz | one array | `image` and `label`", _npy),
    Case("npz damaged", N, "set.npz | cannot be read | `image` and `label`", file("set.npz", b"PK\x03\x04 cut")),
    Case("npz of objects", N, "set.npz | cannot be read | `image` and `label`", _objects),
    Case("wrong channel count", N, "(30, 8, 8, 2) | [images, height, width, 3]",
         npz(image=pixels(chan=2), label=labels())),
    Case("labels of another length", N, "(29,) | one per image, (30,)", npz(image=pixels(), label=labels(29))),
    Case("labels of a real type", N, "float32 | integers", npz(image=pixels(), label=labels().astype(np.float32))),
    Case("NaN pixels", N, "image `0` | NaN | repair or remove",
         npz(image=pixels(dtype=np.float32) * np.nan, label=labels())),
    Case("npz without images", N, "set.npz | no images | expected", npz(image=pixels(0), label=labels(0))),
    Case("tar without images", T, "set.tar.gz | no images | expected", tar_of(member("readme.txt"))),
    Case("tar damaged", T, "set.tar.gz | damaged or no tar archive", file("set.tar.gz", b"\x1f\x8b cut")),
    Case("tar leads out", T, "set.tar.gz | ../x | outside", tar_of(member("../x"))),
    Case("tar holds a link", T, "`a/link` | no plain file | pack plain files",
         tar_of(member("a/link", 0, type=tarfile.SYMTYPE, linkname="/etc"))),
    Case("another kind of file", "quantize {model} --data {given}/set.zip " + OF,
         "set.zip | no image set | folder, an .npz", file("set.zip")),
    Case("set that is not prepared", "quantize {model} --data tfds:gone_set " + OF,
         "gone_set | not prepared | pip install"),
    Case("no set named", "quantize {model} --data tfds: " + OF, "`tfds:` names no set | tfds:NAME"),
    Case("fewer images than asked for", Q + " --calibration-images 999", "999 | 24 | ask for fewer or give more"),
    Case("no calibration images and nothing to read instead", Q + " --calibration-images 0",
         "no batch normalization | calibrate on images"),
    Case("negative count of images", Q + " --calibration-images -5", "-5 | at least 0"),
    Case("no images held out", Q + " --held-out-images 0", "--held-out-images | at least 1 | got 0"),
    Case("parts of different classes", F, "`test` | class2 | same class folders",
         copied(lambda root: [_move(root, "train", (0, 1, 2)), _copy(root, "test", (0, 1))])),
    Case("unknown id", lambda w: split_by_ids(open_images(w.images, preset("cifar10")), ["class9/0.png"]),
         "class9/0.png | class0/0.png"),
    Case("share out of range", lambda w: open_images(w.images, preset("cifar10"), unreadable_share=1.5),
         "`unreadable_share` is 1.5 | from 0 to 1"),
    Case("batch of no images", lambda w: next(open_images(w.images, preset("cifar10")).batches(batch_size=0)),
         "`batch_size` is 0 | at least 1"),
    Case("channels first arrays",
         lambda w: from_arrays(np.zeros((2, 3, 8, 8), np.uint8), np.zeros(2, np.int64), preset("cifar10")),
         "(2, 3, 8, 8) | [images, height, width, 3] | move the channels last"),
]
# fmt: on


# Options and configurations -----------------------------------------------------------------------------------------


def tune(w: World, *, count: int = 6, images=None, checkpoint: Path | None = None, **changes) -> Any:
    """Tune the small network; a change named `labels` is one of the labels, any other of the config."""
    wanted = changes.pop("labels", w.labels)
    wanted = None if wanted is None else wanted[:count]
    config = gd.tune.TuneConfig(**{"sweeps": 1, **changes})
    return gd.tune.backward_forward(
        w.q, w.x[:count] if images is None else images, wanted, config, checkpoint=checkpoint
    )


BITS = [
    Case(
        f"{option} {bits}",
        Q + f" --{option.replace('_', '-')} {bits}",
        f"`--{option.replace('_', '-')}` | from 2 to | got {bits}",
    )
    for option in ("weight_bits", "activation_bits")
    for bits in (1, 17, 0, -3)
]
# fmt: off
OPTIONS = [
    *BITS,
    Case("bias bits", Q + " --bias-bits 33", "`--bias-bits` | from 2 to 32 | got 33"),
    Case("unknown scheme", Q + " --scheme ggd-exakt", "ggd-exakt | did you mean `ggd-exact`"),
    Case("unknown weight scheme", Q + " --weight-scheme octave", "octave | did you mean `octav`"),
    Case("unknown preset", Q + " --preset cifar", "`cifar` | did you mean `cifar10` | known: "),
    Case("no preprocessing", "quantize {model} --data {images}", "`--preset` | cifar10 | --size"),
    Case("data without model", "quantize --data {images}", "`--data` | needs a MODEL"),
    Case("preprocessing without model", "quantize --preset imagenet", "`--preset` | needs a MODEL"),
    Case("model without data", "quantize {model}", "`--data` is missing | name the images"),
    Case("batches of no images", Q + " --batch-size 0", "`--batch-size` | at least 1 | got 0"),
    Case("gradient steps without images", Q + " --gradient-steps 5", "`--gradient-steps` | give `--tune-images`"),
    Case("tuning with nothing to do", Q + " --tune-images 4 --tune-sweeps 0", "`--tune-images` | give `--tune-sweeps`"),
    Case("negative sweeps", Q + " --tune-sweeps -1", "`--tune-sweeps` | at least 0 | got -1"),
    Case("bits that are no number", Q + " --weight-bits eight", "--weight-bits | eight | INT"),
    Case("unknown choice", Q + " --layout NCWH", "--layout | NCWH | NCHW"),
    Case("a sweep beyond 16 bits", Q + " --pareto 3 99", "`--pareto` | 99 | 2 to 16"),
    Case("unknown option", Q + " --wieght-bits 8", "--wieght-bits | --weight-bits | --help"),
    Case("unknown command", "quantise", "quantise | quantize, tune, evaluate"),
    Case("no command", "", "Expected one of | quantize, tune, evaluate | --help"),
    Case("missing option", "train lenet5 --out {place}/run", "--data | --help"),
    Case("two means", Q + " --mean 0.1 0.2", "`--mean` has 2 values | expected 1 or 3"),
    Case("no mean", Q + " --mean", "`--mean` has 0 values | expected 1 or 3"),
    Case("zero deviation", Q + " --std 0", "`--std` is (0.0,) | positive"),
    Case("infinite scale", Q + " --scale inf", "`--scale` is inf | positive number"),
    Case("crop larger than the image", Q + " --resize 4 --crop 6", "`--crop` is 6 | `--resize` = 4 | lower `--crop`"),
    Case("other layout", Q + " --layout NHWC", "(None, 3, 8, 8) | NHWC | change `layout` or `colour_order`"),
    Case("grey images", Q + " --colour-order GRAY", "3 channels | GRAY gives 1 | change `layout` or `colour_order`"),
    Case("unknown network", TRAIN.replace("lenet5", "lenet"), "'lenet' | did you mean `lenet5`"),
    Case("unknown optimizer", TRAIN + "--optimizer adagrad", "adagrad | sgd"),
    Case("negative seed", Q + " --seed -1", "`--seed` | at least 0 | got -1"),
    Case("seed beyond 64 bits", Q + f" --seed {2**64}", "`--seed` | below 2^63"),
    Case("negative seed of a training", TRAIN + "--seed -5", "`seed` is -5 | from 0 to"),
    Case("negative seed of a search", lambda w: gd.tune.TuneConfig(seed=-1), "`seed` | at least 0 | got -1"),
    Case("negative seed of gradients", lambda w: gd.tune.GradientConfig(seed=-1), "`seed` | at least 0 | got -1"),
    Case("page into no folder", "report {place} --out {place}/gone/x.html", "gone/x.html | name a file"),
    Case("page over a folder", "report {place} --out {place}", "`--out` | name a file"),
    Case("no epochs", TRAIN + "--epochs 0", "`epochs` is 0 | at least 1"),
    Case("learning rate is NaN", TRAIN + "--learning-rate nan", "`learning_rate` is nan | at least 0"),
    Case("warm-up of more than all", TRAIN + "--warmup 2", "`warmup` is 2.0 | below 1"),
    Case("larger batch than images", TRAIN.replace("-size 8", "-size 99"),
         "`batch_size` is 99 | 27 training images | lower", npz(image=pixels(chan=1), label=labels())),
    Case("width that is no integer", lambda w: gd.QuantConfig(weight_bits=8.0),
         "`weight_bits` | integer | 8.0"),
    Case("unknown granularity", lambda w: gd.QuantConfig(weights_per="row"), "`weights_per` | 'channel' | 'row'"),
    Case("unknown layer in the config",
         lambda w: gd.quantize(w.net, w.calibration, gd.QuantConfig(weight_bits_of={"konv": 4})),
         "`weight_bits_of` names 'konv' | near: conv"),
    Case("channels that were not counted",
         lambda w: gd.quantize(w.net, w.calibration, gd.QuantConfig(activations_per="channel", scheme="max-abs")),
         "`activations_per` is 'channel' | calibrate with `per_channel`"),
    Case("unknown scheme in Python", lambda w: gd.schemes.get("klx"), "`klx` | did you mean `kl`"),
    Case("unknown objective", lambda w: tune(w, objective="top2"), "'top2' | top1 | kl"),
    Case("no sweeps", lambda w: gd.tune.TuneConfig(sweeps=0), "`sweeps` | at least 1 | got 0"),
    Case("negative factors", lambda w: gd.tune.TuneConfig(factors=(-1.0,)), "`factors` | positive | -1.0"),
    Case("screening out of order", lambda w: gd.tune.TuneConfig(screening=(0.5, 0.2)), "`screening` | rising | 0.5"),
    Case("objective without labels", lambda w: tune(w, labels=None),
         "`labels` are missing | 'top1' | without labels take"),
    Case("one class only", lambda w: tune(w, labels=np.zeros(6, np.int64)), "all 0 | 'top1' | give"),
    Case("labels beyond the classes", lambda w: tune(w, labels=w.labels + 9), "[9, 11] | 3 classes | `label_offset`"),
    Case("labels of another count", lambda w: tune(w, labels=w.labels[:2]), "(2,) | expected (6,)"),
    Case("fewer images than classes", lambda w: tune(w, count=2), "2 tuning images | 3 classes | `allow_few_images`"),
    Case("no tuning images", lambda w: tune(w, count=0), "`images` is empty | give"),
    Case("tuning images of another shape", lambda w: tune(w, images=w.x[:, :, :4]), "(1, 3, 4, 8) | (batch, 3, 8, 8)"),
    Case("unknown layer to tune", lambda w: tune(w, layers=("konv",)), "`layers` names 'konv' | conv"),
    Case("unknown unit of bits", lambda w: gd.tune.allocate_bits(w.q, w.x, budget=4, unit="bites"),
         "`bites` | known:  | bops"),
    Case("widths out of range", lambda w: gd.tune.allocate_bits(w.q, w.x, budget=4, widths=(1, 8)),
         "`widths` | from 2 to 16 | [1, 8]"),
    Case("negative gradient rate", lambda w: gd.tune.GradientConfig(step_rate=-1.0), "`step_rate` | at least 0 | -1.0"),
    Case("unknown gradient objective", lambda w: gd.tune.GradientConfig(objective="kk"), "`kk` | known:  | kl"),
    Case("accelerator's width", lambda w: Accelerator(weight_bits=17), "`weight_bits` | from 2 to 16 | got 17"),
    Case("accelerator's width as a text", lambda w: Accelerator(weight_bits="8"), "`weight_bits` | integer | '8'"),
    Case("bias wider than the accumulator", lambda w: Accelerator(accumulator_bits=16),
         "`bias_bits` 32 | `accumulator_bits` 16 | lower `bias_bits`"),
    Case("carry narrower than codes", lambda w: Accelerator(activation_bits=16, residual_bits=8),
         "`residual_bits` 8 | `activation_bits` 16 | raise `residual_bits`"),
    Case("unknown rounding", lambda w: Accelerator(rounding="half_evn"),
         "`rounding` is 'half_evn' | did you mean `half_even`"),
    Case("specification missing", lambda w: Accelerator.load(w.given / "gone.json"),
         "gone.json | cannot read | JSON or TOML"),
    Case("specification is a folder", lambda w: Accelerator.load(w.given), "specification | JSON or TOML"),
    Case("specification of another kind", lambda w: Accelerator.load(w.given / "a.yaml"), "a.yaml | .json or .toml",
         file("a.yaml")),
    Case("specification damaged", lambda w: Accelerator.load(w.given / "a.toml"), "a.toml | not valid TOML | line 1",
         file("a.toml", "x = =")),
    Case("specification of a list", lambda w: Accelerator.load(w.given / "a.json"), "a.json | table of fields | list",
         file("a.json", "[8]")),
    Case("unknown key in a specification", lambda w: Accelerator.load(w.given / "a.json"),
         "a.json | `weigth_bits` | did you mean `weight_bits`", file("a.json", '{"weigth_bits": 8}')),
    Case("wrong type in a specification", lambda w: Accelerator.load(w.given / "a.json"),
         "a.json | `weight_bits` | integer | '8'", file("a.json", '{"weight_bits": "8"}')),
]
# fmt: on


# Numbers ------------------------------------------------------------------------------------------------------------

GGD = gd.GeneralizedGamma(a=jnp.float32(1.0), d=jnp.float32(1.0), p=jnp.float32(1.0))
SOME = np.linspace(0.1, 2.0, 50, dtype=np.float32)


def choose(bits) -> Any:
    return gd.schemes.choose("max-abs", gd.Histogram.from_samples(SOME[None], axis=1), bits, False)


def dense() -> Any:
    return gd.trace(lambda x: x @ jnp.eye(4), jnp.zeros((1, 4)))


def _negative(w: World) -> None:
    from ggdjax import _files

    sparse = gd.Histogram.from_samples(SOME).to_arrays()
    _files.write(w.given / "h", "histogram", {}, sparse | {"count": -sparse["count"]})


# fmt: off
NUMBERS = [
    Case("negative order", lambda w: gd.fit(SOME, order=-1.0), "`order` | negative | ≥ 0"),
    Case("order is NaN", lambda w: gd.fit(SOME, order=float("nan")), "`order` | NaN | ≥ 0"),
    Case("unknown order", lambda w: gd.fit(SOME, order="best"), "`order` | 'best' | number"),
    Case("unknown side", lambda w: gd.fit(SOME, side="left"), "'left' | 'magnitude'"),
    Case("no samples", lambda w: gd.fit(np.zeros((3, 0), np.float32)), "(3, 0) | at least one sample"),
    Case("complex samples", lambda w: gd.fit(SOME * 1j), "`data` has type complex64 | real numbers"),
    Case("complex values to count", lambda w: gd.Histogram.from_samples(SOME * 1j), "`x` has type complex64 | real"),
    Case("texts to count", lambda w: gd.Histogram.from_samples(["a"]), "`x` has type <U1 | real numbers"),
    Case("step at 1 bit", lambda w: gd.closed_form_step(GGD, bits=1), "`bits` is 1 | 2"),
    Case("step at 17 bits", lambda w: gd.closed_form_step(GGD, bits=17), "`bits` is 17 | 16"),
    Case("no level", lambda w: gd.closed_form_step(GGD, levels=1), "`levels` is 1 | 2"),
    Case("bits and levels", lambda w: gd.closed_form_step(GGD, bits=8, levels=3), "`bits` | `levels` | exactly one"),
    Case("step of samples", lambda w: gd.closed_form_step(SOME, bits=8), "`source` is | fit them first"),
    Case("negative step", lambda w: gd.steps.predict(GGD, jnp.float32(-1.0), 8), "`step` is -1.0 | positive"),
    Case("widths that are real", lambda w: choose(8.0), "`bits` | float | say 8"),
    Case("width out of range", lambda w: choose(40), "`bits` | from 2 to | 40"),
    Case("weight without values", lambda w: gd.steps.best_fractional_length(np.zeros(0, np.float32), 8),
         "(0,) | at least one value"),
    Case("weight at 40 bits", lambda w: gd.steps.best_fractional_length(SOME, 40), "`bits` is 40 | from 2 to 32"),
    Case("axis beyond the weight", lambda w: gd.steps.best_fractional_length(SOME, 8, axis=3),
         "`axis` is 3 | distinct axes"),
    Case("power beyond the second", lambda w: gd.Histogram.from_samples(SOME).power_sum(3), "`power` is 3 | 1 or 2"),
    Case("axis beyond the batch", lambda w: gd.Histogram.from_samples(SOME).merge(2), "`axis` is 2 | batch shape"),
    Case("no histograms", lambda w: gd.Histogram.stack([]), "`histograms` is empty | at least one"),
    Case("no calibration images in Python", lambda w: gd.calibrate(w.net, []), "no images | `batches` is empty | give"),
    Case("NaN in a feature map", lambda w: gd.calibrate(w.net, [w.x * np.nan]),
         "`input | NaN | check the preprocessing"),
    Case("input of another shape", lambda w: w.net(w.x[:, :2]), "(6, 2, 8, 8) | expects (batch, 3, 8, 8)"),
    Case("calibration of another network", lambda w: gd.quantize(dense(), w.calibration),
         "`calibration` | another network | calibrate this one"),
    Case("histogram file damaged", lambda w: gd.Histogram.load(w.given / "h"),
         "given/h | no file of ggdjax | name a file that `save` wrote", file("h", "x")),
    Case("histogram file of negative counts", lambda w: gd.Histogram.load(w.given / "h"),
         "given/h | `count` holds -1 | at least 0", _negative),
]
# fmt: on


# Networks -----------------------------------------------------------------------------------------------------------


class Dropping(nnx.Module):
    """A network in training mode."""

    def __init__(self) -> None:
        self.drop = nnx.Dropout(0.5, rngs=nnx.Rngs(0))

    def __call__(self, x):
        return self.drop(x)


def traced(function, shape=(1, 3, 8, 8)) -> Callable[[World], Any]:
    return lambda w: gd.trace(function, jnp.zeros(shape))


def _foreign(w: World) -> None:
    from safetensors.numpy import save_file

    save_file({"conv/kernel": np.zeros(3, np.float32)}, w.given / "w")


# fmt: off
NETWORKS = [
    Case("module in training mode", traced(Dropping()), "training mode | eval()"),
    Case("unsupported operation", traced(jnp.arcsinh), "`asinh` | supported: "),
    Case("loop", traced(lambda x: jax.lax.fori_loop(0, 3, lambda i, y: y * 2.0, x)), "control flow | unroll"),
    Case("decision by values", traced(lambda x: x if x.sum() > 0 else -x), "decides by the values | jax.numpy.where"),
    Case("reduction over the batch", traced(lambda x: x - x.mean(0, keepdims=True)), "over the batch | training mode"),
    Case("constant result", traced(lambda x: jnp.ones(3)), "result of `function` | argument | return"),
    Case("no function", lambda w: gd.trace(3, w.x), "`function` is 3 | module"),
    Case("example without a batch", lambda w: gd.trace(jnp.tanh, jnp.zeros(3)), "(3,) | batch first"),
    Case("unknown output", lambda w: gd.load_onnx(w.model, "logit"), "'logit' | did you mean `logits`"),
    Case("input shape that contradicts", lambda w: gd.load_onnx(w.model, input_shape=(None, 1, 8, 8)),
         "(None, 1, 8, 8) | (batch, 3, 8, 8)"),
    Case("operator set out of range", lambda w: gd.network.export_onnx(w.net, w.place / "a.onnx", opset=3),
         "`opset` is 3 | 13 to 21"),
    Case("network file is not writable", lambda w: gd.network.export_onnx(w.net, w.given / "file" / "a.onnx"),
         "`path` | file/a.onnx | cannot be written | choose", file("file")),
    Case("no weights shipped", lambda w: gd.zoo.load("vgg16"), '`vgg16` | give `weights` | "published"'),
    Case("unknown zoo network", lambda w: gd.zoo.load("resnet-20"), "'resnet-20' | did you mean `resnet20`"),
    Case("no published weights", lambda w: gd.zoo.load("lenet5", "published"), "`lenet5` | only of | give a file"),
    Case("weights missing", lambda w: gd.zoo.load("lenet5", w.given / "gone"), "gone | cannot be read | safetensors"),
    Case("weights damaged", lambda w: gd.zoo.load("lenet5", w.given / "w"), "given/w | cannot be read | safetensors",
         file("w", "x" * 40)),
    Case("weights of another network", lambda w: gd.zoo.load("lenet5", w.given / "w"),
         "given/w | names differ | the network's own weights", _foreign),
    Case("address without checksum", lambda w: gd.zoo.load("lenet5", "https://example.org/w"),
         "https://example.org/w | give the `sha256`"),
    Case("checksum that is none", lambda w: gd.zoo.load("lenet5", "https://example.org/w", sha256="12"),
         "`sha256` is '12' | 64 hexadecimal digits"),
    Case("checksum of a file", lambda w: gd.zoo.load("lenet5", w.given / "w", sha256="12"), "`sha256` | leave it out"),
]
# fmt: on


# Checkpoints and bundles ------------------------------------------------------------------------------------------


def kept(**changes) -> Callable[[World], None]:
    """Return what leaves a tuning checkpoint of another config at the place."""
    return lambda w: tune(w, checkpoint=w.place / "c", rows=8, **changes)


def bundle(change: Callable[[Path], Any]) -> Callable[[World], None]:
    def write(w: World) -> None:
        gd.export.export_bundle(w.program, w.given / "a")
        change(w.given / "a")

    return write


def manifest(change: Callable[[dict], Any]) -> Callable[[World], None]:
    """Return what changes an bundle's manifest, checksum and all."""
    import hashlib

    def rewrite(root: Path) -> None:
        record = json.loads((root / "manifest.json").read_text())
        change(record)
        text = json.dumps(record).encode()
        (root / "manifest.json").write_bytes(text)
        (root / "manifest.sha256").write_text(f"{hashlib.sha256(text).hexdigest()}  manifest.json\n")

    return bundle(rewrite)


def loads(w: World) -> Any:
    return gd.export.load_bundle(w.given / "a")


trains = npz(image=pixels(chan=1), label=labels())


def other_recipe(w: World) -> None:
    from ggdjax.zoo._checkpoints import Checkpoints

    keeper = Checkpoints(w.place / "run" / "checkpoints", {"epochs": 9})
    keeper.save(4, {"x": jnp.zeros(1)}, {})
    keeper.close()


# fmt: off
KEPT = [
    Case("checkpoint damaged", lambda w: tune(w, checkpoint=w.place / "c"),
         "`checkpoint` | no file of ggdjax | remove it",
         lambda w: (w.place / "c").write_text("x" * 99)),
    Case("checkpoint is a folder", lambda w: tune(w, checkpoint=w.place / "c"),
         "`checkpoint` | is a folder | remove it", lambda w: (w.place / "c").mkdir()),
    Case("checkpoint of another config", lambda w: tune(w, checkpoint=w.place / "c", rows=8, seed=1),
         "place/c | another network, other images or other settings | remove it", kept()),
    Case("checkpoint of other images", lambda w: tune(w, checkpoint=w.place / "c", rows=8, images=w.x + 1),
         "place/c | other images | remove it", kept()),
    Case("checkpoint of another kind", lambda w: tune(w, checkpoint=w.place / "w"),
         "place/w | safetensors file of another program | name a file | remove it",
         lambda w: [_foreign(w), (w.given / "w").rename(w.place / "w")]),
    Case("checkpoint in use", lambda w: held(w, lambda: tune(w, checkpoint=w.place / "c"), "c"),
         "`checkpoint` | place/c | another process | wait"),
    Case("training checkpoint damaged", TRAIN, "run/checkpoints/4 | damaged | remove it",
         lambda w: [trains(w), in_place("run/checkpoints/4/junk")(w)]),
    Case("training checkpoint of another recipe", TRAIN, "run/checkpoints | `epochs` was 9 | same arguments",
         lambda w: [trains(w), other_recipe(w)]),
    Case("no bundle", loads, "given/a | no hardware bundle | was exported", folder("a")),
    Case("bundle lacks a file", loads, "program.h | cannot be read | export it again",
         bundle(lambda a: (a / "program.h").unlink())),
    Case("bundle corrupted", loads, "program.h | corrupted | export it again",
         bundle(lambda a: (a / "program.h").write_text("x"))),
    Case("bundle's manifest corrupted", loads, "manifest.json | corrupted | export it again",
         bundle(lambda a: (a / "manifest.json").write_text("{}"))),
    Case("bundle of another version", loads, "version 9 | version 1 | export it again",
         manifest(lambda m: m.update(version=9))),
    Case("bundle over other files", lambda w: gd.export.export_bundle(w.program, w.place),
         "`folder` | no bundle | choose another", lambda w: (w.place / "thesis").write_text("x")),
    Case("bundle below a file", lambda w: gd.export.export_bundle(w.program, w.place / "f" / "a"),
         "f/a | cannot be written | choose", lambda w: (w.place / "f").write_text("x")),
    Case("accumulator too narrow", lambda w: gd.datapath.compile(w.q, Accelerator(accumulator_bits=14, bias_bits=14)),
         "`conv` | needs | `accumulator_bits` are 14 | raise them"),
    Case("codes wider than the accelerator's", lambda w: gd.datapath.compile(w.q, Accelerator(activation_bits=4)),
         "8 bits | `activation_bits` are 4 | raise them"),
    Case("shift only", lambda w: gd.datapath.compile(w.q, Accelerator(requantization="shift")),
         "no power of two | 'multiplier_and_shift'"),
    Case("program's input is NaN", lambda w: w.program(w.x * np.nan), "`x` holds NaN | check the preprocessing"),
    Case("program's input of another shape", lambda w: w.program(w.x[0]), "(3, 8, 8) | expects (batch, 3, 8, 8)"),
    Case("program's input is complex", lambda w: w.program(w.x * 1j), "`x` has type complex64 | real numbers"),
    Case("unknown form", lambda w: gd.export.export_onnx(w.program, w.place / "a", form="qqd"),
         "'qqd' | did you mean `qdq`"),
    Case("cost of nothing", lambda w: gd.cost.estimate(gd.trace(jnp.tanh, jnp.zeros((1, 4)))),
         "`network` | no convolution | give"),
]
# fmt: on


# Environment --------------------------------------------------------------------------------------------------------


def held(w: World, run: Callable[[], Any], name: str = "run") -> Any:
    with exclusive(w.place / name, "--out"):
        return run()


def without(*packages: str) -> Callable[[Callable[[World], Any]], Callable[[World], Any]]:
    """Return what runs a function where some packages are not installed."""

    def wrap(run: Callable[[World], Any]) -> Callable[[World], Any]:
        def wrapped(w: World) -> Any:
            with pytest.MonkeyPatch.context() as patch:
                for name in [n for n in sys.modules if n.split(".")[0] in packages]:
                    patch.delitem(sys.modules, name)
                for name in packages:
                    patch.setitem(sys.modules, name, None)
                return run(w)

        return wrapped

    return wrap


def with_variable(name: str, value: Callable[[World], str], run: Callable[[World], Any]) -> Callable[[World], Any]:
    def wrapped(w: World) -> Any:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv(name, value(w))
            return run(w)

    return wrapped


def in_place(name: str, text: str = "x") -> Callable[[World], Any]:
    def write(w: World) -> None:
        (w.place / name).parent.mkdir(parents=True, exist_ok=True)
        (w.place / name).write_text(text)

    return write


def data_folder(w: World) -> Any:
    from experiments.real_networks import data_folder

    try:
        return data_folder()
    except SystemExit as stop:
        raise GgdjaxError(str(stop.code)) from None


def open_tar(w: World) -> Any:
    return open_images(w.given / "set.tar.gz", preset("cifar10"))


# fmt: off
ENVIRONMENT = [
    Case("out holds something else", Q, "place/run | no run folder | choose another", in_place("run/thesis.tex")),
    Case("out is a file", Q, "place/run | is a file | choose a folder", in_place("run")),
    Case("out below a file", Q.replace("/run", "/f/run"), "f/run | cannot be written | choose", in_place("f")),
    Case("out is not writable", Q.replace("{place}", "/proc/ggdjax"), "/proc/ggdjax/run | cannot be written | choose"),
    Case("out in use", lambda w: held(w, lambda: shell(w, Q)), "place/run | another process | wait"),
    Case("training over something else", TRAIN, "place/run | no checkpoints | choose another",
         in_place("run/thesis.tex")),
    Case("training over a finished run", TRAIN, "place/run | finished run | choose another",
         in_place("run/metrics.json")),
    Case("training into a file", TRAIN, "place/run | is a file | choose a folder", in_place("run")),
    Case("training that runs already", lambda w: held(w, lambda: shell(w, TRAIN)),
         "place/run | another process | wait"),
    Case("training below a file", TRAIN.replace("/run", "/f/run"), "f/run | cannot be written | choose", in_place("f")),
    Case("report of nothing", "report {given}/gone", "gone | no result.json | `ggdjax quantize --out`"),
    Case("report of another folder", "report {images}", "images | no result.json | `ggdjax quantize --out`"),
    Case("report of a damaged run", "report {place}", "result.json | cannot be read | ggdjax quantize",
         in_place("result.json", "{")),
    Case("report of another program's", "report {place}", "result.json | not written by ggdjax | ggdjax quantize",
         in_place("result.json", "{}")),
    Case("package orbax missing", without("orbax")(lambda w: shell(w, TRAIN)), "`orbax-checkpoint` | pip install",
         npz(image=pixels(chan=1), label=labels())),
    Case("Icarus Verilog missing",
         with_variable("PATH", lambda w: str(w.given), lambda w: gd.export.verify_rtl(w.program, w.x)),
         "`iverilog` was not found | install"),
    Case("GGDJAX_DATA points nowhere", with_variable("GGDJAX_DATA", lambda w: str(w.given / "gone"), data_folder),
         "given/gone | set GGDJAX_DATA"),
    Case("cache is not writable", with_variable("XDG_CACHE_HOME", lambda w: str(w.given / "f"), open_tar),
         "set.tar.gz | given/f | XDG_CACHE_HOME", lambda w: [file("f")(w), tar_of(member("a/x.png"))(w)]),
]
# fmt: on


# The walk -----------------------------------------------------------------------------------------------------------

CASES = [*FILES, *DATA, *OPTIONS, *NUMBERS, *NETWORKS, *KEPT, *ENVIRONMENT]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return World(tmp_path_factory.mktemp("world"))


@pytest.fixture
def cased(world, tmp_path, monkeypatch):
    """The world with empty folders for one case."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
    world.given, world.place = tmp_path / "given", tmp_path / "place"
    world.given.mkdir()
    world.place.mkdir()
    return world


def words(w: World, line: str) -> list[str]:
    return [word.format(model=w.model, images=w.images, given=w.given, place=w.place) for word in line.split()]


def shell(w: World, line: str) -> None:
    main(words(w, line))


def tree(root: Path) -> dict[str, bytes | None]:
    return {str(p.relative_to(root)): p.read_bytes() if p.is_file() else None for p in root.rglob("*")}


def message(w: World, case: Case, capsys) -> str:
    """Run a case; return what a user reads."""
    if isinstance(case.run, str):
        with pytest.raises(SystemExit) as stop:
            shell(w, case.run)
        assert stop.value.code == 2
        return capsys.readouterr().err.removesuffix("\n")
    with pytest.raises((GgdjaxError, SystemExit)) as stop:
        case.run(w)
    if isinstance(stop.value, GgdjaxError):
        return str(stop.value)
    assert stop.value.code == 2
    return capsys.readouterr().err.removesuffix("\n")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_wrong_input_gives_one_clear_line(case, cased, capsys):
    if case.given is not None:
        case.given(cased)
    capsys.readouterr()
    before = tree(cased.place)
    line = message(cased, case, capsys)
    assert "\n" not in line
    assert [part for part in case.says.split(" | ") if part not in line] == [], line
    assert tree(cased.place) == before


def test_the_matrix_is_as_large_as_promised():
    assert len(CASES) >= 40
    assert len({case.name for case in CASES}) == len(CASES)
    assert all(case.says.count(" | ") >= 1 for case in CASES)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("quantize {given}/gone.onnx --data {images} --size 8 --out {place}/run", "gone.onnx"),
        (Q + " --activation-bits 17", "`--activation-bits` must be an integer number of bits from 2 to 16, got 17"),
        ("tune {given}/gone --out {place}/run", "no result.json"),
        ("quantize --weight-bit 8", "ggdjax quantize --help"),
        ("report {given}", "no result.json"),
    ],
)
def test_as_a_program(line, says, cased):
    """A new interpreter: status 2, one line on standard error, nothing on standard output."""
    command = [sys.executable, "-c", "from ggdjax.cli import main; main()", *words(cased, line)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("ggdjax: ")
    assert says in done.stderr
    assert done.stderr.count("\n") == 1
    assert tree(cased.place) == {}
