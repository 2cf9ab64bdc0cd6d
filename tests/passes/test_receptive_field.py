"""Receptive fields: figures of the lectures, and what perturbing the input says."""

from __future__ import annotations

import numpy as np
import pytest

from convc.ir.builder import Builder
from convc.ir.graph import Graph, Value
from convc.ir.interpreter import run_reference
from convc.ir.op import Op
from convc.ir.ops.conv import Conv2d, Conv2dBackwardData
from convc.ir.ops.elementwise import Add
from convc.ir.ops.maps import ScaleMaps, SpatialSum, SpreadMaps
from convc.ir.ops.pool import AvgPool
from convc.ir.ops.resample import Upsample
from convc.ir.types import f32
from convc.passes.receptive_field import ReceptiveField, receptive_fields
from tests.passes.nets import Net, vgg16


def field_of(graph: Graph) -> ReceptiveField:
    return receptive_fields(graph)[graph.outputs["logits"]]


def figures(field: ReceptiveField) -> tuple[object, object, object]:
    return field.size, field.stride, field.offset


def test_three_3x3_see_as_much_as_one_7x7() -> None:
    stack = Net(3, 20, 20).conv(3, 3).conv(3, 3).conv(3, 3).build(loss=False)
    single = Net(3, 20, 20).conv(3, 7).build(loss=False)
    assert field_of(stack) == field_of(single)
    assert figures(field_of(single)) == ((7, 7), (1, 1), (0, 0))


def test_1x3_and_3x1_see_as_much_as_3x3() -> None:
    factored = Net(3, 9, 9).conv(3, (1, 3)).conv(3, (3, 1)).build(loss=False)
    assert field_of(factored).size == (3, 3)


def test_vgg16_before_its_classifier() -> None:
    fields = receptive_fields(vgg16())
    sizes = {value.producer.label: field.size[0] for value, field in fields.items() if value.producer}
    assert [sizes[name] for name in ("conv2", "pool1", "conv4", "conv7", "conv10", "conv13", "pool5")] == [
        5, 6, 14, 40, 92, 196, 212,
    ]  # fmt: skip


def test_padding_begins_outside_the_image() -> None:
    field = field_of(Net(1, 9, 9).conv(1, 3, s=2, pad=1).conv(1, 3, pad=1).build(loss=False))
    assert figures(field) == ((7, 7), (2, 2), (-3, -3))


def test_fully_connected_layers_see_all() -> None:
    assert field_of(Net(1, 8, 6).conv(4, 3).relu().fc(5).build(loss=False)).size == (8, 6)


def test_joins_cover_both() -> None:
    graph, builder, x = _image(1, 12, 12)
    small = builder.add(Conv2d(), x, _filters(graph, "a", 3))
    small = builder.add(AvgPool((1, 1), (1, 1)), small)
    large = builder.add(Conv2d(padding=(1, 1, 1, 1)), x, _filters(graph, "b", 5))
    graph.outputs["logits"] = builder.add(Add(), small, large)
    assert figures(field_of(graph)) == ((5, 5), (1, 1), (-1, -1))


@pytest.mark.parametrize(
    "net",
    [
        Net(1, 17, 17).conv(1, 3, s=2, pad=1).pool(2).conv(1, 3),
        Net(1, 15, 17).conv(1, (3, 5)).pool(3, 2).conv(1, 2, s=2),
        Net(1, 17, 17).apply("conv", Conv2d(dilation=(2, 3)), ("weight", (1, 1, 3, 3), "weight")).conv(1, 3),
        Net(1, 14, 14).apply("pool", AvgPool((3, 3), (2, 2), (1, 1, 1, 1))).conv(1, 3, pad=1),
        Net(1, 14, 15)
        .pool(2)
        .apply(
            "deconv", Conv2dBackwardData((1, 1), (1, 0, 1, 1), (2, 1), 1, (9, 9)), ("weight", (1, 1, 3, 4), "weight")
        ),
    ],
)
def test_perturbing_the_input_agrees(net: Net) -> None:
    graph = net.build(loss=False)
    field = field_of(graph)
    random = np.random.default_rng(1)
    arrays = {name: random.random(parameter.value.shape) + 0.1 for name, parameter in graph.parameters.items()}
    x = random.random((1, *graph.inputs["x"].shape[1:]))
    start = run_reference(graph, arrays | {"x": x})["logits"]
    position = (start.shape[2] // 2, start.shape[3] // 2)
    seen = [
        (row, column)
        for row in range(x.shape[2])
        for column in range(x.shape[3])
        # Twice as bright, so that a maximum is sure to notice.
        if run_reference(graph, arrays | {"x": x + 2 * _pixel(x, row, column)})["logits"][0, 0][position]
        != start[0, 0][position]
    ]
    first = [o + p * s for o, p, s in zip(field.offset, position, field.stride, strict=True)]
    assert [min(axis) for axis in zip(*seen, strict=True)] == first
    assert [max(axis) for axis in zip(*seen, strict=True)] == [
        f + n - 1 for f, n in zip(first, field.size, strict=True)
    ]


@pytest.mark.parametrize(
    "ops",
    [
        [Conv2dBackwardData((2, 2), (0, 0, 0, 0), size=(14, 14))],  # 2x2 filters, as a U-Net has them
        [Conv2dBackwardData((2, 2), (1, 1, 0, 0), size=(13, 13))],
        [Conv2dBackwardData((3, 2), (1, 0, 1, 0), size=(18, 14)), Conv2d()],
        [Upsample(2), Conv2d((1, 1), (1, 1, 1, 1))],
        [Upsample(3, "bilinear")],
        [Upsample(2, "bilinear"), Conv2d()],
        [AvgPool((2, 2), (2, 2)), Upsample(2)],
        [AvgPool((2, 2), (2, 2)), Upsample(2), AvgPool((3, 3), (1, 1))],
    ],
    ids=lambda ops: "-".join(op.name for op in ops),
)
def test_the_worst_position_behind_an_enlargement_sees_as_much(ops: list[Op]) -> None:
    coarse = isinstance(ops[0], AvgPool)  # moves by two pixels, so that the bound is not reached
    graph, builder, x = _image(1, 7, 7)
    value = x
    for number, op in enumerate(ops):
        weights = [_filters(graph, f"w{number}", 2)] if isinstance(op, (Conv2d, Conv2dBackwardData)) else []
        value = builder.add(op, value, *weights)
    graph.outputs["logits"] = value
    field = field_of(graph)
    random = np.random.default_rng(1)
    arrays = {name: random.random(parameter.value.shape) + 0.1 for name, parameter in graph.parameters.items()}
    pixels = np.eye(49).reshape(49, 1, 7, 7)
    seen = [run_reference(graph, arrays | {"x": pixel[None]})["logits"][0, 0] != 0 for pixel in pixels]
    reached = np.array(seen).reshape(7, 7, *value.shape[2:])
    for axis in (0, 1):
        # (pixels, positions) along one axis: whatever the other coordinates are.
        along = np.array(reached.any((1 - axis, 3 - axis)))
        stride, sizes = field.stride[axis], []
        for position in range(1, along.shape[1] - 1):
            (rows,) = np.nonzero(along[:, position])
            first = field.offset[axis] + position * stride
            assert rows[0] >= first - 1
            assert rows[-1] < first + field.size[axis] + 1
            sizes.append(rows[-1] - rows[0] + 1)
        assert max(sizes) == field.size[axis] - coarse


def test_weighing_maps_lets_every_position_see_all() -> None:
    graph, builder, x = _image(1, 6, 8)
    y = builder.add(Conv2d(padding=(1, 1, 1, 1)), x, _filters(graph, "w", 3))
    scale = builder.add(AvgPool((6, 8), (1, 1)), y)
    graph.outputs["logits"] = builder.add(ScaleMaps(), y, scale)
    assert figures(field_of(graph)) == ((8, 10), (1, 1), (-1, -1))


def test_ops_of_unknown_reach_are_left_out() -> None:
    graph, builder, x = _image(1, 4, 4)
    y = builder.add(SpreadMaps((4, 4)), builder.add(SpatialSum(), x))
    assert y not in receptive_fields(graph)
    assert builder.add(Add(), y, x) not in receptive_fields(graph)


def _pixel(x: np.ndarray, row: int, column: int) -> np.ndarray:
    image = np.zeros_like(x)
    image[0, 0, row, column] = 1
    return image


def _image(*shape: int) -> tuple[Graph, Builder, Value]:
    graph = Graph("g")
    return graph, Builder(graph), graph.add_input("x", f32(1, *shape))


def _filters(graph: Graph, name: str, size: int) -> Value:
    return graph.add_parameter(name, f32(1, 1, size, size))
