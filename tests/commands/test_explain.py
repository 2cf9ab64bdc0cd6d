"""`convc explain`, and what may be asked of the choice of algorithms: in the file, on the command line, from Python."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import convc
from convc.cli import main
from convc.ir.diagnostic import CompileError
from convc.passes.algorithms.table import ALGORITHMS
from convc.runtime.algorithms import choices_of, record
from convc.runtime.explanation import explain

NET = """net n {
  input 8x14x14
  conv 16 k=3 pad=1 -> relu
  conv 16 k=3 s=2
  conv 4 k=1
  fc 3
  loss softmax
}
train {
  batch 4
  optim sgd lr=0.1
}
"""
Capture = pytest.CaptureFixture[str]
KEYS = {
    "algo",
    "applicable",
    "reason",
    "predicted_ms",
    "measured_ms",
    "scratch_bytes",
    "max_rel_error",
    "measured_rel_error",
}


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    # Times that are remembered are those of this test.
    monkeypatch.setenv("CONVC_CACHE_DIR", str(tmp_path / "cache"))
    path = tmp_path / "n.cnn"
    path.write_text(NET)
    return path


def answer(capsys: Capture, *arguments: str) -> dict[str, Any]:
    assert main(["explain", "n.cnn", "--json", *arguments]) == 0
    return json.loads(capsys.readouterr().out)


def by_direction(content: dict[str, Any], name: str) -> dict[str, dict[str, Any]]:
    return {item["direction"]: item for item in content["convolutions"] if item["name"] == name}


@pytest.mark.usefixtures("file")
class TestReport:
    def test_every_convolution_every_direction_every_algorithm(self, capsys: Capture) -> None:
        content = answer(capsys, "--mode", "train")
        assert content["schema"] == 1
        assert content["batch"] == 4
        assert [by_direction(content, f"conv{n}").keys() for n in (1, 2, 3)] == [
            {"forward", "backward_weights"},  # nobody wants the gradient of the images
            {"forward", "backward_data", "backward_weights"},
            {"forward", "backward_data", "backward_weights"},
        ]
        for item in content["convolutions"]:
            assert [candidate["algo"] for candidate in item["candidates"]] == [a.name for a in ALGORITHMS]
            for candidate in item["candidates"]:
                assert candidate.keys() == KEYS
                assert candidate["reason"]
                assert candidate["measured_ms"] is None
                assert candidate["measured_rel_error"] is None
                if candidate["applicable"]:
                    assert candidate["predicted_ms"] > 0
                    assert candidate["scratch_bytes"] >= 0
                    assert 0 < candidate["max_rel_error"] <= 1e-4
            assert item["chosen"] in {c["algo"] for c in item["candidates"] if c["applicable"]}
            assert item["regret"] is None
        assert {item["line"] for item in content["convolutions"]} == {3, 4, 5}

    def test_errors_are_measured_when_asked_for(self, capsys: Capture) -> None:
        for item in answer(capsys, "--mode", "train", "--measure-errors")["convolutions"]:
            errors = {candidate["algo"]: candidate["measured_rel_error"] for candidate in item["candidates"]}
            assert {name for name, error in errors.items() if error is not None} == {item["chosen"]}
        for item in answer(capsys, "--all", "--measure-errors")["convolutions"]:
            for candidate in item["candidates"]:
                assert (candidate["measured_rel_error"] is not None) == candidate["applicable"]
                if candidate["applicable"]:
                    assert 1e-9 < candidate["measured_rel_error"] < candidate["max_rel_error"]

    def test_the_text_shows_errors_and_bounds(self, capsys: Capture) -> None:
        for options in (["--all"], []):
            assert main(["explain", "n.cnn", "--measure-errors", *options]) == 0
            text = capsys.readouterr().out
            assert "error bound  error" in text
            assert re.search(r"closest to its bound: conv\d forward by \w+, \d+ % of it", text)

    def test_reasons_are_words(self, capsys: Capture) -> None:
        content = answer(capsys)
        assert by_direction(content, "conv1").keys() == {"forward"}
        reasons = {c["algo"]: c["reason"] for c in by_direction(content, "conv2")["forward"]["candidates"]}
        assert "stride is 2x2" in reasons["winograd_f2x3"]
        reasons = {c["algo"]: c["reason"] for c in by_direction(content, "conv3")["forward"]["candidates"]}
        assert "kernel is 1x1" in reasons["winograd_f4x3"]

    def test_tables(self, capsys: Capture) -> None:
        assert main(["explain", "n.cnn"]) == 0
        short = capsys.readouterr().out
        assert short.count("forward") == 3
        assert main(["explain", "n.cnn", "--all"]) == 0
        assert capsys.readouterr().out.count("winograd_f2x3") >= 3

    def test_threads_divide_times_and_change_no_choice(self, capsys: Capture) -> None:
        one, four = (answer(capsys, "--threads", count, "--mode", "train") for count in ("1", "4"))
        for a, b in zip(one["convolutions"], four["convolutions"], strict=True):
            assert a["chosen"] == b["chosen"]
            for left, right in zip(a["candidates"], b["candidates"], strict=True):
                if left["applicable"]:
                    assert left["predicted_ms"] == pytest.approx(4 * right["predicted_ms"])


@pytest.mark.usefixtures("file")
class TestWishes:
    def test_by_layer(self, capsys: Capture) -> None:
        content = answer(capsys, "--algo", "conv1=winograd_f2x3", "--algo", "conv2=direct", "--mode", "train")
        assert {item["chosen"] for item in by_direction(content, "conv1").values()} == {"winograd_f2x3"}
        assert {item["chosen"] for item in by_direction(content, "conv2").values()} == {"direct"}

    def test_a_family_for_all_is_for_those_that_can(self, capsys: Capture) -> None:
        content = answer(capsys, "--algo", "winograd")
        assert by_direction(content, "conv1")["forward"]["chosen"].startswith("winograd_")
        assert not by_direction(content, "conv2")["forward"]["chosen"].startswith("winograd_")

    def test_the_file_asks_and_the_command_line_comes_first(self, file: Path, capsys: Capture) -> None:
        file.write_text(NET.replace("k=3 pad=1", "k=3 pad=1 algo=winograd_f6x3"))
        assert by_direction(answer(capsys), "conv1")["forward"]["chosen"] == "winograd_f6x3"
        again = answer(capsys, "--algo", "conv1=direct")
        assert by_direction(again, "conv1")["forward"]["chosen"] == "direct"

    def test_the_impossible_says_why(self, file: Path, capsys: Capture) -> None:
        assert main(["explain", "n.cnn", "--algo", "conv2=winograd"]) == 1
        message = capsys.readouterr().err
        assert "n.cnn:4:3: error[unavailable-algorithm]: conv2 cannot be computed by `winograd`" in message
        assert "stride is 2x2" in message
        file.write_text(NET.replace("k=1", "k=1 algo=winograd"))
        assert main(["compile", "n.cnn"]) == 1
        assert "kernel is 1x1" in capsys.readouterr().err

    def test_limits(self, capsys: Capture) -> None:
        for item in answer(capsys, "--max-error", "3e-6", "--mode", "train")["convolutions"]:
            for candidate in item["candidates"]:
                if candidate["algo"] == "winograd_f6x3":
                    assert not candidate["applicable"]
        small = answer(capsys, "--scratch", "1KiB")
        for item in small["convolutions"]:
            chosen = next(c for c in item["candidates"] if c["algo"] == item["chosen"])
            assert chosen["scratch_bytes"] <= 1024


def test_tuning_measures_remembers_and_reports(file: Path, capsys: Capture) -> None:
    content = answer(capsys, "--tune", "full", "--threads", "1")
    for item in content["convolutions"]:
        measured = {c["algo"]: c["measured_ms"] for c in item["candidates"] if c["applicable"]}
        assert all(milliseconds is not None and milliseconds > 0 for milliseconds in measured.values())
        assert item["chosen"] == min(measured, key=lambda name: measured[name])
        assert item["regret"] is None or item["regret"] >= 0
    assert -1 <= content["prediction"]["spearman"] <= 1
    assert content["prediction"]["worst"]
    # What is remembered needs no time at all: a budget that is spent at once still has the numbers.
    again = answer(capsys, "--tune", "0.000001", "--threads", "1")
    assert again["convolutions"] == content["convolutions"]


def test_programs_follow_the_choice(file: Path) -> None:
    net = convc.load(file)
    x = np.random.default_rng(0).standard_normal((4, 8, 14, 14)).astype(np.float32)
    results = {}
    for algo in ("direct", "conv1=winograd_f4x3"):
        with convc.compile(net, algo=algo, seed=1) as program:
            results[algo] = program(x)
            chosen = record(program.reports)
        assert chosen["conv1 forward"] == algo.rpartition("=")[2]
    plain, other = results.values()
    assert not np.array_equal(plain, other)
    np.testing.assert_allclose(other, plain, rtol=0, atol=1e-4 * np.abs(plain).max())


# What the file says of a precision, and what is asked for.
PRECISIONS = [
    ("", ["--precision", "bf16"], "bf16"),
    ("", ["--precision", "fp16", "--fp32", "conv2"], "fp16"),
    ("precision bf16", [], "bf16"),
    ("precision fp16", ["--precision", "fp32"], "fp32"),
    ("precision fp16 loss_scale=8", ["--fp32", "conv1, conv3"], "fp16"),
    ("precision=bf16", [], "fp32"),
]


@pytest.mark.parametrize(("setting", "words", "precision"), PRECISIONS)
@pytest.mark.parametrize("mode", ["infer", "train"])
def test_the_precision_is_that_of_the_program(
    setting: str, words: list[str], precision: str, mode: str, file: Path, capsys: Capture
) -> None:
    """That of the file, of a layer, or what is asked for: problems and choices are those of `convc compile`."""
    if "=bf16" in setting:
        file.write_text(NET.replace("s=2", f"s=2 {setting}"))
    else:
        file.write_text(NET.replace("batch 4", f"batch 4\n  {setting}"))
    content = answer(capsys, "--mode", mode, *words)
    assert content["precision"] == precision
    fp32 = words[-1].split(", ") if "--fp32" in words else []
    asked = words[1] if "--precision" in words else None
    with convc.compile(convc.load(file), mode=mode, precision=asked, fp32=fp32) as program:
        expected = {
            (choice.label, choice.direction): (str(choice.decision.problem), choice.decision.chosen)
            for choice in choices_of(program.reports)
        }
    said = {(item["name"], item["direction"]): (item["shape"], item["chosen"]) for item in content["convolutions"]}
    assert said == expected
    halves = {name for (name, _), (shape, _) in said.items() if shape.endswith(("bf16", "f16"))}
    assert halves == ({"conv2"} if setting == "precision=bf16" else {"conv1", "conv2", "conv3"} - set(fp32)) - (
        {"conv1", "conv2", "conv3"} if asked == "fp32" else set()
    )


def test_the_text_says_the_precision(file: Path, capsys: Capture) -> None:
    assert main(["explain", "n.cnn", "--precision", "bf16", "--threads", "1"]) == 0
    assert re.match(r"n: infer, batch 4, bf16, \w+, 1 thread\n", capsys.readouterr().out)
    assert main(["explain", "n.cnn", "--precision", "bf16", "--fp32", "conv9"]) == 1
    assert "error[name-layer]: no layer matches `conv9`" in capsys.readouterr().err


@pytest.mark.usefixtures("file")
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_errors_in_16_bits_are_those_of_the_algorithm(precision: str, capsys: Capture) -> None:
    """And not of the type, whose numbers have two or three digits."""
    words = "--mode", "train", "--all", "--measure-errors", "--precision", precision
    for item in answer(capsys, *words)["convolutions"]:
        for candidate in item["candidates"]:
            if candidate["applicable"]:
                assert 1e-9 < candidate["measured_rel_error"] < candidate["max_rel_error"]


def test_nothing_to_train(file: Path, capsys: Capture) -> None:
    file.write_text("net n { input 8x14x14 -> conv 4 k=3 }")
    assert main(["explain", "n.cnn", "--mode", "train"]) == 1
    assert "error[value-loss]" in capsys.readouterr().err


def test_a_family_without_the_pass_is_refused(file: Path) -> None:
    file.write_text(NET.replace("pad=1", "pad=1 algo=winograd"))
    with pytest.raises(CompileError, match="missing-pass"):
        convc.compile(convc.load(file), passes=["specialize", "dead-code"])


@pytest.mark.parametrize(
    "arguments",
    [
        {"scratch": 0},
        {"max_error": 0.0},
        {"max_error": float("nan")},
        {"tune": -1.0},
        {"tune": float("inf")},
        {"constants": "guessed"},
    ],
)
def test_senseless_options(file: Path, arguments: dict[str, Any]) -> None:
    with pytest.raises(CompileError, match="value-range"):
        convc.compile(convc.load(file), **arguments)


def test_explain_from_python(file: Path) -> None:
    explanation = explain(convc.load(file), "infer", batch=2)
    assert [choice.label for choice in explanation.choices] == ["conv1", "conv2", "conv3"]
    assert explanation.spearman is None
    assert all(choice.decision.problem.batch == 2 for choice in explanation.choices)
