"""Which options of an ingest go together, and what those may be that fit a file to its disk.

May not: import `options`, whose values these are.
"""

from __future__ import annotations

from typing import Any, Final

from h5ingest.core.errors import UsageError
from h5ingest.core.recoding import Recoding
from h5ingest.core.units import GIB, KIB

_MOST_ALIGNMENT: Final = GIB  # bytes: more would only make holes
_STRIPE_UNIT: Final = 64 * KIB  # Lustre's LOV_MIN_STRIPE_SIZE


def check_combinations(options: Any) -> None:
    """Refuse what would have no effect: the user expects one.

    Args:
        options: `IngestOptions`, each of which has been checked by itself.

    Raises:
        UsageError: options that contradict each other.
    """
    filtered = options.shuffle or options.compression not in (None, "none")
    if options.size is not None and min(options.size) < 1:
        raise UsageError(f"--size: expected height and width of at least 1, got {options.size}")
    if options.layout != "stack":
        fit, size, rows = options.fit != "error", options.size, options.chunk_rows
        for flag, wrong in (("--fit", fit), ("--size", size), ("--chunk", rows)):
            if wrong:
                raise UsageError(f"{flag} is for --layout stack only, got {options.layout}")
    if options.size is not None and options.fit == "error":
        raise UsageError("--size: say how with --fit pad, crop, resize, cover or contain")
    scales = options.longest or options.shortest
    if options.longest and options.shortest:
        raise UsageError("--longest and --shortest: expected one of them, got both")
    if scales and options.fit not in ("error", "pad", "crop"):
        raise UsageError(f"--longest and --shortest go with --fit pad or crop, got {options.fit}")
    if options.resample and not scales and options.fit not in ("resize", "cover", "contain"):
        raise UsageError(
            "--resample goes with --fit resize, cover or contain, or with --longest or --shortest"
        )
    if options.is_auto and options.shuffle:
        raise UsageError("--compression auto chooses filters itself: it does not go with --shuffle")
    if (options.compression or "").lower() == "htj2k" and (
        options.shuffle or options.layout == "ragged"
    ):
        raise UsageError(
            "--compression htj2k codes each image by itself: it goes with --layout tree (any "
            "sizes) or stack (one size), without --shuffle"
        )
    if options.layout == "encoded":
        if filtered:
            raise UsageError(
                "--layout encoded stores the image files' own bytes, which are compressed "
                "already: --compression and --shuffle would only cost time; --recode jxl makes "
                "most of them smaller"
            )
        as_they_are = options.channels, options.dtype, options.orientation
        if as_they_are != ("auto", "auto", "as-stored") or scales:
            raise UsageError(
                "--layout encoded stores the image files as they are: --channels, --dtype, "
                "--orientation, --longest and --shortest cannot apply"
            )
        if options.samples == "raw" and options.recode is not None:
            raise UsageError(
                "--recode codes colours, not palette indices: it does not go with --samples raw"
            )
    if options.recode is not None:
        Recoding.parse(options.recode)
    if options.direct_io == "on" and (options.layout == "tree" or filtered):
        raise UsageError(
            "--direct-io on is for uncompressed images in one dataset, without --layout tree, "
            "--compression or --shuffle"
        )
    if options.samples == "raw" and options.channels != "auto":
        raise UsageError(
            "--samples raw keeps indices, which have no colour: it does not go with --channels"
        )
    if options.samples == "raw" and options.reduce_depth:
        raise UsageError(
            "--samples raw keeps values as they are: it does not go with --reduce-depth"
        )


def check_tuning(options: Any) -> None:
    """Check alignment, stripes and hints for MPI-IO, none of which changes what is stored.

    Raises:
        UsageError: a value that cannot be.
    """
    if not 0 <= options.alignment <= _MOST_ALIGNMENT:
        raise UsageError(f"--alignment: expected 0 to 1GiB, got {options.alignment} bytes")
    stripe_count, stripe_size = options.stripe_count, options.stripe_size
    if stripe_count is not None and stripe_count < 0:
        raise UsageError(
            f"--stripe-count: expected a number of storage targets, got {stripe_count}"
        )
    if stripe_size is not None:
        if stripe_count == 0:
            raise UsageError("--stripe-size: --stripe-count 0 leaves the stripes as they are")
        if stripe_size % _STRIPE_UNIT or not 0 < stripe_size < 4 * GIB:
            raise UsageError(
                f"--stripe-size: expected a multiple of 64KiB below 4GiB, as Lustre does, got "
                f"{stripe_size} bytes"
            )
    for key, value in options.hints:
        text = f"{key}={value}"
        if not (key and value and text.isascii() and text.isprintable() and " " not in key):
            raise UsageError(f"--hint: expected KEY=VALUE in printable ASCII, got {text!r}")
    if len(dict(options.hints)) < len(options.hints):
        raise UsageError("--hint: expected each key once")
