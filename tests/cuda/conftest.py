"""What runs by default of the tests of CUDA kernels: a few minutes' worth. `CONVC_CUDA_FULL=1` runs everything.

`make test-cuda-full` sets it. The marker `full` is for tests that take minutes in all; of long tables of cases a part
runs by default, always the same one.
"""

from __future__ import annotations

import os
from pathlib import Path
from zlib import crc32

import pytest

_HERE = Path(__file__).parent
FULL = os.environ.get("CONVC_CUDA_FULL", "") not in ("", "0")
# Of the cases of each test in these modules one in so many runs by default.
ONE_IN = {
    "test_algorithms.py": 4,
    "test_halves.py": 20,
    "test_nets.py": 3,
    "test_ops.py": 7,
    "test_reductions.py": 6,
    "test_simt.py": 12,
    "test_tensor_core.py": 8,
    "test_transforms.py": 16,
    "test_updates.py": 8,
}
# Modules that take no time; `make quick` leaves out all others.
QUICK = ("test_architectures.py", "test_gpus.py", "test_resources.py")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "full: takes minutes in all; run by CONVC_CUDA_FULL=1 only")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(_HERE) and item.path.name not in QUICK:
            item.add_marker(pytest.mark.slow)
        if item.get_closest_marker("full") and not FULL:
            item.add_marker(pytest.mark.skip(reason="CONVC_CUDA_FULL=1 runs this, too"))
    # Who names tests gets them.
    named = config.getoption("keyword") or any("::" in argument for argument in config.args)
    if not FULL and not named:
        left_out = _left_out(items)
        config.hook.pytest_deselected(items=left_out)
        unwanted = {item.nodeid for item in left_out}
        items[:] = [item for item in items if item.nodeid not in unwanted]


def _left_out(items: list[pytest.Item]) -> list[pytest.Item]:
    """All but the first case of each test and those that their names choose."""
    seen: set[str] = set()
    found: list[pytest.Item] = []
    for item in items:
        test = item.nodeid.partition("[")[0]
        share = ONE_IN.get(item.path.name, 1) if item.path.parent == _HERE else 1
        if test in seen and crc32(item.nodeid.encode()) % share:
            found.append(item)
        seen.add(test)
    return found
