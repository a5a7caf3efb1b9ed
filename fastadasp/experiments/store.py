"""The store: a folder with one file for each finished cell, named by the cell's hash. Machines may share it.

A file is written aside, forced to the disk and renamed, so a cell is there as a whole or not at all. Nothing else has
to be right for results to be safe: two processes that happen to run one cell write the same content twice.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
import uuid
from pathlib import Path

from fastadasp.errors import RunError
from fastadasp.experiments.records import FORMAT, Result
from fastadasp.files import read_text, told, write_whole
from fastadasp.selection.cache import Notice

MARK = "store.json"
ABANDONED = 24 * 3600
"""Seconds after which a half-written file is what a killed process left behind."""


class Store:
    """Opens a store, or makes one where there is nothing; with ``write=False`` nothing is made or moved.

    Raises:
        RunError: the folder cannot be written, holds something else, or is of a newer version. Later also by every
            method, e.g. on a full disk.
    """

    def __init__(self, path: Path, notice: Notice, *, write: bool = True) -> None:
        self.path, self._notice, self._write_allowed = path, notice, write
        self._cells, self._parts, self.leases = path / "cells", path / "parts", path / "leases"
        with told(path, "store"):
            self._check()
            if write:
                for folder in (self._cells, self._parts, self.leases):
                    folder.mkdir(parents=True, exist_ok=True)
                if not (path / MARK).exists():
                    self._write(
                        path / MARK, json.dumps({"what": "cells of fastadasp studies", "format": FORMAT}) + "\n"
                    )
                self._sweep()

    def get(self, cell: str) -> Result | None:
        """The result of a cell, if there is one. A damaged file is put aside, with a notice, and counts as none."""
        path = self._file(cell)
        try:
            return self._parse(read_text(path), cell, path)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise RunError(f"store {self.path}: {path} cannot be read: {error.strerror or error}") from None
        except (ValueError, KeyError, TypeError, RecursionError):  # ValidationError and UnicodeError are ValueErrors
            if not self._write_allowed:
                return None
            with told(self.path, "store"):
                aside = path.with_suffix(f".damaged-{uuid.uuid4().hex[:8]}")
                path.replace(aside)
            self._notice(f"store {self.path}: cell {cell[:12]} was damaged and is run again; its file is now {aside}")
            return None

    def put(self, result: Result) -> None:
        """Keeps a result, in place of an earlier one of the same cell."""
        body = json.dumps(result.model_dump(mode="json"), ensure_ascii=False)  # keys in their order: tables follow it
        text = json.dumps({"format": FORMAT, "sha256": _sha(body)}) + "\n" + body + "\n"
        path = self._file(result.cell)
        with told(self.path, "store"):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._write(path, text)
            _sync_folder(path.parent)

    def _parse(self, text: str, cell: str, path: Path) -> Result:
        head, body, _ = text.split("\n", 2)
        if json.loads(head)["format"] > FORMAT:
            raise RunError(
                f"store {self.path}: cell {path.name} was written by a newer version of fastadasp; update it, or take "
                "another --store"
            )
        if json.loads(head)["sha256"] != _sha(body):
            raise ValueError
        result = Result.model_validate_json(body)
        if result.cell != cell:
            raise ValueError
        return result

    def _file(self, cell: str) -> Path:
        return self._cells / cell[:2] / f"{cell}.json"

    def _write(self, path: Path, text: str) -> None:
        write_whole(path, text, self._parts / f"{path.name}.{uuid.uuid4().hex}")

    def _check(self) -> None:
        mark = self.path / MARK
        if not self.path.exists():
            return
        if not self.path.is_dir():
            raise RunError(f"store {self.path} is a file; a store is a folder")
        if not mark.exists():
            others = [entry.name for entry in self.path.iterdir() if entry.name not in ("cells", "parts", "leases")]
            if others:
                raise RunError(
                    f"store {self.path} is not a store: it holds {others[0]!r} but no {MARK}; name an empty folder"
                )
            return
        try:
            made = int(json.loads(read_text(mark))["format"])
        except (ValueError, KeyError, TypeError, RecursionError):
            raise RunError(
                f"store {self.path}: {mark} cannot be understood; if the folder is a store of fastadasp, delete that "
                "file (the cells are in cells/ and stay)"
            ) from None
        if made > FORMAT:
            raise RunError(
                f"store {self.path} was made by a newer version of fastadasp (format {made}; this one knows {FORMAT}); "
                "update, or take another --store"
            )

    def _sweep(self) -> None:
        """Removes what killed processes had begun to write long ago."""
        for part in self._parts.iterdir():
            try:
                if time.time() - part.stat().st_mtime > ABANDONED:
                    part.unlink()
            except FileNotFoundError:  # another process was quicker
                continue


def _sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _sync_folder(path: Path) -> None:
    """Forces a rename to the disk, where folders can be opened at all."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(handle)
    except OSError:  # some network file systems refuse
        pass
    finally:
        os.close(handle)
