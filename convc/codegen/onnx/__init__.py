"""The ONNX back end: a forward graph and its weights as a model that other tools read. `model` is the way in."""
