from __future__ import annotations

import mmap

import numpy as np
import pytest

from convc.runtime.pages import populate


@pytest.mark.parametrize("start", [0, 1, mmap.PAGESIZE - 1])
def test_what_lies_in_memory_stays(start: int) -> None:
    memory = np.arange(20 * mmap.PAGESIZE, dtype=np.uint8)
    before = memory.copy()
    populate(memory.ctypes.data + start, 17 * mmap.PAGESIZE)
    populate(memory.ctypes.data + start, 5)
    np.testing.assert_array_equal(memory, before)
