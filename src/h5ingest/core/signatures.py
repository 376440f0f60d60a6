"""What the first bytes of a file tell of its format: those that are read, and those that are not.

One list for all: what `h5ingest manifest` finds is what an ingest reads. May not: read files.
"""

from __future__ import annotations

import re
from typing import Final

_READ: Final = re.compile(
    rb"(?P<PNG>\x89PNG\r\n\x1a\n)"
    rb"|(?P<JPEG>\xff\xd8\xff)"
    rb"|(?P<GIF>GIF8[79]a)"
    rb"|(?P<TIFF>II[*+]\0|MM\0[*+])"  # +: BigTIFF
    rb"|(?P<WebP>RIFF.{4}WEBP)"
    # Two letters are little: a header has one of these lengths, and one plane.
    rb"|(?P<BMP>BM.{12}(?:\x0c\0{3}.{4}|[\x28\x34\x38\x40\x6c\x7c]\0{3}.{8})\x01\0)"
    rb"|(?P<JPEG_2000>\0{3}\x0cjP  |\xff\x4f\xff\x51)"
    rb"|(?P<AVIF>.{4}ftyp(?:avi[fs]|m[is]f1.{4}(?:.{4}){0,3}avi[fs]))"
    rb"|(?P<PNM>P[1-6]\s+[0-9#])"
    rb"|(?P<QOI>qoif)"
    rb"|(?P<JPEG_XL>\xff\x0a|\0{3}\x0cJXL )",
    re.DOTALL,
)
READ: Final = tuple(name.replace("_", " ") for name in _READ.groupindex)
"""Names of the formats that are read."""
_OTHERS: Final = (
    (rb"8BPS", "a Photoshop document (PSD)"),
    (rb"\0\0\x01\0[^\0]\0", "an icon (ICO)"),
    (rb"\0\0\x02\0[^\0]\0", "a cursor (CUR)"),
    (rb"icns", "an icon (ICNS)"),
    (rb".{4}ftyp(?:hei|hev|m[is]f1)", "a HEIF image (HEIC)"),
    (rb"II\xbc", "a JPEG XR image"),
    (rb"DDS ", "a DirectDraw surface (DDS)"),
    (rb"v/1\x01", "an OpenEXR image"),
    (rb"#\?R(?:ADIANCE|GBE)", "a Radiance HDR image"),
    (rb"SIMPLE  =", "a FITS file"),
    (rb".{128}DICM", "a DICOM file"),
    (rb"\x01\xda[\0\x01][\x01\x02]", "an SGI image"),
    (rb"\x59\xa6\x6a\x95", "a Sun raster image"),
    (rb"\x0a[\0-\x05]\x01[\x01\x02\x04\x08]", "a PCX image"),
    (rb"gimp xcf", "a GIMP image (XCF)"),
    (rb"P7\n", "a PAM image"),
    (rb"P[Ff]\s", "a PFM image of floats"),
    (rb"\x8aMNG|\x8bJNG", "an MNG or JNG file"),
    (rb"FLIF", "a FLIF image"),
    (rb"BPG\xfb", "a BPG image"),
    (rb"FORM.{4}(?:ILBM|PBM )", "an Amiga image (IFF)"),
    (rb"\xd7\xcd\xc6\x9a|\x01\0{3}.{36} EMF", "a Windows metafile"),
    (rb"%!PS|\xc5\xd0\xd3\xc6", "a PostScript file"),
    (rb"%PDF", "a PDF document"),
    (rb"/\* XPM|#define [^\n]*_width ", "an X11 pixmap or bitmap"),
    (rb"\s*(?:<\?xml[^>]*>\s*)?(?:<!--.*?-->\s*)*<svg[\s>]", "an SVG drawing"),
    (rb"\x93NUMPY", "a NumPy array"),
    (rb"\x89HDF\r\n\x1a\n", "an HDF5 file"),
    (rb"PK\x03\x04|\x1f\x8b|BZh|\xfd7zXZ|7z\xbc\xaf", "an archive or a compressed file"),
)  # fmt: skip


def format_of(head: bytes) -> str | None:
    r"""Return the name of the image format that a file with these first bytes has, if it is read.

    >>> format_of(b"\xff\xd8\xff\xe0\x00\x10JFIF"), format_of(b"<html>")
    ('JPEG', None)
    """
    match = _READ.match(head)
    return match.lastgroup.replace("_", " ") if match and match.lastgroup else None


def other_format_of(head: bytes) -> str | None:
    """Return what a file is that is not read, in words, if its first bytes tell.

    >>> other_format_of(b"8BPS" + bytes(28))
    'a Photoshop document (PSD)'
    """
    head = head[:1024]
    return next((name for form, name in _OTHERS if re.match(form, head, re.DOTALL)), None)
