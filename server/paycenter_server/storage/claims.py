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


def waiting_keys(table: str, key: str, time: str) -> str:
    """The CTE `waiting`, of a WITH RECURSIVE: the keys that have rows with a time, each with its earliest. It reads one row for
    each key, as far as the statement needs them."""
    return f"""waiting AS (
    (SELECT {key}, {time} FROM {table} WHERE {time} IS NOT NULL ORDER BY {key}, {time} LIMIT 1)
  UNION ALL
    SELECT n.{key}, n.{time} FROM waiting w CROSS JOIN LATERAL (
      SELECT t.{key}, t.{time} FROM {table} t
      WHERE t.{time} IS NOT NULL AND t.{key} > w.{key} ORDER BY t.{key}, t.{time} LIMIT 1) n
)"""


def due_keys(table: str, key: str, time: str) -> str:
    """The query for the keys that have due rows, each with its earliest time. It reads one row for each key. $1 is now."""
    return f"WITH RECURSIVE {waiting_keys(table, key, time)} SELECT {key}, {time} FROM waiting WHERE {time} <= $1"


def waiting_rows(key: str, time: str) -> str:
    """The condition and order of a page of the rows of key $1 that have been due since $2, after the row with time $3 and id $4.
    $5 is the number of rows."""
    return f"""WHERE t.{key} = $1 AND t.{time} <= $2 AND t.{time} >= $3 AND (t.{time}, t.id) > ($3, $4)
           ORDER BY t.{time}, t.id LIMIT $5"""
