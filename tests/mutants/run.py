"""Breaks the compiler, one mutant at a time, and looks whether the tests notice.

    make mutants                                     all mutants, as many at a time as there are cores
    make mutants ARGS="--jobs 1 cse-*"               some of them
    make mutants ARGS="--list"                       what there is

Mutants are applied to copies of the tree, never to the tree itself. For each the tests that are named for it run first,
then the wider ones of `mutant.REST`; the first failure decides. What was killed is remembered in `build/mutants.json`,
until the mutant or the file that it edits changes; survivors are tried again. The exit code is 1 where fewer than 95 %
are killed, or where a mutant no longer applies.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from tests.mutants.catalogue import MUTANTS
from tests.mutants.mutant import REST, DoesNotApply, Mutant

ROOT = Path(__file__).parents[2]
STATE = ROOT / "build" / "mutants.json"
WANTED = 0.95
# What the tests need of the tree.
_COPIED = ("convc", "tests", "benchmarks", "docs", "examples", "pyproject.toml", "README.md", "CHANGELOG.md", "LICENSE")
_FAILED = re.compile(r"^(?:FAILED|ERROR) (\S+)", re.MULTILINE)


@dataclass(frozen=True)
class Outcome:
    """What happened to one mutant. `by` is the first test that failed, or why there was none."""

    name: str
    killed: bool
    by: str
    seconds: float
    digest: str


def run_tests(copy: Path, tests: tuple[str, ...], timeout: float) -> str | None:
    """The first test that fails on a copy of the tree; None where all pass. A hang counts as a failure."""
    environment = {**os.environ, "PYTHONPATH": str(copy), "CI": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "pytest", "-x", "-q", "--no-header", "-p", "no:cacheprovider", *tests]
    # A session of its own: some tests interrupt what they have started, and a hang ends with all its children.
    with subprocess.Popen(
        command,
        cwd=copy,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            output, _ = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            return f"nothing within {timeout:.0f} s"
    if process.returncode == 0:
        return None
    found = _FAILED.search(output)
    return found.group(1) if found else f"exit code {process.returncode}: {output[-200:].strip()}"


def judge(mutant: Mutant, copy: Path, timeout: float) -> Outcome:
    """Apply a mutant to a copy of the tree, run the tests, and take it back."""
    started, digest = time.monotonic(), mutant.digest(ROOT)
    path = copy / "convc" / mutant.file
    original = path.read_text(encoding="utf-8")
    path.write_text(mutant.applied(copy), encoding="utf-8")
    try:
        by = run_tests(copy, mutant.tests, timeout)
        if by is None:
            rest = tuple(test for test in REST if test not in mutant.tests)
            by = run_tests(copy, rest, timeout)
    finally:
        path.write_text(original, encoding="utf-8")
    return Outcome(mutant.name, by is not None, by or "no test fails", time.monotonic() - started, digest)


def copy_tree(folder: Path) -> Path:
    for name in _COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        elif source.exists():
            shutil.copy(source, folder / name)
    return folder


def run_all(mutants: list[Mutant], jobs: int, timeout: float, known: dict[str, Outcome]) -> list[Outcome]:
    """Judge the mutants, `jobs` at a time, each job with a copy of its own; report and remember each as it comes."""
    with tempfile.TemporaryDirectory(prefix="mutants-") as scratch:
        copies, lock = queue.SimpleQueue[Path](), threading.Lock()
        for number in range(jobs):
            copies.put(copy_tree(Path(scratch) / str(number)))

        def one(mutant: Mutant) -> Outcome:
            copy = copies.get()
            try:
                outcome = judge(mutant, copy, timeout)
            finally:
                copies.put(copy)
            print(f"{'killed  ' if outcome.killed else 'SURVIVED'} {outcome.name:34} {outcome.by}", flush=True)
            with lock:
                known[outcome.name] = outcome
                remember(known)
            return outcome

        with ThreadPoolExecutor(jobs) as pool:
            return list(pool.map(one, mutants))


def remember(known: dict[str, Outcome]) -> None:
    STATE.parent.mkdir(exist_ok=True)
    fresh = STATE.with_suffix(".new")
    fresh.write_text(json.dumps([asdict(outcome) for outcome in known.values()], indent=1), encoding="utf-8")
    fresh.replace(STATE)


def recall() -> dict[str, Outcome]:
    if not STATE.exists():
        return {}
    return {entry["name"]: Outcome(**entry) for entry in json.loads(STATE.read_text(encoding="utf-8"))}


def misfits(mutants: list[Mutant]) -> list[str]:
    """Why mutants cannot be applied, for those that cannot."""
    found: list[str] = []
    for mutant in mutants:
        try:
            mutant.applied(ROOT)
        except DoesNotApply as error:
            found.append(str(error))
    return found


def summary(mutants: list[Mutant], outcomes: dict[str, Outcome]) -> str:
    survivors = [mutant for mutant in mutants if not outcomes[mutant.name].killed]
    killed = len(mutants) - len(survivors)
    lines = [f"{killed} of {len(mutants)} mutants killed ({100 * killed / max(len(mutants), 1):.1f} %)"]
    lines += [f"  survived: {mutant.name} (convc/{mutant.file}): {mutant.breaks}" for mutant in survivors]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="mutants, with shell wildcards (default: all)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, metavar="N", help="how many at a time")
    parser.add_argument("--timeout", type=float, default=1800, metavar="S", help="for the tests of one stage")
    parser.add_argument("--fresh", action="store_true", help="forget what was killed before")
    parser.add_argument("--trust", action="store_true", help="do not run the tests without any mutant first")
    parser.add_argument("--list", action="store_true", help="say what each mutant breaks, and do nothing")
    arguments = parser.parse_args()
    mutants = [m for m in MUTANTS if not arguments.names or any(fnmatchcase(m.name, p) for p in arguments.names)]
    if arguments.list:
        print("\n".join(f"{mutant.name:34} convc/{mutant.file}: {mutant.breaks}" for mutant in mutants))
        return 0
    wrong = misfits(mutants)
    if wrong:
        print("\n".join(wrong), file=sys.stderr)
        return 1
    known = {} if arguments.fresh else recall()
    killed = {name for name, outcome in known.items() if outcome.killed}
    due = [m for m in mutants if m.name not in killed or known[m.name].digest != m.digest(ROOT)]
    print(f"{len(mutants)} mutants, {len(mutants) - len(due)} of them killed before", flush=True)
    if due and not arguments.trust:
        with tempfile.TemporaryDirectory(prefix="mutants-") as scratch:
            targets = tuple(dict.fromkeys(test for mutant in due for test in mutant.tests))
            by = run_tests(copy_tree(Path(scratch) / "copy"), targets, 4 * arguments.timeout)
        if by is not None:
            print(f"without any mutant a test fails already: {by}", file=sys.stderr)
            return 1
    run_all(due, max(1, min(arguments.jobs, len(due))), arguments.timeout, known)
    print(summary(mutants, known))
    share = sum(known[mutant.name].killed for mutant in mutants) / max(len(mutants), 1)
    return 0 if share >= WANTED else 1


if __name__ == "__main__":
    sys.exit(main())
