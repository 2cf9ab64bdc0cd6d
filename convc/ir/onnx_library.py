"""The onnx library, which is an extra and which both its reader and its writer need.

It is loaded where it is used, and missed in one clear sentence.
"""

from __future__ import annotations

from types import ModuleType

from convc.ir.diagnostic import fail


def onnx_library() -> ModuleType:
    """The module `onnx`. Error: `onnx-library`."""
    try:
        import onnx
    except ImportError as error:
        missing = "the library `onnx` is not installed" if error.name == "onnx" else f"`onnx` cannot be loaded: {error}"
        fail("onnx-library", missing, hint="pip install 'convc[onnx]'")
    return onnx
