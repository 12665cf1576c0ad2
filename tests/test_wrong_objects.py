"""The whole public interface, called with wrong objects: it works, or one line says what was expected."""

from __future__ import annotations

import importlib
import inspect
import pkgutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ggdjax as gd
from ggdjax import data, zoo
from ggdjax.quantization import Evaluation, QuantizedNetwork, Quantizers, Record
from ggdjax.steps import Quantizer

PACKAGES = ["ggdjax", *(f"ggdjax.{m.name}" for m in pkgutil.iter_modules(gd.__path__) if m.ispkg and m.name != "cli")]
#: Functions of arrays and numbers alone, which convert them as NumPy and JAX do.
OF_ARRAYS = {
    "ggdjax.steps.power_of_two",
    "ggdjax.steps.saturated_step",
    "ggdjax.datapath.rounding_shift",
    "ggdjax.quantization.sqnr_db",
    "ggdjax.Histogram.empty",
    "ggdjax.Quantizer.fixed_point",
}


def public_callables():
    """Return every public function, and every public class method that makes an instance, by its shortest name."""
    found = {}
    for package in PACKAGES:
        module = importlib.import_module(package)
        for name in module.__all__:
            value = getattr(module, name)
            if inspect.isclass(value):
                for maker, member in vars(value).items():
                    if isinstance(member, classmethod) and maker[0] != "_" and maker != "tree_unflatten":
                        found.setdefault(member.__func__, f"{package}.{name}.{maker}")
            elif inspect.isroutine(value):
                found.setdefault(value, f"{package}.{name}")
    return sorted(set(found.values()) - OF_ARRAYS)


def of_name(name):
    """Return what stands under a dotted name."""
    value = gd
    for part in name.split(".")[1:]:
        value = getattr(value, part)
    return value


class World:
    """What is right, by the name of a parameter, and what is wrong, by a word for it."""

    def __init__(self):
        kernel = jnp.asarray(np.random.default_rng(0).normal(size=(1, 1, 1, 3)), jnp.float32)

        def function(x):
            layout = ("NHWC", "HWIO", "NHWC")
            return jax.lax.conv_general_dilated(x, kernel, (1, 1), "VALID", dimension_numbers=layout).mean((1, 2))

        self.x = x = np.random.default_rng(1).uniform(0, 1, (6, 4, 4, 1)).astype(np.float32)
        self.labels = np.arange(6) % 3
        self.preprocessing = data.preset("mnist", layout="NHWC")
        self.image_set = data.from_arrays((255 * x).astype(np.uint8), self.labels, self.preprocessing)
        self.net = net = gd.trace(function, jnp.zeros((1, 4, 4, 1)))
        self.calibration = gd.calibrate(net, [x])
        self.histogram = self.calibration.histograms[0]
        (node,) = net.graph.quantizable
        # By hand: choosing steps would compile for seconds.
        self.q = q = QuantizedNetwork(
            graph=net.graph,
            params=net.params,
            quantizers=Quantizers(
                activations={node.inputs[0]: Quantizer(step=jnp.float32(0.01), bits=8, signed=False)},
                weights={node.name: Quantizer.fixed_point(5, 8)},
            ),
            record=Record(float_network=net, config=gd.QuantConfig(), calibration=self.calibration),
        )
        self.program = gd.datapath.compile(q)
        self.module = zoo.create("lenet5", num_classes=3)
        self.ggd = gd.GeneralizedGamma(1.0, 1.0, 1.0)
        evaluation = Evaluation(**dict.fromkeys(Evaluation.__dataclass_fields__))
        fitted = gd.ggd.FittedFamily(family="gamma", distribution=self.ggd, log_likelihood=0.0, count=96.0)
        self.right = {
            **dict.fromkeys(("net", "network", "forward"), net),
            **dict.fromkeys(("q", "quantized", "quantized_network"), q),
            **dict.fromkeys(("x", "w", "image"), x),
            **dict.fromkeys(("images",), x),
            **dict.fromkeys(("data", "histogram"), self.histogram),
            **dict.fromkeys(("path", "folder", "root", "out", "archive"), "new"),
            **{"program": self.program, "calibration": self.calibration, "graph": net.graph, "params": net.params},
            **{"label": self.labels, "labels": self.labels, "source": self.ggd, "ggd": self.ggd, "fitted": fitted},
            **{"bits": 8, "levels": jnp.float32(255), "levels_positive": 255, "step": jnp.float32(0.1), "frac_bits": 4},
            **{"batches": [x], "example": jnp.zeros((1, 4, 4, 1)), "function": function, "name": "lenet5", "seed": 0},
            **{"indices": [0], "shape": (None, 4, 4, 1)},
            **{"module": self.module, "preprocessing": self.preprocessing, "key": jax.random.key(0), "count": 1},
            **{"numerics": gd.network.Float(), "budget": 4.0, "recipe": zoo.Recipe(), "result": {}, "arrays": {}},
            **{
                "parts": data.split(self.image_set, 2),
                "ids": ["a"],
                "evaluation": evaluation,
                "rows": [],
                "own": "ggd",
            },
            **{
                "accelerator": gd.datapath.Accelerator(),
                "before": [True],
                "after": [True],
                "batch_size": 2,
                "outputs": 3,
            },
        }
        self.wrong = {
            **{"None": None, "number": 3, "text": "text", "bytes": b"\x00\xff", "object": object(), "array": x},
            **{"list": [1, 2], "empty list": [], "texts": ["a", "b"], "dict": {"a": 1}, "pair": (x, self.labels)},
            **{"text array": np.asarray(["a"]), "complex array": np.ones((2, 2), complex), "class": Quantizer},
            **{"network": net, "quantized network": q, "program": self.program, "histogram": self.histogram},
            **{"calibration": self.calibration, "image set": self.image_set, "function": function},
            **{"module": self.module, "distribution": self.ggd},
        }


@pytest.fixture(scope="module")
def world():
    return World()


def refused_otherwise(call):
    """Run ``call``; return what is wrong about how it refuses, None where it works or refuses in one line."""
    try:
        value = call()
        if inspect.isgenerator(value):
            next(value, None)
        elif hasattr(value, "__enter__"):
            with value:
                pass
    except gd.GgdjaxError as error:
        text = str(error)
        return None if len(text.splitlines()) == 1 and len(text) < 1000 else f"{len(text)} characters: {text[:200]!r}"
    except Exception as error:
        return f"{type(error).__name__}: {str(error)[:100]!r}"
    return None


@pytest.mark.parametrize("name", public_callables())
def test_wrong_first_argument(name, world, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    function = of_name(name)
    parameters = [p for p in inspect.signature(function).parameters.values() if p.kind is not p.VAR_KEYWORD]
    if not parameters or parameters[0].kind is inspect.Parameter.KEYWORD_ONLY:
        return
    right = world.right | ({"recipe": gd.Recipe()} if name.startswith("ggdjax.recipe.") else {})
    others = {p.name: right.get(p.name) for p in parameters[1:] if p.default is p.empty}
    found = {
        word: problem
        for word, value in world.wrong.items()
        # What is right needs no test here, and may compile for long.
        if value is not world.right.get(parameters[0].name)
        and not (parameters[0].name == "data" and word in {"array", "list"})
        and (problem := refused_otherwise(lambda value=value: function(value, **others))) is not None
    }
    assert not found
