"""ggdjax and its peers on the same work: accuracy, and the time of calibration against one float pass.

    python -m experiments.peers                       every tool that is installed here, on ResNet-20 and SqueezeNet
    python -m experiments.peers onnxruntime ggdjax    only these
    python -m experiments.peers nncf                  a tool of an environment of its own: its python, this folder
    python -m experiments.peers --network resnet20 --widths 8/8
    python -m experiments.peers --network digits      seconds, no data needed
    python -m experiments.peers --table               the table of what is there, as Markdown

The first run decodes the images, in ggdjax's environment, and keeps them in runs/peers; tools that do not go with
ggdjax's versions run in their own environment and read them there. Finished cells are skipped.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.peers import aimet, brevitas_layerwise, nncf_onnx, onnxruntime_static, ours, ppq_onnx
from experiments.peers.measure import left_to_do, measure, version_of
from experiments.peers.table import markdown
from experiments.peers.tool import Tool
from experiments.peers.work import open_work
from ggdjax import GgdjaxError

_MODULES = (ours, onnxruntime_static, nncf_onnx, aimet, brevitas_layerwise, ppq_onnx)
TOOLS: dict[str, Tool] = {module.TOOL.name: module.TOOL for module in _MODULES}
RESULTS = Path(__file__).resolve().parents[1] / "results" / "peers"
ARRAYS = Path("runs") / "peers"
NETWORKS = ("resnet20", "squeezenet")


def main(argv: Sequence[str] | None = None) -> None:
    """Read the command line and run; exit with status 2 and one line for a user error."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.peers", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("tools", nargs="*", metavar="TOOL", help=f"{', '.join(TOOLS)}; none: those installed here")
    parser.add_argument("--network", action="append", help=f"repeatable; default: {' '.join(NETWORKS)}")
    parser.add_argument("--widths", action="append", help="weights/feature maps in bits, such as 8/8 (repeatable)")
    parser.add_argument("--scheme", action="append", help="a method, as its tool calls it (repeatable); default: all")
    parser.add_argument("--per", choices=("tensor", "channel"), help="what shares a weight step; default: both")
    parser.add_argument("--run", metavar="NAME", help="a run to measure anew and compare with: its own cells and table")
    parser.add_argument("--images", type=int, help="up to N held-out images; default: all")
    parser.add_argument("--out", type=Path, default=RESULTS, help="results folder")
    parser.add_argument("--arrays", type=Path, default=ARRAYS, help="folder of decoded images")
    parser.add_argument("--table", action="store_true", help="print the table of what is there and stop")
    args = parser.parse_args(argv)
    try:
        if not args.table:
            _run(args)
        print(markdown(args.out, args.images, args.run))
    except GgdjaxError as error:
        print(f"peers: {' '.join(str(error).split())}", file=sys.stderr)
        raise SystemExit(2) from None


def _run(args: argparse.Namespace) -> None:
    if args.images is not None and args.images < 1:
        raise GgdjaxError(f"`--images` must be at least 1, got {args.images}")
    tools = _installed(args.tools)
    for option, given in (("widths", args.widths), ("scheme", args.scheme)):
        known = sorted({getattr(setting, option) for tool in tools for setting in tool.settings})
        for value in given or ():
            if value not in known:
                raise GgdjaxError(f"`--{option}` {value} is measured by none of the tools; known: {', '.join(known)}")
    for network in args.network or NETWORKS:
        work = open_work(network, args.images, args.arrays)
        for tool in tools:
            settings = left_to_do(
                tool, network, args.widths, args.images, args.out, schemes=args.scheme, per=args.per, run=args.run
            )
            print(f"{network}, {tool.name} {version_of(tool.package)}: {len(settings)} to do", flush=True)
            for setting, row in measure(tool, work, settings, args.images, args.out, args.run):
                said = row if isinstance(row, str) else _said(row)
                print(f"  {setting.scheme}, {setting.weights_per}, {setting.widths}: {said}", flush=True)


def _said(row: dict[str, Any]) -> str:
    taken = f"{row['calibration_seconds']} s, {row['calibration_cpu_seconds']} of a CPU"
    return f"top-1 {row['top1']:.2%}, {taken}"


def _installed(names: Sequence[str]) -> list[Tool]:
    """Return the tools named, or all that are installed; say of the others how to get them.

    Raises:
        GgdjaxError: a tool named is unknown or not installed.
    """
    found = []
    for name in names or TOOLS:
        if name not in TOOLS:
            raise GgdjaxError(f"no tool is called `{name}`; known: {', '.join(TOOLS)}")
        tool = TOOLS[name]
        # ggdjax lies in this checkout: what tells is whether it can run.
        if version_of("jax" if tool is ours.TOOL else tool.package) is not None:
            found.append(tool)
            continue
        line = f"{name} is not installed: {tool.install}"
        if names:
            raise GgdjaxError(line)
        print(line)
    return found


if __name__ == "__main__":
    main()
