"""Goal: domains of every mechanism go on while their hypervisor is killed again and again.

Method: a real keeper, hypervisor and domains, which check all they were promised; what the operator
and the policy set is compared before and after.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lasting_guest
import pytest
import zmq
from hypervisor_host import AREA, WAIT_S, Host, all_is_back

import frontend
from frontend import handshake
from frontend.domain import Domain, Handles
from hypervisor.config import DomainConfig, HypervisorConfig
from hypervisor.keeping.channel import Begin, pair
from hypervisor.keeping.held import Held
from hypervisor.public import messages
from hypervisor.public.errors import ConfigError, InternalError, MemcoordError, PeerGone
from hypervisor.public.messages import Attached
from hypervisor.run_dir import LOCK_FILE, is_locked
from memcoord.benchmarks.hostile.held_file import Holder, NotHere
from memcoord.testbed.live.hypervisor_main import EXIT_CRASHED, _sudden_death
from memcoord.testbed.live.statistics_reader import StatisticsReader

pytestmark = pytest.mark.process
KILLS = 6
MECHANISMS = ("direct", "balloon", "virtio-mem", "sections", "cmm", "hyperalloc")
#: Its target of tmem tells how many plans it has made, by what it carries.
POLICY = """
from policies import Plan
class Counting:
    name = "counting"
    def plan(self, view):
        carry = view.carried(1) + 1
        return Plan(tmem=2000 + carry[:, 0], carry=carry)
"""


class KeptHost(Host):
    """A hypervisor with a keeper, which is ``process``."""

    @staticmethod
    def command(run_dir: Path) -> list[str]:
        module = "memcoord.testbed.live.keeper_main"
        return [sys.executable, "-P", "-m", module, str(run_dir), "0"]

    @property
    def pid(self) -> int:
        return int(self.ask("ping")["pid"])

    def kill(self) -> None:
        """Kill the hypervisor, and wait until the next one answers."""
        old = self.pid
        os.kill(old, signal.SIGKILL)
        self.wait(lambda: self._pid() not in (0, old))

    def _pid(self) -> int:
        try:
            return self.pid
        except MemcoordError:  # this question died with it
            return 0

    def wait_for_lock(self) -> None:
        """Until neither hypervisor nor standby is left of a killed keeper."""
        until = time.monotonic() + WAIT_S
        while is_locked(self.run_dir / LOCK_FILE):
            assert time.monotonic() < until
            time.sleep(0.02)

    def lasting(self, name: str, doorbell: str, seed: int) -> subprocess.Popen[str]:
        pipe = subprocess.PIPE
        arguments = [str(self.run_dir), name, doorbell, str(seed)]
        command = [sys.executable, "-P", lasting_guest.__file__, *arguments]
        child = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True)
        self.children.append(child)
        return child

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()
        super().close()


@pytest.fixture
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., KeptHost]]:
    hosts: list[KeptHost] = []

    def make(**config: Any) -> KeptHost:
        settings = {"total_frames": 96 * AREA, "open_attach": True, "interval_ms": 50, **config}
        hosts.append(KeptHost(tmp_path_factory.mktemp("kept"), HypervisorConfig(**settings)))
        return hosts[-1]

    yield make
    for host in hosts:
        host.close()


def domain(name: str, **settings: Any) -> DomainConfig:
    sizes = {"maxmem_frames": 8 * AREA, "boot_frames": 4 * AREA, "target_frames": 6 * AREA}
    return DomainConfig(name=name, **{**sizes, **settings})


def columns(host: KeptHost, *names: str) -> dict[str, tuple[Any, ...]]:
    """Some columns of each domain's statistics."""
    rows = host.ask("statistics")["domains"]
    return {row["name"]: tuple(row[name] for name in names) for row in rows}


def test_domains_of_every_mechanism_outlive_their_hypervisors(
    start: Callable[..., KeptHost],
) -> None:
    names = {f"vm_{how.replace('-', '_')}": how for how in MECHANISMS}
    host = start(domains=tuple(domain(name, mechanism=how) for name, how in names.items()))
    guests = {
        name: host.lasting(name, "zmq" if how == "balloon" else "futex", seed)
        for seed, (name, how) in enumerate(names.items())
    }
    for child in guests.values():
        assert child.stdout is not None
        assert child.stdout.readline() == "up\n", child.communicate()[1]
    chance = random.Random(4)
    before = {row["name"]: row["domid"] for row in host.ask("list")}
    for _ in range(KILLS):
        time.sleep(chance.uniform(0.05, 0.8))
        host.kill()
        for name in names:  # moves memory while the next kill comes
            target = chance.randrange(4, 9) * AREA
            host.ask("mem-set", domain=name, target_frames=target)
    assert {row["name"]: row["domid"] for row in host.ask("list")} == before
    assert len(host.events("restarted")) == KILLS
    for name, child in guests.items():
        out, error = child.communicate("", timeout=WAIT_S)
        assert child.returncode == 0, (name, error)
        told = json.loads(out)
        assert told["puts"] > 100, (name, told)
        assert (told["lost"], told["wrong"], told["broken_frames"]) == (0, 0, 0), (name, told)
    host.wait(lambda: not host.ask("list"))
    host.wait(lambda: all_is_back(host.ask("statistics")))


def test_what_operator_and_policy_set_is_as_it_was(
    start: Callable[..., KeptHost], tmp_path: Path
) -> None:
    policy = tmp_path / "counting.py"
    policy.write_text(POLICY, encoding="utf-8")
    names = ("vm1", "vm2")
    host = start(policy=f"{policy}:Counting", domains=tuple(map(domain, names)))
    with (
        frontend.attach(host.run_dir, "vm1", timeout_s=60.0) as one,
        frontend.attach(host.run_dir, "vm2", timeout_s=60.0) as two,
    ):
        host.ask("mem-set", domain="vm1", target_frames=5 * AREA)
        host.ask("tmem-set", domain="vm1", target_pages=1234)
        host.ask("tmem-weight", domain="vm2", weight=77)
        host.ask("tmem-quota", domain="vm2", pages=55)
        host.ask("tmem-freeze", domain="vm1")
        host.wait(lambda: columns(host, "tmem_target_pages")["vm2"][0] > 2010)

        def settings() -> tuple[Any, ...]:
            clients = host.ask("tmem-list", domain="")["clients"]
            kept = ("name", "weight", "quota_pages", "is_frozen")
            return columns(host, "target_frames")["vm1"], [
                tuple(client.get(key) for key in kept) for client in clients
            ]

        def plans() -> int:
            return int(columns(host, "tmem_target_pages")["vm2"][0])

        before, ticks = settings(), host.ask("ping")["ticks"]
        carried = plans()
        token = (host.run_dir / "control.token").read_text()
        for _ in range(3):
            host.kill()
            assert settings() == before
            assert host.ask("ping")["ticks"] >= ticks
            assert plans() >= carried
            host.wait(lambda least=carried: plans() > least)  # type: ignore[misc]
            carried = plans()
            assert columns(host, "tmem_target_pages")["vm1"] == (1234,)
        assert (host.run_dir / "control.token").read_text() == token
        told = {name: [one["rule"] for one in host.ask("why", domain=name)] for name in names}
        assert told["vm1"].count("set by the operator") == 2
        assert "tmem-freeze by the operator" in told["vm1"]
        assert "tmem-weight by the operator; weight 77" in told["vm2"]
        assert "tmem-quota by the operator; pages 55" in told["vm2"]
        assert not host.events("policy-fault")
        pool = two.tmem.new_pool(persistent=True)
        frame = two.alloc()
        stored = [two.tmem.put(pool, (1, 2, 3), index, frame) for index in range(60)]
        assert stored == [1] * 55 + [stored[-1]] * 5
        assert stored[-1] != 1
        one.free(one.alloc())


def test_a_domain_that_dies_with_its_hypervisor_is_closed_by_the_next(
    start: Callable[..., KeptHost],
) -> None:
    host = start()
    child = host.busy("vm1")
    with frontend.attach(host.run_dir, "vm2", 4 * AREA, timeout_s=60.0) as dom:
        frame = dom.alloc()
        dom.view(frame)[:] = b"\xa5" * 4096
        pid = host.pid
        os.kill(pid, signal.SIGSTOP)
        child.kill()
        child.wait()
        os.kill(pid, signal.SIGKILL)
        host.wait(lambda: host._pid() not in (0, pid))
        host.wait(lambda: [row["name"] for row in host.ask("list")] == ["vm2"])
        assert bytes(dom.view(frame)[:]) == b"\xa5" * 4096
        assert host.ask("statistics")["host"]["tmem_used_pages"] == 0
        with frontend.attach(host.run_dir, "vm1", 4 * AREA, timeout_s=60.0) as again:
            again.free(again.alloc())


def test_attaching_while_the_hypervisor_is_killed_takes_longer_and_nothing_else(
    start: Callable[..., KeptHost],
) -> None:
    host, attached, failed, is_over = start(), 0, [], threading.Event()

    def attach() -> None:
        nonlocal attached
        try:
            while not is_over.is_set():
                name = f"vm{attached}"
                with frontend.attach(host.run_dir, name, 4 * AREA, timeout_s=60.0) as dom:
                    dom.free(dom.alloc())
                attached += 1
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=attach)
    thread.start()
    try:
        chance = random.Random(9)
        for _ in range(2 * KILLS):
            time.sleep(chance.uniform(0.0, 0.1))
            host.kill()
    finally:
        is_over.set()
        thread.join(WAIT_S)
    assert failed == []
    assert attached > 0
    host.wait(lambda: all_is_back(host.ask("statistics")))


def test_domains_see_the_end_of_a_keeper(start: Callable[..., KeptHost]) -> None:
    host = start()
    dom = frontend.attach(host.run_dir, "vm1", 4 * AREA, timeout_s=60.0)
    host.process.kill()
    host.process.wait()
    host.wait_for_lock()
    with pytest.raises(PeerGone):
        dom.request(2 * AREA)
    dom.close()


def test_a_thread_that_the_kernel_does_not_let_go_of_holds_up_no_restart(
    start: Callable[..., KeptHost], files: list[int]
) -> None:
    host = start()
    with contextlib.ExitStack() as stack:
        attacker = stack.enter_context(
            frontend.attach(host.run_dir, "attacker", 4 * AREA, timeout_s=60.0)
        )
        neighbour = stack.enter_context(
            frontend.attach(host.run_dir, "neighbour", 4 * AREA, timeout_s=60.0)
        )
        pool, frame = neighbour.tmem.new_pool(persistent=True), neighbour.alloc()
        attacker.free_many(attacker.alloc_many(3 * AREA))
        try:
            stack.enter_context(Holder("uffd", files[0]))
        except NotHere as why:
            pytest.skip(str(why))
        attacker.release(2 * AREA)  # a thread of the hypervisor punches, and waits for ever
        pid = host.pid
        host.wait(lambda: is_waiting(pid))
        host.kill()
        assert neighbour.tmem.put(pool, (1, 2, 3), 1, frame) == 1


def test_a_call_under_way_is_answered_by_the_next_hypervisor(
    start: Callable[..., KeptHost],
) -> None:
    host, told = start(), list[Any]()
    with frontend.attach(host.run_dir, "vm1", 4 * AREA, timeout_s=60.0):
        pid = host.pid
        os.kill(pid, signal.SIGSTOP)
        asking = threading.Thread(
            target=lambda: told.append(host.ask("tmem-weight", domain="vm1", weight=77))
        )
        asking.start()
        time.sleep(0.3)  # its request lies in the socket of the stopped one
        os.kill(pid, signal.SIGKILL)
        asking.join(WAIT_S)
        assert told == [None]
        (client,) = host.ask("tmem-list", domain="vm1")["clients"]
        assert client["weight"] == 77


def test_a_call_that_was_carried_out_is_not_carried_out_by_the_next_hypervisor(
    start: Callable[..., KeptHost],
) -> None:
    """A domain is detached once, whoever has come under its name meanwhile."""
    host = start()
    token = (host.run_dir / "control.token").read_text()
    call = messages.encode(
        messages.Request(messages.VERSION, 7, "detach", {"domain": "vm1"}, token)
    )
    one = frontend.attach(host.run_dir, "vm1", 4 * AREA, timeout_s=60.0)
    with zmq.Context() as context, context.socket(zmq.DEALER) as client:
        client.linger, client.rcvtimeo = 0, 60_000
        client.connect(f"ipc://{host.run_dir / messages.CONTROL_SOCKET}")

        def ask() -> Any:
            client.send(call)
            return messages.decode(client.recv())

        first = ask()
        assert first.error == ""
        assert host.ask("why", domain="vm1")[-1]["rule"] == "detached by the operator"
        one.close()
        with frontend.attach(host.run_dir, "vm1", 4 * AREA, timeout_s=60.0):
            host.kill()
            assert ask() == first
            assert [row["name"] for row in host.ask("list")] == ["vm1"]


def test_every_tick_is_published_once_over_restarts(start: Callable[..., KeptHost]) -> None:
    host, ticks = start(), list[int]()
    with StatisticsReader(host.run_dir) as reader:
        reader.subscribe()
        for _ in range(3):
            seen = len(ticks) + 5
            host.wait(lambda: read_ticks(reader, ticks) >= seen)  # noqa: B023
            host.kill()
        last = host.ask("ping")["ticks"] + 3
        host.wait(lambda: read_ticks(reader, ticks) > 0 and ticks[-1] >= last)
    assert ticks == list(range(ticks[0], ticks[-1] + 1))
    assert reader.ticks == len(ticks)


def read_ticks(reader: StatisticsReader, ticks: list[int]) -> int:
    """Append the ticks that were published meanwhile; how many there are by now."""
    ticks += [publication.tick for publication in reader.read(20)]
    return len(ticks)


@pytest.mark.parametrize(
    ("restarts", "error", "is_last"),
    [(0, InternalError("no memory"), True), (3, InternalError("no memory"), False),
     (3, ConfigError("books", "of another make"), True), (3, OSError("no memory"), False)],
)  # fmt: skip
def test_a_kernel_that_refuses_at_a_restart_is_asked_again(
    restarts: int, error: Exception, is_last: bool
) -> None:
    """The next hypervisor may get what this one did not; domains and their memory wait."""
    near, far = pair()
    pid = os.fork()
    if not pid:
        near.send(Begin(restarts))
        with _sudden_death(Held(far)):
            raise error
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    far.close()
    told = list[str]()
    while (heard := near.receive(WAIT_S)) is not None:
        told.append(type(heard[0]).__name__)
        for fd in heard[1]:
            os.close(fd)
    near.close()
    assert ("Failed" in told, code == EXIT_CRASHED) == (is_last, not is_last)


@pytest.fixture
def files(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """A duplicate of the file of each domain that this process becomes."""
    found: list[int] = []

    def keep_file(answer: Attached, handles: Handles, *rest: Any) -> Domain:
        found.append(os.dup(handles.ram))
        return Domain(answer, handles, *rest)

    monkeypatch.setattr(handshake, "Domain", keep_file)
    yield found
    for fd in found:
        os.close(fd)


@pytest.mark.parametrize("is_gone", [True, False])
def test_the_file_of_a_closed_domain_is_watched_by_the_next_hypervisor(
    start: Callable[..., KeptHost], files: list[int], is_gone: bool
) -> None:
    """Also when the domain was on its way out: then the next one takes it down under its name."""
    host = start()
    frontend.attach(host.run_dir, "vm1", 4 * AREA, timeout_s=60.0).close()
    if is_gone:
        host.wait(lambda: all_is_back(host.ask("statistics")))
    host.kill()
    host.kill()
    host.wait(lambda: all_is_back(host.ask("statistics")))
    os.pwrite(files[0], b"\xa5", 4096)
    host.wait(lambda: bool(host.events("violation")))
    told = host.events("violation")[0]
    assert (told["name"], told["gone"]) == ("vm1", True)
    host.wait(lambda: os.pread(files[0], 1, 4096) == b"\0")


def is_waiting(pid: int) -> bool:
    """Whether a thread of the process waits in the kernel and cannot be killed."""
    stats = Path(f"/proc/{pid}/task").glob("*/stat")
    return any(stat.read_text().rpartition(")")[2].split()[0] == "D" for stat in stats)
