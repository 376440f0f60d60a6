"""The source files of a finished file's images, decoded again and compared with what is stored."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from h5ingest.core.errors import SampleError
from h5ingest.core.geometry import Scale
from h5ingest.core.layout import ImageSpec
from h5ingest.core.layout_kinds import KINDS
from h5ingest.images.archives import PathReader
from h5ingest.images.conversion import Fit, Losses, convert_into
from h5ingest.images.decode import check_intact, decode_into, decode_otherwise, probe
from h5ingest.inspect.expected_specs import Expected


class _Unlike(Exception):
    """What is stored is not what comes of the source."""


class Sources:
    """Source files, converted once more as the file's options say."""

    def __init__(self, options: Mapping[str, Any], folder: Path) -> None:
        """Take the options that the file was made with, and the source folder."""
        self.expected = Expected(options)
        """Judges the spec of each source."""
        self._files = PathReader(os.fsencode(folder.absolute()))
        self._raw = options["samples"] == "raw"
        self._upright = options.get("orientation") == "exif"
        resample = options["resample"] or ("nearest" if self._raw else "bicubic")
        how = options["fit"]
        if how == "contain" and not KINDS[options["layout"]].uniform:
            how = "resize"  # to the size that it has, without padding
        self._fit = Fit(
            how=how, pad_value=options["pad_value"], resample=resample, raw=self._raw,
            scale=Scale(longest=options.get("longest"), shortest=options.get("shortest")),
        )  # fmt: skip
        self._encoded = KINDS[options["layout"]].keeps_files
        self._recoded = options.get("recode") is not None
        self._reduces = options["reduce_depth"]
        self.n_done = 0
        """Sources compared."""
        self.n_other = 0
        """Of these, by another decoder than the one that wrote the image."""

    def compare(
        self, prefix: str, path: bytes, stored: NDArray[Any], stored_shape: tuple[int, ...] | None
    ) -> str | None:
        """Return what differs between a stored image and its source, if anything.

        Args:
            prefix: of its group.
            path: of the source.
            stored: its pixels, or its file's bytes.
            stored_shape: what the file names as its shape; see `stored_shapes`.
        """
        shape = stored.shape
        if self._encoded and stored_shape is not None:
            shape = stored_shape if stored_shape[2] > 1 else stored_shape[:2]
        try:
            data, _ = self._files.read(path)
            spec = probe(data, max_pixels=sys.maxsize, raw=self._raw, upright=self._upright)
            assert spec is not None, "probe was given the whole file"
            size = None
            if stored_shape is not None and len(stored_shape) == 2:  # without its padding
                size = stored_shape
            problem = self.expected.problem(prefix, spec, shape, stored.dtype.name, size)
            if problem is not None:
                self.n_done += 1
                return problem
            if self._encoded:
                check_intact(data)
                expected = np.frombuffer(data, np.uint8)
                if self._recoded and not np.array_equal(expected, stored):
                    stored = self._shown(stored.tobytes(), spec, shape)
                    expected = self._decode(data, spec, stored)
            else:
                expected = self._decode(data, spec, stored)
        except SampleError as error:
            return f"its source cannot be read now: {error.reason}"
        except _Unlike as error:
            return str(error)
        self.n_done += 1
        if np.array_equal(expected, stored):
            return None
        return "its pixels differ from those of its source"

    def _shown(self, data: bytes, source: ImageSpec, shape: tuple[int, ...]) -> NDArray[Any]:
        """Return the pixels of a recoded image.

        Raises:
            _Unlike: it has none, or not of this shape, or fewer bits than its source.
        """
        try:
            spec = probe(data, max_pixels=sys.maxsize, raw=self._raw)
            assert spec is not None, "probe was given the whole file"
            loses = (spec.dtype, source.dtype) == ("uint8", "uint16") and not self._reduces
            if spec.shape != shape or loses:
                raise _Unlike(f"its source is {source}, found {spec}")
            pixels = np.empty(spec.shape, spec.dtype)
            decode_into(data, pixels, spec=spec, raw=self._raw)
        except SampleError as error:
            raise _Unlike(f"its recoded bytes cannot be decoded: {error.reason}") from None
        return pixels

    def _decode(self, data: bytes, spec: ImageSpec, stored: NDArray[Any]) -> NDArray[Any]:
        pixels = None if self._raw or self._upright else decode_otherwise(data)
        self.n_other += pixels is not None
        if pixels is None:
            pixels = np.empty(spec.shape, spec.dtype)
            decode_into(data, pixels, raw=self._raw, upright=self._upright)
        expected = np.empty(stored.shape, stored.dtype)
        convert_into(pixels, expected, self._fit, Losses())
        return expected
