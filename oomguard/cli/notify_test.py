"""``oomguard notify-test``: one clearly marked message to every sink of a policy, on the way that real ones take."""

from typing import Annotated, Any

import typer

from ..linux import systemd
from ..model.policy import SHADOW, Plan, Sink
from ..policy import files
from . import live, say, senders
from .run import Config
from .show import compiled

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Policy = Annotated[str, typer.Argument(metavar="POLICY", help="Only the sinks of this policy.")]
_TEXT = "This is a test of oomguard's notifications{}. Nothing has happened, and nobody was killed."


def notify_test(
    policy: Policy = "", config: Config = files.DEFAULT, runtime_dir: live.Runtime = None, json: Json = False
) -> None:
    """Send a test message to all sinks and say what became of it: by the running daemon, else from here.

    0: all have it. 1: some have not. 2: no such policy. 3: the daemon takes requests from root alone.
    """
    plan = compiled(config)
    sinks = _sinks(plan, policy)
    results = [_journal(policy)]
    try:
        for sink, answer in senders.tested(plan, sinks, policy, live.runtime_dir(runtime_dir, config)):
            results.append({"sink": sink.name, "kind": sink.by, **_said(answer)})
    except senders.NotPermitted:
        say.fail(say.NOT_PERMITTED, "the running daemon takes requests from root alone: ask as root")
    if json:
        say.as_json({"ok": all(result["ok"] for result in results), "policy": policy, "sinks": results})
    else:
        _print(results, bool(sinks))
    raise typer.Exit(say.FINE if all(result["ok"] for result in results) else say.FOUND)


def _sinks(plan: Plan, policy: str) -> list[Sink]:
    """Of the policy, or all."""
    if not policy:
        return list(plan.sinks)
    guards = {guard.name: guard for guard in plan.guards if not guard.name.startswith(SHADOW)}
    if policy not in guards:
        say.fail(say.WRONG_USE, f"there is no policy {policy}: there are {', '.join(guards)}")
    listed = guards[policy].notify
    return [sink for sink in plan.sinks if listed is None or sink.name in listed]


def _journal(policy: str) -> dict[str, Any]:
    text = _TEXT.format(f" for policy {policy}" if policy else "")
    entry = {"MESSAGE": text, "PRIORITY": "5", "SYSLOG_IDENTIFIER": "oomguard"}
    try:
        told = systemd.journal_send(entry)
    except OSError:
        told = False
    note = "journalctl -t oomguard" if told else "no journal here: the daemon's standard error is where it goes"
    answer = {"error": "", "hint": "", "note": note, "took_ms": 0, "by": ""}
    return {"sink": "journal", "kind": "journal", **_said(answer)}


def _said(answer: dict[str, Any]) -> dict[str, Any]:
    return {"ok": not answer["error"]} | {key: answer[key] for key in ("error", "hint", "note", "took_ms", "by")}


def _print(results: list[dict[str, Any]], any_sinks: bool) -> None:
    width = max(len(result["sink"]) for result in results)
    for result in results:
        by = f" ({result['took_ms']} ms, sent by {'the running ' * (result['by'] == 'daemon')}{result['by']})"
        what = f"not delivered: {result['error']}" if result["error"] else result["note"] or "delivered"
        say.line(f"{result['sink'].ljust(width)}  {what}{by if result['by'] else ''}")
        if result["hint"]:
            say.line(f"    hint: {result['hint']}")
    if any(result["by"] == "this command" for result in results):
        say.line("The daemon does not run with such sinks now: what its service may not do, this cannot know.")
    if not any_sinks:
        say.line("There is no sink besides the journal: docs/policies.md, Telling people.")
