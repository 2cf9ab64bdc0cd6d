"""The statements that take the place of a layer, in the spelling of the old one as far as it goes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import count

from convc.frontend import syntax
from convc.frontend.rewriting.expressions import (
    NATURAL,
    Slice,
    Ways,
    Written,
    best,
    boolean_ways,
    joined,
    number_ways,
    same_window,
    written_arguments,
)
from convc.frontend.rewriting.substitute import NewLayer, Substitute
from convc.frontend.rewriting.tracing import Execution
from convc.lazy import dataclass

# What is not about the form of the layer: it goes on to the new ones.
_KEPT = ("init", "freeze", "lr", "decay", "precision")
_WINDOW = {"k": None, "s": 1, "pad": 0, "dil": 1}
_WIDTH = {"conv": "filters", "fc": "outputs"}
# Ways to compute a convolution that serve any.
_GENERAL = ("auto", "direct", "im2col")

Run = tuple[Execution, Substitute]


@dataclass(frozen=True)
class Statements:
    """A chain of statements on one line, and what of the old one they could not keep."""

    text: str
    dropped: tuple[str, ...] = ()


def statements(runs: Sequence[Run], slice: Slice, is_free: Callable[[str], bool]) -> Statements | None:
    """One text that is right in all runs of a statement; None if there is none.

    `slice` gives the text at a place, `is_free` tells whether a name is used nowhere in the file.
    """
    forms = {tuple(layer.word for layer in substitute.layers) for _, substitute in runs}
    if len(forms) > 1:
        return None
    writer = _Writer(runs, slice)
    texts = [writer.layer(index, is_free) for index in range(len(runs[0][1].layers))]
    known = [text for text in texts if text is not None]
    if len(known) < len(texts):
        return None
    return Statements(" -> ".join(known), writer.dropped)


class _Writer:
    """The runs of one statement side by side."""

    def __init__(self, runs: Sequence[Run], slice: Slice) -> None:
        self.substitutes = [substitute for _, substitute in runs]
        self.written = [written_arguments(execution, slice) for execution, _ in runs]
        self.name = runs[0][0].path.rpartition(".")[2] if "name" in self.written[0] else None
        weighted = [index for index, layer in enumerate(self.substitutes[0].layers) if layer.has_parameters]
        self.weighted, self.last = weighted, weighted[-1]
        algorithm = self.written[0].get("algo")
        self.general = algorithm is None or _word(algorithm) in _GENERAL
        self.dropped = () if algorithm is None or self.general else (algorithm.text,)

    def layer(self, index: int, is_free: Callable[[str], bool]) -> str | None:
        layers = [substitute.layers[index] for substitute in self.substitutes]
        word = layers[0].word
        if not layers[0].has_parameters:
            return word
        width = best([self._width(run, index) for run in range(len(layers))])
        pieces: list[str | None] = [width]
        if word == "conv":
            pieces += [self._window(index, key, layers) for key in _WINDOW]
            groups = best([self._groups(run, index) for run in range(len(layers))])
            pieces.append(groups if groups is None else _unless(groups, "1", "groups"))
        bias = best([self._bias(run, layer) for run, layer in enumerate(layers)])
        pieces.append(bias if bias is None else _unless(bias, "yes", "bias"))
        if None in pieces:
            return None
        kept = [self._kept(key, written, index) for key, written in self.written[0].items()]
        name = f"name={self._new_name(index, is_free)}" if self.name is not None else ""
        return " ".join(piece for piece in (word, *pieces, *kept, name) if piece)

    def _old(self, run: int, key: str, index: int) -> Written | None:
        """The old argument, if its expression means the same in the place of this layer."""
        written = self.written[run].get(key)
        return None if written is None or (index > 0 and written.reads_channels) else written

    def _width(self, run: int, index: int) -> Ways:
        """Filters or outputs."""
        substitute = self.substitutes[run]
        layer, inner = substitute.layers[index], substitute.chosen and index != self.last
        key = _WIDTH[layer.word]
        number = layer.arguments[key]
        assert isinstance(number, int)
        ways = number_ways(number, self._old(run, key, index), 0, usual=None, inner=inner)
        if number == layer.channels == layer.arguments.get("groups") and number > 1:
            ways = {"in": NATURAL, **ways}
        return ways

    def _groups(self, run: int, index: int) -> Ways:
        layer = self.substitutes[run].layers[index]
        number = layer.arguments["groups"]
        assert isinstance(number, int)
        ways = number_ways(number, self._old(run, "groups", index), 0, usual=1)
        return {"in": NATURAL, **ways} if number == layer.channels > 1 else ways

    def _bias(self, run: int, layer: NewLayer) -> Ways:
        bias = layer.arguments["bias"]
        assert isinstance(bias, bool)
        return boolean_ways(bias, self.written[run].get("bias"))

    def _window(self, index: int, key: str, layers: Sequence[NewLayer]) -> str | None:
        """`k=3`, or nothing where it is the default."""
        if all(
            same_window(layer.arguments, substitute.old.arguments)
            for layer, substitute in zip(layers, self.substitutes, strict=True)
        ):
            old = self.written[0].get(key)
            if old is None or index == 0 or not old.reads_channels:
                return "" if old is None else old.text
        usual = _WINDOW[key]
        texts: list[str] = []
        for part in range(4 if key == "pad" else 2):
            alternatives: list[Ways] = []
            for run, layer in enumerate(layers):
                numbers = layer.arguments[key]
                assert isinstance(numbers, tuple)
                alternatives.append(number_ways(numbers[part], self._old(run, key, index), part, usual=usual))
            text = best(alternatives)
            if text is None:
                return None
            texts.append(text)
        return _unless(joined(texts), str(usual), key)

    def _kept(self, key: str, written: Written, index: int) -> str:
        """An argument that goes on to this layer; nothing where it would make no sense."""
        if key == "algo" and self.general:
            return written.text
        if key == "dropconnect" and index == self.last:
            return written.text
        if key not in _KEPT:
            return ""
        # A product of zeros has no gradient: one factor has to begin with something else.
        if key == "init" and index != self.last and _is_constant(written.expression):
            return ""
        return written.text

    def _new_name(self, index: int, is_free: Callable[[str], bool]) -> str:
        assert self.name is not None
        if len(self.weighted) == 1:
            return self.name
        number = self.weighted.index(index) + 1
        return next(name for length in count(1) if is_free(name := f"{self.name}{'_' * length}{number}"))


def _unless(text: str, usual: str, key: str) -> str:
    return "" if text == usual else f"{key}={text}"


def _word(written: Written) -> str | None:
    return written.expression.name if isinstance(written.expression, syntax.Name) else None


def _is_constant(expression: syntax.Expression) -> bool:
    """Whether an initialiser gives all weights the same value."""
    if isinstance(expression, syntax.Call):
        return expression.function == "const"
    return isinstance(expression, syntax.Name) and expression.name == "zeros"
