"""`--memory`, `--fit` and the memory report on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from convc.cli import main
from convc.runtime import native

Capture = pytest.CaptureFixture[str]

TEXT = """net n {
  input 1x12x12
  conv 8 k=3 pad=1 -> relu
  repeat 3 { conv 8 k=3 pad=1 bias=no -> bn -> relu }
  pool avg global -> fc 4
  loss softmax
}
train {
  batch 8
  optim sgd lr=0.1
}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "n.cnn").write_text(TEXT)
    return tmp_path


def printed(capture: Capture, words: str) -> dict[str, object]:
    assert main(words.split()) == 0
    return json.loads(capture.readouterr().out)


def test_the_report_comes_before_the_memory(folder: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    allocate = native._aligned  # pyright: ignore[reportPrivateUsage]

    def noticed(size: int, alignment: int = 64) -> object:
        said.append(capsys.readouterr().out)
        return allocate(size, alignment)

    monkeypatch.setattr(native, "_aligned", noticed)
    assert main(["compile", "n.cnn", "--mode", "train", "--report", "memory", "--report", "kernels"]) == 0
    before, after = said[0], capsys.readouterr().out
    assert before.startswith("arena ")
    assert "the peak is at kernel" in before
    assert "while each kernel runs" in before
    assert "arena " not in after
    assert "n: train, batch 8, target cpu" in after
    assert "Mflop" in after


def test_what_is_computed_again(folder: Path, capsys: Capture) -> None:
    words = "compile n.cnn --mode train --report memory --report passes --json"
    free = printed(capsys, words)["memory"]
    assert isinstance(free, dict)
    assert free["recomputed"] == []
    total = free["arena_bytes"] + free["persistent_bytes"]
    content = printed(capsys, f"{words} --memory {int(0.8 * total)}")
    memory, passes = content["memory"], content["passes"]
    assert isinstance(memory, dict)
    assert isinstance(passes, list)
    assert memory["arena_bytes"] + memory["persistent_bytes"] <= 0.8 * total
    assert len(memory["timeline"]) > len(free["timeline"])
    for value in memory["recomputed"]:
        assert value["bytes"] == 8 * 8 * 12 * 12 * 4
        assert value["line"] in (3, 4)
        assert value["flops"] > 0
    (report,) = (entry for entry in passes if entry["pass"] == "recompute")
    assert report["metrics"]["bytes"] == memory["arena_bytes"] + memory["persistent_bytes"]
    assert report["metrics"]["bytes_before"] == total
    assert len(report["changed"]) == report["metrics"]["values"] == len(memory["recomputed"])
    assert main(f"compile n.cnn --mode train --report memory --memory {int(0.8 * total)}".split()) == 0
    assert "are computed again in the backward pass" in capsys.readouterr().out


def test_the_largest_batch(folder: Path, capsys: Capture) -> None:
    content = printed(capsys, "compile n.cnn --mode train --fit 1MiB --report memory --json")
    fit, memory = content["fit"], content["memory"]
    assert isinstance(fit, dict)
    assert isinstance(memory, dict)
    assert content["batch"] == fit["batch"]
    assert memory["arena_bytes"] + memory["persistent_bytes"] == fit["bytes"] <= fit["limit"] == 1 << 20 < fit["more"]
    assert main(["compile", "n.cnn", "--mode", "train", "--fit", "1MiB"]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith(f"batch {fit['batch']}: the largest whose plan fits: ")
    assert second.startswith(f"n: train, batch {fit['batch']}, ")


@pytest.mark.parametrize("mode", ["infer", "train"])
@pytest.mark.parametrize("words", ["--precision fp16", "--precision fp16 --fp32 conv*", "", "--precision fp32"])
def test_the_largest_batch_is_that_of_the_precision(folder: Path, capsys: Capture, words: str, mode: str) -> None:
    """That of the file, or what is asked for."""
    (folder / "n.cnn").write_text(TEXT.replace("batch 8", "batch 8\n  precision bf16"))

    def fit(words: str) -> tuple[int, int, int]:
        content = printed(capsys, f"compile n.cnn --mode {mode} --fit 1MiB --report memory --json {words}")
        found, memory = content["fit"], content["memory"]
        assert isinstance(found, dict)
        assert isinstance(memory, dict)
        assert memory["arena_bytes"] + memory["persistent_bytes"] == found["bytes"] <= 1 << 20 < found["more"]
        return found["batch"], found["bytes"], found["more"]

    batch, _, more = fit(words)
    memory = printed(capsys, f"compile n.cnn --mode {mode} --batch {batch + 1} --report memory --json {words}")[
        "memory"
    ]
    assert isinstance(memory, dict)
    assert memory["arena_bytes"] + memory["persistent_bytes"] == more
    if words in ("", "--precision fp16"):
        assert batch > fit("--precision fp32")[0]


def train(folder: Path, capsys: Capture, out: str, words: str = "") -> tuple[str, dict[str, object], bytes]:
    """What is printed, the settings of the run, and its last weights."""
    assert main(["train", "t.cnn", "--threads", "1", "--out", out, *words.split()]) == 0
    settings = json.loads((folder / out / "settings.json").read_text())
    return capsys.readouterr().out, settings, (folder / out / "last.safetensors").read_bytes()


@pytest.fixture
def images(folder: Path) -> Path:
    random = np.random.default_rng(0)
    np.savez(
        folder / "data.npz",
        x_train=random.integers(0, 255, (40, 12, 12), np.uint8),
        y_train=random.integers(0, 4, 40),
        x_test=random.integers(0, 255, (8, 12, 12), np.uint8),
        y_test=random.integers(0, 4, 8),
    )
    item = 'train {\n  data npz "data.npz" val=8\n  epochs 1\n'
    (folder / "t.cnn").write_text(TEXT.replace("train {\n", item))
    return folder


def test_training_within_a_budget(images: Path, capsys: Capture) -> None:
    plain, settings, weights = train(images, capsys, "plain")
    assert "memory" not in plain
    assert settings["batch"] == 8
    # Without a budget the log knows.
    log = (images / "plain" / "log.txt").read_text()
    assert "  memory " in log
    memory = printed(capsys, "compile t.cnn --mode train --report memory --json")["memory"]
    assert isinstance(memory, dict)
    total = memory["arena_bytes"] + memory["persistent_bytes"]
    text, _, same = train(images, capsys, "small", f"--memory {int(0.8 * total)}")
    assert "values are computed again, not kept" in text
    assert same == weights


def test_training_with_the_largest_batch(images: Path, capsys: Capture) -> None:
    text, settings, _ = train(images, capsys, "large", "--fit 1GiB")
    assert settings["batch"] == 32
    assert "batch 32: the largest whose plan fits: " in text
    assert "more are not asked for" in text
    text, settings, _ = train(images, capsys, "smaller", "--fit 1MiB")
    assert 8 < int(str(settings["batch"])) < 32
    assert f"batch {settings['batch']}: the largest whose plan fits: " in text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("compile n.cnn --fit 1GiB --batch 4", "--fit chooses the batch, and --batch says it"),
        ("train n.cnn --fit 1GiB --batch 4", "--fit chooses the batch, and --batch says it"),
        ("compile n.cnn --fit 1GiB --memory 1GiB", "--fit chooses a batch that needs no --memory"),
        ("compile n.cnn --fit 1GiB --target reference", "--fit works with plans"),
        ("train n.cnn --memory 1GiB --target reference", "--memory works with plans"),
        ("compile n.cnn --memory much", "a size such as 2GiB or 500MB is needed"),
    ],
)
def test_what_cannot_be_asked(folder: Path, capsys: Capture, words: str, message: str) -> None:
    assert exit_code(words.split()) == 2
    assert message in capsys.readouterr().err


def exit_code(words: list[str]) -> object:
    try:
        return main(words)
    except SystemExit as stopped:
        return stopped.code
