"""Philox against the known-answer vectors of Random123 (kat_vectors, philox 4x32 with 10 rounds), and dropout on it."""

from __future__ import annotations

import numpy as np
import pytest

from convc.ir.ops.random import DropoutTraining, NoiseTraining
from convc.ir.philox import gaussian, philox, random_bits, stream_key

ANSWERS = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]


def words(text: str) -> list[int]:
    return [int(word, 16) for word in text.split()]


@pytest.mark.parametrize(("counter", "key", "answer"), ANSWERS)
def test_known_answers(counter: str, key: str, answer: str) -> None:
    k0, k1 = words(key)
    result = philox(tuple(np.array([word]) for word in words(counter)), (k0, k1))
    assert [int(word[0]) for word in result] == words(answer)
    assert all(word.dtype == np.uint32 for word in result)


def test_known_answers_as_arrays() -> None:
    counters = np.array([words(counter) for counter, _, _ in ANSWERS[:1]] * 5).T
    result = np.array(philox(tuple(counters), (0, 0)))
    np.testing.assert_array_equal(result.T, [words(ANSWERS[0][2])] * 5)


def test_first_element_is_the_first_known_answer() -> None:
    assert int(random_bits((1,), 0, 0, 0)[0]) == 0x6627E8D5


def test_bits_depend_on_everything_but_the_shape() -> None:
    base = random_bits((2, 3, 4), 1, 2, 3)
    assert base.shape == (2, 3, 4)
    np.testing.assert_array_equal(base.ravel(), random_bits((24,), 1, 2, 3))
    np.testing.assert_array_equal(base.ravel()[:5], random_bits((5,), 1, 2, 3))
    for other in [(2, 2, 3), (1, 3, 3), (1, 2, 4), (1, 2, 3 + 2**32)]:
        assert (random_bits((24,), *other) != base.ravel()).mean() > 0.9


def test_elements_are_the_low_word_of_the_counter_and_updates_the_third() -> None:
    bits = random_bits((7,), 11, 13, 5)
    expected = philox((np.arange(7), np.zeros(7), np.full(7, 5), np.zeros(7)), (11, 13))[0]
    np.testing.assert_array_equal(bits, expected)


def test_stream_keys_are_stable_and_distinct() -> None:
    assert stream_key("fc1", "dropout") == stream_key("fc1", "dropout")
    assert stream_key("fc1", "dropout") == 0xCB54C1B9
    assert len({stream_key(path, use) for path in ("fc1", "fc2", "fc") for use in ("dropout", "1dropout")}) == 6
    assert 0 <= stream_key("", "") < 2**32


@pytest.mark.parametrize("rate", [0.0, 0.2, 0.5, 0.9])
def test_dropout_keeps_the_mean(rate: float) -> None:
    x = np.ones((100, 200), np.float32)
    y = DropoutTraining(rate, 7).reference(x, np.asarray(3), np.asarray(1))
    dropped = (y == 0).mean()
    assert dropped == pytest.approx(rate, abs=0.02)
    assert y.mean() == pytest.approx(1, abs=0.05)
    np.testing.assert_allclose(y[y != 0], 1 / (1 - rate), rtol=1e-6)


def test_dropout_mask_does_not_depend_on_the_batch() -> None:
    # Element (n, c, h, w) of a smaller batch draws the same bits: the last partial batch is no special case.
    x = np.ones((8, 3, 2, 2), np.float32)
    op, seed, step = DropoutTraining(0.5, 7), np.asarray(3), np.asarray(1)
    np.testing.assert_array_equal(op.reference(x, seed, step)[:5], op.reference(x[:5], seed, step))


def test_noise_is_standard_normal() -> None:
    x = np.zeros((100, 1000))
    z = NoiseTraining(1.0, 7).reference(x, np.asarray(3), np.asarray(1))
    assert z.mean() == pytest.approx(0, abs=0.015)
    assert z.std() == pytest.approx(1, abs=0.015)
    assert (z**3).mean() == pytest.approx(0, abs=0.05)
    assert (z**4).mean() == pytest.approx(3, abs=0.1)
    assert (np.abs(z) < 1.96).mean() == pytest.approx(0.95, abs=0.005)
    assert np.abs(z).max() < 5.78
    again = NoiseTraining(1.0, 7).reference(x, np.asarray(3), np.asarray(2))
    assert abs(np.corrcoef(z.ravel(), again.ravel())[0, 1]) < 0.02


def test_gaussian_at_the_ends_of_its_words() -> None:
    zero, most, quarter = (np.asarray([word], np.uint32) for word in (0, 2**32 - 1, 2**30))
    assert gaussian(most, quarter)[0] == 0  # ln 1
    assert gaussian(zero, quarter)[0] == pytest.approx(-np.sqrt(48 * np.log(2)))
    assert gaussian(zero, zero)[0] == pytest.approx(0, abs=1e-12)
