"""A policy in a file of its own: where root runs the tests, the checkout may belong to somebody else."""

from pathlib import Path

from oomguard.model.policy import Guard, Plan
from oomguard.policy import Fault, PolicyError, load


def plan_of(directory: Path, *texts: str) -> Plan:
    """The plan of these texts, later ones over earlier ones."""
    paths = []
    for number, text in enumerate(texts):
        path = directory / f"{number}.toml"
        path.write_text(text, "utf-8")
        paths.append(path)
    return load(paths)


def guard_of(directory: Path, text: str) -> Guard:
    """The one guard of a text."""
    (guard,) = plan_of(directory, text).guards
    return guard


def faults_of(directory: Path, *texts: str) -> tuple[Fault, ...]:
    """All faults of texts that are no policy."""
    try:
        plan = plan_of(directory, *texts)
    except PolicyError as error:
        return error.faults
    raise AssertionError(f"no fault was found, but {plan}")
