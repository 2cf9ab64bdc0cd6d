"""Loops that bring operands into the caches piece by piece, with caches so small that small cases have many pieces."""

from __future__ import annotations

import pytest

from convc.codegen.llvm import direct, gemm
from convc.passes.algorithms import bands
from convc.passes.algorithms.direct import Direct
from convc.passes.algorithms.im2col import Im2col
from convc.passes.algorithms.problem import Direction
from tests.codegen.algorithms.convolutions import DIRECTIONS, Geometry, check

pytestmark = pytest.mark.slow

GEOMETRIES: dict[str, Geometry] = {
    "pointwise": Geometry((3, 40, 14, 15), (50, 40, 1, 1)),
    "3x3": Geometry((3, 21, 13, 9), (50, 21, 3, 3), (1, 1, 1, 1)),
    "strided": Geometry((3, 3, 25, 23), (20, 3, 7, 7), (3, 3, 3, 3), stride=(2, 2)),
    "groups": Geometry((2, 24, 11, 11), (36, 12, 3, 3), (1, 1, 1, 1), groups=2),
}


@pytest.fixture(autouse=True)
def small_caches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONVC_CACHE", "off")  # compiled code is known by its plan, which says nothing of these numbers
    monkeypatch.setattr(direct, "_SHARE_OF_CACHE", 0.004)
    monkeypatch.setattr(direct, "_SHARE_OF_ROW", 0.004)
    monkeypatch.setattr(bands, "_CHUNK_BYTES", 2 << 10)
    monkeypatch.setattr(bands, "_FEWEST_POSITIONS", 8)
    monkeypatch.setattr(gemm, "_SHARE_OF_CACHE", 0.004)
    monkeypatch.setattr(gemm, "_CHUNK", 24)
    monkeypatch.setattr(gemm, "_COPIED", 2 << 10)
    monkeypatch.setattr(gemm, "_WAITING", 16 << 10)


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("geometry", GEOMETRIES.values(), ids=GEOMETRIES)
@pytest.mark.parametrize("algorithm", [Direct(), Im2col()], ids=lambda a: a.name)
def test_small_caches(algorithm: Direct | Im2col, geometry: Geometry, direction: Direction) -> None:
    check(geometry.case(direction, algorithm.name), algorithm, rows=2, threads=(2, 5))
