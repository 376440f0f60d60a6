"""What is typed for an ingest and its like: options, made from `IngestOptions`, and files."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import replace
from functools import wraps
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Final, Literal, get_type_hints

import typer

from h5ingest.cli.messages import check_target
from h5ingest.cli.option_values import PARSERS, as_typed
from h5ingest.core.errors import IngestError, UsageError
from h5ingest.core.option_fields import Option, options_of
from h5ingest.core.options import IngestOptions
from h5ingest.core.outfiles import (
    CROISSANT,
    EMPTY,
    HDF5,
    HDF5_SUFFIXES,
    RESULTS,
    check_distinct,
    what_is,
)

_TYPES: Final = get_type_hints(IngestOptions)
OF_RECOMPRESS: Final = (
    "layout", "recode", "compression", "shuffle", "chunk_rows", "batch_bytes", "stripe_count",
    "stripe_size", "alignment", "hints", "direct_io", "on_error", "checkpoint_s", "peer_timeout_s",
    "restart", "overwrite", "overwrite_foreign", "dry_run",
)  # fmt: skip
"""Options of an ingest that have to do with the file that is made, and with how it is made."""
OF_EXTEND: Final = (
    "root", "delimiter", "label_column", "multi_label", "batch_bytes", "cache_bytes",
    "stripe_count", "stripe_size", "alignment", "hints", "direct_io", "probe", "readers",
    "on_error", "trust_palettes", "checkpoint_s", "peer_timeout_s", "restart", "dry_run",
)  # fmt: skip
"""Options of an ingest that do not decide what is in the file."""
OTHER_LAYOUT: Final = replace(
    next(each for each in options_of(IngestOptions) if each.name == "layout"),
    default=None,
    help="The layout of OUT. stack: one dataset of images of one size. ragged: images of any "
    "size, one after the other. tree: a dataset for each image. encoded: image files. "
    "(default: that of IN)",
)
"""How `recompress` explains it."""

Verb = Callable[..., None]


@contextlib.contextmanager
def raising_bad_parameter() -> Iterator[None]:
    """Raise an error of the block as `typer.BadParameter`, which is shown with where help is."""
    try:
        yield
    except IngestError as error:
        raise typer.BadParameter(str(error)) from None


def takes(declare: Verb) -> Callable[[Verb], Verb]:
    """Let a verb take the options that another function declares.

    The verb has a keyword-only parameter of that function's name, for a dictionary of them.
    """
    declared = inspect.signature(declare, eval_str=True).parameters.values()
    return _in_place_of(declare.__name__, declared, dict)


def takes_options(
    *names: str, in_panels: bool = False, instead: Mapping[str, Option] = MappingProxyType({})
) -> Callable[[Verb], Verb]:
    """Let a verb take those options of an ingest that have these names; without names, all of them.

    The verb has a keyword-only parameter `options`, for the `IngestOptions`. In its place the
    command has a parameter for each option. `--help` shows them in their panels, or else among the
    verb's own. Wrong ones are raised as `typer.BadParameter`. `instead`: name -> the option, where
    the verb explains it in its own way.
    """
    known = {each.name: each for each in options_of(IngestOptions)} | dict(instead)
    chosen = {name: known[name] for name in names or known}

    def options(typed: dict[str, Any]) -> IngestOptions:
        given = {name: value for name, value in typed.items() if value is not None}
        with raising_bad_parameter():
            return IngestOptions(**{n: _value(chosen[n], value) for n, value in given.items()})

    declared = [_parameter(each, in_panel=in_panels) for each in chosen.values()]
    return _in_place_of("options", declared, options)


def _in_place_of(
    name: str, declared: Collection[inspect.Parameter], value: Callable[[dict[str, Any]], Any]
) -> Callable[[Verb], Verb]:
    """Let a verb take what is declared in place of a parameter, and get a value made of it."""

    def decorate(verb: Verb) -> Verb:
        @wraps(verb)
        def command(**given: Any) -> None:
            typed = {each.name: given.pop(each.name) for each in declared}
            verb(**{name: value(typed)}, **given)

        signature = inspect.signature(verb, eval_str=True)
        parameters: list[inspect.Parameter] = []
        for parameter in signature.parameters.values():
            parameters += declared if parameter.name == name else [parameter]
        command.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        return command

    return decorate


def _parameter(option: Option, *, in_panel: bool) -> inspect.Parameter:
    """Return the parameter from which typer makes an option, with its default as it is typed."""
    annotation, default = _TYPES[option.name], option.default
    if option.choices:
        annotation = Literal.__getitem__(option.choices)
    elif default == ():
        annotation, default = list[str], None
    elif (form := option.form or "") in PARSERS:
        annotation, default = str, as_typed(form, default)
    if default is None:
        annotation = annotation | None
    least, most = (None, None) if option.form else (option.least, option.most)
    info = typer.Option(
        option.flag,
        help=option.help,
        metavar=option.form or "|".join(option.choices) or None,
        min=least,
        max=most,
        rich_help_panel=option.panel if in_panel else None,
    )
    return inspect.Parameter(
        option.name,
        inspect.Parameter.KEYWORD_ONLY,
        annotation=Annotated[annotation, info],
        default=default,
    )


def _value(option: Option, typed: Any) -> Any:
    """Return the value of an option from what was typed, which typer has looked at.

    Raises:
        UsageError: the text means nothing.
    """
    parse = PARSERS.get(option.form or "")
    if parse is None:
        return tuple(typed) if isinstance(typed, list) else typed
    try:
        return tuple(map(parse, typed)) if isinstance(typed, list) else parse(typed)
    except UsageError as error:
        raise UsageError(f"{option.flag}: {error}") from None


def check_files(source: tuple[str, Path], out: Path, told: Mapping[str, Any]) -> None:
    """Check that the files of a job are different, and that the small ones may be written.

    Args:
        source: its name for messages, and its path.
        out: the file to make.
        told: see `option_types.told`.

    Raises:
        typer.BadParameter: they cannot be.
    """
    from h5ingest.storage.job_files import JobPaths  # not for --help

    report, croissant = ("--report", told["report"]), ("--croissant", told["croissant"])
    with raising_bad_parameter():
        if source[0] == "MANIFEST":
            check_order(source[1], out)
        check_distinct(source, *(("OUT", path) for path in JobPaths(out).all), report, croissant)
        check_target(*report, RESULTS)
        check_target(*croissant, CROISSANT)


def check_order(manifest: Path, out: Path) -> None:
    """Check that what is read and what is made have not changed places.

    Raises:
        UsageError: `manifest` is called an HDF5 file, and `out` is something else that exists.
    """
    if manifest.suffix.lower() in HDF5_SUFFIXES and out.suffix.lower() not in HDF5_SUFFIXES:
        with contextlib.suppress(OSError):  # it is said later
            if not out.is_symlink() and (found := what_is(out)) not in ("", EMPTY, HDF5):
                raise UsageError(
                    f"OUT {out}: expected the HDF5 file, found {found}; "
                    f"did you mean MANIFEST {out}, OUT {manifest}?"
                )
