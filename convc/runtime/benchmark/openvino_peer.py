# OpenVINO is optional: where it is not installed, its names are unknown to the type checker.
# pyright: reportMissingImports=false
"""The contestant `openvino`: inference of our ONNX export, with the hint for latency."""

from __future__ import annotations

import numpy as np

from convc.runtime.benchmark.prepared import Prepared
from convc.runtime.benchmark.task import Task


def prepare(task: Task) -> Prepared:
    """Latency hint, the batch fixed, float32: where the processor has bfloat16, OpenVINO would take that by itself."""
    import openvino

    core = openvino.Core()
    model = core.read_model(task.model())
    model.reshape([task.batch, *task.image])
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": str(task.threads),
    }
    request = core.compile_model(model, "CPU", settings).create_infer_request()
    feed = [task.images()]
    return Prepared(
        openvino.__version__,
        lambda: request.infer(feed, share_inputs=True, share_outputs=True)[0],
        lambda logits: np.array(logits),
    )
