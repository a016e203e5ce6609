"""What is shipped beside the code: wheel, installation, messages and their catalog, and that every part is in step."""

import json
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import oomguard
from oomguard.model.messages import FIELDS, MESSAGE_IDS

ROOT = Path(__file__).resolve().parent.parent
CATALOG = ROOT / "systemd" / "oomguard.catalog"
OF_A_GUARD = {
    *("SOFT", "HARD", "MEASURE", "KILLED", "VICTIM_GONE", "VICTIM_STUCK", "NO_VICTIM", "BUDGET_SPENT"),
    *("SHADOW", "CALM"),
}


def catalog() -> dict[str, str]:
    """Each id of the catalog with its whole entry, header and text."""
    _, *entries = re.split(r"^-- ([0-9a-f]{32})\n", CATALOG.read_text(), flags=re.MULTILINE)
    return dict(zip(entries[::2], entries[1::2], strict=True))


# -- messages ---------------------------------------------------------------------------------------------------------


def test_every_message_is_in_the_catalog_and_nothing_else_is_in_the_same_order() -> None:
    assert list(catalog()) == list(MESSAGE_IDS.values())


def test_ids_are_128_bits_and_unlike() -> None:
    assert all(re.fullmatch("[0-9a-f]{32}", message_id) for message_id in MESSAGE_IDS.values())
    assert len(set(MESSAGE_IDS.values())) == len(MESSAGE_IDS)


def test_the_table_cannot_be_changed() -> None:
    with pytest.raises(TypeError):
        MESSAGE_IDS["STARTED"] = "0" * 32  # type: ignore[index]


@pytest.mark.parametrize(("name", "entry"), list(zip(MESSAGE_IDS, catalog().values(), strict=True)))
def test_an_entry_explains_itself(name: str, entry: str) -> None:
    header, _, text = entry.partition("\n\n")
    assert re.search("^Subject: .{10,90}$", header, re.MULTILINE), f"{name} has no subject, or one that is too long"
    assert "Defined-By: oomguard" in header
    assert len(text.split()) > 15, f"{name} is not explained"
    assert all(len(line) < 80 for line in text.splitlines()), f"{name} does not fit a terminal"
    unknown = set(re.findall("OOMGUARD_[A-Z_]+", entry)) - set(FIELDS)
    assert not unknown, f"{name} speaks of fields that no entry carries"
    # journalctl shows the name of a field in place of a value that is missing: only what is always there may be shown.
    always = {"OOMGUARD_VERSION"} | ({"OOMGUARD_POLICY", "OOMGUARD_CGROUP"} if name in OF_A_GUARD else set())
    assert set(re.findall("@([A-Z_]+)@", entry)) <= always, f"{name} shows fields that may be missing"


def test_the_herald_sends_the_fields_that_are_documented_and_no_others() -> None:
    source = (ROOT / "oomguard" / "workers" / "herald.py").read_text()
    assert set(re.findall("OOMGUARD_[A-Z_]+", source)) == set(FIELDS)


@pytest.mark.skipif(shutil.which("journalctl") is None, reason="journalctl is not installed")
def test_the_journal_reads_the_catalog(tmp_path: Path) -> None:
    for place in ("usr/lib/systemd/catalog", "var/lib/systemd/catalog"):
        (tmp_path / place).mkdir(parents=True)
    shutil.copy(CATALOG, tmp_path / "usr/lib/systemd/catalog")
    subprocess.run(["journalctl", f"--root={tmp_path}", "--update-catalog"], check=True, capture_output=True)
    shown = subprocess.run(
        ["journalctl", f"--root={tmp_path}", "--list-catalog"], check=True, capture_output=True, text=True
    ).stdout
    assert all(f"{message_id} oomguard: " in shown for message_id in MESSAGE_IDS.values())


# -- project file -----------------------------------------------------------------------------------------------------


def test_the_core_needs_no_dependency_of_the_project() -> None:
    """Whatever is a dependency has a home above the waterline (the table of test_house)."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert {re.split("[<>=]", name)[0] for name in project["dependencies"]} == {
        "pydantic", "psutil", "tomli", "typer", "rich",
    }  # fmt: skip
    assert project["requires-python"] == ">=3.11"
    assert project["scripts"] == {"oomguard": "oomguard.cli.main:main"}


def test_the_changelog_speaks_of_this_version() -> None:
    assert f"\n## {oomguard.__version__}" in (ROOT / "CHANGELOG.md").read_text()


def dead_links(page: Path) -> list[str]:
    """Relative links of a page that lead nowhere."""
    links = re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text())
    return [link for link in links if not (page.parent / link).exists()]


def test_a_dead_link_is_seen(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("[a](page.md#part) [b](https://example.org/) [c](gone.md)")
    assert dead_links(page) == ["gone.md"]


def test_no_link_of_the_documentation_is_dead() -> None:
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), ROOT / "tests/vm/README.md"]
    assert {page.name: dead_links(page) for page in pages if dead_links(page)} == {}


# -- installation -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Wheels for this Python, gathered in ./wheels once and kept there."""
    here = ".".join(map(str, sys.version_info[:2]))
    gathered = ROOT / "wheels"
    target = gathered if gathered.is_dir() else tmp_path_factory.mktemp("wheels")
    versions = {"3.13", here}
    done = subprocess.run(
        ["make", "wheels", f"WHEELS={target}", f"PYTHONS={' '.join(versions)}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return target


def make(*argv: str) -> str:
    """What a target of the Makefile says; it must not fail. Without network where this machine lets us take it away."""
    offline = ["unshare", "--net"] if can_unshare() else []
    done = subprocess.run(
        [*offline, "make", *argv], cwd=ROOT, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def can_unshare() -> bool:
    return subprocess.run(["unshare", "--net", "true"], capture_output=True, check=False).returncode == 0


def files(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_symlink() or path.is_file()}


def places(wheels: Path, destdir: Path) -> list[str]:
    return [f"DESTDIR={destdir}", f"WHEELS={wheels}", f"PYTHON={sys.executable}"]


def test_the_wheel_holds_the_package_and_nothing_is_forgotten(wheels: Path) -> None:
    """Modules, py.typed, templates, schemas: a new kind of data file has to be named in pyproject.toml."""
    (wheel,) = wheels.glob("oomguard-*.whl")
    with zipfile.ZipFile(wheel) as opened:
        packed = {name for name in opened.namelist() if name.startswith("oomguard/")}
    tree = {f"oomguard/{name}" for name in files(ROOT / "oomguard") if not name.endswith(".pyc")}
    assert packed == tree
    assert "oomguard/py.typed" in packed


def test_install_and_uninstall_without_network(wheels: Path, tmp_path: Path) -> None:
    """The story of an administrator: install, edit, upgrade, uninstall. What was edited stays, the rest goes."""
    where = places(wheels, tmp_path)
    make("install", *where)

    library = tmp_path / "usr/local/lib/oomguard/venv"
    configuration = tmp_path / "etc/oomguard/oomguard.toml"
    assert (tmp_path / "usr/local/bin/oomguard").readlink() == Path("/usr/local/lib/oomguard/venv/bin/oomguard")
    assert (library / "bin/oomguard").read_text().startswith("#!/usr/local/lib/oomguard/venv/bin/python -ISB\n")
    assert {path.name for path in (library / "bin").iterdir() if not path.name.startswith("python")} == {"oomguard"}
    assert configuration.read_bytes() == (ROOT / "etc/oomguard.toml").read_bytes()
    assert (tmp_path / "etc/oomguard/conf.d").is_dir()
    assert "system/oomguard.service.d/keep.conf" in files(tmp_path / "usr/local/lib/systemd")
    assert {"system/oomguard.service", "user/oomguard.service", "catalog/oomguard.catalog"} <= files(
        tmp_path / "usr/local/lib/systemd"
    )
    assert (tmp_path / "usr/local/lib/sysusers.d/oomguard.conf").is_file()

    documents = tmp_path / "usr/local/share/doc/oomguard"
    examples = {path.name for path in (ROOT / "etc/examples").glob("*.toml")}
    assert {path.name for path in (documents / "etc/examples").iterdir()} == examples
    schema = json.loads((tmp_path / "usr/local/share/oomguard/policy.schema.json").read_text())
    assert schema["title"] == "oomguard policy"
    assert {path.name for path in (documents / "etc/prometheus").iterdir()} == {
        "oomguard.rules.yml",
        "oomguard.tests.yml",
    }
    assert json.loads((documents / "etc/grafana/oomguard.json").read_text())["title"] == "oomguard"
    assert {"system/oomguard-exporter.service", "system/oomguard-exporter.socket"} <= files(
        tmp_path / "usr/local/lib/systemd"
    )
    share = tmp_path / "usr/local/share"
    for number, page in ((1, "oomguard.1"), (5, "oomguard.toml.5"), (8, "oomguard.service.8")):
        assert (share / f"man/man{number}" / page).read_text().startswith(".TH OOMGUARD")
    for place in ("bash-completion/completions/oomguard", "zsh/site-functions/_oomguard"):
        assert "made by `oomguard completion" in (share / place).read_text()
    assert "complete -c oomguard" in (share / "fish/vendor_completions.d/oomguard.fish").read_text()

    ours = {path.relative_to(library) for path in library.rglob("site-packages/oomguard/**/*.py")}
    compiled = {path.relative_to(library) for path in library.rglob("site-packages/oomguard/**/*.pyc")}
    assert len(ours) == len(compiled) > 0, "all byte code is made at installation: nothing is written at run time"
    assert not [path for path in library.rglob("*.pyc") if str(tmp_path).encode() in path.read_bytes()]

    words = [library / "bin/python", "-ISB", library / "bin/oomguard", "--help"]
    said = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (said.returncode, said.stderr) == (0, "")
    assert "incidents" in said.stdout

    configuration.write_text("# edited\n")
    assert "was edited and stays" in make("install", *where)
    assert configuration.read_text() == "# edited\n"
    assert configuration.with_suffix(".toml.new").read_bytes() == (ROOT / "etc/oomguard.toml").read_bytes()

    assert "/etc/oomguard (edited)" in make("uninstall", *where)
    assert files(tmp_path) == {"etc/oomguard/oomguard.toml"}


@pytest.mark.parametrize(
    ("active", "command"),
    [
        ("", ""),
        ("earlyoom.service", "systemctl disable --now earlyoom.service"),
        ("systemd-oomd.service", "systemctl disable --now systemd-oomd.service systemd-oomd.socket"),
    ],
)
def test_another_daemon_is_named_and_left_alone(tmp_path: Path, active: str, command: str) -> None:
    """What `make install` does at its end, on a system that notes what it is asked."""
    script = (ROOT / "tools/install.sh").read_text()
    end = re.search(r"^say_what_next\(\) \{\n.*?^\}\n", script, re.M | re.S)
    assert end is not None
    asked = tmp_path / "asked"
    system = f'systemctl() {{ echo "$*" >>{asked}; [[ $3 == "{active}" ]]; }}\nsay() {{ echo "$*"; }}\nbindir=/b\n'
    text = end[0].replace("/run/systemd/system", str(tmp_path))
    run = ["bash", "-euo", "pipefail", "-c", f"{system}{text}say_what_next"]
    told = subprocess.run(run, capture_output=True, text=True, check=True).stdout.splitlines()
    assert [line.partition("oomguard:  ")[2] for line in told[1:]] == ([command] if command else [])
    assert {line.split()[1] for line in asked.read_text().splitlines()} == {"is-active"}, "it only asks"


def test_uninstall_leaves_nothing_of_an_untouched_installation(wheels: Path, tmp_path: Path) -> None:
    where = [*places(wheels, tmp_path), "prefix=/opt/oomguard"]
    make("install", *where)
    unit = (tmp_path / "etc/systemd/system/oomguard.service").read_text()
    assert "ExecStart=/opt/oomguard/bin/oomguard run --config /etc/oomguard/oomguard.toml\n" in unit
    assert "/usr/local" not in unit
    make("uninstall", *where)
    assert files(tmp_path) == set()


# -- gathered wheels --------------------------------------------------------------------------------------------------


def unpack(wheels: Path, site: Path, *extras: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-B", str(ROOT / "tools" / "unpack_wheels.py"), str(wheels), str(site), *extras],
        capture_output=True,
        text=True,
        check=False,
    )


def copied(wheels: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(wheels, tmp_path / "wheels", ignore=shutil.ignore_patterns(".*")))


def test_a_missing_wheel_is_named(wheels: Path, tmp_path: Path) -> None:
    some = copied(wheels, tmp_path)
    for wheel in some.glob("pydantic_core-*"):
        wheel.unlink()
    done = unpack(some, tmp_path / "site")
    assert done.returncode == 1
    assert "no wheel of pydantic-core fits Python" in done.stderr


def test_a_missing_extra_is_named(wheels: Path, tmp_path: Path) -> None:
    done = unpack(wheels, tmp_path / "site", "notify")
    assert done.returncode == 1
    assert re.search("no wheel of (apprise|jeepney) ", done.stderr)


def test_a_damaged_wheel_is_refused(wheels: Path, tmp_path: Path) -> None:
    some = copied(wheels, tmp_path)
    (wheel,) = some.glob("mdurl-*.whl")
    with zipfile.ZipFile(wheel) as whole:
        contents = {name: whole.read(name) for name in whole.namelist()}
    with zipfile.ZipFile(wheel, "w") as damaged:
        for name, content in contents.items():
            damaged.writestr(name, content + b"\n" if name == "mdurl/_parse.py" else content)
    done = unpack(some, tmp_path / "site")
    assert (done.returncode, done.stderr) == (1, f"oomguard: {wheel.name}: mdurl/_parse.py is damaged\n")


def test_a_wheel_that_leads_out_is_refused(wheels: Path, tmp_path: Path) -> None:
    some = copied(wheels, tmp_path)
    (wheel,) = some.glob("mdurl-*.whl")
    with zipfile.ZipFile(wheel, "w") as evil:
        evil.writestr("../../evil.py", "")
        evil.writestr("mdurl-0.1.2.dist-info/RECORD", "../../evil.py,,\n")
    done = unpack(some, tmp_path / "a" / "b" / "site")
    assert done.returncode == 1
    assert "leads out of the installation" in done.stderr
    assert not list(tmp_path.rglob("evil.py"))


def test_without_a_current_wheel_the_checkout_is_installed(wheels: Path, tmp_path: Path) -> None:
    """A wheel from before a `git pull`: what is installed is what was pulled."""
    some = copied(wheels, tmp_path)
    (wheel,) = some.glob("oomguard-*.whl")
    with zipfile.ZipFile(wheel, "a") as older:
        older.writestr("oomguard/gone.py", "")
    done = unpack(some, tmp_path / "site")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "site/oomguard/model/messages.py").is_file()
    assert not (tmp_path / "site/oomguard/gone.py").exists()


def test_the_manual_lists_every_message_and_field() -> None:
    manual = (ROOT / "docs" / "install.md").read_text()
    for name, message_id in MESSAGE_IDS.items():
        assert f"| {name} | `{message_id}` |" in manual
    for name, what in FIELDS.items():
        assert f"| `{name}` | {what} |" in manual
