from __future__ import annotations

import errno
import json
import os
import resource
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from convc.ir.diagnostic import CompileError
from convc.ir.rounding import rounded
from convc.ir.types import DType
from convc.runtime import atomic
from convc.runtime.checkpoint import match, read_checkpoint, require_match, write_checkpoint

ARRAYS = {
    "a.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
    "b": np.float32([1.5]),
    "c": np.float32(2).reshape(()),
}


def code_of(error: pytest.ExceptionInfo[CompileError]) -> str:
    return error.value.diagnostics[0].code


def test_round_trip_in_order(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    write_checkpoint(path, ARRAYS, {"net": "lenet", "states": json.dumps(["b"])})
    checkpoint = read_checkpoint(path)
    assert checkpoint.metadata["net"] == "lenet"
    assert list(checkpoint.weights) == ["a.weight", "c"]
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(checkpoint.tensors[name], array)
    assert os.listdir(tmp_path) == ["w.safetensors"]


def test_the_library_reads_our_files_and_we_its(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "ours", ARRAYS, {"ü": '"quoted"'})
    theirs = safetensors.numpy.load_file(tmp_path / "ours")
    assert {name: array.tolist() for name, array in theirs.items()} == {k: v.tolist() for k, v in ARRAYS.items()}
    safetensors.numpy.save_file({"h": np.float16([1, 2])}, tmp_path / "theirs")
    assert read_checkpoint(tmp_path / "theirs").tensors["h"].tolist() == [1, 2]


def test_halves_are_written_where_asked_for_and_read_as_float32(tmp_path: Path) -> None:
    random = np.random.default_rng(0).standard_normal((3, 5)).astype(np.float32)
    arrays = {"h": random, "whole": random, "b": random, "number": np.float32(1.1)}
    types = {"h": DType.F16, "b": DType.BF16, "number": DType.BF16}
    write_checkpoint(tmp_path / "w", arrays, {}, types)
    tensors = read_checkpoint(tmp_path / "w").tensors
    for name, array in arrays.items():
        assert tensors[name].dtype == np.float32
        assert (tensors[name] == rounded(array, types.get(name, DType.F32))).all()
        assert tensors[name].shape == np.shape(array)
    with safetensors.safe_open(str(tmp_path / "w"), "numpy") as file:
        assert {name: file.get_slice(name).get_dtype() for name in file.keys()} == {  # noqa: SIM118
            "h": "F16", "whole": "F32", "b": "BF16", "number": "BF16",
        }  # fmt: skip
    assert (tmp_path / "w").stat().st_size % 2 == 0


def test_equal_contents_give_equal_files(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "1", ARRAYS, {"x": "1", "y": "2", "z": "3"})
    write_checkpoint(tmp_path / "2", ARRAYS, {"z": "3", "y": "2", "x": "1"})
    assert (tmp_path / "1").read_bytes() == (tmp_path / "2").read_bytes()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_non_finite_values_never_enter(tmp_path: Path, value: float) -> None:
    path = tmp_path / "w.safetensors"
    write_checkpoint(path, ARRAYS, {})
    before = path.read_bytes()
    with pytest.raises(CompileError, match="b holds values") as error:
        write_checkpoint(path, {**ARRAYS, "b": np.float32([value])}, {})
    assert code_of(error) == "checkpoint-not-finite"
    assert path.read_bytes() == before


@pytest.mark.parametrize("keep", [0, 5, 8, 40, -1])
def test_truncated_files(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "w.safetensors"
    write_checkpoint(path, ARRAYS, {})
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(CompileError) as error:
        read_checkpoint(path)
    assert code_of(error) == "checkpoint-unreadable"
    assert str(path) in str(error.value)


@pytest.mark.parametrize("content", [b"PK\x03\x04 not this", b"\xff" * 100, b"\x08\0\0\0\0\0\0\0[1, 2]  ", b"{}"])
def test_foreign_files(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes(content)
    with pytest.raises(CompileError) as error:
        read_checkpoint(path)
    assert code_of(error) == "checkpoint-unreadable"


def test_missing_files_and_folders(tmp_path: Path) -> None:
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(CompileError) as error:
            read_checkpoint(path)
        assert code_of(error) == "checkpoint-missing"


def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "w", ARRAYS, {"format_version": "2"})
    with pytest.raises(CompileError) as error:
        read_checkpoint(tmp_path / "w")
    assert code_of(error) == "checkpoint-version"


def test_differences_are_listed(tmp_path: Path) -> None:
    found = match({"a": (2,), "b": (3, 4), "x": ()}, {"a": (2,), "b": (4, 3), "c": (1,)})
    assert found.loaded == ("a",)
    assert not found.exact
    with pytest.raises(CompileError) as error:
        require_match(found, Path("w"), "lenet")
    text = str(error.value)
    assert "b: 4x3 in the net, 3x4 in the file" in text
    assert "c: 1 in the net, not in the file" in text
    assert "x: a number in the file, not in the net" in text


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES])
def test_a_failing_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    path = tmp_path / "w.safetensors"
    write_checkpoint(path, ARRAYS, {})
    before = path.read_bytes()

    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(atomic.os, "fsync", fail)
    with pytest.raises(CompileError) as error:
        write_checkpoint(path, {"b": np.float32([9])}, {})
    assert code_of(error) == "file-write"
    assert os.strerror(number) in str(error.value)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["w.safetensors"]


def test_a_file_size_limit(tmp_path: Path) -> None:
    """The system refuses in the middle of the file, as a full disk does."""
    path = tmp_path / "w.safetensors"
    write_checkpoint(path, ARRAYS, {})
    before = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, limits[1]))
    try:
        with pytest.raises(CompileError) as error:
            write_checkpoint(path, {"b": np.zeros(100_000, np.float32)}, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert code_of(error) == "file-write"
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["w.safetensors"]


def test_a_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(CompileError) as error:
        write_checkpoint(tmp_path / "no" / "w", ARRAYS, {})
    assert code_of(error) == "file-write"


def test_leftovers_of_killed_writers_are_swept(tmp_path: Path) -> None:
    (tmp_path / ".w.safetensors.part-1-abcd").write_bytes(b"x")
    (tmp_path / "w.safetensors").write_bytes(b"x")
    atomic.sweep(tmp_path)
    assert os.listdir(tmp_path) == ["w.safetensors"]
