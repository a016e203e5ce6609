"""Programs are told to give memory back: before anybody is killed, again while it lasts, and nobody waits in vain."""

from dataclasses import replace
from itertools import pairwise

from oomguard.judge.inform import ONCE_NS
from oomguard.model.facts import Result, TargetId, TargetSeen
from oomguard.model.policy import (
    AvailableBelow,
    Guard,
    KillStep,
    NominateStep,
    NotifyStep,
    SnapshotStep,
    Step,
    TellStep,
    WaitStep,
)
from oomguard.model.verdict import Close, Notify, Tell

from .world import MS, SECOND, Court, host_guard, meminfo, plan, process, share, survey, watermark, when

HOST = TargetId("host", "/")
SOFT = (SnapshotStep(), NotifyStep(), NominateStep())
TELL, ONCE = TellStep(10 * SECOND), TellStep(0)


def court(soft: tuple[Step, ...], *hard: Step, **more: object) -> Court:
    """The machine, at 12 % and 5 %, calm."""
    guard: Guard = replace(
        host_guard(),
        soft=watermark(when(AvailableBelow(share(12))), do=soft),
        hard=watermark(when(AvailableBelow(share(5))), do=hard or (KillStep(),)),
        **more,  # type: ignore[arg-type]
    )
    made = Court(plan(guard))
    made.sees(0, host=meminfo(900), appeared=(TargetSeen(HOST, None),))
    return made


def told(lines: list[str]) -> list[str]:
    return [line for line in lines if line.startswith("inform")]


def leak() -> tuple[object, ...]:
    return (survey("/", [process(70, "leak", "/system.slice/web.service", 500)]),)


def test_at_soft_at_once_and_again_while_it_holds() -> None:
    it = court((*SOFT, TELL))
    assert told(it.sees(1000, host=meminfo(100))) == ["inform 1: inside, at soft"]
    assert told(it.sees(10_999, host=meminfo(100))) == []
    assert told(it.sees(11_000, host=meminfo(100))) == ["inform 2: inside, at soft"]
    assert told(it.sees(20_000, host=meminfo(100))) == []
    assert told(it.sees(21_100, host=meminfo(100))) == ["inform 3: inside, at soft"]


def test_nobody_is_told_again_when_it_has_helped() -> None:
    it = court((*SOFT, TELL))
    it.sees(1000, host=meminfo(100))
    for at in (2000, 3000, 3500, 12_000, 30_000):
        assert told(it.sees(at, host=meminfo(900))) == []
    assert it.phase == "calm"


def test_between_the_watermarks_lines_nobody_is_told_again() -> None:
    """It is armed still, and soft does not hold: it is over its line, but not clearly."""
    it = court((*SOFT, TELL))
    it.sees(1000, host=meminfo(100))
    assert told(it.sees(12_000, host=meminfo(126))) == []
    assert it.phase == "armed"


def test_once_is_once_an_engagement() -> None:
    it = court((*SOFT, ONCE))
    assert told(it.sees(1000, host=meminfo(100))) == ["inform 1: inside, at soft"]
    for at in range(2000, 300_000, 20_000):
        assert told(it.sees(at, host=meminfo(100))) == []


def test_where_memory_comes_and_goes_it_is_not_told_every_second() -> None:
    """A service that hovers at its line: the distance is kept over calm, too."""
    for step, quiet in ((TELL, TELL.every_ns), (ONCE, ONCE_NS)):
        it, times = court((*SOFT, step)), []
        for at in range(1000, 200_000, 500):
            short = at // 2000 % 2 == 0
            if told(it.sees(at, host=meminfo(100 if short else 900))):
                times.append(at * MS)
        assert len(times) > 2
        assert all(after - before >= quiet for before, after in pairwise(times))


def test_a_rung_of_the_ladder_before_anybody_is_killed() -> None:
    it = court(SOFT, TELL, WaitStep(2 * SECOND), KillStep())
    it.sees(1000, host=meminfo(100))
    it.sees(1010, surveys=leak())
    assert told(it.sees(1100, host=meminfo(40))) == ["inform 2: inside, at hard"]
    assert it.phase == "firing"
    it.sees(1110, results=(Result(2, "Tell", 0, 1, 1, "web[70]"),))
    it.sees(3000, host=meminfo(40))
    assert it.phase == "firing", "it was told, and has its time"
    it.sees(3100, host=meminfo(40))
    lines = it.sees(3110, surveys=leak())
    assert "KILL 1" in lines


def test_they_gave_enough_and_nobody_is_killed() -> None:
    it = court(SOFT, TELL, WaitStep(2 * SECOND), KillStep())
    it.sees(1000, host=meminfo(100))
    it.sees(1010, surveys=leak())
    it.sees(1100, host=meminfo(40))
    for at in (1500, 2000, 2600, 3200, 4000):
        assert not [line for line in it.sees(at, host=meminfo(900)) if "KILL" in line]
    assert it.phase == "calm"


def test_nobody_listens_and_nobody_waits() -> None:
    it = court(SOFT, TELL, WaitStep(3600 * SECOND), KillStep())
    it.sees(1000, host=meminfo(100))
    it.sees(1010, surveys=leak())
    it.sees(1100, host=meminfo(40))
    assert "KILL 1" in it.sees(1120, host=meminfo(40), results=(Result(2, "Tell", 107),))


def test_soft_and_hard_are_told_apart() -> None:
    it = court((*SOFT, TELL), TellStep(5 * SECOND, "all"), WaitStep(60 * SECOND), KillStep())
    assert told(it.sees(1000, host=meminfo(100))) == ["inform 1: inside, at soft"]
    assert told(it.sees(2000, host=meminfo(60))) == []
    it.sees(2010, surveys=leak())
    assert told(it.sees(3000, host=meminfo(40))) == ["inform 3: all, at hard"]
    assert told(it.sees(8100, host=meminfo(40))) == ["inform 4: all, at hard"]
    assert told(it.sees(11_100, host=meminfo(40))) == ["inform 5: inside, at soft"], "it holds as well"


def test_why_and_what_is_said() -> None:
    it = court((*SOFT, TELL))
    it.sees(1000, host=meminfo(100))
    (action,) = [action for action in it.said if isinstance(action, Tell)]
    assert "available" in action.why
    said = [action.text for action in it.said if isinstance(action, Notify) and action.message == "MEASURE"]
    assert said == ["whoever listens is told to give memory back"]
    it.said.clear()
    it.sees(11_000, host=meminfo(100))
    assert [type(action) for action in it.said if isinstance(action, Tell | Notify)] == [Tell], (
        "the journal has it once"
    )


def test_observe_says_what_it_would_have_done() -> None:
    it = court((*SOFT, TELL), mode="observe")
    it.sees(1000, host=meminfo(100))
    said = [action.text for action in it.said if isinstance(action, Notify) and action.message == "MEASURE"]
    assert said == ["would have been done: whoever listens is told to give memory back"]


def test_who_does_not_ask_for_it_has_nothing_of_it() -> None:
    it = court(SOFT)
    for at in range(1000, 40_000, 1000):
        assert told(it.sees(at, host=meminfo(100))) == []
    assert (it.target().tell_soft_ns, it.target().tell_hard_ns) == (0, 0)
    assert not [action for action in it.said if isinstance(action, Close)]
