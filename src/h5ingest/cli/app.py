"""The command line itself, on rank 0 only: its verbs, and how one of them is chosen."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import sys
from collections.abc import Collection
from dataclasses import dataclass
from itertools import islice
from typing import Annotated, Any, Final

import typer

from h5ingest import __version__
from h5ingest.cli.help import Verb, VerbGroup
from h5ingest.cli.requests import Request
from h5ingest.core.errors import EXIT_INTERNAL, EXIT_OK, UsageError
from h5ingest.core.outfiles import HDF5_SUFFIXES

_MAKE: Final = "Make a file"
_USE: Final = "Look at it, check it, use it"
_CHOOSE: Final = "Before you choose"
VERBS: Final = {
    "ingest": _MAKE, "manifest": _MAKE, "extend": _MAKE, "recompress": _MAKE,
    "show": _USE, "verify": _USE, "export": _USE, "croissant": _USE,
    "codecs": _CHOOSE, "doctor": _CHOOSE, "bench": _CHOOSE,
}  # fmt: skip
"""Each verb, with the heading under which it is listed."""
_MOST_NAMES: Final = 1000
"""Of the current folder, that are compared with a mistyped one."""
_HELP: Final = ("--help", "-h")
_OF_GROUP: Final = (*_HELP, "--version", "--show-completion", "--install-completion")
_WRONG: Final[Any] = typer.BadParameter.__base__
"""What typer raises if the arguments are wrong: its own class or click's, depending on its age."""


class _DefaultVerb(VerbGroup):
    """A group in which a first argument that is no verb belongs to `ingest`."""

    usage = "h5ingest MANIFEST OUT [OPTIONS]\n       h5ingest VERB ..."

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in (*VERBS, *_OF_GROUP):
            if not ctx.resilient_parsing:  # as while the shell completes a line
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

    near = difflib.get_close_matches(word, [*verbs, *_names_here()], n=1)
    hint = f"did you mean {near[0]}?" if near else f"the verbs are {', '.join(verbs)}"
    raise UsageError(f"there is no file or folder {word!r}, and no such verb; {hint}")


def _names_here() -> list[str]:
    """Return names of files and folders here: of very many, some."""
    with contextlib.suppress(OSError), os.scandir() as entries:
        return [entry.name for entry in islice(entries, _MOST_NAMES)]
    return []


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
    app = make_app(*arguments[:1])
    try:
        code = app(arguments, prog_name="h5ingest", obj=call, standalone_mode=False)
    except SystemExit as exit_:  # of typer's completion
        return exit_.code if isinstance(exit_.code, int) else EXIT_INTERNAL
    except _WRONG as error:
        _explain(error, arguments)
        return UsageError.exit_code
    return code or EXIT_OK if call.request is None else call.request


def _explain(error: Any, arguments: list[str]) -> None:
    """Print what is wrong with the arguments, and where it is explained what they may be."""
    if type(error).__name__ == "NoArgsIsHelpError":
        error.show()
        return
    said = error.format_message()
    if type(error) is typer.BadParameter:  # else typer says first: Invalid value for '--fit'
        where = f"{max(error.param.opts, key=len)}: " if error.param else ""
        said = where + error.message.removeprefix("Value error, ")
    elif type(error).__name__ == "MissingParameter" and getattr(error.param, "help", None):
        wanted = re.split(r"[.:;](?: |$)", error.param.help)[0]
        said = f"{said.rstrip('.')}: {wanted[0].lower()}{wanted[1:]}"
        if len(arguments) == 1 and arguments[0].lower().endswith(HDF5_SUFFIXES):
            said += f"; to look at one: h5ingest show {shlex.quote(arguments[0])}"
    verb = arguments[0] if arguments[0] in VERBS else "ingest"
    verb = error.ctx.command_path if error.ctx else f"h5ingest {verb}"
    if verb == "h5ingest ingest" and "unexpected extra argument" in said:
        said += "; to ingest several folders: h5ingest manifest DIR DIR ... -o LIST.csv"
    print(f"h5ingest: error: {said}\nTry '{verb} --help'.", file=sys.stderr, flush=True)


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"h5ingest {__version__}")
        raise typer.Exit


def make_app(first: str = _HELP[0]) -> typer.Typer:
    """Return the command, as its first argument needs it: making all verbs takes a while."""
    app = typer.Typer(
        cls=_DefaultVerb,
        no_args_is_help=True,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": list(_HELP[::-1])},
    )
    app.callback()(_group)
    for verb in VERBS if first in _HELP else (first if first in VERBS else "ingest",):
        add = app.command(cls=Verb, rich_help_panel=VERBS[verb])
        if verb == "bench":
            from h5ingest.cli import bench_commands

            app.add_typer(bench_commands.app, name=verb, rich_help_panel=VERBS[verb])
        elif verb == "export":
            from h5ingest.cli import export_command

            add(export_command.export)
        elif verb in ("ingest", "manifest", "extend", "recompress", "verify", "doctor"):
            from h5ingest.cli import collective_commands

            add(getattr(collective_commands, verb))
        else:
            from h5ingest.cli import serial_commands

            add(getattr(serial_commands, verb))
    return app


def _group(
    version: Annotated[
        bool,
        typer.Option("--version", help="Print the version.", callback=_show_version, is_eager=True),
    ] = False,
) -> None:
    """Turn millions of small image files into one HDF5 file, in parallel.

      h5ingest photos out.h5                    a folder; folders are labels
      h5ingest train.csv out.h5 --fit cover --size 224 --group-by split
      mpirun -n 64 h5ingest photos.tar out.h5   an archive, on 64 cores

    The verb ingest may be left out, as here. Its options: h5ingest ingest --help.
    """
