"""Sheets: queries with their matches, blends with their parents, paths with their ends."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from latentdb.base.errors import ImageError
from latentdb.base.wording import counted
from latentdb.images.pixel_range import Pixels
from latentdb.images.render import one_line, write_picture
from latentdb.images.thumbnails import thumbnail
from latentdb.model.codec import Codec
from latentdb.output.figures import check_count
from latentdb.output.tiles import AGREES, COLUMNS, DIFFERS, MAX_SIDE, Block, Tile, draw_tiles
from latentdb.search.results import Matches, Row
from latentdb.search.targets import Target
from latentdb.store.columns import Value
from latentdb.store.originals import intact_paths
from latentdb.store.rows import Floats, Ints
from latentdb.store.snapshot import Snapshot

if TYPE_CHECKING:
    from PIL import Image as PILImage

PathLike = str | os.PathLike[str]
_IN_ROW = 10  # steps of a path, or matches of one of several queries


@dataclass(frozen=True)
class Shown:
    """A target, and what a sheet shows of it: its image file and its label, if it has them."""

    target: Target
    path: str | None = None
    label: Value | None = None
    metadata: Mapping[str, Value] = field(default_factory=dict)


@dataclass(frozen=True)
class Answer:
    """What a query found: the matches, z_mean of each, float32 ``[n, d]``, and their files."""

    matches: Matches
    latents: Floats
    files: Sequence[str | None]


class SheetPainter:
    """Draws sheets for one store.

    Images are drawn from their files; one that cannot be read, or is not the one that was
    indexed, is replaced by the reconstruction from its latent, with ``~`` before its
    caption.  A warning says how many they are.

    Parameters
    ----------
    codec
        Of the store.
    label
        Metadata column that is shown; frames tell whether a match has the label of
        the target.
    """

    def __init__(self, codec: Codec, *, label: str | None = None) -> None:
        self._codec = codec
        self._label = label
        self._files = 0  # that images were to be drawn from
        self._lost = 0

    def label_of(self, metadata: Mapping[str, Value]) -> Value | None:
        """The label in the metadata of a row, if there is one."""
        return None if self._label is None else metadata.get(self._label)

    def find_files(self, snapshot: Snapshot, rows: Ints) -> list[str | None]:
        """The image files of rows; None where there is none, or none any more."""
        found = intact_paths(snapshot, rows)
        for path, known in zip(found, snapshot.paths(rows), strict=True):
            self._files += known is not None
            self._lost += known is not None and path is None
        return found

    def _write(self, out: PathLike, picture: PILImage.Image) -> None:
        write_picture(out, picture)
        if self._lost:
            were = "is" if self._lost == 1 else "are"
            warnings.warn(
                f"{self._lost:,} of {counted(self._files, 'original')} {were} missing or changed, "
                "and drawn from the latent (~): index the folder again, or see latentdb relocate",
                stacklevel=4,
            )
            self._files = self._lost = 0

    def draw_queries(
        self, queries: Sequence[tuple[Sequence[Shown], Answer]], out: PathLike
    ) -> None:
        """Draw what was sought and its reconstructions, then the matches; a block a query."""
        check_tiles(sum(len(found.matches) + 2 * len(sought) for sought, found in queries))
        blocks = []
        for sought, found in queries:
            tiles = []
            for one, rebuilt in zip(sought, self._decode_targets(sought), strict=True):
                if one.target.kind not in ("id", "file", "image"):  # it has no original
                    tiles.append(Tile(rebuilt, ["query", one_line(one.target.name)]))
                    continue
                tiles.append(self._original(one, rebuilt, "query"))
                tiles.append(Tile(rebuilt, ["reconstruction"]))
            expected = sought[0].label if sought else None
            blocks.append(Block(tiles, list(self._match_tiles(found, expected))))
        columns = COLUMNS if len(queries) == 1 else _IN_ROW
        self._write(out, draw_tiles(blocks, columns=columns))

    def draw_blend(
        self,
        parents: Sequence[Shown],
        weights: Sequence[float] | None,
        blend: Floats,
        found: Answer | None,
        out: PathLike,
    ) -> None:
        """Draw the parents of a blend, the blend, and what was found near it."""
        check_tiles(len(parents) + 1 + (0 if found is None else len(found.matches)))
        shares = [""] * len(parents) if weights is None else [f" \u00d7 {w:g}" for w in weights]
        tiles = [
            self._original(one, rebuilt, f"parent{share}")
            for one, rebuilt, share in zip(
                parents, self._decode_targets(parents), shares, strict=True
            )
        ]
        child = Tile(self._codec.decode(blend[None])[0], ["blend"])
        matches = [] if found is None else list(self._match_tiles(found, None))
        if not matches:
            self._write(out, draw_tiles([Block([], tiles, [child])]))
            return
        self._write(out, draw_tiles([Block([*tiles, child], matches)]))

    def draw_average(
        self,
        average: Floats,
        caption: str,
        some: Sequence[Row],
        files: Sequence[str | None],
        out: PathLike,
    ) -> None:
        """Draw an average beside some of the rows it is of, and their files."""
        check_tiles(len(some) + 1)
        latents = np.stack([average, *(row.z_mean for row in some)])
        images = self._codec.decode(latents, [{}, *(row.metadata for row in some)])
        tiles = []
        for row, file, rebuilt in zip(some, files, images[1:], strict=True):
            pixels, mark = self._image(file, rebuilt)
            value = self.label_of(row.metadata)
            first, *rest = [*([] if value is None else [str(value)]), row.id]
            tiles.append(Tile(pixels, [mark + one_line(first), *map(one_line, rest)]))
        self._write(out, draw_tiles([Block([Tile(images[0], [caption])], tiles)]))

    def draw_path(self, ends: Sequence[Shown], path: Floats, out: PathLike) -> None:
        """Draw a path between its two ends, with the position t from 0 to 1 below each step."""
        check_tiles(len(path) + len(ends))
        tiles = [
            self._original(one, rebuilt, name)
            for one, rebuilt, name in zip(ends, self._decode_targets(ends), "AB", strict=True)
        ]
        positions = np.linspace(0, 1, len(path))
        steps = [
            Tile(pixels, [f"t = {t:.2f}"])
            for pixels, t in zip(self._codec.decode(path), positions, strict=True)
        ]
        rows = -(-len(steps) // _IN_ROW)
        columns = -(-len(steps) // rows)
        self._write(out, draw_tiles([Block(tiles[:1], steps, tiles[1:])], columns=columns))

    def _decode_targets(self, shown: Sequence[Shown]) -> Pixels:
        vectors = np.stack([one.target.vector for one in shown])
        return self._codec.decode(vectors, [one.metadata for one in shown])

    def _original(self, one: Shown, rebuilt: Pixels, caption: str) -> Tile:
        pixels, mark = self._image(one.path, rebuilt)
        lines = [] if one.label is None else [str(one.label)]
        return Tile(pixels, [mark + caption, *lines, one_line(one.target.name)])

    def _image(self, file: str | None, rebuilt: Pixels) -> tuple[Pixels, str]:
        """An image and a mark: that of a file, or its reconstruction."""
        if file is not None:
            try:
                background = self._codec.config.preprocessing.background
                return thumbnail(file, MAX_SIDE, background), ""
            except ImageError:
                self._lost += 1
        return rebuilt, "~"

    def _match_tiles(self, found: Answer, expected: Value | None) -> Iterator[Tile]:
        decoded = self._codec.decode(found.latents, [one.metadata for one in found.matches])
        for match, file, rebuilt in zip(found.matches, found.files, decoded, strict=True):
            pixels, mark = self._image(file, rebuilt)
            value = self.label_of(match.metadata)
            frame = None
            if value is not None and expected is not None:
                frame = AGREES if value == expected else DIFFERS
            lines = [f"{mark}{match.rank}.  {round(match.distance, 3) + 0.0:.3f}"]
            lines += [] if value is None else [one_line(str(value))]
            yield Tile(pixels, [*lines, one_line(match.id)], frame)


def check_tiles(count: int) -> None:
    """Refuse a sheet of so many images; raises `InvalidInputError`."""
    check_count(count, (MAX_SIDE, MAX_SIDE, 3))
