"""Networks with trained weights: those of the package, published ones, a file, or an address."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp

from ggdjax._errors import GgdjaxError, ModelError
from ggdjax.network import load_onnx, trace
from ggdjax.zoo._download import download
from ggdjax.zoo._registry import abstract, entry
from ggdjax.zoo._weights import load_weights

if TYPE_CHECKING:
    from collections.abc import Callable
    from os import PathLike

    from ggdjax.network import Network


@dataclass(frozen=True, kw_only=True)
class PublishedFile:
    """A trained network as its owners publish it."""

    url: str
    sha256: str


#: The ONNX Model Zoo, where it moved in 2025. The checksums are those of its ONNX_HUB_MANIFEST.json; DenseNet's is that
#: of its Git LFS pointer.
_ONNX_ZOO = "https://huggingface.co/onnxmodelzoo/legacy_models/resolve/main/validated/vision/classification"

PUBLISHED: dict[str, PublishedFile] = {
    name: PublishedFile(url=f"{_ONNX_ZOO}/{path}", sha256=sha256)
    for name, path, sha256 in (
        (
            "densenet121",
            "densenet-121/model/densenet-12.onnx",
            "0294e7e88e5b3360de9b0fdc321baf9e6ef18b7f058c4536caae3b9f18ed9ed5",
        ),
        (
            "googlenet",
            "inception_and_googlenet/inception_v1/model/inception-v1-12.onnx",
            "814b31a6316873bd03d2d808415ce1f40a7bf48ad88eab5ecc3cdc8dc6cf38ec",
        ),
        (
            "mobilenet_v2",
            "mobilenet/model/mobilenetv2-12.onnx",
            "c0c3f76d93fa3fd6580652a45618618a220fced18babf65774ed169de0432ad5",
        ),
        (
            "resnet18",
            "resnet/model/resnet18-v1-7.onnx",
            "4e8f8653e7a2222b3904cc3fe8e304cd8b339ce1d05fd24688162f86fb6df52c",
        ),
        (
            "resnet34",
            "resnet/model/resnet34-v1-7.onnx",
            "883a41b2e30ddc2e422c108b091b5e70b92d37dc5c345a2c563dcae27971e2cc",
        ),
        (
            "resnet50",
            "resnet/model/resnet50-v1-12.onnx",
            "3f03fdef724b22947eed826f1eef1dc5c34151bb4c37d634f1db89dfa2dd1526",
        ),
        (
            "squeezenet1_0",
            "squeezenet/model/squeezenet1.0-12.onnx",
            "dec81a8684617770b3cf13fadc1d92565d1d453d23935fc6388b792d99c992bd",
        ),
        (
            "squeezenet1_1",
            "squeezenet/model/squeezenet1.1-7.onnx",
            "1eeff551a67ae8d565ca33b572fc4b66e3ef357b0eb2863bb9ff47a918cc4088",
        ),
        (
            "vgg16",
            "vgg/model/vgg16-12.onnx",
            "722c42f53ca03a5480296bf8f9c85a151de3eed9ec982d7d2302ff6e2900c67b",
        ),
    )
}


def load(
    name: str,
    weights: str | PathLike[str] | None = None,
    *,
    sha256: str | None = None,
    num_classes: int | None = None,
    progress: Callable[[int, int | None], None] | None = None,
) -> Network:
    """Return the network ``name`` with trained weights.

    Args:
      name: one of `ggdjax.zoo.names`.
      weights: None for the weights that come with the package; "published" for the network as its owners publish it,
        downloaded once (an ONNX file, with its own layout and perhaps a softmax at the end); else a safetensors file,
        or the http(s) address of one, of `save_weights` or a PyTorch state dict.
      sha256: checksum of the file behind an address, which must be given.
      num_classes: width of the logits that the weights are of; None for that of the published network.
      progress: called with (bytes so far, bytes in all or None) while downloading.

    Raises:
      GgdjaxError: an unknown name, or a checksum without an address.
      ModelError: no such weights, an address without its checksum, a failed download (see `download`), or weights that
        do not fit the network.
      UnsupportedError: a PyTorch state dict for a family whose names are not known.
    """
    known = entry(name)
    address = str(weights).startswith(("http://", "https://"))
    if sha256 is not None and not address:
        raise GgdjaxError(f"`sha256` is for addresses, but `weights` is {weights!r}: leave it out")
    if weights == "published":
        if name not in PUBLISHED:
            others = ", ".join(sorted(PUBLISHED))
            raise ModelError(f"no published weights of `{name}` are known, only of {others}: give a file as `weights`")
        if num_classes not in {None, known.num_classes}:
            raise ModelError(f"`num_classes` is {num_classes}, the published `{name}` has {known.num_classes}")
        return load_onnx(download(PUBLISHED[name].url, PUBLISHED[name].sha256, progress))
    module = abstract(name, num_classes=num_classes)
    if weights is None:
        shipped = resources.files("ggdjax.zoo") / f"_{name}.safetensors"
        if not shipped.is_file():
            published = ', "published"' if name in PUBLISHED else ""
            raise ModelError(
                f"no weights of `{name}` come with the package: give `weights` (a safetensors file or address"
                f"{published}), or draw some by `ggdjax.zoo.create`"
            )
        with resources.as_file(shipped) as path:
            load_weights(module, path)
    elif not address:
        load_weights(module, weights)
    elif sha256 is None:
        raise ModelError(f"`weights` is the address {weights}: give the `sha256` of its file, or download it yourself")
    else:
        load_weights(module, download(str(weights), sha256, progress))
    return trace(module, jax.ShapeDtypeStruct((1, *known.input_shape), jnp.float32))
