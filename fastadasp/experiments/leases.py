"""Leases: who is at work on which cell, so that processes and machines share a study instead of doing it twice.

A lease is a file that only one process can create. Its owner renews it; whoever finds one that is not renewed any more,
or whose owner was a process of the same machine that is gone, takes the cell over. A lease decides who works, never
what is kept: should two processes hold one after all, both write the same result.
"""

from __future__ import annotations

import json
import os
import platform
import threading
import time
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any

from fastadasp.files import told

BEAT = 5.0
"""Seconds between renewals."""
PATIENCE = 60.0
"""Seconds without a renewal after which an owner counts as dead. Measured by the clock of whoever waits, so clocks need
not agree."""
UNWRITTEN = 5.0
"""The same for a lease without content: its owner died between two system calls."""


class Leases:
    """The leases of one process. Use it as a context: on leaving, all are given back."""

    def __init__(self, folder: Path, *, beat: float = BEAT, patience: float = PATIENCE) -> None:
        self._folder, self._beat, self._patience = folder, beat, patience
        self._me = json.dumps({**_here(), "process": os.getpid(), "token": uuid.uuid4().hex})
        self._held: set[str] = set()
        self._seen: dict[str, tuple[int, float]] = {}
        self._stop, self._lock = threading.Event(), threading.Lock()
        self._thread = threading.Thread(target=self._renew, name="leases", daemon=True)

    def __enter__(self) -> Leases:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        for cell in list(self._held):
            self.give_back(cell)

    def take(self, cell: str) -> bool:
        """Whether this process may work on the cell now. Raises RunError if the folder cannot be written."""
        if not self._create(cell):
            if not self._abandoned(cell):
                return False
            with suppress(FileNotFoundError):  # another process was quicker; it may have the cell
                self._path(cell).rename(self._folder / f"{cell}.{uuid.uuid4().hex}.dead")
            for dead in self._folder.glob(f"{cell}.*.dead"):
                dead.unlink(missing_ok=True)
            if not self._create(cell):
                return False
        with self._lock:
            self._held.add(cell)
        return True

    def give_back(self, cell: str) -> None:
        """The cell is done, or left to others."""
        with self._lock:
            self._held.discard(cell)
        with suppress(OSError):
            if self._path(cell).read_text(encoding="utf-8") == self._me:
                self._path(cell).unlink()

    def owner(self, cell: str) -> str:
        """Who holds a cell, in words."""
        about = self._read(cell)
        return f"process {about['process']} on {about['host']}" if about else "another process"

    def _create(self, cell: str) -> bool:
        with told(self._folder, "store"):
            try:
                handle = os.open(self._path(cell), os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
            except FileExistsError:
                return False
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(self._me)
        return True

    def _abandoned(self, cell: str) -> bool:
        try:
            changed = self._path(cell).stat().st_mtime_ns
        except FileNotFoundError:
            return True
        about = self._read(cell)
        here = _here()
        if about and all(about.get(key) == value for key, value in here.items()) and not _alive(about.get("process")):
            return True
        now = time.monotonic()
        last, since = self._seen.get(cell, (0, now))
        if last != changed:
            last, since = changed, now
        self._seen[cell] = (last, since)
        return now - since > (self._patience if about else min(UNWRITTEN, self._patience))

    def _read(self, cell: str) -> dict[str, Any] | None:
        try:
            about = json.loads(self._path(cell).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return about if isinstance(about, dict) and {"host", "process"} <= about.keys() else None

    def _renew(self) -> None:
        while not self._stop.wait(self._beat):
            with self._lock:
                held = list(self._held)
            for cell in held:
                with suppress(OSError):  # taken over, or a disk that is away for a moment
                    os.utime(self._path(cell))

    def _path(self, cell: str) -> Path:
        return self._folder / f"{cell}.json"


def _here() -> dict[str, str]:
    """This machine since it was started: a process number means something only there."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    try:
        started = boot.read_text(encoding="utf-8").strip()
    except OSError:
        started = ""
    return {"host": platform.node(), "boot": started}


def _alive(process: Any) -> bool:
    """Whether a process of this machine runs; True where that cannot be told."""
    if not isinstance(process, int) or os.name != "posix":
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
