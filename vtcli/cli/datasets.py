"""`vt datasets`: which datasets are known, what one looks like, what an annotation file holds."""

from __future__ import annotations

import typer

app = typer.Typer(help="List and show datasets, check them, make one.", no_args_is_help=True)
