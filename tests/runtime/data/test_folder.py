"""Class-per-folder images: layouts, modes of pixels, bad files, links."""

from __future__ import annotations

import os
import struct
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from convc.runtime.data import load_dataset, memory
from convc.runtime.data.picture import decode, require_pillow, strict_decoding
from tests.runtime.data.data_helpers import Load, diagnostic, pixels


def save(path: Path, image: Image.Image | np.ndarray, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    picture.save(path, **options)
    return path


def grey(seed: int, height: int = 6, width: int = 6) -> np.ndarray:
    return pixels(1, height, width, seed=seed)[0]


def class_tree(root: Path, classes: dict[str, int]) -> None:
    for number, (name, count) in enumerate(classes.items()):
        for index in range(count):
            save(root / name / f"{index:02}.png", grey(100 * number + index))


def test_folders_of_parts(tmp_path: Path, load: Load) -> None:
    class_tree(tmp_path / "train", {"dog": 3, "cat": 2})
    class_tree(tmp_path / "val", {"cat": 1})
    class_tree(tmp_path / "test", {"dog": 1, "cat": 1})
    dataset = load("folder", ".", input_shape=(1, 6, 6))
    assert dataset.classes == ("cat", "dog")
    assert [(name, split.labels.tolist()) for name, split in dataset.parts()] == [
        ("train", [0, 0, 1, 1, 1]),
        ("validation", [0]),
        ("test", [0, 1]),
    ]
    np.testing.assert_array_equal(dataset.train.images[2, 0], grey(0))
    assert dataset.warnings == ()


def test_folders_of_classes(tmp_path: Path, load: Load) -> None:
    class_tree(tmp_path, {"b": 10, "a": 20})
    dataset = load("folder", ".", {"split": 0.9}, input_shape=(1, 6, 6))
    assert dataset.validation is not None
    assert np.bincount(dataset.train.labels).tolist() == [18, 9]
    assert np.bincount(dataset.validation.labels).tolist() == [2, 1]
    assert dataset.test is None
    assert load("folder", ".", {"test": 6}, input_shape=(1, 6, 6)).test is not None
    assert dataset.content_hash == load("folder", ".", {"split": 0.9}, input_shape=(1, 6, 6)).content_hash


def test_what_is_passed_over_and_what_is_searched(tmp_path: Path, load: Load) -> None:
    class_tree(tmp_path, {"a": 1, "b": 1})
    save(tmp_path / "a" / "deep" / "er" / "x.bmp", grey(7))
    save(tmp_path / "b" / "no-suffix.png", grey(8)).rename(tmp_path / "b" / "no-suffix")
    (tmp_path / "a" / ".hidden").write_bytes(b"x")
    (tmp_path / ".git").mkdir()
    (tmp_path / "a" / "labels.CSV").write_text("x")
    (tmp_path / "README").write_text("x")
    dataset = load("folder", ".", input_shape=(1, 6, 6))
    assert dataset.classes == ("a", "b")
    assert dataset.train.labels.tolist() == [0, 0, 1, 1]
    np.testing.assert_array_equal(dataset.train.images[1, 0], grey(7))


def test_sizes(tmp_path: Path, load: Load) -> None:
    save(tmp_path / "a" / "x.png", grey(0, 10, 30))
    save(tmp_path / "b" / "x.png", grey(1, 33, 7))
    assert load("folder", ".", input_shape=(3, 4, 5)).train.images.shape == (2, 3, 4, 5)
    assert load("folder", ".", {"size": (8, 9)}).shape == (3, 8, 9)
    assert load("folder", ".", {"size": 8}, input_shape=(1, 4, 4)).shape == (1, 8, 8)
    assert diagnostic(lambda: load("folder", ".")).code == "data-size"
    assert diagnostic(lambda: load("folder", ".", input_shape=(4, 8, 8))).code == "data-shape"


def read(path: Path, channels: int, size: tuple[int, int] = (6, 6)) -> np.ndarray:
    require_pillow()
    with strict_decoding():
        return decode(path, channels, size)


def test_centre_is_cut_exactly(tmp_path: Path) -> None:
    wide = grey(0, 6, 11)
    np.testing.assert_array_equal(read(save(tmp_path / "w.png", wide), 1)[0], wide[:, 2:8])
    tall = grey(1, 13, 6)
    np.testing.assert_array_equal(read(save(tmp_path / "t.png", tall), 1)[0], tall[3:9])


def test_scaling_keeps_the_centre(tmp_path: Path) -> None:
    image = np.zeros((60, 120), np.uint8)
    image[:, 30:90] = 200
    scaled = read(save(tmp_path / "x.png", image), 1)[0]
    assert (scaled[:, 1:5] == 200).all()
    whole = Image.fromarray(image).resize((12, 6), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(scaled, np.asarray(whole)[:, 3:9])
    strip = save(tmp_path / "strip.png", np.full((1, 60000), 9, np.uint8))
    assert read(strip, 1, (500, 500)).shape == (1, 500, 500)


RED = (200, 30, 60)
RED_LUMA = (200 * 299 + 30 * 587 + 60 * 114) / 1000


@pytest.mark.parametrize("suffix", ["png", "bmp", "gif", "jpg", "webp", "tiff", "ppm", "tga"])
def test_colour_formats(tmp_path: Path, suffix: str) -> None:
    path = save(tmp_path / f"x.{suffix}", Image.new("RGB", (6, 6), RED))
    assert np.abs(read(path, 3).astype(int) - np.array(RED)[:, None, None]).max() <= 4
    assert np.abs(read(path, 1).astype(int) - RED_LUMA).max() <= 4


def test_modes(tmp_path: Path) -> None:
    def value(image: Image.Image | np.ndarray, suffix: str = "png", channels: int = 3, **options: object) -> list[int]:
        return read(save(tmp_path / f"x.{suffix}", image, **options), channels)[:, 0, 0].tolist()

    assert value(Image.new("L", (6, 6), 77)) == [77, 77, 77]
    assert value(Image.new("1", (6, 6), 1), channels=1) == [255]
    assert value(Image.new("1", (6, 6), 1)) == [255, 255, 255]
    assert value(Image.new("LA", (6, 6), (0, 255)), channels=1) == [0]
    assert value(Image.new("LA", (6, 6), (0, 0)), channels=1) == [255]
    assert value(Image.new("RGBA", (6, 6), (*RED, 255))) == list(RED)
    assert value(Image.new("RGBA", (6, 6), (*RED, 0))) == [255, 255, 255]
    assert value(Image.new("RGBA", (6, 6), (0, 0, 0, 128))) == [127, 127, 127]
    assert value(Image.new("RGB", (6, 6), RED), transparency=RED) == [255, 255, 255]
    assert value(Image.new("CMYK", (6, 6), (0, 255, 255, 0)), "tiff") == [255, 0, 0]
    assert value(Image.new("CMYK", (6, 6), (0, 0, 0, 255)), "tiff", 1) == [0]
    # Pillow 12.3 cannot read its own uncompressed YCbCr files.
    assert value(Image.new("YCbCr", (6, 6), (120, 128, 128)), "tiff", compression="tiff_lzw") == [120, 120, 120]

    palette = Image.new("P", (6, 6), 1)
    palette.putpalette([0, 0, 0, *RED])
    assert value(palette) == list(RED)
    assert value(palette, channels=1) == [round(RED_LUMA)]
    assert value(palette, transparency=1) == [255, 255, 255]
    assert value(palette, "gif", transparency=1) == [255, 255, 255]


def test_deep_pixels(tmp_path: Path) -> None:
    for suffix in ("png", "tiff"):
        deep = np.full((6, 6), 0x8080, np.uint16)
        assert read(save(tmp_path / f"x.{suffix}", deep), 1)[0, 0, 0] == 0x80
        deep[:] = 65535
        assert read(save(tmp_path / f"x.{suffix}", deep), 3)[:, 0, 0].tolist() == [255, 255, 255]
    assert read(save(tmp_path / "i.tiff", np.full((6, 6), 257 * 3, np.int32)), 1)[0, 0, 0] == 3
    assert read(save(tmp_path / "f.tiff", np.full((6, 6), 0.2, np.float32)), 1)[0, 0, 0] == 51
    for bad in (
        np.full((6, 6), 2.0, np.float32),
        np.full((6, 6), np.nan, np.float32),
        np.full((6, 6), 70000, np.int32),
    ):
        with pytest.raises(ValueError, match="pixels outside"):
            read(save(tmp_path / "b.tiff", bad), 1)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_of_cameras(tmp_path: Path, orientation: int) -> None:
    turned = {
        1: lambda a: a, 2: np.fliplr, 3: lambda a: np.rot90(a, 2), 4: np.flipud, 5: np.transpose,
        6: lambda a: np.rot90(a, -1), 7: lambda a: np.rot90(a, 2).T, 8: np.rot90,
    }  # fmt: skip
    image = grey(3, 4, 7)
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(tmp_path / "x.png", image, exif=exif)
    expected = turned[orientation](image)
    np.testing.assert_array_equal(read(path, 1, expected.shape)[0], expected)


def test_first_frame_of_an_animation(tmp_path: Path) -> None:
    frames = [Image.new("L", (6, 6), level) for level in (10, 200)]
    path = save(tmp_path / "x.gif", frames[0], save_all=True, append_images=frames[1:])
    assert abs(int(read(path, 1)[0, 0, 0]) - 10) <= 1


def bomb() -> bytes:
    """A PNG that claims 60000x60000 pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 60000, 60000, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


def spoil(root: Path) -> dict[str, str]:
    """Put files that are no good images into class a; returns why each is bad."""
    whole = save(root / "a" / "whole.jpg", pixels(1, 64, 64, 3)[0]).read_bytes()
    (root / "a" / "whole.jpg").unlink()
    contents = {
        "cut.jpg": (whole[: len(whole) // 2], "truncated"),
        "empty.png": (b"", "not an image"),
        "words.png": (b"these are words", "not an image"),
        "bomb.png": (bomb(), "pixels"),
        "script.eps": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", "not an image"),
    }
    for name, (content, _) in contents.items():
        (root / "a" / name).write_bytes(content)
    os.mkfifo(root / "a" / "pipe.png")
    (root / "a" / "loop.png").symlink_to(root / "a" / "loop.png")
    return {name: why for name, (_, why) in contents.items()} | {
        "pipe.png": "not a regular",
        "loop.png": "not a regular",
    }


def test_bad_images_are_refused_and_named(tmp_path: Path, load: Load) -> None:
    class_tree(tmp_path, {"a": 2, "b": 2})
    reasons = spoil(tmp_path)
    error = diagnostic(lambda: load("folder", ".", input_shape=(3, 6, 6)))
    assert error.code == "data-image"
    assert error.message.startswith(f"{len(reasons)} images")
    assert error.hint is not None
    assert "bad=skip" in error.hint
    assert len(error.notes) == len(reasons)
    for name, why in reasons.items():
        assert any(f"{name}: " in note.message and why in note.message for note in error.notes), name


def test_bad_images_are_skipped_with_a_warning(tmp_path: Path, load: Load, recwarn: pytest.WarningsRecorder) -> None:
    class_tree(tmp_path, {"a": 2, "b": 2})
    reasons = spoil(tmp_path)
    dataset = load("folder", ".", {"bad": "skip"}, input_shape=(1, 6, 6))
    assert dataset.train.labels.tolist() == [0, 0, 1, 1]
    for index, seed in enumerate((0, 1, 100, 101)):
        np.testing.assert_array_equal(dataset.train.images[index, 0], grey(seed))
    (warning,) = dataset.warnings
    assert warning.severity == "warning"
    assert warning.message.startswith(f"{len(reasons)} images")
    assert not recwarn.list


def test_many_bad_images_fit_on_a_screen(tmp_path: Path, load: Load) -> None:
    class_tree(tmp_path, {"a": 1, "b": 1})
    for index in range(37):
        (tmp_path / "a" / f"bad{index:02}.png").write_bytes(b"x")
    error = diagnostic(lambda: load("folder", ".", input_shape=(1, 6, 6)))
    assert error.message.startswith("37 images")
    assert len(error.notes) == 11
    assert error.notes[-1].message == "and 27 more"


def test_only_bad_images(tmp_path: Path, load: Load) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.png").write_bytes(b"x")
    error = diagnostic(lambda: load("folder", ".", {"bad": "skip"}, input_shape=(1, 6, 6)))
    assert error.code == "data-image"
    assert error.message.startswith("1 image of")


def test_files_that_are_not_chosen_are_not_opened(tmp_path: Path, load: Load) -> None:
    class_tree(tmp_path / "train", {"a": 4})
    (tmp_path / "test" / "a").mkdir(parents=True)
    (tmp_path / "test" / "a" / "x.png").write_bytes(b"x")
    calls: list[tuple[int, int]] = []
    error = diagnostic(lambda: load("folder", ".", {"train": 2}, input_shape=(1, 6, 6)))
    assert "x.png" in error.notes[0].message
    (tmp_path / "test" / "a" / "x.png").unlink()
    save(tmp_path / "test" / "a" / "y.png", grey(0))
    load_dataset(
        "folder", ".", {"train": 2}, base=tmp_path, input_shape=(1, 6, 6), seed=0,
        progress=lambda done, total: calls.append((done, total)),
    )  # fmt: skip
    assert calls == [(2, 3), (3, 3)]


def test_folders_that_make_no_data_set(tmp_path: Path, load: Load) -> None:
    def error(path: str) -> tuple[str, str]:
        found = diagnostic(lambda: load("folder", path, input_shape=(1, 6, 6)))
        return found.code, found.message + str(found.hint)

    assert error("nowhere")[0] == "data-missing"
    (tmp_path / "empty").mkdir()
    assert error("empty")[0] == "data-no-classes"
    save(tmp_path / "flat" / "x.png", grey(0))
    code, text = error("flat")
    assert code == "data-no-classes"
    assert "1 files lie in it" in text
    (tmp_path / "hollow" / "a").mkdir(parents=True)
    assert error("hollow")[0] == "data-empty"
    class_tree(tmp_path / "partial" / "val", {"a": 1})
    assert error("partial") == ("data-missing", error("partial")[1])
    class_tree(tmp_path / "more" / "train", {"a": 1})
    class_tree(tmp_path / "more" / "val", {"a": 1, "zebra": 1})
    code, text = error("more")
    assert code == "data-class"
    assert "zebra" in text
    class_tree(tmp_path / "twice" / "train", {"a": 1})
    class_tree(tmp_path / "twice" / "val", {"a": 1})
    class_tree(tmp_path / "twice" / "valid", {"a": 1})
    assert error("twice")[0] == "data-ambiguous"


def test_links_out_of_the_folder_are_refused(tmp_path: Path, load: Load) -> None:
    outside = save(tmp_path / "outside" / "x.png", grey(0))
    class_tree(tmp_path / "set", {"a": 1})
    link = tmp_path / "set" / "a" / "link.png"
    for target in (outside, Path("../../outside/x.png")):
        link.symlink_to(target)
        error = diagnostic(lambda: load("folder", "set", input_shape=(1, 6, 6)))
        assert error.code == "data-symlink"
        assert "link.png" in error.message
        link.unlink()
    (tmp_path / "set" / "b").symlink_to(tmp_path / "outside")
    assert diagnostic(lambda: load("folder", "set", input_shape=(1, 6, 6))).code == "data-symlink"


def test_links_within_the_folder_are_followed_without_loops(tmp_path: Path, load: Load) -> None:
    class_tree(tmp_path / "set", {"a": 1})
    (tmp_path / "set" / "a" / "copy.png").symlink_to(tmp_path / "set" / "a" / "00.png")
    (tmp_path / "set" / "a" / "loop").symlink_to(tmp_path / "set" / "a")
    (tmp_path / "way").symlink_to(tmp_path / "set")
    assert len(load("folder", "set", input_shape=(1, 6, 6)).train) == 2
    assert len(load("folder", "way", input_shape=(1, 6, 6)).train) == 2


def test_more_than_memory(tmp_path: Path, load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    class_tree(tmp_path, {"a": 2})
    monkeypatch.setattr(memory, "available_bytes", lambda: 100_000)
    error = diagnostic(lambda: load("folder", ".", {"size": 224}))
    assert error.code == "data-memory"
    assert "2 images of 3x224x224" in error.message
    assert "294.0 KiB" in error.message
    assert "97.7 KiB" in error.message


def test_without_pillow(tmp_path: Path, load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    class_tree(tmp_path, {"a": 2})
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    error = diagnostic(lambda: load("folder", ".", {"size": 8}))
    assert error.hint == "pip install pillow"


def test_available_memory_is_plausible() -> None:
    assert 1 << 20 < memory.available_bytes() <= 1 << 50
    assert [memory.format_bytes(count) for count in (17, 1536, 5 << 30)] == ["17 bytes", "1.5 KiB", "5.0 GiB"]
