"""Files and names from somebody else: they give a message, never a hang, a traceback, or a write outside the folder."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

import convc
from convc.frontend import load, loads, parse_data
from convc.frontend.schedule import Schedule
from convc.ir.diagnostic import CompileError, Diagnostic, printable, render
from convc.ir.span import Span
from convc.runtime.checkpoint import read_checkpoint, text_list, write_checkpoint
from convc.runtime.data.npz import read_npz
from convc.runtime.metrics import Metrics
from convc.runtime.plain_files import append_plain, read_plain
from convc.runtime.progress import figure
from convc.runtime.trained import evaluation_data, open_trained
from convc.runtime.training_state import Position, parse_position

NET = """\
net small {
  input 1x4x4
  fc 3
  loss softmax
}
train {
  data npz "data.npz"
  batch 6
  epochs 2
  optim sgd lr=0.1
}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.cnn").write_text(NET)
    x = np.random.default_rng(0).random((12, 1, 4, 4), np.float32)
    np.savez(tmp_path / "data.npz", x_train=x, y_train=np.arange(12) % 3, x_test=x[:6], y_test=np.arange(6) % 3)
    return tmp_path


def train(folder: Path, **options: object) -> convc.CompileError | Path:
    net = load("small.cnn")
    result = convc.fit(net, out="run", target="reference", report="quiet", **options)  # type: ignore[arg-type]
    return result.folder


def code_of(call: Callable[[], object]) -> str:
    with pytest.raises(CompileError) as caught:
        call()
    return caught.value.diagnostics[0].code


# Files that are none


def test_pipes_and_links_are_no_files(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    victim = tmp_path / "victim"
    victim.write_text("mine")
    (tmp_path / "link").symlink_to(victim)
    (tmp_path / "dir").mkdir()
    for name in ("pipe", "link", "dir"):
        with pytest.raises(OSError, match=r"regular file|directory"):
            read_plain(tmp_path / name)
        with pytest.raises(OSError, match=r"regular file|directory"):
            append_plain(tmp_path / name)
    assert victim.read_text() == "mine"
    with append_plain(tmp_path / "new") as file:
        file.write("one\n")
    assert read_plain(tmp_path / "new") == "one\n"


@pytest.mark.parametrize("name", ["settings.json", "log.txt", "metrics.jsonl", "state.safetensors", ".lock"])
@pytest.mark.parametrize("kind", ["pipe", "link"])
def test_a_run_folder_with_pipes_or_links(folder: Path, name: str, kind: str) -> None:
    train(folder)
    victim = folder / "victim"
    path = folder / "run" / name
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to(victim)
    # What is replaced as a whole goes its way; what would be read or written through is refused.
    harmless = {("metrics.jsonl", "link"), (".lock", "pipe"), ("state.safetensors", "link")}
    if (name, kind) in harmless:
        train(folder, resume=True, epochs=3)
    else:
        assert code_of(lambda: train(folder, resume=True, epochs=3)).split("-")[0] in ("file", "checkpoint")
    assert not victim.exists()


def test_a_file_may_not_use_a_pipe_or_a_device(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    path = tmp_path / "n.cnn"
    for name in (tmp_path / "pipe", "/dev/zero", "/dev/stdin"):
        path.write_text(f'use "{name}"\nnet n {{ input 1x2x2 -> fc 2 -> loss softmax }}')
        assert code_of(lambda: load(path)) == "file-unreadable"
    path.write_text(f'use "{"x" * 5000}"\nnet n {{ input 1x2x2 -> fc 2 -> loss softmax }}')
    with pytest.raises(CompileError) as caught:
        load(path)
    assert max(map(len, str(caught.value).splitlines())) < 200


# Content that is not what it should be


def test_a_state_that_stands_nowhere(tmp_path: Path) -> None:
    good = asdict(Position(epoch=1, step=3)) | {"best_score": [0.5, -1.0]}
    assert parse_position(tmp_path, {"position": json.dumps(good)}).step == 3
    for change in (
        {"epoch": "x"},
        {"epoch": -1},
        {"batch": 10**40},
        {"step": 1.5},
        {"loss": None},
        {"seconds": float("inf")},
        {"best_score": ["a"]},
        {"best_score": 3},
        {"rate_scale": None},
        {"plateau": 3},
        {"plateau": {"best": 1.0}, "early_stop": None},
        {"plateau": {"rule": 1, "best": None, "epochs": 0}},
        {"early_stop": {"rule": "", "best": "x", "epochs": 0}},
        {"early_stop": {"rule": "", "best": float("nan"), "epochs": 0}},
        {"early_stop": {"rule": "", "best": 10**400, "epochs": 0}},
        {"early_stop": {"rule": "", "best": None, "epochs": -1}},
        {"early_stop": {"rule": "", "best": None, "epochs": 0, "more": 1}},
    ):
        text = json.dumps(good | change)
        assert code_of(lambda text=text: parse_position(tmp_path, {"position": text})) == "checkpoint-unreadable"
    deep = {"position": "[" * 100_000}
    assert code_of(lambda: parse_position(tmp_path, deep)) == "checkpoint-unreadable"


def test_a_state_beyond_the_last_batch(folder: Path) -> None:
    train(folder)
    state = folder / "run" / "state.safetensors"
    checkpoint = read_checkpoint(state)
    position = json.loads(checkpoint.metadata["position"]) | {"batch": 500}
    write_checkpoint(state, checkpoint.tensors, {**checkpoint.metadata, "position": json.dumps(position)})
    assert code_of(lambda: train(folder, resume=True, epochs=3)) == "checkpoint-unreadable"


def test_metrics_of_somebody_else(tmp_path: Path) -> None:
    for line in ('{"epoch": "x"}', "[" * 100_000, "[]", "NaN"):
        (tmp_path / "metrics.jsonl").write_text(line + "\n")
        metrics = Metrics(tmp_path)
        metrics.restart(3)
        assert metrics.records == []


@pytest.mark.parametrize("text", [None, "", "{not json", "5", "[[1]]", "[1]", "[" * 100_000])
def test_metadata_of_somebody_else(text: str | None) -> None:
    assert text_list(text) == ()


def test_a_header_that_is_no_literal(tmp_path: Path) -> None:
    import zipfile

    for header in (b"{'descr': [" + b"[" * 3000, b"__import__('os')", b"{"):
        with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
            archive.writestr("x_train.npy", b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header)
            archive.writestr("y_train.npy", b"")
        assert code_of(lambda: read_npz(tmp_path / "a.npz", None)).startswith("data-")


def test_weights_to_start_from_are_examined_before_anything_is_written(folder: Path) -> None:
    shapes = {name: p.value.shape for name, p in load("small.cnn").graph(1).parameters.items()}
    arrays = {name: np.ones(shape, np.float32) for name, shape in shapes.items()}
    write_checkpoint(folder / "other.safetensors", {"x": np.ones(3, np.float32)}, {})
    assert code_of(lambda: train(folder, init="other.safetensors")) == "checkpoint-mismatch"
    from safetensors.numpy import save_file

    save_file({name: array * np.nan for name, array in arrays.items()}, folder / "nan.safetensors")
    assert code_of(lambda: train(folder, init="nan.safetensors")) == "checkpoint-not-finite"
    save_file({name: array.astype(np.float64) * 1e300 for name, array in arrays.items()}, folder / "big.safetensors")
    assert code_of(lambda: train(folder, init="big.safetensors")) == "checkpoint-not-finite"
    assert not (folder / "run").exists()


# What is shown


def test_names_do_not_steer_the_terminal() -> None:
    assert printable("plain é\n\tline") == "plain é\n\tline"
    assert printable("a\x1b[2Jb\x9b\u202e\r") == "a\\x1b[2Jb\\x9b\\u202e\\x0d"
    text = render([Diagnostic("file-missing", "\x1b[31m", Span("a", 1, 3, 1, 4))], {"a": "x\x1by"})
    assert text.splitlines() == ["a:1:3: error[file-missing]: \\x1b[31m", "  1 | x y", "    |   ^"]


def test_figures_fit_a_line() -> None:
    assert [figure(value) for value in (0.05214, 12.0, 1.23456e30)] == ["0.0521", "12.0000", "1.235e+30"]


def test_errors_about_data_show_the_line(folder: Path) -> None:
    (folder / "small.cnn").write_text(NET.replace("1x4x4", "1x5x5"))
    with pytest.raises(CompileError) as caught:
        train(folder)
    assert '  7 |   data npz "data.npz"' in str(caught.value)
    with pytest.raises(CompileError) as caught:
        train(folder, data='npz "data.npz"')
    assert "  1 | data npz" in str(caught.value)


# Settings


def test_rates_of_a_schedule_without_an_optimiser(folder: Path) -> None:
    (folder / "small.cnn").write_text(NET.replace("optim sgd lr=0.1", "schedule 0.1 for 1e, 0.01"))
    train(folder)
    settings = json.loads((folder / "run" / "settings.json").read_text())
    assert settings["schedule"] == "0.1 for 1e, 0.01"
    assert "lr=" not in settings["optimizer"]
    again = load(folder / "run" / "model.cnn").settings
    assert again.optimizer is not None
    assert (again.optimizer.kind, str(again.schedule)) == ("adam", settings["schedule"])


SCHEDULES = (
    "constant",
    "0.5 for 2e, 0.1 for 30s, 0.01",
    "step every=3e gamma=0.5 warmup=2s",
    "cosine min=0.001",
    "poly power=2.0 min=0.0",
    "onecycle max=0.3",
)


@pytest.mark.parametrize("text", SCHEDULES)
def test_a_schedule_reads_back(text: str) -> None:
    def schedule(words: str) -> Schedule:
        net = loads(f"net n {{ input 1x2x2 -> fc 2 -> loss softmax }}\ntrain {{\n optim sgd\n schedule {words}\n}}")
        return net.settings.schedule

    first = schedule(text)
    again = schedule(str(first))
    assert str(again) == str(first)
    assert again == first


def test_downloaded_sets_take_a_folder(folder: Path) -> None:
    for kind in ("mnist", "fashion_mnist", "cifar10"):
        setting = parse_data(f'{kind} "there" val=5')
        assert (setting.kind, setting.path, setting.options) == (kind, "there", {"val": 5})
        assert parse_data(f"{kind} val=5").path is None


def test_paths_of_a_file_and_of_a_command_line(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    net = load(folder / "small.cnn")
    (folder / "sub").mkdir()
    monkeypatch.chdir(folder / "sub")
    assert len(evaluation_data(net)[2]) == 6
    np.savez("data.npz", x=np.zeros((3, 4, 4), np.uint8), y=np.arange(3))
    assert len(evaluation_data(net, 'npz "data.npz"')[2]) == 3
    overridden = load(folder / "small.cnn", set={"train.data": 'npz "data.npz"'})
    assert len(evaluation_data(overridden)[2]) == 3


def test_a_path_without_quotes_gets_a_hint() -> None:
    with pytest.raises(CompileError) as caught:
        parse_data("npz photos/a.npz")
    assert caught.value.diagnostics[0].hint == (
        "a path stands in double quotes, and all of it in single ones: 'npz \"photos/a.npz\"'"
    )


def test_metadata_cannot_break_evaluation(folder: Path) -> None:
    train(folder)
    best = folder / "run" / "best.safetensors"
    checkpoint = read_checkpoint(best)
    write_checkpoint(best, checkpoint.tensors, {**checkpoint.metadata, "states": "{", "classes": "5"})
    trained = open_trained(folder / "run")
    assert trained.classes == ()
    trained.program(batch=1, target="reference").close()


def test_bad_images_are_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = pytest.importorskip("PIL.Image")
    for name in ("a", "b", "c"):
        (folder / "photos" / name).mkdir(parents=True)
        for number in range(3):
            image.new("L", (5, 7), 20 * number).save(folder / "photos" / name / f"{number}.png")
    (folder / "photos" / "b" / "broken.png").write_text("no image")
    options = {"target": "reference", "batch": 3, "epochs": 1}
    convc.fit(load("small.cnn"), data='folder "photos" bad=skip', out="run", report="lines", **options)  # type: ignore[arg-type]
    assert (
        "warning: 1 image of photos cannot be read and is left out\n  photos/b/broken.png:" in capsys.readouterr().out
    )


def test_the_curves_count_whole_epochs(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from matplotlib.figure import Figure

    from convc.runtime.curves import Curves
    from convc.runtime.metrics import EpochRecord

    records = [EpochRecord(n, n, 0.1, 1.0 / n, 0.5, None, None, 1.0, 1.0, False) for n in (1, 2, 3)]
    drawn: list[Figure] = []
    with pytest.MonkeyPatch.context() as patch:
        save = Figure.savefig
        patch.setattr(Figure, "savefig", lambda self, *rest, **named: (drawn.append(self), save(self, *rest, **named)))
        assert Curves(tmp_path / "curves.png", "net").draw(records) is None
    assert all(float(tick).is_integer() for axes in drawn[0].axes for tick in axes.get_xticks())
