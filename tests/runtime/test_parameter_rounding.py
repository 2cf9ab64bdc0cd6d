"""`rounding=stochastic`: updates leave numbers of 16 bits, and small ones are kept on average."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from convc.cli import main
from convc.frontend import loads
from convc.ir.ops.cast import Cast
from convc.ir.ops.round_to import RoundTo
from convc.ir.ops.update import SgdUpdate
from convc.ir.rounding import rounded
from convc.ir.types import DType
from convc.passes.half_precision import HalfPrecision
from convc.passes.manager import PassManager
from convc.passes.pipeline import Recipe, pipeline
from convc.passes.training import ParameterRounding
from tests.codegen.whole_net import arrays_for, assert_same_bits, run_natively
from tests.runtime.conftest import Compile

NET = "net n { input 1x6x6 -> conv 5 k=3 -> bn -> relu -> fc 4 -> loss softmax }\n"
TRAIN = "train {{ optim {optim}\n precision {kind} rounding=stochastic\n {more} }}\n"
DTYPES = {"fp16": DType.F16, "bf16": DType.BF16}


def text(kind: str = "bf16", optim: str = "sgd lr=0.1 momentum=0.9", more: str = "") -> str:
    return NET + TRAIN.format(kind=kind, optim=optim, more=more)


def images(count: int = 8) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(1)
    return random.random((count, 1, 6, 6), np.float32), random.integers(0, 4, count)


@pytest.mark.parametrize("kind", DTYPES)
@pytest.mark.parametrize(
    ("optim", "more"),
    [
        ("sgd lr=0.1 momentum=0.9", ""),
        ("adam lr=0.01", "clip 0.5"),
        ("sgd lr=0.1", "maxnorm 0.5"),
        ("adamw lr=0.01", ""),
    ],
)
def test_parameters_are_numbers_of_the_type(compile_text: Compile, kind: str, optim: str, more: str) -> None:
    program = compile_text(text(kind, optim, more), batch=8)
    x, labels = images()
    first = program.step(x, labels)
    for name, array in program.params.items():
        if program.graph.parameters[name].trainable:
            assert (rounded(array, DTYPES[kind]) == array).all(), name
    for _ in range(30):
        last = program.step(x, labels)
    assert last < first
    assert list(program.graph.nodes_of(RoundTo))


def test_mixed_training_keeps_float32(compile_text: Compile) -> None:
    for words in ("precision bf16", "precision fp32 rounding=stochastic"):
        program = compile_text(NET + f"train {{ optim sgd lr=0.1\n {words} }}\n", batch=8)
        program.step(*images())
        weights = program.params["conv1.weight"]
        assert (rounded(weights, DType.BF16) != weights).any()
        assert not list(program.graph.nodes_of(RoundTo))


def test_the_seed_decides(compile_text: Compile) -> None:
    x, labels = images()
    found = []
    for seed in (1, 1, 2):
        program = compile_text(text(), batch=8, seed=1)
        program.set_params({name: np.full_like(a, 0.01) for name, a in program.params.items() if name == "fc1.weight"})
        program.seed = seed
        program.step(x, labels)
        found.append(program.params["fc1.weight"])
    assert (found[0] == found[1]).all()
    assert (found[0] != found[2]).any()


@pytest.mark.parametrize("kind", DTYPES)
def test_threads_do_not_change_a_bit_and_the_interpreter_agrees(kind: str) -> None:
    graph = loads(NET).graph(4)
    half = HalfPrecision(kind)  # type: ignore[arg-type]
    rounding = ParameterRounding("f16" if kind == "fp16" else "bf16")
    recipe = Recipe(SgdUpdate(momentum=0.5), max_norm=2.0, rounding=rounding)
    PassManager(pipeline("train", recipe=recipe, types=half)).run(graph)
    arrays = arrays_for(graph, 4)
    alone = run_natively(graph, arrays)
    assert_same_bits(run_natively(graph, arrays, threads=3, guards="after"), alone)
    for name in ("conv1.weight", "fc1.bias", "bn1.gamma"):
        assert (rounded(alone[name], DTYPES[kind]) == alone[name]).all()
    assert list(graph.nodes_of(Cast))


def test_small_updates_are_kept_on_average_where_rounding_to_the_nearest_loses_them() -> None:
    """An update of a hundredth of a unit in the last place, a thousand times."""
    unit = 2.0**-7  # of bfloat16 between 1 and 2
    x = {"nearest": np.ones(5000, np.float32), "stochastic": np.ones(5000, np.float32)}
    for step in range(1000):
        for kind, array in x.items():
            op = RoundTo("bf16", kind, 9)  # type: ignore[arg-type]
            x[kind] = op.reference(array + np.float32(0.01 * unit), np.asarray(0), np.asarray(step))
    assert (x["nearest"] == 1).all()
    assert x["stochastic"].mean() == pytest.approx(1 + 10 * unit, rel=0.002)


def test_a_run_says_what_it_rounds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (12, 1, 6, 6)).astype(np.uint8)
    np.savez("d.npz", images=images, labels=random.integers(0, 4, 12))
    Path("n.cnn").write_text(text(more='data npz "d.npz"\n epochs 1\n batch 4'))
    assert main(["train", "n.cnn", "--out", "half"]) == 0
    assert "rounding nearest" not in capsys.readouterr().out
    assert main(["train", "n.cnn", "--out", "whole", "--precision", "fp32"]) == 0
    assert "rounding nearest: parameters of a program in fp32 are not rounded" in capsys.readouterr().out
    kinds = [json.loads(Path(folder, "settings.json").read_text())["rounding"] for folder in ("half", "whole")]
    assert kinds == ["stochastic", "nearest"]
