"""What the page shows, gathered from a compiled program: plain data, no markup."""

from __future__ import annotations

from typing import TYPE_CHECKING

from convc.lazy import dataclass
from convc.passes.algorithms.prediction import CONSTANTS, Constants
from convc.passes.choose_algorithms import Choice
from convc.passes.manager import PassReport
from convc.passes.plan_report import KernelRow, MemoryReport, kernel_rows, memory_report
from convc.runtime.algorithms import choices_of

if TYPE_CHECKING:
    from convc.frontend.net import Net
    from convc.runtime.profile import Profile
    from convc.runtime.program import Program


@dataclass(frozen=True)
class Note:
    """Something that a pass has to say about a line of the source; `anchor` is where the page tells it in full."""

    kind: str
    text: str
    anchor: str


@dataclass(frozen=True)
class Report:
    """Everything of one program. Kernels, memory and the profile are missing for targets without a plan."""

    net: Net
    mode: str
    target: str
    batch: int
    tier: str | None
    threads: int
    passes: tuple[PassReport, ...]
    choices: tuple[Choice, ...]
    kernels: tuple[KernelRow, ...]
    memory: MemoryReport | None
    profile: Profile | None
    constants: Constants | None

    @classmethod
    def of(cls, net: Net, program: Program, threads: int) -> Report:
        """Gather; where the target can profile, some steps are run on random images."""
        plan = program.plan
        return cls(
            net=net,
            mode=program.mode,
            target=program.target,
            batch=program.batch,
            tier=plan.machine.name if plan is not None else None,
            threads=threads,
            passes=tuple(program.reports),
            choices=tuple(choices_of(program.reports)),
            kernels=kernel_rows(plan) if plan is not None else (),
            memory=memory_report(plan, program.reports) if plan is not None else None,
            profile=_profile(program) if plan is not None and _runs_here(program) else None,
            constants=next(
                (c for tier, c in CONSTANTS.items() if plan is not None and tier == plan.machine.name), None
            ),
        )

    def notes(self) -> dict[tuple[str, int], list[Note]]:
        """What passes say, by file and line."""
        found: dict[tuple[str, int], list[Note]] = {}
        for number, report in enumerate(self.passes):
            for index, entry in enumerate(report.log.entries):
                note = Note(entry.kind, f"{report.name}: {entry}", entry_anchor(number, index))
                for place in dict.fromkeys((span.file, span.line) for span in entry.location):
                    found.setdefault(place, []).append(note)
        return found


def pass_anchor(number: int) -> str:
    """Where the page tells what pass `number` did."""
    return f"pass-{number}"


def entry_anchor(number: int, index: int) -> str:
    """Where the page shows line `index` of the log of pass `number`."""
    return f"pass-{number}-{index}"


_ROUNDS = 3


def _runs_here(program: Program) -> bool:
    """Whether there is a GPU, for a program that needs one."""
    if program.architecture is None:
        return True
    from convc.ir.diagnostic import CompileError
    from convc.runtime.cuda_driver import usable_gpu

    try:
        usable_gpu(program.architecture.value)
    except CompileError:
        return False
    return True


def _profile(program: Program) -> Profile:
    """Kernel by kernel, on random images and labels: how long something takes hardly depends on the numbers."""
    import numpy as np

    random = np.random.default_rng(0)
    images = random.random((program.batch, *program.image), dtype=np.float32)
    wanted = program.graph.inputs.get("labels")
    if program.mode == "infer" or wanted is None:
        return program.profile(images, rounds=_ROUNDS)
    labels = random.random(wanted.shape, dtype=np.float32)
    return program.profile(images, labels if wanted.type.dtype.is_float else labels.astype(np.int32), rounds=_ROUNDS)
