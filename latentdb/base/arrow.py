"""pyarrow, where it is installed."""

from __future__ import annotations

from typing import Any

from latentdb.base.errors import MissingExtraError


def require_pyarrow() -> tuple[Any, Any]:
    """The modules ``pyarrow`` and ``pyarrow.parquet``.

    Raises
    ------
    MissingExtraError
        If pyarrow is not installed.
    """
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise MissingExtraError("Arrow and .parquet", "parquet") from error
    return pyarrow, parquet
