"""Did-you-mean, and how values are shown in messages."""

from __future__ import annotations

from collections.abc import Iterable


def closest(word: str, choices: Iterable[str]) -> str | None:
    """The choice that `word` was most likely meant to be, or None."""
    import difflib

    pool = list(choices)
    folded = {choice.lower(): choice for choice in pool}
    if word.lower() in folded:
        return folded[word.lower()]
    near = difflib.get_close_matches(word, pool, 3, cutoff=0.6)
    # Letters that have changed places are a likelier slip than another letter.
    near.sort(key=lambda name: sorted(name) != sorted(word))
    return near[0] if near else None


def did_you_mean(word: str, choices: Iterable[str], else_list: str | None = None) -> str | None:
    """A hint; where nothing is near, the choices themselves after the words `else_list`."""
    pool = list(choices)
    near = closest(word, pool)
    if near is not None:
        return f"did you mean `{near}`?"
    return f"{else_list} {', '.join(pool)}" if else_list and pool else None


def shape_text(shape: Iterable[int]) -> str:
    """The language's way to write a shape: 3x224x224."""
    return "x".join(map(str, shape))


def plural(count: int, noun: str, many: str | None = None) -> str:
    """`1 row`, `2 rows`."""
    return f"{count} {noun if count == 1 else many or noun + 's'}"
