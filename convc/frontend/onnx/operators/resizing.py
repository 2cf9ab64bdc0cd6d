"""Images in another size: `Resize`, and `Upsample` of old opsets.

Where pixels are repeated, or mixed linearly from their centres, by a whole factor, it is what the language's `upsample`
does. Any other linear or cubic mixing is two products with constant matrices, one for each axis. Choosing the nearest
pixel at other factors depends on how positions are rounded, and is refused.
"""

from __future__ import annotations

import math

import numpy as np

from convc.frontend.hints import shape_text
from convc.frontend.onnx.forms import back_from_front, broadcast, image_of, in_front, settled
from convc.frontend.onnx.operators.interpolation import NUMBERINGS, Axis, cubic, linear
from convc.frontend.onnx.site import Site
from convc.frontend.onnx.values import BATCHES, Tensor
from convc.ir.ops.conv import Conv2d
from convc.ir.ops.resample import Upsample
from convc.ir.types import Shape

_LARGEST_MATRIX = 1 << 24


def resize(site: Site) -> Tensor:
    x = site.tensor()
    if len(x.shape) != 3:
        site.refuse(f"only images (N, C, H, W) are resized, not N x {shape_text(x.shape)}")
    if site.has("antialias") and site.integer("antialias"):
        site.refuse("is not supported", "antialias")
    site.only("keep_aspect_ratio_policy", "stretch")
    down, across = _axes(site, x)
    mode = site.text("mode")
    if mode not in ("nearest", "linear", "bilinear", "cubic"):
        site.refuse(f"{mode!r} is not supported; nearest, linear and cubic are", "mode")
    numbering = _numbering(site)
    if numbering not in NUMBERINGS:
        site.refuse(f"{numbering} is not supported", "coordinate_transformation_mode")
    if _is_same(down) and _is_same(across):
        return x
    return _nearest(site, x, down, across) if mode == "nearest" else _mixed(site, x, down, across, mode)


def _is_same(axis: Axis) -> bool:
    return axis.size == axis.result and axis.scale == 1


def _numbering(site: Site) -> str:
    """How positions are numbered; before there was a choice, from the corner."""
    name = "coordinate_transformation_mode"
    return site.text(name) if site.has(name) else "asymmetric"


# Sizes


def _axes(site: Site, x: Tensor) -> tuple[Axis, Axis]:
    """Height and width."""
    scales, sizes = _scales(site), None
    if site.kind == "Resize" and site.opset >= 11:
        sizes = _sizes(site)
    given = scales if sizes is None else sizes
    if (scales is None) == (sizes is None) or given is None:
        site.refuse("has no scales and no sizes, or both")
    axes = site.integers("axes") or tuple(range(4))
    if len(given) != len(axes) or any(not -4 <= axis < 4 for axis in axes) or len({a % 4 for a in axes}) != len(axes):
        site.refuse(f"{[*given]} is not one number for each of the axes {list(axes)}")
    before = (site.model.batch or 1, *x.shape)
    found = [Axis(extent, extent, 1.0) for extent in before]
    for axis, number in zip((axis % 4 for axis in axes), given, strict=True):
        extent = before[axis]
        if not (math.isfinite(number) and 0 < number < 1 << 31):
            site.refuse(f"{number:g} is no size or factor")
        if sizes is None:
            found[axis] = Axis(extent, math.floor(extent * number), number)
        else:
            found[axis] = Axis(extent, int(number), number / extent)
    if not (_is_same(found[0]) and _is_same(found[1])):
        site.refuse("resizes the batch or the channels")
    row = (x.shape[0], found[2].result, found[3].result)
    if min(row) < 1 or math.prod(row) > site.target.limits.elements:
        site.refuse(f"its result would have {shape_text(row)} elements")
    return found[2], found[3]


def _scales(site: Site) -> tuple[float, ...] | None:
    """A factor for each axis, an attribute (opset 7) or an operand."""
    if "scales" in site.attributes:
        return site.numbers("scales")
    index = 1 if site.kind == "Upsample" or site.opset < 11 else 2
    array = site.constant(index, "the scales")
    if array is None or array.size == 0:
        return None
    return tuple(float(item) for item in np.asarray(array).reshape(-1))


def _sizes(site: Site) -> tuple[int, ...] | None:
    """The size of each axis; a batch that was asked for stands as the model's own."""
    known = site.known(3, "the sizes")
    if known is None or known.under(0).size == 0:
        return None
    found: set[tuple[int, ...]] = set()
    for index, batch in enumerate(BATCHES):
        sizes = [int(item) for item in known.under(index).reshape(-1)]
        if known.depends_on_batch and sizes[0] == batch:
            sizes[0] = site.model.batch or 1
        found.add(tuple(sizes))
    if len(found) > 1:
        site.refuse("the sizes depend on the batch")
    return found.pop()


# Repeated pixels


def _nearest(site: Site, x: Tensor, down: Axis, across: Axis) -> Tensor:
    row = (x.shape[0], down.result, across.result)
    if x.shape[1:] == (1, 1):
        return broadcast(site, x, row)  # a single pixel is everywhere
    height, width = _factor(down), _factor(across)
    if height is None or width is None:
        factors = f"{down.scale:g}" if down.scale == across.scale else f"{down.scale:g} and {across.scale:g}"
        site.refuse(f"nearest pixels at the factor {factors}, no whole number of at least 1, are not supported")
    numbering = _numbering(site)
    rounding = site.text("nearest_mode") if site.has("nearest_mode") else "floor"
    # Pixel i of the result is pixel i // factor: with the corner as origin what rounds down, with centres what rounds
    # to the nearest (no centre lies halfway between two).
    if numbering == "asymmetric":
        suitable = rounding == "floor"
    else:
        suitable = _centred(numbering, row) and rounding in ("round_prefer_floor", "round_prefer_ceil")
    if not suitable:
        site.refuse(
            f"{numbering} with {rounding} is not supported for nearest pixels", "coordinate_transformation_mode"
        )
    if height == width:
        return Tensor(site.emit(Upsample(height, "nearest"), image_of(site, x)), row)
    # Each pixel becomes a block: its own axes spread, then all in their order.
    c, h, w = x.shape
    return broadcast(site, x.reshaped((c, h, 1, w, 1)), (c, h, height, w, width)).reshaped(row)


def _factor(axis: Axis) -> int | None:
    """The whole factor by which an axis grows."""
    factor = axis.result // axis.size
    return factor if factor >= 1 and axis.scale == factor and axis.result == factor * axis.size else None


def _centred(numbering: str, row: Shape) -> bool:
    """Whether positions are those of pixels' centres, for whole factors."""
    symmetric = numbering in ("half_pixel", "half_pixel_symmetric")
    return symmetric or (numbering == "pytorch_half_pixel" and min(row[1:]) > 1)


# Mixed pixels


def _mixed(site: Site, x: Tensor, down: Axis, across: Axis, mode: str) -> Tensor:
    row = (x.shape[0], down.result, across.result)
    excluded = bool(site.integer("exclude_outside")) if site.has("exclude_outside") else False
    if mode != "cubic":
        if excluded:
            site.refuse("is supported for cubic mixing only", "exclude_outside")
        if x.shape[1:] == (1, 1):
            return broadcast(site, x, row)
        height, width = _factor(down), _factor(across)
        if height is not None and height == width and _centred(_numbering(site), row):
            return Tensor(site.emit(Upsample(height, "bilinear"), image_of(site, x)), row)
    for index, (axis, name) in enumerate(((down, "rows"), (across, "columns")), 1):
        if _is_same(axis):
            continue
        if axis.size * axis.result > _LARGEST_MATRIX:
            site.refuse(f"mixing {axis.size} into {axis.result} positions takes too large a matrix")
        positions = axis.positions(_numbering(site))
        if mode == "cubic":
            matrix = cubic(axis, positions, site.number("cubic_coeff_a"), excluded)
        else:
            matrix = linear(axis, positions)
        x = _along(site, x, index, matrix.astype(np.float32), name)
    return x


def _along(site: Site, x: Tensor, axis: int, matrix: np.ndarray, name: str) -> Tensor:
    """The product of an axis with a matrix: a 1x1 convolution of which it is the channels."""
    moved = in_front(site, x, axis)
    count, rest = moved.shape[0], moved.size // moved.shape[0]
    value = settled(site, moved, (count, 1, rest)).value
    label = f"{site.label}.{name}"
    weight = site.target.parameter(label, "weight", None, matrix[:, :, None, None], buffer=True)
    y = Tensor(site.emit(Conv2d(), value, weight), (len(matrix), *moved.shape[1:]))
    return back_from_front(site, y, axis)
