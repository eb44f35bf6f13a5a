"""The errors of the case desk (see `services/errors.py`)."""

from __future__ import annotations

from paycenter_server.domain.cases import Decision, PayCase
from paycenter_server.domain.errors import PayCenterError, Reason
from paycenter_server.domain.states import CaseState


def case_not_found() -> PayCenterError:
    """There is no such case."""
    return PayCenterError(Reason.CASE_NOT_FOUND, "There is no such case; ListPayCases lists the existing ones.")


def decision_not_possible(case: PayCase, decision: Decision, why: str = "") -> PayCenterError:
    """The state or the kind of the case, or `why`, does not allow the decision."""
    possible = ", ".join(item.value for item in case.possible)
    if why:
        reason = why
    elif case.state is CaseState.OPEN:
        reason = f"a case of the kind {case.kind.value} takes {possible} now"
    elif case.state is CaseState.REFUNDING and case.possible:
        reason = f"its refund is in progress and has not been decided for a day; it takes {possible} now"
    elif case.state is CaseState.REFUNDING:
        reason = "its refund is in progress; query it with SyncPayRefund, and decide if it fails"
    else:
        by = case.decision or "a settlement"
        reason = f"it was resolved by {by} ({case.resolution}), so nothing is left to decide"
    return PayCenterError(
        Reason.CASE_DECISION_NOT_POSSIBLE,
        f"Case {case.number} is {case.state.value} and cannot be decided with {decision.value}: {reason}.",
        metadata={"pay_case_id": case.number, "state": case.state.value, "decision": case.decision, "possible": possible},
    )


def needs_second_operator(case: PayCase) -> PayCenterError:
    """The operator who proposed a decision cannot confirm it."""
    return PayCenterError(
        Reason.CASE_NEEDS_SECOND_OPERATOR,
        f"You have proposed {case.proposed_decision} for case {case.number}, whose amount needs a second operator; ask another "
        "operator to send the same decision.",
        metadata={"pay_case_id": case.number, "proposed_decision": case.proposed_decision, "proposed_by": case.proposed_by},
    )


def case_changed(case: PayCase) -> PayCenterError:
    """The case, its refund or its order changed during the call."""
    return PayCenterError(
        Reason.CASE_CHANGED,
        f"Case {case.number} changed while this call was running, and nothing was decided; read it and decide again.",
        metadata={"pay_case_id": case.number},
        retry_after=0.5,
    )
