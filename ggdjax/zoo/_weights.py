"""Weights of an NNX module in one safetensors file, each array under its path, with metadata beside them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ggdjax._atomic import write_safetensors
from ggdjax._errors import ModelError, expect_path
from ggdjax.zoo._modules import expect_module

if TYPE_CHECKING:
    from collections.abc import Mapping
    from os import PathLike
    from pathlib import Path

    from flax import nnx


def _stored_state(module: nnx.Module) -> tuple[nnx.State, dict[str, nnx.Variable]]:
    """Return what is stored of ``module``, and the same by name: the path in the module, joined by `/`."""
    from flax import nnx

    state = nnx.state(module, (nnx.Param, nnx.BatchStat))
    return state, {"/".join(map(str, path)): variable for path, variable in nnx.to_flat_state(state)}


def save_weights(module: nnx.Module, path: str | PathLike[str], metadata: Mapping[str, str] | None = None) -> None:
    """Write parameters and batch statistics of ``module`` to ``path``, with ``metadata`` in its header.

    Raises:
        GgdjaxError: the file cannot be written.
    """
    expect_module("module", module)
    path = expect_path("path", path)
    arrays = {name: np.asarray(variable[...]) for name, variable in _stored_state(module)[1].items()}
    write_safetensors(path, "path", arrays, metadata or {})


def load_weights(module: nnx.Module, path: str | PathLike[str]) -> dict[str, str]:
    """Fill ``module`` with the arrays of ``path``, in place, and return the file's metadata.

    The file is one of `save_weights`, or holds a PyTorch state dict (of what, says `ggdjax.zoo.load_state_dict`).
    ``module`` may be abstract (`nnx.eval_shape`), which spares drawing weights that are replaced at once.

    Raises:
        ModelError: a file that is missing or damaged, or arrays whose names, shapes or types differ from the module's.
    """
    expect_module("module", module)
    path = expect_path("path", path)
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as stored:
            metadata = stored.metadata() or {}
            arrays = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise ModelError(
            f"`{path}` cannot be read as safetensors ({error}): give a file of `save_weights` or a PyTorch state dict"
        ) from error
    # Names of ours are paths; PyTorch's have dots.
    if any("/" in name for name in arrays):
        _load_own(module, arrays, path)
    else:
        from ggdjax.zoo._state_dicts import load_state_dict

        load_state_dict(module, arrays, f"`{path}`")
    return metadata


def _load_own(module: nnx.Module, arrays: Mapping[str, np.ndarray], path: Path) -> None:
    import jax
    from flax import nnx

    state, wanted = _stored_state(module)
    if odd := sorted(wanted.keys() ^ arrays.keys()):
        where = "is missing from" if odd[0] in wanted else "has no place in the network: it is only in"
        raise ModelError(f"`{odd[0]}` {where} `{path}` ({len(odd)} names differ): give the network's own weights")
    for name, variable in wanted.items():
        have, want = arrays[name], variable.get_value()
        if have.shape != want.shape or have.dtype != want.dtype:
            raise ModelError(
                f"`{name}` of `{path}` is {have.dtype}{list(have.shape)}, the network's is "
                f"{want.dtype}{list(want.shape)}: give the network's own weights"
            )
        variable.set_value(jax.device_put(have))  # `jnp.asarray` would compile a program per shape
    nnx.update(module, state)
