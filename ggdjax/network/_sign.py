"""The sign of a tensor as two choices, for both importers."""

from __future__ import annotations

from typing import Any

import numpy as np

from ggdjax.network._builder import View


def sign(call: Any, view: View) -> View:
    """Choose 1 above 0, 0 at it, −1 below; ``call`` is that of either importer."""
    one, none, less = (np.full((1,) * len(view.axes), value, np.float32) for value in (1.0, 0.0, -1.0))
    branches = {"above": none, "below": less}
    low = call.emit("select", [view.tensor], view.axes, branches, threshold=0.0, strict=False)
    return call.emit("select", [view.tensor, low.tensor], view.axes, {"above": one}, threshold=0.0, strict=True)
