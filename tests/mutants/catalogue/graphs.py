"""The graph, its verifier, and the manager of passes."""

from __future__ import annotations

from tests.mutants.mutant import Mutant

_GRAPH = ("tests/ir/test_graph.py", "tests/ir/test_graph_edits.py")
_ACCOUNT = ("tests/passes/test_account.py", "tests/ir/test_fingerprint.py")

MUTANTS = (
    Mutant(
        "replace-uses-forgets-results",
        "ir/graph.py",
        "                table.update(dict.fromkeys(table.names_of(old), new))\n",
        "                table.update({})\n",
        "an output keeps the value that all nodes have stopped reading",
        _GRAPH,
    ),
    Mutant(
        "set-operand-forgets-user",
        "ir/graph.py",
        "        value.users.append((node, index))\n",
        "",
        "a missed user: the new operand does not know who reads it",
        _GRAPH,
    ),
    Mutant(
        "insert-behind",
        "ir/graph.py",
        "                    pending += reversed(ahead)\n",
        "                    pending += ahead\n",
        "nodes that are placed before another come in reverse order",
        _GRAPH,
    ),
    Mutant(
        "remove-keeps-uses",
        "ir/graph.py",
        "                operand.users.remove((node, index))\n        self._removed",
        "                operand.users.count((node, index))\n        self._removed",
        "a removed node still counts as a user",
        _GRAPH,
    ),
    Mutant(
        "results-forget-old-name",
        "ir/results.py",
        "        if name in self._values:\n            self._forget(name)\n",
        "",
        "a value keeps the name of an output that has become another value",
        ("tests/ir/test_graph_edits.py",),
    ),
    Mutant(
        "batched-ignores-later-operands",
        "ir/op.py",
        "(any(operands) and not self.reduces_batch,)",
        "(operands[:1] == (True,) and not self.reduces_batch,)",
        "a result whose second operand alone has rows is taken for one without",
        ("tests/ir/test_graph.py", "tests/passes/test_arrange.py"),
    ),
    Mutant(
        "verify-skips-types",
        "ir/verify.py",
        "    if actual == tuple(map(_logical, expected)):\n",
        "    if len(actual) == len(expected):\n",
        "results of a wrong shape pass the verifier",
        ("tests/ir/test_verify.py",),
    ),
    Mutant(
        "verify-believes-what-it-saw",
        "ir/verify.py",
        "        if inferred.get(node) != facts:\n",
        "        if node not in inferred:\n",
        "a pass that changes an op or a type after the first verification is not noticed",
        ("tests/passes/test_account.py", "tests/ir/test_verify.py"),
    ),
    Mutant(
        "verify-skips-order",
        "ir/verify.py",
        "            if operand not in defined:\n",
        "            if operand.producer is not None and operand.producer not in graph.nodes:\n",
        "use before definition passes the verifier",
        ("tests/ir/test_verify.py",),
    ),
    Mutant(
        "fingerprint-without-operands",
        "ir/fingerprint.py",
        "        nodes.append((operands, number(node.results)",
        "        nodes.append((len(operands), number(node.results)",
        "a pass that only swaps operands seems to have changed nothing",
        _ACCOUNT,
    ),
    Mutant(
        "fingerprint-equal-numbers",
        "ir/fingerprint.py",
        "(type(one) is type(other) and repr(one) == repr(other))",
        "one == other",
        "0.0 and -0.0 are taken for the same constant",
        _ACCOUNT,
    ),
    Mutant(
        "account-only-one-way",
        "passes/account.py",
        "        if logged and not changed and not decides:\n",
        "        if logged and not changed and decides:\n",
        "passes may boast of changes that they did not make",
        _ACCOUNT,
    ),
    Mutant(
        "account-never-looks-again",
        "passes/account.py",
        "        self._before = after\n",
        "",
        "a pass answers for what the one before has done",
        _ACCOUNT,
    ),
    Mutant(
        "sections-statistics-with-update",
        "passes/sections.py",
        '"mean": Section.STATISTICS, "var": Section.STATISTICS',
        '"mean": Section.STATISTICS, "var": Section.UPDATE',
        "wrong section: running variances move only when weights do",
        ("tests/codegen/test_training_step.py", "tests/runtime/test_program.py", "tests/passes/test_fusion.py"),
    ),
    Mutant(
        "sections-last-wins",
        "passes/sections.py",
        "            sections.setdefault(node, section)\n",
        "            sections[node] = section\n",
        "wrong section: what inference needs is computed with the gradients",
        ("tests/passes/test_verify_plan.py", "tests/passes/test_fusion.py", "tests/codegen/test_training_step.py"),
    ),
    Mutant(
        "prepared-though-updated",
        "passes/sections.py",
        " for name, parameter in graph.parameters.items() if name not in graph.updates}\n    written",
        " for name, parameter in graph.parameters.items()}\n    written",
        "what depends on trained weights is computed once and never again",
        ("tests/codegen/test_prepared.py", "tests/passes/test_verify_plan.py", "tests/codegen/test_training_step.py"),
    ),
)
