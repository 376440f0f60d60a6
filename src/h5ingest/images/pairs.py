"""Lines of a manifest that belong together: images and masks of the same name in two folders.

May not: touch a folder, know ranks, print.
"""

from __future__ import annotations

import os
from typing import BinaryIO

from h5ingest.core.errors import ManifestError
from h5ingest.images.folder_manifest import Form, joined
from h5ingest.images.scan import Tally, note


def pair_lines(lines: BinaryIO, paired: BinaryIO, form: Form, tally: Tally) -> tuple[str, ...]:
    """Write a line for each image that has its like in all other folders.

    What belongs together has the same path, but for the name of one folder and the file's ending.
    Labels are left out where all are the name of the first folder. `tally` is told of other files.

    Returns:
        The names of the columns.

    Raises:
        ManifestError: nothing belongs together.
    """
    names = [os.fsencode(name) for name in form.options.pair]
    kept = form.table(lines)
    paths = kept.pop("path")
    found: list[dict[bytes, int]] = [{} for _ in names]  # of each folder: key -> line
    for line, path in enumerate(paths):
        inside = path.removeprefix(form.prefix)
        keys = [_key(inside, name) for name in names]
        for of_folder, key in zip(found, keys, strict=True):
            if key is not None and key in of_folder:
                note(tally.noted, "several files of the same name, endings aside", inside)
            elif key is not None:
                of_folder[key] = line
        if all(key is None for key in keys):
            note(tally.noted, f"in no folder called {' or '.join(form.options.pair)}", inside)
    whole = [key for key in found[0] if all(key in of_folder for of_folder in found)]
    for name, of_folder in zip(form.options.pair, found, strict=True):
        for key in of_folder.keys() - set(whole):
            path = paths[of_folder[key]].removeprefix(form.prefix)
            note(tally.noted, f"in {name}, without a partner in another folder", path)
    if not whole:
        raise ManifestError(
            f"{os.fsdecode(form.base)}: expected files of the same name in folders called "
            f"{' and '.join(form.options.pair)}, found none"
        )
    rows = [found[0][key] for key in whole]
    tally.rows = len(rows), len(names)
    tally.classes = {kept["label"][row] for row in rows} if "label" in kept else set()
    if tally.classes <= {names[0]}:
        kept.pop("label", None)
        tally.classes.clear()
    heading = ("path", *form.options.pair[1:], *kept)
    paired.write(joined(map(os.fsencode, heading), comma=form.comma) + b"\n")
    for key, row in zip(whole, rows, strict=True):
        of_row = [paths[of_folder[key]] for of_folder in found]
        of_row += [cells[row] for cells in kept.values()]
        paired.write(joined(of_row, comma=form.comma) + b"\n")
    return heading


def _key(path: bytes, folder: bytes) -> bytes | None:
    """Return what of a path is the same in all folders; None: it is not in one of this name.

    >>> _key(b"train/images/7.png", b"images"), _key(b"train/masks/7.tif", b"masks")
    (b'train/7', b'train/7')
    """
    *folders, file = path.split(b"/")
    if folder not in folders:
        return None
    at = len(folders) - 1 - folders[::-1].index(folder)
    return b"/".join([*folders[:at], *folders[at + 1 :], os.path.splitext(file)[0]])
