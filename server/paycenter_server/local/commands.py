"""The click commands `dev` and `demo`. Their parts are imported when a command runs."""

from pathlib import Path

import click


@click.command()
@click.option(
    "--data-dir", type=click.Path(file_okay=False, path_type=Path), help="Data folder (PAYCENTER_DATA_DIR, ./.paycenter)."
)
@click.option(
    "--port",
    type=click.IntRange(1, 65535),
    help="Port of the gRPC API. Without it: the port of the last start, at the first start 50051.",
)
@click.option("--reset", is_flag=True, help="Delete all data first.")
@click.option("--ephemeral", is_flag=True, help="Use a temporary data folder and remove it at the end.")
@click.option("--no-demo", is_flag=True, help="Do not make the demonstration payments at the first start.")
@click.option("--quiet", is_flag=True, help="Print errors only.")
@click.pass_context
def dev(
    context: click.Context, data_dir: Path | None, port: int | None, reset: bool, ephemeral: bool, no_demo: bool, quiet: bool
) -> None:
    """Run the whole system here: database, Redis, API, callbacks, worker, simulator and the demo shop."""
    from paycenter_server.local.datadir import default_data_dir
    from paycenter_server.local.dev import DevOptions, run_dev

    options = DevOptions(
        data_dir=data_dir or default_data_dir(), reset=reset, ephemeral=ephemeral, port=port, quiet=quiet, demo=not no_demo
    )
    context.exit(run_dev(options))


@click.command()
@click.option("--running", is_flag=True, help="Use the running `paycenter dev` instead of a system of its own.")
@click.option(
    "--data-file",
    type=click.Path(dir_okay=False, path_type=Path),
    show_default="dev.json in PAYCENTER_DATA_DIR or ./.paycenter",
    help="With --running: dev.json of the running system.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a step.")
@click.pass_context
def demo(context: click.Context, running: bool, data_file: Path | None, as_json: bool) -> None:
    """Make a payment through WeChat Pay and one through Alipay, from order to refund, and check every step.

    Without --running it starts a system of its own and removes it at the end. Ends with 1 if a step failed.
    """
    if running:
        from paycenter_server.local.datadir import default_data_dir
        from paycenter_server.local.demo_steps import run_demo_payments

        context.exit(run_demo_payments(data_file or default_data_dir() / "dev.json", as_json))
    if data_file is not None:
        raise click.UsageError("--data-file needs --running.")
    from paycenter_server.local.demo import run_demo

    context.exit(run_demo(as_json))


@click.command(context_settings={"ignore_unknown_options": True, "help_option_names": []})
@click.argument("words", nargs=-1, type=click.UNPROCESSED)
def shop(words: tuple[str, ...]) -> None:
    """Run the demo shop (`python -m paycenter.examples.shop`), which explains its options with --help."""
    from paycenter.examples.shop_server import main

    main(list(words))
