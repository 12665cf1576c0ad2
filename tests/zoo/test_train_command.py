from __future__ import annotations

import json

import numpy as np
import pytest

from ggdjax.cli import main
from ggdjax.zoo import _registry as registry
from ggdjax.zoo import create, load_weights
from tests.zoo.stripes import Tiny, striped_pixels


@pytest.fixture(autouse=True)
def tiny_entry(monkeypatch):
    nothing = registry.exact(1, "test")
    small = registry.Entry(
        build=lambda *, num_classes, rngs: Tiny(3, rngs=rngs),
        input_shape=(8, 8, 3),
        num_classes=2,
        parameters=nothing,
        macs=nothing,
    )
    monkeypatch.setitem(registry.ENTRIES, "tiny", small)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "stripes.npz"
    pixels, labels = striped_pixels(80)
    np.savez(path, image=np.repeat(pixels[..., None], 3, axis=-1), label=labels)
    return path


def arguments(data, out, *more):
    return ["train", "tiny", "--data", str(data), "--out", str(out), "--epochs", "2", "--batch-size", "24", *more]


def test_a_killed_command_goes_on_and_writes_everything(data, tmp_path, capsys, monkeypatch):
    out = tmp_path / "run"

    def interrupt(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as killed:
        killed.setattr("ggdjax.zoo.top1", interrupt)
        with pytest.raises(SystemExit) as stop:
            main(arguments(data, out))
    assert stop.value.code == 130
    assert "ggdjax: interrupted; " in capsys.readouterr().err
    main(arguments(data, out))
    log = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in log] == [1, 2]
    assert set(log[0]) == {"epoch", "loss", "train_top1", "held_out_sample_top1"}
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["network"] == "tiny"
    assert (metrics["train_images"], metrics["held_out_images"]) == (72, 8)
    low, high = metrics["held_out_top1_interval"]
    assert low <= metrics["held_out_top1"] <= high
    assert metrics["recipe"]["optimizer"] == "sgd"
    net = create("tiny", seed=5)
    metadata = load_weights(net, out / "weights.safetensors")
    assert json.loads(metadata["recipe"]) == metrics["recipe"]
    assert float(metadata["held_out_top1"]) == pytest.approx(metrics["held_out_top1"], abs=1e-4)
    with pytest.raises(SystemExit):
        main(arguments(data, out))
    assert "holds a finished run" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("name", "no network of the zoo: did you mean `resnet20`"),
        ("file", "is a file: choose a folder"),
        ("other", "exists and holds no checkpoints"),
        ("recipe", "`warmup` is 2.0"),
        ("batch", "`batch_size` is 100, but there are 72"),
        ("data", "no images at"),
    ],
)
def test_what_a_user_can_mend(case, message, data, tmp_path, capsys):
    out = tmp_path / "out"
    words = arguments(data, out)
    if case == "name":
        words[1] = "resnet-20"
    elif case == "file":
        out.write_text("x")
    elif case == "other":
        out.mkdir()
        (out / "thesis.tex").write_text("x")
    elif case == "recipe":
        words += ["--warmup", "2"]
    elif case == "batch":
        words[words.index("24")] = "100"
    else:
        words[words.index(str(data))] = str(tmp_path / "nowhere")
    with pytest.raises(SystemExit) as stop:
        main(words)
    error = capsys.readouterr().err
    assert stop.value.code == 2
    assert message in error
    assert error.count("\n") == 1


def test_help_teaches(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["train", "--help"])
    assert stop.value.code == 0
    shown = capsys.readouterr().out
    for word in ("NAME", "--data", "--epochs", "checkpoint", "ggdjax train resnet20"):
        assert word in shown
