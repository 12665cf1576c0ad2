"""Recipes: files, the same bits from everywhere, stages that resume; and the commands that read a run."""

from __future__ import annotations

import dataclasses
import io
import json

import numpy as np
import pytest

import ggdjax as gd
from ggdjax import GgdjaxError
from ggdjax.cli import _parse, main
from ggdjax.data import Preprocessing
from ggdjax.report import layer_table, load_run
from ggdjax.report._advice import advise
from ggdjax.report._several import comparison_page, paired_tests
from tests.small_onnx import write_images, write_network

#: Every stage on the small network, by a scheme that compiles quickly.
WORDS = (
    "--size 8 --scheme max-abs --mean-bits 3.5 --equalize --weights-first --bias-correction --calibration-images 12 "
    "--batch-size 4 --values-per-batch 8 --tune-images 4 --tune-objective kl --tune-sweeps 1 "
    "--tune-seconds inf --gradient-steps 2"
)
RECIPE = gd.Recipe(
    preprocessing=Preprocessing(size=8),
    quantization=gd.QuantConfig(scheme="max-abs"),
    mean_bits=3.5,
    equalize=True,
    weights_first=True,
    bias_correction=True,
    calibration_images=12,
    batch_size=4,
    values_per_batch=8,
    tune_images=4,
    tune_seconds=float("inf"),
    search=gd.tune.TuneConfig(objective="kl", sweeps=1, allow_few_images=True),
    gradient=gd.tune.GradientConfig(steps=2, batch_size=4),
)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    folder = tmp_path_factory.mktemp("small")
    return write_network(folder / "net.onnx"), write_images(folder / "images")


@pytest.fixture(scope="module")
def run_folder(small, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "small"
    main(["quantize", str(small[0]), "--data", str(small[1]), *WORDS.split(), "--out", str(out)])
    return out


def test_every_field_is_documented():
    from ggdjax._fields import field_docs

    for cls in (gd.Recipe, gd.QuantConfig, gd.tune.TuneConfig, gd.tune.GradientConfig, Preprocessing):
        assert {f.name for f in dataclasses.fields(cls)} == field_docs(cls).keys()


@pytest.mark.parametrize("suffix", ["toml", "json"])
@pytest.mark.parametrize(
    "recipe",
    [
        gd.Recipe(),
        RECIPE,
        gd.Recipe(
            quantization=gd.QuantConfig(weight_bits_of={'a "b".c/é\x7f': 4}, activation_bits_of={"x": 2}),
            rounding="nearest",
            output_rounding=gd.tune.RoundingConfig(damping=0.02, frac_bits_offsets=(0,)),
            calibration_ids=("a/ü.png", "b\\c.png"),
            held_out_images=3,
        ),
    ],
)
def test_files_hold_a_recipe(recipe, suffix, tmp_path):
    recipe.save(tmp_path / f"recipe.{suffix}")
    assert gd.Recipe.load(tmp_path / f"recipe.{suffix}") == recipe


def test_a_preset_in_a_file(tmp_path):
    path = tmp_path / "recipe.toml"
    path.write_text('[preprocessing]\npreset = "imagenet"\ncrop = 192\n')
    assert gd.Recipe.load(path).preprocessing == gd.data.preset("imagenet", crop=192)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("bits = 8", "recipe.toml: unknown field `bits`; did you mean"),
        ("mean_bit = 8", "did you mean `mean_bits`"),
        ("batch_size = '8'", "recipe.toml: `batch_size` must be an integer, got '8'"),
        ("batch_size = true", "`batch_size` must be an integer, got True"),
        ("mean_bits = 17", "`mean_bits` must be from 2 to 16, got 17"),
        ("quantization = 8", "`quantization` must be a table of fields, got 8"),
        ("[quantization]\nweight_bit = 4", "recipe.toml, [quantization]: unknown field `weight_bit`; did you mean"),
        ("[quantization]\nweight_bits = 99", "recipe.toml, [quantization]: `weight_bits` must be an integer"),
        ("[search]\nsweeps = 'two'", "[search]: `sweeps` must be an integer, got 'two'"),
        ("[search]\nsweeps = 2", "`search` and `gradient` need images to tune on: give `tune_images`"),
        ("[preprocessing]\npreset = 'cifar'", "[preprocessing]: unknown preprocessing preset `cifar`"),
        ("tune_images = 8", "`tune_images` has nothing to do"),
        ("seed = [", "is not valid TOML"),
    ],
)
def test_a_wrong_file_gives_one_line(text, says, tmp_path):
    path = tmp_path / "recipe.toml"
    path.write_text(text)
    with pytest.raises(GgdjaxError) as error:
        gd.Recipe.load(path)
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_recipes_with_names(tmp_path):
    """The paper's has nothing that is ours; all of them go through files."""
    paper = gd.recipe.named("paper")
    assert paper.rounding == "nearest"
    assert paper.quantization.scheme == "ggd-plain"
    assert paper.search.objective == "top1"
    assert (paper.gradient, paper.mean_bits, paper.bias_correction, paper.equalize) == (None, None, False, False)
    assert gd.recipe.named("default") == gd.Recipe()
    for name in ("paper", "default", "best"):
        gd.recipe.named(name).save(tmp_path / "recipe.toml")
        assert gd.Recipe.load(tmp_path / "recipe.toml") == gd.recipe.named(name)
    with pytest.raises(GgdjaxError, match="no recipe is called `papr`: did you mean `paper`"):
        gd.recipe.named("papr")


def test_a_file_of_another_kind(tmp_path):
    with pytest.raises(GgdjaxError, match=r"must end in \.toml or \.json"):
        gd.Recipe.load(tmp_path / "recipe.yaml")
    with pytest.raises(GgdjaxError, match="cannot be read"):
        gd.Recipe.load(tmp_path / "gone.toml")


def test_the_same_bits_from_python_file_and_command(small, run_folder, tmp_path):
    net = gd.load_onnx(small[0])
    images = gd.recipe.open_images(small[1], net, RECIPE)
    told = []
    outcome = gd.recipe.run(net, images, RECIPE, progress=lambda *state: told.append(state))
    outcome.network.save(tmp_path / "python.safetensors")
    whole = (run_folder / "network.safetensors").read_bytes()
    assert (tmp_path / "python.safetensors").read_bytes() == whole
    again = ["--recipe", str(run_folder / "recipe.toml"), "--out", str(tmp_path / "again")]
    main(["quantize", str(small[0]), "--data", str(small[1]), *again])
    assert (tmp_path / "again" / "network.safetensors").read_bytes() == whole
    names = [stage.name for stage in outcome.network.record.stages]
    assert names == [
        "equalize",
        "quantize",
        "widths",
        *("round_weights", "recalibrate", "bias_correction", "backward_forward", "gradient"),
    ]
    images_of = {stage.name: stage.images for stage in outcome.network.record.stages}
    assert (images_of["round_weights"], images_of["bias_correction"]) == (12 + 4, 12)
    assert outcome.network.record.calibration.values_per_batch == 8
    assert {stage for stage, *_ in told} == set(outcome.seconds)
    assert all(0 <= done <= total for _, done, total, _ in told)
    assert not set(outcome.ids["tune"]) & {*outcome.ids["calibration"], *outcome.ids["held_out"]}


def test_resumes_after_every_stage(small, run_folder, tmp_path, monkeypatch):
    """What is kept is not computed again; what is not, is, and the end is the same."""
    net = gd.load_onnx(small[0])
    images = gd.recipe.open_images(small[1], net, RECIPE)
    kept = tmp_path / "kept"
    gd.recipe.run(net, images, RECIPE, folder=kept)
    stages = sorted(path for path in kept.iterdir() if path.name[:2].isdigit())
    assert len(stages) == 11
    for number in reversed(range(len(stages))):
        stages[number].unlink()
        notes: list[str] = []
        outcome = gd.recipe.run(net, images, RECIPE, folder=kept, progress=lambda *told, n=notes: n.append(told[-1]))
        assert notes.count("kept from an earlier start") == len(stages) - 1
        outcome.network.save(tmp_path / "network.safetensors")
        assert (tmp_path / "network.safetensors").read_bytes() == (run_folder / "network.safetensors").read_bytes()
    other = dataclasses.replace(RECIPE, gradient=dataclasses.replace(RECIPE.gradient, steps=1))
    gd.recipe.run(net, images, other, folder=kept)
    assert len([path for path in kept.iterdir() if path.name[:2].isdigit()]) == len(stages) + 2


def test_resumes_after_every_rounded_layer(small, run_folder, tmp_path):
    """A run that stops while it rounds resumes from the layers that are done; their file then goes."""
    net, kept = gd.load_onnx(small[0]), tmp_path / "kept"
    images = gd.recipe.open_images(small[1], net, RECIPE)

    def stop(stage, done, _total, _note):
        if (stage, done) == ("round_weights", 1):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        gd.recipe.run(net, images, RECIPE, folder=kept, progress=stop)
    assert len(list(kept.glob("round_weights_*.safetensors"))) == 1
    outcome = gd.recipe.run(net, images, RECIPE, folder=kept)
    assert not list(kept.glob("round_weights_*.safetensors"))
    outcome.network.save(tmp_path / "network.safetensors")
    assert (tmp_path / "network.safetensors").read_bytes() == (run_folder / "network.safetensors").read_bytes()


def test_a_budget_is_kept_and_recorded(small, tmp_path):
    """A run that resumes does not time a step again, and its recipe has what the time came to."""
    net = gd.load_onnx(small[0])
    recipe = dataclasses.replace(
        RECIPE, mean_bits=None, search=None, gradient=gd.tune.GradientConfig(batch_size=4), tune_seconds=1e-9
    )
    images = gd.recipe.open_images(small[1], net, recipe)
    outcome = gd.recipe.run(net, images, recipe, folder=tmp_path)
    assert outcome.recipe.gradient.steps == 1
    (kept,) = tmp_path.glob("budget_gradient_*.json")
    kept.write_text("3")
    assert gd.recipe.run(net, images, recipe, folder=tmp_path).recipe.gradient.steps == 3


def test_images_of_another_preprocessing_are_refused(small):
    net = gd.load_onnx(small[0])
    images = gd.data.open_images(small[1], Preprocessing(size=8, scale=1.0))
    with pytest.raises(GgdjaxError, match=r"in another way than the recipe says \(scale differ\)"):
        gd.recipe.run(net, images, RECIPE)


def test_tune_evaluate_export_inspect_and_report(small, run_folder, tmp_path, capsys):
    """Every command resumes from the run alone."""
    tuned = tmp_path / "tuned"
    main(["tune", str(run_folder), "--out", str(tuned), "--tune-sweeps", "0", "--gradient-steps", "1"])
    first, second = load_run(run_folder), load_run(tuned)
    assert [stage.name for stage in second.network.record.stages][-2:] == ["gradient", "gradient"]
    assert set(second.result["images"]["held_out_ids"]) == set(first.result["images"]["held_out_ids"])
    (test,) = paired_tests({"a": first.result, "b": second.result})
    assert test["shared"] == 8
    assert "McNemar" in comparison_page([run_folder, tuned])
    main(["report", str(run_folder), str(tuned)])
    assert (run_folder / "compared.html").is_file()

    capsys.readouterr()
    main(["evaluate", str(run_folder), "--integers"])
    printed = capsys.readouterr().out
    assert printed.index("by fake quantization") < printed.index("in integers")
    main(["evaluate", str(run_folder), "--data", str(small[1])])
    printed = capsys.readouterr().out
    assert "8 held-out images" in printed
    assert f"quantized top-1 {100 * first.result['quantized_top1']:6.2f} %" in printed

    for form, name in (("integer-onnx", "i.onnx"), ("qonnx", "q.onnx"), ("bundle", "bundle")):
        main(["export", str(run_folder), "--to", form, "--out", str(tmp_path / name)])
        assert (tmp_path / name).exists()

    capsys.readouterr()
    main(["inspect", str(run_folder)])
    assert {"conv", "gemm"} <= set(capsys.readouterr().out.split())
    main(["inspect", str(small[0])])
    printed = capsys.readouterr().out
    assert "2 layers and 2 feature maps are rounded" in printed
    # The name that `activation_bits_of` takes, beside the layer that reads it.
    assert printed.split("gemm")[1].split()[:2] == ["dense", "flat"]


def test_the_table_fits_80_columns_and_breaks_no_name(run_folder):
    from rich.console import Console

    q = load_run(run_folder).network
    node = q.graph.node("conv")
    long = "/layer1/layer1.0/a_rather_long_prefix/conv1/Conv_output"
    graph = dataclasses.replace(
        q.graph, nodes=tuple(dataclasses.replace(n, name=long) if n is node else n for n in q.graph.nodes)
    )
    renamed = {kind: {long if k == "conv" else k: v for k, v in getattr(q.quantizers, kind).items()}
               for kind in ("weights", "biases")}  # fmt: skip
    q = dataclasses.replace(q, graph=graph, quantizers=dataclasses.replace(q.quantizers, **renamed), record=None)
    screen = Console(width=80, record=True, file=io.StringIO())
    screen.print(layer_table(q, width=80))
    lines = screen.export_text().splitlines()
    assert max(map(len, lines)) <= 80
    assert sum("conv1/Conv_output" in line for line in lines) == 1


def test_advice_names_what_lowers_the_noise(small):
    """2-bit weights beside 8-bit inputs: more bits for the weights come first, more for the inputs never."""
    net = gd.load_onnx(small[0])
    recipe = gd.Recipe(
        preprocessing=Preprocessing(size=8),
        quantization=gd.QuantConfig(scheme="max-abs", weight_bits=2),
        calibration_images=12,
        batch_size=4,
    )
    images = gd.recipe.open_images(small[1], net, recipe)
    outcome = gd.recipe.run(net, images, recipe)
    advice = advise(outcome.network, outcome.evaluation)
    assert advice[0].option == "--weight-bits 4"
    assert advice[0].gain_db > 6
    assert not any("activation" in one.option for one in advice)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("tune {run} --out {run}", "is RUN itself"),
        ("tune {run} --out {new} --tune-images 2", "`--tune-images` is 2, but RUN was tuned on 4"),
        ("evaluate {run} --held-out-images 0", "must be at least 1"),
        ("export {run} --to qdq --out {new} --images 3", "need `--to bundle`"),
        ("export {run} --to qdq --out {new}", "codes of"),
        ("report {run} {run}", "two different run folders"),
        ("evaluate {new}", "no result.json"),
        ("inspect {new}", "no model file"),
        ("quantize --recipe {new}", "must end in .toml or .json"),
    ],
)
def test_wrong_words_give_one_line(words, says, run_folder, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        main([word.format(run=run_folder, new=tmp_path / "new") for word in words.split()])
    assert stop.value.code == 2
    line = capsys.readouterr().err
    assert says in line
    assert line.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_images_of_different_sizes_are_found_before_any_work(small, tmp_path, monkeypatch, capsys):
    from PIL import Image

    images = write_images(tmp_path / "images")
    Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(images / "class2" / "7.png")
    monkeypatch.setattr("ggdjax.recipe._run.calibrate", lambda *_, **__: pytest.fail("calibrated"))
    with pytest.raises(SystemExit):
        main(["quantize", str(small[0]), "--data", str(images), "--scale", "1", "--calibration-images", "12"])
    assert "different sizes" in capsys.readouterr().err


def test_a_map_is_refused_before_any_work(small, tmp_path, monkeypatch, capsys):
    import onnx

    model = onnx.load(small[0])
    name = next(node.output[0] for node in model.graph.node if node.op_type == "Conv")
    del model.graph.output[:]
    model.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    onnx.save(model, tmp_path / "map.onnx")
    monkeypatch.setattr("ggdjax.recipe._run.calibrate", lambda *_, **__: pytest.fail("calibrated"))
    words = ["--data", str(small[1]), "--size", "8", "--calibration-images", "12", "--out", str(tmp_path / "run")]
    with pytest.raises(SystemExit) as stop:
        main(["quantize", str(tmp_path / "map.onnx"), *words])
    line = capsys.readouterr().err
    assert stop.value.code == 2
    assert "the network gives a map of" in line
    assert line.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_space_is_asked_for(small, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 1000}))
    words = ["--data", str(small[1]), "--size", "8", "--calibration-images", "12", "--out", str(tmp_path / "run")]
    with pytest.raises(SystemExit, match="2"):
        main(["quantize", str(small[0]), *words])
    assert "`--out`" in (line := capsys.readouterr().err)
    assert "MB are free" in line
    assert list(tmp_path.iterdir()) == []


def test_version(capsys):
    main(["--version"])
    assert capsys.readouterr().out == f"ggdjax {gd.__version__}\n"


def test_result_is_that_of_the_recipe(run_folder):
    result = json.loads((run_folder / "result.json").read_text())
    assert result["options"]["gradient_steps"] == 2
    assert result["images"].keys() == {"seed", "calibration_ids", "tune_ids", "held_out_ids"}
    assert gd.Recipe.load(run_folder / "recipe.toml") == RECIPE


def test_options_turn_what_the_file_has_on_off(small, run_folder, tmp_path):
    file, out = run_folder / "recipe.toml", tmp_path / "run"
    words = "--no-equalize --no-bias-correction --weight-bits 4 --tune-sweeps 0 --gradient-steps 1"
    main(["quantize", str(small[0]), "--data", str(small[1]), "--recipe", str(file), *words.split(), "--out", str(out)])
    assert gd.Recipe.load(out / "recipe.toml") == dataclasses.replace(
        RECIPE,
        equalize=False,
        bias_correction=False,
        mean_bits=None,
        search=None,
        gradient=dataclasses.replace(RECIPE.gradient, steps=1),
        quantization=dataclasses.replace(RECIPE.quantization, weight_bits=4),
    )


def test_every_flag_of_a_recipe_is_turned_off(tmp_path, capsys):
    options = _parse(["quantize", "--no-activations-signed"])
    on = gd.Recipe(quantization=gd.QuantConfig(activations_signed=True))
    assert options.changed(on) == gd.Recipe()
    assert options.changed(gd.recipe.target("esp32-p4").recipe(on)).quantization.activations_signed  # it has no others
    with pytest.raises(SystemExit, match="0"):
        main(["quantize", "--help"])
    assert "--predictive {True,False}" in capsys.readouterr().out


def test_steps_per_channel_calibrate_once(small, tmp_path, monkeypatch):
    from ggdjax.recipe import _run

    calls, calibrate = [], _run.calibrate
    monkeypatch.setattr(_run, "calibrate", lambda *a, **k: calls.append(1) or calibrate(*a, **k))
    words = ["quantize", str(small[0]), "--data", str(small[1]), "--size", "8", "--scheme", "max-abs"]
    words += ["--batch-size", "4", "--calibration-images", "12"]
    main([*words, "--out", str(tmp_path / "tensor")])
    main([*words, "--activations-per", "channel", "--out", str(tmp_path / "channel")])
    assert len(calls) == 2
    beside = load_run(tmp_path / "channel").result["steps_per_tensor"]
    assert beside["feature_maps"] == load_run(tmp_path / "tensor").result["feature_maps"]
