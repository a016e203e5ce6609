"""etc/kubernetes before the judge: in which order pods go, who never does, and on a recorded node no doubt is left."""

from dataclasses import replace
from pathlib import Path

import pytest

from oomguard.model.facts import ProcessFacts
from oomguard.model.policy import Plan
from oomguard.policy import load
from tests.cli.command import oomguard
from tests.cli.tree import Tree
from tests.judge.world import process

from .importing import Machine

HERE = Path(__file__).parents[2] / "etc/kubernetes"
NODE_MIB = 1000
STATIC = "1b4a2bd8b2a1f3b1ce5d0f3f9d8bd5fc"  # an md5, as the kubelet gives to what lies in its manifests
NOTHING = ""
Pod = tuple[int, str, str, int, int, str]


def path(driver: str, qos: str, uid: str, number: int) -> str:
    """Where the kubelet has the engine put a container."""
    container = f"{number:064x}"
    if driver == "cgroupfs":
        return "/".join(("/kubepods", *filter(None, (qos,)), f"pod{uid}", container))
    parts = ["kubepods", *filter(None, (qos,))]
    slices = [f"{'-'.join(parts[: end + 1])}.slice" for end in range(len(parts))]
    pod = f"{'-'.join(parts)}-pod{uid.replace('-', '_')}.slice"
    return "/".join(("", *slices, pod, f"cri-containerd-{container}.scope"))


def pod(number: int, name: str, qos: str, held: int, adj: int, uid: str = "") -> Pod:
    """``qos``: "" is Guaranteed, whose pods lie above the other classes. ``held``: in MiB, of a node of 1000."""
    return number, name, qos, held, adj, uid or f"6f3c2a0e-1c3f-4a53-9d0b-{number:012x}"


def lives(driver: str, which: Pod) -> ProcessFacts:
    number, name, qos, held, adj, uid = which
    # fs/proc/base.c, proc_oom_score(): as the kernel tells it since 5.8
    score = max(0, (1000 + adj + held * 1000 // NODE_MIB) * 2 // 3)
    return process(number, name, path(driver, qos, uid, number), held, adj=adj, score=score)


BATCH = pod(100, "batch", "besteffort", 20, 1000)
OTHER_BATCH = pod(101, "crawler", "besteffort", 60, 1000)
OVER = pod(110, "over", "burstable", 200, 950)  # requests 50 MiB
OVER_FAR = pod(111, "overfar", "burstable", 400, 950)
UNDER = pod(120, "under", "burstable", 300, 500)  # requests 500 MiB
GUARANTEED = pod(130, "db", "", 400, -997)
PAUSE = pod(140, "pause", "besteffort", 500, -998)
CRITICAL = pod(150, "node-exporter", "burstable", 600, -997)
APISERVER = pod(160, "apiserver", "burstable", 700, 999, STATIC)  # static, and its author forgot the class
STATIC_DB = pod(161, "etcd", "", 700, -997, STATIC)


def policy(*files: str) -> Plan:
    plan = load([HERE / name for name in files])
    return replace(plan, guards=tuple(replace(guard, cgroup="/kubepods.slice") for guard in plan.guards))


def on(driver: str, plan: Plan) -> Plan:
    tree = {"systemd": "/kubepods.slice", "cgroupfs": "/kubepods"}[driver]
    return replace(plan, guards=tuple(replace(guard, cgroup=tree) for guard in plan.guards))


@pytest.mark.parametrize("driver", ["systemd", "cgroupfs"])
@pytest.mark.parametrize(
    ("pods", "expected"),
    [
        ((BATCH, OTHER_BATCH, OVER, OVER_FAR, UNDER, GUARANTEED, CRITICAL, APISERVER, PAUSE), "KILL crawler"),
        ((BATCH, OVER, OVER_FAR, UNDER, GUARANTEED, CRITICAL, APISERVER, PAUSE), "KILL batch"),
        ((OVER, OVER_FAR, UNDER, GUARANTEED, CRITICAL, APISERVER, PAUSE), "KILL overfar"),
        ((OVER, UNDER, GUARANTEED, CRITICAL, APISERVER, PAUSE), "KILL over"),  # though the other one holds more
        ((UNDER, GUARANTEED, CRITICAL, APISERVER, PAUSE), "KILL under"),
        ((GUARANTEED, CRITICAL, APISERVER, PAUSE), NOTHING),
        ((CRITICAL,), NOTHING),
        ((APISERVER, STATIC_DB), NOTHING),
    ],
)
def test_the_order_of_classes(driver: str, pods: tuple[Pod, ...], expected: str) -> None:
    living = tuple(lives(driver, which) for which in pods)
    assert Machine(on(driver, policy("oomguard.toml")), living).ends(available=7) == expected


@pytest.mark.parametrize("driver", ["systemd", "cgroupfs"])
@pytest.mark.parametrize(
    ("pods", "available", "expected"),
    [
        ((UNDER, GUARANTEED, CRITICAL), 7, "KILL under"),
        ((GUARANTEED, CRITICAL, APISERVER, STATIC_DB, PAUSE), 2.5, "KILL db"),  # last
        ((GUARANTEED, CRITICAL), 4, NOTHING),  # and much later
        ((CRITICAL, APISERVER, STATIC_DB, PAUSE), 1, NOTHING),
    ],
)
def test_guaranteed_last(driver: str, pods: tuple[Pod, ...], available: float, expected: str) -> None:
    living = tuple(lives(driver, which) for which in pods)
    plan = on(driver, policy("oomguard.toml", "guaranteed-last.toml"))
    assert Machine(plan, living).ends(available=available, seconds=4) == expected


def test_it_acts_before_the_kubelet_does() -> None:
    """Whose threshold is 100 MiB by default (pkg/kubelet/apis/config/v1beta1/defaults.go); 8 % of 2 GiB are 163."""
    living = (lives("systemd", BATCH),)
    assert Machine(on("systemd", policy("oomguard.toml")), living).ends(available=8.1) == NOTHING
    assert Machine(on("systemd", policy("oomguard.toml")), living).ends(available=7.9) == "KILL batch"


def test_a_container_goes_whole_and_alone() -> None:
    """Its children with it, so that the kubelet sees it end; its pod's other containers stay."""
    main = lives("systemd", pod(200, "main", "besteffort", 30, 1000))
    child = replace(main, pid=201, ppid=200, comm="child", oom_score=main.oom_score + 1)
    beside = replace(main, pid=202, comm="sidecar", cgroup=main.cgroup.replace(f"{200:064x}", f"{202:064x}"))
    machine = Machine(on("systemd", policy("oomguard.toml")), (main, child, beside))
    assert machine.ends(available=7).startswith("KILL")
    (state,) = machine.court.state.targets.values()
    assert state.pursuit is not None
    victim = state.pursuit.victim
    assert (victim.take, victim.cgroup) == ("cgroup", main.cgroup)
    assert {ref.pid for ref in victim.processes} == {200, 201}


@pytest.fixture
def node(tmp_path: Path) -> Tree:
    """A node's files: pods of each class, a static one among them."""
    tree = Tree(tmp_path, total_mib=8 << 10, available_mib=4 << 10)
    for which in (BATCH, OVER, UNDER, GUARANTEED, CRITICAL, APISERVER):
        number, _, qos, held, _, uid = which
        tree.group(path("systemd", qos, uid, number), held, limit_mib=1024 if not qos else None)
    tree.group("/system.slice/kubelet.service", 90)
    return tree


@pytest.mark.parametrize("name", ["oomguard.toml", "guaranteed-last.toml"])
def test_on_a_recorded_node_no_doubt_is_left(node: Tree, name: str) -> None:
    answer = oomguard("check", "--config", HERE / name, "--against", node.root)
    assert (answer.code, answer.err) == (0, ""), answer.out
    assert "warning" not in answer.out
