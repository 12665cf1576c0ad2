"""The tables: what they say of made-up results, and that the committed ones are what the results give."""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.text import Text
from PIL import Image

from experiments.__main__ import main as main_of_experiments
from experiments.experiment import key_of
from experiments.launch import read_words
from experiments.tables import plots
from experiments.tables.command import CONTENTS, index, pages
from experiments.tables.commands import commands_of
from experiments.tables.results import FOLDER, Results
from experiments.tables.table import Table
from ggdjax.quantization import Accuracy

ENVIRONMENT = {
    "versions": {"ggdjax": "0.1.0", "jax": "0.10.2"},
    "device": {"kind": "cpu", "platform": "cpu", "count": 1},
    "machine": {"system": "linux", "architecture": "x86_64"},
}


def main(words: list[str]) -> None:
    main_of_experiments(["tables", *words])


def scheme_row(kind: str, scheme: str, bits: int, network: str = "resnet20", seed: int = 0, **figures: object) -> dict:
    cell = {"kind": kind, "network": network, "bits": bits, "scheme": scheme, "seed": seed}
    return {"experiment": "schemes", "key": key_of(cell), "config_hash": "0", **cell, **figures, **ENVIRONMENT}


def write_store(folder: Path, *rows: dict) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cells-1-of-1.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


ROWS = (
    scheme_row("sqnr", "ggd", 8, mean_sqnr_db=42.294, min_sqnr_db=39.934),
    scheme_row("sqnr", "max-abs", 8, mean_sqnr_db=40.97, min_sqnr_db=38.77),
    scheme_row("sqnr", "mse-search", 8, mean_sqnr_db=50.0, min_sqnr_db=39.95),
    scheme_row("sqnr", "ggd", 8, "squeezenet", mean_sqnr_db=38.5, min_sqnr_db=30.0),
    scheme_row("accuracy", "float", 32, top1=0.8103, top5=0.9872, held_out_images=10000),
    scheme_row("accuracy", "ggd", 8, top1=0.811, top5=0.9867, held_out_images=10000),
    scheme_row("accuracy", "kl", 8, top1=0.8, top5=0.97, held_out_images=300),
)


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """Return a small folder of results; the last line is half written."""
    folder = tmp_path / "results"
    (folder / "peers").mkdir(parents=True)
    write_store(folder / "schemes", *ROWS)
    with (folder / "schemes" / "cells-1-of-1.jsonl").open("a") as file:
        file.write(json.dumps(ROWS[0])[:40])
    (folder / "peers" / "some.csv").write_text(
        "network,tool,scheme,weights_per,widths,top1,top5,held_out_images,version,measured,device\n"
        "resnet20,atool,min_max,channel,8/4,0.6025,,10000,1.0,2026-11-23,two cores\n"
    )
    return folder


def texts_of(folder: Path, name: str) -> dict[str, str]:
    """Return the texts of one table, without its plot."""
    return pages(CONTENTS[name], CONTENTS[name].entries(Results(folder)))


def without_links(text: str) -> str:
    return re.sub(r"\[([^\[\]]*)\]\([^()]*\)", r"\1", text)


def line_of(text: str, start: str) -> list[str]:
    (line,) = [line for line in without_links(text).splitlines() if line.startswith(f"| {start} |")]
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_committed_tables_are_what_the_results_give(capsys):
    with pytest.raises(SystemExit) as done:
        main(["--check"])
    assert done.value.code == 0, capsys.readouterr().out


def test_sqnr_table(results):
    first, second = texts_of(results, "T2")["T2.md"].split("## squeezenet")
    # The search does not compete; widths without a result say so, schemes without any do not stand there.
    assert line_of(first, "ggd") == ["ggd", "model", "**42.29 (39.93)**", *["not run"] * 5]
    assert line_of(first, "mse-search")[1:3] == ["search", "50.00 (39.95)"]
    assert line_of(second, "ggd")[2] == "**38.50 (30.00)**"
    assert "| max-abs |" not in second


def test_accuracy_table(results):
    texts = texts_of(results, "T3")
    first, fewer, *_ = texts["T3.md"].split("\n## ")[1:]
    assert first.startswith("resnet20: top-1 / top-5, %, on 10,000 images held out, float 81.03 / 98.72\n")
    assert line_of(first, "ggd")[1] == "81.10 / 98.67"
    # Figures of other images never stand in one column.
    assert fewer.startswith("resnet20: top-1 / top-5, %, on 300 images held out\n")
    assert line_of(fewer, "kl")[1] == "80.00 / 97.00"
    assert "| kl |" not in first
    assert "| ggd |" not in fewer
    assert line_of(texts["T3.md"], "atool, channel") == ["atool, channel", "min_max", "not run", "**60.25**"]
    rows = list(csv.DictReader(texts["T3.csv"].splitlines()))
    (row,) = [row for row in rows if (row["scheme"], row["metric"], row["images"]) == ("kl", "top1", "300")]
    interval = Accuracy(top1=0.8, top5=0.97, images=300).interval()
    np.testing.assert_allclose([float(row["low"]), float(row["high"])], interval, rtol=1e-8)
    assert {row["value"] for row in rows if row["network"] == "squeezenet"} <= {"not run"}


def test_rounding_for_the_output_stands_beside_other_tools(results):
    """The default recipe; a row that was also equalized is another measurement of its cell, and no default."""
    stages = {name: {"top1": top1, "held_out_images": 10_000} for name, top1 in (("nearest", 0.6), ("output", 0.8043))}
    cell = {"experiment": "rounding", "network": "resnet20", "per": "tensor", "widths": "4/4", "seed": 0}
    cell |= {"key": "network=resnet20 per=tensor widths=4/4 seed=0", **ENVIRONMENT}
    equalized = {"output": {"top1": 0.1, "held_out_images": 10_000}, "equalized": {"top1": 0.1}}
    write_store(
        results / "rounding",
        {**cell, "stages": stages, "config_hash": "0"},
        {**cell, "stages": equalized, "config_hash": "1"},
    )
    text = without_links(texts_of(results, "T3")["T3.md"])
    (line,) = [line for line in text.splitlines() if "weights rounded for the output (default)" in line]
    assert line.startswith("| ggdjax, tensor |")
    assert "**80.43**" in line


def test_of_two_measurements_of_a_tool_the_newest_on_most_images_counts(results):
    row = {"network": "resnet20", "tool": "atool", "scheme": "min_max", "weights_per": "channel", "widths": "8/4"}
    row |= {"top1": 0.7, "held_out_images": 10000, "measured": "2026-11-24", "device": "16 cores"}
    row |= {"calibration_over_float_pass_low": 2.5, "calibration_over_float_pass_high": 3.5}
    lines = [json.dumps(row), json.dumps(row | {"top1": 0.9, "held_out_images": 100, "measured": "2026-11-25"})]
    (results / "peers" / "cells-1-of-1.jsonl").write_text("\n".join(lines) + "\n")
    assert line_of(texts_of(results, "T3")["T3.md"], "atool, channel")[-1] == "**70.00**"
    assert line_of(texts_of(results, "T7")["T7.md"], "atool, channel")[2:] == ["2.5 to 3.5"]


def test_tools_in_one_run_stand_with_their_time(results):
    row = {"network": "resnet20", "tool": "atool", "version": "2.0", "scheme": "GPTQ", "weights_per": "tensor"}
    row |= {"widths": "4/4", "top1": 0.7, "top5": 0.9, "held_out_images": 10000, "measured": "2026-11-25", "run": "two"}
    row |= {"calibration_cpu_seconds": 30.2, "float_pass_cpu_seconds": 0.5, "device": "2 cores"}
    older = row | {"run": "one", "measured": "2026-11-24", "widths": "8/8"}
    other = row | {"tool": "btool", "top1": 0.6512, "calibration_cpu_seconds": 2.04}
    lines = [json.dumps(one) for one in (older, row, other)]
    (results / "peers" / "cells-1-of-1.jsonl").write_text("\n".join(lines) + "\n")
    (table,) = [part for part in texts_of(results, "T3")["T3.md"].split("\n## ") if "in one run" in part]
    assert line_of(table, "atool 2.0, tensor") == ["atool 2.0, tensor", "GPTQ", "**70.00 (30 s, 60)**"]
    assert line_of(table, "btool 2.0, tensor") == ["btool 2.0, tensor", "GPTQ", "65.12 (2.0 s, 4)"]


def tuning_row(before: float, forward: float, **more: object) -> dict:
    stages = {
        name: {"top1": top1, "top5": 0.95, "held_out_images": 10000, "p_value": p}
        for name, top1, p in (("before", before, 1.0), ("backward", 0.66, 0.01), ("forward", forward, 2e-9))
    }
    cell = {"network": "resnet20", "widths": "4/4", "seed": 0}
    row = {"experiment": "tuning", "key": key_of(cell), "config_hash": "0", **cell, "objective": "top1"}
    row |= {"tuning_images": 1000, "search_seconds": 900.4, "float_passes": 212.3, "naive_float_passes": 2900.0}
    return {**row, "stages": stages, **ENVIRONMENT, **more}


def test_tuning_table(results):
    write_store(results / "tuning", tuning_row(0.62, 0.68))
    text = without_links(texts_of(results, "T4")["T4.md"])
    lines = [line for line in without_links(text).splitlines() if "on top1, 1,000 images" in line]
    assert [line.split(" | ")[-1].removesuffix(" |") for line in lines] == [
        "66.00 / 95.00, p 0.01",
        "68.00 / 95.00, p 2e-09",
        "900 (212 of 2,900)",
    ]
    assert "| untuned | ggd | 81.10 / 98.67 | 62.00 / 95.00 |" in text
    beside = [
        line for line in without_links(texts_of(results, "T3")["T3.md"]).splitlines() if "backward-forward" in line
    ]
    assert any("68.00 / 95.00" in line for line in beside)


def test_a_network_at_one_width_on_the_same_images_has_one_untuned_figure(results):
    same = scheme_row("accuracy", "ggd", 4, top1=0.6205, top5=0.95, held_out_images=10000)
    write_store(results / "tuning", tuning_row(0.62, 0.68), same)
    text = without_links(texts_of(results, "T4")["T4.md"])
    assert text.count("62.05 / 95.00") == 1
    assert "62.00 / 95.00" not in text
    assert "| 68.00 / 95.00 †, p 2e-09 |" in text  # it was tuned from another untuned network
    write_store(results / "tuning", tuning_row(0.6205, 0.68), same)
    assert "| 68.00 / 95.00, p 2e-09 |" in without_links(texts_of(results, "T4")["T4.md"])


def test_top1_on_other_images_has_a_column_of_its_own(results):
    rows = []
    for widths in ("8/8", "mean 4"):
        cell = {"network": "resnet20", "dataflow": "row-stationary", "widths": widths, "seed": 0}
        row = {"experiment": "cost", "key": key_of(cell), "config_hash": "0", **cell}
        names = ("energy_pj", "mac_pj", "buffer_pj", "dram_pj", "dram_bytes", "buffer_bytes", "cycles")
        rows.append(row | dict.fromkeys(names, 1.0) | {"against": {"float32": {"energy_pj": 4.0}}})
    write_store(results / "cost", *rows)
    cell = {"network": "resnet20", "widths": "4/4", "method": "bits", "seed": 0}
    row = {"experiment": "gradient", "key": key_of(cell), "config_hash": "0", **cell, "top1": 0.7, "top5": 0.9}
    write_store(results / "gradient", {**row, "held_out_images": 700, "tuning_images": 200})
    text = texts_of(results, "T6")["T6.md"]
    assert "| weights/maps | top-1, %, 10,000 images | top-1, %, 700 images | energy, µJ |" in text
    assert line_of(text, "8/8")[1:3] == ["81.10", "not run"]
    assert line_of(text, "mean 4")[1:3] == ["not run", "70.00"]


def test_index_names_sources_with_day_and_device(results):
    text = index(Results(results))
    assert "| cpu (x86_64), ggdjax 0.1.0, jax 0.10.2 |" in text
    assert "[`peers/some.csv`](../peers/some.csv) | T3, T7 | `see peers/README.md` | two cores | 2026-11-23 |" in text
    assert "`weights`" in text.split("Not there:")[1]
    assert all(f"[T{i}](T{i}.md)" in text for i in range(1, 12))


@pytest.mark.parametrize("name", CONTENTS)
def test_a_folder_without_results_gives_tables_and_plots_that_say_so(name, tmp_path):
    content = CONTENTS[name]
    entries = content.entries(Results(tmp_path))
    assert entries
    assert all(entry.value is None for entry in entries)
    assert "not run" in pages(content, entries)[f"{name}.md"]
    assert any(text.get_text() == "not run" for text in content.draw(entries).findobj(Text))


def test_check_names_each_file_that_differs(results, capsys):
    out = results.parent / "out"
    main(["T2", "T8", "--results", str(results), "--out", str(out)])
    (out / "T8.md").write_text("old")
    (out / "T2.csv").unlink()
    capsys.readouterr()
    with pytest.raises(SystemExit) as done:
        main(["T2", "T8", "--check", "--results", str(results), "--out", str(out)])
    lines = capsys.readouterr().out.splitlines()
    assert done.value.code == 1
    assert len(lines) == 2
    assert lines[0].startswith(f"{out / 'T2.csv'} is missing")
    assert lines[1].startswith(f"{out / 'T8.md'} is not what the results give")


def test_what_a_run_wrote_is_read_wherever_it_lies(tmp_path):
    row = scheme_row("sqnr", "kl", 8, "mine", mean_sqnr_db=41.5, min_sqnr_db=39.0) | {"finished": "2026-11-24T10:00:00"}
    for place in ("", "one", "one/two"):
        folder = tmp_path / f"results{place.count('/')}{place[:1]}"
        write_store(folder / place, row, scheme_row("sqnr", "octav", 8, "mine", seed=1, mean_sqnr_db=2.0))
        text = texts_of(folder, "T2")["T2.md"]
        assert "## mine: mean" in text
        assert "## resnet20" not in text
        assert line_of(text, "kl")[2] == "**41.50 (39.00)**" or line_of(text, "kl")[2] == "41.50 (39.00)"
        assert "octav" not in text  # another seed
        (source,) = Results(folder).sources()
        assert (source.day, source.command) == ("2026-11-24", "python -m experiments run schemes")


def test_of_several_results_of_a_cell_that_on_most_images_counts_then_the_last(results):
    few = scheme_row("accuracy", "ggd", 8, top1=0.5, top5=0.6, held_out_images=100) | {"finished": "2026-11-29"}
    again = scheme_row("accuracy", "kl", 8, top1=0.7, top5=0.9, held_out_images=300) | {"finished": "2026-11-29"}
    write_store(results / "later", few, again)
    first, fewer, *_ = texts_of(results, "T3")["T3.md"].split("\n## ")[1:]
    assert line_of(first, "ggd")[1] == "81.10 / 98.67"
    assert line_of(fewer, "kl")[1] == "70.00 / 90.00"


def test_a_network_that_someone_adds_leaves_the_check_alone(results, capsys):
    out = results.parent / "out"
    main(["T2", "T8", "--results", str(results), "--out", str(out)])
    write_store(results / "mine", scheme_row("sqnr", "ggd", 8, "mine", mean_sqnr_db=41.5, min_sqnr_db=39.0))
    capsys.readouterr()
    with pytest.raises(SystemExit, match="0"):
        main(["T2", "T8", "--check", "--results", str(results), "--out", str(out)])
    main(["T2", "T8", "--results", str(results), "--out", str(out)])
    assert "## mine" in (out / "T2.md").read_text()
    with pytest.raises(SystemExit, match="0"):
        main(["T2", "T8", "--check", "--results", str(results), "--out", str(out)])
    write_store(results / "mine", scheme_row("sqnr", "ggd", 8, mean_sqnr_db=1.0) | {"finished": "2026"})
    with pytest.raises(SystemExit, match="1"):
        main(["T2", "--check", "--results", str(results), "--out", str(out)])


def test_a_figure_links_to_its_row(results):
    out = results.parent / "elsewhere" / "tables"
    main(["T2", "T3", "--results", str(results), "--out", str(out)])
    for name, start, wanted in (("T2", "kl", None), ("T2", "ggd", ROWS[0]), ("T3", "ggd", ROWS[5])):
        lines = [line for line in (out / f"{name}.md").read_text().splitlines() if line.startswith(f"| {start} |")]
        links = re.findall(r"\]\(([^()#]*)#L(\d+)\)", lines[0]) if lines else []
        assert bool(links) == (wanted is not None)
        for path, number in links:
            assert json.loads((out / path).read_text().splitlines()[int(number) - 1]) == wanted
    peer = next(line for line in (out / "T3.md").read_text().splitlines() if line.startswith("| atool, channel |"))
    assert "peers/some.csv#L2)" in peer
    assert "](" not in (out / "T3.tex").read_text()
    rows = list(csv.DictReader((out / "T3.csv").read_text().splitlines()))
    assert {row["row"] for row in rows if row["scheme"] == "kl" and row["value"] != "not run"} == {
        "schemes/cells-1-of-1.jsonl#L7"
    }


def test_a_table_ends_with_commands_that_its_experiments_take(results):
    other = scheme_row("accuracy", "kl", 4, top1=0.5, top5=0.9, held_out_images=300)
    other |= {"config_hash": "1", "settings": {"calibration_images": 64, "held_out_images": 300}}
    write_store(results / "later", other)
    main(["T3", "--results", str(results)])
    text = (results / "tables" / "T3.md").read_text()
    commands = text[text.index("## Commands") :].splitlines()
    wanted = "run schemes --calibration-images 64 --held-out-images 300 --networks resnet20"
    assert f"python -m experiments {wanted} --measures accuracy --bits 4 --schemes kl" in commands
    assert f"python -m experiments tables T3 --missing --results {results}" in commands
    for content in CONTENTS.values():  # those of the committed results
        for command in commands_of(content, Results()):
            words = shlex.split(command)
            if words[3:4] == ["run"]:
                (experiment,), *_ = read_words([*words[4:], "--dry-run"], "", "")
                dataclasses.replace(experiment, networks=(experiment.FREE,), own=()).check()


def test_missing_cells_are_measured_and_no_others(tmp_path, capsys):
    sweep = ["schemes-tiny", "--bits", "8", "4", "--schemes", "max-abs"]
    main_of_experiments(["run", *sweep, "--out", str(tmp_path / "mine")])
    cells = tmp_path / "mine" / "cells-1-of-1.jsonl"
    first, _, *others = cells.read_text().splitlines(keepends=True)
    of_accuracy = [line for line in others if '"kind": "accuracy"' in line]
    cells.write_text("".join([first, *of_accuracy[1:]]))  # one SQNR and one accuracy are gone
    capsys.readouterr()
    main(["T2", "--missing", "--dry-run", "--results", str(tmp_path)])
    assert "schemes: 2 cells, 1 finished, 1 to do (digits 1)" in capsys.readouterr().out
    assert not (tmp_path / "tables").exists()
    main(["T2", "--missing", "--results", str(tmp_path)])
    rows = [json.loads(line) for line in cells.read_text().splitlines()]
    assert [row["kind"] for row in rows].count("sqnr") == 2
    assert [row["kind"] for row in rows].count("accuracy") == len(of_accuracy) - 1
    assert "not run" not in line_of((tmp_path / "tables" / "T2.md").read_text(), "max-abs")[2]
    main(["T11", "--missing", "--results", str(tmp_path)])
    assert "compiled_h200.json is not there: python -m experiments.benchmarks.compiling h200" in capsys.readouterr().out


def test_exactness_and_accelerators(results):
    cell = {"network": "resnet20", "variant": "default", "seed": 0}
    row = {"experiment": "rtl", "key": key_of(cell), "config_hash": "0", **cell, "held_out_images": 6}
    write_store(results / "rtl", row | {"values": 1000, "checks": 5000, "overflows": 0, "wrong": 2})
    said = {"experiment": "integers-on-networks", "config_hash": "0", "seed": 0}
    line = {"sqnr_db": None, "unequal_given_inputs": 3, "values": 900, "same_top1": 1.0, "one_code_db": 41.5}
    gated = {**said, "key": "gated-6", "network": "gated-6", **line}
    odd = {**said, "key": "odd", "network": "odd", "refused": "compile", "message": "no"}
    write_store(results / "many", gated, odd)
    fuzzed = {**said, "experiment": "fuzz", "network": "random", "kind": "integers"}
    counts = {"states": {"equal": 495}, "verilog_comparisons": 7}
    write_store(results / "fuzz", *({**fuzzed, **counts, "key": key} for key in ("a", "b")))
    figures = {"launches": 9, "gigabytes": 0.0, "gigaflops": 0.0, "temporary_mib": 2.5, "products": {"s8": 53}}
    (results / "compiled_h200.json").write_text(json.dumps({"resnet50, 64: integers": figures}))
    text = texts_of(results, "T10")["T10.md"]
    assert line_of(text, "resnet20 | 8 | default | 1,000")[3:] == ["1,000", "5,000", "0", "2"]
    assert line_of(text, "gated-6")[3:] == ["100.00", "900", "equal", "41.5", "3"]
    assert "refused (compile)" in line_of(text, "odd")
    assert line_of(text, "random |  | equal")[-1] == "990"
    assert "../many/cells-1-of-1.jsonl#L2" in text
    assert line_of(texts_of(results, "T11")["T11.md"], "resnet50, 64")[2:] == ["9", "2.5", "53 s8"]


def test_figures_of_the_paper_stand_beside_ours(results, tmp_path):
    paper = tmp_path / "paper.csv"
    paper.write_text(
        "table,network,scheme,bits,metric,value\nT8,resnet20,ggd,8,mean_sqnr_db,40.5\nT8,alexnet,ggd,8,top1,0.5725\n"
    )
    out = tmp_path / "out"
    main(["T8", "--results", str(results), "--out", str(out), "--paper", str(paper), "--pdf"])
    text = (out / "T8.md").read_text()
    assert "| architecture | float | W8A8 | W8A8, paper | W6A6 |" in text
    assert line_of(text.split("## Sizes")[0], "resnet20")[1:4] == ["81.03 / 98.72", "81.10 / 98.67 (42.3)", "– (40.5)"]
    assert line_of(text.split("## other")[1], "alexnet")[1:] == ["not run", "57.25"]
    rows = csv.DictReader((out / "T8.csv").read_text().splitlines())
    assert [row["paper"] for row in rows if row["paper"]] == ["40.5", "0.5725"]
    assert all((out / f"T8.{suffix}").is_file() for suffix in ("svg", "png", "pdf", "tex"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("T2,resnet20,ggd,8,mean_sqnr_db,41\n", "the first line of"),
        ("table,network,scheme,bits,metric,value\nT99,a,b,8,top1,0.5\n", "line 2: `table` is 'T99'"),
        ("table,network,scheme,bits,metric,value\nT2,a,b,8,mean_sqnr,1\n", "known: mean_sqnr_db, min_sqnr_db"),
        ("table,network,scheme,bits,metric,value\nT3,a,b,8/8,top1,81.0\n", "accuracies are fractions"),
        ("table,network,scheme,bits,metric,value\nT3,a,b,8/8,top1,nan\n", "expected a number"),
        ("table,network,scheme,bits,metric,value\nT3,a,b,8/8,top1\n", "line 2: 5 fields, expected 6"),
        ("table,network,scheme,bits,metric,value\nT3,,b,8/8,top1,0.5\n", "is empty"),
        ("table,network,scheme,bits,metric,value\n" + 2 * "T3,a,b,8/8,top1,0.5\n", "line 3: a, b, 8/8, top1 is there"),
    ],
)
def test_bad_paper_is_one_line(results, tmp_path, capsys, text, said):
    paper = tmp_path / "paper.csv"
    paper.write_text(text)
    with pytest.raises(SystemExit) as done:
        main(["T2", "--results", str(results), "--paper", str(paper)])
    error = capsys.readouterr().err
    assert done.value.code == 2
    assert said in error
    assert error.count("\n") == 1


def test_bad_results_are_one_line(results, capsys):
    (results / "compiled_h200.json").write_text("{")
    for arguments in (["T11", "--results", str(results)], ["T6", "--results", str(results / "none")]):
        with pytest.raises(SystemExit) as done:
            main(arguments)
        assert done.value.code == 2
        assert capsys.readouterr().err.count("\n") == 1


def test_a_place_that_cannot_be_written_and_a_bad_option_are_one_line(results, tmp_path, capsys):
    for name in ("T8.md", "T8.svg"):
        (tmp_path / name / name).mkdir(parents=True)
    options = [["--out", str(tmp_path / name)] for name in ("T8.md", "T8.svg", "results/peers/some.csv")]
    for words in (*options, ["--reslts", "x"], ["T99"], ["--dry-run"]):
        with pytest.raises(SystemExit, match="2"):
            main(["T8", "--results", str(results), *words])
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("experiments: ")


def test_plots_are_the_same_bytes_each_time(tmp_path):
    content = CONTENTS["T8"]
    entries = content.entries(Results(FOLDER))
    with mpl.rc_context(plots.STYLE):
        for name in ("a", "b"):
            plots.save(content.draw(entries), tmp_path / name, pdf=False)
    for suffix in (".svg", ".png"):
        assert (tmp_path / f"a{suffix}").read_bytes() == (tmp_path / f"b{suffix}").read_bytes()


@pytest.mark.slow
def test_lines_are_drawn_in_one_order_whatever_the_hash_seed():
    """Strings hash anew in each process: drawn in the order of a set, the same plot is another file."""
    code = (
        "from experiments.tables.command import CONTENTS; from experiments.tables.results import FOLDER, Results\n"
        "for name in ('T2', 'T3'):\n"
        "    figure = CONTENTS[name].draw(CONTENTS[name].entries(Results(FOLDER)))\n"
        "    print([list(map(float, line.get_ydata())) for axes in figure.axes for line in axes.get_lines()])"
    )
    command = [sys.executable, "-c", code]
    first, second = (
        subprocess.run(command, env={**os.environ, "PYTHONHASHSEED": seed}, check=True, stdout=subprocess.PIPE).stdout
        for seed in ("1", "2")
    )
    assert first.count(b"[[") == 2
    assert first == second


def test_small_plots_keep_their_figures(tmp_path):
    figure = plots.new_figure(2, 2)
    figure.subplots().text(0.1234567, 0.5, "0.0087", color=plots.GREEN)
    with mpl.rc_context(plots.STYLE):
        plots.save(figure, tmp_path / "a", pdf=False)
    text = (tmp_path / "a.svg").read_text()
    assert ">0.0087</text>" in text
    assert not re.findall(r"<[^>]*\d\.\d{3}[^>]*>", text)
    pixels = np.asarray(Image.open(tmp_path / "a.png").convert("RGB")).reshape(-1, 3).astype(int)
    green = [int(plots.GREEN[i : i + 2], 16) for i in (1, 3, 5)]
    assert np.abs(pixels - green).max(1).min() < 12


def test_latex():
    table = Table(title="50 % of x_1", columns=("a|b", "c & d"), rows=(("**`e_f`**", "−1 µJ"),))
    assert r"\caption{50 \% of x\_1} \\" in table.to_latex()
    assert r"\textbf{e\_f} & $-$1 \textmu{}J \\" in table.to_latex()
    assert r"| a\|b | c & d |" in table.to_markdown()


def test_labels_at_the_ends_of_lines_keep_apart():
    axes = plots.new_figure(3, 3).subplots()
    axes.set_ylim(0, 10)
    plots.label_ends(axes, 1.0, [(9.9, "a", "red"), (9.9, "b", "red"), (-5.0, "c", "red"), (9.8, "ggd", "blue")], 0.1)
    places = {text.get_text(): text.xyann[1] for text in axes.texts}
    assert places["c"] == 0.0
    np.testing.assert_allclose(np.diff(sorted(places.values()))[1:], 0.1)
    assert max(places.values()) <= 1.0
