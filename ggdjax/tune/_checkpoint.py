"""The state of a search or a rounding on disk: written whole after every step, refused where it is another run's."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import jax
import numpy as np

from ggdjax import _files
from ggdjax._errors import GgdjaxError
from ggdjax.quantization import Quantizers
from ggdjax.quantization._record import image_hash
from ggdjax.quantization._serialize import quantizers_from_record, quantizers_record
from ggdjax.tune._history import Decision

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ggdjax.network import Node
    from ggdjax.quantization import QuantizedNetwork
    from ggdjax.steps import Quantizer
    from ggdjax.tune._walk import Walk

T = TypeVar("T")
_SEARCH, _ROUNDING = "search checkpoint", "rounding checkpoint"


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


@dataclass(kw_only=True)
class RoundingState:
    """The layers that are rounded so far; what they give is computed again."""

    layers: dict[str, dict[str, Any]] = field(default_factory=dict)
    """What the history says of each, in order."""
    weights: dict[str, Quantizer] = field(default_factory=dict)
    biases: dict[str, Quantizer | None] = field(default_factory=dict)
    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    """``NAME/kernel`` and ``NAME/bias``: a kernel that a later layer shares changes again."""

    def add(self, walk: Walk, node: Node, layer: dict[str, Any]) -> None:
        """Add a layer as the walk has it now."""
        self.layers[node.name], self.weights[node.name] = layer, walk.weights[node.name]
        if node.name in walk.biases:
            self.biases[node.name] = walk.biases[node.name]
        for role, key in node.params:
            self.arrays[f"{node.name}/{role}"] = np.asarray(walk.params[key])

    def restore(self, walk: Walk, node: Node) -> dict[str, Any]:
        """Give the walk a layer as it was added; return what the history says of it."""
        walk.weights[node.name] = self.weights[node.name]
        if node.name in self.biases:
            walk.biases[node.name] = self.biases[node.name]
        for role, key in node.params:
            walk.params[key] = jax.device_put(self.arrays[f"{node.name}/{role}"])
        return self.layers[node.name]


def fingerprint(q: QuantizedNetwork, images: np.ndarray, labels: np.ndarray | None, settings: dict[str, Any]) -> str:
    """Return what tells one run from another: network, parameters, images, labels and settings."""
    digest = hashlib.sha256()
    record, steps = quantizers_record(q.quantizers)
    digest.update(repr((q.graph.nodes, settings, record)).encode())
    for arrays in (q.params, q.float_network.params, steps):
        for key in sorted(arrays):
            digest.update(key.encode() + np.ascontiguousarray(arrays[key]).tobytes())
    digest.update(image_hash(images).encode())
    digest.update(b"" if labels is None else np.asarray(labels, np.int64).tobytes())
    return digest.hexdigest()


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
    _files.write(path, _SEARCH, record, arrays | {"score": state.score, "loss": state.loss}, "checkpoint")


def load(path: Path, mark: str) -> SearchState | None:
    """Read the state, or None where there is none yet.

    Raises:
        GgdjaxError: the file is damaged, or belongs to another network, other images or other settings.
    """

    def decode(record: dict[str, Any], arrays: dict[str, np.ndarray]) -> SearchState:
        return SearchState(
            quantizers=quantizers_from_record(record["quantizers"], arrays),
            score=arrays["score"],
            loss=arrays["loss"],
            decisions=[Decision(**decision) for decision in record["decisions"]],
            visits=record["visits"],
            changed=record["changed"],
        )

    return _load(path, _SEARCH, mark, decode)


def save_rounding(path: Path, state: RoundingState, mark: str) -> None:
    """Write the state; a reader sees the old one or the new one, never a part."""
    quantizers, arrays = quantizers_record(Quantizers(weights=state.weights, biases=state.biases))
    record = {"fingerprint": mark, "layers": state.layers, "quantizers": quantizers}
    _files.write(path, _ROUNDING, record, arrays | state.arrays, "checkpoint")


def load_rounding(path: Path, mark: str) -> RoundingState | None:
    """Read the state, or None where there is none yet; errors as `load`."""

    def decode(record: dict[str, Any], arrays: dict[str, np.ndarray]) -> RoundingState:
        quantizers = quantizers_from_record(record["quantizers"], arrays)
        own = {f"{name}/{part}" for name in record["layers"] for part in ("kernel", "bias")}
        return RoundingState(
            layers=record["layers"],
            weights=dict(quantizers.weights),
            biases=dict(quantizers.biases),
            arrays={key: array for key, array in arrays.items() if key in own},
        )

    return _load(path, _ROUNDING, mark, decode)


def _load(path: Path, kind: str, mark: str, decode: Callable[[dict[str, Any], dict[str, np.ndarray]], T]) -> T | None:
    if not path.exists():
        return None
    try:
        _, record, arrays = _files.read(path, (kind,), "checkpoint")
    except GgdjaxError as error:
        raise GgdjaxError(f"{error}, or remove it to start anew") from None
    with _files.decoding(path, "checkpoint"):
        found, state = record["fingerprint"], decode(record, arrays)
    if found != mark:
        raise GgdjaxError(
            f"`checkpoint` {path} belongs to another network, other images or other settings: remove it or name another"
        )
    return state
