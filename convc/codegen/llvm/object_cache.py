"""Compiled object files on disk, shared by all processes of a user.

One file per entry, in `objects` under the user's cache folder (platformdirs) or under `CONVC_CACHE_DIR`;
`CONVC_CACHE=off` switches it off. Loading an entry means running it, so an entry is only trusted if nobody else could
have put it there: every folder of ours is a real directory, owned by the user, closed to others (0700), an entry is a
regular file of the same owner (0600), and symbolic links are followed nowhere. What does not meet this is refused,
with one warning, and work goes on without a cache, as it does on a full disk or a read-only folder.

An entry is `magic, version, digest of the key, SHA-256 of the payload, length, payload`. Torn, damaged or foreign
entries count as absent and are written anew. Entries are published with `os.replace`, so readers see all of one or
nothing, and two processes that build the same entry do no harm. No pickle: the payload is the object file as it is.
"""

from __future__ import annotations

import hashlib
import logging
import os
import stat
import struct
import time
from collections.abc import Mapping
from functools import cache, lru_cache
from pathlib import Path

from convc.codegen.llvm.target import EMULATED_AMX, CpuTarget, llvm_versions
from convc.lazy import dataclass

CACHE_VARIABLE = "CONVC_CACHE"
FOLDER_VARIABLE = "CONVC_CACHE_DIR"

_log = logging.getLogger(__name__)
# The rooms whose sources decide what code is made of a program.
_ROOMS = ("ir", "passes", "codegen")
_MAGIC = b"convcobj"
_VERSION = 1
_HEADER = struct.Struct("<8sI32s32sQ")
_SUFFIX = ".object"
_TEMPORARY_SUFFIX = ".part"
_STALE_SECONDS = 3600.0
# A use is recorded in the modification time, but not more often than this: reading should not write.
_TOUCH_SECONDS = 3600.0
# To list a folder of thousands of entries takes longer than to compile one. So `put` makes room for more than what it
# writes, this share of the maximum, and lists the folder again when its process has used that up.
_HEADROOM = 1 / 64


@dataclass(frozen=True)
class Entry:
    """One cached object: file, size in bytes, time of last use (seconds since 1970, to within an hour)."""

    path: Path
    size: int
    used: float


class ObjectCache:
    """A folder of object files by key. `folder=None` is a cache that is switched off: it holds nothing.

    `put` keeps the folder below `maximum` bytes: it removes what was not used for longest. What other processes write
    at the same time it notices late, so each of them may exceed that by a 64th.
    No method raises for trouble with files: the cache says so once, in the log, and behaves as if it were empty.
    """

    def __init__(self, folder: Path | None, maximum: int = 1 << 30) -> None:
        self.folder = folder
        self.maximum = maximum
        self._warned = False
        self._headroom = 0  # bytes that may be written before the folder is listed again

    def get(self, key: str) -> bytes | None:
        """The object stored under `key`, or None."""
        if self.folder is None:
            return None
        path = self._path(self.folder, key)
        try:
            _check_folder(self.folder)
            with open(_open_entry(path), "rb") as file:
                found = os.fstat(file.fileno())
                payload = _payload(file.read(), key)
        except FileNotFoundError:
            return None
        except OSError as error:
            self._warn("cannot be read", error)
            return None
        if payload is not None and time.time() - found.st_mtime > _TOUCH_SECONDS:
            _touch(path)
        return payload

    def put(self, key: str, payload: bytes) -> None:
        """Store `payload` under `key`, replacing what is there."""
        if self.folder is None:
            return
        header = _HEADER.pack(_MAGIC, _VERSION, _digest(key), hashlib.sha256(payload).digest(), len(payload))
        try:
            _make_folder(self.folder)
            _publish(self._path(self.folder, key), header + payload)
        except OSError as error:
            self._warn("cannot be written", error)
            return
        self._headroom -= len(header) + len(payload)
        if self._headroom < 0:
            self._headroom = int(self.maximum * _HEADROOM)
            self.limit(self.maximum - self._headroom)

    def entries(self) -> list[Entry]:
        """All entries, least recently used first."""
        return _by_use(self._files())

    def clear(self) -> int:
        """Remove all entries and return their number."""
        return sum(_remove(entry.path) for entry in _by_use(self._swept()))

    def limit(self, size: int) -> int:
        """Remove least recently used entries until the rest takes at most `size` bytes; returns how many went."""
        entries = _by_use(self._swept())
        total, removed = sum(entry.size for entry in entries), 0
        for entry in entries:
            if total <= size:
                break
            total -= entry.size
            removed += _remove(entry.path)
        return removed

    def problem(self) -> str | None:
        """Why the cache is of no use here, or None. Writes and removes a file to find out."""
        if self.folder is None:
            return "switched off"
        try:
            _make_folder(self.folder)
            descriptor, temporary = _create(self.folder)
            os.close(descriptor)
            temporary.unlink()
        except OSError as error:
            return str(error)
        return None

    def _swept(self) -> list[Entry]:
        """All files, less the temporary ones that processes left behind when they were killed; these are removed."""
        files = self._files()
        for entry in files:
            # Fresh ones are being written.
            if entry.path.suffix == _TEMPORARY_SUFFIX and time.time() - entry.used > _STALE_SECONDS:
                _remove(entry.path)
        return files

    def _files(self) -> list[Entry]:
        if self.folder is None:
            return []
        try:
            _check_folder(self.folder)
            with os.scandir(self.folder) as listing:
                return [entry for item in listing if (entry := _describe(item)) is not None]
        except FileNotFoundError:
            return []
        except OSError as error:
            self._warn("cannot be read", error)
            return []

    def _path(self, folder: Path, key: str) -> Path:
        return folder / (_digest(key).hex() + _SUFFIX)

    def _warn(self, what: str, error: OSError) -> None:
        if not self._warned:
            self._warned = True
            _log.warning("the object cache %s %s (%s); code is compiled anew each time", self.folder, what, error)


def shared_cache() -> ObjectCache:
    """The cache that the environment asks for, one object per folder."""
    return _cache_at(cache_folder())


def cache_folder() -> Path | None:
    """Where objects are kept; None if `CONVC_CACHE=off`."""
    if os.environ.get(CACHE_VARIABLE, "").strip().lower() in ("off", "0", "no", "false"):
        return None
    given = os.environ.get(FOLDER_VARIABLE, "").strip()
    if given:
        # The folder that a user names may be a link; what lies in it is ours and may not.
        return Path(os.path.realpath(Path(given).expanduser())) / "objects"
    import platformdirs

    ours = Path(platformdirs.user_cache_dir("convc", appauthor=False))
    return Path(os.path.realpath(ours.parent)) / ours.name / "objects"


def cache_key(program_text: str, target: CpuTarget, flags: Mapping[str, object]) -> str:
    """The name of what `program_text` compiles to: everything that the machine code depends on, hashed.

    Program, flags (in any order), tier, triple, processor and its features, versions of llvmlite, LLVM and convc, and
    the sources of the compiler itself, so that someone who edits a pass or a generator never gets stale code.
    """
    parts = [
        _compiler_digest(),
        *llvm_versions(),
        target.tier,
        target.triple,
        target.cpu,
        target.features,
        str(target.has(EMULATED_AMX)),
        *(f"{name}={flags[name]!r}" for name in sorted(flags)),
        program_text,
    ]
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode("utf-8", "surrogateescape")
        # Lengths between the parts: otherwise two different lists could run together to the same bytes.
        digest.update(struct.pack("<Q", len(data)))
        digest.update(data)
    return digest.hexdigest()


@cache
def _cache_at(folder: Path | None) -> ObjectCache:
    return ObjectCache(folder)


@lru_cache(maxsize=1)
def _compiler_digest() -> str:
    package = str(Path(__file__).resolve().parents[2])
    digest = hashlib.sha256()
    # The version has a file of its own.
    version = os.path.join(package, "_version.py")
    files = [version] if os.path.exists(version) else []
    # Names as strings: paths as objects take longer than all that is read.
    for room in _ROOMS:
        for folder, _, names in os.walk(os.path.join(package, room)):
            files += [os.path.join(folder, name) for name in names if name.endswith(".py")]
    for file in sorted(files):
        with open(file, "rb") as source:
            content = source.read()
        digest.update(f"{file[len(package) :]}:{len(content)}\n".encode())
        digest.update(content)
    return digest.hexdigest()


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


def _payload(data: bytes, key: str) -> bytes | None:
    if len(data) < _HEADER.size:
        return None
    magic, version, name, content, length = _HEADER.unpack_from(data)
    payload = data[_HEADER.size :]
    if (magic, version, name, length) != (_MAGIC, _VERSION, _digest(key), len(payload)):
        return None
    return payload if hashlib.sha256(payload).digest() == content else None


def _make_folder(folder: Path) -> None:
    folder.parent.parent.mkdir(parents=True, exist_ok=True)
    for ours in (folder.parent, folder):
        try:
            os.mkdir(ours, 0o700)
        except FileExistsError:
            pass
    _check_folder(folder)


def _check_folder(folder: Path) -> None:
    """OSError unless `folder` is a directory of ours, closed to others, in one of ours that others cannot change."""
    for path, forbidden in ((folder.parent, 0o002), (folder, 0o077)):
        found = os.lstat(path)
        if not stat.S_ISDIR(found.st_mode):
            raise PermissionError(f"{path} is not a plain folder")
        if os.name != "posix":
            continue
        if found.st_uid != os.geteuid():
            raise PermissionError(f"{path} belongs to another user")
        if stat.S_IMODE(found.st_mode) & forbidden:
            raise PermissionError(f"{path} is open to other users, mode 0700 is needed")


def _open_entry(path: Path) -> int:
    # O_NONBLOCK: opening a pipe that somebody put there must not wait for a writer.
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NONBLOCK", 0)
    try:
        descriptor = os.open(path, flags | getattr(os, "O_BINARY", 0))
    except IsADirectoryError as error:
        raise FileNotFoundError(path) from error
    except OSError:
        if path.is_symlink():
            raise FileNotFoundError(path) from None
        raise
    found = os.fstat(descriptor)
    foreign = os.name == "posix" and (found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & 0o022)
    if not stat.S_ISREG(found.st_mode) or foreign:
        os.close(descriptor)
        raise FileNotFoundError(path)
    return descriptor


def _describe(item: os.DirEntry[str]) -> Entry | None:
    if not item.name.endswith((_SUFFIX, _TEMPORARY_SUFFIX)):
        return None
    try:
        found = item.stat(follow_symlinks=False)
    except OSError:
        return None
    return Entry(Path(item.path), found.st_size, found.st_mtime)


def _by_use(files: list[Entry]) -> list[Entry]:
    entries = [file for file in files if file.path.suffix == _SUFFIX]
    return sorted(entries, key=lambda entry: (entry.used, entry.path.name))


def _publish(path: Path, data: bytes) -> None:
    descriptor, temporary = _create(path.parent)
    try:
        with open(descriptor, "wb") as file:
            file.write(data)
        os.replace(temporary, path)
    except BaseException:
        _remove(temporary)
        raise


def _create(folder: Path) -> tuple[int, Path]:
    """A new file, open for writing. Never one that is there already, nor what a link points to."""
    path = folder / (os.urandom(12).hex() + _TEMPORARY_SUFFIX)
    # Not the tempfile module, which takes 6 ms to import.
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
    return os.open(path, flags | getattr(os, "O_BINARY", 0), 0o600), path


def _touch(path: Path) -> None:
    try:
        os.utime(path)
    except OSError:
        pass


def _remove(path: Path) -> bool:
    try:
        os.unlink(path)
    except OSError:
        return False
    return True
