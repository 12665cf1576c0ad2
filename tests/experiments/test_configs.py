"""Every config is validated, and a tiny cell of each experiment runs."""

from __future__ import annotations

import dataclasses
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import pytest

import ggdjax as gd
from experiments.__main__ import main
from experiments.configs import CONFIGS
from experiments.configs.schemes import Schemes
from experiments.experiment import key_of
from experiments.store import image_ids, image_parts, read_rows
from experiments.tables.results import FOLDER, PEERS
from ggdjax import GgdjaxError

ROOT = Path(__file__).resolve().parents[2]
TINY = [name for name in CONFIGS if name.endswith("-tiny")]


@pytest.mark.parametrize("name", CONFIGS)
def test_config_is_valid(name):
    experiment = dataclasses.replace(CONFIGS[name], networks=(CONFIGS[name].FREE,))
    experiment.check()
    cells = CONFIGS[name].cells()
    assert len({key_of(cell) for cell in cells}) == len(cells)
    assert all({"network", "seed"} <= cell.keys() for cell in cells)
    order = [(cell["network"], cell["seed"]) for cell in cells]
    assert order == sorted(order, key=list(dict.fromkeys(order)).index)
    assert set(experiment.AXES) <= {f.name for f in dataclasses.fields(experiment)}
    assert pickle.loads(pickle.dumps(experiment)).config_hash("digits") == experiment.config_hash("digits")


def test_every_experiment_has_a_tiny_preset():
    assert {CONFIGS[name].NAME for name in TINY} == {experiment.NAME for experiment in CONFIGS.values()}


def test_axes_leave_the_hash_alone_and_settings_change_it():
    base = Schemes()
    assert dataclasses.replace(base, bits=(3,), networks=("digits",), seeds=(7,)).config_hash(
        "digits"
    ) == base.config_hash("digits")
    assert dataclasses.replace(base, calibration_images=64).config_hash("digits") != base.config_hash("digits")


class Tiny(dict):
    """Folder and rows of a tiny preset, run by the command line when it is first asked for."""

    def __init__(self, folder) -> None:
        self.folder = folder

    def __missing__(self, name):
        folder = self.folder / name
        before = jax.config.read("jax_disable_most_optimizations")
        jax.config.update("jax_disable_most_optimizations", True)  # a cell runs once, on few numbers
        try:
            main(["run", name, "--out", str(folder)])
        finally:
            jax.config.update("jax_disable_most_optimizations", before)
        self[name] = folder, read_rows(folder)
        return self[name]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory, optimized_chains):
    """Rows of every tiny preset."""
    return Tiny(tmp_path_factory.mktemp("tiny"))


@pytest.mark.parametrize("name", TINY)
def test_tiny_cells_run_and_say_how(tiny, name):
    if name == "rtl-tiny" and shutil.which("iverilog") is None:
        pytest.skip("Icarus Verilog (Debian's package iverilog) is not installed")
    folder, rows = tiny[name]
    experiment = CONFIGS[name]
    assert [row["key"] for row in rows] == [key_of(cell) for cell in experiment.cells()]
    for row in rows:
        assert row["experiment"] == experiment.NAME
        assert row["config_hash"] == experiment.config_hash(row["network"])
        assert row["seed"] == 0
        assert row["seconds"] > 0
        assert row["code"].keys() in ({"commit", "dirty"}, {"version"})
        assert row["versions"]["jax"]
        assert row["device"]["platform"]
        assert row["machine"]["system"]
        parts = row["image_ids" if "images" in experiment.AXES else "images"]
        assert parts == image_parts(row)
        ids = {part: image_ids(folder, said["hash"]) for part, said in parts.items()}
        assert all(len(ids[part]) == said["count"] for part, said in parts.items())
        assert not set(ids.get("calibration", ())) & set(ids.get("held_out", ()))
    assert not list(folder.glob("checkpoints/*"))


def test_figures_of_schemes(tiny):
    rows = tiny["schemes-tiny"][1]
    sqnr = {(r["scheme"], r["bits"]): r for r in rows if r["kind"] == "sqnr"}
    for (_, bits), row in sqnr.items():
        values = row["sqnr_db"].values()
        assert row["min_sqnr_db"] == min(values)
        assert row["mean_sqnr_db"] == pytest.approx(sum(values) / len(values))
        assert row["mean_sqnr_db"] > 4.5 * bits
    assert sqnr["max-abs", 8]["mean_sqnr_db"] > sqnr["max-abs", 4]["mean_sqnr_db"] + 20
    assert sqnr["percentile-99.9", 4]["mean_sqnr_db"] > sqnr["max-abs", 4]["mean_sqnr_db"]
    accuracy = [r for r in rows if r["kind"] == "accuracy"]
    assert (accuracy[0]["scheme"], accuracy[0]["bits"]) == ("float", 32)
    for row in accuracy:
        low, high = row["top1_interval"]
        assert low < row["top1"] < high
        assert 0.9 < row["top1"] <= row["top5"] <= 1
        assert row["held_out_images"] == row["images"]["accuracy"]["count"] == 100


def test_figures_of_tuning(tiny):
    (row,) = tiny["tuning-tiny"][1]
    assert list(row["stages"]) == ["before", "backward", "forward", "gradient"]
    start, end = row["tuning_score"]
    assert end >= start
    assert row["gradient_loss"][1] <= row["gradient_loss"][0]
    assert row["stages"]["before"]["p_value"] == 1
    assert 0 < row["float_passes"] < row["naive_float_passes"]
    assert row["tuning_images"] == row["images"]["tuning"]["count"] == 32
    # By it tables keep runs from different starts apart.
    assert row["rounding"] == row["settings"]["rounding"]


def test_figures_of_the_paper_by_either_recipe(tiny):
    paper, default = tiny["paper-tiny"][1]
    assert list(paper["stages"]) == ["before", "tuned"]
    assert list(default["stages"]) == ["quantized"]
    assert paper["images"] == default["images"]  # which no recipe is tuned on
    assert paper["images"]["accuracy"]["count"] == paper["stages"]["tuned"]["held_out_images"] == 32
    assert paper["float_top1"] == 1  # the labels are what the float network says
    for stage in (*paper["stages"].values(), *default["stages"].values()):
        assert 0.5 < stage["top1"] <= stage["top5"]
    assert paper["recipe_of_run"]["search"]["objective"] == "top1"
    assert (paper["recipe_of_run"]["rounding"], default["recipe_of_run"]["rounding"]) == ("nearest", "output")


def test_a_recipe_in_a_file_is_told_by_its_contents(tmp_path, capsys):
    path, keys = tmp_path / "mine.toml", []
    for bias_bits in (16, 8):
        gd.Recipe(quantization=gd.QuantConfig(bias_bits=bias_bits)).save(path)
        experiment = dataclasses.replace(CONFIGS["paper-tiny"], recipes=("paper", str(path)))
        assert experiment.cells()[0] == CONFIGS["paper-tiny"].cells()[0]
        keys.append(key_of(experiment.cells()[-1]))
    assert keys[0] != keys[1]
    main(["run", "paper-tiny", "--recipes", str(path), "--dry-run"])
    assert "paper: 1 cells to do" in capsys.readouterr().out


def test_figures_of_integers_elsewhere(tiny):
    loaded, integer = tiny["exported-tiny"][1]
    assert loaded["logits_equal"]
    assert integer["integers_differing_from_program"] == 0
    assert integer["same_top1"] > 0.95
    wide, narrow = tiny["accumulators-tiny"][1]
    assert wide["overflows_per_image"] == 0 < narrow["overflows_per_image"]
    assert narrow["top1"] < wide["top1"] - 0.3
    assert narrow["worst_case_bits"] > 14


def test_figures_of_costs(tiny):
    found = {row["widths"]: row for row in tiny["cost-tiny"][1]}
    assert found["8/8"]["weight_bytes"] * 4 == pytest.approx(found["float32"]["weight_bytes"], rel=0.05)
    assert found["8/8"]["energy_pj"] < found["16/16"]["energy_pj"] < found["float32"]["energy_pj"]
    assert found["float32"]["against"]["float32"]["energy_pj"] == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["schemes-tiny", "--device", "tpu"], "`--device tpu`: there is none here; JAX sees 0 (cpu)"),
        (["schemes-tiny", "--device", "99"], "`--device 99`: there is none here; JAX sees 0 (cpu)"),
        (["schemes-tiny", "--device", "warp"], "`--device` is cpu, gpu, tpu or an index, such as 0; got `warp`"),
        (["schemes-tiny", "--device", "0", "--workers", "2"], "`--device` is one device, `--workers` are several"),
        (["paper"], "`--data` and `--preset` are needed"),
        (["paper-tiny", "--recipes", "papr"], "no recipe is called `papr`"),
        (["cost-tiny", "--dataflows", "row"], "no dataflow is called `row`: known: output-stationary"),
        (["exported-tiny", "--gradient-steps", "1", "--per", "channel"], "choose `per` tensor"),
        (["zoo-tiny", "--weights", "w"], "`--weights`: this experiment opens its networks itself"),
        (["zoo", "--networks", "resnet51"], "no network is called `resnet51`: did you mean `resnet56`"),
        (["schemes", "--networks", "digits", "resnet21"], "no network is called `resnet21`"),
        (["schemes-tiny", "--schemes", "ggd-exakt"], "ggd-exact"),
        (["schemes-tiny", "--bits", "8", "1"], "from 2 to 16"),
        (["schemes-tiny", "--seeds", "-1"], "`seeds` must be at least 0"),
        (["schemes-tiny", "--seeds"], "`seeds` is empty"),
        (["schemes-tiny", "--held-out-images", "0"], "`held_out_images` must be at least 1"),
        (["tuning-tiny", "--widths", "4"], "such as 4/8"),
        (["tuning-tiny", "--widths", "4/40"], "from 2 to 16"),
        (["tuning-tiny", "--gradient-steps", "-1"], "`gradient_steps` must be at least 0"),
        (["schemes-tiny", "--workers", "0"], "`--workers` must be at least 1"),
        (["schemes-tiny", "--shard", "3/2"], "`--shard` is i/n"),
        (["schemes-tiny", "--shard", "1/2", "--workers", "2"], "`--shard` is one process"),
        (["schemes-tiny", "--bits", "eight"], "['eight']"),
        (["schemess"], "no experiment is called `schemess`: did you mean `schemes`"),
    ],
)
def test_bad_input_is_one_line_before_anything_is_computed(options, message, tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["run", *options, "--out", str(tmp_path / "out")])
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert message in line
    assert not (tmp_path / "out").exists()


def test_missing_data_is_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("GGDJAX_DATA", str(tmp_path))
    with pytest.raises(SystemExit, match="2"):
        main(["run", "schemes", "--out", str(tmp_path / "out")])
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "GGDJAX_DATA" in line
    assert not (tmp_path / "out").exists()


def test_a_cell_that_fails_names_itself(tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["run", "schemes-tiny", "--calibration-images", "9999", "--out", str(tmp_path)])
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "network=digits seed=0" in line
    assert "9999" in line


def test_help_teaches_and_the_list_names_every_experiment_with_its_tables(capsys):
    main([])
    assert "python -m experiments run schemes-tiny" in capsys.readouterr().out
    main(["list"])
    lines = {line.split()[0]: line.split() for line in capsys.readouterr().out.splitlines() if line.strip()}
    assert set(CONFIGS) <= set(lines)
    assert lines["schemes"][-5:] == ["T2", "T3", "T4", "T6", "T8"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["schemes-tiny"], "no command is called `schemes-tiny`; known: list, run, status"),
        (["run", "shemes"], "no experiment is called `shemes`: did you mean `schemes`"),
        (["run"], "name an experiment or a TOML file"),
        (["status", "shemes"], "no experiment and no folder is called shemes: did you mean `schemes`"),
        (["compare", "a"], "AFTER"),
        (["compare", "a", "b", "--tolerance", "0.1"], "perhaps --tolerance-db"),
    ],
)
def test_unknown_words_are_one_line(words, message, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(words)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("experiments: ")
    assert message in line


def test_a_closed_pipe_ends_a_command_without_a_word():
    done = subprocess.run(
        f"{sys.executable} -m experiments list | true", shell=True, capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stderr == ""


def test_status_says_what_is_left_of_an_experiment_and_of_a_folder(tiny, capsys, tmp_path, monkeypatch):
    folder, rows = tiny["schemes-tiny"]
    main(["status", "schemes-tiny", "--bits", "8", "4", "3", "--measures", "sqnr", "--out", str(folder)])
    assert "schemes: 6 cells, 4 finished, 2 to do (digits 2); about" in capsys.readouterr().out
    main(["status", str(folder)])
    assert f"schemes: {len(rows)} cells, {len(rows)} finished, 0 to do" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="2"):
        main(["status", str(tmp_path / "nowhere")])
    assert "no experiment and no folder is called" in capsys.readouterr().err
    monkeypatch.chdir(tmp_path)
    main(["status"])
    assert "nothing in runs/experiments yet" in capsys.readouterr().out


@pytest.mark.parametrize("folder", sorted(path.parent.name for path in FOLDER.glob("*/cells-*.jsonl")))
def test_committed_results_are_rows_of_their_experiments(folder):
    classes = {experiment.NAME: experiment for experiment in CONFIGS.values()}
    rows = read_rows(FOLDER / folder)
    assert rows
    for row in rows if folder != PEERS else ():
        assert row["experiment"] == folder
        assert row["code"].keys() == {"commit", "dirty"}
        assert all(text for text in classes[folder].shown(row).values())


def test_settings_are_refused_by_name():
    with pytest.raises(GgdjaxError, match="`bits` is empty"):
        dataclasses.replace(CONFIGS["schemes-tiny"], bits=()).check()
