"""A kubectl for tests, over a folder of objects; the test plays KubeRay by writing statuses."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import yaml

OBJECTS = Path(os.environ["FAKES"]) / "kubernetes"


def main(*arguments: str) -> None:
    (OBJECTS / "calls").open("a").write(json.dumps(arguments) + "\n")
    verb, *rest = [a for a in arguments if not a.startswith(("--context=", "--namespace="))]
    if (OBJECTS / "away").exists():
        sys.exit(
            "The connection to the server lab:6443 was refused - did you specify the right host?"
        )
    if verb == "create":
        for document in yaml.safe_load_all(Path(rest[1]).read_text()):
            where = OBJECTS / f"{document['kind'].lower()}.{document['metadata']['name']}"
            if where.exists():
                sys.exit(f"Error from server (AlreadyExists): {where.name} already exists")
            where.write_text(json.dumps(document))
    elif verb == "get":
        where = OBJECTS / f"{rest[0]}.{rest[1]}"
        if not where.exists():
            sys.exit(f'Error from server (NotFound): rayjobs.ray.io "{rest[1]}" not found')
        print(where.read_text())
    elif verb == "delete":
        for each in (a for a in rest if not a.startswith("--")):
            (OBJECTS / each.replace("/", ".")).unlink(missing_ok=True)
    elif verb == "logs":
        print(f"what {rest[0]} printed")


if __name__ == "__main__":
    OBJECTS.mkdir(parents=True, exist_ok=True)
    main(*sys.argv[1:])
