"""The engine that a URI names."""

from __future__ import annotations

import re
from contextlib import AbstractContextManager

from latentdb.base.errors import InvalidInputError
from latentdb.engines.engine import MAX_NAME, Engine
from latentdb.engines.milvus import open_milvus
from latentdb.engines.postgresql import open_postgresql

SCHEMES = ("postgresql", "milvus")


def open_engine(uri: str, collection: str) -> AbstractContextManager[Engine]:
    """The collection of an engine: connected until the context is left.

    Parameters
    ----------
    uri
        ``postgresql://USER@HOST/DATABASE`` or ``postgresql:`` with key=value pairs;
        ``milvus:http://HOST:PORT`` or ``milvus:FILE.db``.
    collection
        A name of letters, digits and ``_``.

    Raises
    ------
    InvalidInputError
        If the URI names no engine, or the name cannot be used.
    MissingExtraError
        If the engine's client is not installed.
    EngineError
        If it cannot be reached.
    """
    scheme, colon, rest = uri.partition(":")
    if not colon or scheme not in SCHEMES or not rest:
        raise InvalidInputError(
            f"{uri!r} names no engine: give postgresql://USER@HOST/DATABASE, "
            "milvus:http://HOST:PORT or milvus:FILE.db"
        )
    if not re.fullmatch(rf"[A-Za-z_][A-Za-z0-9_]{{0,{MAX_NAME - 1}}}", collection):
        raise InvalidInputError(
            f"collection {collection!r} cannot be used: give letters, digits and _, "
            f"at most {MAX_NAME}, no digit first"
        )
    if scheme == "postgresql":
        return open_postgresql(uri if rest.startswith("//") else rest, collection)
    return open_milvus(rest, collection)
