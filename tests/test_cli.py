from __future__ import annotations

import json
import subprocess
import sys
from contextlib import nullcontext

import numpy as np
import onnx
import pytest

import ggdjax as gd
from ggdjax import data
from ggdjax.cli import main
from ggdjax.cli._train import _parts
from ggdjax.report import load_run
from ggdjax.report._drawn import drawn_curves, drawn_feature_maps
from ggdjax.report._plots import _bars, _log_densities
from tests.small_onnx import write_images, write_network


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    folder = tmp_path_factory.mktemp("small")
    return write_network(folder / "net.onnx"), write_images(folder / "images")


def quantize(model, images, *more):
    main(["quantize", str(model), "--data", str(images), "--size", "8", "--calibration-images", "12", *map(str, more)])


@pytest.fixture(scope="module")
def run_folder(small, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "small"
    quantize(*small, "--out", out)
    return out


def test_result_holds_everything(run_folder):
    result = json.loads((run_folder / "result.json").read_text())
    assert {"float_top1", "float_top5", "quantized_top1", "quantized_top5", "versions", "device"} <= result.keys()
    assert result["held_out_images"] == 12
    assert result["seed"] == 0
    assert len(result["images"]["calibration_ids"]) == 12
    assert not set(result["images"]["calibration_ids"]) & set(result["images"]["held_out_ids"])
    assert {"calibrate", "quantize", "evaluate"} <= result["seconds"].keys()
    assert len(result["correct"]["quantized"]) == result["held_out_images"]
    assert len(result["feature_maps"]) == 2
    for row in result["feature_maps"]:
        assert {"name", "zero_fraction", "a", "d", "p", "step", "sqnr_db"} <= row.keys()
        assert row["sqnr_db"] > 30
    assert [row["name"] for row in result["weights"]] == ["conv", "gemm"]
    assert all({"frac_bits", "sqnr_db"} <= row.keys() for row in result["weights"])


def test_writes_parameters(run_folder):
    quantizers = gd.load(run_folder / "network.safetensors").quantizers
    steps = {row["name"]: row["step"] for row in json.loads((run_folder / "result.json").read_text())["feature_maps"]}
    assert {name: float(q.step) for name, q in quantizers.activations.items()} == pytest.approx(steps, rel=1e-6)
    assert set(quantizers.weights) == set(quantizers.biases) == {"conv", "gemm"}
    assert not list(run_folder.rglob("*.png"))  # the report draws


def test_the_report_draws_what_chose_and_keeps_it(run_folder):
    result, told = load_run(run_folder).result, []
    maps = drawn_feature_maps(run_folder, result, told.append)
    sensitivity, search = drawn_curves(run_folder, result)
    assert len(told) == len(maps) == 2
    assert search is None
    kept = [p.read_bytes() for p in sorted(run_folder.rglob("*.png"))]
    assert kept == [maps[0], maps[1], sensitivity]
    assert all(png.startswith(b"\x89PNG") for png in kept)
    assert drawn_feature_maps(run_folder, result, told.append) == maps
    assert len(told) == 2


def test_the_density_that_is_drawn_is_the_one_that_chose(run_folder):
    run = load_run(run_folder)
    rows, record = run.result["feature_maps"], run.network.record
    bars = [_bars(record.calibration.histograms[i]) for i in range(len(rows))]
    for i, drawn in _log_densities(rows, bars).items():
        tail = record.choices[rows[i]["name"]].evidence.tail
        np.testing.assert_allclose(drawn, tail.log_density(np.abs(bars[i].points)), rtol=1e-4, atol=1e-4)


def test_same_seed_same_result_and_replaces_the_earlier_run(small, run_folder, tmp_path):
    first = json.loads((run_folder / "result.json").read_text())
    (run_folder / "stale").write_text("of the earlier run")
    quantize(*small, "--out", run_folder)
    second = json.loads((run_folder / "result.json").read_text())
    assert first["feature_maps"] == second["feature_maps"]
    assert not (run_folder / "stale").exists()
    assert [p.name for p in run_folder.parent.iterdir()] == ["small"]


def test_constant_feature_map_is_handled_and_reported(tmp_path, small, capsys):
    model = write_network(tmp_path / "dead.onnx", kernel_scale=0.0)
    quantize(model, small[1], "--out", tmp_path / "run")
    assert all(
        np.isfinite(row["step"]) and row["step"] > 0
        for row in json.loads((tmp_path / "run" / "result.json").read_text())["feature_maps"]
    )
    assert "constant" in capsys.readouterr().out


def refused(capsys, *argv, status=2):
    """Run and return the one line on standard error."""
    with pytest.raises(SystemExit) as exit_info:
        main([str(a) for a in argv])
    assert exit_info.value.code == status
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1, lines
    return lines[0]


def bad_model(kind, tmp_path):
    path = tmp_path / f"{kind}.onnx"
    if kind == "truncated":
        whole = write_network(path).read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
    elif kind == "no-onnx":
        path.write_text("this is no network\n" * 10)
    elif kind == "empty":
        path.touch()
    elif kind == "nan":
        write_network(path, kernel_scale=float("nan"))
    return path


@pytest.mark.parametrize("kind", ["missing", "truncated", "no-onnx", "empty", "nan"])
def test_bad_model_file(kind, small, tmp_path, capsys):
    model = bad_model(kind, tmp_path)
    line = refused(capsys, "quantize", model, "--data", small[1], "--size", 8, "--out", tmp_path / "run")
    assert model.name in line or "k" in line
    assert not (tmp_path / "run").exists()


def test_unsupported_operator_is_named_with_the_supported_ones(small, tmp_path, capsys):
    model = write_network(tmp_path / "asinh.onnx", op="Asinh")
    line = refused(capsys, "quantize", model, "--data", small[1], "--size", 8)
    assert "Asinh" in line
    assert "act" in line
    assert "Relu" in line


def test_output_and_input_shape(small, tmp_path, capsys):
    model = onnx.load(small[0])
    for axis in (2, 3):
        model.graph.input[0].type.tensor_type.shape.dim[axis].dim_param = f"size{axis}"
    model.graph.output.append(onnx.helper.make_tensor_value_info("pool", onnx.TensorProto.FLOAT, None))
    onnx.save(model, path := tmp_path / "open.onnx")
    assert "give `--input-shape`" in refused(capsys, "inspect", path)
    shape = ("--input-shape", 1, 3, 8, 8)
    assert "choose one of logits, pool by `--output`" in refused(capsys, "inspect", path, *shape)
    line = refused(capsys, "quantize", path, "--output", "logit", *shape, "--data", small[1], "--size", 8)
    assert "`--output` 'logit' is no tensor of the model; did you mean `logits`" in line
    assert "give one as MODEL" in refused(capsys, "inspect", "--output", "logits")
    main(["inspect", str(path), "--output", "logits", *map(str, shape)])
    assert "gemm" in capsys.readouterr().out


def test_constants_of_other_inputs(small, tmp_path, capsys):
    model = onnx.load(small[0])
    model.graph.input.append(onnx.helper.make_tensor_value_info("scale", onnx.TensorProto.FLOAT, []))
    model.graph.node.append(onnx.helper.make_node("Mul", ["logits", "scale"], ["scaled"]))
    model.graph.output[0].name = "scaled"
    onnx.save(model, path := tmp_path / "two.onnx")
    assert "give the values of all others by `--constant NAME=NUMBER`" in refused(capsys, "inspect", path)
    assert "`--constant` is 'scale'; expected" in refused(capsys, "inspect", path, "--constant", "scale")
    assert "did you mean `scale`" in refused(capsys, "inspect", path, "--constant", "scal=2")
    main(["inspect", str(path), "--constant", "scale=2"])
    assert "gemm" in capsys.readouterr().out


def test_several_inputs_of_open_sizes(small, tmp_path, capsys):
    model = onnx.load(small[0])
    for axis in (2, 3):
        model.graph.input[0].type.tensor_type.shape.dim[axis].dim_param = f"size{axis}"
    images = model.graph.input[0].type.tensor_type.shape.dim
    images[0].dim_param = "images"
    guide = onnx.helper.make_tensor_value_info("guide", onnx.TensorProto.FLOAT, ["images", 1, "size2", "size3"])
    model.graph.input.append(guide)
    for node in (
        onnx.helper.make_node("Flatten", ["guide"], ["flat"]),
        onnx.helper.make_node("ReduceMax", ["flat"], ["most"], axes=[1]),
        onnx.helper.make_node("Mul", ["logits", "most"], ["scaled"]),
    ):
        model.graph.node.append(node)
    model.graph.output[0].name = "scaled"
    onnx.save(model, path := tmp_path / "two.onnx")
    shape = ("--input-shape", 1, 3, 8, 8)
    assert "give the values of all others by `--constant NAME=NUMBER`" in refused(capsys, "inspect", path, *shape)
    assert "give `--input-shape`" in refused(capsys, "inspect", path, "--constant", "guide=2")
    main(["inspect", str(path), "--constant", "guide=2", *map(str, shape)])
    assert "gemm" in capsys.readouterr().out


def bad_images(kind, tmp_path):
    folder = tmp_path / "images"
    if kind == "empty":
        folder.mkdir()
    elif kind == "unreadable":
        write_images(folder)
        for i in range(4):
            (folder / "class0" / f"{i}.png").write_bytes(b"no picture")
    elif kind == "classes":
        write_images(folder, classes=4)
    elif kind == "channels":
        folder = tmp_path / "images.npz"
        np.savez(folder, image=np.zeros((30, 8, 8, 2), np.uint8), label=np.zeros(30, np.int64))
    elif kind == "not-finite":
        folder = tmp_path / "images.npz"
        image = np.zeros((30, 8, 8, 3), np.float32)
        image[3, 0, 0, 0] = np.nan
        np.savez(folder, image=image, label=np.zeros(30, np.int64))
    return folder


@pytest.mark.parametrize(
    ("kind", "part"),
    [
        ("missing", "images"),
        ("empty", "images"),
        ("unreadable", "class0"),
        ("classes", "3 classes"),
        ("channels", "channel"),
        ("not-finite", "NaN"),
    ],
)
def test_bad_images(kind, part, small, tmp_path, capsys):
    images = bad_images(kind, tmp_path)
    line = refused(
        capsys, "quantize", small[0], "--data", images, "--size", 8, "--calibration-images", 12, "--out", tmp_path / "r"
    )
    assert part in line
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize("option", ["--weight-bits", "--activation-bits", "--bias-bits"])
@pytest.mark.parametrize("bits", [1, 33])
def test_bits_out_of_range(option, bits, capsys):
    line = refused(capsys, "quantize", option, bits)
    assert option in line
    assert str(bits) in line


def test_fewer_images_than_asked_for(small, capsys):
    line = refused(capsys, "quantize", small[0], "--data", small[1], "--size", 8, "--calibration-images", 999)
    assert "999" in line
    assert "24" in line


def test_out_that_is_no_run_folder(tmp_path, capsys):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "precious.txt").write_text("keep")
    line = refused(capsys, "quantize", "--out", tmp_path / "mine")
    assert "no run folder" in line
    assert (tmp_path / "mine" / "precious.txt").read_text() == "keep"


def test_unknown_scheme_lists_near_matches(capsys):
    assert "ggd-exact" in refused(capsys, "quantize", "--scheme", "ggd-exakt")


def test_says_that_preprocessing_is_missing(small, capsys):
    assert "--preset" in refused(capsys, "quantize", small[0], "--data", small[1])


def test_data_without_model_and_model_without_data(small, capsys):
    assert "MODEL" in refused(capsys, "quantize", "--data", small[1])
    assert "--data" in refused(capsys, "quantize", small[0])


def test_tunes_and_records_it(small, tmp_path, capsys):
    """Sweeps and gradient steps, on images of their own; the untuned network stands beside."""
    out = tmp_path / "run"
    tuned = ["--weight-bits", 3, "--activation-bits", 3, "--tune-images", 4, "--tune-sweeps", 1, "--batch-size", 4]
    quantize(*small, *tuned, "--tune-objective", "kl", "--gradient-steps", 2, "--out", out)
    result = json.loads((out / "result.json").read_text())
    tuning = result["tuning"]
    assert drawn_curves(out, load_run(out).result)[1].startswith(b"\x89PNG")
    assert len(tuning["images"]) == 4
    assert not set(tuning["images"]) & {*result["images"]["calibration_ids"], *result["images"]["held_out_ids"]}
    search = tuning["backward_forward"]
    assert search["decisions"][-1]["score"] >= search["start_score"]
    assert result["untuned"]["feature_maps"][0]["name"] == result["feature_maps"][0]["name"]
    assert not list(tmp_path.glob("*.unfinished"))
    printed = capsys.readouterr().out
    assert 0 < printed.index("\nuntuned\n") < printed.index("\ntuned\n") < printed.rindex("quantized top-1")


@pytest.mark.parametrize("floats", ["input*=float", "*=float"])
def test_a_report_of_feature_maps_in_float(small, tmp_path, floats, capsys):
    """It was refused: more histograms than rows."""
    out = tmp_path / "run"
    quantize(*small, "--scheme", "max-abs", "--activation-bits-of", floats, "--weight-bits", "4", "--out", out)
    main(["report", str(out)])
    assert (out / "report.html").stat().st_size > 10_000


def test_widths_per_layer_and_corrected_biases(small, tmp_path):
    """Means of the widths over weights and over values of feature maps stay below what was asked for."""
    out = tmp_path / "run"
    quantize(*small, "--mean-bits", 3.5, "--bias-correction", "--out", out)
    result = json.loads((out / "result.json").read_text())
    for kind in ("weights", "feature_maps"):
        sizes = [np.prod(row["shape"]) for row in result[kind]]
        widths = [row["bits"] for row in result[kind]]
        assert 2 <= np.average(widths, weights=sizes) <= 3.5
        assert len(set(widths)) > 1
    assert result["seconds"]["bias_correction"] > 0


def test_biases_are_corrected_on_all_classes(small, tmp_path, monkeypatch):
    """Images lie class by class in most sets: of more than are taken, the first would be of the first classes."""
    label = np.repeat(np.arange(3), 8)
    pixels = np.random.default_rng(3).integers(0, 80, size=(24, 8, 8, 3)) + 80 * label[:, None, None, None]
    np.savez(tmp_path / "set.npz", image=pixels.astype(np.uint8), label=label)
    taken = []
    monkeypatch.setattr("ggdjax.recipe._run._FEW_HUNDRED", 8)
    monkeypatch.setattr("ggdjax.tune.correct_biases", lambda q, x, **_: taken.append(x) or q)
    quantize(small[0], tmp_path / "set.npz", "--scale", 1, "--bias-correction", "--calibration-images", 16)
    assert taken[0].shape == (8, 3, 8, 8)
    assert set(taken[0].mean((1, 2, 3)) // 80) == {0, 1, 2}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--mean-bits", "17"], "must be from 2 to 16"),
        (["--mean-bits", "6", "--weight-bits", "4"], "leave `--weight-bits` and `--activation-bits` out"),
        (["--equalize", "--no-equalize"], "`--equalize` and `--no-equalize` contradict each other"),
        (["--activations-signed", "--no-activations-signed"], "contradict each other"),
        (["--pareto"], "`--pareto` is empty: give at least one value"),
        (["--weight-bits-of", "--seed", "1"], "`--weight-bits-of` is empty"),
        (["net.onnx", "--input-shape"], "`--input-shape` is empty"),
        (["--tune-objective", "kl"], "needs images to tune on"),
        (["--gradient-steps", "5"], "needs images to tune on"),
        (["--tune-images", "5", "--tune-sweeps", "0"], "nothing to do"),
        (["--tune-images", "100000"], "tuning images are wanted"),
        (["--tune-sweeps", "-1"], "must be at least 0"),
    ],
)
def test_bad_tuning_options(capsys, options, message):
    with pytest.raises(SystemExit, match="2"):
        main(["quantize", *options])
    assert message in capsys.readouterr().err


def test_module_is_the_command():
    said = subprocess.run(
        [sys.executable, "-m", "ggdjax", "report", __file__], capture_output=True, text=True, check=False
    )
    assert (said.returncode, said.stdout) == (2, "")
    (line,) = said.stderr.splitlines()
    assert line.endswith("test_cli.py holds no result.json: give a folder that `ggdjax quantize --out` wrote")


@pytest.mark.parametrize("parts", [{}, {"train": range(5, 40)}, {"train": range(30), "test": range(30, 40)}])
def test_no_held_out_image_is_trained_on(parts):
    images = data.from_arrays(
        np.zeros((40, 8, 8, 1), np.uint8),
        np.arange(40) % 2,
        data.preset("mnist"),
        parts={name: np.asarray(part) for name, part in parts.items()},
    )
    train, held_out = _parts(images, seed=0)
    assert not set(train) & set(held_out)
    assert set(train) | set(held_out) == set(images.parts.get("train", range(40))) | set(parts.get("test", ()))
    assert len(held_out) == {0: 4, 1: 3, 2: 10}[len(parts)]


def test_no_bar_is_drawn_while_tensorflow_datasets_is_imported(small, monkeypatch, capsys):
    """It replaces `__import__` meanwhile: the thread of the bar printed a traceback."""
    order = []
    monkeypatch.setattr("ggdjax.cli._runs.import_module", order.append)
    bar = nullcontext(lambda _: None)
    monkeypatch.setattr("ggdjax.cli._console.progress_bar", lambda *_: order.append("bar") or bar)
    assert "not prepared" in refused(capsys, "quantize", small[0], "--data", "tfds:gone", "--size", 8)
    assert order == ["tensorflow_datasets.core.read_only_builder", "bar"]


def test_classes_are_counted_whatever_the_shape_of_the_output(small, tmp_path):
    model = onnx.load(small[0])
    del model.graph.node[-2:]  # what is left ends in a pooling: (batch, 4, 1, 1)
    model.graph.output[0].CopyFrom(onnx.helper.make_tensor_value_info("pool", onnx.TensorProto.FLOAT, None))
    onnx.save(model, tmp_path / "pooled.onnx")
    net = gd.load_onnx(tmp_path / "pooled.onnx")
    images = gd.recipe.open_images(small[1], net, gd.Recipe(preprocessing=data.Preprocessing(size=8)))
    assert net.output_shape == (None, 4, 1, 1)
    assert images.label_range == (0, 2)


def test_a_layer_in_float_on_the_command_line(small, tmp_path, capsys):
    """QDQ and QONNX hold it; what holds integers alone, and a name that there is not, is one line, and no file."""
    out = tmp_path / "run"
    quantize(*small, "--out", out, "--weight-bits-of", "gemm=float")
    for form, written in (("qdq", True), ("qonnx", True), ("integer-onnx", False), ("bundle", False)):
        words = ["export", str(out), "--to", form, "--out", str(tmp_path / form)]
        capsys.readouterr()
        if written:
            main(words)
        else:
            with pytest.raises(SystemExit, match="2"):
                main(words)
            assert f"gemm stay in float, but `--to {form}` holds integers alone" in capsys.readouterr().err
        assert (tmp_path / form).exists() == written
    for option, said in (
        (("--weight-bits-of", "gem=float"), "`--weight-bits-of` names 'gem', which the network does not have"),
        (("--activation-bits-of", "conv=1"), "`--activation-bits-of['conv']` must be"),
    ):
        with pytest.raises(SystemExit, match="2"):
            quantize(*small, "--out", tmp_path / "other", *option)
        assert said in capsys.readouterr().err
    assert not list(tmp_path.glob("other*"))
