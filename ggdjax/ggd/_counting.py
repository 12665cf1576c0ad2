"""The counting kernel of `Histogram`: one pass over float32 values, on the device, into running integer counts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

BINS = 1 << 16
#: float32 values per block on a CPU: the block's indices stay in the first two cache levels.
_BLOCK = 8192
#: Successive values go to alternating copies of the counts, so that a run of equal values (ReLU's zeros) is
#: not one chain of dependent additions; the copies are added at the end.
_COPIES = 2
#: A copy holds the bins, then the zeros (both signs), then padding to an integer of cache lines; its first place
#: takes what does not count.
_COPY, _IGNORED, _OUTSIDE = BINS + 256, BINS + 1, 1 << 30
#: Values of one product of matrices: 4 MiB of operands.
_ROWS = 8192
_LEAST, _LARGEST = -(1 << 31), (1 << 31) - 1
#: Bin of the quiet NaN.
_NAN = 0x7FC0
#: One step of the exponent in a key; keys of finite values lie in [−_INFINITE, _INFINITE).
_EXPONENT, _INFINITE = 0x00800000, 0x7F800000


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class Counter:
    """Running counts of one tensor, fewer than 2³¹ values: what a jitted pass takes, adds to and gives back.

    Donated to the pass (`jax.jit(..., donate_argnums=...)`) it is counted into where it lies, so that a pass costs
    the counting alone, however many bins there are. ``Histogram.from_counter`` reads it.

    Args:
        copies: the bins of `Histogram`, and ±0 in a bin of its own, several times over.
        smallest: least value seen, as an ordered integer shifted down so that NaN and infinity never win.
        largest: largest value seen, likewise shifted up.
    """

    copies: Int[Array, " copies"]
    smallest: Int[Array, ""]
    largest: Int[Array, ""]

    @classmethod
    def empty(cls) -> Counter:
        """Return the counts of nothing."""
        return cls(
            copies=jnp.zeros(_COPIES * _COPY, jnp.int32),
            smallest=jnp.full((), _LARGEST, jnp.int32),
            largest=jnp.full((), _LEAST, jnp.int32),
        )

    def add(self, x: Float[Array, "..."], count: Int[Array, ""] | None = None, each: int = 1) -> Counter:
        """Return the counts with the first ``count`` values of ``x`` (None: all) added, converted to float32.

        ``each`` is how many values every one of a sample stands for.
        """
        x = x.astype(jnp.float32).reshape(-1)
        if x.size == 0:
            return self
        # A CPU gains from blocks that stay in its cache, a GPU from one large scatter, a TPU from matrix products.
        ways = (partial(way, each=each) for way in (_add_by_products, _add_beside_zeros))
        if count is None:
            tpu, default = ways
            return lax.platform_dependent(self, x, cpu=partial(_add_in_blocks, each=each), tpu=tpu, default=default)
        tpu, default = (partial(_first, way) for way in ways)
        cpu = partial(_add_first_in_blocks, each=each)
        return lax.platform_dependent(self, x, count, cpu=cpu, tpu=tpu, default=default)

    def widen(self, low: Float[Array, ""], high: Float[Array, ""]) -> Counter:
        """Return the counts with the extremes of the values of which a sample was added.

        Where an extreme is not finite, a value is not: one NaN is counted.
        """
        below, above = _extremes(jnp.stack([low, high]))
        odd = ~(jnp.isfinite(low) & jnp.isfinite(high))
        return Counter(
            copies=self.copies.at[_NAN].add(odd.astype(jnp.int32)),
            smallest=jnp.minimum(self.smallest, below.min()),
            largest=jnp.maximum(self.largest, above.max()),
        )

    def read(self) -> tuple[Int[Array, " 65536"], Int[Array, ""], Float[Array, ""], Float[Array, ""]]:
        """Return the counts by bin, the number of zeros, and the extremes of the finite values (0 without any)."""
        counts = self.copies.reshape(_COPIES, _COPY).sum(0)
        return counts[:BINS], counts[BINS], _value(self.smallest + _EXPONENT), _value(self.largest - _EXPONENT)


def _value(key: Int[Array, ""]) -> Float[Array, ""]:
    finite = (key >= -_INFINITE) & (key < _INFINITE)
    value = lax.bitcast_convert_type(_ordered(key), jnp.float32)
    return jnp.where(finite, value, 0.0)


def _ordered(bits: Int[Array, "..."]) -> Int[Array, "..."]:
    """Return integers in the order of the float32 values whose bits are given; its own inverse."""
    return bits ^ ((bits >> 31) & _LARGEST)


def _scatter(copies: Array, x: Array, counts: Array | None = None, zeros: bool = True, each: int = 1) -> Array:
    bits = lax.bitcast_convert_type(x, jnp.uint32)
    # XLA adds nothing for what lies outside.
    index = jnp.where(bits << 1 == 0, jnp.uint32(BINS if zeros else _OUTSIDE), bits >> 16)
    if counts is not None:
        index = jnp.where(counts, index, jnp.uint32(_IGNORED if zeros else _OUTSIDE))
    index = index + jnp.arange(x.size, dtype=jnp.uint32) % _COPIES * _COPY
    # `lax.scatter_add`, because `counts.at[]` would first look for negative indices.
    numbers = lax.ScatterDimensionNumbers(
        update_window_dims=(), inserted_window_dims=(0,), scatter_dims_to_operand_dims=(0,)
    )
    ones = jnp.full(x.size, each, jnp.int32)
    mode = "promise_in_bounds" if zeros else "drop"
    return lax.scatter_add(copies, index[:, None], ones, numbers, mode=mode)


def _extremes(x: Array) -> tuple[Array, Array]:
    """Return each value's key for the minimum and for the maximum.

    One step of the exponent down, NaN and infinities of either sign are above every finite key, by wrapping around;
    one step up, below. Integers, because XLA's minimum and maximum of floats are slow and take subnormals as zeros.
    """
    key = _ordered(lax.bitcast_convert_type(x, jnp.int32))
    return key - _EXPONENT, key + _EXPONENT


def _add_at_once(
    counter: Counter, x: Float[Array, " n"], counts: Array | None = None, zeros: bool = True, each: int = 1
) -> Counter:
    low, high = _extremes(x)
    if counts is not None:
        low, high = jnp.where(counts, low, _LARGEST), jnp.where(counts, high, _LEAST)
    return Counter(
        copies=_scatter(counter.copies, x, counts, zeros, each),
        smallest=jnp.minimum(counter.smallest, low.min()),
        largest=jnp.maximum(counter.largest, high.max()),
    )


def _first(way: Callable[..., Counter], counter: Counter, x: Float[Array, " n"], count: Int[Array, ""]) -> Counter:
    return way(counter, x, jnp.arange(x.size, dtype=jnp.int32) < count)


def _add_beside_zeros(counter: Counter, x: Float[Array, " n"], counts: Array | None = None, each: int = 1) -> Counter:
    """Scatter all but the zeros: as atomic additions to one address, those of a ReLU would wait for each other."""
    found = _add_at_once(counter, x, counts, zeros=False, each=each)
    return replace(found, copies=found.copies.at[BINS].add(each * _zeros(x, counts).sum(dtype=jnp.int32)))


def _add_by_products(counter: Counter, x: Float[Array, " n"], counts: Array | None = None, each: int = 1) -> Counter:
    """Count by products of int8 matrices: of the upper and of the lower 8 bits of a bin's index, 1 where a value is."""
    size = min(_ROWS, x.size)
    low, high = _extremes(x)
    one = ~_zeros(x, None)
    if counts is not None:
        low, high, one = jnp.where(counts, low, _LARGEST), jnp.where(counts, high, _LEAST), one & counts
    index = (lax.bitcast_convert_type(x, jnp.uint32) >> 16).astype(jnp.int32)
    pad = (0, -x.size % size)
    index, one = (jnp.pad(v, pad).reshape(-1, size) for v in (index, one))
    places = jnp.arange(256, dtype=jnp.int32)[None]

    def add(bins: Array, block: tuple[Array, Array]) -> tuple[Array, None]:
        index, one = block
        upper = (((index >> 8)[:, None] == places) & one[:, None]).astype(jnp.int8)
        lower = ((index & 255)[:, None] == places).astype(jnp.int8)
        return bins + lax.dot_general(upper, lower, (((0,), (0,)), ((), ())), preferred_element_type=jnp.int32), None

    bins, _ = lax.scan(add, jnp.zeros((256, 256), jnp.int32), (index, one))
    zeros = _zeros(x, counts).sum(dtype=jnp.int32)[None]
    return Counter(
        copies=counter.copies.at[: BINS + 1].add(each * jnp.concatenate([bins.reshape(-1), zeros])),
        smallest=jnp.minimum(counter.smallest, low.min()),
        largest=jnp.maximum(counter.largest, high.max()),
    )


def _zeros(x: Array, counts: Array | None) -> Array:
    zero = lax.bitcast_convert_type(x, jnp.uint32) << 1 == 0
    return zero if counts is None else zero & counts


def _add_in_blocks(counter: Counter, x: Float[Array, " n"], each: int) -> Counter:
    blocks, rest = divmod(x.size, _BLOCK)
    if blocks:
        counter = _add_blocks(counter, x, blocks, each=each)
    return _add_at_once(counter, x[blocks * _BLOCK :], each=each) if rest else counter


def _add_first_in_blocks(counter: Counter, x: Float[Array, " n"], count: Int[Array, ""], each: int) -> Counter:
    if x.size < _BLOCK:
        return _first(partial(_add_at_once, each=each), counter, x, count)
    return _add_blocks(counter, x, (count + (_BLOCK - 1)) // _BLOCK, count, each)


def _add_blocks(
    counter: Counter, x: Float[Array, " n"], blocks: int | Array, count: Array | None = None, each: int = 1
) -> Counter:
    """Add the first ``blocks`` blocks, of the last one what lies before ``count``."""

    def add(i: Array, state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        copies, smallest, largest = state
        # The last block ends where the values do, and leaves out what the one before has counted.
        start = i * _BLOCK if count is None else jnp.minimum(i * _BLOCK, x.size - _BLOCK)
        block = lax.dynamic_slice(x, (start,), (_BLOCK,))
        low, high = _extremes(block)
        counts = None
        if count is not None:
            place = start + jnp.arange(_BLOCK, dtype=jnp.int32)
            counts = (place >= i * _BLOCK) & (place < count)
            low, high = jnp.where(counts, low, _LARGEST), jnp.where(counts, high, _LEAST)
        # Lane by lane: reductions to one number are slow in a loop.
        return _scatter(copies, block, counts, each=each), jnp.minimum(smallest, low), jnp.maximum(largest, high)

    lanes = jnp.full(_BLOCK, _LARGEST, jnp.int32), jnp.full(_BLOCK, _LEAST, jnp.int32)
    copies, smallest, largest = lax.fori_loop(0, blocks, add, (counter.copies, *lanes))
    return Counter(
        copies=copies,
        smallest=jnp.minimum(counter.smallest, smallest.min()),
        largest=jnp.maximum(counter.largest, largest.max()),
    )
