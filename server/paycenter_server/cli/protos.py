"""`paycenter protos`: the contract as files, for clients in other languages."""

from __future__ import annotations

import shutil
from pathlib import Path

import click

from paycenter_server.distribution import protos_folder


@click.command()
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), required=True, help="Folder to write to; made if missing.")
def protos(out: Path) -> None:
    """Write the .proto files of the contract to a folder, as `paycenter/v1/*.proto`. Files of the same name are replaced."""
    source = protos_folder()
    files = sorted(source.glob("paycenter/**/*.proto"))
    for file in files:
        target = out / file.relative_to(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target)
    click.echo(f"{len(files)} files written to {out}. Give protoc this folder as --proto_path.")
