"""Pieces of random ONNX models: matrix products."""

from __future__ import annotations

from typing import TYPE_CHECKING

from experiments.drawing import Pieces, need

if TYPE_CHECKING:
    from experiments.random_onnx import Draw, Value

piece = Pieces()


@piece(2)
def gemm(d: Draw, v: Value) -> str:
    need(v.rank == 2 and v.batch == 0)
    inner, out, turned = v.shape[1], d.int(1, 6), d.chance(0.5)
    inputs = [v.name, d.const(d.numbers(*((out, inner) if turned else (inner, out))))]
    if d.opset < 11 or d.chance(0.7):
        inputs.append(d.const(d.numbers(*d.pick(((out,), (1, out), (), (1,))))))
    given = {name: float(d.rng.uniform(0.5, 2)) for name in ("alpha", "beta") if d.chance(0.3)}
    return d.op("Gemm", inputs, transB=int(turned), **given)


@piece(2)
def matmul(d: Draw, v: Value) -> str:
    need(v.rank > 1)
    match d.int(0, 4):
        case 0 | 1:
            need(v.batch != v.rank - 1)
            return d.op("MatMul", [v.name, d.const(d.numbers(*(1,) * d.int(0, 1), v.shape[-1], d.int(1, 5)))])
        case 2:
            need(v.batch != v.rank - 2)
            return d.op("MatMul", [d.const(d.numbers(d.int(1, 5), v.shape[-2])), v.name])
        case 3:
            need(v.batch != v.rank - 1)
            return d.op("MatMul", [v.name, d.const(d.numbers(v.shape[-1]))])
        case _:
            need(v.rank > 2 and v.batch == 0)
            order = [*range(v.rank - 2), v.rank - 1, v.rank - 2]
            turned = d.op("Transpose", [d.op("Tanh", [v.name])], perm=order)
            return d.op("MatMul", [v.name, turned] if d.chance(0.5) else [turned, v.name])


@piece()
def einsum(d: Draw, v: Value) -> str:
    need(v.batch == 0 and v.rank > 1)
    last, out = v.shape[-1], d.int(1, 4)
    if v.rank == 4 and d.chance(0.5):
        equation = d.pick(("bchw,bdhw->bcd", "bchw,bchv->bcwv", "bchw,bkhw->bkch", "bchw,bchw->bch"))
        return d.op("Einsum", [v.name, d.op("Tanh", [v.name])], equation=equation)
    if v.rank == 3 and d.chance(0.6):
        equation, shape = d.pick((("bij,jk->bik", (last, out)), ("bij,ik->bkj", (v.shape[1], out)), ("bij,j", (last,))))
        return d.op("Einsum", [v.name, d.const(d.numbers(*shape))], equation=equation)
    return d.op("Einsum", [v.name, d.const(d.numbers(last, out))], equation="...j,jk->...k")
