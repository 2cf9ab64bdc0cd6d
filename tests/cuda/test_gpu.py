"""On a GPU: every op through CuPy against the float64 reference, LeNet's steps, and convolutions beside cuDNN's.

`make test-gpu` insists on a GPU; elsewhere these tests are skipped. None of them has run on a GPU so far.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

import convc
from convc.ir.diagnostic import CompileError
from convc.ir.graph import Graph
from convc.ir.ops.conv import Conv2d, Conv2dBackwardData, Conv2dBackwardWeights
from convc.runtime.cuda import CudaExecutor
from convc.runtime.cuda_driver import usable_gpu
from convc.runtime.cupy_device import open_device
from tests.codegen.native_graph import case_arrays, single_op_graph
from tests.cuda.emulated import run_named
from tests.cuda.test_ops import ON_GPU, compare_with_reference
from tests.op_cases import OpCase

REQUIRED = "CONVC_REQUIRE_GPU"
# Hardware's exponentials and divisions are off by a bit or two, where the emulator rounds correctly.
TOLERANCE = 2e-5
CONVOLUTIONS = [case for case in ON_GPU if isinstance(case.op, (Conv2d, Conv2dBackwardData, Conv2dBackwardWeights))]
pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module", autouse=True)
def _a_gpu() -> None:
    try:
        usable_gpu()
    except CompileError as error:
        if os.environ.get(REQUIRED) == "1":
            pytest.exit(f"`make test-gpu` needs a GPU\n{error}", returncode=1)
        pytest.skip(error.diagnostics[0].message)


def run_on_gpu(graph: Graph, named: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    executor = CudaExecutor(graph, usable_gpu().capability, open_device, batch=len(named["x"]))
    return run_named(executor, graph, named)


@pytest.mark.parametrize("case", ON_GPU, ids=str)
def test_ops_match_the_reference(case: OpCase) -> None:
    compare_with_reference(case, run_on_gpu, TOLERANCE)


# LeNet


def batches(count: int) -> list[tuple[np.ndarray, np.ndarray]]:
    random = np.random.default_rng(0)
    return [
        (random.random((16, 1, 28, 28), np.float32), random.integers(0, 10, 16).astype(np.int32)) for _ in range(count)
    ]


def trained(net: convc.Net, target: str, precision: str | None = None) -> tuple[list[float], dict[str, np.ndarray]]:
    """Losses of some steps, and all that they have changed."""
    with convc.compile(net, mode="train", batch=16, target=target, precision=precision) as program:
        losses = [program.step(x, labels) for x, labels in batches(6)]
        return losses, program.state_dict()


@pytest.fixture
def lenet(repository: Path) -> convc.Net:
    return convc.load(repository / "examples" / "lenet.cnn")


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-4), ("bf16", 3e-2), ("fp16", 5e-3)])
def test_lenet_learns_what_the_reference_learns(lenet: convc.Net, precision: str, tolerance: float) -> None:
    if precision == "bf16" and usable_gpu().capability < 80:
        pytest.skip("Turing has no tensor cores for bf16")
    losses, _ = trained(lenet, "cuda", precision)
    expected, _ = trained(lenet, "reference", precision)
    assert losses == pytest.approx(expected, rel=tolerance)


def test_two_trainings_have_the_same_bits(lenet: convc.Net, monkeypatch: pytest.MonkeyPatch) -> None:
    losses, state = trained(lenet, "cuda")
    again, same = trained(lenet, "cuda")
    monkeypatch.setenv("CONVC_CUDA_GRAPHS", "0")
    plain, also = trained(lenet, "cuda")
    assert losses == again == plain
    for name, array in state.items():
        assert np.array_equal(array, same[name]), name
        assert np.array_equal(array, also[name]), name


def test_graphs_are_used(lenet: convc.Net, capsys: pytest.CaptureFixture[str]) -> None:
    trained(lenet, "cuda")
    assert "CUDA graphs are not used" not in capsys.readouterr().err


def test_the_profile_adds_up(lenet: convc.Net) -> None:
    x, labels = batches(1)[0]
    with convc.compile(lenet, mode="train", batch=16, target="cuda") as program:
        profile = program.profile(x, labels)
    assert 0 < profile.wall_seconds < 0.1
    assert 0 < profile.total_seconds < 0.1


# cuDNN


@pytest.mark.parametrize("case", CONVOLUTIONS, ids=str)
def test_convolutions_are_those_of_cudnn(case: OpCase) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    if not torch.cuda.is_available():
        pytest.skip("PyTorch finds no GPU")
    torch.backends.cudnn.allow_tf32 = False
    arrays = case_arrays(case)
    graph, named = single_op_graph(case, arrays)
    ours = run_on_gpu(graph, named)["logits"]
    theirs = by_torch(case, arrays)
    scale = float(np.abs(theirs).max(initial=0.0)) or 1.0
    assert np.abs(ours - theirs).max(initial=0.0) <= 1e-4 * scale


def by_torch(case: OpCase, arrays: tuple[np.ndarray, ...], device: str = "cuda") -> np.ndarray:
    """The case as PyTorch computes it: forward, and its gradients by differentiation."""
    import torch
    import torch.nn.functional as functional

    op = case.op
    assert isinstance(op, (Conv2d, Conv2dBackwardData, Conv2dBackwardWeights))
    top, left, bottom, right = op.padding

    def convolve(x: torch.Tensor, filters: torch.Tensor) -> torch.Tensor:
        padded = functional.pad(x, (left, right, top, bottom))
        return functional.conv2d(padded, filters, stride=op.stride, dilation=op.dilation, groups=op.groups)

    given = [torch.from_numpy(array).to(device) for array in arrays]
    if isinstance(op, Conv2d):
        result = convolve(given[0], given[1])
        if len(given) == 3:
            result = result + given[2][:, None, None]
        return result.cpu().numpy()
    if isinstance(op, Conv2dBackwardData):
        cotangent, filters = given
        shape = (len(cotangent), filters.shape[1] * op.groups, *op.size)
        wanted = x = torch.zeros(shape, device=device, requires_grad=True)
    else:
        x, cotangent = given
        shape = (cotangent.shape[1], x.shape[1] // op.groups, *op.kernel)
        wanted = filters = torch.zeros(shape, device=device, requires_grad=True)
    convolve(x, filters).backward(cotangent)
    assert wanted.grad is not None
    return wanted.grad.cpu().numpy()
