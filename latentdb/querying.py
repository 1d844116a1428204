"""`Querying`: the rows nearest to targets and to vectors; a base of `Reader`."""

from __future__ import annotations

import math
import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from numbers import Real
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from latentdb.ann.metrics import KL, L2, check_metric
from latentdb.base.errors import InvalidInputError
from latentdb.base.validate import as_latents, check_target_list
from latentdb.search.manager import IndexManager
from latentdb.search.results import Hits, Matches, to_matches
from latentdb.search.searcher import MAX_FLOAT32, Searcher, check_k, check_total
from latentdb.search.selection import parse_where
from latentdb.search.targets import (
    Target,
    TargetLike,
    combine,
    is_row,
    read_targets,
    resolve,
    stored_rows,
)
from latentdb.store.rows import Floats, Ints
from latentdb.store.snapshot import Snapshot

if TYPE_CHECKING:
    from latentdb.model.codec import Codec

DEFAULT_K = 10
PathLike = str | os.PathLike[str]


class Querying(ABC):
    """An open store that is searched."""

    _index_manager: IndexManager

    @abstractmethod
    def _snapshot(self) -> Snapshot: ...

    @property
    @abstractmethod
    def codec(self) -> Codec:
        """The store's model."""

    def query(
        self,
        target: TargetLike | None = None,
        *,
        k: int | None = None,
        where: str | None = None,
        metric: str | None = None,
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
            An id, an image path, or an array ``[d]``.  Optional if `like` is given.
        k
            Number of matches: 10 by default; with `radius`, all within it.
        where
            A metadata expression, such as ``'label == "cat" and year > 2000'``.
        metric
            ``"l2"``, ``"cosine"``, ``"centered_cosine"``, ``"wasserstein"`` or
            ``"kl"``: see `latentdb.ann.metrics`.  By default the store's, which
            `info` gives.
        radius
            Only rows within this distance.
        exact
            Compare every row.
        exclude_self
            Leave out the rows of `target`, `like` and `unlike`.
        like, unlike
            Further targets to be near to, and targets to be far from.  The query
            is the mean of the first, moved away from the mean of the second by
            their difference (Rocchio 1971).

        Raises
        ------
        IdNotFoundError
            If the target is neither an id nor a file.
        FilterError, InvalidInputError
            If the expression, k, metric or radius is invalid.
        """
        k = DEFAULT_K if k is None and radius is None else k
        snapshot = self._snapshot()
        examples, query = self._question(snapshot, target, like, unlike)
        searcher = self._searcher(snapshot, metric)
        excluded = set().union(*stored_rows(snapshot, examples)) if exclude_self else set()
        hits = self._search(
            searcher,
            searcher.space.embed(*query),
            k,
            where,
            radius,
            len(excluded),
            exact,
            composed=not is_row(examples),
        )
        return to_matches(snapshot, searcher.metric, hits, 0, excluded, k)

    def _question(
        self,
        snapshot: Snapshot,
        target: TargetLike | None,
        like: Sequence[TargetLike],
        unlike: Sequence[TargetLike],
    ) -> tuple[list[Target], tuple[Floats, Floats | None]]:
        """The examples of a query, and what is sought: z_mean and z_log_var of their sum."""
        check_target_list(like, "like")
        check_target_list(unlike, "unlike")
        liked = [*([] if target is None else [target]), *like]
        if not liked:
            raise InvalidInputError("nothing to search for: give a target, or examples with like")
        examples = self._resolve(snapshot, [*liked, *unlike])
        return examples, combine(examples[: len(liked)], examples[len(liked) :])

    def _searcher(self, snapshot: Snapshot, metric: str | None) -> Searcher:
        """What searches a version under a metric, by default that of the store."""
        metric = snapshot.default_metric if metric is None else check_metric(metric)
        return self._index_manager.searcher(snapshot, metric)

    def query_many(
        self,
        targets: Sequence[TargetLike] | NDArray[Any],
        *,
        k: int | None = None,
        where: str | None = None,
        metric: str | None = None,
        radius: float | None = None,
        exact: bool = False,
        exclude_self: bool = False,
    ) -> tuple[Matches, ...]:
        """Find the rows nearest to each of many targets, in one search.

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
        k = DEFAULT_K if k is None and radius is None else k
        check_target_list(targets, "targets")
        snapshot = self._snapshot()
        examples = self._resolve(snapshot, list(targets))
        searcher = self._searcher(snapshot, metric)
        queries = [searcher.space.embed(*combine([example])) for example in examples]
        if not queries:
            return ()
        excluded = stored_rows(snapshot, examples) if exclude_self else [set()] * len(examples)
        extra = max(map(len, excluded))
        found: dict[int, Matches] = {}
        for composed in (False, True):
            numbers = [n for n, of in enumerate(examples) if is_row([of]) is not composed]
            if not numbers:
                continue
            asked = np.concatenate([queries[number] for number in numbers])
            hits = self._search(searcher, asked, k, where, radius, extra, exact, composed=composed)
            for place, number in enumerate(numbers):
                found[number] = to_matches(
                    snapshot, searcher.metric, hits, place, excluded[number], k
                )
        return tuple(found[number] for number in range(len(examples)))

    def query_file(self, file: PathLike, **options: Any) -> tuple[tuple[str, Matches], ...]:
        """`query_many` of the targets in a file, as pairs of target and matches.

        Parameters
        ----------
        file
            Text with one target per line; or ``.npy`` of shape ``[n, d]``, whose
            targets are named by their row number.
        options
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
        return tuple(zip(names, self.query_many(targets, **options), strict=True))

    def search(
        self,
        vectors: NDArray[Any],
        *,
        k: int = 10,
        where: str | None = None,
        metric: str | None = None,
        exact: bool = False,
        composed: bool = True,
        z_log_var: NDArray[Any] | None = None,
    ) -> tuple[Floats, Ints]:
        """Find the rows nearest to many vectors: arrays in, arrays out.

        Parameters
        ----------
        vectors
            ``[q, d]``.
        k, where, metric
            As in `query`.
        exact
            Compare every row.
        composed
            The vectors may be anything: new images, blends, averages, samples.  False
            promises that each is a row, or as near to its neighbours as rows are to theirs,
            and is faster; of others it finds fewer of the neighbours than the target recall.
        z_log_var
            ``[q, d]``: of `vectors`, for metrics that compare posteriors.

        Returns
        -------
        distances, rows
            float32 ``[q, k]`` and int64 ``[q, k]`` row numbers (for `ids`);
            infinity and -1 where there are fewer than k.
        """
        snapshot = self._snapshot()
        searcher = self._searcher(snapshot, metric)
        queries = as_latents(vectors, snapshot.dim, "vectors")
        if searcher.metric != L2:
            log_vars = None
            if z_log_var is not None:
                log_vars = as_latents(z_log_var, snapshot.dim, "z_log_var")
                if len(log_vars) != len(queries):
                    raise InvalidInputError(
                        f"z_log_var has {len(log_vars)} rows for {len(queries)} vectors"
                    )
            queries = searcher.space.embed(queries, log_vars)
        hits = self._search(searcher, queries, k, where, None, 0, exact, composed=composed)
        missing = k - hits.rows.shape[1]
        if not missing:
            return hits.distances, hits.rows
        distances = np.pad(hits.distances, ((0, 0), (0, missing)), constant_values=np.inf)
        return distances, np.pad(hits.rows, ((0, 0), (0, missing)), constant_values=-1)

    def _search(
        self,
        searcher: Searcher,
        queries: Floats,
        k: int | None,
        where: str | None,
        radius: float | None,
        extra: int,
        exact: bool,
        *,
        composed: bool = False,
    ) -> Hits:
        """The k nearest rows of each query, and `extra` ones in place of excluded rows.

        Queries that are `composed` of latents lie between the rows or beyond them: the index
        is searched as it was tuned for such, or every row is compared.
        """
        if radius is not None:
            if not (isinstance(radius, Real) and radius >= 0):
                raise InvalidInputError(
                    f"radius {radius!r} cannot be used: give a distance, 0 or more"
                )
            radius = float(radius) if radius <= MAX_FLOAT32 else math.inf
        if exact and searcher.metric == KL:
            raise InvalidInputError(
                "exact does not go with metric 'kl', which ranks the nearest by wasserstein: "
                "use wasserstein, or leave exact out"
            )
        condition = parse_where(searcher.snapshot, where)
        if k is None and radius is not None:
            return searcher.within(queries, radius, where=condition)
        k = check_k(k)
        check_total(len(queries), k)
        count = min(k + extra, max(len(searcher.snapshot), 1))
        hits = searcher.search(queries, k=count, where=condition, exact=exact, composed=composed)
        return hits if radius is None else hits.within(radius)

    def _resolve(self, snapshot: Snapshot, targets: Sequence[TargetLike]) -> list[Target]:
        return resolve(snapshot, lambda: self.codec, targets)
