from __future__ import annotations

import jax
import numpy as np
import pytest

from ggdjax._errors import GgdjaxError
from ggdjax.ggd import Histogram, empirical_distortion, split_saturation
from ggdjax.ggd._histogram import histogram_counts

SIZE = 20_000


@pytest.fixture(scope="module")
def values():
    rng = np.random.default_rng(0)
    x = rng.gamma(0.5, 1.0, (3, SIZE)) * np.array([[1.0], [1e-25], [1e25]])
    x[:, ::7] *= -1.0
    x[:, ::5] = 0.0
    return x.astype(np.float32)


@pytest.fixture(scope="module")
def whole(values):
    return Histogram.from_samples(values, axis=-1)


def same(a, b):
    for name in ("counts", "zeros", "minimum", "maximum"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name), err_msg=name)


def test_exact_counts_and_extremes(values, whole):
    np.testing.assert_array_equal(whole.zeros, (values == 0).sum(-1))
    np.testing.assert_array_equal(whole.count, SIZE)
    np.testing.assert_array_equal(whole.minimum, values.min(-1))
    np.testing.assert_array_equal(whole.maximum, values.max(-1))
    np.testing.assert_allclose(whole.negative_fraction, (values < 0).mean(-1), rtol=1e-6)
    assert np.asarray(whole.is_signed).all()


@pytest.mark.parametrize("parts", [2, 5])
def test_batching_does_not_matter(values, whole, parts):
    pieces = [Histogram.from_samples(p, axis=-1) for p in np.split(values, parts, axis=1)]
    same(sum(pieces[1:], pieces[0]), whole)
    same(Histogram.stack(pieces).merge(0), whole)


def test_monoid(values, whole):
    part = Histogram.from_samples(values[:, : SIZE // 2], axis=-1)
    same(part + whole, whole + part)
    same((part + whole) + part, part + (whole + part))
    same(whole + Histogram.empty((3,)), whole)
    same(Histogram.empty((3,)) + whole, whole)


def test_jit_vmap_and_order_of_values_do_not_matter(values, whole):
    same(jax.jit(lambda x: histogram_counts(x, axis=-1))(values), whole)
    same(jax.vmap(histogram_counts)(values), whole)
    same(Histogram.from_samples(values[:, ::-1], axis=-1), whole)


def test_covers_every_float32_without_a_range():
    x = np.array([1e-38, 1e-30, -1e-30, 1.0, -3.0, 1e30, 3.4e38, np.inf, -np.inf, np.nan, 0.0, -0.0], np.float32)
    h = Histogram.from_samples(x)
    assert int(h.count) == 9
    assert int(h.nonfinite) == 3
    assert int(h.zeros) == 2
    assert float(h.maximum) == x[6]
    assert float(h.minimum) == -3.0


def test_half_precision_counts_as_float32():
    x = np.array([0.0, 1.5, -3.0], np.float16)
    same(Histogram.from_samples(jax.numpy.asarray(x)), Histogram.from_samples(x.astype(np.float32)))


def test_axes_may_be_numpy_integers(values):
    same(Histogram.from_samples(values, axis=np.int64(1)), Histogram.from_samples(values, axis=1))


@pytest.mark.parametrize("axis", [2, -3, (0, 0), (1, -1)])
def test_wrong_axes_are_refused(values, axis):
    with pytest.raises(GgdjaxError, match="`axis`"):
        Histogram.from_samples(values, axis=axis)


def test_power_sums_to_the_stated_accuracy(values, whole):
    exact = [np.abs(values.astype(np.float64)).sum(-1), np.square(values.astype(np.float64)).sum(-1)]
    signed = values.astype(np.float64).sum(-1)
    np.testing.assert_allclose(whole.power_sum(2), exact[1], rtol=2e-4)
    assert (np.abs(np.asarray(whole.power_sum(1), np.float64) - signed) < 2e-4 * exact[0]).all()


def test_counts_beyond_int32(whole):
    many = whole
    for _ in range(20):
        many = many + many
    assert many.counts.dtype == np.int64
    np.testing.assert_array_equal(many.count, SIZE * 2**20)
    np.testing.assert_allclose(many.power_sum(2) / many.count, whole.power_sum(2) / np.asarray(whole.count), rtol=1e-6)


def test_zeros_beyond_int32_of_a_single_tensor():
    """Without a batch the number of zeros is a NumPy scalar; it must not wrap on its way to the device."""
    x = np.concatenate([np.zeros(900), np.ones(100)]).astype(np.float32)
    many = Histogram.from_samples(x)
    for _ in range(23):
        many = many + many
    assert many.zeros > 2**31
    np.testing.assert_allclose(split_saturation(many)[1].weight, 0.1, rtol=1e-5)


def test_saves_and_loads(whole, tmp_path):
    for index, histogram in enumerate((whole, whole[0], whole + whole, Histogram.empty((0,)), Histogram.empty())):
        histogram.save(tmp_path / f"{index}")
        loaded = Histogram.load(tmp_path / f"{index}")
        same(loaded, histogram)
        kinds = [leaf.dtype for leaf in jax.tree.leaves(histogram)]
        assert [leaf.dtype for leaf in jax.tree.leaves(loaded)] == kinds
    sparse = whole.to_arrays()
    assert sparse["index"].dtype == np.uint16
    assert sum(array.nbytes for array in sparse.values()) < whole.counts.nbytes / 10


@pytest.mark.parametrize(
    "change",
    [
        {"count": lambda a: -a},
        {"zeros": lambda a: a - SIZE},
        {"index": lambda a: a[1:]},
        {"offsets": lambda a: a[1:]},
        {"offsets": lambda a: a[::-1]},
        {"minimum": lambda a: a[:1]},
    ],
)
def test_arrays_that_do_not_fit_together(whole, change):
    sparse = whole.to_arrays()
    with pytest.raises(GgdjaxError, match=r"at least 0|do not fit together"):
        Histogram.from_arrays(sparse | {name: alter(sparse[name]) for name, alter in change.items()})


def test_unreadable_file_is_named(tmp_path):
    (tmp_path / "h.safetensors").write_bytes(b"nothing")
    with pytest.raises(GgdjaxError, match=r"h\.safetensors"):
        Histogram.load(tmp_path / "h.safetensors")


def test_bins_keep_every_value(values, whole):
    for side, x in (("positive", values), ("negative", -values), ("magnitude", np.abs(values))):
        bins = whole.compress(side)
        np.testing.assert_allclose(bins.weight.sum(-1), (x > 0).sum(-1))
        assert bins.weight.shape == (3, 2048)
        centre = np.exp(np.asarray(bins.log_scale)[:, None] + np.asarray(bins.log_x, np.float64))
        occupied = np.asarray(bins.weight) > 0
        low, high = np.asarray(bins.lower), np.asarray(bins.upper)
        assert (centre[occupied] >= low[occupied] * (1 - 1e-5)).all()
        assert (centre[occupied] <= high[occupied] * (1 + 1e-5)).all()


@pytest.mark.parametrize("levels", [3, 15, 255])
def test_distortion_equals_that_of_the_samples(levels):
    rng = np.random.default_rng(1)
    x = np.where(rng.random((4, 50_000)) < 0.3, 0.0, rng.gamma(0.8, 1.0, (4, 50_000))) * [[1.0], [1e-6], [1e6], [2.0]]
    x[3] *= rng.choice([-1.0, 1.0], 50_000)
    x = x.astype(np.float32)
    step = np.abs(x).max(-1, keepdims=True) / levels * np.array([0.3, 0.6, 1.0, 1.2])
    h = Histogram.from_samples(x, axis=-1)
    found = empirical_distortion(h, step.astype(np.float32), np.float32(levels), np.float32(levels))
    code = np.clip(np.round(x[:, None, :] / step[..., None]), -levels, levels)
    exact = np.square(x[:, None, :] - step[..., None] * code).mean(-1)
    np.testing.assert_allclose(found, exact, rtol=0.02)


def test_no_distortion_of_steps_that_are_not_positive(whole):
    step = np.array([[-0.1], [0.0], [0.1]], np.float32)
    found = np.asarray(empirical_distortion(whole, step, 7.0))[:, 0]
    np.testing.assert_array_equal(np.isnan(found), [True, True, False])


def test_saturation_is_found_and_taken_out():
    rng = np.random.default_rng(2)
    free = rng.gamma(1.5, 1.0, (4, SIZE)).astype(np.float32)
    free[3] *= rng.choice([-1.0, 1.0], SIZE)
    limit = np.array([[3.0], [6.0], [np.inf], [4.0]], np.float32)
    cut = np.clip(free, -limit, limit)
    rest, saturation = split_saturation(Histogram.from_samples(cut, axis=-1))
    share = (np.abs(cut) == limit).mean(-1)
    np.testing.assert_allclose(saturation.weight, share, rtol=0.1)
    assert float(saturation.weight[2]) == 0.0
    np.testing.assert_allclose(saturation.limit, np.abs(cut).max(-1))
    removed = SIZE - np.asarray(rest.count)
    np.testing.assert_allclose(removed, share * SIZE, rtol=0.1)
    same(rest[2], Histogram.from_samples(cut[2]))
