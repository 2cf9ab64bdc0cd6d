"""`checkpoint every=1e keep=3`: the last few states of a training as files of their own, beside the newest one.

Each is a whole training state, from which a run can go on, evaluate or start. They are numbered by the updates done.
"""

from __future__ import annotations

import os
import re
import shutil
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from convc.ir.diagnostic import CompileError
from convc.lazy import dataclass
from convc.runtime.atomic import replaced
from convc.runtime.checkpoint import read_metadata

if TYPE_CHECKING:
    from convc.frontend.settings import Checkpoint

_NAME = re.compile(r"checkpoint-(\d{8,})\.safetensors")


@dataclass(frozen=True)
class Numbered:
    """The numbered checkpoints in `folder`, the newest `keep` of them, one per `every` epochs or updates."""

    folder: Path
    every: float
    in_epochs: bool
    keep: int

    def due(self, batches: int, per_epoch: int, steps_before: int, steps: int) -> bool:
        """Whether the last batch completed another `every`.

        `batches` and `steps` (updates) count from the beginning of the training, of which an epoch has `per_epoch`
        batches; before the last batch there were `steps_before` updates.
        """
        if steps == 0:
            return False
        if self.in_epochs:
            # The small number is for intervals such as 0.1e, which binary fractions miss.
            interval = self.every * per_epoch
            return int(batches / interval + 1e-9) > int((batches - 1) / interval + 1e-9)
        return steps // self.every > steps_before // self.every

    def add(self, state: Path, step: int) -> None:
        """Keep a copy of the file `state` under the number `step`, then remove what is more than `keep`.

        Error: `file-write`.
        """
        copy_state(state, self.folder / f"checkpoint-{step:08d}.safetensors")
        self._prune(step)

    def _prune(self, step: int) -> None:
        """Of the checkpoints up to `step`, leave the newest. Later ones (of a run that went back) come again."""
        for _, path in [item for item in _ours(self.folder) if item[0] <= step][: -self.keep]:
            with suppress(OSError):
                path.unlink()


def newest(folder: Path) -> Path | None:
    """The numbered checkpoint of the highest number in `folder`."""
    found = _ours(folder)
    return found[-1][1] if found else None


def _ours(folder: Path) -> list[tuple[int, Path]]:
    """The numbered checkpoints in `folder`, in their order: what has such a name and is a training state."""
    names = [(match, name) for name in os.listdir(folder) if (match := _NAME.fullmatch(name))]
    return sorted((int(match[1]), folder / name) for match, name in names if _is_state(folder / name))


def copy_state(source: Path, destination: Path) -> None:
    """Copy a state, at once or not at all. Not a link: who copies over one name would write over both."""
    with replaced(destination) as temporary:
        shutil.copyfile(source, temporary)


def _is_state(path: Path) -> bool:
    if path.is_symlink() or not path.is_file():
        return False
    try:
        return read_metadata(path).get("kind") == "state"
    except CompileError:
        return False


def make_numbered(setting: Checkpoint | None, folder: Path) -> Numbered | None:
    """What the setting asks for; None without one."""
    if setting is None:
        return None
    return Numbered(folder, float(setting.every.value), setting.every.unit == "e", setting.keep)
