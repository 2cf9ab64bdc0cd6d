"""One net in several precisions: accuracy beside speed and size, of programs and of libraries."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest

import convc
from convc.codegen.llvm.target import DOT_BF16, WITHOUT_VARIABLE
from convc.frontend.net import Net
from convc.ir.diagnostic import CompileError
from convc.ir.op import Op
from convc.passes.base import Mode
from convc.passes.memory import MemoryPlan
from convc.runtime import precisions
from convc.runtime.build import main_loss
from convc.runtime.checkpoint import read_checkpoint, write_checkpoint
from convc.runtime.data import Split
from convc.runtime.evaluate import evaluate
from convc.runtime.initial import initial_value
from convc.runtime.loaded_library import LoadedLibrary, runnable_tier
from convc.runtime.precisions import Comparison, Contestant, compare, compare_library, compare_trained
from convc.runtime.run_folder import SETTINGS
from convc.runtime.standalone import write_standalone
from convc.runtime.trained import Trained, open_trained

needs_compiler = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")

# A norm that is folded, so that the library rounds its weights twice.
NET = """\
net small {
  input 1x8x8
  conv 6 k=3 pad=1 bias=no -> bn -> relu -> pool max 2
  fc 5
  loss softmax
}

train {
  batch 7
}
"""
WEIGHTS, BIASES = 6 * 9 + 5 * 96, 4 * 6 + 5  # numbers: those that may be 16 bits, and the others


@pytest.fixture(autouse=True)
def _in_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SECONDS", "WARM_UP", "LISTENING"):
        monkeypatch.setattr(precisions, name, 0.001)


@pytest.fixture
def split() -> Split:
    random = np.random.default_rng(2)
    return Split(random.integers(0, 256, (60, 1, 8, 8), np.uint8), random.integers(0, 5, 60).astype(np.int32))


@pytest.fixture
def net(tmp_path: Path) -> Net:
    (tmp_path / "net.cnn").write_text(NET)
    return convc.load(tmp_path / "net.cnn")


@pytest.fixture
def weights(net: Net, tmp_path: Path) -> Path:
    random = np.random.default_rng(1)
    arrays = {
        name: initial_value(parameter, 1) + random.uniform(0.01, 0.2, parameter.value.shape).astype(np.float32)
        for name, parameter in net.graph(1).parameters.items()
    }
    write_checkpoint(tmp_path / "w.safetensors", arrays, {})
    return tmp_path / "w.safetensors"


@pytest.fixture
def trained(net: Net, weights: Path) -> Trained:
    return open_trained(net.path, weights)


class Fixed:
    """A program of somebody else's: the class of every image is the same."""

    mode: Mode = "infer"
    batch = 16
    classes = 5
    loss: Op | None = None

    def __init__(self, answer: int) -> None:
        self.answer, self.calls, self.closed = answer, 0, False

    def __call__(self, x: np.ndarray, /) -> np.ndarray:
        self.calls += 1
        return np.tile(np.arange(5) == self.answer, (len(x), 1)).astype(np.float32)

    def close(self) -> None:
        self.closed = True


def fixed(program: Fixed, size: int = 10, memory: MemoryPlan | None = None) -> Callable[[], Contestant]:
    return lambda: Contestant(program, size, memory)


def by_name(found: Comparison) -> dict[str, precisions.PrecisionRecord]:
    return {record.precision: record for record in found.records}


def test_whatever_computes_may_take_part(split: Split) -> None:
    """Also what this version has no word for; the base is fp32, wherever it stands."""
    programs = {"int8": Fixed(1), "fp32": Fixed(2), "none": Fixed(3)}
    memory = MemoryPlan(arena_bytes=300, persistent_bytes=50)
    found = compare(
        {
            "int8": fixed(programs["int8"], 10, memory),
            "fp32": fixed(programs["fp32"], 40, memory),
            "none": fixed(programs["none"]),
        },
        split,
    )
    assert [record.precision for record in found.records] == ["int8", "fp32", "none"]
    records, share = by_name(found), [float((split.labels == label).mean()) for label in range(5)]
    assert records["fp32"].difference is None
    assert records["int8"].difference == pytest.approx(100 * (share[1] - share[2]))
    for name, label in (("int8", 1), ("fp32", 2), ("none", 3)):
        record = records[name]
        assert (record.accuracy, record.top5, record.loss, record.count) == (share[label], 1, None, 60)
    assert (records["int8"].weight_bytes, records["int8"].arena_bytes, records["int8"].memory_bytes) == (10, 300, 350)
    for name in ("int8", "fp32"):
        rates = [records[name].lowest, records[name].images_per_second, records[name].highest]
        assert all(rate is not None and rate > 0 for rate in rates)
        assert rates == sorted(rates, key=lambda rate: rate or 0)
        assert programs[name].calls >= 4 + 2 * precisions.ROUNDS
    assert (records["none"].images_per_second, records["none"].lowest, records["none"].memory_bytes) == (None,) * 3
    assert programs["none"].calls == 4, "what is not native is evaluated, and not timed"
    assert all(program.closed for program in programs.values())


def test_the_base_is_the_first_where_fp32_is_not_there(split: Split) -> None:
    found = compare({"b": fixed(Fixed(4)), "a": fixed(Fixed(4))}, split)
    assert [record.difference for record in found.records] == [None, 0]
    assert found.busy_cores is None
    assert found.counts


def test_speeds_on_a_busy_machine_do_not_count() -> None:
    assert not Comparison((), 0.8).counts
    assert Comparison((), 0.05).counts


def test_all_are_closed_when_one_cannot_be_made(split: Split) -> None:
    first = Fixed(1)

    def make() -> Contestant:
        raise CompileError([])

    with pytest.raises(CompileError):
        compare({"first": fixed(first), "second": make}, split)
    assert first.closed


@pytest.mark.parametrize("target", ["cpu", "reference"])
def test_a_trained_net_in_all_precisions(trained: Trained, split: Split, target: str) -> None:
    found = compare_trained(trained, split, ["fp32", "bf16", "fp16"], target=target, threads=1)
    for record in found.records:
        with trained.program(target=target, precision=record.precision, threads=1) as program:
            expected = evaluate(program, split)
            assert {name: getattr(record, name) for name in expected} == expected
            if program.plan is None:
                assert (record.images_per_second, record.arena_bytes, record.memory_bytes) == (None, None, None)
            else:
                assert record.images_per_second is not None
                assert record.arena_bytes == program.plan.memory.arena_bytes
                assert record.memory_bytes == program.plan.memory.total_bytes
        bits = 4 if record.precision == "fp32" else 2
        assert record.weight_bytes == bits * WEIGHTS + 4 * BIASES
    assert len({record.loss for record in found.records}) == 3, "each rounds in its own way"


def test_layers_that_stay_in_float32(trained: Trained, split: Split) -> None:
    found = compare_trained(trained, split, ["fp32", "bf16"], target="reference", fp32=["fc*"])
    assert by_name(found)["bf16"].weight_bytes == 2 * 6 * 9 + 4 * (5 * 96 + BIASES)
    with pytest.raises(CompileError, match="no layer matches `dense`"):
        compare_trained(trained, split, ["fp32", "bf16"], target="reference", fp32=["dense"])


def test_a_run_is_evaluated_as_it_was_trained(net: Net, weights: Path, tmp_path: Path, split: Split) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "model.cnn").write_text(NET.replace("batch 7", "precision bf16"))
    shutil.copy(weights, folder / "best.safetensors")
    results: dict[str, float | None] = {}
    for kept in ("none", "conv1, fc*"):
        (folder / SETTINGS).write_text(json.dumps({"fp32": kept}))
        with open_trained(folder).program(target="reference") as program:
            results[kept] = evaluate(program, split)["loss"]
    with open_trained(folder).program(target="reference", precision="fp32") as program:
        assert evaluate(program, split)["loss"] == results["conv1, fc*"] != results["none"]
    for text in ("", "[]", "{}", '{"fp32": 3}'):
        (folder / SETTINGS).write_text(text)
        assert open_trained(folder).fp32 == ()


@pytest.mark.slow
@needs_compiler
@pytest.mark.parametrize("inside", [True, False])
def test_a_library_beside_one_in_fp32(
    net: Net, weights: Path, tmp_path: Path, split: Split, inside: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Libraries are for all processors of a tier.
    monkeypatch.setenv(WITHOUT_VARIABLE, DOT_BF16)
    write = partial(write_standalone, net, weights=weights, threads=1)
    written: list[Path] = []

    def watched(library: Path, header: Path, **options: object) -> object:
        written.append(library)
        return write(library, header, **options)  # type: ignore[arg-type]

    kept = tmp_path / "kept.safetensors"
    made = write(
        tmp_path / "net.so", tmp_path / "net.h", precision="bf16", cpu=[runnable_tier(["avx2", "baseline"])],
        beside=None if inside else kept,
    )  # fmt: skip
    found = compare_library(net, made, split, watched, precision="bf16", threads=1)  # type: ignore[arg-type]
    assert [record.precision for record in found.records] == ["fp32", "bf16"]
    whole, half = found.records
    assert (whole.weight_bytes, half.weight_bytes) == (4 * (WEIGHTS + BIASES), 2 * WEIGHTS + 4 * BIASES)
    assert half.weight_bytes == made.weight_bytes
    assert half.memory_bytes == next(iter(made.plans.values())).memory.total_bytes
    assert whole.images_per_second is not None
    assert half.images_per_second is not None
    assert not written[0].exists(), "what was made to compare with goes away"
    # Bit by bit our own programs of that tier, the half one with the weights that the library holds.
    (tier,) = made.plans
    monkeypatch.setenv("CONVC_CPU", tier)
    for record, path in ((whole, weights), (half, None if inside else kept)):
        if path is not None:
            with open_trained(net.path, path).program(precision=record.precision, threads=1) as program:
                expected = evaluate(program, split)
            assert {name: getattr(record, name) for name in expected} == expected


@pytest.mark.slow
@needs_compiler
def test_what_is_wholly_float32_is_measured_alone(net: Net, weights: Path, tmp_path: Path, split: Split) -> None:
    tier = runnable_tier(["avx2", "baseline"])
    write = partial(write_standalone, net, weights=weights, threads=1, cpu=[tier])
    made = write(tmp_path / "net.so", tmp_path / "net.h")
    (record,) = compare_library(net, made, split, write, threads=1).records
    assert (record.precision, record.difference) == ("fp32", None)


@pytest.mark.slow
@needs_compiler
def test_layers_with_a_precision_of_their_own_make_a_mixed_library(weights: Path, tmp_path: Path, split: Split) -> None:
    (tmp_path / "mixed.cnn").write_text(NET.replace("fc 5", "fc 5 precision=fp16"))
    net, tier = convc.load(tmp_path / "mixed.cnn"), runnable_tier(["avx2", "baseline"])
    write = partial(write_standalone, net, weights=weights, threads=1)
    made = write(tmp_path / "net.so", tmp_path / "net.h", cpu=[tier])
    whole, mixed = compare_library(net, made, split, write, threads=1).records
    assert (whole.precision, mixed.precision) == ("fp32", "mixed")
    assert (whole.weight_bytes - mixed.weight_bytes) == 2 * 5 * 96


@pytest.mark.slow
@needs_compiler
def test_a_loaded_library(net: Net, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It gives what its files hold now, though the path was loaded before; after its end it is left alone."""
    tier, x = runnable_tier(["avx2", "baseline"]), np.ones((2, 1, 8, 8), np.float32)
    other = tmp_path / "other.safetensors"
    arrays = {name: 2 * array for name, array in read_checkpoint(weights).tensors.items()}
    write_checkpoint(other, arrays, {})
    results: list[np.ndarray] = []
    for path in (weights, other):
        made = write_standalone(net, tmp_path / "net.so", tmp_path / "net.h", weights=path, cpu=[tier])
        library = LoadedLibrary(made, main_loss(net.graph(1)), threads=2)
        results.append(library(x))
        library.close()
        library.close()
        with pytest.raises(AssertionError, match="closed"):
            library(x)
    assert results[0].shape == (2, 5)
    assert (results[0] != results[1]).any()
    monkeypatch.setenv("CONVC_CPU", "avx3")
    with pytest.raises(CompileError, match="CONVC_CPU=avx3"):
        LoadedLibrary(made, None)


def test_a_library_for_other_processors_cannot_be_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    from convc.codegen.llvm import target

    assert runnable_tier(["baseline"]) == "baseline"
    monkeypatch.setenv("CONVC_CPU", "baseline")
    assert runnable_tier(["avx512", "avx2", "baseline"]) == "baseline"
    monkeypatch.delenv("CONVC_CPU")
    monkeypatch.setattr(target, "_host_target", lambda wanted, *_: target.choose_target("x86_64-linux", {}, wanted))
    with pytest.raises(CompileError, match="runs none of the library's tiers, avx512, avx2"):
        runnable_tier(["avx512", "avx2"])
