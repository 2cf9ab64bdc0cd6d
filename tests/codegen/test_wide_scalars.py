"""Products of numbers of 16 bits where there is no instruction for them: the bits are those of float32 products."""

from __future__ import annotations

import numpy as np
import pytest

from convc.codegen.llvm.target import DOT_BF16, WITHOUT_VARIABLE
from convc.ir.op import Op
from convc.ir.ops import Linear, LinearBackwardData, LinearBackwardWeights
from convc.ir.rounding import rounded
from convc.ir.types import DType
from convc.passes.algorithms.problem import Direction
from tests.codegen.algorithms.convolutions import DIRECTIONS, Geometry
from tests.codegen.guarded import Side
from tests.codegen.native_graph import run_natively, single_op_graph
from tests.codegen.test_dot_bf16 import GEOMETRIES, GRADIENTS
from tests.codegen.test_halves import halved
from tests.codegen.test_ops import available_tiers
from tests.op_case import OpCase, Operand, make_operands, normal

SHAPES: dict[str, Geometry] = {
    **{name: geometry for name, (_, geometry) in (GRADIENTS | GEOMETRIES).items()},
    "one stretch and more": Geometry((1, 70, 6, 30), (40, 70, 3, 3), (1, 1, 1, 1)),
    "three channels": Geometry((2, 3, 11, 10), (40, 3, 5, 5), (2, 2, 2, 2)),
    "no vector": Geometry((2, 3, 5, 6), (8, 3, 1, 1)),
}
TIERS = [pytest.param(t, marks=[] if n == 0 else pytest.mark.slow) for n, t in enumerate(available_tiers())]
HALVES = (DType.F16, DType.BF16)


def assert_like_float32(case: OpCase, dtype: DType, tier: str, patch: pytest.MonkeyPatch) -> None:
    patch.setenv("CONVC_CPU", tier)
    patch.setenv(WITHOUT_VARIABLE, DOT_BF16)
    arrays = make_operands(case, np.float32)
    single, named = single_op_graph(case, arrays)
    graph = single.copy()
    halved(graph, case, dtype)
    # A bias stays float32, and the cast of the result to float32 rides along, before the result is rounded.
    exact = {name: rounded(array, dtype) if array.ndim > 1 else array for name, array in named.items()}
    expected = run_natively(single.copy(), exact, threads=1)["logits"]
    sides: tuple[Side, ...] = ("after", "before", "after")
    for threads, side in enumerate(sides, start=1):
        result = run_natively(graph.copy(), named, threads=threads, side=side)["logits"]
        np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("name", SHAPES)
def test_direct_convolutions(
    name: str, direction: Direction, dtype: DType, tier: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert_like_float32(SHAPES[name].case(direction, "direct"), dtype, tier, monkeypatch)


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("op", [Linear(), LinearBackwardData(), LinearBackwardWeights()], ids=lambda op: op.name)
@pytest.mark.parametrize(
    ("images", "features", "outputs"), [(5, 40, 24), (17, 133, 7), (64, 130, 100), (3, 3, 2), (20, 1, 12), (1, 70, 40)]
)
def test_fully_connected_layers(
    images: int, features: int, outputs: int, op: Op, dtype: DType, tier: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, w, dy = normal(images, features), normal(outputs, features), normal(images, outputs)
    operands: dict[type[Op], tuple[Operand, ...]] = {
        Linear: (x, w, normal(outputs)),
        LinearBackwardData: (dy, w),
        LinearBackwardWeights: (x, dy),
    }
    assert_like_float32(OpCase("layer", op, operands[type(op)]), dtype, tier, monkeypatch)
