"""`TensorProto` to numpy: sizes are checked against shapes before anything is believed."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from convc.frontend.onnx.files import read_external
from convc.ir.diagnostic import fail

# Element types by their number in ONNX: name, numpy type of the stored bytes, field of plain numbers, its type.
_TYPES: dict[int, tuple[str, str, str]] = {
    1: ("float32", "<f4", "float_data"),
    2: ("uint8", "u1", "int32_data"),
    3: ("int8", "i1", "int32_data"),
    4: ("uint16", "<u2", "int32_data"),
    5: ("int16", "<i2", "int32_data"),
    6: ("int32", "<i4", "int32_data"),
    7: ("int64", "<i8", "int64_data"),
    9: ("bool", "?", "int32_data"),
    10: ("float16", "<f2", "int32_data"),
    11: ("float64", "<f8", "double_data"),
    12: ("uint32", "<u4", "uint64_data"),
    13: ("uint64", "<u8", "uint64_data"),
    16: ("bfloat16", "<u2", "int32_data"),
}
_FIELDS = ("float_data", "int32_data", "int64_data", "double_data", "uint64_data", "string_data")
_BFLOAT16, _FLOAT16 = 16, 10
_LARGEST = 1 << 33  # bytes


def type_name(number: int) -> str:
    """The name of an element type, for messages."""
    others = {0: "no type", 8: "string", 14: "complex64", 15: "complex128"}
    return _TYPES[number][0] if number in _TYPES else others.get(number, f"element type {number}")


def numpy_type(number: int) -> np.dtype | None:
    """The numpy type of an element type (float32 for bfloat16); None where there is none."""
    if number == _BFLOAT16:
        return np.dtype(np.float32)
    return np.dtype(_TYPES[number][1]).newbyteorder("=") if number in _TYPES else None


def tensor_array(tensor: Any, folder: Path | None) -> np.ndarray:
    """The array of a `TensorProto`; `folder` is where files beside the model are, None where there may be none.

    bfloat16 comes out as float32. Errors: `onnx-malformed`, `onnx-external`, `onnx-unsupported` for other types.
    """
    name = tensor.name or "a tensor without a name"
    shape = tuple(tensor.dims)
    if min(shape, default=0) < 0:
        fail("onnx-malformed", f"{name} has the shape {list(shape)}")
    if tensor.data_type not in _TYPES:
        fail("onnx-unsupported", f"{name} holds elements of {type_name(tensor.data_type)}, which are not supported")
    if tensor.HasField("segment"):
        fail("onnx-unsupported", f"{name} is stored in segments, which are not supported")
    _, stored, plain = _TYPES[tensor.data_type]
    dtype = np.dtype(stored)
    size = math.prod(shape) * dtype.itemsize
    if size > _LARGEST:
        fail("onnx-malformed", f"{name} has the shape {list(shape)}, which is {size:,} bytes")
    given = [field for field in _FIELDS if len(getattr(tensor, field))]
    if tensor.data_location == 1:
        if given or tensor.HasField("raw_data") or folder is None:
            where = "twice" if folder is not None else "in another file, where none may be"
            fail("onnx-malformed", f"{name} has its data {where}")
        entries = {entry.key: entry.value for entry in tensor.external_data}
        flat = read_external(folder, entries, size, name).view(dtype)
    elif tensor.HasField("raw_data"):
        if given:
            fail("onnx-malformed", f"{name} has its data twice, in raw_data and {given[0]}")
        if len(tensor.raw_data) != size:
            actual = f"{len(tensor.raw_data):,}"
            fail("onnx-malformed", f"{name} has the shape {list(shape)}, {size:,} bytes, but holds {actual}")
        flat = np.frombuffer(tensor.raw_data, dtype)
    else:
        flat = _plain(tensor, name, given, plain, dtype, math.prod(shape), shape)
    if tensor.data_type == _BFLOAT16:
        flat = (flat.astype(np.uint32) << 16).view(np.float32)
    return flat.astype(flat.dtype.newbyteorder("="), copy=False).reshape(shape)


def _plain(
    tensor: Any, name: str, given: list[str], field: str, dtype: np.dtype, count: int, shape: tuple[int, ...]
) -> np.ndarray:
    """Data in the field of its type: a list of numbers."""
    if given not in ([], [field]):
        wrong = next(other for other in given if other != field)
        fail("onnx-malformed", f"{name} holds {type_name(tensor.data_type)} elements, but has them in {wrong}")
    numbers = getattr(tensor, field)
    if len(numbers) != count:
        fail("onnx-malformed", f"{name} has the shape {list(shape)}, but holds {len(numbers)} elements")
    if tensor.data_type in (_FLOAT16, _BFLOAT16):
        # Their bits are stored as integers.
        bits = np.asarray(numbers, np.int64)
        _require_range(bits, np.iinfo(np.uint16), name)
        return bits.astype(np.uint16).view(dtype)
    array = np.asarray(numbers)
    if dtype.kind in "iu":
        _require_range(array, np.iinfo(dtype), name)
    return array.astype(dtype)


def _require_range(array: np.ndarray, bounds: np.iinfo, name: str) -> None:
    if array.size and not (bounds.min <= int(array.min()) and int(array.max()) <= bounds.max):
        fail("onnx-malformed", f"{name} holds numbers beyond its element type")
