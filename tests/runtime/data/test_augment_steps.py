"""What every step does to an image, pixel by pixel, compared with the slow and obvious."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from convc.frontend import loads
from convc.frontend.setting_kinds import AUGMENT_STEPS
from convc.frontend.settings import unsupported
from convc.runtime.data.augment_draws import image_words, normals, uniform, whole
from convc.runtime.data.augment_steps import MAKERS
from tests.runtime.data.augment_helpers import run, steps
from tests.runtime.data.data_helpers import pixels

SEED, EPOCH, COUNT = 11, 3, 24


def scaled(images: np.ndarray) -> np.ndarray:
    return images.astype(np.float32) / np.float32(255)


def words(number: int = 0, of: int = 1, count: int = COUNT) -> np.ndarray:
    """The random words (4, n) of a step."""
    return image_words(SEED, of, EPOCH, np.arange(count))[number]


def draw(word: np.uint32, count: int) -> int:
    """A whole number from 0 to count - 1."""
    return int(word) * count >> 32


def places(image: np.ndarray, source: Callable[[int, int], tuple[int, int]], height: int, width: int) -> np.ndarray:
    """An image put together pixel by pixel; zero where the source lies outside."""
    result = np.zeros((len(image), height, width), image.dtype)
    for i in range(height):
        for j in range(width):
            row, column = source(i, j)
            if 0 <= row < image.shape[1] and 0 <= column < image.shape[2]:
                result[:, i, j] = image[:, row, column]
    return result


def bilinear(image: np.ndarray, row: float, column: float) -> np.ndarray:
    """The value between pixels, with zeros outside."""
    total = np.zeros(len(image))
    for i in (math.floor(row), math.floor(row) + 1):
        for j in (math.floor(column), math.floor(column) + 1):
            if 0 <= i < image.shape[1] and 0 <= j < image.shape[2]:
                total += image[:, i, j] * (1 - abs(row - i)) * (1 - abs(column - j))
    return total


def warped(image: np.ndarray, forward: np.ndarray, shift: tuple[float, float] = (0, 0)) -> np.ndarray:
    """The image after x -> forward·x + shift about its centre; x is (row, column)."""
    _, height, width = image.shape
    centre = np.array([(height - 1) / 2, (width - 1) / 2])
    inverse = np.linalg.inv(forward)
    result = np.zeros(image.shape)
    for i in range(height):
        for j in range(width):
            row, column = inverse @ (np.array([i, j]) - centre - shift) + centre
            result[:, i, j] = bilinear(image, row, column)
    return result


def rotation(degrees: float) -> np.ndarray:
    """Counter-clockwise as seen, for (row, column) with rows counted downwards."""
    angle = math.radians(degrees)
    return np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_pad(dtype: type) -> None:
    images = pixels(5, 3, 4, 6).astype(dtype)
    result = run("pad 2", images)
    assert result.shape == (5, 3, 8, 10)
    expected = np.pad(images, ((0, 0), (0, 0), (2, 2), (2, 2)))
    np.testing.assert_array_equal(result, scaled(expected) if dtype is np.uint8 else expected)


@pytest.mark.parametrize("size", ["5", "(3, 6)", "(7, 8)"])
def test_crop(size: str) -> None:
    images = pixels(COUNT, 2, 7, 8)
    result = run(f"crop {size}", images, SEED, EPOCH)
    height, width = result.shape[2:]
    corners = {(draw(top, 8 - height), draw(left, 9 - width)) for top, left in words()[:2].T}
    for image, (top, left), found in zip(images, words()[:2].T, result, strict=True):
        row, column = draw(top, 8 - height), draw(left, 9 - width)
        np.testing.assert_array_equal(found, scaled(image[:, row : row + height, column : column + width]))
    assert len(corners) > (1 if size != "(7, 8)" else 0)


@pytest.mark.parametrize(("axis", "turned"), [("h", np.fliplr), ("v", np.flipud)])
def test_flip(axis: str, turned: Callable[[np.ndarray], np.ndarray]) -> None:
    images = pixels(COUNT, 3, 4, 5)
    result = run(f"flip {axis}", images, SEED, EPOCH)
    mirrored = [bool(word >> 31) for word in words()[0]]
    assert 4 < sum(mirrored) < 20
    for image, is_mirrored, found in zip(images, mirrored, result, strict=True):
        expected = np.array([turned(channel) for channel in image]) if is_mirrored else image
        np.testing.assert_array_equal(found, scaled(expected))


def test_shift() -> None:
    images = pixels(COUNT, 2, 5, 7)
    result = run("shift (2, 3)", images, SEED, EPOCH)
    drawn = [(draw(a, 5) - 2, draw(b, 7) - 3) for a, b in words()[:2].T]
    assert {down for down, _ in drawn} == {-2, -1, 0, 1, 2}
    for image, (down, right), found in zip(images, drawn, result, strict=True):
        expected = places(image, lambda i, j, d=down, r=right: (i - d, j - r), 5, 7)
        np.testing.assert_array_equal(found, scaled(expected))


def test_moves_one_after_another_lose_what_left_the_image() -> None:
    images = pixels(COUNT, 3, 6, 6)
    result = run("pad 1 -> shift 1 -> crop 5 -> shift 2 -> flip v", images, SEED, EPOCH)
    for k, image in enumerate(images):
        draws = [words(number, 5)[:, k] for number in range(5)]
        value = np.pad(image, ((0, 0), (1, 1), (1, 1)))
        down, right = draw(draws[1][0], 3) - 1, draw(draws[1][1], 3) - 1
        value = places(value, lambda i, j, d=down, r=right: (i - d, j - r), 8, 8)
        top, left = draw(draws[2][0], 4), draw(draws[2][1], 4)
        value = value[:, top : top + 5, left : left + 5]
        down, right = draw(draws[3][0], 5) - 2, draw(draws[3][1], 5) - 2
        value = places(value, lambda i, j, d=down, r=right: (i - d, j - r), 5, 5)
        value = value[:, ::-1] if draws[4][0] >> 31 else value
        np.testing.assert_array_equal(result[k], scaled(value))


@pytest.mark.parametrize("shape", [(1, 7, 7), (3, 6, 9), (2, 1, 5), (1, 1, 1)])
def test_rotate(shape: tuple[int, int, int]) -> None:
    images = pixels(COUNT, *shape)
    result = run("rotate 40", images, SEED, EPOCH)
    angles = uniform(words()[0], -40, 40)
    assert angles.min() < -20 < 20 < angles.max()
    for image, angle, found in zip(scaled(images), angles, result, strict=True):
        np.testing.assert_allclose(found, warped(image, rotation(angle)), atol=1e-5)


def test_scale() -> None:
    images = pixels(COUNT, 2, 6, 7)
    result = run("scale (0.5, 2)", images, SEED, EPOCH)
    factors = uniform(words()[0], 0.5, 2)
    assert factors.min() < 0.8 < 1.5 < factors.max()
    for image, factor, found in zip(scaled(images), factors, result, strict=True):
        np.testing.assert_allclose(found, warped(image, factor * np.eye(2)), atol=1e-5)


def test_known_turns_and_sizes() -> None:
    """Half-pixel centres: quarter turns and doubling have results that can be read off."""
    image = np.zeros((1, 1, 4, 4), np.float32)
    image[0, 0, 0, 3] = 1
    np.testing.assert_allclose(warped(image[0], rotation(90))[0, 0], [1, 0, 0, 0], atol=1e-6)
    big = run("scale 2", image)[0, 0]
    assert big[0, 3] == 1 / 16  # a quarter of a pixel inside of the image's second row and column
    doubled = run("scale 2", np.full((1, 1, 4, 4), 8, np.float32))[0, 0]
    np.testing.assert_allclose(doubled, 8)
    half = run("scale 0.5", np.full((1, 1, 4, 4), 8, np.float32))[0, 0]
    np.testing.assert_allclose(half, [[0, 0, 0, 0], [0, 8, 8, 0], [0, 8, 8, 0], [0, 0, 0, 0]])


def test_what_changes_nothing_is_exact() -> None:
    images = pixels(9, 3, 5, 8)
    for text in ("rotate 0", "scale 1", "rotate 0 -> scale 1 -> shift 0", "noise 0", "pad 0", "shift 0", "crop (5, 8)"):
        np.testing.assert_array_equal(run(text, images), scaled(images), err_msg=text)


def test_affine_steps_are_one_interpolation() -> None:
    """Turning, enlarging, shifting and mirroring in a row is one map, in the order of the steps."""
    images = pixels(COUNT, 1, 9, 8)
    result = run("flip h -> rotate 30 -> shift 2 -> scale (0.7, 1.4) -> flip v", images, SEED, EPOCH)
    for k, image in enumerate(scaled(images)):
        draws = [words(number, 5)[:, k] for number in range(5)]
        mirror = np.diag([1.0, -1.0 if draws[0][0] >> 31 else 1.0])
        turn = rotation(float(uniform(draws[1][0], -30, 30)))
        shift = np.array([draw(draws[2][0], 5) - 2, draw(draws[2][1], 5) - 2])
        factor = float(uniform(draws[3][0], 0.7, 1.4))
        last = np.diag([-1.0 if draws[4][0] >> 31 else 1.0, 1.0])
        expected = warped(image, last @ (factor * turn @ mirror), tuple(last @ (factor * shift)))
        np.testing.assert_allclose(result[k], expected, atol=1e-5)


def test_steps_between_others() -> None:
    """Exact moves before and after an interpolation."""
    images = pixels(COUNT, 2, 6, 6)
    result = run("pad 2 -> rotate 25 -> crop 6 -> flip h", images, SEED, EPOCH)
    for k, image in enumerate(scaled(images)):
        draws = [words(number, 4)[:, k] for number in range(4)]
        value = warped(np.pad(image, ((0, 0), (2, 2), (2, 2))), rotation(float(uniform(draws[1][0], -25, 25))))
        top, left = draw(draws[2][0], 5), draw(draws[2][1], 5)
        value = value[:, top : top + 6, left : left + 6]
        value = value[:, :, ::-1] if draws[3][0] >> 31 else value
        np.testing.assert_allclose(result[k], value, atol=1e-5)


@pytest.mark.parametrize("size", ["3", "(2, 5)", "6"])
def test_cutout(size: str) -> None:
    images = np.full((COUNT, 3, 6, 7), 255, np.uint8)
    result = run(f"cutout {size}", images, SEED, EPOCH)
    height, width = steps(f"cutout {size}")[0].arguments["size"]  # type: ignore[misc]
    for found, (a, b) in zip(result, words()[:2].T, strict=True):
        row, column = draw(a, 6), draw(b, 7)
        expected = np.ones((3, 6, 7))
        for i in range(6):
            for j in range(7):
                inside = 0 <= i - row + height // 2 < height and 0 <= j - column + width // 2 < width
                expected[:, i, j] = 0 if inside else 1
        np.testing.assert_array_equal(found, expected)


def test_noise() -> None:
    images = pixels(COUNT, 3, 4, 5)
    result = run("flip h -> noise 0.25", images, SEED, EPOCH)
    plain = run("flip h -> noise 0", images, SEED, EPOCH)
    expected = np.float32(0.25) * normals(SEED, 1, EPOCH, np.arange(COUNT), 60).reshape(COUNT, 3, 4, 5)
    np.testing.assert_allclose(result - plain, expected, atol=1e-6)


def test_float_images_keep_their_units() -> None:
    images = np.linspace(-300, 900, 2 * 36, dtype=np.float32).reshape(2, 1, 6, 6)
    np.testing.assert_array_equal(run("pad 1 -> crop 8", images), np.pad(images, ((0, 0), (0, 0), (1, 1), (1, 1))))
    noisy = run("noise 0.5", images) - images
    assert 0 < np.abs(noisy).max() < 3


@pytest.mark.parametrize("factor", ["1e-300", "1e-9", "1e9", "1e300"])
def test_absurd_factors_stay_finite(factor: str) -> None:
    result = run(f"scale {factor} -> rotate 180 -> scale {factor}", pixels(3, 1, 5, 5))
    assert np.isfinite(result).all()
    assert 0 <= result.min() <= result.max() <= 1


# What is drawn


def test_whole_and_uniform_numbers() -> None:
    edge = np.array([0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF], np.uint32)
    assert whole(edge, 2).tolist() == [0, 0, 0, 1, 1]
    assert whole(edge, 1).tolist() == [0] * 5
    assert whole(edge, 1000)[-1] == 999
    numbers = uniform(edge, -10, 30)
    assert -10 < numbers[0] < -9.99
    assert 29.99 < numbers[-1] < 30
    assert uniform(edge, 2, 2).tolist() == [2] * 5


def test_draws_are_pinned() -> None:
    """These numbers may never change: runs are resumed under later versions of this program and of NumPy."""
    assert image_words(7, 2, 3, np.array([0, 5]))[:, :, 1].tolist() == PINNED_WORDS
    np.testing.assert_allclose(normals(7, 1, 3, np.array([5]), 4)[0], PINNED_NORMALS, rtol=1e-5)


PINNED_WORDS = [[3685294358, 2827265692, 35015561, 1427316426], [3254200663, 2094281165, 3920872433, 677097600]]
PINNED_NORMALS = [0.34015053510665894, 0.2387484312057495, -1.066910982131958, 0.6887465119361877]


def test_every_seed_step_epoch_and_image_draws_its_own() -> None:
    seeds = (0, 1, 1 << 32, (1 << 63) - 1)
    drawn = [image_words(seed, 3, epoch, np.arange(50)).reshape(-1) for seed in seeds for epoch in (0, 1, 1000)]
    assert len(np.unique(np.concatenate(drawn))) == len(np.concatenate(drawn))
    noise = [
        normals(seed, step, epoch, np.arange(3), 20).reshape(-1)
        for seed in seeds
        for step in (0, 1)
        for epoch in (0, 5)
    ]
    assert len({round(float(value), 6) for value in np.concatenate(noise)}) > 0.99 * 60 * len(noise)


def test_moments_of_the_noise() -> None:
    values = normals(1, 0, 0, np.arange(100), 1001).astype(float)
    assert values.shape == (100, 1001)
    assert abs(values.mean()) < 0.01
    assert abs(values.std() - 1) < 0.01
    assert abs((values**3).mean()) < 0.03
    assert abs((values**4).mean() - 3) < 0.1
    assert abs(np.corrcoef(values[:, 0:500].ravel(), values[:, 501:1001].ravel())[0, 1]) < 0.015
    assert np.abs(values).max() < 5.8


def test_statistics_of_the_steps() -> None:
    count = 4000
    images = np.zeros((count, 1, 9, 9), np.uint8)
    images[:, :, 4, 4] = 255
    rows, columns = np.nonzero(run("shift (3, 1)", images)[:, 0])[1:]
    assert np.bincount(rows - 1).tolist() == pytest.approx([count / 7] * 7, rel=0.15)
    assert np.bincount(columns - 3).tolist() == pytest.approx([count / 3] * 3, rel=0.1)
    marked = np.zeros((count, 1, 2, 2), np.uint8)
    marked[:, 0, 0, 0] = 255
    flipped = run("flip h -> flip v", marked)[:, 0].reshape(count, 4).argmax(1)
    assert np.bincount(flipped).tolist() == pytest.approx([count / 4] * 4, rel=0.12)
    assert np.abs(np.corrcoef(rows, columns)[0, 1]) < 0.06


def test_the_table_and_the_refusals_cover_the_language() -> None:
    examples = {"flip": "flip h", "scale": "scale (0.8, 1.2)"}
    for kind in AUGMENT_STEPS:
        text = examples.get(kind.word, f"{kind.word} 1")
        net = f"net n {{ input 1x2x2 -> fc 2 -> loss softmax }}\ntrain {{ augment {{ {text} }} }}"
        refused = unsupported(loads(net).settings)
        assert (kind.word in MAKERS) == (not refused), kind.word


def test_the_manual_has_a_row_for_every_step(repository: Path) -> None:
    text = (repository / "docs" / "language.md").read_text(encoding="utf-8")
    section = text[text.index("### `augment`") :].split("\n## ")[0]
    rows = re.findall(r"^\| `(\w+)", section, re.MULTILINE)
    assert sorted(rows) == sorted(MAKERS)
