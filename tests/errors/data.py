"""Wrong images and labels."""

from __future__ import annotations

import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ggdjax.data import from_arrays, open_images, preset, split_by_ids
from tests.errors.given import file, folder, labels, member, npz, pixels, tar_of
from tests.errors.world import OF, Case, Q, World


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


def breaks(root: Path) -> None:
    for i in range(4):
        (root / "class0" / f"{i}.png").write_bytes(b"no image")


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
