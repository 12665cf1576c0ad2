"""What the report sets side by side: every scheme on every feature map, and what the network costs."""

from __future__ import annotations

import dataclasses
import json
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from ggdjax import report, schemes
from ggdjax._errors import GgdjaxError
from ggdjax.ggd import Histogram
from ggdjax.report import _comparison as comparison
from ggdjax.report._distortion import _spread, losses_db
from ggdjax.report._html import drawing

#: Cheap schemes: the others are compiled for seconds, and go the same way.
FEW = ("max-abs", "affine-min-max", "mse-search", "dynamic-fixed-point")


@pytest.fixture(scope="module")
def samples():
    rng = np.random.default_rng(0)
    half = np.maximum(rng.gamma(0.7, 2.0, 20_000), 0.0)
    return [half.astype(np.float32), rng.normal(0.5, 1.0, 20_000).astype(np.float32)]


@pytest.fixture(scope="module")
def compared(samples):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(schemes, "names", lambda: FEW)
        lines = []
        histograms = Histogram.stack([Histogram.from_samples(x) for x in samples])
        rows = [
            {"name": "relu", "signed": False, "qmin": 0, "qmax": 15, "zero_point": 0, "step": 0.5},
            {"name": "both", "signed": True, "qmin": -8, "qmax": 7, "zero_point": 0, "step": 0.4},
        ]
        yield report.compare_schemes(histograms, rows, lines.append)
        assert [line.rpartition(" ")[2] for line in lines] == list(FEW)


def sqnr_of(x, step, qmin, qmax, zero_point=0):
    rounded = step * (np.clip(np.round(x / step) + zero_point, qmin, qmax) - zero_point)
    return 10 * np.log10(np.mean(x**2) / np.mean((x - rounded) ** 2))


def test_sqnr_is_that_of_rounded_samples(samples, compared):
    codes = {"relu": (0, 15), "both": (-8, 7)}
    for x, row in zip(samples, compared["feature_maps"], strict=True):
        for found in (row["own"], row["choices"]["max-abs"], row["choices"]["mse-search"]):
            assert found["sqnr_db"] == pytest.approx(sqnr_of(x, found["step"], *codes[row["name"]]), abs=0.05)
        chosen = schemes.choose("affine-min-max", x, 4, row["name"] == "both")
        affine = sqnr_of(x, *(np.asarray(getattr(chosen, k)) for k in ("step", "qmin", "qmax", "zero_point")))
        assert row["choices"]["affine-min-max"]["sqnr_db"] == pytest.approx(affine, abs=0.05)


def test_the_search_has_the_top_of_the_curve_and_every_step_lies_on_the_grid(compared):
    for row in compared["feature_maps"]:
        steps = [row["own"]["step"], *(choice["step"] for choice in row["choices"].values())]
        assert row["curve"]["step"][0] < min(steps) < max(steps) < row["curve"]["step"][-1]
        assert row["choices"]["mse-search"]["sqnr_db"] == pytest.approx(max(row["curve"]["sqnr_db"]), abs=0.05)


def test_more_bits_more_sqnr(compared):
    for by_width in compared["mean_sqnr_db"].values():
        values = list(by_width.values())
        assert list(by_width) == ["8", "7", "6", "5", "4", "3"]
        assert values == sorted(values, reverse=True)


def test_as_many_rows_as_histograms():
    with pytest.raises(GgdjaxError, match="batch shape"):
        report.compare_schemes(Histogram.from_samples(np.ones(3, np.float32)), [])


def test_kept_in_the_folder_and_nothing_to_compare_without_histograms(tmp_path, monkeypatch):
    assert comparison.compare_run(tmp_path, {}) is None
    Histogram.stack([Histogram.from_samples(np.arange(9, dtype=np.float32))]).save(
        tmp_path / comparison.HISTOGRAMS_FILE
    )
    monkeypatch.setattr(schemes, "names", lambda: ("max-abs",))
    row = {"name": "m", "signed": False, "qmin": 0, "qmax": 255, "zero_point": 0, "step": 0.1}
    found = comparison.compare_run(tmp_path, {"feature_maps": [row]})
    monkeypatch.setattr(comparison, "compare_schemes", lambda *_: pytest.fail("compared twice"))
    assert comparison.compare_run(tmp_path, {"feature_maps": [row]}) == found


def test_a_dead_feature_map_is_drawn_and_left_out_of_the_losses(compared):
    dead = {"step": 1.0, "sqnr_db": None}
    row = {"name": "dead", "own": dead, "choices": dict.fromkeys(FEW, dead)}
    row["curve"] = {"step": [0.5, 1.0], "sqnr_db": [None, None]}
    assert "nothing is lost" in text_of(report.plot_distortion(row))
    assert {len(loss) for loss in losses_db([*compared["feature_maps"], row]).values()} == {2}


def text_of(figure):
    """Return the letters of a plot as the page holds it."""
    import base64
    import re

    data = re.search(r"base64,([^\"]+)", drawing(figure, "x")).group(1)
    return " ".join(ET.fromstring(base64.b64decode(data)).itertext())


def test_plots_name_every_scheme(compared):
    for row in compared["feature_maps"]:
        text = text_of(report.plot_distortion(row))
        assert all(name in text for name in FEW)
        assert f"Δ = {row['own']['step']:.4g}" in text
    assert all(name in text_of(report.plot_losses(compared["feature_maps"], "max-abs")) for name in FEW)


@pytest.mark.parametrize("count", [1, 5, 27])
def test_labels_are_apart_and_inside(count):
    places = _spread(np.sort(np.random.default_rng(count).beta(9, 1, count)))
    assert np.all(np.diff(places) >= 0.036 - 1e-9)
    assert min(places) >= 0.0
    assert max(places) <= 1.0


def test_cost_of_a_network_and_of_one_that_is_not_modelled(digits_quantized):
    found = report.cost_record(digits_quantized)
    energy = {name: record["energy_pj"] for name, record in found["at"].items()}
    assert energy["3/3"] < energy["8/8"] < energy["16/16"] < energy["float32"]
    assert found["totals"]["energy_pj"] == pytest.approx(energy["8/8"], rel=0.02)
    json.dumps(found)
    quantizers = dataclasses.replace(digits_quantized.quantizers, activations={})
    partly = dataclasses.replace(digits_quantized, quantizers=quantizers)
    assert "in float" in report.cost_record(partly)["not_modelled"]


def test_pareto_shows_the_run_and_the_other_arithmetics(digits_quantized, compared):
    cost = report.cost_record(digits_quantized)
    figure = report.plot_pareto(cost, compared["mean_sqnr_db"], "mse-search", measured_sqnr_db=30.0, label="top-1 98 %")
    text = text_of(figure)
    assert all(part in text for part in ("8/8", "3/3", "16/16", "float32", "top-1 98 %", "mse-search, predicted"))


@pytest.fixture(scope="module")
def digits_quantized():
    import ggdjax as gd
    from ggdjax import data, zoo

    net = gd.network.trace(zoo.digits_net(), np.zeros((1, 8, 8, 1), np.float32))
    (batch, *_) = data.digits().batches(range(32), 32)
    return gd.quantize(net, gd.calibrate(net, [batch[0]]), gd.QuantConfig(scheme="max-abs"))


def test_evaluation_lists_feature_maps_in_the_order_of_the_data(digits_quantized):
    import ggdjax as gd
    from ggdjax import data

    found = gd.evaluate(digits_quantized, data.digits().batches(range(32), 32))
    order = [feature_map.tensor for feature_map in digits_quantized.network.graph.feature_maps()]
    assert list(found.sqnr_db) == list(found.accumulated_sqnr_db) == order
    assert order != sorted(order)
