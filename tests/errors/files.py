"""Wrong files of models, and of lists of images."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from tests.errors.given import file, folder
from tests.errors.world import ON, Case, Q, World
from tests.small_onnx import write_network


def truncated(w: World) -> None:
    whole = w.model.read_bytes()
    (w.given / "bad.onnx").write_bytes(whole[: len(whole) // 2])


def network(nodes, *, size=(8, 8), inputs=("x",), opset=17, constants=(), path="bad.onnx") -> Callable[[World], None]:
    """Return what writes an ONNX file of these nodes, from `x` to `y`."""

    def write(w: World) -> None:
        values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 3, *size]) for name in inputs]
        result = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
        graph = helper.make_graph(nodes, "bad", values, [result], list(constants))
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
        (w.given / path).write_bytes(model.SerializeToString())

    return write


def external(w: World) -> None:
    model = onnx.load(w.model)
    onnx.save_model(model, w.given / "bad.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0)
    (w.given / "weights.bin").unlink()


def batch_norm() -> Any:
    constants = [helper.make_tensor(n, TensorProto.FLOAT, [3], np.ones(3)) for n in "smvu"]
    node = helper.make_node("BatchNormalization", ["x", *"smvu"], ["y"], "norm", training_mode=1)
    return network([node], constants=constants)


def lstm() -> Any:
    shapes = {"w": (1, 16, 8), "r": (1, 16, 4)}
    constants = [helper.make_tensor(n, TensorProto.FLOAT, s, np.zeros(s).ravel()) for n, s in shapes.items()]
    return network([helper.make_node("LSTM", ["x", "w", "r"], ["y"], "cell", hidden_size=4)], constants=constants)


B = "quantize {given}/bad.onnx " + ON
# fmt: off
FILES = [
    Case("model missing", "quantize {given}/gone.onnx " + ON, "no model file | gone.onnx | ONNX file"),
    Case("model empty", B, "bad.onnx | cannot be read as ONNX | export it again", file("bad.onnx")),
    Case("model truncated", B, "bad.onnx | truncated | export it again", truncated),
    Case("model is text", B, "bad.onnx | another kind of file | export it", file("bad.onnx", "no network\n" * 9)),
    Case("model is a folder", B, "bad.onnx | folder | ONNX file", folder("bad.onnx")),
    Case("external data missing", B, "external data | bad.onnx | weights.bin | beside", external),
    Case("operator set too old", B, "operator set 6 | 7 is the oldest | version_converter",
         network([helper.make_node("Relu", ["x"], ["y"])], opset=6)),
    Case("dynamic shape", B, "`x` | open dimensions | (None, 3, None, None) | `--input-shape`",
         network([helper.make_node("Relu", ["x"], ["y"])], size=("h", "w"))),
    Case("two inputs", B, "`x`, `z` | one input | `--constant NAME=NUMBER`",
         network([helper.make_node("Add", ["x", "z"], ["y"])], inputs=("x", "z"))),
    Case("recurrent layer", B, "recurrent layer | LSTM | feed-forward | `cell`", lstm()),
    Case("unsupported operator", B, "unsupported operator | Asinh | `angle` | supported:  | Relu",
         network([helper.make_node("Asinh", ["x"], ["y"], "angle")])),
    Case("batch normalization in training mode", B, "training mode | BatchNormalization | `norm`",
         batch_norm()),
    Case("NaN in the weights", B, "`k` | NaN | repair",
         lambda w: write_network(w.given / "bad.onnx", kernel_scale=float("nan"))),
    Case("ids missing", Q + " --calibration-ids {given}/gone", "--calibration-ids | gone | one id a line"),
    Case("ids in another encoding", Q + " --calibration-ids {given}/ids",
         "--calibration-ids | ids | text | one id a line", file("ids", b"\xff\xfe\x80")),
    Case("ids is a folder", Q + " --calibration-ids {given}/ids", "--calibration-ids | one id a line", folder("ids")),
    Case("ids unknown", Q + " --calibration-ids {given}/ids", "class0/99.png | 0/0.png",
         file("ids", "class0/99.png\n")),
    Case("ids empty", Q + " --calibration-ids {given}/ids", "calibration | give", file("ids")),
]
# fmt: on
