"""From two jaxprs of one function, traced at two batch sizes, to a graph: constants evaluated, calls inlined."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax
import jax.extend.core
import jax.numpy as jnp
import numpy as np

from ggdjax._errors import GgdjaxError, UnsupportedError
from ggdjax.network._builder import Comparison, Constant, View
from ggdjax.network._graph import PROBE_BATCHES
from ggdjax.network.jaxpr._call import Call, Trace

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from ggdjax.network._network import Network
    from ggdjax.network.jaxpr._call import Value

#: Parameters that hold the body of a call, by which calls are recognised (jit, custom_jvp_call, remat, …).
_BODIES = ("jaxpr", "call_jaxpr", "fun_jaxpr")
#: Reductions by any function: theirs is a body of two numbers, no call.
_REDUCTIONS = frozenset({"reduce", "reduce_window"})
_CONTROL_FLOW = frozenset({"cond", "scan", "while"})

#: Shapes alone are looked at for this batch: no slice or limit that a function writes down holds that many images.
LARGE_BATCH = 1009
#: What moves a tensor moves a comparison of it.
_MOVING = frozenset({"broadcast_in_dim", "expand_dims", "reshape", "slice", "squeeze", "transpose"})
#: What gives fewer images than it is given.
_PICKING = frozenset({"slice", "dynamic_slice", "gather", "split"})

TRAINING_MODE = (
    "the module is in training mode: call `module.eval()` first (NNX), or give a function that calls it with "
    "`use_running_average=True` and `deterministic=True` (Linen)"
)


class _Walk:
    """Walks two jaxprs of one function side by side, an equation of each at a time, translating by ``rules``."""

    def __init__(self, trace: Trace, rules: Mapping[str, Callable[[Call], Any]]) -> None:
        self._trace = trace
        self._rules = rules

    def body(self, jaxprs: Sequence[Any], consts: Sequence[Value], args: Sequence[Value]) -> list[Value]:
        """Translate the equations of two jaxprs and return the values of their results."""
        first, second = jaxprs
        env: dict[Any, Value] = {}
        env.update(zip(first.constvars, consts, strict=True))
        env.update(zip(first.invars, args, strict=True))

        def read(variable: Any, other: Any) -> Value:
            if isinstance(variable, jax.extend.core.Literal):
                return Constant(np.asarray(variable.val), np.asarray(other.val))
            return env[variable]

        needed = _needed(first)
        for pair in zip(first.eqns, second.eqns, strict=True):
            if needed.isdisjoint(pair[0].outvars):
                continue
            inputs = [read(a, b) for a, b in zip(*map(_operands, pair), strict=True)]
            env.update(zip(pair[0].outvars, self._equation(pair, inputs), strict=True))
        return [read(a, b) for a, b in zip(first.outvars, second.outvars, strict=True)]

    def _equation(self, pair: tuple[Any, Any], inputs: Sequence[Value]) -> Sequence[Value]:
        name = pair[0].primitive.name
        if name.startswith(("random_", "threefry", "rng_")):
            raise UnsupportedError(
                f"random numbers (`{name}`): a network gives one result for one input; {TRAINING_MODE}"
            )
        if name in _CONTROL_FLOW:
            return self._control_flow(pair, inputs)
        bodies = next(([p.params[key] for p in pair] for key in _BODIES if key in pair[0].params), None)
        if bodies is not None and name not in _REDUCTIONS:
            closed = [body if hasattr(body, "consts") else None for body in bodies]
            consts = [] if closed[0] is None else constants(closed[0].consts, closed[1].consts, self._trace.label)
            plain = [body if whole is None else whole.jaxpr for body, whole in zip(bodies, closed, strict=True)]
            self._trace.functions.append(str(pair[0].params.get("name", "")))
            results = self.body(plain, consts, inputs)
            self._trace.functions.pop()
            return results
        if all(isinstance(value, Constant) for value in inputs):
            return _evaluate(pair, inputs)
        if name not in self._rules:
            raise UnsupportedError(
                f"unsupported operation `{name}`{self._trace.where(pair[0])}; "
                f"supported: {', '.join(sorted(self._rules))}"
            )
        if name in _MOVING and isinstance(compared := inputs[0], Comparison):
            return [compared.of(self._rules[name](Call(self._trace, pair, [compared.view, *inputs[1:]])))]
        call = Call(self._trace, pair, inputs)
        result = self._rules[name](call)
        results = result if isinstance(result, list) else [result]
        for value, *variables in zip(results, *(eqn.outvars for eqn in pair), strict=True):
            if isinstance(value, View) and call.shape(value) != tuple(tuple(v.aval.shape) for v in variables):
                raise call.refuse("operands that are broadcast to each other")
        return results

    def _control_flow(self, pair: tuple[Any, Any], inputs: Sequence[Value]) -> Sequence[Value]:
        """Evaluate a loop over constants, take the branch that a constant chooses; refuse all else."""
        name, index = pair[0].primitive.name, inputs[0] if inputs else None
        if all(isinstance(value, Constant) for value in inputs):
            return _evaluate(pair, inputs)
        if name == "cond" and isinstance(index, Constant) and index.is_static:
            branches = [eqn.params["branches"][int(index.probes[0])] for eqn in pair]
            consts = constants(branches[0].consts, branches[1].consts, self._trace.label)
            return self.body([branch.jaxpr for branch in branches], consts, inputs[1:])
        raise UnsupportedError(
            f"control flow (`{name}`{self._trace.where(pair[0])}): a network is one fixed sequence of operations; "
            "unroll the loop in Python, or choose the branch before tracing"
        )


def check_batch(*jaxprs: Any) -> None:
    """Refuse a function that takes a given number of images: sizes that do not grow as its batch does.

    ``jaxprs`` are its traces, closed or not, at the two probed batch sizes and at `LARGE_BATCH`.
    """
    for values in zip(*(getattr(jaxpr, "consts", ()) for jaxpr in jaxprs), strict=False):
        _check_constant(values)
    first, second, large = jaxprs = [getattr(jaxpr, "jaxpr", jaxpr) for jaxpr in jaxprs]
    slope = (LARGE_BATCH - PROBE_BATCHES[0]) // (PROBE_BATCHES[1] - PROBE_BATCHES[0])
    if not _structure(first) == _structure(second) == _structure(large):
        names = {eqn.primitive.name for jaxpr in jaxprs for eqn in jaxpr.eqns}
        what = " (a slice of the batch?)" if names & _PICKING else ""
        raise GgdjaxError(f"`function` does something else at another batch size{what}: it must do the same at each")
    needed = _needed(first)
    for equations in zip(first.eqns, second.eqns, large.eqns, strict=True):
        if needed.isdisjoint(equations[0].outvars):
            continue
        name = equations[0].primitive.name
        for bodies in _bodies(equations):
            check_batch(*bodies)
        for values in zip(*(eqn.invars for eqn in equations), strict=True):
            if all(isinstance(value, jax.extend.core.Literal) for value in values):
                _check_constant([value.val for value in values])
        for a, b, c in zip(*(eqn.outvars for eqn in equations), strict=True):
            shapes = a.aval.shape, b.aval.shape, c.aval.shape
            if any(z != x + (y - x) * slope for x, y, z in zip(*shapes, strict=True)):
                what = "a slice of the batch" if name in _PICKING else "a size that does not grow as the batch does"
                where = str(equations[0].source_info.name_stack)
                if name == "dot_general":
                    raise UnsupportedError(
                        f"unsupported: other products at another batch size{f' in {where}' if where else ''}: each "
                        "image is computed by itself, in one order (`jnp.einsum` and `jax.image.resize` choose one by "
                        "all sizes: multiply two factors at a time, resize one axis after the other)"
                    )
                raise UnsupportedError(
                    f"unsupported: {what} (`{name}`{f' in {where}' if where else ''}): each image is computed by itself"
                )


def _check_constant(values: Sequence[Any]) -> None:
    """Refuse a constant that is one for every image of a small batch, and is not of a large one."""
    if all(value is values[0] for value in values):
        return
    first, second, large = map(np.asarray, values)
    one = first[tuple(slice(0, 1) if a != b else slice(None) for a, b in zip(first.shape, second.shape, strict=True))]
    uniform = all((value == one).all() for value in (first, second))
    if uniform and not (large == one).all():
        raise UnsupportedError("unsupported: a constant whose values depend on the batch size, in a large batch")


def _bodies(equations: Sequence[Any]) -> list[tuple]:
    """Return the bodies of one call, or of the branches of one choice, at every batch size."""
    if equations[0].primitive.name in _REDUCTIONS:
        return []
    bodies = [tuple(eqn.params[key] for eqn in equations) for key in _BODIES if key in equations[0].params]
    return bodies + list(zip(*(eqn.params.get("branches", ()) for eqn in equations), strict=True))


def _structure(jaxpr: Any) -> list[tuple]:
    """Return what must not depend on the batch size."""
    return [(eqn.primitive.name, len(eqn.invars), len(eqn.outvars)) for eqn in jaxpr.eqns]


def _needed(jaxpr: Any) -> set[Any]:
    """Return the variables that lead to a result."""
    needed = {v for v in jaxpr.outvars if not isinstance(v, jax.extend.core.Literal)}
    for eqn in reversed(jaxpr.eqns):
        if not needed.isdisjoint(eqn.outvars):
            needed.update(v for v in _operands(eqn) if not isinstance(v, jax.extend.core.Literal))
    return needed


def _operands(equation: Any) -> list[Any]:
    """Return what an equation reads: empty parts of a concatenation (`jax.numpy.pad` has them) add nothing to it."""
    if equation.primitive.name != "concatenate":
        return equation.invars
    return [variable for variable in equation.invars if variable.aval.size] or equation.invars[:1]


def constants(first: Sequence[Any], second: Sequence[Any], label: Callable[[Any], str | None]) -> list[Constant]:
    """Return the constants of two jaxprs; those that are the same array are held once."""
    return [
        Constant(np.asarray(a), None if a is b else np.asarray(b), label(a)) for a, b in zip(first, second, strict=True)
    ]


def _evaluate(pair: tuple[Any, Any], inputs: Sequence[Constant]) -> list[Constant]:
    """Evaluate an equation that does not depend on the network's input, at both probes if it differs between them."""
    label = next((value.label for value in inputs if value.label), None)
    shapes = [[v.aval.shape for v in eqn.outvars] for eqn in pair]
    positional = any(value.positional for value in inputs)
    if pair[0].primitive.name == "iota":
        axis = pair[0].params["dimension"]
        positional = shapes[0][0][axis] != shapes[1][0][axis]
    once = shapes[0] == shapes[1] and all(value.is_static for value in inputs)
    results = []
    for probe in (0,) if once else (0, 1):
        # Calls are inlined before; the parameters of every other primitive bind as they are.
        primitive, arrays = pair[probe].primitive, [jax.device_put(value.probes[probe]) for value in inputs]
        values = primitive.bind(*arrays, **pair[probe].params)
        results.append(values if primitive.multiple_results else [values])
    spread = _spread(pair[0], inputs, results[0][0]) if once and len(results[0]) == 1 else None
    return [
        Constant(*(np.asarray(v) for v in versions), label=label, positional=positional, spread=spread)
        for versions in zip(*results, strict=True)
    ]


#: What gives a constant another shape or type and leaves its values.
_RESHAPING = frozenset({"broadcast_in_dim", "convert_element_type", "expand_dims", "reshape", "squeeze", "transpose"})


def _spread(equation: Any, inputs: Sequence[Constant], value: Any) -> tuple[int, np.ndarray] | None:
    """Return (power, gain) of a value that is gain · σ^power, σ the root of a constant; None where it is not seen.

    Batch normalization multiplies by γ/√(variance + ε): γ is lost in the product, and is the standard deviation of
    its result. Every root starts as gain 1; what is done to it afterwards is done to the gain.
    """
    name, first = equation.primitive.name, inputs[0].spread if inputs else None
    if name in {"rsqrt", "sqrt"}:
        return (1 if name == "sqrt" else -1), np.ones(np.shape(value))
    if name in _RESHAPING and first is not None:
        return first[0], np.asarray(equation.primitive.bind(jnp.asarray(first[1], jnp.float32), **equation.params))
    if name not in {"mul", "div"}:
        return None
    second = inputs[1].spread
    if (first is None) == (second is None):
        return None
    power, gain = first or second
    other = inputs[1 if second is None else 0].probes[0]
    if second is not None and name == "div":
        power, gain = -power, other / gain
    else:
        gain = gain * other if name == "mul" else gain / other
    return power, np.broadcast_to(gain, np.shape(value))


def walk(first: Any, second: Any, paths: Mapping[int, str], rules: Mapping[str, Callable[[Call], Any]]) -> Network:
    """Return the network of a function of one argument, given its closed jaxprs at two batch sizes.

    ``paths`` holds the path of a parameter by the identity of its array, ``rules`` the translation of each primitive.

    Raises:
      UnsupportedError: an operation outside the set.
    """
    trace = Trace(paths)
    probes = tuple(first.jaxpr.invars[0].aval.shape), tuple(second.jaxpr.invars[0].aval.shape)
    x = trace.builder.add_input("input", probes)
    consts = constants(first.consts, second.consts, trace.label)
    results = _Walk(trace, rules).body((first.jaxpr, second.jaxpr), consts, [x])
    if not results or not all(isinstance(value, View) for value in results):
        raise GgdjaxError(
            "a result of `function` does not depend on its argument, or is no number: return what it computes"
        )
    return trace.builder.finish(results)
