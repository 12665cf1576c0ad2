"""Random small networks of all operations that have an integer form, with data for them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen
from jax import lax, nn

import ggdjax as gd
from experiments.drawing import Drawing

if TYPE_CHECKING:
    from collections.abc import Callable

    from jaxtyping import Array

_CONSTANT_SLOPES = (0.01, 0.2, 1.5, -0.3)
#: Kinds of blocks that every network draws from, and those that networks of seeds from WIDER on draw from as well.
KINDS = ("plain", "plain", "residual", "concat", "gate", "affine", "pool", "move", "product", "limit")
MORE_KINDS = (
    *("resize", "transposed", "attention", "bilinear", "softmax", "normalize", "response", "reduce", "shuffle"),
    *("choice", "beside", "mode"),
)
WIDER = 5_000
#: Functions of one number.
ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "relu": nn.relu,
    "relu6": nn.relu6,
    "clip": lambda x: jnp.clip(x, -1.3, 2.7),
    "hard_swish": nn.hard_swish,
    "silu": nn.silu,
    "gelu": nn.gelu,
    "gelu_exact": lambda x: nn.gelu(x, approximate=False),
    "elu": nn.elu,
    "selu": nn.selu,
    "softplus": nn.softplus,
    "mish": lambda x: x * jnp.tanh(nn.softplus(x)),
    "sigmoid": nn.sigmoid,
    "tanh": jnp.tanh,
    "abs": jnp.abs,
    "square": jnp.square,
    "hard_sigmoid": nn.hard_sigmoid,
    "soft_sign": nn.soft_sign,
    "where": lambda x: jnp.where(x > 0, x, 0.3 * x),
    "jump": lambda x: jnp.where(x > 0.37, x, 0.0),
    "exp": lambda x: jnp.exp(-jnp.abs(x)),
    "root": lambda x: jnp.sqrt(jnp.abs(x) + 0.1),
}


class _Drawn(Drawing):
    """One random network: called on a batch, it draws the same operations and parameters again."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def __call__(self, x: Array) -> Array:
        self.rng = np.random.default_rng(self.seed)
        #: What was drawn, in order.
        self.said: list[str] = []
        self.wild = self.chance(0.4)
        if self.chance(0.3):
            x = self.preprocessed(x)
        for _ in range(self.rng.integers(1, 6)):
            x = self.block(x)
        return self.head(x)

    # Draws ------------------------------------------------------------------------------------------------------

    def scale(self) -> float:
        """Return a factor: about 1, or a wild one."""
        return float(10 ** self.rng.uniform(-4, 4)) if self.wild and self.chance(0.3) else self.rng.uniform(0.5, 2)

    def numbers(self, *shape: int) -> np.ndarray:
        x = self.rng.normal(size=shape) * self.scale()
        if self.chance(0.2):  # dead, or nearly dead, channels
            x *= self.rng.choice([0.0, 1e-6, 1.0], size=shape[-1])
        return np.float32(x)

    # Parts ------------------------------------------------------------------------------------------------------

    def preprocessed(self, x: Array) -> Array:
        self.said.append("preprocessing")
        mean, std = (self.rng.uniform(*ends, size=x.shape[-1]) for ends in ((0.3, 0.6), (0.2, 0.3)))
        return (x / 255.0 - np.float32(mean)) / np.float32(std)

    def bias(self, x: Array) -> Array:
        return x + self.numbers(x.shape[-1]) if self.chance(0.7) else x

    def conv(self, x: Array, out: int | None = None, *, keep: bool = False) -> Array:
        """Convolve; ``keep``: as many rows and columns as before."""
        channels = x.shape[-1]
        out = out or int(self.pick((1, 2, 3, 4, 6, 8)))
        groups = 1
        if self.chance(0.35):
            groups = channels if self.chance(0.6) else int(self.pick([g for g in (1, 2, 3) if channels % g == 0]))
            out = groups * (1 if self.chance(0.7) else 2) if groups == channels else groups * max(out // groups, 1)
        window = tuple(min(int(self.pick((1, 1, 2, 3, 3))), size) for size in x.shape[1:3])
        strides, dilation = (1, 1), (1, 1)
        if not keep:
            strides = tuple(int(self.pick((1, 1, 2, 3))) for _ in window)
            if self.chance(0.2) and max(strides) == 1:
                dilation = tuple(int(self.pick((1, 2))) for _ in window)
        padding = "SAME" if keep or self.chance(0.6) else "VALID"
        if padding == "VALID" and any((w - 1) * d >= s for w, d, s in zip(window, dilation, x.shape[1:3], strict=True)):
            padding = "SAME"
        kernel = self.numbers(*window, channels // groups, out) / np.float32(
            np.sqrt(np.prod(window) * channels / groups)
        )
        self.said.append(f"conv{window}/{strides}x{dilation} groups {groups} -> {out}")
        y = lax.conv_general_dilated(
            x,
            kernel,
            strides,
            padding,
            rhs_dilation=dilation,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=groups,
            precision="highest",
        )
        return self.bias(y)

    def dense(self, x: Array, out: int) -> Array:
        kernel = self.numbers(x.shape[-1], out) / np.float32(np.sqrt(x.shape[-1]))
        self.said.append(f"dense -> {out}")
        return self.bias(jnp.matmul(x, kernel, precision="highest"))

    def activation(self, x: Array) -> Array:
        match self.rng.integers(8):
            case 0:
                self.said.append("leaky_relu")
                return nn.leaky_relu(x, float(self.pick(_CONSTANT_SLOPES)))
            case 1:
                self.said.append("prelu")
                return jnp.where(x >= 0, x, np.float32(self.rng.normal(size=x.shape[-1])) * x)
            case 2:
                return x
            case _:
                name = str(self.pick(list(ACTIVATIONS)))
                self.said.append(name)
                return ACTIVATIONS[name](x)

    def affine(self, x: Array) -> Array:
        kind = str(self.pick(("scalar", "channel", "position", "tiny", "subtract_from", "quotient")))
        self.said.append(f"affine {kind}")
        shape = {"channel": x.shape[-1:], "position": (*x.shape[1:-1], x.shape[-1])}.get(kind, ())
        scale, offset = (self.rng.normal(size=shape) * self.scale() for _ in range(2))
        if kind == "tiny":
            scale = self.pick((0.0, 1e-6, 1e-4)) * np.ones(())
        if kind == "channel" and self.chance(0.3):
            scale = scale * self.rng.choice([0.0, 1e-5, 1.0], size=shape)
        if kind == "subtract_from":
            return np.float32(offset) - x
        if kind == "quotient":
            return x / np.float32(np.abs(scale) + 0.1)
        return x * np.float32(scale) + (np.float32(offset) if self.chance(0.8) else 0)

    def pool(self, x: Array) -> Array:
        window = tuple(min(int(self.pick((1, 2, 3))), size) for size in x.shape[1:3])
        strides = tuple(int(self.pick((1, 2))) for _ in window)
        kind = str(self.pick(("max", "average", "average_inside")))
        pads = tuple(tuple(int(self.rng.integers(w)) for _ in range(2)) for w in window)
        self.said.append(f"{kind} pool {window}/{strides} {pads}")
        if kind == "max":
            return linen.max_pool(x, window, strides, pads)
        return linen.avg_pool(x, window, strides, pads, count_include_pad=kind == "average")

    def gate(self, x: Array) -> Array:
        self.said.append("gate")
        s = jnp.mean(x, axis=(1, 2), keepdims=True)
        s = self.activation(self.dense(s, int(self.pick((1, 2, 4)))))
        s = self.dense(s, x.shape[-1])
        return x * (nn.sigmoid(s) if self.chance(0.5) else nn.hard_sigmoid(s))

    def move(self, x: Array) -> Array:
        match self.rng.integers(5):
            case 0:
                self.said.append("pad")
                value = float(self.pick((0.0, 0.0, 0.7, -1.2)))
                return jnp.pad(x, ((0, 0), (1, 0), (0, 2), (0, 0)), constant_values=value)
            case 1 if x.shape[1] > 1:
                self.said.append("slice rows")
                return x[:, 1:]
            case 2 if x.shape[-1] > 1:
                self.said.append("slice channels")
                return x[..., : x.shape[-1] - 1]
            case 3:
                self.said.append("transpose")
                return jnp.transpose(x, (0, 2, 1, 3))
            case _:
                self.said.append("reverse")
                return x[:, ::-1]

    # More parts -------------------------------------------------------------------------------------------------

    def resize(self, x: Array) -> Array:
        rows, columns = (int(self.rng.integers(1, 2 * size + 1)) for size in x.shape[1:3])
        method = str(self.pick(("nearest", "linear", "cubic")))
        return jax.image.resize(x, (x.shape[0], rows, columns, x.shape[-1]), method, antialias=self.chance(0.5))

    def transposed(self, x: Array) -> Array:
        window = tuple(int(self.pick((1, 2, 3))) for _ in range(2))
        kernel = self.numbers(*window, x.shape[-1], out := int(self.pick((1, 2, 4)))) / np.float32(np.sqrt(out))
        strides = tuple(int(self.pick((1, 2))) for _ in range(2))
        y = lax.conv_transpose(x, kernel, strides, str(self.pick(("SAME", "VALID"))), precision="highest")
        return self.bias(y)

    def attention(self, x: Array) -> Array:
        q, k, v = (self.dense(x.reshape(x.shape[0], -1, x.shape[-1]), 3) for _ in range(3))
        scores = jnp.einsum("bpc,bqc->bpq", q, k, precision="highest") / np.float32(np.sqrt(3))
        y = jnp.einsum("bpq,bqc->bpc", nn.softmax(scores), v, precision="highest")
        return y.reshape(*x.shape[:-1], 3)

    def bilinear(self, x: Array) -> Array:
        a, b = (self.activation(self.dense(x.reshape(x.shape[0], -1, x.shape[-1]), n)) for n in (3, 2))
        return jnp.einsum("bpi,bpj->bij", a, b, precision="highest")[..., None]

    def softmax(self, x: Array) -> Array:
        axis = int(self.rng.integers(1, 4))
        match self.rng.integers(3):
            case 0:
                return nn.softmax(x, axis)
            case 1:
                return nn.log_softmax(x, axis)
            case _:
                return nn.logsumexp(x, axis, keepdims=True)

    def normalize(self, x: Array) -> Array:
        axes = ((3,), (1, 2), (1, 2, 3))[self.rng.integers(3)]
        y = x - jnp.mean(x, axes, keepdims=True)
        return y * lax.rsqrt(jnp.mean(jnp.square(y), axes, keepdims=True) + np.float32(self.pick((1e-5, 1e-3, 1.0))))

    def response(self, x: Array) -> Array:
        squares = lax.reduce_window(jnp.square(x), 0.0, lax.add, (1, 1, 1, 3), (1, 1, 1, 1), "SAME")
        return x / (float(self.pick((1.0, 2.0))) + 0.1 * squares) ** float(self.pick((0.5, 0.75)))

    def reduce(self, x: Array) -> Array:
        axis = int(self.rng.integers(1, 4))
        y = self.pick((jnp.max, jnp.min, jnp.sum, jnp.mean, jnp.linalg.norm))(x, axis=axis, keepdims=True)
        match self.rng.integers(3):
            case 0:
                return y
            case 1:
                return x - y
            case _:
                return x * y

    def shuffle(self, x: Array) -> Array:
        match self.rng.integers(3):
            case 0 if x.shape[-1] % 4 == 0:
                y = x.reshape(*x.shape[:3], 2, 2, -1).transpose(0, 1, 3, 2, 4, 5)
                return y.reshape(x.shape[0], 2 * x.shape[1], 2 * x.shape[2], -1)
            case 1:
                return x[..., self.rng.integers(0, x.shape[-1], self.rng.integers(1, 5))]
            case _:
                return jnp.repeat(x, 2, axis=int(self.rng.integers(1, 4)))

    def choice(self, x: Array) -> Array:
        return jnp.where(self.rng.random(x.shape[-1]) > 0.5, x, self.pick((0.0, 0.4, 3 * x, -x)))

    def beside(self, x: Array) -> Array:
        constant = jnp.broadcast_to(self.numbers(x.shape[2], 2), (*x.shape[:3], 2))
        return jnp.concatenate([x, constant], axis=-1)

    def mode(self, x: Array) -> Array:
        most = min(2, *(size - 1 for size in x.shape[1:3]))
        pads = [(0, 0), *((int(self.rng.integers(0, most + 1)),) * 2 for _ in range(2)), (0, 0)]
        return jnp.pad(x, pads, mode=str(self.pick(("reflect", "edge", "wrap"))))

    def block(self, x: Array) -> Array:
        kind = str(self.pick(KINDS + (MORE_KINDS if self.seed >= WIDER else ())))
        match kind:
            case "residual":
                y = self.conv(x, x.shape[-1], keep=True)
                y = self.activation(y)
                if self.chance(0.5):
                    y = self.conv(y, x.shape[-1], keep=True)
                if y.shape != x.shape:
                    return self.activation(y)
                self.said.append("residual")
                y = x - y if self.chance(0.3) else x + y
            case "concat":
                branches = [x] if self.chance(0.4) else []
                branches += [self.activation(self.conv(x, keep=True)) for _ in range(2)]
                self.said.append("concat")
                y = jnp.concatenate(branches, axis=-1)
            case "gate":
                y = self.gate(self.activation(self.conv(x)))
            case "affine":
                y = self.affine(x)
            case "pool":
                y = self.pool(x)
            case "move":
                y = self.move(x)
            case "product":
                a, b = (self.activation(self.conv(x, 4, keep=True)) for _ in range(2))
                self.said.append("product")
                y = a * b if a.shape == b.shape else jnp.concatenate([a, b], axis=-1)
            case "limit":
                a, b = (self.conv(x, 4, keep=True) for _ in range(2))
                self.said.append("max or min of two")
                y = self.pick((jnp.maximum, jnp.minimum))(a, b) if a.shape == b.shape else a
            case "plain":
                y = self.conv(x)
            case _:
                self.said.append(kind)
                y = getattr(self, kind)(self.conv(x) if self.chance(0.7) else x)
        return self.activation(y)

    def head(self, x: Array) -> Array:
        match self.rng.integers(6):
            case 0:
                self.said.append("flatten")
                x = x.reshape(x.shape[0], -1)
            case 1:
                self.said.append("max over space")
                x = jnp.max(x, axis=(1, 2))
            case 2:
                self.said.append("feature maps leave")
                return self.conv(x) if self.chance(0.7) else x
            case 3:
                self.said.append("sum")
                x = jnp.sum(x, axis=(1, 2))
            case _:
                self.said.append("mean")
                x = jnp.mean(x, axis=(1, 2))
        x = self.dense(x, int(self.pick((1, 2, 5))))
        if self.chance(0.2):
            self.said.append("softmax")
            x = nn.softmax(x)
        elif self.chance(0.2):
            x = self.activation(x)
        return x


@dataclass(frozen=True, kw_only=True)
class RandomNetwork:
    """A network, how to quantize it, and data for it."""

    net: gd.Network
    config: gd.QuantConfig
    calibration: np.ndarray
    """Images that the ranges are measured on."""
    images: np.ndarray
    """Others of the same distribution."""
    parts: tuple[str, ...]
    """What was drawn, in order."""


def random_network(seed: int) -> RandomNetwork | None:
    """Return the network of a seed; None where no layer was drawn."""
    rng = np.random.default_rng([seed, 1])
    shape = tuple(int(v) for v in (*rng.integers(1, 8, 2), rng.choice([1, 2, 3, 5])))
    drawn = _Drawn(seed)
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        net = gd.trace(drawn, np.zeros((1, *shape), np.float32))
    if "preprocessing" in drawn.said:
        x = rng.integers(0, 256, (48, *shape)).astype(np.float32)
    else:
        size = 10 ** rng.uniform(-4, 4) if drawn.wild and rng.random() < 0.4 else 1.0
        x = (size * rng.normal(size=(48, *shape))).astype(np.float32)
        if rng.random() < 0.3:
            x = np.abs(x)
    if not net.graph.quantizable:
        return None
    config = gd.QuantConfig(
        weight_bits=int(rng.integers(2, 9)),
        activation_bits=int(rng.integers(2, 9)),
        scheme="max-abs",
        weights_per=str(rng.choice(["tensor", "channel"])),
        factor_bits=int(rng.integers(6, 17)) if seed >= WIDER and rng.random() < 0.3 else None,
    )
    return RandomNetwork(net=net, config=config, calibration=x[:40], images=x[32:], parts=tuple(drawn.said))
