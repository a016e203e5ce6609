#!/usr/bin/python3
"""Runs commands for the host: one JSON line in, one JSON line out, over a virtio-serial port.

It must outlive every storm, or the host would be blind: its memory is locked, its oom_score_adj is -1000, it
runs under SCHED_FIFO at the lowest priority, and its slice has memory.min. What it starts is an ordinary process.

Requests: {op: ping, realtime} | {op: run, cmd, timeout, detach} | {op: put, path, data, offset, mode}
        | {op: get, path, offset, size}
"""

import base64
import contextlib
import ctypes
import gc
import json
import os
import signal
import subprocess
import time

PORT = "org.oomguard.probe"
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
detached = []


def lock():
    ctypes.CDLL(None, use_errno=True).mlockall(3)  # MCL_CURRENT | MCL_FUTURE
    write("/proc/self/oom_score_adj", "-1000")
    os.sched_setscheduler(0, os.SCHED_FIFO | os.SCHED_RESET_ON_FORK, os.sched_param(1))


def write(path, text):
    with contextlib.suppress(OSError), open(path, "w") as file:
        file.write(text)


def popen(cmd, **streams):
    return subprocess.Popen(
        cmd,
        shell=isinstance(cmd, str),
        env={"PATH": PATH, "LC_ALL": "C.UTF-8", "HOME": "/root"},
        stdin=subprocess.DEVNULL,
        start_new_session=True,
        # A child is an ordinary process: it may be killed.
        preexec_fn=lambda: write("/proc/self/oom_score_adj", "0"),  # noqa: PLW1509 (we have no threads)
        **streams,
    )


def run(req):
    if req.get("detach"):
        detached.append(popen(req["cmd"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
        return {"rc": 0, "pid": detached[-1].pid}
    child = popen(req["cmd"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        out, err = child.communicate(timeout=req.get("timeout", 60))
        rc = child.returncode
    except subprocess.TimeoutExpired:
        out, err = end(child)
        rc = "timeout"
    return {"rc": rc, "out": out.decode("utf-8", "replace"), "err": err.decode("utf-8", "replace")}


def end(child):
    with contextlib.suppress(OSError):
        os.killpg(child.pid, signal.SIGKILL)
    try:
        return child.communicate(timeout=5)
    except subprocess.TimeoutExpired:  # somebody else holds the pipe
        return b"", b""


def ping(req):
    # A restored machine believes that it is still the hour at which it was saved.
    if req.get("realtime"):
        time.clock_settime(time.CLOCK_REALTIME, req["realtime"])
    for child in detached[:]:
        if child.poll() is not None:
            detached.remove(child)
    return {"rc": 0, "monotonic": time.monotonic()}


def put(req):
    """Files come in pieces: all of this process's memory is locked, so it should stay small."""
    os.makedirs(os.path.dirname(req["path"]) or "/", exist_ok=True)
    with open(req["path"], "r+b" if req.get("offset") else "wb") as file:
        file.seek(req.get("offset", 0))
        file.write(base64.b64decode(req["data"]))
    os.chmod(req["path"], req.get("mode", 0o644))
    return {"rc": 0}


def get(req):
    with open(req["path"], "rb") as file:
        file.seek(req.get("offset", 0))
        return {"rc": 0, "data": base64.b64encode(file.read(req["size"])).decode()}


OPS = {"ping": ping, "run": run, "put": put, "get": get}


def answer(line):
    reply = {}
    try:
        req = json.loads(line)
        reply["id"] = req.get("id")
        reply.update(OPS[req["op"]](req))
    except Exception as error:  # noqa: BLE001 (the host waits: an answer in any case)
        reply.update(rc=-1, err=repr(error))
    return reply


def find_port():
    """The device of our port, found without udev, which may not be up yet."""
    base = "/sys/class/virtio-ports"
    while True:
        try:
            for device in os.listdir(base):
                with open(f"{base}/{device}/name") as file:
                    if file.read().strip() == PORT and os.path.exists("/dev/" + device):
                        return "/dev/" + device
        except OSError:
            pass
        time.sleep(0.1)


def send(fd, reply):
    data = json.dumps(reply).encode() + b"\n"
    while data:
        try:
            data = data[os.write(fd, data[:32768]) :]
        except OSError:  # the host's side is not connected
            return


def receive(fd):
    """What came, or nothing while the host's side is not connected."""
    try:
        data = os.read(fd, 1 << 16)
    except OSError:
        data = b""
    if not data:
        time.sleep(0.05)
    return data


def main():
    fd = os.open(find_port(), os.O_RDWR)
    gc.disable()
    lock()
    send(fd, {"hello": True})
    buffer = b""
    while True:
        *lines, buffer = (buffer + receive(fd)).split(b"\n")
        for line in lines:
            if line.strip():
                send(fd, answer(line))


if __name__ == "__main__":
    main()
