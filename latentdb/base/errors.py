"""Every exception latentdb raises.

Each has two parents: `LatentDBError`, so that one ``except`` catches all of
them, and the standard exception a caller would expect of the same mistake
(an unknown id is a `KeyError`, a missing store a `FileNotFoundError`).  A message is one
line: what was received, what is accepted, what to do next.
"""

from __future__ import annotations

from latentdb.base.wording import printable


class LatentDBError(Exception):
    """Parent of every exception raised on purpose by latentdb."""

    def __str__(self) -> str:
        # KeyError would show the repr of its argument, quotes and all.  A name of a file may
        # hold line breaks and other characters that a terminal obeys.
        return printable(" ".join(str(part) for part in self.args))


class InvalidInputError(LatentDBError, ValueError):
    """An argument has a value, shape or type that is not accepted."""


class NotFoundError(LatentDBError, LookupError):
    """An id, a store, a model or a file does not exist."""


class IdNotFoundError(NotFoundError, KeyError):
    """An id or a row number is not in the store."""


class StoreNotFoundError(NotFoundError, FileNotFoundError):
    """There is no store at a path."""


class AlreadyExistsError(LatentDBError, FileExistsError):
    """A file, a store or an id exists and may not be overwritten."""


class ImageError(LatentDBError, ValueError):
    """An image file cannot be read.

    Parameters
    ----------
    path
        The file, as the caller gave it.
    reason
        Why it cannot be read, in a few words.
    """

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(path, reason)
        self.path = path
        self.reason = reason

    def __str__(self) -> str:
        path = self.path if self.path.isprintable() else repr(self.path)
        return printable(f"{path}: {self.reason}")


class FilterError(LatentDBError, ValueError):
    """A filter expression cannot be parsed or does not fit the metadata columns."""


class RecipeError(LatentDBError, ValueError):
    """A recipe cannot be parsed, or its parts do not go together."""


class ModelError(LatentDBError, ValueError):
    """A model file or folder cannot be used as an encoder or a decoder."""


class LayerError(ModelError):
    """A layer of a model file cannot be built as data."""


class UntrustedModelError(ModelError):
    """A model needs code of its own to be run, which was not allowed."""


class ModelMismatchError(ModelError):
    """A model differs from the one that encoded the rows of a store."""


class StoreError(LatentDBError, OSError):
    """A store cannot be read or written; committed rows are unaffected."""


class CorruptStoreError(StoreError):
    """A file of a store does not hold what was written to it."""


class LockedError(StoreError):
    """Another process is writing to the store."""


class EngineError(LatentDBError, RuntimeError):
    """A search engine cannot be reached, or does not hold what it should."""


class ClusterError(LatentDBError, RuntimeError):
    """A cluster cannot be reached, or its workers were lost."""


class ClosedError(LatentDBError, RuntimeError):
    """A database was used after it was closed."""


class MissingExtraError(LatentDBError, ImportError):
    """An optional dependency is not installed.

    Parameters
    ----------
    need
        What needs it, as a clause ("drawing a model").
    extra
        The extra of latentdb that installs it.
    """

    def __init__(self, need: str, extra: str) -> None:
        super().__init__(need, extra)

    def __str__(self) -> str:
        need, extra = self.args
        return f"{need} needs an extra: pip install 'latentdb[{extra}]'"
