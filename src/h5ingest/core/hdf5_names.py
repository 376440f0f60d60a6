"""Names of HDF5 groups, made of what the manifest has."""

from __future__ import annotations


def group_prefix(name: str) -> str:
    r"""Return an HDF5 path for any group name: one level deep, never empty, reversible.

    What has a meaning in HDF5 paths, or cannot be seen, is percent-encoded, as in URLs.

    >>> group_prefix("train"), group_prefix("a/b"), group_prefix(".."), group_prefix("")
    ('/train', '/a%2Fb', '/%2E%2E', '/%')
    >>> group_prefix("a\tb"), group_prefix("a\u2028b")
    ('/a%09b', '/a%E2%80%A8b')
    """
    if name in ("", ".", ".."):
        return "/" + ("%2E" * len(name) or "%")
    quoted = name.replace("%", "%25").replace("/", "%2F")
    return "/" + "".join(c if c.isprintable() else _quote(c) for c in quoted)


def _quote(character: str) -> str:
    return "".join(f"%{byte:02X}" for byte in character.encode("utf-8", "surrogateescape"))
