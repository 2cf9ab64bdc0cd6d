"""Completion scripts for bash, zsh and fish: one function per shell, from command lines to text."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from convc.commands.command_lines import CommandLine, Option, Value

_OVERALL = ("--help", "--version")


# bash

_BASH_HEAD = """\
# Completion of convc for bash: source <(convc completion bash)

_convc_words() { COMPREPLY=( $(compgen -W "$1" -- "$cur") ); }

_convc_files() {
  local IFS=$'\\n'
  COMPREPLY=( $(compgen -f -X "!*$1" -- "$cur") $(compgen -d -- "$cur") )
  compopt -o filenames 2> /dev/null
}

_convc_folders() {
  local IFS=$'\\n'
  COMPREPLY=( $(compgen -d -- "$cur") )
  compopt -o filenames 2> /dev/null
}

_convc() {
  local cur="${COMP_WORDS[COMP_CWORD]}" previous="${COMP_WORDS[COMP_CWORD-1]}" verb="${COMP_WORDS[1]}"
  COMPREPLY=()
  # bash takes --like=lenet for three words.
  if [[ $cur == "=" ]]; then
    cur=""
  elif [[ $previous == "=" ]]; then
    previous="${COMP_WORDS[COMP_CWORD-2]}"
  fi
"""


def bash(lines: Sequence[CommandLine]) -> str:
    verbs = " ".join(line.verb for line in lines)
    parts = [
        _BASH_HEAD,
        "  if (( COMP_CWORD == 1 )); then\n",
        f"    _convc_words {_quoted(' '.join((verbs, 'help', *_OVERALL)))}\n    return\n  fi\n",
        '  case "$verb $previous" in\n',
    ]
    for line in lines:
        for option in line.options:
            if option.value is not None:
                names = "|".join(_quoted(f"{line.verb} {name}") for name in option.names)
                parts.append(f"    {names}) {_bash_value(option.value)}; return ;;\n")
    parts.append("  esac\n  if [[ $cur == -* ]]; then\n    case $verb in\n")
    for line in lines:
        names = " ".join(name for option in line.options for name in option.names)
        parts.append(f"      {line.verb}) _convc_words {_quoted(names)} ;;\n")
    parts.append("    esac\n    return\n  fi\n  case $verb in\n")
    parts += [f"    {line.verb}) {_bash_value(line.value)} ;;\n" for line in lines]
    parts.append(f"    help) _convc_words {_quoted(verbs)} ;;\n  esac\n}}\n\ncomplete -F _convc convc\n")
    return "".join(parts)


def _bash_value(value: Value) -> str:
    if value.words:
        return f"_convc_words {_quoted(' '.join(value.words))}"
    if value.files:
        return f"_convc_files {_quoted(value.suffix)}"
    return "_convc_folders" if value.folders else ":"


# zsh

_ZSH_TAIL = """\
  esac
}

# Loaded from a folder of $fpath, or sourced.
if [[ $zsh_eval_context[-1] == loadautofunc ]]; then
  _convc "$@"
else
  compdef _convc convc
fi
"""


def zsh(lines: Sequence[CommandLine]) -> str:
    described = [f"    {_quoted(f'{line.verb}:{line.summary}')}\n" for line in lines]
    parts = [
        "#compdef convc\n# Completion of convc for zsh: source <(convc completion zsh)\n\n_convc() {\n",
        "  local -a verbs\n  verbs=(\n",
        *described,
        "  )\n  if (( CURRENT == 2 )); then\n    _describe -t verbs verb verbs\n    return\n  fi\n",
        "  local verb=$words[2]\n  shift words\n  (( CURRENT-- ))\n  case $verb in\n",
    ]
    for line in lines:
        specs = [spec for option in line.options for spec in _zsh_option(option)]
        action = _zsh_action(line.value)
        specs.append(f"*:{_zsh_escaped(line.metavar)}:{action or ' '}")
        joined = " \\\n        ".join(map(_quoted, specs))
        parts.append(f"    {line.verb})\n      _arguments -S \\\n        {joined}\n      ;;\n")
    parts.append("    help) _describe -t verbs verb verbs ;;\n")
    return "".join((*parts, _ZSH_TAIL))


def _zsh_option(option: Option) -> list[str]:
    star = "*" if option.repeated else ""
    found: list[str] = []
    for name in option.names:
        text = f"{star}{name}[{_zsh_escaped(option.help)}]"
        if option.value is not None:
            text += f":{_zsh_escaped(option.metavar)}:{_zsh_action(option.value) or ' '}"
        found.append(text)
    return found


def _zsh_action(value: Value) -> str:
    if value.words:
        return f"({' '.join(value.words)})"
    if value.files:
        return f'_files -g "*{value.suffix}(-.)"' if value.suffix else "_files"
    return "_files -/" if value.folders else ""


def _zsh_escaped(text: str) -> str:
    for character in "\\[]:":
        text = text.replace(character, f"\\{character}")
    return text


# fish


def fish(lines: Sequence[CommandLine]) -> str:
    parts = [
        "# Completion of convc for fish: convc completion fish > ~/.config/fish/completions/convc.fish\n\n",
        "complete -c convc -f\n",
        "complete -c convc -n __fish_use_subcommand -l help -d 'lists the verbs'\n",
        "complete -c convc -n __fish_use_subcommand -l version -d 'prints the version'\n",
    ]
    for line in lines:
        parts.append(f"complete -c convc -n __fish_use_subcommand -a {line.verb} -d {_fish_quoted(line.summary)}\n")
    for line in lines:
        condition = f"complete -c convc -n '__fish_seen_subcommand_from {line.verb}'"
        for option in line.options:
            names = " ".join(f"-l {name[2:]}" if name.startswith("--") else f"-s {name[1:]}" for name in option.names)
            value = "" if option.value is None else f" {_fish_value(option.value)}"
            parts.append(f"{condition} {names}{value} -d {_fish_quoted(option.help)}\n")
        if line.value != Value():
            parts.append(f"{condition} {_fish_value(line.value).removeprefix('-x ')}\n")
    return "".join(parts)


def _fish_value(value: Value) -> str:
    if value.words:
        return f"-x -a {_fish_quoted(' '.join(value.words))}"
    if value.files:
        return f"-x -k -a '(__fish_complete_suffix {value.suffix})'" if value.suffix else "-r -F"
    return "-x -a '(__fish_complete_directories)'" if value.folders else "-x"


def _fish_quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _quoted(text: str) -> str:
    """As one word of bash and zsh."""
    return shlex.quote(text) if text else "''"
