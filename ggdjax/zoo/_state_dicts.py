"""Weights in PyTorch's layout (torchvision, timm, akamaster's CIFAR ResNets) put into the zoo's modules."""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax.numpy as jnp
import numpy as np
from flax import nnx

from ggdjax._errors import ModelError, UnsupportedError
from ggdjax.zoo._mobilenet_v2 import IMAGENET, MobileNetV2
from ggdjax.zoo._modules import expect_module
from ggdjax.zoo._resnet import CifarResNet, ResNet

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    #: From the path of a block in the module to the names of its convolution (or dense layer) and its normalization.
    Names = Callable[..., tuple[str, str]]

#: The module's name of an array -> PyTorch's.
_NORM = {"scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}


def load_state_dict(module: nnx.Module, arrays: Mapping[str, np.ndarray], source: str = "the state dict") -> None:
    """Fill ``module`` (abstract or not) with the arrays of a PyTorch state dict, in place.

    Convolutions are (out, in, height, width) there and dense layers (out, in); what a state dict counts
    (`num_batches_tracked`) is left out.

    Args:
      module: a `ResNet`, `CifarResNet` or `MobileNetV2`.
      arrays: by name, as torchvision or timm name them.
      source: what to call them in a message.

    Raises:
      UnsupportedError: another family.
      ModelError: names or shapes that do not fit.
    """
    expect_module("module", module)
    arrays = {name: array for name, array in arrays.items() if not name.endswith("num_batches_tracked")}
    state = nnx.state(module, (nnx.Param, nnx.BatchStat))
    variables = dict(nnx.to_flat_state(state))
    candidates = [{path: _name(path, names) for path in variables} for names in _conventions(module)]
    wanted = max(candidates, key=lambda wanted: len(arrays.keys() & set(wanted.values())))
    if odd := sorted(arrays.keys() ^ set(wanted.values())):
        where = "has no place in the network: it is only in" if odd[0] in arrays else "is missing from"
        raise ModelError(f"`{odd[0]}` {where} {source} ({len(odd)} names differ): give the network's own weights")
    for path, variable in variables.items():
        have, shape = np.asarray(arrays[wanted[path]], np.float32), variable.get_value().shape
        if path[-1] == "kernel":
            have = have.transpose(*range(2, have.ndim), 1, 0)
        if have.shape != shape:
            raise ModelError(
                f"`{wanted[path]}` of {source} has shape {arrays[wanted[path]].shape}, which does not fit the "
                f"network's {shape}: give the network's own weights, or its number of classes as `num_classes`"
            )
        variable.set_value(jnp.asarray(have))
    nnx.update(module, state)


def _name(path: tuple, names: Names) -> str:
    """Return PyTorch's name of the array at ``path``, e.g. (stem, conv, kernel)."""
    *block, part, role = path
    if part == "head":
        return f"{names('head')[0]}.{'weight' if role == 'kernel' else role}"
    conv, norm = names(*block)
    return f"{norm}.{_NORM[role]}" if part == "norm" else f"{conv}.{'weight' if role == 'kernel' else role}"


def _conventions(module: nnx.Module) -> tuple[Names, ...]:
    """Return the ways in which the arrays of a family are named."""
    match module:
        case ResNet() | CifarResNet():
            return _resnet("fc"), _resnet("linear")
        case MobileNetV2():
            count = len(module.blocks)
            timm = (_timm_mobilenet_v2,) if count == sum(stage.blocks for stage in IMAGENET) else ()
            return _torchvision_mobilenet_v2(count), *timm
        case _:
            raise UnsupportedError(
                f"weights in PyTorch's layout are not known for {type(module).__name__}; known: ResNet, CifarResNet, "
                "MobileNetV2"
            )


def _resnet(head: str) -> Names:
    def names(kind: str, stage: int = 0, block: int = 0, part: str = "") -> tuple[str, str]:
        match kind, part:
            case "head", _:
                return head, ""
            case "stem", _:
                return "conv1", "bn1"
            case _, "shortcut":
                prefix = f"layer{stage + 1}.{block}.downsample"
                return f"{prefix}.0", f"{prefix}.1"
            case _:
                prefix = f"layer{stage + 1}.{block}"
                return f"{prefix}.{part}", f"{prefix}.{part.replace('conv', 'bn')}"

    return names


def _torchvision_mobilenet_v2(count: int) -> Names:
    def names(kind: str, block: int = 0, part: str = "") -> tuple[str, str]:
        if kind == "head":
            return "classifier.1", ""
        if kind != "blocks":
            prefix = f"features.{0 if kind == 'stem' else count + 1}"
            return f"{prefix}.0", f"{prefix}.1"
        prefix = f"features.{block + 1}.conv"
        # The first block has no expansion.
        before = 0 if block == 0 else 1
        if part == "project":
            return f"{prefix}.{before + 1}", f"{prefix}.{before + 2}"
        at = f"{prefix}.{0 if part == 'expand' else before}"
        return f"{at}.0", f"{at}.1"

    return names


def _timm_mobilenet_v2(kind: str, block: int = 0, part: str = "") -> tuple[str, str]:
    match kind:
        case "head":
            return "classifier", ""
        case "stem":
            return "conv_stem", "bn1"
        case "last":
            return "conv_head", "bn2"
    stage, first = 0, 0
    while block >= first + IMAGENET[stage].blocks:
        first += IMAGENET[stage].blocks
        stage += 1
    parts = ("depthwise", "project") if stage == 0 else ("expand", "depthwise", "project")
    convs = ("conv_dw", "conv_pw") if stage == 0 else ("conv_pw", "conv_dw", "conv_pwl")
    k, prefix = parts.index(part), f"blocks.{stage}.{block - first}"
    return f"{prefix}.{convs[k]}", f"{prefix}.bn{k + 1}"
