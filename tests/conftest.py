"""What every test gets: no traffic with the user's own cache, no window for pictures, repeatable property tests."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

REPOSITORY = Path(__file__).parent.parent

os.environ["MPLBACKEND"] = "Agg"
# Tests run side by side themselves, and threads of numpy's that find no core wait by spinning. Nothing has imported
# numpy so far, which reads this once.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

# A machine under load is no failure; timeouts are pytest's business.
hypothesis.settings.register_profile("convc", deadline=None)
hypothesis.settings.register_profile("ci", parent=hypothesis.settings.get_profile("convc"), derandomize=True)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "convc")


@pytest.fixture(scope="session", autouse=True)
def _own_object_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Object code goes to a folder of this run. Tests of the cache itself point elsewhere with monkeypatch."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CONVC_CACHE_DIR", str(tmp_path_factory.mktemp("object-cache")))
        patch.delenv("CONVC_CACHE", raising=False)
        patch.delenv("CONVC_CPU", raising=False)
        patch.delenv("CONVC_THREADS", raising=False)
        # Tests run side by side themselves.
        patch.setenv("CONVC_COMPILE_PROCESSES", "1")
        yield


@pytest.fixture(scope="session")
def repository() -> Path:
    """The folder with pyproject.toml, examples and benchmarks."""
    return REPOSITORY


# Modules that take several seconds as a whole, though no test of theirs does: `make quick` leaves them out.
_SLOW_MODULES = (
    "codegen/algorithms/test_fft.py",
    "codegen/algorithms/test_im2col.py",
    "codegen/algorithms/test_strassen.py",
    "codegen/algorithms/test_winograd.py",
    "codegen/test_feature_order.py",
    "codegen/test_amx.py",
    "codegen/test_gemm.py",
    "codegen/test_halves.py",
    "codegen/test_whole_numbers.py",
    "codegen/test_wide_scalars.py",
    "commands/test_compile_cuda.py",
    "commands/test_explain.py",
    "runtime/test_calibration.py",
    "codegen/test_half_nets.py",
    "codegen/test_in_place.py",
    "codegen/test_moments.py",
    "codegen/test_nets.py",
    "codegen/test_onnx_export.py",
    "codegen/test_prepared.py",
    "codegen/test_recompute.py",
    "codegen/test_scaled_steps.py",
    "codegen/test_schedule.py",
    "codegen/test_training_step.py",
    "codegen/test_wide_language.py",
    "commands/test_language_server.py",
    "commands/test_memory.py",
    "cuda/test_cupy_device.py",
    "cuda_emulator/",
    "frontend/onnx/",
    "frontend/test_budgets.py",
    "frontend/test_decompile_random.py",
    "frontend/test_formatter.py",
    "frontend/test_fuzz.py",
    "frontend/test_rewriting_random.py",
    "passes/rewriting/test_ranked.py",
    "passes/test_any_order.py",
    "passes/test_arena.py",
    "passes/test_clean_ups.py",
    "passes/test_linear.py",
    "runtime/data/test_augment",
    "runtime/test_accumulate.py",
    "runtime/test_course.py",
    "runtime/test_fit.py",
    "runtime/test_fit_augmented.py",
    "runtime/test_fit_pixels.py",
    "runtime/test_fitting_batch.py",
    "runtime/test_foreign_files.py",
    "runtime/test_loss_scaling.py",
    "runtime/test_optimizers.py",
    "runtime/test_targets.py",
    "runtime/test_transfer.py",
    "test_classic_networks.py",
    "test_language_page.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    tests = Path(__file__).parent
    for item in items:
        if item.path.relative_to(tests).as_posix().startswith(_SLOW_MODULES):
            item.add_marker(pytest.mark.slow)
