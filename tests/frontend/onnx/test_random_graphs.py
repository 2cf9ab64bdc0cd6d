"""Chains of reshapes, transpositions, slices, joins and arithmetic, drawn at random, against ONNX Runtime.

They try what is hardest about the import: shapes and orders that are remembered instead of carried out.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import convc
from tests.frontend.onnx.models import Array, Op, dims, draw, make_model, peer, run_net, save

_IMAGES = [(4, 3, 2), (6, 4, 4), (3, 5, 6), (1, 6, 4), (8, 1, 1), (12,), (4, 6), (2, 4, 9)]
_LARGEST = 5000
Row = tuple[int, ...]


class Chain:
    """A model under construction: `values` are names with the shape of one image."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.seed = seed
        self.image: Row = self.random.choice(_IMAGES)
        self.values: list[tuple[str, Row]] = [("x", self.image)]
        self.ops: list[Op] = []
        self.constants: dict[str, Array] = {}

    def grow(self) -> None:
        name, row = self.random.choice(self.values[-3:])
        step: Callable[[str, Row, str], tuple[Op, Row] | None] = self.random.choice(
            [
                self.reshape, self.reshape, self.transpose, self.transpose, self.unary, self.with_constant, self.two,
                self.concat, self.slice, self.reduce, self.softmax, self.expand, self.convolution,
            ]
        )  # fmt: skip
        made = step(name, row, f"v{len(self.ops)}")
        if made is not None and math.prod(made[1]) <= _LARGEST:
            self.ops.append(made[0])
            self.values.append((made[0].results, made[1]))

    def model(self) -> object:
        last = self.values[-1][0]
        return make_model([*self.ops, Op("Identity", last, "y")], ("N", *self.image), self.constants)

    def constant(self, name: str, array: Array) -> str:
        self.constants[name] = array
        return name

    # Steps: the name of a value, its shape, the name of the result -> a node and the shape of its result

    def reshape(self, x: str, row: Row, result: str) -> tuple[Op, Row]:
        size, shape = math.prod(row), list[int]()
        for _ in range(self.random.randint(0, 3)):
            shape.append(self.random.choice([k for k in range(1, size + 1) if size % k == 0]))
            size //= shape[-1]
        shape.append(size)
        self.random.shuffle(shape)
        wanted = self.constant(f"{result}_shape", dims(self.random.choice([0, -1]), *shape))
        return Op("Reshape", f"{x} {wanted}", result), tuple(shape)

    def transpose(self, x: str, row: Row, result: str) -> tuple[Op, Row]:
        order = list(range(len(row)))
        self.random.shuffle(order)
        return Op("Transpose", x, result, {"perm": [0, *(a + 1 for a in order)]}), tuple(row[a] for a in order)

    def unary(self, x: str, row: Row, result: str) -> tuple[Op, Row]:
        return Op(self.random.choice(["Relu", "Sigmoid", "Tanh", "Neg"]), x, result), row

    def with_constant(self, x: str, row: Row, result: str) -> tuple[Op, Row]:
        shape = [self.random.choice([1, extent]) for extent in row]
        shape = shape[self.random.randint(0, len(shape)) :]
        c = self.constant(f"{result}_c", draw(shape, (self.seed, result)))
        operands = self.random.choice([f"{x} {c}", f"{c} {x}"])
        return Op(self.random.choice(["Add", "Mul", "Sub"]), operands, result), row

    def two(self, x: str, row: Row, result: str) -> tuple[Op, Row]:
        def fits(other: Row) -> bool:
            return len(other) == len(row) and all(a == b or 1 in (a, b) for a, b in zip(row, other, strict=True))

        name, other = self.random.choice([value for value in self.values if fits(value[1])])
        kind = self.random.choice(["Add", "Mul", "Max", "Sub"])
        return Op(kind, f"{x} {name}", result), tuple(max(a, b) for a, b in zip(row, other, strict=True))

    def concat(self, x: str, row: Row, result: str) -> tuple[Op, Row]:
        axis = self.random.randrange(len(row))

        def fits(other: Row) -> bool:
            return len(other) == len(row) and all(i == axis or other[i] == row[i] for i in range(len(row)))

        name, other = self.random.choice([value for value in self.values if fits(value[1])])
        joined = (*row[:axis], row[axis] + other[axis], *row[axis + 1 :])
        return Op("Concat", f"{x} {name}", result, {"axis": axis + 1}), joined

    def slice(self, x: str, row: Row, result: str) -> tuple[Op, Row]:
        axis = self.random.randrange(len(row))
        start = self.random.randrange(row[axis])
        stop, step = self.random.randint(start + 1, row[axis]), self.random.randint(1, 3)
        names = [
            self.constant(f"{result}_{key}", dims(value))
            for key, value in (("start", start), ("stop", stop), ("axis", axis + 1), ("step", step))
        ]
        cut = (*row[:axis], -(-(stop - start) // step), *row[axis + 1 :])
        return Op("Slice", " ".join([x, *names]), result), cut

    def reduce(self, x: str, row: Row, result: str) -> tuple[Op, Row] | None:
        if len(row) < 2:
            return None
        axes = sorted(self.random.sample(range(len(row)), self.random.randint(1, len(row) - 1)))
        keep = self.random.randint(0, 1)
        kept = tuple(1 if a in axes else extent for a, extent in enumerate(row) if keep or a not in axes)
        attributes = {"axes": [a + 1 for a in axes], "keepdims": keep}
        return Op(self.random.choice(["ReduceMean", "ReduceMax"]), x, result, attributes), kept

    def softmax(self, x: str, row: Row, result: str) -> tuple[Op, Row]:
        return Op("Softmax", x, result, {"axis": self.random.randint(1, len(row))}), row

    def expand(self, x: str, row: Row, result: str) -> tuple[Op, Row]:
        shape = tuple(self.random.choice([1, 3]) if extent == 1 else extent for extent in row)
        return Op("Expand", f"{x} {self.constant(f'{result}_shape', dims(1, *shape))}", result), shape

    def convolution(self, x: str, row: Row, result: str) -> tuple[Op, Row] | None:
        if len(row) != 3:
            return None
        w = self.constant(f"{result}_w", draw((3, row[0], 1, 1), (self.seed, result)))
        return Op("Conv", f"{x} {w}", result), (3, *row[1:])


def compare(seed: int, target: str, folder: Path) -> None:
    chain = Chain(seed)
    for _ in range(chain.random.randint(3, 9)):
        chain.grow()
    model, x = chain.model(), draw((2, *chain.image), seed)
    expected = peer(model, x)
    result = run_net(convc.from_onnx(save(model, folder)), x, target)
    assert result.shape == expected.shape, f"seed {seed}"
    scale = max(float(np.abs(expected).max(initial=0.0)), 0.1)
    assert float(np.abs(result - expected).max(initial=0.0)) <= 1e-5 * scale, f"seed {seed}"


@pytest.mark.parametrize("block", range(4))
def test_interpreted(block: int, tmp_path: Path) -> None:
    for seed in range(100 * block, 100 * block + 100):
        compare(seed, "interpreter", tmp_path)


@pytest.mark.slow
def test_native(tmp_path: Path) -> None:
    for seed in range(1000, 1080):
        compare(seed, "cpu", tmp_path)


def test_a_single_axis_spreads_over_the_channels(tmp_path: Path) -> None:
    """(N, 1, 1, 8) against (N, 8, 1, 1): as many elements as there are channels, but they are columns."""
    ops = [
        Op("Transpose", "x", "a", {"perm": [0, 2, 3, 1]}),
        Op("Neg", "x", "b"),
        Op("Mul", "a b", "y"),
    ]
    model, x = make_model(ops, ("N", 8, 1, 1)), draw((2, 8, 1, 1))
    np.testing.assert_array_equal(run_net(convc.from_onnx(save(model, tmp_path)), x, "interpreter"), peer(model, x))
