"""`RowAccess`: the rows of an open store, read back; a base of `Reader`."""

from __future__ import annotations

import html
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from latentdb.base.errors import InvalidInputError
from latentdb.insight.blocks import sample_rows
from latentdb.search.ordering import check_order, order_rows
from latentdb.search.results import Row
from latentdb.search.selection import (
    check_column,
    column_values,
    count_rows,
    parse_where,
    select_rows,
    vector_blocks,
)
from latentdb.search.targets import IdLike, as_ids
from latentdb.store.columns import Value
from latentdb.store.originals import intact_paths
from latentdb.store.rows import Floats, Ints
from latentdb.store.snapshot import Snapshot

if TYPE_CHECKING:
    from latentdb.base.outputs import Output
    from latentdb.model.codec import Codec

PathLike = str | os.PathLike[str]
_BLOCK = 1_024  # rows read at a time when all are iterated over
_SHOWN = 20  # rows of a table in a notebook


class RowView(Sequence[Row]):
    """Rows of one version of a store, read as they are asked for: a sequence of `Row`.

    pandas, polars and pyarrow take it as it is (``pyarrow.table(view)``,
    ``polars.DataFrame(view)``), through the Arrow C stream of pyarrow.
    """

    def __init__(self, snapshot: Snapshot, rows: Ints) -> None:
        self._snapshot = snapshot
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, position: int) -> Row: ...
    @overload
    def __getitem__(self, position: slice) -> RowView: ...
    def __getitem__(self, position: int | slice) -> Row | RowView:
        if isinstance(position, slice):
            return RowView(self._snapshot, self._rows[position])
        return read_rows(self._snapshot, self._rows[[position]])[0]

    def __iter__(self) -> Iterator[Row]:
        for start in range(0, len(self._rows), _BLOCK):
            yield from read_rows(self._snapshot, self._rows[start : start + _BLOCK])

    def __repr__(self) -> str:
        return f"<RowView of {len(self):,} rows>"

    @property
    def columns(self) -> tuple[str, ...]:
        """The metadata columns of the store."""
        return tuple(self._snapshot.manifest.columns)

    @property
    def ids(self) -> list[str]:
        """Ids of the rows."""
        return self._snapshot.ids(self._rows)

    @property
    def paths(self) -> list[str | None]:
        """Image files of the rows; None for rows that came from none."""
        return self._snapshot.paths(self._rows)

    @property
    def z_mean(self) -> Floats:
        """float32 ``[n, d]``."""
        return self._snapshot.vectors(self._rows)

    @property
    def z_log_var(self) -> Floats | None:
        """float32 ``[n, d]``; None if one of the rows has none."""
        return self._snapshot.log_vars(self._rows)

    def column(self, key: str) -> list[Value]:
        """The values of a metadata column; None where one is missing.

        Raises
        ------
        InvalidInputError
            If the store has no such column.
        """
        check_column(self._snapshot, key)
        return column_values(self._snapshot, self._rows, key)

    def records(self, columns: Sequence[str] | None = None) -> list[dict[str, Value]]:
        """Rows as dicts; a missing value is None.

        Parameters
        ----------
        columns
            Of ``"id"``, ``"path"`` and the metadata columns; by default the id and all
            metadata columns.

        Raises
        ------
        InvalidInputError
            If the store has no such column.
        """
        names = ("id", *self.columns) if columns is None else tuple(columns)
        for name in names:
            if name not in ("id", "path"):
                check_column(self._snapshot, name)
        facts = self._snapshot.records(self._rows)
        return [
            {name: {"id": id_, "path": path, **values}.get(name) for name in names}
            for id_, path, values in facts
        ]

    def to_pandas(self) -> Any:
        """A ``pandas.DataFrame`` of id, path and metadata, a row each."""
        import pandas

        names = ["id", "path", *self.columns]
        return pandas.DataFrame(self.records(names), columns=names)

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        from latentdb.exchange.arrow import reader

        stream: object = reader(self._snapshot, self._rows).__arrow_c_stream__(requested_schema)
        return stream

    def _repr_html_(self) -> str:
        names = ["id", "path", *self.columns]
        head = "".join(f"<th>{html.escape(name)}</th>" for name in names)
        lines = [
            "".join(f"<td>{_cell(record[name])}</td>" for name in names)
            for record in self[:_SHOWN].records(names)
        ]
        body = "".join(f"<tr>{line}</tr>" for line in lines)
        more = f"<p>{len(self):,} rows, {_SHOWN} shown</p>" if len(self) > _SHOWN else ""
        return f"<table><tr>{head}</tr>{body}</table>{more}"


def _cell(value: Value) -> str:
    return "" if value is None else html.escape(str(value))


def read_rows(snapshot: Snapshot, rows: Ints) -> list[Row]:
    """Rows with their latents, by row number."""
    means, log_vars = snapshot.latents(rows)
    return [
        Row(name, path, values, means[number], None if log_vars is None else log_vars[number])
        for number, (name, path, values) in enumerate(snapshot.records(rows))
    ]


@dataclass(frozen=True)
class RowDetails:
    """What there is to know of one row.

    Attributes
    ----------
    id, path, metadata
        As of `Row`.
    file_exists
        Whether the image is where it was; None for a row that came from none.
    bytes
        Size of the image file when it was indexed; None likewise.
    norm
        Length of z_mean.
    centre_distance
        Distance of z_mean from the mean of the store, in units of the root mean square
        distance of all rows: near 1 for an ordinary row.
    kl, sigma
        Divergence of the posterior from the prior in nats, and the root mean square of its
        standard deviations; None in a store without z_log_var.
    """

    id: str
    path: str | None
    metadata: dict[str, Value]
    file_exists: bool | None
    bytes: int | None
    norm: float
    centre_distance: float
    kl: float | None
    sigma: float | None


class RowAccess(ABC):
    """The calls of `Reader` that read rows back."""

    @abstractmethod
    def _snapshot(self) -> Snapshot: ...

    @abstractmethod
    def _picture(self, out: PathLike | None, *, overwrite: bool) -> Output | None: ...

    @property
    @abstractmethod
    def codec(self) -> Codec:
        """The store's model."""

    def __getitem__(self, name: IdLike) -> Row:
        """The row of an id.

        Raises
        ------
        IdNotFoundError
            A ``KeyError``, if there is none.
        """
        return self.get([name])[0]

    def get(self, ids: Sequence[IdLike]) -> RowView:
        """The rows of ids, in their order.

        Raises
        ------
        IdNotFoundError
            Names the first id that is not in the store.
        """
        snapshot = self._snapshot()
        return RowView(snapshot, snapshot.find(as_ids(ids)))

    def rows(
        self,
        *,
        where: str | None = None,
        order_by: str | None = None,
        offset: int = 0,
        limit: int | None = None,
        sample: int | None = None,
        seed: int = 0,
    ) -> RowView:
        """Rows in the order of insertion, or of a column.

        Parameters
        ----------
        where
            Only rows for which this metadata expression is true.
        order_by
            A metadata column, ``"id"`` or ``"path"``; ``"-year"`` puts the greatest first.
            Rows in which it is missing are last.
        offset, limit
            Leave out the first rows, and give at most so many.
        sample, seed
            Of the selected rows, so many drawn at random, in their order.

        Raises
        ------
        FilterError, InvalidInputError
            If the expression, the column or a number is invalid.
        """
        snapshot = self._snapshot()
        numbers = {"offset": offset, "limit": limit, "sample": sample}
        for name, number in numbers.items():
            if number is not None and number < 0:
                raise InvalidInputError(f"{name} {number} cannot be used: give 0 or more")
        if order_by is not None:
            check_order(snapshot, order_by)
        stop = None if limit is None else offset + limit
        first_ones = sample is None and order_by is None
        parsed = parse_where(snapshot, where)
        rows = select_rows(snapshot, parsed, most=stop if first_ones else None)
        if sample is not None:
            rows = sample_rows(rows, sample, seed)
        if order_by is not None:
            rows = order_rows(snapshot, rows, order_by)
        return RowView(snapshot, rows[offset:stop])

    def count(self, where: str | None = None) -> int:
        """Number of rows, or of those for which an expression is true."""
        snapshot = self._snapshot()
        return count_rows(snapshot, parse_where(snapshot, where))

    def show(
        self, name: IdLike, *, out: PathLike | None = None, overwrite: bool = False
    ) -> RowDetails:
        """What there is to know of one row.

        Parameters
        ----------
        name
            Its id.
        out
            A picture of the image beside its reconstruction.
        overwrite
            Replace a picture that exists.

        Raises
        ------
        IdNotFoundError
            If there is no such id.
        """
        out = self._picture(out, overwrite=overwrite)
        snapshot = self._snapshot()
        (number,) = snapshot.find(as_ids([name]))
        row = read_rows(snapshot, np.array([number]))[0]
        details = _describe(snapshot, int(number), row)
        if out is not None:
            (path,) = intact_paths(snapshot, np.array([number]))
            self._draw_row(row, path, out)
        return details

    def _draw_row(self, row: Row, path: str | None, out: PathLike) -> None:
        from latentdb.base.errors import ImageError
        from latentdb.images.decode import read_image
        from latentdb.images.render import contact_sheet, one_line, write_picture

        cells = [(self.codec.decode(row.z_mean[None], [row.metadata])[0], "reconstruction")]
        if path is not None:
            try:
                image = read_image(path, self.codec.config.preprocessing)
                cells.insert(0, (image, one_line(row.id)))
            except ImageError:
                pass  # the picture has the reconstruction alone, and `file_exists` says why
        write_picture(out, contact_sheet([cells]))

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        return self.rows().__arrow_c_stream__(requested_schema)


def _describe(snapshot: Snapshot, number: int, row: Row) -> RowDetails:
    from latentdb.images.sources import image_exists
    from latentdb.model.posterior import divergences, statistics, variances

    (segment, positions, _), *_ = snapshot.groups(np.array([number]))
    stats = segment.file_stats
    kl = sigma = None
    if row.z_log_var is not None:
        kl = float(divergences(row.z_mean, row.z_log_var).sum())
        sigma = float(np.sqrt(variances(row.z_log_var).mean()))
    blocks = vector_blocks(snapshot, snapshot.live_rows())
    all_rows = statistics(((block, None) for block in blocks), snapshot.dim)
    spread = float(np.sqrt(all_rows.variance.sum()))
    mean = row.z_mean.astype(np.float64)
    return RowDetails(
        row.id,
        row.path,
        dict(row.metadata),
        None if row.path is None else image_exists(row.path),
        None if stats is None or row.path is None else int(stats.sizes[positions[0]]),
        float(np.linalg.norm(mean)),
        float(np.linalg.norm(mean - all_rows.mean)) / spread if spread else 0.0,
        kl,
        sigma,
    )
