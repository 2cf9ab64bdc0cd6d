"""Products of bfloat16 numbers in tile registers, whose instructions are emulated where a processor lacks them."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

from convc.codegen.llvm.amx_host import self_test
from convc.codegen.llvm.amx_tiles import EmulatedTiles
from convc.codegen.llvm.lowering import generate
from convc.codegen.llvm.object_cache import cache_key
from convc.codegen.llvm.program import machine_of, plan_step
from convc.codegen.llvm.target import (
    AMX_BF16,
    AMX_INT8,
    DOT_BF16,
    EMULATE_VARIABLE,
    EMULATED_AMX,
    WITHOUT_VARIABLE,
    amx_state,
    choose_target,
    emit_assembly,
    host_target,
)
from convc.ir.interpreter import run_reference
from convc.ir.ops import Conv2d
from convc.ir.types import DType
from convc.passes.algorithms.decision import decide
from convc.passes.algorithms.im2col import Im2col
from convc.passes.algorithms.prediction import CONSTANTS
from convc.passes.algorithms.problem import CONVOLUTIONS, Direction, Problem
from convc.passes.base import PassLog
from convc.passes.half_precision import HalfPrecision
from convc.passes.machine import MACHINES
from convc.runtime.environment import cpu_tier
from convc.runtime.tuning import graph_of
from tests.codegen.algorithms.convolutions import CHAINS, Geometry, assert_close, chained, problem_of
from tests.codegen.native_graph import run_natively
from tests.codegen.test_assembly import WITH_DOT
from tests.codegen.test_dot_bf16 import DIRECTIONS, filters_in_pairs, halved_case
from tests.codegen.test_halves import EPSILON
from tests.codegen.test_whole_numbers import product

# Code can be made for it on every processor.
WITH_TILES = choose_target(
    "x86_64-unknown-linux-gnu", dict.fromkeys((*WITH_DOT.flags, *AMX_BF16, *AMX_INT8, "avx512fp16"), True)
)
EMULATING = pytest.mark.skipif(host_target().tier != "avx512", reason="kernels with tiles are for the tier avx512")

# Whether both directions have channels and outputs for tiles, and the geometry.
GEOMETRIES: dict[str, tuple[tuple[bool, bool], Geometry]] = {
    "3x3": ((True, True), Geometry((2, 32, 9, 14), (64, 32, 3, 3), (1, 1, 1, 1))),
    "one panel, one tile": ((True, False), Geometry((1, 32, 4, 4), (16, 32, 3, 3), (1, 1, 1, 1))),
    "an odd panel": ((True, False), Geometry((2, 64, 7, 5), (48, 64, 3, 3), (1, 1, 1, 1))),
    "panels of several blocks": ((True, True), Geometry((1, 32, 5, 7), (160, 32, 3, 3), (1, 0, 2, 1))),
    "more filters than rows": ((True, True), Geometry((1, 64, 4, 3), (96, 64, 3, 3), (1, 1, 1, 1))),
    "several chunks": ((True, True), Geometry((3, 96, 16, 16), (32, 96, 3, 3), (1, 1, 1, 1))),
    "pointwise": ((True, True), Geometry((3, 64, 7, 7), (96, 64, 1, 1))),
    "pointwise, more filters than rows": ((True, True), Geometry((1, 64, 3, 5), (96, 64, 1, 1))),
    "pointwise, in strips": ((True, True), Geometry((2, 512, 26, 26), (64, 512, 1, 1))),
    "strided": ((True, True), Geometry((2, 32, 13, 12), (32, 32, 3, 3), (1, 1, 1, 1), stride=(2, 2))),
    "strided apart": ((True, True), Geometry((2, 32, 13, 12), (32, 32, 1, 1), stride=(3, 2))),
    "dilated": ((True, True), Geometry((2, 32, 12, 13), (32, 32, 3, 3), (2, 2, 2, 2), dilation=(2, 2))),
    "all of it": (
        (True, True),
        Geometry((2, 32, 15, 16), (32, 32, 5, 3), (4, 1, 3, 2), stride=(2, 3), dilation=(2, 1)),
    ),
    "row": ((True, True), Geometry((2, 32, 3, 24), (32, 32, 1, 7), (0, 3, 0, 3))),
    "too few channels": ((False, False), Geometry((2, 24, 7, 9), (32, 24, 3, 3), (1, 1, 1, 1))),
    "too few outputs": ((False, False), Geometry((2, 32, 7, 9), (24, 32, 3, 3), (1, 1, 1, 1))),
    "groups": ((False, False), Geometry((2, 64, 7, 9), (64, 32, 3, 3), (1, 1, 1, 1), groups=2)),
}


@pytest.fixture
def emulated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(EMULATE_VARIABLE, "amx")


@EMULATING
@pytest.mark.usefixtures("emulated")
@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("name", GEOMETRIES)
def test_convolutions(name: str, direction: Direction) -> None:
    """As exact as sums of float32 products; the same bits for any number of threads, and for fewer images; nothing
    but operands is read and written."""
    tiled, geometry = GEOMETRIES[name]
    graph, named, exact = halved_case(geometry.case(direction, "im2col"))
    single = run_natively(graph.copy(), named, threads=1)["logits"]
    assert_close(single, exact, Im2col().max_rel_error(problem_of(graph)), problem_of(graph))
    for threads in (2, 3):
        np.testing.assert_array_equal(single, run_natively(graph.copy(), named, threads=threads)["logits"])
    np.testing.assert_array_equal(single, run_natively(graph.copy(), named, side="before")["logits"])
    few = run_natively(graph.copy(), named | {"x": named["x"][:1]}, threads=2, batch=len(named["x"]))["logits"]
    np.testing.assert_array_equal(single[:1], few)
    assert filters_in_pairs(plan_step(graph)) == [tiled[DIRECTIONS.index(direction)]]


@EMULATING
@pytest.mark.usefixtures("emulated")
@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("chain", CHAINS)
@pytest.mark.parametrize("kernel", [1, 3])
def test_chains(kernel: int, chain: str, direction: Direction) -> None:
    """What rides in the epilogue meets the sums in float32."""
    pad = kernel // 2
    graph, named = chained(
        direction, "im2col", chain, Geometry((2, 32, 7, 9), (32, 32, kernel, kernel), (pad, pad, pad, pad))
    )
    HalfPrecision().run(graph, PassLog())
    assert filters_in_pairs(plan_step(graph.copy())) == [True]
    result, again = (run_natively(graph.copy(), named, threads=threads) for threads in (1, 2))
    for name, value in run_reference(graph, named).items():
        error = float(np.abs(result[name] - value).max()) / float(np.abs(value).max())
        assert error <= len(graph.nodes) * EPSILON[DType.BF16], f"{name}: relative error {error:.2e}"
        np.testing.assert_array_equal(result[name], again[name])


@EMULATING
def test_processors_with_and_without_tiles_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    """Within what each promises: tiles, pairs where the processor has them, float32."""
    graph, named, exact = halved_case(GEOMETRIES["3x3"][1].case("forward", "im2col"))
    direct = halved_case(GEOMETRIES["3x3"][1].case("forward", "direct"))[0]
    found = [run_natively(direct.copy(), named)["logits"]]
    monkeypatch.setenv(WITHOUT_VARIABLE, DOT_BF16)
    found.append(run_natively(direct.copy(), named)["logits"])
    found.append(run_natively(graph.copy(), named)["logits"])
    monkeypatch.setenv(EMULATE_VARIABLE, "amx")
    found.append(run_natively(graph.copy(), named)["logits"])
    bound = 2 * Im2col().max_rel_error(problem_of(graph)) * float(np.abs(exact).max())
    for result in found:
        assert float(np.abs(result - found[-1]).max()) <= bound


@EMULATING
@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("name", ["3x3", "several chunks", "pointwise", "strided", "groups"])
@pytest.mark.usefixtures("emulated")
def test_scratch_space_is_what_the_chooser_is_told(name: str, direction: Direction) -> None:
    graph, _, _ = halved_case(GEOMETRIES[name][1].case(direction, "im2col"))
    plan = plan_step(graph)
    (kernel,) = (kernel for kernel in plan.kernels if isinstance(kernel.anchor.op, CONVOLUTIONS))
    scratch = plan.memory.scratch.get(kernel)
    assert (scratch.bytes if scratch else 0) == Im2col().scratch_bytes(problem_of(graph), plan.machine)


@EMULATING
@pytest.mark.usefixtures("emulated")
def test_infinite_numbers_and_what_is_not_a_number() -> None:
    graph, named, _ = halved_case(Geometry((1, 32, 5, 4), (16, 32, 1, 1)).case("forward", "im2col", bias=False))
    x = np.ones_like(named["x"])
    x[0, 1, 0, 0], x[0, 2, 1, 1], x[0, 3, 2, 2] = np.inf, np.nan, -np.inf
    y = run_natively(graph, {"x": x, "operand1": np.ones_like(named["operand1"])})["logits"][0]
    assert np.all(y[:, 0, 0] == np.inf)
    assert np.all(np.isnan(y[:, 1, 1]))
    assert np.all(y[:, 2, 2] == -np.inf)
    y[:, [0, 1, 2], [0, 1, 2]] = 32
    assert np.all(y == 32)


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("size", [1, 3])
def test_instructions(size: int, direction: Direction) -> None:
    """Tiles are set up before products and given back behind them, and no tile is kept in memory meanwhile."""
    pad = size // 2
    problem = Problem(
        direction, 8, 64, 96, (28, 28), (28, 28), (size, size), padding=(pad, pad, pad, pad), dtype=DType.BF16
    )
    plan = plan_step(graph_of(problem, "im2col"), WITH_TILES)
    written = generate(plan, "fma").text
    (body,) = (part for part in written.split("\n}") if "call void @llvm.x86.tdpbf16ps" in part)
    names = " ".join(re.findall(r"call void @llvm.x86.(ldtilecfg|tile\w+|tdp\w+)", body))
    assert re.fullmatch(r"ldtilecfg (?:(?!tilerelease).)*tilestored64 ldtilecfg tilerelease", names), names
    # LLVM may put the blocks of a function in another order.
    text = emit_assembly(written, WITH_TILES)
    names = " ".join(re.findall(r"(?m)^\s+(ldtilecfg|tile\w+|tdp\w+|ret)", text))
    assert "ldtilecfg" in names
    assert "tilerelease" in names
    for kind in re.findall(r"(?:tilezero )+.*?(?:tilestored )+", names):
        sums, loads = {4: (4, 4), 2: (2, 3), 1: (1, 2)}[kind.count("tdpbf16ps")]
        assert [kind.count(word) for word in ("tilezero", "tileloadd", "tilestored")] == [sums, loads, sums]
        assert len(kind.split()) == 3 * sums + loads
    without = emit_assembly(generate(plan_step(graph_of(problem, "im2col"), WITH_DOT), "fma").text, WITH_DOT)
    assert "tile" not in without


def test_the_self_test_finds_wrong_products(monkeypatch: pytest.MonkeyPatch) -> None:
    if host_target().tier != "avx512":
        pytest.skip("kernels with tiles are for the tier avx512")
    monkeypatch.setenv(EMULATE_VARIABLE, "amx")
    assert self_test(host_target()) is None
    monkeypatch.setattr(EmulatedTiles, "zero", lambda self, tile: None)
    assert self_test(host_target()) == "a product by tiles came out wrong in this process (bf16 and int8)"


@EMULATING
def test_tiles_are_used_where_asked_for_and_cached_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(WITHOUT_VARIABLE, raising=False)
    plain = host_target()
    monkeypatch.setenv(EMULATE_VARIABLE, "amx")
    emulating = host_target()
    assert amx_state() == "emulated"
    assert emulating.has(*AMX_BF16, EMULATED_AMX)
    assert machine_of(emulating).amx_bf16
    assert machine_of(emulating).emulates_amx
    assert not any(word in emulating.features for word in ("+amx", "emulated"))
    assert cpu_tier("cpu", "bf16").endswith("+amx-bf16")
    keys = {cache_key("", target, {}) for target in (plain, emulating, WITH_TILES, WITH_DOT)}
    assert len(keys) == 4
    monkeypatch.setenv(WITHOUT_VARIABLE, "amx-bf16")
    assert not host_target().has(*AMX_BF16)
    assert host_target().has(*AMX_INT8)
    monkeypatch.setenv(WITHOUT_VARIABLE, "amx-tile")
    assert not host_target().has(*AMX_INT8)
    assert amx_state().startswith("not in use")


def test_a_processor_with_tiles_is_not_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where this process may not use tiles, or they come out wrong, the features count as missing."""
    from convc.codegen.llvm import amx_host, target

    class Binding:
        get_host_cpu_features = staticmethod(lambda: dict.fromkeys(WITH_TILES.flags, True))
        get_process_triple = staticmethod(lambda: WITH_TILES.triple)

    monkeypatch.delenv(EMULATE_VARIABLE, raising=False)
    monkeypatch.delenv(WITHOUT_VARIABLE, raising=False)
    monkeypatch.setattr(target, "_llvm", Binding)
    for why in ("refused", None):
        target._host_target.__wrapped__.cache_clear()
        target._amx_obstacle.__wrapped__.cache_clear()
        monkeypatch.setattr(amx_host, "obstacle", lambda _, why=why: why)
        assert host_target().has(*AMX_BF16) == (why is None)
        assert amx_state() == ("in use" if why is None else "not in use: refused")
        assert ("-amx-tile" in host_target().features) == (why is not None)
    target._host_target.__wrapped__.cache_clear()
    target._amx_obstacle.__wrapped__.cache_clear()


def test_tiles_are_chosen_where_they_are_faster() -> None:
    padding, tiles = (1, 1, 1, 1), replace(MACHINES["avx512"], dot_bf16=True, amx_bf16=True)
    wide = Problem("forward", 4, 256, 256, (56, 56), (56, 56), (3, 3), padding=padding, dtype=DType.BF16)
    first = replace(wide, channels=3)
    found = [decide(problem, tiles, CONSTANTS["avx512"]).chosen for problem in (wide, first)]
    assert found == ["im2col", "direct"]
    assert decide(wide, replace(tiles, amx_bf16=False), CONSTANTS["avx512"]).chosen != "im2col"


def test_convolutions_say_that_they_go_through_tiles() -> None:
    problem = Problem("forward", 2, 32, 32, (8, 8), (8, 8), (3, 3), padding=(1, 1, 1, 1), dtype=DType.BF16)
    plan = plan_step(graph_of(problem, "im2col"), WITH_TILES)
    (node,) = plan.graph.nodes_of(Conv2d)
    assert "in pairs" in str(plan.layouts[node.operands[1]])
    reasons = [entry.why for report in plan.reports for entry in report.log.of("changed") if entry.rule == "pairs"]
    assert reasons == ["tiles of bf16 are multiplied"]


# Of whole numbers: channels by 64, outputs by 16.
WHOLE = {
    "3x3": (Conv2d(padding=(1, 1, 1, 1)), (2, 64, 7, 9), (48, 64, 3, 3)),
    "1x1": (Conv2d(), (3, 128, 5, 4), (80, 128, 1, 1)),
    "strided": (Conv2d((2, 3), (2, 1, 0, 2)), (1, 64, 9, 9), (16, 64, 3, 2)),
    "dilated": (Conv2d(padding=(2, 0, 1, 3), dilation=(2, 2)), (2, 64, 8, 9), (32, 64, 3, 3)),
    "more filters than rows": (Conv2d(padding=(1, 1, 1, 1)), (1, 64, 4, 3), (96, 64, 3, 3)),
    "several chunks": (Conv2d(padding=(1, 1, 1, 1)), (2, 192, 16, 16), (32, 192, 3, 3)),
}


@EMULATING
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "plain"])
@pytest.mark.parametrize("zero", [0, 77, 255])
@pytest.mark.parametrize("name", WHOLE)
def test_whole_numbers(name: str, zero: int, bias: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sums are exact, and the results are those of the direct algorithm, bit for bit."""
    op, x, w = WHOLE[name]
    graph, arrays = product(op, x, w, zero, bias)
    expected = run_natively(graph.copy(), arrays)["logits"]
    monkeypatch.setenv(EMULATE_VARIABLE, "amx")
    (node,) = graph.nodes_of(Conv2d)
    graph.set_op(node, replace(op, algorithm="im2col"))
    for threads, side in ((1, "after"), (2, "before"), (3, "after")):
        found = run_natively(graph.copy(), arrays, threads=threads, side=side)["logits"]  # type: ignore[arg-type]
        np.testing.assert_array_equal(found, expected)


def test_whole_numbers_in_assembly() -> None:
    graph, _ = product(*WHOLE["3x3"], 7, True)
    (node,) = graph.nodes_of(Conv2d)
    graph.set_op(node, replace(node.op, algorithm="im2col"))  # type: ignore[call-arg]
    text = emit_assembly(generate(plan_step(graph, WITH_TILES), "fma").text, WITH_TILES)
    assert text.count("tdpbusd") == 9  # 2 x 2 and 2 x 1 tiles, and half as many for the last rows
    assert "tdpbf16ps" not in text


def test_tiles_of_whole_numbers_are_chosen_where_they_are_faster() -> None:
    machine = replace(MACHINES["avx512"], dot_int8=True, amx_int8=True)
    padding = (1, 1, 1, 1)
    wide = Problem("forward", 4, 256, 256, (56, 56), (56, 56), (3, 3), padding=padding, dtype=DType.Q8)
    narrow = replace(wide, channels=32)
    assert [decide(problem, machine, CONSTANTS["avx512"]).chosen for problem in (wide, narrow)] == ["im2col", "direct"]
    assert decide(wide, replace(machine, amx_int8=False), CONSTANTS["avx512"]).chosen == "direct"
