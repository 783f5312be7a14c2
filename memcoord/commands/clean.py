"""Remove the remains of dead runs that their manifests name, never by pattern or process name.

Owns: the rule that says which files may be removed and which processes ended. A live run is not
touched without ``force``; a pid is signalled only while it is the very process the manifest
recorded; a file must lie inside its own run directory.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from hypervisor.public.errors import ConfigError
from memcoord.testbed.runs import identity
from memcoord.testbed.runs.rundir import (
    LAUNCHER,
    MANIFEST,
    Manifest,
    RunDirError,
    default_base,
    live,
    read_manifest,
    runs,
)


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
    for path in [Path(run_dir)] if run_dir else runs(base or default_base()):
        try:
            manifest = read_manifest(path)
        except RunDirError as error:
            done["runs"][str(path)] = [f"left alone: {error}"]
            continue
        if _launcher_alive(manifest) and not force:
            done["skipped_live"] += 1
            continue
        actions = _clean_one(path, manifest, done, all_runs)
        if actions:
            done["runs"][str(path)] = actions
    return done


def _launcher_alive(manifest: Manifest) -> bool:
    # A run whose launcher died is not a live run: its other processes are orphans.
    return any(process.role == LAUNCHER for process in manifest.running())


def _clean_one(path: Path, manifest: Manifest, done: dict[str, Any], all_runs: bool) -> list[str]:
    actions = []
    for process in manifest.running():
        gone = identity.kill(process)
        done["killed"] += gone
        verb = "ended" if gone else "could not end"
        actions.append(f"{verb} {process.role} (pid {process.pid})")
    if live(manifest):
        return actions
    for name in manifest.files:
        target = path / name
        if not _inside(target, path) or not (target.exists() or target.is_symlink()):
            continue
        if target.is_dir() and not target.is_symlink():
            continue
        target.unlink()
        done["removed"] += 1
        actions.append(f"removed {name}")
    if all_runs:
        shutil.rmtree(path)
        done["removed"] += 1
        actions.append("removed the run directory")
    return actions


def _inside(target: Path, directory: Path) -> bool:
    return target.parent.resolve().is_relative_to(directory.resolve())


def lines(done: dict[str, Any]) -> list[str]:
    """The actions of ``clean`` as lines."""
    told = [f"{path}: {'; '.join(actions)}" for path, actions in done["runs"].items()]
    skipped = done["skipped_live"]
    if skipped:
        told.append(f"left {skipped} live {'run' if skipped == 1 else 'runs'} alone")
    told.append(f"removed {done['removed']} files, ended {done['killed']} processes")
    return told
