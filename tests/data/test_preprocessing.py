from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from PIL import Image

from ggdjax._errors import DataError
from ggdjax.data import PRESETS, Preprocessing, preset
from ggdjax.data._pixels import UnreadableImage, decode, header_size, reshape, to_float


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"resize": 0}, "`resize`"),
        ({"crop": -1}, "`crop`"),
        ({"size": 1.5}, "`size`"),
        ({"colour_order": "RBG"}, "`colour_order`"),
        ({"layout": "CHWN"}, "`layout`"),
        ({"scale": 0.0}, "`scale`"),
        ({"scale": float("nan")}, "`scale`"),
        ({"mean": (0.0, 0.0)}, "`mean`"),
        ({"mean": (0.0, 0.0, float("inf"))}, "`mean`"),
        ({"std": (1.0, 0.0, 1.0)}, "`std`"),
        ({"colour_order": "GRAY", "std": (1.0, 1.0, 1.0)}, "`std`"),
        ({"label_offset": -2}, "`label_offset`"),
        ({"resize": 200, "crop": 224}, "`crop`"),
    ],
)
def test_a_field_out_of_range_is_named_in_one_line(fields, name):
    with pytest.raises(DataError, match=name) as error:
        Preprocessing(**fields)
    assert "\n" not in str(error.value)


def test_fields_are_frozen_and_keyword_only():
    with pytest.raises(TypeError):
        Preprocessing(256)
    with pytest.raises(dataclasses.FrozenInstanceError):
        Preprocessing().crop = 3


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_survives_json(name):
    stored = json.loads(json.dumps(PRESETS[name].to_dict()))
    assert Preprocessing.from_dict(stored) == PRESETS[name]


def test_presets_take_overrides_and_refuse_unknown_names():
    assert preset("imagenet-tf", size=192, crop=None) == dataclasses.replace(PRESETS["imagenet-tf"], size=192)
    with pytest.raises(DataError, match="did you mean `imagenet`"):
        preset("imagnet")
    with pytest.raises(DataError, match="did you mean `colour_order`"):
        preset("imagenet", color_order="BGR")


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
@pytest.mark.parametrize("name", PRESETS)
def test_values_equal_the_stated_formula(name, dtype):
    # Independent statements of the conventions, in float64.
    u = np.random.default_rng(0).integers(0, 256, (2, 5, 4, PRESETS[name].channels))

    def torch():
        return (u / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]

    expected = {
        "cifar10": torch,
        "imagenet": torch,
        "imagenet-caffe": lambda: u[..., ::-1] - np.array([104.0, 117.0, 123.0]),
        "imagenet-tf": lambda: (u - 127.5) / 127.5,
        "mnist": lambda: u / 200 - 0.1,
    }[name]()
    got = to_float(u.astype(dtype), PRESETS[name])
    assert got.dtype == np.float32
    np.testing.assert_allclose(np.moveaxis(got, 1, -1), expected, rtol=1e-7, atol=1e-7)
    nhwc = to_float(u.astype(dtype), dataclasses.replace(PRESETS[name], layout="NHWC"))
    np.testing.assert_array_equal(nhwc, np.moveaxis(got, 1, -1))


@pytest.mark.parametrize(("crop", "offset"), [(224, 16), (227, 14), (256, 0)])
def test_the_centre_crop_has_the_stated_offset(crop, offset):
    rows, columns = np.meshgrid(np.arange(256), np.arange(256), indexing="ij")
    pixels = np.stack([rows, columns, rows], -1).astype(np.uint8)
    got = reshape(pixels, Preprocessing(crop=crop))
    np.testing.assert_array_equal(got, pixels[offset : offset + crop, offset : offset + crop])


def test_the_shorter_side_is_resized_and_the_aspect_kept():
    pixels = np.zeros((50, 101, 3), np.uint8)
    assert reshape(pixels, Preprocessing(resize=25)).shape == (25, 50, 3)
    assert reshape(pixels.transpose(1, 0, 2), Preprocessing(resize=25)).shape == (50, 25, 3)
    assert reshape(pixels, Preprocessing(resize=25, crop=20, size=8)).shape == (8, 8, 3)


def test_size_resizes_the_crop_bilinearly():
    pixels = np.random.default_rng(1).integers(0, 256, (256, 256, 3), dtype=np.uint8)
    expected = Image.fromarray(pixels[16:240, 16:240]).resize((192, 192), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(reshape(pixels, preset("imagenet-tf", size=192)), np.asarray(expected))


def test_files_and_arrays_take_the_same_way(tmp_path):
    pixels = np.random.default_rng(2).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    path = tmp_path / "image.png"
    Image.fromarray(pixels).save(path)
    how = Preprocessing(resize=32, crop=28, size=20)
    np.testing.assert_array_equal(decode(path, how), reshape(pixels, how))


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA", "P", "1", "CMYK"])
@pytest.mark.parametrize("colour_order", ["RGB", "GRAY"])
def test_every_eight_bit_mode_becomes_the_networks_channels(tmp_path, mode, colour_order):
    path = tmp_path / ("image.tif" if mode == "CMYK" else "image.png")
    Image.new("RGB", (6, 4), (255, 255, 255)).convert(mode).save(path)
    how = Preprocessing(colour_order=colour_order)
    got = decode(path, how)
    assert got.shape == (4, 6, how.channels)
    np.testing.assert_array_equal(got, 255)


def test_a_transparent_palette_does_not_warn(tmp_path):
    path = tmp_path / "image.png"
    image = Image.new("RGB", (4, 4), (255, 0, 0)).convert("P")
    image.save(path, transparency=b"\x00" * 256)
    np.testing.assert_array_equal(decode(path, Preprocessing())[0, 0], [255, 0, 0])


@pytest.mark.parametrize("kind", [np.int32, np.float32])
def test_images_of_32_bits_are_refused(tmp_path, kind):
    path = tmp_path / "deep.tif"
    Image.fromarray(np.full((4, 4), 40000, kind)).save(path)
    with pytest.raises(UnreadableImage, match="32 bits"):
        decode(path, Preprocessing())


def test_an_image_smaller_than_the_crop_is_an_error():
    with pytest.raises(DataError, match=r"20×30.*`crop` = 24"):
        reshape(np.zeros((30, 20, 3), np.uint8), Preprocessing(crop=24))


def test_resizing_floats_is_an_error():
    with pytest.raises(DataError, match="8-bit"):
        reshape(np.zeros((8, 8, 3), np.float32), Preprocessing(size=4))
    assert reshape(np.zeros((8, 8, 3), np.float32), Preprocessing(crop=4)).shape == (4, 4, 3)


def test_for_input_resizes_the_crop_to_what_the_network_reads():
    how = preset("imagenet-tf")
    assert how.for_input(("batch", 3, 128, 128)) == dataclasses.replace(how, size=128)
    assert how.for_input(("batch", 3, 224, 224)) == how
    assert how.for_input((None, 3, "h", "w")) == how
    assert how.output_size == 224
    assert how.for_input((1, 3, 128, 128)).output_size == 128


@pytest.mark.parametrize(
    ("how", "shape", "message"),
    [
        (Preprocessing(), ("n", 1, 8, 8), "colour_order"),
        (Preprocessing(), ("n", 8, 8, 3), "layout"),
        (Preprocessing(size=8), ("n", 3, 9, 9), "`size` is 8"),
        (Preprocessing(), ("n", 3, 8, 9), "square"),
        (Preprocessing(), ("n", 12), "four axes"),
    ],
)
def test_for_input_refuses_what_the_network_does_not_read(how, shape, message):
    with pytest.raises(DataError, match=message):
        how.for_input(shape)


def test_an_image_that_exif_turns_is_upright(tmp_path):
    from PIL import ImageOps

    pixels = np.arange(24, dtype=np.uint8).reshape(2, 4, 3) * 10
    for orientation in range(1, 9):
        image, exif = Image.fromarray(pixels), Image.Exif()
        exif[0x0112] = orientation
        image.save(tmp_path / "turned.png", exif=exif)
        with Image.open(tmp_path / "turned.png") as stored:
            upright = np.asarray(ImageOps.exif_transpose(stored))
        found = decode(tmp_path / "turned.png", Preprocessing())
        np.testing.assert_array_equal(found, upright)
        assert found.shape == ((4, 2, 3) if orientation >= 5 else (2, 4, 3))
        assert header_size(tmp_path / "turned.png") == found.shape[1::-1]


def test_sixteen_bits_are_scaled_to_eight(tmp_path):
    values = np.array([[0, 127, 129, 257], [32768, 65407, 65408, 65535]], np.uint16)
    Image.fromarray(values).save(tmp_path / "deep.png")
    found = decode(tmp_path / "deep.png", Preprocessing(colour_order="GRAY"))
    np.testing.assert_array_equal(found[..., 0], np.rint(values / 257).astype(np.uint8))
    (tmp_path / "deep.pgm").write_bytes(b"P5 4 2 65535\n" + values.astype(">u2").tobytes())
    np.testing.assert_array_equal(decode(tmp_path / "deep.pgm", Preprocessing(colour_order="GRAY")), found)


def test_the_first_image_of_an_animated_file_counts(tmp_path):
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "moving.webp", save_all=True, append_images=frames[1:], lossless=True)
    found = decode(tmp_path / "moving.webp", Preprocessing())
    np.testing.assert_array_equal(found, np.broadcast_to(np.uint8([255, 0, 0]), (4, 4, 3)))


def test_transparency_is_left_out(tmp_path):
    pixels = np.zeros((4, 4, 4), np.uint8)
    pixels[..., :3] = 7, 8, 9
    Image.fromarray(pixels).save(tmp_path / "clear.png")
    np.testing.assert_array_equal(decode(tmp_path / "clear.png", Preprocessing())[..., 0], np.full((4, 4), 7))
