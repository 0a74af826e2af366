"""Write the verdicts of a reference home into the paper's page, between its markers.

    python results/reference/verdicts.py low_sensitivity

A page has one pair of markers or several, `<!-- verdicts: 1.1 1.4 -->` and `<!-- end -->`. Between
them come the claims whose ids begin so, all claims where no id is given, and their figures.
"""

from __future__ import annotations

import argparse
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sensweep.results.queries import claims_of
from sensweep.results.store import Home

HERE = Path(__file__).parent
VERDICTS = ("supported", "refuted", "inconclusive")
MARKERS = re.compile(r"(<!-- verdicts:([^>]*?)-->\n).*?(<!-- end -->)", re.DOTALL)


def summary(claims: Sequence[Mapping[str, Any]]) -> str:
    """Return a Markdown table with a line per claim: how many of its verdicts are which."""
    lines = ["| claim | statement | supported | refuted | inconclusive |", "|---|---|---|---|---|"]
    for claim_id in dict.fromkeys(claim["id"] for claim in claims):
        cases = [claim for claim in claims if claim["id"] == claim_id]
        counts = Counter(claim["verdict"] for claim in cases)
        found = [str(counts[verdict] or "") for verdict in VERDICTS]
        if not any(found):
            found = [f"descriptive ({len(cases)})", "", ""]
        lines.append(f"| {claim_id} | {cases[0]['statement']} | {' | '.join(found)} |")
    return "\n".join(lines)


def table(claims: Sequence[Mapping[str, Any]]) -> str:
    """Return a Markdown table with a line per verdict."""
    lines = ["| claim | case | verdict | estimate | interval | n |", "|---|---|---|---|---|---|"]
    for claim in claims:
        case = claim["key"].removeprefix(claim["id"]).strip(" []()").replace("|", "/")
        value, low, high = (number(claim[name]) for name in ("estimate", "low", "high"))
        interval = f"[{low}, {high}]" if low else ""
        n = f"{claim['n']} {claim['replicate']}"
        cells = (claim["id"], case, claim["verdict"] or "", value, interval, n)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def number(value: float | None) -> str:
    """Write a number for a table; nothing for none."""
    return "" if value is None else f"{value:.3g}"


def figures(claims: Sequence[Mapping[str, Any]], folder: Path, page: Path) -> str:
    """Return the claims' figures as Markdown images, each once."""
    names = dict.fromkeys(claim["figure"] for claim in claims if claim["figure"])
    paths = [folder / f"{name}.png" for name in names]
    return "\n\n".join(
        f"![{path.stem}]({os.path.relpath(path, page.parent)})" for path in paths if path.exists()
    )


def fill(page: Path, claims: Sequence[Mapping[str, Any]], folder: Path, made: str) -> str:
    """Return the page with what is between its markers replaced."""

    def one(match: re.Match[str]) -> str:
        prefixes = tuple(match[2].split())
        chosen = [c for c in claims if not prefixes or c["id"].startswith(prefixes)]
        every = f"<details><summary>Every verdict</summary>\n\n{table(chosen)}\n\n</details>"
        parts = [made, summary(chosen), every, figures(chosen, folder, page)]
        return match[1] + "\n" + "\n\n".join(filter(None, parts)) + "\n\n" + match[3]

    return MARKERS.sub(one, page.read_text())


def main() -> None:
    """Fill one page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("study")
    parser.add_argument("--profile", default="cpu")
    options = parser.parse_args()
    home, sweep = Home(HERE / options.study), f"{options.study}.{options.profile}"
    provenance: Any = home.study(sweep)["provenance"]
    code = (
        f"commit {provenance['git_commit'][:12]}" if provenance.get("git_commit") else "no commit"
    )
    made = (
        f"From the run of {provenance['started'][:10]} ({code}), kept in "
        f"`results/reference/{options.study}`; intervals are at each claim's level, corrected "
        "within its family (Holm)."
    )
    claims = claims_of(home, sweep)
    page = HERE.parents[1] / "docs" / "papers" / f"{options.study}.md"
    folder = HERE / options.study / "sweeps" / sweep / "report"
    page.write_text(fill(page, claims, folder, made))
    print(f"{page}: {len(claims)} verdicts")


if __name__ == "__main__":
    main()
