"""What comes before a unit, computed once: activations of all tuning images at the cuts, as far as memory allows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax
import numpy as np

from ggdjax.quantization._batches import pad_batch

if TYPE_CHECKING:
    from jaxtyping import Float

    from ggdjax.quantization import QuantizedNetwork, Quantizers
    from ggdjax.tune._segments import Segments, State


class Prefix:
    """States of blocks of images before each unit, kept on the host or run again from the nearest one kept.

    A block is at most ``segments.rows`` images; what runs is always padded to that many. In a backward sweep no prefix
    changes, so one pass gives the states of all cuts; in a forward sweep each state leads to the next.
    """

    def __init__(
        self,
        segments: Segments,
        images: Float[np.ndarray, "image ..."],
        blocks: list[tuple[int, int]],
        memory_bytes: int,
    ) -> None:
        self.segments, self.images, self.blocks, self.memory_bytes = segments, images, blocks, memory_bytes
        self._kept: dict[int, dict[int, dict[str, np.ndarray]]] = {}
        self.rows_run = 0.0
        """Rows run so far, each weighed by its share of the network."""

    @property
    def is_empty(self) -> bool:
        """No state is kept."""
        return not self._kept

    def keep_all(self, q: QuantizedNetwork, quantizers: Quantizers) -> None:
        """Run all images once and keep the states of every cut, the last ones first, as far as memory goes."""
        self._kept.clear()
        keep, left = set(), self.memory_bytes
        for unit in reversed(range(len(self.segments.units))):
            left -= self._bytes(unit)
            if left < 0:
                break
            keep.add(unit)
        if not keep:
            return
        for block in self._own_blocks():
            state = self._start(q, quantizers, block)
            for unit in range(len(self.segments.units)):
                if unit:
                    state = self._step(unit - 1, q, quantizers, state)
                if unit in keep:
                    self._keep(unit, block, state)

    def advance(self, unit: int, q: QuantizedNetwork, quantizers: Quantizers) -> None:
        """Keep the states before ``unit`` instead of those before earlier ones, if they fit."""
        if unit in self._kept or self._bytes(unit) > self.memory_bytes:
            return
        states = {block: jax.device_get(self.state(unit, block, q, quantizers)) for block in self._own_blocks()}
        self._kept = {unit: {}}
        for block, state in states.items():
            self._keep(unit, block, state)

    def forget_after(self, unit: int) -> None:
        """Drop what a change at ``unit`` has made wrong: the states of all later cuts."""
        self._kept = {cut: blocks for cut, blocks in self._kept.items() if cut <= unit}

    def state(self, unit: int, block: int, q: QuantizedNetwork, quantizers: Quantizers) -> State:
        """Return the state of one block before ``unit``, padded to the rows of a call."""
        known = [cut for cut in self._kept if cut <= unit]
        if known:
            cut = max(known)
            kept, rows = self._kept[cut][block], self.segments.rows
            state = {name: self.segments.place(pad_batch(value, rows)) for name, value in kept.items()}
        else:
            cut, state = 0, self._start(q, quantizers, block)
        for i in range(cut, unit):
            state = self._step(i, q, quantizers, state)
        return state

    def _start(self, q: QuantizedNetwork, quantizers: Quantizers, block: int) -> State:
        low, high = self.blocks[block]
        images = pad_batch(np.asarray(self.images[low:high], np.float32), self.segments.rows)
        return self.segments.head(q, quantizers, self.segments.place(images))

    def _step(self, unit: int, q: QuantizedNetwork, quantizers: Quantizers, state: State) -> State:
        share = self.segments.suffix_share
        self.rows_run += self.segments.rows * float(share[unit] - share[unit + 1])
        return self.segments.run(unit, q, quantizers, state)

    def _keep(self, unit: int, block: int, state: State) -> None:
        low, high = self.blocks[block]
        host = {name: np.asarray(state[name])[: high - low] for name in self.segments.live(unit)}
        self._kept.setdefault(unit, {})[block] = host

    def _bytes(self, unit: int) -> int:
        return len(self.images) * self.segments.bytes_per_image(unit)

    def _own_blocks(self) -> range:
        """The blocks of this process."""
        return range(jax.process_index(), len(self.blocks), jax.process_count())
