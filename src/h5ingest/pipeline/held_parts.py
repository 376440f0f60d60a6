"""What a rank knows of the rows of a file behind which images are added.

May not: know a communicator.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from h5ingest.core.census import KIND, STORED, count, merge
from h5ingest.core.errors import OutputError, UsageError
from h5ingest.core.held_rows import HeldRows
from h5ingest.core.layout import Group
from h5ingest.core.option_fields import options_of
from h5ingest.core.options import IngestOptions
from h5ingest.core.packed_strings import PackedStrings
from h5ingest.core.sample_table import IN_NONE, MEMBER, NOWHERE, PLACE, Samples
from h5ingest.core.schema import Attribute, FileHeader
from h5ingest.pipeline.kept_rows import KeptRows
from h5ingest.pipeline.stored_file import CARRIED
from h5ingest.pipeline.stored_parts import Part, palettes_of
from h5ingest.storage.auto_codec import AutoCodec

_POLICY: Final = "on_error"
"""The option in a file that is not that of what is added to it."""
_MOST_LETTERS: Final = 16 * 1024
"""Of the names of all manifests that a file was made of: the last ones are kept."""


def chosen(options: IngestOptions, header: FileHeader) -> tuple[IngestOptions, AutoCodec | None]:
    """Return the options with those of the file, and what `--compression auto` has chosen for it.

    Raises:
        UsageError: one is given that is the file's affair, or does not go with its own.
        OutputError: those of the file mean nothing.
    """
    of_file = [each for each in options_of(IngestOptions) if each.in_file and each.name != _POLICY]
    given = [each.flag for each in of_file if getattr(options, each.name) != each.default]
    if given:
        raise UsageError(f"{given[0]} cannot apply: the options are those of {header.path}")
    told = {each.name: header.options.get(each.name, each.default) for each in of_file}
    told |= {"layout": header.layout, "size": tuple(told["size"] or ()) or None}
    try:
        IngestOptions(**told)
    except (TypeError, ValueError, AttributeError) as error:
        raise OutputError(f"{header.path}: its options mean nothing here: {error}") from None
    options = replace(options, **told)
    auto = AutoCodec.from_plain(header.options.get("auto")) if options.is_auto else None
    if (auto is None) == options.is_auto or bool(header.groups) != (options.group_by is not None):
        raise OutputError(f"{header.path}: its options do not fit what is in it")
    return options, auto


def count_kept(parts: Sequence[Part], kept: KeptRows) -> NDArray[np.int64]:
    """Return (groups of images, 3) rows, elements and failures of this rank that stay."""
    counts = np.zeros((len(parts), 3), np.int64)
    for number, part in enumerate(parts):
        stays = kept.stay(number, part.samples.rows)
        lengths = part.samples.lengths
        n_elements = lengths[stays].sum() if len(lengths) else 0
        counts[number] = stays.sum(), n_elements, (part.has_failed & stays).sum()
    return counts


def held_rows(parts: Sequence[Part], kept: KeptRows, total: NDArray[np.int64]) -> HeldRows:
    """Return what stays; `total`, (groups, 3), is what `count_kept` returns, of all ranks."""
    left, n_each = np.flatnonzero(total[:, 0]), parts[0].samples.n_each
    kinds = [_kinds(parts[old], kept, old, new) for new, old in enumerate(left.tolist())]
    return HeldRows(
        groups=tuple(os.fsencode(parts[old].group.name) for old in left[::n_each].tolist()),
        counts=total[left, :2],
        kinds=merge(kinds),
        palettes=palettes_of(parts[:n_each]),
    )


def _kinds(part: Part, kept: KeptRows, old: int, new: int) -> NDArray[np.void]:
    """Return the kinds of images of a group that stay; in a stack what they were made."""
    output, samples = part.group.output, part.samples
    stays = kept.stay(old, samples.rows)
    if output.size is not None:
        n_rows, (height, width) = int(stays.sum()), output.size
        numbers = (new, height, width, output.channels or 1, output.n_bytes, n_rows, STORED)
        return np.array([numbers][: n_rows > 0], KIND)
    kinds = count(np.full(int(stays.sum()), new, np.int32), samples.shapes[stays], 0)
    kinds["first"] = STORED
    return kinds


def held_samples(
    part: Part,
    kept: KeptRows,
    numbers: tuple[int, int],
    n_elements: int,
    *,
    in_folders: bool,
    recoded: bool,
    with_members: bool,
) -> Samples:
    """Return the samples of this rank in a group that stay, as rows of what is made.

    Args:
        part: of the file.
        kept: which rows stay.
        numbers: position of the group in the file, and from now on.
        n_elements: of those that stay on the ranks before.
        in_folders: whether new samples have names of HDF5 groups.
        recoded: whether they have places in spools.
        with_members: whether some of them lie in archives.
    """
    (old, new), samples, n_each = numbers, part.samples, part.samples.n_each
    stays = kept.stay(old, samples.rows)
    first, n = kept.n_before(old, samples.rows.start), int(stays.sum())
    at, lengths = np.flatnonzero(stays).tolist(), samples.lengths
    lengths = lengths[stays] if len(lengths) else lengths
    return Samples(
        group=new,
        rows=range(first, first + n),
        indices=kept.renumbered(samples.indices[stays] // n_each) * n_each + old % n_each,
        paths=PackedStrings.pack([samples.paths[k] for k in at]),
        shapes=samples.shapes[stays] if len(samples.shapes) else samples.shapes,
        starts=n_elements + np.cumsum(lengths) - lengths,
        lengths=lengths,
        folders=PackedStrings.pack([b""] * n * in_folders),
        names=PackedStrings.pack([samples.names[k] for k in at] if len(samples.names) else []),
        places=np.full(n * recoded, NOWHERE, PLACE),
        members=np.full(n * with_members, IN_NONE, MEMBER),
        n_each=n_each,
    )


def refuse_other_images(part: Part, group: Group, path: Path) -> None:
    """Raise if the images of a group would become something else than they are in the file.

    Raises:
        UsageError: they would.
    """
    output = part.group.output
    was = str(output.image) if output.size is not None else output.dtype or ""
    now = str(group.image) if group.image is not None else group.pixels.dtype
    if was and now != was:
        where = f"group {group.name!r}: " if group.name else ""
        raise UsageError(
            f"{path}: {where}its images are {was}; with those of the manifest all would be {now}, "
            f"which what is stored cannot become. Ingest both together, or these into another file"
        )


def attributes_of_both(
    old: Mapping[str, Any], new: Mapping[str, str], options: Mapping[str, object]
) -> dict[str, str]:
    """Return the attributes of a file to which images are added: of all manifests, the last last.

    Args:
        old: those of the file.
        new: those that an ingest of the new images would make.
        options: as the file has them.
    """
    from h5ingest.pipeline.provenance import as_json  # on one rank

    found: dict[str, str] = {name: str(old[name]) for name in CARRIED if name in old}
    for name in (Attribute.MANIFEST_NAME, Attribute.MANIFEST_SHA256):
        found[name] = ", ".join(filter(None, (found.get(name), new[name])))[-_MOST_LETTERS:]
    return found | {Attribute.OPTIONS: as_json(options)}
