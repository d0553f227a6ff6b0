"""The toy room's part of the command line."""

from typing import Annotated

import polars as pl
import typer

from heedful.lab.console import show_frame
from heedful.lab.report import write_comparison

app = typer.Typer(help="Everything about coins.")


@app.command()
def flip(times: Annotated[int, typer.Option(help="how often")] = 1) -> None:
    """Flip the coin."""
    print("heads " * times)


@app.command()
def land() -> None:
    """Say where it landed."""
    print("on the floor")


def compare(
    sides: Annotated[int, typer.Option(help="how many sides to call")] = 2,
    out: Annotated[str, typer.Option(help="the folder of runs")] = "runs",
    json: Annotated[bool, typer.Option("--json", help="print the table as JSON")] = False,
) -> None:
    """Compare the sides of a coin."""
    table = pl.DataFrame({"side": list(range(sides)), "wins": [0.5] * sides})
    show_frame(table, title="Sides", as_json=json)
    write_comparison(out, "toy", "Sides of a coin", f"heedful compare toy --sides {sides}", {"Sides": table})
