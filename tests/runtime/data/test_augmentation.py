"""A pipeline as a whole: sizes, refusals, reproducible batches from any number of threads, and what is stored."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from convc.ir.diagnostic import CompileError
from convc.runtime.data import BatchLoader, Split, load_dataset, memory
from convc.runtime.data.augmentation import Augmentation, AugmentedSplit
from convc.runtime.data.image_size import centre, centred, folder_size, stored_size
from tests.runtime.data.augment_helpers import augmented, run, split_of, steps
from tests.runtime.data.data_helpers import Load, diagnostic, pixels

EVERYTHING = "pad 2 -> crop 8 -> flip h -> rotate 20 -> shift 1 -> scale (0.8, 1.2) -> noise 0.05 -> cutout 3"


def epoch(source: AugmentedSplit, batch: int, number: int = 2, **options: int) -> np.ndarray:
    """All images of an epoch, in the order of the data set."""
    images = np.empty((len(source), *source.shape), np.float32)
    with BatchLoader(source, batch, seed=1, epoch=number, **options) as loader:
        for some, labels in loader:
            images[labels] = some
    return images


# Reproducible


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_images_depend_on_seed_epoch_and_place_alone(dtype: type) -> None:
    images = pixels(53, 3, 8, 8).astype(dtype)
    expected = run(EVERYTHING, images, seed=4, epoch=2)
    for threads in (1, 2, 5):
        for batch in (1, 7, 16, 53):
            for prefetch in (1, 4):
                found = epoch(augmented(EVERYTHING, images, 4, threads), batch, prefetch=prefetch)
                np.testing.assert_array_equal(found, expected, err_msg=f"{threads=} {batch=} {prefetch=}")


def test_large_images_are_changed_as_small_batches_are() -> None:
    """Some at a time and one by one."""
    text, images = "crop (150, 130) -> rotate 20 -> noise 0.1", pixels(5, 2, 160, 140)
    whole = run(text, images, 3, 1)
    for index in range(5):
        np.testing.assert_array_equal(run(text, images, 3, 1, np.array([index]))[0], whole[index])


def test_epochs_and_seeds_differ() -> None:
    images = pixels(40, 1, 8, 8)
    results = [run(EVERYTHING, images, seed, number) for seed in (0, 1, 1 << 40) for number in (0, 1)]
    for k, result in enumerate(results):
        for other in results[:k]:
            assert (result != other).mean() > 0.5


def test_resuming_within_an_epoch() -> None:
    source = augmented(EVERYTHING, pixels(30, 1, 8, 8), 9, 3)
    with BatchLoader(source, 4, 0, 5) as loader:
        whole = [(images.copy(), labels.copy()) for images, labels in loader]
    with BatchLoader(source, 4, 0, 5, start_batch=3) as loader:
        for (images, labels), (expected_images, expected_labels) in zip(loader, whole[3:], strict=True):
            np.testing.assert_array_equal(images, expected_images)
            np.testing.assert_array_equal(labels, expected_labels)


def test_the_data_set_stays_as_it_is() -> None:
    for images in (pixels(20, 1, 8, 8), pixels(20, 1, 8, 8).astype(np.float32)):
        before = images.copy()
        for text in (EVERYTHING, "noise 1", "cutout 4", "flip h -> noise 1", "rotate 5"):
            run(text, images)
            np.testing.assert_array_equal(images, before)


# Threads


def loader_threads() -> int:
    return sum(thread.name == "convc-loader" for thread in threading.enumerate())


def test_a_source_says_how_many_threads_it_takes() -> None:
    source = augmented("flip h", pixels(64, 1, 4, 4), threads=3)
    with BatchLoader(source, 2, 0, 0) as loader:
        next(loader)
        assert loader_threads() == 3
    assert loader_threads() == 0
    with BatchLoader(source, 32, 0, 0) as loader:  # no more threads than batches
        next(loader)
        assert loader_threads() <= 2
    with BatchLoader(source.split, 2, 0, 0) as loader:
        next(loader)
        assert loader_threads() == 1


@pytest.mark.parametrize("prefetch", [1, 2, 5])
def test_batches_stay_valid_with_several_threads(prefetch: int) -> None:
    source = augmented("crop 2", pixels(300, 1, 3, 3), threads=4)
    expected = run("crop 2", source.split.images)
    held: list[tuple[np.ndarray, np.ndarray]] = []
    with BatchLoader(source, 3, 0, 0, prefetch=prefetch) as loader:
        for batch in loader:
            held = [*held, batch][-prefetch:]
            time.sleep(0.0005)  # lets the threads run as far ahead as they may
            for images, labels in held:
                np.testing.assert_array_equal(images, expected[labels])


def test_several_threads_work_at_once() -> None:
    """Three batches are under way together: each waits for the others."""
    barrier = threading.Barrier(3)

    def meet(*_: object) -> None:
        barrier.wait(30)

    with BatchLoader(split_of(pixels(6, 1, 2, 2)), 2, 0, 0, threads=3, transform=meet) as loader:
        assert len(list(loader)) == 3
    assert loader_threads() == 0


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_what_a_thread_raises_comes_at_its_batch(threads: int) -> None:
    def fail_at_nine(images: np.ndarray, labels: np.ndarray, indices: np.ndarray, epoch: int) -> None:
        if indices[0] >= 8:
            raise KeyError(int(indices[0]))
        time.sleep(0.001)

    split = split_of(pixels(100, 1, 2, 2))
    loader = BatchLoader(split, 4, 0, 0, shuffle=False, threads=threads, transform=fail_at_nine)
    assert next(loader)[1].tolist() == [0, 1, 2, 3]
    assert next(loader)[1].tolist() == [4, 5, 6, 7]
    for _ in range(2):
        with pytest.raises(KeyError, match="8"):
            next(loader)
    loader.close()
    assert loader_threads() == 0


def test_a_filler_that_cannot_be_had() -> None:
    class Broken(AugmentedSplit):
        def filler(self) -> None:  # type: ignore[override]
            raise MemoryError("no scratch")

    source = Broken(split_of(pixels(9, 1, 2, 2)), Augmentation((), 0), 2)
    with pytest.raises(MemoryError, match="no scratch"), BatchLoader(source, 2, 0, 0) as loader:
        next(loader)
    assert loader_threads() == 0


# Sizes


def require(text: str, shape: tuple[int, int, int], wanted: tuple[int, int, int]) -> None:
    Augmentation(steps(text), 0).require("photos", shape, wanted)


@pytest.mark.parametrize(
    ("text", "shape", "wanted"),
    [
        ("pad 4 -> crop 32", (3, 32, 32), (3, 32, 32)),
        ("pad 2", (1, 28, 28), (1, 32, 32)),
        ("crop (3, 5) -> pad 1", (1, 28, 28), (1, 5, 7)),
        ("cutout 28 -> shift 27", (1, 28, 28), (1, 28, 28)),
        ("crop 1", (1, 1, 1), (1, 1, 1)),
    ],
)
def test_sizes_that_fit(text: str, shape: tuple[int, int, int], wanted: tuple[int, int, int]) -> None:
    require(text, shape, wanted)
    assert run(text, pixels(2, *shape)).shape == (2, *wanted)


@pytest.mark.parametrize(
    ("text", "shape", "code", "message"),
    [
        ("pad 4", (3, 32, 32), "shape-augment", "3x32x32 and leave `augment` as 3x40x40, the net's input is 3x32x32"),
        ("crop 30", (3, 40, 40), "shape-augment", "leave `augment` as 3x30x30"),
        ("pad 1 -> crop 35", (3, 32, 32), "shape-augment", "`crop 35` is larger than .* arrive there, 34x34"),
        ("crop (32, 33)", (3, 40, 32), "shape-augment", r"`crop \(32, 33\)` is larger than .* 40x32"),
        ("cutout (33, 2)", (3, 32, 32), "shape-augment", r"`cutout \(33, 2\)` is larger than"),
        ("shift (0, 32)", (3, 32, 32), "shape-augment", r"`shift \(0, 32\)` would move images of 32x32 out of sight"),
        ("pad 2147483647", (3, 32, 32), "shape-augment", "`pad 2147483647` makes images of 4294967326x4294967326"),
        ("flip h", (3, 28, 28), "data-shape", "images of photos are 3x28x28, the net's input is 3x32x32"),
        ("pad 2", (1, 28, 28), "data-shape", "images of photos are 1x28x28"),
    ],
)  # fmt: skip
def test_sizes_that_do_not_fit(text: str, shape: tuple[int, int, int], code: str, message: str) -> None:
    with pytest.raises(CompileError, match=message) as error:
        require(text, shape, (3, 32, 32))
    assert error.value.diagnostics[0].code == code


def test_the_way_to_the_step_is_shown() -> None:
    found = diagnostic(lambda: require("pad 4 -> flip h -> crop 50", (3, 32, 32), (3, 50, 50)))
    assert [note.message for note in found.notes] == [
        "sizes up to there: images 3x32x32 -> pad: 3x40x40 -> flip: 3x40x40"
    ]
    assert found.span is not None
    assert (found.span.line, found.span.column) == (2, 38)
    assert diagnostic(lambda: require("pad 4", (3, 32, 32), (3, 32, 32))).hint == "end with `crop 32`"
    assert diagnostic(lambda: require("pad 4", (3, 32, 32), (3, 32, 40))).hint == "end with `crop (32, 40)`"


def test_images_that_do_not_fit_into_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available_bytes", lambda: 1 << 26)
    require("rotate 3", (3, 100, 100), (3, 100, 100))
    assert diagnostic(lambda: require("rotate 3", (3, 4000, 4000), (3, 4000, 4000))).code == "data-memory"


# What is stored, and what is seen without augmentation


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("crop 224 -> flip h", (256, 256)),
        ("flip h -> rotate 5 -> crop (224, 112) -> pad 3", (256, 128)),
        ("crop 32", (37, 37)),
        ("pad 4 -> crop 224", (224, 200)),
        ("pad 4 -> flip h", (216, 192)),
        ("pad 100", (24, 200)),
        ("flip h -> noise 0.1", (224, 200)),
        ("", (224, 200)),
    ],
)
def test_stored_size(text: str, expected: tuple[int, int]) -> None:
    given = steps(text) if text else ()
    assert stored_size(given, (224, 200)) == expected


def test_centres() -> None:
    images = pixels(2, 3, 7, 6)
    np.testing.assert_array_equal(centre(images, (4, 3)), images[:, :, 1:5, 1:4])
    np.testing.assert_array_equal(centre(images, (7, 6)), images)
    np.testing.assert_array_equal(centre(images, (9, 2)), np.pad(images[..., 2:4], ((0, 0), (0, 0), (1, 1), (0, 0))))
    np.testing.assert_array_equal(centre(images[0, 0], (8, 7))[:7, :6], images[0, 0])
    split = split_of(images)
    assert centred(split, (7, 6)) is split
    smaller = centred(split, (4, 3))
    assert smaller.images.flags.c_contiguous
    np.testing.assert_array_equal(smaller.labels, split.labels)
    assert isinstance(smaller, Split)


def test_a_folder_is_read_at_the_size_that_the_steps_begin_with(tmp_path: Path, load: Load) -> None:
    for name, extent in (("a", (90, 60)), ("b", (64, 64))):
        (tmp_path / name).mkdir()
        Image.fromarray(pixels(*extent, 3)).save(tmp_path / name / "x.png")

    def read(text: str, options: dict[str, object], shape: tuple[int, int, int] = (3, 28, 28)) -> tuple[int, int, int]:
        found = load_dataset("folder", ".", options, base=tmp_path, input_shape=shape, seed=0, augment=steps(text))
        return found.shape

    assert read("crop 28 -> flip h", {}) == (3, 32, 32)
    assert read("pad 2 -> crop 28", {}) == (3, 28, 28)
    assert read("pad 2", {}) == (3, 24, 24)
    assert read("flip h", {}) == (3, 28, 28)
    assert read("crop 28", {"size": (40, 50)}) == (3, 40, 50)


def test_folder_size() -> None:
    from convc.frontend import parse_data

    folder, sized = parse_data('folder "x"'), parse_data('folder "x" size=64')
    crop = steps("crop 28")
    assert folder_size(folder, crop, (28, 28)) == (32, 32)
    assert folder_size(sized, crop, (28, 28)) == (64, 64)
    assert folder_size(parse_data("mnist"), crop, (28, 28)) == (28, 28)
    assert folder_size(None, crop, (28, 28)) == (28, 28)


def test_arrays_of_any_size_are_read_for_an_augmentation(tmp_path: Path, load: Load) -> None:
    np.savez(tmp_path / "a.npz", x_train=pixels(4, 12, 12, 3), y_train=np.arange(4))
    assert diagnostic(lambda: load("npz", "a.npz", input_shape=(3, 8, 8))).code == "data-shape"
    found = load_dataset("npz", "a.npz", {}, base=tmp_path, input_shape=(3, 8, 8), seed=0, augment=steps("crop 8"))
    assert found.shape == (3, 12, 12)


# As text


@pytest.mark.parametrize(
    "text",
    ["pad 4 -> crop 32 -> flip h", "crop (3, 4) -> shift (1, 0) -> rotate 7.5", "scale (0.8, 1.25)", "scale 2"],
)
def test_text_reads_back(text: str) -> None:
    assert str(Augmentation(steps(text), 0)) == text
