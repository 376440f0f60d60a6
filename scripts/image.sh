#!/usr/bin/env bash
# Build the container image and test it, with Docker, with Podman, or where no daemon and no systemd
# is (in CI, in another container) with buildah and podman as root.
#   scripts/image.sh build    docker/Dockerfile into the image h5ingest
#   scripts/image.sh test     run its smoke test, with its own MPI and, if .venv/wheels is there, with
#                             the MPICH of that as an MPI of the host
#   scripts/image.sh run ...  run a command in it; options of `docker run` may come before `--`
# Environment: H5INGEST_CONTAINER (docker, podman or daemonless; default: the first that works),
# H5INGEST_BUILD_ARGS (more options for `build`), H5INGEST_CACHE (daemonless: 3 GB of storage).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

die() { echo "image: $*" >&2; exit 1; }

choose() {
  if docker info >/dev/null 2>&1; then
    echo docker
  elif podman run --rm --help >/dev/null 2>&1 && systemctl is-system-running >/dev/null 2>&1; then
    echo podman
  elif ((EUID == 0)) && scripts/packages.sh buildah podman crun mmdebstrap >&2; then
    echo daemonless
  else
    die "neither docker nor podman works here, nor, as root on Debian, buildah with podman"
  fi
}
how=${H5INGEST_CONTAINER:-$(choose)}
storage=${H5INGEST_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/h5ingest}/containers
own=(--root "$storage/root" --runroot "$storage/run" --storage-driver overlay)
read -ra build_args <<<"${H5INGEST_BUILD_ARGS:-}"

# The image that the Dockerfile starts from, made from Debian's packages if no registry can be reached.
base() {
  podman "${own[@]}" image exists docker.io/library/debian:trixie-slim && return
  podman "${own[@]}" pull -q docker.io/library/debian:trixie-slim && return
  command -v mmdebstrap >/dev/null || die "no registry can be reached, and mmdebstrap is not installed"
  echo "image: no registry can be reached: making debian:trixie-slim with mmdebstrap"
  local tar=$storage/base.tar certificates=/usr/local/share/ca-certificates
  # What the machine trusts, the image must trust too, or its packages cannot be fetched.
  mmdebstrap -q --variant=minbase --mode=root --aptopt='Apt::Install-Recommends "false"' \
    --aptopt='Acquire::Check-Valid-Until "false"' --aptopt='Acquire::Check-Date "false"' \
    --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
    --customize-hook="mkdir -p \"\$1$certificates\" && cp $certificates/*.crt \"\$1$certificates/\" || true" \
    trixie "$tar"
  podman "${own[@]}" import -q -c 'CMD ["bash"]' "$tar" docker.io/library/debian:trixie-slim
  rm "$tar"
}

build() {
  case $how in
    docker | podman) "$how" build "${build_args[@]}" -f docker/Dockerfile -t h5ingest . ;;
    daemonless)
      mkdir -p "$storage"
      base
      buildah "${own[@]}" bud --isolation=chroot --pull-never --layers "${build_args[@]}" \
        -t h5ingest -f docker/Dockerfile . ;;
  esac
}

run() {
  local options=(--rm --shm-size=1g)
  while (($#)) && [[ $1 != -- ]]; do
    options+=("$1")
    shift
  done
  shift
  case $how in
    docker | podman) "$how" run "${options[@]}" h5ingest "$@" ;;
    daemonless) # without systemd there is no cgroup to make, and limits cannot be raised
      # shellcheck disable=SC2016  # the inner shell expands it
      unshare -m sh -c 'umount /sys/fs/cgroup/unified 2>/dev/null; exec "$@"' sh \
        podman "${own[@]}" run --network=none --cgroups=disabled \
        --ulimit nofile=1024:1024 --ulimit nproc=4096:4096 "${options[@]}" h5ingest "$@" ;;
  esac
}

smoke() {
  run -- h5ingest-smoke-test 4
  if [[ -e .venv/wheels/lib/libmpi.so.12 ]]; then
    echo "again, with another MPICH as the host's MPI:"
    # shellcheck disable=SC2016  # the shell in the image expands it
    run -v "$PWD/.venv/wheels:/host:ro" -v "$PWD/.venv/wheels/lib:/host-mpi:ro" \
      -e LD_LIBRARY_PATH=/opt/h5ingest/mpich-abi:/host-mpi:/host-mpi/mpich -- \
      bash -c 'PATH=$PATH:/host/bin h5ingest-smoke-test 4 mpiexec.hydra'
  fi
}

case ${1:-} in
  build) build ;;
  test) smoke ;;
  run) run "${@:2}" ;;
  *) die "usage: scripts/image.sh build | test | run [OPTIONS] -- COMMAND..." ;;
esac
