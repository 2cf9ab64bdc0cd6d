"""How many threads to use: environment, affinity, cgroup quotas."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from convc.ir.diagnostic import CompileError
from convc.runtime import cores
from convc.runtime.cores import cgroup_quota, choose_threads, compile_processes, default_threads, usable_cores


@pytest.fixture(autouse=True)
def no_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CONVC_THREADS", raising=False)


def groups(folder: Path, lines: str, files: dict[str, str]) -> float | None:
    membership = folder / "cgroup"
    membership.write_text(lines)
    for name, content in files.items():
        file = folder / "fs" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
    return cgroup_quota(membership, folder / "fs")


def test_the_environment_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONVC_THREADS", "7")
    assert default_threads() == 7
    assert choose_threads().why == "CONVC_THREADS=7"
    assert choose_threads(3).threads == 3


@pytest.mark.parametrize("text", ["0", "-1", "two", "1.5", "99999", "²"])
def test_a_senseless_setting_is_refused(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("CONVC_THREADS", text)
    with pytest.raises(CompileError, match=f"CONVC_THREADS={text}: the number of threads is between 1 and"):
        default_threads()


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity here")
def test_the_affinity_mask_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cores, "cgroup_quota", lambda: None)
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert usable_cores().threads == 1
    finally:
        os.sched_setaffinity(0, before)
    assert usable_cores().threads == len(before)


def test_the_quota_cuts_the_cores_down(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)), raising=False)
    for quota, threads in ((None, 16), (0.5, 1), (1.5, 2), (4.0, 4), (64.0, 16)):
        monkeypatch.setattr(cores, "cgroup_quota", lambda quota=quota: quota)
        assert usable_cores().threads == threads
    monkeypatch.setattr(cores, "cgroup_quota", lambda: 2.5)
    assert usable_cores().why == "the cgroup grants 2.5 of 16 cores"


def test_processes_that_compile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cores, "cgroup_quota", lambda: None)
    monkeypatch.delenv("CONVC_COMPILE_PROCESSES", raising=False)
    for granted, processes in ((1, 1), (3, 3), (64, 8)):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _, granted=granted: set(range(granted)), raising=False)
        assert compile_processes() == processes
    monkeypatch.setenv("CONVC_COMPILE_PROCESSES", "12")
    assert compile_processes() == 12
    monkeypatch.setenv("CONVC_COMPILE_PROCESSES", "none")
    with pytest.raises(CompileError, match="CONVC_COMPILE_PROCESSES=none"):
        compile_processes()


def test_cgroup_version_2(tmp_path: Path) -> None:
    limits = {"jobs/one/cpu.max": "max 100000\n", "jobs/cpu.max": "150000 100000\n"}
    assert groups(tmp_path, "0::/jobs/one\n", limits) == 1.5


def test_cgroup_version_2_inside_a_container(tmp_path: Path) -> None:
    assert groups(tmp_path, "0::/\n", {"cpu.max": "200000 100000\n"}) == 2.0


def test_cgroup_version_1(tmp_path: Path) -> None:
    limits = {"cpu,cpuacct/docker/x/cpu.cfs_quota_us": "300000\n", "cpu,cpuacct/docker/x/cpu.cfs_period_us": "100000\n"}
    assert groups(tmp_path, "5:memory:/docker/x\n4:cpu,cpuacct:/docker/x\n", limits) == 3.0


def test_cgroup_version_1_as_containers_mount_it(tmp_path: Path) -> None:
    limits = {"cpu/cpu.cfs_quota_us": "50000\n", "cpu/cpu.cfs_period_us": "100000\n"}
    assert groups(tmp_path, "4:cpu,cpuacct:/docker/x\n", limits) == 0.5


@pytest.mark.parametrize(
    ("lines", "files"),
    [
        ("", {}),
        ("0::/\n", {"cpu.max": "max 100000\n"}),
        ("0::/\n", {"cpu.max": "nonsense\n"}),
        ("0::/../../x\n", {}),
        ("nonsense", {}),
        ("1:cpu:/\n", {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}),
    ],
)
def test_no_limit(tmp_path: Path, lines: str, files: dict[str, str]) -> None:
    assert groups(tmp_path, lines, files) is None


def test_no_cgroups_at_all(tmp_path: Path) -> None:
    assert cgroup_quota(tmp_path / "absent", tmp_path) is None
