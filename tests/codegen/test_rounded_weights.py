"""Fully connected layers that cast their weights themselves: the bits of a stored copy, at every tier, without one."""

from __future__ import annotations

import numpy as np
import pytest

import convc
from convc.codegen.llvm.program import machine_of
from convc.codegen.llvm.target import CPU_VARIABLE, WITHOUT_VARIABLE, host_target
from convc.frontend import loads
from convc.ir.ops import Linear, LinearBackwardData
from convc.passes import fusion
from convc.passes.machine import TIERS, Tier
from convc.passes.tiling import most_rows
from convc.runtime.native import NativeExecutor
from convc.runtime.program import Program

pytestmark = pytest.mark.slow

# Depths with and without a rest beyond whole stretches, an odd one; outputs with and without a padded block.
TEXT = """
net n {
  input 3x6x7 -> conv 5 k=3 -> relu -> flatten -> fc 70 -> relu -> dropout 0.2 -> fc 33 -> relu -> fc 129 -> relu
  fc 10 -> loss softmax
}
train { optim sgd lr=0.05 momentum=0.9 }
"""
# Those that this processor can run: the best one, and all below it.
RUNNABLE = TIERS[TIERS.index(host_target().tier) :]


def trained(batch: int, precision: str) -> Program:
    """After three steps, of which the last has fewer rows."""
    program = convc.compile(loads(TEXT), batch=batch, mode="train", precision=precision, threads=2)
    rng = np.random.default_rng(batch)
    for rows in (batch, batch, max(1, batch - 1)):
        images, labels = rng.standard_normal((rows, 3, 6, 7)), rng.integers(0, 10, rows)
        program.step(images.astype(np.float32), labels.astype(np.int32))
    return program


def casting(program: Program) -> list[str]:
    """The kernels of fully connected layers that cast their weights."""
    executor = program._executor
    assert isinstance(executor, NativeExecutor)
    kernels = [kernel for kernel in executor.plan.kernels if kernel.prologue]
    assert all(isinstance(kernel.anchor.op, (Linear, LinearBackwardData)) for kernel in kernels)
    return [kernel.name for kernel in kernels]


@pytest.mark.parametrize("ways", [(), ("avx512bf16",)], ids=["instructions", "without"])
@pytest.mark.parametrize("batch", [1, 3, 6])
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("tier", RUNNABLE)
def test_the_bits_of_a_stored_copy(
    tier: Tier, precision: str, batch: int, ways: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(CPU_VARIABLE, tier)
    monkeypatch.setenv(WITHOUT_VARIABLE, ",".join(ways))
    itself = trained(batch, precision)
    with monkeypatch.context() as patch:
        patch.setattr(fusion, "most_rows", lambda *_: 0)
        stored = trained(batch, precision)
    assert len(casting(itself)) == 8, "four layers, forward and by the images"
    assert not casting(stored)
    for name, expected in stored.state_dict().items():
        np.testing.assert_array_equal(itself.state_dict()[name], expected, err_msg=name)


def test_many_rows_share_a_copy() -> None:
    """More than a tile takes: each tile would cast all weights again."""
    rows = most_rows(machine_of(host_target()), 2)
    assert casting(trained(rows, "bf16"))
    assert not casting(trained(rows + 1, "bf16"))


def test_inference_keeps_what_it_prepared() -> None:
    """Weights that no run changes are cast once."""
    program = convc.compile(loads(TEXT), batch=2, precision="bf16")
    assert not casting(program)
