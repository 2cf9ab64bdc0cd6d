"""How each layer becomes ops: one function per layer, called by the elaborator through the table in `layers`."""

from __future__ import annotations

from collections.abc import Callable

from convc.frontend.emission import Loss, Site
from convc.frontend.hints import plural, shape_text
from convc.ir.diagnostic import Diagnostic, fail
from convc.ir.graph import Initializer, Value
from convc.ir.op import Op
from convc.ir.ops.activation import Elu, LeakyRelu, Maxout, Prelu, Relu, Relu6, Sigmoid, Softmax, Step, Tanh
from convc.ir.ops.binarize import Binarize
from convc.ir.ops.conv import Conv2d, Conv2dBackwardData
from convc.ir.ops.distance import Hinge, MeanSquaredError
from convc.ir.ops.dropconnect import DropConnect
from convc.ir.ops.elementwise import Add, Divide, Subtract
from convc.ir.ops.linear import Linear
from convc.ir.ops.local_response import LocalResponseNorm
from convc.ir.ops.loss import SoftmaxCrossEntropy, label_type
from convc.ir.ops.norm import BatchNorm
from convc.ir.ops.pool import AvgPool, MaxPool
from convc.ir.ops.random import Dropout, Noise
from convc.ir.ops.resample import Upsample
from convc.ir.ops.shape import Flatten
from convc.ir.philox import stream_key
from convc.ir.types import Shape, f32
from convc.ir.window import Pair, Sides, Window

EmitFunction = Callable[[Site], Value]
ZEROS = Initializer("zeros")


def input_layer(site: Site) -> Value:
    channels, height, width = shape = site.get("shape", tuple)
    emission = site.emission
    emission.check_size(shape, site.place("shape"), "the input")
    x = emission.graph.add_input("x", f32(emission.batch, channels, height, width))
    site.current = x
    for key, op in (("mean", Subtract()), ("std", Divide())):
        values = site.bound.values[key]
        if values is None:
            continue
        assert isinstance(values, tuple)
        if len(values) not in (1, channels):
            site.refuse(f"`{key}` has {plural(len(values), 'value')}, the input {plural(channels, 'channel')}", key)
        if max(map(abs, values)) > _LARGEST_UNIT:
            _warn_of_bytes(site, key, values)
        setattr(emission, f"input_{key}", values)
        x = site.emit(op, x, site.constant(values[0] if len(values) == 1 else values))
    return x


# A mean or standard deviation beyond this is meant for pixels from 0 to 255; pixels arrive as value/255.
_LARGEST_UNIT = 2.0


def _warn_of_bytes(site: Site, key: str, values: tuple[float, ...]) -> None:
    shown, scaled = (", ".join(f"{value:.4g}" for value in each) for each in (values, [v / 255 for v in values]))
    if len(values) > 1:
        shown, scaled = f"[{shown}]", f"[{scaled}]"
    message = f"{key}={shown} looks like one for pixels from 0 to 255, but they arrive as value/255, from 0 to 1"
    hint = f"{key}={scaled}; right as it is only for arrays of floats, which keep their unit"
    site.warn(Diagnostic("suspicious-mean", message, site.place(key), hint=hint, severity="warning"))


# Windows


def same_padding(size: Pair, kernel: Pair, stride: Pair, dilation: Pair) -> Sides:
    """ONNX's SAME_UPPER: OH = ceil(H/s), an odd row of padding goes to the bottom and right."""
    before: list[int] = []
    after: list[int] = []
    for axis in (0, 1):
        output = -(-size[axis] // stride[axis])
        extent = dilation[axis] * (kernel[axis] - 1) + 1
        total = max((output - 1) * stride[axis] + extent - size[axis], 0)
        before.append(total // 2)
        after.append(total - total // 2)
    return before[0], before[1], after[0], after[1]


def _padding(site: Site, size: Pair, kernel: Pair, stride: Pair, dilation: Pair = (1, 1)) -> Sides:
    padding = site.bound.values["pad"]
    if padding == "same":
        return same_padding(size, kernel, stride, dilation)
    assert isinstance(padding, tuple)
    return padding


def _check_window(site: Site, window: Window, size: Pair, what: str) -> None:
    """Refuse a window that does not fit; warn where real pixels at the border are never read."""
    if 0 in window.output_size(size):
        height, width = window.padded(size)
        missing = max(extent - real for extent, real in zip(window.extent, (height, width), strict=True))
        rows, columns = (min(k, real) for k, real in zip(window.kernel, (height, width), strict=True))
        pad = max(window.padding) + -(-missing // 2)
        fitting = shape_text((rows, columns)) if rows != columns else str(rows)
        site.refuse(
            f"{what} {shape_text(window.extent)} is larger than the padded input {height}x{width}",
            "k",
            "pad",
            "dil",
            hint=f"pad={pad}, or a {what} of at most {fitting}" if window.dilation == (1, 1) else f"pad={pad}",
        )
    # Where the stride is larger than the window, gaps are meant: the last one is no loss that deserves a warning.
    gaps = [max(0, s - e) for s, e in zip(window.stride, window.extent, strict=True)]
    rows, columns = (max(0, lost - gap) and lost for lost, gap in zip(window.unused(size), gaps, strict=True))
    lost = [plural(rows, "row")] * bool(rows) + [plural(columns, "column")] * bool(columns)
    if lost:
        output = shape_text(window.output_size(size))
        sides = " and ".join(["at the bottom"] * bool(rows) + ["at the right"] * bool(columns))
        message = (
            f"{site.title} never reads {' and '.join(lost)} {sides} of its {size[0]}x{size[1]} input (output {output})"
        )
        hint = "pad, or choose a size, so that (input + padding - window) is a multiple of the stride"
        site.warn(Diagnostic("shape-dropped", message, site.span, hint=hint, severity="warning"))


def conv(site: Site) -> Value:
    x = site.image()
    filters, groups = site.get("filters", int), site.get("groups", int)
    kernel, stride, dilation = (site.get(key, tuple) for key in ("k", "s", "dil"))
    channels, size = x.shape[1], (x.shape[2], x.shape[3])
    for count, what, key in ((channels, "input channel", "groups"), (filters, "filter", "filters")):
        if count % groups:
            site.refuse(f"{plural(count, what)} cannot be split into {groups} groups", "groups", key)
    padding = _padding(site, size, kernel, stride, dilation)
    op = Conv2d(stride, padding, dilation, groups, algorithm=site.get("algo", str))
    _check_window(site, op.window(kernel), size, "kernel")
    area = kernel[0] * kernel[1]
    fan_in = channels // groups * area
    initial = site.initializer(fan_in, filters * area)
    weight = site.parameter("weight", (filters, channels // groups, *kernel), initial)
    bias = site.parameter("bias", (filters,), ZEROS) if site.get("bias", bool) else None
    return site.emit(op, x, _used(site, weight), bias)


def _used(site: Site, weight: Value) -> Value:
    """The weights that a layer computes with."""
    return site.emit(Binarize(), weight) if site.get("bits", int) == 1 else weight


def deconv(site: Site) -> Value:
    """The gradient of a convolution by its images, which reads what the convolution would write."""
    x = site.image()
    _, channels, height, width = x.shape
    filters, groups = site.get("filters", int), site.get("groups", int)
    kernel, stride, dilation, out_pad = (site.get(key, tuple) for key in ("k", "s", "dil", "out_pad"))
    for count, what, key in ((channels, "input channel", "groups"), (filters, "filter", "filters")):
        if count % groups:
            site.refuse(f"{plural(count, what)} cannot be split into {groups} groups", "groups", key)
    if any(extra >= step for extra, step in zip(out_pad, stride, strict=True)):
        hint = f"out_pad of at most {shape_text([step - 1 for step in stride])}"
        message = f"out_pad {shape_text(out_pad)} has to be less than the stride {shape_text(stride)}"
        site.refuse(message, "out_pad", hint=hint)
    size = _transposed_size(site, (height, width))
    padding = site.bound.values["pad"]
    if padding == "same":
        if any(out_pad):
            site.refuse("`pad=same` makes the size a multiple of the stride; there is no room for out_pad", "out_pad")
        padding = same_padding(size, kernel, stride, dilation)
    assert isinstance(padding, tuple)
    area = kernel[0] * kernel[1]
    initial = site.initializer(channels // groups * area, filters * area)
    weight = site.parameter("weight", (channels, filters // groups, *kernel), initial)
    bias = site.parameter("bias", (filters,), ZEROS) if site.get("bias", bool) else None
    op = Conv2dBackwardData(stride, padding, dilation, groups, size, algorithm=site.get("algo", str))
    y = site.emit(op, x, weight)
    return y if bias is None else site.emit(Add(), y, bias)


def _transposed_size(site: Site, size: Pair) -> Pair:
    """(H − 1)·s − pads + dil·(k − 1) + 1 + out_pad; `pad=same` gives H·s."""
    kernel, stride, dilation, out_pad = (site.get(key, tuple) for key in ("k", "s", "dil", "out_pad"))
    padding = site.bound.values["pad"]
    if padding == "same":
        return size[0] * stride[0], size[1] * stride[1]
    assert isinstance(padding, tuple)
    rows, columns = (
        (size[axis] - 1) * stride[axis] - padding[axis] - padding[axis + 2] + dilation[axis] * (kernel[axis] - 1)
        + 1 + out_pad[axis]
        for axis in (0, 1)
    )  # fmt: skip
    if min(rows, columns) < 1:
        message = f"the result would be {shape_text((rows, columns))}: the padding is too large"
        fail("shape-deconv", message, site.place("pad"))
    return rows, columns


def upsample(site: Site) -> Value:
    return site.emit(Upsample(site.get("factor", int), site.get("mode", str)), site.image())


def pool(site: Site) -> Value:
    x = site.image()
    size = (x.shape[2], x.shape[3])
    average = site.title == "pool avg"
    kernel = site.bound.values["k"]
    if kernel == "global":
        for key in ("s", "pad", "round"):
            if key in site.bound.spans:
                site.refuse(f"a global pool reads the whole image; it has no `{key}`", key)
        kernel = size
    assert isinstance(kernel, tuple)
    stride = site.bound.values["s"] or kernel
    assert isinstance(stride, tuple)
    padding = _padding(site, size, kernel, stride)
    ceil = site.get("round", str) == "ceil"
    window = Window(kernel, stride, padding, ceil=ceil)
    _check_window(site, window, size, "window")
    if average:
        return site.emit(AvgPool(kernel, stride, padding, ceil, site.get("count_pad", bool)), x)
    return site.emit(MaxPool(kernel, stride, padding, ceil), x)


# Dense layers


def flatten(site: Site) -> Value:
    return site.x if site.x.type.rank == 2 else site.emit(Flatten(), site.x)


def fc(site: Site) -> Value:
    x = flatten(site)
    features, outputs = x.shape[1], site.get("outputs", int)
    weight = site.parameter("weight", (outputs, features), site.initializer(features, outputs))
    bias = site.parameter("bias", (outputs,), ZEROS) if site.get("bias", bool) else None
    weight, rate = _used(site, weight), site.number("dropconnect")
    if rate:
        weight = site.emit(DropConnect(rate, _stream(site, "dropconnect")), weight)
    return site.emit(Linear(), x, weight, bias)


def bn(site: Site) -> Value:
    x = site.x
    vector: Shape = (x.shape[1],)
    site.emission.normalised.append((x, site.span, site.warn))
    if site.get("affine", bool):
        gamma = site.parameter("gamma", vector, Initializer("const", 1.0))
        beta = site.parameter("beta", vector, ZEROS)
    else:
        gamma, beta = site.constant((1.0,) * vector[0]), site.constant((0.0,) * vector[0])
    mean = site.parameter("mean", vector, ZEROS, buffer=True)
    var = site.parameter("var", vector, Initializer("const", 1.0), buffer=True)
    op = BatchNorm(site.number("eps"), site.number("momentum"), site.modifiers.frozen)
    return site.emit(op, x, gamma, beta, mean, var)


def lrn(site: Site) -> Value:
    alpha, beta, k = (site.number(key) for key in ("alpha", "beta", "k"))
    return site.emit(LocalResponseNorm(site.get("size", int), alpha, beta, k), site.x)


def _stream(site: Site, use: str) -> int:
    """The random stream of a layer. Every further run of shared layers draws anew."""
    return stream_key(site.path if site.uses == 0 else f"{site.path}#{site.uses + 1}", use)


def dropout(site: Site) -> Value:
    return site.emit(Dropout(site.number("rate"), _stream(site, "dropout")), site.x)


def noise(site: Site) -> Value:
    return site.emit(Noise(site.number("std"), _stream(site, "noise")), site.x)


# Activations


def activation(op: type[Op]) -> EmitFunction:
    """The emitter of an activation without arguments."""

    def emit(site: Site) -> Value:
        return site.emit(op(), site.x)

    return emit


relu, relu6, sigmoid = activation(Relu), activation(Relu6), activation(Sigmoid)
tanh, step, softmax = activation(Tanh), activation(Step), activation(Softmax)


def linear(site: Site) -> Value:
    return site.x


def leaky(site: Site) -> Value:
    return site.emit(LeakyRelu(site.number("a")), site.x)


def elu(site: Site) -> Value:
    return site.emit(Elu(site.number("a")), site.x)


def prelu(site: Site) -> Value:
    slope = site.parameter("slope", (site.x.shape[1],), Initializer("const", 0.25))
    return site.emit(Prelu(), site.x, slope)


def maxout(site: Site) -> Value:
    group, channels = site.get("group", int), site.x.shape[1]
    if channels % group:
        site.refuse(f"{plural(channels, 'channel')} cannot be split into groups of {group}", "group")
    return site.emit(Maxout(group), site.x)


# Losses


def loss_softmax(site: Site) -> None:
    producer = site.x.producer
    if producer is not None and isinstance(producer.op, Flatten):
        producer = producer.operands[0].producer
    if producer is not None and isinstance(producer.op, Softmax):
        message = "`loss softmax` takes the soft-max itself; this net takes it twice"
        hint = f"leave out the `softmax` of line {producer.span.line}" if producer.span else None
        site.warn(Diagnostic("redundant-softmax", message, site.span, hint=hint, severity="warning"))
    _loss(site, SoftmaxCrossEntropy(site.number("smooth")))


def loss_hinge(site: Site) -> None:
    _loss(site, Hinge(site.number("margin")))


def loss_mse(site: Site) -> None:
    """Against the labels taken as one-hot."""
    _loss(site, MeanSquaredError())


def _loss(site: Site, op: Op) -> None:
    """A loss of the current value and the labels, which all losses of a net share."""
    scores = site.x
    if scores.type.rank == 4 and scores.shape[2:] == (1, 1):
        scores = site.emit(Flatten(), scores)  # one prediction per image, with labels (N,)
    emission = site.emission
    wanted = label_type(scores.type)
    if emission.labels is None:
        emission.labels = emission.graph.add_input("labels", wanted)
    elif emission.labels.shape != wanted.shape:
        site.refuse(f"this loss reads labels {wanted}, an earlier one {emission.labels.type}")
    value = site.emit(op, scores, emission.labels)
    emission.losses.append(Loss(value, scores, site.number("weight"), site.auxiliary, site.span))
