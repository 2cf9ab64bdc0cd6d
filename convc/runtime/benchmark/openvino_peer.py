# OpenVINO is optional: where it is not installed, its names are unknown to the type checker.
# pyright: reportMissingImports=false
"""The contestant `openvino`: inference of our ONNX export, with the hint for latency."""

from __future__ import annotations

import numpy as np

from convc.ir.diagnostic import fail
from convc.runtime.benchmark.prepared import Prepared
from convc.runtime.benchmark.quantized_model import quantized_model
from convc.runtime.benchmark.task import Task
from convc.runtime.configuration import INT8

# Its names of precisions.
_TYPES = {"fp32": "f32", "fp16": "f16", "bf16": "bf16", INT8: "f32"}


def prepare(task: Task) -> Prepared:
    """Latency hint, the batch fixed, and the precision: where the processor has bfloat16, OpenVINO would take that by
    itself. For int8 it reads the model that ONNX Runtime's tool has quantised, the rest of which is float32. Error:
    `unavailable-peer` where it computes in another."""
    import openvino

    core = openvino.Core()
    model = core.read_model(quantized_model(task) if task.precision == INT8 else task.model())
    model.reshape([task.batch, *task.image])
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": _TYPES[task.precision],
        "INFERENCE_NUM_THREADS": str(task.threads),
    }
    compiled = core.compile_model(model, "CPU", settings)
    if (used := compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()) != _TYPES[task.precision]:
        fail("unavailable-peer", f"OpenVINO computes in {used} on this processor")
    request = compiled.create_infer_request()
    feed = [task.images()]
    return Prepared(
        openvino.__version__,
        lambda: request.infer(feed, share_inputs=True, share_outputs=True)[0],
        lambda logits: np.array(logits),
    )
