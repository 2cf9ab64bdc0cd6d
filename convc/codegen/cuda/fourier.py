"""Convolutions by Fourier transforms of tiles: when they apply, and the launches they consist of."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

from convc.codegen.cuda.architectures import WARP
from convc.codegen.cuda.codelet import function
from convc.codegen.cuda.convolution_plan import RESULTS, ConvolutionLaunch, ConvolutionPlan, divide_up
from convc.codegen.cuda.transform import (
    BLOCKS,
    FLOAT,
    MOST_PART_BYTES,
    Constants,
    Direction,
    Sides,
    in_a_row,
    round_up,
    source_of,
)
from convc.ir.window import Pair
from convc.lazy import dataclass
from convc.passes.algorithms.fourier import (
    Positions,
    complex_transform,
    complex_transform_back,
    real_transform,
    real_transform_back,
)

if TYPE_CHECKING:
    from convc.codegen.cuda.convolution_problem import ConvolutionProblem

# Spectra of images and of their results take so many bytes at most; where there are more, images come in chunks.
_MOST_SPECTRA_BYTES = 512 << 20
# Tiles of 32 x 32 take more registers than there are.
_FFT_SIZES = (8, 16)
_PRODUCT_THREADS = 256


def fft_algorithms(p: ConvolutionProblem) -> tuple[str, ...]:
    """The names of the Fourier transforms that apply, in any direction: `fft_16` and so on."""
    if (p.stride_h, p.stride_w, p.groups) != (1, 1, 1):
        return ()
    reach = max((p.r - 1) * p.dilation_h, (p.s - 1) * p.dilation_w)
    return tuple(f"fft_{size}" for size in _FFT_SIZES if reach < size)


@dataclass(frozen=True)
class _Lanes:
    """How channels are spread over the lanes of a warp, and over blocks: `channels` in a warp, beside which are as many
    tiles or filters as fit."""

    channels: int
    blocks: int

    @classmethod
    def of(cls, row: int) -> _Lanes:
        channels = min(WARP, 1 << (row - 1).bit_length())
        return cls(channels, divide_up(row, channels))

    @property
    def others(self) -> int:
        return WARP // self.channels

    def grid(self, count: int) -> tuple[int, int, int]:
        """Blocks for `count` tiles or filters."""
        return in_a_row(divide_up(count, self.others) * self.blocks)

    @property
    def constants(self) -> Constants:
        return {"LANE_CHANNELS": self.channels, "CHANNEL_BLOCKS": self.blocks}


class _Fourier:
    """What the launches of a convolution by Fourier transforms share. Places and rows are numbers of floats and of
    complex numbers."""

    def __init__(self, p: ConvolutionProblem, direction: Direction, name: str) -> None:
        self.p = p
        self.direction: Direction = direction
        self.sides = Sides.of(p, direction)
        self.size = int(name.removeprefix("fft_"))
        self.taps: tuple[Positions, Positions] = (
            tuple(r * p.dilation_h for r in range(p.r)),
            tuple(s * p.dilation_w for s in range(p.s)),
        )
        self.outputs = (self.size - self.taps[0][-1], self.size - self.taps[1][-1])
        self.entries = self.size * self.size // 2
        self.threads = self.size // 2 * WARP
        # Rows of spectra: channels of images, of results, and of filters. Vectors of two complex numbers are aligned.
        self.row, self.result_row = round_up(self.sides.stored, 4), round_up(self.sides.results_stored, 4)
        self.filter_row = round_up(p.cg_stored, 4)
        # All spectra of a chunk of tiles.
        self.tiles = self.sides.tiles(self.outputs)
        of_tile = self.bytes_of(self.row + self.result_row)
        self.chunks = divide_up(p.batch * self.tiles * of_tile, _MOST_SPECTRA_BYTES)
        self.chunk_tiles = divide_up(p.batch * self.tiles, self.chunks)

    def bytes_of(self, numbers: int) -> int:
        """Of so many numbers in each entry of spectra."""
        return 2 * FLOAT * self.entries * numbers

    def floats_of(self, numbers: int) -> int:
        return self.bytes_of(numbers) // FLOAT

    @property
    def flops(self) -> int:
        """Of the products of all spectra of a chunk: four of real numbers, with their sums, for a complex one."""
        return 8 * self.entries * self.chunk_tiles * self.p.c * self.p.k

    def tiles_in(self, chunk: int, rows: int) -> int:
        return max(0, min(self.chunk_tiles, rows * self.tiles - chunk * self.chunk_tiles))

    def tile_constants(self, chunk: int) -> Constants:
        return {
            "SIZE": self.size,
            "OUTPUTS_H": self.outputs[0],
            "OUTPUTS_W": self.outputs[1],
            "TILES_H": divide_up(self.sides.result[0], self.outputs[0]),
            "TILES_W": divide_up(self.sides.result[1], self.outputs[1]),
            "CHUNK": chunk,
            "CHUNK_TILES": self.chunk_tiles,
        }

    @property
    def kept(self) -> tuple[Positions, Positions]:
        """Rows and columns of a tile that are outputs."""
        return tuple(range(self.outputs[0])), tuple(range(self.outputs[1]))

    def transforms(self, rows: Positions, columns: Positions, sign: Literal[-1, 1]) -> str:
        """Codelets from numbers at these rows and columns to spectra."""
        return "\n".join(
            [
                function("transform_row", real_transform(self.size, columns, sign)),
                function("transform_real_column", real_transform(self.size, rows, sign)),
                function("transform_complex_column", complex_transform(self.size, rows, sign)),
            ]
        )

    def transforms_back(self, rows: Positions, columns: Positions) -> str:
        """Codelets from spectra to numbers at these rows and columns."""
        return "\n".join(
            [
                function("transform_row", real_transform_back(self.size, columns)),
                function("transform_real_column", real_transform_back(self.size, rows)),
                function("transform_complex_column", complex_transform_back(self.size, rows)),
            ]
        )

    def images(self, chunk: int, place: int) -> ConvolutionLaunch:
        """Spectra of the images that are read."""
        source, given = source_of(self.direction), "y" if self.direction == "backward_data" else "x"
        sides, everything = self.sides, tuple(range(self.size))
        image: Constants = {
            "GIVEN_H": self.size,
            "GIVEN_W": self.size,
            "IMAGE_H": sides.image[0],
            "IMAGE_W": sides.image[1],
            "INNER_STORED": sides.stored,
            "BEFORE_H": sides.before[0],
            "BEFORE_W": sides.before[1],
        }
        return self._spectra(
            chunk, image, lambda: f"{source}\n{self.transforms(everything, everything, -1)}", self.row, place, given
        )

    def cotangents(self, chunk: int, place: int) -> ConvolutionLaunch:
        """Conjugated spectra of the cotangents of results."""
        sides = self.sides
        image: Constants = {
            "GIVEN_H": self.outputs[0],
            "GIVEN_W": self.outputs[1],
            "IMAGE_H": sides.result[0],
            "IMAGE_W": sides.result[1],
            "INNER_STORED": sides.results_stored,
            "BEFORE_H": 0,
            "BEFORE_W": 0,
        }
        source = source_of("backward_data")
        return self._spectra(
            chunk, image, lambda: f"{source}\n{self.transforms(*self.kept, 1)}", self.result_row, place, "y"
        )

    def _spectra(
        self, chunk: int, image: Constants, write: Callable[[], str], row: int, place: int, given: str
    ) -> ConvolutionLaunch:
        """Of a chunk of the tiles of `given`, x or y."""
        lanes = _Lanes.of(row)
        return ConvolutionLaunch(
            files=("fft_spectra.cu",),
            constants={
                **self.tile_constants(chunk),
                **image,
                **lanes.constants,
                "SPECTRUM_ROW": row,
                "SPECTRA_PLACE": place,
            },
            write=write,
            grid=lambda rows: lanes.grid(self.tiles_in(chunk, rows)),
            threads=self.threads,
            tensors={given: 1 / self.chunks},
            scratch_moved=self.bytes_of(self.chunk_tiles * row),
        )

    def filters(self, turned: bool, place: int) -> ConvolutionLaunch:
        lanes = _Lanes.of(self.filter_row)
        return ConvolutionLaunch(
            files=("fft_filters.cu",),
            constants={
                "SIZE": self.size,
                **lanes.constants,
                "FILTER_ROW": self.filter_row,
                "FILTER_PLACE": place,
                "TURNED": int(turned),
            },
            write=lambda: self.transforms(*self.taps, 1),
            grid=lambda rows: lanes.grid(self.p.kg_stored),
            threads=self.threads,
            tensors={"w": 1.0},
            scratch_moved=self.bytes_of(self.p.kg_stored * self.filter_row),
        )

    def results(self, chunk: int, place: int) -> ConvolutionLaunch:
        lanes = _Lanes.of(self.result_row)
        sides = self.sides
        return ConvolutionLaunch(
            files=("fft_results.cu",),
            constants={
                **self.tile_constants(chunk),
                "RESULT_H": sides.result[0],
                "RESULT_W": sides.result[1],
                "RESULT_STORED": sides.results_stored,
                **lanes.constants,
                "PRODUCT_ROW": self.result_row,
                "PRODUCT_PLACE": place,
            },
            write=lambda: self.transforms_back(*self.kept),
            grid=lambda rows: lanes.grid(self.tiles_in(chunk, rows)),
            threads=self.threads,
            finishes=True,
            tensors={RESULTS[self.direction]: 1 / self.chunks},
            scratch_moved=self.bytes_of(self.chunk_tiles * self.result_row),
        )

    def filter_gradients(self, parts: int, place: int) -> ConvolutionLaunch:
        lanes = _Lanes.of(self.filter_row)
        return ConvolutionLaunch(
            files=("fft_filter_gradients.cu",),
            constants={
                "SIZE": self.size,
                **lanes.constants,
                "SUM_ROW": self.filter_row,
                "SUM_PLACE": place,
                "PARTS": parts,
            },
            write=lambda: self.transforms_back(*self.taps),
            grid=lambda rows: lanes.grid(self.p.kg_stored),
            threads=self.threads,
            tensors={"w": 1.0},
            scratch_moved=self.bytes_of(parts * self.p.kg_stored * self.filter_row),
        )


@dataclass(frozen=True)
class _Operand:
    """An operand of products of spectra: from float number `place` on, rows of `row` complex numbers, `count` rows (or
    an expression) that are the products' rows or columns if it is `transposed`, else numbers in a row."""

    place: int
    entry: int
    row: int
    count: int | str
    transposed: bool

    def constants(self, name: str) -> Constants:
        return {
            f"{name}_PLACE": self.place,
            f"{name}_ENTRY": self.entry,
            f"{name}_ROW": self.row,
            f"{name}_COUNT": str(self.count),
            f"{name}_TRANSPOSED": int(self.transposed),
        }


def _product_block(rows: int, columns: int) -> Pair:
    return 128 if rows > 96 else 64, 64 if columns > 32 else 32


def fft(p: ConvolutionProblem, direction: Literal["forward", "backward_data"], name: str) -> ConvolutionPlan:
    """A convolution, or its gradient by the images, by the algorithm `name`, one of `fft_algorithms`."""
    f = _Fourier(p, direction, name)
    turned = direction == "backward_data"
    images = f.floats_of(p.kg_stored * f.filter_row)
    products = images + f.floats_of(f.chunk_tiles * f.row)
    end = products + f.floats_of(f.chunk_tiles * f.result_row)
    columns = p.cg_stored if turned else p.kg_stored
    block_m, block_n = _product_block(f.chunk_tiles, columns)
    blocks_n = divide_up(f.result_row, block_n)
    launches = [f.filters(turned, 0)]
    for chunk in range(f.chunks):
        tiles = f"min(CHUNK_TILES, rows * {f.tiles} - CHUNK * CHUNK_TILES)"
        left = _Operand(images, f.chunk_tiles * f.row, f.row, tiles, transposed=True)
        # Filters lie by their number, then by their channel: forward the latter are the terms of sums.
        filter_count = f.filter_row if turned else p.kg_stored
        right = _Operand(0, p.kg_stored * f.filter_row, f.filter_row, filter_count, transposed=not turned)
        launches.append(f.images(chunk, images))
        launches.append(
            ConvolutionLaunch(
                files=("fft_product.cu",),
                constants={
                    **f.tile_constants(chunk),
                    **left.constants("LEFT"),
                    **right.constants("RIGHT"),
                    "RESULT_PLACE": products,
                    "RESULT_ENTRY": f.chunk_tiles * f.result_row,
                    "RESULT_ROW": f.result_row,
                    "RESULT_COUNT": tiles,
                    "PART_STRIDE": 0,
                    "D_BEGIN": "0",
                    "D_END": str(p.kg_stored if turned else f.filter_row),
                    "BLOCK_M": block_m,
                    "BLOCK_N": block_n,
                    "BLOCKS_N": blocks_n,
                },
                grid=lambda rows, chunk=chunk: (
                    max(1, divide_up(f.tiles_in(chunk, rows), block_m)) * blocks_n,
                    f.entries,
                    1,
                ),
                threads=_PRODUCT_THREADS,
                flops=f.flops,
                scratch_moved=FLOAT * end,
            )
        )
        launches.append(f.results(chunk, products))
    return ConvolutionPlan(tuple(launches), FLOAT * end)


def fft_gradient(p: ConvolutionProblem, name: str) -> ConvolutionPlan:
    """The gradient by the filters, by the algorithm `name`, one of `fft_algorithms`."""
    f = _Fourier(p, "backward_weights", name)
    of_part = p.kg_stored * f.filter_row * f.entries  # complex numbers
    block_m, block_n = _product_block(p.kg_stored, f.filter_row)
    blocks_m, blocks_n = divide_up(p.kg_stored, block_m), divide_up(f.filter_row, block_n)
    # Parts of a chunk; a term of 64 tiles is worth the traffic of its sums.
    blocks = blocks_m * blocks_n * f.entries
    fitting = MOST_PART_BYTES // (2 * FLOAT * of_part * f.chunks)
    parts = max(1, min(2 * BLOCKS // blocks, f.chunk_tiles // 64, fitting))
    cotangents = 2 * of_part * parts * f.chunks
    images = cotangents + f.floats_of(f.chunk_tiles * f.result_row)
    end = images + f.floats_of(f.chunk_tiles * f.row)
    of_chunk = divide_up(f.chunk_tiles, parts)
    launches: list[ConvolutionLaunch] = []
    for chunk in range(f.chunks):
        tiles = f"min(CHUNK_TILES, rows * {f.tiles} - CHUNK * CHUNK_TILES)"
        left = _Operand(cotangents, f.chunk_tiles * f.result_row, f.result_row, f.result_row, transposed=False)
        right = _Operand(images, f.chunk_tiles * f.row, f.row, f.row, transposed=False)
        launches += [f.cotangents(chunk, cotangents), f.images(chunk, images)]
        launches.append(
            ConvolutionLaunch(
                files=("fft_product.cu",),
                constants={
                    **f.tile_constants(chunk),
                    **left.constants("LEFT"),
                    **right.constants("RIGHT"),
                    "RESULT_PLACE": 2 * of_part * parts * chunk,
                    "RESULT_ENTRY": p.kg_stored * f.filter_row,
                    "RESULT_ROW": f.filter_row,
                    "RESULT_COUNT": str(p.kg_stored),
                    "PART_STRIDE": of_part,
                    "D_BEGIN": f"((int)blockIdx.z * {of_chunk})",
                    "D_END": f"min({tiles}, ((int)blockIdx.z + 1) * {of_chunk})",
                    "BLOCK_M": block_m,
                    "BLOCK_N": block_n,
                    "BLOCKS_N": blocks_n,
                },
                grid=lambda rows: (blocks_m * blocks_n, f.entries, parts),
                threads=_PRODUCT_THREADS,
                flops=f.flops,
                scratch_moved=FLOAT * (end - cotangents + 2 * of_part * parts),
            )
        )
    launches.append(f.filter_gradients(parts * f.chunks, 0))
    return ConvolutionPlan(tuple(launches), FLOAT * end)
