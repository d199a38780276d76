"""The statements of `portable` for PostgreSQL, which pass all rows as one JSON text.

With Django's ORM, each value of each row is a parameter of the statement, which takes twenty times
as long to compose.
"""

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

from django.db import transaction
from django.db.models import BooleanField, Func, QuerySet, Subquery

from ..core.lifecycle import Claim, End, Status
from .encryption import UNAVAILABLE, secrets_retention
from .finishes import end_columns, may_keep_key
from .mapping import CLAIM_COLUMNS, GRANTED_COLUMNS, Row, claim_of, rows_of
from .portable import HOLDER_COLUMNS, ClaimTerms, PortableStatements
from .statements import Composed, execute, update
from .tables import TaskRecord

NOW: Final = "STATEMENT_TIMESTAMP()"

TABLE: Final = '"lambda_tasks_taskrecord"'

STATE_TABLE: Final = '"lambda_tasks_runstate"'

PROGRESS_TABLE: Final = '"lambda_tasks_runprogress"'

SAVED_STATE: Final = (
    f"(SELECT saved.state FROM {STATE_TABLE} AS saved WHERE saved.record_id = {TABLE}.id"  # noqa: S608
    " ORDER BY saved.attempt DESC LIMIT 1)"
)


def _returning(columns: Sequence[str], *, saved: str) -> str:
    """Return a RETURNING clause; `saved` is the SQL of the saved state, NULL for new records."""
    expressions = (saved if name == "saved" else name for name in columns)
    return f" RETURNING {', '.join(expressions)}"


ROW_TYPES: Final = {
    "id": "uuid",
    "task_name": "text",
    "args": "jsonb",
    "kwargs": "jsonb",
    "backend": "text",
    "secrets": "text",
    "n_retries": "smallint",
    "n_continues": "smallint",
    "queue": "text",
    "group_key": "text",
    "priority": "smallint",
    "root_id": "uuid",
    "retry_of": "uuid",
    "headers": "jsonb",
    "expires_at": "timestamptz",
    "unique_key": "uuid",
    "unique_while": "text",
    "unique_until": "timestamptz",
    "workflow_id": "uuid",
    "step": "integer",
    "links": "jsonb",
    "enqueued_at": "timestamptz",
    "run_after": "timestamptz",
    "delay_s": "double precision",
    "grace_s": "double precision",
    "ahead_s": "double precision",
    "age_s": "double precision",
}
"""The SQL types of the values of a Row."""

LOOK_VALUES: Final = ("grace_s", "ahead_s")
"""The values of a Row that `look_at` is computed from."""

ONLY_FOR_TIMES: Final = {"delay_s", "age_s", *LOOK_VALUES}
"""The values of a Row that are no columns."""

OPTIONAL_END_TYPES: Final = {
    "result": "jsonb",
    "exception_class": "text",
    "traceback": "text",
    "error_id": "uuid",
}
"""The columns that the end of an attempt may leave unchanged. `has_result` says whether there is a
result, which may be null; the others have such a flag, too."""

END_TYPES: Final = {
    "id": "uuid",
    "claim_token": "uuid",
    "status": "text",
    "ran_for_s": "double precision",
    **OPTIONAL_END_TYPES,
    **{f"has_{name}": "boolean" for name in OPTIONAL_END_TYPES},
    "may_keep_key": "boolean",
}

SECRETS_ASSIGNMENTS: Final = (
    "secrets = CASE WHEN given.status = %(failed)s AND %(secrets_for)s::interval IS NOT NULL"
    " THEN record.secrets END,"
    f" look_at = CASE WHEN given.status = %(failed)s AND record.secrets > '{UNAVAILABLE}'"
    f" THEN {NOW} + %(secrets_for)s::interval END"
)
"""The assignments of finishes.common_columns() for ends with different outcomes."""

UNIQUE_KEY_ASSIGNMENT: Final = (
    "unique_key = CASE WHEN given.may_keep_key"
    f" AND record.unique_until > {NOW} THEN record.unique_key END"
)
"""The same for the unique key."""

BROKEN_ASSIGNMENT: Final = (
    f"broken_since = CASE WHEN given.status = %(failed)s THEN {NOW} ELSE record.broken_since END"
)
"""The same for what is still broken."""

HELD_RECORD: Final = (
    f"{TABLE} WHERE id = %(id)s AND claim_token = %(token)s AND status = %(status)s"
)
"""The record of a claim that still holds, read without a lock."""

LEVELS_QUERY: Final = f"""
WITH RECURSIVE queues (queue) AS (
    SELECT MIN(queue) FROM {TABLE} WHERE look_at IS NOT NULL
    UNION ALL
    SELECT (
        SELECT MIN(held.queue) FROM {TABLE} AS held
        WHERE held.queue > queues.queue AND look_at IS NOT NULL
    ) FROM queues WHERE queues.queue IS NOT NULL
), levels (queue, priority) AS (
    SELECT queues.queue, (
        SELECT MIN(held.priority) FROM {TABLE} AS held
        WHERE held.queue = queues.queue AND look_at IS NOT NULL
    ) FROM queues WHERE queues.queue IS NOT NULL
    UNION ALL
    SELECT levels.queue, (
        SELECT MIN(held.priority) FROM {TABLE} AS held
        WHERE held.queue = levels.queue AND held.priority > levels.priority
        AND look_at IS NOT NULL
    ) FROM levels WHERE levels.priority IS NOT NULL
)
SELECT queue, priority FROM levels WHERE (
    SELECT MIN(held.look_at) FROM {TABLE} AS held
    WHERE held.queue = levels.queue AND held.priority = levels.priority
) <= {NOW} + %(early)s
"""  # noqa: S608
"""A query that steps from one value to the next by the index; DISTINCT would read all of it."""

PAUSED_QUERY: Final = 'SELECT name FROM "lambda_tasks_queuestate" WHERE is_paused'
"""The names of the queues that are paused."""

MAX_ROWS_CHARS: Final = 64 * 2**20
"""The most characters of the rows of one statement; a jsonb array has at most 256 MiB."""

_encode = json.JSONEncoder(separators=(",", ":"), default=str).encode


class PostgresStatements(PortableStatements):
    """See PortableStatements."""

    claim_returning = _returning(GRANTED_COLUMNS, saved=SAVED_STATE)
    shift_returning = " RETURNING token, n_asked, n_asked_before, next_at, STATEMENT_TIMESTAMP()"

    def insert_queued(self, rows: Sequence[Row], *, is_sent: bool = False) -> None:
        """See PortableStatements."""
        columns = {"status": "%(status)s", "n_attempts": "0", "n_waits": "0"}
        if is_sent:
            columns["sent_at"] = NOW
        self._insert(rows, columns, {"status": Status.QUEUED})

    def insert_waiting(self, rows: Sequence[Row]) -> None:
        """See PortableStatements."""
        columns = {"status": "%(status)s", "n_attempts": "0", "n_waits": "0"}
        columns["look_at"] = "NULL::timestamptz"
        self._insert(rows, columns, {"status": Status.WAITING})

    def insert_unique(self, rows: Sequence[Row]) -> set[UUID]:
        """See PortableStatements. Executes one statement."""
        columns = {"status": "%(status)s", "n_attempts": "0", "n_waits": "0"}
        inserted = self._insert(rows, columns, {"status": Status.QUEUED}, returning=" RETURNING id")
        return {id for (id,) in inserted}

    def find_holders(self, rows: Sequence[Row], *, lock: bool) -> list[Row]:
        """See PortableStatements. Returns the records of these rows, too, if they are stored.

        The lock is shared: those who join the same record need not wait for one another.
        """
        columns = ", ".join(NOW if name == "now" else name for name in HOLDER_COLUMNS)
        sql = (
            f"SELECT {columns} FROM {TABLE} WHERE unique_key = ANY(%(keys)s::uuid[])"  # noqa: S608
            f" OR id = ANY(%(ids)s::uuid[]){' FOR SHARE' if lock else ''}"
        )
        params = {
            "keys": _array_of(row["unique_key"] for row in rows),
            "ids": _array_of(row["id"] for row in rows),
        }
        with self.connection.cursor() as cursor:
            cursor.execute(sql, params)
            return list(rows_of(cursor.fetchall(), HOLDER_COLUMNS).values())

    def insert_claimed(
        self, rows: Sequence[Row], terms: ClaimTerms, *, begin: bool = True
    ) -> dict[UUID, Claim]:
        """See PortableStatements."""
        columns = {
            "status": "%(status)s",
            "start_time": NOW if begin else "NULL::timestamptz",
            "n_attempts": "1" if begin else "0",
            "n_waits": "0",
            "worker_ids": "%(worker_ids)s" if begin else "NULL",
            "claim_token": "%(claim_token)s",
            "lease_until": f"{NOW} + %(lease)s",
        }
        params = {
            "status": Status.RUNNING,
            "worker_ids": terms.worker_ids,
            "claim_token": terms.token,
            "lease": terms.lease,
        }
        returning = _returning(CLAIM_COLUMNS, saved="NULL")
        inserted = rows_of(self._insert(rows, columns, params, returning=returning), CLAIM_COLUMNS)
        return {id: claim_of(row, terms.token) for id, row in inserted.items()}

    def claim(self, ids: Sequence[UUID], terms: ClaimTerms) -> dict[UUID, Row]:
        """See PortableStatements. Executes one statement, which skips locked records itself."""
        return self.update_claimable(ids, terms)

    def _compose_claim(
        self, records: "QuerySet[TaskRecord]", values: Mapping[str, Any]
    ) -> Composed:
        """See PortableStatements."""
        free = records.order_by().select_for_update(skip_locked=True, no_key=True)
        # Django composes SELECT FOR UPDATE in a transaction only; nothing is sent for this one.
        with transaction.atomic(using=self.alias, savepoint=False):
            chosen = _IdInArray(Subquery(free.values("id")), output_field=BooleanField())
            return update(self._records.filter(chosen), values)

    def _begin(
        self, claims: Sequence[Claim], lease: timedelta, worker_ids: str
    ) -> dict[UUID, datetime]:
        """See PortableStatements."""
        sql = (
            f"UPDATE {TABLE} SET start_time = {NOW}, lease_until = {NOW} + %(lease)s,"  # noqa: S608
            " n_attempts = n_attempts + 1, "
            " worker_ids = COALESCE(worker_ids, '') || %(worker_ids)s"
            " WHERE id = ANY(%(ids)s::uuid[]) AND claim_token = ANY(%(tokens)s::uuid[])"
            " AND status = %(status)s AND start_time IS NULL"
            f" AND (expires_at IS NULL OR expires_at > {NOW}"
            " OR n_attempts > 0 OR cut_off_s IS NOT NULL)"
        )
        params = {
            "lease": lease,
            "worker_ids": worker_ids,
            "ids": _array_of(claim.invocation_id for claim in claims),
            "tokens": _array_of({claim.token for claim in claims}),
            "status": Status.RUNNING,
        }
        return dict(execute(self.connection, sql, params, returning=" RETURNING id, start_time")[1])

    def finish_many(self, ends: Sequence[End]) -> Collection[UUID]:
        """See PortableStatements."""
        if any(end.drops_arguments or end.moves_on for end in ends):
            return super().finish_many(ends)
        optional = ", ".join(
            f"{name} = CASE WHEN given.has_{name} THEN given.{name} ELSE record.{name} END"
            for name in OPTIONAL_END_TYPES
        )
        start_time = f"COALESCE({NOW} - make_interval(secs => given.ran_for_s), record.start_time)"
        sql = (
            f"UPDATE {TABLE} AS record SET status = given.status, {SECRETS_ASSIGNMENTS},"  # noqa: S608
            f" {UNIQUE_KEY_ASSIGNMENT}, {BROKEN_ASSIGNMENT},"
            f" end_time = {NOW}, start_time = {start_time}, {optional}"
            f" FROM {_recordset('rows', END_TYPES)}"
            " WHERE record.id = given.id AND record.claim_token = given.claim_token"
            " AND record.status = %(status)s"
        )
        params = {
            "rows": _encode([_end_row(end) for end in ends]),
            "status": Status.RUNNING,
            "failed": Status.FAILED,
            "secrets_for": secrets_retention(),
        }
        _, held = execute(self.connection, sql, params, returning=" RETURNING record.id")
        return {id for (id,) in held}

    def save_state(self, claim: Claim, state: Any) -> bool:
        """See PortableStatements."""
        sql = (
            f"INSERT INTO {STATE_TABLE} (record_id, attempt, state)"  # noqa: S608
            f" SELECT id, %(attempt)s, %(state)s::jsonb FROM {HELD_RECORD}"
            " ON CONFLICT (record_id, attempt) DO UPDATE SET state = EXCLUDED.state"
        )
        params = {"attempt": claim.attempt, "state": None if state is None else _encode(state)}
        held, _ = execute(self.connection, sql, params | _claim_params(claim))
        return bool(held)

    def show_progress(self, claim: Claim, progress: Any) -> None:
        """See PortableStatements."""
        sql = (
            f"INSERT INTO {PROGRESS_TABLE} (record_id, progress, shown_at)"  # noqa: S608
            f" SELECT id, %(progress)s::jsonb, {NOW} FROM {HELD_RECORD}"
            " ON CONFLICT (record_id) DO UPDATE"
            " SET progress = EXCLUDED.progress, shown_at = EXCLUDED.shown_at"
        )
        params = {"progress": _encode(progress)}
        execute(self.connection, sql, params | _claim_params(claim))

    def mark_sent(self, ids: Sequence[UUID], ahead: timedelta, *, only_new: bool = False) -> None:
        """See PortableStatements."""
        # Locked rows are skipped, so this never waits and can't deadlock: they run already, or are
        # just being claimed. Running rows are skipped, too: where isolation is strict, their run
        # could not write its end any more. The UPDATE finds rows by ctid, which is stable while
        # they are locked, at half the cost of a join by id.
        waits_for_none = (
            "n_attempts = 0 AND n_waits = 0 AND refused_at IS NULL"
            if only_new
            else f"limit_key IS NULL AND (refused_at IS NULL OR n_waits = 0 OR look_at <= {NOW})"
            f" AND NOT (queue IN ({PAUSED_QUERY}) AND secrets IS DISTINCT FROM '{UNAVAILABLE}')"
        )
        free = (
            f"SELECT ctid FROM {TABLE} WHERE id = ANY(%(ids)s::uuid[])"  # noqa: S608
            f" AND NOT (status = %(status)s AND COALESCE(lease_until >= {NOW}, FALSE))"
            f" AND (run_after IS NULL OR run_after <= {NOW} + %(ahead)s)"
            f" AND {waits_for_none}"
        )
        sql = (
            f"UPDATE {TABLE} SET sent_at = {NOW},"  # noqa: S608
            # See PortableStatements: the relay waits anew before it sends the message once more.
            f" lease_until = CASE WHEN lease_until < {NOW} THEN {NOW} ELSE lease_until END"
            f" WHERE ctid = ANY(ARRAY({free} FOR NO KEY UPDATE SKIP LOCKED))"
        )
        params = {
            "ids": _array_of(ids),
            "status": Status.RUNNING,
            "ahead": ahead,
        }
        execute(self.connection, sql, params)

    def levels(self, early: timedelta) -> list[tuple[str, int]]:
        """See PortableStatements. Executes one statement."""
        params: dict[str, Any] = {"early": early}
        with self.connection.cursor() as cursor:
            cursor.execute(LEVELS_QUERY, params)
            return list(cursor.fetchall())

    def _insert(
        self,
        rows: Sequence[Row],
        shared_columns: Mapping[str, str],
        shared_params: Mapping[str, Any],
        *,
        returning: str = "",
    ) -> list[tuple[Any, ...]]:
        """Insert rows, skip those that exist already, and return the `returning` of the others.

        A row has a value for each of ROW_TYPES; an `enqueued_at` of None means now.
        `shared_columns` is the SQL of further columns, the same for all rows.
        """
        if len(rows) == 1:
            (row,) = rows
            return self._insert_one(row, shared_columns, shared_params, returning=returning)
        # A value that all rows share is passed once, and one that none has is left out. Only those
        # that differ go into the JSON text.
        columns = {name: [row[name] for row in rows] for name in ROW_TYPES}
        given = [name for name, values in columns.items() if _has_any(values)]
        differing = {name: f"given.{name}" for name in given if _differs(name, columns[name])}
        shared = [name for name in given if name not in differing]
        values = differing | {name: f"%({name})s::{ROW_TYPES[name]}" for name in shared}
        params = {**shared_params, **{name: _param_of(name, rows[0][name]) for name in shared}}
        # Most messages start a chain, so that their root is their own id, and need not be passed.
        if "root_id" in differing and columns["root_id"] == columns["id"]:
            values["root_id"] = "given.id"
            del differing["root_id"]
        values |= _times(values)
        values |= shared_columns
        source = _recordset("rows", {name: ROW_TYPES[name] for name in differing})
        sql = (
            f"INSERT INTO {TABLE} ({', '.join(values)})"  # noqa: S608
            f" SELECT {', '.join(values.values())} FROM {source} ON CONFLICT DO NOTHING"
        )
        texts = _json_arrays([_encode({name: row[name] for name in differing}) for row in rows])
        if len(texts) == 1:
            params |= {"rows": texts[0]}
            return execute(self.connection, sql, params, returning=returning)[1]
        with transaction.atomic(using=self.alias):
            parts = [
                execute(self.connection, sql, params | {"rows": text}, returning=returning)[1]
                for text in texts
            ]
        return [row for part in parts for row in part]

    def _insert_one(
        self,
        row: Row,
        shared_columns: Mapping[str, str],
        shared_params: Mapping[str, Any],
        *,
        returning: str,
    ) -> list[tuple[Any, ...]]:
        """Insert a row by its values: the server takes half the time that a SELECT of them takes.

        A web process waits for this statement in each transaction with a call.
        """
        given = {
            name: _param_of(name, row[name])
            for name in ROW_TYPES
            if row[name] is not None and name not in ONLY_FOR_TIMES
        }
        times, params = _times_of(row)
        values = {**{name: f"%({name})s" for name in given}, **times, **shared_columns}
        sql = (
            f"INSERT INTO {TABLE} ({', '.join(values)})"  # noqa: S608
            f" VALUES ({', '.join(values.values())})"
            " ON CONFLICT DO NOTHING"
        )
        params = {**given, **params, **shared_params}
        return execute(self.connection, sql, params, returning=returning)[1]


class _IdInArray(Func):
    """The condition that a record's id is among those of a subquery, which is executed once.

    The server plans it in three quarters of the time that it takes for IN.
    """

    template = f"{TABLE}.id = ANY(ARRAY(%(expressions)s))"


def _claim_params(claim: Claim) -> dict[str, Any]:
    return {"id": claim.invocation_id, "token": claim.token, "status": Status.RUNNING}


def _end_row(end: End) -> Row:
    columns = end_columns(end)
    return {
        "id": end.claim.invocation_id,
        "claim_token": end.claim.token,
        "ran_for_s": None if end.ran_for is None else end.ran_for.total_seconds(),
        "may_keep_key": may_keep_key(end.outcome),
        **columns,
        **{f"has_{name}": True for name in OPTIONAL_END_TYPES if name in columns},
    }


def _json_arrays(rows: Sequence[str]) -> list[str]:
    """Join rows into JSON arrays, each small enough for PostgreSQL."""
    arrays: list[list[str]] = [[]]
    size = 0
    for row in rows:
        if arrays[-1] and size + len(row) > MAX_ROWS_CHARS:
            arrays.append([])
            size = 0
        arrays[-1].append(row)
        size += len(row)
    return [f"[{','.join(array)}]" for array in arrays]


def _times_of(row: Row) -> tuple[dict[str, str], dict[str, Any]]:
    """Return the SQL of a row's columns that are times, and the parameters that it needs more."""
    grace_s, ahead_s, delay_s, age_s = (row[f"{n}_s"] for n in ("grace", "ahead", "delay", "age"))
    soon, params = f"{NOW} + %(soon)s", {"soon": timedelta(seconds=grace_s - age_s)}
    times = {"look_at": soon}
    if row["enqueued_at"] is None:
        times["enqueued_at"] = f"{NOW} - %(age)s"
        params["age"] = timedelta(seconds=age_s)
    if row["run_after"] is not None:
        times["look_at"] = f"GREATEST({soon}, %(run_after)s - %(ahead)s)"
        params["ahead"] = timedelta(seconds=ahead_s)
    elif delay_s is not None:
        times["run_after"] = f"{NOW} + %(due)s"
        params["due"] = timedelta(seconds=delay_s - age_s)
        params["soon"] = timedelta(seconds=max(grace_s, delay_s - ahead_s) - age_s)
    return times, params


def _times(values: dict[str, str]) -> dict[str, str]:
    """Return the SQL of the columns that are times; take what they are computed from out."""
    called_at = f"{NOW} - make_interval(secs => {values.pop('age_s')})"
    enqueued_at = [values["enqueued_at"]] if "enqueued_at" in values else []
    times = {"enqueued_at": f"COALESCE({', '.join([*enqueued_at, called_at])})"}
    soon, early = (f"make_interval(secs => {values.pop(name)})" for name in LOOK_VALUES)
    looks = [f"{called_at} + {soon}"]
    due = [values["run_after"]] if "run_after" in values else []
    if "delay_s" in values:
        due.append(f"{called_at} + make_interval(secs => {values.pop('delay_s')})")
    if due:
        times["run_after"] = f"COALESCE({', '.join(due)})"
        # NULL for those that are due at once, which GREATEST ignores on PostgreSQL.
        looks.append(f"{times['run_after']} - {early}")
    return times | {"look_at": f"GREATEST({', '.join(looks)})"}


def _has_any(column: Sequence[Any]) -> bool:
    """Return whether a value of a column is not None. Counting compares each UUID in Python."""
    return column[0] is not None or column.count(None) < len(column)


def _differs(name: str, column: Sequence[Any]) -> bool:
    """Return whether the values of a column are not all the same."""
    first = column[0]
    if ROW_TYPES[name] == "jsonb":  # Python's == would treat 1, 1.0 and true as the same JSON
        return any(value is not first for value in column)
    return bool(column[-1] != first) or column.count(first) < len(column)


def _param_of(name: str, value: Any) -> Any:
    return _encode(value) if ROW_TYPES[name] == "jsonb" and value is not None else value


def _array_of(ids: Iterable[UUID]) -> str:
    """Return ids as the text of an array: one parameter, however many they are."""
    return f"{{{','.join(map(str, ids))}}}"


def _recordset(param: str, types: Mapping[str, str]) -> str:
    columns = ", ".join(f"{name} {type}" for name, type in types.items())
    return f"jsonb_to_recordset(%({param})s::jsonb) AS given ({columns})"
