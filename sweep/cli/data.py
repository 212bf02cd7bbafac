"""The verbs of `data`: put, verify, list."""

from __future__ import annotations

from typing import Annotated

import typer

from sweep.cli.options import Config, Json, Set, out, print_json

app = typer.Typer(no_args_is_help=True, help="Datasets in the store: put, verify, list.")


@app.command("put")
def put(
    name: Annotated[str, typer.Argument(help="Dataset, e.g. mnist; see `data list`.")],
    config: Config,
    assignments: Set = [],  # noqa: B006
) -> None:
    """Prepare a dataset from its source and store it; again: fix what is damaged."""
    from sweep.cli.datasets import put
    from sweep.spec.load import load

    put(load(config, assignments), name, out)


@app.command("verify")
def verify(
    names: Annotated[list[str], typer.Argument(metavar="NAME", help="Datasets; none: all of the store.")] = [],  # noqa: B006
    *,
    config: Config,
    assignments: Set = [],  # noqa: B006
    repair: Annotated[bool, typer.Option("--repair", help="Make damaged shards again from the source.")] = False,
) -> None:
    """Check every byte of stored datasets; exit code 1 if any is damaged."""
    from sweep.cli.datasets import verify
    from sweep.spec.load import load

    if not verify(load(config, assignments), names, out, repair):
        raise typer.Exit(1)


@app.command("list")
def list_(config: Config, assignments: Set = [], as_json: Json = False) -> None:  # noqa: B006
    """List the datasets that exist, and those that the store holds."""
    from sweep.cli.datasets import listing, table
    from sweep.spec.load import load

    found = listing(load(config, assignments))
    if as_json:
        print_json(found)
    else:
        out.print(table(found))
