"""One test per promise of the protocol; each walks every registered scheme."""

from __future__ import annotations

import functools
from pathlib import Path

import choices_elsewhere
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from choices_elsewhere import FIELDS, FITS, alone_and_jitted

from ggdjax import schemes
from ggdjax._errors import GgdjaxError
from ggdjax.ggd._histogram import Histogram
from ggdjax.schemes import ChoiceCode, PredictionCode
from tests.elsewhere import run_elsewhere

WIDTHS = np.arange(2, 17)
EXPECTED_CODES = {
    "constant": ChoiceCode.CONSTANT,
    "both signs of one value": ChoiceCode.CONSTANT,
    "zeros and one outlier": ChoiceCode.CONSTANT,
    "single value": ChoiceCode.CONSTANT,
    "all zero": ChoiceCode.ALL_ZERO,
    "empty": ChoiceCode.EMPTY,
}

every_scheme = pytest.mark.parametrize("name", schemes.names())


@pytest.fixture(scope="module")
def choose_all(histograms):
    """Return a function that chooses for every tensor and width, once per scheme."""
    return functools.cache(lambda name: schemes.choose(name, histograms, WIDTHS[:, None]))


@every_scheme
def test_every_tensor_and_width_gets_a_usable_quantizer(name, choose_all, tensors):
    chosen = choose_all(name)
    step = np.asarray(chosen.step)
    assert step.shape == (len(WIDTHS), len(tensors))
    assert step.dtype == np.float32
    assert np.isfinite(step).all()
    assert (step > 0).all()
    signed = np.array([np.any(v[np.isfinite(v)] < 0) for v in tensors.values()])
    low = np.where(signed, -(2 ** (WIDTHS[:, None] - 1)), 0)
    np.testing.assert_array_equal(chosen.qmin, low)
    np.testing.assert_array_equal(chosen.qmax, low + 2 ** WIDTHS[:, None] - 1)
    assert (chosen.zero_point is None) == (name != "affine-min-max")
    if chosen.zero_point is not None:
        zero_point = np.asarray(chosen.zero_point)
        assert zero_point.dtype == np.float32
        assert ((zero_point >= low) & (zero_point <= np.asarray(chosen.qmax)) & (zero_point % 1 == 0)).all()
    leaves = jax.tree.leaves(chosen)
    assert all(leaf.shape == step.shape for leaf in leaves)
    _check_evidence(name, chosen)
    assert np.isfinite(np.asarray(chosen.highest)).all()
    assert np.isfinite(np.asarray(chosen.lowest)).all()
    for column, tensor in enumerate(tensors):
        codes = np.asarray(chosen.code)[:, column]
        if tensor in EXPECTED_CODES:
            assert (codes == EXPECTED_CODES[tensor]).all(), tensor
        else:
            assert np.isin(codes, [ChoiceCode.OK, ChoiceCode.FALLBACK, ChoiceCode.HEAVY_TAIL]).all(), tensor


def _check_evidence(name, chosen):
    kinds = {"ggd": schemes.Fitted, "mse": schemes.Searched, "octav": schemes.Searched, "kl": schemes.Searched}
    kind = kinds.get(name.split("-")[0])
    predicted = np.asarray(chosen.predicted_sqnr_db)
    if kind is None:
        assert chosen.evidence is None
        assert np.isnan(predicted).all()
        assert np.isnan(np.asarray(chosen.distortion)).all()
        return
    assert isinstance(chosen.evidence, kind)
    absent = np.asarray(chosen.evidence.prediction) == PredictionCode.ABSENT
    own = np.isin(np.asarray(chosen.code), [ChoiceCode.OK, ChoiceCode.HEAVY_TAIL])
    np.testing.assert_array_equal(absent, np.ones_like(own) if name == "kl" else ~own)
    np.testing.assert_array_equal(np.isnan(predicted), absent)
    np.testing.assert_array_equal(np.isnan(np.asarray(chosen.distortion)), absent)
    assert np.isfinite(np.asarray(chosen.distortion)[~absent]).all()
    if kind is schemes.Searched:
        # A few values far apart leave KL nothing to compare: infinite.
        assert not np.isnan(np.asarray(chosen.evidence.minimum)[own]).any()
    else:
        numbers = (chosen.evidence.tail, chosen.evidence.weight, chosen.evidence.saturation, chosen.evidence.fit_code)
        assert all(np.isfinite(np.asarray(leaf)).all() for leaf in jax.tree.leaves(numbers))


@every_scheme
def test_ordinary_tensors_get_the_schemes_own_step(name, choose_all, tensors):
    ordinary = [list(tensors).index(t) for t in ("rectified", "two-sided", "bounded", "heavy", "negative")]
    chosen = choose_all(name)[:, np.array(ordinary)]
    codes = np.asarray(chosen.code)
    assert (np.delete(codes, 3, axis=1) == ChoiceCode.OK).all()
    heavy = [ChoiceCode.OK, ChoiceCode.HEAVY_TAIL] if name in ("ggd", "ggd-exact") else [ChoiceCode.OK]
    assert np.isin(codes[:, 3], heavy).all()
    step = np.asarray(chosen.step)
    if name == "kl":  # compares shapes of histograms, not errors: finer on the whole, not from each width to the next
        step = step[[0, 4, -1]]
    assert (np.diff(step, axis=0) < 0).all()  # more bits, finer steps


@every_scheme
def test_a_constant_is_represented_exactly(name, histograms, tensors):
    index = list(tensors).index("constant")
    chosen = schemes.choose(name, histograms[index], 5)
    np.testing.assert_allclose(float(chosen.step) * float(chosen.qmax), 3.7, rtol=1e-6)


@pytest.fixture(scope="module")
def fits(tmp_path_factory):
    """Return what schemes that fit choose alone and inside another program, fused as programs of users are.

    Where a fit ends depends on how its sums are fused: with the flags of these tests by more than the tolerance.
    """
    out = tmp_path_factory.mktemp("choices") / "choices.npz"
    run_elsewhere(Path(choices_elsewhere.__file__), out, "fused")
    return np.load(out)


@every_scheme
def test_an_outer_jit_changes_nothing(name, request):
    found = request.getfixturevalue("fits")[name] if name in FITS else alone_and_jitted([name])[name]
    alone, jitted = (dict(zip(FIELDS, one, strict=True)) for one in found)
    for field in ("step", "qmin", "qmax", "lowest", "code"):
        np.testing.assert_allclose(jitted[field], alone[field], rtol=1e-6)
    np.testing.assert_allclose(jitted["predicted_sqnr_db"], alone["predicted_sqnr_db"], atol=0.02)


@every_scheme
def test_one_call_equals_a_loop(name, choose_all, histograms):
    together = choose_all(name)
    for bits in (8, 4):
        row = list(WIDTHS).index(bits)
        for column in (0, 1, 3):
            alone = schemes.choose(name, histograms[column], bits)
            assert alone.step.shape == ()
            assert jax.tree.structure(alone) == jax.tree.structure(together[row, column])
            # A batch sums in another order: a fit ends within its tolerance, a search at a neighbour on its grid.
            tolerance = 1e-3 if name == "mse-search" else 2e-4 if name.startswith("ggd") else 2e-6
            np.testing.assert_allclose(alone.step, together.step[row, column], rtol=tolerance)


@every_scheme
def test_steps_scale_with_the_tensor(name, tensors):
    if name == "dynamic-fixed-point":
        factor = 4.0  # the only scheme that knows absolute powers of two
    else:
        factor = 5.0
    one = schemes.choose(name, tensors["rectified"], 6)
    other = schemes.choose(name, tensors["rectified"] * np.float32(factor), 6)
    # A factor that is no power of two moves the edges of the logarithmic bins: tolerance of two bins.
    np.testing.assert_allclose(other.step, factor * one.step, rtol=2 / 128)


@every_scheme
def test_samples_and_histograms_are_the_same(name, tensors):
    x = tensors["heavy"]
    by_samples = schemes.choose(name, x.reshape(100, -1), 6)
    by_histogram = schemes.choose(name, Histogram.from_samples(x), 6)
    np.testing.assert_array_equal(by_samples.step, by_histogram.step)


@every_scheme
def test_counts_beyond_int32_are_the_same_distribution(name, histograms):
    def times(h, factor):
        return Histogram(
            counts=np.asarray(h.counts).astype(np.int64) * factor,
            zeros=np.asarray(h.zeros).astype(np.int64) * factor,
            minimum=np.asarray(h.minimum),
            maximum=np.asarray(h.maximum),
        )

    # Both repeat every value: a single largest value is chance, a thousand equal ones are a point mass.
    for h in (histograms[0], histograms[1]):
        few, many = (schemes.choose(name, times(h, factor), 6).step for factor in (2**10, 2**20))
        np.testing.assert_allclose(many, few, rtol=1e-3)


def test_shapes_broadcast_like_numpy(histograms):
    get = schemes.get("max-abs")
    pair = histograms[np.array([0, 1])]
    grid = Histogram.stack([pair, pair, pair])  # [3, 2]
    assert get(grid, 8).step.shape == (3, 2)
    assert get(grid, jnp.array([8, 6])).step.shape == (3, 2)
    assert get(grid, jnp.array([8, 6, 4, 2])[:, None, None]).step.shape == (4, 3, 2)
    wide = get(histograms[np.array([1])], jnp.array([[8, 6], [5, 4]]), np.array([[True], [False]]))
    np.testing.assert_array_equal(wide.qmax, [[127, 31], [31, 15]])
    reordered = get(Histogram.stack([pair]), jnp.array([8, 6, 4])[:, None])  # [1, 2] with [3, 1]
    np.testing.assert_allclose(reordered.step[2], get(pair, 4).step)


def test_changing_widths_does_not_compile_again(histograms):
    scheme = schemes.get("max-abs")
    scheme(histograms, np.array([[8], [6]]))
    with jax.log_compiles(False):
        from ggdjax.schemes import _protocol as protocol

        before = protocol._choose._cache_size()
        scheme(histograms, np.array([[7], [3]]))
        assert protocol._choose._cache_size() == before


def test_a_tensor_asked_for_unsigned_is_judged_by_its_positive_values():
    x = np.array([-100.0, -3.0, 0.5, 2.0], np.float32)
    np.testing.assert_allclose(schemes.choose("max-abs", x, 8, False).highest, 2.0)
    np.testing.assert_allclose(schemes.choose("max-abs", x, 8, True).highest, 100.0)
    nothing = schemes.choose("max-abs", np.array([-1.0, -2.0]), 8, False)
    assert int(nothing.code) == ChoiceCode.ALL_ZERO


def test_arguments_out_of_range_are_named(tensors):
    x = tensors["rectified"]
    with pytest.raises(GgdjaxError, match=r"`bits` must be from 2 to 16, got 17"):
        schemes.choose("max-abs", x, 17)
    with pytest.raises(GgdjaxError, match=r"`bits` must be from 2 to 16, got 1"):
        schemes.choose("max-abs", x, np.array([8, 1]))
    with pytest.raises(GgdjaxError, match=r"`bits` must be integers"):
        schemes.choose("max-abs", x, 8.0)
    with pytest.raises(GgdjaxError, match=r"`signed` must be boolean"):
        schemes.choose("max-abs", x, 8, 1)
    pair = Histogram.stack([Histogram.from_samples(x)] * 2)
    with pytest.raises(GgdjaxError, match=r"must broadcast against the tensors"):
        schemes.choose("max-abs", pair, np.array([8, 6, 4]))
    with pytest.raises(GgdjaxError, match=r"did you mean `aciq-gauss`"):
        schemes.get("aciq-gaus")
    with pytest.raises(GgdjaxError, match=r"registered already"):
        schemes.register("max-abs", paper="")


def test_names_are_found_whatever_the_spelling():
    assert schemes.get("MSE_search") is schemes.get("mse-search")
    assert {"ggd", "ggd-plain", "ggd-tail", "ggd-exact", "octav", "kl"} <= set(schemes.names())


def test_every_code_says_what_happened():
    assert all(code.message for codes in (ChoiceCode, PredictionCode) for code in codes)
