"""Every row of the table of lane-wise opcodes, with results worked out by hand."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest

from tests.cuda_emulator.lanewise import ROWS, Native, handlers_of, lanewise
from tests.cuda_emulator.snippets import evaluate, needs_compiler

pytestmark = needs_compiler

NAN, INF = math.nan, math.inf
TINY = 2.0**-140  # subnormal in single precision

# Opcode -> rows of sources and the result. Numbers of 16-bit floats are given as numbers; pairs are (lower, upper).
CASES: dict[str, list[tuple]] = {
    # Integers
    "add.s32": [(7, -9, -2), (2**31 - 1, 1, -(2**31))],
    "add.u16": [(65535, 2, 1)],
    "add.s64": [(2**62, 2**62, -(2**63)), (-1, 1, 0)],
    "sub.u32": [(1, 2, 2**32 - 1)],
    "add.sat.s32": [(2**31 - 1, 1, 2**31 - 1), (-(2**31), -1, -(2**31)), (3, 4, 7)],
    "sub.sat.s32": [(-(2**31), 1, -(2**31)), (5, 7, -2)],
    "mul.lo.s32": [(65536, 65536, 0), (-3, 7, -21)],
    "mul.lo.u16": [(65535, 65535, 1)],
    "mul.hi.s32": [(65536, 65536, 1), (-1, 1, -1)],
    "mul.hi.u32": [(2**32 - 1, 2**32 - 1, 2**32 - 2)],
    "mul.hi.u64": [(2**63, 4, 2)],
    "mul.wide.s32": [(-(2**31), 2, -(2**32))],
    "mul.wide.u16": [(65535, 65535, 65535 * 65535)],
    "mad.lo.s32": [(3, -4, 5, -7)],
    "mad.hi.u32": [(2**31, 6, 7, 10)],
    "mad.wide.u32": [(2**31, 6, 7, 6 * 2**31 + 7)],
    "mad.wide.s16": [(-300, 300, 1, -89999)],
    "mul24.lo.s32": [(0xFFFFFF, 2, -2)],
    "mul24.lo.u32": [(0x1FFFFFF, 2, 0x1FFFFFE)],
    "mad24.lo.s32": [(0xFFFFFF, 2, 5, 3)],
    "mad24.lo.u32": [(0x1000003, 2, 5, 11)],
    "div.s32": [(-7, 2, -3), (7, 0, -1), (-(2**31), -1, -(2**31))],
    "div.u32": [(2**32 - 1, 2, 2**31 - 1)],
    "rem.s32": [(-7, 2, -1), (7, -2, 1), (-(2**31), -1, 0)],
    "min.s32": [(-1, 1, -1)],
    "min.u32": [(2**32 - 1, 1, 1)],
    "max.s16": [(-1, 1, 1)],
    "max.u64": [(2**64 - 1, 1, 2**64 - 1)],
    "neg.s32": [(5, -5), (-(2**31), -(2**31))],
    "abs.s32": [(-5, 5), (5, 5)],
    "sad.s32": [(-3, 4, 10, 17)],
    "sad.u32": [(2, 9, 1, 8)],
    "dp4a.s32.s32": [(0xFF020304, 0x02010101, 100, 100 - 2 + 2 + 3 + 4)],
    "dp4a.u32.s32": [(0xFF000000, 0xFE000000, 0, -510)],
    "dp2a.lo.s32.s32": [(0xFFFF0003, 0x7F7F0502, 100, 100 - 5 + 6)],
    "dp2a.lo.u32.u32": [(0xFFFF0003, 0x7F7F0502, 1, 1 + 5 * 0xFFFF + 6)],
    "dp2a.hi.s32.u32": [(0xFFFF0003, 0x0502FFFF, 0, -5 + 6)],
    # Bits
    "and.b32": [(0b1100, 0b1010, 0b1000)],
    "or.b64": [(1 << 40, 1, (1 << 40) + 1)],
    "xor.b16": [(0xFF00, 0x0FF0, 0xF0F0)],
    "not.b32": [(0xF, 0xFFFFFFF0)],
    "cnot.b32": [(0, 1), (5, 0)],
    "shl.b32": [(3, 4, 48), (1, 32, 0), (1, 33, 0)],
    "shr.u32": [(0x80000000, 31, 1), (0x80000000, 40, 0)],
    "shr.s32": [(-8, 1, -4), (-8, 40, -1)],
    "shr.b64": [(1 << 63, 63, 1)],
    "shf.l.wrap.b32": [(0x80000000, 1, 1, 3), (1, 2, 32, 2)],
    "shf.r.wrap.b32": [(0x80000000, 1, 31, 3), (1, 2, 32, 1)],
    "shf.l.clamp.b32": [(0x80000000, 1, 1, 3), (1, 2, 40, 1)],
    "shf.r.clamp.b32": [(0x80000000, 1, 31, 3), (1, 2, 40, 2)],
    "prmt.b32": [(0x33221100, 0x77665544, 0x7531, 0x77553311), (0x80, 0, 0x0008, 0x808080FF)],
    "popc.b32": [(0xF0F, 8)],
    "popc.b64": [(2**64 - 1, 64)],
    "clz.b32": [(1, 31), (0, 32)],
    "brev.b32": [(1, 0x80000000), (0b110, 0x60000000)],
    "bfind.u32": [(0x80, 7), (0, 0xFFFFFFFF)],
    "bfind.s32": [(-1, 0xFFFFFFFF), (-2, 0), (0x80, 7)],
    "bfind.shiftamt.u32": [(0x80, 24), (0, 0xFFFFFFFF)],
    "bfe.u32": [(0xABCD, 4, 8, 0xBC), (0xABCD, 4, 0, 0), (0xF0000000, 28, 10, 15)],
    "bfe.s32": [(0x0F0, 4, 4, -1), (0x070, 4, 4, 7), (-1, 31, 10, -1)],
    # Floating point
    "add.f32": [(1.5, 2.25, 3.75), (1.0, 2.0**-25, 1.0)],
    "add.rn.f32": [(1.0, 2.0**-24, 1.0), (1.0, 3 * 2.0**-24, 1 + 2.0**-22)],  # ties to even
    "add.ftz.f32": [(TINY, 0.0, 0.0), (-TINY, 0.0, -0.0 + 0.0)],
    "add.sat.f32": [(0.75, 0.75, 1.0), (-1.0, 0.5, 0.0), (NAN, 0.0, 0.0), (0.25, 0.5, 0.75)],
    "add.f64": [(1.0, 2.0**-52, 1 + 2.0**-52)],
    "add.rn.f16": [(2048.0, 1.0, 2048.0), (2048.0, 3.0, 2052.0), (65504.0, 16.0, INF)],
    "add.f16x2": [((1.0, 2048.0), (2.0, 3.0), (3.0, 2052.0))],
    "add.rn.bf16": [(256.0, 1.0, 256.0), (256.0, 3.0, 260.0)],
    "add.rn.bf16x2": [((1.0, 256.0), (2.0, 3.0), (3.0, 260.0))],
    "sub.f32": [(1.5, 2.25, -0.75)],
    "sub.f64": [(1.0, 2.0**-53, 1 - 2.0**-53)],
    "sub.f16": [(1.0, 2.0**-11, 1 - 2.0**-11)],
    "mul.f32": [(1.5, -2.0, -3.0), (2.0**100, 2.0**100, INF)],
    "mul.ftz.f32": [(2.0**-100, 2.0**-40, 0.0)],
    "mul.f64": [(1.5, 3.0, 4.5)],
    "mul.f16": [(256.0, 256.0, INF), (3.0, 0.5, 1.5)],
    "fma.rn.f32": [(1 + 2.0**-12, 1 + 2.0**-12, -1.0, 2.0**-11 + 2.0**-24)],
    "fma.rn.ftz.f32": [(2.0**-100, 2.0**-40, 0.0, 0.0)],
    "fma.rn.f64": [(1 + 2.0**-30, 1 - 2.0**-30, -1.0, -(2.0**-60))],
    "fma.rn.f16": [(1 + 2.0**-10, 1 + 2.0**-10, -1.0, 2.0**-9 + 2.0**-20)],
    "fma.rn.relu.f16": [(1.0, -1.0, 0.5, 0.0), (1.0, 1.0, 0.5, 1.5)],
    "fma.rn.bf16x2": [((2.0, 3.0), (4.0, 5.0), (1.0, 1.0), (9.0, 16.0))],
    "mad.rn.f32": [(2.0, 3.0, 4.0, 10.0)],
    "fma.rz.f32": [(1.0, 1.0, 2.0**-40, 1.0), (1.0, 1.0, -(2.0**-40), 1 - 2.0**-24)],
    "fma.rm.f32": [(-1.0, 1.0, -(2.0**-40), -1 - 2.0**-23), (1.0, 1.0, 2.0**-40, 1.0)],
    "fma.rp.f32": [(1.0, 1.0, 2.0**-40, 1 + 2.0**-23), (1.0, 1.0, -(2.0**-40), 1.0)],
    "add.rz.f32": [(1.0, -(2.0**-40), 1 - 2.0**-24)],
    "add.rm.f32": [(1.0, 2.0**-40, 1.0)],
    "add.rp.f32": [(1.0, 2.0**-40, 1 + 2.0**-23)],
    "sub.rz.f32": [(1.0, 2.0**-40, 1 - 2.0**-24)],
    "sub.rm.f32": [(1.0, 2.0**-40, 1 - 2.0**-24)],
    "sub.rp.f32": [(1.0, -(2.0**-40), 1 + 2.0**-23)],
    "mul.rz.f32": [(1 + 2.0**-23, 1 + 2.0**-23, 1 + 2.0**-22)],
    "mul.rm.f32": [(1 + 2.0**-23, 1 + 2.0**-23, 1 + 2.0**-22)],
    "mul.rp.f32": [(1 + 2.0**-23, 1 + 2.0**-23, 1 + 3 * 2.0**-23)],
    "min.f32": [(1.0, NAN, 1.0), (NAN, 2.0, 2.0), (0.0, -0.0, -0.0), (-3.0, 2.0, -3.0)],
    "max.f32": [(1.0, NAN, 1.0), (-0.0, 0.0, 0.0), (-3.0, 2.0, 2.0)],
    "min.NaN.f32": [(1.0, NAN, NAN), (1.0, 2.0, 1.0)],
    "max.NaN.f16": [(NAN, 1.0, NAN), (1.0, 2.0, 2.0)],
    "max.f16x2": [((1.0, -1.0), (0.0, 0.0), (1.0, 0.0))],
    "min.f64": [(1.0, 2.0, 1.0)],
    "max.f64": [(1.0, 2.0, 2.0)],
    "neg.f32": [(1.0, -1.0), (0.0, -0.0)],
    "neg.bf16": [(1.0, -1.0)],
    "abs.f32": [(-1.5, 1.5), (-INF, INF)],
    "neg.f64": [(2.0, -2.0)],
    "abs.f64": [(-2.0, 2.0)],
    "copysign.f32": [(-1.0, 3.0, -3.0)],
    "div.rn.f32": [(1.0, 3.0, float(np.float32(1) / np.float32(3))), (1.0, 0.0, INF), (0.0, 0.0, NAN)],
    "div.full.f32": [(7.0, 2.0, 3.5)],
    "div.approx.ftz.f32": [(7.0, 2.0, 3.5), (TINY, 1.0, 0.0)],
    "div.rn.f64": [(1.0, 4.0, 0.25)],
    "rcp.rn.f32": [(8.0, 0.125)],
    "rcp.approx.ftz.f32": [(8.0, 0.125), (TINY, INF)],
    "rcp.rn.f64": [(8.0, 0.125)],
    "sqrt.rn.f32": [(9.0, 3.0), (-1.0, NAN)],
    "sqrt.approx.ftz.f32": [(TINY, 0.0)],
    "sqrt.rn.f64": [(16.0, 4.0)],
    "rsqrt.approx.f32": [(16.0, 0.25), (0.0, INF)],
    "rsqrt.approx.f64": [(16.0, 0.25)],
    "sin.approx.f32": [(0.0, 0.0)],
    "cos.approx.f32": [(0.0, 1.0)],
    "lg2.approx.f32": [(8.0, 3.0), (0.0, -INF)],
    "ex2.approx.ftz.f32": [(3.0, 8.0), (-130.0, 0.0)],
    "ex2.approx.f16": [(3.0, 8.0), (-1.0, 0.5)],
    "tanh.approx.f32": [(0.0, 0.0), (40.0, 1.0)],
    "tanh.approx.f16x2": [((0.0, 20.0), (0.0, 1.0))],
    # Comparisons, by the name of the instruction that the lowering makes of them
    "setp.eq.b32": [(5, 5, 1), (5, 6, 0)],
    "setp.ne.s64": [(2**40, 2**40, 0), (2**40, 0, 1)],
    "setp.lt.s32": [(-1, 1, 1)],
    "setp.lt.u32": [(2**32 - 1, 1, 0)],
    "setp.lo.u32": [(1, 2, 1)],
    "setp.le.s16": [(-5, -5, 1)],
    "setp.gt.s32": [(1, -1, 1)],
    "setp.hi.u32": [(2**32 - 1, 1, 1)],
    "setp.ge.u64": [(5, 5, 1)],
    "setp.eq.f32": [(0.0, -0.0, 1), (NAN, NAN, 0)],
    "setp.equ.f32": [(NAN, 1.0, 1), (1.0, 2.0, 0)],
    "setp.ne.f32": [(1.0, 2.0, 1), (NAN, 1.0, 0)],
    "setp.neu.f32": [(NAN, 1.0, 1), (1.0, 1.0, 0)],
    "setp.lt.f32": [(1.0, 2.0, 1), (NAN, 2.0, 0)],
    "setp.ltu.f32": [(NAN, 2.0, 1), (3.0, 2.0, 0)],
    "setp.le.f32": [(2.0, 2.0, 1)],
    "setp.leu.f32": [(2.0, NAN, 1)],
    "setp.gt.f16": [(2.0, 1.0, 1), (1.0, 2.0, 0)],
    "setp.gtu.f16": [(NAN, 1.0, 1)],
    "setp.ge.bf16": [(2.0, 2.0, 1)],
    "setp.geu.f32": [(1.0, 2.0, 0), (NAN, 2.0, 1)],
    "setp.num.f32": [(1.0, 2.0, 1), (NAN, 2.0, 0)],
    "setp.nan.f32": [(1.0, 2.0, 0), (NAN, 2.0, 1)],
    "setp.lt.ftz.f32": [(0.0, TINY, 0)],
    # Conversions
    "cvt.u64.u32": [(2**32 - 1, 2**32 - 1)],
    "cvt.s64.s32": [(-1, -1)],
    "cvt.u16.u32": [(0x12345, 0x2345)],
    "cvt.sat.s16.s32": [(40000, 32767), (-40000, -32768)],
    "cvt.sat.u32.s32": [(-1, 0)],
    "cvt.rn.f32.s32": [(-7, -7.0), (2**24 + 1, 2.0**24)],
    "cvt.rn.f16.s32": [(2049, 2048.0)],
    "cvt.rn.f32.u64": [(2**63, 2.0**63)],
    "cvt.rz.f32.u32": [(2**32 - 1, 2.0**32 - 256)],
    "cvt.rzi.s32.f32": [(-2.9, -2), (3e9, 2**31 - 1), (-3e9, -(2**31)), (NAN, 0)],
    "cvt.rni.s32.f32": [(2.5, 2), (3.5, 4), (-2.5, -2)],
    "cvt.rmi.s32.f32": [(-2.1, -3)],
    "cvt.rpi.s32.f32": [(-2.9, -2), (2.1, 3)],
    "cvt.rzi.u32.f32": [(-1.0, 0), (4e9, 4000000000)],
    "cvt.rzi.s64.f64": [(-1e15, -(10**15))],
    "cvt.rni.s16.f16": [(2.5, 2)],
    "cvt.rmi.s32.f16": [(-0.5, -1)],
    "cvt.rpi.s32.f64": [(0.5, 1)],
    "cvt.rni.f32.f32": [(2.5, 2.0), (-0.2, -0.0)],
    "cvt.rzi.f32.f32": [(-2.9, -2.0)],
    "cvt.rmi.f32.f32": [(-2.1, -3.0)],
    "cvt.rpi.f32.f32": [(2.1, 3.0)],
    "cvt.rni.f16.f16": [(2.5, 2.0)],
    "cvt.rzi.f16.f16": [(-2.5, -2.0)],
    "cvt.rmi.f16.f16": [(-2.5, -3.0)],
    "cvt.rpi.f16.f16": [(2.5, 3.0)],
    "cvt.rni.bf16.bf16": [(2.5, 2.0)],
    "cvt.rzi.bf16.bf16": [(-2.5, -2.0)],
    "cvt.rmi.bf16.bf16": [(-2.5, -3.0)],
    "cvt.rpi.bf16.bf16": [(2.5, 3.0)],
    "cvt.rni.f64.f64": [(2.5, 2.0)],
    "cvt.rzi.f64.f64": [(-2.5, -2.0)],
    "cvt.rmi.f64.f64": [(-2.5, -3.0)],
    "cvt.rpi.f64.f64": [(2.5, 3.0)],
    "cvt.sat.f32.f32": [(1.5, 1.0)],
    "cvt.ftz.sat.f32.f32": [(-1.5, 0.0)],
    "cvt.f32.f16": [(1.5, 1.5), (2.0**-24, 2.0**-24), (INF, INF)],
    "cvt.f32.bf16": [(1.5, 1.5)],
    "cvt.f64.f32": [(1.5, 1.5)],
    "cvt.rn.f16.f32": [(2049.0, 2048.0), (65520.0, INF), (1e-8, 0.0)],
    "cvt.rn.bf16.f32": [(257.0, 256.0), (259.0, 260.0), (NAN, NAN)],
    "cvt.rn.relu.f16.f32": [(-1.0, 0.0), (2.0, 2.0)],
    "cvt.rz.f16.f32": [(2051.0, 2050.0), (-2051.0, -2050.0)],
    "cvt.rz.bf16.f32": [(259.0, 258.0)],
    "cvt.rn.f32.f64": [(1 + 2.0**-30, 1.0)],
    "cvt.rn.f16.f64": [(1 + 2.0**-11 + 2.0**-40, 1 + 2.0**-10)],  # through single precision it would be 1
    "cvt.rna.tf32.f32": [(1 + 2.0**-11, 1 + 2.0**-10), (1 + 2.0**-12, 1.0)],
    "cvt.rn.f16x2.f32": [(1.0, 2.0, (2.0, 1.0))],
    "cvt.rn.bf16x2.f32": [(1.0, 2.0, (2.0, 1.0))],
    "cvt.rz.f16x2.f32": [(2051.0, 2.0, (2.0, 2050.0))],
    "cvt.rz.bf16x2.f32": [(259.0, 2.0, (2.0, 258.0))],
    "cvt.rn.relu.f16x2.f32": [(-1.0, 2.0, (2.0, 0.0))],
    "cvt.rn.relu.bf16x2.f32": [(-1.0, 2.0, (2.0, 0.0))],
    "cvt.pack.sat.s8.s32.b32": [(200, -200, 0x1234, 0x12347F80)],
    "cvt.pack.sat.u8.s32.b32": [(300, -1, 0x1234, 0x1234FF00)],
    "bfi.b32": [(0xF, 0xABCD, 4, 8, 0xA0FD), (1, 0, 40, 4, 0)],
    "bfi.b64": [(3, 0, 40, 2, 3 << 40)],
    # Moves and predicates
    "mov.b16": [(7, 7)],
    "mov.b32": [(7, 7)],
    "mov.b64": [(2**40, 2**40)],
    "mov.pred": [(1, 1), (0, 0)],
    "and.pred": [(1, 1, 1), (1, 0, 0)],
    "or.pred": [(0, 0, 0), (1, 0, 1)],
    "xor.pred": [(1, 1, 0), (1, 0, 1)],
    "not.pred": [(1, 0), (0, 1)],
    "selp.b16": [(1, 2, 1, 1), (1, 2, 0, 2)],
    "selp.f32": [(1.5, 2.5, 0, 2.5)],
    "selp.b64": [(2**40, 2, 1, 2**40)],
    "set.lt.u32.f32": [(1.0, 2.0, 2**32 - 1), (2.0, 1.0, 0)],
    "set.lt.f32.s32": [(-1, 2, 1.0), (2, 1, 0.0)],
}
# `set` of small floats: for each comparison, (1, 1), (1, 2), (2, 1) and (NaN, 1).
_SET = {
    "eq": (1, 0, 0),
    "ne": (0, 1, 1),
    "lt": (0, 1, 0),
    "le": (1, 1, 0),
    "gt": (0, 0, 1),
    "ge": (1, 0, 1),
}
for _name, _results in _SET.items():
    for _suffix, _last in (("", 0.0), ("u", 1.0)):
        for _kind in ("f16", "bf16"):
            _rows = [(1.0, 1.0), (1.0, 2.0), (2.0, 1.0), (NAN, 1.0)]
            CASES[f"set.{_name}{_suffix}.{_kind}.{_kind}"] = [
                (*row, float(result)) for row, result in zip(_rows, (*_results, _last), strict=True)
            ]
            CASES[f"set.{_name}{_suffix}.{_kind}x2.{_kind}x2"] = [
                ((a, 1.0), (b, NAN), (float(result), _last))
                for (a, b), result in zip(_rows, (*_results, _last), strict=True)
            ]
for _kind in ("f16", "bf16"):
    CASES[f"set.num.{_kind}.{_kind}"] = [(1.0, 2.0, 1.0), (NAN, 2.0, 0.0)]
    CASES[f"set.nan.{_kind}.{_kind}"] = [(1.0, 2.0, 0.0), (1.0, NAN, 1.0)]
    CASES[f"set.num.{_kind}x2.{_kind}x2"] = [((1.0, NAN), (2.0, 1.0), (1.0, 0.0))]
    CASES[f"set.nan.{_kind}x2.{_kind}x2"] = [((1.0, NAN), (2.0, 1.0), (0.0, 1.0))]

# Handlers that other tests reach, through instructions that are no table's word.
ELSEWHERE = ("pack.", "unpack.", "lop3.", "mov.8")


def types_of(opcode: str) -> tuple[str, ...]:
    parts = opcode.split(".")
    if parts[-1] == "pred":
        return ("pred",) * (2 if parts[0] in ("mov", "not") else 3)
    if parts[0] == "setp":
        return "pred", parts[-1], parts[-1]
    if parts[0] == "selp":
        return parts[-1], parts[-1], parts[-1], "pred"
    if parts[0] == "set" and opcode not in lanewise():
        return parts[-2], parts[-1], parts[-1]
    if parts[0] == "mov":
        return parts[-1], parts[-1]
    return lanewise()[opcode].types


def round_to(value: Fraction, digits: int, smallest: int) -> Fraction:
    """To nearest, ties to even, in a format of that many binary digits, the last one at least at 2**smallest."""
    if value == 0:
        return value
    exponent = math.floor(math.log2(abs(value))) if abs(value) > Fraction(1, 2**900) else -900
    while Fraction(2) ** exponent > abs(value):
        exponent -= 1
    while Fraction(2) ** (exponent + 1) <= abs(value):
        exponent += 1
    unit = Fraction(2) ** max(exponent - digits + 1, smallest)
    return round(value / unit) * unit  # Python's round of a fraction takes ties to even


def bits_of(value: object, kind: str) -> int:
    """A number, or a pair of them, as bits of its type."""
    if isinstance(value, tuple):
        low, high = (bits_of(part, kind.removesuffix("x2")) for part in value)
        return low | high << 16
    if kind == "pred":
        return int(value)  # pyright: ignore[reportArgumentType]
    assert isinstance(value, int | float)
    if kind == "f32":
        return int(np.float32(value).view(np.uint32))
    if kind == "f64":
        return int(np.float64(value).view(np.uint64))
    if kind == "f16":
        return int(np.float16(value).view(np.uint16))
    if kind == "bf16":
        upper = int(np.float32(value).view(np.uint32))
        assert upper & 0xFFFF == 0 or math.isnan(value)
        return 0x7FFF if math.isnan(value) else upper >> 16
    if isinstance(value, float):
        assert kind[0] == "b"
        return bits_of(value, "f32")
    return value & (1 << int(kind[1:])) - 1


def is_nan(value: object) -> bool:
    return isinstance(value, float) and math.isnan(value)


@pytest.mark.parametrize("opcode", CASES)
def test_opcode(opcode: str) -> None:
    types = types_of(opcode)
    # A result of packed halves is a pair even where its type is b32.
    halves = "bf16x2" if ".bf16x2." in opcode else "f16x2"
    rows, wanted = [], []
    for *sources, result in CASES[opcode]:
        rows.append([bits_of(s, kind) for s, kind in zip(sources, types[1:], strict=True)])
        kind = halves if isinstance(result, tuple) and types[0] == "b32" else types[0]
        wanted.append((result, bits_of(result, kind)))
    for found, (result, bits) in zip(evaluate(opcode, types, rows), wanted, strict=True):
        if is_nan(result):
            kind = {"f32": np.float32, "f64": np.float64}.get(types[0])
            exponent = {"f16": 0x7C00, "bf16": 0x7F80}.get(types[0], 0)
            value = np.array(found, f"u{kind().itemsize}").view(kind) if kind else None
            assert np.isnan(value) if value is not None else (found & 0x7FFF) > exponent
        else:
            assert found == bits, f"{opcode}: {found:#x}, not {bits:#x}"


def test_a_warp_in_part_computes_what_a_whole_one_does() -> None:
    """Handlers have a path for 32 lanes and one for fewer."""
    for opcode in ("add.f16x2", "fma.rn.f32", "mul.wide.s32", "cvt.rzi.s32.f32", "setp.lt.f32", "selp.f32"):
        types = types_of(opcode)
        (case, *_) = CASES[opcode]
        row = [bits_of(s, kind) for s, kind in zip(case, types[1:], strict=False)]
        assert evaluate(opcode, types, [row] * 45) == [bits_of(case[-1], types[0])] * 45, opcode


def test_every_row_of_the_table_has_a_case() -> None:
    covered = {opcode.replace("setp.", "compare.") for opcode in CASES}
    covered |= {f"predicate.{opcode.split('.')[0]}" for opcode in CASES if opcode.endswith(".pred")}
    covered |= {f"select.{opcode[-2:]}" for opcode in CASES if opcode.startswith("selp")}
    covered |= {f"mov.{opcode[-2:]}" for opcode in CASES if opcode.startswith("mov.b")}
    missing = []
    for row in ROWS:
        opcodes = [opcode for opcode, _ in handlers_of(row)]
        elsewhere = isinstance(row, Native) and row.name.startswith(ELSEWHERE)
        if not elsewhere and not covered & set(opcodes):
            missing.append(opcodes[0])
    assert not missing


def small_floats(count: int, seed: int) -> np.ndarray:
    """Bits of all kinds of 16-bit floats, subnormal ones and large ones among them."""
    return np.random.default_rng(seed).integers(0, 1 << 16, count, np.uint16)


def exact(bits: int, kind: str) -> Fraction | None:
    widened = np.uint16(bits).view(np.float16) if kind == "f16" else np.uint32(bits << 16).view(np.float32)
    value = float(widened)
    return Fraction(value) if math.isfinite(value) else None


@pytest.mark.parametrize(("kind", "digits", "smallest"), [("f16", 11, -24), ("bf16", 8, -133)])
def test_fused_products_of_small_floats_are_rounded_once(kind: str, digits: int, smallest: int) -> None:
    a, b, c = (small_floats(1000, seed).tolist() for seed in (1, 2, 3))
    # Sums that nearly cancel, and those where one summand is far below the other, are the hard ones.
    c[:400] = [(x ^ 0x8000) & 0xFFFF for x in evaluate(f"mul.{kind}", (kind,) * 3, list(zip(a, b, strict=True))[:400])]
    found = evaluate(f"fma.rn.{kind}", (kind,) * 4, list(zip(a, b, c, strict=True)))
    largest = Fraction(65504) if kind == "f16" else Fraction(2) ** 128 * (1 - Fraction(1, 256))
    checked = 0
    for x, y, z, bits in zip(a, b, c, found, strict=True):
        values = [exact(v, kind) for v in (x, y, z)]
        left, right, addend = (Fraction(0) if v is None else v for v in values)
        if None in values:
            continue
        wanted = round_to(left * right + addend, digits, smallest)
        if abs(wanted) <= largest:
            assert exact(bits, kind) == wanted
            checked += 1
    assert checked > 500


def test_directed_rounding_brackets_the_exact_value() -> None:
    rng = np.random.default_rng(4)
    a, b, c = (np.ldexp(rng.standard_normal(500), rng.integers(-30, 30, 500)).astype(np.float32) for _ in range(3))
    rows = list(zip(*(x.view(np.uint32).tolist() for x in (a, b, c)), strict=True))
    down, up, zero = (
        np.array(evaluate(f"fma.{mode}.f32", ("f32",) * 4, rows), np.uint32).view(np.float32)
        for mode in ("rm", "rp", "rz")
    )
    for k in range(500):
        value = Fraction(float(a[k])) * Fraction(float(b[k])) + Fraction(float(c[k]))
        assert Fraction(float(down[k])) <= value <= Fraction(float(up[k]))
        assert up[k] in (down[k], np.nextafter(down[k], np.float32(np.inf)))
        assert zero[k] == (down[k] if value > 0 else up[k])
