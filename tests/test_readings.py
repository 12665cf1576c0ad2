"""Images prepared for another network are noticed: colour order, scale and label offset."""

import dataclasses
import re

import jax.numpy as jnp
import numpy as np
import pytest

import ggdjax as gd
from ggdjax import data
from ggdjax._errors import DataError, GgdjaxError
from ggdjax.cli import main
from ggdjax.cli._console import console
from ggdjax.cli._suspicions import print_binary_masks, print_suspicions
from ggdjax.data._image_set import check_labels
from ggdjax.recipe import readings

USED = data.Preprocessing(colour_order="BGR", mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7), layout="NHWC", label_offset=1)


@pytest.fixture(scope="module")
def net():
    """Scores the colour of an image: class 0 is background, 1 to 3 are blue, green and red."""

    def forward(x):
        pixels = x * np.float32(USED.std)[None, None, None] + np.float32(USED.mean)[None, None, None]
        return pixels.mean((1, 2)) @ np.eye(3, 4, 1, dtype=np.float32)

    return gd.trace(forward, np.zeros((1, 4, 4, 3), np.float32))


def drawn():
    rng = np.random.default_rng(0)
    classes = rng.integers(0, 3, 60)  # blue, green, red
    pixels = rng.integers(0, 100, (60, 4, 4, 3)).astype(np.uint8)
    pixels[np.arange(60), :, :, 2 - classes] += 120
    return pixels, classes


def images(preprocessing):
    return data.from_arrays(*drawn(), preprocessing)


def test_the_right_preprocessing_comes_first(net):
    found = readings(net, images(USED), batch_size=32)
    assert found[0].differs == ()
    assert found[0].value == 1.0


@pytest.mark.parametrize(
    "change", [{"colour_order": "RGB", "mean": USED.mean[::-1], "std": USED.std[::-1]}, {"label_offset": 0}]
)
def test_another_one_is_found(net, change):
    wrong = images(dataclasses.replace(USED, **change))
    found = readings(net, wrong, batch_size=32)
    used = next(reading for reading in found if not reading.differs)
    best = found[0]
    assert best.value == 1.0
    assert best.clearly_better_than(used)
    assert not used.clearly_better_than(best)
    assert {field: getattr(best.preprocessing, field) for field in change} == {f: getattr(USED, f) for f in change}
    assert all(f"--{name.replace('_', '-')}" in best.describe() for name in best.differs)


def test_a_colour_order_alone_is_found(net):
    found = readings(net, images(dataclasses.replace(USED, colour_order="RGB")), colours_alone=True)
    assert len({r.preprocessing.mean for r in found}) == 2
    assert found[0].value == 1.0
    assert found[0].differs == ("colour_order",)


def test_no_images(net):
    with pytest.raises(DataError, match="`indices` is empty"):
        readings(net, images(USED), [])


def test_inspect_proposes_how_to_prepare_images(net, tmp_path, capsys):
    pixels, classes = drawn()
    net.save(tmp_path / "net.safetensors")
    np.savez(tmp_path / "images.npz", image=pixels, label=classes)
    main(["inspect", str(tmp_path / "net.safetensors"), "--data", str(tmp_path / "images.npz"), "--preset", "cifar10"])
    shown = capsys.readouterr().out
    assert "of the float network on 60 images" in shown
    first = shown.split("--preset cifar10 and")[1].splitlines()[1]
    assert "--colour-order BGR" in first
    assert "--label-offset 1" in first
    assert "as it is" in shown
    main(["inspect", str(tmp_path / "net.safetensors"), "--data", str(tmp_path / "images.npz")])
    first = capsys.readouterr().out.split("on 60 images")[1].splitlines()[1]
    assert first.endswith("100.00 %  --preset imagenet-tf --colour-order BGR")


def test_inspect_takes_the_label_offset(net, tmp_path, capsys):
    """By 3 the labels are off, two more than what is tried by itself."""
    pixels, classes = drawn()
    net.save(tmp_path / "net.safetensors")
    np.savez(tmp_path / "images.npz", image=pixels, label=classes + 2)
    words = ["inspect", str(tmp_path / "net.safetensors"), "--data", str(tmp_path / "images.npz")]
    main([*words, "--label-offset", "-1", "--preset", "cifar10"])
    shown = capsys.readouterr().out
    assert "100.00 %" in shown
    with pytest.raises(SystemExit):
        main([*words, "--label-offset", "-2"])
    assert "`--label-offset` is -2, expected an integer of at least -1" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([*words[:2], "--label-offset", "1"])
    assert "`--label-offset` says how images are read: give `--data`" in capsys.readouterr().err
    helps = []
    for command in ("inspect", "quantize"):
        with pytest.raises(SystemExit):
            main([command, "--help"])
        text = " ".join(capsys.readouterr().out.replace("│", " ").split())
        helps.append(text[text.index("--label-offset") :].partition("argmax")[2][:100])
    assert helps[0] == helps[1] != ""


def test_all_of_a_way_as_options(net):
    found = readings(
        net, images(dataclasses.replace(data.preset("imagenet-tf"), resize=None, crop=None, layout="NHWC"))
    )
    assert {r.options() for r in found if not r.differs} == {"--scale 1.0 --mean 127.5 --std 127.5 --label-offset 1"}
    resized = dataclasses.replace(found[0], preprocessing=data.preset("imagenet", size=128, label_offset=1))
    assert resized.options() == "--preset imagenet --label-offset 1"


def test_near_chance(net):
    guessed = readings(net, images(USED))[0]
    assert not guessed.near_chance(0.25)
    assert dataclasses.replace(
        guessed, score=dataclasses.replace(guessed.score, statistics=np.arange(60) % 4 == 0)
    ).near_chance(0.25)


def test_classes_numbered_from_1():
    pixels = np.zeros((4, 4, 4, 3), np.uint8)
    with pytest.raises(DataError, match=r"with class 4 .* or `label_offset` -1, by which they are from 0 to 3"):
        check_labels(data.from_arrays(pixels, np.arange(4) + 1, data.Preprocessing()), 4)
    held = data.from_arrays(pixels, np.arange(4) + 1, data.Preprocessing(label_offset=-1))
    check_labels(held, 4)
    assert held.labels.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(("second", "said"), [(255, True), (1, False)])
def test_masks_of_0_and_255_are_noticed(second, said, capsys):
    masks = np.where(np.arange(16).reshape(4, 2, 2) % 3, 0, second).astype(np.uint8)
    held = data.from_arrays(np.zeros((4, 2, 2, 3), np.uint8), masks, data.Preprocessing())
    print_binary_masks(held, "mean-iou(threshold=0.5)", console())
    assert ("write the second class as 1" in capsys.readouterr().out) == said


WEIGHTS = np.float32([0.2, 0.6, 1.0])
RIGHT = data.Preprocessing(colour_order="BGR", mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7), layout="NHWC", label_offset=1)


def map_network(metric):
    """Return a network that says of each pixel which colour is largest (1 to 3), or weights the colours of an image."""

    def forward(x):
        pixels = x * np.float32(RIGHT.std)[None, None, None] + np.float32(RIGHT.mean)[None, None, None]
        return pixels @ (np.eye(3, 4, 1, dtype=np.float32) if metric in CLASSES else np.diag(WEIGHTS))

    return gd.trace(forward, np.zeros((1, 16, 16, 3), np.float32))


CLASSES = ("pixel-accuracy", "mean-iou")


def map_images(metric, preprocessing):
    pixels = np.random.default_rng(0).integers(0, 256, (20, 16, 16, 3)).astype(np.uint8)
    if metric in CLASSES:
        return data.from_arrays(pixels, 2 - pixels.argmax(-1).astype(np.uint8), preprocessing)
    return data.from_arrays(pixels, np.round(pixels * WEIGHTS[::-1]).astype(np.uint8), preprocessing)


@pytest.mark.parametrize(
    ("metric", "change", "said"),
    [
        ("pixel-accuracy", {"label_offset": 0}, r"pixel-accuracy .* but 99.54 % with --label-offset 1: is the"),
        ("pixel-accuracy(ignore=3)", {"label_offset": 0}, "--label-offset 1"),
        ("mean-iou", {"colour_order": "RGB", "mean": RIGHT.mean[::-1], "std": RIGHT.std[::-1]}, "--colour-order BGR"),
        ("mean-iou", {}, None),
        ("psnr", {"colour_order": "RGB", "mean": RIGHT.mean[::-1], "std": RIGHT.std[::-1]}, "--colour-order BGR"),
        ("ssim", {"colour_order": "RGB", "mean": RIGHT.mean[::-1], "std": RIGHT.std[::-1]}, "--colour-order BGR"),
        ("psnr", {}, None),
        ("ssim", {}, None),
    ],
)
def test_other_metrics_are_suspicious_too(metric, change, said, capsys):
    net = map_network(metric.partition("(")[0])
    held = map_images(metric.partition("(")[0], dataclasses.replace(RIGHT, **change))
    q = gd.quantize(net, gd.calibrate(net, [next(held.batches())[0]]))
    print_suspicions(gd.evaluate(q, held, metric), net, held, gd.Recipe(batch_size=8), console())
    printed = capsys.readouterr().out
    if said is None:
        assert not printed
    else:
        assert re.search(said, printed)
        assert "is the preprocessing right?" in printed


def test_a_scale_by_psnr():
    net = gd.trace(lambda x: jnp.minimum(x, 0.5), np.zeros((1, 16, 16, 3), np.float32))
    pixels = np.random.default_rng(0).integers(0, 256, (20, 16, 16, 3)).astype(np.uint8)
    targets = np.minimum(pixels, 127)
    held = data.from_arrays(pixels, targets, data.Preprocessing(scale=1.0, layout="NHWC"))
    found = readings(net, held, None, "psnr(data_range=255)")
    used = next(reading for reading in found if not reading.differs)
    assert used.value < 10
    assert found[0].value > 40
    assert found[0].describe() == "--scale 0.00392156862745098"


def test_top5_is_suspicious_of_labels():
    scores = np.eye(30, dtype=np.float32)

    def forward(x):
        return -jnp.abs(x[:, :1, 0, 0] * 255 - jnp.arange(30.0)[None] * 8) @ scores

    pixels = np.repeat(8 * np.arange(2, 26, dtype=np.uint8), 4)[:, None, None, None] * np.ones((1, 2, 2, 3), np.uint8)
    net = gd.trace(forward, np.zeros((1, 2, 2, 3), np.float32))
    held = data.from_arrays(pixels, np.repeat(np.arange(2, 26) + 3, 4), data.Preprocessing(layout="NHWC"))
    found = readings(net, held, None, "top-5")
    assert (found[0].value, found[0].differs) == (1.0, ("label_offset",))
    with pytest.raises(GgdjaxError, match="compares the network with itself"):
        readings(net, held, None, "output-sqnr")


def test_images_without_labels(net):
    held = data.from_arrays(drawn()[0], None, USED)
    with pytest.raises(DataError, match="has targets of kind 'none', `metric` top-1 needs 'class'"):
        readings(net, held)
