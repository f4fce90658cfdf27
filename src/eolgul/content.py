"""Say what bytes are that are not what was expected: a page of a website, a pointer, an archive, another format.

Downloads fail without an error: a login page, a git-lfs pointer or a storage's error text takes the place of the file.
The signatures are those of the formats' specifications; the data is only compared, never decoded or unpacked.
"""

from __future__ import annotations

import re
from pathlib import Path

LOOKED_AT = 4096
"""The bytes at the beginning of a file that `describe_content` needs."""

_PREFIXES: tuple[tuple[bytes, str], ...] = (
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"\x89PNG\r\n\x1a\n", "a PNG image"),
    (b"GIF87a", "a GIF image"),
    (b"GIF89a", "a GIF image"),
    (b"II*\0", "a TIFF image"),
    (b"MM\0*", "a TIFF image"),
    (b"II+\0", "a BigTIFF image"),
    (b"MM\0+", "a BigTIFF image"),
    (b"8BPS", "a Photoshop document"),
    (b"\0\0\x01\0", "an icon (.ico)"),
    (b"\0\0\0\x0cjP  \r\n\x87\n", "a JPEG 2000 image"),
    (b"\xff\x4f\xff\x51", "a JPEG 2000 codestream"),
    (b"\0\0\0\x0cJXL \r\n\x87\n", "a JPEG XL image"),
    (b"\xff\x0a", "a JPEG XL codestream"),
    (b"\x0a\x23\xd7\xce", "RecordIO"),
    (b"blpk", "a bcolz chunk"),
    (b"\x93NUMPY", "a NumPy array (.npy)"),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file"),
    (b"PAR1", "a Parquet file"),
    (b"ARROW1", "an Arrow file"),
    (b"SQLite format 3\0", "an SQLite database"),
    (b"MATLAB 5.0 MAT-file", "a MATLAB file"),
    (b"\x1f\x8b", "a gzip file"),
    (b"BZh", "a bzip2 file"),
    (b"\xfd7zXZ\0", "an xz file"),
    (b"\x28\xb5\x2f\xfd", "a Zstandard file"),
    (b"\x04\x22\x4d\x18", "an LZ4 file"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (b"Rar!\x1a\x07", "a RAR archive"),
    (b"alz\x01", "an ALZip archive"),
    (b"EGGA", "an ALZip archive"),
    (b"PK\x05\x06", "an empty zip archive"),
    (b"%PDF-", "a PDF document"),
    (b"%!PS", "a PostScript document"),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an Office document"),
    (b"\0\x05\x16\x07", "a macOS AppleDouble file (attributes of another file)"),
    (b"\x7fELF", "a program"),
    (b"\x1aE\xdf\xa3", "a Matroska or WebM video"),
)
_BOXES = {  # the brand after "ftyp" in an ISO base media file
    b"avif": "an AVIF image",
    b"avis": "an AVIF image",
    b"heic": "an HEIC image",
    b"heix": "an HEIC image",
    b"hevc": "an HEIC image",
    b"mif1": "an HEIF image",
    b"msf1": "an HEIF image",
}
_ERROR_CODE = re.compile(rb"<Code>([A-Za-z]{1,40})</Code>")
_BEGINS_HTML = re.compile(
    rb"(?:\s|<!--.*?-->)*<(?:!doctype\s+html|html|head|body|script|title|meta|iframe|h1|p)\b", re.S
)
_POINTERS: tuple[tuple[re.Pattern[bytes], str], ...] = (
    (
        re.compile(rb"version https?://(?:git-lfs\.github\.com|hawser\.github\.com|git-media\.io)/spec/"),
        "a git-lfs pointer (`git lfs pull` gets the file itself)",
    ),
    (re.compile(rb"/annex/objects/"), "a git-annex pointer (`git annex get` gets the file itself)"),
    (re.compile(rb"outs:\s*\n- (?:md5|etag|hash|size|path):"), "a DVC pointer (`dvc pull` gets the file itself)"),
)
_JSON = re.compile(rb"\{\s*(?:\"|\})|\[\s*(?:[\[{\"\]]|-?\d)")
_SAFETENSORS = re.compile(rb".{7}\0\{[\s\"]", re.S)  # the length of the header, which is JSON


def describe_content(data: bytes) -> str | None:
    """What the data is, as a noun phrase such as "an HTML page" or "a git-lfs pointer (…)".

    Args:
        data: The bytes of a file, or its first `LOOKED_AT`.

    Returns:
        The phrase; None for plain text and for what no known signature fits.
    """
    head = data[:LOOKED_AT]
    if not head:
        return "an empty file"
    if not head.strip(b"\0"):
        return "nothing but zero bytes (an interrupted copy)"
    return _text(head) or _binary(head)


def describe_file(path: Path) -> str | None:
    """As `describe_content`, for the beginning of a file; None too when it cannot be read."""
    try:
        with path.open("rb") as file:
            return describe_content(file.read(LOOKED_AT))
    except OSError:
        return None


def _text(head: bytes) -> str | None:
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    for pattern, phrase in _POINTERS:
        if pattern.match(text):
            return phrase
    if text[:2].lower() in (b"<!", b"<?") or text[:1] == b"<":
        return _markup(text)
    if _JSON.match(text) and _is_text(text):
        return "JSON text"
    if text.startswith(b"HTTP/1."):
        return "an HTTP answer with its header lines"
    return None


def _markup(text: bytes) -> str | None:
    lowered = text.lower()
    if _BEGINS_HTML.match(lowered) or (lowered.startswith(b"<?xml") and b"<html" in lowered):
        return "an HTML page"
    if b"<svg" in lowered and _is_text(text):
        return "an SVG drawing"
    if lowered.startswith(b"<?xml") or (re.match(rb"<[a-z][\w:.-]*[\s/>]", lowered) and _is_text(text)):
        code = _ERROR_CODE.search(text)
        return f"an XML error document ({code[1].decode()})" if code else "an XML document"
    return None


def _is_text(head: bytes) -> bool:
    return not re.search(rb"[\0-\x08\x0e-\x1a\x1c-\x1f]", head)


def _binary(head: bytes) -> str | None:
    for prefix, phrase in _PREFIXES:
        if head.startswith(prefix):
            return phrase
    if head[4:8] == b"ftyp":
        return _BOXES.get(head[8:12], "a video (MP4 or QuickTime)")
    if head[:4] == b"RIFF":
        return {b"WEBP": "a WebP image", b"AVI ": "an AVI video", b"WAVE": "a sound file"}.get(
            head[8:12], "a RIFF file"
        )
    if head[:2] == b"BM" and head[6:10] == bytes(4):
        return "a BMP image"
    if head[:2] == b"MZ" and len(head) >= 64:
        return "a Windows program"
    if head[:2] in (b"P5", b"P6") and head[2:3].isspace():
        return "a PGM or PPM image"
    if head[:4] == b"PK\x03\x04":
        return _zip(head)
    if head[257:262] == b"ustar":
        return "a tar archive"
    if head[:1] == b"\x80" and head[1:2] in (b"\2", b"\3", b"\4", b"\5"):
        return "a pickle"
    if _SAFETENSORS.match(head):
        return "a safetensors file"
    return None


def _zip(head: bytes) -> str:
    """Which of the many formats that are zip archives this is, by the name of its first member."""
    name = head[30 : 30 + int.from_bytes(head[26:28], "little")]
    if name.endswith((b"/data.pkl", b"/byteorder", b"/version", b"/constants.pkl")):
        return "a PyTorch file (a zip archive)"
    if name.endswith(b".npy"):
        return "a NumPy archive (.npz)"
    if name in (b"metadata.json", b"config.json"):
        return "a Keras model (a zip archive)"
    return "a zip archive"
