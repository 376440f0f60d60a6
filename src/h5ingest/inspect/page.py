"""`show --page`: one page with all in it about a file: no other file, no address, no script.

May not: write HDF5.
"""

from __future__ import annotations

import io
import os
from base64 import b64encode
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice, product
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from h5ingest import __version__
from h5ingest.core import outfiles
from h5ingest.core.errors import SetupError
from h5ingest.core.schema import STATUS_OK
from h5ingest.core.units import size
from h5ingest.inspect.canvas import Scale
from h5ingest.inspect.duplicates import duplicates
from h5ingest.inspect.in_words import of_kind
from h5ingest.inspect.samples import Sample, charts, extremes, look
from h5ingest.inspect.show import printable, provenance_of
from h5ingest.reading.open_files import OpenFiles, files_of
from h5ingest.reading.store import ImageStore

_MOST_GROUPS: Final = 6
_MOST_FAILED: Final = 50
_MOST_COPIES: Final = 12
"""Sets of copies that are shown; of each this many:"""
_OF_A_SET: Final = 6
_MOST_BARS: Final = 60
"""Classes that have a bar."""
_SIDES: Final = (128, 96, 64, 48, 32, 16)
"""Pixels of the longer side of a picture: the most that keeps the page small."""
_MOST_BYTES: Final = 3 * 2**20
"""Of all pictures."""


@dataclass(frozen=True, slots=True)
class Picture:
    """An image in the gallery."""

    caption: str
    image: NDArray[Any]
    """As stored."""

    @property
    def has_alpha(self) -> bool:
        """Whether something is to be seen behind it."""
        return self.image.ndim == 3 and self.image.shape[2] in (2, 4)

    def png(self, longest: int) -> bytes:
        """Return a PNG of exactly these pixels; of a larger image reduced to so many.

        16-bit values and masks are stretched as in a contact sheet: PNGs have to be seen.
        """
        picture = Scale.of(self.image).to_screen(self.image)
        if self.image.ndim == 2:
            picture = picture.convert("L")
        picture.thumbnail((longest, longest))
        stream = io.BytesIO()
        picture.save(stream, format="PNG")
        return stream.getvalue()


@dataclass(frozen=True, slots=True, kw_only=True)
class Strip:
    """Pictures side by side."""

    id: str
    """Of the element."""
    title: str
    about: str
    pictures: tuple[Picture, ...]


def write_page(
    path: str | os.PathLike[str], file: Path, *, group: str | None = None, seed: int = 0
) -> None:
    """Write the page.

    Args:
        path: of the HDF5 file.
        file: where the page goes; an earlier page is replaced.
        group: only this group.
        seed: decides which images are shown.

    Raises:
        OutputError: the HDF5 file cannot be read, or the page not be written.
        UsageError: there is no such group.
        SetupError: jinja2 is not installed.
    """
    outfiles.write(file, page(path, group=group, seed=seed).encode(), outfiles.LOOK)


def page(path: str | os.PathLike[str], *, group: str | None = None, seed: int = 0) -> str:
    """Return the HTML; see `write_page`."""
    try:
        from jinja2 import Environment, PackageLoader, StrictUndefined
    except ImportError:
        raise SetupError(
            "show --page needs jinja2, which is not installed: pip install 'h5ingest[bench]'"
        ) from None
    with closing(OpenFiles(files_of(path))) as opened:
        names: Sequence[str | None] = opened.groups if group is None else [group]
        images = opened.images or (None,)
    shown = [*product(names or [None], images)][:_MOST_GROUPS]
    groups = [_group(path, *which, number, seed) for number, which in enumerate(shown)]
    copies = _copies(path, group, images[0])
    strips = [*(strip for each in groups for strip in each["strips"]), *copies]
    pictures = [picture for strip in strips for picture in strip.pictures]
    for side in _SIDES:
        pngs = {id(picture): picture.png(side) for picture in pictures}
        if sum(map(len, pngs.values())) <= _MOST_BYTES:
            break
    environment = Environment(
        loader=PackageLoader("h5ingest.inspect"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    environment.filters |= {"count": "{:,}".format, "printable": printable}
    return environment.get_template("page.html").render(
        # `core.outfiles` recognizes a page by these words.
        title=f"{Path(path).name}, seen by h5ingest",
        name=Path(path).name,
        version=__version__,
        n_bytes=size(os.path.getsize(path)),
        groups=groups,
        copies=copies,
        n_more=max(1, len(names)) * len(images) - len(shown),
        seed=seed,
        side=side,
        source=lambda picture: b64encode(pngs[id(picture)]).decode("ascii"),
        provenance=provenance_of(path),
    )


def _group(
    path: str | os.PathLike[str], name: str | None, image: str | None, number: int, seed: int
) -> dict[str, Any]:
    """Return what the template shows of the images of a group, of several a row of these."""
    with ImageStore(path, group=name, image=image) as store:
        sample, prefix = look(store, seed), f"g{number}"
        failed = np.flatnonzero(store.status != STATUS_OK)
        named = failed[:_MOST_FAILED]
        moments = () if store.layout == "encoded" else sorted(store.stats.kinds.items())
        return {
            "name": ": ".join(filter(None, (name, image))),
            "id": prefix,
            "about": f"{len(store):,} images{of_kind(store)}, layout {store.layout}",
            "n_failed": len(failed),
            "failed": list(zip(named.tolist(), store.paths.many(named), strict=True)),
            "moments": moments,
            "sample": sample,
            "bars": _bars(store),
            "charts": charts(store, sample),
            "strips": [
                strip
                for strip in (
                    *_by_class(store, sample, prefix),
                    *_extremes(store, prefix),
                    *_means(sample, prefix),
                )
                if strip.pictures
            ],
        }


def _shown(store: ImageStore, rows: Iterable[int]) -> tuple[Picture, ...]:
    rows = list(rows)
    paths = store.paths.many(np.array(rows, np.intp))
    return tuple(
        Picture(f"row {row:,}: {path}", store[row][0])
        for row, path in zip(rows, paths, strict=True)
    )


def _by_class(store: ImageStore, sample: Sample, prefix: str) -> list[Strip]:
    return [
        Strip(
            id=f"{prefix}-class-{number}",
            title=each.name or "Some images",
            about=f"{each.n_images:,} images",
            pictures=_shown(store, each.rows.tolist()),
        )
        for number, each in enumerate(sample.classes)
    ]


def _extremes(store: ImageStore, prefix: str) -> list[Strip]:
    found = extremes(store)
    if found is None:
        return []
    return [
        Strip(
            id=f"{prefix}-{title.lower()}",
            title=title,
            about="by number of pixels",
            pictures=_shown(store, rows.tolist()),
        )
        for title, rows in zip(("Largest", "Smallest"), found, strict=True)
    ]


def _copies(path: str | os.PathLike[str], group: str | None, first: str | None) -> list[Strip]:
    """Return the first images that are there more than once, those of several groups too."""
    stores: dict[tuple[str, str | None], ImageStore] = {}
    strips = []
    try:
        for number, places in enumerate(islice(duplicates(path, group=group), _MOST_COPIES)):
            pictures = []
            for place in places[:_OF_A_SET]:
                which = place.group, place.image
                if which not in stores:
                    image = place.image or first
                    stores[which] = ImageStore(path, group=place.group or None, image=image)
                caption = f"{place.where}: {place.path}"
                pictures.append(Picture(caption, stores[which][place.row][0]))
            leaks = ", in more than one group" * (len({place.group for place in places}) > 1)
            about = f"{len(places):,} times{leaks}"
            strips.append(
                Strip(id=f"copies-{number}", title="The same", about=about, pictures=(*pictures,))
            )
    finally:
        for store in stores.values():
            store.close()
    return strips


def _means(sample: Sample, prefix: str) -> list[Strip]:
    pictures = []
    for each in sample.classes:
        if each.mean is not None and each.n_mean > 1:
            deep = sample.values.keys() != {"uint8"}
            mean = np.rint(each.mean).astype(np.uint16 if deep else np.uint8)
            pictures.append(Picture(f"{each.name or 'all'}: mean of {each.n_mean:,}", mean))
    title, about = "Mean image of each class", "of the images that were read"
    return [Strip(id=f"{prefix}-means", title=title, about=about, pictures=tuple(pictures))]


def _bars(store: ImageStore) -> list[tuple[str, int, float]]:
    """Return name, images, and their share of the largest, of the first classes."""
    stats, names = store.stats, store.label_names
    if stats.classes is None or stats.class_counts is None or not len(stats.classes):
        return []
    most = int(stats.class_counts.max()) or 1
    return [
        (names[label] if names else str(label), n, 100 * n / most)
        for label, n in zip(
            stats.classes[:_MOST_BARS].tolist(), stats.class_counts.tolist(), strict=False
        )
    ]
