"""What sums in float16 would cost in accuracy: products added up in half for a few steps, then in float32.

    python -m benchmarks.half_sums

That is how AVX512-FP16 would have to be used, which has no product of float16 numbers with a float32 sum. Errors are
against float64: the largest error over the largest result, in units of 2^-11 (half a unit in the last place of a
float16 that is a power of two), and in parentheses the root mean squares of both. docs/precision.md discusses them.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

UNIT = 2.0**-11
TERMS = (27, 64, 576, 4608)
CHUNKS = (2, 4, 8, 16)
RESULTS = 4096
KINDS = ("normal", "after relu", "all positive", "gradients of 2^-9", "gradients of 2^-14")

Doubles = NDArray[np.float64]


def operands(kind: str, terms: int, random: np.random.Generator) -> tuple[Doubles, Doubles]:
    """float16 numbers as doubles: images, and weights as they are drawn for so many inputs."""
    x, w = random.standard_normal((terms, RESULTS)), random.standard_normal((terms, RESULTS)) * np.sqrt(2 / terms)
    if kind == "after relu":
        x = np.maximum(x, 0)
    elif kind == "all positive":
        x, w = np.abs(x), np.abs(w)
    elif kind.startswith("gradients"):
        x = x * 2.0 ** int(kind.rpartition("^")[2])
    return x.astype(np.float16).astype(np.float64), w.astype(np.float16).astype(np.float64)


def chunked(x: Doubles, w: Doubles, steps: int) -> Doubles:
    """Sums whose first `steps` products, and the next ones, … are multiplied and added with one rounding each to
    float16 (a double holds them exactly but for the smallest); 0 steps: in float32 throughout."""
    total = np.zeros(RESULTS, np.float32)
    if not steps:
        for a, b in zip(x, w, strict=True):
            total = (a * b + total).astype(np.float32)
        return total.astype(np.float64)
    for first in range(0, len(x), steps):
        part = np.zeros(RESULTS, np.float16)
        for a, b in zip(x[first : first + steps], w[first : first + steps], strict=True):
            part = (a * b + part.astype(np.float64)).astype(np.float16)
        total += part.astype(np.float32)
    return total.astype(np.float64)


def cell(result: Doubles, exact: Doubles) -> str:
    error = result - exact
    largest = np.abs(error).max() / np.abs(exact).max() / UNIT
    return f"{largest:.2f} ({np.sqrt((error**2).mean() / (exact**2).mean()) / UNIT:.2f})"


def main() -> None:
    random = np.random.default_rng(1)
    print("| numbers | terms | float32 |" + "".join(f" {steps} |" for steps in CHUNKS) + " result rounded |")
    print("|---|---:|" + "---:|" * (len(CHUNKS) + 2))
    for kind in KINDS:
        for terms in TERMS:
            x, w = operands(kind, terms, random)
            exact = np.asarray((x * w).sum(0))
            cells = [cell(chunked(x, w, steps), exact) for steps in (0, *CHUNKS)]
            cells.append(cell(exact.astype(np.float16).astype(np.float64), exact))
            print(f"| {kind} | {terms} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
