"""Profiles of compiled programs: every kernel is there, with its line, and nothing is changed by looking."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import convc
from convc.frontend.net import Net
from convc.ir.diagnostic import CompileError
from convc.passes.algorithms.table import BY_NAME
from convc.runtime.profile import make_profile

TEXT = """net tiny {
  input 1x12x12
  conv 4 k=3 -> bn -> relu -> pool max 2
  fc 10
  loss softmax
}
train {
  batch 8
  optim sgd lr=0.1 momentum=0.9
}
"""


@pytest.fixture
def net(tmp_path: Path) -> Net:
    path = tmp_path / "tiny.cnn"
    path.write_text(TEXT)
    return convc.load(path)


def test_a_training_step_is_told_kernel_by_kernel(net: Net) -> None:
    x = np.random.default_rng(0).random((8, 1, 12, 12), dtype=np.float32)
    labels = np.arange(8)
    with convc.compile(net, mode="train", threads=1) as program:
        program.step(x, labels)
        before = program.state_dict()
        profile = program.profile(x, labels)
        after = program.state_dict()
    for name, array in before.items():
        np.testing.assert_array_equal(array, after[name], err_msg=name)
    names = [kernel.ops for kernel in profile.kernels]
    for expected in ("conv2d", "conv2d_backward_weights", "max_pool_backward", "linear", "sgd_update"):
        assert any(expected in name for name in names), expected
    phases = [phase for kernel in profile.kernels for phase in kernel.phases]
    assert len(phases) >= len(profile.kernels) > 5
    convolution = next(kernel for kernel in profile.kernels if kernel.ops.startswith("conv2d"))
    assert convolution.line == 3
    # 2 · 8 images · 4 channels · 10x10 pixels · 9 taps, and the bias and activation ops that ride along.
    assert convolution.flops >= 2 * 8 * 4 * 100 * 9
    assert profile.total_seconds > 0
    assert "conv1" in str(profile)


def test_an_inference_program_is_told_too(net: Net) -> None:
    with convc.compile(net, threads=1) as program:
        profile = program.profile(np.zeros((3, 1, 12, 12), np.float32))
    assert not any("backward" in kernel.ops for kernel in profile.kernels)


def test_launches_are_taken_off(net: Net) -> None:
    """A launch takes 2 s, or 50 s right after a whole step; a phase 3 s more, the whole step 100 s."""
    with convc.compile(net, threads=1) as program:
        assert program.plan is not None
        kernel = program.plan.kernels[0]
    whole, late = (0, 9), False

    def run(first: int, last: int) -> float:
        nonlocal late
        was_late, late = late, (first, last) == whole
        return 100.0 if late else (50.0 if was_late else 2.0) + 3.0 * (last - first)

    profile = make_profile([(0, kernel, "first"), (1, kernel, "second")], 3, run, 9)
    assert profile.wall_seconds == 100.0
    (time,) = profile.kernels
    assert time.phases == ("first", "second")
    assert time.seconds == 6.0


def test_the_algorithm_of_a_convolution_is_told(net: Net) -> None:
    with convc.compile(net, threads=1) as program:
        profile = program.profile(np.zeros((3, 1, 12, 12), np.float32))
    for kernel in profile.kernels:
        assert (kernel.algorithm in BY_NAME) == kernel.ops.startswith("conv2d"), kernel.ops


def test_the_interpreter_does_not_profile(net: Net) -> None:
    with convc.compile(net, target="reference") as program, pytest.raises(CompileError, match="does not profile"):
        program.profile(np.zeros((3, 1, 12, 12), np.float32))
