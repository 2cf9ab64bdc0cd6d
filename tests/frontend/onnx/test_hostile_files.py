"""Files from elsewhere: truncated, lying, circular, reaching for other files. Always an error, never a traceback."""

from __future__ import annotations

import hashlib
import os
import random
import time
from collections.abc import Callable
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import convc
from convc.ir.diagnostic import CompileError
from convc.ir.verify import verify
from tests.frontend.onnx.models import Op, dims, draw, make_model, save

SHAPE = ("N", 3, 8, 8)
W = draw((4, 3, 3, 3))


def conv() -> Any:
    return make_model([Op("Conv", "x w", "a"), Op("Relu", "a", "y")], SHAPE, {"w": W})


def error_of(path: Path) -> tuple[str, str]:
    with pytest.raises(CompileError) as caught:
        convc.from_onnx(path)
    return caught.value.diagnostics[0].code, str(caught.value)


# Files that are no models


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"", "onnx-unreadable"),
        (b"garbage", "onnx-unreadable"),
        (b"\x00" * 100, "onnx-unreadable"),
        (b"\xff" * 1000, "onnx-unreadable"),
        (b"PK\x03\x04rest of a zip archive", "onnx-unreadable"),
        (b"\x3a\xff\xff\xff\xff\x07" + b"x" * 50, "onnx-unreadable"),  # a graph that claims two gigabytes
        (b"\x0b" * 10_000, "onnx-unreadable"),  # groups inside groups
    ],
)
def test_no_models(content: bytes, code: str, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    assert error_of(path)[0] == code


def test_every_truncation_is_an_error_or_a_model(tmp_path: Path) -> None:
    whole = conv().SerializeToString()
    path = tmp_path / "model.onnx"
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        with suppress(CompileError):
            verify(convc.from_onnx(path).graph(1))


def test_places_that_are_no_files(tmp_path: Path) -> None:
    assert error_of(tmp_path)[0] == "file-directory"
    assert error_of(tmp_path / "nothing.onnx")[0] == "file-missing"
    assert error_of(Path("a\0b"))[0] == "file-missing"
    os.mkfifo(tmp_path / "pipe.onnx")
    assert error_of(tmp_path / "pipe.onnx")[0] == "file-unreadable"


# Structure


def _edit(change: Callable[[Any], object]) -> Any:
    model = conv()
    change(model)
    return model


def _cycle(model: Any) -> None:
    model.graph.node[0].input[0] = "y"


def _twice(model: Any) -> None:
    model.graph.node[1].output[0] = "a"


def _shadow(model: Any) -> None:
    model.graph.node[0].output[0] = "w"


def _unknown(model: Any) -> None:
    model.graph.node[0].input[0] = "nowhere"


def _duplicate(model: Any) -> None:
    model.graph.initializer.append(model.graph.initializer[0])


def _nameless(model: Any) -> None:
    model.graph.initializer[0].name = ""


def _negative(model: Any) -> None:
    model.graph.initializer[0].dims[0] = -4


def _larger(model: Any) -> None:
    model.graph.initializer[0].dims[0] = 5


def _huge(model: Any) -> None:
    model.graph.initializer[0].dims[0] = (1 << 62) + 1


def _short(model: Any) -> None:
    model.graph.initializer[0].raw_data = model.graph.initializer[0].raw_data[:-1]


def _both(model: Any) -> None:
    model.graph.initializer[0].float_data.append(1.0)


def _wrong_field(model: Any) -> None:
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.int64_data.extend(range(W.size))


def _no_data(model: Any) -> None:
    model.graph.initializer[0].ClearField("raw_data")


def _no_output(model: Any) -> None:
    del model.graph.output[:]


def _no_opset(model: Any) -> None:
    model.opset_import[0].domain = "elsewhere"


def _two_opsets(model: Any) -> None:
    model.opset_import.append(helper.make_opsetid("", 9))


def _not_finite(model: Any) -> None:
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.full_like(W, np.inf), "w"))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_cycle, "cycle"),
        (_twice, "exists already"),
        (_shadow, "exists already"),
        (_unknown, "reads `nowhere`, which nothing makes"),
        (_duplicate, "two initialisers are called `w`"),
        (_nameless, "has no name"),
        (_negative, "has the shape [-4, 3, 3, 3]"),
        (_larger, "540 bytes, but holds 432"),
        (_huge, "bytes"),
        (_short, "432 bytes, but holds 431"),
        (_both, "its data twice"),
        (_wrong_field, "has them in int64_data"),
        (_no_data, "holds 0 elements"),
        (_no_output, "no output"),
        (_no_opset, "no version of the standard operators"),
        (_two_opsets, "several versions"),
        (_not_finite, "not finite"),
    ],
)
def test_broken_structure(change: Callable[[Any], object], words: str, tmp_path: Path) -> None:
    code, message = error_of(save(_edit(change), tmp_path))
    assert code in ("onnx-malformed", "onnx-interface"), message
    assert words in message


def test_nodes_in_any_order_are_sorted(tmp_path: Path) -> None:
    model = conv()
    first = model.graph.node.pop(0)
    model.graph.node.append(first)
    ops = [node.op.name for node in convc.from_onnx(save(model, tmp_path)).graph(1).nodes]
    assert ops == ["conv2d", "relu"]


def test_functions_that_call_themselves_or_grow_without_bound(tmp_path: Path) -> None:
    opset = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]

    def call(name: str, times: int = 1) -> list[Any]:
        names = ["a", *(f"t{i}" for i in range(times - 1)), "b"]
        return [
            helper.make_node(name, [one], [other], domain="own" if name != "Relu" else "")
            for one, other in pairwise(names)
        ]

    def model(functions: list[Any], entry: str) -> Any:
        graph = helper.make_graph(
            [helper.make_node(entry, ["x"], ["y"], domain="own")],
            "net",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, list(SHAPE))],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        )
        return helper.make_model(graph, opset_imports=opset, functions=functions, ir_version=8)

    def function(name: str, body: list[Any]) -> Any:
        return helper.make_function("own", name, ["a"], ["b"], body, opset)

    endless = [function("f", call("g")), function("g", call("f"))]
    assert "calls itself" in error_of(save(model(endless, "f"), tmp_path))[1]
    doubling = [function(f"f{i}", call(f"f{i + 1}" if i < 60 else "Relu", 2)) for i in range(61)]
    started = time.perf_counter()
    assert error_of(save(model(doubling, "f0"), tmp_path))[0] == "budget-size"
    assert time.perf_counter() - started < 5


@pytest.mark.parametrize(
    "ops",
    [
        [Op("ConstantOfShape", "huge", "c"), Op("Add", "x c", "y")],
        [Op("Range", "zero far one", "r"), Op("Reshape", "x r", "y")],
        [Op("Expand", "x huge", "y")],
        [Op("Tile", "one huge", "t"), Op("Reshape", "x t", "y")],
        [Op("Pad", "x wide", "y")],
        [Op("Resize", "x - scales", "y", {"mode": "nearest", "coordinate_transformation_mode": "asymmetric",
                                          "nearest_mode": "floor"})],
        [Op("Conv", "x w", "y", {"pads": [1 << 40] * 4})],
        [Op("Concat", " ".join(["x"] * 100), "a0", {"axis": 1}),
         *(Op("Concat", " ".join([f"a{i}"] * 100), f"a{i + 1}", {"axis": 1}) for i in range(5)), Op("Relu", "a5", "y")],
    ],
)  # fmt: skip
def test_work_is_bounded_before_it_is_done(ops: list[Op], tmp_path: Path) -> None:
    constants = {
        "huge": dims(1, 3, 1 << 31, 1 << 31),
        "zero": np.array(0),
        "far": np.array(1 << 60),
        "one": np.array(1),
        "wide": dims(0, 0, 1 << 31, 0, 0, 0, 1 << 31, 0),
        "scales": np.array([1, 1, 1 << 20, 1 << 20], np.float32),
        "w": W,
    }
    started = time.perf_counter()
    error_of(save(make_model(ops, SHAPE, constants), tmp_path))
    assert time.perf_counter() - started < 5


# Data beside the model


def external(folder: Path, location: str, **entries: str) -> Path:
    """A model whose filters lie in another file; `weights.bin` holds them."""
    folder.mkdir(exist_ok=True)
    (folder / "weights.bin").write_bytes(b"\0" * 16 + W.tobytes())
    model = conv()
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, "offset": "16", "length": str(W.nbytes), **entries}.items():
        tensor.external_data.add(key=key, value=value)
    return save(model, folder)


def test_data_beside_the_model_is_read(tmp_path: Path) -> None:
    net = convc.from_onnx(external(tmp_path, "weights.bin"))
    np.testing.assert_array_equal(net.weights["w"], W)
    inner = tmp_path / "inner"
    inner.mkdir()
    (inner / "w.bin").write_bytes(b"\0" * 16 + W.tobytes())
    np.testing.assert_array_equal(convc.from_onnx(external(tmp_path, "inner/w.bin")).weights["w"], W)
    digest = hashlib.sha1((tmp_path / "weights.bin").read_bytes()).hexdigest()
    assert convc.from_onnx(external(tmp_path, "weights.bin", checksum=digest)).classes == 4


@pytest.mark.parametrize(
    "location",
    [
        "../secret.bin",
        "/etc/passwd",
        "inner/../../secret.bin",
        "..\\secret.bin",
        "C:/secret.bin",
        "a\0b",
        "",
        "missing",
    ],
)
def test_data_elsewhere_is_never_opened(location: str, tmp_path: Path) -> None:
    (tmp_path / "secret.bin").write_bytes(b"\0" * 16 + W.tobytes())
    path = external(tmp_path / "model", location)
    assert error_of(path)[0] == "onnx-external"


def test_links_that_lead_out_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "secret.bin").write_bytes(b"\0" * 16 + W.tobytes())
    folder = tmp_path / "model"
    path = external(folder, "link.bin")
    (folder / "link.bin").symlink_to(tmp_path / "secret.bin")
    assert "leaves the folder" in error_of(path)[1]
    (folder / "out").symlink_to(tmp_path)
    assert "leaves the folder" in error_of(external(folder, "out/secret.bin"))[1]
    (folder / "loop").symlink_to(folder / "loop")
    assert error_of(external(folder, "loop"))[0] == "onnx-external"
    # One that stays inside is fine.
    (folder / "near.bin").symlink_to(folder / "weights.bin")
    assert convc.from_onnx(external(folder, "near.bin")).classes == 4


@pytest.mark.parametrize(
    "entries",
    [
        {"offset": "17"},
        {"offset": "-1"},
        {"offset": "99999999999999999999999"},
        {"offset": "1e3"},
        {"length": "431"},
        {"length": "9" * 18},
        {"checksum": "0" * 40},
        {"basepath": "/"},
    ],
)
def test_offsets_and_lengths_are_checked(entries: dict[str, str], tmp_path: Path) -> None:
    assert error_of(external(tmp_path, "weights.bin", **entries))[0] == "onnx-external"


def test_special_files_are_not_data(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert error_of(external(tmp_path, "pipe"))[0] == "onnx-external"
    (tmp_path / "folder").mkdir()
    assert error_of(external(tmp_path, "folder"))[0] == "onnx-external"


# At random

_NUMBERS = [0, 1, -1, 2, 7, -2, 100, 1 << 20, (1 << 31) - 1, -(1 << 31), 1 << 62, (1 << 63) - 1, -(1 << 63)]
_KINDS = [
    "Relu",
    "Add",
    "Conv",
    "Reshape",
    "Concat",
    "MatMul",
    "Softmax",
    "Slice",
    "Gather",
    "Split",
    "Pad",
    "Transpose",
]


def _some_net() -> bytes:
    ops = [
        Op("Conv", "x w b", "a", {"pads": [1, 1, 1, 1], "strides": [2, 2]}),
        Op("Reshape", "a s", "c"),
        Op("Transpose", "c", "d", {"perm": [0, 2, 1, 3, 4]}),
        Op("Reshape", "d t", "e"),
        Op("MaxPool", "e", "f", {"kernel_shape": [2, 2], "ceil_mode": 1}),
        Op("Slice", "f from to axis", "g"),
        Op("Concat", "f g", "h", {"axis": 1}),
        Op("ReduceMean", "h", "i", {"axes": [2, 3], "keepdims": 0}),
        Op("Gemm", "i v", "y", {"transB": 1}),
    ]
    constants = {
        "w": W, "b": draw((4,)), "s": dims(0, 2, 2, 4, 4), "t": dims(-1, 4, 4, 4), "from": dims(1), "to": dims(3),
        "axis": dims(1), "v": draw((5, 6)),
    }  # fmt: skip
    return make_model(ops, SHAPE, constants).SerializeToString()


def _mutated(whole: bytes, generator: random.Random) -> bytes:
    """The model with some bytes or some fields changed."""
    if generator.random() < 0.4:
        data = bytearray(whole)
        for _ in range(generator.choice([1, 2, 5])):
            data[generator.randrange(len(data))] = generator.randrange(256)
        return bytes(data)
    model = onnx.ModelProto.FromString(whole)
    for _ in range(generator.choice([1, 1, 2, 4])):
        node, tensor = generator.choice(model.graph.node), generator.choice(model.graph.initializer)
        with suppress(ValueError, IndexError):
            what = generator.randrange(7)
            if what == 0:
                node.op_type = generator.choice(_KINDS)
            elif what == 1:
                attribute = generator.choice([a for a in node.attribute if a.ints])
                attribute.ints[generator.randrange(len(attribute.ints))] = generator.choice(_NUMBERS)
            elif what == 2:
                node.input[generator.randrange(len(node.input))] = generator.choice(["x", "w", "a", "f", "s", ""])
            elif what == 3:
                tensor.dims[generator.randrange(len(tensor.dims))] = generator.choice(_NUMBERS)
            elif what == 4:
                tensor.data_type = generator.randrange(20)
            elif what == 5:
                array = numpy_helper.to_array(tensor).copy()
                array.flat[generator.randrange(array.size)] = generator.choice(_NUMBERS)
                tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
            else:
                model.graph.input[0].type.tensor_type.shape.dim[generator.randrange(4)].dim_value = generator.choice(
                    _NUMBERS
                )
    return model.SerializeToString()


@pytest.mark.parametrize("seed", range(4))
def test_mutated_models_are_read_or_refused(seed: int, tmp_path: Path) -> None:
    generator, whole, path = random.Random(seed), _some_net(), tmp_path / "model.onnx"
    read, messages = 0, list[str]()
    for _ in range(120):
        path.write_bytes(_mutated(whole, generator))
        try:
            verify(convc.from_onnx(path).graph(2))
            read += 1
        except CompileError as error:
            messages.append(str(error))
    assert read
    assert messages
    assert all(messages)
