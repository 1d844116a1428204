"""What the sources of images have in common: their members, how these are named and checked."""

from __future__ import annotations

import tarfile
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

from latentdb.base.errors import ImageError
from latentdb.base.files import os_reason
from latentdb.images.discover import BadFile

MAX_MEMBER_BYTES = 1 << 30  # as of a file
# What the libraries raise for damaged archives.
DAMAGE = (
    tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, ValueError, RuntimeError,
    NotImplementedError, KeyError,
)  # fmt: skip

Found = tuple[str, Callable[[], bytes]]  # a name, and what reads the content
Values = dict[str, str | int | float | bool]


@dataclass(frozen=True, slots=True)
class Member:
    """One image of an archive.

    Attributes
    ----------
    id
        Its name in the archive, with ``/``.
    path
        Archive, ``!`` and member: see `latentdb.images.sources.read_member`.
    size
        Bytes of its content.
    mtime_ns
        Modification time of the archive.
    read
        The content of an image file, until the source is closed.
    metadata
        What the archive says of it.
    """

    id: str
    path: str
    size: int
    mtime_ns: int
    read: Callable[[], bytes]
    metadata: Values = field(default_factory=dict)


class ImageSource(Protocol):
    """A file that holds images."""

    def members(self) -> Iterator[Member | BadFile | None]:
        """The images, in their order; a `BadFile` for one that cannot be read.

        None comes before the source is closed: members must be read by then.
        """

    def find(self, names: Collection[str]) -> Iterator[Found]:
        """Image files by the parts of their paths after ``!``, each to be read before the next.

        In one pass, in the order of the source; what is not in it is left out.
        """


@contextmanager
def reading(path: str) -> Iterator[None]:
    """Turn what is raised for an archive that cannot be read into `ImageError`."""
    try:
        yield
    except ImageError:
        raise
    except OSError as error:
        raise ImageError(path, os_reason(error)) from error
    except DAMAGE as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ImageError(path, f"damaged or truncated archive ({reason[:100]})") from error


def member_path(archive: str, name: str) -> str:
    """The path of a member."""
    return f"{archive}!{name}"


def check_size(path: str, size: int) -> BadFile | None:
    """Why a member is not read, by its declared size."""
    if size == 0:
        return BadFile(path, "empty file")
    if size > MAX_MEMBER_BYTES:
        return BadFile(path, f"{size:,} bytes, over the limit of 1 GiB")
    return None


def is_number(name: str) -> bool:
    """Whether a name in an array or a table is the number of an image."""
    return name.isdecimal() and len(name) <= 18


def scalars(record: dict[Any, Any]) -> Values:
    """The values of a record that metadata can hold; ``label`` as text."""
    values: Values = {}
    for key, value in record.items():
        if isinstance(value, str | int | float | bool):
            values[str(key)] = str(value) if key == "label" else value
    return values
