"""What a rule works with: the trace so far, and the equation to translate."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import jax

from ggdjax._errors import UnsupportedError
from ggdjax.network._builder import Comparison, Constant, GraphBuilder, View

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import numpy as np

    from ggdjax.network._builder import Probes


_LAYERS = frozenset({"conv", "dense"})


def _scope(equation: Any) -> str:
    """Return the name scopes around an equation, without the transformations: ``vmap(net)/conv`` is ``net/conv``."""
    return re.sub(r"\w+\(([^()]*)\)", r"\1", str(equation.source_info.name_stack))


Value = View | Constant | Comparison


class Trace:
    """The graph being built, and what rules remember while two jaxprs of one function are walked side by side."""

    def __init__(self, paths: Mapping[int, str]) -> None:
        self.builder = GraphBuilder()
        self.sums: dict[str, tuple] = {}
        self.channel_sums: dict[str, tuple[View, View, int, int]] = {}
        #: The calls around the equation at hand, by the names of what they call.
        self.functions: list[str] = []
        self._paths = paths
        self._layers: dict[str, tuple[int, str]] = {}

    def name(self, op: str, inputs: Sequence[Value], scope: str = "") -> str:
        """Return the path of the module whose parameter is among ``inputs``; else a layer's ``scope``; else `layer/op`.

        ``layer`` is the one last computed before the operation, ``op`` the function of `jax.nn` that it belongs to
        where there is one: ``blocks/3/conv2/relu``.
        """
        for value in inputs:
            if isinstance(value, Constant) and value.label and "/" in value.label:
                return value.label.rsplit("/", 1)[0]
        if op in _LAYERS:
            return scope or op
        op = next((name for name in reversed(self.functions) if hasattr(jax.nn, name)), op)
        _, layer = self._layer(value.tensor for value in inputs if isinstance(value, View))
        return f"{layer}/{op}" if layer else op

    def emitted(self, op: str, tensor: str, inputs: Iterable[str]) -> None:
        """Remember which layer a new tensor comes from: it is its own, or the last among those of its inputs."""
        self._layers[tensor] = (len(self._layers), tensor) if op in _LAYERS else self._layer(inputs)

    def _layer(self, tensors: Iterable[str]) -> tuple[int, str]:
        return max((self._layers.get(tensor, (-1, "")) for tensor in tensors), default=(-1, ""))

    def where(self, equation: Any) -> str:
        """Return where an equation stands in the user's code, for a message."""
        stack = str(equation.source_info.name_stack)
        return f" in {stack}" if stack else ""

    def label(self, value: Any) -> str | None:
        """Return the path of the parameter that an array is."""
        return self._paths.get(id(value))


class Call:
    """One equation being translated: what a rule may ask and do."""

    def __init__(self, trace: Trace, pair: tuple[Any, Any], inputs: Sequence[Value]) -> None:
        self.trace = trace
        self.builder = trace.builder
        self.pair = pair
        self.inputs = inputs
        self.primitive: str = pair[0].primitive.name

    def refuse(self, what: str) -> UnsupportedError:
        """Return the error that says what of this equation is unsupported, and where it stands."""
        return UnsupportedError(f"unsupported: {what} (`{self.primitive}`{self.trace.where(self.pair[0])})")

    def param(self, name: str) -> Any:
        """Return a parameter of the equation."""
        return self.pair[0].params[name]

    def params(self, name: str) -> tuple[Any, Any]:
        """Return a parameter of the equation at both probes."""
        return self.pair[0].params[name], self.pair[1].params[name]

    def view(self, index: int = 0) -> View:
        """Return input ``index``, which must depend on the network's input."""
        value = self.inputs[index]
        if isinstance(value, Comparison):
            raise self.refuse(f"a comparison as operand {index}; `jnp.where` and `astype` take it")
        if not isinstance(value, View):
            raise self.refuse(f"a constant as operand {index}")
        return value

    def constants(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Return input ``index``, which must not depend on the network's input, at both probes."""
        value = self.inputs[index]
        if not isinstance(value, Constant):
            raise self.refuse(f"operand {index} computed from the network's input; a constant is needed")
        if value.positional:
            raise self.refuse("a constant that depends on the position in the batch")
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
        name = self.trace.name(op, self.inputs, _scope(self.pair[0]))
        tensor = self.builder.emit(op, inputs, name=name, attrs=attrs, params=dict(params or {}))
        self.trace.emitted(op, tensor, (*inputs, *(view.tensor for view in self.inputs if isinstance(view, View))))
        return View(tensor, tuple(order))

    def reshape(self, view: View, probes: Probes) -> View:
        """Return ``view`` reshaped to the shape given at both probes."""
        return self.builder.shaped(view, probes, name=self.trace.name("reshape", [view]))
