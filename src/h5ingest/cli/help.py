"""The pages of `--help`: plain text in two columns, options under the headings they declare.

A heading is the `rich_help_panel` of an option or a verb; they come in the order in which they are
declared, so what is new falls into place. Typer's own page has a frame, which leaves 40 columns of
80 to the text.
"""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Iterable, Iterator
from typing import Any, Final

from typer.core import TyperCommand, TyperGroup

_OTHER: Final = "Other options"
"""The heading of an option that declares none, if others do."""
_LAST: Final = "Exit codes"
"""How the paragraph begins that comes at the end of a page."""
_LEFT: Final = 26
"""Letters of the left column, two spaces on each side included."""


class Verb(TyperCommand):
    """A verb with such a page."""

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """Return what follows the verb in the line of its usage."""
        return [*map(_argument, _arguments(self, ctx)), "[OPTIONS]"]

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the page."""
        formatter.write("\n".join(_page(self, ctx, formatter.width)) + "\n")


class VerbGroup(TyperGroup):
    """Verbs under headings, with such a page."""

    usage: str | None = None
    """What is typed, where that is not a verb with its arguments."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the page."""
        formatter.write("\n".join(_page(self, ctx, formatter.width)) + "\n")


def _page(command: Any, ctx: Any, width: int) -> Iterator[str]:
    usage = getattr(command, "usage", None)
    pieces = command.collect_usage_pieces(ctx) if isinstance(command, Verb) else ["VERB ..."]
    yield f"Usage: {usage or ' '.join([ctx.command_path, *pieces])}"
    paragraphs = inspect.cleandoc(command.help or "").split("\n\n")
    last = [text for text in paragraphs if text.startswith(_LAST)]
    for paragraph in paragraphs:
        if paragraph not in last:
            yield from _paragraph(paragraph, width)
    if arguments := [(_argument(each), each.help or "") for each in _arguments(command, ctx)]:
        yield from _section("Arguments", arguments, width)
    if isinstance(command, VerbGroup):
        verbs = [command.get_command(ctx, name) for name in command.list_commands(ctx)]
        yield from _sections(
            (
                (_heading(verb, "Verbs"), (str(verb.name), _first(verb.help)))
                for verb in verbs
                if verb
            ),
            width,
        )
    options = [p for p in command.get_params(ctx) if p.param_type_name == "option"]
    yield from _sections(((_heading(each, _OTHER), _option(each)) for each in options), width)
    for paragraph in last:
        yield from _paragraph(paragraph, width)


def _paragraph(text: str, width: int) -> list[str]:
    """Return a paragraph, filled; as it is if it is indented, as examples are."""
    if text.startswith(" "):
        return ["", *text.splitlines()]
    return ["", *textwrap.wrap(" ".join(text.split()), width, break_on_hyphens=False)]


def _sections(rows: Iterable[tuple[str, tuple[str, str]]], width: int) -> Iterator[str]:
    """Yield the lines of all headings; that of what declares none comes last."""
    by_heading: dict[str, list[tuple[str, str]]] = {}
    for heading, row in rows:
        by_heading.setdefault(heading, []).append(row)
    if list(by_heading) == [_OTHER]:
        by_heading = {"Options": by_heading[_OTHER]}
    for heading in sorted(by_heading, key=lambda heading: heading == _OTHER):
        yield from _section(heading, by_heading[heading], width)


def _section(heading: str, rows: Iterable[tuple[str, str]], width: int) -> Iterator[str]:
    yield ""
    yield f"{heading}:"
    for name, text in rows:
        lines = textwrap.wrap(text, width - _LEFT, break_on_hyphens=False)
        if len(name) > _LEFT - 4:
            yield f"  {name}"
        else:
            yield f"  {name:<{_LEFT - 2}}{lines.pop(0) if lines else ''}".rstrip()
        yield from (" " * _LEFT + line for line in lines)


def _arguments(command: Any, ctx: Any) -> list[Any]:
    return [p for p in command.get_params(ctx) if p.param_type_name == "argument"]


def _argument(argument: Any) -> str:
    name = str(argument.metavar or argument.name.upper())
    return name if argument.required else f"[{name}]"


def _option(option: Any) -> tuple[str, str]:
    """Return what is typed for an option, and what it does."""
    name = ", ".join(sorted(option.opts, key=len))
    if option.secondary_opts:
        name = "/".join([name, *option.secondary_opts])
    text, default = " ".join((option.help or "").split()), option.default
    if not option.is_flag:
        name += f" {option.metavar or 'N'}"
        if option.show_default and default not in (None, "") and "(default: " not in text:
            shown = f"{default:g}" if isinstance(default, float) else str(default)
            text += f" (default: {shown})"
    return name, text


def _heading(of: Any, default: str) -> str:
    """Return the heading that an option or a verb declares; typer keeps a wrapper for none."""
    heading = getattr(of, "rich_help_panel", None)
    return heading if isinstance(heading, str) else default


def _first(help: str | None) -> str:
    """Return the first sentence of a verb's help."""
    return " ".join(inspect.cleandoc(help or "").split("\n\n")[0].split())
