"""Steps to bodies. The components of names say what stands inside of what; what reads what says whether that can be.

    res1.conv1, res1.bn1, skip1.conv1, res1.add   residual { conv -> bn } skip { conv }
    concat1.branch1.conv1, …, concat1             concat { branch { conv } … }
    aux1.fc1, aux1.loss1                          aux { fc -> loss }
    basic2.conv1, basic2.relu1                    a block, or `shared` where its layers run more than once
    conv1                                         a layer of this body

A body whose values are read outside of it, or that reads what it cannot see, is dissolved: its layers become layers of
the body around it, `res1_conv1`. So every graph of steps has a text, the flat one if nothing else fits.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from convc.frontend.decompiling.parts import Kind, Part, signature
from convc.frontend.decompiling.paths import Path, clipped, components, prefixes
from convc.frontend.decompiling.scopes import LONGEST, RESERVED, WORD, Scopes
from convc.frontend.decompiling.steps import JOINS, Step, default_text, kind_of
from convc.ir.graph import Value

_NUMBERED = re.compile(r"(res|skip|concat|aux)([1-9][0-9]*)")
_AUX = re.compile(r"aux[1-9][0-9]*")
_DEEPEST = 100  # bodies inside bodies; what lies deeper is no text that anybody wants to read
_ATTEMPTS = 200  # each dissolves some bodies; names that fit so badly say nothing about the structure


class _Dissolve(Exception):
    """Bodies under these prefixes cannot be bodies."""

    def __init__(self, *prefixes: Path) -> None:
        super().__init__(prefixes)
        self.prefixes = prefixes


class _OuterNames(Exception):
    """A shared part reads a value by its name outside, also where it is the one that the part begins with."""

    def __init__(self, prefix: Path) -> None:
        super().__init__(prefix)
        self.prefix = prefix


def structure(steps: Sequence[Step], logits: Value | None, *, flat: bool = False) -> list[Part]:
    """The body of the net that the steps come to; it ends with `logits` as its current value, where that is given."""
    paths = [clipped(step.path, _DEEPEST) for step in steps]
    everything = {path[:depth] for path in paths for depth in range(1, len(path))}
    dissolved = everything if flat else {prefix for prefix in everything if not WORD.fullmatch(prefix[-1])}
    outer: set[Path] = set()
    for _ in range(_ATTEMPTS):
        try:
            return _Builder(steps, paths, dissolved, outer, logits).net()
        except _OuterNames as error:
            outer.add(error.prefix)
        except _Dissolve as error:
            dissolved.update(error.prefixes)
    return _Builder(steps, paths, everything, outer, logits).net()


class _Builder:
    def __init__(
        self,
        steps: Sequence[Step],
        paths: Sequence[Path],
        dissolved: set[Path],
        outer: set[Path],
        logits: Value | None,
    ) -> None:
        self.steps = list(steps)
        self.outer = outer
        self.logits = logits
        self.paths = [components(path, dissolved) for path in paths]
        self.prefixes = [prefixes(path, dissolved) for path in paths]
        self.under: dict[Path, list[int]] = {}  # the steps of every body, by the prefix of their paths
        for number, path in enumerate(self.paths):
            for depth in range(1, len(path)):
                self.under.setdefault(path[:depth], []).append(number)
        self.readers: dict[Value, list[int]] = {}
        for number, step in enumerate(steps):
            for value in step.reads:
                self.readers.setdefault(value, []).append(number)
        self.scopes = Scopes()
        self.current: Value | None = None
        self.auxiliary = False  # in the body of a side loss
        self.shared: dict[str, Path] = {}
        self.owners: dict[tuple[str, ...], Part] = {}  # parameters -> the shared part around the layer that has them
        self.run: set[int] | None = None  # the steps of the shared part that is being read
        counts: dict[str, int] = {}
        for step in steps:
            for name in step.parameters:
                counts[name] = counts.get(name, 0) + 1
        self.multiple = {name for name, count in counts.items() if count > 1}

    def net(self) -> list[Part]:
        return self._body(range(len(self.steps)), 0, self.logits)

    # Bodies

    def _body(self, numbers: Sequence[int], depth: int, exit: Value | None) -> list[Part]:
        """The parts of the steps with these numbers, whose names have `depth` components in common."""
        parts: list[Part] = []
        position = 0
        while position < len(numbers):
            path = self.paths[numbers[position]]
            component = path[depth] if depth < len(path) else ""
            if depth + 1 >= len(path):
                self._single(numbers[position], component, parts)
                position += 1
                continue
            end = self._run(numbers, position, depth, {component})
            match = _NUMBERED.fullmatch(component)
            if match is not None and match[1] in ("res", "skip"):
                twins = {f"res{match[2]}", f"skip{match[2]}"}
                end = self._run(numbers, position, depth, twins)
                done = self._residual(numbers[position:end], depth, match[2], parts)
            elif match is not None and match[1] == "concat":
                done = self._branches(numbers[position:end], depth, component, parts)
            elif match is not None:
                done = self._aux(numbers[position:end], depth, component, parts)
            else:
                done = False
            if not done:
                end = self._run(numbers, position, depth, {component})
                self._group(numbers[position:end], depth, component, parts)
            position = end
        if exit is not None:
            self._go_to(exit, parts)
        return parts

    def _run(self, numbers: Sequence[int], start: int, depth: int, components: set[str]) -> int:
        """The end of the steps that follow each other under these components."""
        end = start
        while end < len(numbers):
            path = self.paths[numbers[end]]
            if depth >= len(path) or path[depth] not in components:
                break
            end += 1
        return end

    # Single statements

    def _single(self, number: int, component: str, parts: list[Part]) -> None:
        step = self.steps[number]
        if self.multiple.intersection(step.parameters) and self.run is None:
            self._shared_layer(number, component, parts)
            return
        if step.title in JOINS:
            self._join(step, component, parts)
            return
        if step.reads:
            self._go_to(step.reads[0], parts)
        part = Part("layer", component, step)
        if step.is_loss and not self.auxiliary and any(map(_AUX.fullmatch, step.path[:-1])):
            parts.append(Part("aux", bodies=[[part]]))  # the body around it is dissolved, but a side loss it stays
            return
        self._append(part, step.result, parts)
        self.current = step.result

    def _join(self, step: Step, component: str, parts: list[Part]) -> None:
        first, *others = step.reads
        if step.title == "concat" and re.fullmatch(r"concat[1-9][0-9]*", component) and set(others) == {first}:
            self._go_to(first, parts)
            part = Part("concat", component, bodies=[[] for _ in step.reads])
        else:
            # As the front end has it: where a map is spread, the current value may be either of the two.
            if step.node.op.name == "scale_maps" and self.current is others[0]:
                first, others = others[0], [first]
            self._go_to(first, parts)
            part = Part("join", component, step, [self.scopes.find(value) for value in others])
        self._append(part, step.result, parts)
        self.current = step.result

    def _append(self, part: Part, result: Value | None, parts: list[Part]) -> None:
        parts.append(part)
        if result is not None:
            self.scopes.bind(result, part)

    def _go_to(self, value: Value, parts: list[Part]) -> None:
        """Make a value the current one."""
        if self.current is not value:
            parts.append(Part("from", sources=[self.scopes.find(value)]))
            self.current = value

    # What a group of steps reads and delivers

    def _reads(self, numbers: Sequence[int]) -> list[Value]:
        """Values from outside, in the order in which they are read."""
        inside = {self.steps[number].result for number in numbers}
        return list(
            dict.fromkeys(value for number in numbers for value in self.steps[number].reads if value not in inside)
        )

    def _exports(self, numbers: Sequence[int]) -> list[Value]:
        """Values that are read outside."""
        inside = set(numbers)
        return [
            value
            for number in numbers
            if (value := self.steps[number].result) is not None
            and (value is self.logits or any(reader not in inside for reader in self.readers.get(value, ())))
        ]

    def _entry(self, reads: list[Value]) -> Value | None:
        """What a body begins with: the current value if it reads that."""
        return self.current if self.current in reads or not reads else reads[0]

    # Residuals

    def _residual(self, numbers: Sequence[int], depth: int, digits: str, parts: list[Part]) -> bool:
        body, skip = f"res{digits}", f"skip{digits}"
        last = self.steps[numbers[-1]]
        main = [number for number in numbers[:-1] if self.paths[number][depth] == body]
        side = [number for number in numbers[:-1] if self.paths[number][depth] == skip]
        if (
            last.title != "add"
            or self.paths[numbers[-1]][depth:] != (body, "add")
            or [*main, *side] != list(numbers[:-1])
        ):
            return False
        end, side_end = last.reads
        if set(self._exports(main)) - {end} or set(self._exports(side)) - {side_end}:
            raise _Dissolve(*self._under(numbers, depth))
        entry = side_end if not side else end if not main else self._entry(self._reads(side))
        assert entry is not None
        if not self._visible([*self._reads(numbers), entry]):
            raise _Dissolve(*self._under(numbers, depth))
        self._go_to(entry, parts)
        bodies = [self._inner(main, depth, entry, end), self._inner(side, depth, entry, side_end)]
        part = Part("residual", body, bodies=bodies)
        part.projects = self._projects(side, depth, end, entry)
        self._append(part, last.result, parts)
        self.current = last.result
        return True

    def _projects(self, side: Sequence[int], depth: int, main: Value, entry: Value) -> bool:
        """Whether a skip is the convolution that `skip auto` inserts where shapes differ."""
        if [self.paths[number][depth + 1 :] for number in side] != [("conv1",), ("bn1",)]:
            return False
        conv, bn = (self.steps[number] for number in side)
        if conv.reads != (entry,) or (conv.title, bn.title) != ("conv", "bn") or main.shape == entry.shape:
            return False
        strides = [(before - 1) // after + 1 for before, after in zip(entry.shape[2:], main.shape[2:], strict=True)]
        wanted = {"filters": str(main.shape[1]), "k": "1", "s": _pair(strides), "bias": "no"}
        return all(
            step.arguments.get(key) == text
            for step, given in ((conv, _defaults("conv") | wanted), (bn, _defaults("bn")))
            for key, text in given.items()
        )

    # Branches and side losses

    def _branches(self, numbers: Sequence[int], depth: int, component: str, parts: list[Part]) -> bool:
        last = self.steps[numbers[-1]]
        joined = last.title == "concat" and len(self.paths[numbers[-1]]) == depth + 1
        inner = list(numbers[:-1] if joined else numbers)
        groups: dict[int, list[int]] = {}
        for number in inner:
            match = re.fullmatch(r"branch([1-9][0-9]*)", self.paths[number][depth + 1])
            if match is None or len(self.paths[number]) < depth + 3 or any(key > int(match[1]) for key in groups):
                return False
            groups.setdefault(int(match[1]), []).append(number)
        count = len(last.reads) if joined else 1
        if not groups or max(groups) > count:
            return False
        ends = list(last.reads) if joined else self._exports(inner)[:1] or [self.steps[inner[-1]].result]
        if ends == [None]:  # a branch that ends in a side loss passes on what it began with
            ends = [self._entry(self._reads(inner))]
        for number in range(1, count + 1):
            if set(self._exports(groups.get(number, []))) - {ends[number - 1]} or ends[number - 1] is None:
                raise _Dissolve(*self._under(numbers, depth), *self._under(inner, depth + 1))
        plain = [ends[number - 1] for number in range(1, count + 1) if number not in groups]
        entry = plain[0] if plain else self._entry(self._reads(inner))
        assert entry is not None
        if not self._visible([*self._reads(inner), entry, *(end for end in plain if end is not None)]):
            raise _Dissolve(*self._under(numbers, depth), *self._under(inner, depth + 1))
        self._go_to(entry, parts)
        bodies = [
            self._inner(groups.get(number, []), depth + 1, entry, ends[number - 1]) for number in range(1, count + 1)
        ]
        result = last.result if joined else ends[0]
        self._append(Part("concat", component, bodies=bodies), result, parts)
        self.current = result
        return True

    def _aux(self, numbers: Sequence[int], depth: int, component: str, parts: list[Part]) -> bool:
        if not self.steps[numbers[-1]].is_loss or self._exports(numbers):
            return False
        reads = self._reads(numbers)
        entry = self._entry(reads)
        if entry is None or not self._visible(reads):
            return False
        self._go_to(entry, parts)
        around, self.auxiliary = self.auxiliary, True
        body = self._inner(numbers, depth, entry, None)
        self.auxiliary = around
        parts.append(Part("aux", component, bodies=[body]))
        self.current = entry
        return True

    def _inner(self, numbers: Sequence[int], depth: int, entry: Value, exit: Value | None) -> list[Part]:
        """A body that begins with `entry` and sees the bodies around it."""
        self.current = entry
        with self.scopes.body():
            return self._body(numbers, depth + 1, exit)

    def _visible(self, values: Sequence[Value]) -> bool:
        return all(value is self.current or self.scopes.visible(value) for value in values)

    def _under(self, numbers: Sequence[int], depth: int) -> list[Path]:
        """The prefixes of the graph's own paths that end at this depth."""
        return list({self.prefixes[number][depth] for number in numbers if depth < len(self.prefixes[number])})

    # Blocks and shared parts

    def _group(self, numbers: Sequence[int], depth: int, component: str, parts: list[Part]) -> None:
        prefix = self.paths[numbers[0]][: depth + 1]
        everywhere = [number for number in self.under[prefix] if self.run is None or number in self.run]
        runs = self._runs(numbers, everywhere)
        if runs is not None:
            self._shared_group(runs, numbers, depth, component, prefix, parts)
            return
        if len(everywhere) > len(numbers):
            raise _Dissolve(*self._under(everywhere, depth))
        reads, exports = self._reads(numbers), self._exports(numbers)
        if len(exports) > 1 or not reads or not self._visible(reads):
            raise _Dissolve(*self._under(numbers, depth))
        kind: Kind = "block" if len(reads) == 1 else "shared"
        entry = self._entry(reads)
        assert entry is not None
        if kind == "shared" and not self._claim(component, prefix):
            raise _Dissolve(*self._under(numbers, depth))
        self._go_to(entry, parts)
        body, result = self._own_body(numbers, depth, entry, exports, closed=kind == "block")
        self._append(Part(kind, component, bodies=[body]), result, parts)
        self.current = result

    def _runs(self, numbers: Sequence[int], everywhere: list[int]) -> list[list[int]] | None:
        """The runs of a shared part, each the same layers; None for a body that runs once."""
        first = self.paths[everywhere[0]]
        runs: list[list[int]] = []
        for number in everywhere:
            if self.paths[number] == first:
                runs.append([])
            runs[-1].append(number)
        paths = {tuple(self.paths[number] for number in run) for run in runs}
        together = all(run[-1] - run[0] == len(run) - 1 for run in runs)
        return runs if len(runs) > 1 and len(paths) == 1 and together else None

    def _claim(self, component: str, prefix: Path) -> bool:
        """Take the name of a shared part, which is one for the whole net."""
        if component in RESERVED:
            return False
        return self.shared.setdefault(component, prefix) == prefix

    def _shared_group(
        self, runs: list[list[int]], numbers: Sequence[int], depth: int, component: str, prefix: Path, parts: list[Part]
    ) -> None:
        if not self._claim(component, prefix):
            raise _Dissolve(*self._under(numbers, depth))
        for run in runs:
            if run[0] not in numbers:
                continue
            reads, exports = self._reads(run), self._exports(run)
            entry = self._entry(reads)
            if len(exports) > 1 or entry is None or not self._visible(reads):
                raise _Dissolve(*self._under(numbers, depth))
            self._go_to(entry, parts)
            known = self.owners.get(("", *prefix))
            used = set(self.scopes.used)
            if known is not None:
                self.scopes.used = set(known.taken)
            names = frozenset(self.scopes.used)
            around, owners = self.run, self.owners
            self.run, self.owners = set(run), dict(owners)
            body, result = self._own_body(run, depth, entry, exports, closed=False, outer=prefix in self.outer)
            self.run, self.owners = around, owners
            if known is None:
                part = Part("shared", component, bodies=[body], taken=names)
                self.owners[("", *prefix)] = part
            else:
                if signature(body) != signature(known.bodies[0]):
                    if prefix not in self.outer:
                        raise _OuterNames(prefix)
                    raise _Dissolve(*self._under(numbers, depth))
                self.scopes.used |= used
                part = Part("reuse", component)
            self._append(part, result, parts)
            self.current = result

    def _own_body(
        self,
        numbers: Sequence[int],
        depth: int,
        entry: Value,
        exports: list[Value],
        *,
        closed: bool,
        outer: bool = False,
    ) -> tuple[list[Part], Value | None]:
        """A body that begins with a value of its own name, and what it delivers."""
        start = Part("start")
        self.current = entry
        with self.scopes.own(entry, start, closed=closed, outer=outer):
            body = self._body(numbers, depth + 1, exports[0] if exports else None)
        return [start, *body], self.current

    def _shared_layer(self, number: int, component: str, parts: list[Part]) -> None:
        """A layer whose parameters other layers have, too, and whose name does not say where: a part of its own."""
        step = self.steps[number]
        known = self.owners.get(step.parameters)
        if known is None:
            name = re.sub(r"\W", "_", component, flags=re.ASCII)[:LONGEST] or "part"
            while name in self.shared or name in RESERVED or not WORD.fullmatch(name):
                name = f"{name}_" if WORD.match(name) else f"_{name}"
            self.shared[name] = ("", name)
        self._go_to(step.reads[0], parts)
        if known is None:
            part = Part("shared", name, bodies=[[Part("start"), Part("layer", "", step)]])  # type: ignore[reportPossiblyUnbound]
            self.owners[step.parameters] = part
        else:
            part = Part("reuse", known.component)
        self._append(part, step.result, parts)
        self.current = step.result


def _pair(numbers: list[int]) -> str:
    return str(numbers[0]) if len(set(numbers)) == 1 else "x".join(map(str, numbers))


def _defaults(title: str) -> dict[str, str | None]:
    return {p.key: default_text(p) for p in kind_of(title).parameters if p.key not in ("filters", "k")}
