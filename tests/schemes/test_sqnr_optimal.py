"""The tables of Lin et al. 2016 (after Max 1960 and Paez and Glisson 1972), regenerated."""

from __future__ import annotations

import numpy as np
import pytest

from ggdjax import schemes
from ggdjax.schemes._sqnr_optimal import SOURCES, unit_steps

#: Mid-rise steps for 4, 8, 16, 32 levels in all, as printed.
PUBLISHED = {
    "gauss": [0.9957, 0.5860, 0.3352, 0.1881],
    "laplace": [1.0874, 0.7309, 0.4610, 0.2800],
    "gamma": [1.0660, 0.7957, 0.5400, 0.3459],
}


@pytest.mark.parametrize("source", SOURCES)
def test_published_tables_are_regenerated(source):
    found = np.asarray(unit_steps(source, rule="mid_rise"))[:4]
    np.testing.assert_allclose(found, PUBLISHED[source], atol=1.5e-4)


@pytest.mark.parametrize("source", SOURCES)
def test_steps_shrink_with_the_number_of_levels(source):
    steps = np.asarray(unit_steps(source))
    assert steps.shape == (16,)
    assert (np.diff(steps) < 0).all()


def draw(source: str, size: int) -> np.ndarray:
    rng = np.random.default_rng(2)
    if source == "gauss":
        return rng.normal(size=size)
    shape, scale = (1.0, np.sqrt(0.5)) if source == "laplace" else (0.5, 2 / np.sqrt(3))
    return rng.gamma(shape, scale, size) * rng.choice([-1, 1], size)


@pytest.mark.parametrize("source", SOURCES)
def test_the_step_is_the_deviation_times_the_unit_step_before_and_after_a_relu(source):
    x = (3.0 * draw(source, 400_000)).astype(np.float32)
    unit = np.asarray(unit_steps(source))
    np.testing.assert_allclose(schemes.choose(f"sqnr-{source}", x, 5).step, 3.0 * unit[3], rtol=0.02)
    np.testing.assert_allclose(schemes.choose(f"sqnr-{source}", np.maximum(x, 0), 4).step, 3.0 * unit[3], rtol=0.02)


@pytest.mark.parametrize("source", SOURCES)
def test_on_its_own_source_it_comes_close_to_the_search(source):
    x = np.maximum(draw(source, 400_000), 0).astype(np.float32)
    for bits in (4, 6):
        own = schemes.choose(f"sqnr-{source}", x, bits)
        searched = schemes.choose("mse-search", x, bits)
        np.testing.assert_allclose(own.step, searched.step, rtol=0.06)
