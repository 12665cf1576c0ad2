"""What a network's outputs are worth: one score per image by a metric's name, or by a function of the caller's own."""

from __future__ import annotations

import ast
import functools
import inspect
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from ggdjax._errors import DataError, GgdjaxError, describe, near_matches, refusal
from ggdjax._ranking import rank_of_label

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Array, Float, Int, Num

#: Gaussian window of SSIM: side and standard deviation in pixels (Wang et al. 2004, section III.B).
_WINDOW, _SIGMA = 11, 1.5
#: PSNR of equal images, dB: infinity would be the mean of any set that holds one.
_MOST_DB = 100.0


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A score per image, and what the scores of many images are worth together.

    The score of a set of images is the mean of their scores; with ``aggregate`` it is ``aggregate`` of the mean of
    their statistics, as the mean IoU of a set is computed from its summed intersections and unions.

    Example:
        >>> error = gd.quantization.Metric(
        ...     name="absolute error", function=lambda y, t: jnp.abs(y - t).mean(axis=1), higher_is_better=False)
        >>> error.function(jnp.ones((2, 3)), jnp.zeros((2, 3))).tolist()
        [1.0, 1.0]
    """

    name: str
    """What messages, files and reports call it."""
    function: Callable[..., Any]
    """Maps (outputs, targets), JAX arrays with one row per image, to one score per image ``[batch]``; with
    ``aggregate`` to statistics ``[batch, statistic]``. It is compiled."""
    aggregate: Callable[..., Any] | None = None
    """Maps mean statistics ``[..., statistic]`` to their score ``[...]``."""
    compares: Literal["class", "class map", "image", "float output", "any"] = "any"
    """What the targets are: the class of every image, a class per pixel, images like the outputs, the outputs of the
    float network (no targets are needed), or whatever ``function`` takes."""
    higher_is_better: bool = True
    share: bool = False
    """Every image is right (1) or wrong (0): intervals are Wilson's and pairs are tested by McNemar's test. Otherwise
    both resample the images."""
    unit: Literal["%", "dB", ""] = ""
    """How values are printed; those in % lie in [0, 1]."""

    def text(self, value: float, *, unit: bool = True) -> str:
        """Return a value as people read it."""
        if not math.isfinite(value):
            return "–" if math.isnan(value) else f"{value}"
        number = f"{100 * value:.2f}" if self.unit == "%" else f"{value:.2f}" if self.unit == "dB" else f"{value:.4g}"
        return f"{number} {self.unit}" if unit and self.unit else number

    def per_image(self, statistics: Float[np.ndarray, "image ..."]) -> Float[np.ndarray, " image"]:
        """Return the score of every image by itself."""
        return statistics if self.aggregate is None else np.asarray(self.aggregate(jnp.asarray(statistics)))

    def of_mean(self, statistics: Float[np.ndarray, "... statistic"]) -> Float[np.ndarray, "..."]:
        """Return the scores of sets of images whose mean scores, or mean statistics, are given."""
        if self.aggregate is None:
            return statistics[..., 0]
        return np.asarray(self.aggregate(jnp.asarray(statistics, jnp.float32)), np.float64)


def metric(given: str | Metric | Callable[..., Any]) -> Metric:
    """Return a metric by name, with settings in brackets if any: ``"psnr(data_range=255)"``; or of a function.

    - ``top-1``, ``top-5``: the image's class has the largest logit, or one of the five largest; ties and NaN are wrong.
    - ``pixel-accuracy``, ``mean-iou`` of maps with a score per class and pixel (or one channel: the class itself, or
      with ``threshold`` class 1 above it): share of pixels that are right; intersection over union, its mean over the
      classes that occur. Both count over all images together and leave out pixels of the class ``ignore`` (255).
      ``class_axis`` (1 or -1) says where the classes are if shapes do not; ``classes`` is their number where the map
      holds classes instead of scores.
    - ``psnr``, ``ssim`` of images: peak signal to noise ratio, at most 100 dB, and structural similarity (Wang et al.
      2004: Gaussian window of 11 pixels, deviation 1.5, without the border), per image; ``data_range`` (1) is the
      difference of the largest and least possible value.
    - ``output-sqnr``: energy of the float network's outputs over that of the difference, dB; needs no labels.

    Args:
        given: name, metric, or function ``(outputs, targets) -> score per image`` in JAX, higher is better.

    Raises:
        GgdjaxError: an unknown name or setting.

    Example:
        >>> psnr = gd.quantization.metric("psnr(data_range=255)")
        >>> psnr.function(jnp.zeros((1, 4, 4, 1)), jnp.full((1, 4, 4, 1), 25.5)).round(3).tolist()
        [20.0]
    """
    if isinstance(given, Metric):
        return given
    if isinstance(given, str):
        return _parsed(given)
    if not callable(given) or inspect.isclass(given) or type(given).__module__.startswith("ggdjax"):
        raise refusal("metric", given, f"a name ({', '.join(METRICS)}), a Metric or a function of (outputs, targets)")
    return Metric(name=getattr(given, "__name__", type(given).__name__), function=given)


def _parsed(text: str) -> Metric:
    found = re.fullmatch(r"\s*([\w-]+)\s*(?:\((.*)\))?\s*", text)
    name = found[1] if found else text
    factory = _FACTORIES.get(_ALIASES.get(name, name))
    if found is None or factory is None:
        raise GgdjaxError(f"no `metric` is called `{name}`: {near_matches(name, METRICS)}")
    known = inspect.signature(factory).parameters
    try:
        call = ast.parse(f"f({found[2] or ''})", mode="eval").body
        if not isinstance(call, ast.Call) or call.args:
            raise ValueError
        given = {str(k.arg): ast.literal_eval(k.value) for k in call.keywords}
    except (SyntaxError, ValueError, TypeError):
        raise GgdjaxError(f"`metric` is {text!r}; expected settings as in `psnr(data_range=255)`") from None
    for key, value in given.items():
        if key not in known:
            settings = near_matches(key, known) if known else "it has none"
            raise GgdjaxError(f"`metric` {name} has no setting `{key}`: {settings}")
        _check_setting(name, key, value)
    return factory(**{key: value for key, value in given.items() if value != known[key].default})


#: Setting -> (is it right, what it must be).
_SETTINGS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "data_range": (lambda v: 0 < v < math.inf, "a positive number"),
    "ignore": (lambda v: isinstance(v, int), "an integer"),
    "class_axis": (lambda v: v in (1, -1), "1 or -1"),
    "threshold": (lambda v: -math.inf < v < math.inf, "a number"),
    "classes": (lambda v: isinstance(v, int) and v >= 2, "an integer of at least 2"),
}


def _check_setting(name: str, key: str, value: Any) -> None:
    right, wanted = _SETTINGS[key]
    if not isinstance(value, int | float) or isinstance(value, bool) or not right(value):
        raise GgdjaxError(f"`{key}` of `metric` {name} must be {wanted}, got {value!r}")


def _name(name: str, **settings: Any) -> str:
    """Return the name with the settings that are no defaults."""
    default = {"ignore": 255, "data_range": 1.0}
    given = [f"{key}={value}" for key, value in settings.items() if value is not None and value != default.get(key)]
    return f"{name}({', '.join(given)})" if given else name


# Classes of images ---------------------------------------------------------------------------------------------------


def _top(count: int) -> Metric:
    def right(outputs: Float[Array, "..."], targets: Int[Array, " batch"]) -> Float[Array, " batch"]:
        # Of one axis, the axes of batch and classes may be merged.
        ranks = rank_of_label(outputs.reshape(len(targets), -1), targets.astype(jnp.int32))
        return (ranks < count).astype(jnp.float32)

    return Metric(name=f"top-{count}", function=right, compares="class", share=True, unit="%")


# Classes of pixels ---------------------------------------------------------------------------------------------------


def _pixel_accuracy(
    ignore: int = 255, class_axis: int | None = None, threshold: float | None = None, classes: int | None = None
) -> Metric:
    def counts(outputs: Float[Array, "..."], targets: Int[Array, "..."]) -> Float[Array, "batch two"]:
        predicted, real, _ = _class_maps(outputs, targets, class_axis, threshold, classes)
        counted = real != ignore
        right = (predicted == real) & counted
        return jnp.stack([right.sum(1), counted.sum(1)], axis=1).astype(jnp.float32)

    name = _name("pixel-accuracy", ignore=ignore, class_axis=class_axis, threshold=threshold, classes=classes)
    return Metric(name=name, function=counts, aggregate=_share, compares="class map", unit="%")


def _share(counts: Float[Array, "... two"]) -> Float[Array, "..."]:
    return counts[..., 0] / counts[..., 1]


def _mean_iou(
    ignore: int = 255, class_axis: int | None = None, threshold: float | None = None, classes: int | None = None
) -> Metric:
    def counts(outputs: Float[Array, "..."], targets: Int[Array, "..."]) -> Float[Array, "batch statistic"]:
        predicted, real, count = _class_maps(outputs, targets, class_axis, threshold, classes)
        if count is None:
            raise DataError(
                "the network gives a class per pixel, not a score per class: say how many there are, as in "
                "`mean-iou(classes=21)`, or with `threshold` for one channel that says whether"
            )
        real = jnp.where(real == ignore, -1, real)
        predicted = jnp.where(real < 0, -1, predicted)

        def of_class(which: Array) -> tuple[Array, Array]:
            ours, theirs = predicted == which, real == which
            return (ours & theirs).sum(1), (ours | theirs).sum(1)

        both, either = jax.lax.map(of_class, jnp.arange(count, dtype=jnp.int32))
        return jnp.concatenate([both, either]).T.astype(jnp.float32)

    name = _name("mean-iou", ignore=ignore, class_axis=class_axis, threshold=threshold, classes=classes)
    return Metric(name=name, function=counts, aggregate=_mean_of_ratios, compares="class map", unit="%")


def _mean_of_ratios(counts: Float[Array, "... statistic"]) -> Float[Array, "..."]:
    both, either = jnp.split(counts, 2, axis=-1)
    occurs = either > 0
    ratios = jnp.where(occurs, both / jnp.where(occurs, either, 1.0), 0.0)
    return ratios.sum(-1) / occurs.astype(jnp.float32).sum(-1)


def _class_maps(
    outputs: Float[Array, "..."],
    targets: Num[Array, "..."],
    class_axis: int | None,
    threshold: float | None,
    classes: int | None,
) -> tuple[Int[Array, "batch pixel"], Int[Array, "batch pixel"], int | None]:
    """Return predicted (-1: none) and true classes of all pixels, and the number of classes where it is known."""
    axis = class_axis_of(outputs.shape, targets.shape, class_axis)
    real = targets.astype(jnp.int32).reshape(len(targets), -1)
    count = None if axis is None else outputs.shape[axis]
    if count is None or count == 1:
        own = outputs.reshape(len(outputs), -1)
        if threshold is not None:
            return jnp.where(jnp.isnan(own), -1, (own > threshold).astype(jnp.int32)), real, 2
        return jnp.where(jnp.isfinite(own), jnp.round(own), -1.0).astype(jnp.int32), real, classes
    scores = jnp.moveaxis(outputs, axis, -1).reshape(len(outputs), -1, count)
    most = scores.max(-1)
    # As of images: ties, NaN and infinite largest scores are wrong.
    known = jnp.isfinite(most) & ((scores == most[..., None]).sum(-1) == 1)
    return jnp.where(known, scores.argmax(-1), -1).astype(jnp.int32), real, count


def class_axis_of(outputs: Sequence[int], targets: Sequence[int], given: int | None = None) -> int | None:
    """Return the axis of ``outputs`` that holds the scores of the classes; None: each pixel has one number.

    Raises:
        DataError: the shapes do not fit, or fit both ways.
    """
    rank = len(outputs)

    def sizes(shape: Sequence[int]) -> list[int]:
        return [size for size in shape if size != 1]

    wanted = sizes(targets[1:])
    axes = dict.fromkeys((1, rank - 1) if given is None else (given % rank,))
    fitting = [a for a in axes if rank > 1 and sizes([*outputs[1:a], *outputs[a + 1 :]]) == wanted]
    if len(fitting) == 2 and outputs[1] > 1:
        raise DataError(
            f"outputs of shape {tuple(outputs)} may hold classes in the first or last axis: say which, as in "
            "`pixel-accuracy(class_axis=1)`, or -1"
        )
    if fitting:
        return fitting[0]
    if sizes(outputs[1:]) == wanted:
        return None
    raise DataError(
        f"targets have shape {tuple(targets)}, outputs {tuple(outputs)}: expected one class per pixel of the output; "
        "give masks of its size"
    )


# Images --------------------------------------------------------------------------------------------------------------


def _psnr(data_range: float = 1.0) -> Metric:
    def decibel(outputs: Float[Array, "batch ..."], targets: Float[Array, "batch ..."]) -> Float[Array, " batch"]:
        # Divided first: the square of a range of 16 bits is no int32, and that of its errors may be no float32.
        error = (outputs - _like(outputs, targets)) / np.float32(data_range)
        error = jnp.square(error).reshape(len(outputs), -1).mean(axis=1)
        return -10.0 * jnp.log10(jnp.maximum(error, 10.0 ** (-_MOST_DB / 10)))

    name = _name("psnr", data_range=data_range)
    return Metric(name=name, function=decibel, compares="image", unit="dB")


def _ssim(data_range: float = 1.0) -> Metric:
    def similarity(outputs: Float[Array, "batch ..."], targets: Float[Array, "batch ..."]) -> Float[Array, " batch"]:
        x, y = (_planes(v) for v in (outputs, _like(outputs, targets)))
        c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
        # Of deviations from one constant per plane: variances are differences of what may be large.
        centre = x.mean(axis=(2, 3), keepdims=True)
        x, y = x - centre, y - centre
        mx, my, xx, yy, xy = (_blurred(v) for v in (x, y, x * x, y * y, x * y))
        vx, vy, cov = xx - mx * mx, yy - my * my, xy - mx * my
        mx, my = mx + centre, my + centre
        # A ratio each: the product of both denominators is sooner beyond float32.
        means, structure = (2 * mx * my + c1) / (mx * mx + my * my + c1), (2 * cov + c2) / (vx + vy + c2)
        return (means * structure).mean(axis=(1, 2, 3))

    name = _name("ssim", data_range=data_range)
    return Metric(name=name, function=similarity, compares="image")


def _like(outputs: Array, targets: Array) -> Array:
    """Return images in the shape of the outputs, from which they may differ by axes of size 1."""
    _check_image_shapes(outputs.shape, targets.shape)
    return targets.astype(jnp.float32).reshape(outputs.shape)


def _check_image_shapes(outputs: Sequence[int], targets: Sequence[int]) -> None:
    ours, theirs = ([n for n in shape[1:] if n != 1] for shape in (outputs, targets))
    if ours != theirs:
        moved = ": move the channels" if sorted(ours) == sorted(theirs) else ""
        raise DataError(
            f"targets have shape {tuple(targets)}, outputs {tuple(outputs)}: expected images like the outputs{moved}"
        )


def _planes(images: Float[Array, "batch ..."]) -> Float[Array, "batch chan height width"]:
    shape = images.shape
    if len(shape) == 3:
        images = images[:, None]
    elif len(shape) == 4 and shape[-1] < _WINDOW <= shape[1]:
        images = jnp.moveaxis(images, -1, 1)
    if images.ndim != 4 or min(images.shape[2:]) < _WINDOW:
        raise DataError(f"`metric` ssim needs images of at least {_WINDOW} × {_WINDOW} pixels, outputs are {shape}")
    return images


def _blurred(x: Float[Array, "batch chan height width"]) -> Float[Array, "batch chan below right"]:
    """Return Gaussian means of all windows that lie inside."""
    taps = np.exp(-0.5 * ((np.arange(_WINDOW) - _WINDOW // 2) / _SIGMA) ** 2)
    weights = jnp.asarray(taps / taps.sum(), jnp.float32)
    batch, chan, height, width = x.shape
    x = x.reshape(batch * chan, 1, height, width)
    for kernel in (weights[:, None], weights[None, :]):
        x = jax.lax.conv_general_dilated(x, kernel[None, None], (1, 1), "VALID", precision="highest")
    return x.reshape(batch, chan, *x.shape[2:])


# The float network ---------------------------------------------------------------------------------------------------


def _output_sqnr() -> Metric:
    def energies(outputs: Float[Array, "..."], targets: Float[Array, "..."]) -> Float[Array, "batch two"]:
        targets = targets.reshape(len(targets), -1)
        noise = outputs.reshape(targets.shape) - targets
        return jnp.stack([jnp.square(v).sum(axis=1) for v in (targets, noise)], axis=1)

    return Metric(name="output-sqnr", function=energies, aggregate=_decibel, compares="float output", unit="dB")


def _decibel(energies: Float[Array, "... two"]) -> Float[Array, "..."]:
    return 10.0 * jnp.log10(energies[..., 0] / energies[..., 1])


#: Each makes its metric once: equal names are equal metrics.
_FACTORIES: dict[str, Callable[..., Metric]] = {
    "top-1": functools.cache(lambda: _top(1)),
    "top-5": functools.cache(lambda: _top(5)),
    "pixel-accuracy": functools.cache(_pixel_accuracy),
    "mean-iou": functools.cache(_mean_iou),
    "psnr": functools.cache(_psnr),
    "ssim": functools.cache(_ssim),
    "output-sqnr": functools.cache(_output_sqnr),
}
#: Names of the metrics.
METRICS = tuple(_FACTORIES)
_ALIASES = {"top1": "top-1", "top5": "top-5", "sqnr": "output-sqnr"}


# What fits -----------------------------------------------------------------------------------------------------------


def check_metric(chosen: Metric | None, shape: Sequence[int | None]) -> Metric:
    """Return the metric; None: top-1.

    Args:
        chosen: the metric that is wanted.
        shape: of the network's output, batch first.

    Raises:
        DataError: it does not fit outputs of ``shape``; those that do are named.
    """
    sizes = [size for size in shape[1:] if size != 1]
    scores = len(sizes) <= 1 and None not in sizes
    if chosen is None or chosen.compares == "class":
        if not scores:
            shown = " × ".join("?" if size is None else str(size) for size in shape[1:])
            need = "accuracy" if chosen is None else chosen.name
            raise DataError(
                f"the network gives a map of {shown} values per image, no score per class, which {need} needs: choose "
                f"a `metric` that fits ({', '.join(_of_maps())}), or an output that scores classes (`output` of "
                "`gd.load_onnx`)"
            )
        return chosen or metric("top-1")
    if scores and chosen.compares in ("class map", "image"):
        names = ", ".join(name for name in METRICS if name not in _of_maps() or name == "output-sqnr")
        raise DataError(
            f"the network gives {sizes[0] if sizes else 1} scores per image, no map, which {chosen.name} needs: choose "
            f"a `metric` that fits ({names})"
        )
    return chosen


def _of_maps() -> list[str]:
    return [name for name in METRICS if metric(name).compares != "class"]


def check_targets(chosen: Metric, outputs: Sequence[int], targets: np.ndarray) -> None:
    """Refuse targets that do not fit a metric and outputs of a shape.

    Raises:
        DataError: another type or shape, NaN or infinity, or a class that the network does not have.
    """
    kind = chosen.compares
    if kind == "class":
        if targets.ndim != 1 or targets.dtype.kind not in "iu":
            raise DataError(
                f"labels are {targets.dtype} of shape {targets.shape}; expected one class index per image for "
                f"`metric` {chosen.name}"
            )
    elif kind == "image":
        _check_image_shapes(outputs, targets.shape)
        if not np.isfinite(targets).all():
            raise DataError(f"targets hold NaN or infinity; expected finite images for `metric` {chosen.name}")
    elif kind == "class map":
        if targets.dtype.kind not in "iub" or targets.ndim < 2:
            raise DataError(
                f"targets are {targets.dtype} of shape {targets.shape}; expected one class index per pixel for "
                f"`metric` {chosen.name}"
            )
        _check_classes(chosen, outputs, targets)


def _check_classes(chosen: Metric, outputs: Sequence[int], targets: np.ndarray) -> None:
    given = _settings(chosen)  # a caller's own metric has none
    axis = class_axis_of(outputs, targets.shape, given.get("class_axis"))
    classes = 2 if "threshold" in given else given.get("classes", math.inf)
    if axis is not None and outputs[axis] > 1:
        classes = outputs[axis]
    wrong = targets[(targets != given.get("ignore", 255)) & ((targets < 0) | (targets >= classes))]
    if wrong.size:
        raise DataError(
            f"a target holds the class {wrong[0]}, outside the network's {classes} classes: check the masks, "
            "`label_offset`, or the class to `ignore`"
        )


def ignored_class(chosen: Metric) -> int:
    """Return the class of pixels that a metric of class maps leaves out."""
    return _settings(chosen).get("ignore", 255)


def _settings(chosen: Metric) -> dict[str, Any]:
    """Return the settings that the name of one of our metrics holds."""
    ours = chosen.name.partition("(")[0] in METRICS and "(" in chosen.name
    call = ast.parse("f" + chosen.name[chosen.name.index("(") :], mode="eval").body if ours else None
    return {str(k.arg): ast.literal_eval(k.value) for k in call.keywords} if isinstance(call, ast.Call) else {}


@functools.partial(jax.jit, static_argnames="chosen")
def statistics_of(
    outputs: Float[Array, "batch ..."], targets: Num[Array, "batch ..."], *, chosen: Metric
) -> tuple[Float[Array, "batch ..."], Array]:
    """Return scores, or statistics, of every image, and which images have finite outputs.

    Raises:
        GgdjaxError: the metric's function fails, or returns anything else.
    """
    try:
        found = chosen.function(outputs, targets)
    except GgdjaxError:
        raise
    except Exception as error:  # a caller's own
        reason = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        raise GgdjaxError(
            f"`metric` {chosen.name} fails for outputs of shape {outputs.shape} and targets of shape {targets.shape} "
            f"({reason}): give a function of (outputs, targets) in JAX"
        ) from error
    shape, rank = getattr(found, "shape", None), 1 if chosen.aggregate is None else 2
    if shape is None or len(shape) != rank or shape[0] != len(targets):
        wanted = "one score per image" if rank == 1 else "statistics `[batch, statistic]`"
        raise GgdjaxError(
            f"`metric` {chosen.name} returned {describe(found)} for {len(targets)} images; expected {wanted}"
        )
    return found.astype(jnp.float32), jnp.isfinite(outputs).reshape(len(targets), -1).all(axis=1)
