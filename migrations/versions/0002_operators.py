"""Operators, their sessions, and the audit."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_JSON = postgresql.JSONB(astext_type=sa.Text())
_TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "pay_operator",
        sa.Column("id", sa.UUID(), nullable=False),
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("role", sa.String(length=16), nullable=False),
        sa.Column("app_keys", _JSON, nullable=False),
        sa.Column("enabled", sa.Boolean(), nullable=False),
        sa.Column("password_hash", sa.Text(), nullable=True),
        sa.Column("must_change_password", sa.Boolean(), nullable=False),
        sa.Column("totp_secret", sa.Text(), nullable=True),
        sa.Column("totp_pending", sa.Text(), nullable=True),
        sa.Column("totp_step", sa.BigInteger(), nullable=False),
        sa.Column("recovery_codes", _JSON, nullable=False),
        sa.Column("create_time", _TIME, nullable=False),
        sa.Column("update_time", _TIME, nullable=False),
        sa.CheckConstraint("role IN ('viewer', 'finance', 'developer', 'admin')", name=op.f("pay_operator_role_check")),
        sa.PrimaryKeyConstraint("id", name=op.f("pay_operator_pkey")),
        sa.UniqueConstraint("name", name=op.f("pay_operator_name_key")),
    )
    op.add_column("pay_credential", sa.Column("operator_id", sa.UUID(), nullable=True))
    op.add_column("pay_credential", sa.Column("role", sa.String(length=16), nullable=True))
    op.add_column("pay_credential", sa.Column("app_keys", _JSON, server_default=sa.text("'[]'::jsonb"), nullable=False))
    op.add_column("pay_credential", sa.Column("expire_time", _TIME, nullable=True))
    # Each name of the operator credentials that there are becomes an operator with all rights, as it had.
    op.execute(
        """INSERT INTO pay_operator (id, name, role, app_keys, enabled, must_change_password, totp_step, recovery_codes,
                                     create_time, update_time)
           SELECT gen_random_uuid(), name, 'admin', '[]', true, false, 0, '[]', min(create_time), now()
           FROM pay_credential WHERE app_id IS NULL GROUP BY name"""
    )
    op.execute(
        "UPDATE pay_credential SET operator_id = o.id FROM pay_operator o WHERE pay_credential.app_id IS NULL "
        "AND o.name = pay_credential.name"
    )
    op.create_foreign_key(op.f("pay_credential_operator_id_fkey"), "pay_credential", "pay_operator", ["operator_id"], ["id"])
    op.create_check_constraint(op.f("pay_credential_owner_check"), "pay_credential", "(app_id IS NULL) <> (operator_id IS NULL)")
    op.create_index(op.f("pay_credential_operator_id_idx"), "pay_credential", ["operator_id"], unique=False)
    op.create_table(
        "pay_session",
        sa.Column("id", sa.UUID(), nullable=False),
        sa.Column("operator_id", sa.UUID(), nullable=False),
        sa.Column("token_hash", sa.LargeBinary(), nullable=False),
        sa.Column("peer", sa.String(length=64), nullable=False),
        sa.Column("agent", sa.String(length=200), nullable=False),
        sa.Column("create_time", _TIME, server_default=sa.text("now()"), nullable=False),
        sa.Column("used_time", _TIME, server_default=sa.text("now()"), nullable=False),
        sa.Column("revoke_time", _TIME, nullable=True),
        sa.ForeignKeyConstraint(
            ["operator_id"], ["pay_operator.id"], name=op.f("pay_session_operator_id_fkey"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pay_session_pkey")),
        sa.UniqueConstraint("token_hash", name=op.f("pay_session_token_hash_key")),
    )
    op.create_index(op.f("pay_session_operator_id_idx"), "pay_session", ["operator_id"], unique=False)
    op.create_table(
        "pay_login_failure",
        sa.Column("subject", sa.String(length=80), nullable=False),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.Column("blocked_until", _TIME, nullable=False),
        sa.Column("update_time", _TIME, nullable=False),
        sa.PrimaryKeyConstraint("subject", name=op.f("pay_login_failure_pkey")),
    )
    _audit()


def _audit() -> None:
    op.create_table(
        "pay_audit",
        sa.Column("id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("time", _TIME, nullable=False),
        sa.Column("actor_kind", sa.String(length=16), nullable=False),
        sa.Column("actor", sa.String(length=64), nullable=False),
        sa.Column("operator", sa.String(length=64), nullable=False),
        sa.Column("act", sa.String(length=64), nullable=False),
        sa.Column("object", sa.String(length=200), nullable=False),
        sa.Column("outcome", sa.String(length=32), nullable=False),
        sa.Column("app_key", sa.String(length=64), nullable=False),
        sa.Column("before", _JSON, nullable=True),
        sa.Column("after", _JSON, nullable=True),
        sa.Column("peer", sa.String(length=200), nullable=False),
        sa.Column("request_id", sa.String(length=200), nullable=False),
        sa.Column("previous_hash", sa.LargeBinary(), nullable=False),
        sa.Column("hash", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pay_audit_pkey")),
    )
    op.create_index("pay_audit_operator_id_idx", "pay_audit", ["operator", "id"], unique=False)
    op.create_index("pay_audit_act_id_idx", "pay_audit", ["act", "id"], unique=False)
    op.create_table(
        "pay_audit_head",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("last_id", sa.BigInteger(), nullable=False),
        sa.Column("last_hash", sa.LargeBinary(), nullable=False),
        sa.CheckConstraint("id = 1", name=op.f("pay_audit_head_id_check")),
        sa.PrimaryKeyConstraint("id", name=op.f("pay_audit_head_pkey")),
    )
    op.execute("INSERT INTO pay_audit_head (id, last_id, last_hash) VALUES (1, 0, decode(repeat('00', 32), 'hex'))")
    op.execute(
        """CREATE FUNCTION pay_audit_refuse() RETURNS trigger LANGUAGE plpgsql AS $$
           BEGIN
             RAISE EXCEPTION '% is append-only: % is refused', TG_TABLE_NAME, TG_OP USING ERRCODE = 'restrict_violation';
           END $$"""
    )
    op.execute(
        "CREATE TRIGGER pay_audit_append_only BEFORE UPDATE OR DELETE ON pay_audit FOR EACH ROW EXECUTE FUNCTION pay_audit_refuse()"
    )
    op.execute(
        "CREATE TRIGGER pay_audit_no_truncate BEFORE TRUNCATE ON pay_audit FOR EACH STATEMENT EXECUTE FUNCTION pay_audit_refuse()"
    )
    op.execute(
        "CREATE TRIGGER pay_audit_head_advances BEFORE UPDATE ON pay_audit_head FOR EACH ROW "
        "WHEN (NEW.last_id <> OLD.last_id + 1) EXECUTE FUNCTION pay_audit_refuse()"
    )
    op.execute(
        "CREATE TRIGGER pay_audit_head_stays BEFORE DELETE ON pay_audit_head FOR EACH ROW EXECUTE FUNCTION pay_audit_refuse()"
    )
    op.execute(
        "CREATE TRIGGER pay_audit_head_no_truncate BEFORE TRUNCATE ON pay_audit_head FOR EACH STATEMENT "
        "EXECUTE FUNCTION pay_audit_refuse()"
    )


def downgrade() -> None:
    op.drop_table("pay_audit_head")
    op.drop_table("pay_audit")
    op.execute("DROP FUNCTION pay_audit_refuse")
    op.drop_table("pay_login_failure")
    op.drop_table("pay_session")
    op.drop_constraint(op.f("pay_credential_owner_check"), "pay_credential")
    op.drop_constraint(op.f("pay_credential_operator_id_fkey"), "pay_credential")
    op.drop_index(op.f("pay_credential_operator_id_idx"), table_name="pay_credential")
    for name in ("operator_id", "role", "app_keys", "expire_time"):
        op.drop_column("pay_credential", name)
    op.drop_table("pay_operator")
