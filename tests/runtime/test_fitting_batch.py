"""The largest batch that fits, and programs within a budget."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import convc
from convc.frontend.net import Net
from convc.passes.manager import PassReport
from convc.passes.pipeline import pipeline
from convc.passes.plan import Plan
from convc.passes.recompute import Recomputation
from convc.runtime.build import build_net
from convc.runtime.fitting_batch import fitting_batch, largest_batch
from tests.codegen.whole_net import assert_same_bits

LIMIT = 1000


@pytest.mark.parametrize(
    ("bytes_of", "most", "batch", "more", "plans"),
    [
        (lambda n: 100 + 7 * n, 1 << 16, 128, 1003, 5),
        (lambda n: 100 + 7 * n, 50, 50, None, 3),
        (lambda n: 100 + 7 * n + 13 * (n // 8), 1 << 16, 104, 1004, 8),
        (lambda n: 10, 1 << 16, 1 << 16, None, 4),
        (lambda n: n * n, 1 << 16, 31, 1024, 20),
        (lambda n: 1000 * n, 1 << 16, 1, 2000, 3),
        (lambda n: 500, 1, 1, None, 1),
        (lambda n: 1 if n < 4000 else 2000, 1 << 16, 3999, 2000, 40),
    ],
)
@pytest.mark.parametrize("guess", [1, 8, 64])
def test_largest_batch(
    bytes_of: Callable[[int], int], most: int, batch: int, more: int | None, plans: int, guess: int
) -> None:
    tried: list[int] = []

    def counted(n: int) -> int:
        assert 1 <= n <= most
        tried.append(n)
        return bytes_of(n)

    found = largest_batch(counted, LIMIT, most, guess)
    assert found is not None
    assert (found.batch, found.bytes, found.more) == (batch, bytes_of(batch), more)
    assert len(tried) <= plans
    assert len(set(tried)) == len(tried)


def test_nothing_fits() -> None:
    assert largest_batch(lambda n: 1001, LIMIT, 10) is None


TEXT = """net n {
  input 3x8x8
  conv 8 k=3 pad=1 bias=no -> bn -> relu
  repeat 3 { residual { conv in k=3 pad=1 bias=no -> bn -> relu -> conv in k=3 pad=1 bias=no -> bn } -> relu }
  dropout 0.25 -> pool avg global -> fc 4
  loss softmax
}
train {
  batch 6
  optim sgd lr=0.1 momentum=0.9
}
"""


@pytest.fixture
def net(tmp_path: Path) -> Net:
    path = tmp_path / "n.cnn"
    path.write_text(TEXT)
    return convc.load(path)


def taken(net: Net, batch: int, mode: str) -> int:
    with convc.compile(net, batch=batch, mode=mode) as program:
        assert program.plan is not None
        return program.plan.memory.total_bytes


@pytest.mark.parametrize("mode", ["infer", "train"])
def test_one_more_would_not_fit(net: Net, mode: str) -> None:
    found = fitting_batch(net, 600_000, mode="train" if mode == "train" else "infer")
    assert found.bytes == taken(net, found.batch, mode) <= 600_000
    assert found.more == taken(net, found.batch + 1, mode) > 600_000
    assert str(found).startswith("the largest whose plan fits: ")


def test_not_even_one_image(net: Net) -> None:
    with pytest.raises(convc.CompileError, match=r"a program of n takes .* KiB for a single image; the budget is 1000"):
        fitting_batch(net, 1000, mode="train")


def test_a_budget_changes_no_bit(net: Net) -> None:
    random = np.random.default_rng(3)
    x, labels = random.random((6, 3, 8, 8), np.float32), random.integers(0, 4, 6)
    outcomes: list[dict[str, np.ndarray]] = []
    sizes: list[int] = []
    for share in (1.0, 0.7):
        memory = None if share == 1 else int(share * sizes[0])
        with convc.compile(net, mode="train", memory=memory, seed=5) as program:
            assert program.plan is not None
            sizes.append(program.plan.memory.total_bytes)
            again = [entry for report in program.reports for entry in report.log.findings]
            assert any(isinstance(entry, Recomputation) for entry in again) == (memory is not None)
            _, gradients = program.value_and_grad(x, labels)
            program.step(x, labels)
            program.step(x[:4], labels[:4])
            outcomes.append(gradients | {f"new {name}": value for name, value in program.state_dict().items()})
    assert sizes[1] <= 0.7 * sizes[0]
    assert_same_bits(outcomes[1], outcomes[0])


def test_an_impossible_budget_says_what_is_possible(net: Net) -> None:
    with pytest.raises(convc.CompileError, match=r"a training step of n takes .* at least") as caught:
        convc.compile(net, mode="train", memory=1000)
    (diagnostic,) = caught.value.diagnostics
    assert diagnostic.code == "budget-memory"
    least = int(diagnostic.message.split("(")[1].split()[0])
    with convc.compile(net, mode="train", memory=least) as program:
        assert program.plan is not None
        assert program.plan.memory.total_bytes <= least
    with pytest.raises(convc.CompileError, match=r"the program of n takes .* the budget is 1000 bytes"):
        convc.compile(net, memory=1000)


def test_a_target_without_plans_has_no_budget(net: Net) -> None:
    with pytest.raises(convc.CompileError, match="plans no memory"):
        convc.compile(net, target="reference", memory=1 << 30)
    with pytest.raises(convc.CompileError, match="memory=0"):
        convc.compile(net, memory=0)


def test_the_plan_is_told_before_anything_is_allocated(net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    from convc.runtime import native

    told: list[int] = []
    monkeypatch.setattr(native, "_aligned", lambda size, alignment=64: pytest.fail("memory was allocated"))

    class StopError(Exception):
        pass

    def planned(plan: Plan, passes: list[PassReport]) -> None:
        told.append(len(passes))
        raise StopError

    with pytest.raises(StopError):
        build_net(net, planned=planned)
    assert told == [len(pipeline("infer")) + 1]  # and the choice of algorithms
