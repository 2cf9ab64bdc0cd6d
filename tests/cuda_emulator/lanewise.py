"""The table of lane-wise opcodes: pattern, types of the operands, and what they compute, as a C++ expression.

In an expression `a`, `b`, `c` are the sources of one lane, and `T` is the C++ type of `t`, `U` the unsigned type of
that size, `W` the type of twice its size. `.ftz` and `.sat` need no words: sources and result are flushed, the result
is clamped to [0, 1]. Functions that are no C++ operators are in `runtime/arithmetic.hpp`.

Of what `.approx` leaves to the hardware, the emulator computes the correctly rounded result.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from tests.cuda_emulator.patterns import Expansion, expand

INTEGERS = "s16,u16,s32,u32,s64,u64"
SMALL = "f16,f16x2,bf16,bf16x2"
BITS = "b16,b32,b64"

C_TYPES = {
    **{f"s{n}": f"int{n}_t" for n in (8, 16, 32, 64)},
    **{f"{kind}{n}": f"uint{n}_t" for n in (8, 16, 32, 64) for kind in "ub"},
    "f16": "half",
    "f16x2": "half",
    "bf16": "bfloat",
    "bf16x2": "bfloat",
    "f32": "float",
    "f64": "double",
}


@dataclass(frozen=True)
class Row:
    """`types` are those of the result and the sources: names of choices in the pattern (`t`), `w` for twice its size,
    or types. Sources of type `pred` are read by `native` handlers only."""

    pattern: str
    types: str
    expression: str


@dataclass(frozen=True)
class Comparison:
    """Sets a predicate; the lowering takes apart `setp.lt.and` and `set`."""

    pattern: str
    expression: str


@dataclass(frozen=True)
class Native:
    """A statement that calls a function of the runtime with `(warp, i, mask)`."""

    name: str
    types: str
    statement: str


@dataclass(frozen=True)
class HandlerSpec:
    """One C++ function. `types` are those of its operands, results first."""

    name: str
    types: tuple[str, ...]
    code: str


def _float(pattern: str, types: str, expression: str, *, small: str | None = None) -> tuple[Row, ...]:
    """Rows for all floating-point types; `small` is the expression for 16 bits, where it is another one."""
    head, tail = pattern.split("#")
    return (
        Row(f"{head}[.ftz][.sat].{{t:f32}}{tail}", types, expression),
        Row(f"{head}.{{t:f64}}{tail}", types, expression),
        Row(f"{head}[.ftz][.sat].{{t:{SMALL}}}{tail}", types, small or expression),
    )


ROWS: tuple[Row | Comparison | Native, ...] = (
    # Integers
    Row(f"add.{{t:{INTEGERS}}}", "t t t", "T(U(a) + U(b))"),
    Row(f"sub.{{t:{INTEGERS}}}", "t t t", "T(U(a) - U(b))"),
    Row("{op:add,sub}.sat.{t:s32}", "t t t", "clamped<T>(__int128(a) OP __int128(b))"),
    Row(f"mul.lo.{{t:{INTEGERS}}}", "t t t", "T(uint64_t(a) * uint64_t(b))"),
    Row(f"mul.hi.{{t:{INTEGERS}}}", "t t t", "high_half<T>(a, b)"),
    Row("mul.wide.{t:s16,u16,s32,u32}", "w t t", "W(W(a) * W(b))"),
    Row(f"mad.lo.{{t:{INTEGERS}}}", "t t t t", "T(uint64_t(a) * uint64_t(b) + uint64_t(c))"),
    Row(f"mad.hi.{{t:{INTEGERS}}}", "t t t t", "T(U(high_half<T>(a, b)) + U(c))"),
    Row("mad.wide.{t:s16,u16,s32,u32}", "w t t w", "W(uint64_t(W(a) * W(b)) + uint64_t(c))"),
    Row("mul24.lo.{t:s32}", "t t t", "T(int64_t(a << 8 >> 8) * int64_t(b << 8 >> 8))"),
    Row("mul24.lo.{t:u32}", "t t t", "T(uint64_t(a & 0xffffff) * uint64_t(b & 0xffffff))"),
    Row("mad24.lo.{t:s32}", "t t t t", "T(int64_t(a << 8 >> 8) * int64_t(b << 8 >> 8) + c)"),
    Row("mad24.lo.{t:u32}", "t t t t", "T(uint64_t(a & 0xffffff) * uint64_t(b & 0xffffff) + c)"),
    Row(f"div.{{t:{INTEGERS}}}", "t t t", "quotient<T>(a, b)"),
    Row(f"rem.{{t:{INTEGERS}}}", "t t t", "remainder<T>(a, b)"),
    Row(f"min.{{t:{INTEGERS}}}", "t t t", "least<T>(a, b)"),
    Row(f"max.{{t:{INTEGERS}}}", "t t t", "most<T>(a, b)"),
    Row("neg.{t:s16,s32,s64}", "t t", "T(U(0) - U(a))"),
    Row("abs.{t:s16,s32,s64}", "t t", "a < 0 ? T(U(0) - U(a)) : a"),
    Row(f"sad.{{t:{INTEGERS}}}", "t t t t", "T(U(c) + (a < b ? U(b) - U(a) : U(a) - U(b)))"),
    Row("dp4a.{x:s32,u32}.{y:s32,u32}", "s32 x y s32", "dot4<XBYTE, YBYTE>(uint32_t(a), uint32_t(b), c)"),
    Row("dp2a.lo.{x:s32,u32}.{y:s32,u32}", "s32 x y s32", "dot2<XWORD, YBYTE>(uint32_t(a), uint32_t(b), c)"),
    Row("dp2a.hi.{x:s32,u32}.{y:s32,u32}", "s32 x y s32", "dot2<XWORD, YBYTE>(uint32_t(a), uint32_t(b) >> 16, c)"),
    # Bits
    Row(f"and.{{t:{BITS}}}", "t t t", "T(a & b)"),
    Row(f"or.{{t:{BITS}}}", "t t t", "T(a | b)"),
    Row(f"xor.{{t:{BITS}}}", "t t t", "T(a ^ b)"),
    Row(f"not.{{t:{BITS}}}", "t t", "T(~a)"),
    Row(f"cnot.{{t:{BITS}}}", "t t", "T(a == 0)"),
    Row(f"shl.{{t:{BITS}}}", "t t u32", "shifted_left<T>(a, b)"),
    Row(f"shr.{{t:{BITS},{INTEGERS}}}", "t t u32", "shifted_right<T>(a, b)"),
    Row("shf.l.wrap.{t:b32}", "t t t u32", "T((uint64_t(b) << 32 | a) << (c & 31) >> 32)"),
    Row("shf.r.wrap.{t:b32}", "t t t u32", "T((uint64_t(b) << 32 | a) >> (c & 31))"),
    Row("shf.l.clamp.{t:b32}", "t t t u32", "T(c >= 32 ? a : (uint64_t(b) << 32 | a) << c >> 32)"),
    Row("shf.r.clamp.{t:b32}", "t t t u32", "T(c >= 32 ? b : (uint64_t(b) << 32 | a) >> c)"),
    Row("prmt.{t:b32}", "t t t t", "permuted(a, b, c)"),
    Row("popc.{t:b32,b64}", "u32 t", "uint32_t(std::popcount(a))"),
    Row("clz.{t:b32,b64}", "u32 t", "uint32_t(std::countl_zero(a))"),
    Row("brev.{t:b32,b64}", "t t", "reversed<T>(a)"),
    Row("bfind.{t:s32,u32,s64,u64}", "u32 t", "highest<T>(a)"),
    Row("bfind.shiftamt.{t:u32}", "u32 t", "a == 0 ? 0xffffffffu : 31 - highest<T>(a)"),
    Row("bfe.{t:s32,u32,s64,u64}", "t t u32 u32", "field<T>(a, b, c)"),
    # Floating point
    *_float("add(.rn)#", "t t t", "a + b", small="T(float(a) + float(b))"),
    *_float("sub(.rn)#", "t t t", "a - b", small="T(float(a) - float(b))"),
    *_float("mul(.rn)#", "t t t", "a * b", small="T(float(a) * float(b))"),
    *_float("fma.rn#", "t t t t", "fused<T>(a, b, c)"),
    *(
        row
        for mode, name in (("rz", "ZERO"), ("rm", "DOWN"), ("rp", "UP"))
        for row in (
            Row(f"fma.{mode}[.ftz].{{t:f32}}", "t t t t", f"directed_fma<{name}>(a, b, c)"),
            Row(f"add.{mode}[.ftz].{{t:f32}}", "t t t", f"directed_fma<{name}>(a, 1, b)"),
            Row(f"sub.{mode}[.ftz].{{t:f32}}", "t t t", f"directed_fma<{name}>(b, -1, a)"),
            Row(f"mul.{mode}[.ftz].{{t:f32}}", "t t t", f"directed<{name}>(double(a) * b, 0)"),
        )
    ),
    Row("fma.rn[.ftz].relu.{t:" + SMALL + "}", "t t t t", "most<T>(fused<T>(a, b, c), T(0.0f))"),
    Row("mad.rn[.ftz][.sat].{t:f32,f64}", "t t t t", "fused<T>(a, b, c)"),
    Row(f"min[.ftz].{{t:f32,{SMALL}}}", "t t t", "least<T>(a, b)"),
    Row(f"max[.ftz].{{t:f32,{SMALL}}}", "t t t", "most<T>(a, b)"),
    Row(f"min[.ftz].NaN.{{t:f32,{SMALL}}}", "t t t", "unordered(a, b) ? T(NAN) : least<T>(a, b)"),
    Row(f"max[.ftz].NaN.{{t:f32,{SMALL}}}", "t t t", "unordered(a, b) ? T(NAN) : most<T>(a, b)"),
    Row("min.{t:f64}", "t t t", "least<T>(a, b)"),
    Row("max.{t:f64}", "t t t", "most<T>(a, b)"),
    Row(f"neg[.ftz].{{t:f32,{SMALL}}}", "t t", "T(-Wide<T>(a))"),
    Row(f"abs[.ftz].{{t:f32,{SMALL}}}", "t t", "T(std::fabs(Wide<T>(a)))"),
    Row("neg.{t:f64}", "t t", "-a"),
    Row("abs.{t:f64}", "t t", "std::fabs(a)"),
    Row("copysign.{t:f32,f64}", "t t t", "std::copysign(b, a)"),
    Row("div{how:.rn,.full,.approx}[.ftz].{t:f32}", "t t t", "a / b"),
    Row("div.rn.{t:f64}", "t t t", "a / b"),
    Row("rcp{how:.rn,.approx}[.ftz].{t:f32}", "t t", "1 / a"),
    Row("rcp{how:.rn,.approx.ftz}.{t:f64}", "t t", "1 / a"),
    Row("sqrt{how:.rn,.approx}[.ftz].{t:f32}", "t t", "std::sqrt(a)"),
    Row("sqrt.rn.{t:f64}", "t t", "std::sqrt(a)"),
    Row("rsqrt.approx[.ftz].{t:f32}", "t t", "float(1 / std::sqrt(double(a)))"),
    Row("rsqrt.approx(.ftz).{t:f64}", "t t", "1 / std::sqrt(a)"),
    Row("sin.approx[.ftz].{t:f32}", "t t", "float(std::sin(double(a)))"),
    Row("cos.approx[.ftz].{t:f32}", "t t", "float(std::cos(double(a)))"),
    Row("lg2.approx[.ftz].{t:f32}", "t t", "float(std::log2(double(a)))"),
    Row("ex2.approx[.ftz].{t:f32}", "t t", "float(std::exp2(double(a)))"),
    Row("ex2.approx(.ftz).{t:" + SMALL + "}", "t t", "from_double<T>(std::exp2(double(float(a))))"),
    Row("tanh.approx.{t:f32}", "t t", "float(std::tanh(double(a)))"),
    Row("tanh.approx.{t:" + SMALL + "}", "t t", "from_double<T>(std::tanh(double(float(a))))"),
    # Comparisons: the name of the comparison alone; `lo`, `ls`, `hi`, `hs` are put the same way by the lowering.
    *(
        Comparison(f"{name}.{{t:{types},s16,u16,s32,u32,s64,u64}}", f"a {sign} b")
        for name, sign, types in (
            ("eq", "==", BITS),
            ("ne", "!=", BITS),
            ("lt", "<", BITS),
            ("le", "<=", BITS),
            ("gt", ">", BITS),
            ("ge", ">=", BITS),
        )
    ),
    *(
        row
        for name, sign in (("eq", "=="), ("lt", "<"), ("le", "<="), ("gt", ">"), ("ge", ">="))
        for row in (
            Comparison(f"{name}[.ftz].{{t:f16,bf16,f32,f64}}", f"Wide<T>(a) {sign} Wide<T>(b)"),
            Comparison(f"{name}u[.ftz].{{t:f16,bf16,f32,f64}}", f"unordered(a, b) || Wide<T>(a) {sign} Wide<T>(b)"),
        )
    ),
    Comparison("ne[.ftz].{t:f16,bf16,f32,f64}", "!unordered(a, b) && Wide<T>(a) != Wide<T>(b)"),
    Comparison("neu[.ftz].{t:f16,bf16,f32,f64}", "Wide<T>(a) != Wide<T>(b)"),
    Comparison("num[.ftz].{t:f16,bf16,f32,f64}", "!unordered(a, b)"),
    Comparison("nan[.ftz].{t:f16,bf16,f32,f64}", "unordered(a, b)"),
    # Of small floats, `set` is an instruction of its own: 1 or 0 in each half. Others are for the lowering.
    *(
        Row(f"set.{name}.{kind}.{{t:{kind}}}", "t t t", f"T(float({test}))")
        for kind in SMALL.split(",")
        for name, test in (
            *(
                (name + suffix, f"{also}float(a) {sign} float(b)")
                for name, sign in (("eq", "=="), ("lt", "<"), ("le", "<="), ("gt", ">"), ("ge", ">="))
                for suffix, also in (("", ""), ("u", "unordered(a, b) || "))
            ),
            ("ne", "!unordered(a, b) && float(a) != float(b)"),
            ("neu", "float(a) != float(b)"),
            ("num", "!unordered(a, b)"),
            ("nan", "unordered(a, b)"),
        )
    ),
    # Conversions
    Row("cvt.{d:s8,u8,s16,u16,s32,u32,s64,u64}.{t:s8,u8,s16,u16,s32,u32,s64,u64}", "d t", "D(a)"),
    Row("cvt.sat.{d:s8,u8,s16,u16,s32,u32,s64,u64}.{t:s8,u8,s16,u16,s32,u32,s64,u64}", "d t", "narrowed<D>(a)"),
    Row("cvt.rn.{d:f16,bf16,f32,f64}.{t:s8,u8,s16,u16,s32,u32}", "d t", "from_double<D>(double(a))"),
    Row("cvt.rn.{d:f32,f64}.{t:s64,u64}", "d t", "D(a)"),
    Row("cvt.{m:rz}.{d:f32}.{t:s32,u32}", "d t", "toward_zero<D>(double(a))"),
    *(
        Row(f"cvt.{mode}i{head}.{{t:{source}}}", "d t", f"integer<D>(whole<{name}>(exactly(a)))")
        for mode, name in (("rn", "NEAREST"), ("rz", "ZERO"), ("rm", "DOWN"), ("rp", "UP"))
        for head, source in (
            ("[.ftz](.sat).{d:s8,u8,s16,u16,s32,u32,s64,u64}", "f32"),
            ("(.sat).{d:s8,u8,s16,u16,s32,u32,s64,u64}", "f16,bf16,f64"),
        )
    ),
    *(
        Row(f"cvt.{mode}i{options}.{{d:{kind}}}.{kind}", "d d", f"{function}(Wide<D>(a))")
        for mode, function in (
            ("rn", "std::nearbyint"),
            ("rz", "std::trunc"),
            ("rm", "std::floor"),
            ("rp", "std::ceil"),
        )
        for kind, options in (("f32", "[.ftz][.sat]"), ("f16", ""), ("bf16", ""), ("f64", ""))
    ),
    Row("cvt[.ftz][.sat].{d:f32}.f32", "d d", "a"),
    Row("cvt[.ftz][.sat].{d:f32}.{t:f16,bf16}", "d t", "float(a)"),
    Row("cvt[.ftz].{d:f64}.{t:f32,f16}", "d t", "double(a)"),
    Row("cvt.rn[.ftz][.sat].{d:f16,bf16}.{t:f32}", "d t", "D(a)"),
    Row("cvt.rn.relu.{d:f16,bf16}.{t:f32}", "d t", "most<D>(D(a), D(0.0f))"),
    Row("cvt.rz.{d:f16,bf16}.{t:f32}", "d t", "toward_zero<D>(double(a))"),
    Row("cvt.rn[.ftz].{d:f32}.{t:f64}", "d t", "float(a)"),
    Row("cvt.rn.{d:f16,bf16}.{t:f64}", "d t", "from_double<D>(a)"),
    Row("cvt.rna.tf32.{t:f32}", "b32 t", "to_tf32(a)"),
    # What is not an expression of the sources of a lane
    Native("predicate.and", "pred pred pred", "map_predicates({}, [](uint32_t a, uint32_t b) { return a & b; })"),
    Native("predicate.or", "pred pred pred", "map_predicates({}, [](uint32_t a, uint32_t b) { return a | b; })"),
    Native("predicate.xor", "pred pred pred", "map_predicates({}, [](uint32_t a, uint32_t b) { return a ^ b; })"),
    Native("predicate.not", "pred pred pred", "map_predicates({}, [](uint32_t a, uint32_t) { return ~a; })"),
    Native("predicate.mov", "pred pred pred", "map_predicates({}, [](uint32_t a, uint32_t) { return a; })"),
    *(Native(f"select.{n}", f"b{n} b{n} b{n} pred", f"select<uint{n}_t>({{}})") for n in (16, 32, 64)),
    *(
        Native(f"mov.{n}", f"b{n} b{n}", f"map1<uint{n}_t, uint{n}_t>({{}}, [](uint{n}_t a) {{ return a; }})")
        for n in (8, 16, 32, 64)
    ),
    *(
        Native(f"{verb}.{wide}.{narrow}", types, f"{verb}<uint{wide}_t, uint{narrow}_t>({{}})")
        for wide, narrow in ((16, 8), (32, 16), (32, 8), (64, 32), (64, 16))
        for verb, types in (
            ("pack", " ".join([f"b{wide}"] + [f"b{narrow}"] * (wide // narrow))),
            ("unpack", " ".join([f"b{narrow}"] * (wide // narrow) + [f"b{wide}"])),
        )
    ),
    Native(
        "lop3.b32",
        "b32 b32 b32 b32",
        "map3<uint32_t, uint32_t, uint32_t, uint32_t>({}, [table = uint32_t(i.immediate[0])](uint32_t a, uint32_t b, "
        "uint32_t c) { return truth_table(a, b, c, table); })",
    ),
    *(
        Native(
            f"bfi.b{n}",
            f"b{n} b{n} b{n} u32 u32",
            f"const uint32_t* length = place<uint32_t>(warp, i.operand[4]); each_lane(mask, [&](uint32_t lane) {{ "
            f"place<uint{n}_t>(warp, i.operand[0])[lane] = inserted<uint{n}_t>(place<uint{n}_t>(warp, i.operand[1])"
            f"[lane], place<uint{n}_t>(warp, i.operand[2])[lane], place<uint32_t>(warp, i.operand[3])[lane], "
            f"length[lane]); }})",
        )
        for n in (32, 64)
    ),
    # Two halves of a register from two numbers: the first source is the upper half.
    *(
        Native(
            f"cvt.{mode}{relu}.{small}x2.f32",
            "b32 f32 f32",
            f"each_lane(mask, [&](uint32_t lane) {{ {c}* d = place<{c}>(warp, i.operand[0]) + 2 * lane; "
            f"d[1] = {wrap.format('place<float>(warp, i.operand[1])[lane]')}; "
            f"d[0] = {wrap.format('place<float>(warp, i.operand[2])[lane]')}; }})",
        )
        for small, c in (("f16", "half"), ("bf16", "bfloat"))
        for mode, relu, wrap in (
            ("rn", "", f"{c}({{}})"),
            ("rn", ".relu", f"most<{c}>({c}({{}}), {c}(0.0f))"),
            ("rz", "", f"toward_zero<{c}>(double({{}}))"),
        )
    ),
    # Two bytes, saturated, in front of the lower half of the third source.
    *(
        Native(
            f"cvt.pack.sat.{kind}8.s32.b32",
            "b32 s32 s32 b32",
            "map3<uint32_t, int32_t, int32_t, uint32_t>({}, [](int32_t a, int32_t b, uint32_t c) { return c << 16 | "
            f"uint32_t(uint8_t(narrowed<{c}>(a))) << 8 | uint8_t(narrowed<{c}>(b)); }})",
        )
        for kind, c in (("s", "int8_t"), ("u", "uint8_t"))
    ),
)

_TWICE = {"s16": "s32", "u16": "u32", "s32": "s64", "u32": "u64"}


def _row_handler(row: Row, found: Expansion) -> HandlerSpec:
    bound = dict(found.bound)
    t = bound.get("t", bound.get("d", "b32"))
    bound["w"] = _TWICE.get(t, "")
    types = tuple(bound.get(word, word) for word in row.types.split())
    c = [C_TYPES[name] for name in types]
    flushes = "ftz" in found.options
    expression = row.expression.replace("OP", {"add": "+", "sub": "-"}.get(bound.get("op", ""), ""))
    for name in ("x", "y"):
        sign = "" if bound.get(name) == "s32" else "u"
        expression = expression.replace(f"{name.upper()}BYTE", f"{sign}int8_t")
        expression = expression.replace(f"{name.upper()}WORD", f"{sign}int16_t")
    if "sat" in found.options and c[0] in ("float", "double", "half", "bfloat"):
        expression = f"saturate<R>({expression})"
    if flushes and c[0] in ("float", "half", "bfloat"):
        expression = f"flush<R>({expression})"
    using = f"using T = {C_TYPES[t]}; using R = {c[0]};"
    if t[0] in "sub" and "f" not in t:
        using += f" using U = uint{t[1:]}_t;"
    if bound["w"]:
        using += f" using W = {C_TYPES[bound['w']]};"
    if "d" in bound:
        using += f" using D = {C_TYPES[bound['d']]};"
    names = "abc"[: len(c) - 1]
    arguments = ", ".join(f"{kind} {name}" for kind, name in zip(c[1:], names, strict=True))
    flush = "".join(
        f"{name} = flush({name}); " for name, kind in zip(names, c[1:], strict=True) if flushes and kind in _FLUSHED
    )
    per = ", 2" if types[0].endswith("x2") else ""
    code = (
        f"{using} map{len(names)}<{', '.join(c)}{per}>(warp, i, mask, "
        f"[]({arguments}) -> R {{ {flush}return R({expression}); }});"
    )
    return HandlerSpec(found.handler, types, code)


_FLUSHED = ("float", "half", "bfloat")


def _comparison_handler(row: Comparison, found: Expansion) -> HandlerSpec:
    c = C_TYPES[found.bound["t"]]
    flush = "a = flush(a); b = flush(b); " if "ftz" in found.options else ""
    code = f"using T = {c}; compare<T>(warp, i, mask, [](T a, T b) {{ {flush}return {row.expression}; }});"
    return HandlerSpec("compare." + found.handler, ("pred", found.bound["t"], found.bound["t"]), code)


def handlers_of(row: Row | Comparison | Native) -> Iterator[tuple[str, HandlerSpec]]:
    """Pairs of an opcode and its handler."""
    if isinstance(row, Native):
        code = row.statement.replace("{}", "warp, i, mask") if "{}" in row.statement else row.statement
        yield row.name, HandlerSpec(row.name, tuple(row.types.split()), code + ";")
        return
    for found in expand(row.pattern):
        if isinstance(row, Row):
            yield found.opcode, _row_handler(row, found)
        else:
            yield "compare." + found.opcode, _comparison_handler(row, found)


@cache
def lanewise() -> dict[str, HandlerSpec]:
    """All lane-wise opcodes. Handlers that two opcodes share are one object."""
    table: dict[str, HandlerSpec] = {}
    made: dict[str, HandlerSpec] = {}
    for row in ROWS:
        for opcode, spec in handlers_of(row):
            if opcode in table:
                raise ValueError(f"{opcode} is twice in the table")
            table[opcode] = made.setdefault(spec.name, spec)
    return table
