"""What the Tab key offers where a verb wants a name: scenarios, policies, benches, runs.

Owns: the lists. Called by the shell's completion, at every Tab: nothing heavy is imported, and
nothing is raised. Files are offered by the shell itself where no name fits.
"""

from __future__ import annotations

BENCHES = (
    *("grant", "guest", "ring", "tmem", "programs", "malloc", "policies", "smartmem", "agreement"),
    *("build", "mechanisms", "cheats", "interference", "bursts", "chaos"),
)
RUNS_OFFERED_MAX = 20


def scenarios(incomplete: str) -> list[str]:
    """Shipped scenarios, those in folders too."""
    from importlib import resources

    root = resources.files("memcoord.testbed") / "scenarios"
    folders = {"": root, **{f"{one.name}/": one for one in root.iterdir() if one.is_dir()}}
    names = (
        prefix + file.name.removesuffix(".toml")
        for prefix, folder in folders.items()
        for file in folder.iterdir()
        if file.name.endswith(".toml")
    )
    return sorted(name for name in names if name.startswith(incomplete))


def policies(incomplete: str) -> list[str]:
    """Policies that have a name."""
    from policies.loader import available

    return [name for name in available() if name.startswith(incomplete)]


def benches(incomplete: str) -> list[str]:
    """What ``memcoord bench`` can measure."""
    return [name for name in BENCHES if name.startswith(incomplete)]


def runs(incomplete: str) -> list[str]:
    """The newest runs."""
    from memcoord.testbed.runs.rundir import every_run

    names = [path.name for path in every_run()[:RUNS_OFFERED_MAX]]
    return [name for name in names if name.startswith(incomplete)]
