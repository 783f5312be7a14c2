"""Goal: the reference names all there is, and is what the code says. Method: look each thing up.

What there is comes from where the product reads it: the structs, the tables, a run of its own.
"""

from __future__ import annotations

import ast
import csv
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from backend.options import mechanism_of
from hypervisor.coordination.feed import DOMAIN_COLUMNS, HOST_COLUMNS
from hypervisor.public import feed
from hypervisor.public.messages import OPS
from hypervisor.public.settings import MECHANISMS
from memcoord.reference import files, mechanism_list, scenarios
from memcoord.reference.fields import about, fields_of, meanings
from memcoord.reference.pages import PAGES, written
from memcoord.reference.verbs import spelled, verbs
from memcoord.testbed.metrics.table import METRICS
from policies.base import PolicyParams, View
from policies.loader import BUILT_IN, describe


@pytest.fixture(scope="module")
def pages(checkout: Path) -> dict[str, str]:
    """The pages as they are committed, by file."""
    folder = checkout / "docs" / "reference"
    return {path.name: path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.md"))}


def part(page: str, title: str) -> str:
    """What stands below a heading, up to the next of its rank."""
    found = re.search(rf"^(#+) `?{re.escape(title)}`?\n(.*?)(?=^#{{1,2}} |\Z)", page, re.M | re.S)
    assert found is not None, f"no heading {title!r}"
    return found[2]


def rows(text: str) -> dict[str, list[str]]:
    """The rows of the tables in ``text``, by each name in the first cell."""
    lines = [re.split(r"(?<!\\)\|", line)[1:-1] for line in text.splitlines() if line[:1] == "|"]
    return {name: cells for cells in lines for name in re.findall(r"`([^`]+)`", cells[0])}


def test_it_is_what_the_code_says(pages: dict[str, str]) -> None:
    assert pages == written(), "run: python -m memcoord.reference docs/reference"


@pytest.mark.parametrize(
    "kind",
    [
        *scenarios.TABLES.values(),
        *scenarios.kinds().values(),
        *scenarios.CONFIGURATION.values(),
        *files.REPORT,
        *feed.TOPICS,
    ],
)
def test_every_key_says_what_it_is(kind: type[msgspec.Struct]) -> None:
    assert [field.name for field in fields_of(kind) if not field.says] == []


def test_every_key_of_a_scenario_is_there(pages: dict[str, str]) -> None:
    for title, kind in scenarios.TABLES.items():
        found = rows(part(pages["scenarios.md"], title))
        assert [name for name in kind.__struct_encode_fields__ if name not in found] == []


def test_every_kind_of_workload_is_there_with_its_keys(pages: dict[str, str]) -> None:
    kinds = scenarios.kinds()
    assert "page-trace" in kinds
    for name, kind in kinds.items():
        found = rows(part(pages["workloads.md"], name))
        assert [key for key in kind.__struct_encode_fields__ if key not in found] == []


def test_every_policy_is_there_with_its_parameters(pages: dict[str, str]) -> None:
    for name in BUILT_IN:
        own = part(pages["policies.md"], name)
        parameters = describe(name).parameters
        assert [key for key in parameters if key not in rows(own)] == []


def test_every_column_of_a_view_is_there(pages: dict[str, str]) -> None:
    found = rows(part(pages["view.md"], "View"))
    assert [name for name in View.__dataclass_fields__ if not found[name][1].strip()] == []


def test_every_mechanism_is_there_with_its_options(pages: dict[str, str]) -> None:
    for name in MECHANISMS:
        own = part(pages["mechanisms.md"], name)
        assert len(own.split()) > 5
        declared = [one for one in mechanism_of(name).options if one.name]
        options = mechanism_list.options_of(name)
        assert len(options) == len(declared)
        assert [key for key, _, _, says in options if key not in rows(own) or not says] == []


def test_every_verb_is_there_with_its_options(pages: dict[str, str]) -> None:
    found = dict(verbs())
    assert {"run", "sweep", "trace import", "policy new", "mem-set"} <= set(found)
    for name, command in found.items():
        own = rows(part(pages["verbs.md"], name))
        words = [word for one in command.params for word in spelled(one)]
        assert [word for word in words if word not in own] == [], name


def test_every_operation_is_there_with_its_arguments(pages: dict[str, str]) -> None:
    found = rows(part(pages["control.md"], "Operations"))
    for op, arguments in OPS.items():
        assert found[op][2].strip(), f"{op}: nothing is said of it"
        assert [name for name in arguments if f"`{name}`" not in found[op][1]] == []


def test_every_column_of_the_feed_is_there(pages: dict[str, str]) -> None:
    for title, columns in (("a domain", DOMAIN_COLUMNS), ("the host", HOST_COLUMNS)):
        found = rows(part(pages["feed.md"], f"Columns of {title}"))
        assert [name for name in columns if name not in found or not found[name][2].strip()] == []


def test_every_metric_is_there(pages: dict[str, str]) -> None:
    found = rows(pages["metrics.md"])
    assert len(METRICS) > 20
    assert [one.name for one in METRICS if one.name not in found] == []


def test_the_index_lists_every_page(pages: dict[str, str]) -> None:
    assert [name for name in PAGES if f"]({name})" not in pages["index.md"]] == []


def _events(source: str) -> Iterator[str]:
    """The names of events that a module tells of."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call) or not node.args:
            continue
        name = getattr(node.func, "attr", getattr(node.func, "id", ""))
        if name in ("_on_event", "on_event", "_event") and isinstance(node.args[0], ast.Constant):
            yield str(node.args[0].value)


def test_every_event_is_there(checkout: Path, pages: dict[str, str]) -> None:
    found = rows(part(pages["files.md"], "events.jsonl"))
    sources = [
        path.read_text(encoding="utf-8")
        for folder in ("hypervisor", "memcoord/testbed/live")
        for path in (checkout / folder).rglob("*.py")
    ]
    told = {event for source in sources for event in _events(source)}
    assert "attached" in told
    assert "go" in told
    assert told - set(found) == set()


def patterns() -> list[re.Pattern[str]]:
    """The files of ``files.FILES``, as paths in a run directory."""
    words = {"N-POLICY": r"\d+-[^/]+", "NAME": r"\w+", "VM": r"\w+"}
    found = []
    for names in files.FILES:
        for name in names.split(", "):
            text = re.escape(name).replace(r"N\-POLICY", words["N-POLICY"])
            text = re.sub(r"\b(NAME|VM)\b", lambda at: words[at[1]], text)
            found.append(re.compile(f"{text}.*" if name.endswith("/") else text))
    return found


@pytest.mark.process
@pytest.mark.slow
def test_a_run_writes_what_the_page_lists(short_path: Path, pages: dict[str, str]) -> None:
    words = ["run", "usemem", "--policy", "greedy", "--repeat", "1", "--no-alone"]
    done = subprocess.run(
        [sys.executable, "-P", "-m", "memcoord", *words, "--set", "scale=1", "--run-dir", "r"],
        cwd=short_path,
        env={**os.environ, "XDG_STATE_HOME": str(short_path / "state")},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    run = short_path / "r"
    made = [str(path.relative_to(run)) for path in run.rglob("*") if path.is_file()]
    assert {"series.csv", "decisions.jsonl", "report.json", "manifest.json"} <= set(made)
    known = patterns()
    # Nothing is known of a policy's folder but what its own patterns say.
    plain = [one for one in known if not one.pattern.endswith("[^/]+/.*")]
    assert [name for name in made if not any(one.fullmatch(name) for one in plain)] == []
    with (run / "series.csv").open(newline="", encoding="ascii") as file:
        header = next(csv.reader(file))
    found = rows(part(pages["files.md"], "series.csv"))
    assert [name for name in header if not found[name][3].strip()] == []
    for name in ("decisions.jsonl", "manifest.json"):
        line = (run / name).read_bytes()
        keys = msgspec.json.decode(line.splitlines()[0] if name.endswith("l") else line)
        assert set(keys) <= set(rows(part(pages["files.md"], name)))


class Told(PolicyParams):
    """First. ``second``: two words. Of nobody."""

    first: int = 1  # on its line
    second: int = 2
    # Above it
    # in two lines.
    third: str = ""


def test_a_field_is_told_by_its_comment_or_by_the_sentence_that_names_it() -> None:
    assert meanings(Told) == {
        "first": "on its line",
        "second": "two words.",
        "third": "Above it in two lines.",
    }
    assert about(Told) == "First. Of nobody."
