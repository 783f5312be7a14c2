"""Declarations and files of the product that no other part of the product mentions.

Owns: the search. A name counts as used when it stands anywhere in the product beside its own
declarations: in code, or in a string that is no docstring (a table of operations, a name handed to
cffi). A name is public, and counts as used, when a page of the documentation shows it as code, or
when its docstring, or that of its module, has a paragraph that begins with "API:".
The search goes by name alone, so it misses dead code that shares its name with living code; it
never blames living code.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from source_tree import TEMPLATES, c_code, module_of, product_files

#: Written from the C headers: a mention there is not a use.
FROM_HEADERS = {"hypervisor/public/constants.py", "tmem/record.py"}
#: Decorators that leave the decorated function to be called by its name.
PLAIN_DECORATORS = {
    *("property", "cached_property", "staticmethod", "classmethod", "contextmanager"),
    *(
        "dataclass",
        "override",
        "kernel",
        "entry",
        "njit",
        "cached_kernels",
        "runtime_checkable",
        "intrinsic",
    ),
}
_WORD = re.compile(r"[A-Za-z_]\w*")
_SHOWN = re.compile(r"```.*?```|`[^`\n]+`", re.DOTALL)
_FUNCTION = re.compile(r"^[A-Za-z_][\w\s*]*?\b(\w+)\([^;{}]*\)\s*\n?\{", re.MULTILINE)
_PROTOTYPE = re.compile(r"^[A-Za-z_][\w\s*]*?\b(\w+)\([^;{}]*\)[\w\s(),]*;", re.MULTILINE)
_MACRO = re.compile(r"^[ \t]*#[ \t]*define[ \t]+(\w+)", re.MULTILINE)
_ENUM = re.compile(r"\benum\b[^{};]*\{([^}]*)\}")
_CONSTANT = re.compile(r"(?:^|,)\s*([A-Za-z_]\w*)\s*(?:=[^,]*)?(?=,|$)")


def shown_names(checkout: Path) -> set[str]:
    """Every name that the README or a page of docs/ shows as code."""
    pages = [checkout / "README.md", *sorted((checkout / "docs").glob("*.md"))]
    return {
        word
        for page in pages
        for shown in _SHOWN.findall(page.read_text(encoding="utf-8"))
        for word in _WORD.findall(shown)
    }


def python_words(source: str) -> Counter[str]:
    """How often each name stands in code, or in a string that is no docstring."""
    docstrings = {
        (node.body[0].lineno, node.body[0].col_offset)
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and ast.get_docstring(node, clean=False) is not None
    }
    words: Counter[str] = Counter()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.NAME:
            words[token.string] += 1
        elif token.type == tokenize.STRING and token.start not in docstrings:
            words.update(_WORD.findall(token.string))
    return words


def python_declarations(source: str) -> Iterator[str]:
    """Functions, methods, classes and constants that ``source`` declares to be used by name."""
    tree = ast.parse(source)
    if _is_public(tree):
        return
    for node in tree.body:
        targets = node.targets if isinstance(node, ast.Assign) else []
        yield from (one.id for one in targets if isinstance(one, ast.Name) and one.id.isupper())
    yield from _declared_in(tree.body)


def _declared_in(body: list[ast.stmt]) -> Iterator[str]:
    for node in body:
        if not isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if _is_registered(node):
            continue
        if not (node.name.startswith("__") or _is_public(node)):
            yield node.name
        yield from _declared_in(node.body)


def _is_public(node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """Whether a docstring says so, or the class is a policy: the name of its file finds that."""
    is_policy = isinstance(node, ast.ClassDef) and any(
        isinstance(at, ast.FunctionDef) and at.name == "plan" for at in node.body
    )
    text = ast.get_docstring(node) or ""
    return is_policy or any(line.startswith("API:") for line in text.splitlines())


def _is_registered(node: ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """Whether a decorator hands it to somebody who does not need its name."""
    for decorator in node.decorator_list:
        names = [at for at in ast.walk(decorator) if isinstance(at, ast.Name | ast.Attribute)]
        words = {at.id if isinstance(at, ast.Name) else at.attr for at in names}
        if not words & PLAIN_DECORATORS:
            return True
    return False


def c_declarations(text: str) -> Counter[str]:
    """How often ``text``, C without comments, declares each function, macro, enum constant."""
    found = Counter(_FUNCTION.findall(text) + _PROTOTYPE.findall(text) + _MACRO.findall(text))
    for body in _ENUM.findall(text):
        found.update(_CONSTANT.findall(body))
    return found


def _product_words(checkout: Path) -> Counter[str]:
    templates = sorted((checkout / TEMPLATES).glob("*.py"))  # a user's copy calls what they call
    words: Counter[str] = Counter()
    for path in [*product_files(checkout, ".py", ".c", ".h"), *templates]:
        text = (checkout / path).read_text(encoding="utf-8")
        if str(path) in FROM_HEADERS:
            continue
        words += (
            python_words(text) if path.suffix == ".py" else Counter(_WORD.findall(c_code(text)))
        )
    return words


def dead_declarations(checkout: Path) -> list[str]:
    """``file: name`` of every declaration that nothing of the product mentions."""
    words, public = _product_words(checkout), shown_names(checkout)
    declared: Counter[str] = Counter()
    homes: dict[str, str] = {}
    for path in product_files(checkout, ".py", ".c", ".h"):
        if str(path) in FROM_HEADERS:
            continue
        text = (checkout / path).read_text(encoding="utf-8")
        names = (
            Counter(python_declarations(text))
            if path.suffix == ".py"
            else c_declarations(c_code(text))
        )
        declared += names
        homes.update({name: str(path) for name in names})
    return sorted(
        f"{homes[name]}: {name}"
        for name, count in declared.items()
        if words[name] <= count and name not in public and not _is_excused(name, words)
    )


def _is_excused(name: str, words: Counter[str]) -> bool:
    return (
        name.endswith("_H")  # guards a header
        or name.startswith("PY_")  # read by Python's own header
        or name.endswith("_validate")  # an invariant, which tests check
        or any(words[part] for part in _parts(name))  # Python knows it without its prefix
        or (name.startswith("_") and words[name.lstrip("_")] > 0)  # an operation found by its name
    )


def _parts(name: str) -> list[str]:
    """OP_PUT and PUT of MC_OP_PUT."""
    words = name.split("_")
    return ["_".join(words[at:]) for at in (1, 2)] if name.startswith("MC_") else []


def dead_files(checkout: Path) -> list[str]:
    """Modules that nothing imports or runs, sources nothing compiles, headers nothing includes."""
    texts = {
        path: (checkout / path).read_text(encoding="utf-8")
        for path in [*product_files(checkout, ".py", ".c", ".h"), Path("setup.py")]
        if path != Path("setup.py") or (checkout / path).exists()
    }
    return [
        str(path)
        for path in texts
        if path.name not in ("setup.py", "__init__.py", "__main__.py")
        and path.parent.name != "policies"  # a policy is found by the name of its file
        and "\nAPI:" not in texts[path]
        and not _is_mentioned(path, {at: text for at, text in texts.items() if at != path})
    ]


def _is_mentioned(path: Path, others: dict[Path, str]) -> bool:
    if path.suffix == ".h":
        return any(f'#include "{path.name}"' in text for text in others.values())
    if path.suffix == ".c":
        builds = {
            at: text
            for at, text in others.items()
            if at.name.startswith(("_build", "_cdef")) or "Program(" in text  # of a guest
        }
        return any(
            f'"{path.stem}"' in text
            or f'"{path.name}"' in text
            or ('.glob("*.c")' in text and at.parent == path.parent.parent)
            for at, text in builds.items()
        )
    package, _, leaf = module_of(path).rpartition(".")
    mention = re.compile(
        rf"\b{re.escape(module_of(path))}\b|{re.escape(str(path))}"
        rf"|from {re.escape(package)} import (?:[^\n(]*|\([^)]*)\b{leaf}\b"
    )
    return any(leaf in text and mention.search(text) for text in others.values())
