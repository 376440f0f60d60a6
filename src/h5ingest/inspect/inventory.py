"""A finished file as a whole: which datasets it has, whether they fit together, its digest.

What is said of the file comes from the judge; nothing here touches it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from h5ingest.core import column_types, schema
from h5ingest.core.digest import ContentDigest, Parts, combined, content_text
from h5ingest.core.layout_kinds import KINDS
from h5ingest.core.lists import LIST_TYPES, values_of
from h5ingest.core.schema import FileHeader, StandardDataset
from h5ingest.inspect.findings import Facts, Gap, Unread, gap_lines
from h5ingest.inspect.judge_process import Died, Judge, NotAsked

_PARTS: Final = 16
"""Into so many parts rows are divided, to find which of them a judge does not survive."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupFacts:
    """What a group of samples has."""

    prefix: str
    datasets: dict[str, Facts]
    """Name below the group's -> what it says of itself; none that cannot be used."""
    n_rows: int
    """Rows that can be judged."""


def in_parts(
    judge: Judge, question: str, about: str, rows: range, step: int, *more: Any
) -> Iterator[tuple[range, Any]]:
    """Ask about rows; if the judge does not survive that, about parts of them.

    Args:
        judge: is asked.
        question: name of a method whose first arguments are `about` and rows.
        about: a prefix or the name of a dataset.
        rows: of it.
        step: rows that are not divided.
        more: further arguments.

    Yields:
        (rows, answer), in order; the answer is `Died` about what no judge survives.
    """
    try:
        answer = judge.ask(question, about, rows, *more)
    except Died as died:
        if len(rows) > step and not isinstance(died, NotAsked):
            part = step * -(-len(rows) // (step * _PARTS))
            for start in range(0, len(rows), part):
                yield from in_parts(judge, question, about, rows[start : start + part], step, *more)
            return
        answer = died
    yield rows, answer


def inspect_groups(judge: Judge, header: FileHeader) -> tuple[list[GroupFacts], list[str]]:
    """Return what each group has, and what is wrong with that."""
    groups, problems = [], list[str]()
    for prefix in header.prefixes:
        group, wrong = _inspect(judge, header, prefix)
        groups.append(group)
        problems += wrong
    return groups, problems


def _inspect(judge: Judge, header: FileHeader, prefix: str) -> tuple[GroupFacts, list[str]]:
    """Return what a group has, and what is wrong with it: what is missing, or does not fit."""
    layout = header.layout
    names = list(schema.known(layout))
    if header.version == 1:  # in a tree that is an image
        names.remove(schema.CHUNK_CHECKSUMS.name)
    columns = judge.try_ask("columns", prefix)
    problems = []
    if isinstance(columns, Unread):
        problems.append(f"{prefix}/{schema.COLUMNS}: cannot be read: {columns.reason}")
    else:
        names += columns
    found = _facts(judge, prefix, names)
    if isinstance(found[schema.LABELS.name], Unread):  # which says it all
        del found[schema.LABEL_VALUES.name], found[schema.LABEL_OFFSETS.name]
    standard = _standard(layout, names)
    required = {dataset.name for dataset in schema.required_datasets(layout)}
    required |= {name for name in names if name.startswith(schema.column("", "")[1:])}
    good: dict[str, Facts] = {}
    for name, facts in found.items():
        full = f"{prefix}/{name}"
        wrong = None
        if isinstance(facts, Unread):
            wrong = f"{full}: cannot be read: {facts.reason}"
        elif facts is None:
            wrong = f"expected a dataset {full}, found none" if name in required else ""
        else:
            wrong = _kind_problem(full, facts, standard.get(name))
        if wrong is None and isinstance(facts, Facts):
            good[name] = facts
        elif wrong:
            problems.append(wrong)
    usable, more = _fitting(judge, prefix, good, standard)
    problems += more
    needed = {dataset.name for dataset in schema.required_datasets(layout)} - {schema.PATHS.name}
    unusable = needed - usable.keys()
    n_rows = 0 if unusable else usable[schema.STATUS.name].shape[0]
    if unusable:
        problems.append(
            f"{prefix or '/'}: its rows cannot be judged without {', '.join(sorted(unusable))}"
        )
    return GroupFacts(prefix=prefix, datasets=usable, n_rows=n_rows), problems


def _standard(layout: str, names: Iterable[str]) -> dict[str, StandardDataset]:
    """Return what is known of datasets by their names: those of the format, and of lists."""
    known = {dataset.name: dataset for dataset in schema.known_datasets(layout)}
    for name in names:
        column = name.rpartition("/")[0]
        if name not in known and "/" in column:
            is_values = name == values_of(column)
            like = schema.LABEL_VALUES if is_values else schema.LABEL_OFFSETS
            known[name] = replace(like, name=name)
    return known


def _facts(judge: Judge, prefix: str, names: list[str]) -> dict[str, Facts | Unread | None]:
    """Return what each dataset says of itself: together, or else one by one."""
    together = judge.try_ask("facts", prefix, names)
    if not isinstance(together, Unread):
        return dict(together)
    found: dict[str, Facts | Unread | None] = {}
    for name in names:
        alone = judge.try_ask("facts", prefix, [name])
        found[name] = alone if isinstance(alone, Unread) else alone[name]
    return found


def _kind_problem(full: str, facts: Facts, wanted: StandardDataset | None) -> str | None:
    """Return why a dataset cannot be what its name says, if so."""
    n_dimensions = len(facts.shape)
    if wanted is not None and wanted.dims == schema.LABEL_VALUES.dims:
        is_label = wanted is schema.LABEL_VALUES
        if facts.dtype not in LIST_TYPES[: 1 if is_label else 2] or not n_dimensions:
            return f"{full}: expected {' or '.join(LIST_TYPES)}, found {facts.kind}"
    elif wanted is None:  # a column of the manifest
        if n_dimensions != 1 or facts.dtype not in column_types.KINDS:
            kinds = ", ".join(column_types.KINDS)
            return f"{full}: expected one dimension of {kinds}, found {facts.kind}"
    elif wanted.dtype:
        expected = f"{wanted.dtype}{('n', *wanted.row_shape)}".replace("'", "")
        if facts.dtype != wanted.dtype or not facts.shape or facts.shape[1:] != wanted.row_shape:
            return f"{full}: expected {expected}, found {facts.kind}"
    else:  # pixels
        possible = (3, 4) if len(wanted.dims) > 1 else (1,)
        if facts.dtype not in ("uint8", "uint16") or n_dimensions not in possible:
            return f"{full}: expected pixels, found {facts.kind}"
    return None


def _fitting(
    judge: Judge, prefix: str, good: dict[str, Facts], standard: dict[str, StandardDataset]
) -> tuple[dict[str, Facts], list[str]]:
    """Return the datasets with as many rows as there are samples, and what is wrong with others."""
    status = good.get(schema.STATUS.name)
    if status is None:
        return good, []
    n_rows, problems, usable = status.shape[0], [], {}
    for name, facts in good.items():
        wanted = standard.get(name)
        expected: int | None = n_rows
        if wanted is not None and wanted.dims[0] != "sample":
            expected = facts.shape[0]  # of classes; pixels are counted by the offsets
        elif wanted is not None:
            expected = n_rows + wanted.extra_rows
        if facts.shape[0] != expected:
            problems.append(f"{prefix}/{name}: expected {expected} rows, found {facts.shape[0]}")
        else:
            usable[name] = facts
    pixels = {each.name for each in schema.PIXELS.values()} & standard.keys()
    for name in [each for each in usable if each in standard and standard[each].extra_rows]:
        values = values_of(name.rpartition("/")[0])
        cut = next(iter(pixels)) if name == schema.OFFSETS.name else values
        total = judge.try_ask("last", f"{prefix}/{name}")
        if isinstance(total, Unread):
            problems.append(f"{prefix}/{name}: cannot be read: {total.reason}")
            del usable[name]
        elif cut in usable and usable[cut].shape[0] != total:
            problems.append(f"{prefix}/{cut}: expected {total} rows, found {usable[cut].shape[0]}")
    return usable, problems


def name_problems(judge: Judge, layout: str, groups: list[GroupFacts]) -> list[str]:
    """Return what is wrong with the names of dimensions and of the values of `status`."""
    problems = []
    for group in groups:
        standard = _standard(layout, group.datasets)
        status = group.datasets.get(schema.STATUS.name)
        if status is not None and dict(status.members) != schema.STATUS_NAMES:
            expected, name = schema.STATUS_NAMES, schema.STATUS.at(group.prefix)
            problems.append(f"{name}: expected the names {expected}, found {dict(status.members)}")
        labels = judge.try_ask("dims", group.prefix, list(group.datasets))
        if isinstance(labels, Unread):
            where = group.prefix or "/"
            problems.append(f"{where}: dimension labels cannot be read: {labels.reason}")
            continue
        for name, found in labels.items():
            n_axes = len(group.datasets[name].shape)
            dims = standard[name].dims if name in standard else ("sample",)
            wanted = (*dims, *[""] * n_axes)[:n_axes]
            told = found.reason if isinstance(found, Unread) else found
            if told != wanted:
                problems.append(
                    f"{group.prefix}/{name}: expected the dimension labels {wanted}, found {told}"
                )
    return problems


def digest_problems(
    judge: Judge, header: FileHeader, groups: list[GroupFacts], checksums: NDArray[np.uint64] | None
) -> list[str]:
    """Return what cannot be read of all but the images; or a line if the content digest differs.

    `checksums` are (n,) of all images, one group after the other, computed from their pixels: not
    those that the file has. None: something is known to be missing, and the digests cannot be
    compared.
    """
    n_rows = sum(group.n_rows for group in groups)
    n_each = 1 + len(header.images)
    description = content_text(header.layout, n_rows // n_each)
    computed = ContentDigest(description)
    parts: Parts = {}
    pixels = schema.PIXELS.get(header.layout)
    gaps: list[Gap] = []
    first = 0
    for group in groups:
        names = [f"{group.prefix}/{name}" for name in group.datasets]
        if schema.CHUNK_CHECKSUMS.name in group.datasets:  # how it is stored is no content
            names.remove(schema.CHUNK_CHECKSUMS.at(group.prefix))
        if pixels is not None and pixels.name in group.datasets:
            names.remove(pixels.at(group.prefix))
            kind = group.datasets[pixels.name].kind
            computed.add_pixels(pixels.at(group.prefix), [kind])
        if checksums is not None:
            names.remove(schema.CHECKSUMS.at(group.prefix))
            of_group = checksums[first : first + group.n_rows]
            computed.add_numbers(schema.CHECKSUMS.at(group.prefix), of_group)
            first += group.n_rows
        more, found = _hashed(judge, group, names)
        parts |= more
        gaps += found
        if KINDS[header.layout].dataset_per_image and checksums is not None:
            kinds = judge.try_ask("tree_kinds", group.prefix)
            if isinstance(kinds, Unread):
                what = f"its datasets cannot be read: {kinds.reason}"
                gaps.append(Gap(schema.TREE_NAMES.at(group.prefix), range(0), what))
            else:
                parts |= kinds
    if gaps or checksums is None:
        return gap_lines(gaps)
    if not header.content_digest:  # that has been said
        return []
    found_digest = combined(description, parts | computed.parts())
    if found_digest == header.content_digest:
        return []
    return [f"content_digest: expected {header.content_digest}, found {found_digest}"]


def _hashed(judge: Judge, group: GroupFacts, names: list[str]) -> tuple[Parts, list[Gap]]:
    """Return the parts of the digest that datasets of a group are, and what is unreadable."""
    together = judge.try_ask("hashes", names)
    if not isinstance(together, Unread):
        return together.parts, together.gaps
    parts: Parts = {}
    gaps: list[Gap] = []
    for name in names:
        every = range(group.datasets[name.removeprefix(f"{group.prefix}/")].shape[0])
        answers = list(in_parts(judge, "hash_rows", name, every, 1))
        found = [
            gap
            for rows, answer in answers
            for gap in ([Gap(name, rows, answer.what)] if isinstance(answer, Died) else answer.gaps)
        ]
        if len(answers) == 1 and not found:
            parts |= answers[0][1].parts
        gaps += found or [Gap(name, every, "cannot be read together")] * (len(answers) > 1)
    return parts, gaps
