"""Goal: what the pages show can be typed, and leads somewhere. Method: read every page.

``tox -e docs`` builds the site and checks its links; here is what it cannot know: the pages beside
the site, the command, and what renders otherwise than it reads.
"""

from __future__ import annotations

import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from memcoord.reference.verbs import spelled, verbs
from policies import loader
from policies.conformance import check_policy

LINK = re.compile(r"(?<!`)\[[^\]\n]*\]\(([^)\s]+)\)")
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SPAN = re.compile(r"`(memcoord [^`]+)`")
ITEM = re.compile(r"(- |\* |\d+\. )")


def pages(checkout: Path) -> list[Path]:
    """Every page that somebody reads, of the site and beside it."""
    beside = [checkout / name for name in ("README.md", "CONTRIBUTING.md", "examples/README.md")]
    return [*beside, *sorted((checkout / "docs").rglob("*.md"))]


def test_every_link_leads_to_a_file(checkout: Path) -> None:
    broken = [
        f"{page.relative_to(checkout)}: {target}"
        for page in pages(checkout)
        for target in LINK.findall(page.read_text(encoding="utf-8"))
        if not target.startswith(("http", "#"))
        and not (page.parent / target.partition("#")[0]).exists()
    ]
    assert broken == []


def shown(text: str) -> Iterator[str]:
    """Every line that begins with the command, out of blocks and of spans of code."""
    for _, block in FENCE.findall(text):
        for line in block.replace("\\\n", " ").splitlines():
            yield from (
                part.strip() for part in line.split("&&") if part.strip()[:9] == "memcoord "
            )
    for span in SPAN.findall(FENCE.sub("", text)):
        yield " ".join(span.split())


def wrong(line: str, known: dict[str, Any]) -> str:
    """What of a command line the command would not take; empty where it is well."""
    try:
        words = shlex.split(line, comments=True)[1:]
    except ValueError as error:
        return str(error)
    own = words[: words.index("--")] if "--" in words else words
    options = [word.partition("=")[0] for word in own if re.match(r"--?[a-z]", word)]
    verb = next((" ".join(words[:n]) for n in (2, 1) if " ".join(words[:n]) in known), "")
    if not verb:
        groups = {name.split()[0] for name in known}
        is_general = not words or words[0] in groups or words[0][0] == "-" or words[0].isupper()
        return "" if is_general else f"no verb {words[0]!r}"
    spellings = {one for parameter in known[verb].params for one in spelled(parameter)}
    unknown = [one for one in options if one not in {*spellings, "--help"}]
    return f"{verb} has no {', '.join(unknown)}" if unknown else ""


def test_every_command_that_is_shown_exists(checkout: Path) -> None:
    known = dict(verbs())
    lines = [
        (page.relative_to(checkout), line)
        for page in pages(checkout)
        for line in shown(page.read_text(encoding="utf-8"))
    ]
    assert len(lines) > 100
    assert [f"{page}: {line}: {why}" for page, line in lines if (why := wrong(line, known))] == []


@pytest.mark.parametrize(
    "line",
    ["memcoord runn", "memcoord run --seeed 1", "memcoord trace import x --fast", "memcoord '"],
)
def test_a_wrong_command_is_found(line: str) -> None:
    assert wrong(line, dict(verbs())) != ""


def glued(text: str) -> Iterator[str]:
    """Lists and tables that stand right below a paragraph: the site would show them as text."""
    before = ""
    for line in FENCE.sub("\n", text).splitlines():
        for begins, goes_on in (
            (ITEM.match(line), r"(- |\* |\d+\. |  |#|<!)"),
            (line[:1] == "|", r"[|#<]"),
        ):
            if begins and before.strip() and not re.match(goes_on, before):
                yield line
        before = line


def test_lists_and_tables_stand_apart(checkout: Path) -> None:
    found = {
        str(page.relative_to(checkout)): list(glued(page.read_text(encoding="utf-8")))
        for page in (checkout / "docs").rglob("*.md")
    }
    assert {page: lines for page, lines in found.items() if lines} == {}
    assert list(glued("A text:\n- one\n- two\n\nAnother:\n| a |\n")) == ["- one", "| a |"]


def test_the_policy_of_the_tutorial_keeps_the_contract(checkout: Path, tmp_path: Path) -> None:
    page = (checkout / "docs" / "tutorial" / "own_policy.md").read_text(encoding="utf-8")
    source = next(block for kind, block in FENCE.findall(page) if kind == "python")
    file = tmp_path / "mine.py"
    file.write_text(source, encoding="utf-8")
    assert check_policy(lambda: loader.load(f"{file}:Mine:floor=128")) == []


def test_every_extra_is_listed(checkout: Path) -> None:
    project = tomllib.loads((checkout / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    page = (checkout / "docs" / "install.md").read_text(encoding="utf-8")
    extras = project["optional-dependencies"]
    assert [name for name in extras if f"| `{name}` |" not in page] == []
