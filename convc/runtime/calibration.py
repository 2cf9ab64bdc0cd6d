"""Ranges of what a net computes, for programs in whole numbers of 8 bits.

The net is run in float32 on some images. Of every value that will be stored as q8, a sample of its numbers says which
range loses least: a narrower one has smaller steps, and cuts off what lies beyond it. The one with the smallest mean
square error is taken.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from convc.ir.diagnostic import fail, with_sources
from convc.ir.ops.quantize import on_grid
from convc.lazy import dataclass
from convc.passes.quantization import RANGE, Observe, Ranges, grid_of
from convc.runtime.build import build
from convc.runtime.configuration import named_layers, positive, seed_number
from convc.runtime.data import DataSet
from convc.runtime.data.image_size import centred
from convc.runtime.operands import as_images
from convc.runtime.program import Program
from convc.runtime.trained import evaluation_data, weights_file

if TYPE_CHECKING:
    from convc.frontend.net import Net

Weights = str | os.PathLike[str] | Mapping[str, ArrayLike]
# How many are looked at where nobody says another number.
_IMAGES = 512
_RANDOM = 16
_BATCH = 8
# Numbers of each value that are looked at, at most, and how many ranges are tried.
_SAMPLE = 1 << 15
_SHARES = np.geomspace(1.0, 0.2, 40)


@dataclass(frozen=True)
class Calibration:
    """`ranges` of a net's values, and in words what they were measured on."""

    ranges: Ranges
    images: str


def measured_ranges(
    net: Net,
    data: str | DataSet | None = None,
    *,
    weights: Weights | None = None,
    fp32: Sequence[str] = (),
    threads: int | None = None,
    target: str = "cpu",
) -> Calibration:
    """Ranges from training images, evenly spread over the part, of `data` (a data item, or what has been read of one;
    default: the file's); from random numbers where no data are named. Errors: those of `calibrate`, `data-…`."""
    if data is None and net.settings.data is None and net.input_shape != (1, 28, 28):
        drawn = np.random.Generator(np.random.Philox(net.settings.seed)).normal(size=(_RANDOM, *net.input_shape))
        images, words = drawn.astype(np.float32), f"{_RANDOM} images of random numbers, for want of data"
    else:
        dataset = data if isinstance(data, DataSet) else evaluation_data(net, data)[0]
        part = centred(dataset.train, net.input_shape[1:])
        places = np.linspace(0, len(part) - 1, min(_IMAGES, len(part))).astype(np.int64)
        images, words = part.batch(places)[0], f"{len(places)} training images of {dataset.name}"
    return Calibration(calibrate(net, images, weights=weights, fp32=fp32, threads=threads, target=target), words)


def calibrate(
    net: Net,
    images: ArrayLike,
    *,
    weights: Weights | None = None,
    fp32: Sequence[str] = (),
    batch: int | None = None,
    target: str = "cpu",
    threads: int | None = None,
    seed: int | None = None,
    check: Callable[[], None] = lambda: None,
) -> dict[str, tuple[float, float]]:
    """The ranges that `convc.compile(net, precision="int8", ranges=…)` takes, measured on images (n, C, H, W), float32.

    `weights` are those that will be used: a safetensors file, a run folder, or arrays by name; without them those that
    a fresh program has. `fp32` are patterns of layers that will stay in float32. `check` is called before every batch
    and may raise. Errors: `value-images`, `value-shape`, `checkpoint-…`, `value-range` for numbers that are not finite.
    """
    given = np.asarray(images)
    if given.ndim != 4 or not len(given):
        fail("value-images", f"ranges are measured on images (n, C, H, W), not on {list(given.shape)}")
    batch = min(_BATCH, len(given)) if batch is None else positive(batch, "batch")
    seed = net.settings.seed if seed is None else seed_number(seed)
    observe = Observe(tuple(fp32), named_layers(net.layers, fp32))
    with (
        with_sources(net.sources),
        build(
            net.graph(batch),
            mode="infer",
            batch=batch,
            target=target,
            seed=seed,
            threads=threads,
            start=lambda: dict(net.weights),
            most_instructions=net.limits.instructions,
            types=observe,
        ) as program,
    ):
        if isinstance(weights, Mapping):
            program.set_params(weights)
        elif weights is not None:
            program.load_params(weights_file(Path(weights)))
        return _ranges(program, given, check)


def _ranges(program: Program, images: np.ndarray, check: Callable[[], None]) -> dict[str, tuple[float, float]]:
    names = [name for name in program.graph.outputs if name.startswith(RANGE)]
    share = max(64, _SAMPLE // -(-len(images) // program.batch))
    samples: dict[str, list[np.ndarray]] = {name: [] for name in names}
    generator = np.random.Generator(np.random.Philox(program.seed))
    rows = as_images(images, program.image, len(images))
    for start in range(0, len(rows), program.batch):
        check()
        outputs = program.outputs(rows[start : start + program.batch])
        for name in names:
            numbers = outputs[name].reshape(-1)
            if not np.isfinite(numbers).all():
                message = f"{name.removeprefix(RANGE)} has numbers that are not finite, so that it has no range"
                fail("value-range", message, hint="are these the weights of a trained net?")
            # The extremes belong to every sample: what is tried first is the whole range.
            chosen = numbers if len(numbers) <= share else numbers[generator.integers(len(numbers), size=share)]
            samples[name].append(np.concatenate([chosen, [numbers.min(), numbers.max()]]))
    return {name.removeprefix(RANGE): best_range(np.concatenate(found)) for name, found in samples.items()}


def best_range(numbers: np.ndarray) -> tuple[float, float]:
    """The range for which 256 equal steps represent numbers with the smallest mean square error."""
    numbers = numbers.astype(np.float32)
    low, high = float(min(0.0, numbers.min())), float(max(0.0, numbers.max()))
    errors = [
        float(np.square(on_grid(numbers, grid_of(share * low, share * high)) - numbers, dtype=np.float64).mean())
        for share in _SHARES
    ]
    share = float(_SHARES[int(np.argmin(errors))])
    return share * low, share * high
