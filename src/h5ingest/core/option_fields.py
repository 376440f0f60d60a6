"""Fields of a dataclass that are options of the command line: how each is typed and explained."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, Final

from h5ingest.core.errors import UsageError

COMMON: Final = "Used most"
"""The panel of the options that `--help` lists first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """How one field is typed on the command line, explained and checked."""

    name: str
    """The name of the field."""
    default: Any
    flag: str
    """What is typed before the value, such as `--pad-value`."""
    panel: str
    """The heading under which `--help` lists it."""
    help: str
    form: str | None = None
    """What is typed as the value, such as `SIZE`; None: what the type of the field says."""
    choices: tuple[str, ...] = ()
    """All values that are allowed, if they can be listed."""
    least: int | None = None
    """The smallest value that is allowed."""
    most: int | None = None
    """The largest value that is allowed."""
    goes_with: tuple[object, ...] | None = None
    """The field and those of its values without which this option would have no effect."""
    in_file: bool = False
    """Whether it decides what the file contains, and is therefore noted in it."""


def option(default: Any, help: str, **how: Any) -> Any:
    """Return a field that is an option.

    Args:
        default: its value if it is not given.
        help: what it does.
        how: `panel`, and what else of `Option` is not as by default. Without `flag`, the option has
            the name of the field.
    """
    return field(default=default, metadata={"help": help, **how})


def options_of(cls: type) -> tuple[Option, ...]:
    """Return the options that are fields of a dataclass, in their order."""
    return tuple(
        Option(
            name=each.name,
            default=each.default,
            **{"flag": f"--{each.name.replace('_', '-')}", **each.metadata},
        )
        for each in fields(cls)
    )


def check_values(options: object) -> None:
    """Check each value by itself, and that it does not lack what it goes with.

    Raises:
        UsageError: a value is not among its choices or bounds, or would have no effect.
    """
    known = {each.name: each for each in options_of(type(options))}
    for name, each in known.items():
        value = getattr(options, name)
        if value is None:
            continue
        if each.choices and value not in each.choices:
            raise UsageError(f"{each.flag}: expected {', '.join(each.choices)}, got {value!r}")
        if (each.least is not None and value < each.least) or (
            each.most is not None and value > each.most
        ):
            raise UsageError(f"{each.flag}: expected {_range(each)}, got {value}")
        if each.form == "SECONDS" and not value > 0:
            raise UsageError(f"{each.flag}: expected seconds, got {value}")
        if each.goes_with is not None and value != each.default:
            other, *wanted = map(str, each.goes_with)
            if str(getattr(options, other)) not in wanted:
                said = "" if wanted == ["True"] else f" {' or '.join(wanted)}"
                raise UsageError(f"{each.flag} goes with {known[other].flag}{said}")


def _range(of: Option) -> str:
    auto = "auto or " if of.form is not None and of.form.startswith("auto") else ""
    return f"{auto}at least {of.least}" if of.most is None else f"{auto}{of.least} to {of.most}"
