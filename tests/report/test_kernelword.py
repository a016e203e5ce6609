"""What the kernel says of its kill, from its own lines to sentences."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from oomguard.report import kernelword, page, text
from tests.linux.test_oomreport import GLOBAL, MEMCG, told

from .test_page import HOSTILE, incident

DOCKER = "/system.slice/docker-0123456789ab" + "c" * 52 + ".scope"


def test_a_cgroups_limit() -> None:
    (report,) = told(MEMCG)
    assert list(kernelword.sentences(report)) == [
        "stress asked for memory, and /system.slice/web.service was at its limit, 256 MiB of 256 MiB.",
        "Taken: a b) [x][812] in web.service: 254 MiB of its own, 2.1 MiB of files, oom_score_adj 200.",
        "It chose from 2 processes, the largest a b) [x][812] 256 MiB, stress[811] 1.2 MiB.",
    ]


def test_the_whole_machine() -> None:
    (report,) = told(GLOBAL)
    why, whom, among = kernelword.sentences(report)
    assert why == "tail asked for memory, and the whole machine was out of memory."
    assert "tail[900] in session-3.scope" in whom
    assert "sshd[233] 2.7 MiB and 48.0 KiB in swap" in among


def test_a_container_is_named_with_its_engine() -> None:
    (report,) = told(MEMCG.replace("/system.slice/web.service/worker", DOCKER))
    assert "in docker 0123456789ab in docker-" in list(kernelword.sentences(report))[1]


@pytest.mark.parametrize("constraint", ["CONSTRAINT_CPUSET", "CONSTRAINT_MEMORY_POLICY", "", "CONSTRAINT_OF_TOMORROW"])
def test_whatever_held_it_back_is_a_sentence(constraint: str) -> None:
    (report,) = told(GLOBAL)
    report |= {"constraint": constraint, "tasks": [], "invoked_by": "", "task_memcg": "", "unit": ""}
    why, whom = kernelword.sentences(report)
    assert why.startswith("Somebody asked for memory, and ")
    assert whom.startswith("Taken: tail[900]: ")


def test_the_half_page_and_the_report_have_it() -> None:
    doc: dict[str, Any] = copy.deepcopy(incident())
    (first,), (second,) = told(MEMCG), told(GLOBAL)
    first["tasks"][0]["comm"] = first["victim"]["comm"] = HOSTILE[0]
    doc |= {"kernel_reports": [first, second], "killed_by": "kernel"}
    shown = text.half_page(doc, 1000)
    assert "What the kernel says of its kills" in shown
    assert "/system.slice/web.service was at its limit" in shown
    assert "(1 more)" in shown
    assert "tail asked for memory" not in shown
    assert "tail asked for memory" in text.half_page(doc, 1000, whole=True)
    drawn = page.page(doc)
    assert "tail asked for memory, and the whole machine was out of memory." in drawn
    assert "the 2 largest of its table" in drawn
    assert HOSTILE[0] not in drawn
