"""`--recode`: the codecs for the image files of layout `encoded`. May not: code anything."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from h5ingest.core.errors import UsageError

PNG: Final = "png"
CODECS: Final = ("jxl", "webp", "htj2k", PNG)
"""All that there are."""
_FORM: Final = re.compile(r"(?:jxl(?::([1-9]))?|webp|htj2k|png)")
_EFFORT: Final = 3
"""Of JPEG XL: 1 is five times as fast and takes a sixth more bytes; 7 is much slower."""


@dataclass(frozen=True, slots=True)
class Recoding:
    """A codec without loss."""

    codec: str
    """One of CODECS."""
    effort: int = 0
    """1 to 9, of JPEG XL; else 0."""

    @classmethod
    def parse(cls, text: str) -> Recoding:
        """Return what is meant by the value of `--recode`.

        >>> Recoding.parse("jxl"), str(Recoding.parse("webp"))
        (Recoding(codec='jxl', effort=3), 'webp')

        Raises:
            UsageError: nothing.
        """
        match = _FORM.fullmatch(text.lower())
        if match is None:
            raise UsageError(
                f"--recode: expected jxl, jxl:1 to jxl:9, webp, htj2k or png, got {text!r}"
            )
        codec = text.lower().partition(":")[0]
        return cls(codec, int(match[1] or _EFFORT) if codec == "jxl" else 0)

    def __str__(self) -> str:
        return f"{self.codec}:{self.effort}" if self.effort else self.codec


def in_words(recode: str | None) -> str:
    """Return what images are in a file with this value of `--recode`; empty: what they are without.

    >>> in_words("jxl"), in_words(None)
    ('image files, recoded as jxl:3 where that is smaller', '')
    """
    if recode is None:
        return ""
    return f"image files, recoded as {Recoding.parse(recode)} where that is smaller"


def of_dry_run(recode: str | None, *, dry_run: bool) -> tuple[str, ...]:
    """Return what the user should know of `--recode`."""
    if recode is None or not dry_run:
        return ()
    return ("--dry-run codes no image: with --recode the file will be smaller",)
