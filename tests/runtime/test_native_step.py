"""From IR to a running step and back from the disk: compile, cache, link in a fresh process, launch on two threads."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

SCRIPT = """
    import ctypes, json, sys
    from convc.codegen.llvm.link import link
    from convc.codegen.llvm.object_cache import cache_key, shared_cache
    from convc.codegen.llvm.spmd import load_runtime
    from convc.codegen.llvm.target import compile_object, host_target
    from convc.runtime.threads import shared_pool

    # Every rank doubles its value and, behind the barrier, adds the other's.
    TEXT = '''
    declare void @convc_barrier(ptr)
    define void @step(ptr %argument, i64 %rank, i64 %parties) {
      %control = load ptr, ptr %argument
      %values = getelementptr i64, ptr %argument, i64 1
      %other.rank = sub i64 1, %rank
      %own = getelementptr i64, ptr %values, i64 %rank
      %other = getelementptr i64, ptr %values, i64 %other.rank
      %value = load i64, ptr %own
      %doubled = mul i64 %value, 2
      store i64 %doubled, ptr %own
      call void @convc_barrier(ptr %control)
      %seen = load i64, ptr %other
      call void @convc_barrier(ptr %control)
      %sum = add i64 %doubled, %seen
      store i64 %sum, ptr %own
      ret void
    }
    '''
    target, cache = host_target(), shared_cache()
    key = cache_key(TEXT, target, {"threads": 2})
    image = cache.get(key)
    found = image is not None
    if image is None:
        image = compile_object(TEXT, target)
        cache.put(key, image)
    library = link(image, ["step"], load_runtime().imports)
    pool = shared_pool(2)
    argument = (ctypes.c_int64 * 3)(pool.control, 3, 4)
    for _ in range(3):
        pool.launch(library["step"], ctypes.addressof(argument))
    print(json.dumps({"found": found, "values": argument[1:], "entries": len(cache.entries())}))
"""


def run(folder: Path) -> dict[str, object]:
    environment = {**os.environ, "CONVC_CACHE_DIR": str(folder), "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", textwrap.dedent(SCRIPT)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(done.stdout)


def test_a_step_from_the_cache_computes_the_same(tmp_path: Path) -> None:
    # 3, 4 -> 14, 14 -> 56, 56 -> 224, 224; the entries are the step and the thread runtime.
    assert run(tmp_path) == {"found": False, "values": [224, 224], "entries": 2}
    assert run(tmp_path) == {"found": True, "values": [224, 224], "entries": 2}
    for entry in (tmp_path / "objects").iterdir():
        entry.write_bytes(entry.read_bytes()[:-100])
    assert run(tmp_path) == {"found": False, "values": [224, 224], "entries": 2}
