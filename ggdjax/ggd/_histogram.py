"""The logarithmic histogram of float32 values: one streamed pass, exact counts, merging by addition.

The bin of a value is the upper half of its float32 bit pattern (sign, exponent, seven bits of mantissa: the
value truncated to bfloat16). That makes 128 bins per octave, from the smallest subnormal to the largest number,
on both sides of zero, without a logarithm and without being told a range.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, ArrayLike, Bool, Float, Int, Real

from ggdjax import _files
from ggdjax._errors import GgdjaxError, expect, expect_array, expect_record, refusal, summary
from ggdjax._mapping import for_each
from ggdjax._tables import html_table
from ggdjax.ggd._arrays import checked_axes, is_concrete, refuse_unreal
from ggdjax.ggd._bins import FINITE_BINS, SIDE_BINS, Bins, compress_side, on_device
from ggdjax.ggd._counting import BINS, Counter
from ggdjax.ggd._predictive import predictive

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

#: "magnitude" takes ``|x|``, the positive side where nothing is negative; "auto" is another name for it.
Side = Literal["auto", "positive", "negative", "magnitude"]


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class Histogram:
    """Counts of float32 values by ``bits(x) >> 16``, with ``count = Σ counts[finite] + zeros`` exactly.

    Leading axes of the leaves are a batch of tensors (and of splits of the images). Histograms form a monoid
    under ``+`` with `Histogram.empty`: the result is the same to the last bit however the values were batched
    or sharded.

    Args:
        counts: values per bin; bins ``[0, 32768)`` are positive, the rest negative; ±0 is in none of them.
            int32 from one pass (fewer than 2³¹ values); int64 once concrete histograms have been added; float32 of a
            `predictive` histogram.
        zeros: number of values equal to ±0, exactly.
        minimum: smallest finite value, exactly; 0 where there is none.
        maximum: largest finite value, likewise.

    Example:
        >>> h = gd.Histogram.from_samples(jnp.array([0.0, 1.0, 3.0])) + gd.Histogram.from_samples(jnp.array([2.0]))
        >>> int(h.count), float(h.zero_fraction), float(h.maximum)
        (4, 0.25, 3.0)
    """

    counts: Real[Array, "... 65536"]
    zeros: Real[Array, "..."]
    minimum: Float[Array, "..."]
    maximum: Float[Array, "..."]

    def __repr__(self) -> str:
        shape = tuple(np.shape(self.counts)[:-1])
        if not is_concrete(self.counts) or shape or not np.shape(self.counts):
            return summary(self, batch_shape=shape)
        return summary(
            self,
            count=f"{int(self.count):,}",
            zeros=f"{float(self.zero_fraction):.1%}",
            range=f"[{float(self.minimum):.4g}, {float(self.maximum):.4g}]",
        )

    def _repr_html_(self) -> str:
        if not is_concrete(self.counts) or not np.shape(self.counts):
            return html_table(self, (), 0)
        columns = {
            "values": self.count,
            "zeros": self.zero_fraction,
            "negative": self.negative_fraction,
            "least": self.minimum,
            "largest": self.maximum,
        }
        flat = {name: np.asarray(column).reshape(-1) for name, column in columns.items()}
        rows = ({"tensor": i} | {k: v[i] for k, v in flat.items()} for i in range(flat["values"].size))
        return html_table(self, rows, flat["values"].size)

    # ------------------------------------------------------------------------------------------ building

    @classmethod
    def from_samples(cls, x: ArrayLike, axis: int | tuple[int, ...] | None = None) -> Histogram:
        """Count the values of ``x`` (converted to float32) over ``axis``; the other axes become the batch.

        Works inside and outside of `jit`; see `histogram_counts` for the traced form, and for what is refused.
        """
        x = x if isinstance(x, jax.Array) else np.asarray(expect_array("x", x))
        refuse_unreal("x", x.dtype)
        x = x if isinstance(x, jax.Array) else np.asarray(x, dtype=np.float32)
        if x.size < 2**31 or not is_concrete(x):
            return histogram_counts(jnp.asarray(x), axis)
        if axis is not None:
            raise GgdjaxError(f"`x` has {x.size} values: count fewer than 2^31 at a time and add")
        parts = np.array_split(np.asarray(x).reshape(-1), x.size // 2**30 + 1)
        return sum((histogram_counts(jnp.asarray(part)) for part in parts), cls.empty())

    @classmethod
    def from_counter(cls, counter: Counter) -> Histogram:
        """Return what a `Counter` has counted."""
        expect("counter", counter, "Counter")
        counts, zeros, minimum, maximum = counter.read()
        return cls(counts=counts, zeros=zeros, minimum=minimum, maximum=maximum)

    @classmethod
    def empty(cls, batch_shape: tuple[int, ...] = ()) -> Histogram:
        """Return the histogram of nothing: the neutral element of ``+``."""
        zero = np.zeros(batch_shape, np.float32)
        counts = np.zeros((*batch_shape, BINS), np.int64)
        return cls(counts=counts, zeros=np.zeros(batch_shape, np.int64), minimum=zero, maximum=zero)

    @classmethod
    def stack(cls, histograms: list[Histogram], axis: int = 0) -> Histogram:
        """Stack histograms of equal batch shape along a new batch axis (``axis`` ≥ 0)."""
        if not isinstance(histograms, list | tuple):
            raise refusal("histograms", histograms, "a list of them")
        if not histograms:
            raise GgdjaxError("`histograms` is empty: give at least one")
        for histogram in histograms:
            expect("histograms", histogram, "Histogram")
        concrete = all(is_concrete(h.counts) for h in histograms)
        join = np.stack if concrete else jnp.stack
        return jax.tree.map(lambda *leaves: join(leaves, axis=axis), *histograms)

    def __add__(self, other: Histogram) -> Histogram:
        """Merge: the histogram of both sets of values. Concrete counts are added in int64."""
        if not isinstance(other, Histogram):
            return NotImplemented
        return _merge([self, other], lambda leaves, total: total(leaves[0], leaves[1]))

    def merge(self, axis: int = 0) -> Histogram:
        """Merge the tensors along a batch axis (for example the splits of the images), ``axis`` ≥ 0."""
        if not 0 <= axis < len(self.batch_shape):
            raise GgdjaxError(f"`axis` is {axis}; the histogram's batch shape is {self.batch_shape}")
        return _merge([self], lambda leaves, total: total.reduce(leaves[0], axis=axis))

    def aligned_splits(self, axis: int, fewest: int) -> tuple[Histogram, Histogram]:
        """Return what the splits along a batch axis merge to, and the splits with its extremes: bins that align.

        Raises:
            GgdjaxError: `split_axis` names no axis of at least ``fewest`` splits.
        """
        shape = self.batch_shape
        if not 0 <= axis < len(shape) or shape[axis] < fewest:
            raise GgdjaxError(f"`split_axis` {axis} of batch shape {shape} is no axis of at least {fewest} splits")
        merged = self.merge(axis)
        minimum, maximum = (
            jnp.broadcast_to(jnp.expand_dims(jnp.asarray(extreme), axis), shape)
            for extreme in (merged.minimum, merged.maximum)
        )
        return merged, replace(self, minimum=minimum, maximum=maximum)

    # ------------------------------------------------------------------------------------------ reading

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """Shape of the batch of tensors."""
        return self.counts.shape[:-1]

    def __getitem__(self, index: Any) -> Histogram:
        """Select tensors along the leading batch axes."""
        return jax.tree.map(lambda leaf: leaf[index], self)

    @property
    def count(self) -> Real[Array, "..."]:
        """Number of finite values, zeros included."""
        return _finite(self.counts) + self.zeros

    @property
    def nonfinite(self) -> Real[Array, "..."]:
        """Number of infinities and NaNs; they are left out of everything else."""
        return _total(self.counts) - _finite(self.counts)

    @property
    def zero_fraction(self) -> Float[Array, "..."]:
        """Fraction of the finite values that are ±0."""
        return _ratio(self.zeros, self.count)

    @property
    def negative_fraction(self) -> Float[Array, "..."]:
        """Fraction of the finite values that are below zero."""
        return _ratio(_total(self.counts[..., SIDE_BINS : SIDE_BINS + FINITE_BINS]), self.count)

    @property
    def is_signed(self) -> Bool[Array, "..."]:
        """Whether any finite value is below zero."""
        return self.negative_fraction > 0

    def power_sum(self, power: int) -> Float[Array, "..."]:
        """Return ``Σ x^power`` for power 1 or 2 over the finite values, by the counts (float64 if concrete).

        Being a function of the counts, it does not depend on batching. Each value is taken at its bin's mean
        (uniform density inside the bin): an error of at most ``power · 2⁻⁷ · Σ|x|^power``, typically 1e-5 of
        that sum.
        """
        if power not in (1, 2):
            raise GgdjaxError(f"`power` is {power}; expected 1 or 2")
        edges = np.arange(FINITE_BINS + 1, dtype=np.uint32) << 16
        edges = np.append(edges[:-1].view(np.float32).astype(np.float64), 2.0**128)
        low, high = edges[:-1], edges[1:]
        mean = (low + high) / 2 if power == 1 else (low * low + low * high + high * high) / 3
        concrete = is_concrete(self.counts)
        counts = np.asarray(self.counts) if concrete else self.counts
        positive, negative = (counts[..., s : s + FINITE_BINS] for s in (0, SIDE_BINS))
        both = positive - negative if power == 1 else positive + negative
        if concrete:
            return both.astype(np.float64) @ mean
        with np.errstate(over="ignore"):
            mean32 = np.minimum(mean, np.finfo(np.float32).max).astype(np.float32)
        return both.astype(jnp.float32) @ jnp.asarray(mean32)

    def compress(self, side: Side = "magnitude") -> Bins:
        """Return one side in 2048 bins aligned to its largest value, for numerics; see `Bins`."""
        extremes = (jnp.asarray(e) for e in (self.minimum, self.maximum))
        return compress_side(on_device(self.counts), *extremes, side=checked_side(side))

    def predictive(
        self, images: ArrayLike, *, limits: tuple[ArrayLike, ArrayLike] = (-np.inf, np.inf), spread: float = 0.2
    ) -> Histogram:
        """Return what the next image may hold, from ``images`` ≥ 1 images that were counted.

        By the rule of succession, with probability 1/(images + 1) the next image differs from those seen by a random
        scale. Any scheme runs on the result, whose counts are real numbers (float32). A few images tell little of the
        largest values; for many images nothing changes. Works under `jit`.

        Args:
            images: how many were counted: a number, or one per tensor.
            limits: least and largest value that is possible, likewise. Mass that a scale moves beyond stays there, as
                it does at a point mass at the largest magnitude (`split_saturation`), which does not move.
            spread: s, the standard deviation over images of the logarithm of a feature map's scale; the nodes' is
                √2 s. Measured on four networks: 0.05 to 0.23.

        Raises:
            GgdjaxError: fewer than 1 image, a spread out of range, or shapes that do not fit.

        Example:
            >>> one = gd.Histogram.from_samples(jax.random.exponential(jax.random.key(0), (1000,)))
            >>> next_image = one.predictive(1, limits=(0.0, 8.0))
            >>> float(one.maximum) < float(next_image.maximum) <= 8.0
            True
        """
        leaves = (on_device(leaf) for leaf in (self.counts, self.zeros, self.minimum, self.maximum))
        counts, zeros, minimum, maximum = predictive(*leaves, images=images, limits=limits, spread=spread)
        return Histogram(counts=counts, zeros=zeros, minimum=minimum, maximum=maximum)

    # ------------------------------------------------------------------------------------------ storing

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Return a sparse form: per bin that holds something, in order of the tensors, its ``index`` and ``count``.

        The bins of tensor ``t`` of the flattened batch lie in ``[offsets[t], offsets[t + 1])``; ``zeros``, ``minimum``
        and ``maximum`` have the batch shape.
        """
        flat = np.asarray(self.counts).reshape(-1, BINS)
        tensor, index = np.nonzero(flat)
        return {
            "index": index.astype(np.uint16),
            "count": flat[tensor, index],
            "offsets": np.searchsorted(tensor, np.arange(len(flat) + 1)).astype(np.int64),
            **{name: np.asarray(getattr(self, name)) for name in _PER_TENSOR},
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> Histogram:
        """Return the histogram that `to_arrays` was called on; its leaves are NumPy arrays of the same types.

        Raises:
            GgdjaxError: a count is negative, or the arrays do not fit together.
        """
        expect_record("arrays", arrays, ("index", "count", "offsets", *_PER_TENSOR))
        index, count, offsets, zeros, *_ = (arrays[name] for name in ("index", "count", "offsets", *_PER_TENSOR))
        for name in ("count", "zeros"):
            if np.min(arrays[name], initial=0) < 0:
                raise GgdjaxError(f"`{name}` holds {np.min(arrays[name])}; expected counts of at least 0")
        sizes = np.diff(offsets)
        if (
            any(arrays[name].shape != zeros.shape for name in _PER_TENSOR)
            or not index.shape == count.shape == (offsets[-1],)
            or (sizes.size, offsets[0]) != (zeros.size, 0)
            or np.min(sizes, initial=0) < 0
        ):
            raise GgdjaxError("`index`, `count`, `offsets` and `zeros` of a histogram do not fit together")
        counts = np.zeros((zeros.size, BINS), count.dtype)
        counts[np.repeat(np.arange(zeros.size), sizes), index] = count
        return cls(counts=counts.reshape(*zeros.shape, BINS), **{name: arrays[name] for name in _PER_TENSOR})

    def save(self, path: os.PathLike[str] | str) -> None:
        """Write the sparse form as one file, which `load` reads.

        Raises:
            GgdjaxError: the file cannot be written.
        """
        _files.write(path, _KIND, {}, self.to_arrays())

    @classmethod
    def load(cls, path: os.PathLike[str] | str) -> Histogram:
        """Return the histogram that `save` wrote.

        Raises:
            GgdjaxError: the file cannot be read, is damaged, or holds something else.
        """
        _, record, arrays = _files.read(path, (_KIND,))
        with _files.decoding(path):
            return cls._from_file(record, arrays)

    @classmethod
    def _from_file(cls, record: Any, arrays: Mapping[str, np.ndarray]) -> Histogram:
        del record
        return cls.from_arrays(arrays)


_KIND = "histogram"
_PER_TENSOR = ("zeros", "minimum", "maximum")


def checked_side(side: Side) -> str:
    """Return "positive", "negative" or "magnitude"; anything else raises `GgdjaxError`."""
    side = "magnitude" if side == "auto" else side
    if side not in ("positive", "negative", "magnitude"):
        raise GgdjaxError(f"`side` is {side!r}; expected 'auto', 'positive', 'negative' or 'magnitude'")
    return side


def _total(counts: Array) -> Array:
    if not is_concrete(counts):
        return counts.sum(-1)
    counts = np.asarray(counts)
    return counts.sum(-1, dtype=np.int64 if np.issubdtype(counts.dtype, np.integer) else np.float64)


def _finite(counts: Array) -> Array:
    return _total(counts[..., :FINITE_BINS]) + _total(counts[..., SIDE_BINS : SIDE_BINS + FINITE_BINS])


def _ratio(part: Array, whole: Array) -> Array:
    xp = np if is_concrete(whole) else jnp
    part, whole = (xp.asarray(v).astype(np.float32) for v in (part, whole))
    return part / xp.maximum(whole, np.float32(1.0))


def _merge(histograms: list[Histogram], combine: Any) -> Histogram:
    """Apply ``combine(leaves, ufunc)`` adding counts, min/max for the extremes of nonempty parts."""
    concrete = all(is_concrete(leaf) for leaf in jax.tree.leaves(histograms))
    if concrete:
        histograms = jax.tree.map(np.asarray, histograms)
        integers = lambda leaf: leaf.astype(np.int64)  # noqa: E731
        xp = np
    else:
        integers = lambda leaf: leaf  # noqa: E731
        xp = jnp
    full = [h.count > 0 for h in histograms]
    low = [xp.where(f, h.minimum, np.float32(np.inf)) for f, h in zip(full, histograms, strict=True)]
    high = [xp.where(f, h.maximum, np.float32(-np.inf)) for f, h in zip(full, histograms, strict=True)]
    low, high = combine(low, xp.minimum), combine(high, xp.maximum)
    return Histogram(
        counts=combine([integers(h.counts) for h in histograms], xp.add),
        zeros=combine([integers(h.zeros) for h in histograms], xp.add),
        minimum=xp.where(xp.isfinite(low), low, np.float32(0.0)),
        maximum=xp.where(xp.isfinite(high), high, np.float32(0.0)),
    )


def merge_devices(own: Histogram, axes: tuple[str, ...]) -> Histogram:
    """Merge the histograms of all devices along mesh ``axes``, in `jax.shard_map`; none holds those of the others."""
    across = {jnp.add: lax.psum, jnp.minimum: lax.pmin, jnp.maximum: lax.pmax}
    return _merge([own], lambda leaves, total: across[total](leaves[0], axes))


# ---------------------------------------------------------------------------------------- the counting kernel


def histogram_counts(
    x: Float[Array, "..."], axis: int | tuple[int, ...] | None = None, count: Int[Array, ""] | None = None
) -> Histogram:
    """Count the values of ``x`` (fewer than 2³¹) over ``axis`` (default: all); int32 leaves, for use in `jit`.

    With ``count`` only the first ``count`` values along the flattened ``axis``.

    Raises:
        GgdjaxError: ``axis`` is out of range or named twice.
    """
    return _histogram_counts(jnp.asarray(expect_array("x", x)), axis, count)


@partial(jax.jit, static_argnames="axis")
def _histogram_counts(
    x: Float[Array, "..."], axis: int | tuple[int, ...] | None, count: Int[Array, ""] | None
) -> Histogram:
    axes = checked_axes("x", x.ndim, axis)
    batch = tuple(a for a in range(x.ndim) if a not in axes)
    batch_shape = tuple(x.shape[a] for a in batch)
    if not batch:
        return _count_flat(x.reshape(-1), count)
    rows = x.transpose(*batch, *axes).reshape(int(np.prod(batch_shape)), -1)
    result = for_each(lambda row: _count_flat(row, count), rows)
    return jax.tree.map(lambda leaf: leaf.reshape(*batch_shape, *leaf.shape[1:]), result)


def _count_flat(x: Float[Array, " n"], count: Int[Array, ""] | None) -> Histogram:
    return Histogram.from_counter(Counter.empty().add(x, count))
