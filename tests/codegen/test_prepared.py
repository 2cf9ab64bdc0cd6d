"""What is computed from parameters once, before the runs that read it: weights with norms and input scales in them."""

from __future__ import annotations

import re
import threading
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

import convc
from convc.frontend import loads
from convc.ir.builder import Builder
from convc.ir.graph import Graph
from convc.ir.interpreter import run_reference
from convc.ir.ops.activation import Relu
from convc.ir.ops.constant import Constant
from convc.ir.ops.conv import Conv2d, Conv2dBackwardData
from convc.ir.ops.elementwise import Add, Divide
from convc.ir.ops.linear import Linear
from convc.ir.ops.shape import Relayout
from convc.ir.ops.units import ScaleWeights
from convc.ir.ops.update import SgdUpdate
from convc.ir.types import f32
from convc.passes.fusion import Kernel
from convc.passes.layout import WeightLayout
from convc.passes.machine import Machine
from convc.passes.plan import Plan
from convc.passes.planning import make_plan
from convc.passes.sections import Section
from tests.codegen.test_ops import available_tiers
from tests.codegen.whole_net import (
    arrays_for,
    assert_agrees,
    assert_same_bits,
    exactly,
    executor_for,
    lowered,
    results,
    run,
    run_natively,
)

MACHINE = Machine("test", lanes=16, registers=32)
BATCH = 5
# Each with how many layers read weights that are computed.
NETS: dict[str, tuple[str, int]] = {
    "residual": (
        """net n { input 3x9x7 -> conv 6 k=3 pad=1 bias=no -> bn -> relu -> basic(6, 1) -> basic(10, 2) -> fc 4 }
        block basic(c, s) {
          residual { conv c k=3 s=s pad=1 bias=no -> bn -> relu -> conv c k=3 pad=1 -> bn } skip auto
          relu }""",
        6,
    ),
    "depthwise": (
        """net n { input 3x9x9 -> conv 20 k=3 s=2 bias=no -> bn -> relu6 -> separable(18) -> separable(35) -> fc 4 }
        block separable(c) {
          conv in k=3 pad=1 groups=in bias=no -> bn -> relu6 -> conv c k=1 bias=no -> bn -> relu6 }""",
        5,
    ),
    "transposed": (
        """net n { input 4x5x3 -> deconv 6 k=2 s=2 -> bn -> relu -> deconv 9 k=3 s=2 groups=3 bias=no -> bn -> relu
        conv 3 k=3 groups=3 -> bn -> fc 4 }""",
        3,
    ),
    "rows": ("net n { input 1x6x5 -> conv 7 k=3 -> flatten -> fc 18 -> bn -> relu -> fc 3 bias=no -> bn }", 2),
    "normalised": ("net n { input 3x8x7 mean=[1.5, -2, 0.25] std=[2, 0.5, 3] -> conv 18 k=3 -> bn -> fc 4 }", 1),
    "one_scale": ("net n { input 2x8x7 mean=0.5 std=0.25 -> conv 6 k=3 s=2 bias=no groups=2 -> relu -> fc 4 }", 1),
    "grouped_scales": ("net n { input 4x8x7 std=[1, 2, 3, 4] -> conv 6 k=3 pad=1 groups=2 -> relu -> fc 4 }", 1),
    "used_twice": (
        """net n { input 3x6x6 -> conv 4 k=1 -> shared step { conv 4 k=3 pad=1 -> bn -> relu } -> reuse step
        fc 4 }""",
        2,
    ),
    "dropped": ("net n { input 3x6x6 -> conv 5 k=3 -> dropout 0.5 -> bn -> relu -> noise 0.1 -> fc 4 }", 1),
    "one_bit": (
        """net n { input 3x9x7 mean=0.5 std=0.25 -> conv 6 k=3 pad=1 bias=no bits=1 -> bn -> relu
        conv 12 k=3 groups=2 bits=1 -> bn -> relu -> conv in k=3 groups=in bits=1 -> fc 4 bits=1 }""",
        4,
    ),
    "without_scale": ("net n { input 3x6x6 -> conv 5 k=3 -> bn affine=no -> relu -> fc 4 }", 1),
}


def forward(name: str) -> Graph:
    return loads(NETS[name][0]).graph(BATCH)


def folded(graph: Graph) -> int:
    """How many layers read weights that are computed."""
    layers = graph.nodes_of(Conv2d, Conv2dBackwardData, Linear)
    return sum(layer.operands[1].producer is not None for layer in layers)


def prepares(plan: Plan) -> list[Kernel]:
    return [kernel for kernel in plan.kernels if kernel.section is Section.PREPARE]


@pytest.mark.parametrize("name", NETS)
def test_folded_nets_agree_with_the_interpreter_and_with_the_net_as_written(name: str) -> None:
    graph = lowered(forward(name), "infer")
    assert folded(graph) == NETS[name][1]
    arrays = arrays_for(graph, BATCH)
    one, two = (run_natively(graph, arrays, threads) for threads in (1, 2))
    assert_agrees(graph, arrays, one)
    assert_same_bits(one, two)
    written = run_reference(forward(name), exactly(arrays | {"labels": np.zeros(BATCH, np.int32)}))["logits"]
    np.testing.assert_allclose(one["logits"], written, rtol=0, atol=1e-5 * max(1.0, np.abs(written).max()))


@pytest.mark.slow
@pytest.mark.parametrize("tier", available_tiers()[1:])
@pytest.mark.parametrize("name", NETS)
def test_every_tier(name: str, tier: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONVC_CPU", tier)
    graph = lowered(forward(name), "infer")
    arrays = arrays_for(graph, 3)
    assert_agrees(graph, arrays, run_natively(graph, arrays, 2))


def set_all(program: convc.Program, seed: int) -> None:
    generator = np.random.default_rng(seed)
    for name, array in program.params.items():
        size = np.sqrt(max(1, array[0].size if array.ndim > 1 else 1))
        program.params[name] = (generator.uniform(0.5, 1.5, array.shape) - (array.ndim > 1)) / size


@pytest.mark.parametrize("threads", [1, 2])
def test_a_parameter_that_is_set_takes_effect_in_the_next_call(threads: int) -> None:
    x = np.random.default_rng(0).random((BATCH, 3, 9, 7), np.float32)
    net = loads(NETS["residual"][0])
    with (
        convc.compile(net, batch=BATCH, threads=threads) as program,
        convc.compile(net, batch=BATCH, target="reference") as expected,
    ):
        for seed in range(2):
            for each in (program, expected):
                set_all(each, seed)
            np.testing.assert_allclose(program(x), expected(x), rtol=2e-5)
        for name in ("conv1.weight", "bn1.gamma", "bn1.var", "basic1.res1.conv2.bias", "fc1.bias"):
            before = program(x)
            for each in (program, expected):
                each.params[name] = 2 * each.params[name]
            after = program(x)
            assert not np.array_equal(before, after)
            np.testing.assert_allclose(after, expected(x), rtol=2e-5)
            np.testing.assert_array_equal(program(x), after)
        # What is computed is nobody's parameter.
        assert program.params.keys() == expected.params.keys()
        for name, array in program.params.items():
            np.testing.assert_array_equal(array, expected.params[name])


def test_what_is_prepared_is_prepared_once() -> None:
    graph = lowered(forward("rows"), "infer")
    arrays = arrays_for(graph, BATCH)
    with executor_for(graph, arrays) as executor:
        run(executor, arrays)
        first = results(executor, BATCH)
        (scaled, *_) = executor.graph.nodes_of(ScaleWeights)
        executor.stored(scaled.result)[:] = 0
        run(executor, arrays)
        assert not np.array_equal(results(executor, BATCH)["logits"], first["logits"])
        executor.write("fc1.bias", arrays["fc1.bias"])
        executor.poison()
        run(executor, arrays)
        assert_same_bits(results(executor, BATCH), first)


def test_profiles_leave_out_what_most_runs_do() -> None:
    x = np.random.default_rng(0).random((BATCH, 3, 9, 7), np.float32)
    with convc.compile(loads(NETS["residual"][0]), batch=BATCH, threads=1) as program:
        set_all(program, 1)
        profile = program.profile(x)
        assert program.plan is not None
        assert len(profile.kernels) == len(program.plan.kernels) - len(prepares(program.plan))
        assert not any("scale_weights" in kernel.ops for kernel in profile.kernels)
        expected = program(x)
        program.params["bn1.gamma"] = np.zeros(6)
        program.profile(x)
        assert not np.array_equal(program(x), expected)


def test_calls_and_writes_from_many_threads() -> None:
    """Every call sees the parameters as one write or another has left them, all of what depends on them."""
    x = np.random.default_rng(0).random((BATCH, 1, 6, 5), np.float32)
    with convc.compile(loads(NETS["rows"][0]), batch=BATCH, threads=2) as program:
        scales = [np.full(18, value, np.float32) for value in (0.5, 1.0, 2.0)]
        known: list[np.ndarray] = []
        for scale in scales:
            program.params["bn1.gamma"] = scale
            known.append(program(x))
        wrong: list[str] = []

        def work(number: int) -> None:
            for turn in range(30):
                program.params["bn1.gamma"] = scales[(number + turn) % len(scales)]
                seen = program(x)
                if not any(np.array_equal(seen, other) for other in known):
                    wrong.append(f"thread {number}, turn {turn}")

        threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert wrong == []


def test_frozen_batch_norm_is_prepared_in_training_too() -> None:
    net = loads("net n { input 3x6x6 -> conv 5 k=3 -> bn freeze=yes -> relu -> fc 4 -> loss softmax }")
    graph = lowered(net.graph(BATCH), "train", SgdUpdate(momentum=0.9))
    arrays = arrays_for(graph, BATCH)
    plan = make_plan(graph.copy(), MACHINE, lambda kernel, plan: 0)
    assert [kernel.label for kernel in prepares(plan)] == ["bn1"]
    assert plan.kernels[0] in prepares(plan)
    assert_agrees(graph, arrays, run_natively(graph, arrays, 2))


@pytest.mark.parametrize("normalised", [False, True])
def test_resnet_50_takes_a_kernel_for_each_layer_that_computes(repository: Path, normalised: bool) -> None:
    """53 convolutions, two pools and the fully connected layer: norms, activations and sums ride along.

    The mean of the images rides where they are rearranged: their border stands for it, so it cannot be folded away.
    """
    text = (repository / "examples" / "resnet.cnn").read_text()
    if not normalised:
        text = re.sub(r"(input 3x224x224) .*", r"\1", text)
    graph = lowered(loads(text).graph(1), "infer")
    plan = make_plan(graph, MACHINE, lambda kernel, plan: 0)
    anchors = Counter(kernel.anchor.op.name for kernel in plan.kernels if kernel.section is Section.FORWARD)
    assert anchors == {"conv2d": 53, "max_pool": 1, "avg_pool": 1, "linear": 1} | (
        {"relayout": 1} if normalised else {}
    )
    assert {kernel.section for kernel in plan.kernels} == {Section.FORWARD, Section.PREPARE}
    # What runs need is kept beside the parameters, what only prepares it is not.
    for kernel in prepares(plan):
        wanted = [v for v in kernel.writes if any(v in k.reads for k in plan.kernels if k not in prepares(plan))]
        assert all(plan.memory.slots[value].region == "persistent" for value in wanted)
        assert all(plan.memory.slots[v].region == "arena" for v in kernel.writes if v not in wanted)


def test_computed_weights_lie_like_those_that_they_are_made_of() -> None:
    for name in NETS:
        plan = make_plan(lowered(forward(name), "infer"), MACHINE, lambda kernel, plan: 0)
        for node in plan.graph.nodes_of(ScaleWeights):
            layout = plan.layouts[node.result]
            assert isinstance(layout, WeightLayout)
            assert layout == plan.layouts[node.operands[0]]


# Images as they are given


def test_a_convolution_reads_colours_as_they_are_given() -> None:
    for body in ("conv 6 k=3 pad=1", "conv 6 k=1", "conv 7 k=3 s=2 groups=1 dilation=2", "conv 9 k=5 groups=3"):
        graph = lowered(loads(f"net n {{ input 3x9x7 -> {body} -> relu -> fc 4 }}").graph(BATCH), "infer")
        arrays = arrays_for(graph, 4)
        with executor_for(graph, arrays, 2) as executor:
            assert not any(executor.graph.nodes_of(Relayout))
            run(executor, arrays)
            assert_agrees(graph, arrays, results(executor, 4))


def test_groups_that_share_a_vector_read_colours_pixel_by_pixel() -> None:
    graph = lowered(loads("net n { input 3x9x7 -> conv 6 k=5 groups=3 -> relu -> fc 4 }").graph(BATCH), "infer")
    arrays = arrays_for(graph, 4)
    with executor_for(graph, arrays, 2) as executor:
        assert len(list(executor.graph.nodes_of(Relayout))) == 1
        run(executor, arrays)
        assert_agrees(graph, arrays, results(executor, 4))


def test_the_normalisation_of_the_input_rides_where_it_is_rearranged() -> None:
    text = "net n { input 3x9x7 mean=[1, 2, 3] std=2 -> conv 6 k=3 pad=1 -> relu -> fc 4 }"
    graph = lowered(loads(text).graph(BATCH), "infer")
    arrays = arrays_for(graph, BATCH)
    with executor_for(graph, arrays, 2) as executor:
        forward = [kernel.name for kernel in executor.plan.kernels if kernel.section is Section.FORWARD]
        assert forward == ["relayout+sub", "conv2d+relu", "linear"]
        run(executor, arrays)
        assert_agrees(graph, arrays, results(executor, BATCH))


# Constants with rows


def test_a_constant_that_has_rows_meets_those_of_the_batch() -> None:
    graph = Graph("rows")
    b, x = Builder(graph), graph.add_input("x", f32(3, 5, 2, 2))
    numbers = np.random.default_rng(0).standard_normal((3, 5, 2, 2)).astype(np.float32)
    graph.outputs["logits"] = b.add(Add(), b.add(Relu(), x), b.add(Constant.of(numbers)))
    arrays = {"x": np.random.default_rng(1).standard_normal((3, 5, 2, 2)).astype(np.float32)}
    actual = run_natively(graph, arrays)["logits"]
    np.testing.assert_array_equal(actual, np.maximum(arrays["x"], 0) + numbers)


def test_rows_that_are_computed_from_parameters_are_refused() -> None:
    graph = Graph("rows")
    b, x = Builder(graph), graph.add_input("x", f32(3, 5))
    graph.outputs["logits"] = b.add(Add(), x, graph.add_parameter("p", f32(3, 5)))
    with pytest.raises(convc.CompileError, match=r"add of rows reads f32\[3,5\] without a batch"):
        make_plan(graph, MACHINE, lambda kernel, plan: 0)


def test_padding_of_a_vector_stays_zero() -> None:
    """1/√0 in what is no channel would become NaN in every image."""
    graph = Graph("vector")
    b, x = Builder(graph), graph.add_input("x", f32(2, 5))
    vector = b.add(Divide(), b.constant(np.ones(5)), graph.add_parameter("p", f32(5)))
    graph.outputs["logits"] = b.add(Linear(), x, graph.add_parameter("w", f32(5, 5)), vector)
    arrays = {"x": np.ones((2, 5), np.float32), "p": np.full(5, 2, np.float32), "w": np.eye(5, dtype=np.float32)}
    with executor_for(graph, arrays) as executor:
        run(executor, arrays)
        (quotient,) = executor.graph.nodes_of(Divide)
        assert executor.stored(quotient.result).tolist() == [0.5] * 5 + [0.0] * 3
        np.testing.assert_array_equal(executor.output("logits", 2), np.full((2, 5), 1.5, np.float32))


# Layers that transform filters, how many tensors of filters that makes, and in which mode.
TRANSFORMED: dict[str, tuple[str, str, int]] = {
    "two algorithms": ("conv 6 k=3 pad=1 algo=winograd_f4x3 -> relu -> conv 5 k=5 pad=2 algo=fft_8", "infer", 2),
    "one that does not": ("conv 6 k=3 pad=1 algo=winograd_f2x3 -> relu -> conv 5 k=3 algo=direct", "infer", 1),
    "groups": ("conv 6 k=3 pad=1 algo=winograd_f2x3 -> relu -> conv 9 k=3 groups=3 algo=winograd_f4x3", "infer", 2),
    "folded norms": ("conv 6 k=3 pad=1 bias=no algo=winograd_f4x3 -> bn -> relu", "infer", 1),
    "in training none": ("conv 6 k=3 pad=1 algo=winograd_f4x3 -> relu", "train", 0),
    "but frozen ones": ("conv 6 k=3 pad=1 algo=winograd_f4x3 freeze=yes -> relu -> conv 4 k=3 algo=fft_8", "train", 1),
}


@pytest.mark.parametrize(("body", "mode", "count"), TRANSFORMED.values(), ids=TRANSFORMED)
def test_filters_that_no_run_changes_are_transformed_once(body: str, mode: str, count: int) -> None:
    text = f"net n {{ input 3x9x10\n {body} -> pool max 2 -> fc 4\n loss softmax }}\ntrain {{ optim sgd lr=0.1 }}"
    net = loads(text, file="n.cnn")
    x = np.random.default_rng(3).standard_normal((BATCH, 3, 9, 10)).astype(np.float32)
    with (
        convc.compile(net, batch=BATCH, mode=mode, threads=2) as program,
        convc.compile(net, batch=BATCH, mode=mode, target="reference") as reference,
    ):
        assert program.plan is not None
        assert sum(isinstance(kernel.anchor.op, Relayout) for kernel in prepares(program.plan)) == count
        for seed in (1, 2):  # new weights are transformed anew
            generator = np.random.default_rng(seed)
            weights = {
                name: np.abs(generator.standard_normal(array.shape)).astype(np.float32)
                for name, array in reference.state_dict().items()
                if name in net.graph(1).parameters
            }
            program.set_params(weights)
            reference.set_params(weights)
            expected = reference(x)
            for _ in range(2):
                np.testing.assert_allclose(program(x), expected, rtol=0, atol=1e-4 * float(np.abs(expected).max()))
