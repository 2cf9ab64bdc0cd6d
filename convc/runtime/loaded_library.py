"""A standalone library in this process: called as its users call it, so that what is measured is what they get.

Libraries have code for any processor of a tier, and weights as they are stored. Programs that are compiled here may use
more of this processor, and have the float32 weights.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

import numpy as np

from convc.codegen.llvm.target import CPU_VARIABLE, host_target, tier_targets
from convc.ir.diagnostic import CompileError, fail
from convc.ir.op import Op
from convc.passes.base import Mode
from convc.passes.machine import VARIANTS, Variant
from convc.runtime.cores import choose_threads
from convc.runtime.standalone import Standalone


class LoadedLibrary:
    """A model of an inference library; `loss` makes a loss of (logits, labels). A `Classifier`.

    Threads are those of `convc.compile`. Error: `value-cpu-tier` with the library's own words if it does not run here.
    """

    def __init__(self, made: Standalone, loss: Op | None, threads: int | None = None) -> None:
        interface = made.interface
        self.mode: Mode = interface.mode
        self.batch, self.loss = interface.batch, loss
        self.classes = interface.output[0]
        self._output = interface.output
        path, *others = made.files
        beside = None if interface.inside else bytes(others[-1].absolute())
        self._prefix = interface.prefix
        self._library: ctypes.CDLL | None = ctypes.CDLL(str(path.absolute()))
        create = self._function("create", ctypes.c_void_p, ctypes.c_int, ctypes.c_char_p)
        self._run = self._function("run", ctypes.c_int, *[ctypes.c_void_p] * 3, ctypes.c_int)
        self._model = create(choose_threads(threads).threads, beside)
        if self._model is None:
            message = self._error()
            self.close()
            fail("value-cpu-tier", message)

    def _function(self, word: str, result: Any, *arguments: Any) -> Any:
        assert self._library is not None, "it is closed"
        function = self._library[f"{self._prefix}_{word}"]
        function.restype, function.argtypes = result, arguments
        return function

    def _error(self) -> str:
        return self._function("error", ctypes.c_char_p)().decode()

    def __call__(self, x: np.ndarray, /) -> np.ndarray:
        """The logits of images, float32 (n, C, H, W) and C-contiguous, 1 <= n <= `batch`."""
        assert self._model is not None, "it is closed"
        outputs = np.empty((len(x), *self._output), np.float32)
        if self._run(self._model, x.ctypes.data, outputs.ctypes.data, len(x)) != 0:
            raise RuntimeError(self._error())
        return outputs

    def close(self) -> None:
        """End its threads and unload it: a path that is loaded still would give the same library again."""
        import _ctypes

        if self._library is not None:
            self._function("destroy", None, ctypes.c_void_p)(self._model)
            _ctypes.dlclose(self._library._handle)
            self._library = self._model = None


def runnable_tier(tiers: Iterable[Variant]) -> Variant:
    """The first that this processor can run and the environment does not rule out, as a library chooses.

    Error: `value-cpu-tier`.
    """
    tiers, forced = tuple(tiers), os.environ.get(CPU_VARIABLE, "").strip()
    known = tier_targets(VARIANTS)
    for tier in tiers:
        with suppress(CompileError):
            wanted = known[tier]
            if forced in ("", tier, wanted.tier) and host_target(wanted.tier).flags >= wanted.flags:
                return tier
    message = f"this processor runs none of the library's tiers, {', '.join(tiers)}, so it cannot be measured here"
    fail("value-cpu-tier", message, hint="without --data it is made all the same")
