"""A sweep over widths: which points are on the front, what each costs, and the command that draws it."""

from __future__ import annotations

import json
from dataclasses import replace

import jax
import numpy as np
import pytest

import ggdjax as gd
from ggdjax import cost
from ggdjax._errors import GgdjaxError
from ggdjax.cli import main
from ggdjax.recipe import Pareto, ParetoPoint
from ggdjax.recipe._pareto import recipes_of


def _point(bits: float, value: float, weight_bytes: int, energy_pj: float, *, uniform: bool = False) -> ParetoPoint:
    return ParetoPoint(
        mean_bits=bits,
        uniform=uniform,
        value=value,
        interval=(value - 0.02, value + 0.02),
        output_sqnr_db=6 * bits,
        weight_bytes=weight_bytes,
        dram_bytes=2.0 * weight_bytes,
        energy_pj=energy_pj,
        seconds=0.0,
        recipe=gd.Recipe(),
    )


POINTS = (
    _point(3, 0.7, 30, 5e6),
    _point(4, 0.9, 40, 4e6),
    _point(6, 0.9, 60, 9e6),
    _point(4, 0.8, 40, 3e6, uniform=True),
)
SWEEP = Pareto(points=POINTS, images=100, float_value=0.91)


def test_the_front_holds_what_nothing_beats():
    assert SWEEP.front("weight_bytes") == (POINTS[0], POINTS[1])
    assert SWEEP.front("energy_pj") == (POINTS[3], POINTS[1])
    assert SWEEP.front("energy_pj", "output_sqnr_db") == (POINTS[3], POINTS[2])
    with pytest.raises(GgdjaxError, match="`cost` is 'energy'"):
        SWEEP.front("energy")
    with pytest.raises(GgdjaxError, match="`worth` is 'top-1'"):
        SWEEP.front("energy_pj", "top-1")


def test_a_sweep_is_printed_and_drawn():
    lines = str(SWEEP).splitlines()
    assert len(lines) == 6
    assert [line.count("*") for line in lines[1:5]] == [2, 3, 0, 1]
    for worth in ("value", "output_sqnr_db"):
        figure = gd.report.plot_front(SWEEP, worth)
        assert [len(axes.lines[0].get_xdata()) for axes in figure.axes] == [2, 2, 2] if worth == "value" else True
        assert len(figure.axes) == 3
    json.dumps(SWEEP.to_dict())


def test_every_point_is_a_recipe():
    recipe = gd.Recipe(tune_images=64, gradient=gd.tune.GradientConfig(), calibration_images=64)
    points = recipes_of(recipe, (8, 3.5, 3, 8))
    assert [point.mean_bits for point in points] == [3, 3.5, 8, None, None]
    assert [point.quantization.weight_bits for point in points[3:]] == [3, 8]
    assert not any(point.tunes for point in points)


def test_points_cost_what_the_model_says(tmp_path):
    """Each point's recipe makes its network again; the images that measure do nothing else."""
    first, second = (np.asarray(jax.random.normal(jax.random.key(i), s)) for i, s in enumerate(((64, 32), (32, 10))))
    net = gd.trace(lambda x: jax.nn.relu(x.reshape(-1, 64) @ first) @ second, np.zeros((1, 8, 8, 1), np.float32))
    images = gd.data.digits()
    config = gd.QuantConfig(scheme="max-abs")
    recipe = gd.Recipe(quantization=config, rounding="nearest", calibration_images=64, held_out_images=150)
    found = gd.recipe.pareto(net, images, recipe, budgets=(4,), choose_images=100, folder=tmp_path)
    layered, uniform = found.points
    assert found.images == 100
    assert (layered.uniform, uniform.uniform) == (False, True)
    assert uniform.recipe == replace(recipe, quantization=replace(config, weight_bits=4, activation_bits=4))
    again = gd.recipe.run(net, images, uniform.recipe, folder=tmp_path).network
    assert cost.estimate(again).totals()["energy_pj"] == uniform.energy_pj
    assert abs(layered.weight_bytes - uniform.weight_bytes) < 0.2 * uniform.weight_bytes
    assert 0 < uniform.output_sqnr_db < 40


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"budgets": ()}, "`budgets` is empty"),
        ({"budgets": (1,)}, "`budgets` must be mean widths from 2 to 16 bits, got 1"),
        ({"choose_images": 0}, "`choose_images` must be at least 1"),
    ],
)
def test_what_cannot_be_swept_is_one_line(changes, says):
    net = gd.trace(gd.zoo.digits_net(), np.zeros((1, 8, 8, 1), np.float32))
    with pytest.raises(GgdjaxError, match=says):
        gd.recipe.pareto(net, gd.data.digits(), **changes)


def test_the_command_writes_the_sweep(tmp_path, capsys, monkeypatch):
    sweep = replace(SWEEP, points=(*POINTS[:-1], replace(POINTS[-1], output_sqnr_db=np.inf)))
    monkeypatch.setattr(
        "ggdjax.recipe.pareto", lambda *_args, budgets, **_rest: sweep if budgets == (3.0, 4.0) else None
    )
    out = tmp_path / "run"
    words = f"--scheme max-abs --rounding nearest --calibration-images 64 --held-out-images 64 --pareto 3 4 --out {out}"
    main(["quantize", *words.split()])
    # A network whose output is all zeros has an infinite SQNR, which JSON does not have.
    found = json.loads((out / "pareto.json").read_text(), parse_constant=pytest.fail)
    assert (found["images"], found["points"][-1]["output_sqnr_db"]) == (100, None)
    assert (out / "pareto.png").read_bytes().startswith(b"\x89PNG")
    assert "* on the Pareto front" in capsys.readouterr().out
