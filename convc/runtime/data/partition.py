"""Which images of a set make up its training, validation and test parts.

Everything is decided from labels alone, before any image is decoded. The rules:

* A subset of a part that exists (`train=1000`) is class-balanced as far as possible: every class gives the same number,
  or all it has. For one seed the subset of 100 lies within the subset of 1000.
* Where every pixel has a label instead, all images count as of one class.
* A part carved out of the training images (`val=N`, `split=F`, or `test=N` where the set has none) keeps the
  proportions of the classes, so that no rare class is drained from what is left to train on.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from convc.ir.diagnostic import fail
from convc.runtime.data.options import DataOptions
from convc.runtime.data.ordering import selection_order

PARTS = ("train", "validation", "test")

# Where a part comes from, and which images (ascending int64); None: all of them.
Choice = tuple[str, "np.ndarray | None"]

_KEYWORDS = {"train": "train", "validation": "val", "test": "test"}


def choose_parts(labels: Mapping[str, np.ndarray], options: DataOptions, name: str) -> dict[str, Choice]:
    """What goes into each part; `labels` holds the class numbers of the parts that set `name` comes with.

    Errors: `data-too-few` when more images are asked than there are, `data-option` for a `split` of a set that comes
    with a validation part.
    """
    if "train" not in labels:
        fail("data-empty", f"{name} has no training images")
    if options.split is not None and "validation" in labels:
        fail("data-option", f"split={options.split:g}: {name} comes with a validation part", hint="leave `split=` out")
    wanted = {"train": options.train, "validation": options.validation, "test": options.test}
    if options.split is not None:
        wanted["validation"] = _held_out(len(labels["train"]), options.split, name)
    remaining = np.arange(len(labels["train"]))
    chosen: dict[str, Choice] = {}
    # Test first, training last: what is tested on does not change with the size of the other parts.
    for purpose, part in enumerate(("test", "validation")):
        count = wanted[part]
        if part in labels:
            chosen[part] = (part, _subset(labels[part], count, options.seed, part, name))
        elif count is not None:
            _require_left(wanted, labels, name)
            taken = _proportional(labels["train"][remaining], count, options.seed, purpose)
            chosen[part] = ("train", remaining[taken])
            remaining = np.delete(remaining, taken)
    _require_left(wanted, labels, name)
    picked = _subset(labels["train"][remaining], wanted["train"], options.seed, "train", name)
    whole = picked is None and len(remaining) == len(labels["train"])
    chosen["train"] = ("train", None if whole else remaining if picked is None else remaining[picked])
    return {part: chosen[part] for part in PARTS if part in chosen}


def _held_out(count: int, split: float, name: str) -> int:
    held = count - round(count * split)
    if not 0 < held < count:
        fail("data-too-few", f"split={split:g} leaves a part empty: {name} has {count} training images")
    return held


def _require_left(wanted: Mapping[str, int | None], labels: Mapping[str, np.ndarray], name: str) -> None:
    """Refuse unless the training images suffice for the parts carved out of them and for the training itself."""
    available = len(labels["train"])
    carved = [part for part in ("validation", "test") if part not in labels and wanted[part] is not None]
    if not carved:
        return
    total = sum(wanted[part] or 0 for part in carved) + (wanted["train"] or 1)
    if total > available:
        asked = [f"{_KEYWORDS[part]}={wanted[part]}" for part in PARTS if part in (*carved, "train") and wanted[part]]
        surplus = total if wanted["train"] else total - 1
        fail(
            "data-too-few",
            f"{' '.join(asked)} asks for {surplus} of the training images of {name}, which has {available}"
            + ("" if wanted["train"] else ", and leaves none to train on"),
        )


def _subset(labels: np.ndarray, count: int | None, seed: int, part: str, name: str) -> np.ndarray | None:
    """Indices of a class-balanced subset of `count`, ascending; `None` when it is everything."""
    if count is None or count == len(labels):
        return None
    if count > len(labels):
        fail(
            "data-too-few",
            f"{_KEYWORDS[part]}={count}: the {part} part of {name} has only {len(labels)} images",
            hint=f"{_KEYWORDS[part]}={len(labels)} or less",
        )
    sizes = np.bincount(labels)
    return _first_of_classes(labels, _even_shares(sizes, count, seed), seed, 2 + PARTS.index(part))


def _even_shares(sizes: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Equal numbers per class that add up to `count`; classes that are too small give all, the others the rest."""
    low, high = 0, int(sizes.max())
    while low < high:  # the largest level at which min(size, level) does not exceed the count
        middle = (low + high + 1) // 2
        low, high = (middle, high) if np.minimum(sizes, middle).sum() <= count else (low, middle - 1)
    shares = np.minimum(sizes, low)
    for label in selection_order(len(sizes), seed, 5):
        if shares.sum() == count:
            break
        shares[label] += sizes[label] > low
    return shares


def _proportional(labels: np.ndarray, count: int, seed: int, purpose: int) -> np.ndarray:
    """Indices of `count` images that show the classes in their proportions (largest remainders), ascending."""
    products = np.bincount(labels) * count
    shares, remainders = np.divmod(products, len(labels))
    order = selection_order(len(products), seed, 6)  # decides between equal remainders
    largest = order[np.argsort(-remainders[order], kind="stable")]
    shares[largest[: count - int(shares.sum())]] += 1
    return _first_of_classes(labels, shares, seed, purpose)


def _first_of_classes(labels: np.ndarray, shares: np.ndarray, seed: int, purpose: int) -> np.ndarray:
    """The first `shares[k]` images of every class k in a random order of all images, ascending."""
    order = selection_order(len(labels), seed, purpose)
    shuffled = labels[order]
    by_class = np.argsort(shuffled, kind="stable")
    starts = np.concatenate([[0], np.cumsum(np.bincount(shuffled, minlength=len(shares)))])
    rank = np.arange(len(labels)) - starts[shuffled[by_class]]
    return np.sort(order[by_class[rank < shares[shuffled[by_class]]]])
