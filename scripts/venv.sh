#!/usr/bin/env bash
# Make or update .venv/FLAVOUR in this clone:
#   mpich, openmpi  h5py compiled against Debian's parallel HDF5 for that MPI, with the dev extra
#                   (and in mpich, where all tests run, the torch extra)
#   wheels          PyPI wheels only (serial h5py, MPICH from PyPI): no root, no compiler
# What has no wheel is compiled here (mpi4py, h5py) or named below (without_wheel); anything else without
# one fails on every machine alike, instead of only where pip's cache is empty.
# Environment: PYTHON (default python3), H5INGEST_CACHE (compiled wheels, shared by all clones).
set -euo pipefail

flavour=${1:-}
case $flavour in
  mpich)
    packages=(gcc libc6-dev hdf5-tools mpich libmpich-dev libhdf5-mpich-dev)
    # For the test of a page; elsewhere the package is called otherwise or is none, and it is skipped.
    if [[ $(sed -n 's/^ID=//p' /etc/os-release 2>/dev/null) == debian ]]; then
      packages+=(chromium)
    fi
    mpirun=(mpirun.mpich) ;;
  openmpi)
    packages=(gcc libc6-dev hdf5-tools openmpi-bin libopenmpi-dev libhdf5-openmpi-dev)
    mpirun=(mpirun.openmpi --oversubscribe) # it refuses more ranks than cores otherwise
    if ((EUID == 0)); then                  # and it refuses root without both of these
      export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
    fi ;;
  wheels)
    packages=()
    mpirun=(.venv/wheels/bin/mpirun) ;;
  *)
    echo "usage: scripts/venv.sh mpich|openmpi|wheels" >&2
    exit 2 ;;
esac

cd "$(dirname "${BASH_SOURCE[0]}")/.."
venv=.venv/$flavour
log=.venv/$flavour.log
cache=${H5INGEST_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/h5ingest}
python=${PYTHON:-python3}
export PIP_DISABLE_PIP_VERSION_CHECK=1

say() { printf 'venv %s: %s\n' "$flavour" "$*"; }
die() { say "$@" >&2; exit 1; }

# run MESSAGE COMMAND...: one line on the terminal, the output in the log.
run() {
  say "$1"
  shift
  printf '\n$ %s\n' "$*" >>"$log"
  if ! "$@" >>"$log" 2>&1; then
    tail -n 30 "$log" >&2
    die "failed; the whole log is $PWD/$log"
  fi
}

# lock FILE: wait for any other run that holds it; given back when this shell ends.
lock() {
  local fd
  command -v flock >/dev/null || return 0
  exec {fd}>"$1"
  flock "$fd"
}

# two_ranks PYTHON CODE [ARGUMENT]: run CODE on two ranks. A rank may outlive TERM in MPI, hence -k.
two_ranks() { timeout -k 5 60 "${mpirun[@]}" -n 2 "$1" -c "${@:2}"; }

pinned() { sed -n "s/^$1==//p" constraints.txt; }

only_wheels=(-q -c constraints.txt --only-binary=:all:)

missing_packages() {
  local package
  for package in "${packages[@]}"; do
    [[ $(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null) == installed ]] || echo "$package"
  done
}

install_packages() ( # a subshell, so that the lock is given back here
  sudo=()
  if ! { command -v apt-get && command -v dpkg-query; } >/dev/null; then
    die "this is not Debian or Ubuntu. Wanted: a C compiler, $flavour, and HDF5 built with it, where" \
      "Debian's packages (${packages[*]}) put them. 'scripts/venv.sh wheels' needs none of these."
  fi
  [[ -n $(missing_packages) ]] || return 0
  lock "$cache/apt.lock" # apt-get update does not wait for another one
  mapfile -t missing < <(missing_packages)
  ((${#missing[@]})) || return 0
  if ((EUID != 0)); then
    if command -v sudo >/dev/null && { sudo -n true 2>/dev/null || [[ -t 0 ]]; }; then
      sudo=(sudo)
    else
      die "Debian packages are missing. Ask an administrator to run:" \
        "apt-get update && apt-get install ${missing[*]}"
    fi
  fi
  run "installing ${missing[*]}" "${sudo[@]}" sh -c '
    export DEBIAN_FRONTEND=noninteractive
    apt-get -q update
    apt-get -qy -o DPkg::Lock::Timeout=600 install --no-install-recommends "$@"' apt "${missing[@]}"
)

# The wheels that must be compiled for this MPI, into $wheels.
build_wheels() ( # a subshell, for the lock, the trap and CFLAGS
  lock "$wheels.lock"
  [[ ! -d $wheels ]] || return 0
  tmp=$wheels.tmp
  rm -rf "$tmp" # of a build that was killed
  trap 'rm -rf "$tmp"' EXIT
  prefix=/usr/lib/$(gcc -print-multiarch)/hdf5/$flavour
  # No build isolation: h5py would compile an old mpi4py first, which takes gcc over 20 GB.
  # No pip cache: its key knows no MPI, so it would hand out the h5py of the other flavour.
  pip=("$tmp/venv/bin/pip" wheel --no-cache-dir --no-build-isolation --no-deps -w "$tmp/wheels")
  mkdir -p "$tmp/wheels"
  # The hot loops are in the C libraries; -O3 -g, Python's default, would double the time.
  export CFLAGS=${CFLAGS:--O2 -g0}

  run "preparing to build, once for all clones" "$python" -m venv "$tmp/venv"
  run "  build tools" "$tmp/venv/bin/pip" install "${only_wheels[@]}" \
    cython numpy mpi4py pkgconfig setuptools wheel
  # A wheel that took another MPI, or none, runs as two worlds of one rank.
  if ! two_ranks "$tmp/venv/bin/python" \
    'from mpi4py import MPI; assert MPI.COMM_WORLD.size == 2' >>"$log" 2>&1; then
    run "  compiling mpi4py (about 1 min)" env MPI4PY_BUILD_MPICC="mpicc.$flavour" \
      "${pip[@]}" --no-binary=mpi4py "mpi4py==$(pinned mpi4py)"
    run "  installing mpi4py" "$tmp/venv/bin/pip" install -q --force-reinstall --no-deps "$tmp/wheels"/mpi4py-*.whl
  fi
  run "  compiling h5py (about 1 min)" env CC="mpicc.$flavour" HDF5_MPI=ON HDF5_DIR="$prefix" \
    "${pip[@]}" --no-binary=h5py "h5py==$(pinned h5py)"
  # A rename: an interrupted build leaves no half of the wheels.
  mv -T "$tmp/wheels" "$wheels"
)

mkdir -p .venv "$cache/wheels"
lock ".venv/$flavour.lock"

about=$("$python" - <<'EOF'
import sys, sysconfig
from importlib.util import find_spec
from pathlib import Path
if sys.version_info >= (3, 11):
    venv = "venv" if find_spec("ensurepip") and find_spec("venv") else "no-venv"
    dev = "dev" if Path(sysconfig.get_path("include"), "Python.h").exists() else "no-dev"
    print(sys.implementation.cache_tag, "python%d.%d" % sys.version_info[:2], venv, dev, sys.base_prefix)
EOF
) || die "cannot run '$python'; set PYTHON to a Python 3.11 or later"
[[ -n $about ]] || die "'$python' is older than Python 3.11; set PYTHON to a later one"
read -r tag version has_venv has_dev base <<<"$about"
if [[ $flavour == wheels ]]; then
  [[ $has_venv == venv ]] || die "'$python' cannot make virtual environments; on Debian: apt-get install $version-venv"
  key=$tag-$(uname -m)
else
  # A distribution's Python comes in parts; any other one is complete or beyond our help.
  [[ $has_venv == venv ]] || packages+=("$version-venv")
  [[ $has_dev == dev ]] || packages+=("$version-dev")
  install_packages
  numpy=$(pinned numpy)
  key=$tag-$(uname -m)-$flavour-$(dpkg-query -W -f='${Version}' "${packages[3]}")
  key+=-hdf5-$(dpkg-query -W -f='${Version}' "${packages[5]}")
  key+=-mpi4py-$(pinned mpi4py)-h5py-$(pinned h5py)-numpy-${numpy%.*}
fi
wheels=$cache/wheels/$key

# The first line decides whether the folder can be kept, the second whether anything is to be done.
stamp="$key $base $PWD"$'\n'$(cat "$0" pyproject.toml constraints.txt | sha256sum)
done_already() { [[ -x $venv/bin/h5ingest && $(cat "$venv/.stamp" 2>/dev/null) == "$stamp" ]]; }
if done_already; then
  say "up to date"
  exit 0
fi

: >"$log"
compiled=()
if [[ $flavour == wheels ]]; then
  extras=demo,test
  without_wheel=()
else
  extras=dev
  [[ $flavour == openmpi ]] || extras+=,ecosystem,torch # large, and the same on both
  without_wheel=(jsonpath-rw) # wanted by mlcroissant; pure Python
  [[ -d $wheels ]] || build_wheels
  compiled=("$wheels"/*.whl)
fi

if [[ $(head -n 1 "$venv/.stamp" 2>/dev/null) != "${stamp%%$'\n'*}" ]]; then
  run "making $venv" "$python" -m venv --clear "$venv"
fi
rm -f "$venv/.stamp"
run "installing the build backend" "$venv/bin/pip" install "${only_wheels[@]}" hatchling
for package in "${without_wheel[@]}"; do # in isolation, by the setuptools of constraints.txt
  run "building $package" env PIP_USE_PEP517=1 PIP_CONSTRAINT=constraints.txt \
    PIP_BUILD_CONSTRAINT=constraints.txt "$venv/bin/pip" install "${only_wheels[@]}" \
    --no-binary="$package" --no-deps "$package"
done
run "installing h5ingest[$extras]" "$venv/bin/pip" install "${only_wheels[@]}" \
  --no-build-isolation "${compiled[@]}" -e ".[$extras]"

run "checking two ranks" two_ranks "$venv/bin/python" '
import sys, tempfile, h5py
from mpi4py import MPI
comm = MPI.COMM_WORLD
assert comm.size == 2, "mpi4py does not see the ranks of mpirun"
if sys.argv[1] != "wheels":
    assert h5py.get_config().mpi, "h5py is serial"
    path = comm.bcast(tempfile.mktemp(".h5") if comm.rank == 0 else None)
    with h5py.File(path, "w", driver="mpio", comm=comm) as f:
        f.create_dataset("rank", (2,), "i4")[comm.rank] = comm.rank + 1
    with h5py.File(path) as f:
        assert f["rank"][:].tolist() == [1, 2], f["rank"][:]
    comm.Barrier()
    if comm.rank == 0:
        import os
        os.remove(path)
' "$flavour"
printf '%s' "$stamp" >"$venv/.stamp"
say "ready"
