"""Walk the fields of a protobuf message as data (https://protobuf.dev/programming-guides/encoding)."""

from __future__ import annotations

from collections.abc import Iterator

VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5  # wire types

Value = int | memoryview


class FieldReader:
    """Splits messages into fields, at most so many for all messages of a file.

    Parameters
    ----------
    limit
        The number of fields.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._count = 0

    def split(self, data: memoryview) -> Iterator[tuple[int, int, Value]]:
        """The fields of a message: field number, wire type, and a number or bytes.

        Raises
        ------
        ValueError
            If it is no message, or there are too many fields.
        """
        offset = 0
        while offset < len(data):
            self._count += 1
            if self._count > self._limit:
                raise ValueError(f"it has more than {self._limit:,} fields")
            key, offset = varint(data, offset)
            number, wire = key >> 3, key & 7
            if not 0 < number < 1 << 29:
                raise ValueError(f"it has the invalid field number {number}")
            if wire == VARINT:
                value, offset = varint(data, offset)
                yield number, wire, value
                continue
            if wire == LENGTH:
                length, offset = varint(data, offset)
            elif wire in (FIXED64, FIXED32):
                length = 8 if wire == FIXED64 else 4
            else:
                raise ValueError(f"it has a field of the unknown wire type {wire}")
            if length > len(data) - offset:
                raise ValueError("it is truncated")
            yield number, wire, data[offset : offset + length]
            offset += length

    def messages(self, data: memoryview, number: int) -> Iterator[memoryview]:
        """The messages, or texts, in one field of a message."""
        for found, wire, value in self.split(data):
            if found == number and wire == LENGTH and isinstance(value, memoryview):
                yield value

    def last(self, data: memoryview) -> dict[int, Value]:
        """The last value of each field of a message."""
        return {number: value for number, _, value in self.split(data)}


def varint(data: memoryview, offset: int) -> tuple[int, int]:
    """A variable-length integer and the offset of the byte after it.

    Raises
    ------
    ValueError
        If it is truncated, or longer than ten bytes.
    """
    value = 0
    for shift in range(0, 70, 7):
        if offset >= len(data):
            raise ValueError("it is truncated")
        byte = data[offset]
        offset += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, offset
    raise ValueError("it has an integer of more than ten bytes")
