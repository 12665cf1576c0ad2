"""The networks that come with the package: what their files say of them holds."""

from __future__ import annotations

import io
import json
import tarfile
from importlib import resources

import numpy as np
import pytest
from PIL import Image
from safetensors import safe_open

from ggdjax import zoo
from ggdjax.data import Preprocessing, from_arrays
from ggdjax.quantization import accuracy

FOLDER = resources.files("ggdjax.zoo")
SHIPPED = ("resnet20",)


def metrics_of(name):
    return json.loads((FOLDER / f"_{name}.metrics.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", SHIPPED)
def test_the_files_agree(name):
    weights = FOLDER / f"_{name}.safetensors"
    assert len(weights.read_bytes()) < 2_000_000
    metrics = metrics_of(name)
    assert metrics["held_out_images"] == 10_000
    low, high = metrics["held_out_top1_interval"]
    assert low < metrics["held_out_top1"] < high
    log = [json.loads(line) for line in (FOLDER / f"_{name}.log.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [line["epoch"] for line in log] == list(range(1, metrics["recipe"]["epochs"] + 1))
    with safe_open(weights, framework="numpy") as stored:
        metadata = stored.metadata()
    assert json.loads(metadata["recipe"]) == metrics["recipe"]
    assert float(metadata["held_out_top1"]) == pytest.approx(metrics["held_out_top1"], abs=1e-4)
    assert zoo.Recipe(**metrics["recipe"]).epochs == metrics["recipe"]["epochs"]


@pytest.fixture(scope="module")
def cifar10(real_data):
    """Return every twentieth image of CIFAR-10's test part: 50 per class."""
    archive = real_data / "cifar10-imagefolder.tar.gz"
    if not archive.is_file():
        pytest.skip(f"no {archive.name} in {real_data}")
    pixels = {}
    with tarfile.open(archive) as members:
        for member in members:
            *_, part, class_, file = ("", "", *member.name.split("/"))
            if part == "test" and member.isfile() and int(file.split(".")[0]) % 20 == 0:
                with Image.open(io.BytesIO(members.extractfile(member).read())) as image:
                    pixels[class_, file] = np.asarray(image.convert("RGB"))
    order = sorted(pixels)
    classes = sorted({class_ for class_, _ in order})
    return np.stack([pixels[key] for key in order]), np.asarray([classes.index(class_) for class_, _ in order])


@pytest.mark.parametrize("name", SHIPPED)
def test_the_recorded_accuracy_holds(name, cifar10):
    metrics = metrics_of(name)
    images = from_arrays(*cifar10, Preprocessing.from_dict(metrics["preprocessing"]))
    measured = accuracy(zoo.load(name), images.batches(None, 100))
    assert measured.images == 500
    # Four standard errors of 500 images.
    expected = metrics["held_out_top1"]
    assert measured.top1 == pytest.approx(expected, abs=4 * (expected * (1 - expected) / 500) ** 0.5)
