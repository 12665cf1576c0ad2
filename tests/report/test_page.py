"""The page of a run: it holds everything in itself, and sorts and filters in a browser."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess

import pytest

import ggdjax as gd
from ggdjax._errors import GgdjaxError
from ggdjax.cli import main
from ggdjax.report import html_page
from ggdjax.report._worst import worst_layers

#: Widths of a phone and of a desk, in CSS pixels.
PHONE, DESK = 390, 1280
#: Run in the page, in a frame of each width: sort, filter, open, and tell the outer page what was seen.
DRIVE = """
<script>
const seen = {width: window.innerWidth, errors: window.errors};
const all = (selector) => [...document.querySelectorAll(selector)];
const texts = (selector, column) => all(selector).map((row) => row.cells[column].textContent);
const heads = (selector) => document.querySelector(selector).closest("table").querySelectorAll("th button");
const visible = (selector) => all(selector).filter((part) => !part.hidden).map((part) => part.dataset.name);
const type = (field, text) => { field.value = text; field.dispatchEvent(new Event("input")); };
heads("tr.map")[7].click(); seen.ascending = texts("tr.map", 7);
heads("tr.map")[7].click(); seen.descending = texts("tr.map", 7);
heads("tr.measured")[1].click(); seen.measured = texts("tr.measured", 1);
const fields = all("input[type=search]");
type(fields[0], "second"); seen.maps = visible("tr.map"); seen.folds = visible("details.map");
type(fields[1], "max"); seen.schemes = visible("tr.scheme");
for (const fold of all("summary")) if (!fold.parentElement.open) fold.click();
seen.open = all("details").every((fold) => fold.open);
seen.wide = document.documentElement.scrollWidth > window.innerWidth;
seen.broken = [];
Promise.all([...document.images].map((image) => image.decode().catch(() => seen.broken.push(image.alt)))).then(
  () => parent.postMessage(seen, "*"));
</script>
"""
CATCH = '<script>window.errors = []; window.addEventListener("error", (e) => window.errors.push(e.message));</script>'
FRAMES = """<!doctype html><title>frames</title><body><script>
const told = [];
window.addEventListener("message", (event) => {
  told.push(event.data);
  document.title = "seen:" + JSON.stringify(told);
});
for (const width of %s) {
  const frame = document.createElement("iframe");
  frame.width = width; frame.height = 900; frame.src = "driven.html"; document.body.append(frame);
}
</script>"""


@pytest.fixture
def folder(tmp_path):
    """Return a run folder with three feature maps, as `ggdjax quantize` writes it."""

    def row(name, step):
        return {
            "name": name, "shape": [4, 4, 3], "zero_fraction": 0.5, "a": 1.0, "d": 1.2, "p": 0.8, "step": step,
            "sqnr_db": 40.0 if name != "first" else 39.0, "accumulated_sqnr_db": None, "predicted_sqnr_db": 39.5,
        }  # fmt: skip

    layer = {"name": "conv<1>", "shape": [3, 3, 3, 8], "frac_bits": 7, "sqnr_db": 41.0, "bias_frac_bits": [3, 9]}
    result = {
        "ggdjax_result": 1,
        "model": "nets/small.onnx",
        "float_top1": 0.8, "float_top5": 1.0, "quantized_top1": 0.79, "quantized_top5": 1.0,
        "intervals_95": {f"{n}_{k}": [0.7, 0.9] for n in ("float", "quantized") for k in ("top1", "top5")},
        "held_out_images": 100, "calibration_images": 50, "mean_sqnr_db": 40.0,
        "feature_maps": [row("first", 0.5), row("second", 0.02), row("third", 10.0)],
        "weights": [layer],
        "options": {"weight_bits": 8, "activation_bits": 8, "scheme": "ggd"},
        **{key: {} for key in ("versions", "device", "machine", "seed", "seconds", "preprocessing")},
    }  # fmt: skip
    (tmp_path / "result.json").write_text(json.dumps(result))
    return tmp_path


@pytest.fixture
def new_folder(folder):
    """Return the same with the comparison of schemes and the cost."""
    names = {"first": 37.0, "second": 38.0, "third": 39.0}
    maps = [
        {
            "name": name,
            "own": {"step": 0.5, "sqnr_db": best - 0.5},
            "choices": {"ggd": {"step": 0.5, "sqnr_db": best}, "max-abs": {"step": 1.0, "sqnr_db": best - 6.0}},
            "curve": {"step": [0.25, 0.5, 1.0, 2.0], "sqnr_db": [best - 6.0, best, best - 6.0, best - 12.0]},
        }
        for name, best in names.items()
    ]
    widths = {str(bits): 6.0 * bits for bits in (8, 7, 6, 5, 4, 3)}
    mean = {"ggd": widths, "max-abs": {key: value - 6.0 for key, value in widths.items()}}
    (folder / "schemes.json").write_text(json.dumps({"feature_maps": maps, "mean_sqnr_db": mean}))
    keys = ("energy", "mac", "buffer", "dram")

    def totals(factor):
        figures = {f"{key}_pj": factor * 1e6 for key in keys} | {"bops": 1e9, "cycles": 1e3}
        return figures | {f"{key}_bytes": factor * 1024 for key in ("dram", "buffer", "weight", "feature_map")}

    layer = totals(0.5) | {"name": "conv<1>", "weight_bits": 8, "activation_bits": 8, "macs": 5, "utilization": 0.5}
    energy = {"source": "a table"}
    hardware = {"rows": 2, "columns": 3, "buffer_bytes": 1024, "dataflow": "row_stationary", "energy": energy}
    at = {"float32": totals(9.0), "16/16": totals(2.0)} | {f"{b}/{b}": totals(b / 8) for b in range(3, 9)}
    result = json.loads((folder / "result.json").read_text())
    result["cost"] = {"totals": totals(1.0), "at": at, "layers": [layer], "hardware": hardware}
    (folder / "result.json").write_text(json.dumps(result))
    return folder


def test_page_needs_nothing_else(folder, capsys):
    main(["report", str(folder)])
    page = (folder / "report.html").read_text()
    assert not re.findall(r'(?:src|href)="(?!data:)', page)
    assert "conv&lt;1&gt;" in page
    assert "conv<1>" not in page
    assert "79.00 %" in page
    assert ">3×3×3×8</td>" in page
    assert ">3 to 9</td>" in page  # fractional lengths per channel are no shape
    assert "report.html" in capsys.readouterr().out


def test_page_shows_free_weight_steps(folder):
    assert ">0.33 to 0.44</td>" not in html_page(folder)
    result = json.loads((folder / "result.json").read_text())
    result["weights"][0] |= {"frac_bits": None, "step": [0.33, 0.44]}
    (folder / "result.json").write_text(json.dumps(result))
    assert ">0.33 to 0.44</td>" in html_page(folder)


def test_the_first_screen_names_the_worst_layers_and_what_would_help(folder):
    result = json.loads((folder / "result.json").read_text())
    layers = [("conv<1>", "first", 40.0, 30.0), ("conv2", "second", 20.0, 40.0), ("dense", "third", 50.0, 50.0)]
    result["weights"] = [
        {**result["weights"][0], "name": name, "input": source, "bits": 8, "sqnr_db": of_weights}
        for name, source, of_weights, _ in layers
    ]
    for row, (_, _, _, of_input) in zip(result["feature_maps"], layers, strict=True):
        row |= {"sqnr_db": of_input, "bits": 15}
    rows = worst_layers(result, 2)
    assert [row["name"] for row in rows] == ["conv2", "conv<1>"]
    assert [row["remedy"] for row in rows] == ["--weight-bits-of conv2=10", "--activation-bits-of first=16"]
    total = 1e-2 + 1e-4 + 1e-3 + 1e-4 + 2e-5
    assert rows[0]["share"] == pytest.approx(100 * 1.01e-2 / total)
    assert rows[0]["left"] == pytest.approx(100 * (1e-2 / 16 + 1e-4) / total)
    (folder / "result.json").write_text(json.dumps(result))
    page = html_page(folder)
    head = page[: page.index("<h2>Feature maps")]
    assert "The 3 layers that lose most" in head
    assert "--weight-bits-of conv2=10" in head
    assert (
        "Quantized: the weights of 3 layers to 8 bits, a fractional length per layer; 3 feature maps to 15 bits" in head
    )


@pytest.mark.skipif(shutil.which("chromium") is None, reason="chromium is not installed")
def test_page_sorts_and_filters_in_a_browser_at_both_widths(new_folder, tmp_path):
    page = html_page(new_folder).replace("<head>", "<head>" + CATCH).replace("</body>", DRIVE + "</body>")
    (tmp_path / "driven.html").write_text(page)
    frames = tmp_path / "frames.html"
    frames.write_text(FRAMES % [PHONE, DESK])
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
    flags += ["--disable-component-update", "--disable-sync", f"--user-data-dir={tmp_path / 'profile'}"]
    flags += ["--virtual-time-budget=20000", "--enable-logging=stderr", "--window-size=1800,1000"]
    done = subprocess.run(
        ["chromium", *flags, "--dump-dom", frames.as_uri()], capture_output=True, text=True, timeout=120, check=True
    )
    assert "CONSOLE" not in done.stderr
    found = json.loads(html.unescape(re.search(r"<title>seen:(.*?)</title>", done.stdout, re.DOTALL).group(1)))
    assert sorted(seen["width"] for seen in found) == [PHONE, DESK]
    for seen in found:
        assert seen["errors"] == seen["broken"] == []
        assert seen["ascending"] == ["0.02", "0.50", "10.00"]
        assert seen["descending"] == seen["ascending"][::-1]
        assert seen["measured"] == ["37.00", "38.00", "39.00"]
        assert seen["maps"] == seen["folds"] == ["second"]
        assert seen["schemes"] == ["max-abs"]
        assert seen["open"]
        assert not seen["wide"]


def test_old_run_folders_still_have_their_page(folder):
    page = html_page(folder)
    assert "<h2>Cost</h2>" not in page
    assert "<h2>Schemes</h2>" not in page
    assert "second" in page
    assert page.count("@article{kim2018ggd,") == 1
    assert "gptq" not in page


def test_the_page_cites_what_the_run_used(folder):
    gd.Recipe(rounding="output").save(folder / "recipe.toml")
    assert "@article{frantar2022gptq," in html_page(folder)


def test_page_sets_the_run_beside_other_schemes_and_widths(new_folder):
    page = html_page(new_folder)
    assert page.count('<details class="map"') == 3
    assert page.count('<details class="map" data-name="first" open>') == 1
    assert page.count('<tr class="measured"') == 3
    assert 'data-value="39.0" class="s0">39.00' in page
    assert "2.00 ×" in page
    result = json.loads((new_folder / "result.json").read_text())
    result["cost"] = {"not_modelled": "no convolution <here>"}
    (new_folder / "result.json").write_text(json.dumps(result))
    assert "Not modelled: no convolution &lt;here&gt;" in html_page(new_folder)


def test_refuses_what_is_no_run(tmp_path, capsys):
    with pytest.raises(GgdjaxError, match=r"holds no result\.json"):
        html_page(tmp_path)
    (tmp_path / "result.json").write_text('{"a": 1}')
    with pytest.raises(SystemExit, match="2"):
        main(["report", str(tmp_path)])
    assert "was not written by ggdjax" in capsys.readouterr().err
    (tmp_path / "result.json").write_text("{")
    with pytest.raises(GgdjaxError, match="cannot be read"):
        html_page(tmp_path)
