"""The options of a `data` item, checked: counts, split, seed, what to do about bad images, and size."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Literal, NoReturn

from convc.ir.diagnostic import fail
from convc.lazy import dataclass

_COMMON = ("train", "val", "test", "split", "seed")
_FOLDER_ONLY = ("bad", "size")


@dataclass(frozen=True)
class DataOptions:
    """`train`, `validation`, `test`: images wanted per part (`None`: all there are). `split`: the fraction of the
    training images that stays in the training part. `size`: (height, width) to which images are brought."""

    train: int | None = None
    validation: int | None = None
    test: int | None = None
    split: float | None = None
    seed: int = 0
    bad: Literal["refuse", "skip"] = "refuse"
    size: tuple[int, int] | None = None


def parse_options(kind: str, options: Mapping[str, object], seed: int) -> DataOptions:
    """Check plain values from a file or a command line; `seed` serves where `options` has none.

    Raises `data-option` for an unknown option, a value of the wrong type, or options that exclude each other.
    """
    known = _COMMON + (_FOLDER_ONLY if kind == "folder" else ())
    for key in options:
        if key not in known:
            _unknown(kind, key, known)
    validation, split = _count(options, "val"), _fraction(options)
    if validation is not None and split is not None:
        fail("data-option", f"val={validation} and split={split:g} exclude each other", hint="keep one of the two")
    return DataOptions(
        train=_count(options, "train"),
        validation=validation,
        test=_count(options, "test"),
        split=split,
        seed=seed if options.get("seed") is None else _integer(options["seed"], "seed"),
        bad=_policy(options),
        size=_size(options),
    )


def _unknown(kind: str, key: str, known: tuple[str, ...]) -> NoReturn:
    if key in _FOLDER_ONLY:
        fail("data-option", f"`{key}=` is an option of `data folder` only, not of `data {kind}`")
    near = difflib.get_close_matches(key, known, 1)
    hint = f"did you mean `{near[0]}=`?" if near else f"options of `data {kind}`: " + ", ".join(f"{k}=" for k in known)
    fail("data-option", f"`data {kind}` has no option `{key}=`", hint=hint)


def _integer(value: object, key: str) -> int:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        fail("data-option", f"`{key}=` takes a whole number, not {value!r}")
    return value


def _count(options: Mapping[str, object], key: str) -> int | None:
    if options.get(key) is None:
        return None
    value = _integer(options[key], key)
    if value < 1:
        fail("data-option", f"`{key}=` takes a number of images of at least 1, not {value}")
    return value


def _fraction(options: Mapping[str, object]) -> float | None:
    value = options.get("split")
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < 1:
        fail(
            "data-option",
            f"`split=` takes the fraction of images to train on, between 0 and 1, not {value!r}",
            hint="split=0.9 trains on nine tenths and validates on the rest",
        )
    return float(value)


def _policy(options: Mapping[str, object]) -> Literal["refuse", "skip"]:
    value = options.get("bad", "refuse")
    if value == "refuse":
        return "refuse"
    if value == "skip":
        return "skip"
    fail("data-option", f"`bad=` is refuse or skip, not {value!r}")


def _size(options: Mapping[str, object]) -> tuple[int, int] | None:
    value = options.get("size")
    if value is None:
        return None
    pair = value if isinstance(value, (tuple, list)) else (value, value)
    if len(pair) != 2:
        fail("data-option", f"`size=` takes a number or a pair (height, width), not {value!r}")
    height, width = (_integer(extent, "size") for extent in pair)
    if not (1 <= height <= 1 << 15 and 1 <= width <= 1 << 15):
        fail("data-option", f"`size=` takes 1 to {1 << 15} pixels, not {height}x{width}")
    return height, width
