"""`World`: the folder of a scenario, what runs may end with, and what their files must hold."""

from __future__ import annotations

import contextlib
import csv
import hashlib
import io
import json
import os
import random
import shutil
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from h5ingest.core.errors import IngestError
from h5ingest.core.options import IngestOptions
from h5ingest.inspect.verify import VerifyReport, verify
from h5ingest.mpi.comm import SerialComm
from helpers.oracle import (
    KINDS,
    Sample,
    Wanted,
    assert_holds,
    could_replace,
    expected,
    fit_together,
    group_path,
)
from helpers.scenario import MANY, Scenario, Step, wanted_of
from helpers.scenario_files import (
    Version,
    change_other,
    change_pixel,
    damaged,
    flip_stored,
    lost,
    made,
)
from helpers.scenario_runs import KILLED, Launch, Outcome, Run, in_a_process
from helpers.support import read_file


@dataclass(slots=True)
class World:
    """The folder of a scenario."""

    scenario: Scenario
    folder: Path
    launch: Launch
    files: dict[str, list[Version]] = field(default_factory=dict)
    """Path -> what it has been since the unfinished job began; the last is what it is."""
    first: dict[str, Version] = field(default_factory=dict)
    """Path -> what it was at first."""
    good: dict[str, Version] = field(default_factory=dict)
    """Damaged path -> what it was."""
    lines: list[tuple[str, str, str]] = field(default_factory=list)
    """(path, label, group)."""
    begun: dict[str, Any] | None = None
    """`key` of the unfinished job."""
    n_published: int = 0
    codes: list[int] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    """Those that do not keep the scenario from going on."""
    aloud: bool = False
    """Whether each run is told on stderr."""
    n_mixed: int = 0
    """Rows that were of an earlier version of their file."""

    @property
    def out(self) -> Path:
        return self.folder / "out.h5"

    @property
    def partial(self) -> Path:
        return self.folder / "out.h5.partial"

    @property
    def manifest(self) -> Path:
        return self.folder / ("manifest.csv" if self.scenario.csv else "manifest.tsv")

    @property
    def _is_foreign(self) -> bool:
        """Whether what lies under the output's name, if anything, is none of ours."""
        return self.n_published == 0 and self.scenario.there in ("hdf5", "text")

    # Sources.

    def build(self) -> None:
        """Write the images and the manifest, and what is there before."""
        s = self.scenario
        dice = s.dice("files")
        one, n_files = self._size(dice), s.images // 2 + 1 if s.twice else s.images
        of_group = {group: (dice.choice(s.kinds), self._size(dice)) for group in s.groups}
        for line in range(s.images):
            group = dice.choice(s.groups) if s.groups else str(line)
            number = line if line < n_files else dice.randrange(n_files)
            stem = s.stems[number % len(s.stems)] if s.stems else str(number)
            path = f"{number}/{stem}.png" if s.stems else f"{stem}.png"
            path = path.replace("\x01", "_")
            self.lines.append((path, dice.choice(s.labels), group))
            if path in self.files:
                continue
            kind, size = dice.choice(s.kinds), self._size(dice)
            if s.sizes == "group":
                kind, size = of_group[group]
            elif s.sizes == "one":
                size = one
            elif s.sizes == "distinct":
                size = (s.edges[0] + line // s.edges[1], s.edges[0] + line % s.edges[1])
            self._put(path, made(kind, size, dice))
        self.first = {path: versions[0] for path, versions in self.files.items()}
        self.manifest.write_bytes(self._manifest_text())
        (self.folder / "notes.txt").write_text("the user's own")
        if s.there == "text":
            self.out.write_text("the user's own, too")
        elif s.there:
            with h5py.File(self.out, "w") as file:
                file["mine"] = np.arange(9)
                if s.there == "ours":
                    file.attrs.update({"schema": "h5ingest stack 1", "status": "complete"})

    def _size(self, dice: random.Random) -> tuple[int, int]:
        return dice.randint(*self.scenario.edges), dice.randint(*self.scenario.edges)

    def _manifest_text(self) -> bytes:
        header = ("path", "label", "group") if any(label for _, label, _ in self.lines) else (
            "path", "group")  # fmt: skip
        rows = [line if len(header) == 3 else (line[0], line[2]) for line in self.lines]
        text = io.StringIO()
        if self.scenario.csv:
            csv.writer(text, lineterminator="\n").writerows([header, *rows])
        else:
            text.writelines("\t".join(row) + "\n" for row in [header, *rows])
        return os.fsencode(text.getvalue())

    def _put(self, path: str, version: Version) -> None:
        file = self.folder / path
        file.parent.mkdir(exist_ok=True)
        if version.data is None:
            file.unlink(missing_ok=True)
        else:
            file.write_bytes(version.data)
        self.files.setdefault(path, []).append(version)

    def edit(self, what: str, dice: random.Random) -> None:
        """Do what a step has done to the files."""
        verb, _, count = what.partition(":")
        if verb == "mend":
            for path, version in self.good.items():
                self._put(path, version)
            self.good.clear()
            return
        sound = sorted(path for path in self.files if path not in self.good)
        if verb == "regroup":
            group = dice.choice(self.lines)[2]
            kind, size = dice.choice(self.scenario.kinds), self._size(dice)
            for path in sorted({path for path, _, g in self.lines if g == group} & {*sound}):
                self._put(path, made(kind, size, dice))
            return
        for path in dice.sample(sound, min(int(count), len(sound))):
            version = self.files[path][-1]
            if verb in ("damage", "lose"):
                self.good[path] = version
                self._put(path, (damaged if verb == "damage" else lost)(version, dice))
            elif verb == "change":
                self._put(path, made(version.kind, version.size, dice))
            elif verb == "resize":
                self._put(path, made(version.kind, self._size(dice), dice))
            else:
                kind = dice.choice((*self.scenario.kinds, *KINDS))
                self._put(path, made(kind, version.size, dice))

    def samples(self, raw: bool, back: Sequence[int] = ()) -> list[Sample]:
        """The lines; `back`: how many versions to go back in each line's file."""
        found = []
        for line, (path, label, group) in enumerate(self.lines):
            versions = self.files[path]
            age = max(0, back[line]) if back else 0
            version = versions[max(0, len(versions) - 1 - age)]
            found.append(
                Sample(
                    path=path, data=version.data, pixels=version.raw if raw else version.scaled,
                    broken=version.broken, label=label, group=group,
                )
            )  # fmt: skip
        return found

    def key(self, options: dict[str, Any]) -> dict[str, Any]:
        """What decides whether the work of another run is of use."""
        arrays = expected(self.samples(options.get("samples") == "raw"), wanted_of(options))
        how: dict[str, Any] = {"options": {k: v for k, v in options.items() if k not in HOW}}
        for name, values in arrays.items():
            how[name] = values.shape, str(values.dtype)
            if name.endswith(("images/offsets", "images/shapes")):
                how[name] = values.tolist()
        return how

    # Runs.

    def play(self) -> None:
        """Play the scenario."""
        self.build()
        for number, step in enumerate(self.scenario.steps):
            dice = self.scenario.dice(number)
            for what in step.edits:
                self.edit(what, dice)
            self.run(step)
        if self.scenario.images < MANY or not self.n_published:  # else it would take seconds again
            self._settle()

    def run(self, step: Step) -> int:
        """Run, and compare what comes of it with what may."""
        step_options = {"layout": self.scenario.layout, **dict(self.scenario.options)}
        step_options |= dict(step.other)
        before, there = self._snapshot(), _identity(self.out)
        may, why = self._may_end_with(step, step_options)
        if self._is_foreign and self.out.exists():
            may, why = (may - {0}) | {5}, "a refusal of what is not ours"
        asked = IngestOptions(
            **self._possible(step_options), on_error=step.on_error, overwrite=step.overwrite,
            batch_bytes=step.batch_bytes, cache_bytes=step.cache_bytes, restart=step.restart,
        )  # fmt: skip
        several = self.scenario.dice(f"hosts of run {len(self.codes)}").random() < 0.5
        n_hosts = step.ranks if several else 1
        with contextlib.ExitStack() as held:
            old = held.enter_context(self.partial.open("rb")) if self.partial.exists() else None
            outcome = self.launch(
                Run(manifest=self.manifest, out=self.out, options=asked, ranks=step.ranks,
                    n_hosts=n_hosts, end=step.end, chunk_bytes=self.scenario.chunk_bytes)
            )  # fmt: skip
            self.codes.append(outcome.code)
            same = old is not None and self.partial.exists()
            if old is not None and same:  # (it is held open, so that its number is not used again)
                same = os.path.samestat(os.fstat(old.fileno()), self.partial.stat())
        told = f"{_told(step)}: expected {why}, exit code {sorted(may)}"
        if self.aloud:
            print(f"{told}, found {outcome.code} {outcome.message[:300]}", file=sys.stderr)
        assert outcome.code in may, f"{told}, found {outcome.code}: {outcome.message}"
        assert self._snapshot() == before, f"{told}: files of the user's were touched"
        if not same:  # no unfinished job, or another one, which began just now
            self.begun = self.key(step_options) if self.partial.exists() else None
        published = _identity(self.out) != there
        assert published == (outcome.code == 0) or (published and outcome.code == KILLED), (
            f"{told}: exit code {outcome.code}, OUT is {'' if published else 'not '}new"
        )
        if outcome.code != KILLED:
            left = {file.name for file in self.folder.glob("out.h5*")} - {"out.h5"}
            allowed = {"out.h5.failed.tsv", "out.h5.partial", "out.h5.journal"}
            allowed = allowed if outcome.code else {"out.h5.failed.tsv"}
            assert left <= allowed, f"{told}: {left - allowed} are left"
        if published:
            self.n_published += 1
            self._check(step_options, outcome)
        elif outcome.failed:
            self._check_named(outcome.failed, step_options)
        if self.begun is None:
            self.files = {path: versions[-1:] for path, versions in self.files.items()}
        return outcome.code

    def _may_end_with(self, step: Step, options: dict[str, Any]) -> tuple[set[int], str]:
        samples = self.samples(options.get("samples") == "raw")
        code, why = self._must_end_with(step, options, samples)
        may = {code}
        goes_on = self.begun is not None and not step.restart
        if goes_on and why in ("all is well", "damaged images"):
            if self.begun != self.key(options):
                may.add(5)
                why += ", or another unfinished job"
            if all(self._has_been_good(path) for path in self.files):
                may.add(0)  # they may be stored since
            if any(self._may_be_torn(path, options) for path in self.files):
                may.add(3)
        if step.end.startswith("stop"):
            may.add(75)
        if step.end.startswith("kill"):
            may |= {KILLED} if self.launch is in_a_process else {75}
        return may, why

    def _has_been_good(self, path: str) -> bool:
        return any(v.raw is not None and not v.broken for v in self.files[path])

    def _may_be_torn(self, path: str, options: dict[str, Any]) -> bool:
        """Whether a part of the image may be of an earlier version: then it counts as failed."""
        filtered = options.get("compression") or options.get("shuffle")
        return options["layout"] == "ragged" and bool(filtered) and len(self.files[path]) > 1

    def _must_end_with(
        self, step: Step, options: dict[str, Any], samples: Sequence[Sample]
    ) -> tuple[int, str]:
        if self.out.exists() and not step.overwrite:
            return 5, "a refusal of what exists"
        known = [s for s in samples if s.pixels is not None]
        if not known or (len(known) < len(samples) and step.on_error == "fail"):
            return 3, "unreadable images"
        reduce_depth = options.get("reduce_depth", False)
        if not fit_together(samples, wanted_of(options), reduce_depth=reduce_depth):
            return 3, "images that do not fit together"
        if any(s.broken for s in samples) and step.on_error == "fail":
            return 3, "damaged images"
        return 0, "all is well"

    def _check_named(self, failed: Sequence[int], options: dict[str, Any]) -> None:
        """Check that a run that published nothing named images that are bad, and all of them.

        Those whose headers are bad may be all that it has seen.
        """
        samples = self.samples(False)
        bad = {i for i, s in enumerate(samples) if s.pixels is None or s.broken}
        header = {i for i, s in enumerate(samples) if s.pixels is None}
        stored = {i for i in bad if self._has_been_good(samples[i].path)}
        torn = {i for i, s in enumerate(samples) if self._may_be_torn(s.path, options)}
        told = set(failed)
        assert told == header or bad - stored <= told <= bad | torn, f"{told} failed, {bad} are bad"

    def _settle(self) -> None:
        """Do what the messages say until the file is there."""
        step = Step(ranks=self.scenario.steps[-1].ranks)
        first = False
        for _ in range(20):
            code = self.run(step)
            if code == 0 or (code == 3 and first):  # those of the beginning do not fit either
                return
            if code == 3 and self.good:
                self.edit("mend", self.scenario.dice())
            elif code == 3 and not self._may_go_on(step):  # some were changed, and do not fit
                first = True
                self._build_again()
            elif self.out.exists() and self._is_foreign:
                self.out.unlink()
            elif self.out.exists() and not step.overwrite:
                step = replace(step, overwrite=True)
            else:
                step = replace(step, restart=True)
        raise AssertionError(f"not published after {self.codes}")

    def _may_go_on(self, step: Step) -> bool:
        """Whether nothing keeps the same run from ending well the next time: some were torn."""
        options = {"layout": self.scenario.layout, **dict(self.scenario.options)}
        samples = self.samples(options.get("samples") == "raw")
        return self._must_end_with(replace(step, overwrite=True), options, samples)[0] == 0

    def _build_again(self) -> None:
        """Write the images as they were at first."""
        for path, version in self.first.items():
            self._put(path, version)
        self.good.clear()

    def _possible(self, options: dict[str, Any]) -> dict[str, Any]:
        """Without direct I/O where the file system has none."""
        if options.get("direct_io") != "on":
            return options
        try:
            os.close(os.open(self.folder, os.O_TMPFILE | os.O_WRONLY | os.O_DIRECT))
        except OSError:
            return {**options, "direct_io": "off"}
        return options

    def _snapshot(self) -> dict[str, str]:
        """All files but OUT and those beside it."""
        return {
            str(file): _content(file)
            for file in sorted(self.folder.rglob("*"))
            if file.is_file() and not file.name.startswith("out.h5")
        }

    # The file.

    def _check(self, options: dict[str, Any], outcome: Outcome) -> None:
        """Compare all of the published file."""
        wanted = wanted_of(options)
        now = self.samples(wanted.raw)
        stored = read_file(self.out)
        back = self._versions(stored.arrays, wanted, now, options)
        mixed = self.samples(wanted.raw, back)
        mixed = [replace(s, broken=s.broken or b < 0) for s, b in zip(mixed, back, strict=True)]
        assert_holds(stored, expected(mixed, wanted, now=now))
        bad = [i for i, s in enumerate(mixed) if s.pixels is None or s.broken]
        if outcome.failed is not None:
            assert list(outcome.failed) == bad, f"{outcome.failed} failed, {bad} are bad"
            listed = self.folder / "out.h5.failed.tsv"
            n_listed = len(listed.read_bytes().splitlines()) - 1 if listed.exists() else 0
            assert n_listed == len(bad), f"{n_listed} lines in {listed.name}, {len(bad)} are bad"
        attrs = stored.attrs
        assert attrs["status"] == "complete"
        assert str(attrs["schema"]).split()[:2] == ["h5ingest", wanted.layout]
        assert (attrs["n_samples"], attrs["n_failed"]) == (len(now), len(bad))
        digest = hashlib.sha256(self.manifest.read_bytes()).hexdigest()
        assert attrs["manifest_sha256"] == digest
        if wanted.grouped:
            names = sorted({s.group for s in now}, key=os.fsencode)
            assert json.loads(attrs["groups"]) == list(map(group_path, names))
        report = self._verify(self.out)
        assert report.ok, f"verify of a sound file: {report.problems} {report.bad}"
        report = self._verify(self.out, sources=True)
        stale = [i for i, b in enumerate(back) if b > 0 and now[i].data != mixed[i].data]
        self.n_mixed += len(stale)
        # A file that lacks its end only has its pixels still.
        sure = {now[i].path for i in stale if not now[i].broken}
        told = {bad.path for bad in report.bad}
        assert sure <= told <= {now[i].path for i in stale}, f"verify --sources: {report.bad}"
        assert not report.problems, f"verify --sources: {report.problems}"
        self._spoil(wanted.layout)

    def _versions(
        self,
        arrays: dict[str, Any],
        wanted: Wanted,
        now: Sequence[Sample],
        options: dict[str, Any],
    ) -> list[int]:
        """How many versions back each line's pixels are; -1: blank, as torn.

        By their checksums, and by their status: an image may be black.
        """
        found = _by_line(arrays, "checksums", now, wanted.grouped)
        status = _by_line(arrays, "status", now, wanted.grouped)
        back: list[int | None] = [None] * len(now)
        for age in range(max(map(len, self.files.values()))):
            of_age = self.samples(wanted.raw, [age] * len(now))
            # Only what is good can be there still: what failed is tried again.
            usable = [
                age == 0
                or (s.pixels is not None and not s.broken and could_replace(s, now, wanted))
                for s in of_age
            ]
            tried = [s if ok else n for s, ok, n in zip(of_age, usable, now, strict=True)]
            then = expected(tried, wanted, now=now)
            sums = _by_line(then, "checksums", now, wanted.grouped)
            states = _by_line(then, "status", now, wanted.grouped)
            for line, ok in enumerate(usable):
                same = (found[line], status[line]) == (sums[line], states[line])
                if back[line] is None and ok and same:
                    back[line] = age
        for line, sample in enumerate(now):
            if back[line] is None and self._may_be_torn(sample.path, options):
                blank = expected([replace(sample, broken=True)], wanted)
                (zeros,) = _by_line(blank, "checksums", [sample], wanted.grouped)
                back[line] = -1 if found[line] == zeros else None
        unknown = [line for line, age in enumerate(back) if age is None]
        assert not unknown, (
            f"{len(unknown)} lines, {unknown[:9]} …: checksums of no version of their files"
        )
        return [age or 0 for age in back]

    def _verify(self, path: Path, *, sources: bool = False) -> VerifyReport:
        return verify(path, SerialComm(), sources=sources, root=self.folder)

    def _spoil(self, layout: str) -> None:
        """Change a copy of the file, and see that `verify` finds it."""
        dice = self.scenario.dice(f"spoil {self.n_published}")
        copy = self.folder / "out.h5.copy"
        shutil.copy(self.out, copy)
        told = dice.choice((change_pixel, change_pixel, change_other, flip_stored))(
            copy, layout, dice
        )
        try:
            if told is not None and self._verify(copy).ok:
                self.problems.append(f"verify found nothing wrong with {told}")
        except IngestError:
            pass
        except Exception as error:  # it ends, but not as documented
            self.problems.append(f"verify ended with {type(error).__name__} over {told}")
        copy.unlink()


HOW = ("direct_io", "readers", "checkpoint_s")
"""Options of scenarios that do not decide what is in the file."""


def _told(step: Step) -> str:
    return f"{step.ranks} ranks after {', '.join(step.edits) or 'no edits'} ({step.end or 'alone'})"


def _content(file: Path) -> str:
    return hashlib.sha1(file.read_bytes()).hexdigest() if file.exists() else ""


def _identity(file: Path) -> tuple[object, ...]:
    """What changes when a file is replaced or written."""
    if not file.exists():
        return ()
    status = file.stat()
    return status.st_ino, status.st_mtime_ns, _content(file)


def _by_line(arrays: dict[str, Any], name: str, now: Sequence[Sample], grouped: bool) -> list[int]:
    """A dataset of all groups in the order of the manifest."""
    if not grouped:
        return [int(value) for value in arrays[name]]
    rows: Counter[str] = Counter()
    found = []
    for sample in now:
        found.append(int(arrays[f"{group_path(sample.group)}/{name}"][rows[sample.group]]))
        rows[sample.group] += 1
    return found
