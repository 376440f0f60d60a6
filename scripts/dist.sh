#!/usr/bin/env bash
# Build the sdist and the wheel into build/dist, and try them in an empty virtual environment.
# Environment: PYTHON (default python3), for the empty environment.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export PIP_DISABLE_PIP_VERSION_CHECK=1
unset PYTHONPATH # nothing of this clone may be found
dist=build/dist venv=build/dist-venv try=build/dist-try

rm -rf "$dist" "$venv" "$try"
mkdir -p "$dist" "$try"
.venv/wheels/bin/hatchling build -d "$dist"
wheel=("$dist"/*.whl)
# The sdist is complete if the same wheel can be built from it alone.
.venv/wheels/bin/pip wheel -q --no-deps --no-build-isolation -w "$try" "$dist"/*.tar.gz
cmp "$try"/*.whl "${wheel[0]}"

"${PYTHON:-python3}" -m venv "$venv"
"$venv/bin/pip" install -q -c constraints.txt --only-binary=:all: "${wheel[0]}"
venv=$PWD/$venv
cd "$try"
"$venv/bin/h5ingest" --version
"$venv/bin/python" -c '
from PIL import Image
for value in (0, 255):
    Image.new("L", (8, 6), value).save(f"{value}.png")
'
printf '%s\n' 0.png 255.png >manifest.txt
"$venv/bin/h5ingest" manifest.txt out.h5
"$venv/bin/h5ingest" verify out.h5 --sources
"$venv/bin/python" -c '
from importlib.resources import files
from h5ingest import ImageStore
with ImageStore("out.h5") as store:
    images, _ = store[0:2]
    assert images.shape == (2, 6, 8)
    assert images.max((1, 2)).tolist() == [0, 255]
assert (files("h5ingest.bench") / "templates/storage.html").is_file()
'
echo "$dist is good: $(cd "$OLDPWD/$dist" && echo *)"
