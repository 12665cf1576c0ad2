"""`ggdjax quantize` and `tune` ended at random moments: given again, each leaves the network of an undisturbed run.

    python -m experiments.benchmarks.kills                 40 kills, half SIGKILL and half SIGINT
    python -m experiments.benchmarks.kills --kills 8

The digits network of the package, default scheme, equalized, widths per layer, corrected biases; `tune` searches and
takes gradient steps. Moments are uniform over the time of an undisturbed run, chosen by a seed. Expected: every network
file equal byte by byte; after SIGINT status 130 within two seconds, and one line that says how to resume.

Writes `experiments/results/kills.json` after every kill. A quarter of an hour on two cores.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from experiments.provenance import code_version
from ggdjax import report

RESULTS = Path(__file__).resolve().parents[1] / "results" / "kills.json"
SEED = 20181030
#: Seconds that an interrupt has to end a command.
PATIENCE = 2.0
OPTIONS = {
    "quantize": "--equalize --mean-bits 4 --bias-correction --calibration-images 64 --held-out-images 128",
    "tune": "--tune-images 64 --tune-sweeps 1 --tune-seconds inf --gradient-steps 40 --held-out-images 128",
}


def start(words: list[str]) -> subprocess.Popen[str]:
    """Start a command in a process of its own."""
    command = [sys.executable, "-m", "ggdjax", *words]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def ended(words: list[str]) -> float:
    """Run a command to its end; return the seconds it took."""
    began = time.monotonic()
    with start(words) as process:
        said = process.communicate()[1]
    if process.returncode:
        raise SystemExit(f"{' '.join(words)} ended with {process.returncode}: {said}")
    return time.monotonic() - began


def killed(words: list[str], delay: float, by: signal.Signals) -> dict[str, Any]:
    """Start a command and end it after ``delay`` seconds; return how it ended."""
    with start(words) as process:
        time.sleep(delay)
        began = time.monotonic()
        process.send_signal(by)
        said = process.communicate()[1]
        seconds = time.monotonic() - began
    found = {"status": process.returncode, "seconds_to_end": round(seconds, 2), "said": said.strip()}
    if by == signal.SIGKILL:
        return found | {"as_expected": process.returncode == -signal.SIGKILL}
    line = said.startswith("ggdjax: interrupted; ") and "the same command" in said and said.count("\n") == 1
    return found | {"as_expected": process.returncode == 130 and seconds <= PATIENCE and line}


def run(kills: int, folder: Path) -> None:
    """Kill each command at random moments, resume it, and compare."""
    chance = random.Random(SEED)
    words, whole, seconds = {}, {}, {}
    for command, options in OPTIONS.items():
        out, source = folder / f"{command}-whole", [str(folder / "quantize-whole")] if command == "tune" else []
        words[command] = [command, *source, *options.split(), "--out"]
        ended([*words[command], str(folder / "first")])  # compiles, into the cache
        shutil.rmtree(folder / "first")
        seconds[command] = ended([*words[command], str(out)])
        whole[command] = (out / "network.safetensors").read_bytes()
    rows: list[dict[str, Any]] = []
    for number in range(kills):
        command = tuple(OPTIONS)[number % 2]
        by = (signal.SIGKILL, signal.SIGINT)[number // 2 % 2]
        delay, out = chance.uniform(0.0, seconds[command]), folder / "run"
        while (row := killed([*words[command], str(out)], delay, by))["status"] == 0:  # it was done before
            shutil.rmtree(out)
            delay *= chance.random()
        row["said"] = row["said"].replace(f"{folder}/", "")
        kept = sorted(file.name[:-18] for file in folder.glob("run.unfinished/*.safetensors"))
        took = ended([*words[command], str(out)])
        equal = (out / "network.safetensors").read_bytes() == whole[command]
        left = sorted(
            path.name for path in folder.iterdir() if path.name not in {"run", *(f"{c}-whole" for c in OPTIONS)}
        )
        shutil.rmtree(out)
        row |= {"kept": kept, "seconds_to_resume": round(took, 1), "equal": equal, "left_over": left}
        rows.append({"command": command, "signal": by.name, "after_seconds": round(delay, 2), **row})
        print(json.dumps(rows[-1]), flush=True)
        interrupts = [r["seconds_to_end"] for r in rows if r["signal"] == "SIGINT"]
        summary = {
            "kills": len(rows),
            "equal": sum(r["equal"] for r in rows),
            "as_expected": sum(r["as_expected"] for r in rows),
            "longest_interrupt_seconds": max(interrupts, default=None),
            "undisturbed_seconds": {name: round(value, 1) for name, value in seconds.items()},
        }
        found = {**summary, "options": OPTIONS, "rows": rows, "code": code_version(), **report.environment()}
        RESULTS.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print({key: value for key, value in summary.items() if key != "undisturbed_seconds"})


def main() -> None:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=40)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run(args.kills, Path(folder))


if __name__ == "__main__":
    main()
