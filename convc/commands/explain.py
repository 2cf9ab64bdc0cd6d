"""`convc explain`: how each convolution is computed, and why."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from convc.commands.options import (
    add_algorithms,
    add_batch,
    add_fp32,
    add_json,
    add_net_options,
    add_precision,
    add_threads,
    algorithm_arguments,
    open_net,
    patterns,
)
from convc.commands.output import format_bytes, format_table, print_json
from convc.commands.parser import OneOf

if TYPE_CHECKING:
    from convc.passes.algorithms.decision import Candidate
    from convc.passes.choose_algorithms import Choice
    from convc.runtime.explanation import Explanation, Miss


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", help="a .cnn file")
    add_net_options(parser)
    parser.add_argument("--mode", type=OneOf("train", "infer"), default="infer", help="train or infer (the default)")
    add_batch(parser, "the file's, else 64")
    add_precision(parser)
    add_fp32(parser)
    add_threads(parser)
    add_algorithms(parser)
    parser.add_argument("--all", action="store_true", help="list all candidates, not the chosen ones alone")
    text = "measure how exact the algorithms shown are here, against float64"
    parser.add_argument("--measure-errors", action="store_true", help=text)
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    from convc.ir.diagnostic import with_sources
    from convc.runtime.algorithms import AlgorithmOptions
    from convc.runtime.explanation import explain

    net = open_net(arguments)
    measured = "all" if arguments.all else "chosen"
    with with_sources(net.sources):
        explanation = explain(
            net,
            arguments.mode,
            batch=arguments.batch,
            precision=arguments.precision,
            fp32=patterns(arguments.fp32),
            threads=arguments.threads,
            algorithms=AlgorithmOptions(**algorithm_arguments(arguments)),
            measure_errors=measured if arguments.measure_errors else "none",
        )
    if arguments.json:
        print_json(as_json(explanation))
    else:
        print(as_text(explanation, arguments.all))
    return 0


def as_json(explanation: Explanation) -> dict[str, Any]:
    """The explanation as cli.md describes it, times in milliseconds on all threads."""
    return {
        "net": explanation.net,
        "mode": explanation.mode,
        "batch": explanation.batch,
        "precision": explanation.precision,
        "tier": explanation.tier,
        "threads": explanation.threads,
        "convolutions": [_convolution(choice, explanation) for choice in explanation.choices],
        "prediction": {
            "spearman": explanation.spearman,
            "worst": [
                {
                    "name": miss.label,
                    "direction": miss.direction,
                    "algo": miss.algorithm,
                    "predicted_ms": miss.predicted * 1e3,
                    "measured_ms": miss.measured * 1e3,
                }
                for miss in explanation.worst
            ],
        },
    }


def _convolution(choice: Choice, explanation: Explanation) -> dict[str, Any]:
    decision, threads = choice.decision, explanation.threads
    return {
        "name": choice.label,
        "line": choice.line,
        "direction": choice.direction,
        "shape": str(decision.problem),
        "chosen": decision.chosen,
        "why": decision.why,
        "predicted_choice": decision.predicted_choice,
        "candidates": [
            {
                "algo": candidate.algorithm,
                "applicable": candidate.applicable,
                "reason": candidate.reason,
                "predicted_ms": _milliseconds(candidate.predicted, threads),
                "measured_ms": _milliseconds(candidate.measured, 1),
                "scratch_bytes": candidate.scratch_bytes,
                "max_rel_error": candidate.max_rel_error,
                "measured_rel_error": _measured_error(explanation, choice, candidate),
            }
            for candidate in decision.candidates
        ],
        "regret": decision.regret,
    }


def _measured_error(explanation: Explanation, choice: Choice, candidate: Candidate) -> float | None:
    return explanation.errors.get((choice.decision.problem, candidate.algorithm))


def _milliseconds(seconds: float | None, threads: int) -> float | None:
    return None if seconds is None else seconds / threads * 1e3


def as_text(explanation: Explanation, all_candidates: bool) -> str:
    """A table of what was chosen, or one for each convolution with all candidates."""
    threads = explanation.threads
    head = (
        f"{explanation.net}: {explanation.mode}, batch {explanation.batch}, {explanation.precision}, "
        f"{explanation.tier}, {threads} thread{'s' if threads > 1 else ''}"
    )
    lines = [head, ""]
    if all_candidates:
        for choice in explanation.choices:
            place = f", line {choice.line}" if choice.line else ""
            lines += [f"{choice.label} {choice.direction}{place}: {choice.decision.problem}"]
            rows = [_candidate_row(candidate, choice, explanation) for candidate in choice.decision.candidates]
            header = ("", "algorithm", "predicted ms", "measured ms", "scratch", *_ERRORS, "why")
            lines += [format_table(header, rows, left=(0, 1, 7)), ""]
    else:
        rows = [_choice_row(choice, explanation) for choice in explanation.choices]
        header = ("convolution", "direction", "shape", "algorithm", "predicted ms", "measured ms", "regret")
        lines += [format_table((*header, *_ERRORS, "why"), rows, left=(0, 1, 2, 3, 9)), ""]
    missed = [f"{choice.label} {choice.direction}: {choice.missed}" for choice in explanation.choices if choice.missed]
    lines += missed
    if explanation.spearman is not None:
        lines.append(f"rank correlation of predicted and measured times: {explanation.spearman:.2f}")
        lines += [f"  furthest off: {_miss(miss)}" for miss in explanation.worst]
    if explanation.errors:
        lines.append(f"closest to its bound: {_closest(explanation)}")
    return "\n".join(lines).rstrip()


def _closest(explanation: Explanation) -> str:
    """The measured error that takes most of what its algorithm may err."""
    shares = [
        (error / candidate.max_rel_error, f"{choice.label} {choice.direction} by {candidate.algorithm}")
        for choice in explanation.choices
        for candidate in choice.decision.candidates
        if (error := _measured_error(explanation, choice, candidate)) is not None and candidate.max_rel_error
    ]
    share, which = max(shares)
    return f"{which}, {100 * share:.0f} % of it"


def _miss(miss: Miss) -> str:
    times = f"predicted {miss.predicted * 1e3:.3f} ms, measured {miss.measured * 1e3:.3f} ms"
    return f"{miss.label} {miss.direction} by {miss.algorithm}: {times}"


def _shown(seconds: float | None, threads: int) -> str:
    milliseconds = _milliseconds(seconds, threads)
    return "" if milliseconds is None else f"{milliseconds:.3f}"


_ERRORS = ("error bound", "error")


def _error_cells(explanation: Explanation, choice: Choice, candidate: Candidate) -> tuple[str, ...]:
    both = candidate.max_rel_error, _measured_error(explanation, choice, candidate)
    return tuple("" if error is None else f"{error:.0e}" for error in both)


def _choice_row(choice: Choice, explanation: Explanation) -> tuple[str, ...]:
    decision, threads = choice.decision, explanation.threads
    chosen = decision.candidate(decision.chosen)
    return (
        choice.label,
        choice.direction,
        str(decision.problem),
        decision.chosen,
        _shown(chosen.predicted, threads),
        _shown(chosen.measured, 1),
        "" if decision.regret is None else f"{100 * decision.regret:.0f} %",
        *_error_cells(explanation, choice, chosen),
        decision.why,
    )


def _candidate_row(candidate: Candidate, choice: Choice, explanation: Explanation) -> tuple[str, ...]:
    threads = explanation.threads
    return (
        "*" if candidate.algorithm == choice.decision.chosen else "",
        candidate.algorithm,
        _shown(candidate.predicted, threads),
        _shown(candidate.measured, 1),
        "" if candidate.scratch_bytes is None else format_bytes(candidate.scratch_bytes),
        *_error_cells(explanation, choice, candidate),
        candidate.reason,
    )
