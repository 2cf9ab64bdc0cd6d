"""A process that turns LLVM IR into object files for another one.

Requests, texts of modules, come through the standard input, and object files go back through the standard output, each
with a header that has its length. The process ends with its input, so also when nobody is left who asks. A
text that LLVM refuses ends it, too: whoever asked compiles that text again and sees the error.
"""

from __future__ import annotations

import json
import struct
import sys
from dataclasses import asdict
from typing import Any, BinaryIO

from convc.codegen.llvm.target import CpuTarget, compile_object

# Whatever else a start-up file of the interpreter may print is no message.
_MAGIC = b"convcunt"
_HEADER = struct.Struct("<8sQ")


def send(pipe: BinaryIO, data: bytes) -> None:
    """OSError if nobody reads any more."""
    pipe.write(_HEADER.pack(_MAGIC, len(data)) + data)
    pipe.flush()


def receive(pipe: BinaryIO) -> bytes:
    """What the other side has sent; EOFError if it has closed the pipe or speaks of something else."""
    magic, length = _HEADER.unpack(_exactly(pipe, _HEADER.size))
    if magic != _MAGIC:
        raise EOFError
    return _exactly(pipe, length)


def _exactly(pipe: BinaryIO, length: int) -> bytes:
    data = pipe.read(length)
    if len(data) != length:
        raise EOFError
    return data


def target_text(target: CpuTarget) -> str:
    """The target as a word of a command line."""
    return json.dumps({**asdict(target), "flags": sorted(target.flags)})


def _target(text: str) -> CpuTarget:
    given: dict[str, Any] = json.loads(text)
    given["flags"] = frozenset(given["flags"])
    return CpuTarget(**given)


def main() -> None:
    """Serve; the last word of the command line is the target."""
    target = _target(sys.argv[-1])
    while True:
        try:
            text = receive(sys.stdin.buffer)
        except EOFError:
            return
        send(sys.stdout.buffer, compile_object(text.decode(), target))
