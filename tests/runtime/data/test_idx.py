"""The IDX reader: element types, gzip, and files that are not what they say."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest

from convc.runtime.data import memory
from convc.runtime.data.idx import decode_idx, read_idx
from tests.runtime.data.data_helpers import Load, diagnostic, idx_bytes, pixels, write_idx_set


@pytest.mark.parametrize("code", ["u1", "i1", "i2", "i4", "f4", "f8"])
@pytest.mark.parametrize("packed", [False, True])
def test_every_element_type(tmp_path: Path, code: str, packed: bool) -> None:
    array = np.random.default_rng(1).normal(0, 50, (3, 2, 5)).astype(np.int8).astype(code)
    content = idx_bytes(array)
    path = tmp_path / "file"
    path.write_bytes(gzip.compress(content) if packed else content)
    result = read_idx(path)
    assert result.dtype == np.dtype(code)
    assert result.dtype.isnative
    np.testing.assert_array_equal(result, array)


def test_gzip_of_several_members_and_trailing_zeros() -> None:
    array = pixels(100, 7, 7)
    content = idx_bytes(array)
    members = b"".join(gzip.compress(content[start : start + 1000]) for start in range(0, len(content), 1000))
    np.testing.assert_array_equal(decode_idx(members, "f"), array)
    np.testing.assert_array_equal(decode_idx(gzip.compress(content) + bytes(50), "f"), array)


VALID = idx_bytes(pixels(30, 4, 4))


def packed(content: bytes) -> bytes:
    """Gzip without the time: every worker that collects these tests must see the same ones."""
    return gzip.compress(content, mtime=0)


PACKED = packed(VALID)


@pytest.mark.parametrize(
    ("content", "code", "words"),
    [
        (b"", "data-truncated", ["0 bytes"]),
        (VALID[:3], "data-truncated", ["3 bytes"]),
        (VALID[:10], "data-truncated", ["10 bytes", "16"]),
        (VALID[:-1], "data-truncated", ["30x4x4", "480 bytes", "479"]),
        (VALID + b"x", "data-oversized", ["480 bytes"]),
        (b"\x89PNG" + VALID, "data-format", ["89 50 4e 47"]),
        (b"\0\0\x0a\x03" + VALID[4:], "data-format", ["00 00 0a 03"]),
        (b"\0\0\x08\0", "data-format", ["0 dimensions"]),
        (b"\0\0\x08\xff" + bytes(2000), "data-format", ["255 dimensions"]),
        (PACKED[:2], "data-truncated", ["0 bytes"]),
        (PACKED[: len(PACKED) // 2], "data-truncated", ["480 bytes"]),
        (PACKED[:-4], "data-truncated", ["checksum"]),
        (PACKED[:-6] + b"\0\0" + PACKED[-4:], "data-corrupt", ["incorrect data check"]),
        (PACKED[:10] + b"\xff" + PACKED[11:], "data-corrupt", ["invalid block type"]),
        (PACKED + b"garbage", "data-corrupt", [f"byte {len(PACKED)}"]),
        (packed(VALID + b"x"), "data-oversized", ["480 bytes"]),
        (packed(VALID[:-9]), "data-truncated", ["480 bytes", "471"]),
        (packed(b"GIF89a" * 100), "data-format", ["47 49 46 38"]),
    ],
)
def test_damaged_files_are_named(tmp_path: Path, content: bytes, code: str, words: list[str]) -> None:
    path = tmp_path / "damaged-file"
    path.write_bytes(content)
    error = diagnostic(lambda: read_idx(path))
    assert error.code == code
    assert "damaged-file" in error.message
    for word in words:
        assert word in error.message


def test_lying_headers_cost_no_memory() -> None:
    huge = struct.pack(">HBB3I", 0, 8, 3, 0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF)
    assert diagnostic(lambda: decode_idx(huge + bytes(100), "f")).code == "data-truncated"
    assert diagnostic(lambda: decode_idx(gzip.compress(huge + bytes(100)), "f")).code == "data-truncated"


def test_decompression_bomb_is_not_unpacked() -> None:
    header = struct.pack(">HBB3I", 0, 8, 3, 10, 2, 2)
    bomb = gzip.compress(header + bytes(1 << 24))
    assert diagnostic(lambda: decode_idx(bomb, "f")).code == "data-oversized"


def test_array_larger_than_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available_bytes", lambda: 1000)
    bomb = gzip.compress(struct.pack(">HBB1I", 0, 8, 1, 5000) + bytes(5000))
    error = diagnostic(lambda: decode_idx(bomb, "f"))
    assert error.code == "data-memory"
    assert "4.9 KiB" in error.message
    assert "1000 bytes" in error.message


def test_random_bytes_fail_cleanly() -> None:
    generator = np.random.default_rng(3)
    for prefix in (b"", b"\0\0\x08\x03", b"\x1f\x8b\x08\0"):
        for _ in range(200):
            content = prefix + generator.bytes(int(generator.integers(0, 60)))
            assert diagnostic(lambda content=content: decode_idx(content, "f")).code.startswith("data-")


@pytest.mark.parametrize("packed", [False, True])
def test_folder_of_idx_files(tmp_path: Path, load: Load, packed: bool) -> None:
    write_idx_set(tmp_path / "set", packed=packed)
    dataset = load("idx", "set", input_shape=(1, 5, 6))
    assert dataset.classes == ("0", "1", "2", "3")
    assert dataset.validation is None
    assert dataset.test is not None
    np.testing.assert_array_equal(dataset.train.images[:, 0], pixels(20, 5, 6))
    np.testing.assert_array_equal(dataset.test.labels, np.arange(8) % 4)


def test_alternative_names_and_a_validation_part(tmp_path: Path, load: Load) -> None:
    for prefix, count in (("train", 6), ("val", 4), ("test", 2)):
        (tmp_path / f"{prefix}-images.idx4").write_bytes(idx_bytes(pixels(count, 3, 4, 4)))
        (tmp_path / f"{prefix}-labels").write_bytes(idx_bytes((np.arange(count) % 2).astype(np.int32)))
    (tmp_path / "train-labels.gz").write_bytes(gzip.compress((tmp_path / "train-labels").read_bytes()))
    dataset = load("idx", ".")
    assert [(name, len(split)) for name, split in dataset.parts()] == [("train", 6), ("validation", 4), ("test", 2)]
    assert dataset.shape == (3, 4, 4)


def test_folders_that_lack_something(tmp_path: Path, load: Load) -> None:
    assert "no folder" in diagnostic(lambda: load("idx", "nowhere")).message
    (tmp_path / "plain").write_text("")
    assert "not a folder" in diagnostic(lambda: load("idx", "plain")).message
    (tmp_path / "empty").mkdir()
    error = diagnostic(lambda: load("idx", "empty"))
    assert error.code == "data-missing"
    assert error.hint == "it is empty"
    write_idx_set(tmp_path / "set")
    (tmp_path / "set" / "train-labels-idx1-ubyte").unlink()
    assert "no train-labels* file" in diagnostic(lambda: load("idx", "set")).message
    (tmp_path / "set" / "train-labels-a").write_bytes(b"")
    (tmp_path / "set" / "train-labels-b").write_bytes(b"")
    error = diagnostic(lambda: load("idx", "set"))
    assert error.code == "data-ambiguous"
    assert "train-labels-a, train-labels-b" in error.message


def test_a_folder_in_place_of_a_file(tmp_path: Path, load: Load) -> None:
    write_idx_set(tmp_path / "set")
    (tmp_path / "set" / "train-images-idx3-ubyte").unlink()
    (tmp_path / "set" / "train-images-idx3-ubyte").mkdir()
    assert "not a regular file" in diagnostic(lambda: load("idx", "set")).message


def test_mismatch_and_ranges(tmp_path: Path, load: Load) -> None:
    write_idx_set(tmp_path / "set")
    labels = tmp_path / "set" / "train-labels-idx1-ubyte"
    labels.write_bytes(idx_bytes(np.zeros(19, np.uint8)))
    error = diagnostic(lambda: load("idx", "set"))
    assert error.code == "data-mismatch"
    assert "20 images, but 19 labels" in error.message
    labels.write_bytes(idx_bytes(np.array([0, 1, -1] + [0] * 17, np.int8)))
    error = diagnostic(lambda: load("idx", "set"))
    assert error.code == "data-label-range"
    assert "label -1 of image 2" in error.message
    (tmp_path / "set" / "train-images-idx3-ubyte").write_bytes(idx_bytes(pixels(0, 5, 6)))
    assert diagnostic(lambda: load("idx", "set")).code == "data-empty"
    (tmp_path / "set" / "train-images-idx3-ubyte").write_bytes(idx_bytes(pixels(20, 0, 6)))
    assert diagnostic(lambda: load("idx", "set")).code == "data-shape"


def test_parts_of_different_shapes(tmp_path: Path, load: Load) -> None:
    write_idx_set(tmp_path / "set")
    (tmp_path / "set" / "t10k-images-idx3-ubyte").write_bytes(idx_bytes(pixels(8, 6, 6)))
    error = diagnostic(lambda: load("idx", "set"))
    assert error.code == "data-shape"
    assert "1x6x6" in error.message
    assert "1x5x6" in error.message
