"""Subsets, carved-out parts, and the options that ask for them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from convc.runtime.data.options import DataOptions, parse_options
from convc.runtime.data.partition import choose_parts
from tests.runtime.data.data_helpers import Load, diagnostic, pixels

IMBALANCED = np.repeat([0, 1, 2, 3], [50, 30, 15, 5]).astype(np.int32)


def chosen(labels: dict[str, np.ndarray], **options: object) -> dict[str, np.ndarray]:
    """The indices chosen per part."""
    parts = choose_parts(labels, parse_options("idx", options, 0), "set")
    return {
        part: np.arange(len(labels[source])) if indices is None else indices
        for part, (source, indices) in parts.items()
    }


def test_everything_unless_asked() -> None:
    parts = choose_parts({"train": IMBALANCED, "test": IMBALANCED}, DataOptions(), "set")
    assert parts == {"train": ("train", None), "test": ("test", None)}
    assert choose_parts({"train": IMBALANCED}, DataOptions(train=100), "set") == {"train": ("train", None)}


@pytest.mark.parametrize(
    ("count", "expected"), [(4, [1, 1, 1, 1]), (20, [5, 5, 5, 5]), (35, [10, 10, 10, 5]), (90, [40, 30, 15, 5])]
)
def test_subsets_are_balanced_as_far_as_possible(count: int, expected: list[int]) -> None:
    indices = chosen({"train": IMBALANCED}, train=count)["train"]
    assert np.bincount(IMBALANCED[indices]).tolist() == expected
    assert (np.diff(indices) > 0).all()


def test_uneven_subsets_differ_by_one() -> None:
    labels = np.repeat(np.arange(10), 50).astype(np.int32)
    counts = np.bincount(labels[chosen({"train": labels}, train=123)["train"]])
    assert sorted(counts) == [12] * 7 + [13] * 3


def test_subsets_depend_on_the_seed_alone_and_are_nested() -> None:
    def pick(count: int, seed: int) -> set[int]:
        return set(chosen({"train": IMBALANCED}, train=count, seed=seed)["train"].tolist())

    assert pick(30, 1) == pick(30, 1)
    assert pick(30, 1) != pick(30, 2)
    for count in range(1, 100):
        assert pick(count, 1) < pick(count + 1, 1)


def test_carved_parts_keep_proportions_and_do_not_overlap() -> None:
    parts = chosen({"train": IMBALANCED}, val=20, test=40, train=30)
    assert {part: len(indices) for part, indices in parts.items()} == {"train": 30, "validation": 20, "test": 40}
    assert np.bincount(IMBALANCED[parts["validation"]]).tolist() == [10, 6, 3, 1]
    assert np.bincount(IMBALANCED[parts["test"]]).tolist() == [20, 12, 6, 2]
    assert len(np.unique(np.concatenate(list(parts.values())))) == 90


def test_carved_part_does_not_depend_on_the_number_of_training_images() -> None:
    first, second = (chosen({"train": IMBALANCED}, val=20, **more)["validation"] for more in ({}, {"train": 7}))
    np.testing.assert_array_equal(first, second)


def test_split() -> None:
    parts = chosen({"train": IMBALANCED, "test": IMBALANCED}, split=0.9)
    assert {part: len(indices) for part, indices in parts.items()} == {"train": 90, "validation": 10, "test": 100}
    assert np.bincount(IMBALANCED[parts["validation"]], minlength=4).sum() == 10
    assert not set(parts["train"]) & set(parts["validation"])


def test_own_validation_part_is_used() -> None:
    parts = choose_parts({"train": IMBALANCED, "validation": IMBALANCED}, DataOptions(validation=8), "set")
    source, indices = parts["validation"]
    assert source == "validation"
    assert indices is not None
    assert np.bincount(IMBALANCED[indices]).tolist() == [2, 2, 2, 2]
    assert parts["train"] == ("train", None)


def test_class_numbers_with_gaps() -> None:
    labels = np.array([7, 7, 7, 3, 3, 3], np.int32)
    parts = chosen({"train": labels}, train=2, val=2)
    assert sorted(labels[parts["train"]]) == [3, 7]
    assert sorted(labels[parts["validation"]]) == [3, 7]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"train": 101}, ["train=101", "100"]),
        ({"test": 51}, ["test=51", "50"]),
        ({"val": 101}, ["val=101", "100"]),
        ({"val": 100}, ["val=100", "100", "none to train on"]),
        ({"train": 90, "val": 11}, ["train=90", "val=11", "101", "100"]),
        ({"split": 0.999}, ["split=0.999", "100"]),
        ({"split": 0.001}, ["split=0.001", "100"]),
    ],
)
def test_more_than_there_is(options: dict[str, object], words: list[str]) -> None:
    labels = {"train": IMBALANCED, "test": IMBALANCED[:50]}
    error = diagnostic(lambda: chosen(labels, **options))
    assert error.code == "data-too-few"
    for word in ["set", *words]:
        assert word in error.message


def test_split_of_a_set_with_validation_part() -> None:
    error = diagnostic(lambda: chosen({"train": IMBALANCED, "validation": IMBALANCED}, split=0.5))
    assert error.code == "data-option"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"trian": 5}, ["trian"]),
        ({"train": 0}, ["at least 1", "0"]),
        ({"train": -3}, ["-3"]),
        ({"train": 2.5}, ["whole number", "2.5"]),
        ({"train": True}, ["whole number"]),
        ({"val": "many"}, ["whole number", "many"]),
        ({"seed": "x"}, ["seed"]),
        ({"split": 1}, ["split", "1"]),
        ({"split": 0}, ["split", "0"]),
        ({"split": float("nan")}, ["split"]),
        ({"split": "half"}, ["split", "half"]),
        ({"split": 0.5, "val": 3}, ["exclude"]),
        ({"bad": "skip"}, ["data folder"]),
        ({"size": 3}, ["data folder"]),
    ],
)
def test_bad_options(options: dict[str, object], words: list[str]) -> None:
    error = diagnostic(lambda: parse_options("mnist", options, 0))
    assert error.code == "data-option"
    for word in words:
        assert word in error.message


@pytest.mark.parametrize(
    "options", [{"bad": "ignore"}, {"size": 0}, {"size": "big"}, {"size": (1, 2, 3)}, {"size": 1 << 20}]
)
def test_bad_options_of_folders(options: dict[str, object]) -> None:
    assert diagnostic(lambda: parse_options("folder", options, 0)).code == "data-option"


def test_good_options() -> None:
    assert parse_options("mnist", {"train": 5.0, "seed": -1}, 3) == DataOptions(train=5, seed=-1)
    assert parse_options("folder", {"split": 0.5, "size": 32, "bad": "skip"}, 3) == DataOptions(
        split=0.5, seed=3, bad="skip", size=(32, 32)
    )
    assert parse_options("folder", {"size": [32, 48]}, 3).size == (32, 48)
    hint = diagnostic(lambda: parse_options("mnist", {"trian": 5}, 0)).hint
    assert hint == "did you mean `train=`?"


def test_through_load_dataset(tmp_path: Path, load: Load) -> None:
    np.savez(tmp_path / "a.npz", x=pixels(100, 3, 3), y=IMBALANCED)
    dataset = load("npz", "a.npz", {"train": 40, "split": 0.8, "seed": 9})
    assert dataset.validation is not None
    assert (len(dataset.train), len(dataset.validation)) == (40, 20)
    again = load("npz", "a.npz", {"train": 40, "split": 0.8}, seed=9)
    assert dataset.content_hash == again.content_hash
    assert dataset.content_hash != load("npz", "a.npz", {"train": 40, "split": 0.8}, seed=8).content_hash
