"""What is left of the error of a search: `ggd` under heavy tails, and the scheme that takes a family by its moments."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scheme_samples import quantize, sqnr_db

from ggdjax import schemes
from ggdjax.ggd import Histogram
from ggdjax.schemes import ChoiceCode, SchemeClass
from ggdjax.schemes._sqnr_optimal import unit_steps
from ggdjax.steps import closed_form_step

WIDTHS = np.array([8, 6, 4])[:, None]


@pytest.fixture(scope="module")
def sources() -> dict[str, np.ndarray]:
    rng, n = np.random.default_rng(0), 100_000
    return {
        "half-normal": np.abs(rng.normal(size=n)),
        "exponential": rng.exponential(size=n),
        "log-normal 1.5": np.exp(1.5 * rng.normal(size=n)),
        "log-normal 2": np.exp(2.0 * rng.normal(size=n)),
        "Lomax 3": rng.pareto(3.0, size=n),
    }


def test_the_zero_cell_is_part_of_the_step(sources):
    x = [values.astype(np.float32) for values in sources.values()]
    histograms = Histogram.stack([Histogram.from_samples(values) for values in x])
    chosen = schemes.choose("ggd", histograms, WIDTHS)
    plain = replace(chosen, step=closed_form_step(chosen.evidence.tail, WIDTHS))
    gain = np.array(
        [
            [
                sqnr_db(values, quantize(values, chosen, (row, i))) - sqnr_db(values, quantize(values, plain, (row, i)))
                for i, values in enumerate(x)
            ]
            for row in range(len(WIDTHS))
        ]
    )
    heavy = list(sources).index("log-normal 2")
    assert (gain[:, heavy] > 0.5).all()
    assert (gain > -0.06).all()  # light tails: what the plain equation gains by chance


def test_a_tail_that_no_ggd_follows_is_said_and_loses_little():
    rng, n = np.random.default_rng(2), 300_000
    x = [rng.pareto(2.0, size=n), np.abs(rng.standard_t(2, size=n)), np.exp(1.5 * rng.normal(size=n))]
    light = [np.abs(rng.normal(size=n)), np.minimum(rng.exponential(size=n), 1.0)]
    histograms = Histogram.stack([Histogram.from_samples(values.astype(np.float32)) for values in (*x, *light)])
    chosen, best = (schemes.choose(name, histograms, WIDTHS) for name in ("ggd", "mse-search"))
    assert (np.asarray(chosen.code)[:, 3:] == ChoiceCode.OK).all()
    heavy = np.asarray(chosen.code) == ChoiceCode.HEAVY_TAIL
    assert heavy[0, :3].all()
    assert np.array_equal(heavy, ~np.isnan(np.asarray(chosen.evidence.order_error)))
    for i, values in enumerate((*x, *light)):
        for row in range(len(WIDTHS)):
            found = sqnr_db(values, quantize(values, chosen, (row, i)))
            assert found > sqnr_db(values, quantize(values, best, (row, i))) - 0.2
            if heavy[row, i]:
                assert abs(float(chosen.evidence.sqnr_db[row, i]) - found) < 0.15
    # A tensor's choice does not depend on its neighbours.
    alone = schemes.choose("ggd", histograms[3:], WIDTHS)
    np.testing.assert_allclose(alone.step, np.asarray(chosen.step)[:, 3:], rtol=1e-6)


def test_classes():
    kinds = {name: schemes.get(name).kind for name in schemes.names()}
    searches = {name for name, kind in kinds.items() if kind is SchemeClass.SEARCH}
    assert searches == {"mse-search", "octav", "kl"}
    assert {name for name, kind in kinds.items() if kind is SchemeClass.MODEL_WITH_CHOICE} == {
        "ggd-best-order",
        "ggd-best-order-exact",
    }


@pytest.mark.parametrize("source", ["gauss", "laplace", "gamma"])
def test_moments_find_the_family(source):
    rng = np.random.default_rng(3)
    magnitude = {
        "gauss": np.abs(rng.normal(size=50_000)),
        "laplace": rng.exponential(size=50_000),
        "gamma": rng.gamma(0.5, size=50_000),
    }[source]
    chosen = schemes.choose("moments", magnitude.astype(np.float32), np.array([4, 8]))
    wanted = np.sqrt(np.mean(magnitude**2)) * unit_steps(source)[[3, 7]]
    np.testing.assert_allclose(chosen.step, wanted, rtol=0.01)
