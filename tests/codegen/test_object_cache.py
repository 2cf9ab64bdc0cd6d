"""The cache of object files: what it trusts, what it rebuilds, what it survives."""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import stat
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from convc.codegen.llvm import object_cache
from convc.codegen.llvm.object_cache import ObjectCache, cache_folder, cache_key, shared_cache
from convc.codegen.llvm.target import choose_target, host_target

PAYLOAD = bytes(range(256)) * 40
posix = pytest.mark.skipif(os.name != "posix", reason="POSIX permissions")


@pytest.fixture
def cache(tmp_path: Path) -> ObjectCache:
    return ObjectCache(tmp_path / "convc" / "objects")


def entry_file(cache: ObjectCache) -> Path:
    (entry,) = cache.entries()
    return entry.path


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


def test_what_is_put_is_got(cache: ObjectCache) -> None:
    assert cache.get("a") is None
    cache.put("a", PAYLOAD)
    cache.put("b", b"")
    assert (cache.get("a"), cache.get("b"), cache.get("c")) == (PAYLOAD, b"", None)
    cache.put("a", b"new")
    assert cache.get("a") == b"new"
    assert len(cache.entries()) == 2


@posix
def test_folders_and_files_are_closed_to_others(cache: ObjectCache) -> None:
    before = os.umask(0)
    try:
        cache.put("a", PAYLOAD)
    finally:
        os.umask(before)
    assert cache.folder is not None
    modes = [stat.S_IMODE(os.lstat(path).st_mode) for path in (cache.folder.parent, cache.folder, entry_file(cache))]
    assert modes == [0o700, 0o700, 0o600]
    assert [path.name for path in cache.folder.iterdir()] == [entry_file(cache).name]


@pytest.mark.parametrize("keep", [0, 1, 40, 83, 84, 85, 5000, -1])
def test_torn_entries_are_absent_and_rebuilt(cache: ObjectCache, keep: int, caplog: pytest.LogCaptureFixture) -> None:
    cache.put("a", PAYLOAD)
    entry_file(cache).write_bytes(entry_file(cache).read_bytes()[:keep])
    assert cache.get("a") is None
    cache.put("a", PAYLOAD)
    assert cache.get("a") == PAYLOAD
    assert warnings_of(caplog) == []


@pytest.mark.parametrize("position", [0, 9, 20, 50, 80, 84, 4000, -1])
def test_a_flipped_bit_anywhere_is_noticed(cache: ObjectCache, position: int) -> None:
    cache.put("a", PAYLOAD)
    data = bytearray(entry_file(cache).read_bytes())
    data[position] ^= 1
    entry_file(cache).write_bytes(data)
    assert cache.get("a") is None


def test_longer_entries_and_those_of_another_key_are_foreign(cache: ObjectCache) -> None:
    cache.put("a", PAYLOAD)
    file = entry_file(cache)
    whole = file.read_bytes()
    file.write_bytes(whole + b"x")
    assert cache.get("a") is None
    cache.clear()
    cache.put("b", b"of b")
    entry_file(cache).rename(file)
    assert cache.get("a") is None
    file.write_bytes(whole)
    assert cache.get("a") == PAYLOAD


@posix
def test_links_pipes_folders_and_files_open_to_others_are_no_entries(
    cache: ObjectCache, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache.put("a", PAYLOAD)
    file = entry_file(cache)
    elsewhere = tmp_path / "elsewhere"
    file.rename(elsewhere)
    file.symlink_to(elsewhere)
    assert cache.get("a") is None
    cache.put("a", b"replaces the link, not what it points to")
    assert not file.is_symlink()
    assert elsewhere.stat().st_size > len(PAYLOAD)
    file.unlink()
    os.mkfifo(file)
    assert cache.get("a") is None
    file.unlink()
    file.mkdir()
    assert cache.get("a") is None
    file.rmdir()
    cache.put("a", PAYLOAD)
    file.chmod(0o666)
    assert cache.get("a") is None
    assert warnings_of(caplog) == []


@posix
def test_an_entry_of_another_user_is_foreign(cache: ObjectCache, monkeypatch: pytest.MonkeyPatch) -> None:
    cache.put("a", PAYLOAD)
    monkeypatch.setattr(object_cache, "_check_folder", lambda folder: None)
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    assert cache.get("a") is None


@posix
@pytest.mark.parametrize("trouble", ["open", "link", "parent link", "file", "foreign"])
def test_a_folder_that_cannot_be_trusted_is_not_used(
    cache: ObjectCache, tmp_path: Path, trouble: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.put("a", PAYLOAD)
    folder = cache.folder
    assert folder is not None
    match trouble:
        case "open":
            folder.chmod(0o755)
        case "link":
            folder.rename(tmp_path / "real")
            folder.symlink_to(tmp_path / "real")
        case "parent link":
            folder.parent.rename(tmp_path / "real")
            folder.parent.symlink_to(tmp_path / "real")
        case "file":
            folder.rename(tmp_path / "real")
            folder.write_text("")
        case _:
            monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    assert cache.get("a") is None
    cache.put("b", PAYLOAD)
    assert (cache.get("b"), cache.entries(), cache.clear(), cache.limit(0)) == (None, [], 0, 0)
    assert len(warnings_of(caplog)) == 1
    assert "compiled anew each time" in warnings_of(caplog)[0]


@posix
@pytest.mark.skipif(os.name == "posix" and os.geteuid() == 0, reason="root writes everywhere")
def test_a_read_only_folder(cache: ObjectCache, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tmp_path.chmod(0o500)
    try:
        cache.put("a", PAYLOAD)
        assert cache.get("a") is None
    finally:
        tmp_path.chmod(0o700)
    assert len(warnings_of(caplog)) == 1


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EDQUOT])
def test_a_full_or_read_only_disk(
    cache: ObjectCache, number: int, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.put("a", PAYLOAD)

    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", refuse)
        cache.put("a", b"new")
        cache.put("b", b"new")
    assert (cache.get("a"), cache.get("b")) == (PAYLOAD, None)
    assert cache.folder is not None
    assert len(list(cache.folder.iterdir())) == 1
    assert len(warnings_of(caplog)) == 1


def test_clear_and_entries(cache: ObjectCache) -> None:
    assert cache.clear() == 0
    for key in "abc":
        cache.put(key, PAYLOAD)
    assert cache.folder is not None
    (cache.folder / "notes.txt").write_text("not ours")
    assert [entry.size > len(PAYLOAD) for entry in cache.entries()] == [True] * 3
    assert cache.clear() == 3
    assert cache.entries() == []
    assert (cache.folder / "notes.txt").exists()


def test_the_limit_removes_what_was_not_used_for_longest(cache: ObjectCache) -> None:
    for key in "abcd":
        cache.put(key, PAYLOAD)
    now = time.time()
    size = cache.entries()[0].size
    files = {key: object_cache._digest(key).hex() + ".object" for key in "abcd"}  # pyright: ignore[reportPrivateUsage]
    assert cache.folder is not None
    for age, key in enumerate("dcba"):
        os.utime(cache.folder / files[key], (now - 10000, now - 10000 - age))
    assert cache.get("a") == PAYLOAD  # the oldest, and now the one used last
    stale, fresh = cache.folder / "x.part", cache.folder / "y.part"
    for file in (stale, fresh):
        file.write_bytes(b"left behind")
    os.utime(stale, (now - 10000, now - 10000))
    assert cache.limit(2 * size) == 2
    assert [cache.get(key) is not None for key in "abcd"] == [True, False, False, True]
    assert (stale.exists(), fresh.exists()) == (False, True)
    assert cache.limit(0) == 2


def test_putting_keeps_the_folder_below_its_maximum(tmp_path: Path) -> None:
    cache = ObjectCache(tmp_path / "convc" / "objects", maximum=3 * len(PAYLOAD))
    for number in range(10):
        cache.put(str(number), PAYLOAD)
    assert len(cache.entries()) == 2


def test_many_entries_are_listed_rarely_and_kept_below_the_maximum(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Listing takes as long as there are entries: one for each entry written would make caches slower as they fill."""
    listed: list[object] = []
    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", lambda folder: (listed.append(folder), scandir(folder))[1])
    cache = ObjectCache(tmp_path / "convc" / "objects", maximum=64 * 4 * 1000)
    for number in range(600):
        cache.put(str(number), bytes(900))
        if number > 250:
            assert sum(item.stat().st_size for item in scandir(cache.folder or "")) <= cache.maximum
    assert len(listed) == 600 // 5  # four more fit into a 64th
    assert len(cache.entries()) > 250
    assert cache.get("599") == bytes(900)
    assert cache.get("0") is None


def test_a_cache_makes_room_for_what_others_have_written(tmp_path: Path) -> None:
    one, other = (ObjectCache(tmp_path / "convc" / "objects", maximum=64 * 4 * 1000) for _ in range(2))
    for number in range(400):
        (one if number % 2 else other).put(str(number), bytes(900))
    assert sum(entry.size for entry in one.entries()) <= one.maximum * 65 / 64


def test_the_environment_names_the_folder_or_switches_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CONVC_CACHE", raising=False)
    monkeypatch.setenv("CONVC_CACHE_DIR", str(tmp_path / "here"))
    assert cache_folder() == tmp_path.resolve() / "here" / "objects"
    assert shared_cache() is shared_cache()
    (tmp_path / "link").symlink_to(tmp_path / "here")
    monkeypatch.setenv("CONVC_CACHE_DIR", str(tmp_path / "link"))
    assert cache_folder() == tmp_path.resolve() / "here" / "objects"
    monkeypatch.delenv("CONVC_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    if sys.platform == "linux":
        assert cache_folder() == tmp_path.resolve() / "xdg" / "convc" / "objects"
    monkeypatch.setenv("CONVC_CACHE", "off")
    assert cache_folder() is None
    off = shared_cache()
    off.put("a", PAYLOAD)
    assert (off.get("a"), off.entries(), off.clear(), off.limit(0)) == (None, [], 0, 0)


def test_the_key_depends_on_everything_and_on_nothing_else() -> None:
    target = host_target()
    base = cache_key("text", target, {"a": 1, "b": True})
    assert base == cache_key("text", target, {"b": True, "a": 1})
    assert len(base) == 64
    assert set(base) <= set("0123456789abcdef")
    v3: dict[str, bool] = dict.fromkeys(("avx", "avx2", "bmi", "bmi2", "f16c", "fma", "lzcnt", "movbe"), True)
    others = {
        cache_key("text2", target, {"a": 1, "b": True}),
        cache_key("text", target, {"a": 2, "b": True}),
        cache_key("text", target, {"a": 1}),
        cache_key("text", choose_target("x86_64-linux", {}), {"a": 1, "b": True}),
        cache_key("text", choose_target("x86_64-linux", v3), {"a": 1, "b": True}),
        cache_key("text", choose_target("x86_64-linux", v3 | {"avx512f": True}), {"a": 1, "b": True}),
    }
    assert len(others) == 6
    assert base not in others


def test_the_key_changes_with_the_compilers_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "convc"
    (package / "codegen" / "llvm").mkdir(parents=True)
    source = package / "codegen" / "llvm" / "object_cache.py"
    monkeypatch.setattr(object_cache, "__file__", str(source))
    keys: set[str] = set()
    for text in ("x = 1", "x = 2"):
        source.write_text(text)
        object_cache._compiler_digest.cache_clear()  # pyright: ignore[reportPrivateUsage]
        keys.add(cache_key("text", host_target(), {}))
    monkeypatch.undo()
    object_cache._compiler_digest.cache_clear()  # pyright: ignore[reportPrivateUsage]
    assert len(keys) == 2


def test_processes_share_a_cache(tmp_path: Path) -> None:
    """Four processes write, read, evict and clear the same few entries: no errors, and never a wrong payload."""
    script = """
        import hashlib, logging, pathlib, random, sys
        logging.basicConfig(level=logging.WARNING)
        from convc.codegen.llvm.object_cache import ObjectCache
        cache = ObjectCache(pathlib.Path(sys.argv[1]) / "convc" / "objects")
        draw = random.Random(int(sys.argv[2]))
        for _ in range(150):
            key = str(draw.randrange(5))
            expected = hashlib.sha256(key.encode()).digest() * 500
            found = cache.get(key)
            assert found in (None, expected), key
            if found is None or draw.random() < 0.3:
                cache.put(key, expected)
            if draw.random() < 0.05:
                cache.limit(20000) if draw.random() < 0.7 else cache.clear()
    """
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(script), str(tmp_path), str(seed)],
            stderr=subprocess.PIPE,
            env=environment,
        )
        for seed in range(4)
    ]
    results = [(process.communicate(timeout=60)[1], process.returncode) for process in processes]
    assert results == [(b"", 0)] * 4
    cache = ObjectCache(tmp_path / "convc" / "objects")
    cache.put("0", hashlib.sha256(b"0").digest())
    assert cache.get("0") == hashlib.sha256(b"0").digest()
