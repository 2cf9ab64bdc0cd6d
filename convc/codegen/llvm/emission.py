"""Object files of a program, made by several processes side by side.

LLVM compiles one module at a time in a process, whatever its threads do; so the functions of a program are cut into
*units*, in the order in which they are written, and units are compiled by this process and by workers beside it. Where
one unit ends depends on the program alone: the objects are the same bits, whoever makes them and however many help.

Workers are fresh interpreters, not forks: this process may have threads and locks in any state. They start when there
are units for them while the rest of the program is still being written, so that small programs never start one. A
worker that cannot be started or dies costs time only: its unit is compiled here.
"""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, cast

from convc.codegen.llvm.emission_worker import receive, send, target_text
from convc.codegen.llvm.target import CpuTarget, compile_object
from convc.codegen.llvm.vocabulary import Function, module_text

_log = logging.getLogger(__name__)
# Characters of LLVM IR in a unit, at least: a quarter of a second of work, where a worker starts in 0.2 s.
UNIT_CHARACTERS = 1 << 18
_PROGRAM = """
import json, sys
sys.path[:] = json.loads(sys.argv[1])
from convc.codegen.llvm.emission_worker import main
main()
"""


class WorkerLost(Exception):
    """A worker could not be started, or did not answer."""


class _Worker:
    """A process beside this one. Used by one thread at a time; `kill` may come from any."""

    def __init__(self, target: CpuTarget) -> None:
        # What is imported here can be imported there, and nothing that lies in the current folder by chance.
        path = [str(Path(__file__).resolve().parents[3]), *sys.path]
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-c", _PROGRAM, json.dumps(path), target_text(target)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            # LLVM's complaints come again, from this process.
            stderr=subprocess.DEVNULL,
            # Ctrl-C is for this process, which then ends its workers.
            start_new_session=True,
        )

    def compile(self, text: str) -> bytes:
        """OSError or EOFError if the process is no more."""
        requests, answers = cast("tuple[BinaryIO, BinaryIO]", (self._process.stdin, self._process.stdout))
        send(requests, text.encode())
        return receive(answers)

    def kill(self) -> None:
        self._process.kill()

    def close(self) -> None:
        """End the process and wait until it is gone."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            try:
                cast("BinaryIO", pipe).close()
            except OSError:  # the rest of a request, for a process that is no more
                pass


class _Workers:
    """Workers, one for each thread of `pool` that has had a unit."""

    def __init__(self, target: CpuTarget, count: int) -> None:
        self.pool = ThreadPoolExecutor(count, "convc-emission")
        self._target = target
        self._own = threading.local()
        self._lock = threading.Lock()
        self._all: list[_Worker] = []
        self._lost = False

    def compile(self, text: str) -> bytes:
        """Run in a thread of the pool. Raises WorkerLost, from the first worker that is lost on always."""
        try:
            return self._worker().compile(text)
        except (OSError, EOFError) as error:
            with self._lock:
                first, self._lost = not self._lost, True
            if first:
                _log.warning("a process that helps to compile was lost (%r); compiling goes on in one process", error)
            raise WorkerLost from error

    def _worker(self) -> _Worker:
        worker = getattr(self._own, "worker", None)
        with self._lock:
            if self._lost:
                raise WorkerLost
            if worker is None:
                worker = self._own.worker = _Worker(self._target)
                self._all.append(worker)
        return worker

    def close(self) -> None:
        """End all processes and threads; units that are being compiled are lost."""
        with self._lock:
            self._lost = True
            workers = tuple(self._all)
        for worker in workers:
            worker.kill()  # so that threads that wait for an answer get to the end
        self.pool.shutdown(cancel_futures=True)
        for worker in workers:
            worker.close()


class Emission:
    """Compiles functions for `target` while they are being written, in up to `processes` processes.

    `with Emission(...) as emission`: `add` functions in their order, then ask for `objects`; at the end of the block
    no process and no thread is left.
    """

    def __init__(self, target: CpuTarget, processes: int = 1) -> None:
        self._target = target
        # A frozen application has no interpreter that could be started.
        frozen = getattr(sys, "frozen", False) or not sys.executable
        self._workers = _Workers(target, processes - 1) if processes > 1 and not frozen else None
        self._functions: list[Function] = []
        self._characters = 0
        self._texts: list[str] = []
        self._futures: list[Future[bytes] | None] = []

    def __enter__(self) -> Emission:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._workers is not None:
            self._workers.close()

    def add(self, function: Function) -> None:
        """Take the next function, which is complete."""
        self._functions.append(function)
        self._characters += sum(map(len, function.lines))
        if self._characters >= UNIT_CHARACTERS:
            self._end_unit(help_wanted=bool(self._texts))  # the first unit is this process's own

    def objects(self) -> Sequence[bytes]:
        """The object files of all functions. RuntimeError with LLVM's words if a text is not valid."""
        if self._functions:
            self._end_unit(help_wanted=False)
        made: list[bytes | None] = [None] * len(self._texts)
        # Workers take units from the front, this process those from the back that nobody has begun.
        for number in reversed(range(len(self._texts))):
            future = self._futures[number]
            if future is None or future.cancel():
                made[number] = self._compile(number)
        return [self._received(number) if image is None else image for number, image in enumerate(made)]

    def _received(self, number: int) -> bytes:
        future = self._futures[number]
        assert future is not None
        try:
            return future.result()
        except (WorkerLost, CancelledError):
            return self._compile(number)

    def _compile(self, number: int) -> bytes:
        return compile_object(self._texts[number], self._target)

    def _end_unit(self, help_wanted: bool) -> None:
        text = module_text(self._functions, "hidden")
        self._functions, self._characters = [], 0
        self._texts.append(text)
        wanted = self._workers if help_wanted else None
        self._futures.append(None if wanted is None else wanted.pool.submit(wanted.compile, text))
