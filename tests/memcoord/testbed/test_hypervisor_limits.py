"""What a real hypervisor keeps its domains from: each other's names, the table, its last fds."""

import contextlib
import os
import resource
import signal
import socket
import subprocess
from collections.abc import Callable

import pytest
from hypervisor_host import AREA, Host, all_is_back

import frontend
from hypervisor.admission import DOMAINS_PER_PROCESS_MAX
from hypervisor.config import DomainConfig, attach_token
from hypervisor.public.errors import AttachRefused
from memcoord.testbed.runs.control_client import token_of

pytestmark = pytest.mark.process

#: A domain that forks: its child keeps what it inherited, and only sleeps.
FORKING = """
import os, sys, time, frontend
dom = frontend.attach(sys.argv[1], name=sys.argv[2], maxmem_frames=8 * 512)
kept = dom.alloc_many(1000)
child = os.fork()
if child == 0:
    os.closerange(1, 3)
    time.sleep(600)
sys.stderr.write(f"{child}\\n")
sys.stderr.flush()
print("up", flush=True)
time.sleep(600)
"""


def test_a_domain_ends_with_its_process_whatever_its_children_hold(
    start: Callable[..., Host],
) -> None:
    host = start()
    parent = host.run(FORKING, "parent")
    assert parent.stderr is not None
    child = int(parent.stderr.readline())
    try:
        parent.kill()
        parent.wait()
        host.wait(lambda: host.ask("list") == [])
        host.wait(lambda: all_is_back(host.ask("statistics")))  # punched soon after
    finally:
        os.kill(child, signal.SIGKILL)


def test_the_next_hypervisor_follows_in_the_directory_of_a_killed_one(
    start: Callable[..., Host],
) -> None:
    host = start()
    old = token_of(host.run_dir)
    second = Host.command(host.run_dir)
    done = subprocess.run(second, stdin=subprocess.PIPE, capture_output=True, text=True)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert f"process {host.process.pid}" in done.stderr
    assert host.ask("list") == []
    host.process.kill()
    host.process.communicate()
    host.start()
    with frontend.attach(host.run_dir, "vm1", 512) as dom:
        assert [row["name"] for row in host.ask("list")] == ["vm1"]
        dom.free(dom.alloc())
    assert token_of(host.run_dir) != old


def test_one_process_does_not_take_the_table(start: Callable[..., Host]) -> None:
    host = start()
    with contextlib.ExitStack() as stack:
        for number in range(DOMAINS_PER_PROCESS_MAX):
            stack.enter_context(frontend.attach(host.run_dir, f"vm{number}", 512))
        with pytest.raises(AttachRefused, match="process-full"):
            frontend.attach(host.run_dir, "sybil", 512)
        other = host.run(FORKING, "other")
        assert other.stderr is not None
        os.kill(int(other.stderr.readline()), signal.SIGKILL)


def test_a_token_is_for_one_name_and_one_attach(start: Callable[..., Host]) -> None:
    sizes = {"maxmem_frames": AREA, "boot_frames": 0, "target_frames": AREA}
    domains = tuple(DomainConfig(name=name, **sizes) for name in ("vm1", "vm2"))
    host = start(domains=domains, open_attach=False, attach_secret="secret")
    token = attach_token("secret", "vm1")
    for name, given in (("vm1", ""), ("vm2", token), ("vm1", token[:-1]), ("vm1", "\u20ac")):
        with pytest.raises(AttachRefused, match="token"):
            frontend.attach(host.run_dir, name, token=given)
    frontend.attach(host.run_dir, "vm1", token=token).close()
    host.wait(lambda: host.ask("list") == [])
    with pytest.raises(AttachRefused, match="used before"):
        frontend.attach(host.run_dir, "vm1", token=token)


@pytest.mark.parametrize("name", ["attach.sock", "control.ipc", "stats.ipc", "doorbell.ipc"])
def test_few_fds_and_many_silent_peers_leave_everybody_alive(
    start: Callable[..., Host], name: str
) -> None:
    host = start()
    resource.prlimit(host.process.pid, resource.RLIMIT_NOFILE, (64, 64))
    kind = socket.SOCK_SEQPACKET if name == "attach.sock" else socket.SOCK_STREAM
    with frontend.attach(host.run_dir, "vm1", 8 * AREA) as dom, contextlib.ExitStack() as stack:
        for _ in range(80):
            peer = stack.enter_context(socket.socket(socket.AF_UNIX, kind))
            peer.connect(str(host.run_dir / name))
        assert host.ask("ping")["domains"] == 1
        assert dom.request(AREA) >= AREA
        refusal = ""
        for number in range(DOMAINS_PER_PROCESS_MAX):
            try:
                stack.enter_context(frontend.attach(host.run_dir, f"late{number}", AREA))
            except AttachRefused as error:
                refusal = error.code
                break
        assert refusal == "no-fds"
        assert dom.alive
