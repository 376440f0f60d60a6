"""`Scenario`: images, options, and what happens to both in a few runs; drawn by seed and number.

Everything about it is drawn here or follows from what is drawn here; nothing of h5ingest.
"""

from __future__ import annotations

import os
import random
from dataclasses import dataclass, fields
from typing import Any

from helpers.oracle import KINDS, Kind, Wanted

SITES = {
    "probe": 20, "begin": 1, "create": 1, "metadata": 20, "images": 1, "replay": 1, "place": 20,
    "decode": 20, "write": 12, "book": 8, "mark": 8, "raw": 8, "checkpoint": 8, "sync": 8,
    "journal": 8, "finish": 1, "close": 1, "join": 1, "final": 1, "table": 4, "final beat": 4,
    "digest": 4, "publish": 1, "rename": 2, "discard": 1, "release": 1,
}  # fmt: skip
"""Where a run may be killed (`launched_faults.SITES`) -> in which call, at most."""
TORN = ("metadata", "raw", "journal")
"""Where it may be killed after half of the bytes."""
OURS = (
    "checksums", "chunk_checksums", "columns", "data", "datasets", "images", "label_names",
    "labels", "offsets", "paths", "pixels", "samples", "shapes", "sizes", "status",
)  # fmt: skip
"""Names that have a meaning in some layout."""
ODD = ("", ".", "..", "/", "a/b", "%", "%2F", " ", "a b", "été", "e\u0301", "猫", "\x01", "\u2028",
       "'\"", "\\", "7", "-1", "train", "Train", os.fsdecode(b"\xff"))  # fmt: skip
CODECS = {
    "stack": ("gzip:1", "gzip:1", "zstd:3", "lzf", "lz4", "bitshuffle", "blosc:lz4"),
    "ragged": ("gzip:1", "gzip:1", "zstd:3", "lzf", "lz4"),
    "tree": ("gzip:1", "zstd:3", "lzf"),
    "encoded": (),
}
MANY = 1100
"""Kinds of images, beyond any number that is only there for messages."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One run, and what is done before it."""

    edits: tuple[str, ...] = ()
    """`damage:N`, `lose:N` (the header, too), `change:N`, `resize:N`, `recolour:N` files; `regroup`
    (another kind and size for all of a group); `mend`."""
    ranks: int = 1
    end: str = ""
    """`kill:SITE:CALL:WHEN`; or `stop:RANK:LOOKS`, asked so often whether it shall stop."""
    on_error: str = "fail"
    batch_bytes: int = 10**6
    cache_bytes: int = 10**6
    other: tuple[tuple[str, Any], ...] = ()
    """Options that are not those of the other runs."""
    restart: bool = False
    overwrite: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """What is stored how, in which runs."""

    seed: str
    number: int
    layout: str
    images: int
    """Lines of the manifest."""
    kinds: tuple[Kind, ...] = (Kind(colour="gray", depth=8),)
    sizes: str = "any"
    """`one`, `group` (each its own), `any`; `distinct`: no two are alike."""
    edges: tuple[int, int] = (1, 20)
    """Heights and widths, from and to."""
    groups: tuple[str, ...] = ("a",)
    """To draw from; none: each line has its own."""
    labels: tuple[str, ...] = ("",)
    stems: tuple[str, ...] = ()
    """Names of files without their ending; none: numbers."""
    twice: bool = False
    """Whether lines may name the same file."""
    csv: bool = False
    options: tuple[tuple[str, Any], ...] = ()
    """Of all runs, but what `Step` has and the layout."""
    chunk_bytes: int = 512
    """Of filtered images of any size."""
    there: str = ""
    """What lies under the output's name before: `ours`, `hdf5`, `text`, or nothing."""
    steps: tuple[Step, ...] = (Step(),)

    def __str__(self) -> str:
        return _short(self)

    def dice(self, purpose: object = "") -> random.Random:
        """Random numbers for one purpose, the same every time."""
        return random.Random(f"{self.seed}:{self.number} {purpose}")


def _short(value: Any) -> str:
    """A value in one line, without what is as always."""
    if isinstance(value, tuple) and value and isinstance(value[0], Step | Kind):
        return "[" + ", ".join(_short(v) if isinstance(v, Step) else str(v) for v in value) + "]"
    if not isinstance(value, Step | Scenario):
        return repr(value)
    told = [
        f"{f.name}={_short(v)}" for f in fields(value) if (v := getattr(value, f.name)) != f.default
    ]
    return f"{type(value).__name__}({', '.join(told)})"


def wanted_of(options: dict[str, Any]) -> Wanted:
    """What the options say of the content."""
    raw = options.get("samples") == "raw"
    return Wanted(
        layout=options["layout"],
        grouped=options.get("group_by") is not None,
        channels=options.get("channels", "auto"),
        dtype=options.get("dtype", "auto"),
        raw=raw,
        fit=options.get("fit", "error"),
        size=options.get("size"),
        pad_value=options.get("pad_value", 0),
        resample=options.get("resample") or ("nearest" if raw else "bicubic"),
    )


def draw(seed: str, number: int) -> Scenario:
    """The scenario of a seed and a number."""
    dice = random.Random(f"{seed}:{number}")
    # What is rare among those drawn from everything, and was wrong once.
    if number % 200 in (3, 23):  # they take seconds each
        return _many_kinds(seed, number, dice, groups=number % 200 == 3)
    if number % 20 in (5, 10):
        return _changed(seed, number, dice, groups=number % 20 == 5)
    layout = dice.choice(("stack", "stack", "ragged", "ragged", "tree", "encoded"))
    options: dict[str, Any] = {}
    deep = dice.choice((False, False, False, True, None))  # None: both depths
    possible = [kind for kind in KINDS if deep is None or (kind.depth == 16) == deep]
    kinds = tuple(dice.sample(possible, dice.choice((1, 1, 2, 3, len(possible)))))
    highest = dice.choice((2, 6, 12, 20, 40))
    edges = (dice.randint(1, min(3, highest)), highest)
    grouped = dice.random() < 0.5
    groups = _groups(dice) if grouped or dice.random() < 0.3 else ("a",)
    if grouped:
        options["group_by"] = "group"
    sizes = dice.choice(("one", "any", *(["group", "group"] if grouped else [])))
    if layout != "encoded":
        if dice.random() < 0.2:
            options["samples"] = "raw"
        elif dice.random() < 0.4:
            options["channels"] = dice.choice(("gray", "rgb", "rgba"))
        _draw_depth(options, layout, deep, dice)
        if CODECS[layout] and dice.random() < 0.65:
            options["compression"] = dice.choice(CODECS[layout])
        if dice.random() < 0.2:
            options["shuffle"] = True
    if layout == "stack":
        _draw_stack(options, sizes, edges, deep, dice)
    if not {"compression", "shuffle"} & options.keys() and layout != "tree" and dice.random() < 0.2:
        options["direct_io"] = "on"
    if dice.random() < 0.2:
        options["readers"] = 2
    if dice.random() < 0.8:
        options["checkpoint_s"] = 0.0001
    return Scenario(
        seed=seed,
        number=number,
        layout=layout,
        images=dice.choice((1, 2, dice.randint(3, 10), dice.randint(8, 30), dice.randint(20, 50))),
        kinds=kinds,
        sizes=sizes,
        edges=edges,
        groups=groups,
        labels=_labels(dice),
        stems=() if dice.random() < 0.5 else tuple(dice.sample((*OURS, *ODD[6:]), 4)),
        twice=dice.random() < 0.1,
        csv=dice.random() < 0.25,
        options=tuple(options.items()),
        chunk_bytes=dice.choice((16, 100, 512, 512, 4000, 2**19)),
        there=dice.choice((*[""] * 17, "ours", "hdf5", "text")),
        steps=tuple(_steps(layout, options, deep, dice)),
    )


def _groups(dice: random.Random) -> tuple[str, ...]:
    how = dice.randrange(4)
    if how == 0:
        return tuple(dice.sample((*OURS, *ODD), dice.randint(1, 6)))
    if how == 1:
        return tuple(str(n) for n in range(dice.randint(1, 4)))
    return tuple("abcdefghijklmnop"[: dice.choice((1, 2, 3, 4, 5, 16))])


def _labels(dice: random.Random) -> tuple[str, ...]:
    names = [name for name in (*OURS, *ODD) if name]
    return dice.choice((("",), ("cat", "dog"), ("7", "-1", "0"), tuple(dice.sample(names, 3))))


def _draw_depth(
    options: dict[str, Any], layout: str, deep: bool | None, dice: random.Random
) -> None:
    must = deep is None and layout != "tree"
    if must or dice.random() < 0.2:
        dtypes = ["uint16"] if deep is not False and "samples" in options else ["uint16", "uint8"]
        options["dtype"] = dice.choice(dtypes)
        if options["dtype"] == "uint8" and "samples" not in options:
            options["reduce_depth"] = True


def _draw_stack(
    options: dict[str, Any],
    sizes: str,
    edges: tuple[int, int],
    deep: bool | None,
    dice: random.Random,
) -> None:
    fits = ["pad", "crop", "resize", "cover", "contain"]
    fit = dice.choice(fits if sizes == "any" else ["error", "error", "error", *fits])
    low, high = edges
    if fit != "error":
        options["fit"] = fit
    if fit in ("pad", "contain"):
        wide = options.get("dtype") == "uint16" or (deep and "dtype" not in options)
        options["pad_value"] = dice.choice((0, 7, 65535 if wide else 255))
        if fit == "pad" and dice.random() < 0.3:
            options["size"] = (high + 1, high)
    elif fit == "crop":
        options["size"] = (low, dice.randint(1, low))
    if fit in ("resize", "cover", "contain"):
        options["resample"] = dice.choice((None, "nearest", "bilinear", "lanczos"))
        if dice.random() < 0.5:
            options["size"] = (dice.randint(1, 9), dice.randint(1, 9))
    if dice.random() < 0.7:
        options["chunk_rows"] = dice.choice((1, 2, 3, 5, 100))


def _steps(
    layout: str, options: dict[str, Any], deep: bool | None, dice: random.Random
) -> list[Step]:
    if dice.random() < 0.2:
        ways = ("regroup", "change:50", "change:50", "change:3", "resize:1", "recolour:3")
        return _changed_between(dice, dice.choice(ways))
    steps = []
    for turn in range(dice.choice((1, 2, 2, 3, 3, 4))):
        edits = []
        if turn and dice.random() < 0.7:
            edits.append("mend")
        some = dice.choice((1, 1, 2, 5, 50))
        if turn and dice.random() < 0.7:
            change = f"change:{some}"
            edits.append(
                dice.choice((change, change, f"resize:{some}", "regroup", f"recolour:{some}"))
            )
        if dice.random() < (0.3 if turn else 0.6):
            edits.append(dice.choice(("damage", "damage", "damage", "lose")) + f":{min(some, 5)}")
        end = ""
        if dice.random() < 0.35:
            site = dice.choice(list(SITES))
            when = dice.choice(("before", "after", *(["torn"] if site in TORN else [])))
            end = f"kill:{site}:{dice.randint(1, SITES[site])}:{when}"
        elif dice.random() < 0.3:
            end = f"stop:{dice.randrange(4)}:{dice.randint(1, 90)}"
        step = Step(
            edits=tuple(edits),
            ranks=dice.choice((1, 1, 2, 3, 4)),
            end=end,
            on_error=dice.choice(("fail", "fail", "blank")),
            batch_bytes=dice.choice((1, 100, 700, 3000, 10**6)),
            cache_bytes=dice.choice((0, 1000, 10**6)),
            other=_other(layout, options, deep, dice) if turn and dice.random() < 0.15 else (),
            restart=turn > 0 and dice.random() < 0.1,
            overwrite=dice.random() < 0.3,
        )
        steps.append(step)
    return steps


def _changed_between(dice: random.Random, change: str) -> list[Step]:
    """All is stored but a few that are damaged; these are mended, others are changed."""
    batch_bytes = dice.choice((1, 100, 700, 3000))
    first = Step(
        edits=(f"damage:{dice.choice((1, 1, 3))}",),
        ranks=dice.choice((1, 2, 3)),
        batch_bytes=batch_bytes,
    )
    again = Step(
        edits=dice.choice((("mend", change), (change,))),
        ranks=dice.choice((1, 2, 3)),
        on_error=dice.choice(("fail", "blank")),
        batch_bytes=dice.choice((batch_bytes, 10**6)),
    )
    return [first, again]


def _other(
    layout: str, options: dict[str, Any], deep: bool | None, dice: random.Random
) -> tuple[tuple[str, Any], ...]:
    """An option that is changed in one run, so that what there is may be of no use."""
    ways: list[tuple[str, Any]] = []
    if layout != "encoded" and "direct_io" not in options:
        ways += [("shuffle", not options.get("shuffle", False)), ("compression", "gzip:7")]
    if layout != "encoded" and "dtype" not in options and (deep is False or layout == "tree"):
        ways.append(("dtype", "uint16"))
    if layout == "stack":
        ways.append(("chunk_rows", 4))
    if options.get("fit") in ("pad", "contain"):
        ways.append(("pad_value", 9))
    if "group_by" in options:
        ways.append(("group_by", None))
    return (dice.choice(ways),) if ways else ()


def _many_kinds(seed: str, number: int, dice: random.Random, *, groups: bool) -> Scenario:
    """More kinds of images on one rank than a message could name."""
    options: dict[str, Any] = {"group_by": "group"} if groups else {}
    layout = dice.choice(("stack", "stack", "ragged"))
    if layout == "stack" and not groups:
        options["fit"] = dice.choice(("pad", "resize", "cover", "contain"))
    return Scenario(
        seed=seed,
        number=number,
        layout=layout,
        images=MANY,
        sizes="one" if groups else "distinct",
        edges=(6, 7) if groups else (1, 34),
        groups=() if groups else ("a",),
        options=tuple(options.items()),
        steps=(Step(on_error=dice.choice(("fail", "blank"))),),
    )


def _changed(seed: str, number: int, dice: random.Random, *, groups: bool) -> Scenario:
    """Groups of which one is of another size in the second run; or images across chunks."""
    return Scenario(
        seed=seed,
        number=number,
        layout="stack" if groups else "ragged",
        images=dice.randint(16, 32) if groups else dice.randint(4, 16),
        sizes="group" if groups else "any",
        edges=(1, 12) if groups else (10, 40),
        groups=tuple("abcdefgh") if groups else ("a",),
        options=(
            ("compression", dice.choice(("gzip:1", "zstd:3"))),
            ("checkpoint_s", 0.0001),
            *((("group_by", "group"), ("chunk_rows", dice.randint(1, 3))) if groups else ()),
        ),
        chunk_bytes=512,
        steps=tuple(_changed_between(dice, "regroup" if groups else "change:50")),
    )
