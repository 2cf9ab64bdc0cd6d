"""The rules by name, and how a command line asks for them: `factorize:conv3_*:rank=24`."""

from __future__ import annotations

import sys
from fnmatch import fnmatchcase
from inspect import cleandoc

from convc.ir.diagnostic import fail
from convc.lazy import dataclass
from convc.passes.options import BadOption, UnknownOption, known, read_options
from convc.passes.rewriting.bottleneck import Bottleneck
from convc.passes.rewriting.depthwise import DepthwiseSeparable
from convc.passes.rewriting.factorize import Factorize
from convc.passes.rewriting.low_rank import LowRank
from convc.passes.rewriting.replacement import Rule
from convc.passes.rewriting.stack3x3 import Stack3x3

RULES: dict[str, type[Rule]] = {
    kind.name: kind for kind in (Stack3x3, Factorize, LowRank, DepthwiseSeparable, Bottleneck)
}


@dataclass(frozen=True)
class Request:
    """A rule, and the layers that it is wanted for; without patterns for all that it can replace. `text` is what was
    typed."""

    text: str
    rule: Rule
    patterns: tuple[str, ...]

    def wants(self, path: str) -> bool:
        """Whether one of the patterns means a layer: its whole path, or that of a block around it."""
        return not self.patterns or any(
            fnmatchcase(part, pattern) for part in _parts(path) for pattern in self.patterns
        )

    def unmatched(self, paths: list[str]) -> list[str]:
        """Patterns that mean none of the layers."""
        return [
            pattern
            for pattern in self.patterns
            if not any(fnmatchcase(part, pattern) for path in paths for part in _parts(path))
        ]


def parse_request(text: str) -> Request:
    """`NAME`, `NAME:PATTERN,…`, `NAME:PATTERN:option=value:…`.

    Errors: `name-rewrite`, `name-rewrite-option`, `value-rewrite-option`.
    """
    name, *rest = (part.strip() for part in text.split(":"))
    kind = RULES.get(name)
    if kind is None:
        fail("name-rewrite", f"there is no rule `{name}`", hint=known(name, RULES))
    items = [item.strip() for part in rest for item in part.split(",") if item.strip()]
    try:
        values = read_options(kind, name, [item for item in items if "=" in item])
    except UnknownOption as error:
        fail("name-rewrite-option", f"the rule {error}", hint=error.hint)
    except BadOption as error:
        fail("value-rewrite-option", str(error))
    return Request(text, kind(**values), tuple(item for item in items if "=" not in item))


def explanation(kind: type[Rule]) -> str:
    """What a rule does, in a sentence: the beginning of its module's docstring."""
    return " ".join(cleandoc(sys.modules[kind.__module__].__doc__ or "").partition("\n\n")[0].split())


def _parts(path: str) -> list[str]:
    """`basic2.res1.conv1`, `basic2.res1`, `basic2`."""
    parts = path.split(".")
    return [".".join(parts[:count]) for count in range(len(parts), 0, -1)]
