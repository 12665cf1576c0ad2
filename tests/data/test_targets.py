from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from ggdjax._errors import DataError
from ggdjax.data import Preprocessing, from_arrays, open_images, padded
from ggdjax.data._image_set import check_labels
from ggdjax.data._targets import read_target

RAW = Preprocessing(scale=1.0)
PIXELS = np.random.default_rng(0).integers(0, 256, (4, 12, 16, 3), dtype=np.uint8)
MASKS = np.random.default_rng(1).integers(0, 4, (4, 12, 16), dtype=np.uint8)
MASKS[:, :2] = 255


@pytest.fixture
def tree(tmp_path):
    """Four images in two parts, and masks of the same names: grey, palette, one of 16 bits."""
    for i, name in enumerate(("train/0", "train/a/1", "test/2", "test/3")):
        image, mask = tmp_path / "images" / f"{name}.bmp", tmp_path / "masks" / f"{name}.png"
        for file in (image, mask):
            file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(PIXELS[i]).save(image)
        written = Image.fromarray(MASKS[i].astype(np.uint16) if i == 2 else MASKS[i])
        if i == 1:
            written.putpalette(list(range(200, 203)) * 256)
        written.save(mask)
    return tmp_path


def test_masks_beside_images(tree):
    images = open_images(tree / "images", RAW, targets=tree / "masks")
    assert images.ids == ["test/2.bmp", "test/3.bmp", "train/0.bmp", "train/a/1.bmp"]
    assert {name: part.tolist() for name, part in images.parts.items()} == {"test": [0, 1], "train": [2, 3]}
    (x, masks), (_, last) = images.batches([2, 3, 0], 2)
    np.testing.assert_array_equal(masks, MASKS[:2])
    np.testing.assert_array_equal(last, MASKS[2:3])
    np.testing.assert_array_equal(x, PIXELS[:2].transpose(0, 3, 1, 2))
    assert masks.dtype == np.int32
    assert padded([(x, masks)], 3).__next__()[1][2].tolist() == np.full((12, 16), -1).tolist()
    with pytest.raises(DataError, match="holds a target of kind 'class map' per image, where a class"):
        check_labels(images, 10)


def test_masks_get_the_geometry_of_their_images(tree):
    rule = Preprocessing(resize=24, crop=20, size=10, label_offset=1, scale=1.0)
    _, masks = next(open_images(tree / "images", rule, targets=tree / "masks").batches([2]))
    # The shorter side doubles (24 × 32), the central 20 × 20 is cut, every second pixel of it stays.
    twice = MASKS[0].repeat(2, 0).repeat(2, 1)[2:22, 6:26]
    np.testing.assert_array_equal(masks[0], np.where(twice == 255, 255, twice.astype(np.int32) + 1)[1::2, 1::2])


def test_targets_that_are_images(tree):
    rule = Preprocessing(colour_order="BGR", mean=(0.5,), std=(0.2,), layout="NHWC", crop=8)
    images = open_images(tree / "images", rule, targets=tree / "images", target_kind="image")
    x, y = next(images.batches([2]))
    np.testing.assert_allclose(y[0], PIXELS[0, 2:10, 4:12, ::-1] / 255, rtol=1e-6)
    np.testing.assert_allclose(0.2 * x + 0.5, y, atol=1e-6)


def test_npz_of_images_and_targets(tmp_path):
    small, large = PIXELS[:, ::2, ::2], PIXELS
    np.savez(tmp_path / "up.npz", images=small, targets=large)
    images = open_images(tmp_path / "up.npz", Preprocessing())
    assert images.target_kind == "image"
    x, y = next(images.batches())
    assert (x.shape, y.shape, y.dtype) == ((4, 3, 6, 8), (4, 3, 12, 16), np.float32)
    np.testing.assert_allclose(y, large.transpose(0, 3, 1, 2) / 255, rtol=1e-6)
    assert images.target_mark(0) != images.target_mark(1)
    np.savez(tmp_path / "masks.npz", image=PIXELS, target=MASKS)
    assert open_images(tmp_path / "masks.npz", RAW).target_kind == "class map"
    _, masks = next(open_images(tmp_path / "masks.npz", Preprocessing(crop=8)).batches())
    np.testing.assert_array_equal(masks, MASKS[:, 2:10, 4:12])


def test_images_alone(tree, tmp_path):
    images = open_images(tree / "images", RAW, target_kind="none")
    assert len(images) == 4
    np.savez(tmp_path / "x.npz", images=PIXELS)
    for found in (images, open_images(tmp_path / "x.npz", RAW, target_kind="none"), from_arrays(PIXELS, None, RAW)):
        assert [y.tolist() for _, y in found.batches(batch_size=4)] == [[-1] * 4]
        with pytest.raises(DataError, match="holds no labels, where a class"):
            check_labels(found, 3)


def test_targets_that_do_not_fit(tree, tmp_path):
    masks = tree / "masks"

    def refused(said, rule=RAW, **options):
        with pytest.raises(DataError, match=said) as caught:
            next(open_images(options.pop("path", tree / "images"), rule, **options).batches([2]))
        assert "\n" not in str(caught.value)

    Image.fromarray(PIXELS[0]).save(masks / "train" / "0.png")
    refused("image `train/0.bmp` .* target 0.png has mode RGB; expected one class index per pixel", targets=masks)
    Image.fromarray(MASKS[0, :6]).save(masks / "train" / "0.png")
    refused(
        "its target is 16×6, the image 16×12: .* need targets of the image's size", Preprocessing(crop=8), targets=masks
    )
    with pytest.raises(DataError, match="targets of different sizes"):
        list(open_images(tree / "images", RAW, targets=masks).batches())
    (masks / "test" / "2.png").unlink()
    refused("lacks the targets of 1 of 4 images, first of `test/2.bmp`", targets=masks)
    refused("no targets at", targets=tree / "nothing")
    refused("`targets` is missing: name the folder", target_kind="image")
    np.savez(tmp_path / "x.npz", image=PIXELS, label=MASKS[:3])
    refused(r"targets of `.*` are uint8 of shape \(3, 12, 16\), expected integers \[4, height", path=tmp_path / "x.npz")
    refused("goes with a folder of images", path=tmp_path / "x.npz", targets=masks)
    np.savez(tmp_path / "y.npz", image=PIXELS, target=PIXELS.astype(np.float32))
    refused("need targets of 8 bits", Preprocessing(crop=8), path=tmp_path / "y.npz")


def test_a_target_that_cannot_be_read_leaves_its_image_out(tree):
    (tree / "masks" / "test" / "3.png").write_bytes(b"no image")
    images = open_images(tree / "images", RAW, targets=tree / "masks", unreadable_share=0.5)
    assert [len(y) for _, y in images.batches()] == [3]
    assert "target 3.png" in images.unreadable["test/3.bmp"]


def test_a_mask_is_upright_as_the_image_that_exif_turns(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
    Image.fromarray(PIXELS[0]).save(tmp_path / "images" / "a.jpg", exif=exif)
    Image.fromarray(upright := np.rot90(MASKS[0], -1)).save(tmp_path / "masks" / "a.png")
    rule = Preprocessing(crop=8, scale=1.0)
    _, masks = next(open_images(tmp_path / "images", rule, targets=tmp_path / "masks").batches([0]))
    np.testing.assert_array_equal(masks[0], upright[4:12, 2:10])


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_masks_of_few_bits_hold_their_samples(tmp_path, bits):
    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    row = bytes([0b00011011, 0b11100100])
    width = 16 // bits
    header = struct.pack(">IIBBBBB", width, 1, bits, 0, 0, 0, 0)
    pieces = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" + row)) + chunk(b"IEND", b"")
    (tmp_path / "mask.png").write_bytes(b"\x89PNG\r\n\x1a\n" + pieces)
    number = int.from_bytes(row)
    wanted = [number >> shift & (2**bits - 1) for shift in reversed(range(0, 16, bits))]
    assert read_target(tmp_path / "mask.png", "class map", (width, 1), RAW).tolist() == [wanted]


def test_an_npz_without_targets_is_told_their_name(tmp_path):
    np.savez(tmp_path / "a.npz", image=PIXELS, mask=MASKS)
    with pytest.raises(DataError, match="holds image, mask, but no `target`"):
        open_images(tmp_path / "a.npz", RAW, target_kind="class map")
