"""Everything that is asked of a store: query, decode, blend, draw, export."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from latentdb.ann.metrics import KL, L2, check_metric
from latentdb.base.errors import (
    InvalidInputError,
    NotFoundError,
)
from latentdb.base.validate import as_latents, check_ids, check_target_list
from latentdb.connection import Connection
from latentdb.search.filters import Filter
from latentdb.search.results import Average, Hits, Match, Matches
from latentdb.search.searcher import Searcher
from latentdb.search.selection import select_rows, sum_rows
from latentdb.search.targets import (
    Target,
    TargetLike,
    combine,
    read_targets,
    resolve,
    stored_rows,
)
from latentdb.store.segment import Floats, Ints
from latentdb.store.snapshot import Snapshot

# What draws and decodes is imported where it is asked for: a query by id starts sooner.
if TYPE_CHECKING:
    from latentdb.base.progress import Report
    from latentdb.output import sinks
    from latentdb.search.results import Info
    from latentdb.stored_model import ModelLike

MAX_K = 100_000
PathLike = str | os.PathLike[str]


class Reader(Connection):
    """An open store that is read; a context manager.

    Every call works on the version that is committed when it begins.
    """

    # --- ask --------------------------------------------------------------------

    def query(
        self,
        target: TargetLike | None = None,
        *,
        k: int | None = None,
        where: str | None = None,
        metric: str = L2,
        radius: float | None = None,
        exact: bool = False,
        exclude_self: bool = False,
        like: Sequence[TargetLike] = (),
        unlike: Sequence[TargetLike] = (),
    ) -> Matches:
        """Find the rows nearest to a target.

        Parameters
        ----------
        target
            An id, an image path, or an array ``[d]``; may be left out where
            `like` is given.
        k
            Neighbours wanted: 10, or with `radius` as many as there are.
        where
            A metadata expression, such as ``'label == "cat" and year > 2000'``.
        metric
            ``"l2"``, ``"cosine"``, ``"wasserstein"`` or ``"kl"``: see
            `latentdb.ann.metrics`.
        radius
            Only rows within this distance.
        exact
            Compare every row.  The recall of the index is that of queries like the
            rows; a mean of several may lie where it finds fewer.
        exclude_self
            Leave out the rows of the target, and of the examples.
        like, unlike
            Further targets to be near to, and targets to be far from: the mean
            of the former, moved on by its distance from the mean of the latter
            (Rocchio 1971).

        Raises
        ------
        NotFoundError
            If the target is neither an id nor a file.
        FilterError, InvalidInputError
            If the expression, k, metric or radius cannot be used.
        """
        check_target_list(like, "like")
        check_target_list(unlike, "unlike")
        liked = [*([] if target is None else [target]), *like]
        if not liked:
            raise InvalidInputError("nothing to look for: give a target, or examples with like")
        snapshot = self._snapshot()
        found = self._resolve(snapshot, [*liked, *unlike])
        searcher = self._index_manager.searcher(snapshot, check_metric(metric))
        query = combine(found[: len(liked)], found[len(liked) :])
        excluded = set().union(*stored_rows(snapshot, found)) if exclude_self else set()
        hits = self._search(
            searcher, searcher.space.embed(*query), k, where, radius, len(excluded), exact
        )
        return self._matches(snapshot, metric, hits, 0, excluded, k)

    def query_many(
        self,
        targets: Sequence[TargetLike] | NDArray[Any],
        *,
        k: int | None = None,
        where: str | None = None,
        metric: str = L2,
        radius: float | None = None,
        exact: bool = False,
        exclude_self: bool = False,
    ) -> tuple[Matches, ...]:
        """Find the rows nearest to each of many targets, at once.

        Parameters
        ----------
        targets
            Ids, image paths, arrays ``[d]``; or an array ``[q, d]``.
        k, where, metric, radius, exact, exclude_self
            As in `query`.

        Returns
        -------
        tuple of Matches
            One for each target, in their order.
        """
        check_target_list(targets, "targets")
        snapshot = self._snapshot()
        found = self._resolve(snapshot, list(targets))
        searcher = self._index_manager.searcher(snapshot, check_metric(metric))
        embedded = [searcher.space.embed(*combine([target])) for target in found]
        if not embedded:
            return ()
        excluded = stored_rows(snapshot, found) if exclude_self else [set()] * len(found)
        most = max(map(len, excluded))
        hits = self._search(searcher, np.concatenate(embedded), k, where, radius, most, exact)
        return tuple(
            self._matches(snapshot, metric, hits, number, excluded[number], k)
            for number in range(len(found))
        )

    def query_file(self, file: PathLike, **how: Any) -> tuple[tuple[str, Matches], ...]:
        """`query_many` of the targets in a file, each with its name.

        Parameters
        ----------
        file
            Text with a target a line, or ``.npy`` of shape ``[n, d]``, whose
            targets are named by their place.
        how
            As in `query_many`.

        Raises
        ------
        InvalidInputError, NotFoundError
            If the file cannot be used.
        """
        targets = read_targets(file, self._snapshot().dim)
        names = [str(number) for number in range(len(targets))]
        if isinstance(targets, list):
            names = targets
        return tuple(zip(names, self.query_many(targets, **how), strict=True))

    @staticmethod
    def _matches(
        snapshot: Snapshot,
        metric: str,
        hits: Hits,
        number: int,
        excluded: set[int],
        k: int | None,
    ) -> Matches:
        """The matches of one query, with id, path and metadata, without excluded rows."""
        mask = hits.rows[number] >= 0
        if excluded:
            mask &= ~np.isin(hits.rows[number], list(excluded))
        rows, distances = hits.rows[number][mask][:k], hits.distances[number][mask][:k]
        facts = zip(distances.tolist(), snapshot.facts(rows), strict=True)
        scanned = hits.scanned // len(hits.rows)
        return Matches(
            metric,
            hits.exact,
            scanned,
            tuple(
                Match(rank, name, distance, path, metadata)
                for rank, (distance, (name, path, metadata)) in enumerate(facts, 1)
            ),
        )

    def search(
        self,
        vectors: NDArray[Any],
        *,
        k: int = 10,
        where: str | None = None,
        metric: str = L2,
        exact: bool = False,
        z_log_var: NDArray[Any] | None = None,
    ) -> tuple[Floats, Ints]:
        """Find the rows nearest to many vectors: arrays in, arrays out.

        Parameters
        ----------
        vectors
            ``[q, d]``.
        k, where, metric, exact
            As in `query`.
        z_log_var
            ``[q, d]``: of the vectors, for a metric that compares posteriors.

        Returns
        -------
        distances, rows
            float32 ``[q, k]`` and int64 ``[q, k]`` row numbers (for `ids`);
            infinity and -1 where there are fewer than k.
        """
        snapshot = self._snapshot()
        searcher = self._index_manager.searcher(snapshot, check_metric(metric))
        queries = as_latents(vectors, snapshot.dim, "vectors")
        if metric != L2:
            log_vars = None
            if z_log_var is not None:
                log_vars = as_latents(z_log_var, snapshot.dim, "z_log_var")
            if log_vars is not None and len(log_vars) != len(queries):
                raise InvalidInputError(
                    f"z_log_var has {len(log_vars)} rows for {len(queries)} vectors"
                )
            queries = searcher.space.embed(queries, log_vars)
        hits = self._search(searcher, queries, k, where, None, 0, exact)
        if hits.rows.shape[1] == k:
            return hits.distances, hits.rows
        short = ((0, 0), (0, k - hits.rows.shape[1]))
        distances = np.pad(hits.distances, short, constant_values=np.inf)
        return distances, np.pad(hits.rows, short, constant_values=-1)

    def _search(
        self,
        searcher: Searcher,
        queries: Floats,
        k: int | None,
        where: str | None,
        radius: float | None,
        excluded: int,
        exact: bool,
    ) -> Hits:
        """Search for k neighbours, and as many more as there are rows to exclude."""
        if radius is not None and not (isinstance(radius, int | float) and radius >= 0):
            raise InvalidInputError(f"radius {radius!r} cannot be used: give a distance, 0 or more")
        if exact and searcher.metric == KL:
            raise InvalidInputError(
                "exact does not go with metric 'kl', which ranks the nearest by wasserstein: "
                "use wasserstein, or leave exact out"
            )
        compiled = None if where is None else self._filter(searcher.snapshot, where)
        if k is None and radius is not None:
            return searcher.within(queries, radius, where=compiled)
        wanted = 10 if k is None else k
        if type(wanted) is not int or not 1 <= wanted <= MAX_K:
            raise InvalidInputError(f"k {k!r} cannot be used: give a whole number, 1 to {MAX_K}")
        most = min(wanted + excluded, max(len(searcher.snapshot), 1))
        hits = searcher.search(queries, k=most, where=compiled, exact=exact)
        return hits if radius is None else hits.within(radius)

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
            return snapshot.ids(select_rows(snapshot, self._filter(snapshot, where)))
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
        """One latent out of several: see `latentdb.model.arithmetic.blend`.

        Returns
        -------
        ndarray
            float32 ``[d]``.
        """
        from latentdb.model import arithmetic

        return arithmetic.blend(self._latents(targets), weights, method=method)

    def average(self, *, where: str | None = None) -> Average:
        """Mean latent of the rows an expression keeps, or of all.

        Raises
        ------
        NotFoundError
            If it keeps none.
        """
        snapshot = self._snapshot()
        total, count = sum_rows(snapshot, self._filter(snapshot, where))
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
        from latentdb.model import arithmetic

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
        from latentdb.images.render import picture_format
        from latentdb.output.figures import write_images, write_vectors

        if Path(out).suffix.lower() == ".npy":
            write_vectors(latents, out)
        else:
            picture_format(out)  # refuse a suffix before the images are decoded
            write_images(self.decode(latents), out)

    def decode_to(
        self,
        targets: Sequence[TargetLike] | None,
        out: PathLike | None = None,
        *,
        where: str | None = None,
        format: str | None = None,
        sheet: PathLike | None = None,
        model: ModelLike | None = None,
        report: Report | None = None,
    ) -> tuple[str, ...]:
        """Decode targets, or all rows, to files; memory does not grow with their number.

        Parameters
        ----------
        targets
            Ids, image paths, ``.npy`` files; None for all rows.
        out
            Without an ending, a folder that gets one picture each.  A file
            ending in ``.npy`` gets all pixels, uint8 ``[n, height, width,
            channels]``; one ending in .png (or another image format) gets the
            image, or a row of several, of targets that were given.
        where
            Of all rows, only those for which this expression is true.
        format
            Of the pictures in a folder: ``"png"`` (the default), ``"jpeg"`` or
            ``"webp"``; or ``"npy"``.
        sheet
            Also, or instead, contact sheets: a picture of up to 120 images with
            their ids, and numbered ones if there are more.
        model
            As in `decode`.
        report
            Called with the progress.

        Returns
        -------
        tuple of str
            The files written.

        Raises
        ------
        InvalidInputError
            If `out` and `format` do not fit each other, or nothing is to be written.
        StoreError
            If a file cannot be written.
        """
        from latentdb.output import sinks

        if model is not None:
            self.check_model(model)
        if targets is not None and where is not None:
            raise InvalidInputError("give targets or an expression to decode, not both")
        kind = sinks.output_format(out, format, one_file=targets is not None)
        if out is None and sheet is None:
            raise InvalidInputError("nothing to write: give out, sheet, or both")
        snapshot, codec = self._snapshot(), self.codec
        config, size = codec.config, sinks.batch_size(codec.config)
        if targets is None:
            rows = select_rows(snapshot, self._filter(snapshot, where))
            total, given = len(rows), sinks.row_batches(snapshot, rows, size)
        else:
            found = self._resolve(snapshot, targets)
            total, given = len(found), sinks.target_batches(found, size)
        chosen: list[sinks.Sink] = []
        if out is not None and kind == "npy":
            chosen.append(sinks.NpySink(out, total, config))
        elif out is not None and kind == "picture":
            chosen.append(sinks.PictureSink(out))
        elif out is not None:
            chosen.append(sinks.FolderSink(out, kind))
        if sheet is not None:
            chosen.append(sinks.SheetSink(sheet, total, config))
        return sinks.decode_all(codec, given, total, chosen, report)

    def sheet(self, target: TargetLike, matches: Matches, out: PathLike) -> None:
        """Draw a query: the image, its reconstruction, then the matches with distances.

        An image whose file is gone is drawn as decoded from its latent, with
        ``~`` before its caption.
        """
        from latentdb.output.figures import write_query

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
        """Write rows to one file: see `latentdb.exchange.exporting.export`.

        Returns
        -------
        int
            Rows written.
        """
        from latentdb.exchange.exporting import export

        snapshot = self._snapshot()
        rows = select_rows(snapshot, self._filter(snapshot, where))
        export(snapshot, rows, out)
        return len(rows)

    def info(self) -> Info:
        """What the store is and how it is searched."""
        from latentdb.stored_model import describe

        return describe(self._snapshot())
