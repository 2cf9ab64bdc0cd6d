"""A GPU that is the host's processor: launches are programs with a sanitizer."""

from __future__ import annotations

import struct
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from convc.codegen.cuda.kernel import Launch
from tests.cuda.emulated import EmulatedDevice, compiled
from tests.cuda.host.compiling import SanitizerReport, build, run_program


@dataclass
class HostDevice(EmulatedDevice):
    """Runs launches under a sanitizer: "threads" or "addresses". `change` is done to sources before.

    A tensor has memory of its own and no more than its size. Plans are those of sm_75, without asynchronous copies.
    """

    capability: int = 75
    sanitizer: str = "threads"
    change: Callable[[str], str] = str
    # Of other files' kernels the emulator takes care.
    files: tuple[str, ...] = ()
    launched: int = 0

    def load(self, launches: Sequence[Launch]) -> list[Any]:
        return [None for _ in launches]

    def launch(self, function: Any, grid: tuple[int, int, int], launch: Launch, arguments: Sequence[int]) -> None:
        if launch.file not in self.files:
            return super().launch(compiled(launch.source, self.capability), grid, launch, arguments)
        self.launched += 1
        program = build(launch, self.change(launch.source), self.sanitizer)
        places = [(self.memories[slot.region].find(slot.offset), slot) for slot in launch.arguments]
        views = [block.data[slot.offset - block.start :][: slot.bytes] for block, slot in places]
        views.append(self.memories["scalars"].blocks[0].data)
        with tempfile.TemporaryDirectory(prefix="convc-host-") as name:
            given, results = Path(name) / "given", Path(name) / "results"
            given.write_bytes(b"".join(struct.pack("<Q", len(view)) + view.tobytes() for view in views))
            numbers = [*grid, launch.threads, launch.shared_bytes, arguments[-1]]
            try:
                done = run_program(program, [str(given), str(results), *map(str, numbers)])
            except subprocess.TimeoutExpired as error:
                raise SanitizerReport(
                    launch, "SUMMARY: nothing within two minutes: a barrier that not all come to"
                ) from error
            if done.returncode:
                raise SanitizerReport(launch, done.stderr)
            whole = results.read_bytes()
        at = 0
        for view in views:
            view[:] = memoryview(whole)[at : at + len(view)]
            at += len(view)
