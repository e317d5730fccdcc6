"""What a study stands on: a SQLite file that a kill cannot tear, and locks that die with their process.

Everything that can be wrong with the file or its folder becomes a StudyError here, a line that names
the file. A file that is torn or another program's is left as it is.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from mingpt import files
from mingpt.errors import UserError

APPLICATION = 0x6D475054  # "mGPT", in the header of the file: whose it is
FORMAT = 1  # also there: counts the changes of the tables
PATIENCE = 60  # seconds to wait while others write; a suggestion, made while writing, takes far less
TABLES = (
    "CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL)",
    "CREATE TABLE trials (number INTEGER PRIMARY KEY, config TEXT NOT NULL, state TEXT NOT NULL, value REAL,"
    " seconds REAL NOT NULL, attempts INTEGER NOT NULL, why TEXT NOT NULL)",
    "CREATE TABLE reports (number INTEGER NOT NULL, step REAL NOT NULL, value REAL NOT NULL,"
    " PRIMARY KEY (number, step)) WITHOUT ROWID",
)


class StudyError(UserError):
    """A study's file or folder cannot be used."""


class Database:
    """A connection to the file of a study, made where there is none yet; to one in memory where path is None."""

    def __init__(self, path: Path | None, locks: Path | None):
        """`locks`: a folder that is made after the file, so that a file that was lost is not taken for a new one.

        Raises StudyError where the file is torn, of another program, or cannot be written.
        """
        self.path = path
        if path is not None:
            make_folder(path.parent)
            had_a_study = locks.exists()  # asked first: another process may be making both
            if had_a_study and (not path.exists() or path.stat().st_size <= 1):  # SQLite takes a byte for none
                raise StudyError(
                    f"{path}: is missing or empty, and a study was here; name another folder for a new one"
                )
        with self.explained():
            # each transaction is written out below, so none is begun behind our back
            self.connection = sqlite3.connect(path or ":memory:", timeout=PATIENCE, isolation_level=None)
            try:
                self.set_up()
            except BaseException:
                self.connection.close()
                raise

    def set_up(self) -> None:
        """Check whose file it is before anything is written to it."""
        db = self.connection
        is_new = not db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        if not is_new:
            self.check(db)
        use_log(db)
        db.execute("PRAGMA synchronous=FULL")  # a commit returns when it is on the disk
        with self.transaction():
            if not db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:  # nor has another made them
                for table in TABLES:
                    db.execute(table)
                db.execute(f"PRAGMA application_id={APPLICATION}")
                db.execute(f"PRAGMA user_version={FORMAT}")

    def check(self, db: sqlite3.Connection) -> None:
        if db.execute("PRAGMA application_id").fetchone()[0] != APPLICATION:
            raise StudyError(f"{self.path}: is another program's, no study")
        version = db.execute("PRAGMA user_version").fetchone()[0]
        if version != FORMAT:
            raise StudyError(f"{self.path}: is of format {version}, and this version reads {FORMAT}")
        found = db.execute("PRAGMA quick_check(1)").fetchone()[0]
        if found != "ok":
            raise sqlite3.DatabaseError(found.splitlines()[-1])

    @contextmanager
    def transaction(self, kind: str = "IMMEDIATE") -> Iterator[sqlite3.Connection]:
        """All of it is on the disk afterwards, or, after an exception, nothing. IMMEDIATE: no other process writes."""
        with self.explained():
            self.connection.execute(f"BEGIN {kind}")
            try:
                yield self.connection
                self.connection.execute("COMMIT")
            except BaseException:
                if self.connection.in_transaction:
                    with suppress(sqlite3.Error):  # the first error says more
                        self.connection.execute("ROLLBACK")
                raise

    @contextmanager
    def explained(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            raise StudyError(f"{self.path}: cannot be used ({error}); what was saved before is whole") from None
        except (sqlite3.DatabaseError, json.JSONDecodeError, UnicodeDecodeError) as error:
            if isinstance(error, sqlite3.Error) and type(error) is not sqlite3.DatabaseError:
                raise  # a fault of ours
            raise StudyError(f"{self.path}: is torn or no study ({error}); it was left as it is") from None

    def close(self) -> None:
        self.connection.close()


def use_log(db: sqlite3.Connection) -> None:
    """Commits go to a log beside the file first, which takes 4 ms each where it took 20 on the disk measured."""
    end = time.monotonic() + PATIENCE
    while True:
        try:
            db.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:  # SQLite does not wait here for another who opens the file
            if "locked" not in str(error) or time.monotonic() > end:
                raise
            time.sleep(0.01)


class Locks:
    """The trials that this process runs, each with the lock that says so. Without a folder, there are no others."""

    def __init__(self, folder: Path | None):
        self.folder = folder
        self.held: dict[int, tuple[BinaryIO | None, float]] = {}  # by number: the lock, and when it was taken

    def make_folder(self) -> None:
        if self.folder is not None:
            make_folder(self.folder)

    def take(self, number: int) -> bool:
        """Whether trial `number` is ours from now on. Only within a transaction, so that one at a time tries."""
        if number in self.held:
            return False
        file = None
        if self.folder is not None:
            try:
                file = files.lock(self.folder / str(number))
            except BlockingIOError:
                return False
            except OSError as error:
                raise StudyError(f"{self.folder}: cannot be written ({error.strerror})") from None
        self.held[number] = file, time.monotonic()
        return True

    def seconds(self, number: int) -> float:
        return time.monotonic() - self.held[number][1]

    def free(self, number: int, has_ended: bool = False) -> None:
        """Let go of a trial. Of one that is written down as ended nobody asks again, so its lock can be removed."""
        file, _ = self.held.pop(number)
        if file is not None:
            file.close()
            if has_ended:
                with suppress(OSError):
                    Path(file.name).unlink()

    def close(self) -> None:
        for number in list(self.held):
            self.free(number)


def make_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StudyError(f"{path}: cannot be made ({error.strerror})") from None
