"""The way from a file to a program: `convc.load` and `convc.compile`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from convc.ir.diagnostic import fail

if TYPE_CHECKING:
    from convc.frontend.limits import Limits
    from convc.frontend.net import Net
    from convc.passes.quantization import Ranges
    from convc.runtime.algorithms import Tune
    from convc.runtime.build import Planned
    from convc.runtime.program import Program


def load(
    path: str | os.PathLike[str],
    *,
    net: str | None = None,
    set: Mapping[str, object] | None = None,
    strict: bool = False,
    limits: Limits | None = None,
) -> Net:
    """Read a `.cnn` file: parsed, elaborated, checked.

    `net` chooses one of several nets. `set` overrides parameters of the net (`{"classes": 10}`) and settings
    (`{"train.optim.lr": 0.01}`). `strict` makes warnings errors, `limits` bounds what a file may ask for (see
    `convc.frontend.Limits`). Raises `CompileError` with all errors that were found.
    """
    from convc.frontend.limits import DEFAULT_LIMITS
    from convc.frontend.load import load as load_file

    return load_file(path, net=net, set=set, strict=strict, limits=limits or DEFAULT_LIMITS)


def compile(
    net: Net,
    *,
    batch: int | None = None,
    mode: str = "infer",
    target: str = "cpu",
    arch: str | None = None,
    gpu: str | None = None,
    precision: str | None = None,
    fp32: Sequence[str] = (),
    ranges: Ranges | None = None,
    algo: str = "auto",
    threads: int | None = None,
    passes: Sequence[str] | None = None,
    dump_dir: str | os.PathLike[str] | None = None,
    seed: int | None = None,
    scratch: int | None = None,
    max_error: float | None = None,
    tune: Tune | None = None,
    constants: str = "table",
    memory: int | None = None,
    planned: Planned | None = None,
) -> Program:
    """Make a program of a net. None means the file's value, else batch 64, fp32, seed 0, all threads there are.

    `mode` is "infer" or "train"; `target` "cpu", "cuda" (NVIDIA's GPUs, docs/cuda.md) or "reference", the slow
    interpreter. `arch` is the architecture of GPUs to compile for, such as "sm_90": by default that of the GPU here,
    which is needed to run but not to compile; sm_80 where there is none. `gpu` ("h100") implies its architecture, and
    algorithms are chosen for it. With `dump_dir` every pass leaves its graph, its log and the difference there. A
    `train` item needs neither data nor optimiser to compile. With `init "W"` in it the parameters of a training program
    start from that file, which is read when the first of them is needed; what it lacks is drawn, what `freeze=` names
    is not trained. `passes` is another order of passes, each as `NAME` or `NAME:option=value,…` (see `convc passes`),
    with the options of the usual ones where none are given. What this version cannot do is refused by name. `precision`
    is that of products and activations: "fp32", "fp16", "bf16", and for inference "int8", which needs `ranges` of what
    the net computes, measured by `convc.calibrate`. Layers whose names match a pattern of `fp32` ("fc*") stay in
    float32, whatever else is said of them.

    `algo` says how convolutions are computed: "auto", a family ("winograd") or an algorithm for all that can be, or
    "conv1=fft,conv3_*=direct" by layer; it comes before what the file says. `scratch` bounds the bytes of scratch space
    of each, `max_error` the relative error (1e-4), `tune` measures contenders for that many seconds, or "full".
    `constants` of the cost model are those of the "table", or those "measured" by `convc doctor --measure`.

    `memory` bounds the bytes that the program takes. A training step then computes as much of its forward pass again as
    it has to, with the same results bit by bit. Error: `budget-memory`, with the least that it can take. `planned` is
    called with the plan, and with what the passes over the graph did, before anything is compiled or allocated.
    """
    from convc.runtime.algorithms import AlgorithmOptions
    from convc.runtime.build import build_net
    from convc.runtime.starting_weights import starting_weights

    if gpu is not None:
        from convc.runtime.cuda_kernels import architecture_for

        if target != "cuda":
            fail("value-target", f"gpu={gpu!r} is for target='cuda', not {target!r}")
        arch = architecture_for(gpu, arch)
    start = starting_weights(net) if mode == "train" else None
    return build_net(
        net,
        batch=batch,
        mode=mode,
        target=target,
        arch=arch,
        precision=precision,
        fp32=fp32,
        ranges=ranges,
        algorithms=AlgorithmOptions(algo, scratch, max_error, tune, constants, gpu=gpu or ""),
        threads=threads,
        dump_dir=None if dump_dir is None else Path(dump_dir),
        seed=seed,
        start=start.values if start is not None else dict,
        passes=passes,
        memory=memory,
        planned=planned,
    )


def from_onnx(
    path: str | os.PathLike[str], *, input_shape: Sequence[int] | None = None, output: str | None = None
) -> Net:
    """Read an ONNX model as a net that carries its weights: a program compiled from it starts with them.

    The model has one input that its output depends on, (N, C, H, W) with N fixed or open; (N, C) is read as C x 1 x 1
    and (N, C, L) as C x 1 x L. The program takes any number of images, and gives the output in the model's shape.
    `input_shape` fills in sizes that the model leaves open, `output` chooses one of several outputs, or any value in
    the model. The net's `warnings` say what was converted in a different precision.

    Errors: `onnx-unsupported`, one for each node that is in the way; `onnx-interface`, `onnx-malformed`,
    `onnx-unreadable`, `onnx-external`, `onnx-library`, `file-…`, `budget-size`.
    """
    from convc.frontend.onnx import from_onnx as read

    return read(path, input_shape=None if input_shape is None else tuple(input_shape), output=output)


def to_onnx(program: Program, path: str | os.PathLike[str], opset: int = 17) -> None:
    """Write the net of a program with its present weights as an ONNX model, which computes what inference does.

    The input `x` takes images (N, C, H, W) with any N, the output is `logits`; parameters keep their names. `opset` is
    13 to 21. Errors: `onnx-op` for every op that has no form in ONNX, `onnx-opset`, `onnx-size`, `onnx-library`.
    """
    from convc.codegen.onnx.model import encode
    from convc.runtime.atomic import write_bytes

    if program.forward is None:
        fail("onnx-source", f"{program!r} was made of a graph that has been rewritten, and has no net to export")
    weights = {name: program.params[name] for name in program.params}
    write_bytes(Path(path), encode(program.forward(), weights, opset, program.about))


def to_library(
    net: Net,
    library: str | os.PathLike[str],
    header: str | os.PathLike[str],
    *,
    mode: str = "infer",
    batch: int | None = None,
    weights: str | os.PathLike[str] | None = None,
    beside: str | os.PathLike[str] | None = None,
    cpu: Sequence[str] = (),
    prefix: str | None = None,
    precision: str | None = None,
    fp32: Sequence[str] = (),
    ranges: Ranges | None = None,
    algo: str = "auto",
    memory: int | None = None,
) -> None:
    """Write a shared library with a C interface, which needs no Python, and its header (docs/standalone.md).

    `weights` is a safetensors file or a run folder; without it the library has the weights that a fresh program of the
    net has. `beside` is a safetensors file that gets them instead of the library. `cpu` names the tiers whose code goes
    in ("avx512", "avx2", "baseline"; none means all); public names begin with `prefix`, by default the net's name.
    `mode`, `batch`, `precision`, `fp32`, `ranges`, `algo` and `memory` are those of `compile`; an inference library in
    half precision has weights of 16 bits, in int8 of 8, and its `ranges` are to be measured with these weights.

    Errors: those of `compile`, `missing-compiler`, `failed-compiler`, `value-prefix`, `value-cpu-tier`, `budget-size`,
    `checkpoint-…`, `file-…`, `value-optimizer` for a training step of a file without an optimiser.
    """
    from convc.runtime.algorithms import AlgorithmOptions
    from convc.runtime.standalone import write_standalone

    write_standalone(
        net,
        Path(library),
        Path(header),
        mode=mode,
        batch=batch,
        cpu=cpu,
        prefix=prefix,
        precision=precision,
        fp32=fp32,
        ranges=ranges,
        weights=None if weights is None else Path(weights),
        beside=None if beside is None else Path(beside),
        algorithms=AlgorithmOptions(algo),
        memory=memory,
    )
