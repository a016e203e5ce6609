"""nohang(8): its configuration file, `key = value` and `@RULE number /// expression`; all else are comments.

A SIGTERM above its soft thresholds, SIGKILL above its hard ones, to the process with the highest badness (oom_score,
adjusted). Three things may cross a threshold, each only together with little available memory: little free swap, much
memory in zram, and pressure for ``psi_excess_duration``. Its warnings become a guard of their own that ends nobody.
"""

import re
from collections.abc import Sequence
from typing import Any

from .. import units
from ..faults import Wrong
from ..values import COMM_BYTES
from . import DESKTOP, Draft, Page, patterns, victim

# Its defaults (nohang.conf as it is packaged), for what a file does not say.
_DEFAULTS = {
    "zram_checking_enabled": "False",
    "psi_checking_enabled": "False",
    "psi_path": "/proc/pressure/memory",
    "psi_metrics": "full_avg10",
    "psi_excess_duration": "30",
    "psi_post_action_delay": "15",
    "low_memory_warnings_enabled": "False",
    "post_action_gui_notifications": "False",
    "warning_exe": "",
    "ignore_positive_oom_score_adj": "False",
    "max_soft_exit_time": "10",
    "min_badness": "1",
    "post_soft_action_delay": "3",
    "soft_threshold_min_mem": "5 %",
    "soft_threshold_min_swap": "10 %",
    "soft_threshold_max_zram": "55 %",
    "soft_threshold_max_psi": "40",
    "hard_threshold_min_mem": "2 %",
    "hard_threshold_min_swap": "4 %",
    "hard_threshold_max_zram": "60 %",
    "hard_threshold_max_psi": "90",
    "warning_threshold_min_mem": "20 %",
    "warning_threshold_min_swap": "25 %",
    "warning_threshold_max_zram": "45 %",
    "warning_threshold_max_psi": "10",
}
_LOST = {
    "post_kill_exe": "nothing is filled into a command; [sinks.NAME] run = [...] gets JSON after a kill",
    "warning_exe": "a command of the shell: [sinks.NAME] run = [...] gets JSON at each warning",
    "check_kmsg": "",  # the kernel's own kills are recorded in any case
    "ignore_positive_oom_score_adj": "the kernel's oom_score is taken as it is",
}
# How often it looks, what it prints, and its own caches: nothing of that is a matter of policy here.
_NEEDLESS = re.compile(
    r"fill_rate_|max_sleep|min_sleep|print_|debug_|separate_log|env_cache_time|exe_timeout|victim_cache_time|"
    r"min_mem_report_interval|max_victim_ancestry_depth|extra_table_info|hide_corrective|post_zombie_delay|"
    r"min_post_warning_delay|check_kmsg"
)
_NEVER = -1000  # a badness of less than min_badness is never taken, and oom_score alone is hardly ever more


def read(pages: Sequence[Page]) -> Draft:
    """One guard of the whole machine, and one for the warnings if they are enabled."""
    draft = Draft()
    page = pages[-1]
    said, rules = _said(page)
    _tell_unknown(draft, page, said)
    get = _DEFAULTS | {key: value for key, (_, value) in said.items()}
    guard: dict[str, Any] = {"cgroup": "/"}
    soft = _clauses(draft, page, get, said, "soft")
    hard = _clauses(draft, page, get, said, "hard")
    grace = _seconds(page, said, get, "max_soft_exit_time")
    guard["soft"] = {"when": soft, "do": ["snapshot", "notify", {"kill": {"grace": grace}}]}
    guard["hard"] = {"when": hard, "do": ["kill"]}
    guard["cooldown"] = _seconds(page, said, get, "post_soft_action_delay")
    guard["victim"] = _victim(draft, page, rules)
    draft.guards["nohang"] = guard
    if _flag(page, said, get, "low_memory_warnings_enabled"):
        when = _clauses(draft, page, get, said, "warning")
        draft.guards["nohang-warning"] = {"cgroup": "/", "soft": {"when": when, "do": ["notify"]}}
    _tell(draft, page, said, get)
    return draft


_Said = dict[str, tuple[int, str]]


def _said(page: Page) -> tuple[_Said, list[tuple[int, str, str]]]:
    """(settings with their lines, rules: line, name, all after it)."""
    said: _Said = {}
    rules = []
    for number, line in enumerate(page.text.split("\n"), 1):
        if line[:1] in ("#", " ", "\t", "\n", ""):
            continue
        if line.startswith("@"):
            name, _, rest = line.partition(" ")
            rules.append((number, name, rest.strip()))
            continue
        key, sign, value = line.partition("=")
        if not sign:
            page.wrong(
                number, "", f"{line[:40]!r} is no setting of nohang", "key = value; comments begin with # or a blank"
            )
        said[key.strip()] = (number, value.strip())
    return said, rules


def _tell_unknown(draft: Draft, page: Page, said: _Said) -> None:
    for key, (line, value) in said.items():
        if key in _LOST and value not in ("", "False"):
            draft.lose(page, line, key, _LOST[key])
        elif key not in _DEFAULTS and key not in _LOST and not _NEEDLESS.match(key):
            draft.lose(page, line, key, "is no setting of nohang that is known here")
    if "psi_post_action_delay" in said:
        line, _ = said["psi_post_action_delay"]
        draft.differ(page, line, "psi_post_action_delay", "cooldown is post_soft_action_delay, whatever was crossed")
    if said.get("min_badness", (0, "1"))[1] != "1":
        draft.lose(
            page, said["min_badness"][0], "min_badness", "there is no least oom_score: what holds under 1 MiB is spared"
        )


def _tell(draft: Draft, page: Page, said: _Said, get: dict[str, str]) -> None:
    """Who is at a screen: of what was done, and of warnings, for which there may be a program instead."""
    wanted = {
        "killed": "post_action_gui_notifications" * _flag(page, said, get, "post_action_gui_notifications"),
        "soft": "low_memory_warnings_enabled" * ("nohang-warning" in draft.guards and not get["warning_exe"]),
    }
    if at := [word for word, key in wanted.items() if key]:
        draft.sinks["desktop"] = {"desktop": True, "at": list(at)}
    for key in filter(None, wanted.values()):
        draft.differ(page, _line(said, key), key, DESKTOP)


def _line(said: _Said, key: str) -> int:
    return said.get(key, (1, ""))[0]


def _flag(page: Page, said: _Said, get: dict[str, str], key: str) -> bool:
    if get[key] not in ("True", "False"):
        page.wrong(_line(said, key), key, f"{get[key]!r} is neither True nor False")
    return get[key] == "True"


def _number(page: Page, said: _Said, get: dict[str, str], key: str) -> float:
    try:
        number = float(get[key])
    except ValueError:
        number = -1
    if not 0 <= number < 1e9:
        page.wrong(_line(said, key), key, f"{get[key]!r} is not a number")
    return number


def _seconds(page: Page, said: _Said, get: dict[str, str], key: str) -> str:
    return units.shown_duration(int(_number(page, said, get, key) * 10**9))


def _amount(page: Page, said: _Said, get: dict[str, str], key: str) -> str | None:
    """None: 0, which is never below anything."""
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)\s*([%M])", get[key])
    if match is None:
        page.wrong(_line(said, key), key, f"{get[key]!r} is neither a share nor a size", "as in 5 % or 512 M")
    number = float(match[1])
    if number == 0:
        return None
    return f"{min(number, 100):.10g}%" if match[2] == "%" else units.shown_size(int(number * 2**20) or 1)


def _clauses(draft: Draft, page: Page, get: dict[str, str], said: _Said, which: str) -> list[Any]:
    memory = _amount(page, said, get, f"{which}_threshold_min_mem")
    swap = _amount(page, said, get, f"{which}_threshold_min_swap")
    if memory is None:
        page.wrong(_line(said, f"{which}_threshold_min_mem"), f"{which}_threshold_min_mem", "0: this is never reached")
    clauses: list[Any] = [{"available_below": memory, "swap_free_below": swap or "1B"}]
    if _flag(page, said, get, "zram_checking_enabled"):
        zram = _amount(page, said, get, f"{which}_threshold_max_zram")
        clauses.append({"available_below": memory, "zram_above": zram or "1B"})
    if _flag(page, said, get, "psi_checking_enabled"):
        clauses.append(_pressure(draft, page, get, said, which) | {"available_below": memory})
    return clauses


def _pressure(draft: Draft, page: Page, get: dict[str, str], said: _Said, which: str) -> dict[str, Any]:
    match = re.fullmatch(r"(some|full)_avg(10|60|300)", get["psi_metrics"])
    if match is None:
        page.wrong(_line(said, "psi_metrics"), "psi_metrics", f"{get['psi_metrics']!r} is no average of the kernel's")
    if get["psi_path"] != "/proc/pressure/memory":
        why = "the pressure of a guard is that of its cgroup: this one is of the machine, with memory"
        draft.lose(page, _line(said, "psi_path"), "psi_path", why)
    share = min(_number(page, said, get, f"{which}_threshold_max_psi"), 100)
    if which == "hard":
        how = "without swap nohang does not look at pressure, and this does"
        draft.differ(page, _line(said, "psi_checking_enabled"), "psi_checking_enabled", how)
    clause: dict[str, Any] = {"pressure_above": {match[1]: f"{share:.10g}%", "over": f"{match[2]}s"}}
    if which != "warning":  # it warns at once
        clause["lasting"] = _seconds(page, said, get, "psi_excess_duration")
    return clause


# --------------------------------------------------------------------------------------------------------------- rules


def _victim(draft: Draft, page: Page, rules: list[tuple[int, str, str]]) -> dict[str, Any]:
    rule: dict[str, Any] = {"by": "oom_score", "take": "process"}
    weighed = 0
    for line, name, rest in rules:
        number, sign, expression = rest.partition("///")
        if not name.startswith("@BADNESS_ADJ_RE_") or not sign:
            why = "no program is run, and no other signal sent, in place of SIGTERM" if "SOFT_ACTION" in name else ""
            draft.lose(page, line, name, why or "is not known here")
            continue
        if not re.fullmatch(r"[+-]?[0-9]+", number.strip()):
            page.wrong(line, name, f"{number.strip()!r} is not a whole number", f"{name} -200 /// ^sshd$")
        points = int(number)
        which = "never" if points <= _NEVER else "avoid" if points < 0 else "prefer"
        try:
            found = _matches(name.removeprefix("@BADNESS_ADJ_RE_"), expression.strip())
        except Wrong as wrong:
            draft.lose(page, line, name, wrong.message)
            continue
        for match in found:
            victim(rule, which, match)
        weighed = weighed or (line if which != "never" else 0)
    if weighed:
        how = "weigh a quarter and four times, not so many points of oom_score"
        draft.differ(page, weighed, "@BADNESS_ADJ", how)
    return rule


def _matches(kind: str, expression: str) -> list[dict[str, Any]]:
    match kind:
        case "NAME":
            return [{"comm": glob} for glob in patterns.comms(expression) if _fits(glob)]
        case "CGROUP_V1" | "CGROUP_V2":
            return [{"cgroup": glob} for glob in patterns.cgroups(expression)]
        case "REALPATH":
            return [{"exe": glob} for glob in patterns.cgroups(expression)]
        case "UID":
            return [{"uid": int(text)} for text in patterns.exact(expression) if text.isdecimal()]
        case _:
            raise Wrong(
                f"{kind.lower()} is not among what a process is known by here: comm, exe, uid, unit and cgroup are"
            )


def _fits(glob: patterns.Pattern) -> bool:
    return not isinstance(glob, str) or len(glob.replace("*", "").encode()) <= COMM_BYTES
