"""From a task's name in a study to the file that defines it, without importing it."""

from __future__ import annotations

import ast
import functools
import importlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ValidationError

from sensweep.orchestrator.errors import FieldError, InputError, shown, suggest
from sensweep.orchestrator.validation import explain
from sensweep.tasks import catalog

_DOTTED = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")


@dataclass(frozen=True, slots=True)
class TaskSource:
    """Where a task is defined.

    Attributes:
        name: `module:function`, as a worker imports it and as it enters the trials' identity.
        root: the folder from which a user's module is imported; None for a shipped task.
        params: the model of a shipped task's params; a user's task checks its own.
    """

    name: str
    root: Path | None
    params: type[BaseModel] | None

    @property
    def module(self) -> str:
        """The dotted name of the module."""
        return self.name.partition(":")[0]


def find_task(text: str, folders: Sequence[Path]) -> TaskSource:
    """Find a shipped task by its name, or a user's `module:function` in the folders.

    Raises:
        FieldError: there is none; the message names the nearest.
        InputError: the user's file cannot be read or parsed.
    """
    if ":" not in text:
        if text not in catalog.TASKS:
            hint = suggest(text, catalog.TASKS)
            raise FieldError(f"unknown task {text!r}{hint}, or module:function of your own file")
        name, params = catalog.TASKS[text]
        return TaskSource(name, None, _load(params))
    for name, params in catalog.TASKS.values():
        if name == text:
            return TaskSource(name, None, _load(params))
    return TaskSource(text, find_function(text, folders, "task"), None)


def find_function(text: str, folders: Sequence[Path], what: str) -> Path:
    """Return the folder in which `module:function` of the user's own is found.

    Raises:
        FieldError: no such module or function; the message names the nearest.
        InputError: the file cannot be read or parsed.
    """
    if not _DOTTED.fullmatch(text):
        raise FieldError(f"{shown(text)} is not a {what}; write a name or module:function")
    module, _, function = text.partition(":")
    for folder in folders:
        path = module_file(module, folder)
        if path is None:
            continue
        defined, names = _definitions(parse(path))
        if function not in names:
            hint = suggest(function, sorted(defined))
            raise FieldError(f"{path.name} has no function {function!r}{hint}")
        return folder
    modules = {path.stem for folder in folders for path in folder.glob("*.py")}
    where = " or ".join(str(folder) for folder in folders)
    raise FieldError(f"no module {module!r} in {where}{suggest(module, sorted(modules))}")


def module_file(module: str, folder: Path) -> Path | None:
    """Return the file of a dotted module below a folder, or None."""
    base = folder.joinpath(*module.split("."))
    for path in (base.with_name(f"{base.name}.py"), base / "__init__.py"):
        if path.is_file():
            return path
    return None


def parse(path: Path) -> ast.Module:
    """Parse a Python file.

    Raises:
        InputError: not readable, or not Python; with file and line.
    """
    try:
        return ast.parse(path.read_bytes(), filename=str(path))
    except SyntaxError as error:
        raise InputError(f"{path}:{error.lineno or 1}: not valid Python: {error.msg}") from None
    except (OSError, ValueError, RecursionError, MemoryError) as error:
        raise InputError(f"{path}: cannot be read as Python: {error}") from None


def _definitions(tree: ast.Module) -> tuple[set[str], set[str]]:
    """Return the functions that a module defines, and all names that it binds at its top level."""
    functions, names = set[str](), set[str]()
    pending: list[ast.AST] = list(tree.body)
    while pending:
        node = pending.pop()
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            functions.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        else:
            pending += ast.iter_child_nodes(node)
    return functions, functions | names


def check_params(
    source: TaskSource, params: Mapping[str, object]
) -> tuple[dict[str, object], tuple[tuple[str | int, ...], str] | None]:
    """Validate a shipped task's params by its model.

    Returns:
        The params with every default filled in, so that leaving a default out or writing it is
        one trial; and None, or the path and message of the first problem.
    """
    if source.params is None:
        return dict(params), None
    try:
        return source.params.model_validate(params).model_dump(mode="json"), None
    except ValidationError as error:
        return {}, explain(error, source.params, params)


@functools.cache
def _load(name: str) -> type[BaseModel]:
    module, _, attribute = name.partition(":")
    loaded: type[BaseModel] = getattr(importlib.import_module(module), attribute)
    return loaded
