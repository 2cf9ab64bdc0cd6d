"""Whole numbers of 8 bits: steps, zeros, sums, and who reads what."""

from __future__ import annotations

from tests.mutants.mutant import Mutant

_PRODUCTS = ("tests/codegen/test_whole_numbers.py",)
_PASS = ("tests/passes/test_quantization.py", "tests/passes/test_any_order.py")
_RUNS = ("tests/runtime/test_calibration.py",)

MUTANTS = (
    Mutant(
        "zero-is-not-subtracted-at-borders",
        "codegen/llvm/whole_numbers.py",
        'part = f.binary("mul", row.carried[0], f.integers([-self.op.zero] * lanes))',
        "part = f.integers([0] * lanes)",
        "images with a zero other than 0 are shifted",
        _PRODUCTS,
    ),
    Mutant(
        "sums-of-all-taps-at-borders",
        "codegen/llvm/direct.py",
        "for (column, _), active in zip(d.columns.taps, run.active, strict=True):\n"
        "                    d.whole.add_part(f, sums, f.add(first, column), channel, active)",
        "for (column, _), _ in zip(d.columns.taps, run.active, strict=True):\n"
        "                    d.whole.add_part(f, sums, f.add(first, column), channel, range(run.pixels))",
        "pixels at the left and right border lose what taps outside would have added",
        _PRODUCTS,
    ),
    Mutant(
        "step-of-the-images-forgotten",
        "codegen/llvm/whole_numbers.py",
        '        factors = [f.binary("fmul", v, f.constant(self.step, v.lanes)) for v in factors]\n',
        "",
        "results are in steps",
        (*_PRODUCTS, *_RUNS),
    ),
    Mutant(
        "rows-beyond-a-tap",
        "codegen/llvm/whole_numbers.py",
        "scaled = f.select(exists, scaled, f.constant(0.0, lanes))",
        "scaled = f.select(exists, scaled, scaled)",
        "channels that are padding have the weights of the last one",
        _PRODUCTS,
    ),
    Mutant(
        "odd-bytes-without-sign",
        "codegen/llvm/vocabulary.py",
        'signed = self.binary("ashr", halves, self.integers([8] * halves.lanes, "i16"))',
        'signed = self.binary("lshr", halves, self.integers([8] * halves.lanes, "i16"))',
        "without the instruction negative weights are large ones",
        _PRODUCTS,
    ),
    Mutant(
        "rounded-down",
        "codegen/llvm/narrow.py",
        "_ROUNDS, _ROUNDS_BITS = 1.5 * 2.0**23, 0x4B400000\n",
        "_ROUNDS, _ROUNDS_BITS = 1.5 * 2.0**23 + 1, 0x4B400000\n",
        "numbers are rounded otherwise than defined",
        _PRODUCTS,
    ),
    Mutant(
        "no-upper-end",
        "codegen/llvm/narrow.py",
        '    whole = f.select(f.compare("olt", whole, high), whole, high)\n',
        "",
        "what is beyond the largest number wraps around",
        _PRODUCTS,
    ),
    Mutant(
        "what-meets-has-several-steps",
        "passes/quantization.py",
        "                self._webs[self.web(operand)] = self.web(value)\n",
        "",
        "joined branches are not of one grid",
        _PASS,
    ),
    Mutant(
        "too-many-products",
        "passes/quantization.py",
        "    if terms > MOST_PRODUCTS:\n",
        "    if terms > 100 * MOST_PRODUCTS:\n",
        "sums overflow 32 bits",
        _PASS,
    ),
    Mutant(
        "groups-as-whole-numbers",
        "passes/quantization.py",
        "        if node.op.groups > 1:\n",
        "        if node.op.groups > 10_000:\n",
        "grouped convolutions have no kernel for them",
        (*_PASS, *_RUNS),
    ),
    Mutant(
        "range-is-not-chosen",
        "runtime/calibration.py",
        "    share = float(_SHARES[int(np.argmin(errors))])\n",
        "    share = float(_SHARES[0])\n",
        "a rare large number makes all steps large",
        _RUNS,
    ),
    Mutant(
        "weights-without-steps-in-libraries",
        "codegen/standalone/tables.py",
        "        content = stored_weights(array) if dtype is DType.QW8 else stored(array, dtype).tobytes()\n",
        "        content = stored_weights(-array) if dtype is DType.QW8 else stored(array, dtype).tobytes()\n",
        "the library has other weights",
        ("tests/codegen/test_standalone.py",),
    ),
)
