"""The command line itself, on rank 0 only: its verbs, and how one of them is chosen."""

from __future__ import annotations

import os
from collections.abc import Collection
from dataclasses import dataclass
from typing import Annotated, Any, Final

import typer
from typer.core import TyperGroup

from h5ingest import __version__
from h5ingest.cli.requests import Request
from h5ingest.core.errors import EXIT_INTERNAL, UsageError

VERBS: Final = (
    "ingest", "manifest", "verify", "show", "recompress", "export", "codecs", "doctor", "bench",
)  # fmt: skip
_HELP: Final = ("--help", "-h")


class _DefaultVerb(TyperGroup):
    """A group in which a first argument that is no verb belongs to `ingest`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in (*VERBS, *_HELP, "--version"):
            _check_is_no_verb(args[0], VERBS)
            args = ["ingest", *args]
        return super().parse_args(ctx, args)


def _check_is_no_verb(word: str, verbs: Collection[str]) -> None:
    """Refuse a mistyped verb. Taken for a manifest, the error would be about the next argument.

    Raises:
        UsageError: it looks like no path, and there is no such file.
    """
    if word.startswith("-") or "." in word or os.sep in word or os.path.lexists(word):
        return
    import difflib

    near = difflib.get_close_matches(word, verbs, n=1)
    did_you_mean = f"; did you mean {near[0]}?" if near else f": expected one of {', '.join(verbs)}"
    raise UsageError(f"no command and no manifest {word!r}{did_you_mean}")


@dataclass(slots=True)
class _Call:
    """What every verb is given, and where it leaves what all ranks are to do."""

    n_ranks: int
    request: Request | None = None
    """None if the verb was carried out on rank 0 alone."""


def parse(arguments: list[str], n_ranks: int) -> Request | int:
    """Return what the arguments ask of all ranks, or the exit code.

    A verb that runs on one rank is carried out here, and ends in an exit code.

    Raises:
        IngestError: it failed.
    """
    call = _Call(n_ranks)
    try:
        make_app(*arguments[:1])(arguments, prog_name="h5ingest", obj=call)
    except SystemExit as exit_:
        if call.request is not None and not exit_.code:
            return call.request
        return exit_.code if isinstance(exit_.code, int) else EXIT_INTERNAL
    raise AssertionError("typer leaves by SystemExit")


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"h5ingest {__version__}")
        raise typer.Exit


def make_app(first: str = _HELP[0]) -> typer.Typer:
    """Return the command, as its first argument needs it: making all verbs takes a while."""
    app = typer.Typer(
        cls=_DefaultVerb,
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": list(_HELP[::-1])},
    )
    app.callback()(_group)
    for verb in VERBS if first in _HELP else (first if first in VERBS else VERBS[0],):
        if verb == "bench":
            from h5ingest.cli import bench_commands

            app.add_typer(bench_commands.app, name=verb)
        elif verb == "export":
            from h5ingest.cli import export_command

            app.command()(export_command.export)
        elif verb in ("ingest", "manifest", "recompress", "verify", "doctor"):
            from h5ingest.cli import collective_commands

            app.command()(getattr(collective_commands, verb))
        else:
            from h5ingest.cli import serial_commands

            app.command()(getattr(serial_commands, verb))
    return app


def _group(
    version: Annotated[
        bool,
        typer.Option("--version", help="Print the version.", callback=_show_version, is_eager=True),
    ] = False,
) -> None:
    """Turn millions of small image files into one HDF5 file, in parallel.

    [bold]h5ingest [OPTIONS] MANIFEST OUT[/bold] is the main job, short for `h5ingest ingest`;
    its options are listed by [bold]h5ingest ingest --help[/bold]. On several cores or nodes:
    [bold]mpirun -n 64 h5ingest manifest.txt out.h5[/bold].
    """
