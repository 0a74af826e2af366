"""The digest of the code that computes a trial: a task's module and its local imports, all the way.

Local is what lies in `sensweep.*` or below the folder of the user's own module; packages from
elsewhere are recorded as versions in a sweep's provenance instead. Only what can change numbers
counts: comments, formatting, docstrings and other strings that stand alone do not. Nothing is
imported: imports are read from the syntax tree, those within functions and conditions included,
so a module that is chosen by a computed name (`importlib.import_module(name)`) is not seen.

A module that lists all tasks, such as `sensweep.tasks.catalog`, must not be reachable from any
of them: with it a change to one task would make the trials of all others new.
"""

from __future__ import annotations

import ast
import functools
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from sensweep.orchestrator.errors import InputError
from sensweep.orchestrator.task_lookup import module_file, parse

OURS = "sensweep"
# Fields of syntax nodes: how a name is used follows from its place, and `kind` is a u"" prefix.
_NO_EFFECT = frozenset({"ctx", "kind", "type_comment", "type_ignores"})


@dataclass(frozen=True, slots=True)
class CodeDigest:
    """The digest (32 hex digits) of some code, and that of each of its files.

    Files are named relative to the folder that they are imported from: `my_tasks.py`,
    `sensweep/tasks/data.py`.
    """

    digest: str
    files: dict[str, str]

    def __or__(self, other: CodeDigest) -> CodeDigest:
        return _combined(self.files | other.files)


def code_digest(module: str, root: Path | None) -> CodeDigest:
    """Digest a module and its local imports.

    Args:
        module: its dotted name.
        root: the folder from which a user's module is imported; None for one of `sensweep`.

    Raises:
        InputError: a file among them is not valid Python; with file and line.
    """
    files: dict[str, str] = {}
    pending = list(_locate(module, root))
    while pending:
        name, path, label = pending.pop()
        if label in files:
            continue
        state = path.stat()
        files[label], imports = _examine(path, state.st_mtime_ns, state.st_size)
        package = name if path.name == "__init__.py" else name.rpartition(".")[0]
        for imported in imports:
            pending += _locate(_absolute(imported, package), root)
    return _combined(files)


def _combined(files: dict[str, str]) -> CodeDigest:
    lines = "".join(f"{name} {digest}\n" for name, digest in sorted(files.items()))
    digest = hashlib.blake2b(lines.encode(), digest_size=16).hexdigest()
    return CodeDigest(digest, dict(sorted(files.items())))


def _locate(module: str, root: Path | None) -> Iterator[tuple[str, Path, str]]:
    """Yield the local files that importing a dotted name executes: packages' own and its own.

    Each comes as (module, file, name of the file). A last part that is no module is an attribute
    of what is before it.
    """
    parts = module.split(".")
    folder, start = root, 0
    if parts[0] == OURS and len(parts) > 1:
        folder, start = _our_folder(parts[1]), 2
    if folder is None:
        return
    for length in range(max(start, 1), len(parts) + 1):
        path = module_file(".".join(parts[start:length]), folder)
        if path is not None:
            label = "/".join([*parts[:start], path.relative_to(folder).as_posix()])
            yield ".".join(parts[:length]), path, label


@functools.cache
def _our_folder(package: str) -> Path | None:
    """Find the folder of `sensweep.PACKAGE`; `sensweep` itself is a namespace without one."""
    spec = find_spec(f"{OURS}.{package}")
    found = spec.submodule_search_locations if spec else None
    return Path(next(iter(found))) if found else None


def _absolute(imported: str, package: str) -> str:
    """Resolve the leading dots of a relative import; `package` holds the importing module."""
    name = imported.lstrip(".")
    level = len(imported) - len(name)
    if not level:
        return name
    base = package.split(".")[: len(package.split(".")) - (level - 1)]
    return ".".join(part for part in [*base, name] if part)


@functools.cache
def _examine(path: Path, modified: int, size: int) -> tuple[str, tuple[str, ...]]:
    """Return a file's digest and what it imports; `modified` and `size` only key the cache."""
    text: list[str] = []
    imports: dict[str, None] = {}
    tree = parse(path)
    try:
        _write(tree, text, imports)
    except RecursionError:
        raise InputError(f"{path}: an expression is nested too deeply to be read") from None
    digest = hashlib.blake2b(" ".join(text).encode(), digest_size=16).hexdigest()
    return digest, tuple(imports)


def _write(node: ast.AST, text: list[str], imports: dict[str, None]) -> None:
    """Write a syntax tree without what cannot change what the code computes, noting its imports.

    Unlike `ast.dump`, empty fields are left out, so that a version of Python that adds an
    optional field to a node does not change the digests of all code.
    """
    if isinstance(node, ast.Import):
        imports |= dict.fromkeys(alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        base = "." * node.level + (f"{node.module}." if node.module else "")
        imports |= dict.fromkeys(base + alias.name for alias in node.names)
    text.append(f"({type(node).__name__}")
    for name in node._fields:
        value = getattr(node, name, None)
        if value is None or value == [] or name in _NO_EFFECT:
            continue
        text.append(name)
        if isinstance(value, ast.AST):
            _write(value, text, imports)
        elif isinstance(value, list):
            text.append("[")
            for item in value:
                if not isinstance(item, ast.AST):
                    text.append(repr(item))
                elif not _is_idle(item):
                    _write(item, text, imports)
            text.append("]")
        else:
            text.append(repr(value))
    text.append(")")


def _is_idle(node: ast.AST) -> bool:
    """Whether a statement is a docstring, another bare constant, or `pass`."""
    bare = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    return bare or isinstance(node, ast.Pass)
