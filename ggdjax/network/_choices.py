"""Choices by the comparison of a tensor, for both importers; ``call`` is that of either."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ggdjax.network._builder import common_order, stored_constant

if TYPE_CHECKING:
    from ggdjax.network._builder import Comparison, View


def chosen(call: Any, condition: Comparison, compared: View, first: str | np.ndarray, second: str | np.ndarray) -> View:
    """Return ``first`` where a condition on ``compared`` holds, and ``second`` elsewhere.

    Both are tensors or constants, stored as ``compared`` is, which is the view of the condition in that order.
    """

    def select(above: str | np.ndarray, below: str | np.ndarray, *, strict: bool) -> View:
        sides = {"above": above, "below": below}
        inputs = [compared.tensor, *(side for side in sides.values() if isinstance(side, str))]
        constants = {role: side for role, side in sides.items() if not isinstance(side, str)}
        return call.emit("select", inputs, compared.axes, constants, threshold=condition.threshold, strict=strict)

    if not condition.positive:
        first, second = second, first
    if condition.equal:  # neither above nor below
        return select(second, select(first, second, strict=False).tensor, strict=True)
    return select(first, second, strict=condition.strict)


def masked(call: Any, kept: np.ndarray, *branches: View | np.ndarray) -> View:
    """Return the first branch where a constant condition holds and the second elsewhere: a sum of both with zeros.

    One at least is a view; views and the condition have as many axes. A number plus ∞ is ∞ without being made 0 before.
    """
    views, constant = [], None
    for index, (branch, where) in enumerate(zip(branches, (kept, ~kept), strict=True)):
        if isinstance(branch, np.ndarray):
            constant = np.where(where, branch, np.float32(0))
            continue
        other = branches[1 - index]
        if isinstance(other, np.ndarray) and np.isinf(np.where(where, np.inf, other)).all():
            views.append(branch)
            continue
        factor = {"constant": stored_constant(where.astype(np.float32), branch)}
        views.append(call.emit("mul", [branch.tensor], branch.axes, factor))
    if constant is not None and not constant.any():
        return views[0]
    if constant is not None:
        return call.emit("add", [views[0].tensor], views[0].axes, {"constant": stored_constant(constant, views[0])})
    axes = common_order(views)
    return call.emit("add", [call.builder.stored(view, axes) for view in views], axes)


def sign(call: Any, view: View) -> View:
    """Choose 1 above 0, 0 at it, −1 below."""
    one, none, less = (np.full((1,) * len(view.axes), value, np.float32) for value in (1.0, 0.0, -1.0))
    branches = {"above": none, "below": less}
    low = call.emit("select", [view.tensor], view.axes, branches, threshold=0.0, strict=False)
    return call.emit("select", [view.tensor, low.tensor], view.axes, {"above": one}, threshold=0.0, strict=True)
