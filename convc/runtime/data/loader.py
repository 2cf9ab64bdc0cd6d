"""One epoch over a part of a data set, in batches that background threads prepare ahead of their use.

The order of an epoch is a function of (seed, epoch), so training resumed at batch k of epoch e meets exactly the
batches that it would have met. Each batch is prepared by one thread; they are delivered in their order, and what is in
them does not depend on how many threads there are. Batches lie in a ring of reused arrays: **the arrays of a batch are
overwritten once `prefetch` further batches have been fetched**; who needs them longer copies them.

The threads end with the epoch, with `close()`, or when the loader is no longer referenced. They are daemons, so that an
interrupted program ends at once, and hold the interpreter lock only for moments: their work is done within NumPy.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable
from types import TracebackType
from typing import Protocol

import numpy as np

from convc.runtime.data.dataset import Fill, LabelShape, Shape
from convc.runtime.data.ordering import epoch_order

Batch = tuple[np.ndarray, np.ndarray]

# (images, labels, indices, epoch) -> the batch to deliver, or None when it was changed in place.
Transform = Callable[[np.ndarray, np.ndarray, np.ndarray, int], "Batch | None"]


class Source(Protocol):
    """What a loader walks over: a `Split`, or one whose images are changed on the way (`AugmentedSplit`)."""

    def __len__(self) -> int: ...

    @property
    def shape(self) -> Shape:
        """(C, H, W) of the images that come out."""
        ...

    @property
    def label_shape(self) -> LabelShape:
        """(h, w) of the labels that come out, () where every image has one."""
        ...

    @property
    def loader_threads(self) -> int:
        """How many threads it takes to prepare its batches."""
        ...

    def filler(self) -> Fill:
        """What writes batches. Each thread has its own, which may keep memory from batch to batch."""
        ...


class BatchLoader:
    """An iterator over (images, labels): C-contiguous float32 (n, C, H, W) and int32 (n,) or (n, h, w).

    n is `batch`, in the last batch of an epoch what is left. `start_batch` leaves out the first batches of the epoch.
    `transform` is called in a background thread, with one thread in the order of the batches; `indices` are the images'
    places in the split. What it raises comes out of `next`. `threads` is by default what the source asks for. A loader
    serves one thread and one pass.
    """

    def __init__(
        self,
        split: Source,
        batch: int,
        seed: int,
        epoch: int,
        shuffle: bool = True,
        start_batch: int = 0,
        prefetch: int | None = None,
        transform: Transform | None = None,
        threads: int | None = None,
    ) -> None:
        threads = split.loader_threads if threads is None else threads
        prefetch = max(4, threads + 1) if prefetch is None else prefetch
        total = -(-len(split) // batch) if batch > 0 else 0
        if batch < 1 or prefetch < 1 or threads < 1 or not 0 <= start_batch <= total:
            raise ValueError(
                f"batch={batch}, prefetch={prefetch}, threads={threads} or start_batch={start_batch} (of {total}) "
                "out of range"
            )
        self.batches = total
        order = epoch_order(len(split), seed, epoch) if shuffle else np.arange(len(split))
        self._next = start_batch
        self._process = os.getpid()
        self._ring = _Ring(split, order, batch, epoch, start_batch, total, prefetch, transform)
        # The threads know the ring only: the loader can be collected while they wait.
        count = max(1, min(threads, total - start_batch))
        self._threads = [
            threading.Thread(target=self._ring.work, name="convc-loader", daemon=True) for _ in range(count)
        ]
        self._finalizer = weakref.finalize(self, _stop, self._ring, self._process)
        for thread in self._threads:
            thread.start()

    @property
    def position(self) -> int:
        """The number, within the epoch, of the batch that `next` returns: what `start_batch` takes to go on here."""
        return self._next

    def __len__(self) -> int:
        """Batches still to come."""
        return self.batches - self._next

    def __iter__(self) -> BatchLoader:
        return self

    def __next__(self) -> Batch:
        if os.getpid() != self._process:
            raise RuntimeError("a BatchLoader does not survive a fork: its threads stayed behind")
        if self._next >= self.batches:
            self.close()
            raise StopIteration
        batch = self._ring.fetch(self._next)
        self._next += 1
        return batch

    def close(self) -> None:
        """End the threads and wait for them; further batches are not delivered. May be called repeatedly."""
        self._finalizer()
        self._next = self.batches
        for thread in self._threads:
            if os.getpid() == self._process and thread is not threading.current_thread():
                thread.join()

    def __enter__(self) -> BatchLoader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def _stop(ring: _Ring, process: int) -> None:
    # In a forked child the lock may be held by a thread that does not exist there.
    if os.getpid() == process:
        ring.stop()


class _Ring:
    """What the loader and its threads share. Batch k lies in slot k modulo the number of slots.

    There are `prefetch` slots for batches prepared ahead, and as many for batches that the consumer still holds.
    """

    def __init__(
        self,
        split: Source,
        order: np.ndarray,
        batch: int,
        epoch: int,
        start: int,
        total: int,
        prefetch: int,
        transform: Transform | None,
    ) -> None:
        self.split, self.order, self.batch, self.epoch = split, order, batch, epoch
        self.total, self.prefetch, self.transform = total, prefetch, transform
        self.rows = min(batch, len(split))
        # Filled when they are needed; a slot belongs to one thread, and then to the consumer.
        self.slots: list[Batch | None] = [None] * min(2 * prefetch, max(1, total - start))
        self.changed = threading.Condition()
        # Guarded by `changed`:
        self.requested = start  # the batch that is asked for next
        self.begun = start  # the batch that no thread has begun with yet
        self.ready: dict[int, Batch] = {}
        self.failure: tuple[int, BaseException] | None = None  # the first batch that cannot be had, and why
        self.stopped = False

    def fetch(self, number: int) -> Batch:
        """Wait for batch `number`; everything before `number - prefetch + 1` may be overwritten from now on."""
        with self.changed:
            self.requested = number
            self.changed.notify_all()
            while number not in self.ready:
                if self.failure is not None and number >= self.failure[0]:
                    raise self.failure[1]
                if self.stopped:
                    raise StopIteration
                self.changed.wait()
            return self.ready.pop(number)

    def stop(self) -> None:
        with self.changed:
            self.stopped = True
            self.ready.clear()
            self.changed.notify_all()

    def work(self) -> None:
        """A thread's work: prepare one batch after the other, as far ahead as slots allow."""
        fill: Fill | None = None
        number = self._begin()
        while number is not None:
            try:
                fill = fill or self.split.filler()
                prepared = self._prepare(number, fill)
            except BaseException as error:  # handed to the consumer, whatever it is: it must not wait for ever
                self._fail(number, error)
                return
            with self.changed:
                self.ready[number] = prepared
                self.changed.notify_all()
            number = self._begin()

    def _begin(self) -> int | None:
        """The next batch to prepare, once there is a slot for it; None if there is none any more."""
        with self.changed:
            while not self.stopped and self.failure is None and self.begun < self.total:
                if self.begun <= self.requested + self.prefetch:
                    self.begun += 1
                    return self.begun - 1
                self.changed.wait()
            return None

    def _fail(self, number: int, error: BaseException) -> None:
        # Batches before this one are with other threads, and will be delivered.
        with self.changed:
            if self.failure is None or number < self.failure[0]:
                self.failure = number, error
            self.changed.notify_all()

    def _prepare(self, number: int, fill: Fill) -> Batch:
        place = number % len(self.slots)
        slot = self.slots[place]
        if slot is None:
            images = np.empty((self.rows, *self.split.shape), np.float32)
            slot = images, np.empty((self.rows, *self.split.label_shape), np.int32)
            self.slots[place] = slot
        indices = self.order[number * self.batch : (number + 1) * self.batch]
        images, labels = (array[: len(indices)] for array in slot)
        fill(indices, self.epoch, images, labels)
        changed = self.transform(images, labels, indices, self.epoch) if self.transform else None
        if changed is None:
            return images, labels
        return np.ascontiguousarray(changed[0], np.float32), np.ascontiguousarray(changed[1], np.int32)
