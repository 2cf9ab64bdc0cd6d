"""The loader: order, resumption, buffers, transforms, and how its thread ends."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable

import numpy as np
import pytest

from convc.runtime.data import BatchLoader, Split, epoch_order


def split_of(count: int = 23) -> Split:
    """Image i has all its pixels, and its label, equal to i."""
    numbers = np.arange(count)
    return Split(
        np.broadcast_to(numbers[:, None, None, None], (count, 1, 2, 2)).astype(np.uint8).copy(),
        numbers.astype(np.int32),
    )


def collect(loader: BatchLoader) -> list[tuple[np.ndarray, np.ndarray]]:
    with loader:
        return [(images.copy(), labels.copy()) for images, labels in loader]


def loader_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "convc-loader"]


def wait_until(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 10
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.005)
    return condition()


def test_an_epoch_delivers_every_image_once() -> None:
    batches = collect(BatchLoader(split_of(), 5, seed=1, epoch=0))
    assert [len(labels) for _, labels in batches] == [5, 5, 5, 5, 3]
    labels = np.concatenate([labels for _, labels in batches])
    assert sorted(labels.tolist()) == list(range(23))
    np.testing.assert_array_equal(labels, epoch_order(23, 1, 0))
    for images, labels in batches:
        assert images.dtype == np.float32
        assert labels.dtype == np.int32
        np.testing.assert_array_equal(images[:, 0, 1, 1], labels.astype(np.float32) / np.float32(255))


def test_order_depends_on_seed_and_epoch_alone() -> None:
    def order(seed: int, epoch: int) -> list[int]:
        batches = collect(BatchLoader(split_of(), 4, seed, epoch, prefetch=2))
        return np.concatenate([labels for _, labels in batches]).tolist()

    assert order(1, 2) == order(1, 2)
    orders = [order(seed, epoch) for seed in (0, 1, -1, 1 << 70) for epoch in (0, 1, 2)]
    assert len({tuple(item) for item in orders}) >= 9
    plain = collect(BatchLoader(split_of(), 4, 1, 2, shuffle=False))
    assert np.concatenate([labels for _, labels in plain]).tolist() == list(range(23))


def test_order_is_pinned() -> None:
    """These numbers may never change: runs are resumed under later versions of this program and of NumPy."""
    assert epoch_order(10, seed=7, epoch=3).tolist() == PINNED
    assert sorted(epoch_order(1000, 0, 0).tolist()) == list(range(1000))
    assert epoch_order(0, 0, 0).tolist() == []


PINNED = [6, 4, 8, 9, 0, 2, 5, 3, 1, 7]


@pytest.mark.parametrize("start", range(6))
def test_resuming_is_exact(start: int) -> None:
    whole = collect(BatchLoader(split_of(), 5, seed=3, epoch=4))
    loader = BatchLoader(split_of(), 5, seed=3, epoch=4, start_batch=start)
    assert loader.position == start
    assert len(loader) == 5 - start
    rest = collect(loader)
    assert len(rest) == 5 - start
    for (images, labels), (expected_images, expected_labels) in zip(rest, whole[start:], strict=True):
        np.testing.assert_array_equal(images, expected_images)
        np.testing.assert_array_equal(labels, expected_labels)


def test_position_counts_fetched_batches() -> None:
    with BatchLoader(split_of(), 5, 0, 0) as loader:
        next(loader)
        next(loader)
        assert loader.position == 2


@pytest.mark.parametrize("prefetch", [1, 2, 3])
def test_batches_stay_valid_for_prefetch_fetches(prefetch: int) -> None:
    held: list[tuple[np.ndarray, np.ndarray]] = []
    order = epoch_order(200, 0, 0)
    with BatchLoader(split_of(200), 2, 0, 0, prefetch=prefetch) as loader:
        for number, batch in enumerate(loader):
            held.append(batch)
            time.sleep(0.0005)  # lets the thread run as far ahead as it may
            for age in range(min(prefetch, number + 1)):
                expected = order[2 * (number - age) : 2 * (number - age) + 2]
                np.testing.assert_array_equal(held[number - age][1], expected)
        distinct = {images.__array_interface__["data"][0] for images, _ in held}
    assert len(distinct) <= 2 * prefetch


def test_one_batch_larger_than_the_split() -> None:
    ((images, labels),) = collect(BatchLoader(split_of(3), 100, 0, 0))
    assert images.shape == (3, 1, 2, 2)
    assert images.flags.c_contiguous
    assert sorted(labels.tolist()) == [0, 1, 2]


def test_float_images() -> None:
    values = np.linspace(-5, 5, 12, dtype=np.float32).reshape(6, 2, 1, 1)
    batches = collect(BatchLoader(Split(values, np.zeros(6, np.int32)), 4, 0, 0, shuffle=False))
    np.testing.assert_array_equal(np.concatenate([images for images, _ in batches]), values)


@pytest.mark.parametrize(("batch", "start", "prefetch"), [(0, 0, 4), (5, 6, 4), (5, -1, 4), (5, 0, 0)])
def test_arguments_out_of_range(batch: int, start: int, prefetch: int) -> None:
    with pytest.raises(ValueError, match="out of range"):
        BatchLoader(split_of(), batch, 0, 0, start_batch=start, prefetch=prefetch)


def test_transform_in_place_and_by_result() -> None:
    seen: list[tuple[list[int], int]] = []

    def negate(images: np.ndarray, labels: np.ndarray, indices: np.ndarray, epoch: int) -> None:
        seen.append((indices.tolist(), epoch))
        np.negative(images, out=images)

    batches = collect(BatchLoader(split_of(), 10, 5, 8, transform=negate))
    order = epoch_order(23, 5, 8).tolist()
    assert seen == [(order[:10], 8), (order[10:20], 8), (order[20:], 8)]
    assert batches[0][0].max() <= 0

    def crop(images: np.ndarray, labels: np.ndarray, indices: np.ndarray, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        return images[:, :, ::2, 1:].astype(np.float64), labels.astype(np.int64)

    images, labels = collect(BatchLoader(split_of(), 10, 5, 8, transform=crop))[0]
    assert images.shape == (10, 1, 1, 1)
    assert images.dtype == np.float32
    assert images.flags.c_contiguous
    assert labels.dtype == np.int32


def test_error_in_the_thread_surfaces_where_it_belongs() -> None:
    def third_fails(images: np.ndarray, labels: np.ndarray, indices: np.ndarray, epoch: int) -> None:
        if 9 in indices:
            raise KeyError("the third")

    loader = BatchLoader(split_of(), 4, 0, 0, shuffle=False, transform=third_fails)
    assert next(loader)[1].tolist() == [0, 1, 2, 3]
    assert next(loader)[1].tolist() == [4, 5, 6, 7]
    for _ in range(2):
        with pytest.raises(KeyError, match="the third"):
            next(loader)
    loader.close()
    assert not loader_threads()


def test_close_ends_the_thread_at_any_point() -> None:
    for fetched in range(4):
        loader = BatchLoader(split_of(200), 2, 0, 0, prefetch=2)
        for _ in range(fetched):
            next(loader)
        assert len(loader_threads()) == 1
        loader.close()
        loader.close()
        assert not loader_threads()
        with pytest.raises(StopIteration):
            next(loader)


def test_the_end_of_the_epoch_ends_the_thread() -> None:
    loader = BatchLoader(split_of(), 5, 0, 0)
    assert len(list(loader)) == 5
    assert not loader_threads()
    with pytest.raises(StopIteration):
        next(loader)


def test_an_exception_of_the_consumer_ends_the_thread() -> None:
    def consume() -> None:
        for _ in loader:
            raise KeyboardInterrupt

    loader = BatchLoader(split_of(200), 2, 0, 0)
    with pytest.raises(KeyboardInterrupt), loader:
        consume()
    assert not loader_threads()


def test_a_forgotten_loader_ends_its_thread() -> None:
    loader = BatchLoader(split_of(200), 2, 0, 0)
    next(loader)
    del loader
    gc.collect()
    assert wait_until(lambda: not loader_threads())


PROGRAM = """
import sys, time
import numpy as np
from convc.runtime.data import BatchLoader, Split
split = Split(np.zeros((1000, 1, 2, 2), np.uint8), np.zeros(1000, np.int32))
slow = lambda *_: time.sleep({delay})
loader = BatchLoader(split, 2, 0, 0, transform=slow)
next(loader)
print("ready", flush=True)
{ending}
"""


@pytest.mark.parametrize(
    ("ending", "code"),
    [("", 0), ("sys.exit(3)", 3), ("raise KeyboardInterrupt", None)],
    ids=["end", "exit", "interrupt"],
)
def test_an_open_loader_does_not_keep_the_program_alive(ending: str, code: int | None) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(ending=ending, delay=0.01)], capture_output=True, timeout=60, check=False
    )
    assert done.stdout == b"ready\n"
    assert code is None or done.returncode == code
    assert b"Fatal" not in done.stderr


def test_waiting_can_be_interrupted() -> None:
    import signal

    program = PROGRAM.format(ending="next(loader)", delay="0 if not _[2][0] else 30").replace(
        "loader = BatchLoader(split, 2, 0, 0,", "loader = BatchLoader(split, 2, 0, 0, shuffle=False,"
    )
    # A shell that runs the tests in the background has its children ignore the signal.
    program = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)" + program
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == b"ready\n"
        time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=15)
    assert b"KeyboardInterrupt" in errors


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_neither_hangs_nor_delivers() -> None:
    with BatchLoader(split_of(200), 2, 0, 0) as loader:
        next(loader)
        child = os.fork()
        if child == 0:
            try:
                next(loader)
            except RuntimeError:
                loader.close()
                os._exit(7)
            os._exit(1)
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == 7
        assert len(next(loader)[1]) == 2
