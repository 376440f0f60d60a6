"""Write scikit-learn's 1,797 handwritten digits as 8x8 gray PNG files with a manifest."""

import argparse
import csv
from pathlib import Path

import imageio.v3 as iio
import numpy as np
from sklearn.datasets import load_digits


def write_digits(dest: Path) -> int:
    """Write DEST/<label>/<index>.png and DEST/manifest.csv; return the number of images.

    The manifest comes last, so that one that exists names only files that exist.
    """
    digits = load_digits()
    images = (digits.images.astype(np.uint16) * 255 // 16).astype(np.uint8)
    rows: list[tuple[str, int]] = []
    for index, (image, label) in enumerate(zip(images, digits.target.tolist(), strict=True)):
        path = Path(str(label), f"{index:04}.png")
        (dest / path.parent).mkdir(parents=True, exist_ok=True)
        iio.imwrite(dest / path, image)
        rows.append((path.as_posix(), label))
    with (dest / "manifest.csv").open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("path", "label"))
        writer.writerows(rows)
    return len(rows)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dest", type=Path, metavar="DEST", help="folder for the images")
    dest: Path = parser.parse_args().dest
    print(f"{write_digits(dest)} digits in {dest}")
