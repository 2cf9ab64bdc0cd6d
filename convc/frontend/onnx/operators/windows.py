"""Convolutions and pools: everything that moves a window over an image."""

from __future__ import annotations

import math

import numpy as np

from convc.frontend.hints import shape_text
from convc.frontend.onnx.forms import canonical, image_of, settled, value_of
from convc.frontend.onnx.site import Site
from convc.frontend.onnx.values import Tensor
from convc.ir.graph import Value
from convc.ir.ops.conv import Conv2d, Conv2dBackwardData
from convc.ir.ops.elementwise import Add, Multiply
from convc.ir.ops.maps import SpatialSum
from convc.ir.ops.pool import AvgPool, MaxPool
from convc.ir.types import Shape
from convc.ir.window import Pair, Sides, Window

# Windows are written out tap by tap in machine code.
_MOST_TAPS = 1024


def _spatial(site: Site, x: Tensor) -> int:
    """The number of spatial dimensions, 1 or 2."""
    rank = len(x.shape) - 1
    if rank not in (1, 2):
        site.refuse(f"works in {rank} dimensions; only 1 and 2 are supported")
    return rank


def _pair(site: Site, name: str, rank: int, default: int = 1) -> Pair:
    """Strides or dilations; one dimension is a row."""
    values = site.integers(name)
    if values is None:
        return default, default
    if len(values) != rank or min(values) < 1:
        site.refuse(f"{list(values)} are not {rank} numbers of at least 1", name)
    return (1, values[0]) if rank == 1 else (values[0], values[1])


def _explicit(site: Site, rank: int) -> Sides:
    pads = site.integers("pads") or (0,) * (2 * rank)
    if len(pads) != 2 * rank or min(pads) < 0:
        site.refuse(f"{list(pads)} are not {2 * rank} numbers of at least 0", "pads")
    return (0, pads[0], 0, pads[1]) if rank == 1 else (pads[0], pads[1], pads[2], pads[3])


def _padding(site: Site, size: Pair, kernel: Pair, stride: Pair, dilation: Pair, rank: int) -> Sides:
    """(top, left, bottom, right) as `auto_pad` and `pads` say."""
    mode = site.text("auto_pad")
    if mode == "NOTSET":
        return _explicit(site, rank)
    if any(site.integers("pads") or ()):
        site.refuse(f"pads={list(site.integers('pads') or ())} is given beside it", "auto_pad")
    if mode == "VALID":
        return 0, 0, 0, 0
    if mode not in ("SAME_UPPER", "SAME_LOWER"):
        site.refuse(f"{mode!r} is unknown", "auto_pad")
    totals: list[int] = []
    for axis in (0, 1):
        outputs = -(-size[axis] // stride[axis])
        extent = dilation[axis] * (kernel[axis] - 1) + 1
        totals.append(max((outputs - 1) * stride[axis] + extent - size[axis], 0))
    return _shared_out(totals[0], totals[1], upper=mode == "SAME_UPPER")


def _shared_out(down: int, across: int, *, upper: bool) -> Sides:
    """Padding on both sides; an odd row is at the end (`upper`) or at the beginning."""
    before = [total // 2 if upper else total - total // 2 for total in (down, across)]
    return before[0], before[1], down - before[0], across - before[1]


def _filters(site: Site, rank: int) -> tuple[np.ndarray, Pair]:
    """Filters as (K, C/groups, R, S), and (R, S)."""
    known = site.floats(1, "the filters")
    if known is None:
        site.refuse("has no filters")
    w = known.under(0)
    if w.ndim != rank + 2 or 0 in w.shape:
        site.refuse(f"the filters are {shape_text(w.shape)}, which does not fit images of {rank} dimensions")
    given = site.integers("kernel_shape")
    if given is not None and given != w.shape[2:]:
        site.refuse(f"{list(given)} does not fit filters of {shape_text(w.shape)}", "kernel_shape")
    w = w if rank == 2 else w[:, :, None]
    return w, (w.shape[2], w.shape[3])


def _bias(site: Site, filters: int) -> Value | None:
    known = site.floats(2, "the bias")
    if known is None:
        return None
    if known.under(0).shape != (filters,):
        site.refuse(f"the bias is {shape_text(known.under(0).shape) or 'a number'}, but there are {filters} filters")
    return site.parameter("bias", known, known.under(0))


def _weights(site: Site, array: np.ndarray, fans: tuple[int, int] | None = None) -> Value:
    known = site.floats(1, "the filters")
    assert known is not None
    return site.parameter("weight", known, array, fans=fans)


def _result(value: Value, rank: int) -> Tensor:
    """The value with as many dimensions as the operator has."""
    row = value.shape[1:]
    return Tensor(value, row if rank == 2 else (row[0], row[2]))


def convolution(site: Site) -> Tensor:
    x = site.tensor()
    rank = _spatial(site, x)
    w, kernel = _filters(site, rank)
    stride, dilation = _pair(site, "strides", rank), _pair(site, "dilations", rank)
    image = image_of(site, x)
    padding = _padding(site, (image.shape[2], image.shape[3]), kernel, stride, dilation, rank)
    op = Conv2d(stride, padding, dilation, site.integer("group"))
    return _result(site.emit(op, image, _weights(site, w), _bias(site, w.shape[0])), rank)


def transposed_convolution(site: Site) -> Tensor:
    """The gradient of a convolution by its images. Filters are (C, K/groups, R, S) on both sides."""
    x = site.tensor()
    rank = _spatial(site, x)
    w, kernel = _filters(site, rank)
    stride, dilation, groups = _pair(site, "strides", rank), _pair(site, "dilations", rank), site.integer("group")
    image = image_of(site, x)
    size, extra = (image.shape[2], image.shape[3]), _output_padding(site, rank)
    extents = [dilation[axis] * (kernel[axis] - 1) + 1 for axis in (0, 1)]
    # What there is without padding; padding is taken off.
    full = [(size[axis] - 1) * stride[axis] + extents[axis] + extra[axis] for axis in (0, 1)]
    wanted = site.integers("output_shape")
    mode = site.text("auto_pad")
    if mode != "NOTSET" and any(site.integers("pads") or ()):
        site.refuse(f"pads={list(site.integers('pads') or ())} is given beside it", "auto_pad")
    if wanted is not None or mode in ("SAME_UPPER", "SAME_LOWER"):
        if wanted is not None and len(wanted) not in (rank, rank + 2):
            site.refuse(f"{list(wanted)} are not {rank} numbers", "output_shape")
        targets = [size[0] * stride[0], size[1] * stride[1]] if wanted is None else [1, *wanted][-2:]
        if min(targets) < 1:
            site.refuse(f"a result of {shape_text(targets)} holds nothing", "output_shape")
        if wanted is None and any(targets[axis] > full[axis] for axis in (0, 1)):
            site.refuse(
                f"a result of {shape_text(targets)} is larger than what there is, {shape_text(full)}", "auto_pad"
            )
        # A larger result than there is has nothing but the bias at its end.
        totals = [max(full[axis] - targets[axis], 0) for axis in (0, 1)]
        padding = _shared_out(totals[0], totals[1], upper=mode == "SAME_UPPER")
        full = [targets[axis] + totals[axis] for axis in (0, 1)]
    else:
        padding = (0, 0, 0, 0) if mode == "VALID" else _explicit(site, rank)
        if mode not in ("NOTSET", "VALID"):
            site.refuse(f"{mode!r} is unknown", "auto_pad")
    result = (full[0] - padding[0] - padding[2], full[1] - padding[1] - padding[3])
    if min(result) < 1:
        site.refuse(f"its result would have {shape_text(result)} pixels", "pads")
    op = Conv2dBackwardData(stride, padding, dilation, groups, result)
    area = kernel[0] * kernel[1]
    y = site.emit(op, image, _weights(site, w, (w.shape[0] // max(groups, 1) * area, w.shape[1] * groups * area)))
    bias = _bias(site, y.shape[1])
    return _result(y if bias is None else site.emit(Add(), y, bias), rank)


def _output_padding(site: Site, rank: int) -> Pair:
    values = site.integers("output_padding") or (0,) * rank
    if len(values) != rank or min(values) < 0:
        site.refuse(f"{list(values)} are not {rank} numbers of at least 0", "output_padding")
    return (0, values[0]) if rank == 1 else (values[0], values[1])


# Pools


def _window(site: Site, x: Tensor, rank: int) -> tuple[Value, Window]:
    kernel = site.integers("kernel_shape")
    if kernel is None or len(kernel) != rank or min(kernel) < 1:
        site.refuse(f"{list(kernel or ())} are not {rank} numbers of at least 1", "kernel_shape")
    pair = (1, kernel[0]) if rank == 1 else (kernel[0], kernel[1])
    stride = _pair(site, "strides", rank)
    dilation = _pair(site, "dilations", rank) if site.has("dilations") else (1, 1)
    image = image_of(site, x)
    size = (image.shape[2], image.shape[3])
    padding = _padding(site, size, pair, stride, dilation, rank)
    ceil = bool(site.integer("ceil_mode")) if site.has("ceil_mode") else False
    mode = site.text("auto_pad")
    if mode.startswith("SAME"):
        ceil = False  # the output size is that of `auto_pad`
        if dilation != (1, 1):
            site.refuse(f"programs differ on what {mode} is for windows with dilation", "auto_pad")
    window = Window(pair, stride, padding, dilation, ceil)
    if (
        ceil
        and mode == "VALID"
        and Window(pair, stride, padding, dilation).output_size(size) != window.output_size(size)
    ):
        site.refuse("programs differ on whether it has a part in VALID", "ceil_mode")
    if pair[0] * pair[1] > _MOST_TAPS and pair != size:
        site.refuse(f"a window of {shape_text(pair)} has more than {_MOST_TAPS} taps", "kernel_shape")
    if ceil:
        _check_ceil(site, window, size)
    return image, window


def _check_ceil(site: Site, window: Window, size: Pair) -> None:
    """Where the last window of `ceil_mode` lies beyond the image, versions of ONNX differ on whether it exists."""
    for axis in (0, 1):
        span = window.padded(size)[axis] - window.extent[axis]
        if span >= 0 and -(-span // window.stride[axis]) + 1 != window.output_size(size)[axis] and site.opset < 22:
            site.refuse("the last window would lie in the padding, where versions of ONNX differ", "ceil_mode")


def max_pool(site: Site) -> Tensor:
    x = site.tensor()
    rank = _spatial(site, x)
    site.only("storage_order", 0)
    image, window = _window(site, x, rank)
    size = (image.shape[2], image.shape[3])
    if window == Window(size, window.stride):
        return _result(_maximum(site, image), rank)
    op = MaxPool(window.kernel, window.stride, window.padding, window.ceil, dilation=window.dilation)
    return _result(site.emit(op, image), rank)


def average_pool(site: Site) -> Tensor:
    x = site.tensor()
    rank = _spatial(site, x)
    image, window = _window(site, x, rank)
    size = (image.shape[2], image.shape[3])
    if window == Window(size, window.stride):
        return _result(mean_of_maps(site, image), rank)
    counted = bool(site.integer("count_include_pad"))
    op = AvgPool(window.kernel, window.stride, window.padding, window.ceil, counted, dilation=window.dilation)
    return _result(site.emit(op, image), rank)


def global_average_pool(site: Site) -> Tensor:
    x = _maps(site)
    return Tensor(mean_of_maps(site, x.value), (x.shape[0], *(1,) * (len(x.shape) - 1)))


def global_max_pool(site: Site) -> Tensor:
    x = _maps(site)
    return Tensor(_maximum(site, x.value), (x.shape[0], *(1,) * (len(x.shape) - 1)))


def _maps(site: Site) -> Tensor:
    """The operand as an image, whatever the number of its spatial dimensions."""
    x = site.tensor()
    if len(x.shape) < 2:
        site.refuse("reads feature maps (N, C, …)")
    if len(x.shape) <= 3:
        return settled(site, x)
    return Tensor(value_of(site, x, canonical(x.shape)), x.shape)


def mean_of_maps(site: Site, image: Value) -> Value:
    """(N, C, H, W) -> (N, C, 1, 1). Small maps are one window; large ones are summed up row by row."""
    size = (image.shape[2], image.shape[3])
    if math.prod(size) <= _MOST_TAPS:
        return site.emit(AvgPool(size, size), image)
    share = site.per_element(np.asarray(1 / math.prod(size)), ())
    return site.emit(Multiply(), site.emit(SpatialSum(), image), share)


def _maximum(site: Site, image: Value) -> Value:
    """(N, C, H, W) -> (N, C, 1, 1). The maximum of a large map is that of its rows' maxima."""
    size = (image.shape[2], image.shape[3])
    if math.prod(size) <= _MOST_TAPS:
        return site.emit(MaxPool(size, size), image)
    if max(size) > _MOST_TAPS:
        site.refuse(f"a map of {shape_text(size)} is larger than {_MOST_TAPS} pixels on one side")
    rows = site.emit(MaxPool((1, size[1]), (1, size[1])), image)
    return site.emit(MaxPool((size[0], 1), (size[0], 1)), rows)


def maximum_of_rows(site: Site, x: Tensor, row: Shape) -> Value:
    """The maximum over H and W of a tensor taken as (C, H, W)."""
    return _maximum(site, value_of(site, x, row))
