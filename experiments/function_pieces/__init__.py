"""What random functions are drawn from: functions of draws, a value, and the values before it."""

from experiments.drawing import Pieces
from experiments.function_pieces import elementwise, products, rearrangements, reductions

#: Their order is part of what a seed draws.
PIECES = Pieces(*(kind.piece for kind in (elementwise, products, reductions, rearrangements)))
