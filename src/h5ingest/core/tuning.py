"""Options that fit a file to its disk: what they may be. None of them changes what is stored."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from h5ingest.core.errors import UsageError
from h5ingest.core.units import GIB, KIB

_MOST_ALIGNMENT: Final = GIB  # bytes: more would only make holes
_STRIPE_UNIT: Final = 64 * KIB  # Lustre's LOV_MIN_STRIPE_SIZE


def check_tuning(
    alignment: int,
    stripe_count: int | None,
    stripe_size: int | None,
    hints: Sequence[tuple[str, str]],
) -> None:
    """Check alignment and stripes, in bytes, and the hints for MPI-IO.

    Raises:
        UsageError: a value that cannot be.
    """
    if not 0 <= alignment <= _MOST_ALIGNMENT:
        raise UsageError(f"--alignment: expected 0 to 1GiB, got {alignment} bytes")
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
    for key, value in hints:
        text = f"{key}={value}"
        if not (key and value and text.isascii() and text.isprintable() and " " not in key):
            raise UsageError(f"--hint: expected KEY=VALUE in printable ASCII, got {text!r}")
    if len(dict(hints)) < len(hints):
        raise UsageError("--hint: expected each key once")
