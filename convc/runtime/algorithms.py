"""What may be asked of the choice of algorithms, for `convc.compile`, `convc.fit` and the verbs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import field
from typing import TYPE_CHECKING, Any, Literal

from convc.ir.diagnostic import fail
from convc.lazy import dataclass
from convc.passes.choose_algorithms import Choice, ChooseAlgorithms, parse_wishes
from convc.passes.manager import PassReport

if TYPE_CHECKING:
    from convc.codegen.llvm.target import CpuTarget

Tune = float | Literal["full"]


@dataclass(frozen=True)
class AlgorithmOptions:
    """How convolutions are to be computed.

    `algo` is "auto", a family or an algorithm for all of them, or `PATTERN=ALGORITHM,…` by layer. `scratch` bounds the
    bytes of scratch space of each, `max_error` the relative error. `tune` measures: that many seconds, or "full" for
    everything that applies. `constants` are those of the "table", or those "measured" by `convc doctor --measure`.
    `recorded` (see `record`) repeats an earlier choice. `gpu` names the GPU (of `convc.codegen.cuda.gpus`) whose
    constants the model takes where the target is cuda; "" stands for a typical one of the architecture.
    """

    algo: str = "auto"
    scratch: int | None = None
    max_error: float | None = None
    tune: Tune | None = None
    constants: str = "table"
    recorded: Mapping[str, str] = field(default_factory=dict[str, str])
    gpu: str = ""

    def __post_init__(self) -> None:
        parse_wishes(self.algo)
        _require(self.scratch is None or self.scratch > 0, "scratch", self.scratch, "a number of bytes above 0")
        error = self.max_error
        _require(error is None or 0 < error < math.inf, "max_error", error, "a number above 0, such as 1e-4")
        _require(self.constants in ("table", "measured"), "constants", self.constants, "'table' or 'measured'")
        fits = self.tune in (None, "full") or 0 < float(self.tune) < math.inf
        _require(fits, "tune", self.tune, "a number of seconds above 0, or 'full'")

    def chooser(
        self, target: str, threads: int | None, cpu: CpuTarget | None = None, arch: str | None = None
    ) -> ChooseAlgorithms | None:
        """The pass that chooses for a processor (by default this one), or for GPUs of an architecture ("sm_90"); None
        for a target that computes by the definition."""
        if target == "cuda":
            return self._gpu_chooser(arch)
        if target != "cpu":
            return None
        from convc.codegen.llvm.target import AMX_BF16, AMX_INT8, DOT_BF16, DOT_INT8, host_target

        processor = cpu or host_target()
        timer = None
        if self.tune is not None:
            from convc.runtime.tuning import Tuner

            timer = Tuner(self._budget, threads)
        constants = None
        if self.constants == "measured":
            from convc.runtime.machine_probe import require_constants

            constants = require_constants()
        limits: dict[str, Any] = {} if self.max_error is None else {"error": self.max_error}
        return ChooseAlgorithms(
            tier=processor.tier,
            dot_bf16=processor.has(DOT_BF16),
            dot_int8=processor.has(DOT_INT8),
            amx_bf16=processor.has(*AMX_BF16),
            amx_int8=processor.has(*AMX_INT8),
            wishes=self.algo,
            scratch=self.scratch or 0,
            constants=constants,
            timer=timer,
            recorded=self.recorded,
            **limits,
        )

    @property
    def _budget(self) -> float:
        """Seconds for measuring."""
        return math.inf if self.tune in ("full", None) else float(self.tune)

    def _gpu_chooser(self, arch: str | None) -> ChooseAlgorithms:
        """For GPUs of an architecture, by default that of this machine's; `constants` are those of the table."""
        from convc.codegen.cuda.algorithms import GPU_ALGORITHMS, GpuConstants
        from convc.codegen.cuda.gpus import gpu as gpu_named
        from convc.codegen.cuda.gpus import typical_gpu
        from convc.codegen.cuda.program import gpu_machine
        from convc.runtime.cuda_driver import capability_of, choose_architecture

        if self.constants == "measured":
            message = "the constants of GPUs are those that are published; `convc doctor --measure` measures processors"
            fail("unavailable-constants", message, hint="--tune measures the kernels themselves")
        architecture = choose_architecture(arch)
        capability = capability_of(architecture)
        timer = None
        if self.tune is not None:
            from convc.runtime.cuda_driver import usable_gpu
            from convc.runtime.cupy_device import open_device
            from convc.runtime.tuning import GpuTuner

            found = usable_gpu(architecture.value)
            timer = GpuTuner(self._budget, found.name, capability, open_device)
        limits: dict[str, Any] = {} if self.max_error is None else {"error": self.max_error}
        return ChooseAlgorithms(
            wishes=self.algo,
            scratch=self.scratch or 0,
            constants=GpuConstants(gpu_named(self.gpu) if self.gpu else typical_gpu(architecture.value)),
            timer=timer,
            recorded=self.recorded,
            gpu=gpu_machine(capability, halves=False),
            algorithms=GPU_ALGORITHMS,
            **limits,
        )

    def __str__(self) -> str:
        """What was asked for, as one word of a run's settings."""
        parts = [self.algo] if self.algo != "auto" else []
        parts += [f"scratch={self.scratch}"] if self.scratch is not None else []
        parts += [f"max_error={self.max_error:g}"] if self.max_error is not None else []
        return " ".join(parts) or "auto"


def choices_of(reports: Iterable[PassReport]) -> Iterator[Choice]:
    """The choices that the passes of a program have made."""
    return (finding for report in reports for finding in report.log.findings if isinstance(finding, Choice))


def record(reports: Iterable[PassReport]) -> dict[str, str]:
    """The choices of a program as JSON keeps them: what `AlgorithmOptions.recorded` takes."""
    return {choice.key: choice.decision.chosen for choice in choices_of(reports)}


def read_choices(content: Mapping[str, object]) -> dict[str, dict[str, str]]:
    """The choices by mode in the content of a run's choices.json."""
    return {
        mode: {str(key): str(name) for key, name in chosen.items()}  # type: ignore[reportUnknownVariableType]
        for mode, chosen in content.items()
        if isinstance(chosen, dict)
    }


def _require(holds: bool, name: str, value: object, takes: str) -> None:
    if not holds:
        fail("value-range", f"{name}={value!r} is not {takes}")
