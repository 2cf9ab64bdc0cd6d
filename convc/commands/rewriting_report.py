"""What `convc rewrite` says: tables for people, content for JSON."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from convc.commands.output import format_bytes, format_count, format_table

if TYPE_CHECKING:
    from convc.ir.span import Span
    from convc.passes.base import Mode
    from convc.passes.rewriting.analysis import Figures, LayerAnalysis
    from convc.passes.rewriting.replacement import FitReport, OutputError
    from convc.passes.rewriting.timing import Model
    from convc.runtime.evaluate import Evaluation
    from convc.runtime.rewriting.procedure import Finetuned, LayerOutcome, Outcome

_FIT_HEADER = ("layer", "rank", "energy", "weight error", "output error", "inside", "border", "without ReLU")
_RENAMED = 3
_MISSED = 8


# The rewrite


def outcome_as_text(outcome: Outcome, model: Model) -> str:
    """A table of the replaced layers, how well they were fitted, and what was done to the text."""
    rows = [row for layer in outcome.layers for row in _layer_rows(layer)]
    header = ("layer", "line", "becomes", "weights", "MACs", *_time_header(outcome.layers))
    lines = [
        f"{outcome.rewritten.net.name}: times for batch {outcome.batch}, {_machine(model)}",
        "",
        format_table(header, rows, left=(0, 2)),
    ]
    fits = [_fit_row(layer) for layer in outcome.layers if layer.fitted is not None]
    if fits:
        lines += ["", _without_empty_columns(_FIT_HEADER, fits)]
    lines += ["", *_remarks(outcome)]
    return "\n".join(lines)


def _layer_rows(layer: LayerOutcome) -> list[tuple[str, ...]]:
    """The old layer, and below it the new ones together."""
    target = layer.target
    rows = [
        (target.path, _line(target.span), target.request.rule.name, *_costs(layer.before)),
        ("", "", f"  {', '.join(layer.names)}", *_costs(layer.after)),
    ]
    return rows


def _costs(figures: Figures) -> tuple[str, ...]:
    return format_count(figures.parameters), format_count(figures.macs), *_times(figures)


def _times(figures: Figures) -> tuple[str, ...]:
    cells = [f"{1e3 * figures.predicted[mode]:.3f}" for mode in _MODES]
    if any(seconds is not None for seconds in figures.measured.values()):
        cells += [_milliseconds(figures.measured[mode]) for mode in _MODES]
    return tuple(cells)


_MODES: tuple[Mode, ...] = ("infer", "train")


def _milliseconds(seconds: float | None) -> str:
    return "" if seconds is None else f"{1e3 * seconds:.3f}"


def _time_header(layers: Sequence[LayerOutcome]) -> tuple[str, ...]:
    return _times_header([figures for layer in layers for figures in (layer.before, layer.after)])


def _times_header(all_figures: Sequence[Figures]) -> tuple[str, ...]:
    measured = any(seconds is not None for figures in all_figures for seconds in figures.measured.values())
    return ("infer ms", "train ms") + (("infer measured", "train measured") if measured else ())


def _fit_row(layer: LayerOutcome) -> tuple[str, ...]:
    assert layer.fitted is not None
    report = layer.fitted.report
    output = report.output
    return (
        layer.target.path,
        ",".join(map(str, report.ranks)),
        "" if report.kept_energy is None else f"{100 * report.kept_energy:.2f} %",
        _error(report.weight_error),
        *(("", "", "") if output is None else (_error(output.whole), _error(output.interior), _error(output.border))),
        "" if report.output_linear is None else _error(report.output_linear.whole),
    )


def _without_empty_columns(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    kept = [column for column in range(len(header)) if any(row[column] for row in rows)]
    return format_table([header[column] for column in kept], [[row[column] for column in kept] for row in rows])


def _error(value: float | None) -> str:
    return "" if value is None else f"{value:.2e}" if value < 1e-3 else f"{value:.4f}"


def _remarks(outcome: Outcome) -> list[str]:
    lines: list[str] = []
    for layer in outcome.layers:
        if layer.fitted is not None:
            report = layer.fitted.report
            lines += [f"{layer.target.path}: {remark}" for remark in (report.method, *report.notes)]
    for layer in outcome.layers:
        if layer.after.macs >= layer.before.macs:
            lines.append(f"{layer.target.path}: the new layers take no fewer multiply-adds")
    if any(layer.fitted is None for layer in outcome.layers):
        lines.append("no weights were given: the new layers start from their initialisers")
    elif outcome.images is None:
        lines.append("how far outputs moved is not known: --eval shows the net images")
    lines += [f"{missed.path} is left as it is: {missed.why}" for missed in outcome.missed[:_MISSED]]
    if len(outcome.missed) > _MISSED:
        lines.append(f"and {len(outcome.missed) - _MISSED} more layers are left as they are")
    lines += [str(action) for action in outcome.rewritten.actions]
    for path, dropped in outcome.rewritten.dropped.items():
        lines.append(f"{path}: {', '.join(dropped)} could not be kept")
    renamed = outcome.rewritten.names.renamed
    if renamed:
        shown = ", ".join(f"{old} is {new}" for old, new in list(renamed.items())[:_RENAMED])
        more = f" and {len(renamed) - _RENAMED} more" if len(renamed) > _RENAMED else ""
        lines.append(f"kept parameters with new names: {shown}{more}")
    lines += [f"warning[{warning.code}]: {warning.message}" for warning in outcome.warnings]
    lines += _accuracy(outcome)
    return lines


def _accuracy(outcome: Outcome) -> list[str]:
    if outcome.before is None or outcome.after is None:
        return []
    return [f"accuracy on {outcome.images}: {_percent(outcome.before)} before, {_percent(outcome.after)} after"]


def finetuned_as_text(finetuned: Finetuned) -> str:
    """What more training has brought."""
    epochs = finetuned.training.epochs
    what = f"after {epochs} epoch{'s' * (epochs != 1)} of training more"
    if finetuned.evaluation is None:
        return f"{what}: {finetuned.training.weights}"
    return f"accuracy {what}: {_percent(finetuned.evaluation)}"


def _percent(evaluation: Evaluation) -> str:
    return f"{100 * evaluation['accuracy']:.2f} %"


def outcome_as_json(
    outcome: Outcome, finetuned: Finetuned | None, model: Model, written: Sequence[Path]
) -> dict[str, Any]:
    """What `outcome_as_text` and `finetuned_as_text` say, and the new text."""
    rewritten = outcome.rewritten
    return {
        "net": rewritten.net.name,
        "batch": outcome.batch,
        "tier": model.tier,
        "threads": model.threads,
        "layers": [_layer(layer) for layer in outcome.layers],
        "missed": [
            {"name": missed.path, "rule": missed.rule, "why": missed.why, "line": _number(missed.span)}
            for missed in outcome.missed
        ],
        "edits": [
            {"kind": action.kind, "what": action.what, "why": action.why, "line": action.span.line}
            for action in rewritten.actions
        ],
        "dropped": {path: list(dropped) for path, dropped in rewritten.dropped.items()},
        "renamed": rewritten.names.renamed,
        "warnings": [{"code": warning.code, "message": warning.message} for warning in outcome.warnings],
        "evaluation": {
            "data": None if outcome.images is None else str(outcome.images),
            "before": outcome.before,
            "after": outcome.after,
            "finetuned": None if finetuned is None else finetuned.evaluation,
        },
        "run": None if finetuned is None else str(finetuned.training.folder),
        "written": [str(path) for path in written],
        "text": rewritten.text,
    }


def _layer(layer: LayerOutcome) -> dict[str, Any]:
    target = layer.target
    return {
        "name": target.path,
        "line": _number(target.span),
        "rule": target.request.text,
        "becomes": list(layer.names),
        "before": _figures(layer.before),
        "after": _figures(layer.after),
        "fit": None if layer.fitted is None else _fit(layer.fitted.report),
    }


def _figures(figures: Figures) -> dict[str, Any]:
    return {
        "layers": [{"word": layer.word, **layer.arguments} for layer in figures.layers],
        "params": figures.parameters,
        "macs": figures.macs,
        "activation_bytes": figures.activation_bytes,
        "receptive_field": list(figures.receptive_field),
        "activations": figures.activations,
        "predicted_ms": {mode: 1e3 * figures.predicted[mode] for mode in _MODES},
        "measured_ms": {mode: None if seconds is None else 1e3 * seconds for mode, seconds in figures.measured.items()},
    }


def _fit(report: FitReport) -> dict[str, Any]:
    return {
        "method": report.method,
        "ranks": list(report.ranks),
        "kept_energy": report.kept_energy,
        "weight_error": report.weight_error,
        "output_error": _output(report.output),
        "output_error_without_activations": _output(report.output_linear),
        "tried": dict(report.tried),
        "notes": list(report.notes),
    }


def _output(error: OutputError | None) -> dict[str, float | None] | None:
    return None if error is None else {"whole": error.whole, "interior": error.interior, "border": error.border}


# The analysis


def analysis_as_text(net: str, batch: int, model: Model, found: Sequence[LayerAnalysis]) -> str:
    """A table of each convolution and its alternatives, and a recommendation for each with its reason."""
    if not found:
        return f"{net}: no convolution has a kernel of 5x5 or more; -r RULE:LAYERS compares others"
    everything = [
        figures
        for layer in found
        for figures in (layer.old, *(variant.figures for variant in layer.variants))
        if figures is not None
    ]
    header = ("layer", "line", "form", "weights", "MACs", "kept", "sees", "ReLUs", *_times_header(everything))
    rows: list[tuple[str, ...]] = []
    for layer in found:
        rows.append((layer.path, _line(layer.span), "as it is", *_analysis_cells(layer.old)))
        for variant in layer.variants:
            if variant.figures is not None:
                mark = "* " if variant is layer.recommended else "  "
                rows.append(("", "", f"{mark}{variant.request.text}", *_analysis_cells(variant.figures)))
    lines = [
        f"{net}: `kept` is what training keeps of a batch of {batch}, times are for it, {_machine(model)}",
        "",
        format_table(header, [row + ("",) * (len(header) - len(row)) for row in rows], left=(0, 2)),
        "",
    ]
    for layer in found:
        verdict = "keep it" if layer.recommended is None else layer.recommended.request.text
        lines.append(f"{layer.path}: {verdict}: {layer.reason}")
        for variant in layer.variants:
            if variant.figures is None and layer.recommended is not None:
                lines.append(f"  not {variant.request.text}: {variant.why}")
    return "\n".join(lines)


def _analysis_cells(figures: Figures) -> tuple[str, ...]:
    return (
        format_count(figures.parameters),
        format_count(figures.macs),
        format_bytes(figures.activation_bytes),
        "x".join(map(str, figures.receptive_field)),
        str(figures.activations or ""),
        *_times(figures),
    )


def analysis_as_json(net: str, batch: int, model: Model, found: Sequence[LayerAnalysis]) -> dict[str, Any]:
    return {
        "net": net,
        "batch": batch,
        "tier": model.tier,
        "threads": model.threads,
        "convolutions": [
            {
                "name": layer.path,
                "line": _number(layer.span),
                "current": _figures(layer.old),
                "variants": [
                    {
                        "rule": variant.request.text,
                        "why_not": variant.why,
                        "figures": None if variant.figures is None else _figures(variant.figures),
                    }
                    for variant in layer.variants
                ],
                "recommended": None if layer.recommended is None else layer.recommended.request.text,
                "reason": layer.reason,
            }
            for layer in found
        ],
    }


def _machine(model: Model) -> str:
    return f"{model.tier}, {model.threads} thread{'s' * (model.threads != 1)}"


def _line(span: Span | None) -> str:
    return "" if span is None else str(span.line)


def _number(span: Span | None) -> int | None:
    return None if span is None else span.line
