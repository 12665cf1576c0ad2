"""ONNX operators that sum products: of an activation and a weight, or of two activations."""

from __future__ import annotations

from ggdjax.network._builder import Constant, View
from ggdjax.network._products import images_first, product_of_views, product_with_weight
from ggdjax.network.onnx._convert import Call, handler


@handler("MatMul")
def _matmul(call: Call) -> View:
    values = [call.get(0), call.get(1)]
    if all(isinstance(value, View) for value in values):
        return _of_views(call, *values)
    which = 0 if isinstance(values[0], View) else 1
    view, weight = call.view(which), call.weight(1 - which)
    # Axes of size 1 in front of a weight are those of the result, where the activation has none.
    leading = max(weight.ndim - max(len(view.axes), 2), 0)
    if any(size != 1 for size in weight.shape[:leading]):
        raise call.refuse(f"a product with a weight of shape {weight.shape}, repeated for every activation")
    while weight.ndim > 2 and weight.shape[0] == 1:
        weight = weight[0]
    rank, extra = len(view.axes), weight.ndim - 2
    if extra > 0 and (rank < weight.ndim or call.shape(view)[0][rank - 2 - extra : rank - 2] != weight.shape[:-2]):
        raise call.refuse(f"a product with a weight of shape {weight.shape}, repeated over an axis of the activation")
    contract = [(rank - 1,), (max(weight.ndim - 2, 0),)] if which == 0 else [(max(rank - 2, 0),), (weight.ndim - 1,)]
    shared = [tuple(range(rank - 2 - extra, rank - 2)), tuple(range(extra))] if extra > 0 else [(), ()]
    result = product_with_weight(call, view, weight, contract, shared)
    # Shared axes come first, then those of the activation, then those of the weight.
    count, own = len(shared[0]), rank - len(shared[0]) - 1
    rows = list(range(count, count + own))
    columns = list(range(count + own, len(result.axes)))
    lead = rows if rank == 1 else rows[:-1]
    last = [] if rank == 1 else rows[-1:]
    result = result.permute([*lead, *range(count), *(last + columns if which == 0 else columns + last)])
    return call.reshape(result, *((1,) * leading + shape for shape in call.shape(result))) if leading else result


def _of_views(call: Call, *views: View) -> View:
    """Append a product of two activations; the batches of matrices may differ where one has a single one."""
    rank = max(2, *(len(view.axes) for view in views))
    matrices = []
    for which, view in enumerate(views):
        shapes = call.shape(view)
        if len(view.axes) == 1:
            shapes = tuple((1, *shape) if which == 0 else (*shape, 1) for shape in shapes)
        target = tuple((1,) * (rank - len(shape)) + shape for shape in shapes)
        matrices.append(call.reshape(view, *target))
        call.refuse_batch(matrices[-1], [rank - 1 - which], "a sum over the batch")
    stacked = list(range(rank - 2))
    orders = (images_first(call, matrix, stacked) for matrix in matrices)
    order = [*next((order for order in orders if order != stacked), stacked), rank - 2, rank - 1]
    result = call.emit("matmul", [call.builder.native(matrix.permute(order)) for matrix in matrices], range(rank))
    result = result.permute([*map(order.index, range(rank))])
    dropped = [rank - 2 + which for which, view in enumerate(views) if len(view.axes) == 1]
    shapes = (tuple(n for k, n in enumerate(shape) if k not in dropped) for shape in call.shape(result))
    return call.reshape(result, *shapes) if dropped else result


@handler("Einsum")
def _einsum(call: Call) -> View:
    """Return a sum of products of one or two operands, which `...` and letters name."""
    values = [call.get(k) for k in range(len(call.node.input))]
    equation = call.attr("equation", "").replace(" ", "")
    terms, arrow, result = equation.partition("->")
    letters = terms.split(",")
    ranks = [len(value.axes) if isinstance(value, View) else value.probes[0].ndim for value in values]
    hidden = [rank - len(term.replace("...", "")) for term, rank in zip(letters, ranks, strict=True)]
    letters = [term.replace("...", _hidden(count)) for term, count in zip(letters, hidden, strict=True)]
    if not arrow:
        joined = terms.replace(",", "").replace("...", "")
        result = ("..." if "..." in terms else "") + "".join(sorted(c for c in set(joined) if joined.count(c) == 1))
    result = result.replace("...", _hidden(max(hidden)))
    if len(values) > 2 or any(len(set(term)) < len(term) for term in letters) or len(set(result)) < len(result):
        raise call.refuse(f"the equation {equation}, of more than two operands or a diagonal; write products of two")
    views = []
    for which, value in enumerate(values):
        others = set(result).union(*(term for k, term in enumerate(letters) if k != which))
        alone = [axis for axis, letter in enumerate(letters[which]) if letter not in others]
        letters[which] = "".join(letter for letter in letters[which] if letter in others)
        if isinstance(value, Constant):
            views.append(call.weight(which).sum(tuple(alone)))
            continue
        call.refuse_batch(value, alone, "a sum over the batch")
        views.append(value)
        if alone:
            kept = [axis for axis in value.axes if axis not in {value.axes[k] for k in alone}]
            order = tuple(sorted(kept).index(axis) for axis in kept)
            stored = tuple(sorted(value.axes[k] for k in alone))
            views[-1] = call.emit("sum", [value.tensor], order, axes=stored, keepdims=False)
    if len(views) == 1:
        return views[0].permute([letters[0].index(letter) for letter in result])
    which = 0 if isinstance(views[0], View) else 1
    order = (which, 1 - which)
    first, second = (letters[k] for k in order)
    shared = [letter for letter in first if letter in second]
    axes = [
        [tuple(term.index(letter) for letter in some) for term in (first, second)]
        for some in ([c for c in shared if c not in result], [c for c in shared if c in result])
    ]
    pair = [views[k] for k in order]
    both = isinstance(pair[1], View)
    found = product_of_views(call, pair, *axes) if both else product_with_weight(call, *pair, *axes)
    kept = [c for c in shared if c in result] + [c for c in first + second if c not in shared]
    return found.permute([kept.index(letter) for letter in result])


def _hidden(count: int) -> str:
    """Return letters that no equation has for the axes that `...` stands for, the same from the right."""
    return "".join(chr(0x391 + k) for k in reversed(range(count)))
