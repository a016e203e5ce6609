"""``oomguard notify-test``, where no daemon runs; and what ``check`` and ``show`` make of sinks."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.workers.sending import Web

from .command import HOST, oomguard

WEB = '[policy.web]\ncgroup = "/web"\nnotify = ["ops"]\nhard = { when = [{ memory_above = "90%" }], do = ["kill"] }\n'


@pytest.fixture
def web() -> Iterator[Web]:
    made = Web()
    yield made
    made.close()


@pytest.fixture
def config(tmp_path: Path, web: Web) -> Path:
    secret = tmp_path / "ops.url"
    secret.write_text(web.url)
    secret.chmod(0o600)
    path = tmp_path / "oomguard.toml"
    sinks = f'[sinks.ops]\nurl_file = "{secret}"\n[sinks.hook]\nrun = ["/usr/bin/false"]\n'
    path.write_text(f'[daemon]\nruntime_dir = "{tmp_path / "run"}"\n{HOST}{WEB}{sinks}')
    return path


def test_the_sinks_of_a_policy(config: Path, web: Web) -> None:
    answer = oomguard("notify-test", "web", "--config", config)
    assert answer.code == 0, answer.out + answer.err
    ops = answer.out.splitlines()[1]
    assert ops.startswith("ops      delivered (")
    assert ops.endswith("sent by this command)")
    assert "The daemon does not run with such sinks now" in answer.out
    got = web.next()
    assert got["title"].endswith(": TEST")
    assert "for policy web. Nothing has happened" in got["message"]


def test_all_sinks_and_what_is_wrong_with_them(config: Path, web: Web) -> None:
    web.close()
    answer = oomguard("notify-test", "--json", "--config", config)
    assert (answer.code, answer.json["ok"]) == (1, False)
    said = {sink["sink"]: (sink["ok"], sink["error"], sink["hint"]) for sink in answer.json["sinks"]}
    assert said["journal"][0]
    assert said["ops"] == (False, "connection refused", "nobody listens at that host and port")
    assert said["hook"] == (False, "/usr/bin/false ended with 1", "")
    assert "TopSecretToken" not in answer.out + answer.err


def test_a_policy_that_is_not_there(config: Path) -> None:
    answer = oomguard("notify-test", "wbe", "--config", config)
    assert (answer.code, answer.err) == (2, "oomguard: there is no policy wbe: there are host, web\n")


def test_without_sinks_there_is_the_journal(tmp_path: Path) -> None:
    path = tmp_path / "oomguard.toml"
    path.write_text(HOST)
    answer = oomguard("notify-test", "--config", path)
    assert answer.code == 0
    assert answer.out.startswith("journal  ")
    assert answer.out.splitlines()[-1].startswith("There is no sink besides the journal")


def test_check_finds_what_a_sink_lacks(config: Path) -> None:
    assert oomguard("check", "--config", config).code == 0
    text = config.read_text().replace("/usr/bin/false", "/usr/bin/no-such-program")
    config.write_text(text)
    answer = oomguard("check", "--config", config)
    line = text.splitlines().index("[sinks.hook]") + 1
    assert answer.code == 2
    assert f"{config}:{line}: sinks.hook: there is no file /usr/bin/no-such-program" in answer.err
    answer = oomguard("check", "--json", "--config", config)
    assert (answer.code, answer.json["ok"]) == (2, False)


def test_show_says_everything_but_the_secret(tmp_path: Path) -> None:
    path = tmp_path / "oomguard.toml"
    path.write_text(f'{HOST}[sinks.ops]\nurl = "slack://TokenOfAll/Secrets/Here"\n')
    path.chmod(0o600)
    for words in ((), ("--json",), ("--plain",)):
        answer = oomguard("show", "--config", path, *words)
        assert "slack://***" in answer.out
        assert "TokenOfAll" not in answer.out
    answer = oomguard("show", "--config", path)
    line = path.read_text().splitlines().index("[sinks.ops]") + 2
    assert f'url = "slack://***"                       # {path}:{line}\n' in answer.out
