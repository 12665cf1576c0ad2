"""Random ONNX models of the operators that the importer has, and what must hold of the networks read from them."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

import ggdjax as gd
from experiments.drawing import Drawing, Rejected
from experiments.onnx_pieces import PIECES
from experiments.onnx_runtime import session
from ggdjax import GgdjaxError

#: Batch sizes that are run.
BATCHES = (3, 1)
#: Largest magnitude of a value, so that float32 has digits left, and most values of a tensor, for quick runs.
_LARGEST, _MOST_VALUES = 1e3, 4000
_FLOAT_OPSETS = (7, 8, 9, 10, 11, 11, 12, 13, 13, 14, 15, 16, 17, 17, 18, 19, 20, 21, 22, 23, 24)
#: Relative size of the disturbances that tell how much of an output is rounding, and what counts of them.
_DISTURBANCE, _MARGIN = 3e-6, 30.0
#: Operators that divide by how far values are from their mean: of equal values they show the mean's rounding alone.
_CENTRED = {"GroupNormalization", "InstanceNormalization", "LayerNormalization", "MeanVarianceNormalization"}


@dataclass(frozen=True)
class Value:
    """An activation of the model being drawn, with its numbers at two batch sizes, or twice at the declared one."""

    name: str
    arrays: tuple[np.ndarray, np.ndarray]
    batch: int | None
    """The axis of the images, as far as it is known."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes of all axes, the images' included."""
        return self.arrays[0].shape

    @property
    def rank(self) -> int:
        """Number of axes."""
        return self.arrays[0].ndim


class Draw(Drawing):
    """One random model under construction: pieces append nodes, and what ONNX Runtime runs of them is kept."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng([seed, 25])
        self.opset = int(self.pick(_FLOAT_OPSETS))
        #: The declared batch size; None where it is free.
        self.fixed = None if self.chance(0.65) else int(self.pick((1, 1, 1, 2)))
        rank = int(self.pick((2, 3, 4, 4, 4, 4, 4, 5)))
        image = [int(n) for n in self.rng.integers(1, 9 if rank < 5 else 5, rank - 1)]
        if self.chance(0.7):
            image[0] = int(self.pick((2, 3, 4, 6)))
        self.image = tuple(image)
        self.nodes: list[Any] = []
        self.constants: dict[str, np.ndarray] = {}
        self.said: list[str] = []
        self._names = 0
        self._pending: list[Any] = []
        sizes = (self.fixed, self.fixed) if self.fixed else (3, 2)
        arrays = tuple(self.rng.normal(size=(n, *image)).astype(np.float32) for n in sizes)
        self.values = [Value("x", (arrays[0], arrays[0] if self.fixed else arrays[1]), 0)]

    # Draws ------------------------------------------------------------------------------------------------------

    def numbers(self, *shape: int) -> np.ndarray:
        """Return normal numbers."""
        return self.rng.normal(size=shape).astype(np.float32)

    def axes(self, value: Value) -> list[int]:
        """Return the axes that may be worked along: all but that of the images, and now and then that one, too."""
        if self.chance(0.02):
            return list(range(value.rank))
        return [axis for axis in range(value.rank) if axis != value.batch]

    def some_axes(self, value: Value) -> list[int]:
        """Return one or more axes, ascending, or none where there are none."""
        axes = self.axes(value)
        count = self.int(1, len(axes)) if axes else 0
        return sorted(int(axis) for axis in self.rng.permutation(axes)[:count])

    def signed(self, axes: Any, rank: int) -> Any:
        """Return an axis or axes, counted from the end or not."""
        if isinstance(axes, (int, np.integer)):
            return int(axes) - (rank if self.chance(0.4) else 0)
        return [self.signed(axis, rank) for axis in axes]

    # Nodes ------------------------------------------------------------------------------------------------------

    def name(self) -> str:
        """Return a new name of a tensor."""
        self._names += 1
        return f"t{self._names}"

    def op(self, kind: str, inputs: Sequence[str], *, count: int = 1, **attributes: Any) -> Any:
        """Append a node; return the name of its result, or the names of its results."""
        if not onnx.defs.has(kind, self.opset, ""):
            raise Rejected(kind)
        outputs = [self.name() for _ in range(count)]
        given = {key: value for key, value in attributes.items() if value is not None}
        named = {} if self.chance(0.3) else {"name": f"{kind}_{outputs[0]}"}
        self._pending.append(helper.make_node(kind, list(inputs), outputs, **named, **given))
        return outputs[0] if count == 1 else outputs

    def const(self, value: Any, dtype: Any = None) -> str:
        """Return the name of a constant: an initializer, or what nodes make of one."""
        array = np.asarray(value, dtype or (np.float32 if np.asarray(value).dtype.kind == "f" else np.int64))
        name = self.name()
        how = self.rng.random()
        if how < 0.2:
            self._pending.append(helper.make_node("Constant", [], [name], value=numpy_helper.from_array(array)))
            return name
        self.constants[name] = array
        if how < 0.27:
            return self.op("Identity", [name])
        if how < 0.32 and array.dtype == np.int64:
            self.constants[name] = array.astype(np.int32)
            return self.op("Cast", [name], to=TensorProto.INT64)
        if how < 0.32 and array.dtype == np.float32 and self.opset >= 10:
            self.constants[name] = np.clip(np.rint(np.float64(array) * 16), -128, 127).astype(np.int8)
            self.constants[f"{name}s"] = np.float32(1 / 16)
            return self.op("DequantizeLinear", [name, f"{name}s"])
        return name

    def vector(self, value: Value, target: Sequence[int]) -> str:
        """Return a shape as a constant, or computed from the shape of ``value`` where it has the same sizes.

        The entry that stands for the images is −1 in ``target``: it is computed, or stays −1.
        """
        computed = self.chance(0.6) and value.batch is not None
        if not computed:
            return self.const(list(target))
        shape, parts = self.op("Shape", [value.name]), []
        for size in target:
            first, second = (array.shape for array in value.arrays)
            same = (k for k, sizes in enumerate(zip(first, second, strict=True)) if set(sizes) == {size})
            axis = value.batch if size == -1 else next(same, None)
            if axis is None or (size != -1 and self.chance(0.5)):
                parts.append(self.const([size]))
            elif self.chance(0.5):
                one = self.op("Gather", [shape, self.const(np.int64(axis))], axis=0)
                parts.append(self.with_axes("Unsqueeze", one, [0]))
            else:
                parts.append(self.slice(shape, [axis], [axis + 1], [0]))
        return self.op("Concat", parts, axis=0)

    def with_axes(self, kind: str, tensor: str, axes: Sequence[int] | None, since: int = 13, **attributes: Any) -> str:
        """Append an operator that has its axes as an attribute and, ``since`` an operator set, as an input."""
        if axes is None or self.opset < since:
            return self.op(kind, [tensor], axes=axes, **attributes)
        return self.op(kind, [tensor, self.const(list(axes))], **attributes)

    def slice(self, tensor: str, starts: Any, ends: Any, axes: Any, steps: Any = None) -> str:
        """Append a slice, its limits as attributes or inputs."""
        if self.opset < 10:
            if steps is not None and any(step != 1 for step in steps):
                raise Rejected("steps")
            return self.op("Slice", [tensor], starts=starts, ends=ends, axes=axes)
        given = [self.const(list(values)) for values in (starts, ends, axes) if values is not None]
        return self.op("Slice", [tensor, *given, *([] if steps is None else [self.const(list(steps))])])

    # Pieces -----------------------------------------------------------------------------------------------------

    def piece(self, function: Callable[[Draw, Value], Any]) -> bool:
        """Draw a piece behind one of the values; return whether it was kept."""
        value = self.values[-1] if self.chance(0.8) else self.pick(self.values)
        self._pending, constants = [], dict(self.constants)
        try:
            results = function(self, value)
            results = [results] if isinstance(results, str) else list(results or ())
            if not results:
                raise Rejected("nothing")
            found = self._evaluated(results)
        except Rejected:
            self.constants = constants
            return False
        self.nodes += self._pending
        self.values += found
        self.said.append(function.__name__)
        return True

    def _evaluated(self, results: Sequence[str]) -> list[Value]:
        known = {value.name: value for value in self.values}
        read = [name for name in dict.fromkeys(n for node in self._pending for n in node.input) if name in known]
        model = self._model(self._pending, read, results)
        runs = []
        for which in (0,) if self.fixed else (0, 1):
            runs.append(run_onnx(model, {name: known[name].arrays[which] for name in read}))
        values = []
        for name, first, second in zip(results, runs[0], runs[-1], strict=True):
            if not first.size or first.size > _MOST_VALUES or first.dtype != np.float32:
                raise Rejected("size")
            if not np.isfinite(first).all() or np.abs(first).max() > _LARGEST:
                raise Rejected("numbers")
            if self.fixed:
                batch = 0 if first.ndim and first.shape[0] == self.fixed else None
            else:
                different = [k for k, (a, b) in enumerate(zip(first.shape, second.shape, strict=True)) if a != b]
                if not different:
                    raise Rejected("images")
                batch = different[0]
            values.append(Value(name, (first, second), batch))
        return values

    def _model(self, nodes: Sequence[Any], inputs: Sequence[str], outputs: Sequence[str]) -> Any:
        read = {name for node in nodes for name in node.input}
        shapes = {"x": (self.fixed or "images", *self.image)}
        graph = helper.make_graph(
            nodes,
            "random",
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, shapes.get(name)) for name in inputs],
            [helper.make_empty_tensor_value_info(name) for name in outputs],
            [numpy_helper.from_array(array, name) for name, array in self.constants.items() if name in read],
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=10)

    def finished(self) -> tuple[Any, list[str]]:
        """Return the model, and its outputs."""
        outputs = [self.values[-1].name]
        if self.chance(0.15) and len(self.values) > 2:
            outputs = list(dict.fromkeys([*outputs, self.pick(self.values[1:]).name, self.pick(self.values[1:]).name]))
        return self._model(self.nodes, ["x"], outputs), outputs


def run_onnx(model: Any, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    """Return what ONNX Runtime makes of a model, without optimizations.

    Raises:
      Rejected: it refuses the model.
    """
    try:
        opened = session(model.SerializeToString(), optimize=False, threads=1, severity=4)
        return opened.run(None, feeds)
    except Exception as error:  # its errors have no common class
        raise Rejected(str(error)) from error


def random_model(seed: int) -> tuple[Any, list[str], Draw]:
    """Return the model of a seed, its outputs, and how it was drawn."""
    draw = Draw(seed)
    wanted = draw.int(1, 8)
    for _ in range(6 * wanted):
        draw.piece(PIECES.draw(draw.rng))
        if len(draw.said) == wanted:
            break
    return *draw.finished(), draw


@dataclass(kw_only=True)
class Outcome:
    """What happened to one model or function."""

    seed: int
    state: str = "equal"
    """``equal``, ``different``, ``refused``, or ``skipped`` where there is nothing to compare."""
    said: str = ""
    parts: tuple[str, ...] = ()
    """What was drawn, in order."""

    def refused(self, error: GgdjaxError) -> Outcome:
        """Return the outcome of a refusal: a difference where it has several lines."""
        several = "\n" in str(error)
        said = f"a refusal of several lines: {error}" if several else str(error)
        return replace(self, state="different" if several else "refused", said=said)


def check(seed: int) -> Outcome:
    """Read the model of a seed and compare the network with ONNX Runtime, on batches of three images and of one.

    Of a file that declares its batch size, a network of any batch must give image by image what ONNX Runtime gives.
    """
    model, outputs, draw = random_model(seed)
    out = Outcome(seed=seed, parts=tuple(draw.said))
    if not draw.nodes:
        return Outcome(seed=seed, state="skipped", said="nothing drawn")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "random.onnx"
        onnx.save(model, path)
        try:
            net = gd.load_onnx(path, outputs=outputs) if len(outputs) > 1 else gd.load_onnx(path)
        except GgdjaxError as error:
            return out.refused(error)
    rng = np.random.default_rng([seed, 26])
    free = net.input_shape[0] is None
    for batch in BATCHES if free else net.input_shape[:1]:
        x = rng.normal(size=(batch * (draw.fixed or 1), *draw.image) if free else net.input_shape).astype(np.float32)
        axes = [net.graph.shape(tensor) for tensor in net.graph.outputs]
        try:
            wanted, rounding = expected(model, x, draw.fixed, [a.index(None) if None in a else 0 for a in axes], rng)
        except Rejected as error:  # a model of pieces that it runs
            return Outcome(seed=seed, state="skipped", said=f"ONNX Runtime refuses the model: {error}")
        found = net(x)
        found = list(found) if isinstance(found, (tuple, list)) else [found]
        wrong = [differs(a, b, r) for a, b, r in zip(wanted, found, rounding, strict=True)]
        if any(wrong):
            out.state, out.said = "different", f"batch of {len(x)}: {'; '.join(filter(None, wrong))}"
            return out
    return out


def expected(
    model: Any, x: np.ndarray, size: int | None, axes: Sequence[int], rng: np.random.Generator
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Return the outputs of ONNX Runtime, and how far rounding may move each value.

    It runs ``size`` images at a time, all where None; ``axes`` are those of the images in each output.
    """

    def run(model: Any, x: np.ndarray) -> list[np.ndarray]:
        parts = [x] if size is None else [x[k : k + size] for k in range(0, len(x), size)]
        runs = [run_onnx(model, {"x": part}) for part in parts]
        if len(runs) == 1:
            return runs[0]
        return [np.concatenate(each, axis) for axis, each in zip(axes, zip(*runs, strict=True), strict=True)]

    wanted = run(model, x)
    sizes = {name for node in model.graph.node if node.op_type in {"Resize", "Upsample"} for name in node.input[1:]}
    rounding = [np.zeros(y.shape) for y in wanted]
    for _ in range(4):
        other = onnx.ModelProto()
        other.CopyFrom(model)
        for tensor in other.graph.initializer:
            if tensor.data_type == TensorProto.FLOAT and tensor.name not in sizes:
                array = disturbed(numpy_helper.to_array(tensor), rng)
                tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
        del other.graph.node[:]
        other.graph.node.extend(part for node in model.graph.node for part in _rounded_before(node, rng))
        try:
            moved = run(other, disturbed(x, rng))
        except Rejected:  # a constant that is a size, as the scales of Resize are
            continue
        if any(a.shape != b.shape for a, b in zip(moved, wanted, strict=True)):
            continue
        rounding = [np.maximum(r, np.abs(a - b)) for r, a, b in zip(rounding, moved, wanted, strict=True)]
    return wanted, rounding


def _rounded_before(node: onnx.NodeProto, rng: np.random.Generator) -> list[onnx.NodeProto]:
    """Return the node; behind a few roundings of its input where it subtracts a mean."""
    if node.op_type not in _CENTRED:
        return [node]
    factor, rounded = (f"{node.output[0]}/{part}" for part in ("factor", "rounded"))
    drawn = {"mean": 1.0, "scale": _DISTURBANCE, "seed": float(rng.integers(1 << 20))}
    random = helper.make_node("RandomNormalLike", [node.input[0]], [factor], **drawn)
    other = onnx.NodeProto()
    other.CopyFrom(node)
    other.input[0] = rounded
    return [random, helper.make_node("Mul", [node.input[0], factor], [rounded]), other]


def disturbed(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return numbers that are a few roundings of float32 away."""
    return (x * (1 + _DISTURBANCE * rng.normal(size=x.shape))).astype(np.float32)


def differs(wanted: np.ndarray, found: Any, rounding: np.ndarray) -> str:
    """Return how two outputs differ beyond float tolerance; an empty text where they do not."""
    found = np.asarray(found)
    if found.shape != wanted.shape:
        return f"shape {found.shape}, expected {wanted.shape}"
    scale = np.abs(wanted).max(initial=1e-3)
    allowed = 1e-4 * np.abs(wanted) + 2e-5 * scale + _MARGIN * rounding
    both = np.isnan(found) == np.isnan(wanted)
    wrong = ~both | (np.abs(found - wanted) > allowed)
    if not wrong.any():
        return ""
    return f"{wrong.sum()} of {wrong.size} values, by up to {np.nanmax(np.abs(found - wanted), initial=0):.3g}"
