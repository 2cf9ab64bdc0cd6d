"""Training with a scaled loss: which setting asks for it, skipped steps, states, checkpoints, and when it gives up."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import convc
from convc.cli import main
from convc.frontend.load import load
from convc.ir.diagnostic import CompileError
from convc.ir.ops.loss_scaling import MoveScale
from convc.passes.training import PATIENCE
from convc.runtime.checkpoint import read_checkpoint
from convc.runtime.data import DataSet, Split
from convc.runtime.interrupt import Interrupted
from convc.runtime.program import Program
from convc.runtime.training_loop import TrainingLoop
from tests.runtime.conftest import Compile

NET = "net n { input 1x8x8 -> conv 6 k=3 -> bn -> relu -> pool max 2 -> fc 12 -> relu -> fc 4 -> loss softmax }\n"
PLAIN = "net n { input 1x8x8 -> conv 6 k=3 -> relu -> pool max 2 -> fc 12 -> relu -> fc 4 -> loss softmax }\n"
LENET = Path(__file__).parents[2] / "examples" / "lenet.cnn"
STATE = ("loss.scale", "loss.good", "loss.skipped")


def with_train(settings: str, net: str = NET) -> str:
    return net + f"train {{ optim adam lr=0.01\n batch 8\n {settings} }}\n"


def images(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Four classes that differ in the quarter of the image that is bright."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, 4, count)
    x = random.random((count, 1, 8, 8), np.float32)
    for image, label in zip(x, labels, strict=True):
        image[0, 4 * (label // 2) :, 4 * (label % 2) :][:4, :4] += 1
    return x, labels


def set_scale(program: Program, scale: float) -> None:
    waiting = program.waiting
    program.load_state_dict(program.state_dict() | {"loss.scale": np.float32(scale)})
    program.waiting = waiting


def moved(before: dict[str, np.ndarray], after: dict[str, np.ndarray]) -> set[str]:
    return {name for name, array in before.items() if array.tobytes() != after[name].tobytes()}


@pytest.mark.parametrize(
    ("settings", "precision", "scale", "moves"),
    [
        ("precision fp16", None, 65536.0, MoveScale()),
        ("precision fp16 loss_scale=dynamic", None, 65536.0, MoveScale()),
        ("precision fp16 loss_scale=128", None, 128.0, MoveScale(1.0, 1.0)),
        ("precision fp16 loss_scale=none", None, None, None),
        ("precision fp16", "fp32", None, None),
        ("precision fp16", "bf16", None, None),
        ("precision bf16", None, None, None),
        ("precision bf16", "fp16", 65536.0, MoveScale()),
        ("precision bf16 loss_scale=0.5", None, 0.5, MoveScale(1.0, 1.0)),
        ("precision fp32 loss_scale=1024", None, 1024.0, MoveScale(1.0, 1.0)),
        ("", "fp16", 65536.0, MoveScale()),
        ("", None, None, None),
    ],
)
def test_who_decides(
    compile_text: Compile, settings: str, precision: str | None, scale: float | None, moves: MoveScale | None
) -> None:
    program = compile_text(with_train(settings), precision=precision)
    assert (program.loss_scale, program.skipped_steps) == (scale, 0)
    assert [node.op for node in program.graph.nodes_of(MoveScale)] == ([moves] if moves else [])
    assert set(STATE) & set(program.params) == set()
    assert set(program.state_dict()) & set(STATE) == (set(STATE) if moves else set())
    assert compile_text(with_train(settings), mode="infer", precision=precision).loss_scale is None


def test_one_layer_in_fp16_is_enough(compile_text: Compile) -> None:
    text = with_train("").replace("fc 12", "fc 12 precision=fp16")
    assert compile_text(text).loss_scale == 65536.0
    assert compile_text(text, precision="bf16").loss_scale == 65536.0
    assert compile_text(text.replace("fp16", "bf16")).loss_scale is None


@pytest.mark.parametrize("scale", ["1e39", "1e-60"])
def test_a_scale_is_a_number_in_float32(compile_text: Compile, scale: str) -> None:
    with pytest.raises(CompileError, match="value-range"):
        compile_text(with_train(f"precision fp16 loss_scale={scale}"))


def test_a_step_that_overflows_is_none(compile_text: Compile) -> None:
    """Neither for the parameters, nor for the optimiser, nor for its count of steps; the next one finds a scale."""
    program = compile_text(with_train("precision fp16\n clip 0.5", PLAIN))
    x, labels = images(8)
    program.step(x, labels)
    set_scale(program, 2.0**24)
    before = program.state_dict()
    scales: list[float | None] = []
    while program.steps == 1:
        program.step(x, labels)
        scales.append(program.loss_scale)
        if program.steps == 1:
            assert moved(before, program.state_dict()) <= set(STATE)
    assert len(scales) > 2
    assert scales[:-1] == [2.0 ** (23 - n) for n in range(len(scales) - 1)]
    assert scales[-1] == scales[-2]
    assert program.skipped_steps == len(scales) - 1
    # As if the steps that were skipped had never been.
    other = compile_text(with_train("precision fp16\n clip 0.5", PLAIN))
    other.step(x, labels)
    set_scale(other, scales[-1] or 0.0)
    other.step(x, labels)
    assert moved(program.state_dict(), other.state_dict()) == {"loss.skipped", "loss.good"}


def test_gradients_are_those_of_the_loss_itself(compile_text: Compile) -> None:
    x, labels = images(8)
    plain = compile_text(with_train("precision fp32"))
    scaled = compile_text(with_train("precision fp32 loss_scale=4096"))
    loss, expected = plain.value_and_grad(x, labels)
    again, gradients = scaled.value_and_grad(x, labels)
    assert loss == again
    for name, gradient in expected.items():
        np.testing.assert_array_equal(gradient, gradients[name])
    for _ in range(3):
        assert plain.step(x, labels) == scaled.step(x, labels)
    assert moved(plain.state_dict(), scaled.state_dict()) == set()


def test_the_scale_grows_after_two_thousand_steps(compile_text: Compile) -> None:
    program = compile_text(with_train("precision fp16", PLAIN))
    x, labels = images(8)
    program.load_state_dict(program.state_dict() | {"loss.scale": np.float32(512), "loss.good": np.float32(1997)})
    seen: list[float | None] = []
    for _ in range(4):
        program.step(x, labels)
        seen.append(program.loss_scale)
    assert seen == [512.0, 512.0, 1024.0, 1024.0]
    assert float(program.state_dict()["loss.good"]) == 1.0


def test_one_batch_that_overflows_spoils_the_update_that_it_is_part_of(compile_text: Compile) -> None:
    text = with_train("precision fp16\n clip 0.5", PLAIN).replace("batch 8", "batch 8 accumulate=3")
    program = compile_text(text)
    x, labels = images(8)
    for _ in range(3):
        program.step(x, labels)
    assert (program.steps, program.skipped_steps) == (1, 0)
    before = program.state_dict()
    program.step(x, labels)
    set_scale(program, 2.0**24)
    program.step(x, labels)
    means = [name for name in before if name.endswith(".accumulated")]
    assert not all(np.isfinite(program.state_dict()[name]).all() for name in means)
    set_scale(program, 64.0)
    program.step(x, labels)
    assert (program.steps, program.skipped_steps, program.waiting) == (1, 1, (0, 0))
    after = program.state_dict()
    assert moved(before, after) <= {*STATE, *means}
    assert all(np.isfinite(array).all() for array in after.values())
    for _ in range(3):
        program.step(x, labels)
    assert (program.steps, program.skipped_steps) == (2, 1)


def test_a_state_goes_on_bit_by_bit(compile_text: Compile) -> None:
    x, labels = images(8)
    one, other = (compile_text(with_train("precision fp16", PLAIN)) for _ in range(2))
    one.step(x, labels)
    set_scale(one, 2.0**24)
    one.step(x, labels)
    other.load_state_dict(one.state_dict())
    other.steps = one.steps
    for program in (one, other):
        for _ in range(20):
            program.step(x, labels)
    assert moved(one.state_dict(), other.state_dict()) == set()
    assert (one.steps, one.skipped_steps) == (other.steps, other.skipped_steps)
    one.reset()
    assert (one.loss_scale, one.skipped_steps, one.steps) == (65536.0, 0, 0)


def test_any_number_of_threads_makes_the_same_bits(tmp_path: Path) -> None:
    path = tmp_path / "n.cnn"
    path.write_text(with_train("precision fp16\n clip 0.5"))
    x, labels = images(8)
    states: list[dict[str, np.ndarray]] = []
    for threads in (1, 2, 3):
        with convc.compile(load(path), mode="train", threads=threads) as program:
            set_scale(program, 2.0**24)
            for _ in range(12):
                program.step(x, labels)
            assert 0 < program.skipped_steps < 12
            states.append(program.state_dict())
    assert moved(states[0], states[1]) == moved(states[0], states[2]) == set()


@pytest.mark.parametrize(("setting", "hint"), [("", "precision bf16"), (" loss_scale=4", "loss_scale=dynamic")])
def test_it_gives_up_where_no_scale_helps(compile_text: Compile, setting: str, hint: str) -> None:
    program = compile_text(with_train(f"precision fp16{setting}", PLAIN))
    x, labels = images(8)
    x[0, 0, 0, 0] = 1e30  # infinite in fp16
    falls = 0 if setting else 15
    for _ in range(falls + PATIENCE - 1):
        program.step(x, labels)
    with pytest.raises(CompileError, match="train-overflow") as caught:
        program.step(x, labels)
    assert "50 updates in a row" in caught.value.diagnostics[0].message
    assert hint in (caught.value.diagnostics[0].hint or "")
    assert (program.steps, program.skipped_steps) == (0, falls + PATIENCE)
    x[0, 0, 0, 0] = 1
    program.step(x, labels)
    assert program.steps == 1


# Whole trainings


def small_set() -> DataSet:
    parts: list[Split] = []
    for count, seed in ((80, 1), (16, 2)):
        x, labels = images(count, seed)
        parts.append(Split(np.rint(x * 127).clip(0, 255).astype(np.uint8), labels.astype(np.int32)))
    return DataSet("quarters", ("a", "b", "c", "d"), parts[0], test=parts[1])


def train(folder: Path, settings: str, **options: Any) -> convc.FitResult:
    path = folder / "n.cnn"
    path.write_text(with_train(settings, PLAIN))
    return convc.fit(load(path), data=small_set(), out=folder / "run", threads=1, **options)


def test_what_is_chosen_and_what_came_of_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = train(tmp_path, "precision fp16\n epochs 2", report="lines")
    printed = capsys.readouterr().out
    assert "  loss scale dynamic, from 65536: " in printed
    assert f"loss scale {result.loss_scale:g}; {result.skipped} updates skipped" in printed
    assert result.steps + (result.skipped or 0) == 20
    content = json.loads((tmp_path / "run" / "result.json").read_text())
    assert (content["loss_scale"], content["skipped"]) == (result.loss_scale, result.skipped)
    records = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [set(record) >= {"loss_scale", "skipped"} for record in records] == [True, True]
    assert records[-1]["loss_scale"] == result.loss_scale
    assert json.loads((tmp_path / "run" / "settings.json").read_text())["loss_scale"] == "dynamic, from 65536"
    again = train(tmp_path, "precision fp16\n epochs 2", report="quiet", resume=True)
    assert (again.loss_scale, again.skipped) == (result.loss_scale, result.skipped)


def test_nothing_is_told_where_nothing_is_scaled(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = train(tmp_path, "epochs 1", report="lines")
    assert "loss scale" not in capsys.readouterr().out
    assert (result.loss_scale, result.skipped) == (None, None)
    with pytest.raises(CompileError, match="loss scale: none in the run, 8 now"):
        train(tmp_path, "precision fp32 loss_scale=8\n epochs 2", report="quiet", resume=True)


@pytest.mark.parametrize("accumulate", [1, 3])
def test_a_training_goes_on_bit_by_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, accumulate: int) -> None:
    """Also where it stops between two batches of an update that will be skipped."""
    settings = "precision fp16\n epochs 2\n optim adam lr=0.01"
    text = f"train {{ batch 8 accumulate={accumulate}\n {settings} }}\n"
    path = tmp_path / "n.cnn"
    path.write_text(PLAIN + text)
    batches = 0
    plain = Program.train_batch

    def overflowing(self: Program, images: np.ndarray, labels: np.ndarray, lr: float, **options: Any) -> Any:
        """The fifth batch comes at a scale that is too large."""
        nonlocal batches
        batches += 1
        if batches == 5:
            set_scale(self, 2.0**24)
        return plain(self, images, labels, lr, **options)

    progress = TrainingLoop._keep_numbered

    def stopping(loop: TrainingLoop, steps_before: int, saved: bool = False) -> None:
        progress(loop, steps_before, saved)
        if loop.position.batch == 5 and not loop.position.epoch:
            loop._stop()

    monkeypatch.setattr(Program, "train_batch", overflowing)
    states: list[dict[str, np.ndarray]] = []
    for name, stops in (("whole", False), ("parts", True)):
        batches = 0
        if stops:
            with monkeypatch.context() as patch:
                patch.setattr(TrainingLoop, "_keep_numbered", stopping)
                with pytest.raises(Interrupted):
                    convc.fit(load(path), data=small_set(), out=tmp_path / name, threads=1, report="quiet")
        result = convc.fit(load(path), data=small_set(), out=tmp_path / name, threads=1, report="quiet", resume=stops)
        assert (result.skipped or 0) >= 1
        states.append(read_checkpoint(tmp_path / name / "state.safetensors").tensors)
    assert moved(states[0], states[1]) == set()


def test_a_training_that_cannot_go_on_says_so(tmp_path: Path) -> None:
    path = tmp_path / "n.cnn"
    settings = "batch 8\n epochs 60\n precision fp16 loss_scale=1e30"
    path.write_text(f"{PLAIN}train {{ {settings} }}\n")
    with pytest.raises(CompileError, match="train-overflow"):
        convc.fit(load(path), data=small_set(), out=tmp_path / "run", threads=1, report="quiet")


@pytest.mark.slow
def test_lenet_learns_digits_in_fp16_as_in_fp32(tmp_path: Path) -> None:
    losses: dict[str, list[float]] = {}
    for precision in ("fp32", "fp16"):
        result = convc.fit(
            load(LENET), data="mnist train=600 test=200", epochs=3, batch=20, precision=precision,
            out=tmp_path / precision, report="quiet",
        )  # fmt: skip
        losses[precision] = [record.train_loss for record in result.history]
        assert (result.test_accuracy or 0) > 0.85
        assert (result.skipped or 0) <= 3
    assert losses["fp16"] == pytest.approx(losses["fp32"], rel=0.1, abs=0.02)


def test_a_command_trains_in_fp16(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["train", str(LENET), "--data", "mnist train=64 test=20", "--epochs", "1", "--batch", "32"]
    assert main([*words, "--precision", "fp16", "--out", str(tmp_path / "run"), "--json"]) == 0
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [event["name"] for event in events if event["event"] == "choice" and event["name"] == "loss scale"]
    (scale,) = [event for event in events if event["event"] == "loss-scale"]
    assert scale["skipped"] == 0
    assert scale["loss_scale"] == 65536.0
