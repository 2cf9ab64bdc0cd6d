"""Object files in memory to addresses of functions: one LLJIT for the process, one library per object.

Undefined symbols are looked up among `imports`, then in the process (the C library and libm: `expf`, `logf`,
`syscall`). Linking is by JITLink, which places the sections of an object in one block of memory, makes stubs for calls
that leave it, and reports a relocation out of reach instead of truncating it.
"""

from __future__ import annotations

import ctypes
import itertools
import sys
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

from convc.codegen.llvm.target import llvm_lock, with_llvm

_numbers = itertools.count()


class Library:
    """Loaded machine code. `library["name"]` is the address of an exported function, valid until `close`.

    Whoever runs the code keeps the library: an address alone keeps nothing alive.
    """

    def __init__(self, tracker: Any, exports: tuple[str, ...]) -> None:
        self._tracker: Any = tracker
        self._addresses: dict[str, int] = {name: int(tracker[name]) for name in exports}

    def __getitem__(self, name: str) -> int:
        if self._tracker is None:
            raise RuntimeError("the library is closed")
        return self._addresses[name]

    @property
    def closed(self) -> bool:
        return self._tracker is None

    def close(self) -> None:
        """Unload the code. Its addresses must not be called any more. Closing twice is harmless."""
        if self._tracker is not None:
            with llvm_lock:
                self._tracker.close()
            self._tracker = None

    def __del__(self) -> None:
        # When the interpreter ends, the process takes the memory back: other threads may be running the code still.
        if not sys.is_finalizing():
            self.close()

    def keep_forever(self) -> Library:
        """Never unload, whoever drops the library: for code in which daemon threads may be running."""
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(self))
        return self


@with_llvm
def link(objects: bytes | Iterable[bytes], exports: Iterable[str], imports: Mapping[str, int] | None = None) -> Library:
    """Load object files as one library.

    `exports` are the functions whose addresses are wanted; `imports` maps symbols that the objects leave undefined to
    addresses, whose owners must outlive the library. Objects of one library see each other's symbols, libraries do not.
    Raises RuntimeError with LLVM's words for a damaged object, an unknown export or an unresolved symbol.
    """
    import llvmlite.binding as binding

    names = tuple(exports)
    builder = binding.JITLibraryBuilder()
    for image in [objects] if isinstance(objects, bytes) else objects:
        builder.add_object_img(image)
    for name in names:
        builder.export_symbol(name)
    for name, address in (imports or {}).items():
        builder.import_symbol(name, address)
    tracker = builder.add_current_process().link(_jit(), f"convc.{next(_numbers)}")
    return Library(tracker, names)


@cache
def _jit() -> Any:
    import llvmlite.binding as binding

    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    if sys.platform == "linux":
        # An interpreter need not be linked against libm; once opened globally, its symbols belong to the process.
        for name in ("libm.so.6", "libm.so"):
            try:
                ctypes.CDLL(name, mode=ctypes.RTLD_GLOBAL)
            except OSError:
                continue
            break
    # Errors come back as exceptions; LLVM would print them to stderr as well.
    return binding.create_lljit_compiler(use_jit_link=True, suppress_errors=True)
