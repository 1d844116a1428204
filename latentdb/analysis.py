"""`Analysis`: what is in the latent space of an open store; a base of `Reader`."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, overload

import numpy as np

from latentdb.ann.metrics import L2, check_metric
from latentdb.base.errors import InvalidInputError
from latentdb.base.validate import as_latents
from latentdb.search.selection import check_column, column_values, parse_where, select_rows
from latentdb.store.columns import LABEL, Value
from latentdb.store.rows import Ints
from latentdb.store.snapshot import Snapshot

if TYPE_CHECKING:
    from latentdb.base.outputs import Output
    from latentdb.base.progress import Report
    from latentdb.images.pixel_range import Pixels
    from latentdb.images.render import Cell
    from latentdb.insight.clusters import Clustering
    from latentdb.insight.diagnosis import Diagnosis
    from latentdb.insight.map import Map
    from latentdb.model.codec import Codec
    from latentdb.model.generation import Sample, Traversal
    from latentdb.model.posterior import Decode, Posteriors
    from latentdb.search.targets import Target, TargetLike
    from latentdb.store.rows import Floats

PathLike = str | os.PathLike[str]
_SHEET_CLUSTERS = 40
_SHEET_DIMS = 12  # rows of the picture of a diagnosis
_SHEET_STEPS = 7
_HISTOGRAM_ROWS = 100_000


class Analysis(ABC):
    """The calls of `Reader` that describe a latent space instead of searching it.

    Each has a command of the same name; `out` and `sheet` name pictures, and `overwrite`
    replaces one that exists.
    """

    @abstractmethod
    def _snapshot(self) -> Snapshot: ...

    @property
    @abstractmethod
    def codec(self) -> Codec:
        """The store's model."""

    @abstractmethod
    def _resolve(self, snapshot: Snapshot, targets: Sequence[TargetLike]) -> list[Target]: ...

    def _rows(self, snapshot: Snapshot, where: str | None) -> Ints:
        return select_rows(snapshot, parse_where(snapshot, where))

    def _has_decoder(self, snapshot: Snapshot) -> bool:
        return snapshot.manifest.model is not None and self.codec.has_decoder

    def _decode(self, snapshot: Snapshot) -> Decode | None:
        """Decodes latents that need not be of rows.

        None without a decoder, and of a conditional model without a condition.
        """
        if not self._has_decoder(snapshot) or self.codec.needs_condition:
            return None
        return self.codec.decode

    def _conditions(self, snapshot: Snapshot, rows: Ints) -> list[dict[str, Value]] | None:
        """The metadata of rows with which a conditional model decodes them; None for others."""
        return snapshot.metadata(rows) if self.codec.needs_condition else None

    def _target_conditions(
        self, snapshot: Snapshot, targets: Sequence[Target]
    ) -> list[dict[str, Value]] | None:
        """As `_conditions`, of targets: what is no row has none."""
        if not self.codec.needs_condition:
            return None
        names = [target.name for target in targets if target.kind == "id"]
        found = iter(snapshot.metadata(snapshot.find(names)))
        return [next(found) if target.kind == "id" else {} for target in targets]

    def _output(
        self, out: PathLike, *, overwrite: bool, snapshot: Snapshot | None = None
    ) -> Output:
        """Where to write: replaces a file only if asked to, and never an image of the store."""
        from latentdb.base.outputs import Output
        from latentdb.output.originals import Originals

        originals = Originals(snapshot or self._snapshot())
        return Output(os.fspath(out), overwrite, originals.find)

    def _decode_grid(self, latents: Floats) -> Pixels:
        """Images of latents ``[m, s, d]``, uint8 ``[m, s, height, width, channels]``."""
        images = self.codec.decode(latents.reshape(-1, latents.shape[-1]))
        return images.reshape(*latents.shape[:2], *images.shape[1:])

    def diagnose(
        self,
        *,
        where: str | None = None,
        out: PathLike | None = None,
        overwrite: bool = False,
        seed: int = 0,
    ) -> Diagnosis:
        """Find out which dimensions carry something, and whether the posterior collapsed.

        Parameters
        ----------
        where
            Only rows for which this expression is true.
        out
            A picture: for the 12 dimensions with the greatest effect, the distribution of
            z_mean beside the prior, and a walk along the dimension.
        seed
            Of the 64 rows around which the decoded effect is measured.

        Raises
        ------
        NotFoundError
            If there are no rows.
        """
        from latentdb.insight.diagnosis import diagnose

        out = self._picture(out, overwrite=overwrite)
        snapshot = self._snapshot()
        rows = self._rows(snapshot, where)
        found, posteriors = diagnose(snapshot, rows, self._decode(snapshot), seed=seed)
        if out is not None:
            self._draw_diagnosis(snapshot, rows, found, posteriors, out, seed)
        return found

    @overload
    def _picture(self, out: PathLike, *, overwrite: bool) -> Output: ...
    @overload
    def _picture(self, out: PathLike | None, *, overwrite: bool) -> Output | None: ...
    def _picture(self, out: PathLike | None, *, overwrite: bool) -> Output | None:
        """Where to write a picture, refused before the work is done."""
        from latentdb.images.render import picture_format

        if out is None:
            return None
        picture_format(out)
        output = self._output(out, overwrite=overwrite)
        output.check()
        return output

    def _draw_diagnosis(
        self,
        snapshot: Snapshot,
        rows: Ints,
        found: Diagnosis,
        posteriors: Posteriors,
        out: PathLike,
        seed: int,
    ) -> None:
        from latentdb.images.render import contact_sheet, write_picture
        from latentdb.insight import pictures
        from latentdb.insight.blocks import sample_rows
        from latentdb.model.generation import traverse

        shown = found.dimensions[:_SHEET_DIMS]
        some = snapshot.vectors(sample_rows(rows, _HISTOGRAM_ROWS, seed)).astype(np.float64)
        cells = [
            (pictures.histogram(some[:, dimension.number]), pictures.dimension_caption(dimension))
            for dimension in shown
        ]
        sheet = [[cell] for cell in cells]
        if self._decode(snapshot) is not None:
            middle = posteriors.mean.astype(np.float32)
            walk = traverse(
                middle,
                [dimension.number for dimension in shown],
                posteriors.aggregate_sd,
                low=-3,
                high=3,
                steps=_SHEET_STEPS,
            )
            images = self._decode_grid(walk.latents)
            walks = pictures.traversal_rows(walk, images, [""] * len(shown))
            sheet = [[cell, *row] for cell, row in zip(cells, walks, strict=True)]
        write_picture(out, contact_sheet(sheet))

    def traverse(
        self,
        target: TargetLike | None = None,
        *,
        dims: str | Sequence[int] = "top:8",
        low: float = -3.0,
        high: float = 3.0,
        steps: int = 9,
        out: PathLike | None = None,
        overwrite: bool = False,
        seed: int = 0,
    ) -> Traversal:
        """Walk from a latent along dimensions of its space.

        Parameters
        ----------
        target
            Where to start; the mean latent of the store by default.
        dims
            ``"top:8"``: the dimensions with the greatest decoded effect; ``"1,5,9"`` or a
            list: these, numbered from 0.
        low, high
            In standard deviations of the aggregate posterior.
        steps
            Of each walk, 2 to 101.
        out
            A picture with a row per dimension; ``.gif``: one frame per step.
        seed
            As in `diagnose`.

        Raises
        ------
        InvalidInputError
            If the dimensions, the range or the steps cannot be used.
        NotFoundError
            If the store is empty.
        """
        from latentdb.insight import diagnosis
        from latentdb.insight.blocks import posterior_blocks
        from latentdb.model import generation
        from latentdb.model.posterior import statistics

        out = self._picture(out, overwrite=overwrite)
        snapshot = self._snapshot()
        rows = self._rows(snapshot, None)
        posteriors = statistics(posterior_blocks(snapshot, rows), snapshot.dim)
        named = dims if isinstance(dims, str) else ",".join(map(str, dims))
        generation.parse_dims(named, range(snapshot.dim))
        effects = None
        decode = self._decode(snapshot)
        if named.startswith("top") and decode is not None:
            effects = diagnosis.effects_of(snapshot, rows, posteriors, decode, seed=seed)
        numbers = generation.parse_dims(named, diagnosis.order(posteriors, effects))
        start = posteriors.mean.astype(np.float32)
        if target is not None:
            start = self._resolve(snapshot, [target])[0].vector
        walk = generation.traverse(
            start, numbers, posteriors.aggregate_sd, low=low, high=high, steps=steps
        )
        if out is not None:
            self._draw_walk(walk, effects, out)
        return walk

    def _draw_walk(
        self,
        walk: Traversal,
        effects: np.ndarray[tuple[int], np.dtype[np.float64]] | None,
        out: PathLike,
    ) -> None:
        from latentdb.images.render import contact_sheet, write_animation, write_picture
        from latentdb.insight.pictures import traversal_rows

        images = self._decode_grid(walk.latents)
        captions = [
            f"dim {dim}" + ("" if effects is None else f": {255 * effects[dim]:.1f} levels")
            for dim in walk.dims
        ]
        if os.fspath(out).lower().endswith(".gif"):
            # Dimensions below each other, one frame per step.
            frames = images.swapaxes(0, 1)
            steps, dims, height, width, channels = frames.shape
            write_animation(out, frames.reshape(steps, dims * height, width, channels))
        else:
            write_picture(out, contact_sheet(traversal_rows(walk, images, captions)))

    def sample(
        self,
        n: int = 64,
        *,
        source: str = "prior",
        where: str | None = None,
        out: PathLike | None = None,
        overwrite: bool = False,
        seed: int = 0,
    ) -> Sample:
        """Draw random latents, to see what the decoder makes of them.

        Parameters
        ----------
        n
            Number of latents.
        source
            ``"prior"``: N(0, 1).  ``"aggregate"``: a Gaussian with mean and covariance of the
            stored posteriors, for models whose posteriors are not near the prior.
        where
            With ``"aggregate"``: only rows for which this expression is true.
        out
            A picture of the decoded latents.

        Raises
        ------
        InvalidInputError
            If the source or the number cannot be used.
        NotFoundError
            If there are no rows to fit a Gaussian to.
        """
        from latentdb.insight.blocks import posterior_blocks
        from latentdb.model import generation

        generation.check_sampling(n, source)
        output = None if out is None else self._latents_output(out, overwrite=overwrite)
        if where is not None and source != generation.AGGREGATE:
            raise InvalidInputError("an expression selects the rows of source 'aggregate' only")
        snapshot = self._snapshot()
        if source == generation.PRIOR:
            drawn = generation.sample_prior(n, snapshot.dim, seed=seed)
        else:
            blocks = posterior_blocks(snapshot, self._rows(snapshot, where))
            drawn = generation.sample_aggregate(n, snapshot.dim, blocks, seed=seed)
        if output is not None:
            self._write_latents(drawn.latents, output)
        return drawn

    def _latents_output(self, out: PathLike, *, overwrite: bool) -> Output:
        """Where to write latents (``.npy``) or their picture, refused before the work is done."""
        from latentdb.images.render import picture_format

        output = self._output(out, overwrite=overwrite)
        output.check()
        if not _is_npy(output):
            picture_format(out)
        return output

    def _write_latents(self, latents: Floats, out: Output, scale: int = 1) -> None:
        """Write latents ``[d]`` or ``[n, d]`` as they are, or decoded as one picture."""
        from latentdb.images.render import enlarge
        from latentdb.output import figures

        figures.check_scale(scale)
        if _is_npy(out):
            if scale != 1:
                raise InvalidInputError(f"{out.path}: latents have no scale: leave it out")
            figures.write_vectors(latents, out)
            return
        height, width, channels = self.codec.config.preprocessing.shape
        shape = (scale * height, scale * width, channels)
        figures.check_count(np.atleast_2d(latents).shape[0], shape)
        rows = as_latents(np.atleast_2d(latents), self._snapshot().dim, "latents")
        figures.write_images(enlarge(self.codec.decode(rows), scale), out)

    # --- all rows at once -------------------------------------------------------

    def cluster(
        self,
        n: int = 20,
        *,
        where: str | None = None,
        metric: str = L2,
        label: str | None = None,
        out: PathLike | None = None,
        overwrite: bool = False,
        seed: int = 0,
    ) -> Clustering:
        """Group rows into n clusters by k-means.

        Parameters
        ----------
        n
            Number of clusters.
        where
            Only rows for which this expression is true.
        metric
            As in `query`.
        label
            Metadata column to measure purity by; ``"label"`` where the store has it.
        out
            A picture: for each of the 40 largest clusters the decoded mean, the medoid, and
            the rows next to it.

        Raises
        ------
        InvalidInputError
            If there are fewer rows than clusters, or no such column.
        """
        from latentdb.insight.clusters import cluster

        out = self._picture(out, overwrite=overwrite)
        snapshot = self._snapshot()
        found = cluster(
            snapshot,
            self._rows(snapshot, where),
            n,
            metric=check_metric(metric),
            label=self._label(snapshot, label),
            seed=seed,
        )
        if out is not None:
            self._draw_clusters(snapshot, found, out)
        return found

    @staticmethod
    def _label(snapshot: Snapshot, label: str | None) -> str | None:
        return LABEL if label is None and LABEL in snapshot.manifest.columns else label

    def _draw_clusters(self, snapshot: Snapshot, found: Clustering, out: PathLike) -> None:
        from latentdb.images.render import contact_sheet, write_picture
        from latentdb.insight.pictures import cluster_caption

        shown = found.clusters[:_SHEET_CLUSTERS]
        means = self.codec.decode(found.means[: len(shown)])
        sheet: list[list[Cell]] = []
        for cluster, mean in zip(shown, means, strict=True):
            names = [cluster.medoid, *cluster.nearest]
            captions = ["medoid", *([""] * len(cluster.nearest))]
            images = self._images(snapshot, snapshot.find(names))
            cells = list(zip(images, captions, strict=True))
            sheet.append([(mean, cluster_caption(cluster)), *cells])
        write_picture(out, contact_sheet(sheet))

    def _images(self, snapshot: Snapshot, rows: Ints) -> Pixels:
        """The images of rows, from their files, else decoded from their latents.

        uint8 ``[n, height, width, channels]``.
        """
        from latentdb.insight.originals import read_or_decode

        codec = self.codec
        return read_or_decode(snapshot, rows, codec.config.preprocessing, codec.decode)[0]

    def map(
        self,
        *,
        where: str | None = None,
        metric: str = L2,
        color: str | None = None,
        out: PathLike | None = None,
        overwrite: bool = False,
        renew: bool = False,
        seed: int = 0,
        report: Report | None = None,
    ) -> Map:
        """Place rows in a plane, neighbours near to each other.

        The layout is made once, of up to 50,000 rows, and kept in the store; further rows
        are placed among them and move none.

        Parameters
        ----------
        where
            Only rows for which this expression is true.
        metric
            As in `query`.
        color
            Metadata column to colour by; ``"label"`` where the store has it.
        out
            A picture with thumbnails and a legend.
        renew
            Make the layout anew: after many rows were added.
        report
            Called with the progress.

        Raises
        ------
        NotFoundError
            If there are no rows.
        InvalidInputError
            If there is no such column or metric.
        """
        from latentdb.insight.map import make_map

        out = self._picture(out, overwrite=overwrite)
        snapshot = self._snapshot()
        label = self._label(snapshot, color)
        check_column(snapshot, label)
        rows = self._rows(snapshot, where)
        found = make_map(
            snapshot,
            rows,
            metric=check_metric(metric),
            seed=seed,
            renew=renew,
            report=report,
        )
        if out is not None:
            self._draw_map(snapshot, found, label, out)
        return found

    def _draw_map(self, snapshot: Snapshot, found: Map, label: str | None, out: PathLike) -> None:
        from latentdb.images.render import write_picture
        from latentdb.insight.atlas import draw_map, thumbnail_points

        shown = np.empty(0, np.int64)
        images: list[Pixels] = []
        if self._has_decoder(snapshot):
            shown = thumbnail_points(found.points)
            images = list(self._images(snapshot, found.rows[shown]))
        values = None if label is None else column_values(snapshot, found.rows, label)
        note = f"keeps {found.kept:.1%} of the 10 nearest neighbours ({found.metric})"
        picture = draw_map(found.points, shown, images, values, label or "", note)
        write_picture(out, picture)


def _is_npy(out: PathLike) -> bool:
    return os.fspath(out).lower().endswith(".npy")
