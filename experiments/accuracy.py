"""Accuracy on labelled images, image by image: what rows keep of it, and how two are compared."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

import numpy as np

from ggdjax import quantization, tune
from ggdjax._ranking import rank_of_label

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


def ranks(forward: Callable[[Any], Any], batches: Sequence[tuple[Any, Any]]) -> np.ndarray:
    """Return of every image how many classes stand before its own.

    Raises:
        DataError: labels or outputs that do not fit.
    """
    outputs = []

    def kept(x: Any) -> Any:
        outputs.append(np.asarray(forward(x)))
        return outputs[-1]

    quantization.accuracy(kept, batches)  # pads the last batch, and refuses what does not fit
    pairs = zip(outputs, batches, strict=True)
    return np.concatenate([rank_of_label(y.reshape(len(y), -1)[: len(t)], np.asarray(t)) for y, (_, t) in pairs])


def figures(rank: np.ndarray) -> dict[str, Any]:
    """Return top-1 and top-5 with 95 % intervals (Wilson), the number of images, and which are right."""
    found = quantization.Accuracy(top1=float(np.mean(rank < 1)), top5=float(np.mean(rank < 5)), images=len(rank))
    return _figures(found, rank < 1)


def p_value(before: np.ndarray, after: np.ndarray) -> float:
    """Return that of McNemar's exact test, by the ranks of the same images."""
    return tune.mcnemar(before < 1, after < 1).p_value


def of_evaluation(evaluation: quantization.Evaluation) -> dict[str, Any]:
    """Return the same of the quantized network of an evaluation."""
    return _figures(evaluation.quantized_accuracy, np.asarray(evaluation.quantized_correct))


def _figures(found: quantization.Accuracy, correct: np.ndarray) -> dict[str, Any]:
    return {
        "top1": found.top1,
        "top1_interval": found.interval(),
        "top5": found.top5,
        "top5_interval": found.interval("top5"),
        "held_out_images": found.images,
        "right": base64.b64encode(np.packbits(correct)).decode(),
    }


def right(row: dict[str, Any]) -> np.ndarray | None:
    """Return which images a row has right, in the order of their ids; None where it does not say."""
    if "right" not in row:
        return None
    bits = np.unpackbits(np.frombuffer(base64.b64decode(row["right"]), np.uint8))
    return bits[: row["held_out_images"]].astype(bool)


def shown(row: dict[str, Any]) -> dict[str, str]:
    """Return top-1 with its interval and top-5, in %."""
    found = quantization.Accuracy(top1=row["top1"], top5=row["top5"], images=row["held_out_images"])
    low, high = found.interval()
    return {
        "top-1, %": f"{100 * row['top1']:.2f} [{100 * low:.1f}, {100 * high:.1f}]",
        "top-5, %": f"{100 * row['top5']:.2f}",
    }
