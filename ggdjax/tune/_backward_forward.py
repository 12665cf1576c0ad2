"""Backward-forward tuning: coordinate search over steps and fractional lengths on the network's own metric.

Kim et al., arXiv 1810.13329, 2018. A first sweep goes backward, from the last quantized feature map to the first, a
second one forward, and so on. On each visit every candidate changes one step or fractional length, all else staying
where it is; the best on the metric wins, ties by the smaller loss, then by the smaller change. What comes before the
layer is the same for all its candidates: it is run once, and only the rest of the network runs for each. The winner
stays only where images that chose nothing do not contradict it.
"""

from __future__ import annotations

import time
from collections import deque
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ggdjax._errors import DataError, GgdjaxError, expect, expect_array, expect_path
from ggdjax._fields import settings_of
from ggdjax._lock import exclusive
from ggdjax.quantization import Metric, Stage
from ggdjax.quantization._batches import pad_batch
from ggdjax.quantization._config import matching
from ggdjax.quantization._evaluation import count_classes, output_shape
from ggdjax.quantization._metrics import check_metric
from ggdjax.quantization._record import image_hash
from ggdjax.tune import _checkpoint as checkpoints
from ggdjax.tune._candidates import Candidate, candidates_of
from ggdjax.tune._checkpoint import SearchState
from ggdjax.tune._config import TuneConfig
from ggdjax.tune._history import Decision, History
from ggdjax.tune._memory import quarter_of_device
from ggdjax.tune._objectives import OBJECTIVES, check_objective, resolved, score_and_loss
from ggdjax.tune._prefix import Prefix
from ggdjax.tune._segments import AXES, Segments, strong, values_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from os import PathLike
    from pathlib import Path

    from jax.typing import ArrayLike
    from jaxtyping import Array, Float, Int

    from ggdjax.quantization import QuantizedNetwork, Quantizers

#: Share of the candidates that a screening round keeps.
_KEPT = 1 / 3
#: Scores and losses that differ by less than this share are equal: float32 sums of other shapes differ by less.
_EQUAL = 1e-6
#: Rows that run at once on a CPU, where memory allows: an eighth of the images, as many as the first screening round
#: has, within these limits. Fewer leave a processor idle, more run empty in small groups of candidates.
_LEAST_ROWS, _MOST_ROWS = 64, 512
#: Images that are timed to fill a budget.
_TIMED = 64


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a search will cost at most, where memory holds what comes before each layer."""

    visits: int
    candidates: int
    """Candidates of all visits of one sweep."""
    evaluations: int
    """Image and candidate pairs."""
    float_passes: float
    """Passes of the whole network over the tuning images."""


def plan(q: QuantizedNetwork, images: int, config: TuneConfig | None = None) -> Plan:
    """Return what `backward_forward` will cost at most for that many tuning images.

    Raises:
        GgdjaxError: a layer in the config does not exist.
    """
    expect("q", q, "QuantizedNetwork")
    config = TuneConfig() if config is None else config
    mesh = _local_mesh()
    segments = Segments(q.network, 1, mesh)
    chosen = _chosen(segments, config)
    rounds, held = _rounds(images, config)
    size = _rows(q, config, images, mesh.size)
    candidates = [candidates_of(segments.units[i], q.quantizers, config) for i in chosen]
    pairs = [_pairs(len(some), rounds) + held[1] - held[0] for some in candidates]
    rows = [_most_rows(some, rounds, held, size) for some in candidates]
    share = segments.suffix_share
    return Plan(
        visits=len(chosen) * config.sweeps,
        candidates=sum(map(len, candidates)),
        evaluations=sum(pairs) * config.sweeps,
        float_passes=config.sweeps * sum(n * float(share[i]) for n, i in zip(rows, chosen, strict=True)) / images,
    )


def search_passes(
    q: QuantizedNetwork, images: Float[ArrayLike, "image ..."], config: TuneConfig | None = None, *, seconds: float
) -> float | None:
    """Return the ``max_float_passes`` of `backward_forward` that take about ``seconds`` on this machine.

    One batch is run and timed; compiling is not counted. The first visit is always within the budget.

    Returns:
        None where the whole search is within the budget.
    """
    planned = plan(q, len(images), config)
    batch = np.asarray(images[:_TIMED], np.float32)  # type: ignore[index]
    times = []
    for _ in range(3):
        start = time.perf_counter()
        jax.block_until_ready(q(batch))
        times.append(time.perf_counter() - start)
    passes = seconds * len(batch) / (min(times) * len(images))
    if passes >= planned.float_passes:
        return None
    return max(passes, planned.float_passes / planned.visits)


def backward_forward(
    q: QuantizedNetwork,
    images: Float[ArrayLike, "image ..."],
    labels: Int[ArrayLike, " image"] | None = None,
    config: TuneConfig | None = None,
    *,
    checkpoint: str | PathLike[str] | None = None,
    progress: Callable[[int, int, float], None] | None = None,
    mesh: Mesh | None = None,
) -> QuantizedNetwork:
    """Return a copy with tuned steps and fractional lengths, never worse than ``q`` on the objective and images.

    The result does not depend on how many rows run at once, on the mesh, nor on the number of processes (under
    `jax.distributed` every process calls this with the same arguments and takes a share of the images).

    Args:
        q: the quantized network to start from.
        images: tuning images in the layout of the model's own input, disjoint from those that will evaluate the result;
            anything that slices like a NumPy array, such as a memory map.
        labels: class indices, or the targets of the metric that is the objective; None for objectives that need none.
        config: objective, candidates, budget; the defaults of `TuneConfig` where None.
        checkpoint: file that is written after every visit and, where it exists, resumed from.
        progress: called after every visit with visits done, visits in all and the mean score.
        mesh: devices with the axes ``candidate`` and ``data``; None: all devices of this process.

    Returns:
        The tuned network; its ``history`` is a `History`.

    Raises:
        DataError: labels that the objective needs are missing, out of range or of one class only; no images; a network
            of several outputs.
        GgdjaxError: an unknown objective or layer, a budget too small for a single visit, or a checkpoint of another
            run or that another process is writing.
    """
    expect("q", q, "QuantizedNetwork")
    images = expect_array("images", images, "an array of images", least_rank=1, error=DataError)
    checkpoint = None if checkpoint is None else expect_path("checkpoint", checkpoint)
    config = TuneConfig() if config is None else config
    if len(images) == 0:
        raise DataError("`images` is empty: give some to tune on")
    labels = None if labels is None else np.asarray(labels)
    objective, few, shape = resolved(config.objective), config.allow_few_images, output_shape(q.network)
    if isinstance(objective, Metric):
        check_metric(objective, shape)
        check_objective(objective, labels, len(images), 0, few=few, shape=_known(shape[1:]))
    else:
        classes = count_classes(q.network) if OBJECTIVES[objective] else values_of(q.network.output_shape)
        check_objective(objective, labels, len(images), classes, few=few)
    q.network.check_input(images[:1])
    search = _Search(q, images, labels, config, mesh or _local_mesh())
    # Of several processes of one search, the first writes.
    alone = checkpoint is not None and jax.process_index() == 0
    with exclusive(checkpoint, "checkpoint") if alone else nullcontext():
        return search.run(checkpoint, progress)


def _known(shape: tuple[int | None, ...]) -> tuple[int, ...]:
    """Return the shape of an image's output, which must be known."""
    if None in shape:
        raise DataError(f"the network's output has shape {shape} per image: a metric to tune for needs sizes")
    return tuple(size for size in shape if size is not None)


class _Search:
    """One search: its images, its compiled segments and its state."""

    def __init__(self, q: QuantizedNetwork, images, labels, config: TuneConfig, mesh: Mesh) -> None:
        self.whole, self.config, self.mesh = q, config, mesh
        self.objective = resolved(config.objective)
        metric = self.objective if isinstance(self.objective, Metric) else None
        # Objectives want logits, not what a softmax makes of them; metrics of what the network gives want that.
        logits = q.graph.up_to_logits()
        self.q = q = q if metric is not None and metric.compares != "class map" else replace(q, graph=logits)
        self.shape = () if metric is None else _known(q.graph.shape(q.graph.outputs[0])[1:])
        if tuple(mesh.axis_names) != AXES:
            raise GgdjaxError(f"`mesh` has axes {tuple(mesh.axis_names)}; expected {AXES}")
        self.images, self.labels = images, labels
        self.order = np.random.default_rng(config.seed).permutation(len(images))
        self.rounds, self.held = _rounds(len(images), config)
        rows = _rows(q, config, len(images), mesh.size)
        self.blocks = [block for span in (*self.rounds, self.held) for block in _blocks(span, rows)]
        self.segments = Segments(q.network, rows, mesh)
        self.prefix = Prefix(self.segments, _Ordered(images, self.order), self.blocks, _memory(config))
        self.targets = np.zeros(len(images), np.int32) if labels is None else labels[self.order]
        if self.targets.dtype.kind in "iub":
            self.targets = self.targets.astype(np.int32)
        self.reference = self._reference()

    def run(self, path: Path | None, progress: Callable[[int, int, float], None] | None) -> QuantizedNetwork:
        config, units = self.config, _chosen(self.segments, self.config)
        mark = checkpoints.fingerprint(self.q, self.images, self.labels, _result_settings(config)) if path else ""
        state = checkpoints.load(path, mark) if path else None
        present = self._present(strong(self.q.quantizers))
        start_score, start_loss = (float(np.mean(v, dtype=np.float64)) for v in present)
        if state is None:
            state = SearchState(quantizers=strong(self.q.quantizers), score=present[0], loss=present[1], decisions=[])
        total, spent, finished = len(units) * config.sweeps, sum(d.float_passes for d in state.decisions), True
        while state.visits < total:
            sweep, at = divmod(state.visits, len(units))
            if at == 0:
                if sweep and not state.changed:
                    break
                state.changed = False
            backward = sweep % 2 == 0
            unit = units[-1 - at] if backward else units[at]
            candidates = candidates_of(self.segments.units[unit], state.quantizers, config)
            most = _most_rows(candidates, self.rounds, self.held, self.segments.rows)
            expected = most * self.segments.suffix_share[unit] / len(self.images)
            if config.max_float_passes is not None and spent + expected > config.max_float_passes:
                if not state.decisions:
                    raise GgdjaxError(
                        f"`max_float_passes` is {config.max_float_passes:g}; the first visit alone takes {expected:.1f}"
                    )
                finished = False
                break
            if backward and (at == 0 or self.prefix.is_empty):
                self.prefix.keep_all(self.q, state.quantizers)
            elif not backward:
                self.prefix.advance(unit, self.q, state.quantizers)
            decision = self._visit(sweep, unit, candidates, state)
            state.decisions.append(decision)
            state.visits += 1
            spent += decision.float_passes
            if path and jax.process_index() == 0:
                checkpoints.save(path, state, mark)
            if progress:
                progress(state.visits, total, decision.score)
        # Of all units, not of the visits of this process alone: a search that resumes says the same.
        counts = [len(candidates_of(self.segments.units[unit], self.q.quantizers, config)) for unit in units]
        history = History(
            objective=settings_of(config)["objective"],
            images=len(self.images),
            start_score=start_score,
            start_loss=start_loss,
            decisions=tuple(state.decisions),
            candidates=round(float(np.mean(counts))),
            compile_seconds=self.segments.compile_seconds,
            finished=finished,
        )
        stage = Stage(
            name="backward_forward",
            settings=settings_of(config),
            images=len(self.images),
            image_hash=image_hash(self.images),
            figures={"score": [start_score, history.score], "float_passes": history.float_passes},
            details=history,
        )
        return self.whole.changed(stage, quantizers=state.quantizers)

    def _visit(self, sweep: int, unit: int, candidates: list[Candidate], state: SearchState) -> Decision:
        """Choose the best of the candidates and the present values; change the state."""
        begin, rows_before = time.perf_counter(), self.prefix.rows_run
        self.segments.forget()
        tensor, images = self.segments.units[unit].tensor, len(self.images)
        score, loss = (np.zeros((len(candidates), images), np.float32) for _ in range(2))
        active, evaluations, rows = list(range(len(candidates))), 0, 0
        for k, (low, high) in enumerate(self.rounds):
            rows += self._evaluate(unit, candidates, active, (low, high), state.quantizers, score, loss)
            evaluations += len(active) * (high - low)
            if k + 1 < len(self.rounds):
                active = _best_third(active, candidates, score[:, :high], loss[:, :high])
        best = _winner(active, candidates, score, loss, state, (0, self.held[0]))
        if best is not None and self.held[0] < images:
            rows += self._evaluate(unit, candidates, [best], self.held, state.quantizers, score, loss)
            evaluations += images - self.held[0]
            best = _winner([best], candidates, score, loss, state, self.held)
        change = ""
        if best is not None:
            change = candidates[best].describe()
            state.quantizers = strong(candidates[best].apply(state.quantizers, tensor))
            state.score, state.loss, state.changed = score[best], loss[best], True
            self.prefix.forget_after(unit)
        work = rows * float(self.segments.suffix_share[unit]) + self.prefix.rows_run - rows_before
        # All processes spend one budget, and must end together.
        work = float(_over_processes(np.asarray([[work]]), (0, 1)).item())
        return Decision(
            sweep=sweep,
            tensor=tensor,
            change=change,
            score=float(np.mean(state.score, dtype=np.float64)),
            loss=float(np.mean(state.loss, dtype=np.float64)),
            evaluations=evaluations,
            float_passes=round(work / images, 6),  # the last bits depend on where a search was resumed
            seconds=time.perf_counter() - begin,
        )

    def _evaluate(self, unit, candidates, active, span, quantizers: Quantizers, score, loss) -> int:
        """Fill in the scores of the active candidates on the images of a round; return the rows that ran."""
        tensor, rows = self.segments.units[unit].tensor, 0
        running: deque[tuple[np.ndarray, np.ndarray, tuple[Array, Array]]] = deque()

        def settle() -> None:
            which, image, found = running.popleft()
            for kept, new in zip((score, loss), jax.device_get(found), strict=True):
                kept[which, image] = new[: which.size]

        groups: dict[tuple, list[int]] = {}
        for index in active:
            groups.setdefault(candidates[index].fixed, []).append(index)
        changed = {fixed: candidates[members[0]].fixed_point(quantizers) for fixed, members in groups.items()}
        for block, (low, high) in enumerate(self.blocks):
            if low < span[0] or low >= span[1] or block % jax.process_count() != jax.process_index():
                continue
            before = self.prefix.state(unit, block, self.q, quantizers)
            for fixed, members in groups.items():
                which, image = (v.ravel() for v in np.meshgrid(members, np.arange(high - low), indexing="ij"))
                for start in range(0, which.size, self.segments.rows):
                    some = slice(start, start + self.segments.rows)
                    factor = np.asarray([candidates[c].factor for c in which[some]], np.float32)
                    found = self._run_rows(unit, changed[fixed], before, tensor, factor, image[some], low)
                    running.append((which[some], low + image[some], found))
                    rows += self.segments.rows
                    if len(running) > 1:  # one call is prepared while the one before it runs
                        settle()
        while running:
            settle()
        score[:, slice(*span)], loss[:, slice(*span)] = _over_processes(score, span), _over_processes(loss, span)
        return rows

    def _run_rows(self, unit, quantizers, before, tensor, factor, image, low) -> tuple[Array, Array]:
        """Run the rest of the network for rows of (image of the block, factor), filled up; return scores and losses."""
        short = self.segments.rows - image.size
        index = np.concatenate([image, np.zeros(short, image.dtype)]).astype(np.int32)
        factor = np.concatenate([factor, np.ones(short, np.float32)])
        state = self.segments.take(before, index)
        logits = self.segments.logits(unit, self.q, quantizers, state, (tensor, factor))
        targets, reference = self.targets[low + index], self.reference[low + index]
        return score_and_loss(logits, targets, reference, objective=self.objective, shape=self.shape)

    def _present(self, quantizers: Quantizers) -> tuple[np.ndarray, np.ndarray]:
        """Return score and loss of every image under ``quantizers``."""
        score, loss = (np.zeros((1, len(self.images)), np.float32) for _ in range(2))
        whole = (0, len(self.images))
        self._evaluate(0, [Candidate()], [0], whole, quantizers, score, loss)
        return score[0], loss[0]

    def _reference(self) -> Float[np.ndarray, "image class"]:
        """Return the float network's logits where the objective compares with them."""
        objective = self.objective
        alone = objective in ("top1", "top5", "cross_entropy")
        if alone or (isinstance(objective, Metric) and objective.compares != "float output"):
            return np.zeros((len(self.images), 1), np.float32)
        reference, found = replace(self.q.float_network, graph=self.q.graph), []
        for low, high in self.blocks:
            x = np.asarray(self.prefix.images[low:high], np.float32)
            logits = np.asarray(reference(pad_batch(x, self.segments.rows)))
            found.append(logits.reshape(self.segments.rows, -1)[: len(x)])
        return np.concatenate(found)


class _Ordered:
    """Images in the order of the search, read when they are sliced."""

    def __init__(self, images, order: np.ndarray) -> None:
        self._images, self._order = images, order

    def __len__(self) -> int:
        return len(self._order)

    def __getitem__(self, part: slice) -> np.ndarray:
        # Sorted, as memory maps and archives like it; put back in order afterwards.
        wanted = self._order[part]
        ascending = np.sort(wanted)
        return np.asarray(self._images[ascending])[np.searchsorted(ascending, wanted)]


def _winner(active, candidates, score, loss, state: SearchState, span: tuple[int, int]) -> int | None:
    """Return the index of the candidate that wins on these images, or None where the present values stay."""
    options, part = [None, *active], slice(*span)
    pairs = ((state.score, state.loss), *((score[i], loss[i]) for i in active))
    scores, losses = np.asarray([_sums(*(v[part] for v in pair)) for pair in pairs]).T
    far = np.asarray([0.0, *(candidates[i].distance for i in active)])
    best = scores >= scores.max() - _EQUAL * max(abs(scores.max()), 1.0)
    least = losses[best].min()
    best &= losses <= least + _EQUAL * max(abs(least), 1e-6)
    return options[int(np.argmin(np.where(best, far, np.inf)))]


def _sums(score: np.ndarray, loss: np.ndarray) -> tuple[float, float]:
    """Return the sums over images; NaN, which would compare with nothing, is worse than any number."""
    total, lost = (float(v.sum(dtype=np.float64)) for v in (score, loss))
    return (-np.inf if np.isnan(total) else total), (np.inf if np.isnan(lost) else lost)


def _best_third(active, candidates, score, loss) -> list[int]:
    """Return the candidates that a screening round keeps, in their order."""
    sums = [_sums(score[i], loss[i]) for i in active]
    keys = [(-s, v, candidates[i].distance, i) for (s, v), i in zip(sums, active, strict=True)]
    kept = sorted(keys)[: max(1, round(len(active) * _KEPT))]
    return sorted(key[-1] for key in kept)


def _rounds(images: int, config: TuneConfig) -> tuple[list[tuple[int, int]], tuple[int, int]]:
    """Return the image ranges of the screening rounds and of the last one, none empty; and that of the held back."""
    choosing = max(1, images - round(config.held_back * images))
    ends = [*sorted({round(share * choosing) for share in config.screening} - {0, choosing}), choosing]
    return list(zip([0, *ends[:-1]], ends, strict=True)), (choosing, images)


def _blocks(span: tuple[int, int], rows: int) -> list[tuple[int, int]]:
    """Return the image ranges of a round that run at once."""
    return [(low, min(low + rows, span[1])) for low in range(*span, rows)]


def _result_settings(config: TuneConfig) -> dict[str, Any]:
    """Return the settings that change the result; how much runs at once does not, nor where the search ends."""
    free = {"memory_bytes", "rows", "max_float_passes", "sweeps"}
    return {name: value for name, value in settings_of(config).items() if name not in free}


def _most_rows(candidates: list[Candidate], rounds: list[tuple[int, int]], held: tuple[int, int], rows: int) -> int:
    """Return the rows that one visit runs at most: each group of candidates with equal weights is filled up."""
    groups, active = len({candidate.fixed for candidate in candidates}), len(candidates)
    total = rows * len(_blocks(held, rows))
    for span in rounds:
        for low, high in _blocks(span, rows):
            total += (active * (high - low) + min(active, groups) * (rows - 1)) // rows * rows
        active = max(1, round(active * _KEPT)) if active else 0
    return total


def _pairs(candidates: int, rounds: list[tuple[int, int]]) -> int:
    """Return the image and candidate pairs of one visit."""
    pairs = 0
    for low, high in rounds:
        pairs += candidates * (high - low)
        candidates = max(1, round(candidates * _KEPT)) if candidates else 0
    return pairs


def _chosen(segments: Segments, config: TuneConfig) -> list[int]:
    """Return the units that are tuned."""
    if not config.layers:
        return list(range(len(segments.units)))
    names = {name: i for i, unit in enumerate(segments.units) for name in (unit.tensor, *unit.readers)}
    return sorted({names[name] for layer in config.layers for name in matching("layers", layer, list(names))})


def _rows(q: QuantizedNetwork, config: TuneConfig, images: int, devices: int) -> int:
    """Return how many rows run at once: a multiple of the devices."""
    rows = config.rows
    if rows is None:
        graph = q.graph
        # A node's inputs, its output, and as much again for what the compiler lays out between them.
        peak = max(
            8 * sum(values_of(graph.shape(tensor)) for tensor in (*node.inputs, node.output)) for node in graph.nodes
        )
        usual = min(max(_LEAST_ROWS, images // 8), _MOST_ROWS) if jax.default_backend() == "cpu" else images
        rows = min(usual, max(1, _memory(config) // peak))
    return max(1, rows // devices) * devices


def _memory(config: TuneConfig) -> int:
    return quarter_of_device() if config.memory_bytes is None else config.memory_bytes


def _local_mesh() -> Mesh:
    return Mesh(np.asarray(jax.local_devices()).reshape(1, -1), AXES)


def _over_processes(values: np.ndarray, span: tuple[int, int]) -> np.ndarray:
    """Return the sum over processes, each of which filled in the images of its own blocks."""
    own = values[:, slice(*span)]
    if jax.process_count() == 1:
        return own
    devices = np.asarray([next(d for d in jax.devices() if d.process_index == p) for p in range(jax.process_count())])
    mesh = Mesh(devices, ("process",))
    parts = jax.make_array_from_process_local_data(NamedSharding(mesh, PartitionSpec("process")), own[None])
    total = jax.jit(_sum_of_processes, out_shardings=NamedSharding(mesh, PartitionSpec()))(parts)
    return np.asarray(total.addressable_data(0))


def _sum_of_processes(parts: Array) -> Array:
    return parts.sum(0)
