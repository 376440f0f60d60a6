#!/usr/bin/env bash
# Build the documentation into build/site, strictly, and look at every link in it.
# The sources of h5ingest are read, not imported, so this environment is small: wheels alone, in DOCS_VENV.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
venv=${DOCS_VENV:-.venv/docs}
export PIP_DISABLE_PIP_VERSION_CHECK=1 NO_MKDOCS_2_WARNING=1
stamp=$(cat "$0" constraints.txt | sha256sum)
if [[ $(cat "$venv/.stamp" 2>/dev/null) != "$stamp" ]]; then
  echo "docs: making $venv"
  mkdir -p "$(dirname "$venv")"
  "${PYTHON:-python3}" -m venv --clear "$venv"
  "$venv/bin/pip" install -q -c constraints.txt --only-binary=:all: mkdocs-material 'mkdocstrings[python]'
  printf '%s' "$stamp" >"$venv/.stamp"
fi
"$venv/bin/mkdocs" build --quiet --strict
"$venv/bin/python" scripts/check_site.py build/site
