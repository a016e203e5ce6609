"""``oomguard show`` and ``oomguard schema``: what is in force and who said so, and what may be said."""

import json
from dataclasses import replace
from pathlib import Path

import jsonschema
import tomli

from oomguard import policy
from oomguard.cli import become, origin
from oomguard.model import codec, kept
from oomguard.model.policy import Plan

from .command import HOST, oomguard


def test_it_shows_a_policy_with_the_origin_of_every_value(config: Path) -> None:
    answer = oomguard("show", "--config", config)
    assert (answer.code, answer.err) == (0, "")
    assert answer.out.startswith(f"# Effective, of {config}\n")
    assert f"# {config}:3\n" in answer.out
    assert 'cooldown = "5s"' in answer.out
    again = config.parent / "again.toml"
    again.write_text(answer.out)
    assert oomguard("check", "--config", again).code == 0


def test_without_origins(config: Path) -> None:
    answer = oomguard("show", "--config", config, "--plain")
    assert str(config) not in answer.out.partition("\n")[2]
    assert tomli.loads(answer.out)["policy"]["host"]["hard"] == {"when": [{"available_below": "5%"}], "do": ["kill"]}


def test_for_programs(config: Path) -> None:
    answer = oomguard("show", "--config", config, "--json")
    assert answer.json["policy"]["host"]["cgroup"] == "/"
    assert answer.json["origins"]["policy.host.cgroup"] == f"{config}:3"
    assert answer.json["origins"]["policy.host.mode"] is None


def test_a_wrong_policy_is_not_shown(config: Path) -> None:
    config.write_text("[policy.host]\n")
    answer = oomguard("show", "--config", config)
    assert (answer.code, answer.out) == (2, "")
    assert "cgroup is missing" in answer.err


def keep(config: Path, directory: Path) -> Plan:
    """As a daemon leaves it."""
    directory.mkdir(mode=0o700)
    argv = become.again(str(config), True, {})
    plan = policy.load([config])
    plan = replace(plan, argv=argv, made_from=origin.digest(argv, str(config), ""))
    content = json.dumps(codec.to_plain(plan)).encode()
    (directory / kept.NAME).write_bytes(kept.wrapped(plan.made_from, content))
    return plan


def test_what_is_in_force_is_not_what_stands_in_the_file_now(config: Path, tmp_path: Path) -> None:
    keep(config, tmp_path / "run")
    words = ("show", "--in-force", "--runtime-dir", tmp_path / "run", "--config", config)
    answer = oomguard(*words)
    assert f"# {config}:3\n" in answer.out
    assert "# Started with --observe, which comes before the files.\n" in answer.out
    config.write_text(HOST.replace("5%", "6%"))
    answer = oomguard(*words)
    assert "The files have changed" in answer.out
    assert '{ available_below = "5%" }' in answer.out


def test_of_what_a_share_is_stands_beside_it(config: Path) -> None:
    web = '[policy.web]\ncgroup = "/web"\nhard = { when = [{ memory_above = "90%" }], do = ["kill"] }\n'
    config.write_text(HOST + web)
    lines = oomguard("show", "--config", config).out.splitlines()
    assert any("available_below" in line and line.endswith("; available_below of MemTotal") for line in lines)
    assert any("memory_above" in line and line.endswith("; memory_above of its limit") for line in lines)


def test_nothing_is_in_force(config: Path, tmp_path: Path) -> None:
    answer = oomguard("show", "--in-force", "--runtime-dir", tmp_path)
    assert (answer.code, answer.out) == (1, "")
    assert answer.err == f"oomguard: no policy is in force: there is no {tmp_path}/plan\n"
    (tmp_path / "plan").write_text("notes")
    assert oomguard("show", "--in-force", "--runtime-dir", tmp_path).code == 1


def test_the_schema_takes_our_policy(config: Path) -> None:
    answer = oomguard("schema")
    assert (answer.code, answer.err) == (0, "")
    jsonschema.Draft7Validator(answer.json).validate(tomli.loads(config.read_text()))
