"""Checkpoints of a training run by orbax: whole or not at all, the newest two kept."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, TypeVar

import jax

from ggdjax._errors import GgdjaxError, expect_path

if TYPE_CHECKING:
    from collections.abc import Mapping
    from os import PathLike

_Tree = TypeVar("_Tree")


class Checkpoints:
    """States of one run in ``folder``, under the number of the step after which each was taken.

    ``run`` says what the run is (network, recipe, images), as JSON can hold it: a folder that holds another run's
    states is refused, since going on from them would give neither run's result.
    """

    def __init__(self, folder: str | PathLike[str], run: Mapping[str, Any]):
        try:
            import orbax.checkpoint as ocp
        except ImportError:
            raise GgdjaxError("keeping checkpoints needs `orbax-checkpoint`: run `pip install ggdjax[train]`") from None
        folder = expect_path("checkpoints", folder, "the name of a folder")
        self._folder, self._run, self._ocp = folder, json.loads(json.dumps(run)), ocp
        options = ocp.CheckpointManagerOptions(
            max_to_keep=2, enable_async_checkpointing=False, cleanup_tmp_directories=True
        )
        self._manager = ocp.CheckpointManager(folder.absolute(), options=options)

    def save(self, step: int, state: Any, notes: Any) -> None:
        """Write the arrays of the pytree ``state`` and ``notes`` (what JSON can hold)."""
        arrays = {str(i): leaf for i, leaf in enumerate(jax.tree.leaves(state))}
        args = self._ocp.args
        self._manager.save(
            step,
            args=args.Composite(
                state=args.StandardSave(arrays), notes=args.JsonSave({"run": self._run, "notes": notes})
            ),
        )

    def restore(self, like: _Tree) -> tuple[_Tree, Any] | None:
        """Return the newest state, in the form and on the devices of ``like``, and its notes; None without one.

        Raises:
            GgdjaxError: the folder holds the states of another run, or the newest is damaged.
        """
        step = self._manager.latest_step()
        if step is None:
            return None
        args = self._ocp.args
        stored = self._read(step, notes=args.JsonRestore()).notes
        if differing := [key for key in self._run if stored["run"].get(key) != self._run[key]]:
            key = differing[0]
            raise GgdjaxError(
                f"`{self._folder}` holds checkpoints of another run (`{key}` was {stored['run'].get(key)}, is "
                f"{self._run[key]}): give the same arguments as then, or another folder"
            )
        leaves, form = jax.tree.flatten(like)
        abstract = {
            str(i): jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)
            for i, leaf in enumerate(leaves)
        }
        arrays = self._read(step, state=args.StandardRestore(abstract)).state
        return jax.tree.unflatten(form, [arrays[str(i)] for i in range(len(leaves))]), stored["notes"]

    def _read(self, step: int, **items: Any) -> Any:
        try:
            return self._manager.restore(step, args=self._ocp.args.Composite(**items))
        except Exception as error:  # of many kinds, by what is missing
            raise GgdjaxError(
                f"the checkpoint `{self._folder / str(step)}` is damaged ({type(error).__name__}): remove it to go on "
                "from the one before, or start anew in another folder"
            ) from error

    def close(self) -> None:
        """Finish all writing."""
        self._manager.close()
