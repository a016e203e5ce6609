"""An incident as half a page: what a person who was asleep understands in a minute. Plain text, escaped, wrapped.

First the sentence, then when, who grew, whose memory it was, who died and why, what it freed, whether it helped, what
to try, and where to look further. Nothing is computed here that the incident does not say.
"""

import textwrap
from collections.abc import Iterator
from typing import Any

from . import kernelword, whose
from .advice import advise
from .words import duration, printable, size

_RED, _GREEN, _YELLOW, _DIM, _BOLD = "31", "32", "33", "2", "1"
_TIMELINE = 9  # lines; with --all: every one
_GROWERS = 4
_GREW = 1 << 20  # what is less is noise
_CANDIDATES = 3
_ACTS = {
    "soft": ("soft watermark", "soft watermarks"),
    "hard": ("hard watermark", "hard watermarks"),
    "kill": ("signal", "signals"),
    "kernel": ("kill by the kernel", "kills by the kernel"),
}
_SHOWN_FIRST = ("hard", "kernel", "kill", "gone", "close", "soft", "notify")


def half_page(incident: dict[str, Any], width: int = 100, color: bool = False, whole: bool = False) -> str:
    """``width``: of the terminal. ``whole``: no table is cut."""
    page = _Page(incident, max(40, width), color, whole)
    blocks = [
        page.headline(),
        page.timeline(),
        page.growers(),
        page.owners(),
        page.reasons(),
        page.kernel(),
        page.result(),
        page.advice(),
        page.further(),
    ]
    return "\n\n".join("\n".join(lines) for lines in map(list, blocks) if lines) + "\n"


def sentence(incident: dict[str, Any]) -> str:
    """What happened, in one sentence."""
    if incident["kind"] == "recording":
        return _recording(incident)
    where = "the machine" if incident["cgroup"] == "/" else incident["cgroup"]
    victims = _victims(incident)
    if incident["killed_by"] == "kernel":
        who = victims.rstrip(",") or "somebody it did not name"
        if incident["cgroup"] == "/":
            return f"The kernel's OOM killer killed {who}."
        late = "" if incident["policy"] else ", which no guard covers"
        return f"The kernel's OOM killer killed {who}, in {where}{late}."
    if incident["killed_by"] == "oomguard":
        and_kernel = ", and the kernel killed as well" if incident["kernel_kills"] else ""
        return f"oomguard killed {victims} because {where} ran out of memory{and_kernel}."
    if incident["mode"] == "observe" and victims:
        return (
            f"oomguard would have killed {victims} because {where} ran out of memory (observe mode: nothing was done)."
        )
    if incident["kind"] == "stall":
        who = where[0].upper() + where[1:]
        return f"{who} stood still for want of memory, and nobody acted: {_no_guard(incident)}."
    if incident["kind"] == "hard":
        return f"{where[0].upper() + where[1:]} ran out of memory, and nobody was killed{_why_nobody(incident)}."
    return f"Memory of {where} got short and recovered; nobody was killed."


def under(incident: dict[str, Any]) -> str:
    """The policy that it belongs to; of a recording, all that were in force."""
    if incident["kind"] == "recording":
        return f"under {', '.join(guard['name'] for guard in incident.get('guards', ())) or 'no policy'}"
    return f"policy {incident['policy']} on {incident['cgroup']}" if incident["policy"] else "no policy"


def _recording(incident: dict[str, Any]) -> str:
    """Of a recording: how long, and what was done in it."""
    ring = incident["ring"]
    lasting = (ring[-1]["seen"]["at_ns"] - incident["opened_ns"]) / 1e6 if ring else 0.0
    done = [entry["what"] for entry in incident["timeline"]]
    acts = [f"{n} {words[n > 1]}" for what, words in _ACTS.items() if (n := done.count(what))]
    least = min((t["seen"]["host"]["available_bytes"] for t in ring if t["seen"]["host"]), default=None)
    memory = f", at least {size(least)} available" if least is not None else ""
    return f"A recording of {duration(lasting)}{memory}: {', '.join(acts) or 'nothing happened'}."


def aftermath(incident: dict[str, Any]) -> list[str]:
    """What it looked like 1, 10 and 60 s later, a sentence each; none where nobody has looked."""
    told = []
    for look in incident.get("after", ()):
        text = f"{look['at_s']:.0f} s later: {size(look['available_bytes'])} available"
        back = [it for it in look["victims"] if it["restarted"]]
        for it in back[:2]:
            again = "again" if it["again"] else "so far"
            text += f"; {it['comm']} was started again and holds {size(it['bytes'])} {again}"
        told.append(text + ".")
    return told


def verdict(incident: dict[str, Any]) -> str:
    """Did it help, in one sentence."""
    return _helped(incident)[0]


def _victims(incident: dict[str, Any]) -> str:
    victims = incident["victims"]
    if not victims:
        return ""
    if incident["killed_by"] == "kernel":
        victims = [victim for victim in victims if victim["by"] == "kernel"] or victims
        kills = []
    else:
        kills = [kill for kill in incident["kills"] if kill["errno"] == 0 and kill["what"]]
    names = [kill["what"] for kill in kills] or [f"{victim['comm']}[{victim['pid']}]" for victim in victims]
    held = sum(_held(incident, kill) for kill in kills) or sum(victim["bytes"] for victim in victims)
    more = f" and {len(names) - 2} more" if len(names) > 2 else ""
    told = f"{', '.join(names[:2]) if more else ' and '.join(names[:2])}{more}{_boxed(incident)}"
    return f"{told}, holding {size(held)}," if held else told


def containers(incident: dict[str, Any]) -> dict[str, str]:
    """By cgroup, what the container is called: "container web (podman 0123456789ab)"."""
    return {cgroup: _container(row) for cgroup, row in incident["evidence"].get("containers", {}).items()}


def _container(row: dict[str, str]) -> str:
    kind = "" if row["engine"] == "pod" else row["engine"]
    what = " ".join(word for word in (kind, row["id"][:12]) if word)
    if row.get("pod"):
        pod = f"pod {row.get('namespace', '')}/{row['pod']}"
        return f"container {row['container']} of {pod} ({what})" if row.get("container") else f"{pod} ({what})"
    if row["name"]:
        return f"container {row['name']} ({what})"
    return f"container {what}"


def _boxed(incident: dict[str, Any]) -> str:
    """In which container all victims lived; empty: in none, or in several."""
    named = containers(incident)
    ways = (_way_up(victim["cgroup"]) for victim in incident["victims"])
    found = {next((named[path] for path in way if path in named), "") for way in ways}
    return f" in {found.pop()}" if len(found) == 1 and "" not in found else ""


def _way_up(cgroup: str) -> Iterator[str]:
    while cgroup and cgroup != "/":
        yield cgroup
        cgroup = cgroup.rpartition("/")[0]


def _held(incident: dict[str, Any], kill: dict[str, Any]) -> int:
    """Of a cgroup what the kernel counts for it: its processes share pages, and their sum counts those often."""
    ranking = incident["ranking"]
    for candidate in ranking["candidates"] if ranking and kill["take"] == "cgroup" else ():
        if candidate["rank"] == 1 and kill["what"].startswith(candidate["what"]):
            return int(candidate["held_bytes"])
    return int(kill["held_bytes"] or 0)


def _why_nobody(incident: dict[str, Any]) -> str:
    told = [entry["text"] for entry in incident["timeline"] if entry["what"] == "notify"]
    failed = [entry["text"] for entry in incident["timeline"] if entry["what"] == "kill"]
    return f": {(told or failed)[-1]}" if told or failed else ""


class _Page:
    def __init__(self, incident: dict[str, Any], width: int, color: bool, whole: bool) -> None:
        self.it, self.width, self.color, self.whole = incident, width, color, whole

    # -- blocks

    def headline(self) -> Iterator[str]:
        color = {"hard": _RED, "kernel": _RED, "soft": _YELLOW}.get(self.it["kind"], _BOLD)
        for line in self.wrapped(sentence(self.it), ""):
            yield self.paint(line, f"{_BOLD};{color}")
        policy = under(self.it)
        observed = ", observe mode" if self.it["mode"] == "observe" and self.it["policy"] else ""
        line = f"{self.it['time']}  {self.it['hostname']}  {policy}{observed}  {self.it['id']}"
        yield from (self.paint(part, _DIM) for part in self.wrapped(line, ""))
        if not self.it["complete"]:
            why = self.it["ended"] or ("it is being written" if self.it["outcome"] else "it is still open")
            yield from (
                self.paint(part, _YELLOW) for part in self.wrapped(f"This incident is not complete: {why}.", "")
            )

    def timeline(self) -> Iterator[str]:
        entries = self.it["timeline"]
        shown = entries if self.whole else _most_telling(entries)
        if not entries:
            return
        yield self.title("What happened")
        stamps = [_stamp(entry["at_ms"]) for entry in shown]
        wide = max(len(stamp) for stamp in stamps)
        for stamp, entry in zip(stamps, shown, strict=True):
            color = {"kill": _RED, "kernel": _RED, "hard": _RED, "soft": _YELLOW, "gone": _GREEN}.get(entry["what"], "")
            yield from self.item(stamp.rjust(wide), f"{entry['what']}: {entry['text']}", color)
        cut = len(entries) - len(shown) + self.it["lost"].get("timeline", 0)
        if cut:
            yield self.paint(f"  ({cut} more)", _DIM)

    def reasons(self) -> Iterator[str]:
        ranking = self.it["ranking"]
        if not ranking or not ranking["candidates"]:
            return
        yield self.title(f"Why this one (by {ranking['by']}, take {ranking['take']})")
        for step in ranking["descent"]:
            yield from self.item("", step, _DIM)
        ranked = sorted((c for c in ranking["candidates"] if c["rank"]), key=lambda c: int(c["rank"]))
        excluded = sorted((c for c in ranking["candidates"] if not c["rank"]), key=lambda c: -int(c["held_bytes"]))
        most = len(ranking["candidates"]) if self.whole else _CANDIDATES
        for candidate in ranked[:most]:
            lead = "victim" if candidate["rank"] == 1 else "runner-up" if candidate["rank"] == 2 else "next"
            yield from self.candidate(lead, candidate)
        for candidate in excluded[: most if self.whole else 2]:
            yield from self.candidate("spared", candidate)

    def growers(self) -> Iterator[str]:
        rows = [row for row in self.it["evidence"].get("processes", ()) if (row["growth_bytes"] or 0) >= _GREW]
        rows.sort(key=lambda row: -int(row["growth_bytes"]))
        if rows:
            yield self.title("Grew most in the minutes before")
        for row in rows[: len(rows) if self.whole else _GROWERS]:
            growth = f"+{size(row['growth_bytes'])} to {size(row['held_bytes'])}"
            command = self.it["evidence"].get("cmdlines", {}).get(str(row["pid"]))
            what = f"{row['comm']}[{row['pid']}] in {row['cgroup']}" + (f": {command}" if command else "")
            yield from self.item(growth.rjust(24), what, "", limit=2)

    def owners(self) -> Iterator[str]:
        told = whose.account(self.it)
        if told is None:
            return
        of = "" if told.cgroup == "/" else f" in {told.cgroup}"
        for line in self.wrapped(f"Whose memory it was{of}, of {size(told.total_bytes)}", ""):
            yield self.title(line)
        for lead, row in whose.whole(told) if self.whole else ():
            yield from self.item(lead.rjust(9), row, "")
        for line in whose.swap(told) if self.whole else whose.brief(told):
            yield from self.item("", line, "")

    def kernel(self) -> Iterator[str]:
        reports = self.it.get("kernel_reports", ())
        if reports:
            yield self.title("What the kernel says of its kill" + ("s" if len(reports) > 1 else ""))
        for report in reports if self.whole else reports[:1]:
            for line in kernelword.sentences(report):
                yield from self.item("", line, "")
            for one in report["tasks"] if self.whole else ():
                yield from self.item(" ", kernelword.task(one), _DIM)
        if len(reports) > 1 and not self.whole:
            yield self.paint(f"  ({len(reports) - 1} more)", _DIM)

    def result(self) -> Iterator[str]:
        yield self.title("Result")
        if self.it["latency_ms"] is not None:
            to = "verdict" if self.it["mode"] == "observe" else "signal"
            text = f"{duration(self.it['latency_ms'])} from seeing the hard watermark crossed to the {to}"
            if self.it["gone_ms"] is not None:
                text += f", {duration(self.it['gone_ms'])} from the signal to its end"
            yield from self.item("", text + ".", "")
        if self.it["killed_by"] == "oomguard":
            yield from self.item("", f"Freed {size(self.it['freed_bytes'])}: {self.it['freed_how']}.", "")
        if self.it["outcome"]:
            yield from self.item("", f"Ended: {self.it['outcome']}.", "")
        for cgroup, what in containers(self.it).items() if self.whole else ():
            yield from self.item("", f"{cgroup} is {what}.", "")
        verdict, color = _helped(self.it)
        yield from self.item("", verdict, color)
        for line in aftermath(self.it)[-1:]:
            yield from self.item("", line, "")

    def advice(self) -> Iterator[str]:
        found = advise(self.it, most=99 if self.whole else 2)
        if found:
            yield self.title("What to try")
        for advice in found:
            yield from self.item("", advice.saw, "")
            for line in advice.do if self.whole else advice.do[:2]:
                yield from self.item(" ", line, _GREEN)

    def further(self) -> Iterator[str]:
        if self.it["kind"] == "recording":
            return
        yield self.title("Look further")
        short = self.it["id"].rpartition("-")[2]
        yield from self.item("", f"oomguard incidents report {short} -o incident.html    everything, drawn", "")
        yield from self.item("", f"oomguard incidents show {short} --all    every line; --json for programs", "")
        yield from self.item("", f"journalctl -x OOMGUARD_INCIDENT={short}", "")
        if self.it["lost"]:
            lost = ", ".join(f"{count} {what}" for what, count in self.it["lost"].items())
            yield from self.item("", f"Could not be kept: {lost}.", _YELLOW)

    # -- lines

    def candidate(self, lead: str, candidate: dict[str, Any]) -> Iterator[str]:
        text = f"{candidate['what']}, {size(candidate['held_bytes'])}: {candidate['why']}"
        yield from self.item(lead.rjust(9), text, _BOLD if candidate["rank"] == 1 else "", limit=3)

    def title(self, text: str) -> str:
        return self.paint(text, _BOLD)

    def item(self, lead: str, text: str, color: str, limit: int = 4) -> Iterator[str]:
        """A line behind a lead, wrapped under itself; at most ``limit`` lines unless the whole is wanted."""
        indent = " " * (len(lead) + (4 if lead else 2))
        lines = self.wrapped(text, indent)
        if not self.whole and len(lines) > limit:
            lines = [*lines[: limit - 1], lines[limit - 1][: self.width - 4] + " ..."]
        if lines and lead:
            lines[0] = f"  {lead}  {lines[0][len(indent) :]}"
        for line in lines:
            yield self.paint(line, color)

    def wrapped(self, text: str, indent: str) -> list[str]:
        text = printable(text)
        return textwrap.wrap(
            text, self.width, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False
        ) or [indent]

    def paint(self, text: str, color: str) -> str:
        return f"\x1b[{color}m{text}\x1b[0m" if self.color and color else text


def _most_telling(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """As many as fit, in their order: first what decided, then the rest."""
    by_weight = sorted(
        range(len(entries)),
        key=lambda i: _SHOWN_FIRST.index(entries[i]["what"]) if entries[i]["what"] in _SHOWN_FIRST else 99,
    )
    return [entries[i] for i in sorted(by_weight[:_TIMELINE])]


def _stamp(at_ms: float) -> str:
    return f"{at_ms / 1000:+.3f} s"


def _helped(incident: dict[str, Any]) -> tuple[str, str]:
    """Did it help? Only what the record can prove."""
    if incident["kind"] == "recording":
        return "No verdict of its own; try a policy on it: oomguard incidents replay FILE --policy POLICY.", _DIM
    if incident["killed_by"] == "oomguard":
        return _kill_helped(incident)
    if incident["killed_by"] == "kernel":
        return f"The kernel had to act: {_why_kernel(incident)}.", _RED
    if incident["kind"] == "stall":
        return f"Nobody acted: {_no_guard(incident)}.", _RED
    if incident["mode"] == "observe":
        return "Nothing was touched, so what followed is what happens without oomguard.", _DIM
    if incident["kind"] == "soft":
        return "It calmed down by itself.", _GREEN
    return "Nothing was done; see above why.", _RED


def _why_kernel(incident: dict[str, Any]) -> str:
    if not incident["policy"]:
        return "no guard covers this cgroup"
    if incident["mode"] == "observe":
        ours = min((kill["at_ms"] for kill in incident["kills"] if kill["errno"] == 0), default=None)
        theirs = min((kill["at_ns"] for kill in incident["kernel_kills"]), default=None)
        if ours is None or theirs is None:
            return "oomguard was told to observe only"
        earlier = duration((theirs - incident["opened_ns"]) / 1e6 - ours)
        return f"oomguard was told to observe only, and would have acted {earlier} earlier"
    if incident["kind"] == "hard":
        return "oomguard was too late"
    return _no_guard(incident)


def _no_guard(incident: dict[str, Any]) -> str:
    told = incident.get("no_guard")
    return told["text"] if told else "the hard watermark had not been crossed"


def _kill_helped(incident: dict[str, Any]) -> tuple[str, str]:
    if incident["kernel_kills"]:
        return "It did not help enough: the kernel killed as well.", _RED
    killed = len({kill["token"] for kill in incident["kills"] if kill["errno"] == 0})
    if not incident["outcome"]:
        return "Whether it helped is not recorded.", _YELLOW
    if killed > 1:
        return f"It took {killed} kills until memory was clear.", _YELLOW
    return "It helped: one kill, and memory was clear.", _GREEN
