"""What stands where in the status page, for who writes it (``core.page``) and who reads it. In words: see
``model.statuspage``, of which the core has no need.
"""

import mmap
import struct
from typing import Final, NamedTuple

NAME: Final = "status"
MAGIC: Final = b"oomguard"
LAYOUT: Final = 2  # 1 had no conditions, pressure, growth, nominees, events and checksums

PHASES: Final = ("calm", "armed", "firing", "draining", "cooling")
MODES: Final = ("enforce", "observe", "shadow")
WATERMARKS: Final = ("soft", "hard")
TAKES: Final = ("process", "subtree", "process_group", "session", "cgroup")
EVENT_KINDS: Final = (  # names of ``model.messages``
    "STARTED", "STOPPED", "RELOADED", "RELOAD_REFUSED", "DEGRADED", "WORKER_RESTARTED", "LEASE_UNDONE", "SOFT", "HARD",
    "MEASURE", "KILLED", "VICTIM_GONE", "VICTIM_STUCK", "NO_VICTIM", "BUDGET_SPENT", "SHADOW", "CALM", "KERNEL_KILLED",
)  # fmt: skip
# As the policy language has them, and the words that stand beside them there.
KINDS: Final = (
    "available_below", "swap_free_below", "memory_above", "swap_above", "stall_above", "pressure_above",
    "pressure_rising", "zram_above", "growth_above", "exhausts_within", "refaults_above", "events_above",
    "level_above",
)  # fmt: skip
WORDS: Final = (
    "", "some", "full", "memory", "disk", "anon", "file", "any", "low", "high", "max", "oom", "oom_kill", "medium",
    "critical",
)  # fmt: skip
UNITS: Final = ("bytes", "millionths", "us", "count")  # of a condition's number; millionths: a share

UNKNOWN: Final = (1 << 64) - 1  # a number that there is not on this machine, or that no policy asks for
UNKNOWN_32: Final = (1 << 32) - 1

NUMBERS: Final = (
    "pid", "started_ns", "armed", "turns", "minor_faults", "major_faults", "snapshots", "kills", "kernel_oom_kills",
    "leases_undone", "drops", "mem_total_bytes", "mem_free_bytes", "mem_available_bytes", "swap_total_bytes",
    "swap_free_bytes",
    # The machine's pressure: averages in hundredths of a percent, totals in us since boot; and when that was read.
    "some_avg10", "some_avg60", "some_avg300", "some_total_us",
    "full_avg10", "full_avg60", "full_avg300", "full_total_us", "pressure_ns",
    "beat_ns",  # the last turn or glance
)  # fmt: skip
COUNTS: Final = ("guards", "conditions", "growing", "nominees", "events", "notes_bytes")


class Section(NamedTuple):
    """Part of the page: room for so many records of one form."""

    number: int  # of its checksum
    counted: int  # which of COUNTS tells how many there are
    room: int
    record: struct.Struct
    at: int

    @property
    def end(self) -> int:
        """Where the next one begins."""
        return self.at + self.room * self.record.size


GUARDS: Final = 128  # the compiler refuses more
NOTES_BYTES: Final = 16384
NUMBERS_OF: Final = Section(0, 0, GUARDS, struct.Struct("<10I7Q"), 1024)
NAMES: Final = Section(1, 0, GUARDS, struct.Struct("<72s180sI192s"), NUMBERS_OF.end)
CONDITIONS: Final = Section(2, 1, 384, struct.Struct("<H5BxQQQ"), NAMES.end)
GROWTH: Final = Section(3, 2, 32, struct.Struct("<192s4Q"), CONDITIONS.end)
NOMINEES: Final = Section(4, 3, 16, struct.Struct("<4IQ64s192s"), GROWTH.end)
EVENTS: Final = Section(5, 4, 24, struct.Struct("<QII72s168s"), NOMINEES.end)
NOTES: Final = Section(6, 5, NOTES_BYTES, struct.Struct("<c"), EVENTS.end)
SECTIONS: Final = (NUMBERS_OF, NAMES, CONDITIONS, GROWTH, NOMINEES, EVENTS, NOTES)

FRONT: Final = struct.Struct("<8sIIQ")
SEQUENCE_AT: Final = 16
PID_AT: Final = FRONT.size
HEAD: Final = struct.Struct(f"<{len(NUMBERS) + len(COUNTS)}Q{len(SECTIONS)}I")  # at PID_AT, with its checksum after it
SUM_AT: Final = PID_AT + HEAD.size
SIZE: Final = -(-NOTES.end // mmap.PAGESIZE) * mmap.PAGESIZE
