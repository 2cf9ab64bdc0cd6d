"""The algorithms of convolutions on a GPU: what is chosen and why, and that each computes what it stands for."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from convc.codegen.cuda.algorithms import GPU_ALGORITHMS, GpuConstants, Launched
from convc.codegen.cuda.architectures import ARCHITECTURES
from convc.codegen.cuda.gpus import gpu, typical_gpu
from convc.codegen.cuda.program import gpu_machine
from convc.frontend import loads
from convc.ir.diagnostic import CompileError
from convc.ir.interpreter import run_reference
from convc.ir.ops.update import SgdUpdate
from convc.ir.types import DType
from convc.passes.algorithms.decision import decide
from convc.passes.algorithms.problem import Problem
from convc.passes.manager import PassManager
from convc.passes.pipeline import Recipe, pipeline
from convc.runtime.algorithms import AlgorithmOptions, choices_of
from convc.runtime.tuning import GpuTuner
from tests.codegen.algorithms.convolutions import DIRECTIONS, Geometry
from tests.codegen.native_graph import case_arrays, single_op_graph
from tests.cuda.emulated import EmulatedDevice, run_emulated
from tests.cuda.test_ops import needs_nvrtc

GEOMETRIES = {
    "padded": Geometry((2, 5, 9, 11), (7, 5, 3, 3), padding=(1, 1, 1, 1)),
    "5x5": Geometry((2, 3, 8, 7), (6, 3, 5, 5), padding=(2, 1, 2, 3)),
    "row": Geometry((3, 4, 6, 9), (5, 4, 1, 3), padding=(0, 1, 0, 1)),
    "column": Geometry((1, 9, 11, 5), (8, 9, 5, 1)),
}
NAMES = [algorithm.name for algorithm in GPU_ALGORITHMS]
BY_NAME = {algorithm.name: algorithm for algorithm in GPU_ALGORITHMS}


def problem(geometry: Geometry, direction: str, algorithm: str) -> Problem:
    case = geometry.case(direction, algorithm)  # type: ignore[arg-type]
    graph, _ = single_op_graph(case, case_arrays(case))
    return Problem.of(next(node for node in graph.nodes if node.op == case.op))


CASES = [
    pytest.param(geometry, direction, name, id=f"{label}-{direction}-{name}")
    for label, geometry in GEOMETRIES.items()
    for direction in DIRECTIONS
    for name in NAMES
    if BY_NAME[name].obstacle(problem(geometry, direction, name)) is None
]


@needs_nvrtc
@pytest.mark.parametrize(("geometry", "direction", "name"), CASES)
def test_each_keeps_its_error(geometry: Geometry, direction: str, name: str) -> None:
    case = geometry.case(direction, name)  # type: ignore[arg-type]
    graph, named = single_op_graph(case, case_arrays(case))
    exact = {key: a.astype(np.float64) if a.dtype == np.float32 else a for key, a in named.items()}
    expected = run_reference(graph.copy(), exact)["logits"]
    found = run_emulated(graph, named)["logits"]
    allowed = BY_NAME[name].max_rel_error(problem(geometry, direction, name))
    error = float(np.abs(found - expected).max()) / float(np.abs(expected).max())
    assert error <= max(allowed, 1e-6), f"{error:.1e}"


def test_every_family_has_cases() -> None:
    found = {name.partition("_")[0] for _, _, name in (case.values for case in CASES)}
    assert found == {"direct", "winograd", "fft"}


# The choice

RESNET = Problem("forward", 32, 64, 64, (56, 56), (56, 56), (3, 3), padding=(1, 1, 1, 1))
LARGE_FILTER = Problem("forward", 32, 64, 64, (56, 56), (56, 56), (11, 11), padding=(5, 5, 5, 5))


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_model_knows_every_architecture(name: str) -> None:
    capability = int(name.removeprefix("sm_"))
    assert typical_gpu(name).architecture.name == name
    found = decide(
        RESNET, gpu_machine(capability, halves=False), GpuConstants(typical_gpu(name)), algorithms=GPU_ALGORITHMS
    )
    assert found.chosen == "direct" or found.chosen.startswith("winograd")
    assert {c.algorithm for c in found.candidates} == set(NAMES)
    refused = {c.algorithm: c.reason for c in found.candidates if not c.applicable}
    assert refused["strassen"] == refused["im2col"] != ""


def seconds(found: Problem, name: str, product: str) -> float:
    constants = GpuConstants(gpu(product))
    machine = gpu_machine(int(constants.gpu.architecture.name.removeprefix("sm_")), found.dtype.is_half)
    return sum(constants.seconds(stage) for stage in BY_NAME[name].stages(found, machine))


def test_tensor_cores_beat_transforms_in_float32() -> None:
    halves = Problem(**{**vars(RESNET), "dtype": DType.F16})
    assert seconds(halves, "direct", "a100") < seconds(halves, "winograd_f4x3", "a100")
    assert seconds(halves, "direct", "a100") < seconds(RESNET, "direct", "a100") / 3


def test_transforms_pay_with_the_size_of_filters() -> None:
    assert seconds(LARGE_FILTER, "fft_16", "a100") < seconds(LARGE_FILTER, "direct", "a100") / 3


def test_a_faster_gpu_is_predicted_to_be_faster() -> None:
    assert seconds(RESNET, "direct", "h100") < seconds(RESNET, "direct", "a100") < seconds(RESNET, "direct", "t4")


def test_stages_are_the_launches() -> None:
    machine = gpu_machine(80, halves=False)
    stages = BY_NAME["winograd_f4x3"].stages(RESNET, machine)
    assert [stage.name for stage in stages] == ["winograd_filters", "winograd"]
    products = 2 * 32 * 14 * 14 * 36 * 64 * 64
    assert [stage.flops for stage in stages] == [0, products]
    assert all(isinstance(stage, Launched) and stage.blocks > 1 for stage in stages)


def chosen(algo: str = "auto", **options: object) -> Counter[tuple[str, str]]:
    layers = "conv 64 k=3 pad=1 -> relu -> conv 64 k=3 pad=1 -> relu"
    net = loads(f"net n {{ input 3x32x32 -> {layers} -> fc 5 -> loss softmax }}")
    choose = AlgorithmOptions(algo, **options).chooser("cuda", None, arch="sm_80")  # type: ignore[arg-type]
    reports = PassManager(pipeline("train", recipe=Recipe(SgdUpdate()), choose=choose)).run(net.graph(16))
    return Counter((choice.label, choice.decision.chosen) for choice in choices_of(reports))


def test_wishes_count_on_a_gpu() -> None:
    assert chosen("conv2=fft_16")["conv2", "fft_16"] == 3
    assert set(chosen("direct")) == {("conv1", "direct"), ("conv2", "direct")}
    with pytest.raises(CompileError, match="no form on a GPU"):
        chosen("im2col")


def test_an_error_budget_excludes() -> None:
    loose, strict = chosen(), chosen(max_error=5e-6)
    assert any(name.startswith("winograd") for _, name in loose)
    assert not any(name == "winograd_f4x3" for _, name in strict)


def test_measured_constants_are_not_for_gpus() -> None:
    with pytest.raises(CompileError, match="constants of GPUs"):
        chosen(constants="measured")


@needs_nvrtc
def test_measurements_of_a_gpu_decide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of the emulator, whose times are those of this machine: the tuner measures what applies, and remembers."""
    monkeypatch.setenv("CONVC_CACHE_DIR", str(tmp_path))
    small = Problem("forward", 2, 4, 4, (6, 6), (6, 6), (3, 3), padding=(1, 1, 1, 1))
    tuner = GpuTuner(1e9, "emulated", 80, lambda capability, plan: EmulatedDevice(capability))
    wanted = [(small, "direct"), (small, "winograd_f2x3")]
    times = tuner(wanted)
    assert tuner.measured == 2
    assert all(times[request] > 0 for request in wanted)
    assert tuner(wanted) == times
    assert tuner.measured == 2
    measured = {wanted[0]: 2.0, wanted[1]: 1.0}
    machine = gpu_machine(80, halves=False)
    found = decide(small, machine, GpuConstants(typical_gpu("sm_80")), measured=measured, algorithms=GPU_ALGORITHMS)
    assert found.chosen == "winograd_f2x3"
