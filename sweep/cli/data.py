"""The commands of `data`: put, verify, list."""

from __future__ import annotations

from typing import Annotated

import typer

from sweep.cli.options import Config, Json, Set, out, print_json

app = typer.Typer(
    no_args_is_help=True,
    help="Put, verify and list the datasets in a sweep's store.\n\n"
    "`launch` puts missing datasets into the store by itself.  `data put` does it in advance.\n\n"
    "\b\n"
    "python -m sweep data put mnist clusters/local.yaml\n"
    "python -m sweep data verify clusters/local.yaml\n"
    "python -m sweep data list clusters/local.yaml",
)


@app.command("put")
def put(
    name: Annotated[str, typer.Argument(help="Name of a dataset, e.g. mnist; `data list` prints all.")],
    config: Config,
    assignments: Set = [],  # noqa: B006
) -> None:
    """Prepare a dataset from its source, and put it into the store.

    The YAML names the store (`storage`) and the source (section `data`).
    Run it again to fix a stored dataset that is damaged or incomplete; whole parts are kept.

    \b
    python -m sweep data put mnist clusters/local.yaml
    python -m sweep data put mnist clusters/local.yaml --set data.root=FOLDER

    Exit codes: 0 stored, 1 a problem with the source or the store.
    """
    from sweep.cli.datasets import put
    from sweep.spec.load import load

    put(load(config, assignments), name, out)


@app.command("verify")
def verify(
    names: Annotated[list[str], typer.Argument(metavar="NAME", help="Names of datasets; none: all in the store.")] = [],  # noqa: B006
    *,
    config: Config,
    assignments: Set = [],  # noqa: B006
    repair: Annotated[bool, typer.Option("--repair", help="Make damaged parts again from the source.")] = False,
) -> None:
    """Check every byte of stored datasets.

    Changes nothing, unless you give --repair.

    \b
    python -m sweep data verify clusters/local.yaml
    python -m sweep data verify mnist cifar10 clusters/local.yaml --repair

    Exit codes: 0 all are whole, 1 one is damaged or incomplete.
    """
    from sweep.cli.datasets import verify
    from sweep.spec.load import load

    if not verify(load(config, assignments), names, out, repair):
        raise typer.Exit(1)


@app.command("list")
def list_(config: Config, assignments: Set = [], as_json: Json = False) -> None:  # noqa: B006
    """List all known datasets, and those that the store holds, with their sizes and classes.

    Changes nothing.

    \b
    python -m sweep data list clusters/local.yaml
    """
    from sweep.cli.datasets import listing, table
    from sweep.spec.load import load

    found = listing(load(config, assignments))
    if as_json:
        print_json(found)
    else:
        out.print(table(found))
