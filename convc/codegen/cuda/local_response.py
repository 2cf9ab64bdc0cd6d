"""Local response normalisation: blocks take whole pixels, whose denominators are computed once, in shared memory."""

from __future__ import annotations

from convc.codegen.cuda.kernel import THREADS, KernelBuilder, Work, extents
from convc.codegen.cuda.statistics import vector_width
from convc.ir import ops
from convc.ir.diagnostic import fail

# Numbers that fit the shared memory of a block on any GPU, and those that leave room for other blocks.
_MOST_SHARED = (48 << 10) // 4
_SHARED = (16 << 10) // 4


def lower_local_response(k: KernelBuilder) -> None:
    """Error: `unavailable-op` for windows that no shared memory holds."""
    op, x = k.anchor.op, k.anchor.operands[-1]
    assert isinstance(op, (ops.LocalResponseNorm, ops.LocalResponseNormBackward))
    backward, image = isinstance(op, ops.LocalResponseNormBackward), k.image(x)
    # What a window reaches beyond the channels holds nothing.
    before, after = min(op.before, image.channels - 1), min(op.after, image.channels - 1)
    reach = before + after

    def floats(chunk: int) -> int:
        """Shared memory for the channels of a pixel, so many at a time."""
        halo = reach if chunk < image.stored else 0
        return 4 * chunk + 3 * halo if backward else 2 * chunk + halo

    chunk = next((size for size in (image.stored, 1024, 256, 64) if floats(size) <= _MOST_SHARED), None)
    if chunk is None:
        message = f"{op.name} of {k.anchor.label} has windows of {reach + 1} channels, too many for a GPU"
        fail("unavailable-op", message, k.anchor.span)
    halo = chunk < image.stored
    of_block = max(1, min(_SHARED // floats(chunk), x.shape[0] * image.pixels))
    constants = {
        "CHANNELS": image.channels,
        "STORED": image.stored,
        "PIXELS": image.pixels,
        "V": vector_width(k, image.stored),
        "CHUNK": chunk,
        "BLOCK_PIXELS": of_block,
        "BEFORE": before,
        "AFTER": after,
        "HALO_BEFORE": before if halo else 0,
        "HALO_AFTER": after if halo else 0,
        "ADDED": float(op.k),
        "SHARE": op.alpha / op.size,
        "BETA": float(op.beta),
        "FACTOR": 2 * op.alpha * op.beta / op.size,
    }
    names = {"DY": k.anchor.operands[0], "X": x} if backward else {"X": x}
    k.launch(
        ["local_response.cuh", "local_response_backward.cu" if backward else "local_response.cu"],
        lambda rows: extents(-(-rows * image.pixels // of_block)),
        threads=THREADS,
        constants=constants,
        names=names,
        finishes=True,
        name="_".join(dict.fromkeys(node.op.name for node in k.kernel.nodes))[:60],
        work=Work(sum(node.op.cost(*(o.type for o in node.operands)).flops for node in k.kernel.nodes), k.bytes),
    )
