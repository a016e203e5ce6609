"""``oomguard completion``: what a shell offers at the Tab key, as one file that asks no Python.

Made from the command tree, so it knows what --help knows. Incidents are completed by their directories, which are
readable for the group; whoever may not read them is offered nothing.
"""

import shlex
import sys
from collections.abc import Iterator
from enum import StrEnum
from typing import Annotated, Final

import typer

from .tree import Argument, Command, Means, Option, whole

INCIDENTS: Final = "/var/lib/oomguard/incidents"  # one that is configured elsewhere is not offered


class Shell(StrEnum):
    """Which shells are spoken."""

    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"


def completion(shell: Annotated[Shell, typer.Argument(metavar="SHELL", help="bash, zsh or fish.")]) -> None:
    """Print what completes this command in a shell: eval "$(oomguard completion bash)".

    `make install` puts it where bash, zsh and fish look.
    """
    sys.stdout.write(script(shell, whole()))


def script(shell: Shell, root: Command) -> str:
    """The file for one shell."""
    match shell:
        case Shell.BASH:
            return _bash(root)
        case Shell.ZSH:
            return _zsh(root)
        case Shell.FISH:
            return _fish(root)


# --------------------------------------------------------------------------------------------------------------- bash

_BASH: Final = """\
# bash completion of oomguard, made by `oomguard completion bash`.

_oomguard() {
    local word=${COMP_WORDS[COMP_CWORD]} command=oomguard i=1 arguments=0 takes=
    local kind words
    COMPREPLY=()
    while ((i < COMP_CWORD)); do
        _oomguard_kind "$command" "${COMP_WORDS[i]}"
        case $kind in
            command) command+=" ${COMP_WORDS[i]}" ;;
            value:*) ((i + 1 == COMP_CWORD)) && takes=${kind#value:}; ((i += 1)) ;;
            argument) ((arguments += 1)) ;;
        esac
        ((i += 1))
    done
    [[ -z $takes && $word == -* ]] && takes=options
    [[ -z $takes ]] && takes=$arguments
    _oomguard_words "$command" "$takes"
    case $words in
        @file) compopt -o filenames 2>/dev/null; mapfile -t COMPREPLY < <(compgen -f -- "$word") ;;
        @directory) compopt -o filenames 2>/dev/null; mapfile -t COMPREPLY < <(compgen -d -- "$word") ;;
        @incident) _oomguard_ids "$word" ;;
        *) mapfile -t COMPREPLY < <(compgen -W "$words" -- "$word") ;;
    esac
}

# Their directories. Not by compgen -W, which would expand what it finds in a name.
_oomguard_ids() {
    local path
    for path in last %(incidents)s/*-*; do
        path=${path##*/}
        [[ $path == "$1"* && $path != '*'* ]] && COMPREPLY+=("$path")
    done
}

# What a word after this command is: another command, an option that takes a value (and which), or an argument.
_oomguard_kind() {
    case "$1 $2" in
%(kinds)s
        *) if [[ $2 == -* ]]; then kind=option; else kind=argument; fi ;;
    esac
}

# What there is to offer: after this command, for its options, a value, or its argument of that number.
_oomguard_words() {
    case "$1/$2" in
%(words)s
        *) words= ;;
    esac
}

complete -F _oomguard oomguard
"""


def _bash(root: Command) -> str:
    kinds, words = [], []
    for command in root.walk():
        path = " ".join(command.path)
        kinds += [f"{_quoted(f'{path} {it.name}')}) kind=command ;;" for it in command.commands]
        for number, option in enumerate(command.options):
            if option.metavar:
                names = "|".join(_quoted(f"{path} {name}") for name in option.names)
                kinds.append(f"{names}) kind=value:v{number} ;;")
                words.append(f"{_quoted(f'{path}/v{number}')}) words={_quoted(_offer(option))} ;;")
        every = " ".join(name for option in command.options for name in option.names)
        words.append(f"{_quoted(f'{path}/options')}) words={_quoted(every)} ;;")
        words += [f"{_place(path, it, number)}) words={_quoted(offer)} ;;" for number, it, offer in _offers(command)]
    indent = "\n".join
    return _BASH % {
        "incidents": INCIDENTS,
        "kinds": indent(f"        {line}" for line in kinds),
        "words": indent(f"        {line}" for line in words),
    }


def _place(path: str, argument: Argument | None, number: int) -> str:
    """The pattern of an argument's number; the last may be given again and again."""
    many = argument is not None and argument.many
    return f"{_quoted(f'{path}/')}{'[0-9]*' if many and number == 0 else number}"


def _offers(command: Command) -> Iterator[tuple[int, Argument | None, str]]:
    """(number, argument, what to offer for it); a group's first argument is one of its commands."""
    if command.commands:
        yield 0, None, " ".join(it.name for it in command.commands)
    for number, argument in enumerate(command.arguments):
        yield number, argument, _offer(argument)


def _offer(it: Option | Argument) -> str:
    return {"choice": " ".join(it.choices), "text": "", "switch": ""}.get(it.means, f"@{it.means}")


# ---------------------------------------------------------------------------------------------------------------- zsh

_ZSH_VALUES: Final[dict[Means, str]] = {
    "file": "_files",
    "directory": "_files -/",
    "incident": "_oomguard_ids",
    "text": "( )",
    "switch": "",
}


def _zsh(root: Command) -> str:
    functions = [_zsh_function(command) for command in root.walk()]
    return (
        "#compdef oomguard\n# zsh completion of oomguard, made by `oomguard completion zsh`.\n\n"
        + "\n".join(functions)
        + f"""
_oomguard_ids() {{
    local -a known
    known=(last {INCIDENTS}/*-*(N:t))
    _describe incident known
}}

if [[ $funcstack[1] == _oomguard ]]; then _oomguard "$@"; else compdef _oomguard oomguard; fi
"""
    )


def _zsh_function(command: Command) -> str:
    name = "_" + "_".join(command.path).replace("-", "_")
    specs = [_zsh_option(option) for option in command.options]
    if command.commands:
        specs += ["'1: :->command'", "'*:: :->rest'"]
    specs += [
        _quoted(f"{'*' if it.many else number}: :{_zsh_value(it)}") for number, it in enumerate(command.arguments, 1)
    ]
    lines = [f"{name}() {{", "    local context state state_descr line", "    typeset -A opt_args"]
    lines.append("    _arguments -C " + " \\\n        ".join(specs))
    if command.commands:
        described = " ".join(_quoted(f"{it.name}:{it.summary.replace(':', '')}") for it in command.commands)
        lines += ["    case $state in", f"        command) local -a known=({described}); _describe command known ;;"]
        lines.append("        rest) case $line[1] in")
        lines += [f"            {it.name}) {name}_{it.name.replace('-', '_')} ;;" for it in command.commands]
        lines += ["        esac ;;", "    esac"]
    return "\n".join([*lines, "}\n"])


def _zsh_option(option: Option) -> str:
    text = "".join(f"\\{c}" if c in "[]:\\" else c for c in option.help)
    value = f":{option.metavar.lower()}:{_zsh_value(option)}" if option.metavar else ""
    if len(option.names) == 1:
        return _quoted(f"{option.names[0]}[{text}]{value}")
    names = " ".join(option.names)
    return f"{_quoted(f'({names})')}{{{','.join(option.names)}}}{_quoted(f'[{text}]{value}')}"


def _zsh_value(it: Option | Argument) -> str:
    return f"({' '.join(it.choices)})" if it.means == "choice" else _ZSH_VALUES[it.means]


# --------------------------------------------------------------------------------------------------------------- fish

_FISH: Final = """\
# fish completion of oomguard, made by `oomguard completion fish`.

# The command that is being written, as in "incidents show"; options and their values do not count.
function __oomguard_command
    set -l words (commandline -opc)
    set -l command
    for word in $words[2..]
        contains -- (string join -- ' ' $command $word) %(paths)s; and set -a command $word
    end
    string join ' ' -- $command
end

function __oomguard_is
    set -l command (__oomguard_command)
    test "$command" = "$argv"
end

function __oomguard_ids
    echo last
    for path in %(incidents)s/*-*
        string replace -r '.*/' '' -- $path
    end
end

complete -c oomguard -f
"""


def _fish(root: Command) -> str:
    paths = " ".join(_quoted(" ".join(it.path[1:])) for it in root.walk() if len(it.path) > 1)
    lines = []
    for command in root.walk():
        here = f"complete -c oomguard -n {_fish_quoted('__oomguard_is ' + ' '.join(command.path[1:]))}"
        lines += [f"{here} -a {it.name} -d {_fish_quoted(it.summary)}" for it in command.commands]
        lines += [
            f"{here}{_fish_names(option)}{_fish_value(option)} -d {_fish_quoted(option.help)}"
            for option in command.options
        ]
        lines += [
            f"{here}{_fish_value(it).replace(' -x', '').replace(' -r', '')}"
            for it in command.arguments
            if it.means != "text"
        ]
    return _FISH % {"paths": paths, "incidents": INCIDENTS} + "\n".join(lines) + "\n"


def _fish_names(option: Option) -> str:
    return "".join(f" -l {name[2:]}" if name.startswith("--") else f" -s {name[1:]}" for name in option.names)


def _fish_value(it: Option | Argument) -> str:
    match it.means:
        case "switch":
            return ""
        case "file":
            return " -r -F"
        case "directory":
            return " -x -a '(__fish_complete_directories)'"
        case "incident":
            return " -x -a '(__oomguard_ids)'"
        case "choice":
            return f" -x -a {_fish_quoted(' '.join(it.choices))}"
        case _:
            return " -x"


def _fish_quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _quoted(text: str) -> str:
    return shlex.quote(text)
