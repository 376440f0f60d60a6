"""The image files as they are, in LMDB. Prints the seconds of work.

python lmdb_encoded.py MANIFEST OUT.lmdb
"""

import sys
import time
from pathlib import Path

import lmdb

manifest, out = sys.argv[1:]
started_s = time.perf_counter()
with lmdb.open(out, map_size=1 << 40, subdir=False) as database, database.begin(write=True) as rows:
    for row, path in enumerate(Path(manifest).read_text().splitlines()):
        with open(path, "rb") as file:
            rows.put(row.to_bytes(8, "big"), file.read(), append=True)
print(time.perf_counter() - started_s)
