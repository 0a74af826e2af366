"""The few file operations that the store needs, and their local implementation.

Everything that the store promises rests on two of them: `create_exclusive`, where of many writers
exactly one wins, and `write`, which replaces a file whole or not at all. An object store can give
both (conditional put, put), which is why the store asks for nothing more: no locks, no appends,
no renames of its own, no memory maps.
"""

from __future__ import annotations

import contextlib
import errno
import os
import uuid
from pathlib import Path
from typing import Protocol

from sensweep.results.errors import StoreError

#: Aside files older than this were left by a crash: no write takes a day.
_ABANDONED_SECONDS = 86400.0

_NO_HARD_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}


class Files(Protocol):
    """Named byte strings. Paths are relative, with `/`; folders come into being by themselves.

    The law: after `create_exclusive` or a durable `write` has returned, the file survives the
    loss of process, machine and power. When one raises, the file has its old content or the
    new, never a mixture. Operations may be called from several threads and processes.
    """

    def create_exclusive(self, path: str, data: bytes) -> None:
        """Create a durable file with all its content, or raise FileExistsError.

        It succeeds where the file already holds exactly `data`: that is this writer's own
        earlier call, whose answer was lost. So `data` must tell its writer from any other.
        """

    def write(self, path: str, data: bytes, *, durable: bool = True) -> None:
        """Create or replace a file; when not `durable`, a power loss may spoil its content."""

    def read(self, path: str) -> bytes:
        """Return the whole content; raise FileNotFoundError where there is none."""

    def list(self, folder: str) -> list[str]:
        """Return the sorted names of files and folders in `folder`; none if it is missing."""

    def delete(self, path: str) -> None:
        """Remove a file; a file that is not there is no error."""

    def version(self, path: str) -> str | None:
        """Return a token that changes with every change of the file; None if it is missing."""

    def locate(self, path: str) -> str:
        """Return the full address of a path, for people."""

    def tidy(self) -> None:
        """Remove what crashed writers left half written."""


class LocalFiles:
    """Files below one folder, on a local disk or on NFS.

    Content is written aside, in `staging/`, and made visible by `link` (which fails where the
    target exists) or `replace`. File locks are not used: NFS may not have them, and a frozen
    process would hold them for ever.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root).absolute()
        self._made: set[Path] = set()

    def create_exclusive(self, path: str, data: bytes) -> None:
        """Create `path` by linking a finished file to it; see `Files.create_exclusive`.

        Raises:
            FileExistsError: the file exists with another content.
            StoreError: the file system has no hard links.
        """
        target = self._target(path)
        aside = self._write_aside(data, durable=True)
        try:
            os.link(aside, target)
        except FileExistsError:
            # NFS also says so when the link was made and only the answer got lost.
            if self.read(path) != data:
                raise
        except OSError as error:
            if error.errno in _NO_HARD_LINKS:
                raise StoreError(
                    f"the file system of {self.root} has no hard links, which the results need "
                    "for exclusive creation: choose a home on a local disk or NFS"
                ) from None
            raise
        finally:
            _unlink(aside)
        _sync_folder(target.parent)

    def write(self, path: str, data: bytes, *, durable: bool = True) -> None:
        """Replace `path` by a finished file; see `Files.write`."""
        target = self._target(path)
        aside = self._write_aside(data, durable=durable)
        try:
            os.replace(aside, target)
        except OSError:
            _unlink(aside)
            raise
        if durable:
            _sync_folder(target.parent)

    def read(self, path: str) -> bytes:
        """Read a file; see `Files.read`."""
        try:
            return (self.root / path).read_bytes()
        except OSError as error:
            if error.errno == errno.ESTALE:  # NFS: deleted by another host while we read it
                raise FileNotFoundError(errno.ENOENT, "deleted while read", path) from None
            raise

    def list(self, folder: str) -> list[str]:
        """List a folder; see `Files.list`."""
        try:
            return sorted(os.listdir(self.root / folder))
        except (FileNotFoundError, NotADirectoryError):
            return []

    def delete(self, path: str) -> None:
        """Remove a file; see `Files.delete`."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.root / path)

    def version(self, path: str) -> str | None:
        """Return size, time of change and inode; see `Files.version`."""
        try:
            stat = os.stat(self.root / path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        return f"{stat.st_size}-{stat.st_mtime_ns}-{stat.st_ino}"

    def locate(self, path: str) -> str:
        """Return the absolute path."""
        return str(self.root / path)

    def tidy(self) -> None:
        """Remove aside files that are a day old by the clock of the file system itself."""
        staging = self.root / "staging"
        probe = self._write_aside(b"", durable=False)
        now = os.stat(probe).st_mtime
        for name in self.list("staging"):
            with contextlib.suppress(FileNotFoundError):
                if now - os.stat(staging / name).st_mtime > _ABANDONED_SECONDS:
                    os.unlink(staging / name)
        _unlink(probe)

    def _target(self, path: str) -> Path:
        target = self.root / path
        self._make(target.parent)
        return target

    def _write_aside(self, data: bytes, *, durable: bool) -> Path:
        aside = self.root / "staging" / uuid.uuid4().hex
        self._make(aside.parent)
        descriptor = os.open(aside, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
        try:
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(descriptor, rest) :]
            if durable:
                os.fsync(descriptor)
        except OSError:
            _unlink(aside)
            raise
        finally:
            os.close(descriptor)
        return aside

    def _make(self, folder: Path) -> None:
        """Create a folder durably; once per process, as another's may not be durable yet."""
        if folder in self._made:
            return
        if self.root in folder.parents or not folder.parent.is_dir():
            self._make(folder.parent)
        with contextlib.suppress(FileExistsError):
            os.mkdir(folder)
        with contextlib.suppress(PermissionError):  # the folder above the home may not be ours
            _sync_folder(folder.parent)
        self._made.add(folder)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _unlink(aside: Path) -> None:
    # The write has succeeded or failed already; what stays behind is for `tidy`.
    with contextlib.suppress(OSError):
        os.unlink(aside)
