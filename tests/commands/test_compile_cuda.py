"""`convc compile --target cuda` and its like, on a machine without a GPU."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from convc.cli import main
from convc.codegen.cuda import nvrtc
from convc.codegen.cuda.gpus import gpu
from convc.codegen.cuda.resources import find_tool
from convc.runtime import cuda_driver

Capture = pytest.CaptureFixture[str]
needs_nvrtc = pytest.mark.skipif(nvrtc.nvrtc() is None, reason=nvrtc.MISSING)
needs_disassembler = pytest.mark.skipif(find_tool("nvdisasm") is None, reason="nvdisasm is not installed")

# Two layers are alike and share a kernel.
TEXT = "net n {\n  input 3x8x8\n  pool max 2\n  relu -> pool avg 2\n}\n"
TWICE = "net n {\n  input 4x8x8\n  pool max 3 s=1 pad=1\n  pool max 3 s=1 pad=1\n}\n"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cuda_driver, "load", lambda: None)
    (tmp_path / "n.cnn").write_text(TEXT)
    (tmp_path / "twice.cnn").write_text(TWICE)
    return tmp_path


def output(capture: Capture, words: str) -> str:
    assert main(words.split()) == 0
    return capture.readouterr().out


def content(capture: Capture, words: str) -> dict[str, Any]:
    return json.loads(output(capture, f"{words} --json"))


def error(capture: Capture, words: str, code: int = 1) -> str:
    assert main(words.split()) == code
    return capture.readouterr().err


# Reports


@needs_nvrtc
def test_the_table_of_kernels(capsys: Capture) -> None:
    text = output(capsys, "compile n.cnn --target cuda --batch 4 --gpu h100 --report kernels")
    header, *rows = [line for line in text.splitlines() if line][1:]
    columns = "kernel layer line section grid block registers spills shared dynamic occupancy Mflop bytes µs"
    assert header.split() == columns.split()
    assert [row.split()[0] for row in rows[:-2]] == ["relayout", "max_pool_relu", "avg_pool"]
    assert rows[1].split()[1:4] == ["pool1", "3", "forward"]
    assert rows[-2].startswith("3 launches")
    assert rows[-1].startswith("compiled for sm_90; occupancy and times are for H100")
    assert "not measured" in rows[-1]


@needs_nvrtc
def test_what_the_report_holds(capsys: Capture) -> None:
    found = content(capsys, "compile n.cnn --target cuda --batch 4 --gpu a100 --report kernels")
    assert (found["arch"], found["arch_why"]) == ("sm_80", "as asked for")
    report = found["kernels"]
    assert (report["arch"], report["gpu"]) == ("sm_80", gpu("a100").title)
    assert "not measured" in report["note"]
    rows = report["kernels"]
    assert [row["number"] for row in rows] == [0, 1, 2]
    for row in rows:
        assert 0 < row["registers"] <= 255
        assert row["spill_bytes"] == 0
        assert 0 < row["occupancy"] <= 1
        assert row["predicted_us"] > 0
    # What comes out of the pooling: 4 images, 4x4 pixels, channels padded to 4.
    assert rows[1]["bytes"] == 4 * (4 * 8 * 8 + 4 * 4 * 4) * 4
    assert report["predicted_us"] == pytest.approx(sum(row["predicted_us"] for row in rows))


@needs_nvrtc
def test_a_larger_batch_is_more_work(capsys: Capture) -> None:
    small, large = (
        content(capsys, f"compile n.cnn --target cuda --arch sm_80 --batch {batch} --report kernels")["kernels"]
        for batch in (16, 1600)
    )
    for few, many in zip(small["kernels"], large["kernels"], strict=True):
        assert many["flops"] == 100 * few["flops"]
        assert many["bytes"] == 100 * few["bytes"]
        assert many["grid"][0] > few["grid"][0]
    assert large["predicted_us"] > small["predicted_us"]


@needs_nvrtc
def test_the_gpu_chooses_the_architecture_unless_one_is_given(capsys: Capture) -> None:
    def compiled(words: str) -> tuple[str, str]:
        report = content(capsys, f"compile n.cnn --target cuda --report kernels {words}")["kernels"]
        return report["arch"], report["gpu"]

    assert compiled("--gpu t4") == ("sm_75", "T4")
    assert compiled("--gpu rtx4090 --arch sm_80") == ("sm_80", "GeForce RTX 4090")
    assert compiled("--arch sm_90") == ("sm_90", gpu("h100").title)
    assert compiled("") == ("sm_80", gpu("a100").title)


def test_memory_and_passes_are_reported_without_a_compiler(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvrtc, "nvrtc", lambda: None)
    found = content(capsys, "compile n.cnn --target cuda --batch 4 --report memory --report passes")
    assert found["memory"]["peak_kernel"]["name"] == "max_pool+relu"
    assert "arrange" in [row["pass"] for row in found["passes"]]
    text = output(capsys, "compile n.cnn --target cuda --batch 4 --report memory")
    assert text.index("arena") < text.index("n: infer")  # before it is compiled


@needs_nvrtc
def test_it_says_for_what_it_was_compiled(capsys: Capture) -> None:
    assert main(["compile", "n.cnn", "--target", "cuda"]) == 0
    why = "there is no NVIDIA driver here: libcuda.so.1 cannot be loaded (--arch chooses)"
    assert f"architecture sm_80: {why}" in capsys.readouterr().err
    assert main(["compile", "n.cnn", "--target", "cuda", "--arch", "sm_86"]) == 0
    assert capsys.readouterr().err == ""


# Files


@needs_nvrtc
def test_a_text_is_printed_with_the_kernels_named(capsys: Capture) -> None:
    for kind, mark in (("cu", "__global__"), ("ptx", ".visible .entry")):
        text = output(capsys, f"compile n.cnn --target cuda --arch sm_80 --emit {kind}")
        assert text.startswith("// ==== convc_relayout, sm_80: relayout of pool1\n")
        assert text.count("// ==== ") == 3
        assert text.count(mark) >= 3
        assert text.endswith("\n")


@needs_nvrtc
def test_layers_that_are_alike_share_a_kernel(capsys: Capture, folder: Path) -> None:
    output(capsys, "compile twice.cnn --target cuda --arch sm_80 --emit cu -o out.cu")
    assert (folder / "out.cu").read_text().count("max_pool of pool1, max_pool of pool2\n") == 1
    rows = content(capsys, "compile twice.cnn --target cuda --report kernels")["kernels"]["kernels"]
    assert [row["layer"] for row in rows if row["kernel"] == "max_pool"] == ["pool1", "pool2"]


@needs_nvrtc
@needs_disassembler
def test_a_folder_gets_every_kernel_by_itself_too(capsys: Capture, folder: Path) -> None:
    words = "compile n.cnn --target cuda --arch sm_80 --emit ir,cu,ptx,cubin,sass --dump-dir dump"
    written = set(content(capsys, words)["files"])
    kernels = ("01-relayout", "02-max_pool_relu", "03-avg_pool")
    each = {f"dump/kernels/{name}.{kind}" for name in kernels for kind in ("cu", "ptx", "cubin", "sass")}
    assert written == each | {f"dump/n.{kind}" for kind in ("ir", "cu", "ptx", "sass")}
    assert all((folder / name).stat().st_size for name in written)
    assert (folder / "dump/kernels/01-relayout.cubin").read_bytes()[:4] == b"\x7fELF"
    assert "convc_avg_pool" in (folder / "dump/kernels/03-avg_pool.sass").read_text()
    # What each file has is what NVRTC takes, and what CuPy is given.
    source = (folder / "dump/kernels/02-max_pool_relu.cu").read_text()
    assert nvrtc.compile(source, "sm_80", (nvrtc.RESOURCES,)).ptx == (
        (folder / "dump/kernels/02-max_pool_relu.ptx").read_text()
    )


# Refusals


def test_without_a_compiler(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvrtc, "nvrtc", lambda: None)
    monkeypatch.setenv("CONVC_CACHE", "off")  # what is kept takes no compiler
    for words in ("--report kernels", "--emit ptx"):
        text = error(capsys, f"compile n.cnn --target cuda {words}")
        assert "error[missing-nvrtc]: NVRTC is not installed" in text
        assert "pip install nvidia-cuda-nvrtc" in text
    assert "__global__" in output(capsys, "compile n.cnn --target cuda --emit cu")  # this takes none


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("--target cuda --arch sm_91", "error[value-architecture]"),
        ("--target cuda --gpu v100", "error[value-gpu]"),
        ("--target cuda --gpu t4 --arch sm_90", "T4 is sm_75, and does not run code for sm_90"),
        ("--target cuda --precision int8", "error[unavailable-precision]: int8 is for processors"),
        ("--target cuda --emit asm", "the target cuda makes no asm\n  hint: compile for target cpu"),
        ("--emit sass", "the target cpu makes no sass\n  hint: compile for target cuda"),
        ("--target cuda --memory 1kB", "error[budget-memory]"),
    ],
)
def test_errors(capsys: Capture, words: str, expected: str) -> None:
    assert expected in error(capsys, f"compile n.cnn {words}")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("--arch sm_90", "--arch is for GPUs, and the target is cpu"),
        ("--gpu h100 --target reference", "--gpu is for GPUs, and the target is reference"),
        ("--target cuda --emit cubin -o x", "--emit cubin needs --dump-dir"),
        ("--target cuda --emit cu,ptx", "--emit cu,ptx needs -o PATH or --dump-dir"),
        ("--target cuda --header x.h -o x.so", "a library is made for --target cpu"),
    ],
)
def test_command_lines_that_make_no_sense(capsys: Capture, words: str, expected: str) -> None:
    assert expected in error(capsys, f"compile n.cnn {words}", code=2)


def test_verbs_that_run_say_what_is_missing(capsys: Capture, folder: Path) -> None:
    (folder / "t.cnn").write_text(
        'net t {\n  input 1x4x4\n  fc 2\n  loss softmax\n}\ntrain {\n  data npz "none.npz"\n  optim sgd lr=0.1\n}\n'
    )
    for words in ("train t.cnn --target cuda", "gradcheck t.cnn --target cuda"):
        text = error(capsys, words)
        assert text.startswith("error[missing-driver]: there is no NVIDIA driver here")
        assert text.count("error[") == 1
    assert not (folder / "runs").exists()
    assert "--arch is for GPUs" in error(capsys, "train t.cnn --arch sm_90", code=2)


def test_the_largest_batch_is_that_of_the_gpus_plan(capsys: Capture) -> None:
    found = content(capsys, "compile n.cnn --target cuda --arch sm_80 --fit 100kB")
    assert found["fit"]["bytes"] <= 100_000 < found["fit"]["more"]
    per_image = found["fit"]["bytes"] / found["batch"]
    # The relayouted image and the result of the pooling live at once, both with channels padded to 4.
    assert per_image == pytest.approx(4 * 4 * (8 * 8 + 4 * 4), rel=0.01)


def test_who_compiles_for_the_processor_loads_nothing_of_gpus(tmp_path: Path) -> None:
    """To start takes time, and most programs are for processors."""
    (tmp_path / "m.cnn").write_text("net n { input 1x4x4 -> conv 2 k=3 -> fc 2 -> loss softmax }")
    run = "from convc.cli import main; main(['compile', 'm.cnn', '--report', 'kernels'])"
    ask = "import sys; print([name for name in sys.modules if name.startswith('convc.codegen.cuda')])"
    done = subprocess.run([sys.executable, "-c", f"{run}; {ask}"], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "[]", done.stdout + done.stderr
