"""`Advice`: what is known to go wrong with these libraries and file systems, and the remedy."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal

from h5ingest.core.units import MIB, size
from h5ingest.diagnostics.facts import Facts
from h5ingest.images import libpng
from h5ingest.storage.file_systems import Mount
from h5ingest.storage.lock_holder import HEARTBEAT_S

_LITTLE_SHARED_MEMORY: Final = 256 * MIB
_LONG_CACHE_S: Final = 5.0
_OTHER_CODEC: Final = "install hdf5plugin and imagecodecs again; until then another --compression"


@dataclass(frozen=True, slots=True, kw_only=True)
class Advice:
    """A known problem, and its remedy."""

    problem: str
    remedy: str
    fatal: bool = False
    """Whether nothing works until it is fixed."""
    said: Literal["if asked", "after an error", "always"] = "if asked"
    """When a run prints it: with -v; also after an error of the file system; or always."""
    of_mpi_io: bool = False
    """Whether it concerns only files written through MPI-IO."""


def advise(facts: Facts) -> list[Advice]:
    """Return all known problems that these facts imply, the fatal ones first."""
    found = [*_of_libraries(facts), *_of_filesystem(facts), *_of_combinations(facts)]
    return sorted(found, key=lambda advice: not advice.fatal)


def _of_libraries(facts: Facts) -> Iterable[Advice]:
    libraries = facts.libraries
    for error in libraries.errors:
        needed = not error.startswith(("mpi4py", "hdf5plugin"))
        yield Advice(
            problem=error,
            remedy="install it again (docs/install.md)" if needed
            else "needed for several ranks (mpi4py) or for most codecs (hdf5plugin) only",
            fatal=needed,
        )  # fmt: skip
    for codec, problems in libraries.tried.items():
        if problems:
            yield Advice(
                problem=f"the codec {codec} does not give images back: {'; '.join(problems)}",
                remedy=_OTHER_CODEC,
            )
    if libraries.trial_ended:
        yield Advice(
            problem=f"trying the codecs ended the process: {libraries.trial_ended}",
            remedy=_OTHER_CODEC,
        )
    if len(libraries.mpi_files) > 1:
        yield Advice(
            problem="h5py and mpi4py are linked to different MPI libraries: "
            + " and ".join(libraries.mpi_files),
            remedy="build both again with one MPI, with pip's --no-cache-dir (docs/install.md)",
            fatal=True,
            said="always",
        )
    if libraries.libpng and (unsafe := libpng.problem(facts.machine, libraries.libpng)):
        yield Advice(problem=f"{unsafe}: a run refuses palette images", remedy=libpng.REMEDY)
    if libraries.mpi and libraries.h5py and not libraries.parallel:
        yield Advice(
            problem="this h5py is not parallel (PyPI's never is)",
            remedy="several ranks work all the same, through h5ingest's own writer; with a "
            "parallel h5py uncompressed files are written through HDF5 (docs/install.md)",
        )
    shared = facts.shared_memory_bytes
    if shared is not None and shared < _LITTLE_SHARED_MEMORY:
        yield Advice(
            problem=f"/dev/shm has only {size(shared)}: many ranks on one host end with SIGBUS",
            remedy="docker run --shm-size=1g",
        )


def _of_filesystem(facts: Facts) -> Iterable[Advice]:
    place = facts.filesystem
    if place is None or place.mount is None:
        return
    mount = place.mount
    yield from _of_caches(facts, mount)
    if mount.kind == "nfs":
        yield Advice(
            problem="NFS mixes up what several hosts write to one file at the same time",
            remedy="write to the cluster's parallel file system and copy the file, or keep to one "
            "node (--nodes=1)",
            said="always" if facts.n_hosts > 1 else "after an error",
        )
    if mount.kind == "overlay":
        yield Advice(
            problem=f"{place.folder} is inside the container and is lost with it",
            remedy="bind a folder of the host, and write there (docker/README.md)",
        )
    if mount.kind in ("memory", "local") and facts.n_hosts > 1:
        yield Advice(
            problem=f"{place.folder} ({mount.name}) is on one host, but this job has "
            f"{facts.n_hosts}: the others cannot see it",
            remedy="write to a shared file system, or use one node (--nodes=1)",
            fatal=True,
            said="always",
        )
    if mount.kind == "memory":
        yield Advice(
            problem=f"{place.folder} is in memory: the file takes the job's memory, and is lost",
            remedy="write to a disk",
            said="after an error",
        )
    if mount.kind == "other" and (mount.type.startswith("fuse") or mount.type in ("9p", "cifs")):
        yield Advice(
            problem=f"{mount.type} is not known to keep what several processes write to one file",
            remedy="try with one rank, or write elsewhere; `h5ingest verify` checks the file",
            said="after an error",
        )
    if place.free_inodes == 0:
        yield Advice(
            problem="no inode is free: not even one file can be made",
            remedy="remove files, or ask for a larger quota",
            fatal=True,
            said="always",
        )
    if mount.type == "lustre" and re.search(r"stripe_count: *1\b", place.stripes):
        yield Advice(
            problem="one Lustre stripe: the whole file is on one storage target, at its speed",
            remedy=f"before the run: lfs setstripe -c 8 -S 4M {place.folder}",
        )
    if mount.type == "lustre" and not mount.options & {"flock", "localflock"}:
        yield Advice(
            problem="this Lustre is mounted without flock: HDF5 cannot lock files there",
            remedy="export HDF5_USE_FILE_LOCKING=FALSE (readers need it too)",
            said="after an error",
        )


def _of_caches(facts: Facts, mount: Mount) -> Iterable[Advice]:
    """Yield what hosts keep to themselves there: pages, attributes, locks."""
    several, options = facts.n_hosts > 1, mount.cache_options
    cached_s = mount.attribute_cache_s
    if mount.own_caches and mount.kind != "nfs":  # of NFS there is worse to be said
        yield Advice(
            problem=f"on {mount.name} each host has a cache of its own, and does not learn what "
            "others have written since",
            remedy="none needed: with several hosts each rank writes whole blocks of 4 KiB, and "
            "rank 0 reads around its cache. `h5ingest doctor OUT` on two hosts tries it",
        )
    if cached_s + 3 * HEARTBEAT_S > facts.peer_timeout_s:
        yield Advice(
            problem=f"hosts may see on this {mount.name} what was {cached_s:.0f} s ago (cached "
            f"attributes), and --peer-timeout is {facts.peer_timeout_s:.0f} s: a job that has lost "
            "its lock may notice that too late",
            remedy=f"--peer-timeout {cached_s + 6 * HEARTBEAT_S:.0f} or more, or mount it with a "
            f"shorter {'actimeo' if mount.kind == 'nfs' else 'attribute-timeout'}",
            said="always" if several else "if asked",
        )
    elif cached_s > _LONG_CACHE_S and mount.kind != "nfs":
        yield Advice(
            problem=f"attributes are cached for {cached_s:.0f} s: for so long another host may "
            "see a file as it was, or none",
            remedy="none needed for the job, which waits up to 10 s at its end for all hosts to "
            "see the file, and says so if one does not",
        )
    if options.get("kernel-writeback-cache", "no") not in ("no", "off", "0") or (
        "writeback_cache" in options
    ):
        yield Advice(
            problem=f"this {mount.name} is mounted with a write-back cache: each host takes its "
            "own sizes of files for the right ones",
            remedy="mount it without (kernel-writeback-cache=no), or keep to one host",
            said="always" if several else "if asked",
        )
    if mount.options & {"nolock", "localflock", "local_lock=all", "local_lock=flock"}:
        yield Advice(
            problem=f"on this {mount.name} locks of files hold on one host only",
            remedy="h5ingest does not rely on them; HDF5's do not keep programs on other hosts out",
        )


def _of_combinations(facts: Facts) -> Iterable[Advice]:
    libraries, place = facts.libraries, facts.filesystem
    type_ = place.mount.type if place and place.mount else ""
    kind = place.mount.kind if place and place.mount else ""
    io = facts.environment.get("OMPI_MCA_io", "")
    is_open_mpi = libraries.mpi_family == "open mpi"
    if not libraries.parallel:
        return  # nothing is written through MPI-IO
    if is_open_mpi and libraries.mpi_version < (5,) and type_ == "lustre" and "romio" not in io:
        yield Advice(
            problem="Open MPI 4 writes through OMPIO, which was seen to hang on Lustre "
            "(open-mpi/ompi issues 9479, 11182)",
            remedy="export OMPI_MCA_io=romio321 (`ompi_info | grep 'MCA io'` has the name)",
            said="always",
            of_mpi_io=True,
        )
    sync = facts.environment.get("HDF5_DO_MPI_FILE_SYNC", "").upper()
    if (
        kind == "nfs"
        and libraries.hdf5_version >= (1, 13, 2)
        and (libraries.mpi_family == "mpich" or "romio" in io)
        and sync not in ("0", "FALSE")
    ):
        yield Advice(
            problem=f"HDF5 {libraries.hdf5} refuses to write through ROMIO to NFS: 'MPI_File_sync "
            "is required by ROMIO driver' (h5py/h5py issue 2330)",
            remedy="export HDF5_DO_MPI_FILE_SYNC=0, and keep to one node",
            said="always",
            of_mpi_io=True,
        )


def describe_advice(advice: Iterable[Advice]) -> str:
    """Return one paragraph for each; empty if there is none."""
    return "\n".join(
        f"{'PROBLEM' if one.fatal else 'warning'}: {one.problem}\n  remedy: {one.remedy}"
        for one in advice
    )
