"""What a convolution has to compute, in the terms in which algorithms are compared."""

from __future__ import annotations

from collections.abc import Container
from typing import Literal

from convc.ir.graph import Node, Value
from convc.ir.ops.conv import Conv2d, Conv2dBackwardData, Conv2dBackwardWeights
from convc.ir.types import DType
from convc.ir.window import Pair, Sides
from convc.lazy import dataclass

Direction = Literal["forward", "backward_data", "backward_weights"]
CONVOLUTIONS = (Conv2d, Conv2dBackwardData, Conv2dBackwardWeights)


@dataclass(frozen=True)
class Problem:
    """One convolution in one direction; sizes are always those of the forward convolution.

    x is (batch, channels, *size), w (filters, channels/groups, *kernel), y (batch, filters, *output). `prepared` says
    that no run changes w, so that what is made of it alone is made once, ahead of all runs. `dtype` is the type of the
    images' elements; sums are float32.
    """

    direction: Direction
    batch: int
    channels: int
    filters: int
    size: Pair
    output: Pair
    kernel: Pair
    stride: Pair = (1, 1)
    padding: Sides = (0, 0, 0, 0)
    dilation: Pair = (1, 1)
    groups: int = 1
    prepared: bool = False
    dtype: DType = DType.F32

    @classmethod
    def of(cls, node: Node, fixed: Container[Value] = ()) -> Problem:
        """The problem of a convolution node or of one of its gradients; `fixed` are the values that no run changes."""
        op, (first, second) = node.op, node.operands[:2]
        assert isinstance(op, CONVOLUTIONS)
        if isinstance(op, Conv2d):
            direction, x, w, y = "forward", first.shape, second.shape, node.result.shape
        elif isinstance(op, Conv2dBackwardData):
            direction, x, w, y = "backward_data", node.result.shape, second.shape, first.shape
        else:
            direction, x, w, y = "backward_weights", first.shape, node.result.shape, second.shape
        return cls(
            direction=direction,
            batch=x[0],
            channels=x[1],
            filters=y[1],
            size=(x[2], x[3]),
            output=(y[2], y[3]),
            kernel=(w[2], w[3]),
            stride=op.stride,
            padding=op.padding,
            dilation=op.dilation,
            groups=op.groups,
            prepared=isinstance(op, Conv2d) and second in fixed,
            dtype=DType.F32 if first.type.dtype is DType.F64 else first.type.dtype,
        )

    @property
    def taps(self) -> int:
        return self.kernel[0] * self.kernel[1]

    @property
    def flops(self) -> int:
        """Of the definition: two for each product, padding included."""
        per_output = 2 * self.taps * (self.channels // self.groups)
        return self.batch * self.filters * self.output[0] * self.output[1] * per_output

    @property
    def image_bytes(self) -> int:
        """The images x in float32, channels as they are."""
        return 4 * self.batch * self.channels * self.size[0] * self.size[1]

    @property
    def result_bytes(self) -> int:
        """The images y in float32."""
        return 4 * self.batch * self.filters * self.output[0] * self.output[1]

    @property
    def weight_bytes(self) -> int:
        return 4 * self.filters * (self.channels // self.groups) * self.taps

    def __str__(self) -> str:
        """`8x64x56x56 -> 64x56x56, 3x3 stride 2`."""

        def pair(sizes: Pair) -> str:
            return f"{sizes[0]}x{sizes[1]}"

        extras = [f"stride {pair(self.stride)}"] if self.stride != (1, 1) else []
        extras += [f"dilation {pair(self.dilation)}"] if self.dilation != (1, 1) else []
        extras += [f"groups {self.groups}"] if self.groups > 1 else []
        extras += ["prepared"] if self.prepared else []
        extras += [self.dtype.value] if self.dtype is not DType.F32 else []
        text = f"{self.batch}x{self.channels}x{pair(self.size)} -> {self.filters}x{pair(self.output)}, "
        return text + " ".join([pair(self.kernel), *extras])
