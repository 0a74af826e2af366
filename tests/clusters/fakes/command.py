"""`sensweep` as a job runs it, for tests: `run` opens the sweep and waits; the rest is real.

A run ends when it is asked to stop (130), or after as many starts as $FAKES/starts says (0).
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from sensweep.results.store import Home


def run(study: str, home: str, profile: str) -> int:
    print(" ".join(sys.argv[1:]), flush=True)
    sweep = f"{Path(study).stem}.{profile}"
    with Home(home).open_sweep(sweep, study={"study": {}}) as writer:
        last = writer.epoch >= int((Path(os.environ["FAKES"]) / "starts").read_text())
        while not last and writer.stop_requested() is None:
            time.sleep(0.02)
    return 0 if last else 130


if __name__ == "__main__":
    words = sys.argv[1:]
    if words[0] == "run":
        sys.exit(
            run(words[1], words[words.index("--home") + 1], words[words.index("--profile") + 1])
        )
    from sensweep.orchestrator.cli import main

    main()
