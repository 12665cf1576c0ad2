"""From a quantized network to an integer program.

The quantized network rounds what enters convolutions and dense layers (its feature maps) and is real elsewhere. The
program computes the same with integers only. For every tensor, each reader asks for the *format* it needs, and the
request travels back to the tensor that produces the value:

- Convolutions and dense layers ask for the codes of their feature map. Their accumulator, on the grid Δ_in · 2^(−F),
  holds Σ q_x q_w + q_b exactly; the bias is rounded to that grid (Jacob et al., CVPR 2018, section 2.4).
- ReLU, clip, max pooling, concatenation and everything that only moves values are monotone or do nothing, so they
  commute with rounding, round(min(x, c)/Δ) = min(round(x/Δ), round(c/Δ)). A request passes through them unchanged: the
  accumulator is requantized straight to the step of the feature map that is finally read, ReLU and clip become the
  limits of that one saturation, all inputs of a concatenation get one step, and no value is rounded twice.
- What is read as it is (operands of additions, inputs of averages and leaky ReLUs) is requantized from the same
  accumulator to a wide fixed-point number on a power-of-two grid; an addition takes the coarser of its operands'
  (`ggdjax.datapath._ranges`).
  The quantized network keeps that branch in real numbers, so ``residual_bits`` decides how often a sum is rounded to
  another code: an error of 2^(−k) of a step changes about 2^(−k−2) of the codes.
- Averages are integer sums whose division by the window's size joins the multiplier; activation functions, in however
  many nodes, are tables (`ggdjax.datapath._functions`); the product of two tensors multiplies two numbers of
  ``factor_bits`` and is rounded to a wide number; a rounding in the middle of the network is a requantization to its
  grid.
- Masks (−∞, −10^9) before softmax, maxima and outputs become numbers just below the others (`ggdjax.datapath._masks`).
- A layer whose input or weights stay in float by choice, and a product of which a factor does, is computed in float:
  its inputs are turned into real numbers, its output into wide fixed-point numbers. `Program.in_float` names them.
- The output of the network stays in the units of the accumulator that makes it, as int32 with one scale: argmax needs
  no requantization. Weights with a step per channel have no common unit; their logits are carried.

Ratios of scales are m0 · 2^(−r) with an m0 of ``multiplier_bits`` bits. The relative error 2^(−b) of a ratio moves a
code q by at most q · 2^(−b) of a step.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

from ggdjax._errors import UnsupportedError, expect, kinds_of
from ggdjax.datapath._compiler import Compiler
from ggdjax.datapath._spec import Accelerator
from ggdjax.datapath._sums import MAKERS

if TYPE_CHECKING:
    from ggdjax.datapath._program import Program
    from ggdjax.quantization import QuantizedNetwork


def compile(quantized_network: QuantizedNetwork, accelerator: Accelerator | None = None) -> Program:
    """Return the integer program that computes what ``quantized_network`` does.

    Args:
        quantized_network: what :func:`ggdjax.quantize` returned; steps per feature map, not per channel.
        accelerator: the datapath; the defaults of :class:`Accelerator` where None.

    Raises:
        UnsupportedError: an operation has no integer form (named, with an alternative).
        GgdjaxError: codes, weights, biases or ratios that the accelerator's widths cannot hold, or an accumulator
            that can overflow under ``Overflow.RAISE`` (named, with the width it needs).

    Warns:
        UserWarning: codes that integers between layers are too coarse for; see :attr:`Program.inexact`.

    Example:
        >>> x = jax.random.normal(jax.random.key(0), (64, 4))
        >>> net = gd.trace(lambda x: jax.nn.relu(x @ jnp.eye(4)) @ jnp.eye(4), jnp.zeros((1, 4)))
        >>> q = gd.quantize(net, gd.calibrate(net, [x]), gd.QuantConfig(scheme="max-abs"))
        >>> program = gd.datapath.compile(q)
        >>> program.integers(x).dtype, program.run(x).overflows
        (dtype('int32'), 0)
    """
    expect("quantized_network", quantized_network, "QuantizedNetwork")
    program = Compiler(quantized_network, accelerator or Accelerator(), MAKERS).program()
    if program.inexact:
        warnings.warn(" ".join(program.inexact_lines()), stacklevel=2)
    return program


def refuse_float(program: Program, what: str) -> None:
    """Raise where a layer stays in float, which ``what`` cannot hold.

    Raises:
        UnsupportedError: naming the layer.
    """
    if program.in_float:
        raise UnsupportedError(
            f"`{program.in_float[0]}` stays in float, which {what} cannot hold: give it widths, or write QDQ with "
            "`export_onnx`"
        )


def as_program(program: Program | QuantizedNetwork) -> Program:
    """Return ``program``; a quantized network is compiled for the default accelerator.

    Raises:
        GgdjaxError: it is neither.
    """
    if "QuantizedNetwork" in kinds_of(program):
        return compile(program)
    return expect("program", program, "Program")
