"""Kernels that make each element of a result by itself: a `source` for a few neighbouring channels, the epilogue."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from convc.codegen.cuda.kernel import MOST_BLOCKS, THREADS, KernelBuilder, Work, extents, map_layout
from convc.ir import ops
from convc.ir.graph import Value
from convc.ir.op import Op
from convc.ir.ops.pool import AvgPool, AvgPoolBackward, MaxPool, MaxPoolBackward
from convc.ir.window import Pair
from convc.passes.layout import ImageLayout, PlanarLayout


def map_kernel(
    k: KernelBuilder,
    files: str | Sequence[str],
    constants: Mapping[str, int | float | bool | str] | None = None,
    names: Mapping[str, Value] | None = None,
    text: str = "",
    widest: int = 8,
    work: Work | None = None,
) -> None:
    """Launch `map.cu` over all elements of the anchor's first result; the last of `files` has the `source`.

    Each thread makes up to `widest` neighbouring channels. `work` is that of this launch, by default of the kernel.
    Where nobody reads the result, as with the gradient of batch norm by the images of a net, nothing is launched.
    """
    if not k.finished:
        return
    result = k.anchor.results[0]
    image = map_layout(k, result)
    halves = any(k.element(v) in ("f16", "bf16") for v in k.stored)
    widths = [w for w in (8, 4, 2, 1) if image.stored % w == 0 and w <= (widest if halves else min(widest, 4))]
    width, rows = widths[0], "rows" if k.batched(result) else "1"
    per_row = image.pixels * image.stored // width

    def grid(count: int) -> tuple[int, int, int]:
        threads = per_row * (count if rows == "rows" else 1)
        return extents(min(-(-threads // THREADS), MOST_BLOCKS))

    sources = [files] if isinstance(files, str) else list(files)
    k.launch(
        [*sources, "map.cu"],
        grid,
        constants={
            "CHANNELS": image.channels,
            "STORED": image.stored,
            "PIXELS": image.pixels,
            "WIDTH": width,
            "ROWS": rows,
            **(constants or {}),
        },
        names=names,
        text=text,
        finishes=True,
        name="_".join(dict.fromkeys(node.op.name for node in k.kernel.nodes))[:60],
        work=work or Work(sum(node.cost.flops for node in k.kernel.nodes), k.bytes),
    )


def lower_elementwise(k: KernelBuilder) -> None:
    map_kernel(k, "identity.cuh")


def _window(op: MaxPool | AvgPool | MaxPoolBackward | AvgPoolBackward, size: Pair) -> dict[str, int | bool]:
    (oh, ow), (top, left, bottom, right) = op.window.output_size(size), op.padding
    return {
        "H": size[0],
        "W": size[1],
        "OH": oh,
        "OW": ow,
        "R": op.kernel[0],
        "S": op.kernel[1],
        "STRIDE_H": op.stride[0],
        "STRIDE_W": op.stride[1],
        "DILATION_H": op.dilation[0],
        "DILATION_W": op.dilation[1],
        "TOP": top,
        "LEFT": left,
        "BOTTOM": bottom,
        "RIGHT": right,
        "MAXIMUM": isinstance(op, (MaxPool, MaxPoolBackward)),
        "COUNT_PADDING": isinstance(op, (AvgPool, AvgPoolBackward)) and op.count_padding,
    }


def lower_pool(k: KernelBuilder) -> None:
    op, x = k.anchor.op, k.anchor.operands[0]
    assert isinstance(op, (MaxPool, AvgPool))
    map_kernel(k, ("pool_divisor.cuh", "pool.cuh"), _window(op, (x.shape[2], x.shape[3])), {"X": x})


def lower_pool_backward(k: KernelBuilder) -> None:
    op, (dy, *others) = k.anchor.op, k.anchor.operands
    assert isinstance(op, (MaxPoolBackward, AvgPoolBackward))
    dx = k.anchor.results[0]
    names = {"DY": dy, **({"X": others[0], "Y": others[1]} if others else {"X": dy, "Y": dy})}
    map_kernel(k, ("pool_divisor.cuh", "pool_backward.cuh"), _window(op, (dx.shape[2], dx.shape[3])), names)


def _where(k: KernelBuilder, x: Value) -> dict[str, int | bool]:
    """How an operand lies that is read number by number."""
    layout = k.layout(x)
    assert isinstance(layout, (ImageLayout, PlanarLayout)), f"{layout} has no rows"
    planar = isinstance(layout, PlanarLayout)
    pixels = layout.height * layout.width
    stored = layout.channels if isinstance(layout, PlanarLayout) else layout.stored
    return {"X_PLANAR": planar, "X_PIXELS": pixels, "X_STORED": stored, "X_SIZE": layout.size}


def lower_relayout(k: KernelBuilder) -> None:
    x = k.anchor.operands[0]
    same = "__device__ __forceinline__ int moved(int place) { return place; }"
    map_kernel(k, "relayout.cuh", _where(k, x), {"X": x}, same)


def lower_rearrange(k: KernelBuilder) -> None:
    """Unfolds the place in the result into the permuted axes, and folds those of the operand."""
    op, x = k.op(ops.Rearrange), k.anchor.operands[0]
    strides = [1] * len(op.view)
    for axis in reversed(range(len(op.view) - 1)):
        strides[axis] = strides[axis + 1] * op.view[axis + 1]
    lines = ["__device__ __forceinline__ int moved(int place) {", "  int source = 0;"]
    for axis in reversed(op.order):
        lines += [f"  source += place % {op.view[axis]} * {strides[axis]};", f"  place /= {op.view[axis]};"]
    map_kernel(k, "relayout.cuh", _where(k, x), {"X": x}, "\n".join([*lines, "  return source;", "}"]))


def lower_pad(k: KernelBuilder) -> None:
    op, x, y = k.op(ops.Pad), k.anchor.operands[0], k.anchor.results[0]
    constants = {"H": x.shape[2], "W": x.shape[3], "OW": y.shape[3], "TOP": op.sides[0], "LEFT": op.sides[1]}
    map_kernel(k, "pad.cuh", {**constants, "BORDER": float(op.value)}, {"X": x})


def _pieces(k: KernelBuilder, pieces: Sequence[tuple[int, int, Value, int]]) -> None:
    """A result put together from channels of other images: (first channel, count, image, its channel) each; zeros
    elsewhere."""
    lines = [
        "template <int V>",
        "__device__ __forceinline__ void source(PARAMETERS, int row, int pixel, int channel, float (&v)[V]) {",
        "#pragma unroll",
        "  for (int i = 0; i < V; ++i) v[i] = 0.0f;",
    ]
    images = [(first, count, x, start, k.image(x)) for first, count, x, start in pieces]
    # Vectors lie within one piece where all begin and end at multiples of their width.
    widest = next(
        w
        for w in (8, 4, 2, 1)
        if all(first % w == start % w == image.stored % w == 0 for first, _, _, start, image in images)
        and all(count % w == 0 or number == len(images) - 1 for number, (_, count, *_) in enumerate(images))
    )
    for first, count, x, start, image in images:
        place = f"{k.name(x)} + ((Index)row * PIXELS + pixel) * {image.stored} + channel - {first} + {start}"
        # What lies in padding is zeros, or replaced by zeros.
        lines.append(f"  if (channel >= {first} && channel < {first + count}) load<V>({place}, v);")
    map_kernel(k, (), text="\n".join([*lines, "}"]), widest=widest)


def lower_concat(k: KernelBuilder) -> None:
    pieces: list[tuple[int, int, Value, int]] = []
    first = 0
    for operand in k.anchor.operands:
        pieces.append((first, operand.shape[1], operand, 0))
        first += operand.shape[1]
    _pieces(k, pieces)


def lower_slice_channels(k: KernelBuilder) -> None:
    op = k.op(ops.SliceChannels)
    _pieces(k, [(0, op.count, k.anchor.operands[0], op.start)])


def lower_insert_channels(k: KernelBuilder) -> None:
    op, x = k.op(ops.InsertChannels), k.anchor.operands[0]
    _pieces(k, [(op.start, x.shape[1], x, 0)])


def lower_spread_maps(k: KernelBuilder) -> None:
    scales = isinstance(k.anchor.op, ops.ScaleMaps)
    maps = k.anchor.operands[1] if scales else k.anchor.operands[0]
    map_kernel(k, "maps_of_one_value.cuh", {"SCALES": scales}, {"X": k.anchor.operands[0], "MAPS": maps})


def lower_upsample(k: KernelBuilder) -> None:
    op: Op = k.anchor.op
    assert isinstance(op, (ops.Upsample, ops.UpsampleBackward))
    backward = isinstance(op, ops.UpsampleBackward)
    small = k.anchor.results[0] if backward else k.anchor.operands[0]
    constants = {"H": small.shape[2], "W": small.shape[3], "FACTOR": op.factor, "BILINEAR": op.mode == "bilinear"}
    map_kernel(k, "upsample.cuh", {**constants, "BACKWARD": backward}, {"X": k.anchor.operands[0]})


def lower_batch_norm(k: KernelBuilder) -> None:
    x, gamma, beta, mean, variance = k.anchor.operands
    names = {"X": x, "GAMMA": gamma, "BETA": beta, "MEAN": mean, "VARIANCE": variance}
    map_kernel(k, "batch_norm.cuh", {"EPS": k.op(ops.BatchNorm).eps}, names)


def lower_maxout(k: KernelBuilder) -> None:
    op, operands = k.anchor.op, k.anchor.operands
    assert isinstance(op, (ops.Maxout, ops.MaxoutBackward))
    backward = isinstance(op, ops.MaxoutBackward)
    dy, x, y = operands if backward else (operands[0],) * 3
    constants = {"GROUP": op.group, "BACKWARD": backward, "X_STORED": k.image(x).stored, "Y_STORED": k.image(y).stored}
    map_kernel(k, "maxout.cuh", constants, {"DY": dy, "X": x, "Y": y})
