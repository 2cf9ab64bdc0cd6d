"""convc: a graph compiler for convolutional neural networks.

    net = convc.load("lenet.cnn")
    program = convc.compile(net, mode="train")
    loss = program.step(images, labels)

The names below are the whole public interface. They are imported at first use: `import convc` itself costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from convc._version import __version__

if TYPE_CHECKING:
    from convc.driver import compile as compile
    from convc.driver import from_onnx as from_onnx
    from convc.driver import load as load
    from convc.driver import to_library as to_library
    from convc.driver import to_onnx as to_onnx
    from convc.ir.diagnostic import CompileError as CompileError
    from convc.ir.interpreter import run_reference as run_reference
    from convc.ir.parser import parse_ir as parse_ir
    from convc.ir.printer import print_ir as print_ir
    from convc.runtime.calibration import calibrate as calibrate
    from convc.runtime.program import Program as Program
    from convc.runtime.trainer import fit as fit

_HOMES = {
    "CompileError": "convc.ir.diagnostic",
    "Program": "convc.runtime.program",
    "calibrate": "convc.runtime.calibration",
    "compile": "convc.driver",
    "fit": "convc.runtime.trainer",
    "from_onnx": "convc.driver",
    "load": "convc.driver",
    "parse_ir": "convc.ir.parser",
    "print_ir": "convc.ir.printer",
    "run_reference": "convc.ir.interpreter",
    "to_library": "convc.driver",
    "to_onnx": "convc.driver",
}

__all__ = [
    "CompileError",
    "Program",
    "__version__",
    "calibrate",
    "compile",
    "fit",
    "from_onnx",
    "load",
    "parse_ir",
    "print_ir",
    "run_reference",
    "to_library",
    "to_onnx",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'convc' has no attribute '{name}'")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
