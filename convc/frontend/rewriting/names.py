"""What layers and parameters of a net are called after the rewrite: both nets are walked side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from convc.frontend.emission import Layer
from convc.frontend.rewriting.substitute import Substitute
from convc.lazy import dataclass


class Mismatch(Exception):
    """The rewritten net differs in more than the layers that were to be replaced."""


@dataclass(frozen=True)
class Names:
    """`parameters` has the new names of all parameters that were kept, `layers` what stands for a replaced layer,
    `net` all layers of the new net."""

    parameters: Mapping[str, str]
    layers: Mapping[str, tuple[Layer, ...]]
    net: tuple[Layer, ...]

    @property
    def renamed(self) -> dict[str, str]:
        return {old: new for old, new in self.parameters.items() if old != new}


def correspondence(old: Sequence[Layer], new: Sequence[Layer], substitutes: Mapping[str, Substitute]) -> Names:
    """Which new layers stand for which old ones. Raises `Mismatch` where shapes or kinds differ."""
    parameters: dict[str, str] = {}
    layers: dict[str, tuple[Layer, ...]] = {}
    position = 0
    for before in old:
        substitute = substitutes.get(before.name)
        count = 1 if substitute is None else len(substitute.layers)
        after = tuple(new[position : position + count])
        position += count
        kinds = (before.kind,) if substitute is None else tuple(layer.word for layer in substitute.layers)
        if tuple(layer.kind for layer in after) != kinds:
            raise Mismatch(f"{before.name} has become {', '.join(layer.kind for layer in after) or 'nothing'}")
        if (after[0].input, after[-1].output) != (before.input, before.output):
            raise Mismatch(f"{before.name} has other shapes: {after[0].input} -> {after[-1].output}")
        if substitute is not None:
            layers.setdefault(before.name, after)
            continue
        if len(before.parameters) != len(after[0].parameters):
            raise Mismatch(f"{before.name} has other parameters: {', '.join(after[0].parameters)}")
        for one, other in zip(before.parameters, after[0].parameters, strict=True):
            if parameters.setdefault(one, other) != other:
                raise Mismatch(f"{one} has become {parameters[one]} and {other}")
    if position != len(new):
        raise Mismatch(f"there are {len(new) - position} layers more")
    return Names(parameters, layers, tuple(new))
