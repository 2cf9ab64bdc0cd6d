"""Which grouped convolutions are computed with the outputs of several groups side by side in a vector.

A group of few outputs (one, in a depthwise convolution) leaves most lanes of a vector empty. Its neighbours fill them:
filters then lie as if there were one group, [block of outputs][tap][channel of the group][output], and what a vector of
outputs is multiplied by is a fixed shuffle of neighbouring channels.
"""

from __future__ import annotations

from convc.ir.window import Pair
from convc.passes.layout import ImageLayout, WeightLayout, padded
from convc.passes.machine import Machine, split_lanes
from convc.passes.tiling import even_split

# Positions that a gradient by filters works on together: they share what they read of the images.
POSITIONS = 4
# What a tile of pixels costs beside its products, in the time of as many pairs of them: bounds, addresses.
_TILE = 30.0


def fits_lanes(machine: Machine, groups: int, channels: int, outputs: int) -> bool:
    """Whether vectors are to span groups of `channels` by `outputs`: at least two groups fit, in either direction."""
    few, many = sorted((channels, outputs))
    if groups == 1 or many > machine.lanes // 2 or few & (few - 1) or many & (many - 1):
        return False
    # Lanes that are padding of the few read channels of groups that do not exist: these have to be padding, too.
    return padded(groups * few) * (many // few) <= padded(groups * many)


def lane_filters(machine: Machine, outputs: int, channels: int, kernel: Pair) -> WeightLayout:
    """Filters whose vectors span groups of `channels`; `outputs` are those of all groups."""
    return WeightLayout(outputs, ImageLayout(channels, *kernel, channels), min(machine.lanes, padded(outputs)))


def most_pixels(machine: Machine) -> int:
    """Pixels of a tile: half of the registers hold sums, the others weights of some taps and pixels on their way."""
    return (machine.registers - 4) // 2


def gradient_tiles(machine: Machine, kernel: Pair, channels: int) -> tuple[int, int, int]:
    """How many (filter rows, filter columns, channels of a group) the tiles of a gradient by filters hold at most.

    All filter rows or one, of which as much as leaves registers for the cotangents of some positions and a pixel.
    """
    most = machine.registers - 6
    rows, columns = kernel
    if rows * columns * channels <= most:
        return rows, columns, channels
    if columns * channels <= most:
        return 1, columns, channels
    columns = max(even_split(columns, most))
    return 1, columns, max(even_split(channels, max(1, most // columns)))


def pixels_efficiency(
    machine: Machine, width: int, kernel: tuple[float, float], stride: int, channels: int, outputs: int, groups: int
) -> float:
    """The share of a product's full speed of rows of `width` pixels; `kernel` are the taps that reach a pixel.

    Two of a machine's ports multiply and shuffle, two load. A tile reads a pixel once in each filter row, and shuffles
    it for every channel of a group.
    """
    wanted = spent = 0.0
    for pixels in even_split(width, most_pixels(machine)):
        products = pixels * kernel[0] * kernel[1] * channels
        read = kernel[0] * ((pixels - 1) * stride + kernel[1])
        loads = read + kernel[0] * kernel[1] * channels
        shuffles = 0 if channels == outputs == 1 else read * channels
        spent += max(products + shuffles, loads) / 2 + pixels + _TILE
        wanted += products / 2
    return _lanes_used(machine, groups * outputs) * wanted / spent


def gradient_efficiency(machine: Machine, kernel: Pair, stride: int, channels: int, outputs: int, groups: int) -> float:
    """The same of a gradient by filters, whose sums wait for each other where a tile has few."""
    rows, columns, own = gradient_tiles(machine, kernel, channels)
    sums = rows * columns * own
    read = rows * ((POSITIONS - 1) * stride + columns)
    shuffles = 0 if channels == outputs == 1 else read * own
    spent = max((POSITIONS * sums + shuffles) / 2, (POSITIONS + read) / 2, 4.0 * POSITIONS)
    return _lanes_used(machine, groups * outputs) * POSITIONS * sums / 2 / spent


def _lanes_used(machine: Machine, outputs: int) -> float:
    return outputs / (machine.lanes * len(split_lanes(padded(outputs), machine.lanes)))
