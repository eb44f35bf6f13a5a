"""The long-running processes: serve, callback, worker."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial

import click
import structlog

from paycenter_server.bootstrap import open_services
from paycenter_server.cli.running import beside, run_until_signalled
from paycenter_server.descriptors import raise_descriptor_limit
from paycenter_server.settings import Settings, SettingsError, split_address
from paycenter_server.storage.database import Database, retryable_error

log = structlog.get_logger(__name__)

SCHEMA_LOG_SECONDS = 5.0
WORKER_LOCK_SECONDS, CALL_LOCK_SECONDS = 1.0, 2.0
"""What a statement of a worker, and one of a call, waits for a lock. Then the row is postponed, and the call fails with
DATABASE_CONFLICT: as many of them as there are connections would otherwise hold up all others for as long as somebody has locked
their rows."""


async def wait_for_schema(database: Database, stop: asyncio.Event, *, repeat: float = SCHEMA_LOG_SECONDS) -> None:
    """Wait until the database has the schema of this version, or until `stop`: a process may start beside the migration.

    While the schema is older, a line of the log says so at once and then every `repeat` seconds.
    """
    from paycenter_server.storage.migrate import SchemaVersion, head, revision_of

    schema, wanted, loop = SchemaVersion(), head(), asyncio.get_running_loop()
    next_line = loop.time()
    while not stop.is_set():
        try:
            async with database.connection() as connection:
                found = await revision_of(connection)
        except Exception as error:
            if retryable_error(error) is None:
                raise
            found = f"unknown ({type(error).__name__})"  # the database is away; it is asked again
        else:
            if not schema.is_older(found):
                return
        if loop.time() >= next_line:
            next_line += repeat
            log.warning("schema_not_ready", found=found or "nothing", wanted=wanted, action="run `paycenter migrate`")
        try:
            await asyncio.wait_for(stop.wait(), 0.1)
        except TimeoutError:
            continue


@asynccontextmanager
async def schema_watched(database: Database, stop: asyncio.Event) -> AsyncIterator[None]:
    """The log lines of `wait_for_schema` beside a server that listens already: its health is NOT_SERVING meanwhile."""
    async with beside(wait_for_schema(database, stop)):
        yield


def check_address(variable: str, address: str) -> None:
    """SettingsError, which names the variable and the reason, if nothing can listen on the address now. gRPC gives no reason."""
    host, port = split_address(address)
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(place)
            probe.listen(1)
    except OSError as error:
        raise SettingsError(f"{variable}: cannot listen on {address}: {error.strerror or error}.") from error


@click.command()
@click.option(
    "--processes", default=1, show_default=True, type=click.IntRange(1, 64),
    help="Server processes that share the port. The kernel gives each new connection to one of them.",
)  # fmt: skip
@click.option("--parent", default=0, type=int, hidden=True, help="One of several: the process that started this one.")
@click.option("--listens", default=0, type=int, hidden=True, help="One of several: where it writes while it listens.")
def serve(processes: int, parent: int, listens: int) -> None:
    """Run the gRPC server until SIGTERM or Ctrl-C.

    One process uses one processor. The limits of calls and connections are those of each process.
    """
    if processes > 1:
        from paycenter_server.cli.serving import supervise

        run_until_signalled(partial(supervise, processes))
    else:
        run_until_signalled(partial(_serve, parent, listens))


async def _serve(parent: int, listens: int, settings: Settings, stop: asyncio.Event) -> None:
    """`parent`: the process that shares its port among several; 0 if this is the only one. `listens`: the pipe to it."""
    from paycenter_server.grpc_server.server import Parts, Server, Tls
    from paycenter_server.services.limits import Limits
    from paycenter_server.workers.wake_up import RedisWakeUp

    raise_descriptor_limit()
    wake_up = RedisWakeUp(settings.redis_url)
    async with open_services(settings, wake_up=wake_up, lock_wait=CALL_LOCK_SECONDS) as services:
        tls = None
        if settings.tls_certificate_file and settings.tls_key_file:
            tls = Tls(settings.tls_certificate_file, settings.tls_key_file)
        parts = Parts(
            identity=services.identity, orders=services.orders, submission=services.submission, timelines=services.timelines,
            cashier=services.cashier,
            refunds=services.refunds, apps=services.apps, channels=services.channels, accounts=services.accounts,
            credentials=services.credentials, notifications=services.notifications, case_desk=services.case_desk,
        case_decisions=services.case_decisions,
            health=services.health,
            operators=services.operators, sessions=services.sessions, audit=services.audit, approval_desk=services.approval_desk,
        )  # fmt: skip
        reflection = settings.reflection if settings.reflection is not None else not settings.production
        if not parent:
            check_address("PAYCENTER_GRPC_ADDRESS", settings.grpc_address)
        try:
            server = Server(
                parts, settings.grpc_address, tls=tls, with_reflection=reflection, connections=settings.connections,
                connection_calls=settings.connection_calls,
                shared_port=bool(parent),
                limits=Limits(settings.calls, settings.app_calls, settings.app_calls_per_second),
            )  # fmt: skip
        except RuntimeError as error:  # of gRPC, which does not say why
            raise SettingsError(f"PAYCENTER_GRPC_ADDRESS: gRPC cannot listen on {settings.grpc_address}: {error}") from error
        async with AsyncExitStack() as stack:
            if settings.connect_address:
                from paycenter_server.connections import Connections
                from paycenter_server.http_connect.app import served

                if not parent:
                    check_address("PAYCENTER_CONNECT_ADDRESS", settings.connect_address)
                files = (settings.tls_certificate_file, settings.tls_key_file)
                place = split_address(settings.connect_address)
                origins = settings.connect_allowed_origins
                table = Connections(settings.connections)
                await stack.enter_async_context(
                    served(server.unary, *place, origins, *files, shared_port=bool(parent), connections=table)
                )
            await stack.enter_async_context(schema_watched(services.context.database, stop))
            if parent:
                from paycenter_server.cli.serving import parent_watched

                await stack.enter_async_context(parent_watched(parent, stop))
            await server.start()
            if listens:
                from paycenter_server.cli.serving import shows_life

                await stack.enter_async_context(shows_life(listens))
            await server.run(stop)
    await wake_up.aclose()


@click.command()
def callback() -> None:
    """Run the callback sidecar until SIGTERM or Ctrl-C."""
    run_until_signalled(_callback)


async def _callback(settings: Settings, stop: asyncio.Event) -> None:
    from paycenter_server.http_callback.app import create_app
    from paycenter_server.http_callback.app import serve as serve_http
    from paycenter_server.http_cashier.app import add_cashier
    from paycenter_server.workers.wake_up import RedisWakeUp

    wake_up = RedisWakeUp(settings.redis_url)
    async with open_services(settings, wake_up=wake_up, lock_wait=CALL_LOCK_SECONDS) as services:
        host, port = split_address(settings.callback_address)
        check_address("PAYCENTER_CALLBACK_ADDRESS", settings.callback_address)
        async with schema_watched(services.context.database, stop):
            app = create_app(services.callbacks, services.health)
            # Payers reach this process already, and operators' pages are never there.
            add_cashier(app, services.cashier)
            await serve_http(app, host, port, stop)
    await wake_up.aclose()


@click.command()
def worker() -> None:
    """Run the workers until SIGTERM or Ctrl-C."""
    run_until_signalled(_worker)


async def _worker(settings: Settings, stop: asyncio.Event) -> None:
    from paycenter_server.workers.runner import Runner, make_jobs, partition_job
    from paycenter_server.workers.wake_up import RedisWakeUp

    class LocalWakeUp:
        """Starts the deliveries of this process."""

        def send(self) -> None:
            start_delivery()

    raise_descriptor_limit()
    other_workers = RedisWakeUp(settings.redis_url)
    async with open_services(
        settings, wake_up=LocalWakeUp(), other_workers=other_workers, lock_wait=WORKER_LOCK_SECONDS
    ) as services:
        jobs = make_jobs(services.jobs, services.delivery)
        deliveries, partitions = jobs["pay_notify_job"], partition_job(services.partitions)
        started: set[asyncio.Task[None]] = set()

        def start_delivery() -> None:
            task = asyncio.get_running_loop().create_task(deliveries.run())
            started.add(task)
            task.add_done_callback(started.discard)

        await wait_for_schema(services.context.database, stop)
        await Runner({**jobs, partitions.name: partitions}, settings.redis_url, services.delivery, services.jobs).run(stop)
    await other_workers.aclose()
