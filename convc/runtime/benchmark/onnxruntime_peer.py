"""The contestant `onnxruntime`: inference of our ONNX export, with the session options that everybody gets."""

from __future__ import annotations

import numpy as np

from convc.runtime.benchmark.prepared import Prepared
from convc.runtime.benchmark.quantized_model import quantized_model
from convc.runtime.benchmark.task import Task
from convc.runtime.configuration import INT8


def prepare(task: Task) -> Prepared:
    """Default options; only the number of threads is given, and the batch, which the model leaves open. For int8 the
    model is quantised by its own tool."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = task.threads
    options.add_free_dimension_override_by_name("N", task.batch)
    model = quantized_model(task) if task.precision == INT8 else task.model()
    session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    name, feed = session.get_inputs()[0].name, task.images()
    return Prepared(onnxruntime.__version__, lambda: session.run(None, {name: feed})[0], np.asarray)
