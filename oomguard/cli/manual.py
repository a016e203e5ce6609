"""``oomguard manual``: man pages, and all else that is made of the program itself. Hidden: `make install` calls it.

oomguard.1 is made of the command tree, oomguard.toml.5 of the schema of the policy, oomguard.service.8 of the units
and the table of messages. So none of them can tell of an option that is gone, or be silent about a new one.
"""

import os
import re
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from .. import __version__
from .tree import Argument, Command, Option, whole

Schema = dict[str, Any]


Share = Annotated[Path, typer.Argument(metavar="DIR", help="As /usr/local/share.", readable=False)]
Units = Annotated[
    list[Path], typer.Option("--unit", metavar="FILE", help="The unit files as installed, ours first.", readable=False)
]


def manual(share: Share, unit: Units) -> None:
    """Write man pages, what completes the command in a shell, and the schema of a policy where they are looked for."""
    import json

    from ..policy import described
    from .completion import Shell, script

    root, document = whole(), described.document()
    for place, text in {
        "man/man1/oomguard.1": command_page(root),
        "man/man5/oomguard.toml.5": policy_page(document),
        "man/man8/oomguard.service.8": service_page(unit),
        "bash-completion/completions/oomguard": script(Shell.BASH, root),
        "zsh/site-functions/_oomguard": script(Shell.ZSH, root),
        "fish/vendor_completions.d/oomguard.fish": script(Shell.FISH, root),
        "oomguard/policy.schema.json": json.dumps(document, indent=2) + "\n",
    }.items():
        path = share / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        path.chmod(0o644)


# --------------------------------------------------------------------------------------------------------------- roff


def escaped(text: str) -> str:
    """Words as roff takes them: no backslash, no request where a line begins, hyphens that can be searched for."""
    lines = text.replace("\\", "\\e").replace("-", "\\-").replace("`", "\\(ga").split("\n")
    return "\n".join(f"\\&{line}" if line[:1] in (".", "'") else line for line in lines)


def _head(title: str, section: int, what: str) -> str:
    made_s = int(os.environ.get("SOURCE_DATE_EPOCH") or time.time())  # reproducible-builds.org
    date = time.strftime("%Y-%m-%d", time.gmtime(made_s))
    return f'.TH {title.upper()} {section} {date} "oomguard {__version__}" "{what}"\n'


def _section(title: str, *parts: str) -> str:
    return f".SH {escaped(title.upper())}\n" + "".join(parts).removeprefix(".PP\n")  # a heading begins one


def _subsection(title: str, *parts: str) -> str:
    return f'.SS "{escaped(title)}"\n' + "".join(parts).removeprefix(".PP\n")


def _paragraph(text: str) -> str:
    return f".PP\n{escaped(text)}\n"


def _item(tag: str, text: str) -> str:
    """A tagged paragraph; the tag is roff already."""
    return f".TP\n{tag}\n{escaped(text)}\n"


def _bold(text: str) -> str:
    return f"\\fB{escaped(text)}\\fR"


def _italic(text: str) -> str:
    return f"\\fI{escaped(text)}\\fR"


def _verbatim(text: str) -> str:
    return f".PP\n.nf\n{escaped(text.rstrip())}\n.fi\n"


def _see(*pages: str) -> str:
    found = [re.fullmatch(r"(.+)\((\d)\)", page) for page in pages]
    lines = [f".BR {escaped(it[1])} ({it[2]})" for it in found if it is not None]
    return _section("see also", " ,\n".join(lines) + "\n")


# ---------------------------------------------------------------------------------------------------------- oomguard.1

CODES: Final = {
    "0": "Fine.",
    "1": "It found something, or did not find what was asked for; each command says what that means.",
    "2": "Used wrongly: an option, or a policy file. The message says which.",
    "3": "Not permitted: it takes root, or membership in the group oomguard.",
    "4": "This kernel cannot do it.",
    "130": "Ended by Ctrl\u2011C.",
}
ENVIRONMENT: Final = {
    "NO_COLOR": "If it is set and not empty, nothing is colored. Colors are for terminals only, and not for TERM=dumb.",
    "XDG_STATE_HOME, XDG_RUNTIME_DIR": "Where the incidents and the status page of a daemon without root are.",
}
FILES: Final = {
    "/etc/oomguard/oomguard.toml": "The policy; conf.d/*.toml beside it is read after it.",
    "/var/lib/oomguard/incidents": "What happened, a directory each. For root and the group oomguard.",
    "/run/oomguard/status": "The status page of the running daemon.",
}


def command_page(root: Command) -> str:
    """oomguard.1."""
    commands = [command for command in root.walk() if not command.commands]
    return "".join(
        (
            _head("oomguard", 1, "User Commands"),
            _section("name", f"oomguard \\- {escaped(_lower(root.summary))}\n"),
            _section("synopsis", ".br\n".join(f"{_usage(command)}\n" for command in commands)),
            _section(
                "description",
                _paragraph(root.help),
                _paragraph(
                    "Commands that print take --json. What a name of a process or a control group holds beside "
                    "printable characters is shown escaped."
                ),
            ),
            _section("commands", *map(_command, root.walk())),
            _section("exit status", *(_item(_bold(code), text) for code, text in CODES.items())),
            _section("environment", *(_item(_bold(name), text) for name, text in ENVIRONMENT.items())),
            _section("files", *(_item(_italic(name), text) for name, text in FILES.items())),
            _see("oomguard.toml(5)", "oomguard.service(8)"),
        )
    )


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]


def _usage(command: Command) -> str:
    words = [_bold(" ".join(command.path)), *([f"[{_italic('OPTION')}]..."] if len(command.options) > 1 else [])]
    return " ".join([*words, *(_italic(it.shown) for it in command.arguments)])


def _command(command: Command) -> str:
    if len(command.path) == 1:
        return "".join(_option(it) for it in command.options)
    return _subsection(
        " ".join([*command.path, *(it.shown for it in command.arguments)]),
        *(_paragraph(" ".join(part.split())) for part in command.help.split("\n\n")),
        *(_argument(it) for it in command.arguments if it.help),
        *(_option(it) for it in command.options if "--help" not in it.names),
    )


def _argument(it: Argument) -> str:
    return _item(_italic(it.shown), it.help)


def _option(it: Option) -> str:
    tag = ", ".join(_bold(name) for name in it.names) + (f" {_italic(it.metavar)}" if it.metavar else "")
    choices = f" One of {', '.join(it.choices)}." if it.choices and it.choices[0] not in it.metavar else ""
    default = f" Default: {it.default}." if it.default and "default" not in it.help else ""
    return _item(tag, f"{it.help}{choices}{default}")


# ------------------------------------------------------------------------------------------------------ oomguard.toml.5

EXAMPLE: Final = """\
[policy.web]
cgroup = "/system.slice/web-*.service"
tripwire = true
soft = { when = [{ memory_above = "85%" }], do = ["snapshot", "notify", "nominate"] }
hard = { when = [{ memory_above = "95%" }], do = [{ kill = { grace = "2s" } }] }
"""
_HEADINGS: Final = {"GuardTable": "[policy.NAME]", "SinkTable": "[sinks.NAME]", "DaemonTable": "[daemon]"}


def policy_page(document: Schema) -> str:
    """oomguard.toml.5, of the JSON Schema that `oomguard schema` prints."""
    tables = document["$defs"]
    headings = dict(_reached(tables))
    return "".join(
        (
            _head("oomguard.toml", 5, "File Formats"),
            _section("name", "oomguard.toml \\- whom oomguard guards, when it acts, and whom it ends\n"),
            _section("synopsis", _verbatim("/etc/oomguard/oomguard.toml\n/etc/oomguard/conf.d/*.toml")),
            _section(
                "description",
                _paragraph(
                    "Files in TOML: oomguard.toml, then conf.d/*.toml beside it in the order of their names. A later "
                    "file adds policies, and single keys of policies that stand in earlier ones. For a daemon of root, "
                    "nobody else may be able to write to them. oomguard check tells of every mistake, with its place."
                ),
                _paragraph(
                    "Sizes are written 512MiB or 1.5G (of 1024), shares 5%, times 150ms, 2.5s, 5m or 1h, rates "
                    "50MiB/s. In patterns * stands for anything but a slash, ** for anything, ? for one character."
                ),
            ),
            _section("tables", *(_table(heading, tables[name], headings) for name, heading in headings.items())),
            _section("example", _verbatim(EXAMPLE)),
            _see("oomguard(1)", "oomguard.service(8)"),
        )
    )


def _reached(tables: Schema) -> Iterator[tuple[str, str]]:
    """(table, heading), in the order in which a reader meets them."""
    waiting, seen = list(_HEADINGS.items()), set(_HEADINGS)
    while waiting:
        name, heading = waiting.pop(0)
        if tables[name].get("properties"):
            yield name, heading
        for inner, keys in _tables_of(tables[name]).items():
            if inner not in seen:
                seen.add(inner)
                inside = heading if heading.startswith("[") else ""
                waiting.append((inner, _inner_heading(inside, keys)))


def _inner_heading(inside: str, keys: list[str]) -> str:
    if inside:
        return ", ".join(f"{inside.removesuffix(']')}.{key}]" for key in keys)
    return ", ".join(f"{key} = {{ ... }}" for key in keys)


def _tables_of(table: Schema) -> dict[str, list[str]]:
    """The tables that stand in this one, with the keys under which they do."""
    found: dict[str, list[str]] = {}
    for key, form in table.get("properties", {}).items():
        for name in re.findall(r"'#/\$defs/(\w+)'", str(form)):
            found.setdefault(name, []).append(key)
    return found


def _table(heading: str, table: Schema, headings: dict[str, str]) -> str:
    return _subsection(heading, *(_key(key, form, headings) for key, form in table["properties"].items()))


def _key(key: str, form: Schema, headings: dict[str, str]) -> str:
    default = form.get("default")
    written = (
        "" if default in (None, [], "", {}) or isinstance(default, dict | list) else f" Default: {_toml(default)}."
    )
    as_it_stands = f'"{default}"' if isinstance(default, str) and "enum" not in form else _form(form, headings)
    return _item(f"{_bold(key)} = {_italic(as_it_stands)}", f"{form['description']}{written}")


def _toml(value: object) -> str:
    return {True: "true", False: "false"}[value] if isinstance(value, bool) else str(value)


def _form(form: Schema, headings: dict[str, str]) -> str:
    """What may stand behind the equals sign, in a word or two."""
    if "$ref" in form:
        return "table" if form["$ref"].rpartition("/")[2] in headings else "{}"
    if "enum" in form or "const" in form:
        return " | ".join(f'"{value}"' for value in form.get("enum", [form.get("const")]))
    if form.get("examples"):
        return f'"{form["examples"][0]}"'
    if "anyOf" in form or "oneOf" in form:
        return " or ".join(dict.fromkeys(_form(part, headings) for part in form.get("anyOf") or form["oneOf"]))
    if form.get("type") == "array":
        return f"[{_form(form.get('items', {}), headings)}, ...]"
    return {"string": '"text"', "boolean": "true | false", "integer": "number", "object": "table"}.get(
        form.get("type", ""), "value"
    )


# --------------------------------------------------------------------------------------------------- oomguard.service.8


def service_page(units: Iterable[Path]) -> str:
    """oomguard.service.8, of unit files whose every setting has its reason on the line above it. OSError."""
    from ..model.messages import FIELDS, MESSAGE_IDS

    texts = {path.name: path.read_text() for path in units}
    return "".join(
        (
            _head("oomguard.service", 8, "System Administration"),
            _section("name", f"{escaped(', '.join(texts))} \\- guard against running out of memory\n"),
            _section(
                "synopsis", _verbatim("systemctl enable --now oomguard.service\nsystemctl reload oomguard.service")
            ),
            _section(
                "description",
                _paragraph(
                    "oomguard.service runs oomguard run as root, locked in memory, before anything else is short "
                    "of it. It is ready when every system call of a kill has been rehearsed. What it changes, it puts "
                    "back: on calm, at its stop, and after a crash by oomguard undo."
                ),
                _paragraph(
                    "A reload (SIGHUP) compiles the policy again. A wrong one is refused and told, and the old one "
                    "stays in force."
                ),
            ),
            *(_unit(name, text) for name, text in texts.items()),
            _section(
                "messages",
                _paragraph("Of each entry in the journal, for journalctl MESSAGE_ID=...; journalctl -x explains them."),
                *(_item(_bold(name), message_id) for name, message_id in MESSAGE_IDS.items()),
            ),
            _section("fields", *(_item(_bold(name), f"{text}.") for name, text in FIELDS.items())),
            _see("oomguard(1)", "oomguard.toml(5)", "systemd.service(5)", "systemd.exec(5)"),
        )
    )


def _unit(name: str, text: str) -> str:
    return _section(f"settings of {name}", *(_item(_bold(setting), reason) for setting, reason in settings(text)))


def settings(text: str) -> list[tuple[str, str]]:
    """(setting, reason) of a unit file, in order; several comment lines are one reason."""
    found, reason = [], []
    for line in text.splitlines():
        if line.startswith("#"):
            reason.append(line.removeprefix("#").strip())
        elif "=" in line and reason:
            found.append((line, " ".join(reason)))
            reason = []
        elif not line.strip() or line.startswith("["):
            reason = []
    return found
