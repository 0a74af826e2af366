"""Whether a trial left its process as it found it.

A warm worker runs many trials in one process, and each must give the rows that it would have
given in a fresh one. A worker that a trial changed is replaced, not repaired: what can be seen
to differ is a sample of what may differ.
"""

from __future__ import annotations

import gc
import os
import random
import signal
import sys
import threading
from collections.abc import Mapping
from operator import is_

import psutil

# Namespaces in which a patched function would change the trials that follow.
_WATCHED = {
    "builtins",
    "random",
    "math",
    "numpy",
    "numpy.random",
    "torch",
    "torch.nn",
    "torch.nn.functional",
    "torch.optim",
}
_SHIPPED = "sensweep.tasks."
# Variables that libraries set for themselves when they are imported; no task reads them.
_LIBRARIES_OWN = ("KMP_", "TORCHINDUCTOR_", "TRITON_", "MPLCONFIGDIR", "TF_")
# Modules that were found not to be the user's: there are thousands, and trials of a millisecond.
_INSTALLED: set[str] = set()
# A trial may grow the process by what it caches; more than this is called a leak.
LEAK_BYTES = 2 * 2**30
LEAK_FILES = 64


def seed_everything(seed: int) -> None:
    """Put the global generators of the libraries that are loaded into a state fixed by `seed`.

    Tasks are asked to use streams of their own; one that draws from a global generator all the
    same gives the same rows on a warm worker as on a fresh one.
    """
    random.seed(seed)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(seed % 2**32)
    if (torch := sys.modules.get("torch")) is not None:
        if torch.cuda.is_available():
            torch.manual_seed(seed)
        else:  # the same, without the stack trace that it formats to seed a GPU later
            torch.default_generator.manual_seed(seed)


def forget_modules(roots: tuple[str, ...]) -> None:
    """Unload the user's own modules, which live under `roots`, so that their globals start afresh.

    Installed packages stay, also where the environment that holds them lies under a root.
    """
    for name in sys.modules.keys() - _INSTALLED:
        path = getattr(sys.modules[name], "__file__", None) or ""
        ours = name == "__main__" or name.partition(".")[0] == "sensweep"
        if not ours and path.startswith(roots) and "site-packages" not in path:
            del sys.modules[name]
        else:
            _INSTALLED.add(name)


class Snapshot:
    """The state of this process, to be compared after a trial."""

    def __init__(self) -> None:
        self._modules = 0
        self._state: dict[str, object] = {}
        self._namespaces: dict[str, dict[str, object]] = {}

    def take(self) -> None:
        """Look at the process; or keep what the last trial was compared with, if it still holds.

        Nothing of ours runs between two trials but the import of a task: where that loaded no
        module, what was seen after the one trial is what the next one finds.
        """
        if self._modules == len(sys.modules):
            return
        self._modules = len(sys.modules)
        self._state = _observe()
        watched = [name for name in sys.modules if name in _WATCHED or name.startswith(_SHIPPED)]
        self._namespaces = {name: dict(vars(sys.modules[name])) for name in watched}

    def difference(self) -> str | None:
        """Say in a few words what has changed since the snapshot; None if nothing did."""
        now = _observe()
        for what, before in self._state.items():
            if what in ("resident bytes", "open files"):
                limit = LEAK_BYTES if what == "resident bytes" else LEAK_FILES
                if now[what] - before > limit:  # type: ignore[operator]
                    return f"{what} grew from {before} to {now[what]}"
            elif now[what] != before:
                return f"{what} changed{_which(before, now[what])}"
        for name, before in self._namespaces.items():
            present = vars(sys.modules[name]) if name in sys.modules else {}
            if len(present) == len(before) and all(map(is_, before.values(), present.values())):
                continue
            for key, value in before.items():
                if key not in present or (
                    present[key] is not value and not _librarys_own(present[key], before)
                ):
                    return f"{name}.{key} was replaced"
        return None


def _librarys_own(value: object, before: Mapping[str, object]) -> bool:
    """Whether a library put `value` there itself, as parts of it do when they are first used.

    (torch wraps `manual_seed` when its compiler is loaded.) Its code then lies in an installed
    package, and it is not merely another of the namespace's functions in the wrong place.
    """
    return _installed(value) and not any(value is other for other in before.values())


def _installed(value: object) -> bool:
    code = getattr(value, "__code__", None)
    module = sys.modules.get(getattr(value, "__module__", None) or "")
    path = code.co_filename if code is not None else getattr(module, "__file__", None)
    return "site-packages" in (path or "")


def _of_a_library(thread: threading.Thread) -> bool:
    """Whether a thread is an installed package's own (tqdm's monitor), or not Python's at all."""
    if isinstance(thread, threading._DummyThread):
        return True
    if type(thread) is not threading.Thread:
        return _installed(type(thread))
    return _installed(getattr(thread, "_target", None))


def _which(before: object, after: object) -> str:
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        keys = sorted(k for k in {*before, *after} if before.get(k) != after.get(k))
        return f": {', '.join(map(str, keys[:3]))}"
    return ""


def _observe() -> dict[str, object]:
    resident, files = _sizes()
    state: dict[str, object] = {
        "resident bytes": resident,
        "open files": files,
        "working directory": os.getcwd(),
        "environment": {
            name: value for name, value in os.environ.items() if not name.startswith(_LIBRARIES_OWN)
        },
        "sys.path": tuple(sys.path),
        "threads": frozenset(t.ident for t in threading.enumerate() if not _of_a_library(t)),
        "child processes": frozenset(_children()),
        "garbage collection": gc.isenabled(),
        "recursion limit": sys.getrecursionlimit(),
        "signal handlers": tuple(signal.getsignal(s) for s in (signal.SIGALRM, signal.SIGTERM)),
    }
    if (numpy := sys.modules.get("numpy")) is not None:
        state["numpy error state"] = tuple(sorted(numpy.geterr().items()))
    if (torch := sys.modules.get("torch")) is not None and hasattr(torch, "get_default_dtype"):
        state["torch settings"] = {
            "default dtype": torch.get_default_dtype(),
            "default device": str(torch.get_default_device()),
            "grad mode": torch.is_grad_enabled(),
            "threads": torch.get_num_threads(),
            "deterministic": torch.are_deterministic_algorithms_enabled(),
            "cudnn": (torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic),
            "matmul precision": torch.get_float32_matmul_precision(),
        }
    return state


def _sizes() -> tuple[int, int]:
    """Return the resident bytes and the number of open files of this process."""
    try:
        with open("/proc/self/statm") as file:
            _, resident, shared, *_ = map(int, file.read().split())
        private = (resident - shared) * os.sysconf("SC_PAGE_SIZE")  # data sets are mapped, shared
        return private, len(os.listdir("/proc/self/fd"))
    except OSError:
        process = psutil.Process()
        files = process.num_fds() if hasattr(process, "num_fds") else process.num_handles()
        return process.memory_info().rss, files


def _children() -> list[int]:
    """List the child processes of this one, at one system call's cost if there are none."""
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return []
    except AttributeError:  # a system without waitid
        pass
    return [child.pid for child in psutil.Process().children()]
