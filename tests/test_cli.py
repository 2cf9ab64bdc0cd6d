"""The command line: verbs, exit codes, messages, JSON."""

from __future__ import annotations

import csv
import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from convc import __version__
from convc.cli import main
from convc.commands import VERBS
from convc.commands.options import PRECISIONS, TARGETS
from convc.passes.pipeline import pipeline
from convc.runtime import configuration

TINY = """\
net tiny(classes = 4) {
  input 1x4x4
  conv 3 k=2 s=2 bias=no -> relu
  fc classes
  loss softmax
}

train {
  data npz "data.npz" test=8
  batch 8
  epochs 2
  optim sgd lr=0.1 momentum=0.9
  seed 3
}
"""


def write_inputs(folder: Path) -> None:
    """A tiny net and images for it: the class is the quarter that is bright."""
    random = np.random.default_rng(0)
    labels = np.arange(40) % 4
    images = random.integers(0, 60, (40, 1, 4, 4), np.uint8)
    for image, label in zip(images, labels, strict=True):
        row, column = 2 * (label // 2), 2 * (label % 2)
        image[0, row : row + 2, column : column + 2] += 180
    np.savez(folder / "data.npz", images=images, labels=labels)
    (folder / "tiny.cnn").write_text(TINY)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a net and its images."""
    write_inputs(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A working folder with a finished run, and what the run printed."""
    folder = tmp_path_factory.mktemp("finished")
    write_inputs(folder)
    done = convc("train", "tiny.cnn", "--target", "reference", "--quiet", cwd=folder)
    assert (done.returncode, done.stderr) == (0, "")
    return folder, done.stdout


@pytest.fixture
def run(folder: Path, finished: tuple[Path, str]) -> Path:
    """The folder of a finished run, in the working folder."""
    shutil.copytree(finished[0] / "runs", "runs")
    return folder / "runs" / "tiny-1"


Output = Callable[[], tuple[str, str]]


@pytest.fixture
def output(capfd: pytest.CaptureFixture[str]) -> Output:
    """What was printed since the last call: (standard output, error output)."""

    def read() -> tuple[str, str]:
        captured = capfd.readouterr()
        return captured.out, captured.err

    return read


def json_of(output: Output, words: list[str], code: int = 0) -> dict[str, Any]:
    output()
    assert main(words) == code
    text, _ = output()
    content = json.loads(text)
    assert content["schema"] == 1
    assert text.count("\n") == 1
    return content


def convc(*words: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "convc", *words], capture_output=True, text=True, timeout=120, check=False, **options
    )


# Command lines


def test_version() -> None:
    done = convc("--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"convc {__version__}\n", "")


def test_version_and_help_load_next_to_nothing() -> None:
    program = (
        "import sys; from convc.cli import main; main(['--version']); main(['--help']); "
        "print(sorted({'numpy', 'llvmlite', 'lark', 'rich', 'PIL', 'networkx', 'matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_with_an_example(verb: str, output: Output) -> None:
    assert main([verb, "--help"]) == 0
    text, errors = output()
    assert f"usage: convc {verb}" in text
    assert VERBS[verb].example in text
    assert VERBS[verb].example.startswith(f"convc {verb}")
    assert errors == ""


def test_the_overview_lists_every_verb(output: Output) -> None:
    assert main(["--help"]) == 0
    text, errors = output()
    assert [line.split()[0] for line in text.splitlines() if line.startswith("  ")] == list(VERBS)
    assert errors == ""
    assert main([]) == 2
    assert output() == ("", text)
    assert main(["help", "train"]) == 0
    assert "usage: convc train" in output()[0]


@pytest.mark.parametrize(
    ("words", "message", "hint"),
    [
        (["trian"], "convc: unknown verb 'trian'", "did you mean train?"),
        (["xyzzy"], "convc: unknown verb 'xyzzy'", "there are train, eval,"),
        (["net.cnn", "--epochs", "3"], "convc: what shall be done with net.cnn?", "convc train net.cnn --epochs 3"),
        (["--verison"], "convc: unknown option --verison", "see `convc --help`"),
        (["train"], "convc train: FILE is missing", "see `convc train --help`"),
        (["train", "a.cnn", "--epocs", "3"], "convc train: unknown option --epocs", "did you mean --epochs?"),
        (["train", "a.cnn", "--epo", "3"], "convc train: unknown option --epo", "did you mean --epochs?"),
        (["train", "a.cnn", "--seed", "3"], "unknown option --seed", "settings are given as --set train.seed=VALUE"),
        (["train", "a.cnn", "b.cnn"], "convc train: unexpected argument 'b.cnn'", ""),
        (["train", "a.cnn", "--epochs", "0"], "argument --epochs: a number of at least 1 is needed, not '0'", ""),
        (["train", "a.cnn", "--batch", "many"], "argument --batch: a whole number is needed, not 'many'", ""),
        (["train", "a.cnn", "--set", "depth"], "argument --set: a setting is written K=V", ""),
        (["train", "a.cnn", "--quiet", "--json"], "not allowed with argument", ""),
        (["compile", "a.cnn", "--target", "gpu"], "'gpu' is not one of cpu, cuda, reference", ""),
        (["compile", "a.cnn", "--mode", "trian"], "'trian' is not one of train, infer; did you mean train?", ""),
        (["compile", "a.cnn", "--emit", "ir,obj"], "--emit ir,obj needs -o PATH or --dump-dir D", ""),
        (["compile", "a.cnn", "-o", "x"], "-o needs --emit", ""),
        (["compile", "a.cnn", "--json", "--emit", "ir"], "cannot both be printed", ""),
        (["cache", "--limit", "much"], "argument --limit: a size such as 2GiB or 500MB is needed, not 'much'", ""),
    ],
)
def test_mistakes_in_the_command_line(words: list[str], message: str, hint: str, output: Output) -> None:
    assert main(words) == 2
    text, errors = output()
    assert text == ""
    assert message in errors
    assert hint in errors
    assert len(errors.splitlines()) <= 2


def test_choices_are_those_of_the_python_interface() -> None:
    assert TARGETS == configuration.TARGETS
    assert PRECISIONS == configuration.PRECISIONS


@pytest.mark.parametrize(
    ("text", "bytes_"),
    [
        ("2GiB", 2 << 30),
        ("500MB", 500_000_000),
        ("1.5k", 1500),
        ("4096", 4096),
        ("0", 0),
        ("1 TiB", 1 << 40),
        ("7b", 7),
    ],
)
def test_sizes(text: str, bytes_: int) -> None:
    from convc.commands.parser import size

    assert size(text) == bytes_


# Failures


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (PermissionError(errno.EACCES, "Permission denied", "secret.cnn"), 1, "secret.cnn: Permission denied"),
        (OSError(errno.ENOSPC, "No space left on device"), 1, "No space left on device"),
        (MemoryError("Unable to allocate 3 TiB"), 1, "Unable to allocate 3 TiB"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (ZeroDivisionError("division by zero"), 1, "internal error"),
    ],
)
def test_no_exception_becomes_a_traceback(
    error: BaseException, code: int, message: str, monkeypatch: pytest.MonkeyPatch, output: Output
) -> None:
    monkeypatch.delenv("CONVC_DEBUG", raising=False)
    _make_doctor_raise(monkeypatch, error)
    assert main(["doctor"]) == code
    text, errors = output()
    assert text == ""
    assert message in errors
    assert "Traceback" not in errors
    assert len(errors.strip().splitlines()) <= 2


def test_a_defect_asks_for_a_report_and_shows_its_traceback_on_request(
    monkeypatch: pytest.MonkeyPatch, output: Output
) -> None:
    _make_doctor_raise(monkeypatch, ZeroDivisionError("division by\nzero"))
    monkeypatch.setenv("CONVC_DEBUG", "1")
    assert main(["doctor"]) == 1
    _, errors = output()
    assert "Traceback" in errors
    last = errors.strip().splitlines()[-1]
    assert last.startswith(f"convc {__version__}: internal error (test_cli.py:")
    assert "ZeroDivisionError: division by zero; please report it" in last


def _make_doctor_raise(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    from convc.runtime import doctor

    def fail(measure: bool) -> Mapping[str, Any]:
        raise error

    monkeypatch.setattr(doctor, "doctor", fail)


def test_a_closed_pipe_ends_quietly(folder: Path) -> None:
    program = f"{sys.executable} -m convc.cli summary tiny.cnn | true; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", program], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert done.stdout.strip() in ("0", "1")  # 0: the reader was slower than the writer


def test_a_full_disk_under_the_output_is_reported() -> None:
    if not os.path.exists("/dev/full"):
        pytest.skip("there is no /dev/full here")
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "convc.cli", "cache"], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert done.returncode == 1
    assert "No space left on device" in done.stderr
    assert "Traceback" not in done.stderr


def test_output_that_is_closed_or_knows_few_characters_is_no_defect(folder: Path) -> None:
    net = (folder / "tiny.cnn").read_text(encoding="utf-8")
    (folder / os.fsdecode(b"caf\xe9.cnn")).write_text(net, encoding="utf-8")
    for line, environment, shown in (
        ("check tiny.cnn >&-; echo $?", {}, "0\n"),
        ("--version >&- 2>&-; echo $? >rc; cat rc", {}, ""),
        ("check caf*.cnn", {}, "caf\\udce9.cnn: fine\n"),
        ("docs leaky | head -2 | tail -1", {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, "a·x"),
    ):
        done = subprocess.run(
            ["bash", "-c", f"{sys.executable} -m convc.cli {line}"],
            capture_output=True,
            env={**os.environ, **environment},
            check=False,
        )
        assert done.stderr == b"", line
        assert shown in done.stdout.decode("utf-8"), line


# check


def test_check_shows_all_mistakes_of_all_files(folder: Path, output: Output) -> None:
    (folder / "bad.cnn").write_text("net bad {\n  input 1x8x8\n  conv 4 k=9\n  fc 10 bais=no\n  loss softmax\n}\n")
    assert main(["check", "tiny.cnn", "bad.cnn", "absent.cnn"]) == 1
    text, errors = output()
    assert text == "tiny.cnn: fine\n"
    assert (
        errors.replace(str(folder) + os.sep, "")
        == """\
bad.cnn:3:10: error[shape-conv]: kernel 9x9 is larger than the padded input 8x8
  3 |   conv 4 k=9
    |          ^^^
  note: bad.cnn:2:3: input1: 1x8x8
  hint: pad=1, or a kernel of at most 8
bad.cnn:4:9: error[name-argument]: fc has no argument `bais`
  4 |   fc 10 bais=no
    |         ^^^^^^^
  hint: did you mean `bias`?
error[file-missing]: absent.cnn does not exist
"""
    )


def test_other_verbs_show_one_screen_of_mistakes(folder: Path, output: Output) -> None:
    layers = "".join(f"  conv 4 k=1 kk={number}\n" for number in range(15))
    (folder / "bad.cnn").write_text(f"net bad {{\n  input 1x8x8\n{layers}  loss softmax\n}}\n")
    assert main(["summary", "bad.cnn"]) == 1
    _, errors = output()
    assert errors.count("error[") == 10
    assert errors.endswith("and 5 more; `convc check` shows all of a file\n")
    assert main(["check", "bad.cnn"]) == 1
    assert output()[1].count("error[") == 15


def test_check_as_json(folder: Path, output: Output) -> None:
    (folder / "bad.cnn").write_text("net bad {\n  input 1x8x8\n  fc 10 bais=no\n  loss softmax\n}\n")
    content = json_of(output, ["check", "tiny.cnn", "bad.cnn", "--json"], code=1)
    assert [(entry["file"], entry["ok"]) for entry in content["files"]] == [("tiny.cnn", True), ("bad.cnn", False)]
    (diagnostic,) = content["files"][1]["diagnostics"]
    assert (diagnostic["severity"], diagnostic["line"], diagnostic["file"]) == ("error", 3, "bad.cnn")
    assert set(diagnostic) == {
        "severity", "code", "message", "file", "line", "column", "end_line", "end_column", "hint", "notes",
    }  # fmt: skip


def test_warnings_fail_only_where_asked(folder: Path, output: Output) -> None:
    (folder / "warned.cnn").write_text("net warned {\n  input 1x5x5\n  conv 2 k=2 s=2\n  fc 3\n  loss softmax\n}\n")
    for verb in ("check", "summary"):
        assert main([verb, "warned.cnn"]) == 0
        assert "warned.cnn:3:3: warning" in output()[1]
        assert main([verb, "warned.cnn", "--strict"]) == 1
        assert "warned.cnn:3:3: error" in output()[1]


# summary


def test_summary_as_json(folder: Path, output: Output) -> None:
    content = json_of(output, ["summary", "tiny.cnn", "--batch", "1", "--json"])
    assert content["net"] == "tiny"
    assert [layer["name"] for layer in content["layers"]] == ["input1", "conv1", "relu1", "fc1", "loss1"]
    # What is written over its input takes nothing.
    assert [layer["activation_bytes"] for layer in content["layers"]] == [4 * 16, 4 * 12, 0, 4 * 4, 4]
    # The lecture's view of a convolution: dense 64, sparse 16, shared 4 weights per map.
    assert content["layers"][1] == {
        "name": "conv1",
        "kind": "conv",
        "line": 3,
        "input": [1, 4, 4],
        "output": [3, 2, 2],
        "params": 3 * 4,
        "macs": 3 * 16,
        "activation_bytes": 4 * 12,
        "receptive_field": {"size": [2, 2], "stride": [2, 2], "offset": [0, 0]},
        "dense_weights": 3 * 64,
        "sparse_weights": 3 * 16,
    }
    total = content["total"]
    assert set(total) == {"params", "macs", "activation_bytes", "training_bytes", "inference_bytes"}
    assert total["params"] == 12 + 12 * 4 + 4
    assert total["macs"] == sum(layer["macs"] for layer in content["layers"]) == 48 + 48
    assert total["activation_bytes"] == sum(layer["activation_bytes"] for layer in content["layers"])
    assert total["training_bytes"] > total["inference_bytes"] > 4 * total["params"]


def test_summary_takes_batch_and_parameters_of_the_net(folder: Path, output: Output) -> None:
    default = json_of(output, ["summary", "tiny.cnn", "--json"])
    assert default["batch"] == 8
    wide = json_of(output, ["summary", "tiny.cnn", "--set", "classes=7", "--batch", "16", "--json"])
    assert wide["layers"][3]["output"] == [7]
    assert wide["layers"][0]["activation_bytes"] == 2 * default["layers"][0]["activation_bytes"]


def test_summary_as_a_table(folder: Path, output: Output) -> None:
    assert main(["summary", "tiny.cnn", "--batch", "1"]) == 0
    text, errors = output()
    assert errors == ""
    lines = text.splitlines()
    assert lines[0] == "tiny, batch 1"
    header = "layer line input output params MACs activations sees every from sparse dense"
    assert lines[2].split() == header.split()
    assert lines[4].split() == ["conv1", "3", "1x4x4", "3x2x2", "12", "48", "48", "B", "2x2", "2", "0", "48", "192"]
    assert "64 parameters, 96 multiply-adds per image" in text


def test_summary_as_comma_separated_values(folder: Path, output: Output) -> None:
    assert main(["summary", "tiny.cnn", "--batch", "1", "--csv"]) == 0
    rows = list(csv.DictReader(output()[0].splitlines()))
    content = json_of(output, ["summary", "tiny.cnn", "--batch", "1", "--json"])
    for row, layer in zip(rows, content["layers"], strict=True):
        for name in ("name", "kind", "line", "params", "macs", "activation_bytes", "dense_weights", "sparse_weights"):
            assert row[name] == str(layer[name])
        assert row["output"] == ("x".join(map(str, layer["output"])) or "-")
    assert main(["summary", "tiny.cnn", "--csv", "layers.csv"]) == 0
    assert Path("layers.csv").read_text().count("\n") == 6
    assert main(["summary", "tiny.cnn", "--csv", "missing/layers.csv"]) == 1
    assert "cannot write missing" in output()[1]


def test_summary_as_a_page(folder: Path, output: Output) -> None:
    assert main(["summary", "tiny.cnn", "--html", "layers.html"]) == 0
    page = ElementTree.fromstring(
        Path("layers.html").read_text().split("\n", 1)[1].replace('<meta charset="utf-8">', "")
    )
    rows = [["".join(cell.itertext()) for cell in row] for row in page.iter("tr")]
    assert [row[0] for row in rows] == ["layer", "input1", "conv1", "relu1", "fc1", "loss1"]
    assert "64 parameters" in "".join(page.itertext())


@pytest.mark.parametrize(
    ("example", "params"),
    [("lenet", 431_080), ("simple_convnet", 433_890), ("mlp", 235_146), ("deep_convnet", None), ("vgg_mnist", None)],
)
def test_summary_of_the_examples(repository: Path, example: str, params: int | None, output: Output) -> None:
    content = json_of(output, ["summary", str(repository / "examples" / f"{example}.cnn"), "--json"])
    assert content["net"] == example
    assert content["total"]["params"] == sum(layer["params"] for layer in content["layers"])
    assert params is None or content["total"]["params"] == params


# compile


def test_compile_says_what_it_did(folder: Path, output: Output) -> None:
    assert main(["compile", "tiny.cnn", "--target", "reference"]) == 0
    text, _ = output()
    assert re.fullmatch(r"tiny: infer, batch 8, target reference: \d+ nodes in \d+\.\d\d s\n", text)


def test_compile_dumps_every_pass(folder: Path, output: Output) -> None:
    words = ["compile", "tiny.cnn", "--mode", "train", "--target", "reference", "--dump-dir", "dump"]
    content = json_of(output, [*words, "--report", "passes", "--json"])
    names = [entry["pass"] for entry in content["passes"]]
    assert names == [step.name for step in pipeline("train")]
    files = {path.name for path in (folder / "dump").iterdir()}
    for number, name in enumerate(names, start=1):
        assert {f"{number:02d}-{name}.ir", f"{number:02d}-{name}.log", f"{number:02d}-{name}.diff"} <= files
    assert all(set(entry) == {"pass", "ms", "changed", "missed", "metrics"} for entry in content["passes"])
    (entry,) = content["passes"][names.index("training")]["changed"]
    assert set(entry) == {"rule", "before", "after", "why", "line"}
    assert entry["rule"] == "gradients"


def test_print_after_a_pass(folder: Path, output: Output) -> None:
    from convc import parse_ir

    assert main(["compile", "tiny.cnn", "--target", "reference", "--print-after", "specialize"]) == 0
    text, _ = output()
    graph = parse_ir(text)
    assert list(graph.outputs) == ["logits"]
    assert main(["compile", "tiny.cnn", "--target", "reference", "--print-after", "specialise"]) == 1
    assert "hint: did you mean specialize?" in output()[1]


def test_emit_the_graph(folder: Path, output: Output) -> None:
    from convc import parse_ir

    assert main(["compile", "tiny.cnn", "--target", "reference", "--emit", "ir"]) == 0
    text, _ = output()
    assert main(["compile", "tiny.cnn", "--target", "reference", "--emit", "ir", "-o", "deep/er/net.ir"]) == 0
    assert output()[0] == f"wrote {Path('deep/er/net.ir')}\n"
    assert (folder / "deep/er/net.ir").read_text() == text
    assert main(["compile", "tiny.cnn", "--target", "reference", "--emit", "ir", "--dump-dir", "dump"]) == 0
    assert str(parse_ir((folder / "dump" / "tiny.ir").read_text())) == text


def test_large_constants_travel_beside_the_graph(folder: Path, output: Output) -> None:
    from convc import parse_ir

    mean = ", ".join(str(number) for number in range(1, 21))
    (folder / "normalised.cnn").write_text(
        f"net normalised {{\n  input 20x2x2 mean=[{mean}]\n  fc 3\n  loss softmax\n}}\n"
    )
    assert main(["compile", "normalised.cnn", "--target", "reference", "--emit", "ir", "-o", "n.ir"]) == 0
    with np.load(folder / "n.ir.constants.npz") as constants:
        graph = parse_ir((folder / "n.ir").read_text(), constants=dict(constants))
    assert "logits" in graph.outputs


def test_the_reference_target_has_no_machine_code(folder: Path, output: Output) -> None:
    for words in (["--emit", "llvm"], ["--report", "memory"], ["--report", "kernels"]):
        assert main(["compile", "tiny.cnn", "--target", "reference", *words]) == 1
        assert "error[value-target]" in output()[1]


def test_emit_what_native_code_is_made_of(folder: Path, output: Output) -> None:
    assert main(["compile", "tiny.cnn", "--emit", "ir,llvm,asm,obj", "-o", "out/tiny"]) == 0
    text, _ = output()
    names = ["tiny.ir", "tiny.ll", "tiny.s", "tiny.o"]
    assert text == "".join(f"wrote {Path('out') / name}\n" for name in names)
    contents = {name: (folder / "out" / name).read_bytes() for name in names}
    assert contents["tiny.ir"].startswith(b"convc-ir 1\n")
    assert b"define " in contents["tiny.ll"]
    assert b"step" in contents["tiny.s"]
    assert contents["tiny.o"].startswith(b"\x7fELF") or sys.platform != "linux"
    assert main(["compile", "tiny.cnn", "--emit", "llvm"]) == 0
    assert output()[0].encode() == contents["tiny.ll"]


def test_compile_to_an_unwritable_place(folder: Path, output: Output) -> None:
    (folder / "file").write_text("")
    assert main(["compile", "tiny.cnn", "--target", "reference", "--emit", "ir", "-o", "file/net.ir"]) == 1
    assert "error[file-write]" in output()[1]


def test_kernels_and_memory_of_native_code(folder: Path, output: Output) -> None:
    words = ["compile", "tiny.cnn", "--mode", "train", "--report", "kernels", "--report", "memory"]
    content = json_of(output, [*words, "--json"])
    assert {row["section"] for row in content["kernels"]} == {"forward", "gradient", "update"}
    assert any(row["layer"] == "conv1" and row["flops"] > 0 for row in content["kernels"])
    memory = content["memory"]
    assert memory["arena_bytes"] >= memory["bound_bytes"] > 0
    assert memory["peak_kernel"] in content["kernels"]
    assert main(words) == 0
    text, _ = output()
    assert "the peak is at kernel" in text
    assert "conv2d+relu" in text


# gradcheck


def test_gradcheck_as_json(folder: Path, output: Output) -> None:
    content = json_of(output, ["gradcheck", "tiny.cnn", "--target", "reference", "--samples", "5", "--json"])
    assert content["passed"] is True
    assert [check["name"] for check in content["parameters"]] == ["conv1.weight", "fc1.weight", "fc1.bias"]
    for check in content["parameters"]:
        assert check["verdict"] == "ok"
        assert check["checked"] == min(5, int(np.prod(check["shape"])))
        assert check["compiled_relative_error"] is None


def test_gradcheck_checks_compiled_gradients(folder: Path, output: Output) -> None:
    content = json_of(output, ["gradcheck", "tiny.cnn", "--json"])
    assert content["target"] == "cpu"
    assert all(check["compiled_relative_error"] < 1e-5 for check in content["parameters"])


def test_gradcheck_fails_on_a_wrong_gradient(folder: Path, output: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    from convc.ir.ops.linear import LinearBackwardWeights

    right = LinearBackwardWeights.reference

    def wrong(op: LinearBackwardWeights, x: np.ndarray, dy: np.ndarray) -> np.ndarray:
        return 2 * right(op, x, dy)

    monkeypatch.setattr(LinearBackwardWeights, "reference", wrong)
    assert main(["gradcheck", "tiny.cnn", "--target", "reference"]) == 1
    text, _ = output()
    assert re.search(r"^fc1\.weight .* wrong: differs from the numeric gradient by 5\.0e-01$", text, re.MULTILINE)
    assert text.endswith("1 of 3 gradients are WRONG\n")


def test_gradcheck_needs_a_loss(folder: Path, output: Output) -> None:
    (folder / "lossless.cnn").write_text("net lossless {\n  input 1x5x5\n  fc 3\n}\n")
    assert main(["gradcheck", "lossless.cnn", "--target", "reference"]) == 1
    assert "error[value-loss]" in output()[1]


# train, eval, predict


def test_train_then_eval_agrees(run: Path, finished: tuple[Path, str], output: Output) -> None:
    assert {"model.cnn", "best.safetensors", "last.safetensors", "metrics.csv"} <= {p.name for p in run.iterdir()}
    text = finished[1]
    assert str(Path("runs/tiny-1")) in text.splitlines()[0]
    assert str(Path("runs/tiny-1")) in text.splitlines()[-1]
    found = re.search(r"^test accuracy (\d+\.\d\d) %$", text, re.MULTILINE)
    assert found
    content = json_of(
        output, ["eval", str(run), "--weights", str(run / "last.safetensors"), "--target", "reference", "--json"]
    )
    assert set(content) == {"schema", "accuracy", "top5", "loss", "count"}
    assert content["count"] == 8
    assert f"{100 * content['accuracy']:.2f}" == found[1]
    assert 0 <= content["accuracy"] <= content["top5"] <= 1


def test_eval_of_a_file_with_weights_and_other_data(run: Path, output: Output) -> None:
    weights = ["--weights", str(run / "last.safetensors"), "--target", "reference"]
    whole = json_of(output, ["eval", "tiny.cnn", *weights, "--data", 'npz "data.npz"', "--json"])
    assert whole["count"] == 40
    assert main(["eval", "tiny.cnn", *weights]) == 0
    text, _ = output()
    assert re.search(r"^accuracy \d+\.\d\d %$", text, re.MULTILINE)
    assert text.startswith("8 test images of ")


def test_eval_on_native_code_agrees_with_the_interpreter(run: Path, output: Output) -> None:
    results = [json_of(output, ["eval", str(run), "--target", target, "--json"]) for target in ("cpu", "reference")]
    assert results[0]["accuracy"] == results[1]["accuracy"]
    assert results[0]["loss"] == pytest.approx(results[1]["loss"], rel=1e-5)


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["eval", "tiny.cnn"], "checkpoint-missing"),
        (["eval", "."], "file-run"),
        (["eval", "tiny.cnn", "--weights", "data.npz"], "checkpoint-unreadable"),
        (["eval", "tiny.cnn", "--weights", "none.safetensors"], "checkpoint-missing"),
        (
            ["eval", "tiny.cnn", "--weights", "runs/tiny-1/best.safetensors", "--set", "classes=9"],
            "checkpoint-mismatch",
        ),
        (["eval", "runs/tiny-1", "--data", 'npz "nowhere.npz"'], "data-"),
        (["eval", "runs/tiny-1", "--data", "mnist"], "data-shape"),
        (["predict", "runs/tiny-1", "nothing.png"], "data-image"),
        (["predict", "runs/tiny-1", "tiny.cnn"], "data-image"),
        (["train", "tiny.cnn", "--out", "runs/tiny-1"], "file-folder"),
        (["train", "tiny.cnn", "--init", "data.npz"], "checkpoint-unreadable"),
        (["train", "tiny.cnn", "--batch", "1000"], "data-batch"),
        (["train", "tiny.cnn", "--data", "mnits"], "data-"),
        (["train", "tiny.cnn", "--set", "train.optim.rl=1"], "error["),
        (["train", "tiny.cnn", "--net", "tini"], "name-net"),
        (["train", "absent.cnn"], "file-missing"),
    ],
)
def test_bad_input_is_one_screen_and_exit_code_1(run: Path, words: list[str], code: str, output: Output) -> None:
    output()
    before = {path: path.read_bytes() for path in run.iterdir() if path.is_file()}
    assert main([*words, "--target", "reference"]) == 1
    _, errors = output()
    assert code in errors
    assert "Traceback" not in errors
    assert len(errors.splitlines()) <= 24
    assert {path: path.read_bytes() for path in run.iterdir() if path.is_file()} == before


def test_predict_names_the_classes(run: Path, folder: Path, output: Output) -> None:
    image_module = pytest.importorskip("PIL.Image")
    with np.load(folder / "data.npz") as data:
        for number in range(4):
            image_module.fromarray(data["images"][number, 0]).save(folder / f"{number}.png")
    images = [f"{number}.png" for number in range(4)]
    content = json_of(output, ["predict", str(run), *images, "--target", "reference", "--json"])
    assert [prediction["image"] for prediction in content["predictions"]] == images
    for prediction in content["predictions"]:
        assert len(prediction["classes"]) == 4
        probabilities = [entry["probability"] for entry in prediction["classes"]]
        assert probabilities == sorted(probabilities, reverse=True)
        assert sum(probabilities) == pytest.approx(1)
    assert main(["predict", str(run), "0.png", "--target", "reference"]) == 0
    text, _ = output()
    assert text.splitlines()[0] == "0.png"
    assert re.fullmatch(r" +\d+\.\d\d %  \w+", text.splitlines()[1])


def test_train_with_json_prints_events(folder: Path, output: Output) -> None:
    assert main(["train", "tiny.cnn", "--target", "reference", "--json", "--epochs", "1"]) == 0
    events = [json.loads(line) for line in output()[0].splitlines()]
    assert len(events) > 3


def test_train_resumes_and_a_finished_run_is_fine(folder: Path, output: Output) -> None:
    words = ["train", "tiny.cnn", "--target", "reference", "--out", "here", "--resume", "--quiet"]
    assert main(words) == 0  # no checkpoint yet: starts afresh
    weights = (folder / "here" / "last.safetensors").read_bytes()
    assert main(words) == 0
    assert (folder / "here" / "last.safetensors").read_bytes() == weights


def test_settings_of_the_command_line_win(folder: Path, output: Output) -> None:
    words = ["train", "tiny.cnn", "--target", "reference", "--out", "here", "--quiet", "--batch", "4", "--epochs", "3"]
    assert main([*words, "--set", "train.batch=16", "--set", "train.optim.lr=0.05"]) == 0
    assert len((folder / "here" / "metrics.jsonl").read_text().splitlines()) == 3
    settings = json.loads((folder / "here" / "settings.json").read_text())
    assert settings["batch"] == 4
    assert "lr=0.05" in settings["optimizer"]


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_control_c_saves_and_says_how_to_go_on(folder: Path) -> None:
    words = ["train", "tiny.cnn", "--target", "reference", "--epochs", "100000", "--out", "long"]
    with subprocess.Popen(
        [sys.executable, "-m", "convc.cli", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        deadline = time.monotonic() + 60
        while not (folder / "long" / "last.safetensors").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in errors
    assert "--out long --resume" in errors
    assert (folder / "long" / "state.safetensors").exists()


# doctor, cache


def test_doctor(output: Output) -> None:
    content = json_of(output, ["doctor", "--json"])
    assert content["ok"] is True
    assert content["versions"]["convc"] == __version__
    assert main(["doctor"]) == 0
    assert "compiled code runs here" in output()[0]


def test_cache(folder: Path, output: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONVC_CACHE_DIR", str(folder / "cache"))
    empty = json_of(output, ["cache", "--json"])
    assert (empty["entries"], empty["bytes"], empty["removed"]) == (0, 0, 0)
    assert empty["folder"].startswith(str(folder.resolve() / "cache"))
    assert main(["compile", "tiny.cnn"]) == 0
    full = json_of(output, ["cache", "--json"])
    assert full["entries"] >= 1
    assert json_of(output, ["cache", "--limit", "1GiB", "--json"])["removed"] == 0
    assert json_of(output, ["cache", "--limit", "0", "--json"]) | {"bytes": 0} == empty | {"removed": full["entries"]}
    assert main(["compile", "tiny.cnn"]) == 0
    output()
    assert main(["cache", "--clear"]) == 0
    assert re.match(r"removed \d+ entr(y|ies)\n", output()[0])
    monkeypatch.setenv("CONVC_CACHE", "off")
    assert main(["cache"]) == 0
    assert output()[0] == "the cache is switched off (CONVC_CACHE)\n"
