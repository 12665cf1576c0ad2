"""From two jaxprs of one function, traced at two batch sizes, to a graph: constants evaluated, calls inlined."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import jax
import jax.extend.core
import jax.numpy as jnp
import numpy as np

from ggdjax._errors import GgdjaxError, UnsupportedError
from ggdjax.network._builder import Constant, GraphBuilder, View

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from ggdjax.network._builder import Probes
    from ggdjax.network._network import Network

#: Parameters that hold the body of a call, by which calls are recognised (jit, custom_jvp_call, remat, …).
_BODIES = ("jaxpr", "call_jaxpr", "fun_jaxpr")
#: Reductions by any function: theirs is a body of two numbers, no call.
_REDUCTIONS = frozenset({"reduce", "reduce_window"})
_CONTROL_FLOW = frozenset({"cond", "scan", "while"})


class Comparison:
    """A view compared with 0: what `where` needs to be recognised as an activation. ``positive``: true where x > 0."""

    def __init__(self, view: View, positive: bool) -> None:
        self.view = view
        self.positive = positive


Value = View | Constant | Comparison


class Call:
    """One equation being translated: what a rule may ask and do."""

    def __init__(self, tracer: Tracer, pair: tuple[Any, Any], inputs: Sequence[Value]) -> None:
        self.tracer = tracer
        self.builder = tracer.builder
        self.pair = pair
        self.inputs = inputs
        self.primitive: str = pair[0].primitive.name

    def refuse(self, what: str) -> UnsupportedError:
        """Return the error that says what of this equation is unsupported, and where it stands."""
        return UnsupportedError(f"unsupported: {what} (`{self.primitive}`{self.tracer.where(self.pair[0])})")

    def param(self, name: str) -> Any:
        """Return a parameter of the equation."""
        return self.pair[0].params[name]

    def params(self, name: str) -> tuple[Any, Any]:
        """Return a parameter of the equation at both probes."""
        return self.pair[0].params[name], self.pair[1].params[name]

    def view(self, index: int = 0) -> View:
        """Return input ``index``, which must depend on the network's input."""
        value = self.inputs[index]
        if not isinstance(value, View):
            raise self.refuse(f"a constant as operand {index}")
        return value

    def constants(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Return input ``index``, which must not depend on the network's input, at both probes."""
        value = self.inputs[index]
        if not isinstance(value, Constant):
            raise self.refuse(f"operand {index} computed from the network's input; a constant is needed")
        return value.probes

    def constant(self, index: int) -> np.ndarray:
        """Return input ``index``, which must not depend on the network's input nor on the batch size."""
        first, second = self.constants(index)
        if first is not second:
            raise self.refuse("a constant whose values depend on the batch size")
        return first

    def shape(self, view: View) -> Probes:
        """Return the shape of ``view`` at both probes."""
        return self.builder.shape(view)

    def refuse_batch(self, view: View, axes: Iterable[int], what: str) -> None:
        """Raise the error that says ``what`` is unsupported if one of the ``axes`` of ``view`` is the batch."""
        first, second = self.shape(view)
        if any(first[axis] != second[axis] for axis in axes):
            raise self.refuse(f"{what}: each image is computed by itself")

    @property
    def out_shape(self) -> Probes:
        """Shape of the (first) result at both probes."""
        return tuple(self.pair[0].outvars[0].aval.shape), tuple(self.pair[1].outvars[0].aval.shape)

    def emit(
        self,
        op: str,
        inputs: Sequence[str],
        order: Sequence[int],
        params: Mapping[str, np.ndarray] | None = None,
        **attrs: Any,
    ) -> View:
        """Append a node; its result has axis i (in the function's order) stored at ``order[i]``."""
        name = self.tracer.name(op, self.inputs)
        tensor = self.builder.emit(op, inputs, name=name, attrs=attrs, params=dict(params or {}))
        return View(tensor, tuple(order))

    def reshape(self, view: View, probes: Probes) -> View:
        """Return ``view`` reshaped to the shape given at both probes."""
        return self.builder.shaped(view, probes, name=self.tracer.name("reshape", ()))


#: primitive -> rule that translates one equation of it.
RULES: dict[str, Callable[[Call], Any]] = {}


def rule(*primitives: str) -> Callable[[Any], Any]:
    """Register a function as the translation of primitives."""

    def register(function: Any) -> Any:
        for primitive in primitives:
            RULES[primitive] = function
        return function

    return register


class Tracer:
    """Walks two jaxprs of one function side by side."""

    def __init__(self, paths: Mapping[int, str]) -> None:
        self.builder = GraphBuilder()
        self.sums: dict[str, tuple] = {}
        self.channel_sums: dict[str, tuple[View, View, int, int]] = {}
        self._paths = paths
        self._counts: Counter[str] = Counter()

    def name(self, op: str, inputs: Sequence[Value]) -> str:
        """Return the path of the module whose parameter is among ``inputs``, or op_index."""
        for value in inputs:
            if isinstance(value, Constant) and value.label and "/" in value.label:
                return value.label.rsplit("/", 1)[0]
        self._counts[op] += 1
        return f"{op}_{self._counts[op] - 1}"

    def where(self, equation: Any) -> str:
        """Return where an equation stands in the user's code, for a message."""
        stack = str(equation.source_info.name_stack)
        return f" in {stack}" if stack else ""

    def label(self, value: Any) -> str | None:
        """Return the path of the parameter that an array is."""
        return self._paths.get(id(value))

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

        if _structure(first) != _structure(second):
            raise GgdjaxError("`function` does something else at another batch size: it must do the same at each")
        needed = _needed(first)
        for pair in zip(first.eqns, second.eqns, strict=True):
            if needed.isdisjoint(pair[0].outvars):
                continue
            inputs = [read(a, b) for a, b in zip(pair[0].invars, pair[1].invars, strict=True)]
            env.update(zip(pair[0].outvars, self._equation(pair, inputs), strict=True))
        return [read(a, b) for a, b in zip(first.outvars, second.outvars, strict=True)]

    def _equation(self, pair: tuple[Any, Any], inputs: Sequence[Value]) -> Sequence[Value]:
        name = pair[0].primitive.name
        if name.startswith(("random_", "threefry", "rng_")):
            from ggdjax.network.jaxpr._tracer import TRAINING_MODE

            raise UnsupportedError(
                f"random numbers (`{name}`): a network gives one result for one input; {TRAINING_MODE}"
            )
        if name in _CONTROL_FLOW:
            return self._control_flow(pair, inputs)
        bodies = next(([p.params[key] for p in pair] for key in _BODIES if key in pair[0].params), None)
        if bodies is not None and name not in _REDUCTIONS:
            closed = [body if hasattr(body, "consts") else None for body in bodies]
            consts = [] if closed[0] is None else constants(closed[0].consts, closed[1].consts, self.label)
            plain = [body if whole is None else whole.jaxpr for body, whole in zip(bodies, closed, strict=True)]
            return self.body(plain, consts, inputs)
        if all(isinstance(value, Constant) for value in inputs):
            return _evaluate(pair, inputs)
        if name not in RULES:
            raise UnsupportedError(
                f"unsupported operation `{name}`{self.where(pair[0])}; supported: {', '.join(sorted(RULES))}"
            )
        result = RULES[name](Call(self, pair, inputs))
        return result if isinstance(result, list) else [result]

    def _control_flow(self, pair: tuple[Any, Any], inputs: Sequence[Value]) -> Sequence[Value]:
        """Evaluate a loop over constants, take the branch that a constant chooses; refuse all else."""
        name, index = pair[0].primitive.name, inputs[0] if inputs else None
        if all(isinstance(value, Constant) for value in inputs):
            return _evaluate(pair, inputs)
        if name == "cond" and isinstance(index, Constant) and index.is_static:
            branches = [eqn.params["branches"][int(index.probes[0])] for eqn in pair]
            consts = constants(branches[0].consts, branches[1].consts, self.label)
            return self.body([branch.jaxpr for branch in branches], consts, inputs[1:])
        raise UnsupportedError(
            f"control flow (`{name}`{self.where(pair[0])}): a network is one fixed sequence of operations; unroll the "
            "loop in Python, or choose the branch before tracing"
        )


def _structure(jaxpr: Any) -> list[tuple]:
    """Return what must not depend on the batch size."""
    return [(eqn.primitive.name, len(eqn.invars), len(eqn.outvars)) for eqn in jaxpr.eqns]


def _needed(jaxpr: Any) -> set[Any]:
    """Return the variables that lead to a result."""
    needed = {v for v in jaxpr.outvars if not isinstance(v, jax.extend.core.Literal)}
    for eqn in reversed(jaxpr.eqns):
        if not needed.isdisjoint(eqn.outvars):
            needed.update(v for v in eqn.invars if not isinstance(v, jax.extend.core.Literal))
    return needed


def constants(first: Sequence[Any], second: Sequence[Any], label: Callable[[Any], str | None]) -> list[Constant]:
    """Return the constants of two jaxprs; those that are the same array are held once."""
    return [
        Constant(np.asarray(a), None if a is b else np.asarray(b), label(a)) for a, b in zip(first, second, strict=True)
    ]


def _evaluate(pair: tuple[Any, Any], inputs: Sequence[Constant]) -> list[Constant]:
    """Evaluate an equation that does not depend on the network's input, at both probes if it differs between them."""
    label = next((value.label for value in inputs if value.label), None)
    same_shapes = [v.aval.shape for v in pair[0].outvars] == [v.aval.shape for v in pair[1].outvars]
    once = same_shapes and all(value.is_static for value in inputs)
    results = []
    for probe in (0,) if once else (0, 1):
        # Calls are inlined before; the parameters of every other primitive bind as they are.
        primitive, arrays = pair[probe].primitive, [jnp.asarray(value.probes[probe]) for value in inputs]
        values = primitive.bind(*arrays, **pair[probe].params)
        results.append(values if primitive.multiple_results else [values])
    return [Constant(*(np.asarray(v) for v in versions), label=label) for versions in zip(*results, strict=True)]


def walk(first: Any, second: Any, paths: Mapping[int, str]) -> Network:
    """Return the network of a function of one argument, given its closed jaxprs at two batch sizes.

    Raises:
      UnsupportedError: an operation outside the set.
    """
    from ggdjax.network.jaxpr import _rules  # noqa: F401  (it registers the rules)

    tracer = Tracer(paths)
    probes = tuple(first.jaxpr.invars[0].aval.shape), tuple(second.jaxpr.invars[0].aval.shape)
    x = tracer.builder.add_input("input", probes)
    results = tracer.body((first.jaxpr, second.jaxpr), constants(first.consts, second.consts, tracer.label), [x])
    if not results or not all(isinstance(value, View) for value in results):
        raise GgdjaxError(
            "a result of `function` does not depend on its argument, or is no number: return what it computes"
        )
    return tracer.builder.finish(results)
