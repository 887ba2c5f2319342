"""`mralign export`: what a run has made, as a data set for other tools."""

from __future__ import annotations

from typing import Annotated

import typer


def export(
    run: Annotated[str, typer.Argument(metavar="RUN_DIR", help="Directory of a run that has come to its examples.")],
    *,
    to: Annotated[str, typer.Option(metavar="DIR", help="A new or empty directory, or URI, for the data set.")],
) -> None:
    """Write candidates, annotations, rollouts and weighted examples as a data set that `datasets` and TRL read.

    The examples have TRL's unpaired form (prompt, completion, label) and a column `weights`, one weight a token.
    """
    from mralign.exchange.dataset import export_dataset

    found = export_dataset(run, to=to)
    print("\n".join(f"{name:<12} {rows:>9} rows" for name, rows in found.rows.items()))
    print(
        f"{found.same_tokens} of {found.rows['examples']} examples are spelt by the tokens that the weights belong to"
    )
    print(f"\ncard  {found.uri}/README.md")
