"""A domain that tries everything against its neighbour, its hypervisor and its operator.

Run by ``test_isolation`` as the launcher runs domains: attaches by its token, makes every attempt
once and prints a JSON object, attempt -> "no: ..." or "YES: ...".
"""

import contextlib
import ctypes
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import zmq

import frontend
from hypervisor.public import messages
from hypervisor.public.errors import MemcoordError
from memcoord.testbed.runs.control_client import call
from memcoord.testbed.runs.launcher import end_with_parent

SECRET = b"the secret bytes"
PTRACE_SEIZE, PIDFD_GETFD = 0x4206, 438
CROWD, FORKS = 400, 1000
#: Values nested beyond any decoder's depth, text that is no UTF-8, no message at all.
NONSENSE = (
    b"\x82\xa4type\xa8TakeOver\xa1x" + b"\x91" * 60_000,
    b"\x82\xa4type\xa8TakeOver\xa5token\xa1\xff",
    b"\x91" * 60_000,
    b"\xc1",
)
CLONE_NEWUSER, CLONE_NEWPID = 0x10000000, 0x20000000
LIBC = ctypes.CDLL(None, use_errno=True)


class No(Exception):
    """The attempt came to nothing."""


def checked(result: int) -> int:
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def through_proc(pid: int, frame: int) -> str:
    for fd in os.listdir(f"/proc/{pid}/fd"):
        handle = os.open(f"/proc/{pid}/fd/{fd}", os.O_RDWR)
        if os.pread(handle, len(SECRET), frame * 4096) == SECRET:
            os.pwrite(handle, SECRET.upper(), frame * 4096)
            return "read and overwrote the frame"
    raise No("its ram is not there")


def through_vm(pid: int, address: int) -> str:
    out = ctypes.create_string_buffer(16)
    mine = (ctypes.c_void_p * 2)(ctypes.addressof(out), 16)
    its = (ctypes.c_void_p * 2)(address, 16)
    checked(LIBC.process_vm_readv(pid, mine, 1, its, 1, 0))
    return f"read {out.raw!r}"


def trace(pid: int) -> str:
    LIBC.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
    checked(LIBC.ptrace(PTRACE_SEIZE, pid, None, None))
    return "traced"


def take_fd(pid: int) -> str:
    pidfd = os.pidfd_open(pid)
    for fd in range(3, 60):
        got = LIBC.syscall(PIDFD_GETFD, pidfd, fd, 0)
        if got >= 0:
            return f"took fd {fd}"
    raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def bells_of_victim(run: Path) -> str:
    with zmq.Context() as context, context.socket(zmq.DEALER) as thief:
        thief.linger, thief.routing_id = 0, b"victim"
        thief.connect(f"ipc://{run / messages.DOORBELL_SOCKET}")
        thief.send(b"")
        if thief.poll(3000):
            return "its bell came here"
    raise No("no bell came")


def statistics(run: Path) -> str:
    with zmq.Context() as context, context.socket(zmq.SUB) as reader:
        reader.linger = 0
        reader.subscribe(b"")
        reader.connect(f"ipc://{run / messages.STATS_SOCKET}")
        if reader.poll(2000):
            return "read the statistics of all domains"
    raise No("nothing was published to it")


def crowd(run: Path) -> str:
    """Connect and say nothing, then attach honestly: that the crowd does not keep it out."""
    peers = []
    for _ in range(CROWD):
        peers.append(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET))
        peers[-1].connect(str(run / messages.ATTACH_SOCKET))
    try:
        frontend.attach(run, "stranger", 512)
    except MemcoordError as error:
        if "unknown-domain" not in str(error):
            return f"an honest attach is not heard: {error}"
    finally:
        for peer in peers:
            peer.close()
    raise No("who asks is heard at once")


def nonsense(run: Path, name: str) -> str:
    """What no decoder may stumble over, to a socket that takes whole messages."""
    before = call(run, "ping")["pid"]
    for said in NONSENSE:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as line:
            line.connect(str(run / name))
            line.send(said)
            line.settimeout(5)
            with contextlib.suppress(OSError):
                line.recv(1)  # refused, or let go of
    try:
        after = call(run, "ping")["pid"]
    except MemcoordError as error:
        return f"nobody serves any more: {error}"
    if after == before:
        raise No("the same hypervisor serves")
    return "another hypervisor serves"


def end_init() -> str:
    for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGINT):
        os.kill(1, number)
    time.sleep(0.2)  # its end would be ours
    raise No("it lives on")


def fork_without_end() -> str:
    children: list[int] = []
    try:
        while len(children) < FORKS:
            child = os.fork()
            if child == 0:
                signal.pause()
            children.append(child)
    finally:
        for child in children:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
    return f"{FORKS} processes at once"


def run_its_memory() -> str:
    """Put a program into memory that is shared with the hypervisor, and run it."""
    for entry in os.listdir("/proc/self/fd"):
        if "memfd" in os.readlink(f"/proc/self/fd/{entry}"):
            os.pwrite(int(entry), Path("/bin/true").read_bytes(), 0)
            os.execve(int(entry), ["true"], {})
    raise No("it holds no file of it")


def own_walls(groups: Path) -> dict[str, Callable[[], object]]:
    return {
        "end the init of its namespace": end_init,
        "trace the init of its namespace": lambda: trace(1),
        "make a user namespace": lambda: checked(LIBC.unshare(CLONE_NEWUSER)),
        "make a PID namespace": lambda: checked(LIBC.unshare(CLONE_NEWPID)),
        "leave its control group": lambda: (groups / "cgroup.procs").write_text("0"),
        "kill its neighbour's": lambda: (groups / "victim/cgroup.kill").write_text("1"),
        "raise the limits of its own": lambda: (groups / "attacker/memory.max").write_text("max"),
        "fork without end": fork_without_end,
        "run a program from shared memory": run_its_memory,
    }


def attempts(told: dict[str, Any]) -> dict[str, Callable[[], object]]:
    run, frame = Path(told["run_dir"]), told["frame"]
    victim, hypervisor = told["victim"], told["hypervisor"]
    folder = Path(told["victim_folder"])
    control: dict[str, dict[str, Any]] = {
        op: {name: kind() for name, kind in args.items()} for op, args in messages.OPS.items()
    }
    named = {
        op: args | ({"domain": "victim"} if "domain" in args else {})
        for op, args in control.items()
    }
    return {
        "ram through /proc/VICTIM/fd": lambda: through_proc(victim, frame),
        "ram through /proc/HYPERVISOR/fd": lambda: through_proc(hypervisor, frame),
        "maps of the victim": lambda: Path(f"/proc/{victim}/maps").read_text(),
        "mem of the hypervisor": lambda: os.open(f"/proc/{hypervisor}/mem", os.O_RDWR),
        "process_vm_readv of the victim": lambda: through_vm(victim, told["address"]),
        "ptrace the victim": lambda: trace(victim),
        "ptrace the hypervisor": lambda: trace(hypervisor),
        "ptrace the launcher": lambda: trace(told["launcher"]),
        "pidfd_getfd from the victim": lambda: take_fd(victim),
        "pidfd_getfd from the hypervisor": lambda: take_fd(hypervisor),
        "signal the victim": lambda: os.kill(victim, 0),
        "signal the hypervisor": lambda: os.kill(hypervisor, 0),
        "signal the launcher": lambda: os.kill(told["launcher"], 0),
        "signal everybody": lambda: os.kill(-1, 0),
        "read the token": lambda: (run / messages.TOKEN_FILE).read_text(),
        "read the configuration": lambda: (run / "hypervisor.json").read_text(),
        "list the run directory": lambda: os.listdir(run),
        "write into the run directory": lambda: (run / "events.jsonl").open("a"),
        "remove a socket": lambda: (run / messages.CONTROL_SOCKET).unlink(),
        "read the victim's folder": lambda: os.listdir(folder),
        "write into the victim's folder": lambda: (folder / "swap").write_bytes(b"x"),
        "read the user's files": lambda: os.listdir(Path.home()),
        **{
            f"control: {op}": (lambda op=op: call(run, op, **named[op]))
            for op in named
            if op != "ping"
        },
        "statistics of all": lambda: statistics(run),
        "doorbells of the victim": lambda: bells_of_victim(run),
        "attach as another": lambda: frontend.attach(run, "absent", token=told["token"]),
        "attach without the token": lambda: frontend.attach(run, "absent"),
        "attach again with its own token": lambda: frontend.attach(
            run, "attacker", token=told["token"]
        ),
        "attach under a name of its own": lambda: frontend.attach(run, "sybil", 512),
        **{
            f"nonsense to {name}": (lambda name=name: nonsense(run, name))
            for name in (messages.KEEPER_SOCKET, messages.ATTACH_SOCKET)
        },
        "keep others from attaching": lambda: crowd(run),
        **own_walls(Path(told["groups"])),
    }


def main(argv: list[str]) -> None:
    """Entry point of the process."""
    end_with_parent()
    told = json.loads(Path(argv[1]).read_text())
    with frontend.attach(told["run_dir"], "attacker", token=told["token"]) as domain:
        (Path(told["folder"]) / "own").write_bytes(b"x")  # its own folder is its own
        said = {"uses its memory": f"no: {domain.alloc()}"}
        for name, attempt in attempts(told).items():
            try:
                said[name] = f"YES: {str(attempt())[:80]}"
            except (OSError, MemcoordError, No) as error:
                said[name] = f"no: {type(error).__name__} {error}"
        sys.stdout.write(json.dumps(said) + "\n")
        sys.stdout.flush()
        time.sleep(told.get("linger_s", 0))


if __name__ == "__main__":
    main(sys.argv)
