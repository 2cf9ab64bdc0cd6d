"""Golden files of passes: IR text before, IR text and log after.

    [case name]
    [pass] specialize mode=train
    [in]
    convc-ir 1
    …
    [out]
    …                       or the word `unchanged`
    [log]
    changed dropout  …

`UPDATE_GOLDEN=1 pytest tests/passes` writes what comes out into [out] and [log]; read the difference before keeping it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from pathlib import Path

from convc.ir.graph import Graph
from convc.ir.ops import OPS
from convc.ir.ops.update import Update
from convc.ir.parser import parse_ir
from convc.passes.base import Pass
from convc.passes.canonicalize import Canonicalize
from convc.passes.choose_algorithms import ChooseAlgorithms
from convc.passes.common_subexpressions import CommonSubexpressions
from convc.passes.dead_code import DeadCode
from convc.passes.fold_batch_norm import FoldBatchNorm
from convc.passes.fold_constants import FoldConstants
from convc.passes.fold_input_scale import FoldInputScale
from convc.passes.recompute import Recompute
from convc.passes.separate_moments import SeparateMoments
from convc.passes.specialize import Specialize
from convc.passes.training import LossScaling, Training

FOLDER = Path(__file__).parent / "golden"
CLEAN_UPS = (FoldConstants, CommonSubexpressions, Canonicalize, FoldBatchNorm, FoldInputScale)
PASSES: dict[str, type[Pass]] = {
    kind.name: kind
    for kind in (DeadCode, Specialize, Training, Recompute, *CLEAN_UPS, ChooseAlgorithms, SeparateMoments)
}
UNCHANGED = "unchanged\n"


@dataclass(frozen=True)
class Case:
    """One case; `sections` are its texts by the word in brackets."""

    file: str
    name: str
    sections: dict[str, str] = field(default_factory=dict)

    @property
    def id(self) -> str:
        return f"{self.file}:{self.name}"

    def graph(self) -> Graph:
        return parse_ir(self.sections["in"], file=self.id)

    def step(self) -> Pass:
        """The pass under test: its name, then `option=value`; an optimiser's options follow its name."""
        name, *words = self.sections["pass"].split()
        options = {key: _value(text) for key, text in (word.split("=") for word in words)}
        kind = PASSES[name]
        if "scaling" in options:
            scale = options["scaling"]
            options["scaling"] = LossScaling(scale, dynamic=False) if isinstance(scale, float) else LossScaling()
        if "optimizer" in options:
            optimizer = OPS[str(options.pop("optimizer"))]
            assert issubclass(optimizer, Update)
            own = {key: options.pop(key) for key in list(options) if key in optimizer.__dataclass_fields__}
            options["optimizer"] = optimizer(**own)  # type: ignore[arg-type]
        return kind(**options)  # type: ignore[arg-type]

    def with_results(self, out: str, log: str) -> Case:
        return replace(self, sections=self.sections | {"out": out, "log": log})

    def text(self) -> str:
        lines = [f"[case {self.name}]\n", f"[pass] {self.sections['pass'].strip()}\n"]
        lines += [
            f"[{word}]\n{self.sections[word].strip()}\n" for word in ("in", "out", "log") if word in self.sections
        ]
        return "".join(lines)


def read_cases(path: Path) -> list[Case]:
    """All cases of a golden file."""
    pieces = re.split(r"^\[case (\w+)\]\n", path.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    cases: list[Case] = []
    for name, body in zip(pieces[::2], pieces[1::2], strict=True):
        words = re.split(r"^\[(pass|in|out|log)\][ \n]", body, flags=re.MULTILINE)[1:]
        texts = {word: text.strip() + "\n" for word, text in zip(words[::2], words[1::2], strict=True)}
        cases.append(Case(path.name, name, texts))
    return cases


def write_cases(path: Path, cases: list[Case]) -> None:
    path.write_text("\n".join(case.text() for case in cases), encoding="utf-8")


def _value(text: str) -> object:
    if text in ("true", "false"):
        return text == "true"
    try:
        return int(text) if text.isdecimal() else float(text)
    except ValueError:
        return text
