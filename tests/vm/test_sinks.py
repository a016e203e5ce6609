"""People are told from within the service's sandbox: over the network, and on a session's bus that came after it."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

from .machine import Machine, local_tree
from .storms import UNIT, journal, status

VENV = "/usr/local/lib/oomguard/venv/lib/python3.13/site-packages"
SHARE = "/usr/local/share/oomguard"
DROP_INS = f"/etc/systemd/system/{UNIT}.d"
SESSION = "UID=1\nUSER=daemon\nSTATE=active\nTYPE=wayland\nCLASS=user\n"

POLICY = """\
[sinks.net]
run = ["/usr/local/bin/post"]
every = "0s"
at = ["killed"]
[sinks.web]
url_file = "/etc/oomguard/secrets/web"
every = "0s"
at = ["killed"]
[sinks.wrong]
url_file = "/etc/oomguard/secrets/wrong"
[sinks.screen]
desktop = true
every = "0s"
[policy.grown]
cgroup = "/work.slice/grown.service"
notify = ["net", "web", "screen"]
[policy.grown.hard]
when = [{ memory_above = "16MiB" }]
do = ["kill"]
"""
POST = """\
#!/usr/bin/python3 -IS
import socket, sys
told = sys.stdin.buffer.read()
end = socket.create_connection(("127.0.0.1", 8099), 10)
end.sendall(told)
"""
HEAR = """\
import http.server, socket, threading
class Web(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        with open("/run/probe/web", "ab") as file:
            file.write(self.rfile.read(int(self.headers["Content-Length"])) + b"\\n")
        self.send_response(200 if self.path == "/TopSecretToken" else 403)
        self.end_headers()
threading.Thread(target=http.server.HTTPServer(("127.0.0.1", 8098), Web).serve_forever).start()
listener = socket.create_server(("127.0.0.1", 8099))
while True:
    end, _ = listener.accept()
    with end, open("/run/probe/net", "ab") as file:
        while data := end.recv(65536):
            file.write(data)
        file.write(b"\\n")
"""
# org.freedesktop.Notifications, of that user.
SHOW = """\
import json, sys
sys.path.insert(0, "/opt")
from jeepney import HeaderFields, MessageType, new_method_return
from jeepney.bus_messages import message_bus
from jeepney.io.blocking import open_dbus_connection
connection = open_dbus_connection(bus="unix:path=/run/user/1/bus")
connection.send_and_get_reply(message_bus.RequestName("org.freedesktop.Notifications"))
while True:
    message = connection.receive()
    if message.header.message_type is MessageType.method_call:
        notify = message.header.fields[HeaderFields.member] == "Notify"
        connection.send(new_method_return(message, *(("u", (1,)) if notify else ("as", (["body"],)))))
        if notify:
            with open("/run/user/1/shown", "a") as file:
                print(json.dumps(message.body[3:5]), file=file)
"""
HOLD = "import time; held = bytearray(b'x') * (30 << 20); time.sleep(3600)"


def listen(vm: Machine) -> None:
    """A server on the machine's own loopback, and a user who logs in."""
    vm.put("/run/probe/hear.py", HEAR)
    vm.check("systemd-run -q --unit=hear /usr/bin/python3 -I -S /run/probe/hear.py")
    vm.check("mkdir -p /run/user/1 && mount -t tmpfs -o uid=1,gid=1,mode=700 tmpfs /run/user/1")
    vm.put("/run/systemd/sessions/t1", SESSION)
    vm.check(
        "systemd-run -q --unit=bus -p User=daemon dbus-daemon --session --nofork --address=unix:path=/run/user/1/bus"
    )
    assert vm.wait_for("test -S /run/user/1/bus", 30)
    vm.put("/opt/show.py", SHOW)
    vm.check("systemd-run -q --unit=show -p User=daemon /usr/bin/python3 -I /opt/show.py")
    owned = "busctl --address=unix:path=/run/user/1/bus status org.freedesktop.Notifications"
    assert vm.wait_for(f"runuser -u daemon -- {owned}", 60), journal(vm, "show")


# What `make install EXTRAS=notify` brings; as much of it as is Python, for the host's may be another one.
LIBRARIES = ("apprise", "requests", "requests_oauthlib", "oauthlib", "urllib3", "certifi", "charset_normalizer", "idna")
LIBRARIES += ("markdown", "yaml", "click", "jeepney")


def put_libraries(vm: Machine, *names: str, where: str) -> None:
    files = {}
    for name in names:
        spec = importlib.util.find_spec(name)
        library = local_tree(Path(str(spec and spec.origin)).parent)
        files |= {f"{name}/{path}": file for path, file in library.items() if wanted(path)}
    vm.put_tree(files, where)


def wanted(path: str) -> bool:
    """Neither what is compiled for the host's Python nor tests nor translations."""
    return path.endswith((".py", ".pem")) and not path.startswith("tests/")


def report_of(vm: Machine, policy: str = "") -> dict[str, dict[str, object]]:
    report = json.loads(vm.run(f"oomguard notify-test {policy} --json", timeout=180).out)
    return {sink["sink"]: sink for sink in report["sinks"]}


def test_people_are_told_from_within_the_sandbox(installed_vm: Machine) -> None:
    vm = installed_vm
    put_libraries(vm, *LIBRARIES, where=VENV)
    put_libraries(vm, "jeepney", where="/opt")
    vm.check("install -d -m 0700 /etc/oomguard/secrets")
    for name, path in (("web", "TopSecretToken"), ("wrong", "AnOldToken")):
        vm.put(f"/etc/oomguard/secrets/{name}", f"json://127.0.0.1:8098/{path}", 0o600)
    vm.put("/usr/local/bin/post", POST, 0o755)
    vm.put("/etc/oomguard/conf.d/50-sinks.toml", POLICY)
    vm.check(f"install -D -m 0644 {SHARE}/notify.conf {DROP_INS}/notify.conf")  # as the documents say
    vm.check(f"systemctl daemon-reload && systemctl restart {UNIT}", timeout=90)
    listen(vm)
    assert vm.wait_for("test -S /run/oomguard/sender -a -S /run/oomguard/desktop", 60), journal(vm, UNIT)
    report = report_of(vm, "grown")
    assert report["journal"]["note"] == "journalctl -t oomguard"
    assert (report["screen"]["note"], report["screen"]["by"]) == ("shown to daemon", "daemon"), report
    assert (report["net"]["ok"], report["net"]["by"]) == (True, "daemon"), report
    assert (report["web"]["ok"], report["web"]["by"]) == (True, "daemon"), report
    wrong = report_of(vm)["wrong"]
    assert (wrong["error"], wrong["hint"]) == ("it refuses us", "is the token or the password still right?"), wrong
    assert vm.run("runuser -u daemon -- oomguard notify-test").rc == 3, (
        "the running daemon takes requests from root alone"
    )

    # And for a real kill.
    vm.put("/run/probe/grown.py", HOLD)
    vm.check("systemd-run -q --unit=grown --slice=work.slice /usr/bin/python3 -I -S /run/probe/grown.py")
    assert vm.wait_for("grep -q ': killed' /run/probe/net", 90), journal(vm, UNIT)
    assert vm.wait_for("grep -q ': killed' /run/user/1/shown", 60), journal(vm, UNIT)
    assert vm.wait_for("grep -q ': killed' /run/probe/web", 60), journal(vm, UNIT)
    assert "Token" not in journal(vm, UNIT) + vm.check("oomguard show") + vm.check("oomguard status --json")
    told = json.loads(vm.check("grep ': killed' /run/probe/net"))
    assert told["counts"] == {"killed": 1}
    assert told["events"][0]["policy"] == "grown"
    lacking = {row["what"] for row in status(vm)["degraded"]}
    assert not {what for what in lacking if what.startswith("sink ")}, lacking
    pss = vm.check("sed -n 's/^Pss: *//p' /proc/$(pgrep -x oomguard-herald)/smaps_rollup").split()[0]
    assert int(pss) < 8 << 10, "the bound of a herald, sinks and all"
    rights = vm.check("cat /proc/$(pgrep -x oomguard-deskto)/status")
    assert "CapEff:\t00000000000000c0" in rights
