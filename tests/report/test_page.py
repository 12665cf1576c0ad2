"""The page of a run: it holds everything in itself, and sorts and filters in a browser."""

from __future__ import annotations

import json
import re
import shutil
import subprocess

import pytest

from ggdjax._errors import GgdjaxError
from ggdjax.cli import main
from ggdjax.report import html_page

#: Run in the browser: sort twice by step, filter, and leave what was seen in the page.
DRIVE = """
<script>
const seen = {errors: []};
window.addEventListener("error", (event) => seen.errors.push(event.message));
const column = () => [...document.querySelectorAll("tr.map")].map((row) => row.cells[6].textContent);
const button = document.querySelectorAll("table")[0].querySelectorAll("th button")[6];
button.click(); seen.ascending = column();
button.click(); seen.descending = column();
const field = document.querySelector("input[type=search]");
field.value = "second"; field.dispatchEvent(new Event("input"));
seen.visible = [...document.querySelectorAll("tr.map")].filter((row) => !row.hidden).map((row) => row.dataset.name);
seen.wide = document.documentElement.scrollWidth > window.innerWidth;
document.title = "seen:" + JSON.stringify(seen);
</script>
"""


@pytest.fixture
def folder(tmp_path):
    """Return a run folder with three feature maps, as `ggdjax quantize` writes it."""

    def row(name, step):
        return {
            "name": name, "shape": [4, 4, 3], "zero_fraction": 0.5, "a": 1.0, "d": 1.2, "p": 0.8, "step": step,
            "sqnr_db": 40.0, "accumulated_sqnr_db": None, "predicted_sqnr_db": 39.5,
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


def test_page_needs_nothing_else(folder, capsys):
    main(["report", str(folder)])
    page = (folder / "report.html").read_text()
    assert not re.findall(r'(?:src|href)="(?!data:)', page)
    assert "conv&lt;1&gt;" in page
    assert "conv<1>" not in page
    assert "79.00 %" in page
    assert "report.html" in capsys.readouterr().out


@pytest.mark.skipif(shutil.which("chromium") is None, reason="chromium is not installed")
def test_page_sorts_and_filters_in_a_browser(folder, tmp_path):
    page = tmp_path / "driven.html"
    page.write_text(html_page(folder).replace("</body>", DRIVE + "</body>"))
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
    flags += ["--disable-component-update", "--disable-sync", f"--user-data-dir={tmp_path / 'profile'}"]
    done = subprocess.run(
        ["chromium", *flags, "--window-size=500,900", "--dump-dom", page.as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    seen = json.loads(re.search(r"<title>seen:(.*?)</title>", done.stdout, re.DOTALL).group(1))
    assert seen["errors"] == []
    assert seen["ascending"] == ["0.02", "0.50", "10.00"]
    assert seen["descending"] == seen["ascending"][::-1]
    assert seen["visible"] == ["second"]
    assert not seen["wide"]


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
