"""Fixtures of the tests of data sets."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from convc.runtime.data import DataSet, load_dataset
from tests.runtime.data.data_helpers import Load


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """`load_dataset` relative to the test's folder, without an input shape and with seed 0 unless told."""

    def call(
        kind: str,
        path: str | None = None,
        options: Mapping[str, object] | None = None,
        input_shape: tuple[int, int, int] | None = None,
        seed: int = 0,
    ) -> DataSet:
        return load_dataset(kind, path, options or {}, base=tmp_path, input_shape=input_shape, seed=seed)

    return call
