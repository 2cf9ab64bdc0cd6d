"""convc on a GPU beside PyTorch, eager and compiled, on the nine nets; writes docs/gpu-results.md.

    python -m benchmarks.gpu                                       # all nets, training and inference, fp32 and fp16
    python -m benchmarks.gpu --nets lenet,resnet50 --modes train --precisions fp16 --rounds 5

It needs a GPU of NVIDIA's, CuPy (pip install 'convc[cuda13]') and a PyTorch with CUDA; without them it says what is
missing. Times are of the device, between CUDA events, for whole steps (forward, backward, update) on images that are
there already; `with copies` is the wall time of a step that is given images and labels of the host, and returns the
loss. First all contestants compute one step from equal weights, and who differs is not timed. PyTorch may choose its
algorithms by measuring (cudnn.benchmark); in fp32 it computes in float32 as convc does, without TF32.
"""

# PyTorch is optional, and its names may be unknown to the type checker.
# pyright: reportMissingImports=false, reportPrivateImportUsage=false

from __future__ import annotations

import argparse
import math
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks.report import markdown, write_json
from benchmarks.run import NETS, chosen_nets, net_batch
from convc._version import __version__
from convc.ir.diagnostic import CompileError, fail
from convc.ir.parser import parse_ir
from convc.runtime.benchmark.case import Case, open_case_net, write_material
from convc.runtime.benchmark.task import GRAPH, LEARNING_RATE, TRAIN, WEIGHTS, Task
from convc.runtime.build import build_net
from convc.runtime.cuda_driver import FoundGpu, usable_gpu
from convc.runtime.program import Program

PAGE = Path(__file__).parent.parent / "docs" / "gpu-results.md"
OURS, EAGER, COMPILED = "convc", "PyTorch", "torch.compile"
# Relative differences of the loss, or of logits to the largest, that rounding explains.
TOLERANCES = {"fp32": 1e-3, "bf16": 5e-2, "fp16": 2e-2}
WARM_UP = 3


@dataclass(frozen=True)
class Contestant:
    """A net that is ready: `device_seconds(rounds)` is the median time of a step on the device, `whole` does one with
    copies and returns its result."""

    device_seconds: Callable[[int], float]
    whole: Callable[[], Any]


@dataclass
class Row:
    """What one contestant took, in milliseconds, or why it took nothing."""

    net: str
    batch: int
    mode: str
    precision: str
    contestant: str
    device_ms: float | None = None
    whole_ms: float | None = None
    difference: float | None = None
    problem: str = ""


# Contestants


def open_ours(task: Task) -> Program:
    """The net on the GPU, with the weights that all start from."""
    net = open_case_net(task.file, task.net, task.set, task.limits, still=task.still)
    program = build_net(net, batch=task.batch, mode=task.mode, target="cuda", precision=task.precision)
    program.load_params(task.path(WEIGHTS))
    return program


@contextmanager
def ours(task: Task) -> Iterator[Contestant]:
    with open_ours(task) as program:
        images, labels = task.images(), task.targets() if task.mode == TRAIN else None

        def whole() -> Any:
            return program(images) if labels is None else program.step(images, labels, lr=LEARNING_RATE)

        yield Contestant(lambda rounds: program.profile(images, labels, rounds=rounds).wall_seconds, whole)


@contextmanager
def pytorch(task: Task, compiled: bool, device: str = "cuda") -> Iterator[Contestant]:
    """The net as a user of PyTorch writes it; `device` is another one for tests."""
    import torch
    from safetensors.numpy import load_file

    from convc.runtime.benchmark.torch_module import TorchPeer
    from convc.runtime.benchmark.torch_peer import make_optimizer

    torch.backends.cudnn.benchmark = True
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    graph = parse_ir(task.path(GRAPH).read_text(encoding="utf-8"))
    peer = TorchPeer(graph, "train" if task.mode == TRAIN else "infer")
    peer.load(load_file(task.path(WEIGHTS)))
    half = {"fp16": torch.float16, "bf16": torch.bfloat16}.get(task.precision)
    module: Any = peer.module.to(device)
    given = torch.from_numpy(task.images())
    if half is not None:
        # Tensor cores read channels last.
        module, given = (
            module.to(memory_format=torch.channels_last),
            given.contiguous(memory_format=torch.channels_last),
        )
    call = torch.compile(module) if compiled else module
    given = given.pin_memory() if device == "cuda" else given
    x = given.to(device)

    def casts() -> Any:
        return torch.autocast(device, dtype=half or torch.bfloat16, enabled=half is not None)

    if task.mode == TRAIN:
        targets = task.targets()
        rows = torch.from_numpy(targets if targets.dtype.kind == "f" else targets.astype(np.int64))
        y = rows.to(device)
        optimizer = make_optimizer(task.optimizer, peer, graph)
        scaler = torch.amp.GradScaler(device, enabled=half is torch.float16)

        def step(x: Any = x, y: Any = y) -> Any:
            optimizer.zero_grad(set_to_none=True)
            with casts():
                loss = call(x, y)
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            return loss.detach()

        def whole() -> Any:
            return step(given.to(device, non_blocking=True), rows.to(device, non_blocking=True)).item()

    else:

        def step(x: Any = x, y: Any = None) -> Any:
            with torch.inference_mode(), casts():
                return call(x)

        def whole() -> Any:
            return step(given.to(device, non_blocking=True)).float().cpu().numpy()

    def seconds(rounds: int) -> float:
        for _ in range(WARM_UP):
            step()
        return median(timed(step, device) for _ in range(rounds))

    try:
        yield Contestant(seconds, whole)
    finally:
        if device == "cuda":
            torch.cuda.empty_cache()


def timed(step: Callable[[], object], device: str) -> float:
    """The seconds between two CUDA events around a step; of the wall on other devices."""
    import torch

    if device != "cuda":
        started = time.perf_counter()
        step()
        return time.perf_counter() - started
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    first.record()
    step()
    last.record()
    last.synchronize()
    return first.elapsed_time(last) / 1e3


_WORDS = (
    "`device` is the median time of a step between CUDA events, `with copies` that of a step with images of the host, "
    "by the clock on the wall; `ratio` is the best time of PyTorch on the device over ours, so above 1 convc is "
    "faster. In fp32 PyTorch computes without TF32, as convc does; `differs` is the largest relative difference of "
    "what a step gives from what ours gives. How it is measured: the head of benchmarks/gpu.py."
)
CONTESTANTS: dict[str, Callable[[Task], Any]] = {
    OURS: ours,
    EAGER: lambda task: pytorch(task, compiled=False),
    COMPILED: lambda task: pytorch(task, compiled=True),
}


# Measuring


def measure(case: Case, name: str, makers: dict[str, Callable[[Task], Any]], rounds: int) -> list[Row]:
    """All contestants on one case, one after the other."""
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as scratch:
        still = write_material(case, Path(scratch) / "still", model=False, still=True)
        task = write_material(case, Path(scratch) / "task", model=False)
        expected: np.ndarray | None = None
        for title, make in makers.items():
            row = Row(name, case.batch, case.mode, case.precision, title)
            rows.append(row)
            print(f"{name}, {case.mode}, {case.precision}: {title}", file=sys.stderr, flush=True)
            try:
                with make(still) as contestant:
                    result = np.asarray(contestant.whole(), np.float64)
                expected = result if expected is None else expected
                row.difference = difference(result, expected)
                if not row.difference <= TOLERANCES[case.precision]:
                    row.problem = f"computes something else: differs by {row.difference:.1g}"
                    continue
                with make(task) as contestant:
                    row.device_ms = 1e3 * contestant.device_seconds(rounds)
                    row.whole_ms = 1e3 * wall_seconds(contestant.whole, rounds)
            except CompileError as error:
                row.problem = error.diagnostics[0].message
            except (RuntimeError, MemoryError) as error:  # PyTorch's, of memory or of its compiler
                row.problem = str(error).strip().partition("\n")[0]
    return rows


def wall_seconds(whole: Callable[[], object], rounds: int) -> float:
    for _ in range(WARM_UP):
        whole()
    times: list[float] = []
    for _ in range(rounds):
        started = time.perf_counter()
        whole()
        times.append(time.perf_counter() - started)
    return median(times)


def difference(result: np.ndarray, expected: np.ndarray) -> float:
    """The largest difference, relative to the largest number that is expected."""
    scale = float(np.abs(expected).max(initial=0.0)) or 1.0
    return float(np.abs(result - expected).max(initial=0.0)) / scale


# The page


def ratios(rows: Sequence[Row]) -> dict[tuple[str, str, str], float]:
    """By net, mode and precision: the best time of PyTorch over ours."""
    times: dict[tuple[str, str, str], dict[str, float]] = {}
    for row in rows:
        if row.device_ms is not None:
            times.setdefault((row.net, row.mode, row.precision), {})[row.contestant] = row.device_ms
    return {
        key: min(value for name, value in found.items() if name != OURS) / found[OURS]
        for key, found in times.items()
        if OURS in found and len(found) > 1
    }


def page(rows: Sequence[Row], gpu: FoundGpu, about: dict[str, str], command: str, date: str) -> str:
    """docs/gpu-results.md with what was measured."""
    found = ratios(rows)
    lines = [
        "# Results on a GPU",
        "",
        f"Written by `{command}` on {date}. {gpu.name} (compute capability {gpu.compute // 10}.{gpu.compute % 10}, "
        f"{gpu.memory_bytes / (1 << 30):.0f} GiB), driver for CUDA {gpu.cuda[0]}.{gpu.cuda[1]}; "
        + ", ".join(f"{name} {version}" for name, version in about.items())
        + ".",
        "",
        _WORDS,
    ]
    for mode, precision in dict.fromkeys((row.mode, row.precision) for row in rows):
        own = [row for row in rows if (row.mode, row.precision) == (mode, precision)]
        table = markdown(
            ("net (batch)", "contestant", "device ms", "with copies ms", "differs", "ratio"),
            [_cells(row, found) for row in own],
            left=2,
        )
        lines += ["", f"## {'Training' if mode == TRAIN else 'Inference'}, {precision}", "", table]
        of_mode = [ratio for (_, *key), ratio in found.items() if key == [mode, precision]]
        if of_mode:
            mean = math.exp(sum(map(math.log, of_mode)) / len(of_mode))
            lines += ["", f"Geometric mean of the ratios over {len(of_mode)} nets: **{mean:.2f}**."]
    return "\n".join(lines) + "\n"


def _cells(row: Row, found: dict[tuple[str, str, str], float]) -> tuple[str, ...]:
    ratio = found.get((row.net, row.mode, row.precision))
    return (
        f"{row.net} ({row.batch})",
        row.contestant,
        row.problem if row.device_ms is None else f"{row.device_ms:.3f}",
        "" if row.whole_ms is None else f"{row.whole_ms:.3f}",
        "" if row.difference is None else f"{row.difference:.1e}",
        f"{ratio:.2f}" if ratio is not None and row.contestant == OURS else "",
    )


def require_torch() -> str:
    """PyTorch's version. Error: `missing-package` for one that is not there or has no CUDA."""
    try:
        import torch
    except ImportError:
        fail("missing-package", "PyTorch is not installed", hint="pip install torch (its default build has CUDA)")
    if not torch.cuda.is_available():
        hint = "pip install torch, from the index that its site names for the driver's CUDA"
        fail("missing-package", f"PyTorch {torch.__version__} finds no GPU", hint=hint)
    return torch.__version__


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nets", default="all", help=f"all, or some of {','.join(NETS)}, or paths")
    parser.add_argument("--modes", default="train,infer", help="of train, infer")
    parser.add_argument("--precisions", default="fp32,fp16", help="of fp32, fp16, bf16")
    parser.add_argument("--rounds", type=int, default=20, help="steps that are timed")
    parser.add_argument("--out", type=Path, default=PAGE, help="the page (default: docs/gpu-results.md)")
    arguments = parser.parse_args(words)
    files = chosen_nets(arguments.nets, parser)
    try:
        gpu = usable_gpu()
        torch_version = require_torch()
    except CompileError as error:
        print(error, file=sys.stderr)
        return 1
    from convc.runtime.cupy_device import versions

    about = {"convc": __version__, "PyTorch": torch_version, **versions()}
    rows: list[Row] = []
    for mode in arguments.modes.split(","):
        for precision in arguments.precisions.split(","):
            for file in files:
                batch = net_batch(file.stem) if file.stem in NETS else 64
                case = Case(file, mode, batch, 1, precision=precision)
                rows += measure(case, file.stem, CONTESTANTS, arguments.rounds)
    date = time.strftime("%Y-%m-%d", time.gmtime())
    command = " ".join(["python -m benchmarks.gpu", *(sys.argv[1:] if words is None else words)])
    arguments.out.write_text(page(rows, gpu, about, command, date), encoding="utf-8")
    results = Path(__file__).parent / "results" / f"gpu-{time.strftime('%Y%m%d-%H%M%S')}.json"
    write_json(results, {"gpu": asdict(gpu), "versions": about, "rows": [asdict(row) for row in rows]})
    print(f"written to {arguments.out} and {results}")
    return int(any(row.problem for row in rows))


if __name__ == "__main__":
    sys.exit(main())
