"""What NVIDIA's driver says of this machine: its version, its first GPU. Through ctypes, so that CuPy is not needed.

The GPU is the first that the driver shows; `CUDA_VISIBLE_DEVICES` chooses another one.
"""

from __future__ import annotations

import ctypes
import os
from typing import Any

from convc.ir.diagnostic import CompileError, Note, fail
from convc.lazy import dataclass
from convc.runtime.choices import Choice

LIBRARY = "libcuda.so.1"
# What CuPy exists for; and the oldest drivers that have it, as NVIDIA numbers them.
OLDEST_CUDA, OLDEST_DRIVER = 12, "525"
EXTRAS = {12: "cuda12", 13: "cuda13"}
# What programs are compiled for where there is no GPU and nobody says for which.
DEFAULT_ARCHITECTURE = "sm_80"
ASKED = "as asked for"
WITHOUT_GPU = "`convc compile FILE --target cuda --report kernels` compiles and reports without a GPU"

_NO_DEVICE = 100
_MAJOR, _MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_…
_OLDEST_CAPABILITY = 75


@dataclass(frozen=True)
class FoundGpu:
    """A GPU of this machine. `compute` is its compute capability as 90 for 9.0, `architecture` the one to compile for:
    its own, or the newest before it that it runs. `cuda` is the version that the driver supports."""

    name: str
    compute: int
    architecture: str
    memory_bytes: int
    cuda: tuple[int, int]

    @property
    def capability(self) -> int:
        """The number of `architecture`."""
        return int(self.architecture.removeprefix("sm_"))


def load() -> Any | None:
    """The driver's library, None where there is none."""
    try:
        return ctypes.CDLL(LIBRARY)
    except OSError:
        return None


def driver_version(library: Any) -> tuple[int, int] | None:
    """The newest CUDA that the driver runs, such as (12, 8); None if it does not tell."""
    version = ctypes.c_int()
    try:
        if library.cuDriverGetVersion(ctypes.byref(version)):
            return None
    except AttributeError:
        return None
    return version.value // 1000, version.value % 1000 // 10


def find_gpu() -> FoundGpu:
    """The GPU that programs run on. Errors: `missing-driver`, `unsupported-gpu`."""
    library = load()
    if library is None:
        message = f"there is no NVIDIA driver here: {LIBRARY} cannot be loaded"
        fail("missing-driver", message, hint=f"install NVIDIA's driver on a machine with a GPU; {WITHOUT_GPU}")
    cuda = driver_version(library)
    if cuda is None:
        fail("missing-driver", f"NVIDIA's driver ({LIBRARY}) does not answer", hint="reinstall it, then restart")
    if cuda[0] < OLDEST_CUDA:
        message = f"NVIDIA's driver is too old: it runs CUDA {_dotted(cuda)}, and CuPy needs {OLDEST_CUDA}.0"
        fail("missing-driver", message, hint=f"install driver {OLDEST_DRIVER} or newer; {WITHOUT_GPU}")
    code = library.cuInit(0)
    count = ctypes.c_int()
    if code == 0:
        code = library.cuDeviceGetCount(ctypes.byref(count))
    if code == _NO_DEVICE or (code == 0 and count.value == 0):
        _no_device(cuda)
    if code:
        message = f"NVIDIA's driver (CUDA {_dotted(cuda)}) does not start: {_reason(library, code)}"
        fail("missing-driver", message, hint="`nvidia-smi` tells more; after an update restart the machine")
    return _describe(library, cuda)


def choose_architecture(arch: str | None) -> Choice:
    """What to compile for: `arch` ("sm_90") if given, else what the GPU here runs, else a default; and why.

    Error: `value-architecture`.
    """
    if arch is not None:
        from convc.codegen.cuda.architectures import architecture

        return Choice("architecture", architecture(arch).name, ASKED)
    try:
        found = find_gpu()
    except CompileError as error:
        reason = error.diagnostics[0].message
        why = f"{reason} (--arch chooses)"
        return Choice("architecture", DEFAULT_ARCHITECTURE, why)
    return Choice("architecture", found.architecture, f"that of the GPU here, {found.name}")


def capability_of(choice: Choice) -> int:
    """The number of an architecture: 80 for sm_80."""
    return int(choice.value.removeprefix("sm_"))


def require_gpu(arch: str | None = None) -> FoundGpu:
    """The GPU here, which runs what was compiled for `arch`. Errors: those of `find_gpu`, `value-architecture`."""
    found = find_gpu()
    if arch not in (None, found.architecture):
        message = f"a program for {arch} is to run on {found.name}, which is {found.architecture}"
        fail("value-architecture", message, hint=f"leave --arch out, or say --arch {found.architecture}")
    return found


def usable_gpu(arch: str | None = None) -> FoundGpu:
    """`require_gpu`, with CuPy that can use it. Errors: those of `convc.runtime.cupy_device.open_device`."""
    from convc.runtime.cupy_device import find_usable

    return find_usable(arch)[0]


def extra_for(cuda: tuple[int, int]) -> str:
    """What installs the CuPy that fits a driver."""
    return f"pip install 'convc[{EXTRAS[min(cuda[0], max(EXTRAS))]}]'"


def _describe(library: Any, cuda: tuple[int, int]) -> FoundGpu:
    device, major, minor, size = ctypes.c_int(), ctypes.c_int(), ctypes.c_int(), ctypes.c_size_t()
    name = ctypes.create_string_buffer(256)
    codes = (
        library.cuDeviceGet(ctypes.byref(device), 0),
        library.cuDeviceGetName(name, len(name), device),
        library.cuDeviceGetAttribute(ctypes.byref(major), _MAJOR, device),
        library.cuDeviceGetAttribute(ctypes.byref(minor), _MINOR, device),
        library.cuDeviceTotalMem_v2(ctypes.byref(size), device),
    )
    failed = next((code for code in codes if code), 0)
    if failed:
        fail("missing-driver", f"NVIDIA's driver does not describe its GPU: {_reason(library, failed)}")
    title, compute = name.value.decode(errors="replace"), 10 * major.value + minor.value
    if compute < _OLDEST_CAPABILITY:
        message = f"{title} has compute capability {compute // 10}.{compute % 10}; convc needs 7.5 (Turing) or newer"
        hint = f"CUDA_VISIBLE_DEVICES chooses another GPU of this machine; {WITHOUT_GPU}"
        fail("unsupported-gpu", message, hint=hint)
    return FoundGpu(title, compute, _architecture_of(compute), size.value, cuda)


def _architecture_of(compute: int) -> str:
    """The newest architecture of our table whose code a GPU runs: of the same generation where there is one."""
    from convc.codegen.cuda.architectures import ARCHITECTURES

    known = [int(name.removeprefix("sm_")) for name in ARCHITECTURES]
    older = [number for number in known if number <= compute]
    return f"sm_{max(older)}"


def _no_device(cuda: tuple[int, int]) -> None:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    notes = () if visible is None else (Note(f"CUDA_VISIBLE_DEVICES is {visible!r}, which hides all others"),)
    message = f"NVIDIA's driver is there (CUDA {_dotted(cuda)}), but it finds no GPU"
    fail("missing-driver", message, hint=f"`nvidia-smi` lists GPUs; {WITHOUT_GPU}", notes=notes)


def _reason(library: Any, code: int) -> str:
    text = ctypes.c_char_p()
    if library.cuGetErrorString(code, ctypes.byref(text)) or text.value is None:
        return f"error {code}"
    return f"{text.value.decode(errors='replace')} ({code})"


def _dotted(version: tuple[int, int]) -> str:
    return f"{version[0]}.{version[1]}"
