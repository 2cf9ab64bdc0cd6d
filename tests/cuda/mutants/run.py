"""Breaks the CUDA kernels, one place at a time, and tells what noticed.

python -m tests.cuda.mutants.run                  all mutants
python -m tests.cuda.mutants.run "pool*" "sum.cu: one*"   those whose names match
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from fnmatch import fnmatchcase

from tests.cuda.mutants.catalogue import benches, every_mutant
from tests.cuda.mutants.equivalent import EQUIVALENT
from tests.cuda.mutants.judging import Verdict, judge


def main() -> int:
    patterns = sys.argv[1:]
    chosen = [m for m in every_mutant() if not patterns or any(fnmatchcase(m.name, f"{p}*") for p in patterns)]
    verdicts: list[Verdict] = []
    for mutant in chosen:
        started = time.monotonic()
        verdict = judge(mutant, benches(mutant.file))
        verdicts.append(verdict)
        known = " (equivalent)" if mutant.name in EQUIVALENT else ""
        print(
            f"{time.monotonic() - started:5.1f} {verdict.fate:9}{known} {mutant.name}\n        {verdict.by}", flush=True
        )
    fates = Counter(verdict.fate for verdict in verdicts)
    proven = sum(v.fate in ("survived", "same code") and v.mutant.name in EQUIVALENT for v in verdicts)
    valid = len(verdicts) - fates["refused"]
    print(f"{fates['killed']} of {valid} mutants killed, {proven} proven equivalent, {fates}")
    return 0 if fates["killed"] + proven == valid else 1


if __name__ == "__main__":
    sys.exit(main())
