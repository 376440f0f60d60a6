"""`OpenFiles`: the files of a store, their headers, and what a group of them holds."""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence

from h5ingest.core import schema
from h5ingest.core.errors import OutputError, UsageError
from h5ingest.core.image_columns import content_of_image
from h5ingest.core.layout_kinds import KINDS
from h5ingest.core.memory import keep_freed_memory
from h5ingest.core.schema import FileHeader, read_header
from h5ingest.reading.attributes import Attributes
from h5ingest.reading.checks import Verify
from h5ingest.reading.contents import Contents, Opener
from h5ingest.reading.forksafe_file import ForkSafeFile
from h5ingest.reading.image_rows import as_rows
from h5ingest.reading.many_files import join
from h5ingest.reading.open_file import open_group

Paths = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]
"""A file, a pattern such as `shards/*.h5`, or several files."""


def files_of(paths: Paths) -> tuple[str, ...]:
    """Return the absolute paths of files; those of a pattern in the order of their names.

    Raises:
        OutputError: there is no file that a pattern stands for.
        UsageError: there is no path.
    """
    if isinstance(paths, (str, os.PathLike)):
        name = os.fspath(paths)
        if not glob.has_magic(name) or os.path.lexists(name):
            return (os.path.abspath(name),)
        found = sorted(glob.glob(name))
        if not found:
            raise OutputError(f"{name}: expected files with names like that, found none")
    else:
        found = [os.fspath(each) for each in paths]
        if not found:
            raise UsageError("expected the path of a file, or of several, got none")
    return tuple(map(os.path.abspath, found))


def _keeps_indices(header: FileHeader, number: int) -> bool:
    """Return whether image files are read with palette indices as they are.

    Args:
        header: of a file.
        number: position among the images of its rows.

    Raises:
        OutputError: the file does not say how its images were ingested.
    """
    if not KINDS[header.layout].keeps_files:
        return False
    try:
        return content_of_image(header.options, number).get("samples") == "raw"
    except (UsageError, IndexError, TypeError, AttributeError):
        raise OutputError(
            f"{header.path}: attribute {schema.Attribute.OPTIONS}: expected `image` to say how the "
            f"images of each column were ingested"
        ) from None


class OpenFiles:
    """Files that are read as one; belong to a process and those forked from it."""

    def __init__(self, files: Sequence[str]) -> None:
        """Read their headers.

        Args:
            files: absolute paths.

        Raises:
            OutputError: one cannot be read, is not one of h5ingest, or is of another layout.
        """
        keep_freed_memory()
        self._files = files
        self.handles = [ForkSafeFile(file) for file in files]
        """One for each file."""
        self._headers: list[FileHeader] = []
        try:
            for handle in self.handles:
                with handle as file:
                    self._headers.append(read_header(Attributes(file), handle.path))
                self._let_go(handle)
        except BaseException:
            self.close()
            raise
        for header in self._headers:
            if header.layout != self.layout:
                raise OutputError(
                    f"{header.path}: expected layout {self.layout}, as {files[0]} has, found "
                    f"{header.layout}"
                )
            if header.images != self._headers[0].images:
                raise OutputError(
                    f"{header.path}: expected rows of the same images as in {files[0]}"
                )

    @property
    def layout(self) -> str:
        """Of all of them."""
        return self._headers[0].layout

    @property
    def groups(self) -> tuple[str, ...]:
        """Names of the groups that all of them have, in the order of the first."""
        every = [set(header.groups) for header in self._headers]
        return tuple(
            name for name in self._headers[0].groups if all(name in names for names in every)
        )

    @property
    def images(self) -> tuple[str, ...]:
        """Names of the images of a sample; empty if it has one."""
        others = self._headers[0].images
        return (schema.IMAGES.name, *others) if others else ()

    @property
    def digests(self) -> tuple[str, ...]:
        """Content digests, as the files have them."""
        return tuple(header.content_digest for header in self._headers)

    def contents(
        self,
        group: str | None,
        image: str | None,
        cache_bytes: int,
        n_threads: int | None,
        verify: Verify,
    ) -> Contents:
        """Return what a group of all files holds; see `ImageStore` for the arguments.

        Raises:
            UsageError: there is no such group, or no such image.
            OutputError: a file is not what the format has, or they do not fit together.
            SetupError: a filter is not available here.
        """
        names = self.images or (schema.IMAGES.name,)
        if image is not None and image not in names:
            raise UsageError(
                f"{self._files[0]}: image: expected one of {', '.join(names)}, got {image!r}"
            )
        wanted = names if image is None else (image,)
        how = cache_bytes // (len(self._files) * len(wanted)), n_threads, verify
        return as_rows({name: self._of_images(names.index(name), group, how) for name in wanted})

    def _of_images(
        self, number: int, group: str | None, how: tuple[int, int | None, Verify]
    ) -> Contents:
        """Return what a group of all files holds of the images at one place in its rows."""
        found = []
        for handle, header in zip(self.handles, self._headers, strict=True):
            prefix = header.images_of(header.prefix(group))[number]
            with handle as file:
                if prefix:
                    open_group(file, prefix)
                raw = _keeps_indices(header, number)
                part = Opener(handle, file, prefix, *how).contents(header.layout, raw=raw)
            if header.n_samples not in (None, part.n_rows) and not header.groups:
                wrong = f"expected {part.n_rows:,}, found {header.n_samples:,}"
                raise OutputError(f"{handle.path}: n_samples: {wrong}")
            found.append(part)
            self._let_go(handle)
        return found[0] if len(found) == 1 else join(found, self._files)

    def close(self) -> None:
        """Let go of the files."""
        for handle in self.handles:
            handle.close()

    def _let_go(self, handle: ForkSafeFile) -> None:
        """Close one of many files in HDF5 until it is needed: a process may have only so many."""
        if len(self._files) > 1:
            handle.close()
