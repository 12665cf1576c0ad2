"""The state of a tuning run on disk: written whole after every decision, refused where it belongs to another run."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ggdjax import _files
from ggdjax._errors import GgdjaxError
from ggdjax.quantization import Quantizers
from ggdjax.quantization._record import image_hash
from ggdjax.quantization._serialize import quantizers_from_record, quantizers_record
from ggdjax.tune._history import Decision

if TYPE_CHECKING:
    from pathlib import Path

    from ggdjax.quantization import QuantizedNetwork
    from ggdjax.tune._config import TuneConfig

_KIND = "search checkpoint"


@dataclass(kw_only=True)
class SearchState:
    """Where a search stands; all it needs to go on."""

    quantizers: Quantizers
    score: np.ndarray
    """Score of each image under the present parameters."""
    loss: np.ndarray
    decisions: list[Decision]
    visits: int = 0
    """Visits done, over all sweeps."""
    changed: bool = False
    """Did the present sweep change anything?"""


def fingerprint(q: QuantizedNetwork, images: np.ndarray, labels: np.ndarray | None, config: TuneConfig) -> str:
    """Return what tells one tuning run from another: network, parameters, images, labels and settings."""
    digest = hashlib.sha256()
    record, steps = quantizers_record(q.quantizers)
    digest.update(repr((q.graph.nodes, config.objective, _result_settings(config), record)).encode())
    for arrays in (q.params, steps):
        for key in sorted(arrays):
            digest.update(key.encode() + np.ascontiguousarray(arrays[key]).tobytes())
    digest.update(image_hash(images).encode())
    digest.update(b"" if labels is None else np.asarray(labels, np.int64).tobytes())
    return digest.hexdigest()


def _result_settings(config: TuneConfig) -> dict:
    """Return the settings that change the result; how much runs at once does not, nor where the search ends."""
    free = {"memory_bytes", "rows", "max_float_passes", "sweeps"}
    return {name: value for name, value in vars(config).items() if name not in free}


def save(path: Path, state: SearchState, mark: str) -> None:
    """Write the state; a reader sees the old one or the new one, never a part."""
    quantizers, arrays = quantizers_record(state.quantizers)
    record = {
        "fingerprint": mark,
        "visits": state.visits,
        "changed": state.changed,
        "decisions": [vars(decision) for decision in state.decisions],
        "quantizers": quantizers,
    }
    _files.write(path, _KIND, record, arrays | {"score": state.score, "loss": state.loss}, "checkpoint")


def load(path: Path, mark: str) -> SearchState | None:
    """Read the state, or None where there is none yet.

    Raises:
        GgdjaxError: the file is damaged, or belongs to another network, other images or other settings.
    """
    if not path.exists():
        return None
    try:
        _, record, arrays = _files.read(path, (_KIND,), "checkpoint")
    except GgdjaxError as error:
        raise GgdjaxError(f"{error}, or remove it to start anew") from None
    with _files.decoding(path, "checkpoint"):
        found = record["fingerprint"]
        state = SearchState(
            quantizers=quantizers_from_record(record["quantizers"], arrays),
            score=arrays["score"],
            loss=arrays["loss"],
            decisions=[Decision(**decision) for decision in record["decisions"]],
            visits=record["visits"],
            changed=record["changed"],
        )
    if found != mark:
        raise GgdjaxError(
            f"`checkpoint` {path} belongs to another network, other images or other settings: remove it or name another"
        )
    return state
