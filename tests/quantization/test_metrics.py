from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ggdjax._errors import DataError, GgdjaxError
from ggdjax.network import trace
from ggdjax.quantization import METRICS, Metric, Score, calibrate, evaluate, metric, quantize, score
from ggdjax.quantization._bootstrap import bootstrap_interval, paired_bootstrap


def scored(name, outputs, targets):
    """Return the score of outputs by a metric."""
    outputs = np.asarray(outputs, np.float32)
    return score(lambda x: x, [(outputs, np.asarray(targets))], name)


def one_hot(classes, count):
    """Return maps of scores that say ``classes``, channels first."""
    return np.moveaxis(np.eye(count, dtype=np.float32)[np.asarray(classes)], -1, 1)


MASKS = np.array([[[0, 0], [1, 1]], [[2, 2], [255, 0]]])
SAID = np.array([[[0, 1], [1, 1]], [[2, 0], [1, 0]]])


@pytest.mark.parametrize("layout", ["first", "last", "classes"])
def test_maps_of_classes_by_hand(layout) -> None:
    outputs = one_hot(SAID, 3)
    outputs = {"first": outputs, "last": np.moveaxis(outputs, 1, -1), "classes": SAID[:, None]}[layout]
    setting = "(classes=3)" if layout == "classes" else ""
    found = scored(f"pixel-accuracy{setting}", outputs, MASKS)
    assert found.value == pytest.approx(5 / 7)  # of 8 pixels one is ignored
    np.testing.assert_allclose(found.per_image, [3 / 4, 2 / 3], rtol=1e-6)
    # Classes 0, 1, 2 over both images: 2 of 4, 2 of 3, 1 of 2.
    found = scored(f"mean-iou{setting}", outputs, MASKS)
    assert found.value == pytest.approx((2 / 4 + 2 / 3 + 1 / 2) / 3)
    # Of the second image alone, class 1 does not occur.
    np.testing.assert_allclose(found.per_image, [(1 / 2 + 2 / 3) / 2, (1 / 2 + 1 / 2) / 2], rtol=1e-6)


def test_ties_and_nan_are_wrong_pixels() -> None:
    outputs = one_hot(MASKS % 255, 3)
    outputs[0, :, 0, 0] = 1.0
    outputs[0, 1, 0, 1] = np.nan
    outputs[0, 1, 1, 0] = np.inf
    found = scored("pixel-accuracy", outputs, MASKS)
    assert (found.value, found.not_finite) == (pytest.approx(4 / 7), 1)
    assert scored("mean-iou", np.full_like(outputs, np.nan), MASKS).value == 0
    assert scored("pixel-accuracy", np.full((2, 1, 2, 2), np.nan), MASKS).value == 0


def test_one_channel_with_a_threshold() -> None:
    outputs, masks = np.array([[[[-1.0, 2.0], [0.3, -3.0]]]]), np.array([[[0, 1], [0, 1]]])
    assert scored("pixel-accuracy(threshold=0)", outputs, masks).value == 0.5
    assert scored("mean-iou(threshold=0.5)", outputs, masks).value == pytest.approx((2 / 3 + 1 / 2) / 2)


def test_top_5_and_top_1() -> None:
    outputs = np.arange(12, dtype=np.float32).reshape(2, 6)
    assert scored("top-1", outputs, [5, 1]).value == 0.5
    found = scored("top5", outputs, [5, 1])
    assert (found.value, found.metric.name, found.interval()[1]) == (1.0, "top-5", 1.0)


def direct_ssim(x, y, data_range):
    """Return SSIM of two planes, window by window (Wang et al. 2004, equation 13)."""
    taps = np.exp(-0.5 * ((np.arange(11) - 5) / 1.5) ** 2)
    window = np.outer(taps, taps) / taps.sum() ** 2
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    values = []
    for i in range(x.shape[0] - 10):
        for j in range(x.shape[1] - 10):
            a, b = x[i : i + 11, j : j + 11], y[i : i + 11, j : j + 11]
            ma, mb = (window * a).sum(), (window * b).sum()
            va, vb, cov = (
                (window * (p - mp) * (q - mq)).sum()
                for p, mp, q, mq in ((a, ma, a, ma), (b, mb, b, mb), (a, ma, b, mb))
            )
            values.append((2 * ma * mb + c1) * (2 * cov + c2) / ((ma**2 + mb**2 + c1) * (va + vb + c2)))
    return np.mean(values)


@pytest.mark.parametrize("data_range", [1.0, 255.0])
def test_ssim_is_that_of_the_definition(data_range) -> None:
    rng = np.random.default_rng(0)
    x = rng.uniform(0, data_range, (3, 2, 16, 13))
    y = np.clip(x + rng.normal(0, 0.1 * data_range, x.shape), 0, data_range)
    y[2] = 0.9 * data_range + 0.01 * y[2]
    name = f"ssim(data_range={data_range})"
    expected = [np.mean([direct_ssim(x[i, c], y[i, c], data_range) for c in range(2)]) for i in range(3)]
    for axes in ((0, 1, 2, 3), (0, 2, 3, 1)):
        found = scored(name, x.transpose(axes), y.transpose(axes).astype(np.float32))
        np.testing.assert_allclose(found.per_image, expected, rtol=2e-4, atol=2e-6)
    assert scored(name, x, x.astype(np.float32)).value == pytest.approx(1.0)


@pytest.mark.parametrize("data_range", [0.5, 2, 65535])
@pytest.mark.parametrize("shape", [(2, 11, 11, 3), (2, 20, 12, 1), (2, 14, 11)])
def test_ssim_and_psnr_of_sizes_channels_and_ranges(shape, data_range) -> None:
    """A PSNR by integers of 16 bits ended in an overflow."""
    rng = np.random.default_rng(1)
    x = rng.uniform(0, data_range, shape)
    y = np.clip(x + rng.normal(0, 0.1 * data_range, x.shape), 0, data_range)
    every = [(np.atleast_3d(a), np.atleast_3d(b)) for a, b in zip(x, y, strict=True)]
    similar = [np.mean([direct_ssim(a[..., c], b[..., c], data_range) for c in range(a.shape[-1])]) for a, b in every]
    noise = [10 * np.log10(data_range**2 / np.mean((a - b) ** 2)) for a, b in zip(x, y, strict=True)]
    for name, expected in (("ssim", similar), ("psnr", noise)):
        found = scored(f"{name}(data_range={data_range})", x, y.astype(np.float32))
        np.testing.assert_allclose(found.per_image, expected, rtol=1e-4, atol=1e-5)


def test_equal_images_and_a_mean_of_them() -> None:
    x = np.random.default_rng(2).uniform(0, 1, (2, 11, 11)).astype(np.float32)
    y = np.stack([x[0], x[1] + np.float32(0.1)])
    found = scored("psnr", x, y)
    np.testing.assert_allclose(found.per_image, [100.0, 20.0], rtol=1e-5)
    assert found.value == pytest.approx(60.0)
    assert scored("ssim", x, x).per_image.tolist() == pytest.approx([1.0, 1.0])


def test_ssim_of_a_network_that_explodes() -> None:
    """Its denominators multiplied to infinity in float32, and NaN looked like outputs that are not finite."""
    x = np.random.default_rng(3).uniform(0, 1, (2, 11, 11)).astype(np.float32)
    np.testing.assert_allclose(scored("ssim", x * np.float32(1e15), x).per_image, 0, atol=1e-6)


def test_psnr_by_hand() -> None:
    x = np.zeros((3, 1, 2, 2), np.float32)
    y = np.stack([np.full((2, 2), 0.1), np.zeros((2, 2)), np.array([[0.2, 0], [0, 0]])]).astype(np.float32)
    found = scored("psnr", x, y)  # an axis of size 1 may be left out
    np.testing.assert_allclose(found.per_image, [20.0, 100.0, 20.0], rtol=1e-5)
    assert scored("psnr(data_range=255)", 255 * x, 255 * y).per_image[0] == pytest.approx(20.0)
    found = scored("psnr", np.where(y > 0, np.nan, y), y)
    assert math.isnan(found.value)
    assert found.not_finite == 2
    assert all(map(math.isnan, found.interval()))


def test_every_metric_is_differentiable_or_constant_and_compiles() -> None:
    x = jax.random.uniform(jax.random.key(0), (2, 3, 12, 12))
    classes = jnp.zeros((2, 12, 12), jnp.int32)
    for name in METRICS[2:]:
        chosen = metric(name)

        def worth(x, chosen=chosen):
            found = chosen.function(x, classes if chosen.compares == "class map" else 0.5 * jnp.ones_like(x))
            return chosen.aggregate(found.mean(axis=0)) if chosen.aggregate else found.mean()

        slope = jax.jit(jax.grad(worth))(x)
        assert jnp.isfinite(slope).all()
        assert (slope != 0).any() == (chosen.compares != "class map")


# Names ----------------------------------------------------------------------------------------------------------------


def test_names_are_metrics_once() -> None:
    assert metric("psnr(data_range=255)") is metric(" psnr( data_range = 255 ) ")
    assert metric("psnr(data_range=1.0)") is metric("psnr")
    assert metric("sqnr") is metric("output-sqnr")
    for name in ("mean-iou(ignore=-1, class_axis=-1, classes=21)", "pixel-accuracy(threshold=0.5)"):
        assert metric(name).name == name
        assert metric(metric(name).name) is metric(name)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("psnrr", "no `metric` is called `psnrr`: did you mean `psnr`"),
        ("psnr(range=2)", "no setting `range`: .*data_range"),
        ("psnr(255)", "expected settings as in"),
        ("psnr(data_range=0)", "`data_range` of `metric` psnr must be a positive number, got 0"),
        ("mean-iou(classes=1)", "must be an integer of at least 2"),
        ("top-1(k=3)", "no setting `k`: it has none"),
        (3, "`metric` is 3; expected a name"),
    ],
)
def test_a_wrong_name_is_one_line(name, said) -> None:
    with pytest.raises(GgdjaxError, match=said) as caught:
        metric(name)
    assert "\n" not in str(caught.value)


# Evaluation -----------------------------------------------------------------------------------------------------------

IMAGES = np.random.default_rng(0).uniform(0, 1, (10, 12, 12, 1)).astype(np.float32)


@pytest.fixture(scope="module")
def of_maps():
    """Return a quantized network that scores three classes per pixel."""
    kernel = np.random.default_rng(1).normal(size=(3, 3, 1, 3)).astype(np.float32)

    def function(x):
        return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))

    net = trace(function, jnp.zeros((1, 12, 12, 1)))
    return quantize(net, calibrate(net, [IMAGES]))


def test_evaluation_by_a_metric(of_maps) -> None:
    outputs = np.asarray(of_maps.float_network(IMAGES))
    masks = outputs.argmax(-1).astype(np.uint8)
    batches = [(IMAGES[:6], masks[:6]), (IMAGES[6:], masks[6:])]
    found = evaluate(of_maps, batches, "mean-iou")
    assert found.float_accuracy is None
    assert found.quantized_correct is None
    assert 0.9 < found.quantized_score.value < 1
    assert found.metric is metric("mean-iou")
    low, high = found.quantized_score.interval()
    assert low < found.quantized_score.value < high <= 1
    np.testing.assert_array_equal(
        found.quantized_score.statistics, score(of_maps, (IMAGES, masks), "mean-iou").statistics
    )
    assert set(found.sqnr_db) == set(evaluate(of_maps, [IMAGES], "output-sqnr").sqnr_db)
    sqnr = evaluate(of_maps, [IMAGES[:6], IMAGES[6:]], "output-sqnr")
    rounded = np.asarray(of_maps(IMAGES))
    expected = 10 * math.log10((outputs**2).sum() / ((outputs - rounded) ** 2).sum())
    assert sqnr.quantized_score.value == pytest.approx(expected, rel=1e-4)
    assert sqnr.float_score.value == math.inf
    assert score(of_maps, [IMAGES], "sqnr", reference=of_maps.float_network).value == pytest.approx(expected, rel=1e-4)


def test_a_function_is_a_metric(of_maps) -> None:
    def closeness(outputs, targets):
        return -jnp.abs(outputs - targets).mean(axis=(1, 2, 3))

    outputs = np.asarray(of_maps.float_network(IMAGES))
    found = evaluate(of_maps, (IMAGES, outputs), closeness)
    assert found.metric.name == "closeness"
    assert found.float_score.value == 0 > found.quantized_score.value
    interval, p_value = found.quantized_score.compared_to(found.float_score)
    assert interval[0] < found.quantized_score.value < interval[1] < 0
    assert p_value < 0.01
    with pytest.raises(
        GgdjaxError, match=r"`metric` total returned an array of shape \(\) for 10 images; expected one"
    ):
        evaluate(of_maps, (IMAGES, outputs), Metric(name="total", function=lambda y, t: (y * t).sum()))


def test_what_does_not_fit_is_one_line(of_maps) -> None:
    masks = np.zeros((10, 12, 12), np.int32)

    def refused(said, *arguments):
        with pytest.raises(GgdjaxError, match=said) as caught:
            evaluate(of_maps, *arguments)
        assert "\n" not in str(caught.value)

    fits = r"a map of 12 × 12 × 3 values .* fits \(pixel-accuracy, mean-iou, psnr, ssim, output-sqnr\)"
    refused(fits, (IMAGES, masks))
    refused(fits, (IMAGES, masks), "top-5")
    refused("the class 3, outside the network's 3 classes", (IMAGES, masks + 3), "mean-iou")
    refused("targets have shape .*expected one class per pixel", (IMAGES, masks[:, :6]), "pixel-accuracy")
    refused("targets are float32 .* one class index per pixel", (IMAGES, masks.astype(np.float32)), "pixel-accuracy")
    refused("expected images like the outputs: move the channels", (IMAGES, np.zeros((10, 3, 12, 12))), "psnr")
    refused("no pixel of the targets counts", (IMAGES, masks + 255), "mean-iou")
    refused("targets hold NaN", (IMAGES, np.full((10, 12, 12, 3), np.nan, np.float32)), "psnr")
    refused("follows smaller ones", [(IMAGES[:2], masks[:2]), (IMAGES, masks)], "mean-iou")
    refused("a batch holds 10 images, but 4 labels", (IMAGES, masks[:4]), "pixel-accuracy")
    refused("no images", [], "output-sqnr")
    with pytest.raises(DataError, match=r"10 scores per image, no map, .* \(top-1, top-5, output-sqnr\)"):
        scored("psnr", np.zeros((2, 10)), np.zeros((2, 10)))
    with pytest.raises(DataError, match="first or last axis"):
        scored("pixel-accuracy", np.zeros((2, 3, 3, 3)), np.zeros((2, 3, 3), np.int32))
    with pytest.raises(DataError, match="at least 11 × 11"):
        scored("ssim", np.zeros((2, 3, 8, 20)), np.zeros((2, 3, 8, 20)))
    with pytest.raises(GgdjaxError, match="give it as `reference`"):
        scored("output-sqnr", np.zeros((2, 3)), np.zeros((2, 3)))
    with pytest.raises(DataError, match="how many there are"):
        scored("mean-iou", np.zeros((2, 1, 8, 8)), np.zeros((2, 8, 8), np.int32))


# Intervals ------------------------------------------------------------------------------------------------------------


def mean(rows):
    return rows[..., 0]


def test_bootstrap_intervals_cover() -> None:
    rng, covered, sets = np.random.default_rng(0), 0, 200
    for seed in range(sets):
        low, high = bootstrap_interval(rng.exponential(1.0, (40, 1)), mean, seed=seed)
        covered += low <= 1 <= high
    # 95 % wanted; skewed scores of 40 images get a little less.
    assert 0.89 <= covered / sets <= 0.985


def test_a_paired_comparison_finds_a_change_and_not_noise() -> None:
    rng = np.random.default_rng(0)
    before = rng.normal(30, 5, (60, 1))
    after = before - 0.1 + rng.normal(0, 0.1, before.shape)
    interval, p_value = paired_bootstrap(before, after, mean)
    assert interval[0] < -0.1 < interval[1] < 0
    assert p_value < 0.001
    few = [paired_bootstrap(v, v + rng.normal(0, 1, v.shape), mean, seed=i)[1] for i, v in enumerate([before] * 60)]
    assert np.mean(np.asarray(few) < 0.1) < 0.25
    assert paired_bootstrap(before, before, mean) == ((0.0, 0.0), 1.0)


def test_one_image_has_no_interval() -> None:
    found = Score(metric=metric("psnr"), statistics=np.array([30.0], np.float32))
    assert found.value == 30
    assert all(map(math.isnan, found.interval()))
    assert found.metric.text(math.nan) == "–"


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (lambda y, t: np.asarray(y).sum(1), r"\(TracerArrayConversionError: .*\): give a function of .* in JAX"),
        (lambda y: y.sum(1), r"\(TypeError: .* 1 positional argument but 2 were given\)"),
        (lambda y, t: y[:, 7, 7], r"fails for outputs of shape \(2, 3\) and targets of shape \(2,\) \(IndexError"),
    ],
)
def test_a_function_that_fails_is_one_line(function, said) -> None:
    with pytest.raises(GgdjaxError, match=said) as caught:
        scored(function, np.zeros((2, 3)), np.zeros(2))
    assert "\n" not in str(caught.value)
