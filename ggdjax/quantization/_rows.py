"""The rows of a batch over the devices of a mesh: split along all of its axes, everything else on every device."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ggdjax._errors import refusal

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

T = TypeVar("T")


class Rows:
    """Where the rows of a batch lie.

    Args:
        mesh: devices, of one process or of several, with axes of any name; None: all devices of this process. Of
            several processes, each gives the same arrays.

    Raises:
        GgdjaxError: ``mesh`` is none.
    """

    def __init__(self, mesh: Mesh | None) -> None:
        if mesh is None:
            mesh = Mesh(np.asarray(jax.local_devices()), ("data",))
        if not isinstance(mesh, Mesh):
            raise refusal("mesh", mesh, "a `jax.sharding.Mesh`")
        self.mesh = mesh
        self.devices = mesh.size
        self._everywhere = NamedSharding(mesh, PartitionSpec())
        self._gather = jax.jit(_same, out_shardings=self._everywhere)  # of one function: compiled once per shape
        # One device, the default: programs take arrays of the host as they are.
        self._alone = mesh.size == 1 and mesh.devices.item() == jax.devices()[0] and not jax.config.jax_default_device

    def whole(self, count: int) -> int:
        """Return the least multiple of the devices that is at least ``count``."""
        return -(-count // self.devices) * self.devices

    def spec(self, axis: int = 0) -> PartitionSpec:
        """Return the layout of an array whose rows are its axis ``axis``."""
        return PartitionSpec(*(None,) * axis, self.mesh.axis_names)

    def split(self, tree: Any, axis: int = 0) -> Any:
        """Put arrays on the devices, each of which gets its share of the rows; all rows where they do not divide."""

        def put(leaf: Any) -> Any:
            divides = np.ndim(leaf) > axis and np.shape(leaf)[axis] % self.devices == 0
            return jax.device_put(leaf, NamedSharding(self.mesh, self.spec(axis)) if divides else self._everywhere)

        return tree if self._alone else jax.tree.map(put, tree)

    def everywhere(self, tree: Any) -> Any:
        """Put arrays on every device."""
        return tree if self._alone else jax.device_put(tree, self._everywhere)

    def read(self, tree: Any) -> Any:
        """Return the arrays on the host, whole, wherever they lie."""
        if jax.process_count() > 1:
            tree = self._gather(tree)
        return jax.device_get(tree)

    def read_each(self, started: Iterable[tuple[Any, T]]) -> Iterator[tuple[Any, T]]:
        """Yield what programs return, on the host, each after the next one was started, with what came beside it."""
        before = None
        for pair in started:
            if before is not None:
                yield self.read(before[0]), before[1]
            before = pair
        if before is not None:
            yield self.read(before[0]), before[1]


def _same(tree: T) -> T:
    return tree
