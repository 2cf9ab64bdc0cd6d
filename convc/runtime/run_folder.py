"""The folder of a training run: everything about it, and enough to evaluate, predict or go on without anything else."""

from __future__ import annotations

import json
import os
import re
from contextlib import suppress
from pathlib import Path

from convc.ir.diagnostic import fail
from convc.runtime.atomic import sweep, write_text
from convc.runtime.plain_files import read_plain

_LOCK = ".lock"
_NUMBERED = re.compile(r"-(\d+)$")
# What a run folder is recognised by.
SETTINGS = "settings.json"


class RunFolder:
    """A locked run folder. Two processes never write into one; the system frees the lock of one that dies."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = _acquire(path)
        sweep(path)

    @property
    def model(self) -> Path:
        """The net and its resolved settings, as a program of the language."""
        return self.path / "model.cnn"

    @property
    def settings(self) -> Path:
        return self.path / SETTINGS

    @property
    def choices(self) -> Path:
        """The algorithm of every convolution, in the training step and in inference."""
        return self.path / "choices.json"

    @property
    def environment(self) -> Path:
        return self.path / "environment.json"

    @property
    def log(self) -> Path:
        return self.path / "log.txt"

    @property
    def best(self) -> Path:
        return self.path / "best.safetensors"

    @property
    def last(self) -> Path:
        return self.path / "last.safetensors"

    @property
    def state(self) -> Path:
        """The full training state, from which a run goes on bit by bit."""
        return self.path / "state.safetensors"

    @property
    def result(self) -> Path:
        """What a finished run reached."""
        return self.path / "result.json"

    def write_json(self, path: Path, content: object) -> None:
        write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")

    def read_json(self, path: Path) -> dict[str, object]:
        """Content of a file of the run. Error: `file-run` if it is missing or damaged."""
        try:
            content = json.loads(read_plain(path))
        except (OSError, ValueError, RecursionError) as error:
            reason = error.strerror if isinstance(error, OSError) else None
            fail("file-run", f"cannot read {path}: {reason or error}")
        if not isinstance(content, dict):
            fail("file-run", f"{path} is damaged: it holds no object")
        return content

    def close(self) -> None:
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


def open_folder(out: Path | None, name: str, resume: bool, root: Path = Path("runs")) -> tuple[RunFolder, bool]:
    """The run folder, locked, and whether a run is to be continued in it.

    `out` *is* the folder; without it `root/NAME-N` is: the first free number or, to resume, the last one there is.
    Errors: `file-folder` (a folder of something else, or of a run that is not to be resumed), `file-in-use`,
    `file-write`.
    """
    if out is None:
        path = _last_numbered(root, name) if resume else None
        if path is None:
            return RunFolder(_create_numbered(root, name)), False
    else:
        path = out
    if path.exists() and not path.is_dir():
        fail("file-folder", f"{path} is not a folder")
    entries = _entries(path)
    if entries and SETTINGS not in entries:
        fail(
            "file-folder",
            f"{path} is not empty and holds no run: nothing is written there",
            hint="name a new or empty folder",
        )
    if entries and not resume:
        fail(
            "file-folder",
            f"{path} holds a run already: it is not overwritten",
            hint=f"--resume goes on with it; otherwise name another folder than {path.name}",
        )
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        fail("file-write", f"cannot create {path}: {error.strerror}")
    return RunFolder(path), bool(entries)


def _entries(path: Path) -> set[str]:
    """What lies in a folder, but for our own lock, which a run that failed at once leaves behind."""
    try:
        return set(os.listdir(path)) - {_LOCK}
    except (FileNotFoundError, NotADirectoryError):
        return set()
    except OSError as error:
        fail("file-folder", f"cannot read the folder {path}: {error.strerror}")


def _numbers(root: Path, name: str) -> list[int]:
    found: list[int] = []
    with suppress(OSError):
        for entry in os.listdir(root):
            number = _NUMBERED.search(entry)
            if number and entry[: number.start()] == name:
                found.append(int(number.group(1)))
    return found


def _last_numbered(root: Path, name: str) -> Path | None:
    runs = [number for number in _numbers(root, name) if (root / f"{name}-{number}" / SETTINGS).is_file()]
    return root / f"{name}-{max(runs)}" if runs else None


def _create_numbered(root: Path, name: str) -> Path:
    number = max(_numbers(root, name), default=0) + 1
    while True:
        path = root / f"{name}-{number}"
        try:
            root.mkdir(parents=True, exist_ok=True)
            path.mkdir()
        except FileExistsError:
            if not root.is_dir():
                fail("file-write", f"cannot create {path}: {root} is not a folder")
            number += 1  # another run was faster
        except OSError as error:
            fail("file-write", f"cannot create {path}: {error.strerror}", hint="--out DIR names another place")
        else:
            return path


def _acquire(path: Path) -> int:
    """Lock the folder; the descriptor holds the lock until it is closed or the process ends."""
    import fcntl

    lock = path / _LOCK
    try:
        handle = os.open(lock, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o644)
    except OSError as error:
        fail("file-write", f"cannot write into {path}: {error.strerror}", hint="--out DIR names another place")
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        fail("file-in-use", f"another process is training in {path}", hint="--out DIR names another place")
    except OSError:
        pass  # a file system without locks
    return handle
