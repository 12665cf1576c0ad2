"""Where the true class stands among the logits, by one rule for every accuracy and every search."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Array, Float, Int


def rank_of_label(
    logits: Float[Array | np.ndarray, "row class"], labels: Int[Array | np.ndarray, " row"]
) -> Int[Array | np.ndarray, " row"]:
    """Return how many other classes have a logit no smaller than the label's; 0 is right.

    Ties count against the label, whichever classes they are between: a network that collapsed to equal logits knows
    nothing. A row with NaN, or whose label has an infinite logit, ranks last. NumPy in, NumPy out; JAX arrays also
    under `jit`.
    """
    xp = logits.__array_namespace__()
    own = xp.take_along_axis(logits, labels[:, None], axis=1)
    others = (logits >= own).sum(axis=1) - 1
    usable = ~xp.isnan(logits).any(axis=1) & xp.isfinite(own[:, 0])
    return xp.where(usable, others, logits.shape[1])
