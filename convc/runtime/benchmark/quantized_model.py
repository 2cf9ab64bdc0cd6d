"""The net as an ONNX model in whole numbers of 8 bits, as ONNX Runtime's own tool makes it: what peers run as int8."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from convc.ir.diagnostic import fail
from convc.runtime.benchmark.task import Task

_MODEL = "model.int8.onnx"
_INPUT = "x"  # as our exports call it


def quantized_model(task: Task) -> Path:
    """Write the model beside the task's: images u8, weights i8 with a step for each output, calibrated on the images.

    Errors: `missing-package` without the tool, `unavailable-peer` where it fails.
    """
    try:
        from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
        from onnxruntime.quantization.shape_inference import quant_pre_process
    except ImportError as error:
        fail("missing-package", f"ONNX Runtime's quantisation needs {error.name}", hint="pip install onnx onnxruntime")

    class Images(CalibrationDataReader):
        """What the tool looks at."""

        def __init__(self, left: list[dict[str, np.ndarray]]) -> None:
            self._left = left

        def get_next(self) -> dict[str, np.ndarray] | None:
            return self._left.pop() if self._left else None

    source = task.model()
    target, prepared = source.with_name(_MODEL), source.with_name("prepared.onnx")
    try:
        # What it asks for: shapes are known, and norms are folded.
        quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
        quantize_static(
            str(prepared),
            str(target),
            Images([{_INPUT: task.images()}]),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
    except Exception as error:  # whatever a tool of others raises, the other contestants go on
        fail("unavailable-peer", f"ONNX Runtime's tool cannot quantise the model: {error}")
    return target
