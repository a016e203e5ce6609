"""Sinks in the language: who hears of which policy, and that a URL goes nowhere but to its service."""

import json
from pathlib import Path

import pytest

from oomguard.judge.select import fits
from oomguard.model.codec import pack, to_plain
from oomguard.model.policy import Plan, Sink
from oomguard.policy import doubts, spoken, toml

from .helpers import faults_of, plan_of

HOST = """\
[policy.host]
cgroup = "/"
hard = { when = [{ available_below = "5%" }], do = ["kill"] }
victim = { never = [{ comm = "sshd*" }] }
"""
OPS = '[sinks.ops]\nurl = "slack://TokenOfAll/Secrets/Here"\n'
SECOND_NS = 10**9


def sink_of(directory: Path, text: str) -> Sink:
    (sink,) = plan_of(directory, HOST + text).sinks
    return sink


def said(plan: Plan) -> list[tuple[str, str]]:
    return [(fault.key, fault.message) for fault in doubts.of(plan, fits) if fault.key.startswith("sinks")]


def test_what_is_not_said(tmp_path: Path) -> None:
    sink = sink_of(tmp_path, OPS)
    assert (sink.by, sink.at, sink.every_ns) == ("url", ("killed", "failed", "kernel"), 60 * SECOND_NS)
    assert plan_of(tmp_path, HOST).sinks == ()
    (guard,) = plan_of(tmp_path, HOST + OPS).guards
    assert guard.notify is None, "all sinks hear of every policy that does not choose"


def test_the_other_kinds(tmp_path: Path) -> None:
    assert sink_of(tmp_path, '[sinks.a]\nurl_file = "/etc/oomguard/secrets/a"').file == "/etc/oomguard/secrets/a"
    assert sink_of(tmp_path, '[sinks.a]\nrun = ["/usr/bin/page", "--now"]').argv == ("/usr/bin/page", "--now")
    assert sink_of(tmp_path, "[sinks.a]\ndesktop = true").by == "desktop"


def test_a_url_is_in_no_plan(tmp_path: Path) -> None:
    """So it is in no ring, no incident, no plan that is kept, and nothing that is shown."""
    plan = plan_of(tmp_path, HOST + OPS)
    (sink,) = plan.sinks
    assert (sink.service, sink.file) == ("slack", str(tmp_path / "0.toml"))
    forms = [json.dumps(to_plain(plan)), pack(plan).decode("latin-1"), toml.document(spoken.tables(plan))]
    for form in forms:
        assert "ops" in form
        assert not any(secret in form for secret in ("TokenOfAll", "Secrets", "Here"))
    assert 'url = "slack://***"' in forms[-1]


@pytest.mark.parametrize("key", ["url", "url_file"])
def test_nor_is_it_in_a_fault(tmp_path: Path, key: str) -> None:
    value = "slack:TokenOfAll" if key == "url" else "slack://TokenOfAll"
    (fault,) = faults_of(tmp_path, HOST + f'[sinks.ops]\n{key} = "{value}"')
    assert fault.key == f"sinks.ops.{key}"
    assert "TokenOfAll" not in str(fault)


def test_the_file_that_says_it_last_has_the_url(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, HOST + OPS, '[sinks.ops]\nurl = "json://host/x"', '[sinks.ops]\nevery = "5m"')
    (sink,) = plan.sinks
    assert (sink.service, sink.file) == ("json", str(tmp_path / "1.toml"))
    assert sink.every_ns == 300 * SECOND_NS


def test_a_later_file_takes_it_out(tmp_path: Path) -> None:
    assert plan_of(tmp_path, HOST + OPS, "[sinks.ops]\ndisabled = true").sinks == ()
    (fault,) = faults_of(tmp_path, HOST, "[sinks.ops]\ndisabled = true")
    assert fault.message == "there is no sink ops before this to disable"


@pytest.mark.parametrize("names", [("ops",), ()])
def test_a_policy_may_choose(tmp_path: Path, names: tuple[str, ...]) -> None:
    text = HOST.replace('cgroup = "/"', f'cgroup = "/"\nnotify = {json.dumps(names)}') + OPS
    plan = plan_of(tmp_path, text)
    assert plan.guards[0].notify == names
    assert plan_of(tmp_path, toml.document(spoken.tables(plan))).guards[0].notify == names


def test_a_shadow_has_no_sinks(tmp_path: Path) -> None:
    (tmp_path / "shadow.toml").write_text(HOST + OPS)
    (fault,) = faults_of(tmp_path, HOST + '[daemon]\nshadow = "shadow.toml"\n')
    assert fault.message == "a shadow has no sinks of its own"


def test_a_secret_that_others_may_read_is_doubtful(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, HOST + OPS)
    (tmp_path / "0.toml").chmod(0o644)
    assert said(plan) == [("sinks.ops.url", "that URL is a secret, and others may read it here")]
    (tmp_path / "0.toml").chmod(0o600)
    assert said(plan) == []


def test_a_sink_that_nobody_tells_anything_is_doubtful(tmp_path: Path) -> None:
    quiet = HOST.replace('cgroup = "/"', 'cgroup = "/"\nnotify = []')
    plan = plan_of(tmp_path, quiet + '[sinks.a]\ndesktop = true\nat = ["killed"]')
    assert said(plan) == [("sinks.a", "no policy tells this sink anything")]
    assert said(plan_of(tmp_path, quiet + "[sinks.a]\ndesktop = true")) == [], "the kernel's kills have no policy"
