"""The way from a file to a program: `convc.load` and `convc.compile`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from convc.ir.diagnostic import fail

if TYPE_CHECKING:
    from convc.frontend.net import Net
    from convc.runtime.program import Program


def load(
    path: str | os.PathLike[str],
    *,
    net: str | None = None,
    set: Mapping[str, object] | None = None,
    strict: bool = False,
) -> Net:
    """Read a `.cnn` file: parsed, elaborated, checked.

    `net` chooses one of several nets. `set` overrides parameters of the net (`{"classes": 10}`) and settings
    (`{"train.optim.lr": 0.01}`). `strict` makes warnings errors. Raises `CompileError` with all errors that were found.
    """
    from convc.frontend.load import load as load_file

    return load_file(path, net=net, set=set, strict=strict)


def compile(
    net: Net,
    *,
    batch: int | None = None,
    mode: str = "infer",
    target: str = "cpu",
    precision: str | None = None,
    algo: str = "auto",
    threads: int | None = None,
    passes: Sequence[str] | None = None,
    dump_dir: str | os.PathLike[str] | None = None,
    seed: int | None = None,
) -> Program:
    """Make a program of a net. None means the file's value, else batch 64, fp32, seed 0, all threads there are.

    `mode` is "infer" or "train"; `target` "cpu" or "reference", the slow interpreter. With `dump_dir` every pass leaves
    its graph, its log and the difference there. A `train` item needs neither data nor optimiser to compile. What this
    version cannot do is refused by name.
    """
    from convc.runtime.build import build_net

    if passes is not None:
        fail("unavailable-passes", "`passes=` is not available in this version: the order of passes is fixed")
    return build_net(
        net,
        batch=batch,
        mode=mode,
        target=target,
        precision=precision,
        algo=algo,
        threads=threads,
        dump_dir=None if dump_dir is None else Path(dump_dir),
        seed=seed,
    )
