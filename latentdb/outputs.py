"""`Outputs`: an open store written to files: pictures, arrays, exports; a base of `Reader`."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Sequence
from itertools import chain
from typing import TYPE_CHECKING

from latentdb.base.errors import InvalidInputError
from latentdb.inspection import Inspection

if TYPE_CHECKING:
    from latentdb.base.progress import Report
    from latentdb.output.sinks import Decoded
    from latentdb.search.results import Matches
    from latentdb.search.targets import TargetLike
    from latentdb.store.rows import Floats
    from latentdb.stored_model import ModelLike

PathLike = str | os.PathLike[str]


class Outputs(Inspection):
    """The calls of `Reader` that write files; what they name is never read by the store."""

    @abstractmethod
    def _check_model(self, model: ModelLike | None) -> None: ...

    def write(self, latents: Floats, out: PathLike, *, overwrite: bool = False) -> None:
        """Write latents, float32 ``[d]`` or ``[n, d]``, to a file by its ending.

        ``.npy``: the vectors themselves.  ``.gif``: an animation.  Another image
        ending: one decoded image pixel for pixel, or several in a row.

        Raises
        ------
        AlreadyExistsError
            If the file exists, unless `overwrite` is set; if it is the image of a row, or
            in the store, in any case.
        """
        self._write_latents(latents, self._latents_output(out, overwrite=overwrite))

    def decode_to(
        self,
        targets: Sequence[TargetLike] | None,
        out: PathLike | None = None,
        *,
        where: str | None = None,
        format: str | None = None,
        sheet: PathLike | None = None,
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
            If `out` and `format` do not fit each other, or neither `out` nor `sheet` is given.
        AlreadyExistsError
            If a file exists; nothing is written then.
        StoreError
            If a file cannot be written.
        """
        from latentdb.output import sinks

        self._check_model(model)
        if targets is not None and where is not None:
            raise InvalidInputError("give targets or an expression to decode, not both")
        kind = sinks.output_format(out, format, one_file=targets is not None)
        if out is None and sheet is None:
            raise InvalidInputError("nothing to write: give out, sheet, or both")
        snapshot, codec = self._snapshot(), self.codec
        size = sinks.batch_size(codec.config)
        others: set[str] = set()
        if targets is None:
            rows = self._rows(snapshot, where)
            names, batches = snapshot.ids(rows), sinks.row_batches(snapshot, rows, size)
        else:
            examples = self._resolve(snapshot, targets)
            names = [example.name for example in examples]
            batches = sinks.target_batches(examples, size)
            others = {example.name for example in examples if example.kind != "id"}
        out, sheet = (
            None if path is None else self._output(path, overwrite=overwrite, snapshot=snapshot)
            for path in (out, sheet)
        )
        collection = chain(sinks.stored_ids(snapshot), others)
        outputs = sinks.make_sinks(out, kind, sheet, names, collection, codec.config)
        return sinks.decode_all(codec, batches, len(names), outputs, report)

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
        from latentdb.output.figures import Sought, write_query

        output = self._picture(out, overwrite=overwrite)
        snapshot, sought = self._snapshot(), []
        label = self._label(snapshot, None)
        for example in self._resolve(snapshot, [*([] if target is None else [target]), *like]):
            path, value = example.name if example.kind == "file" else None, None
            if example.kind == "id":
                _, path, metadata = snapshot.records(snapshot.find([example.name]))[0]
                value = None if label is None else metadata.get(label)
            sought.append(Sought(example, path, value))
        if not sought or output is None:
            raise InvalidInputError("nothing to draw: give a target, or examples with like")
        latents = snapshot.vectors(snapshot.find([match.id for match in matches]))
        write_query(self.codec, sought, matches, latents, output, label=label)

    def export(
        self,
        out: PathLike,
        *,
        where: str | None = None,
        excel_safe: bool = False,
        overwrite: bool = False,
    ) -> int:
        """Write rows to a file, and give their number: see `latentdb.exchange.exporting.export`."""
        from latentdb.exchange.exporting import export

        snapshot = self._snapshot()
        rows = self._rows(snapshot, where)
        out = self._output(out, overwrite=overwrite, snapshot=snapshot)
        export(snapshot, rows, out, excel_safe=excel_safe)
        return len(rows)
