"""The click commands `dev` and `demo`, for the CLI to register lazily."""

from pathlib import Path

import click


@click.command()
@click.option(
    "--data-dir", type=click.Path(file_okay=False, path_type=Path), help="Data folder (PAYCENTER_DATA_DIR, ./.paycenter)."
)
@click.option("--port", type=click.IntRange(1, 65535), default=50051, show_default=True, help="Port of the gRPC API.")
@click.option("--reset", is_flag=True, help="Delete all data first.")
@click.option("--ephemeral", is_flag=True, help="Use a temporary data folder and remove it at the end.")
@click.option("--no-play", is_flag=True, help="Do not play the demonstration at the first start.")
@click.option("--quiet", is_flag=True, help="Print errors only.")
@click.pass_context
def dev(context: click.Context, data_dir: Path | None, port: int, reset: bool, ephemeral: bool, no_play: bool, quiet: bool) -> None:
    """Run the whole system here: database, Redis, API, callbacks, worker, simulator and an example merchant."""
    from paycenter_server.local.datadir import default_data_dir
    from paycenter_server.local.dev import DevOptions, run_dev

    options = DevOptions(
        data_dir=data_dir or default_data_dir(), reset=reset, ephemeral=ephemeral, port=port, quiet=quiet, play=not no_play
    )
    context.exit(run_dev(options))


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print the events as JSON, one a line.")
@click.pass_context
def demo(context: click.Context, as_json: bool) -> None:
    """Play a payment from order to refund on a system of its own, and leave nothing behind."""
    from paycenter_server.local.demo import run_demo

    context.exit(run_demo(as_json))
