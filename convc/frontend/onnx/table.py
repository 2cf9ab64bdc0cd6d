"""The operators that are understood: for each the function that converts it and the attributes that it honours.

An attribute that is not listed here is refused wherever a model has it. docs/onnx.md shows this table.
"""

from __future__ import annotations

from convc.frontend.onnx.operators import layers, pointwise, reductions, resizing, shapes, windows
from convc.frontend.onnx.site import Convert
from convc.ir.ops.activation import Relu, Sigmoid, Tanh
from convc.ir.ops.elementwise import (
    Absolute,
    Add,
    Divide,
    Exp,
    Maximum,
    Minimum,
    Multiply,
    Negate,
    Sign,
    Sqrt,
    Subtract,
)
from convc.lazy import dataclass


@dataclass(frozen=True)
class Operator:
    """`limits` says what is refused, for the manual."""

    convert: Convert
    attributes: tuple[str, ...] = ()
    limits: str = ""


_WINDOW = ("auto_pad", "dilations", "kernel_shape", "pads", "strides")

OPERATORS: dict[str, Operator] = {
    "Abs": Operator(pointwise.unary(Absolute())),
    "Add": Operator(pointwise.binary(Add()), (), "operands of equal rank; one may be a constant"),
    "AveragePool": Operator(
        windows.average_pool,
        (*_WINDOW, "ceil_mode", "count_include_pad"),
        "1-D and 2-D; at most 1,024 taps unless the window is the whole map",
    ),
    "BatchNormalization": Operator(
        layers.batch_norm,
        ("epsilon", "momentum", "spatial", "training_mode"),
        "constants as parameters; `spatial=1`, `training_mode=0`, the first output only",
    ),
    "Cast": Operator(pointwise.cast, ("to", "saturate"), "floating-point types, computed in float32"),
    "Celu": Operator(pointwise.celu, ("alpha",)),
    "Clip": Operator(pointwise.clip, ("min", "max"), "constant bounds"),
    "Concat": Operator(shapes.concat, ("axis",), "any axis but the batch; no constants among the parts"),
    "Conv": Operator(windows.convolution, (*_WINDOW, "group"), "1-D and 2-D; constant filters and bias"),
    "ConvTranspose": Operator(
        windows.transposed_convolution,
        (*_WINDOW, "group", "output_padding", "output_shape"),
        "1-D and 2-D; constant filters and bias",
    ),
    "DepthToSpace": Operator(shapes.depth_to_space, ("blocksize", "mode")),
    "Div": Operator(pointwise.binary(Divide()), (), "operands of equal rank; one may be a constant"),
    "Dropout": Operator(layers.dropout, ("ratio", "seed"), "`training_mode=false`; the first output only"),
    "Elu": Operator(pointwise.elu, ("alpha",)),
    "Exp": Operator(pointwise.unary(Exp())),
    "Expand": Operator(shapes.expand, (), "a constant shape, within an image"),
    "Flatten": Operator(shapes.flatten, ("axis",), "the batch stays apart"),
    "Gather": Operator(shapes.gather, ("axis",), "one constant index, or consecutive ones; any axis but the batch"),
    "Gemm": Operator(layers.gemm, ("alpha", "beta", "transA", "transB"), "constants as B and C; `transA=0`"),
    "GlobalAveragePool": Operator(windows.global_average_pool),
    "GlobalMaxPool": Operator(windows.global_max_pool, (), "maps of at most 1,024 pixels on a side"),
    "HardSigmoid": Operator(pointwise.hard_sigmoid, ("alpha", "beta")),
    "HardSwish": Operator(pointwise.hard_swish),
    "Identity": Operator(layers.identity),
    "LRN": Operator(layers.local_response, ("alpha", "beta", "bias", "size"), "odd sizes"),
    "LeakyRelu": Operator(pointwise.leaky_relu, ("alpha",)),
    "LogSoftmax": Operator(reductions.log_softmax, ("axis",), "any axis but the batch"),
    "MatMul": Operator(layers.matmul, (), "a constant matrix as second operand"),
    "Max": Operator(pointwise.variadic(Maximum()), (), "operands of equal rank"),
    "MaxPool": Operator(
        windows.max_pool,
        (*_WINDOW, "ceil_mode", "storage_order"),
        "1-D and 2-D; at most 1,024 taps; the first output only",
    ),
    "Mean": Operator(pointwise.mean, (), "operands of equal rank"),
    "Min": Operator(pointwise.variadic(Minimum()), (), "operands of equal rank"),
    "Mul": Operator(pointwise.binary(Multiply()), (), "operands of equal rank; one may be a constant"),
    "Neg": Operator(pointwise.unary(Negate())),
    "PRelu": Operator(pointwise.prelu, (), "a constant slope"),
    "Pad": Operator(shapes.pad, ("mode", "pads", "value"), "`mode=constant`; constant borders"),
    "Pow": Operator(pointwise.power, (), "constant exponents 0.5, 1, 2, 3 and 4"),
    "Reciprocal": Operator(pointwise.reciprocal),
    "ReduceMax": Operator(
        reductions.reduction("max"), ("axes", "keepdims", "noop_with_empty_axes"), "any axes but the batch"
    ),
    "ReduceMean": Operator(
        reductions.reduction("mean"), ("axes", "keepdims", "noop_with_empty_axes"), "any axes but the batch"
    ),
    "ReduceMin": Operator(
        reductions.reduction("min"), ("axes", "keepdims", "noop_with_empty_axes"), "any axes but the batch"
    ),
    "ReduceSum": Operator(
        reductions.reduction("sum"), ("axes", "keepdims", "noop_with_empty_axes"), "any axes but the batch"
    ),
    "Relu": Operator(pointwise.unary(Relu())),
    "Reshape": Operator(shapes.reshape, ("allowzero",), "the batch stays apart; `allowzero=0` where a size is 0"),
    "Resize": Operator(
        resizing.resize,
        (
            "antialias",
            "axes",
            "coordinate_transformation_mode",
            "cubic_coeff_a",
            "exclude_outside",
            "extrapolation_value",
            "keep_aspect_ratio_policy",
            "mode",
            "nearest_mode",
        ),
        "`linear` and `cubic` to any size; `nearest` by whole factors, from the corner with `floor` or from centres",
    ),
    "Selu": Operator(pointwise.selu, ("alpha", "gamma")),
    "Shape": Operator(shapes.shape, ("start", "end")),
    "Sigmoid": Operator(pointwise.unary(Sigmoid())),
    "Sign": Operator(pointwise.unary(Sign())),
    "Size": Operator(shapes.size),
    "Slice": Operator(shapes.slice_, ("axes", "ends", "starts"), "constant bounds, steps forward, not the batch"),
    "Softmax": Operator(reductions.softmax, ("axis",), "any axis but the batch"),
    "Softsign": Operator(pointwise.softsign),
    "SpaceToDepth": Operator(shapes.space_to_depth, ("blocksize",)),
    "Split": Operator(shapes.split, ("axis", "num_outputs", "split"), "any axis but the batch"),
    "Sqrt": Operator(pointwise.unary(Sqrt())),
    "Squeeze": Operator(shapes.squeeze, ("axes",), "with a list of axes"),
    "Sub": Operator(pointwise.binary(Subtract()), (), "operands of equal rank; one may be a constant"),
    "Sum": Operator(pointwise.variadic(Add()), (), "operands of equal rank"),
    "Tanh": Operator(pointwise.unary(Tanh())),
    "Transpose": Operator(shapes.transpose, ("perm",), "the batch stays in front"),
    "Unsqueeze": Operator(shapes.unsqueeze, ("axes",)),
    "Upsample": Operator(resizing.resize, ("mode", "scales"), "`linear`; `nearest` by whole factors"),
}
