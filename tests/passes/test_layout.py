"""Layouts: every logical element has one place, padding is zero, and the order is the one that kernels count on."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from convc.passes.layout import (
    ImageLayout,
    Layout,
    PlanarLayout,
    ScalarLayout,
    VectorLayout,
    WeightLayout,
    pack,
    padded,
    unpack,
)

Case = tuple[Layout, tuple[int, ...]]  # a layout, and the shape of what it stores

sizes = st.integers(1, 9)


@st.composite
def images(draw: st.DrawFn) -> Case:
    shape = draw(st.one_of(st.tuples(sizes), st.tuples(sizes, sizes, sizes)))
    return ImageLayout.of(shape), shape


@st.composite
def planar(draw: st.DrawFn) -> Case:
    shape = draw(st.tuples(sizes, sizes, sizes))
    return PlanarLayout(*shape), shape


@st.composite
def vectors(draw: st.DrawFn) -> Case:
    channels = draw(st.integers(1, 40))
    return VectorLayout(channels), (channels,)


@st.composite
def filters(draw: st.DrawFn) -> Case:
    """Packed filters of a convolution; blocks may be wider than a group, or leave a rest."""
    groups, own, c, r, s = (draw(st.integers(1, most)) for most in (3, 21, 5, 3, 3))
    block = min(draw(st.sampled_from([4, 8, 12, 16])), padded(own))
    layout = WeightLayout(groups * own, ImageLayout(c, r, s, c), block, groups)
    return draw(st.sampled_from([layout, layout.in_pairs()])), (groups * own, c, r, s)


@st.composite
def matrices(draw: st.DrawFn) -> Case:
    """Packed weights of a fully connected layer that reads a stored image, padding lanes included."""
    outputs, c, h, w = (draw(st.integers(1, most)) for most in (37, 6, 3, 3))
    block = min(draw(st.sampled_from([4, 8, 16])), padded(outputs))
    return WeightLayout(outputs, ImageLayout.of((c, h, w)), block), (outputs, c * h * w)


cases = st.one_of(images(), planar(), vectors(), filters(), matrices(), st.just((ScalarLayout(), ())))


@given(cases)
def test_every_element_has_one_place(case: Case) -> None:
    layout, shape = case
    index = layout.index_map()
    assert index.shape == (layout.size,)
    assert sorted(index[index >= 0]) == list(range(math.prod(shape)))


@given(cases, st.integers(0, 99))
def test_packing_and_unpacking_gives_the_array_back(case: Case, seed: int) -> None:
    layout, shape = case
    array = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
    stored = pack(layout, array)
    assert (stored.dtype, stored.shape) == (np.float32, (layout.size,))
    assert not stored[layout.index_map() < 0].any()
    np.testing.assert_array_equal(unpack(layout, stored, shape), array)


@given(cases, st.integers(0, 99))
def test_unpacking_does_not_look_at_padding(case: Case, seed: int) -> None:
    layout, shape = case
    array = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
    stored = np.where(layout.index_map() >= 0, pack(layout, array), np.float32(np.nan))
    np.testing.assert_array_equal(unpack(layout, stored, shape), array)


@pytest.mark.parametrize(("channels", "stored"), [(1, 1), (2, 4), (3, 4), (4, 4), (5, 8), (20, 20), (21, 24)])
def test_channels_are_padded_to_four(channels: int, stored: int) -> None:
    assert padded(channels) == stored
    assert ImageLayout.of((channels, 2, 3)).size == 6 * stored
    assert VectorLayout(channels).size == stored


def test_images_keep_the_channels_of_a_pixel_together() -> None:
    image = np.arange(12).reshape(3, 2, 2)
    stored = pack(ImageLayout.of((3, 2, 2)), image)
    assert stored.tolist() == [0, 4, 8, 0, 1, 5, 9, 0, 2, 6, 10, 0, 3, 7, 11, 0]


def test_a_flattened_image_lies_like_the_image() -> None:
    layout = ImageLayout.of((3, 2, 5))
    image = np.random.default_rng(0).standard_normal((3, 2, 5)).astype(np.float32)
    np.testing.assert_array_equal(pack(layout, image), pack(layout, image.ravel()))


def test_filters_lie_block_by_block_and_tap_by_tap() -> None:
    """[block][r][s][c][outputs of the block]; the last block is narrower."""
    filters = np.arange(6 * 2 * 1 * 3).reshape(6, 2, 1, 3)
    layout = WeightLayout(6, ImageLayout(2, 1, 3, 2), block=4)
    stored = pack(layout, filters)
    assert layout.blocks == (4, 4)
    first = stored[: 4 * 6].reshape(1, 3, 2, 4)
    np.testing.assert_array_equal(first, filters[:4].transpose(2, 3, 1, 0))
    second = stored[4 * 6 :].reshape(1, 3, 2, 4)
    np.testing.assert_array_equal(second[..., :2], filters[4:].transpose(2, 3, 1, 0))
    assert not second[..., 2:].any()


def test_rows_in_pairs_lie_side_by_side() -> None:
    """[block][r][s][pair of c][outputs of the block][2]; the last channel has a neighbour of zeros."""
    filters = np.arange(1, 1 + 4 * 3 * 1 * 2).reshape(4, 3, 1, 2)
    layout = WeightLayout(4, ImageLayout(3, 1, 2, 3), block=4).in_pairs()
    stored = pack(layout, filters).reshape(2, 2, 4, 2)
    np.testing.assert_array_equal(stored[:, 0], filters[:, :2, 0].transpose(2, 0, 1))
    np.testing.assert_array_equal(stored[:, 1, :, 0], filters[:, 2, 0].T)
    assert not stored[:, 1, :, 1].any()


def test_groups_are_packed_one_after_the_other_without_padding() -> None:
    filters = np.arange(6 * 2).reshape(6, 2, 1, 1)
    layout = WeightLayout(6, ImageLayout(2, 1, 1, 2), block=4, groups=2)
    assert (layout.blocks, layout.size) == ((3,), 12)
    stored = pack(layout, filters).reshape(2, 2, 3)
    np.testing.assert_array_equal(stored, filters.reshape(2, 3, 2).transpose(0, 2, 1))


def test_rows_of_a_matrix_follow_the_stored_image() -> None:
    rows = ImageLayout.of((3, 1, 2))
    weights = np.random.default_rng(0).standard_normal((5, 6)).astype(np.float32)
    image = np.random.default_rng(1).standard_normal((3, 1, 2)).astype(np.float32)
    layout = WeightLayout(5, rows, block=8)
    packed = pack(layout, weights).reshape(rows.size, 8)
    np.testing.assert_allclose((pack(rows, image) @ packed)[:5], weights @ image.ravel(), rtol=1e-5)
