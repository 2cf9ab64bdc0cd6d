"""Random programs and graphs, to text and back."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, reject, settings
from hypothesis import strategies as st

from convc.frontend import loads
from convc.frontend.decompile import decompile
from convc.frontend.formatter import format_text
from convc.ir.diagnostic import CompileError
from convc.ir.equivalence import difference
from convc.ir.graph import Graph, Initializer
from tests.strategies import graphs

# Statements that keep the shape, so that every program of them is a net.
PLAIN = (
    "relu", "tanh", "bn", "bn", "linear", "conv in k=3 pad=1", "conv in k=1 bias=no", "conv in k=3x1 pad=same",
    "conv in k=3 pad=1 freeze=yes", "conv in k=1 lr=0.5 name=special", "dropout 0.5", "pool max 3 s=1 pad=1", "prelu",
    "as a", "as b", "unit", "unit", "pair 3", "pair 5", "unit name=other", "aux { fc 3 -> loss softmax weight=0.3 }",
)  # fmt: skip
LATER = ("from a", "add a", "mul b", "add a, b", "reuse part", "concat a -> conv 2 k=1")


def nest(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.one_of(
        st.builds("residual {{ {} }}".format, inner),
        st.builds("residual {{ {} }} skip {{ {} }}".format, inner, inner),
        st.builds("residual {{ {} -> conv 3 k=3 pad=1 bias=no -> bn }} skip auto -> conv 2 k=1".format, inner),
        st.builds("concat {{ branch {{ {} }} branch {{ {} }} branch {{ }} }} -> conv 2 k=1".format, inner, inner),
        st.builds("concat {{ branch {{ {} }} }}".format, inner),
        st.builds("repeat 3 {{ {} }}".format, inner),
        st.builds("{} -> {}".format, inner, inner),
    )


bodies = st.recursive(st.sampled_from(PLAIN), nest, max_leaves=10)
BLOCKS = """
block unit { as x -> conv in k=1 -> bn -> relu -> add x }
block pair(k) { residual { conv in k=k pad=k//2 -> unit } -> dropout 0.25 }
"""


def unique(text: str) -> str:
    """Names are given once in a body; only the first `name=` stays."""
    for word in ("special", "other"):
        first, *others = text.split(f" name={word}")
        text = first + (f" name={word}" if others else "") + "".join(others)
    return text


@given(st.lists(st.one_of(bodies, st.sampled_from(LATER)), max_size=8), bodies, st.booleans(), st.booleans())
@settings(max_examples=60, deadline=None)
def test_programs(parts: list[str], shared: str, loss: bool, looped: bool) -> None:
    end = " -> fc 4 -> loss softmax" if loss else ""
    shared = shared.replace(" name=special", "").replace(" name=other", "")
    loop = "relu" if looped else "tanh"
    start = f"as a -> as b -> repeat 2 {{ shared part {{ {shared} }} -> {loop} }}"
    text = unique(" -> ".join([start, *parts]))
    try:
        graph = loads(f"{BLOCKS}\nnet n {{ input 2x6x6 -> {text}{end} }}").graph(2)
    except CompileError:  # a name twice, by way of a loop
        reject()
    result = decompile(graph)
    twin = loads(result.text).graph(2)
    assert difference(graph, twin) is None
    assert list(twin.parameters) == list(graph.parameters), result.text
    numbered = decompile(graph, keep_names=False)
    assert "name=" not in numbered.text
    assert difference(graph, loads(numbered.text).graph(2), ordered=False) is None


def standard(graph: Graph) -> Graph:
    """With the initialisers that layers of the language have."""
    for name, parameter in graph.parameters.items():
        shape = parameter.value.shape
        initial = Initializer("const", 1.0) if parameter.role in ("gamma", "var") else Initializer()
        if parameter.role == "slope":
            initial = Initializer("const", 0.25)
        if parameter.role == "weight":
            area = shape[2] * shape[3] if len(shape) == 4 else 1
            initial = Initializer("he", 0.0, shape[1] * area, shape[0] * area)
        graph.parameters[name] = replace(parameter, initial=initial)
    return graph


@given(graphs())
@settings(max_examples=60, deadline=None)
def test_graphs(graph: Graph) -> None:
    graph = standard(graph)
    result = decompile(graph)
    assert format_text(result.text) == result.text
    assert difference(graph, loads(result.text).graph(graph.inputs["x"].shape[0]), ordered=False) is None
    assert result.renamed == {}
