"""Bit allocation: a width for every kernel and feature map, so that a budget buys the least predicted loss.

Minimise ``Σ_i w_i 2^(−2 b_i)`` under ``Σ_i c_i b_i = C``, where w_i 2^(−2b) is the loss that quantizer i is predicted
to cause at b bits and c_i what one bit of it costs. Setting the derivative of the Lagrangian to zero gives the closed
form ``b_i = λ + ½ log2(w_i / c_i)``, with λ such that the budget is spent and widths kept within their limits
("reverse water-filling", Cover & Thomas, section 10.3). Whole widths follow by marginal returns on the tabulated
losses: what is left of the budget buys, bit by bit, the largest drop in loss per cost, and exchanges end it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Literal

import numpy as np

from ggdjax._errors import DataError, GgdjaxError, expect, expect_array, near_matches
from ggdjax.network import node_counts
from ggdjax.quantization._config import QuantConfig, matching
from ggdjax.tune._sensitivity import PredictedLoss, predict_losses

if TYPE_CHECKING:
    from jax.typing import ArrayLike
    from jaxtyping import Float as Real

    from ggdjax.network import Network
    from ggdjax.quantization import QuantizedNetwork

UNITS = ("mean_bits", "weight_bytes", "feature_map_traffic", "bops")


@dataclass(frozen=True, kw_only=True)
class BitAllocation:
    """Widths for ``dataclasses.replace(config, weight_bits_of=…, activation_bits_of=…)``, and what they should cost."""

    weight_bits_of: dict[str, int | Literal["float"]]
    """By node name; empty where the unit is about feature maps alone."""
    activation_bits_of: dict[str, int | Literal["float"]]
    """By tensor name; empty where the unit is about weights alone."""
    unit: str
    budget: float
    cost: float
    """What the allocation costs in ``unit``, at most ``budget``; of two mean widths the larger."""
    predicted_loss: float
    """Mean squared error of the logits that the allocated kernels and feature maps should cause together."""
    losses: PredictedLoss
    """The same of each at every width."""


def allocate_bits(
    q: QuantizedNetwork,
    images: Real[ArrayLike, "image ..."],
    *,
    budget: float,
    unit: str = "mean_bits",
    widths: Iterable[int] = range(2, 9),
    weight_bits_of: Mapping[str, int | Literal["float"]] | None = None,
    activation_bits_of: Mapping[str, int | Literal["float"]] | None = None,
    batch_size: int = 64,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> BitAllocation:
    """Choose widths per layer from predicted distortions and measured sensitivities.

    Args:
        q: the network quantized by the scheme and granularity that the widths are for; its own widths hold for what
            the unit leaves out.
        images: a few hundred are enough for the sensitivities; no labels are needed.
        budget: in ``unit``.
        unit: ``"mean_bits"``: mean width, of weights over all weights and of feature maps over all their values, each
            at most the budget; ``"weight_bytes"``: bytes of all kernels, widths of feature maps stay;
            ``"feature_map_traffic"``: bytes of all quantized feature maps of one image, each counted once, widths of
            weights stay; ``"bops"``: multiply-accumulates × weight width × activation width of one image.
        widths: the widths to choose from, 2 to 16. Predicted losses of 2 bits are too small, since errors of that size
            no longer add up: where accuracy matters more than the last bit, ``range(3, 9)``.
        weight_bits_of: widths that are given, as in :class:`ggdjax.QuantConfig`: by name or pattern. They are kept, and
            count; what stays in float counts as 32 bits, and in no mean width.
        activation_bits_of: the same of feature maps.
        batch_size: images per backward pass; bounds the memory.
        seed: seed of the random signs behind the sensitivities.
        progress: called after every batch of images and every width with how many of both are done and in all.

    Raises:
        GgdjaxError: an unknown unit, a width out of range, a budget that the smallest widths exceed, ``batch_size``
            less than 1, a name that the network does not have, a network without a calibration, or one whose losses
            leave the range of float32.
        DataError: no images, or images that do not fit the network, or a network of several outputs.
    """
    expect("q", q, "QuantizedNetwork")
    images = expect_array("images", images, "an array of images", least_rank=1, error=DataError)
    if unit not in UNITS:
        raise GgdjaxError(f"no `unit` is called `{unit}`: {near_matches(unit, UNITS)}")
    allowed = sorted(set(widths))
    if not allowed or not 2 <= allowed[0] <= allowed[-1] <= 16:
        raise GgdjaxError(f"`widths` must be integers of bits from 2 to 16, got {allowed}")
    if not budget > 0:
        raise GgdjaxError(f"`budget` must be more than 0, got {budget}")
    given_widths = QuantConfig(weight_bits_of=weight_bits_of or {}, activation_bits_of=activation_bits_of or {})
    if q.record is None or q.record.calibration is None:
        raise GgdjaxError("`q` has no calibration, only the steps that a file brought: quantize its float network")
    images = np.asarray(images, np.float32)
    if not len(images):
        raise DataError("`images` is empty: give a few hundred to measure sensitivities on")
    q.network.check_input(images)
    accounts = _accounts(q.network, unit, given_widths.weight_bits_of, given_widths.activation_bits_of)
    accounts.check(allowed[0], budget)
    given, costs, split = accounts.given, accounts.costs, len(accounts.kernels)
    every = sorted({*allowed, *(int(bits) for bits in given if 0 < bits < 32)})
    losses = predict_losses(q, images, every, batch_size, seed, progress or (lambda _done, _total: None))
    table = np.stack(
        [*(losses.weights[name] for name in accounts.kernels), *(losses.activations[name] for name in accounts.maps)]
    )
    lost = ~np.isfinite(table).all(1) & (given < 32)
    if lost.any():
        worst = [*accounts.kernels, *accounts.maps][int(np.argmax(lost))]
        raise GgdjaxError(
            f"the loss that rounding `{worst}` causes leaves the range of float32, so that it can choose no widths: "
            "give widths, or scale the network"
        )
    free, bits = given == 0, given.copy()
    if free.any():
        own = table[free][:, np.searchsorted(every, allowed)]
        bits[free] = np.asarray(allowed)[allocate(own, allowed, accounts.costs_of_free, budget)]
    quantized = np.flatnonzero(bits < 32)
    named = ["float" if width == 32 else int(width) for width in bits]
    return BitAllocation(
        weight_bits_of=dict(zip(accounts.kernels, named, strict=False)),
        activation_bits_of=dict(zip(accounts.maps, named[split:], strict=True)),
        unit=unit,
        budget=budget,
        cost=float(costs(bits).max()),
        predicted_loss=float(table[quantized, np.searchsorted(every, bits[quantized])].sum()),
        losses=losses,
    )


def check_budget(
    net: Network,
    budget: float,
    least: int,
    weight_bits_of: Mapping[str, int | Literal["float"]],
    activation_bits_of: Mapping[str, int | Literal["float"]],
) -> None:
    """Refuse a mean width that widths which are given, and ``least`` bits elsewhere, exceed."""
    _accounts(net, "mean_bits", weight_bits_of, activation_bits_of).check(least, budget, "mean_bits")


#: From widths to what each constraint is charged, all in the unit of the budget.
Costs = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True, kw_only=True)
class _Accounts:
    """The kernels and feature maps that a unit is about, the widths that are given, and what all widths cost."""

    kernels: list[str]
    maps: list[str]
    given: np.ndarray
    """Of every kernel and map; 0: to be chosen, 32: float."""
    costs: Costs

    def costs_of_free(self, bits: np.ndarray) -> np.ndarray:
        """Return what the widths of those that are free cost beside the others."""
        every = self.given.copy()
        every[self.given == 0] = bits
        return self.costs(every)

    def check(self, least: int, budget: float, name: str = "budget") -> None:
        """Raise GgdjaxError where ``least`` bits for all that is free exceed the budget."""
        free = int((self.given == 0).sum())
        cost = self.costs_of_free(np.full(free, float(least))).max()
        if cost > budget * (1 + 1e-9):
            others = "everywhere" if free == len(self.given) else "for all but the widths that are given"
            raise GgdjaxError(f"`{name}` is {budget:g}, but {least} bits {others} cost {cost:.6g}: give at least that")


def _accounts(
    net: Network,
    unit: str,
    weight_bits_of: Mapping[str, int | Literal["float"]],
    activation_bits_of: Mapping[str, int | Literal["float"]],
) -> _Accounts:
    graph = net.graph
    kernels = [node.name for node in graph.quantizable]
    maps = [fm.tensor for fm in graph.feature_maps()]
    weights = np.asarray([net.params[node.param("kernel")].size for node in graph.quantizable], np.float64)
    values = np.asarray([prod(size or 1 for size in graph.shape(name)[1:]) for name in maps], np.float64)
    split = len(kernels)
    given = np.concatenate(
        [
            _given("weight_bits_of", weight_bits_of, kernels),
            _given("activation_bits_of", activation_bits_of, maps),
        ]
    )
    if unit == "weight_bytes":
        return _Accounts(kernels=kernels, maps=[], given=given[:split], costs=lambda bits: (weights @ bits / 8)[None])
    if unit == "feature_map_traffic":
        return _Accounts(kernels=[], maps=maps, given=given[split:], costs=lambda bits: (values @ bits / 8)[None])
    if unit == "mean_bits":
        shares = [
            sizes * (own < 32) / max(float((sizes * (own < 32)).sum()), 1.0)
            for sizes, own in ((weights, given[:split]), (values, given[split:]))
        ]

        def means(bits: np.ndarray) -> np.ndarray:
            return np.stack([shares[0] @ bits[:split], shares[1] @ bits[split:]])

        return _Accounts(kernels=kernels, maps=maps, given=given, costs=means)
    macs_of = {count.name: count.macs for count in node_counts(net)}
    macs = np.asarray([macs_of[name] for name in kernels], np.float64)
    reads = np.asarray([maps.index(node.inputs[0]) for node in graph.quantizable])

    def operations(bits: np.ndarray) -> np.ndarray:
        return (macs @ (bits[:split] * bits[split:][reads]))[None]

    return _Accounts(kernels=kernels, maps=maps, given=given, costs=operations)


def _given(option: str, widths: Mapping[str, int | Literal["float"]], names: list[str]) -> np.ndarray:
    found = dict.fromkeys(names, 0.0)
    for pattern, bits in widths.items():
        found |= dict.fromkeys(matching(option, pattern, names), 32.0 if bits == "float" else float(bits))
    return np.asarray(list(found.values()))


def allocate(table: Real[np.ndarray, "quantizer width"], widths: list[int], costs: Costs, budget: float) -> np.ndarray:
    """Return the index of the width of every quantizer: no constraint exceeds the budget, and no bit more fits.

    The smallest widths must not exceed it.
    """
    sizes = np.asarray(widths, np.float64)
    rows = np.arange(len(table))

    def fits(indices: np.ndarray) -> bool:
        return bool((costs(sizes[indices]) <= budget * (1 + 1e-9)).all())

    real = _closed_form(table, sizes, costs, budget)
    chosen = np.maximum(np.searchsorted(sizes, real + 1e-9, side="right") - 1, 0)

    def price(index: int, indices: np.ndarray, move: int) -> float:
        moved = indices.copy()
        moved[index] += move
        return float(np.abs(costs(sizes[moved]) - costs(sizes[indices])).max())

    def spend() -> None:
        """Buy the largest drop in loss per cost, until nothing fits."""
        while True:
            returns = []
            for i in rows[chosen < len(sizes) - 1]:
                more = chosen.copy()
                more[i] += 1
                if fits(more):
                    returns.append(((table[i, chosen[i]] - table[i, more[i]]) / price(i, chosen, 1), i))
            if not returns:
                return
            chosen[max(returns)[1]] += 1

    spend()
    # Exchanges: one quantizer gives a bit, and what it frees buys more elsewhere.
    for _ in range(len(table) * len(sizes)):
        best, gain = None, 1e-12 * table[rows, chosen].sum()
        for i in rows[chosen > 0]:
            for j in rows[chosen < len(sizes) - 1]:
                swapped = chosen.copy()
                swapped[i] -= 1
                swapped[j] += 1
                saved = (table[[i, j], chosen[[i, j]]] - table[[i, j], swapped[[i, j]]]).sum()
                if i != j and saved > gain and fits(swapped):
                    best, gain = swapped, saved
        if best is None:
            break
        chosen[:] = best
        spend()
    return chosen


def _closed_form(table: np.ndarray, sizes: np.ndarray, costs: Costs, budget: float) -> np.ndarray:
    """Return b_i = λ + ½ log2(w_i / c_i) within the limits, one λ per constraint, so that each just holds."""
    # w_i: the geometric mean over the widths of loss · 2^(2b), constant where a bit gains 6.02 dB.
    weight = (np.log2(np.maximum(table, 1e-30)) + 2 * sizes[None, :]).mean(1)
    middle = np.full(len(table), sizes.mean())
    slopes = np.stack([costs(middle + unit) - costs(middle) for unit in np.eye(len(table))])
    owner = slopes.argmax(1)
    level = 0.5 * (weight - np.log2(slopes.max(1)))
    bits = np.full(len(table), sizes[0])
    for constraint in range(slopes.shape[1]):
        mine = owner == constraint
        low, high = sizes[0] - level.max(), sizes[-1] - level.min()
        for _ in range(60):
            middle_of = 0.5 * (low + high)
            trial = np.where(mine, np.clip(middle_of + level, sizes[0], sizes[-1]), bits)
            low, high = (middle_of, high) if costs(trial)[constraint] <= budget else (low, middle_of)
        bits = np.where(mine, np.clip(low + level, sizes[0], sizes[-1]), bits)
    return bits
