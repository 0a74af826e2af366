"""Frees the checkpoints that no trial still needs."""

from __future__ import annotations

import json
from typing import Any

from sensweep.orchestrator.recorded import Recorded
from sensweep.results.store import Home


def collect(home: Home, dry_run: bool = False) -> dict[str, int]:
    """Delete checkpoints of trials all of whose dependants are done, the oldest first.

    A checkpoint is needed while the last plan of any sweep holds a trial that builds on it and is
    not done. Of the others, as many bytes stay as the studies' `checkpoints.quota` allow together
    (none where a study has no quota). A freed checkpoint that a later study needs is made
    again by running its trial once more.

    Returns:
        checkpoints and bytes that there are; freed and freed_bytes of them.
    """
    attempts = home.results()["attempts"].select(["trial_id", "status", "artifacts", "seconds"])
    done = Recorded.from_rows([], attempts.to_pylist(), lambda _: True).done
    needed: set[str] = set()
    quota = 0
    for sweep in home.sweeps():
        study: Any = home.study(sweep)["study"]
        quota += int((study.get("checkpoints") or {}).get("quota") or 0)
        last = home.manifest(sweep).epoch
        for row in home.read("trials", [sweep], ["trial_id", "parents", "epoch"]).to_pylist():
            if row["epoch"] == last and row["trial_id"] not in done:
                needed |= {parent["trial_id"] for parent in json.loads(row["parents"])}
    saved = [
        (path.stat().st_mtime, path, trial_id in needed)
        for trial_id, artifacts in done.items()
        for artifact in json.loads(str(artifacts))
        if (path := home.path / artifact["path"]).is_file()
    ]
    sizes = {path: path.stat().st_size for _, path, _ in saved}
    left = total = sum(sizes.values())
    freed = []
    for _, path, keep in sorted(saved):
        if left <= quota:
            break
        if not keep:
            freed.append(path)
            left -= sizes[path]
    if not dry_run:
        for path in freed:
            path.with_suffix(".json").unlink(missing_ok=True)
            path.unlink(missing_ok=True)
    return {
        "checkpoints": len(saved),
        "bytes": total,
        "freed": len(freed),
        "freed_bytes": total - left,
    }
