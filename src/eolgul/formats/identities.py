"""Names of people: the form in which they are compared and stored, which are refused, and lists of them.

A name is stored in Unicode's normal form C, since file systems and archive programs write the same Hangul or accented name
in two ways. Two names are one person's when they are equal in that form.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from pathlib import Path

from eolgul.errors import InputError, printable
from eolgul.formats.pair_lists import read_text

# Code points that show nothing though they are no format characters (Unicode's Default_Ignorable_Code_Point, category Lo
# and Mn): fillers, the grapheme joiner, variation selectors; and the blank Braille pattern.
_UNSEEN = (
    (0x034F, 0x034F),
    (0x115F, 0x1160),
    (0x17B4, 0x17B5),
    (0x180B, 0x180F),
    (0x2800, 0x2800),
    (0x3164, 0x3164),
    (0xFE00, 0xFE0F),
    (0xFFA0, 0xFFA0),
    (0xE0100, 0xE01EF),
)
_REFUSED = {
    "Cc": "a control character",
    "Cf": "an invisible or bidirectional control",
    "Cs": "half of a surrogate pair",
    "Co": "a private character",
    "Zl": "a line separator",
    "Zp": "a paragraph separator",
}
_NON_JOINER, _JOINER = "\u200c", "\u200d"
_VIRAMA = 9  # the combining class of the sign that Indic scripts join letters with


def normal(name: str) -> str:
    """A name in the form in which it is compared and stored, NFC."""
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def folded(name: str) -> str:
    """A name without what people do not see as a difference: case, width, joiners. Not to be stored."""
    plain = name.replace(_JOINER, "").replace(_NON_JOINER, "")
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", plain).casefold())


def fault(name: str) -> str | None:
    """What is wrong with the name of a person or a file: a character that cannot be seen, or that a text cannot hold.

    The joiners U+200C and U+200D are letters' business in Arabic and Indic scripts, and are refused elsewhere: they are
    taken where RFC 5892 (appendix A.1 and A.2) has them, the rule for Arabic letters by their direction of writing.

    Returns:
        The fault with the character's number, or None.
    """
    if name.isascii() and name.isprintable():
        return None
    for place, character in enumerate(name):
        what = _what(name, place)
        if what is not None:
            return f"it holds U+{ord(character):04X}, {what}"
    return None


def _what(name: str, place: int) -> str | None:
    """What a name's character at a place is called if it is refused."""
    character = name[place]
    if character in (_NON_JOINER, _JOINER) and _may_join(name, place):
        return None
    code = ord(character)
    if any(first <= code <= last for first, last in _UNSEEN):
        return "an invisible character"
    if code & 0xFFFE == 0xFFFE or 0xFDD0 <= code <= 0xFDEF:
        return "no character of Unicode"
    return _REFUSED.get(unicodedata.category(character))


def identity_fault(name: str) -> str | None:
    """As `fault`, for a person's name, which also begins and ends with something visible.

    A folder "Kim " beside "Kim" is the same person's, and a list of people could not name it.
    """
    if name in ("", ".", "..") or "/" in name:
        return "it is no name"
    if name != name.strip():
        return "it begins or ends with white space"
    return fault(name)


def _may_join(name: str, place: int) -> bool:
    before, after = name[place - 1 : place], name[place + 1 : place + 2]
    if not before:
        return False
    if unicodedata.combining(before) == _VIRAMA:
        return True
    arabic = after != "" and unicodedata.bidirectional(before) == unicodedata.bidirectional(after) == "AL"
    return name[place] == _NON_JOINER and arabic


def nearly_equal(names: Iterable[str]) -> tuple[int, tuple[str, str] | None]:
    """Count the names that differ from an earlier one only in what `folded` leaves out.

    Returns:
        How many, and the first of them with the name that it is like.
    """
    seen: dict[str, str] = {}
    count, first = 0, None
    for name in sorted(set(names)):
        other = seen.setdefault(folded(name), name)
        if other != name:
            count += 1
            first = first or (other, name)
    return count, first


def read_identities(path: Path) -> list[str]:
    """Read a list of people with one name per line, such as the 30 test identities of K-FACE's protocol.

    White space around a name, empty lines and a byte order mark are let be; a name may hold spaces. A name that is there
    twice counts once.

    Returns:
        The names in NFC, in the list's order.

    Raises:
        InputError: The file is no text in UTF-8, is empty, or a line can be no person's name.
    """
    names: dict[str, None] = {}
    for number, line in enumerate(read_text(path).removeprefix("\ufeff").replace("\r\n", "\n").split("\n"), 1):
        name = normal(line.strip())
        if not name:
            continue
        wrong = identity_fault(name)
        if wrong is not None:
            raise InputError(f"{path} line {number}: '{printable(name[:60])}', expected one identity, but {wrong}")
        names[name] = None
    if not names:
        raise InputError(f"{path}: empty, expected one identity per line")
    return list(names)
