"""The libraries that convc is compared with, and which of them can take part."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import field
from importlib.util import find_spec

from convc.ir.diagnostic import fail
from convc.lazy import dataclass
from convc.runtime.benchmark.task import INFER, TRAIN
from convc.runtime.configuration import INT8, PRECISIONS

_ROOM = "convc.runtime.benchmark"
OURS = "convc"


@dataclass(frozen=True)
class Peer:
    """A library in one or more modes: `contestants` maps a name to the function that prepares it (`module:function`).

    `modules` have to be there for it to run, `packages` bring them. `compiled` are contestants that take a minute to
    prepare, and come only when asked for. `reads_model`: it gets the net as an ONNX model. `precisions` are those that
    it computes in on processors.
    """

    modules: tuple[str, ...]
    packages: tuple[str, ...]
    modes: tuple[str, ...]
    contestants: Mapping[str, str]
    compiled: Mapping[str, str] = field(default_factory=dict[str, str])
    reads_model: bool = False
    precisions: tuple[str, ...] = PRECISIONS

    @property
    def missing(self) -> list[str]:
        """Modules that are not installed."""
        return [name for name in self.modules if find_spec(name) is None]

    @property
    def install(self) -> str:
        return f"pip install {' '.join(self.packages)}"


PEERS: dict[str, Peer] = {
    "torch": Peer(
        ("torch",),
        ("torch",),
        (TRAIN, INFER),
        {"torch": f"{_ROOM}.torch_peer:prepare", "torch-channels-last": f"{_ROOM}.torch_peer:prepare_channels_last"},
        {"torch-compile": f"{_ROOM}.torch_peer:prepare_compiled"},
    ),
    "onnxruntime": Peer(
        ("onnxruntime", "onnx"),
        ("onnxruntime", "onnx"),
        (INFER,),
        {"onnxruntime": f"{_ROOM}.onnxruntime_peer:prepare"},
        reads_model=True,
        precisions=("fp32", INT8),
    ),
    "openvino": Peer(
        ("openvino", "onnx"),
        ("openvino", "onnx"),
        (INFER,),
        {"openvino": f"{_ROOM}.openvino_peer:prepare"},
        reads_model=True,
        precisions=(*PRECISIONS, INT8),
    ),
}


@dataclass(frozen=True)
class Field:
    """Who takes part: names and entries, ours first. `left_out` tells of peers that could have."""

    contestants: Mapping[str, str]
    needs_model: bool
    left_out: tuple[str, ...] = ()


def choose(asked: Sequence[str] | None, mode: str, *, compiled: bool = False, precision: str = PRECISIONS[0]) -> Field:
    """The peers that were asked for, or all that are installed and know the mode and the precision.

    Errors, for what was asked for: `name-peer`, `missing-package`, `value-peer` (it has no such mode or precision).
    """
    chosen: list[Peer] = []
    left_out: list[str] = []
    for name in PEERS if asked is None else dict.fromkeys(asked):
        peer = PEERS.get(name)
        if peer is None:
            fail("name-peer", f"there is no peer {name!r}", hint=f"there are {', '.join(PEERS)}")
        if mode not in peer.modes:
            if asked is not None:
                fail("value-peer", f"{name} is compared at inference only", hint="--mode infer")
            continue
        if precision not in peer.precisions:
            message = f"{name} computes in {' and '.join(peer.precisions)} only"
            if asked is not None:
                fail("value-peer", message, hint=f"--precision {peer.precisions[0]}")
            left_out.append(message)
            continue
        if peer.missing:
            message = f"{' and '.join(peer.missing)} cannot be imported, so there is no comparison with {name}"
            if asked is not None:
                fail("missing-package", message, hint=f"{peer.install}, or all peers: pip install 'convc[bench]'")
            left_out.append(f"{message} ({peer.install})")
            continue
        chosen.append(peer)
    entries = {OURS: f"{_ROOM}.ours:prepare"}
    for peer in chosen:
        entries |= {**peer.contestants, **(peer.compiled if compiled else {})}
    return Field(entries, any(peer.reads_model for peer in chosen), tuple(left_out))
