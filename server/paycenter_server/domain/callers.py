"""Who calls a use case."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from paycenter_server.domain.events import Actor, ActorKind
from paycenter_server.domain.roles import Role


@dataclass(frozen=True, slots=True)
class Caller:
    """The owner of a credential or of a session: an app (its id and key), or an operator (None and "").

    `key_id`: of the credential; of a session it is the operator's name. Programs of this server that call use cases are operators
    without an `operator_id`. `scope`: the apps that an operator is limited to, and `scope_keys` their keys; None and () mean all.
    `expire_time`: the end of the credential.
    """

    key_id: str
    app_id: UUID | None
    app_key: str
    role: Role = Role.ADMIN
    operator_id: UUID | None = None
    operator_name: str = ""
    scope: frozenset[UUID] | None = None
    scope_keys: tuple[str, ...] = ()
    expire_time: datetime | None = None
    must_change_password: bool = False
    is_operator: bool = field(init=False, repr=False, compare=False)
    actor: Actor = field(init=False, repr=False, compare=False)
    """The caller as the event ledger names it."""

    def __post_init__(self) -> None:
        # Made once for many calls.
        object.__setattr__(self, "is_operator", self.app_id is None)
        object.__setattr__(self, "actor", Actor(ActorKind.OPERATOR if self.is_operator else ActorKind.APP, self.key_id))

    @property
    def person(self) -> str:
        """The operator, whichever credential or session it uses: a second person has another one."""
        return self.operator_name or self.key_id

    def may_access(self, app_id: UUID | None) -> bool:
        """Whether the caller may access objects of this app; None is an object of no app."""
        if self.is_operator:
            return self.scope is None or app_id in self.scope
        return app_id is not None and self.app_id == app_id
