"""Rows, tables and plots of every kind of quantized network: aligned, read from a file, transformed by JAX."""

from __future__ import annotations

import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

import ggdjax as gd
from ggdjax import data, report, zoo


@pytest.fixture(scope="module")
def images():
    return next(data.digits().batches(np.arange(64), 64))


@pytest.fixture(scope="module")
def digits(images):
    net = gd.trace(zoo.digits_net(), jnp.zeros((1, 8, 8, 1)))
    return gd.quantize(net, gd.calibrate(net, images), gd.QuantConfig(scheme="octav"))


@pytest.fixture(scope="module", params=["aligned", "from a file", "transformed"])
def q(request, digits, tmp_path_factory):
    match request.param:
        case "aligned":
            return gd.datapath.align(digits)
        case "from a file":
            path = tmp_path_factory.mktemp("qdq") / "digits.onnx"
            gd.export.export_onnx(gd.datapath.align(digits), str(path))
            return gd.quantization.load_qdq(str(path))
    return jax.tree.map(lambda leaf: leaf, digits)


def test_rows_and_tables(q, images):
    evaluation = gd.evaluate(q, images)
    record = report.result_record(q, evaluation)
    assert len(record["feature_maps"]) == len(q.quantizers.activations)
    assert len(record["weights"]) == len(q.graph.quantizable)
    assert not any(np.isnan(row["sqnr_db"]) for row in record["feature_maps"] + record["weights"])
    assert record["cost"]["totals"]["energy_pj"] > 0
    console = Console(width=160, record=True, file=io.StringIO())
    console.print(report.feature_map_table(q, evaluation), report.weight_table(q), report.accuracy_lines(evaluation))
    assert all(row["name"] in console.export_text() for row in record["weights"][:1])


def test_plot_of_values():
    figure = report.plot_feature_map(np.array([0.0, 0.5, 1.0]), gd.fit(np.array([0.5, 1.0, 2.0])))
    assert figure.axes[0].get_title() == "33.3 % zeros"


def test_short_reprs(digits):
    program = gd.datapath.compile(digits)
    record = digits.record
    values = [digits, digits.network, digits.graph, record.calibration, record.calibration.histograms]
    values += [record.calibration.histograms[0], *record.choices.values(), program, program.graph]
    values.append(gd.fit(np.array([0.5, 1.0, 2.0])))
    for value in values:
        assert repr(value).startswith(f"{type(value).__name__}(")
        assert len(repr(value)) <= 600
    jax.tree.map(lambda _: object(), digits).__repr__()  # as JAX shows a structure
