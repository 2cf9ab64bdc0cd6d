"""What a run was started with, kept in its folder, and whether another start would continue it bit by bit."""

from __future__ import annotations

from dataclasses import MISSING, asdict, fields
from pathlib import Path

from convc.ir.diagnostic import CompileError, Diagnostic, Note, fail
from convc.lazy import dataclass


@dataclass(frozen=True)
class RunSettings:
    """Everything that decides the bits of a result, and (marked in `_FREE`) a few things that do not.

    `net_digest` and `data_digest` stand for the net and the images themselves.
    """

    net: str
    net_digest: str
    data: str
    data_digest: str
    batch: int
    epochs: int
    seed: int
    optimizer: str
    schedule: str
    decay: str
    precision: str
    target: str
    cpu_tier: str
    threads: int | None = None
    source: str | None = None
    accumulate: int = 1
    clip: float | None = None
    maxnorm: float | None = None
    class_weights: str = "none"
    augment: str = "none"
    algorithms: str = "auto"
    fp32: str = "none"
    rounding: str = "nearest"
    loss_scale: str = "none"

    def to_json(self) -> dict[str, object]:
        return {"schema": 1, **asdict(self)}


# What may differ between a run and its continuation.
_FREE = frozenset({"threads", "source", "epochs", "data", "net"})


def parse_settings(content: dict[str, object], path: Path) -> RunSettings:
    """What `to_json` gave. Error: `file-run`."""
    # What has a default came later than the first runs.
    names = [field.name for field in fields(RunSettings) if field.name in content or field.default is MISSING]
    try:
        return RunSettings(**{name: content[name] for name in names})  # type: ignore[arg-type]
    except KeyError as error:
        fail("file-run", f"{path} is damaged or from another version of convc: it lacks {error}")


def require_continuation(old: RunSettings, new: RunSettings, path: Path) -> None:
    """Refuse (`checkpoint-settings`) to go on with settings that would not continue the same computation."""
    changed = [
        field.name
        for field in fields(RunSettings)
        if field.name not in _FREE and getattr(old, field.name) != getattr(new, field.name)
    ]
    if not changed:
        return
    notes = tuple(Note(_difference(name, getattr(old, name), getattr(new, name))) for name in changed)
    names = ", ".join(name.removesuffix("_digest").replace("_", " ") for name in changed)
    raise CompileError(
        [
            Diagnostic(
                "checkpoint-settings",
                f"the run in {path} cannot go on bit by bit: {names} changed",
                notes=notes,
                hint="train into a new folder; --init takes over the weights alone",
            )
        ]
    )


def _difference(name: str, old: object, new: object) -> str:
    if name.endswith("_digest"):
        what = {"net_digest": "the net", "data_digest": "the training data"}[name]
        return f"{what} is not what it was"
    return f"{name.replace('_', ' ')}: {old} in the run, {new} now"
