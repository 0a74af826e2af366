"""Who may import whom: orchestrator the other three, and they nothing of one another."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ("orchestrator", "tasks", "clusters", "results")
# One library, one home: where a library may be imported at all, inside functions included.
HOMES = {
    "ray": (
        *("orchestrator/executor.py", "orchestrator/worker.py", "orchestrator/ray_driver.py"),
        "clusters/attach.py",
    ),
    "optuna": ("orchestrator/search",),
    "mlflow": ("results/mlflow_",),
    "torch": ("tasks/",),
    "torchvision": ("tasks/",),
    "timm": ("tasks/",),
    "art": ("tasks/",),
    "datasets": ("tasks/",),
    "tokenizers": ("tasks/",),
    "transformers": ("tasks/",),
    "moocore": ("results/pareto.py",),
    "pyarrow": ("results/",),
    "duckdb": ("results/",),
    "matplotlib": ("results/",),
}


def imported(source: str) -> set[str]:
    """Every module that a file imports at run time, wherever in it."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            node.body = []
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports name their module in full"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


FILES = [path for room in ROOMS for path in sorted((ROOT / room).rglob("*.py"))]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_respect_the_star(path: Path) -> None:
    here = path.relative_to(ROOT).as_posix()
    room = here.partition("/")[0]
    for module in imported(path.read_text()):
        parts = module.split(".")
        if parts[0] == "sensweep" and room != "orchestrator":
            assert parts[1] == room, f"{here} imports {module}"
        if parts[0] in HOMES:
            assert here.startswith(HOMES[parts[0]]), f"{here} imports {module}"


def test_the_check_sees_imports_inside_functions() -> None:
    assert imported("def f():\n    import ray.util") == {"ray.util"}
    assert imported("if TYPE_CHECKING:\n    import ray") == set()
