"""The store of a study: one SQLite file beside the clips, safe with several processes and after a
kill.

    study/study.sqlite      facts, samples, clips, raters, tasks, answers
    study/media/*.mp4       the clips under names that say nothing

Answers are only ever added: the newest of a task counts, older ones stay as history. Whatever goes
to a rater names neither a generator nor a sample, and not whether a set is a hidden repeat.
"""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from flowportrait.errors import DataError, StudyRefused
from flowportrait.records import Ranking, Rating
from flowportrait.study.answers import RaterAnswer, Receipt, checked

DATABASE, MEDIA = "study.sqlite", "media"
VERSION = 1
BUSY_S = 30.0
"""How long a writer waits for another one."""

_SCHEMA = """
CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE sample (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);
CREATE TABLE clip (
  id INTEGER PRIMARY KEY, sample INTEGER NOT NULL REFERENCES sample, version TEXT NOT NULL,
  file TEXT NOT NULL UNIQUE, duration_s REAL NOT NULL, source TEXT NOT NULL,
  source_sha256 TEXT NOT NULL,
  sha256 TEXT NOT NULL, UNIQUE (sample, version));
CREATE TABLE rater (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, token TEXT NOT NULL UNIQUE);
CREATE TABLE task (
  id TEXT PRIMARY KEY, rater INTEGER NOT NULL REFERENCES rater, position INTEGER NOT NULL,
  sample INTEGER NOT NULL REFERENCES sample, kind TEXT NOT NULL,
  UNIQUE (rater, position)) WITHOUT ROWID;
CREATE TABLE item (
  id TEXT PRIMARY KEY, task TEXT NOT NULL REFERENCES task, letter TEXT NOT NULL,
  clip INTEGER NOT NULL REFERENCES clip,
  UNIQUE (task, letter)) WITHOUT ROWID;
CREATE TABLE answer (
  id INTEGER PRIMARY KEY AUTOINCREMENT, task TEXT NOT NULL REFERENCES task, at TEXT NOT NULL,
  body TEXT NOT NULL);
CREATE INDEX answer_of_task ON answer (task, id);
"""


@dataclass(frozen=True)
class Item:
    """One clip as a rater sees it."""

    id: str
    letter: str
    duration_s: float


@dataclass(frozen=True)
class Task:
    """One set as a rater sees it. Nothing in it names a generator or a sample."""

    id: str
    number: int
    """From 1 on, of `total`."""
    total: int
    training: bool
    """An example to learn the rubrics with; its answer does not count."""
    items: tuple[Item, ...]
    answer: RaterAnswer | None
    """What the rater said before, to be changed; None when not yet answered."""


@dataclass(frozen=True)
class Rater:
    """Progress of a rater."""

    name: str
    token: str
    done: int
    total: int


@dataclass(frozen=True)
class ClipOrigin:
    """Source of a clip, for the experimenter and never for raters."""

    sample: str
    version: str
    source: str
    """Path of the original file when the study was made."""
    digests: frozenset[str]
    """sha256 of the original file and of the copy in the study."""


class Study:
    """A study on disk. Every method is one transaction; objects may be shared by threads and
    processes.

    Raises DataError when the folder holds no study, a damaged one, or one of another schema
    version.
    """

    def __init__(self, directory: str | Path):
        self.directory = Path(directory)
        if not (self.directory / DATABASE).is_file():
            raise DataError(
                f"{self.directory}: contains no study (no {DATABASE}); create one with: study"
                " create"
            )
        with self._reading() as db:
            try:
                whole = db.execute("PRAGMA quick_check").fetchone()[0]
                self.facts = {
                    name: json.loads(value)
                    for name, value in db.execute("SELECT name, value FROM facts")
                }
            except sqlite3.OperationalError as error:
                raise DataError(f"{self.directory / DATABASE}: no study: {error}") from error
        if whole != "ok":
            raise DataError(f"{self.directory / DATABASE}: damaged ({whole}); restore a backup")
        if self.facts.get("schema_version") != VERSION:
            raise DataError(
                f"{self.directory}: a study of schema version {self.facts.get('schema_version')};"
                f" this reads {VERSION}"
            )

    @property
    def versions(self) -> list[str]:
        """Names of the versions in a set. Never show them to raters."""
        return self.facts["versions"]

    @property
    def truth(self) -> str | None:
        """The version with the original recordings."""
        return self.facts["truth"]

    @property
    def raters_per_sample(self) -> int:
        """Number of raters per sample."""
        return self.facts["raters_per_sample"]

    # ------------------------------------------------------------------------------------- for
    # raters

    def raters(self) -> list[Rater]:
        """All raters with their tokens, for the experimenter."""
        with self._reading() as db:
            return [
                Rater(*row) for row in db.execute(_RATERS + " GROUP BY rater.id ORDER BY rater.id")
            ]

    def rater(self, token: str) -> Rater:
        """The rater of a token. Raises StudyRefused (unknown_rater)."""
        with self._reading() as db:
            return self._rater(db, token)[1]

    def tasks(self, token: str) -> list[Task]:
        """All tasks of a rater in their order, answered or not."""
        with self._reading() as db:
            number, rater = self._rater(db, token)
            rows = db.execute(
                "SELECT id FROM task WHERE rater = ? ORDER BY position", (number,)
            ).fetchall()
            return [self._task(db, number, rater.total, id_) for (id_,) in rows]

    def next_task(self, token: str) -> Task | None:
        """The first task without an answer; None when the rater is done."""
        with self._reading() as db:
            number, rater = self._rater(db, token)
            row = db.execute(
                "SELECT id FROM task WHERE rater = ? AND id NOT IN (SELECT task FROM answer) ORDER"
                " BY position",
                (number,),
            ).fetchone()
            if row:
                return self._task(db, number, rater.total, row[0])
            return None

    def task(self, token: str, task_id: str) -> Task:
        """One task of this rater. Raises StudyRefused (unknown_task), for another rater's, too."""
        with self._reading() as db:
            number, rater = self._rater(db, token)
            return self._task(db, number, rater.total, task_id)

    def media(self, token: str, item_id: str) -> Path:
        """The mp4 file of an item of this rater. Serve it under the item's id. Raises StudyRefused
        (unknown_item).
        """
        with self._reading() as db:
            number, _ = self._rater(db, token)
            row = db.execute(
                "SELECT clip.file FROM item JOIN clip ON clip.id = item.clip JOIN task ON task.id ="
                " item.task WHERE item.id = ? AND task.rater = ?",
                (item_id, number),
            ).fetchone()
        if row is None:
            raise StudyRefused(
                "unknown_item", f"item {item_id!r}: no such clip of yours; open the next task"
            )
        return self.directory / MEDIA / row[0]

    def submit(self, token: str, task_id: str, answer: RaterAnswer) -> Receipt:
        """Keeps an answer, on disk when this returns; sent again it changes nothing, changed it
        replaces.

        What was played before counts with what `answer` reports now. Raises StudyRefused
        (bad_rating, bad_ranking, unwatched, unknown_item, unknown_task) and then nothing is kept.
        """
        with self._writing() as db:
            number, rater = self._rater(db, token)
            task = self._task(db, number, rater.total, task_id)
            answer = checked(answer, {item.id: item.duration_s for item in task.items}, task.answer)
            known = db.execute(
                "SELECT id FROM answer WHERE task = ? ORDER BY id DESC LIMIT 1", (task_id,)
            ).fetchone()
            if known and task.answer == answer:
                return Receipt(known[0], "unchanged")
            body = answer.model_dump_json()
            at = datetime.now(UTC).isoformat(timespec="seconds")
            row = db.execute(
                "INSERT INTO answer (task, at, body) VALUES (?, ?, ?)", (task_id, at, body)
            )
            return Receipt(row.lastrowid, "replaced" if known else "new")

    def history(self, token: str, task_id: str) -> list[tuple[str, RaterAnswer]]:
        """(time in UTC, answer) of all answers to a task, oldest first."""
        with self._reading() as db:
            self._task(db, self._rater(db, token)[0], 0, task_id)
            rows = db.execute(
                "SELECT at, body FROM answer WHERE task = ? ORDER BY id", (task_id,)
            ).fetchall()
        return [(at, RaterAnswer.model_validate_json(body)) for at, body in rows]

    # --------------------------------------------------------------- for whoever runs the study

    def records(self) -> tuple[list[Rating], list[Ranking]]:
        """All answers that count, with the generators' names; training left out, hidden repeats as
        repeat = 1.
        """
        ratings, rankings = [], []
        with self._reading() as db:
            names = _names_of_items(db)
            for rater, sample, kind, body in db.execute(_ANSWERS).fetchall():
                answer = RaterAnswer.model_validate_json(body)
                repeat = int(kind == "repeat")
                whose = {"rater": rater, "sample": sample, "repeat": repeat}
                for item, scores in answer.scores.items():
                    shown = {"version": names[item], "item": item}
                    ratings += [
                        Rating(aspect=name, score=value, **shown, **whose)
                        for name, value in scores.items()
                    ]
                groups = [[names[item] for item in group] for group in answer.groups]
                rankings.append(Ranking(groups=groups, between=list(answer.between), **whose))
        return ratings, rankings

    def samples(self) -> list[str]:
        """Names of the samples that count, that is without training."""
        with self._reading() as db:
            rows = db.execute(
                "SELECT DISTINCT sample.name FROM task JOIN sample ON sample.id = task.sample "
                "WHERE kind != 'training' ORDER BY sample.id"
            )
            return [name for (name,) in rows]

    def sources(self) -> list[ClipOrigin]:
        """Source of every clip."""
        with self._reading() as db:
            rows = db.execute(
                "SELECT sample.name, version, source, source_sha256, clip.sha256 FROM clip "
                "JOIN sample ON sample.id = clip.sample ORDER BY clip.id"
            )
            return [ClipOrigin(*row[:3], digests=frozenset(row[3:])) for row in rows]

    # ------------------------------------------------------------------------------------------
    # inside

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        """A connection for one look."""
        with _connection(self.directory / DATABASE) as db:
            # One snapshot for all that a method reads.
            db.execute("BEGIN")
            yield db

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """A connection whose changes are kept together or not at all."""
        with _connection(self.directory / DATABASE) as db:
            db.execute("BEGIN IMMEDIATE")
            yield db
            db.execute("COMMIT")

    @staticmethod
    def _rater(db: sqlite3.Connection, token: str) -> tuple[int, Rater]:
        """The number and the facts of the rater with this token. Raises StudyRefused."""
        row = db.execute("SELECT id FROM rater WHERE token = ?", (token,)).fetchone()
        if row is None:
            raise StudyRefused(
                "unknown_rater", "token: no rater has this one; use the link you were given"
            )
        return row[0], Rater(
            *db.execute(_RATERS + " WHERE rater.id = ? GROUP BY rater.id", row).fetchone()
        )

    @staticmethod
    def _task(db: sqlite3.Connection, rater: int, total: int, task_id: str) -> Task:
        """A task of this rater. Raises StudyRefused for one of somebody else."""
        row = db.execute(
            "SELECT position, kind FROM task WHERE id = ? AND rater = ?", (task_id, rater)
        ).fetchone()
        if row is None:
            raise StudyRefused(
                "unknown_task", f"task {task_id!r}: none of yours; open the next one"
            )
        items = db.execute(
            "SELECT item.id, letter, duration_s FROM item JOIN clip ON clip.id = item.clip WHERE"
            " task = ? ORDER BY letter",
            (task_id,),
        )
        shown = tuple(Item(*item) for item in items)
        said = db.execute(
            "SELECT body FROM answer WHERE task = ? ORDER BY id DESC LIMIT 1", (task_id,)
        ).fetchone()
        answer = RaterAnswer.model_validate_json(said[0]) if said else None
        return Task(task_id, row[0] + 1, total, row[1] == "training", shown, answer)


_RATERS = (
    "SELECT rater.name, rater.token, COUNT(DISTINCT answer.task), COUNT(DISTINCT task.id) FROM"
    " rater LEFT JOIN task ON task.rater = rater.id LEFT JOIN answer ON answer.task = task.id"
)
_ANSWERS = (
    "SELECT rater.name, sample.name, task.kind, answer.body FROM answer JOIN task ON task.id ="
    " answer.task JOIN rater ON rater.id = task.rater JOIN sample ON sample.id = task.sample WHERE"
    " answer.id IN (SELECT MAX(id) FROM answer GROUP BY task) AND task.kind != 'training' ORDER BY"
    " rater.id, task.position"
)


def _names_of_items(db: sqlite3.Connection) -> dict[str, str]:
    return dict(db.execute("SELECT item.id, version FROM item JOIN clip ON clip.id = item.clip"))


@contextmanager
def _connection(path: Path) -> Iterator[sqlite3.Connection]:
    """A connection that is closed in any case; what was not committed is undone."""
    try:
        db = sqlite3.connect(path, timeout=BUSY_S, isolation_level=None)
    except sqlite3.Error as error:
        raise DataError(f"{path}: cannot be opened: {error}") from error
    try:
        # In WAL mode readers and the writer do not wait for each other; FULL puts every commit on
        # the disk.
        db.execute("PRAGMA synchronous = FULL")
        yield db
    except sqlite3.DatabaseError as error:
        if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_BUSY:
            raise DataError(
                f"{path}: another process has been writing for {BUSY_S:.0f} s; try again"
            ) from error
        raise DataError(
            f"{path}: cannot be read or written ({error}); restore a backup if it is damaged"
        ) from error
    finally:
        db.close()


def make_database(path: Path) -> sqlite3.Connection:
    """An empty database of this schema; whoever fills it commits and closes it."""
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("PRAGMA journal_mode = WAL")
    db.executescript(_SCHEMA)
    return db


__all__ = [
    "ClipOrigin",
    "Item",
    "Rater",
    "RaterAnswer",
    "Receipt",
    "Study",
    "Task",
    "make_database",
]
