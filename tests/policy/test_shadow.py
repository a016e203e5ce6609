"""[daemon] shadow: another file of policies, compiled with this one and under names of its own."""

from pathlib import Path

import pytest

from oomguard.model import policy as model
from oomguard.policy import PolicyError, load

MAIN = """
[daemon]
shadow = "tomorrow.toml"
[policy.host]
cgroup = "/"
[policy.host.hard]
when = [{ available_below = "5%" }, { stall_above = { some = "150ms" } }]
do = ["kill"]
"""
TOMORROW = """
[policy.host]
cgroup = "/"
mode = "enforce"
[policy.host.hard]
when = [{ available_below = "8%" }, { stall_above = { some = "150ms" } }]
do = ["kill"]
"""


def compiled(tmp_path: Path, shadow: str | None = TOMORROW, main: str = MAIN, observe: bool = False) -> model.Plan:
    (tmp_path / "main.toml").write_text(main)
    if shadow is not None:
        (tmp_path / "tomorrow.toml").write_text(shadow)
    return load([tmp_path / "main.toml"], observe=observe)


def test_its_guards_come_last_under_names_of_their_own_and_never_enforce(tmp_path: Path) -> None:
    plan = compiled(tmp_path)
    assert [(guard.name, guard.mode) for guard in plan.guards] == [("host", "enforce"), ("shadow:host", "shadow")]
    assert plan.daemon.shadow == str(tmp_path / "tomorrow.toml")
    assert plan.guards[1].origin == f"{tmp_path}/tomorrow.toml:2"
    numbers = [c.number for g in plan.guards for w in (g.hard,) if w for k in w.when for c in k.all_of
               if isinstance(c, model.StallAbove)]  # fmt: skip
    assert numbers == [0, 1], "triggers are told apart"


def test_observing_leaves_a_shadow_a_shadow(tmp_path: Path) -> None:
    assert [guard.mode for guard in compiled(tmp_path, observe=True).guards] == ["observe", "shadow"]


def test_without_one_there_is_none(tmp_path: Path) -> None:
    plan = compiled(tmp_path, None, MAIN.replace("shadow =", "# shadow ="))
    assert [guard.name for guard in plan.guards] == ["host"]
    assert plan.daemon.shadow == ""


def test_it_is_laid_over_by_conf_d_like_any_key(tmp_path: Path) -> None:
    (tmp_path / "conf.d").mkdir()
    (tmp_path / "other.toml").write_text(TOMORROW.replace("policy.host", "policy.web"))
    (tmp_path / "conf.d" / "50.toml").write_text('[daemon]\nshadow = "../other.toml"\n')
    (tmp_path / "main.toml").write_text(MAIN)
    plan = load([tmp_path / "main.toml", tmp_path / "conf.d" / "50.toml"])
    assert [guard.name for guard in plan.guards] == ["host", "shadow:web"]


@pytest.mark.parametrize(
    ("shadow", "where", "said"),
    [
        (None, "main.toml:3: daemon.shadow", "the shadow policy cannot be used"),
        (TOMORROW.replace("8%", "8 per"), "tomorrow.toml:6: policy.host.hard.when[0]", "'8 per' is"),
        (TOMORROW.replace("kill", "kil"), "tomorrow.toml:7: policy.host.hard.do[0]", "unknown action 'kil'"),
        ("[daemon]\n" + TOMORROW, "tomorrow.toml:1: daemon", "a shadow has no daemon of its own"),
        ("", "tomorrow.toml:1:", "no policy is in this shadow"),
        ("[policy", "tomorrow.toml:1", ""),
    ],
)
def test_a_fault_in_it_is_a_fault_of_the_policy(tmp_path: Path, shadow: str | None, where: str, said: str) -> None:
    with pytest.raises(PolicyError) as caught:
        compiled(tmp_path, shadow)
    lines = [line for line in str(caught.value).splitlines() if where in line and said in line]
    assert lines, str(caught.value)


def test_a_user_cannot_write_that_mode_or_such_a_name(tmp_path: Path) -> None:
    mode, name = MAIN.replace("cgroup =", 'mode = "shadow"\ncgroup ='), MAIN.replace("policy.host", 'policy."shadow:x"')
    for wrong in (mode, name):
        with pytest.raises(PolicyError):
            compiled(tmp_path, TOMORROW, wrong)
