"""One epoch over a part of a data set, in batches that a background thread prepares ahead of their use.

The order of an epoch is a function of (seed, epoch), so training resumed at batch k of epoch e meets exactly the
batches that it would have met. Batches lie in a ring of reused arrays: **the arrays of a batch are overwritten once
`prefetch` further batches have been fetched**; who needs them longer copies them.

The thread ends with the epoch, with `close()`, or when the loader is no longer referenced. It is a daemon, so that an
interrupted program ends at once, and it holds the interpreter lock only for moments: its work is done within NumPy.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable
from types import TracebackType

import numpy as np

from convc.runtime.data.dataset import Split
from convc.runtime.data.ordering import epoch_order

Batch = tuple[np.ndarray, np.ndarray]

# (images, labels, indices, epoch) -> the batch to deliver, or None when it was changed in place.
Transform = Callable[[np.ndarray, np.ndarray, np.ndarray, int], "Batch | None"]


class BatchLoader:
    """An iterator over (images, labels): C-contiguous float32 (n, C, H, W) and int32 (n,).

    n is `batch`, in the last batch of an epoch what is left. `start_batch` leaves out the first batches of the epoch.
    `transform` is called in the background thread, in the order of the batches; `indices` are the images' places in the
    split. What it raises comes out of `next`. A loader serves one thread and one pass.
    """

    def __init__(
        self,
        split: Split,
        batch: int,
        seed: int,
        epoch: int,
        shuffle: bool = True,
        start_batch: int = 0,
        prefetch: int = 4,
        transform: Transform | None = None,
    ) -> None:
        total = -(-len(split) // batch) if batch > 0 else 0
        if batch < 1 or prefetch < 1 or not 0 <= start_batch <= total:
            raise ValueError(
                f"batch={batch}, prefetch={prefetch} or start_batch={start_batch} (of {total}) out of range"
            )
        self.batches = total
        order = epoch_order(len(split), seed, epoch) if shuffle else np.arange(len(split))
        self._next = start_batch
        self._process = os.getpid()
        self._ring = _Ring(split, order, batch, epoch, start_batch, total, prefetch, transform)
        self._thread = threading.Thread(target=self._ring.fill, name="convc-loader", daemon=True)
        # The thread knows the ring only: the loader can be collected while the thread waits.
        self._finalizer = weakref.finalize(self, _stop, self._ring, self._process)
        self._thread.start()

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
            raise RuntimeError("a BatchLoader does not survive a fork: its thread stayed behind")
        if self._next >= self.batches:
            self.close()
            raise StopIteration
        batch = self._ring.fetch(self._next)
        self._next += 1
        return batch

    def close(self) -> None:
        """End the thread and wait for it; further batches are not delivered. May be called repeatedly."""
        self._finalizer()
        self._next = self.batches
        if os.getpid() == self._process and self._thread is not threading.current_thread():
            self._thread.join()

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
    """What the loader and its thread share. Batch k lies in slot k modulo the number of slots.

    There are `prefetch` slots for batches prepared ahead, and as many for batches that the consumer still holds.
    """

    def __init__(
        self,
        split: Split,
        order: np.ndarray,
        batch: int,
        epoch: int,
        start: int,
        total: int,
        prefetch: int,
        transform: Transform | None,
    ) -> None:
        self.split, self.order, self.batch, self.epoch = split, order, batch, epoch
        self.start, self.total, self.prefetch, self.transform = start, total, prefetch, transform
        self.changed = threading.Condition()
        self.requested = start  # guarded by `changed`, as the following three: the batch that is asked for next
        self.ready: dict[int, Batch] = {}
        self.error: BaseException | None = None
        self.stopped = False

    def fetch(self, number: int) -> Batch:
        """Wait for batch `number`; everything before `number - prefetch + 1` may be overwritten from now on."""
        with self.changed:
            self.requested = number
            self.changed.notify_all()
            while number not in self.ready:
                if self.error is not None:
                    raise self.error
                if self.stopped:
                    raise StopIteration
                self.changed.wait()
            return self.ready.pop(number)

    def stop(self) -> None:
        with self.changed:
            self.stopped = True
            self.ready.clear()
            self.changed.notify_all()

    def fill(self) -> None:
        """The thread's work: prepare one batch after the other, as far ahead as slots allow."""
        try:
            slots = self._allocate()
            for number in range(self.start, self.total):
                with self.changed:
                    while not self.stopped and number > self.requested + self.prefetch:
                        self.changed.wait()
                    if self.stopped:
                        return
                prepared = self._prepare(number, *slots[number % len(slots)])
                with self.changed:
                    self.ready[number] = prepared
                    self.changed.notify_all()
        except BaseException as error:  # handed to the consumer, whatever it is: it must not wait for ever
            with self.changed:
                self.error = error
                self.changed.notify_all()

    def _allocate(self) -> list[tuple[np.ndarray, np.ndarray, np.ndarray | None]]:
        count = min(self.batch, len(self.split))
        scratch = np.empty((count, *self.split.shape), np.uint8) if self.split.images.dtype == np.uint8 else None
        slots = min(2 * self.prefetch, max(1, self.total - self.start))
        return [
            (np.empty((count, *self.split.shape), np.float32), np.empty(count, np.int32), scratch) for _ in range(slots)
        ]

    def _prepare(self, number: int, images: np.ndarray, labels: np.ndarray, scratch: np.ndarray | None) -> Batch:
        indices = self.order[number * self.batch : (number + 1) * self.batch]
        count = len(indices)
        images, labels = images[:count], labels[:count]
        self.split.batch_into(indices, images, labels, None if scratch is None else scratch[:count])
        changed = self.transform(images, labels, indices, self.epoch) if self.transform else None
        if changed is None:
            return images, labels
        return np.ascontiguousarray(changed[0], np.float32), np.ascontiguousarray(changed[1], np.int32)
