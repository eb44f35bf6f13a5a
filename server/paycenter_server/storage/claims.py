"""Parts of the statements that claim due rows by key: an endpoint, or an account.

They need an index (key, time) WHERE time IS NOT NULL, and read what they take, whatever is due beside it.
"""

from __future__ import annotations


def due_rows(table: str, key: str, key_type: str, time: str) -> str:
    """The query for the ids of the rows of `table` that have been due longest: for each key of $3 as many as $4 says. $1 is now.

    A statement uses it as `id = ANY(ARRAY(SELECT id FROM …))` and not in a join: the plan then reads the claimed rows by their key,
    whatever the statistics say.
    """
    return f"""SELECT q.id FROM unnest($3::{key_type}[], $4::int[]) f(key, places) CROSS JOIN LATERAL (
    SELECT t.id FROM {table} t WHERE t.{key} = f.key AND t.{time} <= $1
    ORDER BY t.{time} LIMIT f.places FOR NO KEY UPDATE SKIP LOCKED) q"""


def waiting_keys(table: str, key: str, time: str, first: str = "") -> str:
    """The CTE `waiting`, of a WITH RECURSIVE: the keys that have rows with a time, each with its earliest, in the order of
    keys. It reads one row for each key, as far as the statement needs them. `first`: a condition of the first key, and AND."""
    return f"""waiting AS (
    (SELECT {key}, {time} FROM {table} WHERE {first}{time} IS NOT NULL ORDER BY {key}, {time} LIMIT 1)
  UNION ALL
    SELECT n.{key}, n.{time} FROM waiting w CROSS JOIN LATERAL (
      SELECT t.{key}, t.{time} FROM {table} t
      WHERE t.{time} IS NOT NULL AND t.{key} > w.{key} ORDER BY t.{key}, t.{time} LIMIT 1) n
)"""


def due_keys(table: str, key: str, time: str) -> str:
    """The query for the keys that have due rows, each with its earliest time. It reads one row for each key. $1 is now."""
    return f"WITH RECURSIVE {waiting_keys(table, key, time)} SELECT {key}, {time} FROM waiting WHERE {time} <= $1"


def some_due_keys(table: str, key: str, time: str) -> str:
    """The same, of the first $3 keys that have rows with a time, from key $2 on. It reads one row for each of these.

    `at_end` is true for the last of them, if there are so many; it is returned in any case.
    """
    return f"""WITH RECURSIVE {waiting_keys(table, key, time, f"{key} >= $2 AND ")}, looked_at AS (
  SELECT {key}, {time}, row_number() OVER () >= $3 AS at_end FROM waiting LIMIT $3
) SELECT {key}, {time}, at_end FROM looked_at WHERE {time} <= $1 OR at_end"""


def due_of(table: str, key: str, key_type: str, time: str) -> str:
    """The query for those of the keys $2 that have due rows, each with its earliest time. It reads one row for each. $1 is now."""
    return f"""SELECT f.key AS {key}, q.{time} FROM unnest($2::{key_type}[]) f(key) CROSS JOIN LATERAL (
    SELECT t.{time} FROM {table} t WHERE t.{time} <= $1 AND t.{key} = f.key ORDER BY t.{time} LIMIT 1) q"""


def waiting_rows(key: str, time: str) -> str:
    """The condition and order of a page of the rows of key $1 that have been due since $2, after the row with time $3 and id $4.
    $5 is the number of rows."""
    return f"""WHERE t.{key} = $1 AND t.{time} <= $2 AND t.{time} >= $3 AND (t.{time}, t.id) > ($3, $4)
           ORDER BY t.{time}, t.id LIMIT $5"""
