"""Which grouped convolutions span groups, what that asks of layouts, and what is predicted of them."""

from __future__ import annotations

import numpy as np
import pytest

from convc.ir.builder import Builder
from convc.ir.graph import Graph
from convc.ir.ops.conv import Conv2d, Conv2dBackwardData
from convc.ir.ops.units import ScaleWeights
from convc.ir.types import DType, TensorType
from convc.passes.algorithms.direct import Direct
from convc.passes.algorithms.problem import Direction, Problem
from convc.passes.arrange import Arrange
from convc.passes.base import PassLog
from convc.passes.group_lanes import fits_lanes, gradient_tiles, lane_filters
from convc.passes.layout import WeightLayout, padded
from convc.passes.machine import MACHINES, Machine
from convc.passes.plan import Plan

WIDE, NARROW = MACHINES["avx512"], MACHINES["baseline"]


@pytest.mark.parametrize(
    ("machine", "groups", "channels", "outputs", "fits"),
    [
        (WIDE, 32, 1, 1, True),
        (WIDE, 5, 1, 1, True),
        (WIDE, 32, 4, 4, True),
        (WIDE, 8, 1, 4, True),
        (WIDE, 32, 8, 8, True),
        (WIDE, 1, 1, 1, False),  # one group: vectors along its outputs
        (WIDE, 32, 16, 16, False),  # a group fills a vector
        (WIDE, 32, 3, 3, False),  # groups would begin at another lane in every vector
        (WIDE, 3, 8, 1, False),  # the padding of 3 outputs would read channels beyond the 24
        (NARROW, 32, 2, 2, True),
        (NARROW, 32, 4, 4, False),
    ],
)
def test_groups_that_share_a_vector(machine: Machine, groups: int, channels: int, outputs: int, fits: bool) -> None:
    assert fits_lanes(machine, groups, channels, outputs) is fits
    assert fits_lanes(machine, groups, outputs, channels) is fits


@pytest.mark.parametrize("machine", MACHINES.values(), ids=lambda machine: machine.name)
def test_no_vector_reads_beyond_the_channels_as_stored(machine: Machine) -> None:
    checked = 0
    for groups in range(2, 40):
        for channels in range(1, 9):
            for outputs in range(1, 9):
                if fits_lanes(machine, groups, channels, outputs):
                    read = padded(groups * outputs) // outputs * channels
                    assert read <= padded(groups * channels), (groups, channels, outputs)
                    checked += 1
    assert checked > 100


def test_filters_lie_output_by_output() -> None:
    layout = lane_filters(WIDE, 20, 1, (1, 2))
    filters = np.arange(40, dtype=np.float32).reshape(20, 2)
    stored = layout.pack(filters)
    np.testing.assert_array_equal(stored[:32].reshape(2, 16), filters[:16].T)
    np.testing.assert_array_equal(stored[32:].reshape(2, 4), filters[16:].T)


def _filters_of(*convolutions: str, scaled: bool = False) -> WeightLayout:
    """The layout of depthwise filters that several convolutions share, each by the algorithm named."""
    graph = Graph("net")
    x = graph.add_input("x", TensorType(DType.F32, (2, 32, 9, 9)))
    w = graph.add_parameter("w", TensorType(DType.F32, (32, 1, 3, 3)))
    builder = Builder(graph)
    filters = w
    if scaled:
        scale = graph.add_parameter("scale", TensorType(DType.F32, (32,)))
        filters = builder.add(ScaleWeights(1, 32), w, scale)
    results = [builder.add(Conv2d(padding=(1, 1, 1, 1), groups=32, algorithm=name), x, w) for name in convolutions]
    if scaled:
        results.append(builder.add(Conv2dBackwardData(padding=(1, 1, 1, 1), groups=32, size=(9, 9)), x, filters))
    for number, result in enumerate(results):
        graph.outputs[f"y{number}"] = result
    plan = Plan(graph, WIDE)
    Arrange().run(plan, PassLog())
    layout = plan.layouts[w]
    assert isinstance(layout, WeightLayout)
    return layout


def test_groups_lie_apart_where_a_kernel_wants_each_in_one_piece() -> None:
    assert _filters_of("direct", "auto").groups == 1
    assert _filters_of("direct", "im2col").groups == 32
    assert _filters_of(scaled=True).groups == 32


@pytest.mark.parametrize("kernel", [(1, 1), (3, 3), (5, 5), (7, 7), (2, 31)])
@pytest.mark.parametrize("machine", MACHINES.values(), ids=lambda machine: machine.name)
def test_the_sums_of_a_gradient_fit_the_registers(machine: Machine, kernel: tuple[int, int]) -> None:
    for channels in (1, 2, 4, 8):
        rows, columns, own = gradient_tiles(machine, kernel, channels)
        assert rows in (1, kernel[0])
        assert 0 < rows * columns * own <= machine.registers - 6


@pytest.mark.parametrize("direction", ["forward", "backward_data", "backward_weights"])
def test_depthwise_is_predicted_to_be_bound_by_memory(direction: Direction) -> None:
    problem = Problem(direction, 8, 512, 512, (14, 14), (14, 14), (3, 3), padding=(1, 1, 1, 1), groups=512)
    (stage,) = Direct().stages(problem, WIDE)
    assert stage.bytes == problem.image_bytes + problem.result_bytes + problem.weight_bytes
    assert 0.3 < stage.efficiency <= 1


@pytest.mark.parametrize("direction", ["forward", "backward_data", "backward_weights"])
def test_empty_lanes_cost(direction: Direction) -> None:
    def efficiency(channels: int) -> float:
        size = (14, 14)
        problem = Problem(direction, 8, channels, channels, size, size, (3, 3), padding=(1, 1, 1, 1), groups=channels)
        return Direct().stages(problem, WIDE)[-1].efficiency

    assert efficiency(4) == pytest.approx(efficiency(16) / 4)
