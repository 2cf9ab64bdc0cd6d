"""The checks and results of the emulator notice broken kernels: a mutant of each kind by default, all with `make
test-cuda-full`."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.cuda.mutants.catalogue import FAST, USES, benches, every_mutant, mutant_named, mutants
from tests.cuda.mutants.equivalent import EQUIVALENT
from tests.cuda.mutants.judging import judge, unchanged
from tests.cuda.mutants.rules import RULES, KernelMutant, mutants_of
from tests.cuda.test_ops import needs_nvrtc


def is_killed(mutant: KernelMutant) -> bool:
    """Error: AssertionError for one that nobody notices or explains, or that is noticed though explained."""
    verdict = judge(mutant, benches(mutant.file))
    if mutant.name in EQUIVALENT:
        assert verdict.fate != "killed", f"said to be equivalent, but {verdict.by}"
        return False
    assert verdict.fate in ("killed", "refused"), f"{mutant.name} (line {mutant.line}) {verdict.fate}: {verdict.by}"
    return verdict.fate == "killed"


@needs_nvrtc
@pytest.mark.parametrize("beginning", FAST)
def test_a_broken_kernel_is_noticed(beginning: str) -> None:
    assert is_killed(mutant_named(beginning))


@pytest.mark.full
@needs_nvrtc
@pytest.mark.parametrize("file", USES)
def test_every_broken_kernel_is_noticed(file: str) -> None:
    killed = 0
    survivors: list[str] = []
    for mutant in mutants(file):
        try:
            killed += is_killed(mutant)
        except AssertionError as error:
            survivors.append(str(error))
    assert not survivors, "\n".join(survivors)
    assert killed


@pytest.mark.full
@needs_nvrtc
@pytest.mark.parametrize("file", USES)
def test_kernels_that_are_not_broken_are_right(file: str) -> None:
    """So what is said of mutants is said of what was changed; and each file runs in some case."""
    found = benches(file)
    assert found
    for bench in found:
        assert bench.complaint(unchanged) is None, bench.name


def test_there_are_enough_of_them() -> None:
    made = every_mutant()
    assert len({mutant.name for mutant in made}) == len(made) >= 300
    assert {mutant.rule for mutant in made} == {*RULES}, "every rule finds something"
    assert len(Counter(mutant.file for mutant in made)) == len(USES) >= 14


def test_reasons_are_about_mutants_that_there_are() -> None:
    assert {*EQUIVALENT} <= {mutant.name for mutant in every_mutant()}
    assert all(len(reason) > 30 for reason in EQUIVALENT.values())


# The rules

TEXT = """\
constexpr int N = A < B ? A : B;
__device__ void f(float* p, int n) {
  // for (int i = 0; i < n; ++i) __syncthreads();
  for (int i = 0; i < n; ++i) {
    if (i >= 3 && i < N && p[i]) continue;
    __syncthreads();
    p[i] = i < 5 ? p[i * OW] : 0.0f;
  }
  const int least = n < N ? n : N;
}
"""


@pytest.mark.parametrize(
    ("rule", "changed"),
    [
        ("no barrier", ["static_cast<void>(0);"]),
        ("bound", ["if (i > 3 && i < N && p[i]) continue;", "if (i >= 3 && i <= N && p[i]) continue;",
                   "p[i] = i <= 5 ? p[i * OW] : 0.0f;"]),
        ("no condition", ["if (i >= 3 && p[i]) continue;", "if (i < N && p[i]) continue;",
                          "if (i >= 3 && i < N) continue;"]),
        ("one more", ["for (int i = 0; i <= n; ++i) {"]),
        ("one less", ["for (int i = 0; i < n - 1; ++i) {"]),
        ("other stride", ["p[i] = i < 5 ? p[i * (OW - 1)] : 0.0f;"]),
        ("not zero", ["p[i] = i < 5 ? p[i * OW] : 1.0f;"]),
    ],
)  # fmt: skip
def test_what_a_rule_makes_of_a_text(rule: str, changed: list[str]) -> None:
    """Neither of comments, nor of what the compiler evaluates, nor of minima."""
    found = [mutant for mutant in mutants_of("f.cu", TEXT) if mutant.rule == rule]
    assert [mutant.text.splitlines()[mutant.line - 1].strip() for mutant in found] == changed
    for mutant in found:
        lines = zip(TEXT.splitlines(), mutant.text.splitlines(), strict=True)
        assert sum(before != after for before, after in lines) == 1
