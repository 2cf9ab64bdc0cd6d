"""Sums and moments over rows and pixels, for each channel: batch norm in training, and gradients of what was spread.

    channel_moments, channel_sums   each block takes a part of the pixels and some channels    SCRATCH [part][channel]
    the same kernel once more       the parts, as if they were pixels                          vectors
    map                             what needs the vectors, element by element                 images

Few pixels are one part, whose sums are the result. Which pixels form a part depends on the shapes alone, and parts are
added up in their order: no bit of a result depends on the GPU, nor on which of its blocks is done first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from convc.codegen.cuda.kernel import THREADS, KernelBuilder, Work
from convc.codegen.cuda.maps import map_kernel
from convc.ir import ops
from convc.ir.graph import Value
from convc.lazy import dataclass
from convc.passes.layout import ImageLayout, Layout, VectorLayout, WeightLayout

# Vectors of a pixel that neighbouring threads ask for: half a KiB; of a part, where few blocks share many parts.
_MOST_VECTORS = 32
_VECTORS_OF_PARTS = 8
# Parts are so many that their blocks fill any GPU, and so large that each thread has as many pixels.
_BLOCKS = 512
_PIXELS_OF_THREAD = 32
# Numbers that a thread asks for before it uses the first of them.
_IN_FLIGHT = 32
_MOST_THREADS = 1024
_ALL_PIXELS = "((Index)rows * PIXELS)"


def vector_width(k: KernelBuilder, stored: int) -> int:
    """How many neighbouring channels a thread takes: 16 bytes of the smallest elements among the kernel's tensors."""
    halves = any(k.element(value) in ("f16", "bf16") for value in k.stored)
    return next(width for width in (8, 4, 2, 1) if stored % width == 0 and (halves or width <= 4))


@dataclass(frozen=True)
class _Blocks:
    """How blocks lie over images (kernels/channel_block.cuh): `vectors` threads along the channels, of `width` channels
    each, and `columns` blocks; `parts` of `pixels` each along rows and pixels."""

    image: ImageLayout
    width: int
    vectors: int
    columns: int
    parts: int
    pixels: int

    @property
    def scratch_floats(self) -> int:
        """Numbers for one quantity in SCRATCH."""
        return self.parts * self.image.stored if self.parts > 1 else 0

    def grid(self, rows: int) -> tuple[int, int, int]:
        """Blocks for the parts that so many rows have."""
        return -(-rows * self.image.pixels // self.pixels), self.columns, 1

    def constants(self, tensors: int, vectors: int) -> dict[str, int]:
        """For blocks with so many vectors along the channels, whose threads read so many tensors at a time."""
        return {
            "CHANNELS": self.image.channels,
            "STORED": self.image.stored,
            "PIXELS": self.image.pixels,
            "V": self.width,
            "BLOCK_VECTORS": vectors,
            "PART_PIXELS": self.pixels,
            "UNROLL": min(_IN_FLIGHT // (self.width * tensors), 8),
        }


def _columns(image: ImageLayout, width: int, most: int) -> tuple[int, int]:
    """Blocks along the channels, alike, of at most so many vectors; and how many each has."""
    vectors = image.stored // width
    columns = -(-vectors // most)
    return columns, -(-vectors // columns)


def _blocks(k: KernelBuilder, x: Value) -> _Blocks:
    """For sums over all rows of x."""
    image = k.image(x)
    width = vector_width(k, image.stored)
    columns, vectors = _columns(image, width, _MOST_VECTORS)
    pixels, of_block = x.shape[0] * image.pixels, THREADS // vectors * _PIXELS_OF_THREAD
    # Counted again: equal parts may need fewer.
    part = -(-pixels // max(1, min(_BLOCKS // columns, -(-pixels // of_block))))
    return _Blocks(image, width, vectors, columns, -(-pixels // part), part)


def _lower_sums(
    k: KernelBuilder,
    x: Value,
    terms: str,
    deliver: str,
    names: Mapping[str, Value],
    reads: Sequence[Value],
    quantities: int = 1,
    constants: Mapping[str, float] | None = None,
) -> None:
    """Add up what `terms` makes of the pixels of x and of `reads`, and give it to `deliver`: files in kernels/."""
    blocks, name = _blocks(k, x), k.anchor.op.name
    numbers, scratch = x.type.size, 4 * quantities * blocks.scratch_floats
    shared = {"QUANTITIES": quantities, **(constants or {})}
    flops = (4 if quantities == 2 else 1) * numbers
    k.launch(
        ["channel_block.cuh", terms, "sums_to_parts.cuh" if scratch else deliver, "channel_sums.cu"],
        blocks.grid,
        constants={**blocks.constants(len(reads), blocks.vectors), "ALL_PIXELS": _ALL_PIXELS, **shared},
        names=names,
        name=f"{name}_sums",
        work=Work(flops, k.bytes_of(*reads) + (scratch or 4 * quantities * blocks.image.stored)),
    )
    if not scratch:
        return
    columns, vectors = _columns(blocks.image, blocks.width, _VECTORS_OF_PARTS)
    k.launch(
        ["channel_block.cuh", "terms_of_parts.cuh", deliver, "channel_sums.cu"],
        lambda rows: (1, columns, 1),
        constants={
            **blocks.constants(quantities, vectors),
            "PART_PIXELS": blocks.parts,
            "ALL_PIXELS": f"(({_ALL_PIXELS} + {blocks.pixels - 1}) / {blocks.pixels})",
            **shared,
        },
        names=names,
        name=f"{name}_of_parts",
        work=Work(scratch // 4, scratch + 4 * quantities * blocks.image.stored),
    )


def lower_channel_sum(k: KernelBuilder) -> None:
    x = k.anchor.operands[0]
    names = {"X": x, "RESULT": k.anchor.results[0]}
    _lower_sums(k, x, "terms_of_images.cuh", "channel_sum.cuh", names, [x])


def scratch_channel_sum(k: KernelBuilder) -> int:
    return 4 * _blocks(k, k.anchor.operands[0]).scratch_floats


def lower_spatial_sum(k: KernelBuilder) -> None:
    """A row is a part, whose sums are finished."""
    x = k.anchor.operands[0]
    image = k.image(x)
    width = vector_width(k, image.stored)
    columns, vectors = _columns(image, width, _MOST_VECTORS)
    blocks = _Blocks(image, width, vectors, columns, x.shape[0], image.pixels)
    # Whole warps, whose threads have four pixels each or more: no other block helps with a row.
    threads = min(_MOST_THREADS, -(-vectors * max(1, image.pixels // 4) // 32) * 32)
    k.launch(
        ["channel_block.cuh", "terms_of_images.cuh", "spatial_sum.cuh", "channel_sums.cu"],
        blocks.grid,
        threads=threads,
        constants={**blocks.constants(1, vectors), "QUANTITIES": 1, "ALL_PIXELS": _ALL_PIXELS},
        names={"X": x},
        finishes=True,
        name="_".join(dict.fromkeys(node.op.name for node in k.kernel.nodes))[:60],
        work=Work(sum(node.op.cost(*(o.type for o in node.operands)).flops for node in k.kernel.nodes), k.bytes),
    )


def _lower_moments(k: KernelBuilder, statistics: Sequence[Value]) -> None:
    """Mean, variance and unbiased variance of the first operand."""
    x = k.anchor.operands[0]
    blocks, name, scratch = _blocks(k, x), k.anchor.op.name, scratch_moments(k)
    names = {"X": x, **dict(zip(("MEAN", "VARIANCE", "UNBIASED"), statistics, strict=True))}
    files = ("channel_block.cuh", "moments.cuh", "channel_moments.cu")
    vector_bytes = k.bytes_of(*statistics)
    k.launch(
        files,
        blocks.grid,
        constants={**blocks.constants(1, blocks.vectors), "FROM_PARTS": "0", "TO_PARTS": "1" if scratch else "0"},
        names=names,
        name=f"{name}_moments",
        work=Work(4 * x.type.size, k.bytes_of(x) + (scratch or vector_bytes)),
    )
    if not scratch:
        return
    columns, vectors = _columns(blocks.image, blocks.width, _VECTORS_OF_PARTS)
    k.launch(
        files,
        lambda rows: (1, columns, 1),
        constants={**blocks.constants(2, vectors), "FROM_PARTS": "1", "TO_PARTS": "0"},
        names=names,
        name=f"{name}_of_parts",
        work=Work(7 * blocks.scratch_floats, scratch + vector_bytes),
    )


def scratch_moments(k: KernelBuilder) -> int:
    return 8 * _blocks(k, k.anchor.operands[0]).scratch_floats


def lower_batch_moments(k: KernelBuilder) -> None:
    _lower_moments(k, k.anchor.results)


def lower_batch_norm_training(k: KernelBuilder) -> None:
    """With the statistics known this is the same kernel as `batch_norm`, with the same bits."""
    x, gamma, beta = k.anchor.operands
    _, *statistics = k.anchor.results
    _lower_moments(k, statistics)
    names = {"X": x, "GAMMA": gamma, "BETA": beta, "MEAN": statistics[0], "VARIANCE": statistics[1]}
    _map_with_statistics(k, "batch_norm.cuh", k.op(ops.BatchNormTraining).eps, names, 3, [statistics[2]])


def lower_batch_norm_backward(k: KernelBuilder) -> None:
    dy, x, gamma, mean, variance = k.anchor.operands
    _, dgamma, dbeta = k.anchor.results
    eps = k.op(ops.BatchNormBackward).eps
    names = {"DY": dy, "X": x, "MEAN": mean, "VARIANCE": variance, "DGAMMA": dgamma, "DBETA": dbeta}
    _lower_sums(k, x, "terms_of_batch_norm.cuh", "batch_norm_gradients.cuh", names, [dy, x], 2, {"EPS": eps})
    _map_with_statistics(k, "batch_norm_backward.cuh", eps, {**names, "GAMMA": gamma}, 7, [])


def scratch_batch_norm_backward(k: KernelBuilder) -> int:
    return 8 * _blocks(k, k.anchor.operands[1]).scratch_floats


def _map_with_statistics(
    k: KernelBuilder, file: str, eps: float, names: Mapping[str, Value], flops: int, unread: Sequence[Value]
) -> None:
    """The last launch, of so many operations per element beside the chain's."""
    chain = sum(node.cost.flops for node in k.kernel.chain)
    work = Work(flops * k.anchor.results[0].type.size + chain, k.bytes - k.bytes_of(*unread))
    map_kernel(k, file, {"EPS": eps}, names, work=work)


# Sums of everything: each block leaves one number, and one block adds these up.


@dataclass(frozen=True)
class Parts:
    """Items that blocks add up: `per_row` of them in each of `rows` rows, `of_part` in each part."""

    per_row: int
    rows: int
    of_part: int

    @classmethod
    def of(cls, per_row: int, rows: int, smallest: int) -> Parts:
        """Parts of whole multiples of `smallest` items, at most as many as one block adds up at once."""
        most = 4 * THREADS
        return cls(per_row, rows, smallest * max(1, -(-per_row * rows // (smallest * most))))

    def count(self, rows: int) -> int:
        return -(-self.per_row * rows // self.of_part)

    @property
    def scratch_bytes(self) -> int:
        parts = self.count(self.rows)
        return 4 * parts if parts > 1 else 0


def launch_sum(
    k: KernelBuilder,
    files: Sequence[str],
    parts: Parts,
    *,
    constants: Mapping[str, int | float | bool | str],
    types: Mapping[str, str] | None = None,
    names: Mapping[str, Value] | None = None,
    text: str = "",
    divisor: str = "1.0f",
    flops: int = 0,
) -> None:
    """Add up what the last of `files` makes of the items of a part; the anchor's result is that by `divisor`."""
    result, name = k.anchor.results[0], k.anchor.op.name
    of_launch, scratch = parts.count, parts.scratch_bytes
    batched = "rows" if any(k.batched(value) for value in k.kernel.reads) else "1"
    whole = f"((Index){batched} * {parts.per_row})"
    shared = {"DIVISOR": divisor}
    result_names, result_types = {"RESULT": result}, {"Result": k.element(result)}
    k.launch(
        ["block_sum.cuh", *files],
        lambda rows: (of_launch(rows if batched == "rows" else 1), 1, 1),
        constants={**constants, **shared, "TO_PARTS": "1" if scratch else "0", "PART_ITEMS": parts.of_part},
        types={**result_types, **(types or {})},
        names={**result_names, **(names or {})},
        text=text,
        name=name,
        work=Work(flops, k.bytes_of(*k.kernel.reads) + (scratch or k.bytes_of(result))),
    )
    if not scratch:
        return
    k.launch(
        ["block_sum.cuh", "sum_of_parts.cu"],
        lambda rows: (1, 1, 1),
        constants={**shared, "TO_PARTS": "0", "PARTS": f"(({whole} + {parts.of_part - 1}) / {parts.of_part})"},
        types=result_types,
        names=result_names,
        name=f"{name}_of_parts",
        work=Work(scratch // 4, scratch + k.bytes_of(result)),
    )


def _real_numbers(layout: Layout) -> str:
    """The C++ condition under which the number at a place of a row is none of the padding."""
    if isinstance(layout, ImageLayout):
        return "true" if layout.stored == layout.channels else f"place % {layout.stored} < {layout.channels}"
    if isinstance(layout, VectorLayout):
        return f"place < {layout.channels}"
    if isinstance(layout, WeightLayout):
        rows = layout.rows
        own = f"place / {rows.size} % {layout.columns} < {layout.outputs // layout.groups}"
        return f"{own} && place % {rows.stored} < {rows.channels}"
    return "true"


def _sum_of(k: KernelBuilder) -> tuple[int, Parts]:
    """Numbers that a thread takes at a time, and the parts of all: an item is so many numbers."""
    x = k.anchor.operands[0]
    size = k.layout(x).size if x.shape else 1
    width = vector_width(k, size)
    return width, Parts.of(size // width, x.shape[0] if k.batched(x) else 1, THREADS * _PIXELS_OF_THREAD // 2)


def lower_sum(k: KernelBuilder) -> None:
    x = k.anchor.operands[0]
    width, parts = _sum_of(k)
    given = f"v[0] = {k.scalar(x)};" if not x.shape else f"load<V>({k.name(x)} + place, v);"
    text = "\n".join([
        f"__device__ __forceinline__ void numbers(PARAMETERS, Index place, float (&v)[V]) {{ {given} }}",
        f"__device__ __forceinline__ bool is_real(Index place) {{ return {_real_numbers(k.layout(x))}; }}",
    ])  # fmt: skip
    constants = {"V": width, "ROW_ITEMS": parts.per_row, "ROWS": "rows" if k.batched(x) else "1"}
    launch_sum(
        k, ["sum.cu"], parts, constants={**constants, "UNROLL": _IN_FLIGHT // width // 2}, text=text, flops=x.type.size
    )


def scratch_sum(k: KernelBuilder) -> int:
    return _sum_of(k)[1].scratch_bytes
