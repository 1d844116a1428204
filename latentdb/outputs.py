"""`Outputs`: an open store written to files: pictures, arrays, exports; a base of `Reader`."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np

from latentdb.base.errors import InvalidInputError
from latentdb.base.wording import counted
from latentdb.composition import Composition
from latentdb.row_access import read_rows

if TYPE_CHECKING:
    from latentdb.base.progress import Report
    from latentdb.images.pixel_range import Pixels
    from latentdb.output.sheets import Answer, SheetPainter, Shown
    from latentdb.output.sinks import Decoded
    from latentdb.search.results import Average, Matches
    from latentdb.search.targets import TargetLike
    from latentdb.store.columns import Value
    from latentdb.store.rows import Floats
    from latentdb.store.snapshot import Snapshot
    from latentdb.stored_model import ModelLike

PathLike = str | os.PathLike[str]
_SHEET_QUERIES = 10  # on one sheet
_SHEET_ROWS = 10  # of an average


class Outputs(Composition):
    """The calls of `Reader` that write files; what they name is never read by the store."""

    @abstractmethod
    def _check_model(self, model: ModelLike | None) -> None: ...

    def write(
        self, latents: Floats, out: PathLike, *, scale: int = 1, overwrite: bool = False
    ) -> None:
        """Write latents, float32 ``[d]`` or ``[n, d]``, to a file by its ending.

        ``.npy``: the vectors themselves.  ``.gif``: an animation.  Another image
        ending: one decoded image pixel for pixel, or several in a row.

        Parameters
        ----------
        scale
            Enlarge each image by this whole factor, without interpolation.

        Raises
        ------
        AlreadyExistsError
            If the file exists, unless `overwrite` is set; if it is the image of a row, or
            in the store, in any case.
        """
        self._write_latents(latents, self._latents_output(out, overwrite=overwrite), scale)

    def decode_to(
        self,
        targets: Sequence[TargetLike] | None,
        out: PathLike | None = None,
        *,
        where: str | None = None,
        format: str | None = None,
        sheet: PathLike | None = None,
        compare: bool = False,
        scale: int = 1,
        overwrite: bool = False,
        model: ModelLike | None = None,
        report: Report | None = None,
    ) -> Decoded:
        """Decode targets, or all rows, to files; memory holds their names, not the images.

        Parameters
        ----------
        targets
            Ids, image paths, ``.npy`` files; None for all rows.
        out
            A folder: one file per image.  A ``.npy`` file: all pixels, uint8 ``[n,
            height, width, channels]``.  A picture (only with targets): the image,
            or several in a row.
        where
            With ``targets=None``: only rows for which this expression is true.
        format
            Of the files in a folder: ``"png"`` (default), ``"jpeg"`` or ``"webp"``.
        sheet
            Also, or instead of `out`: contact sheets of up to 120 images with their
            ids, numbered if there are several.
        compare
            Draw the original beside each image on the sheets.
        scale
            Enlarge each image of `out` by this whole factor, without interpolation.
        overwrite
            Replace files that exist; never the image of a row, or a file of the store.
        model
            As in `decode`.
        report
            Called with the progress.

        Returns
        -------
        Decoded
            The files written: a sequence of paths; in a folder, with their ids.

        Raises
        ------
        InvalidInputError
            If `out` and `format` do not fit each other, neither `out` nor `sheet` is given, or
            `out` is in a folder of indexed images, unless `overwrite` is set.
        AlreadyExistsError
            If a file exists; nothing is written then.
        StoreError
            If a file cannot be written.
        """
        from latentdb.output import sinks
        from latentdb.output.originals import Originals

        self._check_model(model)
        if targets is not None and where is not None:
            raise InvalidInputError("give targets or an expression to decode, not both")
        kind = sinks.output_format(out, format, one_file=targets is not None)
        if out is None and sheet is None:
            raise InvalidInputError("nothing to write: give out, sheet, or both")
        snapshot, codec = self._snapshot(), self.codec
        size = sinks.batch_size(codec.config)
        others: dict[str, str | None] = {}  # names that are no ids, and their files
        if targets is None:
            rows = self._rows(snapshot, where)
            names = snapshot.ids(rows)
            batches = sinks.row_batches(snapshot, rows, size, self._conditions)
        else:
            examples = self._resolve(snapshot, targets)
            names = [example.name for example in examples]
            conditions = self._target_conditions(snapshot, examples)
            batches = sinks.target_batches(examples, size, conditions)
            others = {
                example.name: example.name if example.kind == "file" else None
                for example in examples
                if example.kind != "id"
            }
        out, sheet = (
            None if path is None else self._output(path, overwrite=overwrite, snapshot=snapshot)
            for path in (out, sheet)
        )
        collection = chain(sinks.stored_ids(snapshot), others)
        originals = partial(self._read_originals, snapshot, others) if compare else None
        outputs = sinks.make_sinks(
            out, kind, sheet, names, collection, codec.config, scale=scale, originals=originals
        )
        if out is not None and kind in sinks.SUFFIXES and not overwrite:
            Originals(snapshot).check_folder(os.fspath(out))
        return sinks.decode_all(codec, batches, len(names), outputs, report)

    def _read_originals(
        self, snapshot: Snapshot, others: Mapping[str, str | None], names: Sequence[str]
    ) -> list[Pixels | None]:
        """The images that names were encoded from, as the model reads them; None for none."""
        from latentdb.images.many import read_files
        from latentdb.store.originals import intact_paths

        ids = [name for name in names if name not in others]
        found = intact_paths(snapshot, snapshot.find(ids))
        files = dict(zip(ids, found, strict=True)) | dict(others)
        return read_files([files[name] for name in names], self.codec.config.preprocessing)

    # --- sheets: what was asked beside what was found -----------------------------

    def sheet(
        self,
        target: TargetLike | None,
        matches: Matches,
        out: PathLike,
        *,
        like: Sequence[TargetLike] = (),
        overwrite: bool = False,
    ) -> None:
        """Draw a query: the image, its reconstruction, then the matches with distances.

        Images are drawn from their files; one that cannot be read is decoded from its
        latent instead, and its caption begins with ``~``.  Frames show whether a match
        has the label of the target.

        Parameters
        ----------
        target, like
            As of `Reader.query`.
        matches
            What it answered.
        out
            The picture.
        overwrite
            Replace one that exists.
        """
        targets = [*([] if target is None else [target]), *like]
        if not targets:
            raise InvalidInputError("nothing to draw: give a target, or examples with like")
        output = self._picture(out, overwrite=overwrite)
        snapshot = self._snapshot()
        painter = self._painter(snapshot)
        query = (self._shown(snapshot, targets, painter), self._answer(snapshot, matches, painter))
        painter.draw_queries([query], output)

    def sheet_file(
        self,
        file: PathLike,
        answers: Sequence[tuple[str, Matches]],
        out: PathLike,
        *,
        overwrite: bool = False,
    ) -> tuple[str, ...]:
        """Draw what `Reader.query_file` answered: ten queries to a sheet, numbered if several.

        Returns
        -------
        tuple of str
            The files written.
        """
        from dataclasses import replace

        from latentdb.images.render import picture_format
        from latentdb.output.file_names import numbered
        from latentdb.search.targets import read_targets

        snapshot = self._snapshot()
        targets = list(read_targets(file, snapshot.dim))
        if len(targets) != len(answers):
            raise InvalidInputError(
                f"{os.fspath(file)} has {counted(len(targets), 'target')} now, for "
                f"{counted(len(answers), 'answer')}: query it again"
            )
        output, painter = self._output(out, overwrite=overwrite), self._painter(snapshot)
        picture_format(out)
        starts = range(0, len(targets), _SHEET_QUERIES)
        paths = numbered(output.path, len(starts))
        output.check(paths)
        for start, path in zip(starts, paths, strict=True):
            part = slice(start, start + _SHEET_QUERIES)
            shown = self._shown(snapshot, targets[part], painter)
            found = [self._answer(snapshot, matches, painter) for _, matches in answers[part]]
            queries = [([one], answer) for one, answer in zip(shown, found, strict=True)]
            painter.draw_queries(queries, replace(output, path=path))
        return tuple(paths)

    def blend_sheet(
        self,
        targets: Sequence[TargetLike],
        blend: Floats,
        out: PathLike,
        *,
        weights: Sequence[float] | None = None,
        matches: Matches | None = None,
        overwrite: bool = False,
    ) -> None:
        """Draw the parents of a blend, the blend, float32 ``[d]``, and the rows found near it.

        Parameters
        ----------
        targets, weights
            As of `Reader.blend`.
        matches
            What `Reader.query` answered for the blend.
        out, overwrite
            As in `sheet`.
        """
        output = self._picture(out, overwrite=overwrite)
        snapshot = self._snapshot()
        painter = self._painter(snapshot)
        found = None if matches is None else self._answer(snapshot, matches, painter)
        parents = self._shown(snapshot, targets, painter)
        painter.draw_blend(parents, weights, blend, found, output)

    def average_sheet(
        self,
        average: Average,
        out: PathLike,
        *,
        where: str | None = None,
        overwrite: bool = False,
    ) -> None:
        """Draw an average, and up to ten of the rows that it is of, evenly spaced.

        Parameters
        ----------
        average, where
            As of `Reader.average`.
        out, overwrite
            As in `sheet`.
        """
        output = self._picture(out, overwrite=overwrite)
        snapshot = self._snapshot()
        rows = self._rows(snapshot, where)
        count = min(_SHEET_ROWS, len(rows))
        some = rows[np.linspace(0, len(rows) - 1, count).astype(int)]
        caption = f"average of {counted(average.rows, 'row')}"
        painter = self._painter(snapshot)
        files = painter.find_files(snapshot, some)
        painter.draw_average(average.vector, caption, read_rows(snapshot, some), files, output)

    def path_sheet(
        self,
        a: TargetLike,
        b: TargetLike,
        path: Floats,
        out: PathLike,
        *,
        overwrite: bool = False,
    ) -> None:
        """Draw a path, float32 ``[steps, d]``, between its ends, with the position of each step.

        Parameters
        ----------
        a, b
            As of `Reader.interpolate`.
        out, overwrite
            As in `sheet`.
        """
        output = self._picture(out, overwrite=overwrite)
        snapshot = self._snapshot()
        painter = self._painter(snapshot)
        painter.draw_path(self._shown(snapshot, [a, b], painter), path, output)

    def _painter(self, snapshot: Snapshot) -> SheetPainter:
        from latentdb.output.sheets import SheetPainter

        return SheetPainter(self.codec, label=self._label(snapshot, None))

    def _shown(
        self, snapshot: Snapshot, targets: Sequence[TargetLike], painter: SheetPainter
    ) -> list[Shown]:
        from latentdb.output.sheets import Shown

        shown = []
        for target in self._resolve(snapshot, targets):
            path, value = target.name if target.kind == "file" else None, None
            metadata: Mapping[str, Value] = {}
            if target.kind == "id":
                rows = snapshot.find([target.name])
                (path,) = painter.find_files(snapshot, rows)
                (metadata,) = snapshot.metadata(rows)
                value = painter.label_of(metadata)
            shown.append(Shown(target, path, value, metadata))
        return shown

    @staticmethod
    def _answer(snapshot: Snapshot, matches: Matches, painter: SheetPainter) -> Answer:
        from latentdb.output.sheets import Answer

        rows = snapshot.find([match.id for match in matches])
        return Answer(matches, snapshot.vectors(rows), painter.find_files(snapshot, rows))

    # --- exports ----------------------------------------------------------------

    def export(
        self,
        out: PathLike,
        *,
        where: str | None = None,
        excel_safe: bool = False,
        overwrite: bool = False,
    ) -> int:
        """Write rows to a file, and give their number: see `latentdb.exchange.exporting.export`."""
        from latentdb.base.outputs import STDOUT
        from latentdb.exchange.exporting import export

        snapshot = self._snapshot()
        rows = self._rows(snapshot, where)
        if os.fspath(out) != STDOUT:
            out = self._output(out, overwrite=overwrite, snapshot=snapshot)
        export(snapshot, rows, out, excel_safe=excel_safe)
        return len(rows)
