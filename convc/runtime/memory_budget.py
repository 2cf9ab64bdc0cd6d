"""Refusing what could never fit into memory before anything is compiled or allocated.

Systems that promise more memory than they have would otherwise let the work begin, and end the process in the middle.
"""

from __future__ import annotations

from convc.ir.diagnostic import fail
from convc.ir.graph import Graph
from convc.ir.sizes import format_bytes
from convc.passes.live_bytes import parameter_bytes
from convc.runtime.data.memory import available_bytes


def least_bytes(graph: Graph) -> int:
    """Bytes that any program of a graph needs at once: its parameters, and the largest of its values.

    A lower bound however values are fused and share memory; `convc summary` has the likely amount.
    """
    values = (*graph.inputs.values(), *(value for node in graph.nodes for value in node.results))
    return parameter_bytes(graph) + max((value.type.bytes for value in values), default=0)


def require_memory(graph: Graph, batch: int, limit: int) -> None:
    """Refuse (`value-memory`) a graph that needs more than `limit` bytes, or than the machine has left."""
    needed, available = least_bytes(graph), available_bytes()
    if needed > min(limit, available):
        images = "1 image" if batch == 1 else f"{batch} images"
        reason = (
            f"the limit is {format_bytes(limit)}" if limit < available else f"{format_bytes(available)} are available"
        )
        raised = "`--limit memory_bytes=N` changes it" if limit < available else "`convc summary` estimates how much"
        message = f"a pass of {images} needs more than {format_bytes(needed)} of memory; {reason}"
        fail("value-memory", message, hint=f"a smaller batch takes less; {raised}" if batch > 1 else raised)
