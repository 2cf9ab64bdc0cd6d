"""Random programs with some of their layers replaced: the text changes, what is computed does not."""

from __future__ import annotations

from hypothesis import given, reject, settings
from hypothesis import strategies as st

from convc.frontend import loads
from convc.frontend.formatter import format_text
from convc.ir.diagnostic import CompileError
from convc.passes.rewriting.layer import Layer
from convc.passes.rewriting.matching import candidates
from convc.passes.rewriting.table import parse_request
from tests.frontend.rewriting import rewritten

# Statements that keep the shape, so that every program of them is a net.
PLAIN = (
    "relu", "bn", "conv in k=3 pad=1", "conv 2 k=3 pad=1 bias=no", "conv in k=1", "let c = in -> conv c k=3 pad=same",
    "unit", "unit", "pair 3", "pair 1", "pair(3, wide=yes)", "chain 2", "as a", "as b", "add a", "add a, b", "add b",
    "reuse part", "reuse part", "conv(in, k=3, pad=(1, 1))",
)  # fmt: skip
BLOCKS = """
block unit { as x -> conv in k=3 pad=1 -> relu -> add x }
block pair(k, wide = no) {
  residual { conv in k=k pad=k//2 -> unit }
  if wide { for i in 0..2 { conv in k=3 pad=1 } } else { relu }
}
block chain(n) { conv in k=3 pad=1 -> if n > 0 { chain(n - 1) -> relu } }
"""


def nest(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.one_of(
        st.builds("residual {{ {} }} skip {{ {} }}".format, inner, inner),
        st.builds("concat {{ branch {{ {} }} branch {{ {} }} }} -> conv 2 k=1".format, inner, inner),
        st.builds("repeat 3 {{ {} }}".format, inner),
        st.builds("for i in 1..4 {{ {} -> if i == 2 {{ {} }} }}".format, inner, inner),
        st.builds("for c, t in [(2, 1), (2, 2)] {{ {} -> repeat t {{ conv c k=3 pad=1 }} }}".format, inner),
        st.builds("{} -> {}".format, inner, inner),
    )


bodies = st.recursive(st.sampled_from(PLAIN), nest, max_leaves=6)


@given(st.lists(bodies, min_size=1, max_size=4), bodies, st.data())
@settings(max_examples=20, deadline=None)
def test_programs(parts: list[str], shared: str, data: st.DataObject) -> None:
    shared = shared.replace("reuse part", "relu")
    start = f"as a -> as b -> repeat 2 {{ shared part {{ {shared} }} -> relu }}"
    text = format_text(f"{BLOCKS}\nnet n {{ input 2x5x5\n {' -> '.join([start, *parts])} -> fc 2 }}")
    try:
        net = loads(text)
    except CompileError:  # a constant twice in one body
        reject()
    rule = parse_request("factorize").rule
    paths = [path for path, node in candidates(net.graph(1)).items() if rule.refusal(Layer.of(node)) is None]
    if not paths:
        reject()
    chosen = data.draw(st.lists(st.sampled_from(paths), min_size=1, unique=True))
    result, _ = rewritten(net, f"factorize:{','.join(chosen)}:rank=99")
    assert format_text(result.text) == result.text
    count = sum(layer.kind == "conv" for layer in net.layers)
    uses = sum(layer.name in chosen for layer in net.layers)
    assert sum(layer.kind == "conv" for layer in result.net.layers) == count + uses
