"""`IngestOptions`: what the user may choose, checked once, known to every rank."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from h5ingest.core.errors import UsageError
from h5ingest.core.geometry import Scale
from h5ingest.core.image_columns import FILTERS, options_of_images
from h5ingest.core.option_fields import COMMON, check_values, option, options_of
from h5ingest.core.option_rules import check_combinations, check_tuning
from h5ingest.core.recoding import Recoding
from h5ingest.core.schema import LAYOUTS
from h5ingest.core.units import MIB

MAX_PIXELS: Final = 89_478_485
"""Pillow's `Image.MAX_IMAGE_PIXELS`: a quarter of a GiB of RGB, 'decompression bomb' beyond it."""

AUTO: Final = "auto"
"""Value of `compression` for which a sample of the images decides."""
CHANNELS: Final = {"gray": 1, "rgb": 3, "rgba": 4}
"""Value of `channels` -> number of channels."""
MAX_READERS: Final = 256
"""Threads of one rank: far more than a file system's metadata server can use."""

_IF_GIVEN: Final = ("image", "longest", "shortest", "orientation")
"""Options that a file names only where they were given: others stay as they were without them."""

_common = partial(option, panel=COMMON)
_common_look = partial(_common, in_file=True)
_manifest = partial(option, panel="The manifest")
_look = partial(option, panel="What the file looks like", in_file=True)
_chunks = partial(option, panel="Chunks and compression", in_file=True)
_run = partial(option, panel="How it runs")
_disk = partial(option, panel="Parallel file systems")
_trouble = partial(option, panel="When something goes wrong")


@dataclass(frozen=True, slots=True, kw_only=True)
class IngestOptions:
    """Everything that decides what the file looks like and how it is made.

    The only place where an option is written down: the command line, its help and the file's
    `options` attribute are made from these fields, in this order. Sizes are in bytes, times in
    seconds, `size` is (height, width) in pixels. None stands for what the help calls `auto`, or for
    the default that it gives in parentheses.

    Raises:
        UsageError: a value that cannot be, or an option that would have no effect.
    """

    root: Path | None = _common(  # noqa: RUF009 - it is a field, as all are
        None,
        "Folder that relative paths are relative to. (default: the manifest's folder)",
        form="DIR",
    )
    delimiter: str | None = _manifest(
        None,
        "Character between the manifest's columns. (default: a comma in .csv, otherwise a tab)",
        form="CHAR",
    )
    label_column: str | None = _manifest(
        None, "Take the labels from this column. (default: the one named label)", form="COLUMN"
    )
    multi_label: bool = _manifest(
        False,
        "A label may name several classes (cat|dog) or none. A heading label[|] says the same.",
    )
    image: tuple[str, ...] = _look(
        (),
        "Also store the images that another column names, row by row: mask, or with an option: "
        "mask:raw, depth:uint16. May be given several times.",
        form="COLUMN:HOW",
    )
    layout: str = _common_look(
        "stack",
        "stack: one dataset of images of one size. ragged: images of any size, one after the "
        "other. tree: a dataset for each image. encoded: the files' bytes.",
        choices=LAYOUTS,
    )
    group_by: str | None = _common_look(
        None, "Make an HDF5 group for each value of this column (train, test ...).", form="COLUMN"
    )
    channels: str = _look(
        "auto",
        "auto: the fewest that lose nothing (gray is repeated, missing alpha is opaque).",
        choices=("auto", *CHANNELS),
    )
    dtype: str = _look(
        "auto",
        "uint16: 8-bit values are multiplied by 257. auto: as they are, never mixed.",
        choices=("auto", "uint8", "uint16"),
    )
    reduce_depth: bool = _look(
        False, "Let --dtype uint8 turn 16 bits into 8, with loss.", goes_with=("dtype", "uint8")
    )
    samples: str = _look(
        "scaled",
        "raw: keep palette indices and unscaled 1-, 2-, 4-bit gray, as label masks need.",
        choices=("scaled", "raw"),
    )
    fit: str = _common_look(
        "error",
        "How images of other sizes are made to fit. pad: at the bottom and right (true sizes in "
        "/sizes). crop: to the centre. resize: scale. cover: scale to fill, then crop. contain: "
        "scale to fit inside, then pad.",
        choices=("error", "pad", "crop", "resize", "cover", "contain"),
    )
    size: tuple[int, int] | None = _common_look(
        None,
        "Height and width with --fit; 224 for 224x224. (default: the largest; crop, cover, "
        "contain: the most common)",
        form="HxW",
    )
    longest: int | None = _look(
        None, "Scale each image first, so that its longer side is N.", form="N", least=1
    )
    shortest: int | None = _look(
        None, "Scale each image first, so that its shorter side is N.", form="N", least=1
    )
    orientation: str = _look(
        "as-stored",
        "exif: turn images as their EXIF orientation says, as viewers do. as-stored: leave them.",
        choices=("as-stored", "exif"),
    )
    pad_value: int = _look(
        0,
        "Value of the padding, in every channel.",
        form="0-65535",
        least=0,
        most=65535,
        goes_with=("fit", "pad", "contain"),
    )
    resample: str | None = _look(
        None,
        "Pillow's filter for scaling. (default: bicubic; nearest for raw samples)",
        choices=FILTERS,
    )
    compression: str | None = _common_look(
        None,
        "gzip:9, lzf, szip, zstd:3, lz4, bzip2:9, blosc:lz4:5, blosc2:zstd:5:bitshuffle, "
        "bitshuffle:zstd, htj2k (photographs) ... (lossless codecs only). auto: of the codecs "
        "that read as fast as PNG, the one that makes a sample smallest. (default: none)",
        form="SPEC",
    )
    shuffle: bool = _chunks(False, "Shuffle bytes before compressing: for 16-bit images.")
    chunk_rows: int | None = _chunks(
        None,
        "Images per HDF5 chunk. auto: one if an image has 64 KiB or more, otherwise as many as "
        "make about 1 MiB (512 KiB if compressed).",
        flag="--chunk",
        form="auto|ROWS",
        least=1,
    )
    recode: str | None = _chunks(
        None,
        "With --layout encoded: re-encode images, without loss, where that takes fewer bytes: "
        "jxl:3 (any image; a JPEG comes back byte for byte), webp (8-bit RGB, RGBA), htj2k "
        "(gray, RGB), png. (default: files as they are; recompress: png)",
        form="CODEC",
        goes_with=("layout", "encoded"),
    )
    batch_bytes: int = _run(
        4 * MIB, "Bytes of pixels a rank decodes before it writes them.", form="SIZE", least=1
    )
    cache_bytes: int | None = _run(
        None,
        "Memory in which a rank keeps files from the header check, so that each is opened once. "
        "auto: an eighth of a host's free memory, shared by its ranks. Small files that decide "
        "what a stack becomes are kept in any case, 2 MiB over all ranks.",
        form="auto|SIZE",
        least=0,
    )
    stripe_count: int | None = _disk(
        None,
        "Lustre: number of storage targets for OUT; 0: as set for its folder. (default: 8 from 1 "
        "GB, 24 from 10 GB, 72 from 100 GB, unless the folder is set to several)",
        form="N",
    )
    stripe_size: int | None = _disk(
        None, "Lustre: bytes written to one target before the next. (default: 4MiB)", form="SIZE"
    )
    alignment: int = _disk(
        0,
        "Start datasets and chunks of at least this size at multiples of it. 0: anywhere.",
        form="SIZE",
    )
    hints: tuple[tuple[str, str], ...] = _disk(
        (),
        "A hint for MPI-IO, such as romio_ds_write=disable. May be given several times.",
        flag="--hint",
        form="KEY=VALUE",
    )
    direct_io: str = _disk(
        "auto",
        "Write uncompressed pixels past the system's cache, in a thread. auto: for 16 MiB or "
        "more, on a local ext4 or XFS, without --hint.",
        choices=("auto", "on", "off"),
    )
    probe: str = _run(
        "auto",
        "Headers to read before the first image is stored. auto: only some of a large stack, so "
        "that each file is opened once. all: what does not fit together is found first.",
        choices=("auto", "all"),
    )
    readers: int | None = _run(
        None,
        "Threads per rank that read files ahead. auto: 16 as soon as files are slow to open, as "
        "on a parallel file system; 0: none.",
        form="auto|N",
        least=0,
        most=MAX_READERS,
    )
    on_error: str = _common(
        "fail",
        "If an image cannot be read, fail publishes nothing and exits with 3; blank stores zeros "
        "and status 2 in its place. Either way the run goes on and names each bad image.",
        choices=("fail", "blank"),
        in_file=True,
    )
    max_pixels: int = _trouble(
        MAX_PIXELS, "Refuse an image whose header claims more pixels.", least=1, in_file=True
    )
    trust_palettes: bool = _trouble(
        False, "Accept palette images even on ARM with a libpng before 1.6.56 (CVE-2026-33636)."
    )
    checkpoint_s: float = _trouble(
        30.0,
        "How often stored images are made safe on disk: a killed job loses about that much work.",
        flag="--checkpoint",
        form="SECONDS",
    )
    peer_timeout_s: float = _trouble(
        300.0,
        "After this long without a sign of life, another rank or another host's job is presumed "
        "dead.",
        flag="--peer-timeout",
        form="SECONDS",
    )
    restart: bool = _trouble(False, "Discard what an unfinished job left, and start over.")
    overwrite: bool = _common(
        False,
        "Replace OUT, if h5ingest wrote it, once the new file is complete. A file that is not "
        "HDF5 is never replaced.",
    )
    overwrite_foreign: bool = _trouble(
        False,
        "With --overwrite: replace OUT even if it is an HDF5 file that something else wrote, or "
        "that is damaged.",
        goes_with=("overwrite", True),
    )
    dry_run: bool = _common(
        False, "Check the manifest and all headers and say what would be made; write nothing."
    )

    def __post_init__(self) -> None:
        if self.delimiter is not None and (
            len(self.delimiter) != 1 or not self.delimiter.isascii() or self.delimiter in '\r\n"\0'
        ):
            raise UsageError(
                "--delimiter: expected one ASCII character other than a quote or a line end, "
                f"got {self.delimiter!r}"
            )
        check_values(self)
        check_combinations(self)
        options_of_images(self)
        check_tuning(self)

    @property
    def scale(self) -> Scale:
        """How images are scaled before they are fitted."""
        return Scale(longest=self.longest, shortest=self.shortest)

    @property
    def is_auto(self) -> bool:
        """Whether a sample of the images decides on the codec."""
        return (self.compression or "").lower() == AUTO

    @property
    def any_palette(self) -> bool:
        """Whether palette images are taken whatever libpng there is."""
        as_they_are = self.layout == "encoded" and self.recode is None
        return self.trust_palettes or as_they_are

    def content(self) -> dict[str, object]:
        """Return the options that decide what the file contains: not those of how it is made."""
        content = {
            each.name: getattr(self, each.name)
            for each in options_of(type(self))
            if each.in_file
            and (each.name not in _IF_GIVEN or getattr(self, each.name) != each.default)
        }
        if self.recode is not None:
            content["recode"] = str(Recoding.parse(self.recode))
        return content
