"""Networks as static graphs: the graph, the ONNX importer and the JAX tracer, its rewrites and the one interpreter."""

from __future__ import annotations

from ggdjax.network._counts import NodeCount, count_macs, count_parameters, node_counts
from ggdjax.network._graph import FeatureMap, Graph, Node
from ggdjax.network._interpreter import Float, Numerics, run
from ggdjax.network._network import Network
from ggdjax.network._ops import supported_ops
from ggdjax.network._rewrites import fold_batch_norm
from ggdjax.network.jaxpr import trace
from ggdjax.network.onnx import export_onnx, load_onnx

__all__ = [
    "FeatureMap",
    "Float",
    "Graph",
    "Network",
    "Node",
    "NodeCount",
    "Numerics",
    "count_macs",
    "count_parameters",
    "export_onnx",
    "fold_batch_norm",
    "load_onnx",
    "node_counts",
    "run",
    "supported_ops",
    "trace",
]
