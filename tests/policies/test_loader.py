"""From a text to a policy, and what is said when that cannot be."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from policies import PolicyError, View, available, describe, load, text_of
from policies.loader import BUILT_IN, is_built_in
from policies.smart_alloc import SmartAlloc

EXAMPLES = Path(__file__).parent / "example_policy.py"


def smart(text: str, **params: object) -> tuple[float, int]:
    policy = load(text, params)
    assert isinstance(policy, SmartAlloc)
    return policy.params.P, policy.params.threshold


def test_parameters_come_from_the_text() -> None:
    assert smart("smart-alloc:P=0.75,threshold=50") == (0.75, 50)
    assert smart("smart-alloc: P = 4 ,") == (4, 64)


def test_parameters_come_from_toml_and_the_text_wins() -> None:
    assert smart("smart-alloc", P=3, threshold=7) == (3, 7)
    assert smart("smart-alloc:P=5", P=3, threshold=7) == (5, 7)


def test_a_file_with_parameters_works_as_documented() -> None:
    policy = load(f"{EXAMPLES}:FloorThenDemand:floor=100")
    view = View.of(capacity=1000, used=[10, 20, 0], failed_puts=[0, 10, 0])
    planned = np.asarray(policy.plan(view).tmem)
    assert planned.tolist() == [275, 625, 100]


def test_a_class_without_params_works() -> None:
    view = View.of(capacity=100, used=[0, 0], weight=[3, 1])
    assert np.asarray(load(f"{EXAMPLES}:ByWeight").plan(view).tmem).tolist() == [75, 25]


def test_a_file_is_read_anew_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    text = (
        "from policies import Plan\nclass Mine:\n    name = '{}'\n    def plan(self, view): ...\n"
    )
    names = []
    for name in ("one", "two"):
        path.write_text(text.format(name))
        names.append(load(f"{path}:Mine").name)  # type: ignore[attr-defined]
    assert names == ["one", "two"]
    assert list(tmp_path.iterdir()) == [path]


REFUSED = [
    ("nope", f"no policy 'nope'; there are {', '.join(available())}, and FILE.py"),
    ("", "'' is no policy"),
    ("a b", "'a b' is no policy"),
    ("greedy:x=1", "greedy: x: this policy takes no parameters"),
    ("smart-alloc:P", "'P' is no parameter: write KEY=VALUE"),
    ("smart-alloc:P=1,P=2", "smart-alloc: P: given twice"),
    ("smart-alloc:Q=1", "smart-alloc: Q: no such parameter; it takes P, threshold"),
    ("smart-alloc:P=x", "smart-alloc: P: Expected float, got str, got 'x'"),
    ("smart-alloc:P=0", "smart-alloc: P: Expected float > 0.0, got '0'"),
    ("smart-alloc:P=nan", "smart-alloc: P: "),
    ("smart-alloc:threshold=-1", "smart-alloc: threshold: Expected int >= 0, got '-1'"),
    ("smart-alloc:threshold=1.5", "smart-alloc: threshold: "),
    ("missing.py:Mine", "missing.py: no such file"),
    (f"{EXAMPLES}:Nobody", "example_policy.py: has no Nobody"),
    (f"{EXAMPLES}:Plan", "is no class with plan"),
    (f"{EXAMPLES}:FloorThenDemand:floor=-2", "FloorThenDemand: floor: Expected int >= 0"),
    (f"{EXAMPLES}:FloorThenDemand:flor=2", "flor: no such parameter; it takes floor"),
    (str(EXAMPLES), "name the class, as "),
]


@pytest.mark.parametrize(("text", "words"), REFUSED)
def test_what_cannot_be_loaded_is_named(text: str, words: str) -> None:
    with pytest.raises(PolicyError) as caught:
        load(text)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


BROKEN_FILES = [
    ("import nothing_of_this_name", "ModuleNotFoundError"),
    ("x = (", "line 1: SyntaxError"),
    ("x = '\0'", "cannot contain null bytes"),
    ("import sys; sys.exit(3)", "SystemExit: 3"),
    (
        "import sys\nclass Mine:\n    def __init__(self): sys.exit(3)\n    def plan(self, v): ...",
        "SystemExit: 3",
    ),
    ("class Mine:\n    plan = 3", "is no class with plan"),
    ("def Mine(): ...", "is no class with plan"),
    ("class Mine:\n    def __init__(self, x): ...\n    def plan(self, v): ...", "TypeError"),
    ("class Mine:\n    Params = int\n    def plan(self, v): ...", "derived from PolicyParams"),
]


@pytest.mark.parametrize(("source", "words"), BROKEN_FILES)
def test_a_broken_file_is_named(tmp_path: Path, source: str, words: str) -> None:
    path = tmp_path / "mine.py"
    path.write_text(source)
    with pytest.raises(PolicyError) as caught:
        load(f"{path}:Mine")
    assert words in str(caught.value)


@pytest.fixture
def plug_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installed package that declares two policies, one of which cannot be imported."""
    (tmp_path / "some_plug_in.py").write_text("class Mine:\n    def plan(self, view): ...\n")
    info = tmp_path / "some_plug_in-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: some-plug-in\nVersion: 1\n")
    (info / "entry_points.txt").write_text(
        "[memcoord.policies]\nmine = some_plug_in:Mine\ngone = no_such_module:Mine\n"
        "greedy = some_plug_in:Mine\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))


@pytest.mark.usefixtures("plug_in")
def test_entry_points_are_found_by_name() -> None:
    assert available()["mine"] == "some_plug_in:Mine"
    assert available()["greedy"] == "built in"
    assert type(load("mine")).__name__ == "Mine"
    assert type(load("greedy")).__name__ == "Greedy"
    with pytest.raises(PolicyError, match="gone: cannot import no_such_module:Mine"):
        load("gone")


def test_what_is_built_in_is_listed() -> None:
    assert {"greedy", "static-alloc", "smart-alloc"} <= set(available())


def test_nothing_is_imported_before_it_is_named(checkout: Path) -> None:
    modules = [target.partition(":")[0] for target in BUILT_IN.values()]
    code = f"import sys, policies; policies.available(); print(set({modules}) & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=checkout, capture_output=True, text=True, timeout=60
    )
    assert done.stdout.strip() == "set()", done.stderr


@pytest.mark.parametrize("name", BUILT_IN)
def test_a_built_in_policy_has_its_name_and_a_summary(name: str) -> None:
    told = describe(name)
    assert getattr(load(name), "name", None) == name
    assert told.source == "built in"
    assert told.summary
    assert not told.summary.startswith(f"{name}:")


def test_a_description_has_the_parameters_with_their_defaults() -> None:
    assert describe("smart-alloc:P=9").parameters == {"P": 2.0, "threshold": 64}
    assert describe("greedy").parameters == {}
    told = describe(f"{EXAMPLES}:FloorThenDemand")
    assert told.parameters == {"floor": 64}
    assert told.summary.startswith("Give every domain a floor")
    assert told.source == f"{EXAMPLES}:FloorThenDemand"


def test_a_parameter_without_a_default_is_required(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(
        "from policies import PolicyParams\nclass Mine:\n    class Params(PolicyParams):\n"
        "        share: int\n        names: list[str] = []\n    def plan(self, view): ...\n"
    )
    assert describe(f"{path}:Mine").parameters == {"share": "required", "names": []}


@pytest.mark.parametrize(
    ("table", "text"),
    [
        ("greedy", "greedy"),
        ({"name": "greedy"}, "greedy"),
        ({"name": "smart-alloc", "P": 2, "threshold": 3}, "smart-alloc:P=2,threshold=3"),
        ({"P": 0.5, "name": "smart-alloc:threshold=9"}, "smart-alloc:threshold=9,P=0.5"),
        ({"name": "a/b.py:Mine", "on": True}, "a/b.py:Mine:on=true"),
    ],
)
def test_a_table_says_the_same_as_a_text(table: str | dict[str, object], text: str) -> None:
    assert text_of(table) == text


def test_a_table_loads_with_its_parameters() -> None:
    assert smart(text_of({"name": "smart-alloc", "P": 6, "threshold": 1})) == (6, 1)


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({}, "needs a name"),
        ({"name": 3}, "needs a name"),
        ({"name": "x", "a": [1]}, "x: a: must be"),
        ({"name": "x", "a": "1,2"}, "x: a: must be"),
    ],
)
def test_a_table_no_text_can_hold_is_refused(table: dict[str, object], words: str) -> None:
    with pytest.raises(PolicyError, match=words):
        text_of(table)


def test_a_policy_of_ours_is_told_by_its_name_alone() -> None:
    assert all(is_built_in(name) for name in BUILT_IN)
    assert is_built_in("smart-alloc:P=2")
    assert not any(is_built_in(text) for text in ("greedy.py:Greedy", "nobodys", "a/greedy", ""))
