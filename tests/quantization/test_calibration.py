"""Calibration counts what enters the layers: exactly, however the images are batched, dealt and read."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ggdjax as gd
from ggdjax._errors import DataError, GgdjaxError
from ggdjax.ggd import Counter, Histogram
from ggdjax.network import Network, trace
from ggdjax.quantization import _calibration as calibration
from ggdjax.quantization import calibrate

# Of few bits: their sums are exact in whatever order a backend adds.
IMAGES = np.round(np.random.default_rng(0).standard_normal((12, 6, 6, 3), np.float32) * 64) / 64
KERNEL = np.round(np.random.default_rng(1).standard_normal((3, 3, 3, 4), np.float32) * 64) / 64


@pytest.fixture(scope="module")
def net() -> Network:
    def function(x: jax.Array) -> jax.Array:
        y = jax.lax.conv_general_dilated(
            x, jnp.asarray(KERNEL), (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        return jax.nn.relu(y).reshape(x.shape[0], -1) @ jnp.ones((144, 2))

    return trace(function, jax.ShapeDtypeStruct((1, 6, 6, 3), jnp.float32))


def _same(first: Histogram, second: Histogram) -> None:
    for name in ("counts", "zeros", "minimum", "maximum"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name), err_msg=name)


def test_batches_and_reading_early_change_nothing(net: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    batches = np.split(IMAGES, 6)
    whole = calibrate(net, [IMAGES])
    assert whole.images == 12
    assert whole.histograms.batch_shape == (2,)
    _same(whole.histograms[0], Histogram.from_samples(IMAGES))
    assert whole.histograms.count.tolist() == [12 * 108, 12 * 144]
    _same(calibrate(net, batches).histograms, whole.histograms)
    # Counters that hold two batches at most are read, and begun anew, three times.
    original = calibration._Counts
    monkeypatch.setattr(calibration, "_Counts", lambda names, limit, rows: original(names, 5, rows))
    _same(calibrate(net, batches).histograms, whole.histograms)


def test_a_share_of_the_positions_stands_for_all(net: Network, tmp_path: Path) -> None:
    """Totals and extremes are those of all values, and the rest lies near them; every channel counts, as files say."""
    images = np.tile(IMAGES, (40, 1, 1, 1))
    all_, some = (calibrate(net, [images], values_per_batch=v) for v in (None, len(images) * 10))
    assert some.histograms.count.tolist() == all_.histograms.count.tolist()
    np.testing.assert_array_equal(some.histograms.minimum, all_.histograms.minimum)
    np.testing.assert_array_equal(some.histograms.maximum, all_.histograms.maximum)
    some.save(tmp_path / "some.safetensors")
    all_.save(tmp_path / "all.safetensors")
    read = [gd.load(tmp_path / f"{name}.safetensors").values_per_batch for name in ("some", "all")]
    assert read == [len(images) * 10, None]
    # 4 of 36 positions of the input are taken, each nine times.
    counts = np.asarray(some.histograms.counts)[0]
    assert not (counts % 9).any()
    assert 0 < np.abs(counts - np.asarray(all_.histograms.counts)[0]).sum() < 0.4 * images.size
    np.testing.assert_allclose(some.histograms.zero_fraction, all_.histograms.zero_fraction, atol=0.01)
    assert some.step_error(4)["input"] == pytest.approx(all_.step_error(4)["input"], nan_ok=True)
    assert some.moments.sums[0, 1] == pytest.approx(all_.moments.sums[0, 1], rel=0.05)
    # Of the same sizes of batches it is the same, padded or not.
    parts = [images[k : k + 100] for k in range(0, len(images), 100)]
    padded = [*parts[:-1], parts[-1][:30], parts[-1][30:]]
    _same(*(calibrate(net, batches, values_per_batch=1000).histograms for batches in (parts, padded)))


def test_what_a_share_leaves_out_is_not_lost(net: Network) -> None:
    """One NaN, and one largest value, at a position that is not taken."""
    for value, place in ((np.nan, k) for k in range(36)):
        broken = np.tile(IMAGES, (10, 1, 1, 1))
        broken[3, place // 6, place % 6, 0] = value
        with pytest.raises(DataError, match=r"feature map `input` holds NaN or infinite values"):
            calibrate(net, [broken], values_per_batch=10)
        broken[3, place // 6, place % 6, 0] = 100.0
        assert calibrate(net, [broken], values_per_batch=10).histograms.maximum[0] == 100.0
    with pytest.raises(GgdjaxError, match="`values_per_batch` must be at least 1, or None for all, got 0"):
        calibrate(net, [IMAGES], values_per_batch=0)


def test_what_cannot_be_counted_is_an_error(net: Network) -> None:
    with pytest.raises(DataError, match="no images to calibrate on"):
        calibrate(net, [])
    broken = IMAGES[:2].copy()
    broken[1, 2, 3, 0] = np.nan
    with pytest.raises(DataError, match=r"feature map `input` holds NaN or infinite values"):
        calibrate(net, [broken])


def test_a_network_without_layers_has_nothing_to_quantize() -> None:
    with pytest.raises(GgdjaxError, match="no convolution, dense layer or product"):
        calibrate(trace(jax.nn.sigmoid, jnp.zeros((1, 4))), [jnp.zeros((2, 4))])


def test_whole_numbers_are_images_too(net: Network) -> None:
    pixels = (IMAGES > 0).astype(np.uint8)
    _same(calibrate(net, [pixels]).histograms, calibrate(net, [pixels.astype(np.float32)]).histograms)


@pytest.mark.parametrize("size", [5, 8192, 20000])
def test_a_counter_keeps_exact_extremes(size: int) -> None:
    x = np.random.default_rng(2).standard_normal(size).astype(np.float32)
    x[:5] = np.inf, -np.inf, np.nan, -np.nan, 1e-42
    for values in (x, np.abs(x), -np.abs(x), x[4:], -x[4:]):
        finite = values[np.isfinite(values)]
        found = Histogram.from_counter(Counter.empty().add(jnp.asarray(values[:3])).add(jnp.asarray(values[3:])))
        assert (float(found.minimum), float(found.maximum)) == (float(finite.min()), float(finite.max()))
    nothing = Histogram.from_counter(Counter.empty().add(jnp.asarray(x[:4])))
    assert (float(nothing.minimum), float(nothing.maximum), int(nothing.nonfinite)) == (0.0, 0.0, 4)


@pytest.mark.parametrize("size", [7, 8192, 20000])
def test_a_counter_takes_the_first_values_alone(size: int) -> None:
    x = np.random.default_rng(3).standard_normal(size).astype(np.float32)
    x[-3:] = 1e9, -1e9, np.inf
    add = jax.jit(Counter.add)
    for count in (0, 1, size // 2, size - 3, size):
        found = Histogram.from_counter(add(Counter.empty(), jnp.asarray(x), np.int32(count)))
        _same(found, Histogram.from_counter(Counter.empty().add(jnp.asarray(x[:count]))))


def test_short_batches_are_padded_and_the_padding_is_not_counted(net: Network) -> None:
    whole = calibrate(net, [IMAGES], per_channel=True)
    parts = calibrate(net, [IMAGES[:5], IMAGES[5:10], IMAGES[:0], IMAGES[10:]], per_channel=True)
    assert parts.images == whole.images
    _same(parts.histograms, whole.histograms)
    for name, channels in whole.channels.items():
        _same(parts.channels[name], channels)
