"""Goal: a target that is not reached is told with its reason wherever an operator looks."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypervisor_host import AREA, Host

import frontend
from hypervisor.public.backend import REASONS, STANDING, TMEM_KEPT, not_reached
from memcoord.__main__ import main
from memcoord.commands.runs import run_lines

pytestmark = pytest.mark.process


@pytest.fixture
def memcoord(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., list[str]]:
    def run(*arguments: str) -> list[str]:
        monkeypatch.setattr(sys, "argv", ["memcoord", *arguments])
        with pytest.raises(SystemExit) as caught:
            main()
        out, err = capsys.readouterr()
        assert (caught.value.code or 0, err) == (0, "")
        return out.splitlines()

    return run


def ls_of(host: Host) -> str:
    rows = [{name: row[name] for name in ("name", *STANDING)} for row in domains_of(host)]
    run = {"run": "r", "state": "live", "started": "", "problem": "", "restarts": 0}
    run |= {"domains": rows}
    return " ".join(" ".join(run_lines([run])).split())  # as it is read, whatever the width


def domains_of(host: Host) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = host.ask("statistics")["domains"]
    return rows


def test_a_target_below_what_a_guest_uses(
    start: Callable[..., Host], memcoord: Callable[..., list[str]]
) -> None:
    host = start()
    place = ("--run-dir", str(host.run_dir))
    with frontend.attach(host.run_dir, name="vm1", maxmem_frames=8 * AREA) as dom:
        frames = dom.alloc_many(5 * AREA)
        pool = dom.tmem.new_pool(persistent=True)
        assert dom.tmem.put(pool, (1, 2, 3), 0, frames[0]) == 1
        answer = host.ask("mem-set", domain="vm1", target_frames=AREA)
        assert (answer["reach"], answer["reach_why"], answer["target_frames"]) == (
            "partial",
            "in use",
            AREA,
        )
        reason = REASONS["in use"]
        set_, told = memcoord("mem-set", "vm1", str(AREA), *place)
        assert set_ == f"vm1: memory target {AREA} frames"
        assert f"memory target {AREA} not reached, at " in told
        assert reason in told
        assert reason in memcoord("why", "vm1", *place)[-1]
        assert reason in ls_of(host)
        (line,) = memcoord("mem-set", "vm1", str(AREA), "--json", *place)
        assert json.loads(line)["reach_why"] == "in use"
        (_, told) = memcoord("tmem-set", "vm1", "0", *place)
        assert TMEM_KEPT in told
        assert TMEM_KEPT in ls_of(host)
        dom.free_many(frames)
        dom.tmem.destroy_pool(pool)
        host.wait(lambda: not not_reached(domains_of(host)[0]))
        assert len(memcoord("mem-set", "vm1", str(AREA), *place)) == 1
        assert "not reached" not in memcoord("why", "vm1", *place)[-1]
        assert "not reached" not in ls_of(host)


@pytest.mark.parametrize("why", REASONS)
def test_every_reason_is_said_in_words(why: str) -> None:
    told = not_reached(
        {"reach": "partial", "reach_why": why, "target_frames": 3, "current_frames": 9}
    )
    assert told == f"memory target 3 not reached, at 9: {REASONS[why]}"


def test_every_reason_of_the_host_has_words(checkout: Path) -> None:
    from backend._service import ffi

    words = ffi.typeof("enum mc_why").elements.values()
    known = {word.removeprefix("MC_WHY_").lower().replace("_", " ") for word in words}
    assert {why or "none" for why in REASONS} == known - {"s"} - {"mc whys"}
