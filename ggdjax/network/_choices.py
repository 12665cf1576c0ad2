"""Choices by the comparison of a tensor, for both importers; ``call`` is that of either."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from ggdjax.network._builder import View, common_order, stored_constant, without_repeats
from ggdjax.network._ops import ELEMENTWISE, OPS

if TYPE_CHECKING:
    from ggdjax.network._builder import Comparison
    from ggdjax.network._graph import Node

#: What passes values on: a choice behind it chooses among what it reads. A maximum reads what a sum does.
_PASSED = {"max": "sum"} | {
    op: op
    for op in (
        *("average_pool", "broadcast", "concat", "gather", "mean", "pad", "reshape", "resize", "slice", "sum"),
        "transpose",
    )
}


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
        defined = _defined(call, branch.tensor, factor)
        views.append(call.emit("mul", [defined], branch.axes, {"constant": factor}))
    if constant is not None and not constant.any():
        return views[0]
    if constant is not None:
        return call.emit("add", [views[0].tensor], views[0].axes, {"constant": stored_constant(constant, views[0])})
    axes = common_order(views)
    return call.emit("add", [call.builder.stored(view, axes) for view in views], axes)


def _defined(call: Any, tensor: str, factor: np.ndarray) -> str:
    """Return ``tensor`` with finite numbers where ``factor`` is 0: 0 times ∞ or NaN is NaN.

    Elementwise operations before it that are not finite everywhere are repeated on an input that is 1 there (exp: 0),
    and so is what passes their values on, such as a reshape or a sum.
    """
    node = call.builder.producer(tensor)
    if node is None or node.op not in {*ELEMENTWISE, *_PASSED}:
        return tensor
    params = call.builder.params_of(node)
    emit = partial(_emit, call)
    if node.op not in ELEMENTWISE and (node.op != "broadcast" or _rank(call, tensor) != factor.ndim):
        read = _read(call, node, factor)
        if read is None:
            inner = None if node.op != "reshape" else call.builder.producer(node.inputs[0])
            if inner is None or not _is_alike(call, inner):
                return tensor
            reshaped = [emit("reshape", [x], {}, **dict(node.attrs)) for x in inner.inputs]
            params = call.builder.params_of(inner)
            return _defined(call, emit(inner.op, reshaped, params, **dict(inner.attrs)), factor)
        inputs = [_defined(call, x, each) for x, each in zip(node.inputs, read, strict=True)]
    else:
        inputs = [_defined(call, x, factor) if _rank(call, x) == factor.ndim else x for x in node.inputs]
    if node.op in ("log", "sqrt") or (node.op == "exp" and not _is_masked(call, node.inputs[0])):
        at = 0
    elif node.op == "power":
        at = 0 if node.attr("exponent") < 0 or node.attr("exponent") % 1 else None
    else:  # the divisor, where it is a tensor
        reverse = bool(dict(node.attrs).get("reverse"))
        at = None if node.op != "div" or (params and not reverse) else int(len(inputs) == 2 and not reverse)
    if at is not None and _rank(call, inputs[at]) == factor.ndim:
        inputs[at] = emit("mul", [inputs[at]], {"constant": factor})
        if node.op != "exp":
            inputs[at] = emit("add", [inputs[at]], {"constant": 1 - factor})
    return tensor if inputs == [*node.inputs] else emit(node.op, inputs, params, **dict(node.attrs))


def _emit(call: Any, op: str, inputs: list[str], params: dict[str, np.ndarray], **attrs: Any) -> str:
    return call.emit(op, inputs, (), params, **attrs).tensor


def _read(call: Any, node: Node, factor: np.ndarray) -> list[np.ndarray] | None:
    """Return 1 where an element of each input is read for one that counts, else 0; None where images are joined."""
    found = []
    for probe in (0, 1):
        *shapes, out = (_shapes(call, tensor)[probe] for tensor in (*node.inputs, node.output))
        shared = tuple(k for k, size in enumerate(out) if size == 1)
        counts = np.broadcast_to(factor.max(shared, keepdims=True), out).astype(np.float32)
        _, pull = jax.vjp(partial(OPS[_PASSED[node.op]], **dict(node.attrs)), *map(jnp.zeros, shapes))
        found.append([without_repeats(np.asarray(read != 0, np.float32)) for read in pull(jnp.asarray(counts))])
    return found[0] if all(map(np.array_equal, *found)) else None


def _is_alike(call: Any, node: Node) -> bool:
    """Return whether an operation on each value by itself is the same for all of them and reads as many."""
    sizes = [_shapes(call, tensor) for tensor in (*node.inputs, node.output)]
    alike = all(value.size == 1 for value in call.builder.params_of(node).values())
    return node.op in ELEMENTWISE and alike and sizes[:-1] == sizes[1:]


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


def _shapes(call: Any, tensor: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    return call.shape(View(tensor, tuple(range(_rank(call, tensor)))))


def sign(call: Any, view: View) -> View:
    """Choose 1 above 0, 0 at it, −1 below."""
    one, none, less = (np.full((1,) * len(view.axes), value, np.float32) for value in (1.0, 0.0, -1.0))
    branches = {"above": none, "below": less}
    low = call.emit("select", [view.tensor], view.axes, branches, threshold=0.0, strict=False)
    return call.emit("select", [view.tensor, low.tensor], view.axes, {"above": one}, threshold=0.0, strict=True)
