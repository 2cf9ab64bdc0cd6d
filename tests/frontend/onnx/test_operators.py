"""Every operator of the table against ONNX Runtime, as interpreted and as native code."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from convc.frontend.onnx.table import OPERATORS
from tests.frontend.onnx.models import check, draw, make_model
from tests.frontend.onnx.operator_cases import CASES, Case


@pytest.mark.parametrize("case", CASES, ids=str)
def test_import_computes_what_onnx_runtime_computes(case: Case, tmp_path: Path) -> None:
    x = draw(case.x, case.name)
    if case.positive:
        x = np.abs(x) + np.float32(0.5)
    open_batch = make_model(case.ops, ("N", *case.x[1:]), case.constants, opset=case.opset)
    fixed = make_model(case.ops, case.x, case.constants, opset=case.opset)
    # Constants such as shapes may hold the batch that the exporter has seen.
    check(fixed if "seen_batch" in case.name or case.name in SEEN else open_batch, x, tmp_path)


SEEN = {"Expand/rows", *(case.name for case in CASES if case.name.startswith("Resize/sizes"))}


def test_every_operator_and_attribute_has_a_case() -> None:
    tried: dict[str, set[str]] = {}
    for case in CASES:
        for op in case.ops:
            tried.setdefault(op.kind, set()).update(op.attributes)
    assert set(OPERATORS) - set(tried) == set()
    for kind, operator in OPERATORS.items():
        assert set(operator.attributes) - tried[kind] == set(), kind


def test_names_of_cases_are_unique() -> None:
    assert len({case.name for case in CASES}) == len(CASES)
