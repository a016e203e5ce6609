"""What a shell offers at the Tab key, asked in the real shells. It is made of the command tree, and asks no Python."""

import shutil
import subprocess
from pathlib import Path

import pytest

from oomguard.cli import completion, tree
from oomguard.cli.completion import Shell

from .command import oomguard

TIMEOUT_S = 60
INCIDENT = "20260131T031204Z-host-072511"

# What was written so far, the last word being completed: what has to be offered, and what must not be.
CASES: dict[str, tuple[set[str], set[str]]] = {
    "": ({"run", "check", "status", "incidents"}, {"compile", "manual", "list"}),
    "inc": ({"incidents"}, {"import", "run"}),
    "incidents ": ({"list", "show", "report", "replay"}, {"status"}),
    "incidents sh": ({"show"}, {"list"}),
    "incidents list --js": ({"--json"}, {"--others"}),
    "status --": ({"--json", "--config", "--runtime-dir"}, {"--observe"}),
    "import ": ({"earlyoom", "systemd-oomd", "kubelet"}, {"list"}),
    "import nohang pol": ({"policy.toml"}, {"poldir-not"}),
    "completion ": ({"bash", "zsh", "fish"}, {"run"}),
    "check --config pol": ({"policy.toml"}, set()),
    "check --against pol": ({"poldir"}, {"policy.toml"}),
    "incidents show ": ({"last", INCIDENT}, {"show"}),
    "incidents diff last 2026": ({INCIDENT}, {"last"}),
    "incidents export last --redact ": ({"secrets", "names", "none"}, {"last"}),
    "incidents --help": ({"--help"}, set()),
}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with a file and a directory, and an incident."""
    (tmp_path / "policy.toml").touch()
    (tmp_path / "poldir").mkdir()
    (tmp_path / "incidents" / INCIDENT).mkdir(parents=True)
    monkeypatch.setattr(completion, "INCIDENTS", str(tmp_path / "incidents"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def script(shell: Shell, place: Path) -> Path:
    path = place / f"_oomguard.{shell}"
    path.write_text(completion.script(shell, tree.whole()))
    return path


def offered(words: list[str]) -> list[list[str]]:
    """What a shell prints, one case after the other, each ended by a line of its own."""
    done = subprocess.run(words, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    assert done.stderr == ""
    return [part.split("\n") for part in done.stdout.split("--end--\n")]


def compare(found: list[list[str]], name: str) -> None:
    for (written, (wanted, unwanted)), lines in zip(CASES.items(), found, strict=False):
        words = {line.partition("\t")[0].strip().removesuffix("/") for line in lines}
        assert wanted <= words, f"{name}: {written!r} offers {words}"
        assert not unwanted & words, f"{name}: {written!r} offers {words}"
    assert len(found) > len(CASES)


def test_bash(place: Path) -> None:
    path = script(Shell.BASH, place)
    lines = [f"source {path}"]
    for written in CASES:
        words = ["oomguard", *written.split(" ")]
        array = " ".join(f"'{word}'" for word in words)
        lines.append(f"COMP_WORDS=({array}); COMP_CWORD={len(words) - 1}; _oomguard")
        lines.append("printf '%s\\n' \"${COMPREPLY[@]}\"; echo --end--")
    compare(offered(["bash", "--norc", "-uc", "\n".join(lines)]), "bash")


def test_bash_knows_it_by_name(place: Path) -> None:
    path = script(Shell.BASH, place)
    said = subprocess.run(
        ["bash", "-c", f"source {path}; complete -p oomguard"], capture_output=True, text=True, check=True
    )
    assert said.stdout == "complete -F _oomguard oomguard\n"


def test_no_name_of_an_incident_is_ever_run(place: Path) -> None:
    """compgen -W expands its words."""
    (place / "incidents" / "$(touch gone)-x").mkdir()
    path = script(Shell.BASH, place)
    asked = (
        f"source {path}; COMP_WORDS=(oomguard incidents show ''); COMP_CWORD=3; _oomguard; echo \"${{COMPREPLY[@]}}\""
    )
    said = subprocess.run(["bash", "-c", asked], capture_output=True, text=True, check=True).stdout
    assert "$(touch gone)-x" in said
    assert not (place / "gone").exists()


# zsh completes on a terminal only: a second zsh has one, in which Tab is pressed after each case. What its completion
# system hands to compadd is written down.
ZSH_INSIDE = r"""
autoload -Uz compinit; compinit -u -D; PROMPT=; stty -echo
compadd() {
    if [[ ${@[1,(i)(-|--)]} == *-(O|A|D)\ * ]]; then builtin compadd "$@"; return; fi
    local -a got; builtin compadd -A got "$@"; print -rl -- $got >> $OUT; builtin compadd "$@"
}
tab() { zle complete-word; print -- --end-- >> $OUT; print -- --done--; zle kill-buffer }
zle -N tab; bindkey '^I' tab
source $SCRIPT
print -- --ready--
"""
ZSH_OUTSIDE = r"""
zmodload zsh/zpty
wait_for() {
    local text line
    repeat 600; do
        zpty -rt z line && text+=$line
        [[ $text == *$1* ]] && return
        sleep 0.1
    done
    print -u2 no $1: $text; exit 1
}
: > $OUT
zpty -b z zsh -f -i
zpty -w z "source $INSIDE"
wait_for $'--ready--\r'
while IFS= read -r written; do
    zpty -wn z "$written"$'\t'; wait_for --done--
done
zpty -d z; cat $OUT
"""


@pytest.mark.skipif(shutil.which("zsh") is None, reason="zsh is not installed")
def test_zsh(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (place / "inside.zsh").write_text(ZSH_INSIDE)
    (place / "cases").write_text("".join(f"oomguard {written}\n" for written in CASES))
    for name, path in {"SCRIPT": script(Shell.ZSH, place), "INSIDE": "inside.zsh", "OUT": place / "offered"}.items():
        monkeypatch.setenv(name, str(path))
    compare(offered(["zsh", "-f", "-c", f"() {{ {ZSH_OUTSIDE} }} < {place}/cases"]), "zsh")


@pytest.mark.skipif(shutil.which("fish") is None, reason="fish is not installed")
def test_fish(place: Path) -> None:
    path = script(Shell.FISH, place)
    lines = [f"source {path}"]
    lines += [f"complete --do-complete 'oomguard {written}'; echo --end--" for written in CASES]
    compare(offered(["fish", "--no-config", "-c", "\n".join(lines)]), "fish")


def test_the_command_prints_the_same(tmp_path: Path) -> None:
    answer = oomguard("completion", "bash")
    assert (answer.code, answer.err) == (0, "")
    assert answer.out == completion.script(Shell.BASH, tree.whole())
