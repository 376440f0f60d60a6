"""Errors, options, layout, digest; and what each module may not import."""

from __future__ import annotations

import ast
import doctest
import hashlib
import importlib
import json
import math
import pickle
from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

import h5ingest
from h5ingest.cli.option_values import parse_size
from h5ingest.core import errors, schema
from h5ingest.core.digest import ContentDigest
from h5ingest.core.errors import Failure, IngestError, SampleError, describe_failures
from h5ingest.core.group_datasets import default_chunk_rows, extent_group, stack_group, tree_group
from h5ingest.core.layout import (
    DatasetSpec,
    Filter,
    Group,
    ImageSpec,
    Layout,
)
from h5ingest.core.layout_kinds import KINDS
from h5ingest.core.options import IngestOptions
from h5ingest.core.sample_table import ARCHIVES, CONTAINERS, may_be_within
from h5ingest.pipeline.output_checks import is_listed
from h5ingest.pipeline.provenance import package_version

PACKAGE = Path(h5ingest.__file__).parent
MODULES = sorted(
    path.relative_to(PACKAGE).with_suffix("").as_posix().replace("/", ".")
    for path in PACKAGE.rglob("*.py")
)
EXAMPLES = [module for module in MODULES if module.startswith("core.")]
EXAMPLES += ["images.conversion", "pipeline.output_spec"]


# --- imports: import-linter has the rules (pyproject.toml), but for this one -------------------


def imports_of(module: str, *, at_import: bool = False) -> set[str]:
    """Full names of what a module imports; `at_import`: only what is run when it is imported."""
    tree = ast.parse((PACKAGE / (module.replace(".", "/") + ".py")).read_text("utf-8"))
    found: set[str] = set()
    for node in _nodes(tree, into_functions=not at_import):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: relative import"
            assert node.module
            found.add(node.module)
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return found


def _nodes(node: ast.AST, *, into_functions: bool) -> Iterator[ast.AST]:
    if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
        return
    yield node
    if into_functions or not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
        for child in ast.iter_child_nodes(node):
            yield from _nodes(child, into_functions=into_functions)


def packages(names: set[str]) -> set[str]:
    return {name.partition(".")[0] for name in names}


@pytest.mark.parametrize(
    "module",
    ["cli.main", "cli.app", "cli.collective_commands", "cli.serial_commands", "cli.bench_commands",
     "pipeline.run", "inspect.verify", "reading.store", "torch"],
)  # fmt: skip
def test_slow_imports_wait_until_they_are_needed(module: str) -> None:
    """A module that a rank or a reader imports, and all that is imported with it."""
    seen, left = set[str](), {module}
    while left:
        seen |= left
        names = set().union(*(imports_of(each, at_import=True) for each in left))
        slow = packages(names) & {"rich", "imageio", "imagecodecs", "PIL"}
        assert not slow, f"{sorted(left)}: {slow}"
        left = {name.removeprefix("h5ingest.") for name in names} & {*MODULES} - seen
    assert len(seen) > 3


@pytest.mark.parametrize("module", EXAMPLES)
def test_the_examples_of_the_core_are_true(module: str) -> None:
    failed, _ = doctest.testmod(importlib.import_module(f"h5ingest.{module}"))
    assert failed == 0


def test_the_core_has_examples() -> None:
    finder = doctest.DocTestFinder(exclude_empty=True)
    found = [
        example
        for module in EXAMPLES
        for example in finder.find(importlib.import_module(f"h5ingest.{module}"))
        if example.examples
    ]
    assert len(found) > 8


# --- errors ------------------------------------------------------------------------------------

EXIT_CODES = {
    "UsageError": 2,
    "SamplesFailedError": 3,
    "ManifestError": 4,
    "OutputError": 5,
    "SetupError": 6,
    "StoppedError": 75,
    "NothingNewError": 1,  # which the job catches
}


def test_every_error_has_the_exit_code_that_is_promised() -> None:
    assert {c.__name__: c.exit_code for c in IngestError.__subclasses__()} == EXIT_CODES
    assert IngestError.exit_code == errors.EXIT_INTERNAL == 1
    assert errors.EXIT_OK == 0


def test_errors_are_also_what_python_calls_them() -> None:
    assert issubclass(errors.UsageError, ValueError)
    assert issubclass(errors.ManifestError, ValueError)
    assert issubclass(errors.OutputError, OSError)
    assert issubclass(errors.SetupError, RuntimeError)


@pytest.mark.parametrize("name", sorted(EXIT_CODES))
@given(message=st.text())
def test_an_error_crosses_ranks_as_plain_values(name: str, message: str) -> None:
    error = getattr(errors, name)(message)
    assert not error.agreed
    plain = json.loads(json.dumps(errors.to_plain(error)))
    back = errors.from_plain((plain[0], plain[1]))
    assert type(back) is type(error)
    assert str(back) == message
    assert back.agreed
    assert not type(error).agreed


def test_a_sample_error_becomes_a_failure_that_survives_the_trip() -> None:
    failure = SampleError("missing", "no such file").at(7, b"caf\xe9.png")
    assert failure == Failure(index=7, path="caf\udce9.png", kind="missing", reason="no such file")
    assert pickle.loads(pickle.dumps(failure)) == failure


def test_failures_are_counted_by_kind_and_named_in_order() -> None:
    failures = [
        Failure(index=i, path=f"{i}.png", kind="missing" if i % 3 else "damaged", reason="why")
        for i in reversed(range(1500))
    ]
    lines = describe_failures(failures, lambda rows: {0: 2, 1: 4}, first=3).splitlines()
    assert lines[0] == "1,000 missing, 500 damaged"
    where = ("line 2", "line 4", "sample 2")  # the manifest can tell no line of the third
    assert lines[1:4] == [f"  {where[i]}: {i}.png: why" for i in range(3)]
    assert "1,497 more" in lines[4]
    assert len(lines) == 5


# --- options -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "n_bytes"),
    [
        ("0", 0),
        ("1", 1),
        ("100 B", 100),
        ("64k", 65536),
        ("64K", 65536),
        ("64KiB", 65536),
        ("64kb", 64000),
        ("4MiB", 4 * 1024**2),
        ("4m", 4 * 1024**2),
        ("4MB", 4_000_000),
        (" 1.5 GiB ", 3 * 512 * 1024**2),
        ("2gb", 2 * 10**9),
        ("0.5k", 512),
    ],
)
def test_sizes_take_units(text: str, n_bytes: int) -> None:
    assert parse_size(text) == n_bytes


@pytest.mark.parametrize(
    "text", ["", "MiB", "-1", "1 TiB?", "4 XB", "1e6", "4MiB4", "1,000", "nan", "0x10", "1.", ".5"]
)
def test_what_is_no_size_is_refused_with_what_was_found(text: str) -> None:
    with pytest.raises(errors.UsageError) as caught:
        parse_size(text)
    assert repr(text) in str(caught.value)
    assert "4MiB" in str(caught.value)


@given(st.integers(0, 2**80))
def test_a_plain_number_of_bytes_is_exact(n_bytes: int) -> None:
    assert parse_size(str(n_bytes)) == n_bytes


def test_a_size_beyond_all_floats_is_a_number_or_refused() -> None:
    try:
        assert parse_size("1" + "0" * 400) == 10**400
    except errors.UsageError as error:
        assert "expected a size" in str(error)  # noqa: PT017 - both outcomes are right


@pytest.mark.parametrize(
    ("wrong", "option", "found"),
    [
        ({"delimiter": ""}, "--delimiter", "''"),
        ({"delimiter": "ab"}, "--delimiter", "'ab'"),
        ({"delimiter": "é"}, "--delimiter", "'é'"),
        ({"delimiter": "\n"}, "--delimiter", r"'\n'"),
        ({"delimiter": "\r"}, "--delimiter", r"'\r'"),
        ({"delimiter": "\0"}, "--delimiter", r"'\x00'"),
        ({"delimiter": '"'}, "--delimiter", "'\"'"),
        ({"delimiter": "\udcff"}, "--delimiter", r"'\udcff'"),
        ({"on_error": "ignore"}, "--on-error", "'ignore'"),
        ({"chunk_rows": 0}, "--chunk", "0"),
        ({"batch_bytes": 0}, "--batch-bytes", "0"),
        ({"max_pixels": -5}, "--max-pixels", "-5"),
        ({"cache_bytes": -1}, "--cache-bytes", "-1"),
        ({"layout": "heap"}, "--layout", "'heap'"),
        ({"channels": "cmyk"}, "--channels", "'cmyk'"),
        ({"dtype": "float32"}, "--dtype", "'float32'"),
        ({"samples": "some"}, "--samples", "'some'"),
        ({"fit": "squeeze"}, "--fit", "'squeeze'"),
        ({"fit": "resize", "resample": "cubic"}, "--resample", "'cubic'"),
        ({"fit": "pad", "size": (0, 4)}, "--size", "(0, 4)"),
        ({"fit": "pad", "pad_value": 65536}, "--pad-value", "65536"),
        ({"fit": "pad", "pad_value": -1}, "--pad-value", "-1"),
    ],
)
def test_an_option_that_cannot_be_is_refused_by_name(
    wrong: dict[str, Any], option: str, found: str
) -> None:
    with pytest.raises(errors.UsageError) as caught:
        IngestOptions(**wrong)
    assert option in str(caught.value)
    assert found in str(caught.value)
    assert "expected" in str(caught.value)


@pytest.mark.parametrize(
    ("useless", "said"),
    [
        ({"checkpoint_s": 0}, "--checkpoint: expected seconds, got 0"),
        ({"peer_timeout_s": float("nan")}, "--peer-timeout: expected seconds, got nan"),
        ({"layout": "ragged", "fit": "pad"}, "--fit is for --layout stack only"),
        ({"layout": "tree", "fit": "crop", "size": (2, 2)}, "--fit is for --layout stack only"),
        ({"layout": "ragged", "size": (2, 2)}, "--size is for --layout stack only"),
        ({"layout": "encoded", "chunk_rows": 4}, "--chunk is for --layout stack only"),
        ({"size": (2, 2)}, "--size: say how with --fit pad, crop, resize, cover or contain"),
        ({"pad_value": 3}, "--pad-value goes with --fit pad"),
        ({"fit": "crop", "pad_value": 3}, "--pad-value goes with --fit pad"),
        ({"resample": "nearest"}, "--resample goes with --fit resize"),
        ({"fit": "pad", "resample": "nearest"}, "--resample goes with --fit resize"),
        ({"layout": "encoded", "compression": "zstd"}, "compressed already"),
        ({"layout": "encoded", "shuffle": True}, "compressed already"),
        ({"layout": "encoded", "channels": "rgb"}, "--channels, --dtype, --orientation"),
        ({"layout": "encoded", "dtype": "uint16"}, "--channels, --dtype, --orientation"),
        ({"layout": "encoded", "longest": 9}, "--longest and --shortest cannot apply"),
        ({"layout": "encoded", "orientation": "exif"}, "--orientation"),
        ({"longest": 9, "shortest": 9}, "expected one of them, got both"),
        ({"longest": 9, "fit": "cover"}, "--longest and --shortest go with --fit pad or crop"),
        ({"image": ("mask", "mask:raw")}, "expected each column once"),
        ({"image": "mask"}, "expected several texts, such as ('mask',)"),
        ({"image": ("labels",)}, "not that of a dataset of h5ingest, got 'labels'"),
        ({"image": ("mask:blue",)}, "expected COLUMN, or COLUMN with :raw, :gray"),
        ({"image": ("mask:nearest",)}, "--resample goes with --fit resize, cover or contain"),
        ({"image": ("mask:pad=255",)}, "--pad-value goes with --fit pad or contain"),
        (
            {"image": ("mask:raw",), "layout": "encoded", "recode": "jxl"},
            "does not go with --samples raw",
        ),
        (
            {"layout": "encoded", "samples": "raw", "recode": "jxl"},
            "does not go with --samples raw",
        ),
        ({"samples": "raw", "channels": "rgb"}, "does not go with --channels"),
        (
            {"samples": "raw", "dtype": "uint8", "reduce_depth": True},
            "does not go with --reduce-depth",
        ),
        ({"reduce_depth": True}, "--reduce-depth goes with --dtype uint8"),
        ({"reduce_depth": True, "dtype": "uint16"}, "--reduce-depth goes with --dtype uint8"),
    ],
)
def test_an_option_that_would_have_no_effect_is_refused(useless: dict[str, Any], said: str) -> None:
    with pytest.raises(errors.UsageError) as caught:
        IngestOptions(**useless)
    assert said in str(caught.value)


def test_no_compression_may_be_said_in_words_for_files_as_they_are() -> None:
    assert IngestOptions(layout="encoded", compression="none").compression == "none"


@pytest.mark.parametrize("delimiter", [None, "\t", ",", ";", "|", " "])
def test_any_other_single_character_may_separate_columns(delimiter: str | None) -> None:
    assert IngestOptions(delimiter=delimiter).delimiter == delimiter


def test_how_the_file_is_made_does_not_show_in_it() -> None:
    one = IngestOptions(batch_bytes=1, cache_bytes=0, overwrite=True, dry_run=True)
    other = IngestOptions()
    assert one.content() == other.content()
    different: list[dict[str, Any]] = [
        {"chunk_rows": 3}, {"on_error": "blank"}, {"layout": "tree"}, {"group_by": "label"},
        {"channels": "rgb"}, {"dtype": "uint8"}, {"dtype": "uint8", "reduce_depth": True},
        {"samples": "raw"}, {"fit": "pad"}, {"fit": "pad", "size": (4, 4)},
        {"fit": "pad", "pad_value": 1}, {"fit": "resize"}, {"fit": "resize", "resample": "box"},
        {"compression": "gzip"}, {"shuffle": True},
        {"max_pixels": 10**12},  # it decides which images are refused
    ]  # fmt: skip
    contents = {json.dumps(IngestOptions(**each).content()) for each in [{}, *different]}
    assert len(contents) == 1 + len(different)
    json.dumps(one.content())


def test_options_cannot_be_changed() -> None:
    options = IngestOptions()
    with pytest.raises(AttributeError):
        options.on_error = "blank"  # type: ignore[misc]  # what must fail


# --- layout ------------------------------------------------------------------------------------

SPECS = st.builds(
    ImageSpec,
    height=st.integers(1, 5000),
    width=st.integers(1, 5000),
    channels=st.integers(1, 4),
    dtype=st.sampled_from(["uint8", "uint16"]),
)


@given(SPECS)
def test_a_spec_tells_shape_and_bytes_of_an_array(spec: ImageSpec) -> None:
    array = np.broadcast_to(np.zeros((), spec.dtype), spec.shape)
    assert array.nbytes == spec.n_bytes
    assert len(spec.shape) == (2 if spec.channels == 1 else 3)
    assert f"{spec.height}x{spec.width} " in str(spec)
    assert str(spec).endswith(spec.dtype)


@pytest.mark.parametrize(
    "wrong",
    [{"height": 0}, {"width": -1}, {"channels": 0}, {"channels": 5}, {"dtype": "float32"}],
)
def test_a_spec_that_cannot_be_is_refused(wrong: dict[str, Any]) -> None:
    good: dict[str, Any] = {"height": 2, "width": 2, "channels": 1, "dtype": "uint8"}
    with pytest.raises(ValueError, match="expected"):
        ImageSpec(**{**good, **wrong})


@given(SPECS, st.integers(1, 10**7))
def test_small_images_share_a_chunk_of_about_a_mebibyte(spec: ImageSpec, n: int) -> None:
    rows = default_chunk_rows(spec, n)
    assert 1 <= rows <= n
    if spec.n_bytes >= 64 * 1024:
        assert rows == 1
    else:
        assert rows * spec.n_bytes <= 1024**2
        assert rows == n or (rows + 1) * spec.n_bytes > 1024**2


@given(SPECS, st.integers(1, 3000), st.one_of(st.none(), st.integers(1, 20)))
def test_the_layout_holds_every_image_in_whole_chunks(
    spec: ImageSpec, n: int, chunk_rows: int | None
) -> None:
    planned = flat(stack_group("", "", n, spec, chunk_rows=chunk_rows))
    images = planned.groups[0].pixels
    assert images.shape == (n, *spec.shape)
    assert images.dtype == spec.dtype
    assert images.dims == ("sample", "y", "x", "channel")[: len(images.shape)]
    assert images.row_bytes == spec.n_bytes
    assert images.chunk_rows is not None
    assert images.chunk_rows == min(n, chunk_rows or images.chunk_rows)
    chunks = math.ceil(n / images.chunk_rows)
    assert images.stored_bytes == chunks * images.chunk_rows * spec.n_bytes
    # one byte of status and eight of checksum a sample
    assert planned.stored_bytes == images.stored_bytes + 9 * n
    assert [d.name for d in planned.datasets] == ["/images", "/status", "/checksums"]
    assert {d.shape[0] for d in planned.datasets} == {n}
    assert planned.n_samples == n
    assert KINDS["stack"].describe(planned.groups) == f"images of {spec}"


def flat(group: Group, kind: str = "stack") -> Layout:
    return Layout(kind=kind, groups=(group,), grouped=False)


@given(st.integers(1, 100), st.integers(0, 10**7), st.sampled_from(["uint8", "uint16"]))
def test_images_of_any_size_are_one_long_dataset(n: int, n_elements: int, dtype: str) -> None:
    group = extent_group("ragged", "train", "/train", n, n_elements, dtype)
    assert (group.pixels.shape, group.pixels.dtype) == ((n_elements,), dtype)
    assert group.pixels.chunk_rows is None
    assert [d.name for d in group.datasets] == [
        f"/train/{name}"
        for name in ("images/pixels", "status", "checksums", "images/offsets", "images/shapes")
    ]
    assert group.offsets is not None
    assert group.shapes is not None
    assert (group.offsets.shape, group.offsets.dtype) == ((n + 1,), "int64")
    assert (group.shapes.shape, group.shapes.dtype) == ((n, 3), "int32")
    assert flat(group).stored_bytes == group.pixels.stored_bytes + 9 * n + 8 * (n + 1) + 12 * n
    filters = (Filter(id=1, options=(4,)),)
    filtered = extent_group("ragged", "", "", n, n_elements, dtype, filters=filters).pixels
    assert filtered.filters == (filters if n_elements else ())
    if n_elements:
        assert filtered.chunk_rows == min(n_elements, 2**19 // np.dtype(dtype).itemsize)
    else:
        assert filtered.chunk_rows is None
    encoded = extent_group("encoded", "", "", n, n_elements, "uint8")
    assert encoded.pixels.name == "/images/data"


def test_the_layout_of_a_tree_leaves_its_images_open() -> None:
    group = tree_group("", "", 7, 1000)
    assert [d.name for d in group.datasets] == ["/status", "/checksums"]
    assert flat(group, "tree").stored_bytes == 1000 + 9 * 7


def test_the_digest_of_a_layout_takes_all_that_it_says() -> None:
    """What a journal is compared by: every field of every dataset, group and filter."""
    image = ImageSpec(height=2, width=3, channels=1, dtype="uint8")
    group = stack_group("", "", 4, image, filters=(Filter(id=1, options=(4,)),), padded=True)
    one = Layout(kind="stack", groups=(group, group), grouped=True)

    def changed(value: Any) -> Iterator[Any]:
        """Yield the value with each of its parts changed, one at a time."""
        if is_dataclass(value) and not isinstance(value, type):
            for part in fields(value):
                for new in changed(getattr(value, part.name)):
                    yield replace(value, **{part.name: new})
        elif isinstance(value, tuple):
            yield value[:-1] if value else (1,)
            for k, part in enumerate(value):
                for new in changed(part):
                    yield (*value[:k], new, *value[k + 1 :])
        elif isinstance(value, str):
            yield "uint16" if value == "uint8" else value + "x"
        elif isinstance(value, dict):
            yield {**value, "other": 7}
        elif isinstance(value, bool):
            yield not value
        else:
            yield 3 if value is None else value + 1

    others = [other for other in changed(one) if other != one]
    digests = {one.digest, *(other.digest for other in others)}
    assert len(others) > 50
    assert len(digests) == 1 + len(set(map(repr, others)))
    again = Layout(kind="stack", groups=(group, group), grouped=True)
    assert again.digest == one.digest


def test_a_dataset_without_chunks_is_stored_as_it_is() -> None:
    assert DatasetSpec(name="/a", shape=(5, 3), dtype="uint16").stored_bytes == 30


def test_the_status_names_are_those_of_the_schema() -> None:
    assert schema.STATUS_NAMES == {"missing": 0, "ok": 1, "failed": 2}
    group = tree_group("", "", 1, 1)
    assert [flat(group, kind).schema for kind in KINDS] == [
        "h5ingest stack 2", "h5ingest ragged 2", "h5ingest tree 2", "h5ingest encoded 2",
    ]  # fmt: skip


def test_a_chunk_may_not_exceed_what_hdf5_can_address() -> None:
    # HDF5 stores the bytes of a chunk in 32 bits.
    image = ImageSpec(height=32768, width=32768, channels=1, dtype="uint8")  # 1 GiB
    assert stack_group("", "", 10, image, chunk_rows=3).pixels.chunk_rows == 3
    with pytest.raises(errors.UsageError, match=r"--chunk.* at most 3 .*got 4"):
        stack_group("", "", 10, image, chunk_rows=4)
    assert stack_group("", "", 2, image, chunk_rows=4).pixels.chunk_rows == 2
    huge = ImageSpec(height=2**16, width=2**16, channels=1, dtype="uint8")
    with pytest.raises(errors.UsageError, match="larger than an HDF5 chunk may be"):
        stack_group("", "", 1, huge)


# --- digest ------------------------------------------------------------------------------------

ARRAYS = st.sampled_from(["<u1", "<u2", ">u2", "<i8", ">i8", "<f8", ">u8"]).flatmap(
    lambda dtype: st.lists(st.integers(0, 255), max_size=30).map(
        lambda values: np.array(values, dtype)
    )
)


def digest_of(values: NDArray[Any], name: str = "/a", description: str = "demo") -> str:
    digest = ContentDigest(description)
    digest.add_numbers(name, values)
    return digest.hexdigest()


@given(ARRAYS, st.lists(st.integers(0, 30), max_size=5))
def test_the_pieces_of_numbers_do_not_show(values: NDArray[Any], cuts: list[int]) -> None:
    digest = ContentDigest("demo")
    for piece in np.split(values, sorted(cuts)):
        digest.add_numbers("/a", piece)
    assert digest.hexdigest() == digest_of(values)


@given(st.lists(st.binary(max_size=4).map(lambda b: b.replace(b"\0", b"")), max_size=20), st.data())
def test_the_pieces_of_strings_do_not_show(strings: list[bytes], data: st.DataObject) -> None:
    cut = data.draw(st.integers(0, len(strings)))
    whole, pieces = ContentDigest("demo"), ContentDigest("demo")
    whole.add_strings("/paths", strings)
    pieces.add_strings("/paths", strings[:cut])
    pieces.add_strings("/paths", iter(strings[cut:]))
    assert whole.hexdigest() == pieces.hexdigest()


@given(
    st.lists(st.binary(max_size=4).map(lambda b: b.replace(b"\0", b"")), max_size=6),
    st.lists(st.binary(max_size=4).map(lambda b: b.replace(b"\0", b"")), max_size=6),
)
def test_other_strings_have_another_digest(one: list[bytes], other: list[bytes]) -> None:
    digests = []
    for strings in (one, other):
        digest = ContentDigest("demo")
        digest.add_strings("/paths", strings)
        digests.append(digest.hexdigest())
    assert (digests[0] == digests[1]) == (one == other)


@given(ARRAYS.filter(len), st.data())
def test_any_change_of_a_value_shows(values: NDArray[Any], data: st.DataObject) -> None:
    changed = values.copy()
    changed.view(np.uint8)[data.draw(st.integers(0, values.nbytes - 1))] ^= 1
    assert digest_of(changed) != digest_of(values)
    assert digest_of(values[:-1]) != digest_of(values)


def test_name_kind_and_description_show() -> None:
    values = np.arange(4)
    texts = ContentDigest("demo")
    texts.add_strings("/a", [values.tobytes().replace(b"\0", b"x")])
    different = [
        digest_of(values),
        digest_of(values, name="/b"),
        digest_of(values, description="other"),
        digest_of(values.astype(np.uint64)),
        ContentDigest("demo").hexdigest(),
        texts.hexdigest(),
    ]
    assert len(set(different)) == len(different)


def test_order_of_datasets_byte_order_and_memory_layout_do_not_show() -> None:
    values = np.arange(12, dtype="<i4").reshape(3, 4)
    one, other = ContentDigest("demo"), ContentDigest("demo")
    one.add_numbers("/a", values)
    one.add_strings("/b", [b"x"])
    other.add_strings("/b", [b"x"])
    other.add_numbers("/a", np.asfortranarray(values.astype(">i4")))
    assert one.hexdigest() == other.hexdigest()


def test_the_digest_is_what_its_description_says() -> None:
    # Written out by hand: a file must have the same digest in every version of the program.
    digest = ContentDigest("demo")
    digest.add_numbers("/labels", np.array([1, 2], ">i2"))
    digest.add_strings("/paths", [b"a.png", b""])
    labels = hashlib.sha256(b"\1\0\2\0").hexdigest()
    paths = hashlib.sha256(b"a.png\0\0").hexdigest()
    text = f"demo\n/labels\t<i2\t{labels}\n/paths\ttext\t{paths}"
    assert digest.hexdigest() == hashlib.sha256(text.encode()).hexdigest()


def test_a_dataset_of_two_kinds_is_refused() -> None:
    digest = ContentDigest("demo")
    digest.add_numbers("/a", np.arange(2, dtype=np.int64))
    with pytest.raises(ValueError, match="/a: expected <i8, got <u2"):
        digest.add_numbers("/a", np.arange(2, dtype=np.uint16))


def test_an_archive_is_seen_wherever_in_the_paths_it_is() -> None:
    for end in ARCHIVES + CONTAINERS:
        for n_before in (0, 9, 2**20 - 4, 2**20 - 1, 2**20):
            before = n_before * b"a"
            assert may_be_within(before + end.upper() + b"/b.png" + before)
            assert not may_be_within(before + end + b"b/.png")


def test_versions_of_packages_are_those_that_python_knows() -> None:
    for package in ("numpy", "pillow", "h5py"):
        assert package_version(package) == metadata.version(package)
    assert package_version("no-such-package") == "not installed"


def test_what_is_a_manifest_and_what_is_made_one_of(tmp_path: Path) -> None:
    for name in ("a.csv", "B.TSV", "c.txt", "d.list"):
        (tmp_path / name).touch()
        assert not is_listed(tmp_path / name)
    for name in ("photos", "photos.csv"):
        (tmp_path / name).mkdir()
        assert is_listed(tmp_path / name)
    (tmp_path / "e.tar").touch()
    assert is_listed(tmp_path / "e.tar")
    assert not is_listed(tmp_path / "none.csv")
