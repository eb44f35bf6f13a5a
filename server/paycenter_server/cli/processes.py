"""The long-running processes: serve, callback, worker."""

from __future__ import annotations

import asyncio

import click

from paycenter_server.bootstrap import Services, open_services
from paycenter_server.cli.running import run_until_signalled
from paycenter_server.settings import Settings, split_address


async def _wait_for_schema(services: Services, stop: asyncio.Event) -> None:
    """Wait until the database has the schema of this version; the migration may run at the same time."""
    from paycenter_server.storage.migrate import SchemaVersion, revision_of

    schema = SchemaVersion()
    while not stop.is_set():
        async with services.context.database.connection() as connection:
            if not schema.is_older(await revision_of(connection)):
                return
        try:
            await asyncio.wait_for(stop.wait(), 0.1)
        except TimeoutError:
            continue


@click.command()
def serve() -> None:
    """Run the gRPC server until SIGTERM or Ctrl-C."""
    run_until_signalled(_serve)


async def _serve(settings: Settings, stop: asyncio.Event) -> None:
    from paycenter_server.grpc_server.server import Parts, Server, Tls
    from paycenter_server.workers.wake_up import ArqWakeUp

    wake_up = ArqWakeUp(settings.redis_url)
    async with open_services(settings, wake_up=wake_up) as services:
        tls = None
        if settings.tls_certificate_file and settings.tls_key_file:
            tls = Tls(settings.tls_certificate_file, settings.tls_key_file)
        parts = Parts(
            identity=services.identity, orders=services.orders, submission=services.submission, refunds=services.refunds,
            apps=services.apps, channels=services.channels, credentials=services.credentials, notifications=services.notifications,
            health=services.health,
        )  # fmt: skip
        reflection = settings.reflection if settings.reflection is not None else not settings.production
        server = Server(parts, settings.grpc_address, tls=tls, with_reflection=reflection)
        await server.start()
        await server.run(stop)
    await wake_up.aclose()


@click.command()
def callback() -> None:
    """Run the callback sidecar until SIGTERM or Ctrl-C."""
    run_until_signalled(_callback)


async def _callback(settings: Settings, stop: asyncio.Event) -> None:
    from paycenter_server.http_callback.app import create_app
    from paycenter_server.http_callback.app import serve as serve_http
    from paycenter_server.workers.wake_up import ArqWakeUp

    wake_up = ArqWakeUp(settings.redis_url)
    async with open_services(settings, wake_up=wake_up) as services:
        host, port = split_address(settings.callback_address)
        await serve_http(create_app(services.callbacks, services.health), host, port, stop)
    await wake_up.aclose()


@click.command()
def worker() -> None:
    """Run the workers until SIGTERM or Ctrl-C."""
    run_until_signalled(_worker)


async def _worker(settings: Settings, stop: asyncio.Event) -> None:
    from paycenter_server.workers.runner import Runner, make_jobs

    class LocalWakeUp:
        """Starts the deliveries of this process."""

        def send(self) -> None:
            start_delivery()

    async with open_services(settings, wake_up=LocalWakeUp()) as services:
        jobs = make_jobs(services.jobs, services.delivery)
        notify = jobs["pay_notify_job"]
        deliveries: set[asyncio.Task[None]] = set()

        def start_delivery() -> None:
            task = asyncio.get_running_loop().create_task(notify.run())
            deliveries.add(task)
            task.add_done_callback(deliveries.discard)

        await _wait_for_schema(services, stop)
        await Runner(jobs, settings.redis_url, services.delivery).run(stop)
