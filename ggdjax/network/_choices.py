"""Choices by the comparison of a tensor, for both importers; ``call`` is that of either."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ggdjax.network._builder import common_order, stored_constant
from ggdjax.network._ops import ELEMENTWISE

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
    A branch that has no finite number where it does not count, such as log 0, is computed from another input there.
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
        factor = stored_constant(where.astype(np.float32), branch)
        defined = _defined(call, branch.tensor, factor, branch.axes)
        views.append(call.emit("mul", [defined], branch.axes, {"constant": factor}))
    if constant is not None and not constant.any():
        return views[0]
    if constant is not None:
        return call.emit("add", [views[0].tensor], views[0].axes, {"constant": stored_constant(constant, views[0])})
    axes = common_order(views)
    return call.emit("add", [call.builder.stored(view, axes) for view in views], axes)


def _defined(call: Any, tensor: str, factor: np.ndarray, axes: tuple[int, ...]) -> str:
    """Return ``tensor`` with finite numbers where ``factor`` is 0: 0 times ∞ or NaN is NaN.

    Elementwise operations before it that are not finite everywhere are repeated on an input that is 1 there (exp: 0).
    """
    node = call.builder.producer(tensor)
    if node is None or node.op not in {*ELEMENTWISE, "broadcast"}:
        return tensor
    params = call.builder.params_of(node)
    inputs = [_defined(call, x, factor, axes) if _rank(call, x) == factor.ndim else x for x in node.inputs]
    if node.op in ("log", "sqrt") or (node.op == "exp" and not _is_masked(call, node.inputs[0])):
        at = 0
    elif node.op == "power":
        at = 0 if node.attr("exponent") < 0 or node.attr("exponent") % 1 else None
    else:  # the divisor, where it is a tensor
        reverse = bool(dict(node.attrs).get("reverse"))
        at = None if node.op != "div" or (params and not reverse) else int(len(inputs) == 2 and not reverse)
    if at is not None and _rank(call, inputs[at]) == factor.ndim:
        inputs[at] = call.emit("mul", [inputs[at]], axes, {"constant": factor}).tensor
        if node.op != "exp":
            inputs[at] = call.emit("add", [inputs[at]], axes, {"constant": 1 - factor}).tensor
    if inputs == [*node.inputs]:
        return tensor
    return call.emit(node.op, inputs, axes, params, **dict(node.attrs)).tensor


def _is_masked(call: Any, tensor: str) -> bool:
    """Return whether an exponent is the difference of two tensors, as in softmax, or holds masks of ∞."""
    node = call.builder.producer(tensor)
    if node is None or node.op not in ELEMENTWISE:
        return False
    if (node.op, len(node.inputs)) == ("sub", 2) or any(
        np.isinf(p).any() for p in call.builder.params_of(node).values()
    ):
        return True
    return any(_is_masked(call, x) for x in node.inputs)


def _rank(call: Any, tensor: str) -> int:
    return len(call.builder.stored_shape(tensor))


def sign(call: Any, view: View) -> View:
    """Choose 1 above 0, 0 at it, −1 below."""
    one, none, less = (np.full((1,) * len(view.axes), value, np.float32) for value in (1.0, 0.0, -1.0))
    branches = {"above": none, "below": less}
    low = call.emit("select", [view.tensor], view.axes, branches, threshold=0.0, strict=False)
    return call.emit("select", [view.tensor, low.tensor], view.axes, {"above": one}, threshold=0.0, strict=True)
