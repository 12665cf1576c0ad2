from __future__ import annotations

import numpy as np
import pytest

from experiments.configs.weights import compare


def test_fractional_lengths_are_the_best_of_all():
    values = np.random.default_rng(0).standard_t(3, 500).astype(np.float32)
    for bits in (8, 4):
        row = compare(values, bits)
        half = 2.0 ** (bits - 1)
        sqnr = {}
        for f in range(-20, 30):
            rounded = np.clip(np.round(values * 2.0**f), -half, half - 1) * 2.0**-f
            sqnr[f] = 10 * np.log10(np.square(values).sum() / np.square(values - rounded).sum())
        assert row["best"]["frac_bits"] == max(sqnr, key=sqnr.__getitem__)
        assert row["best"]["sqnr_db"] == pytest.approx(max(sqnr.values()), abs=1e-3)
        assert row["max_rule"]["sqnr_db"] == pytest.approx(sqnr[row["max_rule"]["frac_bits"]], abs=1e-3)
        assert 2.0 ** -row["max_rule"]["frac_bits"] * half >= np.abs(values).max()
