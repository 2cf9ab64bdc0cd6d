"""One phase compiled alone and called rank by rank: for tests of emitters, without plan, program or threads."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence

import numpy as np

from convc.codegen.llvm.link import link
from convc.codegen.llvm.target import CpuTarget, compile_object
from convc.codegen.llvm.vocabulary import Function


class SinglePhase:
    """A function written by `body`, with as many pointers as it is called with arrays. Without barriers, the threads of
    a phase may as well run one after the other."""

    def __init__(self, target: CpuTarget, pointers: int, body: Callable[[Function], None]) -> None:
        f = Function("phase", pointers)
        f.fma_name = "fma" if target.has_fma else "fmuladd"
        body(f)
        self.text = "\n".join([*sorted(f.declarations.values()), f.text()])
        self._library = link(compile_object(self.text, target), ["phase"])
        words = [ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, *[ctypes.c_void_p] * pointers]
        self._call = ctypes.CFUNCTYPE(None, *words)(self._library["phase"])

    def run(self, arrays: Sequence[np.ndarray], context: Sequence[int] = (), parties: int = 1) -> None:
        """Let every rank do its part; `context` are the 64-bit words that the phase reads at its context pointer."""
        words = np.asarray([*context, 0], np.int64)
        for rank in range(parties):
            self._call(words.ctypes.data, rank, parties, *(array.ctypes.data for array in arrays))
