"""A planted fault: one small wrong edit to the compiler, which the test suite has to notice."""

from __future__ import annotations

import hashlib
from dataclasses import astuple, dataclass
from pathlib import Path

# What runs after the tests that are named for a mutant, where these notice nothing.
REST = (
    "tests/ir",
    "tests/passes",
    "tests/runtime/test_gradcheck.py",
    "tests/runtime/test_gradcheck_passes.py",
    "tests/runtime/test_numerics.py",
    "tests/runtime/test_program.py",
    "tests/codegen/test_training_step.py",
    "tests/codegen/test_prepared.py",
    "tests/codegen/test_nets.py",
)


class DoesNotApply(Exception):
    """The text that a mutant replaces is not there, or not unique: the catalogue has to follow the code."""


@dataclass(frozen=True)
class Mutant:
    """Replaces `before`, which stands once in `file` (below `convc/`), by `after`; `breaks` says what is wrong then.

    `tests` are those that are most likely to notice, files or folders below `tests/`.
    """

    name: str
    file: str
    before: str
    after: str
    breaks: str
    tests: tuple[str, ...]

    def applied(self, root: Path) -> str:
        """The text of the file with the fault. Error: `DoesNotApply`."""
        path = root / "convc" / self.file
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        count = text.count(self.before)
        if count != 1:
            raise DoesNotApply(f"{self.name}: its text stands {count} times in convc/{self.file}, not once")
        return text.replace(self.before, self.after)

    def digest(self, root: Path) -> str:
        """Changes with the mutant and with the file that it edits."""
        text = (root / "convc" / self.file).read_text(encoding="utf-8")
        return hashlib.sha256("\0".join((*map(str, astuple(self)), text)).encode()).hexdigest()[:16]
