"""The errors about approvals (see `services/errors.py`)."""

from __future__ import annotations

from paycenter_server.domain.approvals import PayApproval
from paycenter_server.domain.errors import PayCenterError, Reason


def _about(approval: PayApproval) -> dict[str, str]:
    return {"pay_approval_id": approval.number, "state": approval.state.value, "requested_by": approval.requested_by}


def approval_not_found() -> PayCenterError:
    """There is no such approval."""
    return PayCenterError(Reason.APPROVAL_NOT_FOUND, "There is no such approval; ListPayApprovals lists the existing ones.")


def approval_needed(approval: PayApproval) -> PayCenterError:
    """The act was stored, and waits for a second operator."""
    return PayCenterError(
        Reason.APPROVAL_NEEDED,
        f"This needs a second operator and was not carried out yet: it waits as {approval.number} until "
        f"{approval.expire_time:%Y-%m-%d %H:%M} UTC; ask another operator to approve it with ApprovePayApproval.",
        metadata={**_about(approval), "expire_time": approval.expire_time.isoformat()},
    )


def approval_decided(approval: PayApproval) -> PayCenterError:
    """It does not wait any more."""
    return PayCenterError(
        Reason.APPROVAL_DECIDED,
        f"Approval {approval.number} is {approval.state.value} and does not wait any more; make the request again if it is needed.",
        metadata=_about(approval),
    )


def approval_own(approval: PayApproval) -> PayCenterError:
    """Who requested an act cannot approve it."""
    return PayCenterError(
        Reason.APPROVAL_OWN,
        f"You have requested {approval.number} yourself; ask another operator to approve it.",
        metadata=_about(approval),
    )
