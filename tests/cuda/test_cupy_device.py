"""The way of a program to a GPU through CuPy, with a stand-in for CuPy that runs kernels on the emulator."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import convc
from convc.ir.diagnostic import CompileError
from convc.runtime import cuda_driver
from convc.runtime.cupy_device import CHUNK, find_usable
from convc.runtime.doctor import doctor
from convc.runtime.gradcheck import gradcheck
from tests.cuda.fake_cupy import INSUFFICIENT_DRIVER, Machine, install, make_cupy
from tests.cuda_emulator.nvrtc import MISSING, nvrtc

needs_nvrtc = pytest.mark.skipif(nvrtc() is None, reason=MISSING)

POOLS = "net pools {\n  input 3x8x8\n  pool max 2 -> relu -> sigmoid -> pool avg 2\n}\n"
SMALL = """net small {
  input 1x8x8
  conv 4 k=3 s=2 pad=1 -> relu -> pool max 2
  fc 3
  loss softmax
}
train {
  batch 4
  optim sgd lr=0.1 momentum=0.9
}
"""


@pytest.fixture
def load(tmp_path: Path) -> Callable[[str], Any]:
    def load(text: str) -> Any:
        (tmp_path / "net.cnn").write_text(text)
        return convc.load(tmp_path / "net.cnn")

    return load


def images(count: int, seed: int = 0, shape: tuple[int, ...] = (3, 8, 8)) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, *shape)).astype(np.float32)


def refusal(call: Callable[[], object]) -> CompileError:
    with pytest.raises(CompileError) as caught:
        call()
    return caught.value


def code_of(call: Callable[[], object]) -> str:
    return refusal(call).diagnostics[0].code


# Running


@needs_nvrtc
def test_inference_gives_what_the_reference_gives(load: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = install(monkeypatch)
    net = load(POOLS)
    with (
        convc.compile(net, batch=4, target="cuda") as program,
        convc.compile(net, batch=4, target="reference") as exact,
    ):
        assert program.architecture is not None
        assert program.architecture.value == "sm_80"
        # Each of other images, or of fewer: what a stream does late would show.
        for seed, rows in enumerate((4, 3, 4, 1, 3, 4, 3)):
            x = images(rows, seed)
            np.testing.assert_allclose(program(x), exact(x), rtol=1e-6, atol=1e-6)
    assert set(machine.options) == {("-std=c++17",)}


@needs_nvrtc
def test_a_run_waits_once(load: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = install(monkeypatch)
    with convc.compile(load(POOLS), batch=4, target="cuda") as program:
        program(images(4))
        before = machine.waits
        program(images(4, 1))
        assert machine.waits == before + 1


@needs_nvrtc
def test_kernels_are_recorded_as_a_graph_at_their_second_run(load: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = install(monkeypatch)
    with convc.compile(load(POOLS), batch=4, target="cuda") as program:
        graphs = []
        for rows in (4, 4, 4, 2, 2):  # other grids, another graph
            program(images(rows))
            graphs.append(machine.graphs)
        assert graphs == [0, 1, 2, 2, 3]
        assert program.cuda_step is not None
        assert machine.launches == 5 * len(program.cuda_step.launches)


@needs_nvrtc
def test_graphs_can_be_switched_off(load: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = install(monkeypatch)
    monkeypatch.setenv("CONVC_CUDA_GRAPHS", "0")
    with convc.compile(load(POOLS), batch=4, target="cuda") as program:
        for _ in range(3):
            program(images(4))
    assert machine.graphs == 0
    assert machine.launches > 0


@needs_nvrtc
def test_without_graphs_kernels_are_started_one_by_one(
    load: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    install(monkeypatch, Machine(captures=False))
    net = load(POOLS)
    with (
        convc.compile(net, batch=4, target="cuda") as program,
        convc.compile(net, batch=4, target="reference") as exact,
    ):
        for seed in range(4):
            np.testing.assert_allclose(program(images(4, seed)), exact(images(4, seed)), rtol=1e-6, atol=1e-6)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert "one by one: cudaErrorNotSupported" in lines[0]


@needs_nvrtc
def test_memory_that_cannot_be_pinned_will_do(load: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, Machine(pinned=False))
    net = load(POOLS)
    with (
        convc.compile(net, batch=4, target="cuda") as program,
        convc.compile(net, batch=4, target="reference") as exact,
    ):
        np.testing.assert_allclose(program(images(4)), exact(images(4)), rtol=1e-6, atol=1e-6)


@needs_nvrtc
def test_training_gives_the_losses_and_parameters_of_the_reference(load: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = install(monkeypatch)
    net, labels = load(SMALL), np.arange(4) % 3
    with (
        convc.compile(net, mode="train", target="cuda") as program,
        convc.compile(net, mode="train", target="reference") as exact,
    ):
        for seed in range(4):
            x = images(4, seed, (1, 8, 8))
            assert program.step(x, labels) == pytest.approx(exact.step(x, labels), rel=1e-5)
        assert machine.graphs == 3
        x = images(3, 9, (1, 8, 8))
        loss, gradients = program.value_and_grad(x, labels[:3])
        wanted, expected = exact.value_and_grad(x, labels[:3])
        assert loss == pytest.approx(wanted, rel=1e-5)
        for name, gradient in gradients.items():
            np.testing.assert_allclose(gradient, expected[name], rtol=1e-4, atol=1e-5)
        for name, array in program.state_dict().items():
            np.testing.assert_allclose(array, exact.state_dict()[name], rtol=1e-4, atol=1e-5)
        # Set by hand, and read back.
        program.params["fc1.bias"] = np.array([1.0, 2.0, 3.0])
        assert program.params["fc1.bias"].tolist() == [1, 2, 3]


@needs_nvrtc
def test_the_profile_times_kernels_and_changes_nothing(load: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch)
    with convc.compile(load(SMALL), mode="train", target="cuda") as program:
        x, labels = images(4, 0, (1, 8, 8)), np.arange(4) % 3
        program.step(x, labels)
        before = program.state_dict()
        profile = program.profile(x, labels, rounds=2)
        assert program.cuda_step is not None
        # The stand-in's clock counts launches, in milliseconds.
        counted = [round(1000 * kernel.seconds) for kernel in profile.kernels]
        assert counted == [len(kernel.phases) for kernel in profile.kernels]
        assert round(1000 * profile.wall_seconds) == sum(counted) == len(program.cuda_step.launches)
        for name, array in program.state_dict().items():
            assert np.array_equal(array, before[name])


@needs_nvrtc
def test_what_is_larger_than_a_chunk_comes_in_pieces(monkeypatch: pytest.MonkeyPatch, load: Any) -> None:
    from convc.passes.memory import Slot
    from convc.runtime.cupy_device import CupyDevice

    machine = install(monkeypatch)
    found, cupy = find_usable()
    with convc.compile(load(POOLS), batch=1, target="cuda") as program:
        assert program.plan is not None
        device = CupyDevice(cupy, found, program.plan)
    size = 2 * CHUNK + 12345
    data = np.random.default_rng(0).integers(0, 256, size, np.uint8)
    memory = device.allocate("persistent", size + 64, [Slot("persistent", 0, size)])
    memory.write(64, data)
    before = machine.waits
    whole, part = device.read([(memory, 64, size), (memory, 74, 100)])
    assert np.array_equal(whole, data)
    assert np.array_equal(part, data[10:110])
    assert machine.waits == before + 3
    device.close()


def test_what_is_sent_twice_between_two_waits_arrives(monkeypatch: pytest.MonkeyPatch, load: Any) -> None:
    from convc.runtime.cupy_device import CupyDevice

    install(monkeypatch)
    found, cupy = find_usable()
    with convc.compile(load(POOLS), batch=1, target="cuda") as program:
        assert program.plan is not None
        device = CupyDevice(cupy, found, program.plan)
    memory = device.allocate("input", 128, [])
    memory.write(0, np.full(64, 1, np.uint8))
    memory.write(64, np.full(64, 2, np.uint8))
    assert device.read([(memory, 0, 128)])[0].tolist() == 64 * [1] + 64 * [2]
    device.close()


def test_budgets_count_the_gradients_that_only_some_runs_store(load: Any) -> None:
    # On a processor they take nothing until somebody asks for them.
    with convc.compile(load(SMALL), mode="train", target="cuda", arch="sm_80") as program:
        assert program.plan is not None
        memory = program.plan.memory
        assert memory.total_bytes == memory.arena_bytes + memory.persistent_bytes


@needs_nvrtc
def test_shared_memory_beyond_48_kib_is_asked_for(monkeypatch: pytest.MonkeyPatch, load: Any) -> None:
    from dataclasses import replace

    from convc.runtime.cupy_device import CupyDevice

    machine = install(monkeypatch)
    found, cupy = find_usable()
    with convc.compile(load(POOLS), batch=1, target="cuda") as program:
        assert program.plan is not None
        assert program.cuda_step is not None
        device = CupyDevice(cupy, found, program.plan)
        first, second, *_ = program.cuda_step.launches
        device.load([replace(first, shared_bytes=50 << 10), replace(first, shared_bytes=60 << 10), second])
    assert machine.opt_in == [60 << 10]
    device.close()


@needs_nvrtc
def test_a_fault_of_a_kernel_is_told(load: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, Machine(kernels_fail=True))
    with convc.compile(load(POOLS), batch=4, target="cuda") as program:
        error = refusal(lambda: program(images(4)))
    assert error.diagnostics[0].code == "failed-gpu"
    assert "illegal memory access" in str(error)


@needs_nvrtc
def test_gradients_are_compared_with_numeric_ones(load: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch)
    report = gradcheck(load(SMALL), target="cuda", batch=2, samples=2)
    assert report.passed
    assert all(check.compiled_relative_error is not None for check in report.parameters)


def test_cupy_has_what_the_stand_in_has() -> None:
    cupy = pytest.importorskip("cupy", reason="CuPy is not installed")
    made = make_cupy(Machine())

    def compare(path: str, stand_in: object, real: object) -> None:
        for name, value in vars(stand_in).items():
            assert hasattr(real, name), f"{path}.{name}"
            if isinstance(value, SimpleNamespace) and not name.startswith("_"):
                compare(f"{path}.{name}", value, getattr(real, name))

    compare("cupy", made, cupy)
    methods = {
        cupy.RawModule: ["compile", "get_function"],
        cupy.RawKernel: ["__call__", "max_dynamic_shared_size_bytes"],
        cupy.cuda.MemoryPointer: ["ptr", "__add__", "memset_async", "copy_from_host_async", "copy_to_host_async"],
        cupy.cuda.Stream: ["synchronize", "begin_capture", "end_capture", "__enter__", "__exit__"],
        cupy.cuda.Graph: ["launch"],
        cupy.cuda.Event: ["record"],
        cupy.cuda.MemoryPool: ["free_all_blocks"],
        cupy.cuda.PinnedMemoryPool: ["free_all_blocks"],
    }
    for kind, names in methods.items():
        for name in names:
            assert hasattr(kind, name), f"{kind.__name__}.{name}"


# What is missing


def test_nothing_is_needed_to_compile(load: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, Machine(cuda=None, built=None))
    with convc.compile(load(POOLS), batch=4, target="cuda") as program:
        assert program.architecture is not None
        assert (program.architecture.value, program.architecture.why) == (
            "sm_80",
            "there is no NVIDIA driver here: libcuda.so.1 cannot be loaded (--arch chooses)",
        )
        error = refusal(lambda: program(images(4)))
    (diagnostic,) = error.diagnostics
    assert diagnostic.code == "missing-driver"
    assert "libcuda.so.1 cannot be loaded" in diagnostic.message
    assert "CuPy is not installed either" in diagnostic.notes[0].message
    assert "--report kernels" in (diagnostic.hint or "")


@pytest.mark.parametrize(
    ("machine", "code", "words"),
    [
        (Machine(cuda=None), "missing-driver", ["libcuda.so.1"]),
        (Machine(cuda=(11, 8)), "missing-driver", ["runs CUDA 11.8", "CuPy needs 12.0", "driver 525"]),
        (Machine(devices=0), "missing-driver", ["CUDA 13.0", "finds no GPU"]),
        (Machine(starts=100), "missing-driver", ["finds no GPU"]),
        (Machine(starts=803), "missing-driver", ["unsupported display driver", "(803)"]),
        (Machine(compute=(7, 0)), "unsupported-gpu", ["Emulated GPU", "7.0", "7.5 (Turing)"]),
        (Machine(built=None), "missing-cupy", ["Emulated GPU is here", "convc[cuda13]"]),
        (Machine(built=None, cuda=(12, 4)), "missing-cupy", ["convc[cuda12]"]),
        (Machine(cuda=(12, 4)), "mismatched-cupy", ["built for CUDA 13", "runs 12.4", "cupy-cuda13x", "convc[cuda12]"]),
        (Machine(built=11080), "mismatched-cupy", ["built for CUDA 11"]),
        (Machine(refuses=INSUFFICIENT_DRIVER), "missing-driver", ["CuPy 14.2.0 cannot use", INSUFFICIENT_DRIVER]),
        (Machine(nvrtc=False), "missing-nvrtc", ["CUDA 13", "pip install nvidia-cuda-nvrtc", "libnvrtc.so.13"]),
        (Machine(nvrtc=False, built=12090), "missing-nvrtc", ["pip install nvidia-cuda-nvrtc-cu12"]),
    ],
)
def test_what_is_missing_is_named(
    load: Any, monkeypatch: pytest.MonkeyPatch, machine: Machine, code: str, words: list[str]
) -> None:
    install(monkeypatch, machine)
    arch = None if machine.compute == (7, 0) else "sm_80"
    error = refusal(lambda: convc.compile(load(POOLS), batch=4, target="cuda", arch=arch)(images(4)))
    assert [diagnostic.code for diagnostic in error.diagnostics] == [code]
    for word in words:
        assert word in str(error)


def test_hidden_gpus_are_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, Machine(starts=100))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert "CUDA_VISIBLE_DEVICES is ''" in str(refusal(cuda_driver.find_gpu))


def test_a_newer_driver_runs_an_older_cupy(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, Machine(cuda=(13, 1), built=12090))
    assert find_usable()[0].cuda == (13, 1)


@pytest.mark.parametrize(
    ("compute", "arch"),
    [((7, 5), "sm_75"), ((8, 7), "sm_86"), ((9, 0), "sm_90"), ((10, 3), "sm_100"), ((12, 1), "sm_120")],
)
def test_the_architecture_is_that_of_the_gpu(
    monkeypatch: pytest.MonkeyPatch, load: Any, compute: tuple[int, int], arch: str
) -> None:
    install(monkeypatch, Machine(compute=compute))
    with convc.compile(load(POOLS), batch=1, target="cuda") as program:
        assert program.architecture is not None
        assert program.architecture.value == arch
        assert "Emulated GPU" in program.architecture.why


def test_code_for_another_architecture_does_not_run(load: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch)
    with convc.compile(load(POOLS), batch=4, target="cuda", arch="sm_90") as program:
        error = refusal(lambda: program(images(4)))
    assert error.diagnostics[0].code == "value-architecture"
    assert "sm_90 is to run on Emulated GPU, which is sm_80" in str(error)


@needs_nvrtc
def test_out_of_memory_tells_what_a_program_takes(load: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = install(monkeypatch, Machine(memory=5 << 20))
    net = load(POOLS)
    with convc.compile(net, batch=4096, target="cuda") as program:
        error = refusal(lambda: program(images(4)))
    (diagnostic,) = error.diagnostics
    assert diagnostic.code == "budget-device-memory"
    assert "Emulated GPU has" in diagnostic.message
    assert "of 5.0 MiB left" in diagnostic.message
    assert "most lives during kernel 1, max_pool+relu+sigmoid of pool1, line 3" in diagnostic.notes[0].message
    assert "--fit" in (diagnostic.hint or "")
    assert machine.launches == 0
    with convc.compile(net, batch=4, target="cuda") as program:  # a smaller one fits
        program(images(4))


def test_int8_is_refused(load: Any) -> None:
    assert code_of(lambda: convc.compile(load(POOLS), target="cuda", precision="int8", ranges={})) == (
        "unavailable-precision"
    )


def test_architectures_are_for_gpus(load: Any) -> None:
    assert code_of(lambda: convc.compile(load(POOLS), arch="sm_90")) == "value-architecture"
    assert code_of(lambda: convc.compile(load(POOLS), target="cuda", arch="sm_91")) == "value-architecture"


# Budgets of memory


def test_budgets_are_those_of_the_gpus_plan(load: Any) -> None:
    net = load(POOLS)
    with convc.compile(net, batch=64, target="cuda", arch="sm_80") as program:
        assert program.plan is not None
        assert program.plan.machine.cuda
        taken = program.plan.memory.total_bytes
    with convc.compile(net, batch=64, target="cuda", arch="sm_80", memory=taken) as program:
        assert program.plan is not None
    assert code_of(lambda: convc.compile(net, batch=64, target="cuda", arch="sm_80", memory=taken - 1)) == (
        "budget-memory"
    )


# Training


def write_data(folder: Path) -> None:
    x = np.random.default_rng(0).integers(0, 256, (24, 1, 8, 8), np.uint8)
    np.savez(folder / "data.npz", x_train=x, y_train=np.arange(24) % 3)


def test_a_training_without_a_gpu_fails_before_anything_else(
    load: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    install(monkeypatch, Machine(cuda=None, built=None))
    monkeypatch.chdir(tmp_path)
    net = load(SMALL.replace("batch 4", 'batch 4\n  data npz "missing.npz"'))
    assert code_of(lambda: convc.fit(net, target="cuda", report="quiet")) == "missing-driver"
    assert not (tmp_path / "runs").exists()


@needs_nvrtc
def test_a_run_records_its_gpu(load: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    install(monkeypatch)
    monkeypatch.chdir(tmp_path)
    write_data(tmp_path)
    net = load(SMALL.replace("batch 4", 'batch 8\n  data npz "data.npz"\n  epochs 1'))
    result = convc.fit(net, target="cuda", report="quiet", out="run")
    assert result.steps == 3
    environment = json.loads((tmp_path / "run" / "environment.json").read_text())
    assert environment["target"] == "cuda"
    assert environment["cpu_tier"] == "sm_80"
    assert environment["versions"]["cupy"] == "14.2.0"
    assert environment["versions"]["nvrtc"] == "13.0"
    assert environment["gpu"] == {
        "name": "Emulated GPU",
        "compute_capability": "8.0",
        "architecture": "sm_80",
        "memory_bytes": 1 << 30,
        "driver_cuda": "13.0",
    }
    settings = json.loads((tmp_path / "run" / "settings.json").read_text())
    assert (settings["target"], settings["cpu_tier"]) == ("cuda", "sm_80")
    again = convc.fit(net, target="cuda", report="quiet", out="run", resume=True)
    assert again.test_accuracy == result.test_accuracy


# The doctor


def test_the_doctor_tells_what_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch)
    found = doctor()["cuda"]
    assert found["driver"] == "13.0"
    assert found["gpu"] == "Emulated GPU (sm_80, 1.0 GiB)"
    assert found["runs"] == "yes"
    install(monkeypatch, Machine(cuda=None, built=None))
    found = doctor()["cuda"]
    assert found["driver"] is None
    assert found["gpu"] is None
    assert "libcuda.so.1" in found["runs"]
