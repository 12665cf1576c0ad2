"""Wrong functions to trace, and wrong networks and weights to load."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

import ggdjax as gd
from tests.errors.given import file, foreign
from tests.errors.world import Case, World


class Dropping(nnx.Module):
    """A network in training mode."""

    def __init__(self) -> None:
        self.drop = nnx.Dropout(0.5, rngs=nnx.Rngs(0))

    def __call__(self, x):
        return self.drop(x)


def traced(function, shape=(1, 3, 8, 8)) -> Callable[[World], Any]:
    return lambda w: gd.trace(function, jnp.zeros(shape))


# fmt: off
NETWORKS = [
    Case("module in training mode", traced(Dropping()), "training mode | eval()"),
    Case("unsupported operation", traced(jnp.arcsinh), "`asinh` | supported: "),
    Case("loop", traced(lambda x: jax.lax.fori_loop(0, 3, lambda i, y: y * 2.0, x)), "control flow | unroll"),
    Case("decision by values", traced(lambda x: x if x.sum() > 0 else -x), "decides by the values | jax.numpy.where"),
    Case("reduction over the batch", traced(lambda x: x - x.mean(0, keepdims=True)), "over the batch | training mode"),
    Case("constant result", traced(lambda x: jnp.ones(3)), "result of `function` | argument | return"),
    Case("no function", lambda w: gd.trace(3, w.x), "`function` is 3 | module"),
    Case("example without a batch", lambda w: gd.trace(jnp.tanh, jnp.zeros(3)), "(3,) | batch first"),
    Case("unknown output", lambda w: gd.load_onnx(w.model, "logit"), "'logit' | did you mean `logits`"),
    Case("input shape that contradicts", lambda w: gd.load_onnx(w.model, input_shape=(None, 1, 8, 8)),
         "(None, 1, 8, 8) | (batch, 3, 8, 8)"),
    Case("operator set out of range", lambda w: gd.network.export_onnx(w.net, w.place / "a.onnx", opset=3),
         "`opset` is 3 | 13 to 21"),
    Case("network file is not writable", lambda w: gd.network.export_onnx(w.net, w.given / "file" / "a.onnx"),
         "`path` | file/a.onnx | cannot be written | choose", file("file")),
    Case("no weights shipped", lambda w: gd.zoo.load("vgg16"), '`vgg16` | give `weights` | "published"'),
    Case("unknown zoo network", lambda w: gd.zoo.load("resnet-20"), "'resnet-20' | did you mean `resnet20`"),
    Case("no published weights", lambda w: gd.zoo.load("lenet5", "published"), "`lenet5` | only of | give a file"),
    Case("weights missing", lambda w: gd.zoo.load("lenet5", w.given / "gone"), "gone | cannot be read | safetensors"),
    Case("weights damaged", lambda w: gd.zoo.load("lenet5", w.given / "w"), "given/w | cannot be read | safetensors",
         file("w", "x" * 40)),
    Case("weights of another network", lambda w: gd.zoo.load("lenet5", w.given / "w"),
         "given/w | names differ | the network's own weights", foreign),
    Case("address without checksum", lambda w: gd.zoo.load("lenet5", "https://example.org/w"),
         "https://example.org/w | give the `sha256`"),
    Case("checksum that is none", lambda w: gd.zoo.load("lenet5", "https://example.org/w", sha256="12"),
         "`sha256` is '12' | 64 hexadecimal digits"),
    Case("checksum of a file", lambda w: gd.zoo.load("lenet5", w.given / "w", sha256="12"), "`sha256` | leave it out"),
]
# fmt: on
