"""The plans of all statements of storage/: on an empty schema without statistics, and on the statistics of ten million rows."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import asyncpg
import pytest
from paycenter_server.services import paging
from paycenter_server.storage import cases_desk, migrate, overview
from plans import administration, flows, lists, single
from plans.examined import Examiner, generic_plan
from plans.large import LARGE, ROWS, estimated_rows, load
from plans.rules import reading_problems, shape_problems
from support.system import open_system


async def test_all(fresh, redis_url, keys_dir, master_key_file, monkeypatch):
    t=time.time()
    def lap(n):
        nonlocal t
        print(f"{n}: {time.time()-t:.2f}"); t=time.time()
    await asyncio.to_thread(migrate.ensure, fresh)
    lap("migrate")
    examiner = Examiner()
    async with open_system(fresh, redis_url, keys_dir, master_key_file) as system:
        system.books_are_checked = False
        await flows.seed(system)
        lap("seed")
        c = await asyncpg.connect(fresh)
        await load(c)
        print([(x, await estimated_rows(c, x)) for x in LARGE])
        await c.close()
        lap("load")
        with examiner.installed():
            for part in (flows.payments, flows.refunds, flows.jobs, flows.decisions, flows.notifications, lists.orders_and_refunds, lists.notifications, lists.cases_and_audit, lists.overview, single.of_orders, single.of_refunds, single.of_others, administration.apps, administration.accounts, administration.operators, administration.approvals):
                try:
                    await part(system)
                except Exception:
                    import traceback; traceback.print_exc()
                lap(part.__name__)
    print(len(examiner.statements), sum(len(s.plans) for s in examiner.statements.values()))
    print("\n".join(examiner.missing()))
    for s in examiner.statements.values():
        for p in s.plans[:1] if 0 else s.plans:
            for x in [*shape_problems(p), *reading_problems(p)]:
                print(s, "\n       ", x)
