"""Unpickle a `.bin` verification set without trust: bytes, lists and flat arrays are built, and nothing else.

A pickle can name any class and call it, and numpy's own classes are unsafe with untrusted data (`ndarray(shape, "O",
bytes)` takes the bytes for pointers). A pickle that names them gets the stand-ins of this module, which keep bytes.
"""

from __future__ import annotations

import mmap
import pickle
import pickletools
from typing import Any, BinaryIO, ClassVar, Literal, Self

from eolgul.errors import InputError

_INTEGERS = {  # numpy's names: how many bytes, and whether there is a sign
    "b1": (1, False),
    **{f"{kind}{size}": (size, kind == "i") for kind in "iu" for size in (1, 2, 4, 8)},
}


class _Dtype:
    """Stands in for `numpy.dtype` and keeps only its name and byte order, of the state that the pickle gives it."""

    name = ""
    big_endian = False

    def __init__(self, name: str | bytes, *_: object) -> None:
        self.name = name.decode("ascii", "replace") if isinstance(name, bytes) else str(name)

    def __setstate__(self, state: object) -> None:
        self.big_endian = isinstance(state, tuple) and len(state) > 1 and state[1] in (">", b">")

    def numbers(self, data: bytes) -> list[int] | None:
        """The bytes as whole numbers of this type; None when it is another type or they are not whole numbers of them."""
        size, signed = _INTEGERS.get(self.name, (0, False))
        if not size or len(data) % size:
            return None
        order: Literal["big", "little"] = "big" if self.big_endian else "little"
        places = range(0, len(data), size)
        return [int.from_bytes(data[place : place + size], order, signed=signed) for place in places]


class Array:
    """Stands in for a pickled numpy array and keeps its bytes: no untrusted shape or pointer reaches numpy.

    Of a one-dimensional array, `data` are the bytes if it is of uint8, `flags` the values if it is of whole numbers or
    bool, and `items` the objects if it is of objects, which a pickle holds as a list.
    """

    data: bytes | None = None
    items: list[object] | None = None

    def __init__(self, *_: object) -> None:
        self._dtype, self._bytes = _Dtype(""), b""

    def __setstate__(self, state: tuple[int, tuple[int, ...], _Dtype, bool, bytes | list[object]]) -> None:
        _, shape, dtype, _, data = state
        if not isinstance(dtype, _Dtype) or not isinstance(shape, tuple):
            return
        longest = max(shape, default=1)  # OpenCV's imencode gives (n, 1)
        if isinstance(data, list):
            if dtype.name in ("O", "O4", "O8") and longest == len(data):
                self.items = data
        elif isinstance(data, bytes) and longest * _INTEGERS.get(dtype.name, (0, False))[0] == len(data):
            self._dtype, self._bytes = dtype, data
            if dtype.name == "u1":
                self.data = data

    @property
    def flags(self) -> list[int] | None:
        """The values of an array of whole numbers or bool; None for another one."""
        return (
            [int(value != 0) for value in self._bytes] if self._dtype.name == "b1" else self._dtype.numbers(self._bytes)
        )


class _FromBuffer(Array):
    """Stands in for `numpy.core.numeric._frombuffer`, with which pickle protocol 5 restores arrays."""

    def __init__(self, data: bytes | bytearray, dtype: _Dtype, shape: tuple[int, ...], *_: object) -> None:
        super().__init__()
        self.__setstate__((1, shape, dtype, False, bytes(data) if isinstance(data, bytearray) else data))


class _Scalar(int):
    """Stands in for `numpy.core.multiarray.scalar`: the only scalar a `.bin` holds is a flag."""

    def __new__(cls, dtype: _Dtype, data: bytes) -> Self:
        numbers = dtype.numbers(data) if isinstance(data, bytes) else None
        if numbers is None or len(numbers) != 1:
            raise InputError("holds a numpy scalar that is not a bool or a whole number: refused")
        return super().__new__(cls, numbers[0])

    def __setstate__(self, state: object) -> None:
        raise InputError("gives a number a state: refused")


class _Bytearray:
    """Stands in for `bytearray`, which would take a number as a size to allocate; here it makes bytes of bytes or text."""

    def __new__(cls, data: object = b"", encoding: object = "latin-1") -> bytes:  # type: ignore[misc]
        if isinstance(data, str) and encoding in ("latin-1", b"latin-1", "latin1", b"latin1"):
            return data.encode("latin1")
        if not isinstance(data, bytes | bytearray):
            raise InputError("makes a bytearray of something other than bytes: refused")
        return bytes(data)

    def __setstate__(self, state: object) -> None:
        raise InputError("gives a class a state: refused")


class _Encode:
    """Stands in for `_codecs.encode`, with which Python 3 writes bytes in protocols 0 to 2."""

    def __new__(cls, text: str, encoding: str | bytes) -> bytes:  # type: ignore[misc]
        if encoding not in ("latin1", b"latin1"):
            raise InputError("uses an encoding other than latin1: refused")
        return text.encode("latin1")

    def __setstate__(self, state: object) -> None:
        raise InputError("gives a function a state: refused")


class _NoBytes:
    """Stands in for `bytes`, which Python 3 calls only for empty bytes in protocols 0 to 2."""

    def __new__(cls) -> bytes:  # type: ignore[misc]
        return b""

    def __setstate__(self, state: object) -> None:
        raise InputError("gives a class a state: refused")


class BinUnpickler(pickle.Unpickler):
    """Builds what a `.bin` needs: bytes, str, list, tuple, whole numbers, and flat arrays of numbers or objects.

    The stand-ins are classes because a pickle can set a function's attributes.
    """

    _STAND_INS: ClassVar[dict[tuple[str, str], type]] = {
        ("numpy", "ndarray"): Array,
        ("numpy", "dtype"): _Dtype,
        ("_codecs", "encode"): _Encode,
        ("__builtin__", "bytes"): _NoBytes,
        ("builtins", "bytes"): _NoBytes,
        ("__builtin__", "bytearray"): _Bytearray,
        ("builtins", "bytearray"): _Bytearray,
        **{(f"numpy.{core}.multiarray", "_reconstruct"): Array for core in ("core", "_core")},
        **{(f"numpy.{core}.multiarray", "scalar"): _Scalar for core in ("core", "_core")},
        **{(f"numpy.{core}.numeric", "_frombuffer"): _FromBuffer for core in ("core", "_core")},
    }

    def find_class(self, module: str, name: str) -> Any:
        """The stand-in of a class or function; InputError, naming it, for any other than those of a `.bin`."""
        if (module, name) not in self._STAND_INS:
            asked = f"{module}.{name}"[:80]  # untrusted text: no line break or escape sequence reaches a terminal
            raise InputError(f"asks for {asked!a}, which a .bin set never needs: refused")
        return self._STAND_INS[module, name]


def check_memo(file: BinaryIO | mmap.mmap) -> None:
    """Refuse a memo number larger than a real pickler gives: Python allocates that many entries at once."""
    puts = 0
    for opcode, argument, offset in pickletools.genops(file):  # type: ignore[arg-type]
        if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT"):
            puts += 1
            if int(argument or 0) > puts:
                raise InputError(f"byte {offset} asks for memo entry {argument}: refused")
