#!/usr/bin/env bash
# Measure what docs/benchmarks.md shows, and draw its pictures anew, with the numbers beside them.
#
#   scripts/benchmark_pictures.sh H5INGEST MNIST.csv KODAK.csv [LARGEST [RUNS]]
#
# H5INGEST is the command of an environment with the extras bench and torch. The manifests are those
# of MNIST's 60,000 training images and of Kodak's 24 photographs. LARGEST, 10,000 unless it is given,
# is the largest number of images that are stored (six times as many are read), and RUNS (3) how
# often. Takes about ten minutes on two quiet cores. What was measured, and the load meanwhile, is in
# build/benchmarks/*/results.json: copy it into the page's tables and its paragraph on the machine.
set -euo pipefail
h5ingest=$(realpath -s "$1") mnist=$(realpath "$2") kodak=$(realpath "$3") largest=${4:-10000} runs=${5:-3}
cd "$(dirname "$0")/.."
out=build/benchmarks
mkdir -p "$out"
cutoffs=10,100,1000
((largest > 1000)) && cutoffs+=",$largest"
"$h5ingest" bench storage "$mnist" --cutoffs "$cutoffs" --runs "$runs" --out "$out/mnist-storage"
"$h5ingest" bench read "$mnist" --images "$((6 * largest))" --runs "$runs" --out "$out/mnist-read"
"$h5ingest" bench storage "$kodak" --cutoffs 24 --runs "$runs" --out "$out/kodak-storage"
"$h5ingest" bench read "$kodak" --runs "$runs" --out "$out/kodak-read"
for picture in store read one disk; do
  cp "$out/mnist-storage/$picture.png" "docs/images/mnist-$picture.png"
done
cp "$out/kodak-storage/disk.png" docs/images/kodak-disk.png
cp "$out/mnist-read/read.png" docs/images/mnist-rates.png
cp "$out/kodak-read/read.png" docs/images/kodak-rates.png
