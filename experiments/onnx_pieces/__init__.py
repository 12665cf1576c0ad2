"""What random ONNX models are drawn from: one function for each kind of operator."""

from experiments.drawing import Pieces
from experiments.onnx_pieces import elementwise, operands, products, quantization, rearrangements, reductions, space

#: Their order is part of what a seed draws.
_KINDS = (elementwise, operands, products, space, reductions, rearrangements, quantization)
PIECES = Pieces(*(kind.piece for kind in _KINDS))
