"""From files to nets: `load`, `loads`, and `check`, which reports on whole files."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from itertools import count

from convc.frontend import syntax
from convc.frontend.dead_code import unused_names
from convc.frontend.elaborate import Elaboration, elaborate, probe
from convc.frontend.expressions import Constant, Scope
from convc.frontend.freeze import unmatched_patterns
from convc.frontend.hints import did_you_mean
from convc.frontend.limits import DEFAULT_LIMITS, Limits
from convc.frontend.net import Net
from convc.frontend.overrides import apply_overrides, setting_of
from convc.frontend.program import Program, called_blocks, read_program
from convc.frontend.settings import DataSetting, TrainSettings, unsupported
from convc.frontend.source import Source, read_source
from convc.frontend.train_item import data_setting, train_settings
from convc.ir.diagnostic import CompileError, Diagnostic
from convc.lazy import dataclass


def load(
    path: str | os.PathLike[str],
    *,
    net: str | None = None,
    set: Mapping[str, object] | None = None,
    strict: bool = False,
    limits: Limits = DEFAULT_LIMITS,
) -> Net:
    """Read, check and elaborate a net of a `.cnn` file.

    `net` chooses where there are several. `set` maps parameters of the net (`depth`) and settings (`train.batch`,
    `train.optim.lr`, `train.data`) to values, or to text of the language. With `strict` warnings are errors.
    Raises a `CompileError` with all errors found.
    """
    return _load(read_source(path, limits=limits), net, set or {}, strict, limits)


def loads(
    text: str,
    *,
    file: str = "<text>",
    net: str | None = None,
    set: Mapping[str, object] | None = None,
    strict: bool = False,
    limits: Limits = DEFAULT_LIMITS,
) -> Net:
    """As `load`, from text; `file` is the name that diagnostics show, and `use` is relative to its folder."""
    return _load(Source(file, text), net, set or {}, strict, limits)


def parse_data(text: str) -> DataSetting:
    """The SPEC of the command line, `mnist` or `idx "dir/"`: a `data` item without its first word."""
    try:
        setting, sources = setting_of(text)
    except CompileError as error:
        words = text.split()
        if len(words) < 2 or '"' in text or "=" in words[1]:
            raise
        # A shell takes quotes away, so this is what one types first.
        hint = f"a path stands in double quotes, and all of it in single ones: '{words[0]} \"{words[1]}\"'"
        first = replace(error.diagnostics[0], hint=hint)
        raise CompileError([first], error.sources) from None
    try:
        return data_setting(setting, Scope(), DEFAULT_LIMITS)
    except CompileError as error:
        raise CompileError(error.diagnostics, sources) from None


def check(
    paths: Iterable[str | os.PathLike[str]], *, strict: bool = False, limits: Limits = DEFAULT_LIMITS
) -> list[Diagnostic]:
    """All errors and warnings of the files, those of a used file once. `sources_of` gives the texts to render them."""
    found: dict[Diagnostic, None] = {}
    for path in paths:
        try:
            diagnostics = inspect(read_source(path, limits=limits), limits).diagnostics
        except CompileError as error:
            diagnostics = error.diagnostics
        found.update(dict.fromkeys(diagnostics))
    return [replace(diagnostic, severity="error") for diagnostic in found] if strict else list(found)


@dataclass(frozen=True)
class Inspection:
    """What can be known about a text: `program` is None where it does not parse, `results` are its nets as far as they
    could be elaborated (of use with errors, too: the layers before the first one are there)."""

    diagnostics: tuple[Diagnostic, ...]
    program: Program | None = None
    results: tuple[Elaboration, ...] = ()


def inspect(source: Source, limits: Limits = DEFAULT_LIMITS) -> Inspection:
    """Check a text in every way. Never raises for what the text says."""
    try:
        program, found = read_program(source, limits)
    except CompileError as error:
        return Inspection(error.diagnostics)
    item, search = _train_item(program), _search_item(program)
    settings, problems = train_settings(item, search, program.scopes[program.root.name], limits)
    found += problems
    sound = not any(problem.severity == "error" for problem in problems)
    if sound:
        found += [_refused_later(refusal) for refusal in unsupported(settings)]
    results: list[Elaboration] = []
    for name in program.own_nets:
        net = program.nets[name]
        # A net without all its values can only be checked in full once it is given them.
        if all(parameter.default is not None for parameter in net.parameters):
            results.append(elaborate(program, net, {}, 1))
        else:
            found += probe(program, net)
    entered = frozenset[str]().union(*(result.entered_blocks for result in results))
    for result in results:
        found += result.errors
    for definition in program.root.definitions:
        if definition.kind == "block" and definition.name not in entered:
            found += probe(program, definition)
    if sound and len(results) == len(program.own_nets) > 0 and not any(result.errors for result in results):
        found += unmatched_patterns(settings, (result.graph for result in results))
    if not any(diagnostic.severity == "error" for diagnostic in found):
        for result in results:
            found += result.warnings
        if len(results) == len(program.own_nets):
            found += _unused_blocks(program)
            found += _missing_loss(program, results)
        found += unused_names(program) + _missing_net(program)
    return Inspection(tuple(_sorted(found, program, limits)), program, tuple(results))


def _load(source: Source, net: str | None, given: Mapping[str, object], strict: bool, limits: Limits) -> Net:
    program, errors = read_program(source, limits)
    definition = _choose(program, net, errors)
    item = _train_item(program)
    scope = program.scopes[program.root.name]
    overrides = apply_overrides(given, definition, item, scope, limits)
    sources = {**program.sources, **overrides.sources}
    settings, problems = train_settings(overrides.train, _search_item(program), scope, limits)
    errors += [*overrides.errors, *problems]
    if definition is None:
        raise CompileError(_sorted(errors, program, limits), sources)
    failed_parameters = len(overrides.errors)
    result = elaborate(program, definition, overrides.parameters, 1)
    # Complaints about missing values make no sense where a value was given but could not be read.
    errors += [error for error in result.errors if not (failed_parameters and error.code == "name-missing")]
    if not errors:
        errors += unmatched_patterns(settings, [result.graph])
    if errors:
        raise CompileError(_sorted(errors, program, limits), sources)
    warnings = list(result.warnings)
    if len(program.own_nets) <= 1:
        warnings += _unused_blocks(program)
    warnings += _missing_loss(program, [result]) + unused_names(program)
    warnings = _sorted(warnings, program, limits)
    if strict and warnings:
        raise CompileError([replace(warning, severity="error") for warning in warnings], sources)
    return _net(program, definition, overrides.train, settings, overrides.parameters, result, warnings, sources)


def _net(
    program: Program,
    definition: syntax.Definition,
    train: syntax.Train | None,
    settings: TrainSettings,
    given: Mapping[str, Constant],
    result: Elaboration,
    warnings: list[Diagnostic],
    sources: Mapping[str, str],
) -> Net:
    graph, emission = result.graph, result.emission
    _, channels, height, width = graph.inputs["x"].shape
    logits = graph.outputs.get("logits")
    return Net(
        name=definition.name,
        path=program.root.name,
        text=program.sources[program.root.name],
        parameters=result.parameters,
        settings=settings,
        warnings=tuple(warnings),
        layers=result.layers,
        input_shape=(channels, height, width),
        classes=logits.shape[1] if logits is not None else 0,
        has_loss="loss" in graph.outputs,
        input_mean=emission.input_mean,
        input_std=emission.input_std,
        sources=sources,
        _program=program,
        _definition=definition,
        _train=train,
        _given=given,
        _used_blocks=result.used_blocks,
    )


def _choose(program: Program, wanted: str | None, errors: list[Diagnostic]) -> syntax.Definition | None:
    """The net that is meant; where that is unclear, one more error."""
    nets = program.nets
    if wanted is not None:
        if wanted not in nets:
            hint = did_you_mean(wanted, nets, "there are")
            errors.append(Diagnostic("name-net", f"{program.root.name} has no net `{wanted}`", hint=hint))
        return nets.get(wanted)
    names = program.own_nets or list(nets)
    if len(names) == 1:
        return nets[names[0]]
    if not names:
        message = f"{program.root.name} has no net"
        errors.append(Diagnostic("name-net", message, hint="net NAME { input 1x28x28 … }"))
    else:
        message = f"{program.root.name} has several nets: {', '.join(names)}"
        errors.append(Diagnostic("name-net", message, hint=f"choose one: --net {names[0]}"))
    return None


def _train_item(program: Program) -> syntax.Train | None:
    return program.root.trains[0] if program.root.trains else None


def _search_item(program: Program) -> syntax.Search | None:
    return program.root.searches[0] if program.root.searches else None


def _unused_blocks(program: Program) -> list[Diagnostic]:
    """Blocks of the root file that no net uses; a file without nets is a library."""
    if not program.own_nets:
        return []
    used = called_blocks(program)
    return [
        Diagnostic("unused-block", f"block `{block.name}` is never used", block.name_span, severity="warning")
        for block in program.root.definitions
        if block.kind == "block" and block.name not in used
    ]


def _missing_loss(program: Program, results: list[Elaboration]) -> list[Diagnostic]:
    """Where there is a `train` item, but no net that it could train."""
    trainable = any(not loss.auxiliary for result in results for loss in result.emission.losses)
    if not program.root.trains or not results or trainable:
        return []
    names = " and ".join(f"`{result.graph.name}`" for result in results)
    sides = any(result.emission.losses for result in results)
    message = f"net {names} has no loss{' outside of `aux`' if sides else ''}, which `train` needs"
    if len(results) > 1:
        message = f"the nets {names} have no loss, which `train` needs"
    hint = "a net ends in `loss softmax`, `loss hinge` or `loss mse`"
    return [Diagnostic("missing-loss", message, program.root.trains[0].span, hint=hint, severity="warning")]


def _missing_net(program: Program) -> list[Diagnostic]:
    """A file that is of no use to anybody, most often an empty one."""
    root = program.root
    if root.definitions or root.lets or root.trains or root.searches or root.uses:
        return []
    message = f"{root.name} has no net and no block"
    return [Diagnostic("missing-net", message, hint="net NAME { input 1x28x28 … }", severity="warning")]


def _refused_later(refusal: Diagnostic) -> Diagnostic:
    """The warning that a setting is one `train` will refuse."""
    message = f"{refusal.message}: `convc train` refuses it"
    return replace(refusal, code="train-refuses", message=message, severity="warning")


def _sorted(diagnostics: list[Diagnostic], program: Program, limits: Limits) -> list[Diagnostic]:
    """In the order of the text, the root file first; what has no place leads. Errors beyond the limit are left out."""

    def key(diagnostic: Diagnostic) -> tuple[int, str, int, int]:
        span = diagnostic.span
        if span is None:
            return 0, "", 0, 0
        return 1 if span.file == program.root.name else 2, span.file, span.line, span.column

    errors = count()
    return [d for d in sorted(diagnostics, key=key) if d.severity != "error" or next(errors) < limits.errors]
