"""Elementary functions and random bits on vectors, to a few units in the last place."""

from __future__ import annotations

import math

from convc.codegen.llvm.vocabulary import Function, Index, V, ref
from convc.ir.philox import MULTIPLIERS, ROUNDS, WEYL

_EXP_LOW, _EXP_HIGH = -87.336, 88.722
# ln 2 in two parts: the first has few bits, so that its product with a small integer is exact (Cody & Waite 1980).
_LN2_HIGH, _LN2_LOW = 0.693359375, -2.12194440e-4


def polynomial(f: Function, x: V, coefficients: tuple[float, ...]) -> V:
    """Horner's scheme, highest power first."""
    total = f.constant(coefficients[0], x.lanes)
    for coefficient in coefficients[1:]:
        total = f.fma(total, x, f.constant(coefficient, x.lanes))
    return total


def exponential(f: Function, x: V) -> V:
    """eˣ: x = n·ln 2 + r, |r| <= ln 2 / 2; Taylor's series for r, 2ⁿ by the exponent bits."""
    lanes = x.lanes
    low, high = f.constant(_EXP_LOW, lanes), f.constant(_EXP_HIGH, lanes)
    below, above = f.compare("olt", x, low), f.compare("ogt", x, high)
    # NaN compares false and would make the conversion to an integer undefined: it is replaced, and put back at the end.
    nan = f.compare("uno", x, x)
    safe = f.select(nan, low, f.select(below, low, f.select(above, high, x)))
    n = f.unary("rint", f.binary("fmul", safe, f.constant(1 / math.log(2), lanes)))
    minus_n = f.negate(n)
    r = f.fma(minus_n, f.constant(_LN2_LOW, lanes), f.fma(minus_n, f.constant(_LN2_HIGH, lanes), safe))
    series = polynomial(f, r, tuple(1 / math.factorial(power) for power in range(7, -1, -1)))
    # Scaled in two steps: 2^128 is not a float32, but the largest results need n = 128.
    whole = f.convert("fptosi", n, "i32")
    half = f.binary("ashr", whole, _i32(f, 1, lanes))
    rest = f.binary("sub", whole, half)
    result = f.binary("fmul", f.binary("fmul", series, _power_of_two(f, half)), _power_of_two(f, rest))
    result = f.select(below, f.constant(0.0, lanes), f.select(above, f.constant(math.inf, lanes), result))
    return f.select(nan, x, result)


def exponential_minus_one(f: Function, x: V) -> V:
    """eˣ − 1 for x <= 0, without cancellation near 0."""
    small = f.compare("ogt", x, f.constant(-0.5, x.lanes))
    series = polynomial(f, x, (*(1 / math.factorial(power) for power in range(9, 0, -1)), 0.0))
    return f.select(small, series, f.binary("fsub", exponential(f, x), f.constant(1.0, x.lanes)))


def sigmoid(f: Function, x: V) -> V:
    """1 / (1 + e⁻ˣ), from e^−|x| so that nothing overflows."""
    lanes = x.lanes
    one = f.constant(1.0, lanes)
    small = exponential(f, f.negate(f.unary("fabs", x)))
    numerator = f.select(f.compare("oge", x, f.constant(0.0, lanes)), one, small)
    return f.binary("fdiv", numerator, f.binary("fadd", one, small))


def hyperbolic_tangent(f: Function, x: V) -> V:
    """tanh x: an odd polynomial near 0 (Cephes), 1 − 2/(e^2|x| + 1) with the sign of x elsewhere."""
    lanes = x.lanes
    one, two = f.constant(1.0, lanes), f.constant(2.0, lanes)
    magnitude = f.unary("fabs", x)
    square = f.binary("fmul", x, x)
    coefficients = (-5.70498872745e-3, 2.06390887954e-2, -5.37397155531e-2, 1.33314422036e-1, -3.33332819422e-1)
    near = f.fma(f.binary("fmul", polynomial(f, square, coefficients), square), x, x)
    grown = exponential(f, f.binary("fmul", magnitude, two))
    far = f.binary("fsub", one, f.binary("fdiv", two, f.binary("fadd", grown, one)))
    far = f.intrinsic(f"llvm.copysign.{_suffix(far)}", far.type, far, x)
    return f.select(f.compare("olt", magnitude, f.constant(0.625, lanes)), near, far)


def _suffix(value: V) -> str:
    return "f32" if value.lanes == 1 else f"v{value.lanes}f32"


def _i32(f: Function, value: int, lanes: int) -> V:
    return V(str(value), "i32") if lanes == 1 else V(f"splat (i32 {value})", f"<{lanes} x i32>")


def _i64(f: Function, value: int, lanes: int) -> V:
    return V(str(value), "i64") if lanes == 1 else V(f"splat (i64 {value})", f"<{lanes} x i64>")


def _power_of_two(f: Function, exponent: V) -> V:
    biased = f.binary("add", exponent, _i32(f, 127, exponent.lanes))
    return f.convert("bitcast", f.binary("shl", biased, _i32(f, 23, exponent.lanes)), "float")


def philox_words(f: Function, element: V, seed: V, step: V, stream: int) -> tuple[V, V]:
    """Words 0 and 1 of Philox 4x32-10 at counter (element, step), key (seed, stream): see `convc.ir.philox`.

    `element` holds 64-bit element numbers, `seed` and `step` are i64 scalars. Words stay in 64-bit lanes, their upper
    halves zero, because the rounds need full products.
    """
    lanes = element.lanes
    mask, half = _i64(f, 0xFFFFFFFF, lanes), _i64(f, 32, lanes)
    update = f.splat(step, lanes)
    c0, c1 = f.binary("and", element, mask), f.binary("lshr", element, half)
    c2, c3 = f.binary("and", update, mask), f.binary("lshr", update, half)
    k0 = f.binary("and", f.splat(seed, lanes), mask)
    k1 = stream
    for _ in range(ROUNDS):
        left = f.binary("mul", c0, _i64(f, MULTIPLIERS[0], lanes))
        right = f.binary("mul", c2, _i64(f, MULTIPLIERS[1], lanes))
        c0 = f.binary("xor", f.binary("xor", f.binary("lshr", right, half), c1), k0)
        c2 = f.binary("xor", f.binary("xor", f.binary("lshr", left, half), c3), _i64(f, k1, lanes))
        c1, c3 = f.binary("and", right, mask), f.binary("and", left, mask)
        k0 = f.binary("and", f.binary("add", k0, _i64(f, WEYL[0], lanes)), mask)
        k1 = (k1 + WEYL[1]) & 0xFFFFFFFF
    return c0, c1


def numbered_words(f: Function, first: Index, distance: int, lanes: int, seed: V, step: V, stream: int) -> V:
    """Word 0 of the elements of a vector that are numbered from `first` on, `distance` apart; in 64-bit lanes."""
    numbers = f.splat(V(ref(first), "i64"), lanes)
    if lanes > 1:
        numbers = f.binary("add", numbers, f.integers([lane * distance for lane in range(lanes)], "i64"))
    return philox_words(f, numbers, seed, step, stream)[0]


def logarithm(f: Function, x: V) -> V:
    """ln x for positive finite x (Cephes): x = m·2ⁿ with √½ <= m < √2, a polynomial in m − 1."""
    lanes = x.lanes
    one = f.constant(1.0, lanes)
    bits = f.convert("bitcast", x, "i32")
    # Shifting by the bits of √½ makes the exponent change at √½·2ⁿ instead of at 2ⁿ.
    shifted = f.binary("sub", bits, _i32(f, 0x3F3504F3, lanes))
    exponent = f.binary("ashr", shifted, _i32(f, 23, lanes))
    mantissa = f.convert("bitcast", f.binary("sub", bits, f.binary("shl", exponent, _i32(f, 23, lanes))), "float")
    r = f.binary("fsub", mantissa, one)
    coefficients = (
        7.0376836292e-2, -1.1514610310e-1, 1.1676998740e-1, -1.2420140846e-1, 1.4249322787e-1,
        -1.6668057665e-1, 2.0000714765e-1, -2.4999993993e-1, 3.3333331174e-1,
    )  # fmt: skip
    square = f.binary("fmul", r, r)
    n = f.convert("sitofp", exponent, "float")
    tail = f.binary("fmul", f.binary("fmul", polynomial(f, r, coefficients), r), square)
    tail = f.fma(n, f.constant(_LN2_LOW, lanes), tail)
    tail = f.fma(square, f.constant(-0.5, lanes), tail)
    return f.fma(n, f.constant(_LN2_HIGH, lanes), f.binary("fadd", r, tail))


def gaussian(f: Function, first: V, second: V) -> V:
    """A standard normal number from two 32-bit words in 64-bit lanes: see `convc.ir.philox.gaussian`."""
    lanes = first.lanes
    one = f.constant(1.0, lanes)
    u, v = (_upper_bits(f, word) for word in (first, second))
    u = f.binary("fmul", f.binary("fadd", u, one), f.constant(2.0**-24, lanes))
    v = f.fma(v, f.constant(2.0**-23, lanes), f.negate(one))
    # ln 1 may come out as the negative of zero or of a rounding error: the square root wants at least zero.
    square = f.binary("fmul", f.constant(-2.0, lanes), logarithm(f, u))
    zero = f.constant(0.0, lanes)
    square = f.select(f.compare("ogt", square, zero), square, zero)
    return f.binary("fmul", f.unary("sqrt", square), sine_of_turns(f, v))


def _upper_bits(f: Function, word: V) -> V:
    """The upper 24 of 32 bits, as a float."""
    return f.convert("sitofp", f.convert("trunc", f.binary("lshr", word, _i64(f, 8, word.lanes)), "i32"), "float")


def sine_of_turns(f: Function, x: V) -> V:
    """sin(π·x) for |x| <= 1: mirrored at ±½, exactly, then Taylor's series; absolute error below 1e-7."""
    lanes = x.lanes
    magnitude = f.unary("fabs", x)
    mirrored = f.binary("fsub", f.constant(1.0, lanes), magnitude)
    folded = f.select(f.compare("ogt", magnitude, f.constant(0.5, lanes)), mirrored, magnitude)
    folded = f.intrinsic(f"llvm.copysign.{_suffix(folded)}", folded.type, folded, x)
    square = f.binary("fmul", folded, folded)
    series = tuple((-1) ** n * math.pi ** (2 * n + 1) / math.factorial(2 * n + 1) for n in range(6, -1, -1))
    return f.binary("fmul", folded, polynomial(f, square, series))
