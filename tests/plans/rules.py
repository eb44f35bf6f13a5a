"""What must not be in the plan of a statement."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from plans.large import LARGE

PAGE = 200
"""The rows of the largest page of a list."""
FACTOR = 10
FEW = 5
"""A statement that returns fewer rows may read as many as one that returns so many."""
# An index of a column with few values, or of the rows that have none, and a filter for the one row that is wanted.
_FEW_VALUES = re.compile(r"\(+((ROW\(+)?(app_id|account_id|channel_id|state|endpoint|kind)\b|\w+ IS NULL\))")
_FEW_VALUED_KEY = re.compile(r"\b(app_id|account_id|channel_id)\b")
_ONE_ROW = re.compile(r"\b(\w+(_id|_no|_key)|id)\)?(::text)? = ")
_PARTITION = re.compile(r"_(\d{6}|default)$")


def table_of(node: dict[str, Any]) -> str:
    """The table that a node scans; that of its partition. "" if it scans none that is large."""
    table = _PARTITION.sub("", node.get("Relation Name", ""))
    return table if table in LARGE else ""


def nodes(plan: dict[str, Any], limited: bool = False) -> Iterator[tuple[dict[str, Any], bool]]:
    """Each node, and whether a LIMIT is above it with nothing between them that reads all its rows first. The scan of an index for
    a bitmap, which reads all its rows first, has the table of the bitmap."""
    yield plan, limited
    if "Bitmap" in plan["Node Type"]:
        for inner in plan.get("Plans", ()):
            inner.setdefault("Relation Name", plan.get("Relation Name", ""))
    below = plan["Node Type"] == "Limit" or (limited and plan["Node Type"] in ("Append", "Merge Append", "Nested Loop", "LockRows"))
    for inner in plan.get("Plans", ()):
        yield from nodes(inner, below)


def shape_problems(plan: dict[str, Any], *, sorted_rows: float | None = PAGE, whole: bool = False) -> Iterator[str]:
    """What a plan shows before it is executed. `sorted_rows`: so many may be sorted; None: the statistics do not tell how many.
    `whole`: a whole index may be read, because the rows that are read are bounded otherwise."""
    for node, limited in nodes(plan):
        table = table_of(node)
        if table and node["Node Type"] == "Seq Scan":
            yield f"a sequential scan of {table}"
        if table and "Index" in node["Node Type"] and "Index Cond" not in node and not limited and not whole:
            yield f"the whole index {node.get('Index Name')} of {table}"
        few, one = _FEW_VALUES.match(node.get("Index Cond", "")), _ONE_ROW.search(node.get("Filter", ""))
        if table and "Index" in node["Node Type"] and few and one:
            yield f"{node.get('Index Name')} of {table} with the filter {node['Filter']}"
        presorted = node.get("Presorted Key", [])
        if presorted and _of_large(node) and all(_FEW_VALUED_KEY.search(key) for key in presorted):
            yield f"a sort by {node['Sort Key']} of all rows that have the same {presorted}"
        # An incremental sort below a LIMIT ends with the first rows.
        sorts = node["Node Type"] == "Sort" or (node["Node Type"] == "Incremental Sort" and not limited)
        if sorts and sorted_rows is not None and _of_large(node) and (rows := node["Plans"][0]["Plan Rows"]) > sorted_rows:
            yield f"a sort of {rows} rows by {node['Sort Key']}"


def _of_large(node: dict[str, Any]) -> bool:
    return any(table_of(inner) for inner, _ in nodes(node))


def rows_of(node: dict[str, Any]) -> float:
    """The rows that a node has read in all its executions."""
    removed = sum(node.get(name, 0) for name in ("Rows Removed by Filter", "Rows Removed by Index Recheck"))
    return float((node["Actual Rows"] + removed) * node["Actual Loops"])


def returned(plan: dict[str, Any]) -> float:
    """The rows that a statement has returned, inserted, changed, deleted or locked."""
    changed = [rows_of(node["Plans"][0]) for node, _ in nodes(plan) if node["Node Type"] == "ModifyTable"]
    return float(max([plan["Actual Rows"], *changed]))


def reading_problems(plan: dict[str, Any], most: float = 0) -> Iterator[str]:
    """Scans of an executed plan that have read too much for what the statement returned. `most`: so many rows are allowed."""
    allowed = max(FACTOR * max(returned(plan), FEW), most)
    for node, _ in nodes(plan):
        if "Scan" in node["Node Type"] and table_of(node) and (rows := rows_of(node)) > allowed:
            how = f"{node.get('Index Name', node['Node Type'])} of {table_of(node)}"
            yield f"{how} reads {rows:.0f} rows for {returned(plan):.0f}: {node.get('Index Cond')} {node.get('Filter')}"
