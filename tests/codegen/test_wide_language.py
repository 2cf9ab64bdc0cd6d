"""Nets that join, weigh, normalise and resample, natively against the interpreter: training steps and inference."""

from __future__ import annotations

import pytest

from convc.frontend import loads
from convc.ir.graph import Graph
from convc.ir.ops.update import SgdUpdate
from tests.codegen.test_nets import assert_right
from tests.codegen.whole_net import lowered

NETS = {
    "u_net": """net n { input 2x8x12
        conv 5 k=3 pad=1 -> relu as skip[0] -> pool max 2 -> conv 6 k=3 pad=1 -> bn -> relu as skip[1] -> pool max 2
        conv 7 k=3 pad=1 -> relu -> deconv 6 k=2 s=2 -> concat skip[1] -> conv 5 k=3 pad=1 -> relu
        deconv 5 k=3 s=2 pad=1 out_pad=1 -> relu -> concat skip[0] -> conv 3 k=1 -> loss softmax }""",
    "inception": """net n { input 3x7x5
        concat { branch { conv 3 k=1 -> relu } branch { linear } branch { pool max 3 s=1 pad=1 -> conv 2 k=1 -> bn } }
        relu -> conv 6 k=3 -> fc 4 -> loss softmax }""",
    "squeeze_and_excite": """net n { input 3x6x5
        conv 6 k=3 -> relu as x -> pool avg global -> conv 3 k=1 -> relu -> conv in*2 k=1 -> sigmoid as g
        from x -> mul g -> relu -> fc 5 -> loss hinge margin=0.7 }""",
    "dense": """net n { input 3x6x5 -> conv 5 k=3 pad=1 -> relu as x[0] -> conv 18 k=1 -> concat x[0] as x[1]
        bn -> relu -> conv 7 k=3 pad=1 -> concat x[1] -> sigmoid -> bn -> fc 4 -> loss softmax }""",
    "normalised": """net n { input 3x9x7
        conv 10 k=3 -> relu -> lrn 5 alpha=0.3 k=2 -> noise 0.1 -> upsample 2 mode=bilinear -> conv 5 k=3 s=2
        upsample 2 -> lrn 4 alpha=1 -> fc 6 -> concat_rows -> fc 3 -> loss mse weight=2 }
        block concat_rows() { as rows -> sigmoid -> concat rows }""",
}


def graph_of(name: str) -> Graph:
    return loads(NETS[name]).graph(5)


@pytest.mark.parametrize("name", NETS)
def test_training_steps_and_inference(name: str) -> None:
    for rows in (5, 2):
        assert_right(lowered(graph_of(name), "train", SgdUpdate(momentum=0.9, l2=0.01)), rows)
    assert_right(lowered(graph_of(name), "infer"), 3)
