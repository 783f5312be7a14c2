"""``bench mechanisms``, run once against real processes: its shape, never its times."""

from __future__ import annotations

import os
from array import array
from pathlib import Path
from typing import Any

import pytest
from bench_results import assert_left_clean, result_of

from hypervisor.public.errors import ConfigError, MemcoordError
from memcoord.benchmarks import tables
from memcoord.benchmarks.harness import Sheet, Target, verdict
from memcoord.benchmarks.mechanisms import bench as mechanisms
from memcoord.benchmarks.mechanisms import rows as mechanism_rows
from memcoord.benchmarks.mechanisms import transfer as mechanism_transfer
from memcoord.benchmarks.mechanisms import views as mechanism_views
from memcoord.benchmarks.mechanisms.huge_mount import HugeMount
from memcoord.benchmarks.mechanisms.stage import Variant
from memcoord.commands.bench import write_page

pytestmark = [pytest.mark.timeout(180), pytest.mark.process]

ROWS = (
    "grow", "shrink untouched", "grow and touch", "shrink touched", "first frame", "transfer",
    "cpu shrink touched", "cpu grow and touch", "donor stream resizing",
    "donor churn undisturbed", "bystander stream undisturbed", "bystander churn resizing",
)  # fmt: skip
WANTED = {
    "direct/balloon shrink touched": (3, 50),
    "direct/virtio-mem shrink touched": (1.0, 2),
    "direct/balloon 2 MiB shrink touched": (1.0, 1.0),
    "direct/hyperalloc shrink touched": (1.0, 1.0),
    "direct transfer p50/malloc_fresh_2m": (1.5, 1.5),
    "direct transfer p999/p50": (10, 10),
    "bystander resizing/undisturbed": (0.9, 0.85),
    "cmm dom0/cmm hypervisor transfer p99 4 neighbours": (2, 2),
}


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small domains, few transfers, short loops."""
    monkeypatch.setattr(mechanism_rows, "SIZE_AREAS", 16)
    monkeypatch.setattr(mechanism_rows, "FIRST_SAMPLES", 1)
    for name in ("CALM_S", "LOOP_S", "BUSY_S"):
        monkeypatch.setattr(mechanism_rows, name, 0.02)
    monkeypatch.setattr(mechanism_transfer, "TRANSFERS", 4)
    monkeypatch.setattr(mechanism_transfer, "LOOP_FRAMES", 1024)
    monkeypatch.setattr(mechanisms, "DIRECT_BATCHES", 1)
    monkeypatch.setattr(mechanisms, "MALLOC_SAMPLES", 2)


@pytest.fixture
def no_mount(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(_: HugeMount) -> HugeMount:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(HugeMount, "__enter__", refused)
    monkeypatch.setattr(mechanisms, "touch_gives_huge", lambda: False)


def only(monkeypatch: pytest.MonkeyPatch, *variants: Variant) -> None:
    monkeypatch.setattr(mechanisms, "VARIANTS", variants)


def variant(name: str) -> Variant:
    return next(variant for variant in mechanisms.VARIANTS if variant.name == name)


@pytest.mark.usefixtures("small")
def test_every_mechanism_is_measured_on_every_kind_of_pages(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "m"
    result = result_of("mechanisms", out, capsys)
    skipped = set(result["skipped"])
    kinds = [pages for pages in mechanisms.BACKINGS if pages not in skipped]
    names = [name for name in mechanisms.NAMES if name not in skipped]
    assert "direct" in names
    assert "4k" in kinds
    for pages in kinds:
        wanted = {f"{name} {what} {pages}" for name in names for what in ROWS}
        assert wanted <= set(result["rows"])
    for name in skipped:
        assert any(f"skipped {name}: " in text for text in result["machine"]["warnings"])
    for key in result["targets"]:
        assert (result["targets"][key]["measured"] is None) == (key not in result["ratios"])
    assert result["ratios"]["direct transfer p50/malloc_fresh_2m 4k"] > 0
    # What is one store with some mechanisms has no ratio.
    assert not [key for key in result["ratios"] if "untouched" in key or " grow 4k" in key]
    assert {"malloc_fresh_2m 4k"} <= set(result["rows"])
    assert result["rows"]["direct shrink touched 4k"]["granule_kib"] == 2048
    assert_left_clean(out)
    check_tables(result, tmp_path)


def check_tables(result: dict[str, Any], tmp_path: Path) -> None:
    table = next(t for t in mechanism_views.tables(result) if "pages of 4k" in t.title)
    assert "direct" in table.head
    by_head = {str(line[0]): dict(zip(table.head, line, strict=True)) for line in table.lines}
    assert by_head["granule, KiB"]["direct"] == "2,048"
    shown = {head: cells["direct"] for head, cells in by_head.items() if "p99" not in head}
    assert tables.MISSING not in shown.values()  # few transfers carry no p99
    (tmp_path / "r.json").write_bytes((tmp_path / "m" / "mechanisms.json").read_bytes())
    document = tmp_path / "d.md"
    document.write_text(f"a\n{tables.begin('measured')}\nold\n{tables.end('measured')}\nb\n")
    write_page(tmp_path / "r.json", document)
    text = document.read_text()
    assert text.startswith("a\n")
    assert text.endswith("\nb\n")
    assert "old" not in text
    assert "| direct/balloon shrink touched 4k |" in text
    document.write_text("no markers")
    with pytest.raises(ConfigError, match="measured begin"):
        write_page(tmp_path / "r.json", document)


@pytest.mark.usefixtures("small", "no_mount")
def test_what_cannot_be_measured_is_left_out_and_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    stuck = Variant("balloon", "balloon", {"merge": 1})
    only(monkeypatch, variant("direct"), stuck)
    real = mechanism_rows.Rows.transfer

    def transfer(self: mechanism_rows.Rows, batches: int) -> None:
        if self._variant.name == "balloon":
            raise MemcoordError("it does not move")
        real(self, batches)

    monkeypatch.setattr(mechanism_rows.Rows, "transfer", transfer)
    result = result_of("mechanisms", tmp_path / "m", capsys)
    assert set(result["skipped"]) == {"2m", "balloon"}
    warnings = " ".join(result["machine"]["warnings"])
    assert "skipped balloon: not available: it does not move" in warnings
    assert "skipped 2m: no tmpfs with huge=always: Operation not permitted" in warnings
    assert not [name for name in result["rows"] if name.endswith("2m") and name[:6] == "direct"]
    assert result["targets"]["direct transfer p999/p50 2m"]["reached"] == "unmeasured"


def test_the_targets_are_those_agreed_upon() -> None:
    targets = mechanisms.PLAN.targets
    for key, musts in WANTED.items():
        for pages, must in zip(mechanisms.BACKINGS, musts, strict=True):
            assert targets[f"{key} {pages}"].must == must
    assert len(targets) == 2 * len(WANTED)
    assert set(targets) <= set(mechanisms.PLAN.formulas)


@pytest.mark.parametrize(
    ("ratio", "word"), [(50.0, "aim"), (49.9, "must"), (3.0, "must"), (2.99, "missed")]
)
def test_a_rate_has_lower_limits(ratio: float, word: str) -> None:
    assert verdict(ratio, Target(3, 50, higher=True)) == word


def ns(*values: int) -> bytes:
    return array("Q", values).tobytes()


def test_the_ratios_are_of_rates_quantiles_and_throughput() -> None:
    sheet = Sheet(mechanisms.PLAN)
    for name, value in (("direct", 100), ("balloon", 700)):
        sheet.add(f"{name} shrink touched 4k", ns(value), 1)
    sheet.add("direct transfer 4k", ns(*range(1, 1001)), 1)
    sheet.add("malloc_fresh_2m 4k", ns(250), 1)
    for loop, busy in (("stream", 200), ("churn", 125)):
        sheet.add(f"direct bystander {loop} undisturbed 4k", ns(100, 100), 1)
        sheet.add(f"direct bystander {loop} resizing 4k", ns(busy, busy), 1)
    ratios = sheet.ratios()
    assert ratios["direct/balloon shrink touched 4k"] == 7
    assert ratios["direct transfer p50/malloc_fresh_2m 4k"] == 2
    assert ratios["direct transfer p999/p50 4k"] == round(999 / 500, 4)
    assert ratios["bystander resizing/undisturbed 4k"] == 0.5  # of the loop that suffers more
    assert "direct/balloon shrink touched 2m" not in ratios


def test_only_samples_begun_within_the_window_count() -> None:
    samples = ns(*[10] * 100)
    kept = mechanism_rows._within(1000, samples, [(1100, 1200), (1400, 1500)])
    assert len(kept) == 8 * 20
    assert mechanism_rows._within(1000, samples, [(1100, 1110)]) == samples


@pytest.mark.skipif(os.geteuid() != 0, reason="a mount needs root")
def test_a_huge_mount_is_nowhere_and_goes_with_its_user() -> None:
    before = Path("/proc/self/mounts").read_text()
    try:
        with HugeMount() as mount:
            directory = mount.directory
            (Path(directory) / "file").write_bytes(b"x")
            assert Path("/proc/self/mounts").read_text() == before
    except PermissionError:
        pytest.skip("no mounts here")
    assert not Path(directory).exists()
