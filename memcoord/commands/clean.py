"""Remove the remains of dead runs that their manifests name, never by pattern or process name.

Owns: the rule that says which files may be removed and which processes ended. A live run is not
touched without ``force``; a pid is signalled only while it is the very process the manifest
recorded; a file must lie inside its own run directory.
"""

import shutil
from pathlib import Path
from typing import Any

from hypervisor.public.errors import ConfigError
from memcoord.testbed.runs import cgroups, identity, rundir
from memcoord.testbed.runs.rundir import MANIFEST, Manifest


def clean(
    base: Path | None = None,
    run_dir: str | None = None,
    *,
    all_runs: bool = False,
    force: bool = False,
) -> dict[str, Any]:
    """Clean every run below ``base``, or only ``run_dir``; returns the actions, by run.

    ``all_runs`` removes the directories of ended runs as well. ``force`` ends live runs first.
    """
    done: dict[str, Any] = {"runs": {}, "killed": 0, "removed": 0, "skipped_live": 0}
    if run_dir is not None and not (Path(run_dir) / MANIFEST).is_file():
        raise ConfigError("--run-dir", f"{run_dir} holds no manifest of a run")
    for path in [Path(run_dir)] if run_dir else rundir.runs(base):
        try:
            manifest = rundir.read_manifest(path)
        except rundir.RunDirError as error:
            done["runs"][str(path)] = [f"left alone: {error}"]
            continue
        # A run whose launcher died is not a live run: its other processes are orphans.
        is_live = any(process.role == rundir.LAUNCHER for process in manifest.running())
        if (is_live or rundir.held(path)) and not force:
            done["skipped_live"] += 1
            continue
        actions = _clean_one(path, manifest, done, all_runs)
        if actions:
            done["runs"][str(path)] = actions
    return done


def _clean_one(path: Path, manifest: Manifest, done: dict[str, Any], all_runs: bool) -> list[str]:
    actions = []
    for process in manifest.running():
        gone = identity.kill(process)
        done["killed"] += gone
        verb = "ended" if gone else "could not end"
        actions.append(f"{verb} {process.role} (pid {process.pid})")
    if rundir.live(path, manifest):
        return actions or ["left alone: it runs in another PID namespace"]
    for group in map(Path, manifest.cgroups):
        if cgroups.is_of(group, manifest.run) and group.is_dir():
            verb = "removed" if cgroups.remove(group) else "could not remove"
            actions.append(f"{verb} control group {group}")
    for name in manifest.files:
        target = path / name
        is_inside = target.parent.resolve().is_relative_to(path.resolve())
        if not is_inside or not (target.is_symlink() or (target.exists() and not target.is_dir())):
            continue
        target.unlink()
        done["removed"] += 1
        actions.append(f"removed {name}")
    if all_runs:
        shutil.rmtree(path)
        done["removed"] += 1
        actions.append("removed the run directory")
    return actions


def lines(done: dict[str, Any]) -> list[str]:
    """The actions of ``clean`` as lines."""
    told = [f"{path}: {'; '.join(actions)}" for path, actions in done["runs"].items()]
    skipped = done["skipped_live"]
    if skipped:
        told.append(f"left {skipped} live {'run' if skipped == 1 else 'runs'} alone")
    told.append(f"removed {done['removed']} files, ended {done['killed']} processes")
    return told
