"""The ladder of recipes: where it stops, which images choose, what it leaves."""

from __future__ import annotations

import json

import numpy as np
import pytest

import ggdjax as gd
from ggdjax._errors import GgdjaxError
from ggdjax.cli import main
from ggdjax.recipe import choose_parts
from ggdjax.recipe._ladder import _recipes, _rung, _tuning, parts_to_choose

RECIPE = gd.Recipe(
    quantization=gd.QuantConfig(weight_bits=2, activation_bits=4, scheme="max-abs"),
    calibration_images=64,
    held_out_images=300,
)


@pytest.fixture(scope="module")
def digits():
    return gd.trace(gd.zoo.digits_net(), np.zeros((1, 8, 8, 1), np.float32)), gd.data.digits()


def test_it_stops_at_the_first_rung_that_holds(digits, tmp_path):
    told: list[tuple[str, str]] = []

    def climb():
        told.clear()
        return gd.recipe.ladder(
            *digits,
            RECIPE,
            max_drop=0.1,
            choose_images=100,
            folder=tmp_path,
            progress=lambda stage, _done, _total, note: told.append((stage, note)),
        )

    climbed = climb()
    assert [rung.name for rung in climbed.rungs] == ["nearest", "output"]
    assert climbed.reached
    first, last = climbed.rungs
    assert first.drop > 0.1 >= last.drop
    assert first.drop_interval[0] > last.drop
    assert all(rung.drop_interval[0] < rung.drop < rung.drop_interval[1] for rung in climbed.rungs)
    assert {rung.images for rung in climbed.rungs} == {100}
    assert climbed.outcome.recipe.rounding == "output"
    assert climbed.outcome.ids["tune"] == ()
    assert ("output: round_weights", "") in told
    # Stages that rungs share, and those of an earlier start, are not computed again.
    assert ("output: calibrate", "kept from an earlier start") in told
    again = climb()
    assert [note for _, note in told] == ["kept from an earlier start"] * len(told)
    assert [rung.drop for rung in again.rungs] == [rung.drop for rung in climbed.rungs]
    # The recipe that is kept makes the network that is kept.
    same = gd.recipe.run(*digits, climbed.outcome.recipe).network
    climbed.outcome.network.save(tmp_path / "one")
    same.save(tmp_path / "other")
    assert (tmp_path / "one").read_bytes() == (tmp_path / "other").read_bytes()
    lines = str(climbed).splitlines()
    assert len(lines) == 4
    assert lines[-1] == "100 images that choose; a drop of at most 10 points: reached."


def test_where_no_rung_holds_the_best_is_kept(digits):
    climbed = gd.recipe.ladder(*digits, RECIPE, max_drop=0, choose_images=150, rungs=("nearest",))
    assert not climbed.reached
    assert climbed.outcome.recipe.rounding == "nearest"
    assert "not reached; the best rung is kept" in str(climbed)


@pytest.mark.parametrize("count", [100, 500])
def test_images_that_choose_do_nothing_else(digits, count):
    """Those that tune are the ones that the recipe of the last rung would choose by itself."""
    _, images = digits
    last = _recipes(RECIPE, ("gradient",), _tuning(images, RECIPE, count))[0]["gradient"]
    parts, choosing = parts_to_choose(images, last, count)
    all_parts = [parts.calibration, parts.tune, parts.held_out, choosing]
    together = np.concatenate(all_parts)
    assert len(set(together.tolist())) == len(together)
    assert all(len(part) for part in all_parts)
    np.testing.assert_array_equal(parts.tune, choose_parts(images, last).tune)


def test_each_rung_adds_to_the_one_below():
    recipes, _ = _recipes(RECIPE, ("nearest", "output", "channel", "widths", "gradient"), 50)
    assert list(recipes) == ["nearest", "output", "channel", "gradient"]  # widths differ: no mean of both
    assert [recipe.rounding for recipe in recipes.values()] == ["nearest", "output", "output", "output"]
    assert [recipe.quantization.weights_per for recipe in recipes.values()] == [
        "tensor",
        "tensor",
        "channel",
        "channel",
    ]
    assert [recipe.tunes for recipe in recipes.values()] == [False, False, False, True]
    same = gd.Recipe(quantization=gd.QuantConfig(weight_bits=4, activation_bits=4))
    assert _recipes(same, ("widths",), 50)[0]["widths"].mean_bits == 4


def test_the_interval_is_that_of_pairs(digits):
    """Agresti and Min (2005): half a count more in each cell; 30 lost, 10 gained of 100."""
    outcome = gd.recipe.run(*digits, RECIPE)
    evaluation = outcome.evaluation
    real, rounded = np.arange(100) < 60, (np.arange(100) < 30) | (np.arange(100) >= 90)
    object.__setattr__(evaluation, "float_correct", real)
    object.__setattr__(evaluation, "quantized_correct", rounded)
    rung = _rung("nearest", RECIPE, outcome, 0.0)
    assert rung.drop == pytest.approx(0.2)
    centre, half = 20 / 102, 1.959964 * np.sqrt(41 - 400 / 102) / 102
    np.testing.assert_allclose(rung.drop_interval, (centre - half, centre + half))


def test_the_command_writes_every_rung(tmp_path, capsys):
    words = "--weight-bits 8 --activation-bits 8 --scheme max-abs --calibration-images 64 --max-drop 5 --out"
    main(["quantize", *words.split(), str(tmp_path / "run")])
    record = json.loads((tmp_path / "run" / "ladder.json").read_text())
    assert record["reached"] is True
    assert [rung["name"] for rung in record["rungs"]] == ["nearest"]
    assert "one power of two per layer" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"max_drop": 1.5}, "`max_drop` must be a fraction from 0 to 1, got 1.5"),
        ({"choose_images": 0}, "`choose_images` must be at least 1, got 0"),
        ({"rungs": ("chanel",)}, "no rung is called `chanel`: nearest, output, channel, widths, gradient"),
        ({"rungs": ()}, "`rungs` leaves none to climb"),
        ({"rungs": ("widths",)}, "`rungs` leaves none to climb"),
    ],
)
def test_what_cannot_be_climbed_is_one_line(digits, changes, says):
    with pytest.raises(GgdjaxError) as error:
        gd.recipe.ladder(*digits, RECIPE, **{"max_drop": 0.01, **changes})
    assert says in str(error.value)


def test_the_command_refuses_a_drop_out_of_range(capsys):
    with pytest.raises(SystemExit):
        main(["quantize", "--max-drop", "-1"])
    assert "`--max-drop` must be from 0 to 100 percentage points, got -1" in capsys.readouterr().err


@pytest.mark.parametrize("single", [{"weight_bits_of": {"head": "float"}}, {"activation_bits_of": {"input": 6}}])
def test_single_widths_leave_out_the_rung_that_chooses_widths(digits, single):
    config = gd.QuantConfig(weight_bits=4, activation_bits=4, **single)
    recipes, _ = _recipes(gd.Recipe(quantization=config), ("nearest", "widths", "gradient"), 10)
    assert [*recipes] == ["nearest", "gradient"]
    assert all(recipe.quantization == config for recipe in recipes.values())
    with pytest.raises(GgdjaxError, match=f"`budgets` chooses every width: leave `{next(iter(single))}` out"):
        gd.recipe.pareto(*digits, gd.Recipe(quantization=config), budgets=(3,))
