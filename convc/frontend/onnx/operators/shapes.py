"""Changes of shape and place: reshapes, transpositions, slices, joins, borders."""

from __future__ import annotations

import math

import numpy as np

from convc.frontend.hints import shape_text
from convc.frontend.onnx.forms import (
    axis_as_channels,
    back_from_front,
    broadcast,
    image_of,
    permuted,
    settled,
    value_of,
)
from convc.frontend.onnx.site import Operand, Site
from convc.frontend.onnx.values import BATCHES, Known, Tensor, combine
from convc.ir.ops.join import Concat, InsertChannels, SliceChannels
from convc.ir.ops.pad import Pad
from convc.ir.types import Shape


def shape(site: Site) -> Known:
    """The dimensions, the batch among them: known under each of two batch sizes."""
    x = site.tensor()
    rank = len(x.shape) + 1
    start = site.integer("start") if site.has("start") else 0
    end = site.integer("end") if site.has("end") else rank
    return combine([np.array((batch, *x.shape), np.int64)[start:end] for batch in BATCHES])


def size(site: Site) -> Known:
    return combine([np.array(batch * site.tensor().size, np.int64) for batch in BATCHES])


def reshape(site: Site) -> Tensor:
    x = site.tensor()
    known = site.known(1, "the new shape")
    if known is None:
        site.refuse("has no new shape")
    rows: list[Shape] = []
    for index, batch in enumerate(BATCHES):
        wanted = known.under(index)
        if wanted.ndim != 1 or wanted.dtype.kind not in "iu":
            site.refuse("the new shape is no list of integers")
        dims = [int(item) for item in wanted]
        rows.append(_resolved(site, x, dims, batch))
    if len(set(rows)) > 1:
        site.refuse(f"the new shape of an image, {shape_text(rows[0])}, depends on the batch size")
    return x.reshaped(rows[0])


def _resolved(site: Site, x: Tensor, dims: list[int], batch: int) -> Shape:
    """The row of the new shape `dims`, for so many images."""
    shown = list(dims)
    before = (batch, *x.shape)
    if site.has("allowzero") and site.integer("allowzero") and 0 in dims:
        site.refuse("a tensor without elements is not supported", "allowzero")
    for position, extent in enumerate(dims):
        if extent == 0:
            if position >= len(before):
                site.refuse(f"{shown} keeps dimension {position}, which there is not")
            dims[position] = before[position]
    if not dims:
        site.refuse("the result would be one number for all images")
    if dims[0] == site.model.batch:
        # Exporters write the batch that they have seen; the program takes any.
        dims[0] = batch
    if min(dims) < -1 or dims.count(-1) > 1:
        site.refuse(f"{shown} is no shape")
    total = batch * x.size
    if -1 in dims:
        others = math.prod(extent for extent in dims if extent != -1)
        if others == 0 or total % others:
            site.refuse(f"{_images(x)} do not fill {shown}")
        dims[dims.index(-1)] = total // others
    if dims[0] != batch or math.prod(dims) != total:
        hint = "; it holds for one batch size only" if site.model.batch is None and shown[0] not in (-1, 0) else ""
        site.refuse(f"{_images(x)} become {shown}, which does not keep the images of a batch apart{hint}")
    return tuple(dims[1:])


def _images(x: Tensor) -> str:
    return f"images of {shape_text(x.shape) or 'one number'}"


def flatten(site: Site) -> Tensor:
    x = site.tensor()
    rank = len(x.shape) + 1
    axis = site.integer("axis")
    if not -rank <= axis <= rank:
        site.refuse(f"{axis} is no axis of a tensor of {rank} dimensions", "axis")
    axis = axis + rank if axis < 0 else axis
    if axis == 0 or math.prod(x.shape[: axis - 1]) != 1:
        site.refuse("joins the batch with other dimensions", "axis")
    return x.reshaped((math.prod(x.shape[axis - 1 :]),))


def _axes(site: Site, operand: int, rank: int) -> tuple[int, ...] | None:
    """Axes, an attribute of old opsets and an operand of new ones, counted from the front; the batch is refused."""
    given = site.integers("axes") if "axes" in site.attributes else site.whole_numbers(operand, "the list of axes")
    if given is None:
        return None
    axes = tuple(site.axis(axis, rank, "axes") for axis in given)
    if len(set(axes)) != len(axes):
        site.refuse(f"{list(given)} names an axis twice", "axes")
    return axes


def squeeze(site: Site) -> Tensor:
    x = site.tensor()
    axes = _axes(site, 1, len(x.shape) + 1)
    if axes is None:
        site.refuse("without a list of axes a batch of one image would lose its batch dimension", "axes")
    if any(x.shape[axis - 1] != 1 for axis in axes):
        site.refuse(f"{list(axes)} are not all of extent 1 in N x {shape_text(x.shape)}", "axes")
    return x.reshaped(tuple(extent for axis, extent in enumerate(x.shape, 1) if axis not in axes))


def unsqueeze(site: Site) -> Tensor:
    x = site.tensor()
    given = site.integers("axes") if "axes" in site.attributes else site.whole_numbers(1, "the list of axes")
    if given is None:
        site.refuse("has no list of axes")
    axes = _axes(site, 1, len(x.shape) + 1 + len(given))
    assert axes is not None
    row = list(x.shape)
    for axis in sorted(axes):
        row.insert(axis - 1, 1)
    return x.reshaped(tuple(row))


def transpose(site: Site) -> Tensor:
    x = site.tensor()
    rank = len(x.shape) + 1
    order = site.integers("perm") or tuple(reversed(range(rank)))
    if sorted(order) != list(range(rank)):
        site.refuse(f"{list(order)} is no order of {rank} dimensions", "perm")
    if order[0] != 0:
        site.refuse(f"{list(order)} moves the batch, which has to stay in front", "perm")
    return permuted(site, x, tuple(axis - 1 for axis in order[1:]))


def expand(site: Site) -> Tensor:
    x = site.tensor()
    known = site.known(1, "the new shape")
    if known is None:
        site.refuse("has no new shape")
    rows: list[Shape] = []
    for index, batch in enumerate(BATCHES):
        dims = [int(item) for item in known.under(index).reshape(-1)]
        if len(dims) > len(x.shape) + 1:
            site.refuse(f"{dims} would put dimensions before the batch")
        dims = [1] * (len(x.shape) + 1 - len(dims)) + dims
        if dims[0] not in (1, batch, site.model.batch):
            site.refuse("the batch cannot be repeated")
        rows.append(tuple(dims[1:]))
    if len(set(rows)) > 1 or min(rows[0], default=1) < 1:
        site.refuse(f"{list(rows[0])} is no shape of an image, or depends on the batch size")
    try:
        target = np.broadcast_shapes(x.shape, rows[0])
    except ValueError:
        site.refuse(f"{_images(x)} do not spread to {shape_text(rows[0])}")
    return broadcast(site, x, target)


# Parts


def part(site: Site, x: Tensor, axis: int, start: int, count: int) -> Tensor:
    """`count` positions of an axis of a row, from `start` on."""
    if count < 1 or start < 0 or start + count > x.shape[axis]:
        site.refuse(f"positions {start} to {start + count - 1} are not among the {x.shape[axis]} of an axis")
    if count == x.shape[axis]:
        return x
    row = (*x.shape[:axis], count, *x.shape[axis + 1 :])
    image = len(x.shape) == 3 and axis > 0 and x.is_plain
    if image:
        end = x.shape[axis] - start - count
        sides = (-start, 0, -end, 0) if axis == 1 else (0, -start, 0, -end)
        return Tensor(site.emit(Pad(sides), value_of(site, x, x.shape)), row)
    value, moved = axis_as_channels(site, x, axis)
    cut = Tensor(site.emit(SliceChannels(start, count), value), (count, *moved.shape[1:]))
    return back_from_front(site, cut, axis)


def split(site: Site) -> tuple[Operand, ...]:
    x = site.tensor()
    axis = site.axis(site.integer("axis"), len(x.shape) + 1) - 1
    extent, many = x.shape[axis], len(site.node.output)
    sizes = site.integers("split") if "split" in site.attributes else site.whole_numbers(1, "the sizes of the parts")
    if sizes is None:
        if site.has("num_outputs") and site.integer("num_outputs") != many:
            site.refuse(f"{site.integer('num_outputs')} are not the {many} outputs that it has", "num_outputs")
        if extent % many and not site.has("num_outputs"):
            site.refuse(f"{extent} do not split into {many} equal parts")
        largest = -(-extent // many)
        sizes = (*(largest,) * (many - 1), extent - largest * (many - 1))
    if len(sizes) != many or sum(sizes) != extent or min(sizes) < 1:
        site.refuse(f"parts of {list(sizes)} do not make up {extent}")
    starts = np.cumsum((0, *sizes))
    return tuple(part(site, x, axis, int(start), count) for start, count in zip(starts, sizes, strict=False))


def slice_(site: Site) -> Tensor:
    """Every step of an axis is one of `step` interleaved parts; the batch may only be taken whole."""
    x = site.tensor()
    rank = len(x.shape) + 1
    if site.opset < 10:
        starts, ends = site.integers("starts"), site.integers("ends")
        axes, steps = site.integers("axes"), None
    else:
        starts, ends = site.whole_numbers(1, "the starts"), site.whole_numbers(2, "the ends")
        axes, steps = site.whole_numbers(3, "the axes"), site.whole_numbers(4, "the steps")
    if starts is None or ends is None:
        site.refuse("has no starts or no ends")
    axes = tuple(range(len(starts))) if axes is None else axes
    steps = (1,) * len(starts) if steps is None else steps
    if not len(starts) == len(ends) == len(axes) == len(steps):
        site.refuse("its lists of starts, ends, axes and steps differ in length")
    seen: set[int] = set()
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        if not -rank <= axis < rank or axis % rank in seen:
            site.refuse(f"{list(axes)} are not different axes of a tensor of {rank} dimensions")
        seen.add(axis % rank)
        if axis % rank == 0:
            # A slice of the whole batch is what `x[:, 1:]` writes.
            if (start, step) != (0, 1) or end < (1 << 31) - 1:
                site.refuse("takes a part of the batch; images are independent of each other")
            continue
        x = _sliced(site, x, axis % rank - 1, start, end, step)
    return x


def _sliced(site: Site, x: Tensor, axis: int, start: int, end: int, step: int) -> Tensor:
    if step < 1:
        site.refuse(f"a step of {step} is not supported")
    extent = x.shape[axis]
    first, last, _ = slice(start, end, 1).indices(extent)
    if last <= first:
        site.refuse(f"positions {start} to {end} of an axis of {extent} are none")
    count = -(-(last - first) // step)
    if step == 1 or count == 1:
        return part(site, x, axis, first, count)
    # A stretch of whole steps that holds all of the positions; where the axis is too short it is made longer.
    begin = min(first, extent - count * step)
    if begin < 0:
        x, begin = _lengthened(site, x, axis, count * step - extent), 0
    whole, phase = part(site, x, axis, begin, count * step), first - begin
    row = whole.shape
    apart = whole.reshaped((*row[:axis], count, step, *row[axis + 1 :]))
    chosen = part(site, apart, axis + 1, phase, 1)
    return chosen.reshaped((*row[:axis], count, *row[axis + 1 :]))


def _lengthened(site: Site, x: Tensor, axis: int, more: int) -> Tensor:
    """Zeros behind the end of an axis."""
    value, moved = axis_as_channels(site, x, axis)
    extent = value.shape[1] + more
    longer = Tensor(site.emit(InsertChannels(0, extent), value), (extent, *moved.shape[1:]))
    return back_from_front(site, longer, axis)


def gather(site: Site) -> Tensor:
    """One position of an axis, or consecutive ones: what `x[:, i]` writes."""
    x = site.tensor()
    axis = site.axis(site.integer("axis"), len(x.shape) + 1) - 1
    array = site.constant(1, "the index")
    if array is None or array.dtype.kind not in "iu":
        site.refuse("has no integer index")
    extent = x.shape[axis]
    positions = [int(item) + (extent if item < 0 else 0) for item in array.reshape(-1)]
    consecutive = bool(positions) and positions == list(range(positions[0], positions[0] + len(positions)))
    if not consecutive or array.ndim > 1:
        site.refuse(f"only one index, or consecutive ones, are supported, not {array.tolist()!s:.60}")
    found = part(site, x, axis, positions[0], len(positions))
    return found if array.ndim else found.reshaped((*x.shape[:axis], *x.shape[axis + 1 :]))


def concat(site: Site) -> Tensor:
    parts: list[Tensor] = []
    for index, operand in enumerate(site.operands):
        if isinstance(operand, Known):
            site.refuse(
                f"operand {index + 1}, `{site.node.input[index]}`, is a constant; only computed ones are joined"
            )
        parts.append(site.tensor(index))
    rank = len(parts[0].shape) + 1
    axis = site.axis(site.integer("axis"), rank) - 1
    for other in parts[1:]:
        same = len(other.shape) == rank - 1 and all(
            a == b for i, (a, b) in enumerate(zip(other.shape, parts[0].shape, strict=True)) if i != axis
        )
        if not same:
            shapes = f"{shape_text(parts[0].shape)} and {shape_text(other.shape)}"
            site.refuse(f"{shapes} cannot be joined along axis {axis + 1}")
    if len(parts) == 1:
        return parts[0]
    moved = [axis_as_channels(site, x, axis)[1] for x in parts]
    rests = {x.row[1:] for x in moved}
    if len(rests) > 1:
        # Images of one pixel come as rows, too.
        moved = [settled(site, x, _as_image(x)) for x in moved]
    value = site.emit(Concat(), *(x.value for x in moved))
    total = sum(x.shape[axis] for x in parts)
    return back_from_front(site, Tensor(value, (total, *moved[0].shape[1:])), axis)


def _as_image(x: Tensor) -> Shape:
    return x.shape[0], 1, x.size // x.shape[0]


# Borders


def pad(site: Site) -> Tensor:
    x = site.tensor()
    rank = len(x.shape) + 1
    site.only("mode", "constant")
    if site.opset < 11:
        pads, value, axes = site.integers("pads"), site.number("value"), None
    else:
        pads, fill = site.whole_numbers(1, "the borders"), site.constant(2, "the value")
        value = 0.0 if fill is None else float(fill.reshape(-1)[0]) if fill.size == 1 else math.nan
        axes = site.whole_numbers(3, "the axes")
    axes = tuple(range(rank)) if axes is None else axes
    if pads is None or len(pads) != 2 * len(axes) or any(not -rank <= axis < rank for axis in axes):
        site.refuse(f"{list(pads or ())} are not two numbers for each of {len(axes)} axes")
    if not math.isfinite(value):
        site.refuse(f"the border's value is {value}", "value" if site.opset < 11 else None)
    sides = {axis % rank: (pads[i], pads[i + len(axes)]) for i, axis in enumerate(axes)}
    if len(sides) != len(axes):
        site.refuse(f"{list(axes)} names an axis twice")
    if any(sides.pop(0, (0, 0))):
        site.refuse("adds images to the batch")
    sides = {axis - 1: ends for axis, ends in sides.items() if any(ends)}
    if any(x.shape[axis] + sum(ends) < 1 for axis, ends in sides.items()):
        site.refuse(f"{list(pads)} leave nothing of N x {shape_text(x.shape)}")
    if len(x.shape) == 3 and set(sides) <= {1, 2} and sides:
        (top, bottom), (left, right) = sides.get(1, (0, 0)), sides.get(2, (0, 0))
        image = site.emit(Pad((top, left, bottom, right), value), image_of(site, x))
        return Tensor(image, image.shape[1:])
    for axis, ends in sides.items():
        x = _padded(site, x, axis, ends, value)
    return x


def _padded(site: Site, x: Tensor, axis: int, ends: tuple[int, int], value: float) -> Tensor:
    """One axis of a row; zeros among channels, any value in an image whose rows are that axis."""
    extent = x.shape[axis] + sum(ends)
    value_in, moved = axis_as_channels(site, x, axis)
    if min(ends) >= 0 and value == 0:
        result = site.emit(InsertChannels(ends[0], extent), value_in)
    else:
        image = value_of(site, moved, (1, moved.shape[0], moved.size // moved.shape[0]))
        result = site.emit(Pad((ends[0], 0, ends[1], 0), value), image)
    return back_from_front(site, Tensor(result, (extent, *moved.shape[1:])), axis)


# Pixels into channels and back


def depth_to_space(site: Site) -> Tensor:
    x = site.tensor()
    block, (c, height, width) = _block(site, x)
    mode = site.text("mode") if site.has("mode") else "DCR"
    if mode not in ("DCR", "CRD"):
        site.refuse(f"{mode!r} is unknown", "mode")
    if c % (block * block):
        site.refuse(f"{c} channels do not split into blocks of {block}x{block}", "blocksize")
    depth = c // (block * block)
    if mode == "DCR":
        apart, order = (block, block, depth, height, width), (2, 3, 0, 4, 1)
    else:
        apart, order = (depth, block, block, height, width), (0, 3, 1, 4, 2)
    return permuted(site, x.reshaped(apart), order).reshaped((depth, height * block, width * block))


def space_to_depth(site: Site) -> Tensor:
    x = site.tensor()
    block, (c, height, width) = _block(site, x)
    if height % block or width % block:
        site.refuse(f"images of {height}x{width} do not split into blocks of {block}x{block}", "blocksize")
    apart = x.reshaped((c, height // block, block, width // block, block))
    return permuted(site, apart, (2, 4, 0, 1, 3)).reshaped((c * block * block, height // block, width // block))


def _block(site: Site, x: Tensor) -> tuple[int, tuple[int, int, int]]:
    block = site.integer("blocksize")
    if len(x.shape) != 3 or block < 1:
        site.refuse(f"takes blocks of at least one pixel from images, not {block} from N x {shape_text(x.shape)}")
    return block, (x.shape[0], x.shape[1], x.shape[2])
