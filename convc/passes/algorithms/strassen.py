"""Strassen's algorithm on the products of im2col: seven products of blocks where the definition has eight.

    (C11 C12)   (A11 A12)   (B11 B12)        P_i = (sum of blocks of A) · (sum of blocks of B),   i = 1 … 7
    (C21 C22) = (A21 A22) · (B21 B22)        C_jk = sums of P_i

The sums are those of Winograd's variant (V. Strassen 1969, "Gaussian elimination is not optimal"; S. Winograd 1971, "On
multiplication of 2x2 matrices"): 15 additions of blocks, as few as seven products allow. Two levels, where blocks are
large, take 49 products for 64. What is odd is filled up with zeros.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise

from convc.lazy import dataclass
from convc.passes.algorithms.algorithm import Algorithm, Stage
from convc.passes.algorithms.direct import tile_efficiency
from convc.passes.algorithms.im2col import gather_stage, terms, turned_bytes
from convc.passes.algorithms.patches import CHUNK_ROWS, LINE, PatchMatrix, in_place, patch_matrices
from convc.passes.algorithms.problem import Problem
from convc.passes.algorithms.straight_line import Builder, StraightLine
from convc.passes.layout import padded
from convc.passes.machine import Machine

PRODUCTS = 7
# Halves smaller than this do not fill register tiles.
_LEAST_HALF = 16
# Two levels only where the quarters are this large: additions then cost little.
_LARGE_QUARTER = 512

# Of the speed of a product of the whole matrices: the parts are smaller, and wait for memory (docs/performance-log.md).
_EFFICIENCY = 0.8


def _programs() -> tuple[StraightLine, StraightLine, StraightLine]:
    left, right, result = Builder(4), Builder(4), Builder(PRODUCTS)
    a11, a12, a21, a22 = left.inputs
    s1 = left.add(a21, a22)
    s2, s3 = left.subtract(s1, a11), left.subtract(a11, a21)
    s4 = left.subtract(a12, s2)
    b11, b12, b21, b22 = right.inputs
    t1, t3 = right.subtract(b12, b11), right.subtract(b22, b12)
    t2 = right.subtract(b22, t1)
    t4 = right.subtract(t2, b21)
    p1, p2, p3, p4, p5, p6, p7 = result.inputs
    u2 = result.add(p1, p6)
    u3, u4 = result.add(u2, p7), result.add(u2, p5)
    return (
        left.build([a11, a12, s4, a22, s1, s2, s3]),
        right.build([b11, b21, b22, t4, t1, t2, t3]),
        result.build([result.add(p1, p2), result.add(u4, p3), result.subtract(u3, p4), result.add(u3, p5)]),
    )


# From the blocks 11, 12, 21, 22 of an operand to the factors of the seven products; from those to the result's blocks.
LEFT, RIGHT, RESULT = _programs()


@dataclass(frozen=True)
class Split:
    """A dimension cut into `parts` parts of equal size, a multiple of `unit`; `size` may end before the last part."""

    size: int
    parts: int
    unit: int = 4

    @property
    def part(self) -> int:
        return -(-self.size // (self.parts * self.unit)) * self.unit

    @property
    def even(self) -> bool:
        """Whether all parts are whole."""
        return self.part * self.parts == self.size

    def ranges(self, *borders: int) -> Iterator[tuple[int, int]]:
        """Ranges within a part, cut where one of its parts ends before the size, or before one of `borders`."""
        ends = {min(max(end - q * self.part, 0), self.part) for end in (self.size, *borders) for q in range(self.parts)}
        cuts = sorted({0, self.part, *ends})
        yield from pairwise(cuts)

    def inside(self, part: int, place: int) -> bool:
        """Whether there is something at a place within a part."""
        return part * self.part + place < self.size


@dataclass(frozen=True)
class StrassenPlan:
    """One product of patches, cut into blocks: sizes in floats, and where everything lies in scratch space.

    Neighbouring rows of patches belong to different blocks, since any cut will do: so only the last rows of a chunk may
    be missing. `outputs` are those of a group, `stored` as they lie in memory.
    """

    matrix: PatchMatrix
    levels: int
    outputs: int
    stored: int
    copied: bool  # whether patches are copied
    gradient: bool  # by the filters

    @property
    def parts(self) -> int:
        return 2**self.levels

    @property
    def products(self) -> int:
        return PRODUCTS**self.levels

    @property
    def rows(self) -> int:
        """Rows of a block of patches."""
        return -(-self.matrix.chunk // self.parts)

    @property
    def across(self) -> Split:
        """The columns of the patches: what is summed over, or the rows of the gradient."""
        return Split(self.matrix.columns, self.parts)

    @property
    def columns(self) -> Split:
        """The columns of the result."""
        return Split(self.stored, self.parts, 4 if self.stored % 4 == 0 else 1)

    @property
    def left_row(self) -> int:
        """Floats from row to row of the sums of patches."""
        return -(-self.across.part // LINE) * LINE

    @property
    def right_row(self) -> int:
        """Floats from row to row of the sums of cotangents."""
        return -(-self.columns.part // LINE) * LINE

    @property
    def left_entry(self) -> int:
        return self.rows * self.left_row

    @property
    def right_entry(self) -> int:
        """Floats of a sum of filters, or of cotangents."""
        return self.rows * self.right_row if self.gradient else self.across.part * self.columns.part

    @property
    def result_entry(self) -> int:
        return (self.across.part if self.gradient else self.rows) * self.columns.part

    @property
    def places(self) -> tuple[int, int, int, int, int]:
        """Where patches, sums of them, the other operand's sums, and products begin; and the end."""
        right = self.products * self.right_entry * (1 if self.gradient else self.matrix.groups)
        sizes = (self.matrix.entry if self.copied else 0, self.products * self.left_entry, right)
        ends = [0]
        for size in (*sizes, self.products * self.result_entry):
            ends.append(ends[-1] + -(-size // LINE) * LINE)
        patches, left, right, results, end = ends
        return patches, left, right, results, end


def sizes(problem: Problem, matrix: PatchMatrix) -> tuple[int, int, int]:
    """Rows, depth and columns of a product of a group."""
    outputs = (problem.channels if problem.direction == "backward_data" else problem.filters) // problem.groups
    if problem.direction == "backward_weights":
        return matrix.columns, matrix.shape[0], outputs
    return matrix.shape[0], matrix.columns, outputs


def levels_of(problem: Problem) -> int:
    """How often the blocks are worth cutting; 0 where they are too small to be cut once."""
    smallest = min(min(sizes(problem, matrix)) for matrix in patch_matrices(problem))
    if smallest < 2 * _LEAST_HALF:
        return 0
    return 2 if smallest >= 4 * _LARGE_QUARTER else 1


def strassen_plans(problem: Problem) -> tuple[StrassenPlan, ...]:
    """The products of a problem that can be cut: one, or backward by the data one for each phase of a stride."""
    levels = levels_of(problem)
    parts = 2**levels
    plans: list[StrassenPlan] = []
    for matrix in patch_matrices(problem):
        chunk = max(matrix.chunk // CHUNK_ROWS, parts * (4 if problem.direction == "backward_weights" else 1))
        chunk = min(chunk // parts * parts * CHUNK_ROWS, matrix.shape[0])
        outputs = sizes(problem, matrix)[2]
        stored = padded(outputs) if problem.groups == 1 else outputs
        gradient = problem.direction == "backward_weights"
        plans.append(
            StrassenPlan(
                replace(matrix, chunk=chunk, apart=False, parts=1),
                levels,
                outputs,
                stored,
                not in_place(problem),
                gradient,
            )
        )
    return tuple(plans)


def _additions(program: StraightLine, levels: int) -> int:
    """Of one element of each block: all levels together."""
    inputs, outputs = program.inputs, len(program.outputs)
    return sum(program.operations * outputs**level * inputs ** (levels - 1 - level) for level in range(levels))


class Strassen(Algorithm):
    """The product of im2col with 7/8 of its multiplications, or 49/64.

    An error of 2e-7·√(16 + n) for sums of n terms at one level, twice that at two: about twice the largest of random
    normal problems (see docs/algorithms.md). Each level adds up numbers that are larger than what remains of them.
    """

    name = "strassen"
    family = "strassen"

    def obstacle(self, problem: Problem) -> str | None:
        if levels_of(problem):
            return None
        matrices = patch_matrices(problem)
        rows, depth, columns = min((sizes(problem, matrix) for matrix in matrices), key=min)
        return f"the matrices are {rows}x{depth} by {depth}x{columns}, too small to be halved"

    def stages(self, problem: Problem, machine: Machine) -> tuple[Stage, ...]:
        plans = strassen_plans(problem)
        copied = gather_stage(problem, machine, tuple(plan.matrix for plan in plans))
        turned = Stage("turn filters", "copy", 0, 2 * problem.weight_bytes)
        return (
            *((turned,) if problem.direction == "backward_data" else ()),
            *(() if in_place(problem) else (copied,)),
            *(stage for plan in plans for stage in _stages(problem, machine, plan)),
        )

    def scratch_bytes(self, problem: Problem, machine: Machine) -> int:
        return turned_bytes(problem) + 4 * max(plan.places[-1] for plan in strassen_plans(problem))

    def max_rel_error(self, problem: Problem) -> float:
        levels = levels_of(problem)
        return 1e-7 * 2**levels * math.sqrt(16 + terms(problem))


def _stages(problem: Problem, machine: Machine, plan: StrassenPlan) -> tuple[Stage, ...]:
    groups, blocks, products = plan.matrix.groups, 4**plan.levels, plan.products
    height = plan.matrix.shape[0]
    chunks = -(-height // plan.matrix.chunk)
    strips = plan.matrix.shape[1] // plan.matrix.columns
    rows = height // plan.parts

    def sums(name: str, program: StraightLine, elements: int) -> Stage:
        """Of operands with so many elements in each block."""
        moved = 4 * groups * elements * (blocks + products)
        return Stage(name, "transform", groups * elements * _additions(program, plan.levels), moved)

    left, right = plan.across.part, plan.columns.part
    flops = 2 * groups * products * rows * left * right * strips
    if plan.gradient:
        product = Stage(
            "multiply", "product", flops, 8 * groups * chunks * strips * products * plan.result_entry,
            plan.products * plan.result_entry * 4 <= machine.l2_bytes,
            _EFFICIENCY * tile_efficiency(machine, left, right, plan.rows),
        )  # fmt: skip
        return (
            replace(sums("add patches", LEFT, rows * left * strips), resident=plan.copied),
            sums("add cotangents", RIGHT, rows * right * strips),
            product,
            sums("add products", RESULT, left * right * strips),
        )
    filters = 4 * products * groups * plan.right_entry
    return (
        sums("add filters", RIGHT, left * right),
        replace(sums("add patches", LEFT, rows * left), resident=plan.copied),
        Stage(
            "multiply", "product", flops, chunks * filters, filters <= machine.l2_bytes,
            _EFFICIENCY * tile_efficiency(machine, plan.rows, right, left),
        ),
        sums("add products", RESULT, rows * right),
    )  # fmt: skip
