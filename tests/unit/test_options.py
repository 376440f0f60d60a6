"""An option is written down once, in `IngestOptions`: what is typed, said and stored follows."""

from __future__ import annotations

import doctest
import importlib
import re
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import typer.main
from hypothesis import given
from hypothesis import strategies as st
from rich.text import Text

import h5ingest
from h5ingest.cli import app
from h5ingest.cli.option_values import as_typed, parse_size
from h5ingest.cli.requests import IngestRequest
from h5ingest.core.errors import UsageError
from h5ingest.core.option_fields import options_of
from h5ingest.core.options import IngestOptions
from h5ingest.core.units import MIB

OPTIONS = options_of(IngestOptions)

TYPED: dict[str, tuple[str, Any]] = {
    "root": ("--root some/where", Path("some/where")),
    "delimiter": ("--delimiter tab", "\t"),
    "label_column": ("--label-column kind", "kind"),
    "multi_label": ("--multi-label", True),
    "image": ("--image mask:raw --image depth", ("mask:raw", "depth")),
    "layout": ("--layout stack", "stack"),
    "group_by": ("--group-by split", "split"),
    "channels": ("--channels rgb", "rgb"),
    "dtype": ("--dtype uint8", "uint8"),
    "reduce_depth": ("--reduce-depth", True),
    "samples": ("--samples scaled", "scaled"),
    "fit": ("--fit pad", "pad"),
    "size": ("--size 30x40", (30, 40)),
    "shortest": ("--shortest 50", 50),
    "orientation": ("--orientation exif", "exif"),
    "pad_value": ("--pad-value 7", 7),
    "compression": ("--compression zstd:3", "zstd:3"),
    "shuffle": ("--shuffle", True),
    "chunk_rows": ("--chunk 5", 5),
    "batch_bytes": ("--batch-bytes 512k", 512 * 1024),
    "cache_bytes": ("--cache-bytes 0", 0),
    "probe": ("--probe all", "all"),
    "stripe_count": ("--stripe-count 4", 4),
    "stripe_size": ("--stripe-size 1MiB", MIB),
    "alignment": ("--alignment 1m", MIB),
    "hints": ("--hint cb_nodes=2 --hint a=b=c", (("cb_nodes", "2"), ("a", "b=c"))),
    "direct_io": ("--direct-io off", "off"),
    "readers": ("--readers 3", 3),
    "on_error": ("--on-error blank", "blank"),
    "max_pixels": ("--max-pixels 1000", 1000),
    "trust_palettes": ("--trust-palettes", True),
    "checkpoint_s": ("--checkpoint 1.5", 1.5),
    "peer_timeout_s": ("--peer-timeout 60", 60.0),
    "restart": ("--restart", True),
    "overwrite": ("--overwrite", True),
    "overwrite_foreign": ("--overwrite-foreign", True),
    "dry_run": ("--dry-run", True),
}


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    (tmp_path / "m.txt").write_text("a.png\n")
    return [str(tmp_path / "m.txt"), str(tmp_path / "out.h5")]


def options_from(*arguments: str) -> IngestOptions:
    request = app.parse(["ingest", *arguments], 1)
    assert isinstance(request, IngestRequest)
    return request.options


def commands() -> dict[str, Any]:
    group: Any = typer.main.get_command(app.make_app())
    return {**group.commands, **group.commands["bench"].commands}


def test_a_verb_is_made_without_the_others_as_with_them() -> None:
    every = commands()
    assert set(app.VERBS) <= set(every)
    for first, verb in [*((verb, verb) for verb in app.VERBS), ("m.csv", "ingest")]:
        alone: Any = typer.main.get_command(app.make_app(first))
        assert list(alone.commands) == [verb]
        assert [param.opts for param in alone.commands[verb].params] == [
            param.opts for param in every[verb].params
        ]


def test_every_field_is_an_option_of_ingest_in_this_order() -> None:
    by_name = {param.name: param for param in commands()["ingest"].params}
    names = [each.name for each in fields(IngestOptions)]
    assert [name for name in by_name if name in names] == names
    for option in OPTIONS:
        param = by_name[option.name]
        assert param.opts == [option.flag]
        assert not param.secondary_opts
        assert (param.help, param.rich_help_panel) == (option.help, option.panel)
        assert len(option.help) > 20


def test_the_help_lists_panels_and_choices(capsys: pytest.CaptureFixture[str]) -> None:
    assert app.parse(["ingest", "--help"], 1) == 0
    shown = capsys.readouterr().out
    panels = list(dict.fromkeys(option.panel for option in OPTIONS))
    places = [shown.index(f"\n{panel}:\n") for panel in panels]
    assert places == sorted(places)
    for option in OPTIONS:
        assert re.search(rf"^  {option.flag}\b", shown, re.MULTILINE)
        assert "|".join(option.choices) in shown
        assert (option.form or "") in shown
    assert panels == [
        "Used most", "The manifest", "What the file looks like", "Chunks and compression",
        "How it runs", "Parallel file systems", "When something goes wrong",
    ]  # fmt: skip


def test_what_is_not_typed_is_as_it_is_in_python(files: list[str]) -> None:
    assert options_from(*files) == IngestOptions()


def test_what_the_help_shows_as_defaults_may_be_typed(files: list[str]) -> None:
    words = []
    for param in commands()["ingest"].params:
        if param.name in TYPED and not param.is_flag and param.default is not None:
            words += [param.opts[0], str(param.default)]
    assert {"4MiB", "auto", "stack"} < set(words)
    assert options_from(*words, *files) == IngestOptions()


def test_what_is_typed_is_what_is_meant(files: list[str]) -> None:
    words = " ".join(text for text, _ in TYPED.values()).split()
    expected = IngestOptions(**{name: value for name, (_, value) in TYPED.items()})
    assert options_from(*words, *files) == expected
    resized = options_from("--fit", "resize", "--resample", "box", *files)
    assert resized == replace(IngestOptions(), fit="resize", resample="box")
    scaled = options_from("--longest", "60", "--layout", "tree", *files)
    assert scaled == replace(IngestOptions(), longest=60, layout="tree")
    square = options_from("--fit", "cover", "--size", "224", *files)
    assert square == replace(IngestOptions(), fit="cover", size=(224, 224))
    recoded = options_from("--layout", "encoded", "--recode", "jxl:1", *files)
    assert recoded == replace(IngestOptions(), layout="encoded", recode="jxl:1")
    assert {*TYPED, "resample", "recode", "longest"} == {option.name for option in OPTIONS}


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        ("--batch-bytes f", "--batch-bytes: expected a size such as 4MiB, 512k or 1GB, got 'f'"),
        ("--cache-bytes 1T", "--cache-bytes: expected a size such as 4MiB, 512k or 1GB, got '1T'"),
        ("--alignment x", "--alignment: expected a size such as 4MiB, 512k or 1GB, got 'x'"),
        ("--stripe-size ''", "--stripe-size: expected a size such as 4MiB, 512k or 1GB, got"),
        ("--size 3x", "--size: expected HEIGHTxWIDTH such as 224x224, or 224, got '3x'"),
        ("--hint cb_nodes", "--hint: expected KEY=VALUE, got 'cb_nodes'"),
        ("--chunk many", "--chunk: expected auto or a number of images, got 'many'"),
        ("--chunk 0", "--chunk: expected auto or at least 1, got 0"),
        ("--readers ²", "--readers: expected auto or a number of threads, got '²'"),
        ("--readers 257", "--readers: expected auto or 0 to 256, got 257"),
        ("--delimiter ab", "--delimiter: expected one ASCII character other than a quote"),
        ("--pad-value 1", "--pad-value goes with --fit pad"),
        ("--reduce-depth", "--reduce-depth goes with --dtype uint8"),
        ("--recode webp", "--recode goes with --layout encoded"),
        ("--layout encoded --recode jxl:0", "--recode: expected jxl, jxl:1 to jxl:9, webp, htj"),
        ("--overwrite-foreign", "--overwrite-foreign goes with --overwrite"),
        ("--pad-value 65536", "--pad-value: expected 0 to 65535, got 65536"),
        # Behind the option, these are typer's words.
        ("--max-pixels 0", "h5ingest: error: --max-pixels: "),
        ("--stripe-count x", "h5ingest: error: --stripe-count: "),
        ("--layout cube", "error: --layout: 'cube' is not one of 'stack', 'ragged', 'tree', 'enc"),
    ],
)  # fmt: skip
def test_an_error_names_the_option(
    typed: str, said: str, files: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    words = [word.strip("'") for word in typed.split(" ")]
    assert app.parse(["ingest", *words, *files], 1) == UsageError.exit_code
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("verb", ["codecs", "storage", "read", "scaling"])
def test_a_verb_that_reads_a_manifest_takes_its_options(verb: str) -> None:
    of_ingest = {param.name: param for param in commands()["ingest"].params}
    of_verb = {param.name: param for param in commands()[verb].params}
    for name in ("root", "delimiter"):
        assert of_verb[name].help == of_ingest[name].help
        assert of_verb[name].opts == of_ingest[name].opts


def test_no_word_of_the_help_is_lost_as_markup() -> None:
    helps = [
        param.help
        for command in commands().values()
        for param in command.params
        if getattr(param, "help", None)
    ]
    assert len(helps) > 70
    assert [text for text in helps if Text.from_markup(text).plain != text] == []


def test_a_bound_holds_in_python_too() -> None:
    for wrong in ({"pad_value": -1}, {"pad_value": 65536, "fit": "pad"}):
        with pytest.raises(UsageError, match=r"--pad-value: expected 0 to 65535, got"):
            IngestOptions(**wrong)
    with pytest.raises(UsageError, match="--cache-bytes: expected auto or at least 0, got -1"):
        IngestOptions(cache_bytes=-1)


def test_what_the_file_tells_of_its_options_keeps_its_order() -> None:
    assert list(IngestOptions().content()) == [
        "layout", "group_by", "channels", "dtype", "reduce_depth", "samples", "fit", "size",
        "pad_value", "resample", "compression", "shuffle", "chunk_rows", "recode", "on_error",
        "max_pixels",
    ]  # fmt: skip
    given = IngestOptions(image=("mask",), layout="ragged", longest=9, orientation="exif")
    assert given.content().keys() - IngestOptions().content().keys() == {
        "image", "longest", "orientation",
    }  # fmt: skip


@given(st.integers(0, 2**70) | st.builds(int.__lshift__, st.integers(0, 99), st.integers(0, 60)))
def test_a_number_of_bytes_is_typed_as_it_is_shown(n_bytes: int) -> None:
    text = as_typed("SIZE", n_bytes)
    assert text is not None
    assert parse_size(text) == n_bytes


def test_the_examples_are_true() -> None:
    failed, tried = doctest.testmod(importlib.import_module("h5ingest.cli.option_values"))
    assert (failed, tried) == (0, 2)


def test_what_users_import_is_imported_on_first_use() -> None:
    """One name at a time: `h5ingest.IngestOptions` must not bring what `ingest` needs."""
    code = """
import sys
import h5ingest
heavy = {"numpy", "h5py", "mpi4py", "typer", "rich"}
assert not heavy & sys.modules.keys(), heavy & sys.modules.keys()
assert {"ingest", "verify", "ImageStore", "IngestOptions"} <= set(dir(h5ingest))
assert h5ingest.IngestOptions(layout="tree").layout == "tree"
assert not heavy & sys.modules.keys(), heavy & sys.modules.keys()
assert not hasattr(h5ingest, "Shop")
from h5ingest import *
assert ingest.__module__ == "h5ingest.pipeline.run"
assert verify.__module__ == "h5ingest.inspect.verify"
assert ImageStore.__module__ == "h5ingest.reading.store"
assert not {"mpi4py", "typer", "rich"} & sys.modules.keys()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert all(hasattr(h5ingest, name) for name in h5ingest.__all__)
