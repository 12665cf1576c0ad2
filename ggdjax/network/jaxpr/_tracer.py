"""The JAX tracer: `trace` turns any JAX function or Flax module in inference mode into the project's own graph."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from ggdjax._errors import GgdjaxError, UnsupportedError, expect_array, refusal
from ggdjax.network._graph import PROBE_BATCHES
from ggdjax.network._rewrites import simplify
from ggdjax.network.jaxpr import _moves  # noqa: F401  (it registers rules)
from ggdjax.network.jaxpr._rules import RULES
from ggdjax.network.jaxpr._walk import LARGE_BATCH, TRAINING_MODE, check_batch, walk

if TYPE_CHECKING:
    from collections.abc import Callable

    from ggdjax.network._network import Network

#: What Flax raises when a module in training mode is traced: it updates statistics, counts or draws random numbers.
_TRAINING_ERRORS = frozenset({"TraceContextError", "ModifyScopeVariableError", "InvalidRngError"})


def trace(function: Callable[..., Any] | tuple[Any, Any], example: Any) -> Network:
    """Turn a function or module of one batch of images into a `Network` whose batch size is free.

    The function is traced to a jaxpr, at two batch sizes. What does not depend on its argument is evaluated; batch
    normalization becomes an `affine` node, which `ggdjax.network.fold_batch_norm` folds into the convolution before it.
    Parameters that the function closes over are read once, now.

    Args:
      function: a JAX function of one array; a Flax NNX module after `module.eval()`; a bound Linen module; or a pair
        (Linen module, variables).
      example: an array, or a `jax.ShapeDtypeStruct`, of the argument's shape, batch first. Its values do not matter.

    Raises:
      UnsupportedError: an operation outside the set, control flow that depends on the argument, random
        numbers, or a module in training mode: each says what to do.
      GgdjaxError: the function cannot be traced, or what it does depends on the batch size.

    Example:
        >>> net = gd.trace(lambda x: jax.nn.relu(x @ jnp.ones((4, 3))), jnp.zeros((1, 4)))
        >>> net.input_shape, net.output_shape
        ((None, 4), (None, 3))
    """
    call, paths = _callable(function)
    if isinstance(example, tuple | list | dict):
        raise GgdjaxError(
            f"`example` is a {type(example).__name__} of {len(example)}; a network has one input, a batch of arrays: "
            "close over the others (`functools.partial`), or join them along an axis and split them in `function`"
        )
    shape = tuple(expect_array("example", example, "an array of the input's shape, batch first").shape)
    if len(shape) < 2:
        raise GgdjaxError(f"`example` has shape {shape}; a batch of images or vectors is expected, batch first")
    first, second, large = (_jaxpr(call, (batch, *shape[1:])) for batch in (*PROBE_BATCHES, LARGE_BATCH))
    check_batch(first, second, large)
    return simplify(walk(first, second, paths, RULES))


def _callable(function: Any) -> tuple[Callable[[Any], Any], dict[int, str]]:
    """Return a function of the input alone, and the paths of the parameters by the identity of their arrays."""
    if isinstance(function, tuple) and len(function) == 2:
        module, variables = function
        return lambda x: module.apply(variables, x), _paths(variables)
    if not callable(function):
        raise refusal("function", function, "a function, a module or (module, variables)")
    if any(base.__module__ == "flax.linen.module" for base in type(function).__mro__) and function.scope is None:
        raise GgdjaxError(
            f"`function` is the Linen module {type(function).__name__} without its variables: give (module, variables)"
        )
    return function, _paths(_state(function))


def _state(module: Any) -> Any:
    """Return the parameters of a Flax module as a pytree; nothing for a plain function."""
    root = type(module).__module__.split(".")[0]
    bases = {f"{base.__module__}.{base.__name__}" for base in type(module).__mro__}
    if root == "builtins" or not any(name.startswith("flax.") for name in bases):
        return None
    from flax import linen, nnx

    if isinstance(module, nnx.Module):
        return nnx.to_pure_dict(nnx.state(module))
    return module.variables if isinstance(module, linen.Module) and module.scope is not None else None


def _paths(tree: Any) -> dict[int, str]:
    """Return path/of/the/leaf by the identity of the leaf, collections of Linen (params, batch_stats) left out."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    paths = {id(leaf): jax.tree_util.keystr(path, simple=True, separator="/") for path, leaf in leaves}
    return {key: path.removeprefix("params/").removeprefix("batch_stats/") for key, path in paths.items()}


def _jaxpr(call: Callable[[Any], Any], shape: tuple[int, ...]) -> Any:
    try:
        return jax.make_jaxpr(call)(jax.ShapeDtypeStruct(shape, jnp.float32))
    except GgdjaxError:
        raise
    except Exception as error:
        if type(error).__name__ in _TRAINING_ERRORS:
            raise UnsupportedError(TRAINING_MODE) from error
        if isinstance(error, jax.errors.ConcretizationTypeError):
            raise UnsupportedError(
                "control flow: `function` decides by the values of its input, which a network of one fixed sequence of "
                "operations cannot; use `jax.numpy.where`, `maximum` or `clip`"
            ) from error
        reason = str(error).splitlines()[0] if str(error) else ""
        raise GgdjaxError(
            f"`function` cannot be traced for an input of shape {shape}: {type(error).__name__}: {reason}"
        ) from error
