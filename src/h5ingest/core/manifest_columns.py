"""`ManifestColumns`: the columns of a manifest, which is read once more, by rank 0."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from h5ingest.core import column_types, schema
from h5ingest.core.errors import ManifestError
from h5ingest.core.lists import OF_CLASSES, Lists
from h5ingest.core.manifest import Manifest, stream
from h5ingest.core.manifest_dialect import LineError
from h5ingest.core.sample_columns import INDEX, Block


class ManifestColumns:
    """See `SampleColumns`."""

    def __init__(self, manifest: Manifest) -> None:
        """Read nothing yet."""
        self._manifest = manifest
        self.name = manifest.name
        self.class_names = manifest.class_names
        self.kinds = {"path": schema.PATHS.dtype, **manifest.column_kinds}
        if "label" in manifest.dialect.columns:
            is_one = manifest.dialect.has_one_label
            self.kinds["label"] = schema.LABELS.dtype if is_one else OF_CLASSES
        self.kinds[INDEX] = schema.SAMPLES.dtype

    def blocks(self) -> Iterator[Block]:
        """Yield blocks of lines; check that the manifest is still the same.

        Raises:
            ManifestError: it is not.
        """
        manifest = self._manifest
        labels = {name: code for code, name in enumerate(manifest.class_names or ())}
        groups = {name: code for code, name in enumerate(manifest.group_names)}
        sha256 = hashlib.sha256()
        row = 0
        try:
            for columns in stream(manifest.path, manifest.dialect, sha256.update):
                n_block = len(columns["path"])
                if row + n_block > manifest.n_rows:
                    break
                block: dict[str, NDArray[Any] | Lists] = {}
                for column, kind in self.kinds.items():
                    if column == INDEX:
                        block[column] = manifest.first + np.arange(row, row + n_block)
                    elif column == "label" and kind == OF_CLASSES:
                        rows = map(manifest.dialect.classes_of, columns[column])
                        named = [[labels[name] for name in row] for row in rows]
                        block[column] = Lists.of(named, np.int64)
                    elif column == "label" and labels:
                        codes = map(labels.__getitem__, columns[column])
                        block[column] = np.fromiter(codes, np.int64)
                    else:
                        block[column] = column_types.convert(columns[column], kind)
                for column in manifest.images[1:]:
                    block[column] = column_types.convert(columns[column], schema.PATHS.dtype)
                of_group = np.zeros(n_block, np.int64)
                if manifest.group_by is not None:
                    wanted = columns[manifest.group_by]
                    of_group[:] = np.fromiter(map(groups.__getitem__, wanted), np.int64)
                yield of_group, block
                row += n_block
        except (LineError, OSError, KeyError, ValueError):
            row = -1  # what could be read when the run began cannot be read now
        if row != manifest.n_rows or sha256.hexdigest() != manifest.sha256:
            raise ManifestError(
                f"{manifest.path}: the manifest was changed while the job ran; nothing is "
                f"published. Run again."
            )
