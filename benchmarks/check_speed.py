"""How long `convc check` takes beyond its start, against the depth of a net: it has to stay linear.

    python -m benchmarks.check_speed

Seconds of processor time, the best of several runs, so that other work on the machine counts little. *In process* is
one more check by a process that has checked before; *command* is a process of its own, less what `convc check` takes
for a net of one layer. The exit status is 1 where a limit is missed.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.run import FOLDER

_EXAMPLES = FOLDER.parent / "examples"
# File, the depth that it has by itself, and depths to measure, each with the seconds that the command may take.
_NETS: tuple[tuple[str, int, dict[int, float | None]], ...] = (
    ("resnet", 50, {18: None, 50: None, 152: 0.4}),
    ("cifar_resnet", 20, {20: None, 152: None, 602: None, 1202: 3.0}),
    ("preact_resnet", 164, {164: None, 1001: None}),
    ("densenet", 121, {121: None, 201: None}),
)


def processor_seconds(*arguments: str) -> float:
    """What a fresh process of `convc` takes."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(
        [sys.executable, "-m", "convc", *arguments], check=True, stdout=subprocess.DEVNULL, cwd=FOLDER.parent
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def seconds_in_process(path: Path) -> float:
    """One check of a file."""
    from convc.frontend import check

    start = time.process_time()
    found = check([path])
    assert not found, found
    return time.process_time() - start


def deepened(name: str, own: int, depth: int, folder: Path) -> Path:
    """The example with another depth: `check` reads files as they are."""
    text = (_EXAMPLES / f"{name}.cnn").read_text(encoding="utf-8")
    assert text.count(f"depth = {own}") == 1
    path = folder / f"{name}_{depth}.cnn"
    path.write_text(text.replace(f"depth = {own}", f"depth = {depth}"), encoding="utf-8")
    return path


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5, help="of each measurement the best of so many (default 5)")
    runs = range(parser.parse_args(arguments).runs)
    print(f"{'net':14}{'depth':>6}{'command':>10}{'in process':>12}{'a layer':>10}{'limit':>8}")
    missed = False
    with tempfile.TemporaryDirectory() as folder:
        (smallest := Path(folder, "smallest.cnn")).write_text("net n { input 1x4x4 -> fc 2 -> loss softmax }\n")
        start = min(processor_seconds("check", str(smallest)) for _ in runs)
        for name, own, depths in _NETS:
            for depth, limit in depths.items():
                path = deepened(name, own, depth, Path(folder))
                command = min(processor_seconds("check", str(path)) for _ in runs) - start
                again = min(seconds_in_process(path) for _ in runs)
                shown = f"{limit:.1f} s" if limit is not None else ""
                missed |= limit is not None and command > limit
                print(f"{name:14}{depth:6}{command:8.2f} s{again:10.3f} s{1e3 * again / depth:7.2f} ms{shown:>8}")
    print(f"start-up {start:.2f} s")
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
