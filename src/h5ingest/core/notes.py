"""What the user should know of images that were stored: a count per kind, and one image by name.

A note changes nothing: the image is stored, and not a failure. May not: know files, ranks.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

MORE_IMAGES: Final = "frames or pages after the first, which are not stored"
"""Of an animation, a TIFF file of many pages and the like the first image alone is taken."""
ORIENTED: Final = "an EXIF orientation, which is not applied (--orientation exif applies it)"
TURNED: Final = "an EXIF orientation, which was applied"
"""Viewers turn such images; decoders do not."""
BEYOND_PALETTE: Final = "palette indices that the palette has no colour for"
"""The PNG specification calls that an error; decoders make black of it."""
EXPANDED: Final = "a palette, which became colours (--samples raw keeps indices)"
"""Of PNGs: RGB, or RGBA if a colour is transparent."""

NOT_SMALLER: Final = "no fewer bytes when recoded: own bytes kept"
NOT_TAKEN: Final = "a form that the codec does not take: own bytes kept"
NOT_EXACT: Final = "pixels that the codec does not give back: own bytes kept"
NOT_BELIEVED: Final = "more pixels than a reader believes to be in so few bytes: own bytes kept"
MORE_TO_LOSE: Final = "frames or pages that recoding would lose: own bytes kept"
AS_PNG: Final = "fewer bytes as PNG than in the codec, or no form in it: stored as PNG"
"""Of pixels that become image files."""
RECODING: Final = (
    NOT_SMALLER, NOT_TAKEN, NOT_EXACT, NOT_BELIEVED, MORE_TO_LOSE, BEYOND_PALETTE, AS_PNG,
)  # fmt: skip
"""What can be said of images that `--recode` has looked at."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """Images of which the same is to be said."""

    kind: str
    """What they have: one of the kinds above."""
    count: int
    """How many."""
    index: int
    """Global 0-based index of the first of them."""
    path: str
    """Its path as the manifest has it (undecodable bytes as surrogates)."""

    def __str__(self) -> str:
        have = "1 image has" if self.count == 1 else f"{self.count:,} images have"
        return f"{have} {self.kind} (first: sample {self.index}, {self.path})"


@dataclass(slots=True)
class Notes:
    """Notes on the images of one rank, or of all."""

    _found: dict[str, tuple[int, int, str]] = field(default_factory=dict)

    def add(self, kind: str, index: int, path: str, count: int = 1) -> None:
        """Count images of a kind; index and path are those of the first of them."""
        known, first, its_path = self._found.get(kind, (0, index, path))
        if index < first:
            first, its_path = index, path
        self._found[kind] = known + count, first, its_path

    def to_plain(self) -> list[tuple[str, int, str, int]]:
        """Return the arguments of `add` that make the same notes, to be gathered."""
        return [(kind, index, path, n) for kind, (n, index, path) in sorted(self._found.items())]

    @classmethod
    def of_all(cls, told: Iterable[list[tuple[str, int, str, int]]]) -> tuple[Note, ...]:
        """Return the notes of all ranks, in the order of their kinds.

        >>> [str(note) for note in Notes.of_all([[("x", 7, "g.png", 2)], [("x", 3, "c.png", 1)]])]
        ['3 images have x (first: sample 3, c.png)']
        """
        notes = cls()
        for plain in told:
            for one in plain:
                notes.add(*one)
        return tuple(
            Note(kind=kind, count=count, index=index, path=path)
            for kind, index, path, count in notes.to_plain()
        )
