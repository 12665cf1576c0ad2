"""`load`: the value that a file holds, whatever its kind."""

from __future__ import annotations

import importlib
import operator
from typing import TYPE_CHECKING, Any

from ggdjax import _files

if TYPE_CHECKING:
    import os

#: Kind of a file -> module and attribute of what returns its value, given the record and the arrays. Only these are
#: imported: a file names no class.
DECODERS = {
    "network": ("ggdjax.network", "Network._from_file"),
    "quantized network": ("ggdjax.quantization", "QuantizedNetwork._from_file"),
    "calibration": ("ggdjax.quantization", "Calibration._from_file"),
    "histogram": ("ggdjax.ggd", "Histogram._from_file"),
    "program": ("ggdjax.datapath", "Program._from_file"),
}


def load(path: os.PathLike[str] | str) -> Any:
    """Return what ``save`` wrote: a network, quantized network, calibration, histogram or integer program.

    What is loaded computes the same numbers to the last bit. The file is checked as a whole first; nothing in it is
    executed. See the page on the file format.

    Args:
        path: the file.

    Raises:
        GgdjaxError: the file cannot be read, is damaged, of another program or of a newer version.

    Example:
        >>> net = gd.trace(lambda x: jax.nn.relu(x @ jnp.ones((4, 3))), jnp.zeros((1, 4)))
        >>> net.save("net.safetensors")
        >>> gd.load("net.safetensors").graph == net.graph
        True
    """
    kind, record, arrays = _files.read(path, DECODERS)
    module, name = DECODERS[kind]
    importlib.import_module("ggdjax.tune")  # its histories are details of a quantized network's record
    decode = operator.attrgetter(name)(importlib.import_module(module))
    with _files.decoding(path):
        return decode(record, arrays)
