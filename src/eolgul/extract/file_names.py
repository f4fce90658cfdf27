"""What a file's name says: an image, another kind of file, or what a system keeps beside people's data.

Names of system files and folders: those of macOS, Windows, the desktops of Linux, and NAS of Synology, QNAP, NetApp,
Buffalo and TrueNAS, by their vendors' manuals and the ignore files at github.com/github/gitignore (Global).
"""

from __future__ import annotations

import os
import re

from eolgul.content import describe_content

IMAGE_SUFFIXES = frozenset(
    {
        ".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".png", ".apng", ".pgm", ".ppm", ".pbm", ".pnm", ".webp", ".bmp", ".dib", ".gif",
        ".tif", ".tiff", ".heic", ".heif", ".hif", ".avif", ".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx", ".jxl",
    }
)  # fmt: skip
# Clearly something else, so that no file has to be opened. Every other suffix, and none, is looked at by its bytes.
OTHER_SUFFIXES = frozenset(
    {
        ".txt", ".json", ".jsonl", ".csv", ".tsv", ".xml", ".html", ".htm", ".md", ".rst", ".pdf", ".db", ".mat", ".npy", ".npz",
        ".pkl", ".pickle", ".pt", ".pth", ".onnx", ".safetensors", ".h5", ".hdf5", ".parquet", ".arrow", ".yaml", ".yml", ".toml",
        ".ini", ".cfg", ".conf", ".log", ".py", ".pyc", ".ipynb", ".m", ".c", ".cpp", ".h", ".js", ".css", ".sh", ".bat", ".exe",
        ".dll", ".so", ".doc", ".docx", ".xls", ".xlsx", ".ppt", ".pptx", ".hwp", ".hwpx", ".rtf", ".tex", ".mp4", ".avi", ".mov",
        ".mkv", ".webm", ".wmv", ".wav", ".mp3", ".flac", ".m4a", ".svg", ".rec", ".idx", ".lst", ".bin", ".url", ".lnk", ".srt",
        ".sql", ".sqlite", ".xmp", ".aae", ".md5", ".sha1", ".sha256", ".sig", ".asc", ".pts", ".ply", ".obj", ".lock", ".tmp",
    }
)  # fmt: skip
SNAPSHOTS = frozenset({".snapshot", ".snapshots", "~snapshot", "#snapshot", "@snapshot", "@snapshots", ".zfs",
                       "@recently-snapshot"})  # fmt: skip
"""Folders that hold the whole tree again, once for each time of a NAS's backup: they count as one input and are not entered."""
_SYSTEM_FOLDERS = SNAPSHOTS | {
    # macOS
    "__macosx", ".appledouble", ".spotlight-v100", ".trashes", ".fseventsd", ".temporaryitems", ".documentrevisions-v100",
    "temporary items", "network trash folder", "thevolumesettingsfolder", "resource.frk", ".pkinstallsandboxmanager",
    # Windows
    "$recycle.bin", "recycler", "recycled", "system volume information", "$extend", "msocache", "$winreagent",
    # Linux and its desktops
    "lost+found", ".thumbnails", ".trash", ".local", ".cache",
    # NAS: Synology, QNAP, Buffalo
    "@eadir", "#recycle", "@tmp", "@recycle", "@sharebin", "@sharesnap", "@synoresource", "@synologydrive", "@cloudsync",
    "@download", "@database", "@appstore", "@qsync", ".@__thumb", ".@upload_cache", "trashbox",
    # Tools
    ".ipynb_checkpoints", "__pycache__", ".git", ".svn", ".hg", ".bzr", ".dvc", ".idea", ".vscode", ".dropbox.cache", ".stversions",
    ".sync", ".venv", "node_modules",
}  # fmt: skip
_SYSTEM_FOLDER = re.compile(r"\.trash-\d+|found\.\d{3}", re.ASCII)
_SYSTEM_FILE = re.compile(
    r"""\._.*|\.ds_store|\.localized|\.apdisk|\.volumeicon\.icns|icon\r
    |(?:eh)?thumbs(?:_vista)?\.db(?::encryptable)?|desktop\.ini|folder\.htt|autorun\.inf|.*:zone\.identifier|.*:\$data|~\$.*
    |\.directory|\.hidden|\.nomedia|\.nfs[0-9a-f]{8,}|\.fuse_hidden.*|\.~lock\..*\#|\.gitignore|\.gitattributes|\.gitkeep|\.keep
    |\.?picasa\.ini|zbthumbnail\.info|synoindex_media_info|.*@syno(?:eastream|resource)|\.dropbox|\.dropbox\.attr|\.stignore""",
    re.IGNORECASE | re.VERBOSE | re.DOTALL,
)
_FIRST_OF_SYSTEM_FILES = frozenset(".~dDeEtTfFaAiIpPzZsS")
_IMAGES = frozenset(
    {
        "a JPEG image", "a PNG image", "a GIF image", "a TIFF image", "a BigTIFF image", "a JPEG 2000 image",
        "a JPEG 2000 codestream", "a JPEG XL image", "a JPEG XL codestream", "an AVIF image", "an HEIC image", "an HEIF image",
        "a WebP image", "a BMP image", "a PGM or PPM image",
    }
)  # fmt: skip


def is_system_folder(name: str) -> bool:
    """Whether a folder of this name is a system's, not people's."""
    name = name.lower()
    return name in _SYSTEM_FOLDERS or _SYSTEM_FOLDER.fullmatch(name) is not None


def is_system_file(name: str) -> bool:
    """Whether a file of this name is a system's, such as `Thumbs.db` or macOS's `._photo.jpg`."""
    odd = name[:1] in _FIRST_OF_SYSTEM_FILES or ":" in name or "@" in name
    return odd and _SYSTEM_FILE.fullmatch(name) is not None


def says_image(name: str) -> bool | None:
    """Whether a file is an image by its suffix; None when only its bytes can tell."""
    suffix = os.path.splitext(name)[1].lower()  # noqa: PTH122 - millions of them
    if suffix in IMAGE_SUFFIXES:
        return True
    return False if suffix in OTHER_SUFFIXES else None


def begins_as_image(head: bytes) -> bool:
    """Whether a file begins as an image does; 64 bytes are enough."""
    return describe_content(head) in _IMAGES
