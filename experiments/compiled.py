"""Programs compiled in full for an accelerator that is not there, and what the compiled programs say.

XLA's compilers of both run on a CPU: that of GPUs takes a description of the card (`h200.txtpb`), libtpu knows the
v5e. Each needs its plugin in the environment, in place of the CPU's jax alone: ``pip install 'jax[cuda12]'`` or
``pip install 'jax[tpu]'``.
"""

from __future__ import annotations

import importlib.util
import os
import re
from collections import Counter
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

#: Target -> (module of its plugin, how to install it).
TARGETS = {"h200": ("jax_plugins.xla_cuda12", "jax[cuda12]"), "v5e": ("libtpu", "jax[tpu]")}
#: What a compiled GPU program launches as a kernel, or calls a library for.
_LAUNCHES = re.compile(
    "fusion|custom-call|scatter|sort|copy|dot|convolution|reduce|dynamic-slice|dynamic-update-slice|gather|concatenate|"
    "pad|select-and-scatter|reduce-window|triangular-solve"
)


def lacking(target: str) -> str:
    """Return what to install before programs compile for ``target``, or nothing."""
    module, package = TARGETS[target]
    try:
        found = importlib.util.find_spec(module)
    except ModuleNotFoundError:
        found = None
    return "" if found else f"the compiler of `{target}` is not installed: pip install '{package}'"


def prepare() -> None:
    """Keep jax from looking for the devices themselves; call it before jax is imported."""
    os.environ |= {
        "JAX_PLATFORMS": "cpu",
        "JAX_SKIP_CUDA_CONSTRAINTS_CHECK": "1",
        "TPU_SKIP_MDS_QUERY": "1",
        "TPU_WORKER_HOSTNAMES": "localhost",
        "TPU_ACCELERATOR_TYPE": "v5litepod-4",
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    }
    # Without a card there is nothing to try kernels on.
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_gpu_autotune_level=0".strip()


@cache
def _device(target: str) -> Any:
    from jax.experimental import topologies

    if target == "v5e":
        return topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x2x1").devices[0]
    importlib.import_module(TARGETS[target][0])
    from jax._src import xla_bridge

    # The plugin is called cuda, its platform gpu (jax issue 23971).
    known = xla_bridge.canonicalize_platform
    xla_bridge.canonicalize_platform = lambda name: "cuda" if name == "gpu" else known(name)
    card = Path(__file__).with_name("h200.txtpb").read_text(encoding="utf-8")
    found = topologies.get_topology_desc(platform="cuda", topology_name="h200", target_config=card, topology="1x1x1")
    return found.devices[0]


def compiled(target: str, function: Callable[..., Any], arguments: tuple[Any, ...]) -> dict[str, Any]:
    """Compile a function of shapes for ``target``; return its launches, memory, traffic and products by operand type.

    Launches count loops as often as they run; loops whose length only the data decide count once. FLOPs and bytes are
    those of XLA, which takes a loop once.
    """
    import jax
    from jax.sharding import SingleDeviceSharding

    place = SingleDeviceSharding(_device(target))
    placed = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), arguments)
    program = jax.jit(function).trace(*placed).lower().compile()
    text, cost, memory = program.as_text(), program.cost_analysis() or {}, program.memory_analysis()
    return {
        "launches": launches(text) if target == "h200" else None,
        "scatters": len(re.findall(r" scatter\(", text)),
        "gigabytes": cost.get("bytes accessed", 0.0) / 1e9,
        "gigaflops": cost.get("flops", 0.0) / 1e9,
        "temporary_mib": memory.temp_size_in_bytes / 2**20,
        "products": dict(products(text)),
    }


def launches(text: str) -> int:
    """Return how many kernels one call of a compiled GPU program launches."""
    bodies: dict[str, list[str]] = {}
    name = entry = ""
    for line in text.splitlines():
        if head := re.match(r"(ENTRY )?%?([\w.\-]+) (?:\(.*\) -> .*)?\{", line):
            name = head[2]
            bodies[name] = []
            entry = name if head[1] else entry
        elif line.startswith("  "):
            bodies[name].append(line)

    def count(name: str) -> int:
        total = 0
        for line in bodies.get(name, ()):
            found = re.search(r" = .*? ([a-z][a-z\-]*)\(", line)
            op = found[1] if found else ""
            if op == "while":
                times = re.search(r'known_trip_count":\{"n":"(\d+)"', line)
                total += int(times[1] if times else 1) * count(re.search(r"body=%?([\w.\-]+)", line)[1])
            elif op == "conditional":
                listed = re.search(r"branch_computations=\{([^}]*)\}", line)
                names = listed[1] if listed else " ".join(re.findall(r"(?:true|false)_computation=%?([\w.\-]+)", line))
                total += max((count(one) for one in re.findall(r"[\w.\-]+", names)), default=0)
            elif op == "call":
                total += count(re.search(r"to_apply=%?([\w.\-]+)", line)[1])
            else:
                total += bool(_LAUNCHES.fullmatch(op))
        return total

    return count(entry)


def products(text: str) -> Counter[str]:
    """Return how many matrix products and convolutions a compiled program has, by the type of their first operand."""
    types = dict(re.findall(r"%([\w.\-]+) = \(?([a-z]+[0-9]*)\[", text))
    types |= dict(re.findall(r"%?([\w.\-]+): ([a-z]+[0-9]*)\[", text))
    found: Counter[str] = Counter()
    for op, operand in re.findall(r" = [^=]*? (convolution|dot|custom-call)\(([^,)]*)", text):
        line_operand = re.search(r"%([\w.\-]+)", operand)
        if line_operand and op != "custom-call":
            found[types.get(line_operand[1], "?")] += 1
    for line in text.splitlines():
        if re.search(r'custom_call_target="__(cublas|cudnn)', line):
            operand = re.search(r"custom-call\(%?([\w.\-]+)", line)
            found[types.get(operand[1], "?") if operand else "?"] += 1
    return found
