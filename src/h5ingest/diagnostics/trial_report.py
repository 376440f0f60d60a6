"""What a trial on two hosts means, in words: `h5ingest doctor OUT` under mpirun prints it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from h5ingest.diagnostics.advice import Advice, describe_advice
from h5ingest.diagnostics.doctor import table
from h5ingest.diagnostics.host_blocks import N_BLOCKS
from h5ingest.diagnostics.host_pair import LONGEST_S
from h5ingest.diagnostics.host_trial import Trial

RULE: Final = (
    "with several hosts a rank writes whole blocks of 4 KiB, what fills a block in part is written "
    "by rank 0, and rank 0 reads around its cache what others wrote"
)
"""What h5ingest keeps to."""
_PAST_CACHE: Final = ("O_DIRECT", "cache dropped")
"""Ways of reading that show what is stored, the surest first."""
_CLOCKS_S: Final = 5.0
"""Difference of clocks that is worth a word."""


def describe_trial(trial: Trial) -> str:
    """Return what was seen, a line for each thing."""
    if not trial.shared:
        return table([("tried by", " and ".join(trial.hosts)), ("seen", "nothing of each other")])
    locks = ", ".join(
        f"{kind}: {'keeps the other out' if kept else 'does not keep the other out'}"
        for kind, kept in trial.locks.items()
    )
    return table(
        [
            ("tried by", f"{' and '.join(trial.hosts)}, in a folder that is removed again"),
            ("shared blocks", _reads(trial.wrong_parts, N_BLOCKS)),
            ("whole blocks", _reads(trial.wrong_neighbours, 2 * N_BLOCKS)),
            ("new names", f"O_EXCL: {_names(trial.exclusive)}; links: {_names(trial.linked)}"),
            ("replaced name", f"missing in {trial.looks[1]:,} of {trial.looks[0]:,} looks"),
            ("seen after", f"new name: {_delay(trial.rename_s)}, size: {_delay(trial.size_s)}"),
            ("clocks", f"apart by {abs(trial.clocks_s):.2f} s, dates of files by "
             f"{abs(trial.dates_s):.2f} s"),
            ("locks", locks),
            ("speed", f"fsync {trial.fsync_s * 1e3:.1f} ms; files made {trial.made_per_s:,.0f}/s, "
             f"opened {trial.opened_per_s:,.0f}/s; written {trial.written_per_s / 1e6:,.0f} MB/s"),
            *(("refused", text) for text in trial.refused),
        ]
    )  # fmt: skip


def judge(trial: Trial) -> Iterator[Advice]:
    """Yield what was seen that users should know, with the remedy."""
    one, other = trial.hosts
    if not trial.shared:
        yield Advice(
            problem=f"what {one} makes in this folder, {other} does not see in {LONGEST_S:.0f} s",
            remedy="write to a file system that all hosts share, or use one host",
            fatal=True,
        )
        return
    lost = _stored_wrong(trial.wrong_neighbours)
    if lost:
        yield Advice(
            problem="whole blocks that two hosts wrote side by side are not what they wrote",
            remedy="no writer is safe here over several hosts: use one host (--nodes=1), or write "
            "elsewhere",
            fatal=True,
        )
    if _stored_wrong(trial.wrong_parts):
        yield Advice(
            problem="bytes are lost where two hosts write into one block of 4 KiB",
            remedy=f"nothing for h5ingest's own writer: {RULE}. HDF5's MPI-IO driver is not safe "
            "here over several hosts",
        )
    elif not lost and (trial.wrong_parts.get("read") or trial.wrong_neighbours.get("read")):
        yield Advice(
            problem="a host goes on reading its own copy of a block that another has written since",
            remedy=f"nothing for h5ingest: {RULE}. Other programs: read on a host that did not "
            "write, or after a while",
        )
    for how, (n_tried, n_wrong) in (("O_EXCL", trial.exclusive), ("hard links", trial.linked)):
        if n_wrong:
            yield Advice(
                problem=f"{n_wrong} of {n_tried} names ({how}) were made by both hosts, or by none",
                remedy="the lock cannot be relied on: let no two jobs make one output",
                fatal=True,
            )
    if trial.looks[1]:
        yield Advice(
            problem=f"a name was missing in {trial.looks[1]} of {trial.looks[0]} looks while "
            "another file took it over",
            remedy="h5ingest looks twice at its lock; a job may still end with 'lost the output': "
            "start it again",
        )
    if None in (trial.rename_s, trial.size_s):
        yield Advice(
            problem=f"{other} sees a new name or size more than {LONGEST_S:.0f} s late",
            remedy="the job waits at its end for up to 10 s until all hosts see the file, and says "
            "so if one does not; --peer-timeout has to be far more than that delay",
        )
    if max(abs(trial.clocks_s), abs(trial.dates_s)) > _CLOCKS_S:
        yield Advice(
            problem=f"the clocks of {one} and {other} are {abs(trial.clocks_s):.0f} s apart, the "
            f"dates of their files {abs(trial.dates_s):.0f} s",
            remedy="set the clocks (NTP). h5ingest watches a lock before it takes it over, and "
            "does not believe its date alone",
        )
    if not all(trial.locks.values()):
        yield Advice(
            problem="locks of files hold on one host only",
            remedy="h5ingest does not rely on them. HDF5's do not keep programs on other hosts out",
        )


def conclusion(trial: Trial) -> str:
    """Return which writer is safe here, in a sentence."""
    one, other = trial.hosts
    if one == other:
        return (
            f"All ranks are on {one}: one kernel with one cache. Of several hosts this says "
            "nothing: start it with a rank on each of two (srun --nodes=2, mpirun -hosts)."
        )
    if any(advice.fatal for advice in judge(trial)):
        return "Not safe over several hosts: see PROBLEM."
    if not trial.wrong_neighbours:
        return "Whether blocks are safe over several hosts could not be tried: see refused."
    mpi_io = "not safe" if _stored_wrong(trial.wrong_parts) else "safe"
    if mpi_io == "safe" and trial.wrong_parts.get("read"):
        mpi_io = "not to be relied on (a host reads its own copies)"
    return f"Over several hosts h5ingest's own writer is safe here; HDF5's MPI-IO driver: {mpi_io}."


def print_trial(trial: Trial) -> bool:
    """Print all of it; return whether nothing can work here. Not collective."""
    found = list(judge(trial))
    parts = ["", describe_trial(trial), "", describe_advice(found), conclusion(trial)]
    print("\n".join(parts[:3] + [part for part in parts[3:] if part]), flush=True)
    return any(advice.fatal for advice in found)


def _stored_wrong(wrong: dict[str, int]) -> bool:
    """Return whether what is stored is not what was written, as far as it can be read."""
    found = [wrong[way] for way in _PAST_CACHE if way in wrong]
    return bool(found and min(found))


def _reads(wrong: dict[str, int], n_blocks: int) -> str:
    told = ", ".join(f"{way}: {n}" for way, n in wrong.items())
    return f"{n_blocks} written by the two; wrong when {told}" if told else "not tried"


def _names(race: tuple[int, int]) -> str:
    n_tried, n_wrong = race
    return f"{n_tried - n_wrong} of {n_tried} made by one host alone" if n_tried else "not tried"


def _delay(seconds: float | None) -> str:
    return f"more than {LONGEST_S:.0f} s" if seconds is None else f"{seconds:.2f} s"
