"""What the attributes of a file say, as far as they can be read, and what is wrong with them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from typing import Any, Final

import h5py

from h5ingest.core import schema
from h5ingest.core.digest import attributes_digest, digested
from h5ingest.core.errors import OutputError, one_line
from h5ingest.core.schema import Attribute, FileHeader
from h5ingest.inspect.findings import Unread
from h5ingest.inspect.readable import attempt

_NOT_NEEDED: Final = {
    Attribute.OPTIONS, Attribute.CONTENT_DIGEST, Attribute.N_SAMPLES, Attribute.N_FAILED,
}  # fmt: skip
"""Attributes without which rows can be judged."""


def known_attributes(file: h5py.File) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the attributes of the HDF5 root group that the format names.

    Returns:
        Name -> value; and of those that cannot be read, name -> reason.
    """
    found: dict[str, Any] = {}
    unread: dict[str, str] = {}

    def read(name: Attribute) -> Any:
        if name not in file.attrs:
            return None
        value = file.attrs[name]
        return int(value) if name in (Attribute.N_SAMPLES, Attribute.N_FAILED) else value

    for name in Attribute:
        value = attempt(partial(read, name))
        if isinstance(value, Unread):
            unread[name] = value.reason
        elif value is not None:
            found[name] = value
    return found, unread


def lenient_header(
    file: h5py.File, path: str, attributes: dict[str, Any], unread: dict[str, str]
) -> tuple[FileHeader, list[str]]:
    """Return the header, of a damaged file as much as is needed to judge its rows; what is wrong.

    For `attributes` and `unread` see `known_attributes`.

    Raises:
        OutputError: see `read_header`; or it cannot be read at all.
    """
    problems = [f"attribute {name}: cannot be read: {reason}" for name, reason in unread.items()]
    found: dict[str, Any] = {}
    if unread.keys() & {Attribute.SCHEMA, Attribute.GROUPS}:
        guessed = attempt(partial(_guessed, file))
        if isinstance(guessed, Unread) or not guessed:
            raise OutputError("\n".join([f"{path}: its header cannot be read", *problems]))
        found = guessed
    if Attribute.STATUS in unread:
        found[Attribute.STATUS] = "complete"  # it has its name
    found |= attributes
    header = None
    while header is None:
        try:
            header = _read(found, path)
        except OutputError as error:
            wrong = str(error).removeprefix(f"{path}: ")
            named = [name for name in _NOT_NEEDED & found.keys() if f"attribute {name}: " in wrong]
            if not named:
                raise OutputError("\n".join([str(error), *problems])) from None
            del found[named[0]]
            problems.append(wrong)
    problems += [
        f"attribute {name}: expected one, found none"
        for name in (Attribute.N_SAMPLES, Attribute.N_FAILED, Attribute.CONTENT_DIGEST)
        if name not in {*attributes, *unread}
    ]
    if attributes.get(Attribute.CONTENT_DIGEST) == "":  # as HDF5 reads a damaged reference
        problems.append(f"attribute {Attribute.CONTENT_DIGEST}: expected a digest, found nothing")
    return header, problems


def _read(attributes: dict[str, Any], path: str) -> FileHeader:
    try:
        header = schema.read_header(attributes, path)
        options: object = header.options
        names = header.groups + header.images
        well_made = all(map(str.isprintable, names)) and isinstance(options, dict)
    except OutputError:
        raise
    except Exception as error:  # an attribute has a type that it never has
        raise OutputError(f"{path}: its header cannot be understood: {one_line(error)}") from None
    if not well_made:
        raise OutputError(f"{path}: groups should be a list of names, options an object, of JSON")
    return header


def _guessed(file: h5py.File) -> dict[str, Any]:
    """Return what the attributes may be of a file of h5ingest by the datasets that it has.

    Raises:
        Exception: these cannot be listed.
    """
    groups = []
    if schema.STATUS.name not in file:
        groups = [name for name in file if f"{name}/{schema.STATUS.name}" in file]
    prefix = f"/{groups[0]}" if groups else ""
    for layout in schema.LAYOUTS:
        marks = schema.PIXELS.get(layout, schema.TREE_NAMES)
        if marks.at(prefix) in file and not isinstance(file[marks.at(prefix)], h5py.Group):
            return {
                Attribute.SCHEMA: schema.schema_text(layout),
                Attribute.GROUPS: json.dumps(groups),
            }
    return {}


def digest_problem(
    file: h5py.File, header: FileHeader, attributes: Mapping[str, Any]
) -> str | None:
    """Return how the digest of the attributes differs from what the file says, if it does.

    What users add of their own does not enter: `attributes` are those of the HDF5 root group that
    the format names. A file of old has no such digest.

    Raises:
        Exception: one of another object cannot be read.
    """
    expected = attributes.get(Attribute.ATTRIBUTES_DIGEST)
    if expected is None:
        return None
    digests = Attribute.ATTRIBUTES_DIGEST, Attribute.CONTENT_DIGEST
    found = {name: value for name, value in attributes.items() if name not in digests}
    for prefix in header.prefixes:
        for name, (path, attribute) in digested(header.layout, prefix, header.version).items():
            value = file[path].attrs.get(attribute) if path in file else None
            if value is not None:
                found[name] = value
    digest = attributes_digest(found)
    return None if digest == expected else f"attributes_digest: expected {expected}, found {digest}"
