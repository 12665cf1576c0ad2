"""What Jupyter shows of the main values: their `repr` and a table of their parts."""

from __future__ import annotations

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ggdjax as gd


@pytest.fixture(scope="module")
def values():
    net = gd.trace(gd.zoo.digits_net(), jnp.zeros((1, 8, 8, 1)))
    images = np.random.default_rng(0).uniform(0, 1, (16, 8, 8, 1)).astype(np.float32)
    calibration = gd.calibrate(net, images)
    q = gd.quantize(net, calibration, gd.QuantConfig(scheme="max-abs", weights_per="channel"))
    histograms = calibration.histograms
    return {
        "network": net,
        "quantized": q,
        "histograms": histograms,
        "histogram": histograms[1],
        "fit": gd.fit(histograms, 2),
        "program": gd.datapath.compile(gd.quantize(net, calibration)),
    }


@pytest.mark.parametrize(
    ("name", "rows", "cell"),
    [
        ("network", 23, "<td>stem/conv/relu</td><td>relu</td>"),
        ("quantized", 14, "<td>head</td><td>weights</td><td>8</td><td>True</td>"),
        ("histograms", 7, "<td>3</td>"),
        ("histogram", 1, "<td>0</td>"),
        ("fit", 7, "<th>result</th>"),
        ("program", 7, "<td>stem/conv</td><td>(3, 3, 1, "),
    ],
)
def test_tables(values, name, rows, cell):
    page = values[name]._repr_html_()
    assert len(re.findall("<tr><td>", page)) == rows
    assert cell in page
    assert type(values[name]).__name__ in page
    assert len(page) < 20_000


def test_what_is_traced_shows_no_table(values):
    seen = []
    jax.jit(lambda h: seen.append(h._repr_html_()) or h.zeros)(values["histogram"])
    jax.jit(lambda q: seen.append(q._repr_html_()) or 0)(values["quantized"])
    assert all("<td>" not in page for page in seen)
    assert len(seen) == 2


def test_a_long_table_says_how_many_rows_are_left_out(values):
    many = jax.tree.map(lambda *leaves: jnp.stack(leaves), *[values["histogram"]] * 100)
    assert "<p>40 rows more</p>" in many._repr_html_()
