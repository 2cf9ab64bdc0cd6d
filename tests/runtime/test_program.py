from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import convc
from convc.ir.diagnostic import CompileError
from convc.ir.interpreter import run_reference

Batch = tuple[np.ndarray, np.ndarray]
Compile = Callable[..., "convc.Program"]

PARAMETERS = [
    "conv1.weight", "conv1.bias", "bn1.gamma", "bn1.beta", "bn1.mean", "bn1.var",
    "fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias",
]  # fmt: skip
TRAINED = [name for name in PARAMETERS if name not in ("bn1.mean", "bn1.var")]

PLAIN = "net plain { input 2x3x3 -> fc 3 -> loss softmax }\n"


def refusal(call: Callable[[], object]) -> str:
    with pytest.raises(CompileError) as error:
        call()
    return error.value.diagnostics[0].code


# Parameters


def test_parameters_in_file_order(compile_text: Compile) -> None:
    for mode in ("train", "infer"):
        program = compile_text(mode=mode)
        assert list(program.params) == PARAMETERS
        assert len(program.params) == 10
        assert program.params["conv1.weight"].shape == (3, 1, 3, 3)
        assert program.params["fc1.weight"].shape == (8, 12)
        assert all(array.dtype == np.float32 for array in program.params.values())
        assert (program.params["bn1.var"] == 1).all()
        assert (program.params["conv1.bias"] == 0).all()


def test_reading_gives_a_read_only_copy(compile_text: Compile) -> None:
    program = compile_text()
    array = program.params["fc2.bias"]
    with pytest.raises(ValueError, match="read-only"):
        array[0] = 1
    program.params["fc2.bias"] = np.arange(4)
    assert array.tolist() == [0, 0, 0, 0]
    assert program.params["fc2.bias"].tolist() == [0, 1, 2, 3]


def test_assigning_keeps_every_element(compile_text: Compile) -> None:
    program = compile_text()
    random = np.random.default_rng(2)
    given = {name: random.standard_normal(shape).astype(np.float32) for name, shape in program.params.shapes.items()}
    for name, array in given.items():
        program.params[name] = array
    for name, array in given.items():
        np.testing.assert_array_equal(program.params[name], array)


def test_assigning_is_checked(compile_text: Compile) -> None:
    params = compile_text().params

    def assign(name: str, value: object) -> None:
        params[name] = value  # type: ignore[assignment]

    before = {name: array.tolist() for name, array in params.items()}
    assert refusal(lambda: assign("fc2.bias", np.zeros(5))) == "value-shape"
    assert refusal(lambda: assign("fc2.bias", np.zeros((4, 1)))) == "value-shape"
    assert refusal(lambda: assign("fc2.bias", np.zeros(4, np.complex64))) == "value-dtype"
    assert refusal(lambda: assign("fc2.bias", ["a", "b", "c", "d"])) == "value-dtype"
    assert refusal(lambda: assign("fc2.bias", [[1], [2, 3]])) == "value-dtype"
    assert refusal(lambda: assign("fc2.bais", np.zeros(4))) == "name-parameter"
    assert {name: array.tolist() for name, array in params.items()} == before


def test_it_is_a_mapping(compile_text: Compile) -> None:
    params = compile_text().params
    assert "fc1.weight" in params
    assert "fc1.weight.momentum" not in params
    assert params.get("nothing") is None
    with pytest.raises(KeyError, match=r"did you mean fc1\.weight"):
        params["fc1.wieght"]


def test_first_values_depend_on_the_seed(compile_text: Compile) -> None:
    first, again, other = compile_text(seed=1), compile_text(seed=1), compile_text(seed=2)
    assert (first.params["fc1.weight"] == again.params["fc1.weight"]).all()
    assert (first.params["fc1.weight"] != other.params["fc1.weight"]).all()


# Running


def test_every_number_of_rows(compile_text: Compile, batch: Batch) -> None:
    program = compile_text(mode="infer")
    x, _ = batch
    whole = program(x)
    assert whole.shape == (8, 4)
    assert whole.dtype == np.float32
    for rows in range(1, 8):
        np.testing.assert_allclose(program(x[:rows]), whole[:rows], rtol=1e-5, atol=1e-6)


def test_results_are_fresh(compile_text: Compile, batch: Batch) -> None:
    program = compile_text(mode="infer")
    first = program(batch[0])
    copy = first.copy()
    program(batch[0][::-1])
    np.testing.assert_array_equal(first, copy)
    first[:] = 0
    np.testing.assert_array_equal(program(batch[0]), copy)


def test_inputs_are_converted(compile_text: Compile, batch: Batch) -> None:
    program = compile_text()
    x, labels = batch
    expected = program.value_and_grad(x, labels)[0]
    turned = np.ascontiguousarray(x.transpose(3, 2, 1, 0)).transpose(3, 2, 1, 0)
    assert not turned.flags.c_contiguous
    for images in (turned, x.astype(np.float64), x.tolist()):
        for classes in (labels.astype(np.uint8), labels.astype(np.int64), labels.tolist()):
            assert program.value_and_grad(images, classes)[0] == expected


def test_value_and_grad_is_the_reference(compile_text: Compile, batch: Batch) -> None:
    program = compile_text()
    x, labels = batch
    state = {name: array.astype(np.float64) for name, array in program.state_dict().items()}
    loss, gradients = program.value_and_grad(x[:5], labels[:5])
    scalars = {"step": np.int64(1), "seed": np.int64(0), "lr": np.float64(0.1)}
    arrays = {"x": x[:5].astype(np.float64), "labels": labels[:5].astype(np.int32), **scalars, **state}
    expected = run_reference(program.graph, arrays)
    assert loss == pytest.approx(float(expected["loss"]), rel=1e-5)
    assert list(gradients) == TRAINED
    largest = max(np.abs(expected[f"grad.{name}"]).max() for name in gradients)
    for name, gradient in gradients.items():
        assert gradient.dtype == np.float32
        np.testing.assert_allclose(gradient, expected[f"grad.{name}"], atol=1e-5 * largest)
    np.testing.assert_allclose(program.params["bn1.mean"], expected["bn1.mean"], rtol=1e-4)
    np.testing.assert_allclose(program.params["bn1.var"], expected["bn1.var"], rtol=1e-4)


def test_value_and_grad_changes_only_statistics(compile_text: Compile, batch: Batch) -> None:
    program = compile_text()
    before = program.state_dict()
    program.value_and_grad(*batch)
    changed = {name for name, array in program.state_dict().items() if (array != before[name]).any()}
    assert changed == {"bn1.mean", "bn1.var"}
    assert program.steps == 0


def test_calling_changes_nothing(compile_text: Compile, batch: Batch) -> None:
    program = compile_text()
    before = program.state_dict()
    first = program(batch[0])
    np.testing.assert_array_equal(program(batch[0]), first)
    for name, array in program.state_dict().items():
        np.testing.assert_array_equal(array, before[name])


def test_dropout_is_drawn_per_step(compile_text: Compile, batch: Batch) -> None:
    program, again = compile_text(seed=3), compile_text(seed=3)
    first = program(batch[0])
    np.testing.assert_array_equal(again(batch[0]), first)
    program.step(*batch, lr=0.0)
    assert (program(batch[0]) != first).any()
    again.steps = 1
    np.testing.assert_array_equal(again(batch[0]), program(batch[0]))


@pytest.mark.parametrize(
    "optimizer", ["sgd lr=0.1", "sgd lr=0.1 momentum=0.9", "sgd lr=0.1 momentum=0.9 nesterov=yes", "adam lr=0.01"]
)
def test_steps_follow_the_formulas(compile_text: Compile, batch: Batch, optimizer: str) -> None:
    """Three steps against the optimisers' formulas, written out in float64."""
    text = f"{PLAIN}train {{ batch 8 -> optim {optimizer} -> decay l2=0.01 l1=0.001 }}"
    program = compile_text(text)
    random = np.random.default_rng(4)
    theta = {name: array.astype(np.float64) for name, array in program.params.items()}
    moments = {name: (np.zeros_like(array), np.zeros_like(array)) for name, array in theta.items()}
    twin = compile_text(text)
    for step in range(1, 4):
        x, labels = random.random((8, 2, 3, 3), np.float32), random.integers(0, 3, 8)
        for name, array in theta.items():
            twin.params[name] = array
        _, gradients = twin.value_and_grad(x, labels)
        program.step(x, labels)
        for name, array in theta.items():
            g = gradients[name].astype(np.float64)
            if name.endswith("weight"):
                g = g + 2 * 0.01 * array + 0.001 * np.sign(array)
            m, v = moments[name]
            if optimizer.startswith("adam"):
                m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
                theta[name] = array - 0.01 * (m / (1 - 0.9**step)) / (np.sqrt(v / (1 - 0.999**step)) + 1e-8)
            else:
                momentum = 0.9 if "momentum" in optimizer else 0.0
                m = momentum * m + g
                theta[name] = array - 0.1 * (g + momentum * m if "nesterov" in optimizer else m)
            moments[name] = m, v
            np.testing.assert_allclose(program.params[name], theta[name], rtol=1e-4, atol=1e-5)


def test_training_twice_gives_the_same_bits(compile_text: Compile, batch: Batch) -> None:
    states = []
    for _ in range(2):
        program = compile_text(seed=5)
        losses = [program.step(batch[0][:rows], batch[1][:rows]) for rows in (8, 3, 8, 1, 8)]
        states.append((losses, program.state_dict()))
    assert states[0][0] == states[1][0]
    for name, array in states[0][1].items():
        np.testing.assert_array_equal(array, states[1][1][name])


def test_training_lowers_the_loss(compile_text: Compile, batch: Batch) -> None:
    program = compile_text(seed=1)
    losses = [program.step(*batch) for _ in range(40)]
    assert np.mean(losses[-5:]) < 0.5 * losses[0]


def test_the_schedule_follows_the_epoch(compile_text: Compile, batch: Batch) -> None:
    program = compile_text(PLAIN + "train { optim sgd lr=0.5 -> schedule step every=2e gamma=0.1 -> batch 4 }")
    assert program.learning_rate == 0.5
    program.epoch = 3.5
    assert program.learning_rate == pytest.approx(0.05)
    x, labels = np.ones((4, 2, 3, 3), np.float32), np.zeros(4, int)
    before = program.params["fc1.bias"]
    gradient = program.value_and_grad(x, labels)[1]["fc1.bias"]
    program.step(x, labels)
    np.testing.assert_allclose(program.params["fc1.bias"], before - 0.05 * gradient, rtol=1e-5)
    program.step(x, labels, lr=0)
    np.testing.assert_allclose(program.params["fc1.bias"], before - 0.05 * gradient, rtol=1e-5)
    assert program.steps == 2


# State


def test_a_state_continues_bit_by_bit(compile_text: Compile, batch: Batch) -> None:
    program, other = compile_text(seed=1), compile_text(seed=1)
    program.step(*batch)
    state = program.state_dict()
    assert set(state) - set(program.params) == {f"{name}.momentum" for name in TRAINED}
    program.step(*batch)
    other.load_state_dict(state)
    other.steps = 1
    other.step(*batch)
    for name, array in program.state_dict().items():
        np.testing.assert_array_equal(other.state_dict()[name], array)
    assert refusal(lambda: other.load_state_dict({**state, "more": np.zeros(1)})) == "value-state"
    del state["fc1.bias"]
    assert refusal(lambda: other.load_state_dict(state)) == "value-state"


def test_reset_begins_anew(compile_text: Compile, batch: Batch) -> None:
    program = compile_text(seed=1)
    before = program.state_dict()
    program.step(*batch)
    program.reset()
    assert (program.steps, program.epoch) == (0, 0)
    for name, array in program.state_dict().items():
        np.testing.assert_array_equal(array, before[name])


def test_save_and_load(compile_text: Compile, batch: Batch, tmp_path: Path) -> None:
    program = compile_text(seed=1)
    program.step(*batch)
    program.save(tmp_path / "w.safetensors")
    infer = compile_text(mode="infer")
    found = infer.load_params(tmp_path / "w.safetensors")
    assert found.exact
    for name, array in program.params.items():
        np.testing.assert_array_equal(infer.params[name], array)


def test_weights_of_another_net(compile_text: Compile, tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    compile_text("net a { input 2x3x3 -> fc 4 -> relu -> fc 3 -> loss softmax }", mode="infer").save(path)
    program = compile_text(PLAIN, mode="infer")
    before = program.params["fc1.weight"]
    with pytest.raises(CompileError) as error:
        program.load_params(path)
    text = str(error.value)
    assert "fc1.weight: 3x18 in the net, 4x18 in the file" in text
    assert "fc2.bias: 3 in the file, not in the net" in text
    np.testing.assert_array_equal(program.params["fc1.weight"], before)
    found = program.load_params(path, strict=False)
    assert found.loaded == ()


def test_loading_part_of_a_file(compile_text: Compile, tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    source = compile_text("net a { input 2x3x3 -> fc 4 -> relu -> fc 3 -> loss softmax }", mode="infer", seed=1)
    source.save(path)
    program = compile_text("net b { input 2x3x3 -> fc 4 -> relu -> fc 5 -> loss softmax }", mode="infer", seed=2)
    found = program.load_params(path, strict=False)
    assert found.loaded == ("fc1.weight", "fc1.bias")
    assert set(found.different) == {"fc2.weight", "fc2.bias"}
    np.testing.assert_array_equal(program.params["fc1.weight"], source.params["fc1.weight"])


def test_non_finite_weights_are_neither_saved_nor_loaded(compile_text: Compile, tmp_path: Path) -> None:
    import safetensors.numpy

    program = compile_text(PLAIN, mode="infer")
    arrays = {**program.params, "fc1.bias": np.float32([0, np.nan, 0])}
    safetensors.numpy.save_file(arrays, tmp_path / "bad.safetensors")
    assert refusal(lambda: program.load_params(tmp_path / "bad.safetensors")) == "checkpoint-not-finite"
    assert np.isfinite(program.params["fc1.bias"]).all()
    program.params["fc1.bias"] = [0, np.inf, 0]
    assert refusal(lambda: program.save(tmp_path / "w.safetensors")) == "checkpoint-not-finite"
    assert not (tmp_path / "w.safetensors").exists()


# Mistakes


def test_wrong_images(compile_text: Compile, batch: Batch) -> None:
    program = compile_text(mode="infer")
    x, _ = batch
    assert refusal(lambda: program(x[0])) == "value-shape"
    assert refusal(lambda: program(x[:, :, :5])) == "value-shape"
    assert refusal(lambda: program(np.zeros((0, 1, 6, 6), np.float32))) == "value-rows"
    assert refusal(lambda: program(np.concatenate([x, x]))) == "value-rows"
    assert refusal(lambda: program((255 * x).astype(np.uint8))) == "value-dtype"
    assert refusal(lambda: program(x.astype(complex))) == "value-dtype"
    assert refusal(lambda: program("images")) == "value-dtype"
    assert refusal(lambda: program(None)) == "value-dtype"


def test_wrong_labels(compile_text: Compile, batch: Batch) -> None:
    program = compile_text()
    x, labels = batch
    assert refusal(lambda: program.step(x, labels[:7])) == "value-shape"
    assert refusal(lambda: program.step(x, np.eye(4, dtype=int)[labels])) == "value-shape"
    assert refusal(lambda: program.step(x, labels.astype(float))) == "value-dtype"
    assert refusal(lambda: program.step(x, np.full(8, 4))) == "value-label-range"
    assert refusal(lambda: program.step(x, np.full(8, -1))) == "value-label-range"
    assert program.steps == 0


def test_wrong_rates_and_epochs(compile_text: Compile, batch: Batch) -> None:
    program = compile_text()
    for rate in (np.nan, np.inf, "0.1"):
        assert refusal(lambda rate=rate: program.step(*batch, lr=rate)) == "value-learning-rate"
    for epoch in (-1, np.nan, "1"):
        assert refusal(lambda epoch=epoch: setattr(program, "epoch", epoch)) == "value-epoch"


def test_training_needs_a_training_program_with_an_optimiser(compile_text: Compile, batch: Batch) -> None:
    infer = compile_text(mode="infer")
    assert refusal(lambda: infer.step(*batch)) == "value-mode"
    assert refusal(lambda: infer.value_and_grad(*batch)) == "value-mode"
    program = compile_text(PLAIN)
    x, labels = np.ones((4, 2, 3, 3), np.float32), np.zeros(4, int)
    assert program.learning_rate is None
    assert set(program.value_and_grad(x, labels)[1]) == {"fc1.weight", "fc1.bias"}
    assert refusal(lambda: program.step(x, labels)) == "value-optimizer"
    assert refusal(lambda: program.step(x, labels, lr=0.1)) == "value-optimizer"


def test_frozen_parameters_have_no_gradient(compile_text: Compile) -> None:
    text = "net f { input 2x3x3 -> fc 4 freeze=yes -> relu -> fc 3 -> loss softmax }\ntrain { optim sgd lr=0.1 }"
    program = compile_text(text, batch=4)
    x, labels = np.ones((4, 2, 3, 3), np.float32), np.zeros(4, int)
    before = program.params["fc1.weight"]
    assert set(program.value_and_grad(x, labels)[1]) == {"fc2.weight", "fc2.bias"}
    program.step(x, labels)
    np.testing.assert_array_equal(program.params["fc1.weight"], before)


def test_a_closed_program(compile_text: Compile, batch: Batch) -> None:
    with compile_text() as program:
        program(batch[0])
    program.close()
    for call in (
        lambda: program(batch[0]),
        lambda: program.step(*batch),
        lambda: program.value_and_grad(*batch),
        lambda: program.params["fc1.bias"],
        lambda: program.params.__setitem__("fc1.bias", np.zeros(8)),
        program.state_dict,
        program.reset,
    ):
        assert refusal(call) == "value-closed"


def test_what_this_version_cannot_do(compile_text: Compile, tmp_path: Path) -> None:
    (tmp_path / "n.cnn").write_text(PLAIN)
    net = convc.load(tmp_path / "n.cnn")
    assert refusal(lambda: convc.compile(net, target="tpu")) == "unavailable-target"
    assert refusal(lambda: convc.compile(net, precision="fp8")) == "unavailable-precision"
    assert refusal(lambda: convc.compile(net, algo="karatsuba")) == "value-algorithm"
    assert refusal(lambda: convc.compile(net, passes=["flod"])) == "name-pass"
    assert refusal(lambda: convc.compile(net, passes=["dead-code"])) == "missing-pass"
    assert refusal(lambda: convc.compile(net, mode="train", passes=["specialize"])) == "missing-pass"
    assert refusal(lambda: convc.compile(net, mode="test")) == "value-mode"
    assert refusal(lambda: convc.compile(net, batch=0)) == "value-range"
    assert refusal(lambda: convc.compile(net, batch=1.5)) == "value-range"  # type: ignore[arg-type]
    assert refusal(lambda: convc.compile(net, seed=-1)) == "value-range"
    assert refusal(lambda: compile_text(PLAIN + "train { optim lbfgs }")) == "unavailable-setting"
    assert refusal(lambda: compile_text("net a { input 1x3x3 -> fc 3 }")) == "value-loss"


# Around it


def test_what_a_file_says_is_the_default(compile_text: Compile) -> None:
    assert compile_text(PLAIN, mode="infer").batch == 64
    program = compile_text(PLAIN + "train { batch 7 -> seed 9 -> optim adam lr=0.25 }")
    assert (program.batch, program.seed, program.learning_rate) == (7, 9, 0.25)
    assert compile_text(PLAIN + "train { batch 7 }", batch=3).batch == 3


def test_reports_and_dumps(compile_text: Compile, tmp_path: Path) -> None:
    program = compile_text(dump_dir=tmp_path / "dump")
    names = [report.name for report in program.reports]
    assert names.index("specialize") < names.index("training") < names.index("dead-code")
    assert (tmp_path / "dump" / "00-input.ir").read_text().startswith("convc-ir 1")
    assert convc.parse_ir(convc.print_ir(program.graph)) == program.graph


def test_one_call_at_a_time_from_any_thread(compile_text: Compile, batch: Batch) -> None:
    program, alone = compile_text(seed=1), compile_text(seed=1)
    problems: list[BaseException] = []

    def work() -> None:
        try:
            for _ in range(5):
                program.step(*batch)
        except BaseException as error:
            problems.append(error)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not problems
    for _ in range(15):
        alone.step(*batch)
    assert program.steps == 15
    for name, array in program.state_dict().items():
        np.testing.assert_array_equal(alone.state_dict()[name], array)


def test_gradients_of_two_programs_do_not_mix(compile_text: Compile, batch: Batch) -> None:
    one, two = compile_text(seed=1), compile_text(seed=2)
    first = one.value_and_grad(*batch)[1]["fc2.weight"].copy()
    two.value_and_grad(*batch)
    one.params["bn1.mean"] = np.zeros(3)
    np.testing.assert_array_equal(one.value_and_grad(*batch)[1]["fc2.weight"], first)
