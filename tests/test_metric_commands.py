"""The commands with networks that give maps: segmentation with masks, super-resolution with an `.npz`."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

import ggdjax as gd
from ggdjax.cli import main
from ggdjax.report import load_run
from ggdjax.report._page import _cards, _tuning
from ggdjax.report._several import comparison_page, paired_tests
from tests.small_onnx import write_images, write_network

QUICK = "--scheme max-abs --calibration-images 8 --batch-size 8"


def write_map_network(path, channels, last, *, scale=1):
    """Write conv → relu → (nearest resize by ``scale`` →) conv of 1×1 to ``last`` channels on 16×16 images."""
    rng = np.random.default_rng(0)
    tensors = {
        "k": rng.normal(size=(6, channels, 3, 3)),
        "b": rng.normal(size=6),
        "w": rng.normal(size=(last, 6, 1, 1)),
    }
    tensors["s"] = np.array([1, 1, scale, scale])
    nodes = [
        helper.make_node("Conv", ["input", "k", "b"], ["conv"], "conv", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["conv"], ["act"], "act"),
        helper.make_node("Resize", ["act", "", "s"], ["large"], "large", coordinate_transformation_mode="asymmetric"),
        helper.make_node("Conv", ["large" if scale > 1 else "act", "w"], ["map"], "head"),
    ]
    graph = helper.make_graph(
        [node for node in nodes if scale > 1 or node.op_type != "Resize"],
        "map",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", channels, 16, 16])],
        [helper.make_tensor_value_info("map", TensorProto.FLOAT, ["batch", last, 16 * scale, 16 * scale])],
        [numpy_helper.from_array(v.astype(np.float32), n) for n, v in tensors.items() if scale > 1 or n != "s"],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


@pytest.fixture(scope="module")
def segmentation(tmp_path_factory):
    """Return a network, images and masks: the classes that the network itself gives, some wrong, some not counted."""
    folder = tmp_path_factory.mktemp("segmentation")
    net = gd.load_onnx(write_map_network(folder / "net.onnx", 3, 4))
    rng = np.random.default_rng(1)
    pixels = rng.integers(0, 256, (28, 16, 16, 3), dtype=np.uint8)
    masks = np.asarray(net(pixels.transpose(0, 3, 1, 2).astype(np.float32) / 255)).argmax(1).astype(np.uint8)
    masks[:, 0] = 255
    masks[:, 1] = 0
    for i, (image, mask) in enumerate(zip(pixels, masks, strict=True)):
        for name, array in (("images", image), ("masks", mask)):
            (folder / name / f"part{i % 2}").mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(folder / name / f"part{i % 2}" / f"{i:02d}.png")
    return folder / "net.onnx", folder / "images", folder / "masks"


def command(kind, model, images, masks, *more):
    main([kind, str(model), "--data", str(images), "--targets", str(masks), *QUICK.split(), *map(str, more)])


@pytest.fixture(scope="module")
def run_folder(segmentation, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "segmentation"
    command("quantize", *segmentation, "--size", 16, "--metric", "mean-iou", "--activation-bits", 4, "--out", out)
    return out


def test_a_segmentation_network(segmentation, run_folder, tmp_path, capsys):
    saved = load_run(run_folder)
    metric, result = saved.result["metric"], saved.result
    assert (metric["name"], saved.recipe.metric, result["held_out_images"]) == ("mean-iou", "mean-iou", 20)
    assert 0.5 < metric["quantized"]["value"] < metric["float"]["value"] < 1
    low, high = metric["quantized"]["interval_95"]
    assert low < metric["quantized"]["value"] < high
    assert "float_top1" not in result
    assert len(result["scores"]["quantized"]) == 20
    assert "mean-iou, quantized" in "".join(_cards(result))

    tuned = tmp_path / "tuned"
    words = "--tune-images 6 --tune-sweeps 1 --gradient-steps 2 --tune-seconds inf"
    main(["tune", str(run_folder), "--out", str(tuned), *words.split()])
    printed = capsys.readouterr().out
    assert "untuned" in printed
    assert "quantized mean-iou" in printed
    recipe = load_run(tuned).recipe
    assert (recipe.search.objective, recipe.gradient.metric, recipe.gradient.objective) == (
        *("mean-iou", "mean-iou"),
        "output",
    )
    assert {"difference", "p_value"} <= load_run(tuned).result["tuning"].keys()
    assert "mean-iou changed by" in _tuning(load_run(tuned).result, None)
    assert "mean-iou before tuning" in "".join(_cards(load_run(tuned).result))
    (test,) = paired_tests({"a": result, "b": load_run(tuned).result})
    assert test["shared"] == 14
    assert "mean-iou, %" in comparison_page([run_folder, tuned])

    main(["export", str(run_folder), "--to", "bundle", "--out", str(tmp_path / "bundle"), "--images", "1"])
    assert "Written to" in capsys.readouterr().out
    main(["evaluate", str(run_folder)])
    printed = capsys.readouterr().out
    assert f"quantized mean-iou {100 * metric['quantized']['value']:7.2f} %" in printed
    assert "20 held-out images; 95 % intervals (bootstrap over images)" in printed
    main(["evaluate", str(run_folder), "--integers", "--metric", "output-sqnr"])
    printed = capsys.readouterr().out
    assert printed.index("by fake quantization") < printed.index("in integers")
    assert printed.count("quantized output-sqnr") == 2


def test_super_resolution_from_an_npz(tmp_path, capsys):
    model = write_map_network(tmp_path / "net.onnx", 1, 1, scale=2)
    pixels = np.random.default_rng(1).integers(0, 256, (24, 16, 16), dtype=np.uint8)
    outputs = np.asarray(gd.load_onnx(model)(pixels[:, None].astype(np.float32) / 255))[:, 0]
    targets = np.clip(np.round(255 * outputs), 0, 255).astype(np.uint8)
    np.savez(tmp_path / "set.npz", images=pixels, targets=targets)
    out, words = tmp_path / "run", "--colour-order GRAY --metric psnr"
    main(
        ["quantize", str(model), "--data", str(tmp_path / "set.npz"), *QUICK.split(), *words.split(), "--out", str(out)]
    )
    printed = capsys.readouterr().out
    metric = json.loads((out / "result.json").read_text())["metric"]
    assert metric["unit"] == "dB"
    assert f"quantized psnr {metric['quantized']['value']:6.2f} dB" in printed
    assert "change    psnr" in printed
    main(["evaluate", str(out), "--metric", "ssim", "--integers"])
    assert "quantized ssim" in capsys.readouterr().out


def test_outputs_without_labels(segmentation, tmp_path, capsys):
    model, images, _ = segmentation
    words = "--size 16 --metric output-sqnr --tune-images 6 --tune-sweeps 1 --tune-seconds inf"
    main(
        ["quantize", str(model), "--data", str(images), *QUICK.split(), *words.split(), "--out", str(tmp_path / "run")]
    )
    printed = capsys.readouterr().out
    assert "quantized output-sqnr" in printed
    assert "float     output-sqnr" not in printed
    assert load_run(tmp_path / "run").recipe.search.objective == "output-sqnr"
    # A network that scores classes has it, too.
    net, folder = write_network(tmp_path / "net.onnx"), write_images(tmp_path / "images")
    main(["quantize", str(net), "--data", str(folder), "--size", "8", "--metric", "output-sqnr", *QUICK.split()])
    assert "quantized output-sqnr" in capsys.readouterr().out


def test_a_stopped_run_resumes_with_the_same_scores(segmentation, tmp_path):
    model, images, masks = segmentation
    recipe = gd.Recipe(
        preprocessing=gd.data.Preprocessing(size=16),
        quantization=gd.QuantConfig(scheme="max-abs"),
        calibration_images=8,
        metric="pixel-accuracy",
    )
    net = gd.load_onnx(model)
    opened = gd.recipe.open_images(images, net, recipe, targets=masks)
    first, again = (gd.recipe.run(net, opened, recipe, folder=tmp_path / "run") for _ in range(2))
    np.testing.assert_array_equal(
        first.evaluation.quantized_score.statistics, again.evaluation.quantized_score.statistics
    )
    assert again.evaluation.quantized_accuracy is None
    recipe.save(tmp_path / "recipe.toml")
    assert gd.Recipe.load(tmp_path / "recipe.toml") == recipe
    own = gd.quantization.Metric(name="mine", function=lambda y, t: -abs(y).mean(axis=(1, 2, 3)))
    assert gd.Recipe(metric=own).to_dict()["metric"] == "mine"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("", "the network gives a map of 4 × 16 × 16 values per image, no score per class, which accuracy needs"),
        ("--metric top-1", "(pixel-accuracy, mean-iou, psnr, ssim, output-sqnr)"),
        ("--metric mean-io", "no `--metric` is called `mean-io`: did you mean `mean-iou`?"),
        ("--metric mean-iou", "`--targets` is missing: name the folder"),
        ("--metric mean-iou --targets nowhere", "no targets at"),
        ("--metric psnr --targets MASKS", "targets have shape (1, 3, 16, 16), outputs (1, 4, 16, 16)"),
        ("--metric pixel-accuracy(classes=1) --targets MASKS", "`classes` of `--metric` pixel-accuracy must be"),
        ("--metric output-sqnr --targets MASKS", "`--targets` are given, but"),
        ("--metric mean-iou --targets MASKS --max-drop 1 --tune-images 4 --tune-objective top1", "map of 4 × 16 × 16"),
    ],
)
def test_what_does_not_fit_is_one_line(segmentation, capsys, options, said):
    model, images, masks = segmentation
    words = [str(masks) if word == "MASKS" else word for word in options.split()]
    with pytest.raises(SystemExit, match="2"):
        main(["quantize", str(model), "--data", str(images), "--size", "16", *QUICK.split(), *words])
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert said in line


def test_a_ladder_and_a_sweep_by_the_metric(segmentation):
    model, images, masks = segmentation
    recipe = gd.Recipe(
        preprocessing=gd.data.Preprocessing(size=16),
        quantization=gd.QuantConfig(scheme="max-abs", activation_bits=3),
        calibration_images=8,
        metric="mean-iou",
    )
    net = gd.load_onnx(model)
    opened = gd.recipe.open_images(images, net, recipe, targets=masks)
    climbed = gd.recipe.ladder(net, opened, recipe, max_drop=0.9, rungs=("nearest",))
    (rung,) = climbed.rungs
    assert rung.drop == pytest.approx(rung.float_value - rung.value)
    assert rung.drop_interval[0] < rung.drop < rung.drop_interval[1]
    lines = str(climbed).splitlines()
    assert lines[0].split()[1] == "mean-iou"
    assert f"{100 * rung.value:.2f} %" in lines[1]
    with pytest.raises(gd.GgdjaxError, match="output-sqnr has none of"):
        gd.recipe.ladder(net, opened, gd.Recipe(metric="output-sqnr"), max_drop=1)

    found = gd.recipe.pareto(net, opened, recipe, budgets=(8,), choose_images=8)
    assert found.metric.name == "mean-iou"
    assert 0.5 < found.points[-1].value < 1
    assert "float mean-iou" in str(found)
    assert gd.report.plot_front(found).axes[0].get_ylabel() == "mean-iou, % of 8 images"
