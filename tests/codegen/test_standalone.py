"""Standalone libraries: programs in C that use them get the bits of convc's own programs."""

from __future__ import annotations

import ctypes
import json
import os
import re
import shutil
import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest

import convc
from convc.cli import main
from convc.codegen.standalone.interface import public_prefix
from convc.codegen.standalone.tables import c_float, c_text, layout_fields, schedule_table
from convc.frontend.net import Net
from convc.ir.diagnostic import CompileError
from convc.ir.ops.quantize import QuantizeWeights
from convc.ir.rounding import widened
from convc.ir.types import DType
from convc.passes.layout import ImageLayout, Layout, PlanarLayout, ScalarLayout, VectorLayout, WeightLayout, pack
from convc.passes.machine import TIERS
from convc.runtime.checkpoint import read_checkpoint, write_checkpoint
from convc.runtime.configuration import make_rate
from convc.runtime.standalone import learning_rate, stored_bytes, stored_types, write_standalone
from tests.codegen.test_ops import available_tiers

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler"),
]

BATCH = 5
C = Path(__file__).parent / "standalone"
PACKAGE = Path(convc.__file__).parent / "codegen" / "standalone"
EXAMPLES = Path(__file__).parents[2] / "examples" / "standalone"

# Everything whose layout matters: bias and none, groups, 3x3 stacks for Winograd, batch norm that is folded (and so
# prepared), 20 channels on 16 lanes, a flattened image, an odd number of classes.
NET = """net small(classes = 7) {
  input 3x18x14 mean=[0.4, 0.5, 0.6] std=[0.2, 0.25, 0.3]
  conv 8 k=3 pad=1 bias=no -> bn -> relu
  conv 12 k=3 pad=1 groups=4 -> relu -> pool max 2
  residual { conv 12 k=3 pad=1 -> bn }
  conv 20 k=3 s=2 -> sigmoid -> dropout 0.3
  flatten -> fc 19 -> tanh -> fc classes
  loss softmax
}

train {
  batch 5
  optim sgd lr=0.1 momentum=0.9
  seed 11
}
"""


def load(folder: Path, text: str = NET) -> Net:
    path = folder / "net.cnn"
    path.write_text(text)
    return convc.load(path)


def trained_weights(net: Net, path: Path) -> Path:
    """Weights in which every number differs, running statistics among them."""
    random = np.random.default_rng(3)
    with convc.compile(net, target="reference", batch=1) as program:
        for name, array in program.params.items():
            program.params[name] = array + random.uniform(0.01, 0.2, array.shape).astype(np.float32)
        program.save(path, {"classes": json.dumps(["a", "b", "c", 'd "*/', "ö", "\\f", "g??/"])})
    return path


def compiled(source: Path, folder: Path, *flags: str) -> Path:
    program = folder / source.stem
    words = ["cc", "-std=gnu11", "-Wall", "-Wextra", "-Werror", "-I", str(folder), "-o", str(program), str(source)]
    subprocess.run([*words, f"-L{folder}", "-lnet", "-lm", "-pthread", "-Wl,-rpath,$ORIGIN", *flags], check=True)
    return program


def environment(tier: str | None = None) -> dict[str, str]:
    """No Python, nothing of ours: what a program finds on a machine without convc."""
    return {"PATH": "/usr/bin:/bin"} | ({"CONVC_CPU": tier} if tier else {})


def run(program: Path, *words: str, data: bytes = b"", tier: str | None = None, code: int = 0) -> tuple[bytes, str]:
    result = subprocess.run([program, *words], input=data, capture_output=True, env=environment(tier), timeout=60)
    assert result.returncode == code, result.stderr.decode()
    return result.stdout, result.stderr.decode()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with net.cnn, w.safetensors, libnet.so, net.h and the program `infer`."""
    folder = tmp_path_factory.mktemp("standalone")
    net = load(folder)
    weights = trained_weights(net, folder / "w.safetensors")
    write_standalone(net, folder / "libnet.so", folder / "net.h", prefix="net", weights=weights, threads=1)
    compiled(C / "infer.c", folder)
    return folder


def images(rows: int, seed: int = 0, shape: tuple[int, ...] = (3, 18, 14)) -> np.ndarray:
    return np.random.default_rng(seed).random((rows, *shape), np.float32)


def own_results(made: Path, x: np.ndarray, parts: list[int], weights: Path | None = None) -> bytes:
    net = convc.load(made / "net.cnn")
    with convc.compile(net, batch=BATCH, threads=1) as program:
        program.load_params(weights or made / "w.safetensors")
        rows = np.split(x, np.cumsum(parts)[:-1])
        return b"".join(program(part).tobytes() for part in rows)


@pytest.mark.parametrize("tier", available_tiers())
def test_inference_has_the_bits_of_our_own(made: Path, tier: str, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = [5, 1, 3, 5]
    x = images(sum(parts))
    monkeypatch.setenv("CONVC_CPU", tier)
    expected = own_results(made, x, parts)
    assert np.ptp(np.frombuffer(expected, np.float32)) > 0.01
    for threads in ("1", "2", "3"):
        got, said = run(made / "infer", threads, "-", *map(str, parts), data=x.tobytes(), tier=tier)
        assert got == expected
        assert said == f"{tier} {threads}\n"


def test_whole_numbers(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bits of our own, on every tier the same, with weights of which the library keeps whole numbers and steps."""
    net = convc.load(made / "net.cnn")
    x = images(BATCH)
    whole = read_checkpoint(made / "w.safetensors").tensors
    ranges = convc.calibrate(net, x, weights=whole, fp32=["fc2"])
    library = write_standalone(
        net, tmp_path / "libnet.so", tmp_path / "net.h", prefix="net", weights=made / "w.safetensors",
        precision="int8", ranges=ranges, fp32=["fc2"], threads=1, batch=BATCH,
    )  # fmt: skip
    assert tuple(library.plans)[:2] == ("avx512vnni", "avx512") or "avx512" not in library.plans
    compiled(C / "infer.c", tmp_path)
    expected = None
    for tier in available_tiers():
        monkeypatch.setenv("CONVC_CPU", tier)
        with convc.compile(net, batch=BATCH, threads=1, precision="int8", ranges=ranges, fp32=["fc2"]) as program:
            kept = {name for name, array in stored_types([program.graph], whole).items() if array is DType.QW8}
            assert kept
            for name, array in whole.items():
                program.params[name] = QuantizeWeights().reference(array) if name in kept else array
            logits = program(x)
            # Sums of products are exact; what follows is float32 in the same order, but for fc2 and products of tiers
            # without a fused multiply-add.
            expected = logits if expected is None else expected
            np.testing.assert_allclose(logits, expected, atol=0.02 * np.abs(expected).max())
        got, _ = run(tmp_path / "infer", "2", "-", "5", data=x.tobytes(), tier=tier)
        assert got == logits.tobytes()
    assert library.weight_bytes == stored_bytes(whole, dict.fromkeys(kept, DType.QW8))
    assert library.weight_bytes < sum(array.nbytes for array in whole.values()) / 2


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_half_precision(made: Path, tmp_path: Path, precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bits of our own with the rounded weights, which take half the space, inside and beside."""
    net = convc.load(made / "net.cnn")
    sizes: dict[str, int] = {}
    for where in ("inside", "beside"):
        folder = tmp_path / where
        folder.mkdir()
        beside = folder / "w.safetensors" if where == "beside" else None
        write_standalone(
            net, folder / "libnet.so", folder / "net.h", prefix="net", weights=made / "w.safetensors",
            precision=precision, beside=beside, fp32=["fc2"], threads=1, batch=BATCH,
        )  # fmt: skip
        compiled(C / "infer.c", folder)
        sizes[where] = (folder / "libnet.so").stat().st_size
    weights, whole = tmp_path / "beside" / "w.safetensors", read_checkpoint(made / "w.safetensors").tensors
    halves = {name for name, array in read_checkpoint(weights).tensors.items() if (array != whole[name]).any()}
    assert halves == {name for name in whole if name.endswith(".weight")} - {"fc2.weight"}
    saved = sum(whole[name].nbytes for name in halves) // 2
    assert weights.stat().st_size < (made / "w.safetensors").stat().st_size - saved + 512
    x = images(BATCH)
    for tier in available_tiers():
        monkeypatch.setenv("CONVC_CPU", tier)
        with convc.compile(net, batch=BATCH, threads=1, precision=precision, fp32=["fc2"]) as program:
            program.load_params(weights)
            expected = program(x).tobytes()
        for where, path in (("inside", "-"), ("beside", str(weights))):
            got, _ = run(tmp_path / where / "infer", "2", path, "5", data=x.tobytes(), tier=tier)
            assert got == expected


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_weights_of_one_bit(tmp_path: Path, precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are made of all digits of those that a library holds, in 16 bits, too."""
    net = load(tmp_path, NET.replace("k=3", "k=3 bits=1").replace("fc 19", "fc 19 bits=1"))
    weights = trained_weights(net, tmp_path / "w.safetensors")
    write_standalone(
        net, tmp_path / "libnet.so", tmp_path / "net.h", prefix="net", weights=weights, precision=precision,
        beside=tmp_path / "beside.safetensors", threads=1, batch=BATCH,
    )  # fmt: skip
    compiled(C / "infer.c", tmp_path)
    whole, kept = (read_checkpoint(path).tensors for path in (weights, tmp_path / "beside.safetensors"))
    rounded = {name for name, array in kept.items() if (array != whole[name]).any()}
    assert rounded == ({"fc2.weight"} if precision == "bf16" else set())
    x = images(BATCH)
    with convc.compile(net, batch=BATCH, threads=1, precision=precision) as program:
        program.load_params(tmp_path / "beside.safetensors")
        expected = program(x).tobytes()
    got, _ = run(tmp_path / "infer", "2", str(tmp_path / "beside.safetensors"), "5", data=x.tobytes())
    assert got == expected


def test_weights_that_are_too_large_for_16_bits_stay_whole(made: Path, tmp_path: Path) -> None:
    net = convc.load(made / "net.cnn")
    tensors = read_checkpoint(made / "w.safetensors").tensors
    tensors["fc1.weight"][0, 0] = 1e6
    write_checkpoint(tmp_path / "large.safetensors", tensors, {})
    beside = tmp_path / "w.safetensors"
    write_standalone(
        net, tmp_path / "libnet.so", tmp_path / "net.h", weights=tmp_path / "large.safetensors", precision="fp16",
        beside=beside, cpu=["baseline"],
    )  # fmt: skip
    kept = read_checkpoint(beside).tensors
    assert (kept["fc1.weight"] == tensors["fc1.weight"]).all()
    assert (kept["fc2.weight"] != tensors["fc2.weight"]).any()


def test_every_half_is_widened_in_c(tmp_path: Path) -> None:
    """All 65,536 patterns of both types, as runtime.c widens them, where they lie."""
    text = (PACKAGE / "runtime.c").read_text()
    function = text[text.index("static void widen") : text.index('#include "safetensors.c"')]
    (tmp_path / "widen.c").write_text(
        "#include <math.h>\n#include <stdint.h>\n#include <string.h>\nenum { TYPE_F32, TYPE_F16, TYPE_BF16 };\n"
        + function.replace("static ", "")
    )
    library = tmp_path / "widen.so"
    words = ["cc", "-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-o", str(library)]
    subprocess.run([*words, str(tmp_path / "widen.c"), "-lm"], check=True)
    widen = ctypes.CDLL(str(library)).widen
    widen.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int, ctypes.c_int64)
    patterns = np.arange(1 << 16, dtype=np.uint16)
    for kind, dtype in ((1, DType.F16), (2, DType.BF16)):
        room = np.zeros(1 << 16, np.float32)
        room.view(np.uint16)[: 1 << 16] = patterns
        widen(room.ctypes.data, room.ctypes.data, kind, 1 << 16)
        expected = widened(patterns, dtype)
        numbers = ~np.isnan(expected)
        assert (room.view(np.uint32)[numbers] == expected.view(np.uint32)[numbers]).all()
        assert np.isnan(room[~numbers]).all()


def test_the_best_tier_is_chosen_and_others_are_refused(made: Path) -> None:
    data = images(1).tobytes()
    _, said = run(made / "infer", "1", "-", "1", data=data)
    assert said.split()[0] == available_tiers()[0]
    _, said = run(made / "infer", "1", "-", "1", data=data, tier="avx3", code=1)
    assert said == "CONVC_CPU=avx3: the library has code for avx512, avx2, baseline\n"
    for tier in TIERS:
        if tier not in available_tiers():
            _, said = run(made / "infer", "1", "-", "1", data=data, tier=tier, code=1)
            assert said == f"this processor cannot run the CPU tier '{tier}' that CONVC_CPU asks for\n"


def test_all_processors_by_default(made: Path) -> None:
    _, said = run(made / "infer", "0", "-", "1", data=images(1).tobytes())
    assert 1 <= int(said.split()[1]) <= len(os.sched_getaffinity(0))


def exported(folder: Path) -> set[str]:
    words = ["nm", "-D", "--defined-only", str(folder / "libnet.so")]
    listed = subprocess.run(words, check=True, capture_output=True, text=True).stdout
    return {line.split()[2] for line in listed.splitlines()}


def declared(folder: Path) -> set[str]:
    plain = re.sub(r"/\*.*?\*/", "", (folder / "net.h").read_text(), flags=re.DOTALL)
    return set(re.findall(r"\b(net_\w+)\(", plain))


def test_only_the_interface_is_public(made: Path) -> None:
    symbols = exported(made)
    assert symbols == declared(made)
    assert {"net_create", "net_run", "net_error", "net_destroy"} <= symbols
    needed = subprocess.run(["ldd", str(made / "libnet.so")], check=True, capture_output=True, text=True).stdout
    libraries = {line.split()[0].split("/")[-1].split(".")[0] for line in needed.splitlines()}
    assert libraries <= {"linux-vdso", "libc", "libm", "libpthread", "ld-linux-x86-64", "ld-linux-aarch64"}
    sections = subprocess.run(
        ["readelf", "-W", "-l", str(made / "libnet.so")], check=True, capture_output=True, text=True
    )
    assert re.search(r"GNU_STACK.* RW ", sections.stdout), "the stack is not executable"


def test_the_header_is_c_and_c_plus_plus(made: Path) -> None:
    for compiler, standard in (("cc", "c11"), ("c++", "c++11")):
        if shutil.which(compiler) is None:
            continue
        suffix = ".c" if compiler == "cc" else ".cpp"
        source = made / f"header{suffix}"
        source.write_text('#include "net.h"\nconst char *const names[] = NET_CLASS_NAMES;\nfloat mean[] = NET_MEAN;\n')
        strict = ["-Wall", "-Wextra", "-Werror", "-pedantic", f"-std={standard}", "-fsyntax-only"]
        subprocess.run([compiler, *strict, str(source)], check=True)


def test_macros_say_what_the_net_is(made: Path) -> None:
    text = (made / "net.h").read_text()
    macros = dict(re.findall(r"#define NET_(\w+) (\d+)", text))
    expected = {"BATCH": 5, "CHANNELS": 3, "HEIGHT": 18, "WIDTH": 14, "IMAGE_SIZE": 756, "CLASSES": 7, "OUTPUT_SIZE": 7}
    assert {name: int(value) for name, value in macros.items()} == expected
    source = made / "names.c"
    source.write_text(
        '#include <stdio.h>\n#include "net.h"\nint main(void) {\n'
        "  const char *names[] = NET_CLASS_NAMES; const float mean[] = NET_MEAN, std[] = NET_STD;\n"
        "  for (int i = 0; i < NET_CLASSES; i++) puts(names[i]);\n"
        '  for (int i = 0; i < 3; i++) printf("%.9g %.9g\\n", mean[i], std[i]);\n  return 0;\n}\n'
    )
    out, _ = run(compiled(source, made))
    *names, first, second, third = out.decode().splitlines()
    assert names == ["a", "b", "c", 'd "*/', "ö", "\\f", "g??/"]
    numbers = np.array([line.split() for line in (first, second, third)], np.float32)
    assert np.array_equal(numbers, np.array([[0.4, 0.2], [0.5, 0.25], [0.6, 0.3]], np.float32))


def test_weights_of_another_file(made: Path, tmp_path: Path) -> None:
    """Also one that the usual library has written, with metadata that has brackets, quotes and escapes."""
    from safetensors.numpy import load_file, save_file

    net = convc.load(made / "net.cnn")
    with convc.compile(net, target="reference", batch=1, seed=99) as program:
        program.save(tmp_path / "ours.safetensors")
    tensors = load_file(tmp_path / "ours.safetensors")
    metadata = {"a": '{"x": [1, "]"]}\\', "é\u2028": "\t"}
    save_file(tensors | {"more": np.zeros((2, 0), np.float16)}, tmp_path / "theirs.safetensors", metadata)
    x = images(BATCH)
    expected = own_results(made, x, [BATCH], tmp_path / "ours.safetensors")
    for name in ("ours", "theirs"):
        got, _ = run(made / "infer", "2", str(tmp_path / f"{name}.safetensors"), "5", data=x.tobytes())
        assert got == expected


def safetensors(header: object, numbers: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + numbers


def test_mistakes_have_messages(made: Path, tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    tensors = load_file(made / "w.safetensors")
    first = next(iter(tensors))
    entry = {"dtype": "F32", "shape": [8, 3, 3, 3], "data_offsets": [0, 864]}
    bad = tensors[first].copy()
    bad.flat[3] = np.nan
    damaged = {
        "absent": None,
        "empty": b"",
        "short": b"\x01",
        "long": struct.pack("<Q", 1 << 40) + b"{}",
        "no-object": safetensors(b"[1, 2]"),
        "cut": safetensors(b'{"a": {"dtype": "F3'),
        "escape": safetensors(b'{"\\u12'),
        "outside": safetensors({first: entry}, bytes(100)),
        "backwards": safetensors({first: entry | {"data_offsets": [864, 0]}}, bytes(864)),
        "huge": safetensors({first: entry | {"data_offsets": [0, 1 << 70]}}, bytes(864)),
        "deep": safetensors(b'{"__metadata__": ' + b"[" * 100000 + b"}"),
        "nothing": safetensors({}, bytes(8)),
    }
    expected: list[str] = []
    for name, content in damaged.items():
        path = tmp_path / name
        if content is not None:
            path.write_bytes(content)
        message = f"{path} is not a complete safetensors file"
        if name == "absent":
            message = f"cannot read {path}: No such file or directory"
        expected.append(f"{path} has no {first}" if name == "nothing" else message)
    for name, change, message in (
        ("missing", {k: v for k, v in tensors.items() if k != "fc2.bias"}, "{} has no fc2.bias"),
        (
            "shape",
            tensors | {first: tensors[first].reshape(3, 8, 3, 3)},
            "{} another shape or element type than in the net",
        ),
        (
            "type",
            tensors | {first: tensors[first].astype(np.float64)},
            "{} another shape or element type than in the net",
        ),
        ("nan", tensors | {first: bad}, "{} values that are not finite"),
    ):
        path = tmp_path / name
        save_file(change, path)
        verb = {"nan": f"{path}: {first} holds", "missing": str(path)}.get(name, f"{path}: {first} has")
        expected.append(message.format(verb))
        damaged[name] = b""
    out, _ = run(compiled(C / "mistakes.c", made), *(str(tmp_path / name) for name in damaged))
    lines = out.decode().splitlines()
    assert lines == [
        "[]",
        "1 threads=-1: a number between 1 and 1024 is needed, or 0 for all processors",
        "1 threads=100000: a number between 1 and 1024 is needed, or 0 for all processors",
        *(f"1 {line}" for line in expected),
        "-1 no model was given",
        "-1 no images were given",
        "-1 no room for the outputs was given",
        "-1 n=0: the model takes 1 to 5 images at a time",
        "-1 n=6: the model takes 1 to 5 images at a time",
        "-1 there is no parameter 'nothing'",
        f"0 parameter {len(tensors)}: the model has {len(tensors)}, counted from 0",
        *(f"{code} parameter -1: the model has {len(tensors)}, counted from 0" for code in (0, -1, -1, -1)),
        "-1 no values were given",
        "0 no model was given",
        "-1 no model was given",
        "fork 0",
    ]


def test_damaged_headers_are_refused_or_read(made: Path, tmp_path: Path) -> None:
    """Any byte of the header may be wrong: the library says so, or reads other names, and never falls over."""
    library = ctypes.CDLL(str(made / "libnet.so"))
    library.net_create.restype = library.net_error.restype = ctypes.c_void_p
    library.net_create.argtypes = (ctypes.c_int, ctypes.c_char_p)
    library.net_destroy.argtypes = (ctypes.c_void_p,)
    content = (made / "w.safetensors").read_bytes()
    length = struct.unpack("<Q", content[:8])[0]
    random, path = np.random.default_rng(0), tmp_path / "w.safetensors"
    outcomes = set[bool]()
    for _ in range(300):
        damaged = bytearray(content)
        for place in random.integers(0, 8 + length, random.integers(1, 4)):
            damaged[place] = random.choice(list(b'{}[]",:\\\x00\xff09utn-'))
        path.write_bytes(damaged)
        model = library.net_create(1, str(path).encode())
        outcomes.add(model is not None)
        if model is None:
            assert ctypes.string_at(library.net_error())
        library.net_destroy(model)
    assert outcomes == {True, False}, "some damage is to metadata"


def test_parameters_are_read_and_set(made: Path) -> None:
    library = ctypes.CDLL(str(made / "libnet.so"))
    library.net_create.restype = ctypes.c_void_p
    library.net_parameter_name.restype = ctypes.c_char_p
    library.net_parameter_size.restype = ctypes.c_int64
    library.net_parameter_shape.restype = ctypes.POINTER(ctypes.c_int64)
    model = ctypes.c_void_p(library.net_create(2, None))
    x, rows = images(BATCH, seed=4), np.empty((BATCH, 7), np.float32)
    random = np.random.default_rng(8)
    with convc.compile(convc.load(made / "net.cnn"), batch=BATCH, threads=1) as program:
        program.load_params(made / "w.safetensors")
        names = [library.net_parameter_name(i).decode() for i in range(library.net_parameters())]
        assert names == list(program.params)
        for number, name in enumerate(names):
            shape = program.params.shapes[name]
            rank = library.net_parameter_rank(number)
            assert tuple(library.net_parameter_shape(number)[:rank]) == shape
            assert library.net_parameter_size(number) == int(np.prod(shape))
            assert library.net_parameter_index(name.encode()) == number
            values = np.empty(shape, np.float32)
            assert library.net_get_parameter(model, number, values.ctypes.data_as(ctypes.c_void_p)) == 0
            assert values.tobytes() == program.params[name].tobytes()
            values = np.ascontiguousarray(values + random.uniform(0, 0.3, shape), np.float32)
            program.params[name] = values
            assert library.net_set_parameter(model, number, values.ctypes.data_as(ctypes.c_void_p)) == 0
        # What was prepared from parameters is prepared again.
        pointers = (array.ctypes.data_as(ctypes.c_void_p) for array in (x, rows))
        assert library.net_run(model, *pointers, BATCH) == 0
        assert rows.tobytes() == program(x).tobytes()
    library.net_destroy(model)


def test_weights_beside_and_a_single_tier(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tier = available_tiers()[-1]
    words = [
        "compile",
        str(made / "net.cnn"),
        "-o",
        str(tmp_path / "deep" / "libnet.so"),
        "--prefix",
        "net",
        "--cpu",
        tier,
    ]
    words += [
        "--header",
        str(tmp_path / "deep" / "net.h"),
        "--weights-beside",
        str(tmp_path / "deep" / "w.safetensors"),
    ]
    assert main([*words, "--weights", str(made / "w.safetensors"), "--json", "--batch", "5"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["inside"] is False
    assert [entry["name"] for entry in told["tiers"]] == [tier]
    assert told["weights"] == str(made / "w.safetensors")
    folder = tmp_path / "deep"
    program = compiled(C / "infer.c", folder)
    x = images(BATCH)
    got, _ = run(program, "2", str(folder / "w.safetensors"), "5", data=x.tobytes(), tier=tier)
    everything, _ = run(made / "infer", "1", "-", "5", data=x.tobytes(), tier=tier)
    assert got == everything
    _, said = run(program, "1", "-", "5", data=x.tobytes(), code=1)
    assert said == "no weights are inside this library: the path of a safetensors file is needed\n"
    assert {path.name for path in folder.iterdir()} == {"libnet.so", "net.h", "w.safetensors", "infer"}
    assert (folder / "libnet.so").stat().st_size < (made / "libnet.so").stat().st_size


def test_the_example_classifies_an_image(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from PIL import Image

    program = compiled(EXAMPLES / "classify.c", made)
    picture = Image.fromarray(np.random.default_rng(5).integers(0, 256, (18, 14, 3), np.uint8))
    picture.save(tmp_path / "image.ppm")
    out, _ = run(program, str(tmp_path / "image.ppm"))
    weights = str(made / "w.safetensors")
    assert main(["predict", str(made / "net.cnn"), str(tmp_path / "image.ppm"), "--weights", weights]) == 0
    best = capsys.readouterr().out.splitlines()[1].split(maxsplit=2)
    assert out.decode() == f"{tmp_path / 'image.ppm'}: {best[0]} % {best[2]}\n"
    picture.resize((20, 20)).save(tmp_path / "large.ppm")
    _, said = run(program, str(tmp_path / "large.ppm"), code=1)
    assert "not a binary image of 14 x 18 pixels with 3 channels" in said


def test_first_weights_come_from_the_seed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A net without the usual layers: a result that lies as images do, no parameters to fold, one channel."""
    body = "  input 1x6x5\n  conv 2 k=3 pad=1 bias=no -> relu\n  conv 3 k=1\n"
    text = f"net maps {{\n{body}}}\ntrain {{\n  seed 5\n  batch 5\n}}\n"
    net = load(tmp_path, text)
    words = ["compile", str(tmp_path / "net.cnn"), "-o", str(tmp_path / "libnet.so"), "--prefix", "net"]
    assert main([*words, "--header", str(tmp_path / "net.h"), "--cpu", "baseline"]) == 0
    said = capsys.readouterr().out
    assert "weights inside (108 B" in said
    assert "the first weights, as seed 5 draws them" in said
    header = (tmp_path / "net.h").read_text()
    assert "#define NET_OUTPUT_HEIGHT 6" in header
    assert "#define NET_OUTPUT_SIZE 90 " in header
    x = images(3, shape=(1, 6, 5))
    got, _ = run(compiled(C / "infer.c", tmp_path), "2", "-", "3", data=x.tobytes())
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CONVC_CPU", "baseline")
        with convc.compile(net, batch=5, threads=1) as program:
            assert got == program(x).tobytes()


def test_from_python_with_the_weights_of_a_run(made: Path, tmp_path: Path) -> None:
    run_folder = tmp_path / "run"
    run_folder.mkdir()
    with pytest.raises(CompileError, match="holds no run"):
        convc.to_library(convc.load(made / "net.cnn"), tmp_path / "n.so", tmp_path / "n.h", weights=run_folder)
    shutil.copy(made / "net.cnn", run_folder / "model.cnn")
    with pytest.raises(CompileError, match="has not saved any weights yet"):
        convc.to_library(convc.load(made / "net.cnn"), tmp_path / "n.so", tmp_path / "n.h", weights=run_folder)
    shutil.copy(made / "w.safetensors", run_folder / "best.safetensors")
    net, tier = convc.load(made / "net.cnn"), available_tiers()[-1]
    convc.to_library(net, tmp_path / "libnet.so", tmp_path / "net.h", weights=run_folder, prefix="net", cpu=[tier])
    x = images(2)
    got, _ = run(compiled(C / "infer.c", tmp_path), "1", "-", "2", data=x.tobytes())
    expected, _ = run(made / "infer", "1", "-", "2", data=x.tobytes(), tier=tier)
    assert got == expected
    assert '"d \\042*/"' in (tmp_path / "net.h").read_text()


def test_without_a_compiler(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [
        "compile",
        str(made / "net.cnn"),
        "-o",
        str(tmp_path / "n.so"),
        "--header",
        str(tmp_path / "n.h"),
        "--cpu",
        "baseline",
    ]
    monkeypatch.setenv("CC", "no-such-compiler -m32")
    assert main(words) == 1
    said = capsys.readouterr().err
    assert "error[missing-compiler]: a standalone library needs a C compiler, and there is no no-such-compiler" in said
    monkeypatch.setenv("CC", "cc -fno-such-option")
    assert main(words) == 1
    said = capsys.readouterr().err
    assert "error[failed-compiler]: the C compiler cc ended with code 1" in said
    assert "fno-such-option" in said
    monkeypatch.delenv("CC")
    (tmp_path / "n.so").mkdir()
    assert main(words) == 1
    assert "error[file-write]" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["n.so"], "nothing is left behind"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--header n.h", "--header needs -o"),
        ("--cpu avx2", "--cpu needs --header"),
        ("-o n.so --header n.h --emit obj", "--emit and --header do not go together"),
        ("-o n.so --header n.h --report memory", "--report and --header do not go together"),
        ("-o n.so --header n.so", "library, header and weights cannot be one file"),
        ("-o net.cnn --header n.h", "net.cnn is the file that is read"),
        ("-o n.so --header n.h --target reference", "a library is made for --target cpu"),
    ],
)
def test_command_lines_that_make_no_sense(
    made: Path, words: str, message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(made)
    assert main(["compile", "net.cnn", *words.split()]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ({"cpu": ["sse9"]}, "value-cpu-tier"),
        ({"prefix": "2d"}, "value-prefix"),
        ({"prefix": "a-b"}, "value-prefix"),
        ({"mode": "both"}, "value-mode"),
        ({"weights": Path("absent.safetensors")}, "checkpoint-missing"),
    ],
)
def test_what_is_refused(made: Path, tmp_path: Path, arguments: dict[str, object], code: str) -> None:
    net = convc.load(made / "net.cnn")
    with pytest.raises(CompileError) as caught:
        write_standalone(net, tmp_path / "n.so", tmp_path / "n.h", **arguments)  # type: ignore[arg-type]
    assert caught.value.diagnostics[0].code == code
    assert not list(tmp_path.iterdir())


def test_names_and_numbers_in_c() -> None:
    assert public_prefix("lenet") == "lenet"
    assert public_prefix("2net") == "net_2net"
    assert public_prefix("größe") == "gr__e"
    assert c_text('a"\\?\n') == '"a\\042\\134\\077\\012"'
    assert c_float(0.1) == "0.10000000149011612f"
    assert c_float(float("-inf")) == "-INFINITY"


# Training

STEPS = [5, 3, 5, 2, 5, 5]
CLIPPED = """net clipped(classes = 7) {
  input 3x9x7
  conv 6 k=3 pad=1 bias=no -> bn -> relu -> pool max 2
  flatten -> dropout 0.3 -> fc classes
  loss softmax
}
train {
  batch 5 accumulate=2
  clip 0.5
  optim adamw lr=0.01
  seed 11
}
"""
MOMENTUM = CLIPPED.replace(" accumulate=2\n  clip 0.5\n  optim adamw lr=0.01", "\n  optim sgd lr=0.1 momentum=0.9")
NUMBERS = """net numbers {
  input 1x6x6
  conv 4 k=3 -> relu
  flatten -> fc 3
  loss mse
}
train {
  batch 5
  optim sgd lr=0.1
  seed 2
}
"""


def training_set(net: Net, seed: int = 1) -> list[tuple[np.ndarray, np.ndarray]]:
    random = np.random.default_rng(seed)
    pairs: list[tuple[np.ndarray, np.ndarray]] = []
    for n in STEPS:
        x = random.random((n, *net.input_shape), np.float32)
        if net.name == "numbers":
            pairs.append((x, random.random((n, 3), np.float32)))
        else:
            pairs.append((x, random.integers(0, net.classes, n).astype(np.int32)))
    return pairs


def own_training(
    net: Net, pairs: list[tuple[np.ndarray, np.ndarray]], rate: float, early: int | None
) -> tuple[bytes, int]:
    """What train.c writes, by convc's own program; step number `early` ends its update."""
    with convc.compile(net, mode="train", batch=BATCH, threads=1) as program:
        said: list[bytes] = []
        for number, (x, labels) in enumerate(pairs):
            update = True if number == early else None
            result = program.train_batch(x, labels, float(np.float32(rate)), update=update)
            numbers = [np.nan if value is None else value for value in (result.loss, result.correct)]
            said.append(np.array(numbers, np.float32).tobytes())
        logits = program(pairs[-1][0])
        state = program.state_dict()
        return b"".join([*said, logits.tobytes(), *(array.tobytes() for array in state.values())]), program.steps


HALF = MOMENTUM.replace("train {", "train {\n  precision bf16", 1)
ONE_BIT = MOMENTUM.replace("k=3", "k=3 bits=1").replace("fc classes", "fc classes bits=1")


@pytest.mark.parametrize(
    "text", [MOMENTUM, CLIPPED, NUMBERS, HALF, ONE_BIT], ids=["momentum", "accumulated", "numbers", "bf16", "one_bit"]
)
def test_training_has_the_bits_of_our_own(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    net = load(tmp_path, text)
    tiers = available_tiers() if text is MOMENTUM else available_tiers()[:1]
    write_standalone(
        net, tmp_path / "libnet.so", tmp_path / "net.h", mode="train", prefix="net", batch=BATCH, threads=1, cpu=tiers
    )
    floats = text is NUMBERS
    program = compiled(C / "train.c", tmp_path, *(["-DLABEL=float"] if floats else []))
    pairs, early = training_set(net), 2 if text is CLIPPED else None
    data = b"".join(array.tobytes() for pair in pairs for array in pair)
    words = [str(-n if number == early else n) for number, n in enumerate(STEPS)]
    for tier in tiers:
        monkeypatch.setenv("CONVC_CPU", tier)
        expected, steps = own_training(net, pairs, 0.03, early)
        assert np.isfinite(np.frombuffer(expected, np.float32)[0])
        for threads in ("1", "2"):
            got, said = run(program, threads, "0.03", *words, data=data, tier=tier)
            assert got == expected
            assert said.splitlines() == [
                str(steps),
                "no labels were given",
                "the learning rate is not a finite number",
            ]


def test_labels_are_checked_and_training_goes_on_from_a_state(tmp_path: Path) -> None:
    net = load(tmp_path, CLIPPED)
    pairs = training_set(net)
    tier = available_tiers()[0]
    made = write_standalone(
        net, tmp_path / "libnet.so", tmp_path / "net.h", mode="train", prefix="net", batch=BATCH, threads=1, cpu=[tier]
    )
    assert exported(tmp_path) == declared(tmp_path) >= {"net_step", "net_learning_rate", "net_set_steps"}
    library = ctypes.CDLL(str(tmp_path / "libnet.so"))
    library.net_create.restype = ctypes.c_void_p
    library.net_error.restype = ctypes.c_char_p
    library.net_steps.restype = ctypes.c_int64

    def step(model: ctypes.c_void_p, x: np.ndarray, labels: np.ndarray) -> float:
        loss = ctypes.c_float()
        pointers = (array.ctypes.data_as(ctypes.c_void_p) for array in (x, labels))
        code = library.net_step(model, *pointers, len(x), ctypes.c_float(0.01), ctypes.byref(loss), None)
        assert code == 0, library.net_error()
        return loss.value

    first = ctypes.c_void_p(library.net_create(2, None))
    wrong = np.array([0, 7, 0, 0, 0], np.int32)
    pointers = (array.ctypes.data_as(ctypes.c_void_p) for array in (pairs[0][0], wrong))
    assert library.net_step(first, *pointers, 5, ctypes.c_float(0.01), None, None) == -1
    assert library.net_error() == b"label 7 is out of range: the net has 7 outputs, 0 to 6"
    for pair in pairs[:4]:
        step(first, *pair)
    assert library.net_steps(first) == 2
    second = ctypes.c_void_p(library.net_create(1, None))
    for number, parameter in enumerate(made.interface.parameters.values()):
        values = np.empty(parameter.value.shape, np.float32)
        assert library.net_get_parameter(first, number, values.ctypes.data_as(ctypes.c_void_p)) == 0
        assert library.net_set_parameter(second, number, values.ctypes.data_as(ctypes.c_void_p)) == 0
    assert library.net_set_steps(second, ctypes.c_int64(2)) == 0
    losses = [[step(model, *pair) for pair in pairs[4:]] for model in (first, second)]
    assert losses[0] == losses[1], "dropout and the optimiser go on where they were"
    # Another seed draws other masks.
    assert library.net_set_seed(second, ctypes.c_int64(12)) == 0
    assert step(first, *pairs[0]) != step(second, *pairs[0])
    for model in (first, second):
        library.net_destroy(model)


def shared(folder: Path, name: str, text: str) -> ctypes.CDLL:
    """A library of a text in C that includes files of the package."""
    (folder / f"{name}.c").write_text(text)
    words = ["cc", "-std=gnu11", "-Wall", "-Werror", "-O2", "-ffp-contract=off", "-shared", "-fPIC", "-I", str(PACKAGE)]
    subprocess.run([*words, "-o", str(folder / f"{name}.so"), str(folder / f"{name}.c"), "-lm"], check=True)
    return ctypes.CDLL(str(folder / f"{name}.so"))


@pytest.mark.parametrize(
    "words",
    [
        "constant",
        "constant warmup=3e",
        "cosine min=0.001 warmup=2e",
        "cosine warmup=7s",
        "step every=2e gamma=0.3",
        "step every=5s gamma=0.7 warmup=4s",
        "poly power=1.7 min=0.0003",
        "onecycle max=0.3",
        "plateau factor=0.5 patience=2",
        "0.1 for 2e, 0.02 for 3e, 0.004",
        "0.1 for 7s, 0.02 for 9s",
        "0.1 for 1e, 0.05 for 6s, 0.01 for 2e",
    ],
)
def test_schedules_have_the_bits_of_our_own(words: str, tmp_path: Path) -> None:
    text = "net one {\n  input 1x1x1\n  fc 2\n  loss softmax\n}\n"
    base = "" if words[0].isdigit() or words.startswith("onecycle") else " lr=0.07"
    net = load(tmp_path, text + f"train {{\n  epochs 9\n  optim sgd{base}\n  schedule {words}\n}}\n")
    head = "#define _GNU_SOURCE\n#define API(name) own_##name\n#include <math.h>\n#include <stdint.h>\n"
    table = "\n".join(schedule_table(learning_rate(net)))
    rate = shared(tmp_path, "rate", f'{head}{table}\n#include "schedule.c"\n').own_learning_rate
    rate.restype, rate.argtypes = ctypes.c_double, (ctypes.c_double, ctypes.c_int64, ctypes.c_int64)
    for steps_per_epoch in (1, 4):
        expected = make_rate(net.settings.schedule, steps_per_epoch, 9)
        for step in range(11 * steps_per_epoch):
            assert rate(step / steps_per_epoch, step, steps_per_epoch) == expected(step / steps_per_epoch, step)


def test_layouts_are_those_of_the_compiler(tmp_path: Path) -> None:
    """Also those of tiers that this machine does not run."""
    rows = [ImageLayout.of(shape) for shape in ((1, 3, 3), (3, 5, 2), (6, 1, 1), (20, 2, 3))]
    plain: list[Layout] = [
        *rows,
        PlanarLayout(3, 2, 5),
        VectorLayout(1),
        VectorLayout(7),
        VectorLayout(20),
        ScalarLayout(),
    ]
    weights = [
        WeightLayout(outputs, row, block, groups)
        for row in rows
        for outputs, groups in ((1, 1), (7, 1), (37, 1), (64, 1), (12, 4), (40, 2))
        for block in (4, 12, 32, 48)
    ]
    layouts = [*plain, *weights]
    table = ", ".join(layout_fields(layout) for layout in layouts)
    library = shared(
        tmp_path,
        "packing",
        f'#include <stdint.h>\n#include "layouts.c"\nstatic const struct layout layouts[] = {{{table}}};\n'
        "void pack_one(int i, const float *from, float *to) { pack(&layouts[i], from, to); }\n"
        "void unpack_one(int i, const float *from, float *to) { unpack(&layouts[i], from, to); }\n",
    )
    for number, layout in enumerate(layouts):
        size = int(layout.index_map().max()) + 1
        logical = np.arange(1, size + 1, dtype=np.float32)
        shape = (layout.outputs, size // layout.outputs) if isinstance(layout, WeightLayout) else (size,)
        stored, back = np.full(layout.size + 1, -1, np.float32), np.full(size + 1, -1, np.float32)
        library.pack_one(number, *(array.ctypes.data_as(ctypes.c_void_p) for array in (logical, stored)))
        assert np.array_equal(stored[:-1], pack(layout, logical.reshape(shape))), layout
        library.unpack_one(number, *(array.ctypes.data_as(ctypes.c_void_p) for array in (stored, back)))
        assert np.array_equal(back[:-1], logical), layout
        assert stored[-1] == back[-1] == -1


def test_training_without_an_optimizer(tmp_path: Path) -> None:
    net = load(tmp_path, MOMENTUM.replace("  optim sgd lr=0.1 momentum=0.9\n", ""))
    with pytest.raises(CompileError) as caught:
        write_standalone(net, tmp_path / "n.so", tmp_path / "n.h", mode="train", cpu=["baseline"])
    assert caught.value.diagnostics[0].code == "value-optimizer"


def test_the_example_trains(tmp_path: Path) -> None:
    text = "net digits {\n  input 1x8x8\n  conv 4 k=3 -> relu\n  flatten -> fc 4\n  loss softmax\n}\n"
    net = load(tmp_path, text + "train {\n  batch 5\n  optim sgd lr=0.1\n  seed 1\n}\n")
    write_standalone(
        net,
        tmp_path / "libnet.so",
        tmp_path / "net.h",
        mode="train",
        prefix="net",
        batch=BATCH,
        cpu=available_tiers()[:1],
    )
    program = compiled(EXAMPLES / "train.c", tmp_path)
    random = np.random.default_rng(0)
    labels = random.integers(0, 4, 42).astype(np.uint8)
    pixels = random.integers(0, 60, (42, 8, 8)).astype(np.uint8)
    pixels[np.arange(42), 2 * labels, :] = 250
    (tmp_path / "images").write_bytes(struct.pack(">4I", 0x803, 42, 8, 8) + pixels.tobytes())
    (tmp_path / "labels").write_bytes(struct.pack(">2I", 0x801, 42) + labels.tobytes())
    words = [str(tmp_path / "images"), str(tmp_path / "labels"), str(tmp_path / "weights.f32"), "40"]
    out, _ = run(program, *words)
    lines = out.decode().splitlines()
    with convc.compile(net, mode="train", batch=BATCH) as own:
        for line in lines:
            losses = 0.0
            right = 0.0
            for first in range(0, 42, BATCH):
                x = pixels[first : first + BATCH, None].astype(np.float32) * np.float32(1 / 255)
                result = own.train_batch(x, labels[first : first + BATCH].astype(np.int32), 0.1)
                assert result.loss is not None
                assert result.correct is not None
                losses += result.loss * len(x)
                right += result.correct
            shown = re.fullmatch(r"epoch \d+: loss ([\d.]+), accuracy ([\d.]+) %", line)
            assert shown is not None
            assert float(shown[1]) == pytest.approx(losses / 42, abs=1e-3)
            assert float(shown[2]) == pytest.approx(100 * right / 42, abs=2.5)
        assert lines[-1].endswith("accuracy 100.00 %")
        written = np.fromfile(tmp_path / "weights.f32", np.float32)
        assert len(written) == sum(array.size for array in own.state_dict().values())
