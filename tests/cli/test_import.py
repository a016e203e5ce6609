"""``oomguard import``: a policy on standard output, what cannot be said on standard error, and an exit code."""

from pathlib import Path

import pytest
import tomli

from .command import oomguard


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    path = tmp_path / "earlyoom"
    path.write_text("EARLYOOM_ARGS='-m 10 --kernel-oom --avoid ^sshd$'\n")
    return path


def test_what_is_printed_is_a_right_policy(theirs: Path, tmp_path: Path) -> None:
    answer = oomguard("import", "earlyoom", theirs)
    assert answer.code == 1  # not all could be said
    assert answer.err == (
        f"{theirs}:1: --avoid, --prefer: nearly: weigh a quarter and four times, not 300 points of oom_score\n"
        f"{theirs}:1: --kernel-oom: cannot be said: "
        "the kernel's killer is not called: the victim is chosen here\n"
    )
    assert tomli.loads(answer.out)["policy"]["earlyoom"]["victim"]["avoid"] == [{"comm": "sshd"}]
    policy = tmp_path / "policy.toml"
    policy.write_text(answer.out)
    assert oomguard("check", "--config", policy).code == 0


def test_for_programs(theirs: Path) -> None:
    answer = oomguard("import", "earlyoom", theirs, "--json")
    assert answer.code == 1
    assert answer.json["policy"] == tomli.loads(answer.json["toml"])["policy"]
    assert [(fault["key"], fault["line"]) for fault in answer.json["left"]] == [("--kernel-oom", 1)]


def test_who_is_told_goes_along(theirs: Path, tmp_path: Path) -> None:
    theirs.write_text("-n -N /bin/true -P /bin/true")
    answer = oomguard("import", "earlyoom", theirs)
    assert answer.code == 0, "all of it is said, if not quite the same"
    policy = tmp_path / "policy.toml"
    policy.write_text(answer.out)
    assert oomguard("check", "--config", policy).code == 0
    assert set(oomguard("import", "earlyoom", theirs, "--json").json["sinks"]) == {"desktop", "script"}


def test_when_all_is_said_it_is_fine(theirs: Path) -> None:
    theirs.write_text("-m 5 -s 5")
    answer = oomguard("import", "earlyoom", theirs)
    assert (answer.code, answer.err) == (0, "")


def test_what_is_none_of_theirs(theirs: Path) -> None:
    theirs.write_text("-m five")
    answer = oomguard("import", "earlyoom", theirs)
    assert (answer.code, answer.out) == (2, "")
    assert f"{theirs}:1: -m: 'five' is not one number or two\n    hint: as in -m 10,5\n" in answer.err


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    answer = oomguard("import", "oomd", tmp_path / "none")
    assert (answer.code, answer.out) == (2, "")
    assert "cannot be read: No such file or directory" in answer.err


def test_nothing_can_be_said(theirs: Path) -> None:
    theirs.write_text("[OOM]\nSwapUsedLimit=80%\n")
    answer = oomguard("import", "systemd-oomd", theirs)
    assert (answer.code, answer.out) == (1, "")
    assert answer.err.endswith("oomguard: nothing of it can be said: there is no policy\n")


def test_no_such_daemon(theirs: Path) -> None:
    assert oomguard("import", "bustd", theirs).code == 2
