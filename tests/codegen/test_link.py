"""Object files to addresses."""

from __future__ import annotations

import ctypes

import pytest

from convc.codegen.llvm.link import link
from convc.codegen.llvm.target import compile_object, host_target

ADD = "define i64 @add(i64 %a, i64 %b) { %c = add i64 %a, %b\n ret i64 %c }"
TWICE = "declare i64 @add(i64, i64)\ndefine i64 @twice(i64 %a) { %b = call i64 @add(i64 %a, i64 %a)\n ret i64 %b }"
MATHEMATICS = """
declare float @expf(float)
declare float @logf(float)
define float @same(float %x) {
  %e = call float @expf(float %x)
  %l = call float @logf(float %e)
  ret float %l
}
"""
BINARY = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64, ctypes.c_int64)
UNARY = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64)


def compiled(text: str) -> bytes:
    return compile_object(text, host_target())


def test_several_libraries_may_define_the_same_name() -> None:
    first = link(compiled(ADD), ["add"])
    second = link(compiled(ADD.replace("= add", "= sub")), ["add"])
    assert BINARY(first["add"])(5, 3) == 8
    assert BINARY(second["add"])(5, 3) == 2
    first.close()
    second.close()


def test_objects_of_one_library_see_each_other() -> None:
    library = link([compiled(TWICE), compiled(ADD)], ["twice"])
    assert UNARY(library["twice"])(21) == 42


def test_an_import_is_an_address_far_or_near() -> None:
    base = link(compiled(ADD), ["add"])
    library = link(compiled(TWICE), ["twice"], {"add": base["add"]})
    assert UNARY(library["twice"])(4) == 8
    python = BINARY(lambda a, b: a * b)
    address = ctypes.cast(python, ctypes.c_void_p).value or 0
    other = link(compiled(TWICE), ["twice"], {"add": address})
    assert UNARY(other["twice"])(5) == 25


def test_libm_is_found() -> None:
    library = link(compiled(MATHEMATICS), ["same"])
    assert ctypes.CFUNCTYPE(ctypes.c_float, ctypes.c_float)(library["same"])(1.5) == pytest.approx(1.5, rel=1e-6)


def test_closing() -> None:
    library = link(compiled(ADD), ["add"])
    library.close()
    library.close()
    assert library.closed
    with pytest.raises(RuntimeError, match="closed"):
        library["add"]


def test_errors_are_exceptions_and_nothing_is_printed(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(RuntimeError):
        link(compiled(TWICE), ["twice"])
    with pytest.raises(RuntimeError):
        link(b"not an object", ["f"])
    with pytest.raises(RuntimeError):
        link(compiled(ADD), ["absent"])
    assert capfd.readouterr() == ("", "")
