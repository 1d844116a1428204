"""`Reader`: an open store that is read, without what only making and writing one need."""

from __future__ import annotations

import html
import os
from collections.abc import Iterator, Sequence
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from latentdb.base.errors import ClosedError, IdNotFoundError, InvalidInputError, NotFoundError
from latentdb.base.files import as_path
from latentdb.base.validate import as_latents
from latentdb.base.wording import counted
from latentdb.outputs import Outputs
from latentdb.querying import Querying
from latentdb.row_access import RowAccess
from latentdb.search.manager import IndexManager
from latentdb.search.results import Average, Match, Row
from latentdb.search.selection import parse_where, sum_rows
from latentdb.search.targets import (
    IdLike,
    TargetLike,
    as_ids,
)
from latentdb.store.columns import Value
from latentdb.store.manifest import MANIFEST
from latentdb.store.rows import Floats, Ints
from latentdb.store.snapshot import Snapshot
from latentdb.store.store import Store
from latentdb.store.versions import Version, versions

# Models and pictures are imported by the calls that use them: a query by id needs neither.
if TYPE_CHECKING:
    from latentdb.base.progress import Report
    from latentdb.explorer.serving import Exploration
    from latentdb.explorer.site import Site
    from latentdb.model.codec import Codec
    from latentdb.search.results import Info
    from latentdb.stored_model import ModelLike

PathLike = str | os.PathLike[str]
AnyReader = TypeVar("AnyReader", bound="Reader")


class Reader(Querying, Outputs, RowAccess):
    """An open store that is read: queries, decoding, export; a context manager.

    `LatentDB` is a `Reader` that also makes and writes stores.  They are two
    classes because the command line starts a new process for every query: a
    `Reader` imports a third of the package, `LatentDB` all of it.  Every call
    works on the version that is committed when it begins.
    """

    def __init__(
        self, store: Store | PathLike, *, trust_model: bool = False, version: int | None = None
    ) -> None:
        opened = store if isinstance(store, Store) else Store.open(store, version=version)
        self._store: Store | None = opened
        self._trust_model = trust_model
        self._condition: Value = None
        self._process = os.getpid()
        self._codec: Codec | None = None
        self._index_manager = IndexManager()

    # --- open and close ---------------------------------------------------------

    @classmethod
    def open(
        cls: type[AnyReader],
        path: PathLike,
        *,
        trust_model: bool = False,
        version: int | None = None,
    ) -> AnyReader:
        """Open a store.

        Parameters
        ----------
        path
            The folder of the store.
        trust_model
            Run the code inside the model, where it was imported with
            ``trust_model``; other models contain none.
        version
            Open this version, to read it: see `versions`.

        Raises
        ------
        StoreNotFoundError
            If there is no store at `path`.
        NotFoundError
            If the version is not kept any more; names those that are.
        CorruptStoreError
            If it is damaged; names the file.
        """
        return cls(Store.open(path, version=version), trust_model=trust_model)

    @staticmethod
    def versions(path: PathLike) -> tuple[Version, ...]:
        """The versions of a store that can be opened, the current one first.

        The files of a version are kept for ten minutes after it was replaced, those of the
        version before the current one for longer.

        Raises
        ------
        StoreNotFoundError, CorruptStoreError
            As `open`.
        """
        return versions(as_path(path))

    @staticmethod
    def exists(path: PathLike) -> bool:
        """Whether there is a store at a path."""
        return os.path.exists(os.path.join(path, MANIFEST))

    def _options(self) -> dict[str, Any]:
        """Arguments with which a store is opened again in another process."""
        return {"trust_model": self._trust_model, "version": self._open_store().version}

    def __reduce__(self) -> tuple[Any, ...]:
        # By path: DataLoader and joblib send a store to processes, which open it there.
        path = os.path.abspath(self._open_store().path)
        return partial(type(self), **self._options()), (path,), {"_condition": self._condition}

    def __repr__(self) -> str:
        name = type(self).__name__
        if self._store is None:
            return f"<{name}, closed>"
        snapshot = self._snapshot()
        rows, dims = counted(len(snapshot), "row"), counted(snapshot.dim, "dimension")
        return f"<{name} {os.fspath(self._store.path)!r}: {rows}, {dims}>"

    def _repr_html_(self) -> str:
        """What the store holds, as a table, for a notebook."""
        from latentdb.search.summary import info_table

        return html.escape(repr(self)) if self._store is None else info_table(self.info())

    def close(self) -> None:
        """Release the files and the model; closing twice does nothing."""
        self._store = None
        self._codec = None
        self._index_manager = IndexManager()

    def __enter__(self: AnyReader) -> AnyReader:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _open_store(self) -> Store:
        if self._store is None:
            raise ClosedError("this database is closed: open it again")
        if os.getpid() != self._process:
            raise ClosedError(
                "this database was opened before a fork, after which tensorflow and faiss hang: "
                "open it in the child, or start processes with spawn"
            )
        return self._store

    def _snapshot(self) -> Snapshot:
        return self._open_store().snapshot()

    @property
    def codec(self) -> Codec:
        """The store's model; tensorflow is loaded when it first encodes or decodes.

        Raises
        ------
        ModelError
            If the store was made without one.
        """
        from latentdb.stored_model import codec_of

        snapshot = self._snapshot()  # always: the store may have been replaced by another
        if self._codec is None:
            self._codec = codec_of(snapshot, trust_model=self._trust_model)
            if self._condition is not None:
                self._codec = self._codec.with_condition(self._condition)
        return self._codec

    def with_condition(self: AnyReader, value: Value) -> AnyReader:
        """The same store, read with one condition for everything that is encoded or decoded.

        Of a store with a conditional VAE, whose rows are decoded with their own condition
        otherwise: ``db.with_condition("8").decode(["3/1507.png"])`` is that image as an 8.
        What is no row, such as a blend, a sample or a new image, has no other.  It is for
        reading: a call that writes is refused.

        Parameters
        ----------
        value
            Of the model's condition; None for each row's own.

        Raises
        ------
        InvalidInputError
            If the model has no condition, or the value is not accepted.
        """
        if value is None and self._condition is None:
            return self
        other = object.__new__(type(self))
        vars(other).update(vars(self))
        other._condition, other._codec = value, None
        if value is not None:
            _ = other.codec  # refuses a value that is not accepted
        return other

    def _check_model(self, model: ModelLike | None) -> None:
        if model is None:
            return
        from latentdb.model.config import ModelOptions
        from latentdb.stored_model import check_same_model, load_other_model

        snapshot, options = self._snapshot(), ModelOptions(trust_model=self._trust_model)
        check_same_model(snapshot, load_other_model(snapshot, model, options=options))

    def export_site(
        self,
        out: PathLike,
        *,
        where: str | None = None,
        ort: PathLike | None = None,
        overwrite: bool = False,
        report: Report | None = None,
    ) -> Site:
        """Write the explorer as static files: see `latentdb.explorer.site.write_site`."""
        from latentdb.explorer.site import write_site

        return write_site(self, out, where=where, ort=ort, overwrite=overwrite, report=report)

    def explore(self, *, height: int = 700, report: Report | None = None) -> Exploration:
        """Show the explorer in a notebook; `latentdb.explorer.serving.Exploration` ends it."""
        from latentdb.explorer.serving import Exploration

        return Exploration(self, height=height, report=report)

    # --- rows and latents -------------------------------------------------------

    def __len__(self) -> int:
        return len(self._snapshot())

    def __iter__(self) -> Iterator[str]:
        return iter(self.ids())

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and bool(self._snapshot().locate([name])[0] >= 0)

    def ids(self, rows: NDArray[Any] | None = None, *, where: str | None = None) -> list[str]:
        """Ids in the order of insertion: all, of row numbers, or of an expression's rows.

        Raises
        ------
        IdNotFoundError
            If a row does not exist, or is deleted.
        """
        snapshot = self._snapshot()
        if rows is None:
            return snapshot.ids(self._rows(snapshot, where))
        if where is not None:
            raise InvalidInputError("give row numbers or an expression, not both")
        numbers = np.asarray(rows, np.int64).reshape(-1)
        live = snapshot.is_live(numbers)
        if not live.all():
            number = int(numbers[~live][0])
            hint = ": it stands for no match, keep rows[rows >= 0]" if number == -1 else ""
            raise IdNotFoundError(f"row {number} is not in the store{hint}")
        return snapshot.ids(numbers)

    def vectors(self, ids: Sequence[IdLike] | None = None, *, where: str | None = None) -> Floats:
        """z_mean of ids, of an expression's rows, or of all: float32 ``[n, d]``.

        Raises
        ------
        IdNotFoundError
            Names the first id that is not in the store.
        """
        snapshot = self._snapshot()
        return snapshot.vectors(self._named(snapshot, ids, where))

    def log_vars(
        self, ids: Sequence[IdLike] | None = None, *, where: str | None = None
    ) -> Floats | None:
        """z_log_var, as `vectors`; None in a store that has none."""
        snapshot = self._snapshot()
        return snapshot.log_vars(self._named(snapshot, ids, where))

    def _named(self, snapshot: Snapshot, ids: Sequence[IdLike] | None, where: str | None) -> Ints:
        if ids is None:
            return self._rows(snapshot, where)
        if where is not None:
            raise InvalidInputError("give ids or an expression, not both")
        return snapshot.find(as_ids(ids))

    def decode(
        self,
        targets: TargetLike | Sequence[TargetLike] | None = None,
        *,
        where: str | None = None,
        model: ModelLike | None = None,
    ) -> NDArray[np.uint8]:
        """Decode stored latents, images or vectors to images.

        Parameters
        ----------
        targets
            A target, a list of targets, or an array ``[n, d]``.
        where
            Instead of targets: the rows for which this expression is true.
        model
            Raise `ModelMismatchError` if the store was made with another model than this.

        Returns
        -------
        ndarray
            uint8 ``[n, height, width, channels]``.
        """
        self._check_model(model)
        if (targets is None) == (where is None):
            raise InvalidInputError("give targets or an expression to decode, one of them")
        snapshot = self._snapshot()
        if targets is None:
            rows = self._rows(snapshot, where)
            return self.codec.decode(snapshot.vectors(rows), self._conditions(snapshot, rows))
        if isinstance(targets, np.ndarray):
            return self.codec.decode(self._latents(targets))
        found = self._resolve(snapshot, _as_list(targets))
        vectors = [np.empty((0, snapshot.dim), np.float32), *(one.vector[None] for one in found)]
        return self.codec.decode(np.concatenate(vectors), self._target_conditions(snapshot, found))

    def _latents(self, targets: TargetLike | Sequence[TargetLike]) -> Floats:
        snapshot = self._snapshot()
        if isinstance(targets, np.ndarray):
            array = targets[None] if targets.ndim == 1 else targets
            return as_latents(array, snapshot.dim, "latents")
        items = _as_list(targets)
        if not len(items):
            return np.empty((0, snapshot.dim), np.float32)
        return np.stack([target.vector for target in self._resolve(snapshot, items)])

    def blend(
        self,
        targets: Sequence[TargetLike] | NDArray[Any],
        *,
        weights: Sequence[float] | None = None,
        method: str = "linear",
    ) -> Floats:
        """Blend several latents into one: see `latentdb.model.arithmetic.blend`.

        Returns
        -------
        ndarray
            float32 ``[d]``.
        """
        from latentdb.model import arithmetic

        return arithmetic.blend(self._latents(targets), weights, method=method)

    def average(self, *, where: str | None = None) -> Average:
        """Mean latent of all rows, or of those for which an expression is true.

        Raises
        ------
        NotFoundError
            If there are none.
        """
        snapshot = self._snapshot()
        total, count = sum_rows(snapshot, parse_where(snapshot, where))
        if not count:
            reason = "the store is empty" if where is None else f"no row matches {where!r}"
            raise NotFoundError(f"{reason}: nothing to average")
        return Average((total / count).astype(np.float32), count)

    def interpolate(
        self, a: TargetLike, b: TargetLike, *, steps: int = 10, method: str = "linear"
    ) -> Floats:
        """A path of 2 to 10,000 latents from one target to another, both included.

        Returns
        -------
        ndarray
            float32 ``[steps, d]``.
        """
        from latentdb.model import arithmetic

        ends = self._latents([a, b])
        return arithmetic.interpolate(ends[0], ends[1], steps, method=method)

    def info(self) -> Info:
        """Size, model and search index of the store."""
        from latentdb.stored_model import describe

        return describe(self._snapshot())


def _as_list(targets: Any) -> Any:
    return [targets] if isinstance(targets, str | os.PathLike | Match | Row) else targets
