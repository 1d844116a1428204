"""The facade: everything latentdb does to a store, by the names of the command line."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latentdb import arithmetic, query
from latentdb.answers import Average, Info, Match, Matches
from latentdb.codec import Codec
from latentdb.errors import (
    ClosedError,
    InvalidInputError,
    NotFoundError,
)
from latentdb.export import export
from latentdb.filters import Filter
from latentdb.images import check_picture, discover
from latentdb.ingest import IndexReport, Report, add_rows, index_images
from latentdb.inputs import as_latents, check_ids
from latentdb.manifest import MANIFEST, Settings
from latentdb.metadata import Value, make_columns, read_table
from latentdb.models import ModelLike, check_same, codec_of, describe, load_model
from latentdb.pictures import write_each, write_images, write_query, write_vectors
from latentdb.query import Hits
from latentdb.segment import Floats, Ints, Rows
from latentdb.store import Snapshot, Store
from latentdb.target import Target, TargetLike, resolve
from latentdb.upkeep import IndexKeeper

METRIC = "l2"
MAX_K = 100_000
PathLike = str | os.PathLike[str]


class LatentDB:
    """A store of latents with the model that made them.

    Made by `LatentDB.create` or `LatentDB.open`; a context manager.  Every call
    works on the version that is committed when it begins.
    """

    def __init__(self, store: Store) -> None:
        self._store: Store | None = store
        self._process = os.getpid()
        self._codec: Codec | None = None
        self._keeper = IndexKeeper()

    # --- open and close ---------------------------------------------------------

    @classmethod
    def create(
        cls,
        path: PathLike,
        *,
        model: ModelLike | None = None,
        dim: int | None = None,
        recall: float = 0.99,
    ) -> LatentDB:
        """Make an empty store.

        Parameters
        ----------
        path
            A folder that does not exist yet.
        model
            A model folder (from ``latentdb train``) or a `Codec`; it is copied
            into the store, which then decodes by itself.
        dim
            Dimensions of z_mean, for a store of ready-made vectors without a model.
        recall
            Least share of the true neighbours that a query is to find.

        Raises
        ------
        AlreadyExistsError
            If something is there.
        InvalidInputError
            If neither or both of model and dim are given.
        """
        if (model is None) == (dim is None):
            raise InvalidInputError(
                "give either a model (a folder made by latentdb train) or dim, "
                f"received {'neither' if model is None else 'both'}"
            )
        settings = Settings(recall=_recall(recall))
        if model is None:
            return cls(Store.create(path, dim=dim or 0, settings=settings))
        codec = load_model(model)
        card = codec.card
        prints = (card.encoder_fingerprint, card.decoder_fingerprint, codec.files)
        db = cls(Store.create(path, dim=card.latent_dim, model=prints, settings=settings))
        db._codec = codec
        return db

    @classmethod
    def open(cls, path: PathLike) -> LatentDB:
        """Open a store.

        Raises
        ------
        NotFoundError
            If there is none.
        CorruptStoreError
            If it is damaged; says which file.
        """
        return cls(Store.open(path))

    @staticmethod
    def exists(path: PathLike) -> bool:
        """Whether there is a store at a path."""
        return (Path(path) / MANIFEST).exists()

    def close(self) -> None:
        """Forget the open files; a second time does nothing."""
        self._store = None
        self._codec = None
        self._keeper = IndexKeeper()

    def __enter__(self) -> LatentDB:
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

    # --- the model --------------------------------------------------------------

    @property
    def codec(self) -> Codec:
        """The store's model; tensorflow is loaded when it first encodes or decodes.

        Raises
        ------
        ModelError
            If the store was made without one.
        """
        if self._codec is None:
            self._codec = codec_of(self._snapshot())
        return self._codec

    def check_model(self, model: ModelLike) -> None:
        """Refuse any model but the store's own.

        Raises
        ------
        ModelMismatchError
            Names both fingerprints.
        """
        check_same(self._snapshot(), load_model(model))

    # --- fill -------------------------------------------------------------------

    def index_images(
        self,
        sources: PathLike | Sequence[PathLike],
        *,
        model: ModelLike | None = None,
        metadata: PathLike | None = None,
        labels_from_folders: bool = False,
        strict: bool = False,
        report: Report | None = None,
    ) -> IndexReport:
        """Encode the new and changed images of folders into the store.

        Parameters
        ----------
        sources
            Folders and image files.  The id of an image is its path relative to
            the folder given.
        model
            Only to make sure: any other than the store's own is refused.
        metadata
            A .csv or .jsonl file with a column that names the image.
        labels_from_folders
            Give each image the name of its topmost folder as ``label``.
        strict
            Raise on the first bad file instead of skipping it.
        report
            Called with the progress.

        Raises
        ------
        ModelMismatchError
            If `model` is another.
        LockedError
            If another process is writing.
        ImageError, InvalidInputError, NotFoundError
            As `latentdb.ingest.index_images` says.
        """
        store = self._open_store()
        listed = [sources] if isinstance(sources, str | os.PathLike) else list(sources)
        if model is not None:
            self.check_model(model)
        discover(listed)  # a source that does not exist is told before a model is loaded
        table = None if metadata is None else read_table(metadata)
        codec = self.codec
        with store.writer() as writer:
            writer.sweep()
            done = index_images(
                writer,
                codec,
                listed,
                table=table,
                labels_from_folders=labels_from_folders,
                strict=strict,
                report=report,
            )
            self._keeper.maintain(writer, report)
        return done

    def add(
        self,
        ids: Sequence[str],
        z_mean: NDArray[Any],
        *,
        z_log_var: NDArray[Any] | None = None,
        metadata: Mapping[str, Sequence[Value]] | None = None,
        on_conflict: str = "error",
    ) -> int:
        """Add ready-made vectors in one commit.

        Parameters
        ----------
        ids
            Different from each other.
        z_mean
            ``[n, d]``, finite.
        z_log_var
            ``[n, d]``; all rows of a store have it, or none.
        metadata
            ``{key: n values}``; None is missing.
        on_conflict
            What to do with an id that is in the store: ``"error"``, ``"skip"``
            or ``"replace"``.

        Returns
        -------
        int
            How many rows were written.

        Raises
        ------
        InvalidInputError
            If something does not fit; nothing is added then.
        LockedError
            If another process is writing.
        """
        store = self._open_store()
        names = check_ids(ids)
        dim = self._snapshot().dim
        means = as_latents(z_mean, dim, "z_mean")
        log_vars = None if z_log_var is None else as_latents(z_log_var, dim, "z_log_var")
        for name, array in (("z_mean", means), ("z_log_var", log_vars)):
            if array is not None and len(array) != len(names):
                raise InvalidInputError(f"{name} has {len(array)} rows for {len(names)} ids")
        rows = Rows(names, means, log_vars, columns=make_columns(metadata, len(names)))
        with store.writer() as writer:
            writer.sweep()
            written = add_rows(writer, rows, on_conflict)
            self._keeper.maintain(writer, None)
        return written

    def optimize(self, *, recall: float | None = None, report: Report | None = None) -> Info:
        """Build the search index anew, and tune it to a recall.

        Parameters
        ----------
        recall
            The new target; the one in force by default.
        report
            Called with the progress.
        """
        with self._open_store().writer() as writer:
            manifest = writer.snapshot.manifest
            target = manifest.settings.recall if recall is None else _recall(recall)
            self._keeper.build(writer, Settings(recall=target), report)
        return self.info()

    # --- ask --------------------------------------------------------------------

    def query(self, target: TargetLike, *, k: int = 10, where: str | None = None) -> Matches:
        """Find the rows nearest to a target.

        Parameters
        ----------
        target
            An id, an image path, or an array ``[d]``.
        k
            Neighbours wanted.
        where
            A metadata expression, such as ``'label == "cat" and year > 2000'``.

        Raises
        ------
        NotFoundError
            If the target is neither an id nor a file.
        FilterError, InvalidInputError
            If the expression or k cannot be used.
        """
        snapshot = self._snapshot()
        vector = self._resolve(snapshot, [target])[0].vector
        hits = self._search(snapshot, vector[None], k, where)
        rows = hits.rows[0][hits.rows[0] >= 0]
        matches = tuple(
            Match(place + 1, name, float(distance), path, metadata)
            for place, (name, distance, path, metadata) in enumerate(
                zip(
                    snapshot.ids(rows),
                    hits.distances[0][: len(rows)],
                    snapshot.paths(rows),
                    snapshot.metadata(rows),
                    strict=True,
                )
            )
        )
        return Matches(METRIC, hits.exact, hits.scanned, matches)

    def search(
        self, vectors: NDArray[Any], *, k: int = 10, where: str | None = None
    ) -> tuple[Floats, Ints]:
        """Find the rows nearest to many vectors: arrays in, arrays out.

        Parameters
        ----------
        vectors
            ``[q, d]``.
        k, where
            As in `query`.

        Returns
        -------
        distances, rows
            float32 ``[q, k]`` and int64 ``[q, k]`` row numbers (for `ids`);
            infinity and -1 where there are fewer than k.
        """
        snapshot = self._snapshot()
        queries = as_latents(vectors, snapshot.dim, "vectors")
        hits = self._search(snapshot, queries, k, where)
        short = ((0, 0), (0, k - hits.rows.shape[1]))
        distances = np.pad(hits.distances, short, constant_values=np.inf)
        return distances, np.pad(hits.rows, short, constant_values=-1)

    def _search(self, snapshot: Snapshot, queries: Floats, k: int, where: str | None) -> Hits:
        if type(k) is not int or not 1 <= k <= MAX_K:
            raise InvalidInputError(f"k {k!r} cannot be used: give a whole number, 1 to {MAX_K}")
        compiled = self._filter(snapshot, where)
        index = None if compiled is not None else self._keeper.open(snapshot)
        return query.search(
            snapshot, queries, k=min(k, max(len(snapshot), 1)), where=compiled, index=index
        )

    @staticmethod
    def _filter(snapshot: Snapshot, where: str | None) -> Filter | None:
        return None if where is None else Filter(where, snapshot.manifest.columns)

    def _resolve(self, snapshot: Snapshot, targets: Sequence[TargetLike]) -> list[Target]:
        return resolve(snapshot, lambda: self.codec, targets)

    # --- latents and images -----------------------------------------------------

    def __len__(self) -> int:
        return len(self._snapshot())

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and bool(self._snapshot().locate([name])[0] >= 0)

    def ids(self, rows: NDArray[Any] | None = None, *, where: str | None = None) -> list[str]:
        """Ids in the order they came in: all, those of row numbers, or those of an expression.

        Raises
        ------
        NotFoundError
            If a row number is not alive.
        """
        snapshot = self._snapshot()
        if rows is None:
            return snapshot.ids(query.select(snapshot, self._filter(snapshot, where)))
        if where is not None:
            raise InvalidInputError("give row numbers or an expression, not both")
        numbers = np.asarray(rows, np.int64).reshape(-1)
        alive = np.isin(numbers, snapshot.live_rows())
        if not alive.all():
            raise NotFoundError(f"row {numbers[~alive][0]} is not in the store")
        return snapshot.ids(numbers)

    def vectors(self, ids: Sequence[str]) -> Floats:
        """z_mean of ids: float32 ``[n, d]``.

        Raises
        ------
        NotFoundError
            Names the first id that is not in the store.
        """
        names = check_ids(ids, unique=False)
        snapshot = self._snapshot()
        return snapshot.vectors(snapshot.find(names))

    def log_vars(self, ids: Sequence[str]) -> Floats | None:
        """z_log_var of ids: float32 ``[n, d]``; None in a store that has none."""
        names = check_ids(ids, unique=False)
        snapshot = self._snapshot()
        return snapshot.log_vars(snapshot.find(names))

    def decode(
        self,
        targets: TargetLike | Sequence[TargetLike],
        *,
        model: ModelLike | None = None,
    ) -> NDArray[np.uint8]:
        """Decode stored latents, images or vectors to images.

        Parameters
        ----------
        targets
            An id, a list of targets, or an array ``[n, d]``.
        model
            Only to make sure: any other than the store's own is refused.

        Returns
        -------
        ndarray
            uint8 ``[n, height, width, channels]``.
        """
        if model is not None:
            self.check_model(model)
        return self.codec.decode(self._latents(targets))

    def _latents(self, targets: TargetLike | Sequence[TargetLike]) -> Floats:
        snapshot = self._snapshot()
        if isinstance(targets, np.ndarray):
            array = targets[None] if targets.ndim == 1 else targets
            return as_latents(array, snapshot.dim, "latents")
        listed: Any = [targets] if isinstance(targets, str | os.PathLike) else targets
        if not len(listed):
            return np.empty((0, snapshot.dim), np.float32)
        return np.stack([target.vector for target in self._resolve(snapshot, listed)])

    def blend(
        self,
        targets: Sequence[TargetLike] | NDArray[Any],
        *,
        weights: Sequence[float] | None = None,
        method: str = "linear",
    ) -> Floats:
        """One latent out of several: see `latentdb.arithmetic.blend`.

        Returns
        -------
        ndarray
            float32 ``[d]``.
        """
        return arithmetic.blend(self._latents(targets), weights, method=method)

    def average(self, *, where: str | None = None) -> Average:
        """Mean latent of the rows an expression keeps, or of all.

        Raises
        ------
        NotFoundError
            If it keeps none.
        """
        snapshot = self._snapshot()
        total, count = query.total(snapshot, self._filter(snapshot, where))
        if not count:
            raise NotFoundError(
                "the store is empty"
                if where is None
                else f"no row fits {where!r}: nothing to average"
            )
        return Average((total / count).astype(np.float32), count)

    def interpolate(
        self, a: TargetLike, b: TargetLike, *, steps: int = 10, method: str = "linear"
    ) -> Floats:
        """A path from one target to another, both included.

        Returns
        -------
        ndarray
            float32 ``[steps, d]``.
        """
        ends = self._latents([a, b])
        return arithmetic.interpolate(ends[0], ends[1], steps, method=method)

    # --- pictures and files -----------------------------------------------------

    def write(self, latents: Floats, out: PathLike) -> None:
        """Write latents to a file by its ending.

        ``.npy``: the vectors themselves.  ``.gif``: an animation.  Another image
        ending: one decoded image pixel for pixel, or several in a row.

        Parameters
        ----------
        latents
            float32 ``[d]`` or ``[n, d]``.
        """
        if Path(out).suffix.lower() == ".npy":
            write_vectors(latents, out)
        else:
            check_picture(out)
            write_images(self.decode(latents), out)

    def decode_to(
        self, targets: Sequence[TargetLike], out: PathLike, *, model: ModelLike | None = None
    ) -> tuple[str, ...]:
        """Decode targets to files.

        Parameters
        ----------
        targets
            Ids, image paths, ``.npy`` files.
        out
            A file ending in .png (or another image format) for one image or a
            row of several; without an ending, a folder that gets one PNG each.
        model
            As in `decode`.

        Returns
        -------
        tuple of str
            The files written.
        """
        if model is not None:
            self.check_model(model)
        to_folder = os.path.isdir(out) or os.fspath(out).endswith(os.sep) or not Path(out).suffix
        if not to_folder:
            check_picture(out)
        found = self._resolve(self._snapshot(), targets)
        images = self.codec.decode(np.stack([target.vector for target in found]))
        if to_folder:
            return write_each(found, images, out)
        write_images(images, out)
        return (os.fspath(out),)

    def sheet(self, target: TargetLike, matches: Matches, out: PathLike) -> None:
        """Draw a query: the image, its reconstruction, then the matches with distances.

        An image whose file is gone is drawn as decoded from its latent, with
        ``~`` before its caption.
        """
        snapshot = self._snapshot()
        found = self._resolve(snapshot, [target])[0]
        path: str | None = None
        if found.kind == "id":
            path = snapshot.paths(snapshot.find([found.name]))[0]
        elif found.kind == "file":
            path = found.name
        latents = self.vectors([match.id for match in matches])
        write_query(self.codec, found, path, matches, latents, out)

    def export(self, out: PathLike, *, where: str | None = None) -> int:
        """Write rows to one ``.h5`` or ``.npy`` file: see `latentdb.export.export`.

        Returns
        -------
        int
            Rows written.
        """
        snapshot = self._snapshot()
        rows = query.select(snapshot, self._filter(snapshot, where))
        export(snapshot, rows, out)
        return len(rows)

    def info(self) -> Info:
        """What the store is and how it is searched."""
        return describe(self._snapshot())


def _recall(value: float) -> float:
    if not isinstance(value, int | float) or not 0 < value <= 1:
        raise InvalidInputError(f"recall {value!r} cannot be used: give a share, such as 0.99")
    return float(value)
