"""Every golden case of every pass: the text it turns into, what it says about it, and that it still means the same."""

from __future__ import annotations

import os

import numpy as np
import pytest

from convc.ir.graph import Graph
from convc.ir.interpreter import run_reference
from convc.ir.ops.dropconnect import DropConnectTraining
from convc.ir.ops.norm import BatchNormTraining
from convc.ir.ops.random import Draw, DropoutTraining, NoiseTraining
from convc.ir.printer import print_ir
from convc.passes.base import PassLog
from convc.passes.manager import PassManager
from convc.passes.training import GRADIENT
from convc.runtime.gradcheck import check_gradients
from convc.runtime.random_point import random_point
from tests.passes.cases import FOLDER, PASSES, UNCHANGED, Case, read_cases, write_cases

UPDATE = bool(os.environ.get("UPDATE_GOLDEN"))
FILES = sorted(FOLDER.glob("*.test"))
CASES = [case for path in FILES for case in read_cases(path)]


def transformed(case: Case) -> tuple[Graph, PassLog]:
    graph = case.graph()
    (report,) = PassManager([case.step()]).run(graph)
    return graph, report.log


def test_every_pass_has_a_golden_file() -> None:
    assert {path.stem for path in FILES} == set(PASSES)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_file_is_well_formed(path: object) -> None:
    cases = [case for case in CASES if case.file == getattr(path, "name", "")]
    assert cases
    assert len({case.name for case in cases}) == len(cases)
    if UPDATE:
        write_cases(FOLDER / cases[0].file, [_updated(case) for case in cases])


def _updated(case: Case) -> Case:
    graph, log = transformed(case)
    same = print_ir(graph) == print_ir(case.graph())
    return case.with_results(UNCHANGED if same else print_ir(graph), _log_text(log))


def _log_text(log: PassLog) -> str:
    figures = (f"metric {name} {value:g}\n" for name, value in log.metrics.items())
    return "".join((*(f"{entry}\n" for entry in log.entries), *figures))


@pytest.mark.skipif(UPDATE, reason="the expectations are being written")
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_text_and_log(case: Case) -> None:
    graph, log = transformed(case)
    expected = case.sections["in"] if case.sections["out"] == UNCHANGED else case.sections["out"]
    assert print_ir(graph).strip() == expected.strip()
    assert _log_text(log).strip() == case.sections["log"].strip()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_means_the_same(case: Case) -> None:
    """Outputs that exist before and after agree at a random point, in float64."""
    before, (after, _) = case.graph(), transformed(case)
    arrays = random_point(after, seed=3) | random_point(before, seed=3)
    labels = arrays.get("labels")
    if labels is not None and "labels" in after.inputs and after.inputs["labels"].type.dtype.is_float:
        arrays["labels"] = np.eye(after.inputs["labels"].shape[1])[labels]  # integers mean one-hot rows
    _give_statistics_of_the_batch(after, arrays)
    expected = run_reference(before, _given(before, arrays | ({} if labels is None else {"labels": labels})))
    # What draws already draws the same afterwards.
    actual = run_reference(after, _given(after, arrays)) if _draws(before) else _mean_over_masks(after, arrays)
    common = before.outputs.keys() & after.outputs.keys()
    assert common
    for name in common:
        assert actual[name] == pytest.approx(expected[name], rel=0, abs=_tolerance(after, expected[name]))


@pytest.mark.parametrize("case", [case for case in CASES if case.file == "training.test"], ids=lambda case: case.id)
def test_gradients_are_right(case: Case) -> None:
    graph, _ = transformed(case)
    report = check_gradients(graph, samples=50, seed=5)
    assert [check.name for check in report.parameters] == [
        name.removeprefix(GRADIENT) for name in graph.outputs if name.startswith(GRADIENT)
    ]
    assert {check.verdict for check in report.parameters} <= {"ok"}, report


def _given(graph: Graph, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: arrays[name] for name in (*graph.inputs, *graph.parameters)}


def _give_statistics_of_the_batch(after: Graph, arrays: dict[str, np.ndarray]) -> None:
    """Batch norm in training and at inference agree where the running statistics are those of the batch."""
    probe = after.copy()
    probe.updates = {}
    for node in probe.nodes_of(BatchNormTraining):
        probe.outputs |= {f"{node.label}.mean": node.results[1], f"{node.label}.var": node.results[2]}
    results = run_reference(probe, _given(probe, arrays))
    arrays |= {name: array for name, array in results.items() if name.endswith((".mean", ".var")) and name in arrays}


def _draws(graph: Graph) -> bool:
    return any(isinstance(node.op, (Draw, DropConnectTraining)) for node in graph.nodes)


def _mean_over_masks(graph: Graph, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The outputs; with dropout or noise their mean over many steps, which is what these are made to preserve."""
    steps = _DRAWS if _draws(graph) else 1
    runs = [run_reference(graph, _given(graph, arrays | {"step": np.asarray(step)})) for step in range(1, steps + 1)]
    return {name: np.mean([run[name] for run in runs], 0) for name in graph.outputs}


_DRAWS = 1000


def _tolerance(graph: Graph, expected: np.ndarray) -> float:
    scale = max(1.0, float(np.abs(expected).max()))
    # Variances: of a mask m/(1 − p) it is p/(1 − p), of noise the square of its deviation.
    ops = [node.op for node in graph.nodes]
    masks = [op for op in ops if isinstance(op, (DropoutTraining, DropConnectTraining))]
    variances = [op.rate / (1 - op.rate) * scale**2 for op in masks]
    variances += [op.std**2 for op in ops if isinstance(op, NoiseTraining)]
    if not variances:
        return 1e-9 * scale  # constants of the graph are float32
    return 5 * (sum(variances) / _DRAWS) ** 0.5
