"""Every network of the zoo lowered for GPUs and TPUs: float, calibrating, fake-quantized, evaluating, tuning, integers.

    python -m experiments.benchmarks.lowering [NAME …] [--side 64]

Needs no accelerator. Prints, for each network, how many programs lower for CUDA, ROCm and TPU and what is wrong with
them (a product below full precision, an integer convolution, 64 bits), and ends with status 1 where something is. With
`--side` images are made smaller, which networks with dense layers behind their windows do not allow.
"""

from __future__ import annotations

import argparse
import sys

import jax

from experiments.lowering import PLATFORMS, faults, programs_of, statistics
from ggdjax import zoo


def check(name: str, side: int | None) -> list[str]:
    """Return what is wrong with the programs of one network, or of the statistics."""
    found = []
    programs = statistics() if name == "statistics" else programs_of(name, side=side)
    for kind, (function, arguments) in programs.items():
        traced = jax.jit(function).trace(*arguments)
        for platform in PLATFORMS:
            found += [
                f"{kind}, {platform}: {fault}"
                for fault in faults(traced.lower(lowering_platforms=(platform,)).as_text())
            ]
    print(f"{name:20} {len(programs)} programs, {len(PLATFORMS)} platforms: {len(found)} faults", flush=True)
    jax.clear_caches()
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = ("statistics", *zoo.names())
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(known)}; none: all")
    parser.add_argument("--side", type=int, help="height and width of the images")
    options = parser.parse_intermixed_args()
    if unknown := [name for name in options.names if name not in known]:
        parser.error(f"unknown network {unknown[0]}")
    found = [fault for name in options.names or known for fault in check(name, options.side)]
    print("\n".join(found))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
