"""The command `convc`: finds the verb, runs it, and turns whatever goes wrong into a message and an exit code.

Exit codes: 0 fine, 1 the work failed, 2 bad command line, 130 interrupted. A traceback is shown only for a defect of
convc itself, and only with `CONVC_DEBUG=1`.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence
from importlib import import_module

from convc._version import __version__

FINE, FAILED, MISUSED, INTERRUPTED = 0, 1, 2, 130
DEBUG_VARIABLE = "CONVC_DEBUG"
# Diagnostics that fit on a screen.
_SHOWN = 10


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line (without the program's name; `sys.argv` by default) and return its exit code."""
    _prepare_streams()
    try:
        code = _run(list(sys.argv[1:] if arguments is None else arguments))
        sys.stdout.flush()  # a full disk or a closed pipe shows here, not when Python ends
    except BrokenPipeError:
        _discard_output()
        return FAILED
    except KeyboardInterrupt as interrupt:
        return _interrupted(interrupt)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else FAILED
    except Exception as error:
        return _failed(error)
    return code


def _prepare_streams() -> None:
    """Let any text be printed: to a stream that the caller closed, names of files that are no text, and `·` or `→`
    where the locale has no such character. What goes into files is UTF-8 as all that convc writes."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 - it stays open to the end
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding=None if stream.isatty() else "utf-8", errors="backslashreplace")


def _run(words: list[str]) -> int:
    if words == ["--version"]:
        print(f"convc {__version__}")
        return FINE
    from convc.commands import VERBS
    from convc.commands.parser import UsageError, VerbParser

    if words[:1] == ["help"] and len(words) > 1:
        words = [words[1], "--help"]
    if not words or words[0] in ("-h", "--help", "help"):
        print(_overview(), file=sys.stdout if words else sys.stderr)
        return FINE if words else MISUSED
    name, rest = words[0], words[1:]
    try:
        if name not in VERBS:
            raise UsageError(*_unknown_verb(name, rest))
        verb = VERBS[name]
        module = import_module(f"convc.commands.{name}")
        parser = VerbParser(name, verb.text, verb.example)
        module.add_arguments(parser)
        return module.run(parser.parse(rest))
    except UsageError as error:
        place = f"convc {name}" if name in VERBS else "convc"
        print(f"{place}: {error}", file=sys.stderr)
        if error.hint:
            print(f"  hint: {error.hint}", file=sys.stderr)
        return MISUSED


def _overview() -> str:
    from convc.commands import VERBS

    width = max(map(len, VERBS))
    lines = [
        "usage: convc VERB ...",
        "",
        "A graph compiler for convolutional neural networks: a net is a text file.",
        "",
        *(f"  {name:<{width}}  {verb.summary}" for name, verb in VERBS.items()),
        "",
        "convc VERB --help tells more, with an example; convc --version prints the version.",
    ]
    return "\n".join(lines)


def _unknown_verb(name: str, rest: list[str]) -> tuple[str, str]:
    from convc.commands import VERBS
    from convc.commands.parser import similar

    if name.endswith(".cnn") or os.path.exists(name):
        verb = "eval" if os.path.isdir(name) else "train"
        return f"what shall be done with {name}?", f"convc {' '.join([verb, name, *rest])}"
    if name.startswith("-"):
        return f"unknown option {name}", "options come after the verb; see `convc --help`"
    near = similar(name, VERBS)
    return f"unknown verb {name!r}", f"did you mean {near}?" if near else f"there are {', '.join(VERBS)}"


def _interrupted(interrupt: KeyboardInterrupt) -> int:
    # A run that saved itself says in its message how to go on.
    message = str(interrupt) or "interrupted"
    command = getattr(interrupt, "command", None)
    print(f"\n{message}" + (f"; go on with: {command}" if command else ""), file=sys.stderr)
    return INTERRUPTED


def _failed(error: Exception) -> int:
    """Print what went wrong; a defect of convc is told apart from bad input and from the machine's limits."""
    from convc.ir.diagnostic import CompileError, Diagnostic, render

    debug = os.environ.get(DEBUG_VARIABLE, "") not in ("", "0")
    if isinstance(error, CompileError):
        text = render(error.diagnostics[:_SHOWN], error.sources)
        if len(error.diagnostics) > _SHOWN:
            text += f"\nand {len(error.diagnostics) - _SHOWN} more; `convc check` shows all of a file"
    elif isinstance(error, OSError):
        reason = error.strerror or str(error) or type(error).__name__
        text = render([Diagnostic("file-access", f"{error.filename}: {reason}" if error.filename else reason)])
    elif isinstance(error, MemoryError):
        hint = "a smaller batch takes less; `convc summary` estimates how much"
        text = render([Diagnostic("value-memory", " ".join(["out of memory.", str(error)]).strip(), hint=hint)])
    else:
        text = _defect(error)
        if debug:
            import traceback

            text = "".join(traceback.format_exception(error)) + text
    try:
        sys.stdout.flush()
    except OSError:
        _discard_output()
    print(text, file=sys.stderr)
    return FAILED


def _defect(error: Exception) -> str:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    place = f" ({os.path.basename(trace.tb_frame.f_code.co_filename)}:{trace.tb_lineno})" if trace else ""
    message = " ".join(str(error).split())
    return (
        f"convc {__version__}: internal error{place}: {type(error).__name__}: {message}; please report it, with the "
        f"file and the command ({DEBUG_VARIABLE}=1 adds details)"
    )


def _discard_output() -> None:
    """Nobody reads our output any more; Python must not trip over it once more when it ends."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, sys.stdout.fileno())
    except (OSError, ValueError):
        pass
    finally:
        os.close(nowhere)


if __name__ == "__main__":
    sys.exit(main())
