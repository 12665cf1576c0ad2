"""Backward-forward tuning: never worse, the same for any batch, mesh and interruption, cheaper than a naive loop."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest
from jax.sharding import Mesh
from tiny import tiny_quantized

from ggdjax import quantization, tune
from ggdjax._errors import DataError, GgdjaxError
from ggdjax.network import Node, trace
from ggdjax.quantization._serialize import quantizers_record
from ggdjax.tune._candidates import Candidate
from ggdjax.tune._segments import AXES, Segments, strong
from tests.elsewhere import run_elsewhere

#: Few factors and small batches: the search is the same, only shorter.
CONFIG = tune.TuneConfig(factors=(0.6, 0.8, 1.0, 1.25), screening=(0.25,), rows=32, allow_few_images=True)


@pytest.fixture(scope="module")
def tiny():
    return tiny_quantized()


@pytest.fixture(scope="module")
def tuned(tiny):
    return tune.backward_forward(*tiny, CONFIG)


def params_of(q):
    return quantizers_record(q.quantizers)[1]


def assert_same(a, b):
    first, second = params_of(a), params_of(b)
    assert first.keys() == second.keys()
    for key, value in first.items():
        np.testing.assert_array_equal(value, second[key], err_msg=key)
    assert [(d.tensor, d.change) for d in a.history.decisions] == [(d.tensor, d.change) for d in b.history.decisions]


def test_is_better_on_its_own_objective(tiny, tuned):
    q, images, labels = tiny
    history = tuned.history
    assert history.score > history.start_score
    before, after = (quantization.accuracy(n, [(images, labels)]).top1 for n in (q, tuned))
    np.testing.assert_allclose([before, after], [history.start_score, history.score], atol=1e-6)
    scores = [history.start_score, *(d.score for d in history.decisions)]
    assert all(b >= a for a, b in itertools.pairwise(scores))
    assert [d.tensor for d in history.decisions][:3] == [f.tensor for f in q.network.graph.feature_maps()][:-4:-1]
    assert history.to_dict() == tune.History.from_dict(json.loads(json.dumps(history.to_dict()))).to_dict()


def test_does_not_depend_on_rows_or_memory(tiny, tuned):
    q, images, labels = tiny
    assert_same(tuned, tune.backward_forward(q, images, labels, replace(CONFIG, rows=48, memory_bytes=1)))


def test_segments_compute_the_whole_network(tiny):
    q, images, _ = tiny
    mesh = Mesh(np.asarray(jax.local_devices()[:1]).reshape(1, 1), AXES)
    segments = Segments(q.network, 32, mesh)
    quantizers = strong(q.quantizers)
    state = segments.head(q, quantizers, segments.place(images[:32]))
    logits = segments.logits(0, q, quantizers, state)
    np.testing.assert_allclose(logits, q(images[:32]), rtol=1e-4, atol=1e-4)


def test_resumes_to_the_same_result(tiny, tuned, tmp_path):
    q, images, labels = tiny
    path = tmp_path / "tune.safetensors"

    class Killed(Exception):
        pass

    for visits in (1, 3):

        def stop(done, total, score, visits=visits):
            if done == visits:
                raise Killed

        with pytest.raises(Killed):
            tune.backward_forward(q, images, labels, CONFIG, checkpoint=path, progress=stop)
    assert_same(tuned, tune.backward_forward(q, images, labels, CONFIG, checkpoint=path))
    with pytest.raises(GgdjaxError, match="belongs to another network"):
        tune.backward_forward(q, images, labels, replace(CONFIG, seed=5), checkpoint=path)
    path.write_bytes(b"no safetensors file")
    with pytest.raises(GgdjaxError, match=r"no file of ggdjax.*remove it to start anew"):
        tune.backward_forward(q, images, labels, CONFIG, checkpoint=path)


def test_costs_less_than_a_naive_loop(tiny, tuned):
    history = tuned.history
    planned = tune.plan(tiny[0], len(tiny[1]), CONFIG)
    assert history.compile_seconds > 0
    assert sum(d.evaluations for d in history.decisions) <= planned.evaluations
    assert history.float_passes <= planned.float_passes < 0.8 * history.naive_float_passes


def test_a_plan_counts_what_runs_empty(tiny):
    """Few images fill few of the rows that run at once: such a search costs more than its pairs of image and change."""
    q, images, labels = tiny
    config = replace(CONFIG, rows=None, sweeps=1)
    history = tune.backward_forward(q, images[:40], labels[:40], config).history
    assert history.float_passes <= tune.plan(q, 40, config).float_passes


@pytest.mark.parametrize("objective", ["top5", "cross_entropy", "agreement", "kl", "sqnr"])
def test_objectives(tiny, objective):
    q, images, labels = tiny
    last = q.network.graph.feature_maps()[-1]
    config = replace(CONFIG, objective=objective, layers=(last.readers[0],), sweeps=1)
    history = tune.backward_forward(
        q, images, labels if objective in ("top5", "cross_entropy") else None, config
    ).history
    assert len(history.decisions) == 1
    assert history.decisions[0].tensor == last.tensor
    assert history.score >= history.start_score


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"objective": "top2"}, "`objective` is 'top2'"),
        ({"layers": ("con1",)}, "`layers` names 'con1'"),
        ({"max_float_passes": 1e-3}, "the first visit alone takes"),
        ({"factors": ()}, "`factors` must be positive"),
        ({"sweeps": 0}, "`sweeps` must be at least 1"),
        ({"screening": (0.5, 0.2)}, "`screening` must be rising"),
    ],
)
def test_bad_settings(tiny, change, message):
    q, images, labels = tiny
    with pytest.raises(GgdjaxError, match=message):
        tune.backward_forward(q, images, labels, replace(CONFIG, **change))


def test_bad_labels(tiny):
    q, images, labels = tiny
    for wrong, message in (
        (None, "`labels` are missing"),
        (labels[:-1], "expected .*, one per image"),
        (np.zeros_like(labels), "cannot be evaluated on a single class"),
        (labels + 90, "outside the network's 10 classes"),
    ):
        with pytest.raises(DataError, match=message):
            tune.backward_forward(q, images, wrong, CONFIG)
    with pytest.raises(DataError, match="3 tuning images for 10 classes"):
        tune.backward_forward(q, images[:3], labels[:3], replace(CONFIG, allow_few_images=False))


def test_a_final_softmax_changes_nothing(tiny):
    q, images, _ = tiny
    graph = q.network.graph
    last = Node(op="softmax", name="end", inputs=graph.outputs, output="shares", attrs=(("axes", (1,)),))
    shapes = (*graph.shapes, ("shares", graph.shape(graph.outputs[0])))
    longer = replace(graph, nodes=(*graph.nodes, last), outputs=("shares",), shapes=shapes)
    p = replace(q, graph=longer, record=replace(q.record, float_network=replace(q.float_network, graph=longer)))
    config = replace(CONFIG, objective="kl", sweeps=1, layers=[graph.feature_maps()[-1].tensor])
    plain, soft = (tune.backward_forward(n, images, config=config) for n in (q, p))
    assert_same(plain, soft)
    np.testing.assert_allclose(np.asarray(soft(images)), jax.nn.softmax(np.asarray(plain(images))), rtol=1e-5)
    few = tune.GradientConfig(steps=2, batch_size=32)
    assert tune.gradient(p, images, config=few).history.after == tune.gradient(q, images, config=few).history.after
    widths = [tune.allocate_bits(n, images, budget=4).weight_bits_of for n in (q, p)]
    assert widths[0] == widths[1]
    both = replace(p, graph=replace(longer, outputs=(*graph.outputs, "shares")))
    for tuner in (tune.backward_forward, tune.gradient, partial(tune.allocate_bits, budget=4)):
        with pytest.raises(DataError, match="2 outputs"):
            tuner(both, images, **({"config": config} if tuner is tune.backward_forward else {}))


@pytest.mark.parametrize("screening", [(), (0.25,)])
def test_a_candidate_that_gives_nan_loses(tiny, screening):
    q, images, _ = tiny
    config = replace(CONFIG, objective="kl", sweeps=1, layers=(q.network.graph.feature_maps()[-1].tensor,))
    config = replace(config, screening=screening, factors=(float("inf"), 0.8, 1.25))  # code 0 · step inf
    without = tune.backward_forward(q, images, config=replace(config, factors=(0.8, 1.25)))
    assert_same(tune.backward_forward(q, images, config=config), without)


def test_fractional_lengths_stay_within_float32():
    rng = np.random.default_rng(0)
    kernel, images = (rng.standard_normal(shape).astype(np.float32) for shape in ((6, 4), (32, 6)))
    kernel[:, 0] = [0.0, *[4e-37] * 5]  # a dead channel: F = 126, the last that float32 holds
    net = trace(lambda x: x @ kernel, np.zeros((1, 6), np.float32))
    calibration = quantization.calibrate(net, [images])
    q = quantization.quantize(net, calibration, quantization.QuantConfig(weights_per="channel"))
    (name,) = q.quantizers.weights
    present = np.asarray(q.quantizers.weights[name].frac_bits)
    assert present[0] == 126
    shifted = Candidate(weights=((name, 1),)).fixed_point(q.quantizers).weights[name]
    np.testing.assert_array_equal(shifted.frac_bits, [126, *(present[1:] + 1)])
    assert np.isfinite(shifted(kernel)).all()


def test_mcnemar_is_the_exact_binomial_test():
    before, after = np.zeros(12, bool), np.zeros(12, bool)
    after[:9], before[9] = True, True
    test = tune.mcnemar(before, after)
    assert (test.gained, test.lost) == (9, 1)
    np.testing.assert_allclose(test.p_value, 2 * 11 / 2**10)
    assert tune.mcnemar(before, before).p_value == 1.0


@pytest.mark.parametrize("how", ["devices", "processes"])
def test_same_result_on_many_devices_and_processes(tuned, tmp_path, how):
    """Eight simulated devices in one process; two processes of one device each."""
    out = tmp_path / "params.npz"
    run_elsewhere(Path(__file__).with_name("tune_elsewhere.py"), out, how)
    with np.load(out) as other:
        for key, value in params_of(tuned).items():
            np.testing.assert_array_equal(value, other[key], err_msg=key)
