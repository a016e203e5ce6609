"""``oomguard exporter``: over HTTP, in a file, and as Prometheus itself reads it, with its alerts and the dashboard."""

import gzip
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from oomguard.cli import metrics, tally
from oomguard.model.statuspage import Growing, GuardLine
from tests import pages

from .command import TIMEOUT_S, oomguard
from .prometheus import needs_it, promtool, serving
from .test_metrics import page, write

ROOT = Path(__file__).resolve().parents[2]
RULES = ROOT / "etc/prometheus/oomguard.rules.yml"
DASHBOARD = ROOT / "etc/grafana/oomguard.json"


@pytest.fixture
def place(tmp_path: Path, core: "subprocess.Popen[bytes]") -> Path:
    """A daemon that seems to run, with two policies, and an incident."""
    publish(tmp_path, core.pid)
    write(tmp_path)
    return tmp_path


def publish(place: Path, pid: int, more: int = 0, growing: str = "") -> None:
    """``more`` kills of each kind than at first; ``growing``: a cgroup that does."""
    shown = page()
    counted = {"pid": pid, "kills": 3 + more, "kernel_oom_kills": 4 + more, "drops": more}
    numbers = replace(shown.numbers, **counted)
    guards = [replace(guard, kills=guard.kills + more) for guard in shown.guards]
    grown = [*shown.growing, *([Growing(growing, 9 << 30, 2 * 10**9, 1 << 30, 10**9)] if growing else [])]
    known = {"degraded": shown.degraded, "pressure": shown.pressure, "growing": grown}
    pages.publish(place, numbers, guards, **known)


@pytest.fixture
def core() -> Iterator["subprocess.Popen[bytes]"]:
    """Somebody who looks like a core from outside."""
    with pages.core() as process:
        yield process
        process.kill()


def words(place: Path, *more: str) -> list[str]:
    return ["exporter", "--runtime-dir", str(place), "--state-dir", str(place), *more]


class Running:
    """The exporter as a process, once it has said where it answers."""

    def __init__(self, *words: str, **how: Any) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "oomguard", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **how
        )
        assert self.process.stderr
        self.said = self.process.stderr.readline()
        found = re.search(r"metrics are at (\S+)", self.said)
        assert found, self.said + self.process.stderr.read()
        self.where = found[1]

    @property
    def target(self) -> str:
        return self.where.removeprefix("http://").removesuffix("/metrics")

    def end(self, how: signal.Signals = signal.SIGTERM) -> tuple[int, str, str]:
        self.process.send_signal(how)
        out, err = self.process.communicate(timeout=TIMEOUT_S)
        return self.process.returncode, out, err


@contextmanager
def running(*words: str, **how: Any) -> Iterator[Running]:
    it = Running(*words, **how)
    try:
        yield it
    finally:
        it.process.kill()
        it.process.communicate()


def get(target: str, path: str = "/metrics", **headers: str) -> tuple[int, http.client.HTTPMessage, bytes]:
    connection = http.client.HTTPConnection(target, timeout=TIMEOUT_S)
    connection.request("GET", path, headers=headers)
    answer = connection.getresponse()
    return answer.status, answer.headers, answer.read()


# ---------------------------------------------------------------------------------------------------------------- once


def test_once(place: Path) -> None:
    answer = oomguard(*words(place, "--once"))
    assert (answer.code, answer.err) == (0, "")
    assert 'oomguard_policy_phase{phase="armed",policy="web"} 1.0\n' in answer.out
    assert 'oomguard_policy_victims_total{outcome="gone",policy="web"} 1.0\n' in answer.out
    assert 'oomguard_process_resident_memory_bytes{process="core"} ' in answer.out


def test_once_for_programs(place: Path) -> None:
    families = {family["name"]: family for family in oomguard(*words(place, "--once", "--json")).json}
    assert families["oomguard_up"]["samples"] == [{"name": "oomguard_up", "labels": {}, "value": 1.0}]
    assert families["oomguard_kills"]["type"] == "counter"


def test_where_nobody_runs(tmp_path: Path) -> None:
    answer = oomguard(*words(tmp_path, "--once"))
    assert answer.code == 0
    assert "\noomguard_up 0.0\n" in answer.out
    assert "oomguard_policy" not in answer.out.replace("oomguard_policy_victims", "")
    assert answer.err == f"oomguard: oomguard is not running: there is no {tmp_path}/status\n"


def test_without_the_library_it_says_how_to_get_it(tmp_path: Path) -> None:
    (tmp_path / "prometheus_client.py").write_text("raise ModuleNotFoundError(name='prometheus_client')")
    answer = oomguard("exporter", "--once", env={"PYTHONPATH": str(tmp_path)})
    assert (answer.code, answer.out) == (1, "")
    assert answer.err.startswith(
        "oomguard: prometheus-client is not installed; it comes with: make install EXTRAS=metrics"
    )
    assert answer.err.count("\n") == 1


# ---------------------------------------------------------------------------------------------------------------- HTTP


def test_over_http(place: Path) -> None:
    with running(*words(place, "--listen", "127.0.0.1:0")) as it:
        status, headers, body = get(it.target)
        assert (status, headers.get_content_type()) == (200, "text/plain")
        assert b"\noomguard_up 1.0\n" in body
        status, headers, packed = get(it.target, **{"Accept-Encoding": "gzip"})
        assert headers["Content-Encoding"] == "gzip"
        assert b"\noomguard_up 1.0\n" in gzip.decompress(packed)
        _, headers, body = get(it.target, Accept="application/openmetrics-text; version=1.0.0")
        assert headers.get_content_type() == "application/openmetrics-text"
        assert body.endswith(b"# EOF\n")
        assert get(it.target, "/")[::2] == (200, b"oomguard exporter: /metrics\n")
        assert get(it.target, "/etc/passwd")[0] == 404
        (place / "status").unlink()
        assert b"\noomguard_up 0.0\n" in get(it.target)[2]
        code, out, err = it.end()
    assert (code, out) == (0, "")
    assert err == f"oomguard: oomguard is not running: there is no {place}/status\n"


def test_who_is_silent_holds_up_nobody(place: Path) -> None:
    """Connections that say nothing, as many as are answered at once but one."""
    with running(*words(place, "--listen", "127.0.0.1:0")) as it:
        host, _, port = it.target.rpartition(":")
        silent = [socket.create_connection((host, int(port))) for _ in range(7)]
        assert get(it.target)[0] == 200
        for connection in silent:
            connection.close()


@pytest.mark.parametrize("listening", [["--listen", "127.0.0.1:0"], ["--textfile", "x.prom"]], ids=["http", "file"])
def test_ctrl_c(place: Path, listening: list[str]) -> None:
    call = [sys.executable, "-m", "oomguard", *words(place, *listening)]
    process = subprocess.Popen(
        call, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=place, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    assert process.stderr
    if "--listen" in listening:
        process.stderr.readline()
    else:
        wait_until((place / "x.prom").exists)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=TIMEOUT_S)
    assert (process.returncode, out, err) == (130, b"", b"")
    assert not (place / "x.prom").exists()


def test_a_unix_socket(place: Path) -> None:
    path = place / "exporter.sock"
    for _ in range(2):  # the second time over what a crash has left
        with running(*words(place, "--listen", str(path))) as it:
            assert it.where == str(path)
            with socket.socket(socket.AF_UNIX) as connection:
                connection.connect(str(path))
                connection.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
                answer = b"".join(iter(lambda: connection.recv(65536), b""))
            assert b"\noomguard_up 1.0\n" in answer
            assert path.exists()
    with running(*words(place, "--listen", str(path))) as it:
        assert it.end()[0] == 0
    assert not path.exists()


def test_a_place_that_is_taken(place: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        where = f"127.0.0.1:{taken.getsockname()[1]}"
        answer = oomguard(*words(place, "--listen", where))
    assert (answer.code, answer.err) == (1, f"oomguard: --listen {where}: Address already in use\n")
    (place / "file").touch()
    answer = oomguard(*words(place, "--listen", str(place / "file")))
    assert (answer.code, answer.err) == (1, f"oomguard: --listen {place / 'file'}: Address already in use\n")


# As RestrictAddressFamilies=AF_UNIX does it.
NO_NETWORK = """
import socket
class Socket(socket.socket):
    def __init__(self, family=-1, type=-1, proto=-1, fileno=None):
        if fileno is None and family != socket.AF_UNIX:
            raise OSError(97, "Address family not supported by protocol")
        super().__init__(family, type, proto, fileno)
socket.socket = Socket
"""


def test_a_socket_of_systemd(place: Path) -> None:
    """As oomguard-exporter.socket hands it over: descriptor 3, to this very pid, to a service that may open none."""
    (place / "sitecustomize.py").write_text(NO_NETWORK)
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        opened.listen()
        os.set_inheritable(opened.fileno(), True)
        line = f'exec 3<&{opened.fileno()}; LISTEN_PID=$$ LISTEN_FDS=1 exec "$@"'
        call = ["bash", "-c", line, "-", sys.executable, "-m", "oomguard", *words(place)]
        environment = {**os.environ, "PYTHONPATH": str(place)}
        with subprocess.Popen(
            call, pass_fds=[opened.fileno()], stderr=subprocess.PIPE, text=True, env=environment
        ) as process:
            assert process.stderr
            port = opened.getsockname()[1]
            assert process.stderr.readline() == f"oomguard: metrics are at http://127.0.0.1:{port}/metrics\n"
            assert b"\noomguard_up 1.0\n" in get(f"127.0.0.1:{port}")[2]
            process.terminate()
            assert process.wait(TIMEOUT_S) == 0


# ------------------------------------------------------------------------------------------------------------- a file


def wait_until(holds: Any) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_file_is_written_again_and_goes_with_the_exporter(place: Path, core: "subprocess.Popen[bytes]") -> None:
    path = place / "oomguard.prom"
    call = [sys.executable, "-m", "oomguard", *words(place, "--textfile", str(path), "--every", "50ms")]
    process = subprocess.Popen(call, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    wait_until(path.exists)
    assert path.stat().st_mode & 0o777 == 0o644, "node_exporter is somebody else"
    assert "\noomguard_up 1.0\n" in path.read_text()
    (place / "status").unlink()
    wait_until(lambda: "\noomguard_up 0.0\n" in path.read_text())
    publish(place, core.pid)
    wait_until(lambda: "\noomguard_up 1.0\n" in path.read_text())
    process.terminate()
    process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0
    assert [it.name for it in place.iterdir() if "prom" in it.name] == []


def test_a_file_once_stays(place: Path) -> None:
    path = place / "oomguard.prom"
    assert oomguard(*words(place, "--textfile", str(path), "--once")).code == 0
    assert "\noomguard_up 1.0\n" in path.read_text()


def test_a_place_that_is_not_there(place: Path) -> None:
    answer = oomguard(*words(place, "--textfile", str(place / "none/x.prom")))
    assert (answer.code, answer.out) == (1, "")
    assert f"{place}/none" in answer.err
    assert answer.err.count("\n") == 1


# ------------------------------------------------------------------------------- what Prometheus and Grafana make of it


def told_names() -> set[str]:
    """Of time series, as the exporter tells them."""
    suffixes = {"histogram": ("_bucket", "_sum", "_count")}
    return {it.name + suffix for it in metrics.METRICS for suffix in suffixes.get(it.kind, ("",))}


LABELS = {label for it in metrics.METRICS for label in it.labels} | {"instance", "job", "le"}


def strange(expression: str) -> set[str]:
    """What an expression asks for that nobody tells: names of metrics, labels, and values of labels that are fixed."""
    names = set(re.findall(r"\boomguard_\w+", expression)) - told_names()
    matchers = re.findall(r'(\w+)\s*(?:=~|!~|!=|=)\s*"([^"]*)"', expression)
    groups = re.findall(r"\b(?:by|on|ignoring|without)\s*\(([^)]*)\)", expression)
    labels = {name for name, _ in matchers} | {it.strip() for group in groups for it in group.split(",")}
    known = {
        "soft",
        "hard",
        "major",
        "minor",
        *tally.OUTCOMES,
        *tally.VERDICTS,
        "calm",
        "armed",
        "firing",
        "draining",
        "cooling",
    }
    values = {word for _, value in matchers for word in value.split("|") if not word.startswith("$")}
    return names | (labels - LABELS) | (values - known)


def queries(node: Any) -> Iterator[str]:
    """Every expression of the dashboard: of panels, annotations and variables."""
    if isinstance(node, dict):
        yield from (value for key, value in node.items() if key in ("expr", "definition") and isinstance(value, str))
        node = list(node.values())
    if isinstance(node, list):
        for it in node:
            yield from queries(it)


ASKED = sorted(set(queries(json.loads(DASHBOARD.read_text()))))
# What is shown beside a line: {{policy}} is a label of what is asked.
LEGENDS = [
    (target["expr"], name)
    for panel in json.loads(DASHBOARD.read_text())["panels"]
    for target in panel.get("targets", ())
    for name in re.findall(r"{{\s*(\w+)\s*}}", target.get("legendFormat", ""))
]


def plain(query: str) -> str:
    """PromQL, with the dashboard's variables and label_values() taken out."""
    inner = re.fullmatch(r"label_values\((.*), \w+\)", query)
    query = inner[1] if inner else query
    for variable, value in {"$instance": ".*", "$policy": ".*", "$__rate_interval": "1m", "$__range": "1h"}.items():
        query = query.replace(variable, value)
    assert "$" not in query
    return query


@pytest.mark.parametrize("query", ASKED)
def test_the_dashboard_asks_for_what_is_told(query: str) -> None:
    assert not strange(query)


def test_what_is_not_told_would_be_seen() -> None:
    assert strange('rate(oomguard_nothing_total{policy=~"$policy"}[5m])') == {"oomguard_nothing_total"}
    assert strange('sum by (polcy) (oomguard_policy_phase{phase="amed"})') == {"polcy", "amed"}
    assert strange("oomguard_kill_latency_seconds") == {"oomguard_kill_latency_seconds"}, "there are only its parts"


def test_the_dashboard_leaves_out_nothing_of_importance() -> None:
    assert len(ASKED) > 25
    asked = {name for query in ASKED for name in re.findall(r"\boomguard_\w+", query)}
    of_little_use = {
        *(
            "oomguard_ready",
            "oomguard_start_time_seconds",
            "oomguard_last_turn_time_seconds",
            "oomguard_snapshots_total",
        ),
        *("oomguard_memory_total_bytes", "oomguard_swap_total_bytes", "oomguard_leases_undone_total"),
        *("oomguard_policy_targets", "oomguard_policy_watermark_holds", "oomguard_policy_snapshots_total"),
        *("oomguard_policy_swap_bytes", "oomguard_policy_swap_limit_bytes", "oomguard_policy_phase_start_time_seconds"),
        *("oomguard_incidents_readable",),
    }
    whole = {name for name in told_names() if not name.endswith(("_sum", "_count"))}
    assert whole - asked == of_little_use


def test_panels_have_a_place_and_a_word_each() -> None:
    panels = json.loads(DASHBOARD.read_text())["panels"]
    ids = [panel["id"] for panel in panels]
    assert len(ids) == len(set(ids))
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        grid = panel["gridPos"]
        cells = {
            (x, y) for x in range(grid["x"], grid["x"] + grid["w"]) for y in range(grid["y"], grid["y"] + grid["h"])
        }
        assert not cells & taken
        assert max(x for x, _ in cells) < 24
        taken |= cells
        assert panel["type"] == "row" or panel["description"].endswith(".")


def rules() -> list[dict[str, Any]]:
    import yaml

    found: list[dict[str, Any]] = yaml.safe_load(RULES.read_text())["groups"][0]["rules"]
    return found


@pytest.mark.parametrize("rule", rules(), ids=lambda it: it["alert"])
def test_an_alert_asks_for_what_is_told_and_says_what_to_do(rule: dict[str, Any]) -> None:
    assert not strange(rule["expr"])
    assert rule["labels"]["severity"] in ("page", "ticket", "info")
    assert rule["alert"].startswith("Oomguard")
    assert "{{ $labels.instance }}" in rule["annotations"]["summary"]
    assert rule["alert"] in (ROOT / "etc/prometheus/oomguard.tests.yml").read_text(), "no test of it"
    assert f"`{rule['alert']}`" in (ROOT / "docs/operating.md").read_text(), "no word about it"


@needs_it
def test_promtool_finds_nothing_wrong(place: Path) -> None:
    metrics_said = oomguard(*words(place, "--once")).out.encode()
    assert promtool("check", "metrics", said=metrics_said) == (0, "")
    assert promtool("check", "metrics", said=b"# TYPE x_total gauge\nx_total 1\n")[0] != 0, "it would be seen"
    assert promtool("check", "rules", RULES)[0] == 0


@needs_it
def test_alerts_fire_when_they_should_and_only_then(tmp_path: Path) -> None:
    tests = RULES.with_name("oomguard.tests.yml")
    code, said = promtool("test", "rules", tests)
    assert code == 0, said
    (tmp_path / tests.name).write_text(tests.read_text())
    (tmp_path / RULES.name).write_text(RULES.read_text().replace("> 5", "> 50").replace("== 0", "== 1"))
    code, said = promtool("test", "rules", tmp_path / tests.name)
    assert code != 0
    assert {"OomguardDown", "OomguardKillsAgainAndAgain"} <= set(re.findall("Oomguard[A-Za-z]+", said))


@needs_it
def test_prometheus_itself(place: Path, core: "subprocess.Popen[bytes]") -> None:
    """It scrapes the exporter, and answers everything that the dashboard asks."""
    with running(*words(place, "--listen", "127.0.0.1:0")) as it, serving(place, it.target, RULES) as server:
        (up,) = server.wait_for("oomguard_up == 1")
        assert up["metric"]["instance"] == it.target
        server.wait_for("count_over_time(oomguard_up[1m]) > 2")
        series = {sample["metric"]["__name__"] for sample in server.query('{__name__=~"oomguard_.+"}')}
        assert series == told_names() - {"oomguard_page_faults"}
        loaded = [rule["name"] for group in server.ask("rules")["groups"] for rule in group["rules"]]
        assert loaded == [rule["alert"] for rule in rules()]
        # Now something happens: then there is nothing that has no answer.
        publish(place, core.pid, more=1, growing=f"/{'x' * 180}")
        write(place, 2)
        server.wait_for('increase(oomguard_policy_victims_total{policy="web",outcome="gone"}[1m]) > 0')
        server.wait_for("increase(oomguard_policy_kills_total[1m]) > 0")
        answers = {query: server.query(plain(query)) for query in ASKED}
        assert [query for query, samples in answers.items() if not samples] == []
        assert [query for query, samples in answers.items() if all(it["value"][1] == "NaN" for it in samples)] == []
        for query, name in LEGENDS:
            assert all(name in sample["metric"] for sample in answers[query]), (query, name)


def test_the_manual_lists_every_metric() -> None:
    text = (ROOT / "docs/operating.md").read_text()
    for it in metrics.METRICS:
        labels = f" ({', '.join(it.labels)})" if it.labels else ""
        assert f"| `{it.name}`{labels} | {it.help} |\n" in text


def test_the_extra_is_what_it_needs() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert extras["metrics"] == ["prometheus-client"]


def test_a_policy_of_a_hundred_and_more_is_no_burden(tmp_path: Path, core: "subprocess.Popen[bytes]") -> None:
    guards = [GuardLine(f"p{n}", f"/{'x' * 170}{n}", "enforce", "calm", 1, 1, 2) for n in range(128)]
    pages.publish(tmp_path, type(page().numbers)(pid=core.pid), guards)
    answer = oomguard(*words(tmp_path, "--once"))
    assert answer.code == 0
    assert len(answer.out) < 600_000
