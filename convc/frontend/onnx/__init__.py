"""From ONNX models to forward graphs with weights.

    net = from_onnx("resnet18.onnx")
    graph, weights = net.graph(batch=1), net.weights

`files` and `tensors` read what may come from anywhere, `model` checks the structure, `conversion` goes through the
nodes by the `table` of operators, and `folding` computes what is known beforehand. Nothing is guessed: an operator, an
attribute or a form that is not understood is reported, all of them together.
"""

from __future__ import annotations

from convc.frontend.onnx.net import ImportedNet, from_onnx

__all__ = ["ImportedNet", "from_onnx"]
