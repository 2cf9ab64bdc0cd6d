"""Names of layers as paths: which components are bodies, once some of them are dissolved into the body around them."""

from __future__ import annotations

Path = tuple[str, ...]


def clipped(path: Path, most: int) -> Path:
    """A path of at most so many components, the last ones joined."""
    return path if len(path) <= most else (*path[: most - 1], "_".join(path[most - 1 :]))


def components(path: Path, dissolved: set[Path]) -> Path:
    """The components of a path, those of dissolved bodies joined with what follows."""
    return tuple("_".join(group) for group, _ in _groups(path, dissolved))


def prefixes(path: Path, dissolved: set[Path]) -> list[Path]:
    """For every component, the prefix of the path that ends with it."""
    return [path[:end] for _, end in _groups(path, dissolved)]


def _groups(path: Path, dissolved: set[Path]) -> list[tuple[list[str], int]]:
    groups: list[tuple[list[str], int]] = []
    pending: list[str] = []
    for depth, component in enumerate(path, 1):
        pending.append(component)
        if depth == len(path) or path[:depth] not in dissolved:
            groups.append((pending, depth))
            pending = []
    return groups
