"""What takes the place of a file that failed to download, called by name."""

from __future__ import annotations

import gzip
import io
import json
import pickle
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from eolgul.content import LOOKED_AT, describe_content, describe_file


def _picture(kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(buffer, kind)
    return buffer.getvalue()


def _zip(name: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(name, b"x")
    return buffer.getvalue()


def _tar() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("a"))
    return buffer.getvalue()


def _npy() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.zeros(3))
    return buffer.getvalue()


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 132735\n"
NAMED = {
    "an empty file": [b""],
    "nothing but zero bytes (an interrupted copy)": [bytes(1000)],
    "an HTML page": [
        b"<!DOCTYPE html><html><head><title>Google Drive - Virus scan warning</title>",
        b"\xef\xbb\xbf\r\n <HTML lang=en>",
        b"<!-- a comment -->\n<!doctype html>",
        b'<?xml version="1.0"?><!DOCTYPE html PUBLIC "-//W3C//DTD XHTML 1.0 Strict//EN"><html xmlns="x">',
        b"<head><script>window.location='login'</script>",
    ],
    "a git-lfs pointer (`git lfs pull` gets the file itself)": [
        LFS,
        LFS.replace(b"\n", b"\r\n"),
        b"\xef\xbb\xbf" + LFS,
    ],
    "a git-annex pointer (`git annex get` gets the file itself)": [b"/annex/objects/MD5E-s12--ab.jpg\n"],
    "a DVC pointer (`dvc pull` gets the file itself)": [b"outs:\n- md5: ab\n  size: 3\n"],
    "an XML error document (AccessDenied)": [
        b'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>AccessDenied</Code><Message>no</Message></Error>',
        b"<Error><Code>AccessDenied</Code></Error>",
    ],
    "an XML document": [b"<?xml version='1.0'?><annotation/>", b"<annotation><size/></annotation>"],
    "an SVG drawing": [b"<svg xmlns='http://www.w3.org/2000/svg'/>"],
    "JSON text": [json.dumps({"error": {"code": 404}}).encode(), b"[]", b"{}", b"[1, 2]"],
    "a JPEG image": [_picture("JPEG")],
    "a PNG image": [_picture("PNG")],
    "a GIF image": [_picture("GIF")],
    "a BMP image": [_picture("BMP")],
    "a TIFF image": [_picture("TIFF")],
    "a WebP image": [_picture("WEBP")],
    "a PGM or PPM image": [_picture("PPM")],
    "a zip archive": [_zip("S001.jpg")],
    "a NumPy archive (.npz)": [_zip("arr_0.npy")],
    "a PyTorch file (a zip archive)": [_zip("archive/data.pkl")],
    "a gzip file": [gzip.compress(b"x", mtime=0)],
    "a tar archive": [_tar()],
    "a pickle": [pickle.dumps([1], protocol) for protocol in (2, 3, 4, 5)],
    "a NumPy array (.npy)": [_npy()],
    "RecordIO": [b"\x0a\x23\xd7\xce" + bytes(4)],
    "a safetensors file": [(60).to_bytes(8, "little") + b'{"weight":{"dtype":"F32"}}'],
}


@pytest.mark.parametrize(("phrase", "data"), [(phrase, data) for phrase, some in NAMED.items() for data in some])
def test_content_is_called_by_name(phrase: str, data: bytes, tmp_path: Path) -> None:
    assert describe_content(data) == phrase
    (tmp_path / "file").write_bytes(data)
    assert describe_file(tmp_path / "file") == phrase


@pytest.mark.parametrize(
    "data",
    [b"10\t300\n", b"0\ta/b.jpg\t1\n", b"14,112,112\n", b"a,b,1\n", "가\n".encode(), b"<3 pairs", b"[", b"x" * 9],
)
def test_plain_text_and_the_unknown_have_no_name(data: bytes) -> None:
    assert describe_content(data) is None


def test_a_file_that_is_not_there_has_no_name(tmp_path: Path) -> None:
    assert describe_file(tmp_path / "none") is None
    assert describe_file(tmp_path) is None


@given(st.binary(max_size=400), st.sampled_from([data for some in NAMED.values() for data in some]))
def test_any_bytes_give_a_short_printable_phrase_or_none(tail: bytes, head: bytes) -> None:
    for data in (tail, head + tail, head[:4] + tail, (head + tail) * (LOOKED_AT // 100)):
        phrase = describe_content(data)
        assert phrase is None or (phrase.isprintable() and len(phrase) < 80)
