"""What the page's server keeps of a run and tells its viewers: bounds, the past, finished runs."""

from __future__ import annotations

import asyncio
import hashlib
import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
from published_feed import PublishedFeed
from watched import BUSY, MIB, Run
from web_server import WebServer

import memcoord
from memcoord.testbed.runs import rundir
from memcoord.testbed.watch import ended
from memcoord.testbed.watch.ends import End, Ends, ends_of
from memcoord.testbed.watch.frame import Frame, frame_of
from memcoord.testbed.watch.history import SEEN_MAX, History
from memcoord.testbed.web import application, timeline, viewers
from memcoord.testbed.web.timeline import FIELDS, Timeline
from memcoord.testbed.web.viewers import Stream, Viewer, Viewers


def look_at(run: Run) -> Frame:
    found = frame_of(run.history, run.now_ns, title="r")
    assert found is not None
    return found


def kept(looks: int) -> Timeline:
    """A look a second at a run that ticks ten times a second."""
    made, run = Timeline(), Run(vm1=BUSY)
    for _ in range(looks):
        run.go(10)
        made.add(run.now_ns / 1e9, run.history, look_at(run))
    return made


def times(made: Timeline) -> list[float]:
    found: list[float] = made.history()["times"]
    return found


def test_a_look_is_what_top_shows() -> None:
    run, made = Run(), Timeline()
    run.go()
    told = json.loads(made.add(3.0, run.history, look_at(run)))
    shown = look_at(run).plain()
    assert told.pop("at_s") == 3.0
    assert told == json.loads(json.dumps({k: v for k, v in shown.items() if k != "detail"}))


def test_of_a_live_run_the_oldest_looks_give_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timeline, "LOOKS_MAX", 8)
    assert times(kept(20)) == [float(at) for at in range(13, 21)]


def test_looks_are_bounded_by_their_bytes_too(monkeypatch: pytest.MonkeyPatch) -> None:
    one = kept(1)
    monkeypatch.setattr(timeline, "BYTES_MAX", 4 * len(one.look(1.0) or b""))
    assert 1 < len(times(kept(200))) < 200


def test_one_gets_the_look_of_a_moment() -> None:
    made = kept(5)
    ticks = {at: json.loads(made.look(at) or b"")["tick"] for at in (0.0, 1.0, 2.9, 3.0, 99.0)}
    assert ticks == {0.0: 10, 1.0: 10, 2.9: 20, 3.0: 30, 99.0: 50}
    assert Timeline().look(1.0) is None


def test_a_clock_that_goes_back_begins_anew() -> None:
    run, made = Run(), Timeline()
    run.go()
    for at_s in (5.0, 6.0, 2.0):
        assert made.is_due(at_s, 1)
        made.add(at_s, run.history, look_at(run))
    assert times(made) == [2.0]


def test_many_domains_are_looked_at_more_rarely() -> None:
    made = kept(1)
    assert made.is_due(1.6, timeline.MANY_DOMAINS)
    assert not made.is_due(1.6, timeline.MANY_DOMAINS + 1)
    assert made.is_due(2.0, timeline.MANY_DOMAINS + 1)


def test_curves_know_who_was_not_there() -> None:
    run, made = Run(vm1=BUSY), Timeline()
    for number in range(4):
        if number == 2:
            run.rates = {"vm1": BUSY, "vm2": BUSY}
            run.shown["vm2"] = {"tmem_target_pages": -1}
        run.go(10)
        made.add(float(number), run.history, look_at(run))
    told = made.history()
    assert set(told["domains"]["vm2"]) == {*FIELDS}
    assert told["domains"]["vm1"]["ram_frames"] == [2 * MIB] * 4
    assert told["domains"]["vm2"]["ram_frames"] == [None, None, 2 * MIB, 2 * MIB]
    assert told["domains"]["vm2"]["tmem_target_pages"] == [None, None, -1, -1]


def test_decisions_of_a_minute_are_told_and_each_once() -> None:
    run, made = Run(vm1=BUSY, vm2=BUSY), Timeline()
    for number in range(90):
        run.go(10)
        run.decide("vm1", number, number + 1, rule=f"rule {number}")
        run.decide("vm2", 0, 1, rule="other")
        made.add(1000.0 + number, run.history, look_at(run))
    lines = made.decided("vm1", 1089.0)
    assert "rule 84 x1" in lines[-1]
    assert not any("other" in line for line in lines)
    assert 6 <= len(lines) <= timeline.FOLDS_SHOWN_MAX
    early = made.decided("vm1", 1003.0)
    assert "rule 0 x1" in early[0]
    assert "rule 80" not in " ".join(early)
    assert made.decided("nobody", 1089.0) == []


def test_a_viewer_who_takes_nothing_loses_the_oldest() -> None:
    async def run() -> list[bytes]:
        viewer = Viewer("")
        for number in range(100):
            viewer.put(b"%d" % number)
        return [await viewer.get() for _ in range(viewers.MESSAGES_MAX)]

    assert asyncio.run(run()) == [b"%d" % number for number in range(92, 100)]


def test_a_viewer_is_told_something_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(viewers, "SILENT_S", 0.01)
    assert asyncio.run(Viewer("").get()).startswith(b":"), "a comment, which a browser ignores"


@pytest.mark.parametrize("how", ["takes nothing", "leaves"])
def test_a_browser_that_is_gone_loses_its_place(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(viewers, "SEND_S", 0.01)

    async def send(message: Any) -> None:
        if message["type"] == "http.response.body" and how == "takes nothing":
            await asyncio.Event().wait()

    async def receive() -> dict[str, str]:
        if how == "takes nothing":
            await asyncio.Event().wait()
        return {"type": "http.disconnect"}

    async def run() -> int:
        everybody, viewer = Viewers(), Viewer("")
        viewer.put(b"news")
        await asyncio.wait_for(Stream(everybody, viewer)({"type": "http"}, receive, send), 60)
        return len([*everybody])

    assert asyncio.run(run()) == 0


def test_domains_that_are_gone_are_remembered_within_bounds() -> None:
    run = Run(vm1=BUSY)
    for number in range(2 * SEEN_MAX):
        run.rates = {"vm1": BUSY, f"guest{number}": BUSY}
        run.shown[f"guest{number}"] = {}
        run.go(1)
    gone = run.history.gone()
    assert len(gone) == SEEN_MAX - 2
    assert f"guest{2 * SEEN_MAX - 2}" in gone
    assert "vm1" not in gone


def test_how_a_domain_ended_is_read_as_it_is_written(short_path: Path) -> None:
    run = rundir.create("main", base=short_path)
    ends = Ends(run.path)
    run.event("greedy", "step", number=1, total=2)
    run.event("greedy", "started", process="vm1", pid=1)
    run.event("greedy", "killed", process="vm1", how="killed by SIGKILL")
    with (run.path / "events.jsonl").open("ab") as file:
        file.write(b'{"event": "done", "process": "vm2"')  # is being written
        file.flush()
        assert ends.read() == {"vm1": End("killed", "killed by SIGKILL")}
        file.write(b"}\nno JSON\n")
    assert ends.read()["vm2"].state == "done"
    run.event("fallow", "step", number=2, total=2)
    run.event("fallow", "started", process="vm1", pid=1)
    assert "vm1" not in ends.read()
    run.finish("finished")
    assert [*ends_of(run.path, "greedy", 0)] == ["vm1"]
    assert ends_of(run.path, "greedy", 1) == ends_of(run.path, "fallow", 0) == {}
    assert Ends(short_path / "nowhere").read() == {}


def test_a_run_that_is_over_is_told_again_to_its_end(tmp_path: Path) -> None:
    memcoord.simulate("main", ["greedy", "smart-alloc"], scale=0.1, run_dir=tmp_path / "r")
    parts = ended.parts(tmp_path / "r")
    assert [*parts] == [("greedy", 0), ("smart-alloc", 0)]
    again, end = History(), ended.history_of(tmp_path / "r")
    heard_ns = []
    for message in ended.messages(tmp_path / "r", ("smart-alloc", 0)):
        again.hear(message)
        heard_ns.append(message.monotonic_ns)
    assert heard_ns == sorted(heard_ns)
    assert end is not None
    assert end.last == again.last
    assert again.last is not None
    assert parts["smart-alloc", 0] == again.last.monotonic_ns / 1e9
    shown, expected = (frame_of(one, heard_ns[-1]) for one in (again, end))
    assert shown is not None
    assert expected is not None
    assert shown.lines == expected.lines
    assert [*ended.messages(tmp_path / "r", ("nobody", 0))] == []
    assert ended.parts(tmp_path / "elsewhere") == {}


@pytest.mark.process
def test_a_finished_run_is_served(short_path: Path) -> None:
    place = short_path / "r"
    made = memcoord.simulate("main", ["greedy", "fallow"], scale=0.1, run_dir=place)
    times_s = made.series("fallow")["time_s"]
    with WebServer(place) as server:
        about = server.wait_for("about", lambda value: value["ended"] == "finished")
        assert about["parts"] == ["greedy", "fallow"]
        assert about["has_report"]
        assert any("fallow" in line for line in about["verdict"])
        past = server.get("history?part=1")
        assert past["times"] == sorted(past["times"])
        assert (past["times"][0], past["times"][-1]) == (times_s[0], times_s[-1])
        end = server.get("look?part=1")["look"]
        begin = server.get("look?part=1&at=0&domain=vm2")
        assert end["policy"] == begin["look"]["policy"] == "fallow"
        assert end["tick"] > begin["look"]["tick"]
        assert begin["detail"]["name"] == "vm2"
        assert server.ask(server.path + "look?part=2").status == 404
        assert server.ask(server.path + "history?part=-2").status == 404
        report = server.ask(server.path + "report")
        assert b'class="verdict"' in report.body
        policy = report.headers["Content-Security-Policy"]
        assert "script-src" not in policy
        assert "default-src 'none'" in policy


@pytest.mark.process
def test_a_live_run_is_streamed_and_its_domain_opened(short_path: Path) -> None:
    run = rundir.create("main", base=short_path)
    with PublishedFeed(run.path, is_silent=True) as feed, WebServer(run.path) as server:
        assert server.get("look") is None, "not an error: a run begins with its first tick"
        feed.begin()
        server.wait_for("history", lambda value: len(value["times"]) > 1)
        connection, answer = server.stream("?domain=vm1")
        looks: list[Any] = []
        while len(looks) < 3:
            line = answer.readline()
            assert line, "the stream has ended"
            if line.startswith(b'data: {"look"'):
                looks.append(json.loads(line.removeprefix(b"data: ")))
        answer.close()
        connection.close()
        assert [one["look"]["tick"] for one in looks] == sorted(
            one["look"]["tick"] for one in looks
        )
        states = {line["name"]: line["state"] for line in looks[-1]["look"]["lines"]}
        assert states == {"vm1": "ok", "vm2": "STARVED"}
        assert looks[-1]["detail"]["mechanism"] == "direct"
        assert "grow" in looks[-1]["detail"]["decided"][-1]
        assert server.get("about")["parts"] == []
        assert server.ask(server.path + "report").status == 404
    run.finish("finished")


def test_what_is_not_ours_is_as_it_was_published() -> None:
    vendored = tomllib.loads((application.ASSETS / "vendored.toml").read_text(encoding="utf-8"))
    for name, wanted in vendored["uPlot"]["sha256"].items():
        assert hashlib.sha256((application.ASSETS / name).read_bytes()).hexdigest() == wanted
    script = (application.ASSETS / "uPlot.iife.min.js").read_text(encoding="utf-8")
    assert f"(v{vendored['uPlot']['version']})" in script[:100]
    assert "MIT License" in (application.ASSETS / "uPlot.LICENSE").read_text(encoding="utf-8")


def test_every_asset_is_served_or_explains_one() -> None:
    served = {name for name, _ in application.FILES.values()}
    explains = {"vendored.toml", "uPlot.LICENSE"}
    assert {path.name for path in application.ASSETS.iterdir()} == served | explains
