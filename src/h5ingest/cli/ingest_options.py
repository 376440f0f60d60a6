"""What is typed for an ingest and its like: options, made from `IngestOptions`, and files."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
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
from h5ingest.core.outfiles import CROISSANT, RESULTS, check_distinct

_TYPES: Final = get_type_hints(IngestOptions)
OF_RECOMPRESS: Final = (
    "layout", "recode", "compression", "shuffle", "chunk_rows", "batch_bytes", "stripe_count",
    "stripe_size", "alignment", "hints", "direct_io", "on_error", "checkpoint_s", "peer_timeout_s",
    "restart", "overwrite", "overwrite_foreign", "dry_run",
)  # fmt: skip
"""Options of an ingest that have to do with the file that is made, and with how it is made."""
OTHER_LAYOUT: Final = replace(
    next(each for each in options_of(IngestOptions) if each.name == "layout"),
    default=None,
    help="Of OUT. stack: images of one size in one dataset. ragged: images of any size, one after "
    "the other. tree: a dataset for each image. encoded: image files. (default: that of IN)",
)
"""How `recompress` explains it."""


def takes_options(
    *names: str, in_panels: bool = False, instead: Mapping[str, Option] = MappingProxyType({})
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Let a verb take those options of an ingest that have these names; without names, all of them.

    The verb has a keyword-only parameter `options`, for the `IngestOptions`. In its place the
    command has a parameter for each option. `--help` shows them in their panels, or else among the
    verb's own. Wrong ones are raised as `typer.BadParameter`.

    Args:
        names: of the options.
        in_panels: whether `--help` shows them in their panels.
        instead: name -> the option, where the verb explains it in its own way.
    """
    known = {each.name: each for each in options_of(IngestOptions)} | dict(instead)
    chosen = {name: known[name] for name in names or known}

    def decorate(verb: Callable[..., None]) -> Callable[..., None]:
        @wraps(verb)
        def command(**given: Any) -> None:
            typed = {name: given.pop(name) for name in chosen}
            try:
                values = {
                    name: _value(chosen[name], value)
                    for name, value in typed.items()
                    if value is not None
                }
                options = IngestOptions(**values)
            except UsageError as error:
                raise typer.BadParameter(str(error)) from None
            verb(options=options, **given)

        signature = inspect.signature(verb, eval_str=True)
        parameters: list[inspect.Parameter] = []
        for parameter in signature.parameters.values():
            if parameter.name == "options":
                parameters += [
                    _parameter(each, parameter, in_panel=in_panels) for each in chosen.values()
                ]
            else:
                parameters.append(parameter)
        command.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        return command

    return decorate


def _parameter(option: Option, place: inspect.Parameter, *, in_panel: bool) -> inspect.Parameter:
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
    return place.replace(name=option.name, annotation=Annotated[annotation, info], default=default)


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


def check_files(
    source: tuple[str, Path], out: Path, report: Path | None, croissant: Path | None
) -> None:
    """Check that the files of a job are different, and that the small ones may be written.

    Args:
        source: its name for messages, and its path.
        out: the file to make.
        report: where the report goes.
        croissant: where the metadata go.

    Raises:
        typer.BadParameter: they cannot be.
    """
    from h5ingest.storage.job_files import JobPaths  # not for --help

    try:
        check_distinct(
            source,
            *(("OUT", path) for path in JobPaths(out).all),
            ("--report", report),
            ("--croissant", croissant),
        )
        check_target("--report", report, RESULTS)
        check_target("--croissant", croissant, CROISSANT)
    except IngestError as error:
        raise typer.BadParameter(str(error)) from None
