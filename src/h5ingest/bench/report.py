"""What the reports of all benchmarks share: who was measured, and how a table is printed.

May not: measure.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from rich.console import Console
from rich.table import Table


class Described(Protocol):
    """What is measured says what it is: a backend, or a reader."""

    key: str
    """One word."""
    name: str
    """For tables."""
    how: str
    """One sentence."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """What a `Described` says, as a value."""

    key: str
    name: str
    how: str


def describe(measured: Iterable[Described]) -> tuple[Description, ...]:
    """Return the descriptions, in this order."""
    return tuple(Description(key=m.key, name=m.name, how=m.how) for m in measured)


def turns(n_runs: int, load: tuple[float, float]) -> str:
    """Return the note on the runs: how many, and the load before and after them."""
    return (
        f"Medians of {n_runs} runs, with lowest and highest; all took turns. Load of the machine: "
        f"{load[0]:.1f} before, {load[1]:.1f} after."
    )


def new_table(*headings: str, left: str | None = None) -> Table:
    """Return an empty table of numbers; the column with the heading `left` has names."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in headings:
        named = heading == left
        table.add_column(heading, justify="left" if named else "right", no_wrap=named)
    return table


def print_report(parts: Iterable[tuple[str, Table]], notes: Iterable[str]) -> None:
    """Print tables, each with its heading if it has one, and what a reader must know with them."""
    # Not the terminal's width: nothing may be cut in a log.
    console = Console(width=210, highlight=False, markup=False)
    for heading, table in parts:
        if heading:
            console.print(heading, style="bold")
        console.print(table)
        console.print()
    for note in notes:
        console.print(note, soft_wrap=True)
