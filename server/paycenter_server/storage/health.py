"""The statements of the health check."""

from __future__ import annotations

from paycenter_server.storage.database import Connection, WriteConnection

# One statement string is one transaction. The set is larger than work_mem, so PostgreSQL writes it to a temporary file of some
# 500 KiB, which fails where the disk is full; the row's update alone needs no new page. The update is a heap-only one, and its
# commit is written to the WAL. The identifier is fixed, so the table keeps one row.
_WRITE = """
SELECT set_config('work_mem', '64kB', true);
SELECT count(*) FROM generate_series(1, 20000) AS filler;
INSERT INTO pay_health (id, probe_time) VALUES (1, clock_timestamp())
  ON CONFLICT (id) DO UPDATE SET probe_time = excluded.probe_time;
"""

_SEALING_KEYS = """
SELECT DISTINCT split_part(envelope, ':', 2) AS key_id FROM (
  SELECT notification_secret AS envelope FROM pay_app
  UNION ALL SELECT previous ->> 'sealed' FROM pay_app, jsonb_array_elements(notification_secrets_previous) AS previous
  UNION ALL SELECT field.value ->> 'sealed' FROM (
      SELECT config FROM pay_account UNION ALL SELECT config FROM pay_binding
      UNION ALL SELECT entry -> 'config' FROM pay_account, jsonb_array_elements(earlier_keys) AS entry
    ) AS stored (config), jsonb_each(stored.config) AS field WHERE jsonb_typeof(field.value) = 'object'
) AS sealed WHERE envelope IS NOT NULL
"""


async def write_probe(connection: WriteConnection) -> None:
    """Write and commit, as a payment does. Raises what PostgreSQL raises if the database is read-only or full."""
    await connection.execute(_WRITE)


async def list_sealing_keys(connection: Connection) -> set[str]:
    """The identifiers of the master keys that sealed the stored secrets."""
    return {str(row["key_id"]) for row in await connection.fetch(_SEALING_KEYS)}
