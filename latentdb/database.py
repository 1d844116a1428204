"""`LatentDB`: a store to make, read and write, with the names of the command line."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

from numpy.typing import NDArray

from latentdb.ann.exact import too_large
from latentdb.annotation import Annotation
from latentdb.base.errors import InvalidInputError, ModelMismatchError
from latentdb.base.files import as_path
from latentdb.base.progress import Report
from latentdb.base.validate import as_latents, check_ids
from latentdb.exchange.importing import ImportReport, import_rows, opened
from latentdb.exchange.naming import ColumnNames
from latentdb.exchange.tables import TableLike, read_table
from latentdb.images.selection import make_selection
from latentdb.images.sources import split_sources
from latentdb.images.values import ImageLike
from latentdb.ingest.allowance import DEFAULT_ALLOWANCE
from latentdb.ingest.execution import Executor, LocalExecutor
from latentdb.ingest.images import add_images
from latentdb.ingest.ingest import add_rows, index_images
from latentdb.ingest.report import IndexReport
from latentdb.maintenance import LOCK_TIMEOUT, check_recall, check_timeout
from latentdb.model.calibration import import_model
from latentdb.model.codec import Codec
from latentdb.model.config import ModelOptions
from latentdb.onnx.runtime import FLOAT32
from latentdb.store.columns import Value, make_columns
from latentdb.store.creation import check_absent, remove_empty, undo_creation
from latentdb.store.edits import held_types
from latentdb.store.manifest import Settings
from latentdb.store.rows import Rows
from latentdb.store.store import Store, check_dtype
from latentdb.stored_model import (
    ModelLike,
    check_same_model,
    codec_of,
    config_of,
    is_own_encoder,
    load_model,
    load_other_model,
    search_settings,
    store_compiled,
)

PathLike = str | os.PathLike[str]


class LatentDB(Annotation):
    """A store of image latents, with the model that encodes and decodes them.

    Index a folder of images:

    >>> db = LatentDB.create("photos.ldb", "my-model")
    >>> db.index_images("photos", labels_from_folders=True)

    Query similar images, by an id, an image file or a vector:

    >>> db = LatentDB.open("photos.ldb")
    >>> for match in db.query("new.jpg", k=5, where='label == "cat"'):
    ...     print(match.rank, match.id, match.distance)

    Decode latents as they are stored, or blended:

    >>> pixels = db.decode(["cat/003.png", "dog/001.png"])
    >>> halfway = db.decode(db.blend(["cat/003.png", "dog/001.png"]))

    A context manager.  Every call works on the version that is committed when it
    begins.  Use it in one process: after a fork, open the store again.
    """

    @classmethod
    def create(
        cls,
        path: PathLike,
        model: ModelLike | None = None,
        *,
        encoder: PathLike | None = None,
        decoder: PathLike | None = None,
        options: ModelOptions | None = None,
        images: PathLike | Sequence[PathLike] | None = None,
        dim: int | None = None,
        recall: float = 0.99,
        precision: str = FLOAT32,
        dtype: str = FLOAT32,
        lock_timeout: float = LOCK_TIMEOUT,
        auto_index: bool = True,
    ) -> LatentDB:
        """Make an empty store, of a model or of ready-made vectors.

        Parameters
        ----------
        path
            A folder that does not exist yet.
        model
            A model folder (from ``latentdb train``), a .keras or .h5 file with a
            whole VAE, or a `Codec`; or Keras models in memory: ``(encoder, decoder)``, a VAE,
            or a function that returns one of these.  The store gets a copy of it.
        encoder, decoder
            Instead of `model`: .keras, .h5 or .onnx files of a model made elsewhere, read
            as data (see `latentdb.model.calibration.import_model`).
        options
            What a .keras or .h5 file does not say: ``ModelOptions(z_mean="mu")``.
        images
            Folders and files, to find the pixel range of such a file.
        dim
            Instead of a model: dimensions of the vectors that `add` will get.
        recall
            Target recall: share of the true neighbours that a query should find.
        precision
            Precision of the encoder: ``"float32"``, or ``"bf16"`` where the
            processor supports it and the extra of that name is installed.
        dtype
            Of the latents on disk: ``"float32"``, or ``"float16"``, which takes half the space
            and keeps three digits.  They are searched and decoded as float32.
        lock_timeout, auto_index
            As in `open`.

        Raises
        ------
        AlreadyExistsError
            If `path` exists.
        InvalidInputError
            If not exactly one of model, encoder and dim is given.
        ModelError, MissingExtraError
            If the model cannot be used, or the precision is not available here.
        """
        count = sum(given is not None for given in (model, encoder, dim))
        if count != 1:
            raise InvalidInputError(
                "give one of model (a folder made by latentdb train), encoder and dim, "
                f"received {'none' if not count else 'more than one'}"
            )
        recall = check_recall(recall)
        check_timeout(lock_timeout)  # before anything is made
        if dim is not None:
            made = Store.create(path, dim=dim, settings=Settings(recall=recall), dtype=dtype)
            return cls(made, lock_timeout=lock_timeout, auto_index=auto_index)
        check_dtype(dtype)
        check_absent(as_path(path))  # before tensorflow is loaded to compile the model
        options = options or ModelOptions()
        samples = [images] if isinstance(images, str | os.PathLike) else images
        if encoder is not None:
            codec = import_model(encoder, decoder, options=options, images=samples)
        else:
            codec = load_model(model or "", options=options, images=samples)
        codec = codec.with_precision(precision).compiled()
        codec.check_precision()
        config = codec.config
        prints = (config.encoder_fingerprint, config.decoder_fingerprint, codec.files)
        settings = search_settings(config, recall)
        store = Store.create(
            path, dim=config.latent_dim, model=prints, settings=settings, dtype=dtype
        )
        db = cls(
            store,
            trust_model=options.trust_model,
            lock_timeout=lock_timeout,
            auto_index=auto_index,
        )
        db._codec = codec
        return db

    @contextmanager
    def kept_if_filled(self, *, existed: bool) -> Iterator[LatentDB]:
        """A store that was just made, in a context: if it gets no row, it is removed again.

        Parameters
        ----------
        existed
            Whether its folder was there, empty, before; it is kept then.
        """
        path = self._open_store().path
        try:
            yield self
        finally:
            self.close()
            undo_creation(path, existed=existed)

    def read_model(
        self,
        model: ModelLike | None = None,
        *,
        encoder: PathLike | None = None,
        decoder: PathLike | None = None,
        options: ModelOptions | None = None,
    ) -> Codec | None:
        """A model for the `model` argument of other calls, read as the store's was.

        Parameters
        ----------
        model, encoder, decoder
            As in `create`; None for model and encoder gives None.
        options
            Pixel range and resize rule are the store's if the options have none.
        """
        if model is None and encoder is None:
            return None
        return load_other_model(
            self._snapshot(), model, encoder=encoder, decoder=decoder, options=options
        )

    def has_model(self, codec: Codec) -> bool:
        """Whether the store was made with a model."""
        try:
            check_same_model(self._snapshot(), codec)
        except ModelMismatchError:
            return False
        return True

    @staticmethod
    def remove_empty(path: PathLike) -> None:
        """Remove a store without rows: see `latentdb.store.creation.remove_empty`."""
        remove_empty(as_path(path))

    def check_precision(self, precision: str | None) -> None:
        """Refuse any precision but that of the store's encoder; None is never refused.

        Raises
        ------
        ModelMismatchError
            If it differs; names both.
        """
        config = config_of(self._snapshot())
        if precision is not None and config is not None and precision != config.precision:
            raise ModelMismatchError(
                f"precision {precision} was asked for, but the images of this store are encoded "
                f"in {config.precision}: leave precision out, or index into a new store"
            )

    def check_dtype(self, dtype: str | None) -> None:
        """Refuse any dtype but that of the latents on disk; None is never refused.

        Raises
        ------
        InvalidInputError
            If it differs; names both.
        """
        own = self._snapshot().manifest.dtype
        if dtype is not None and dtype != own:
            raise InvalidInputError(
                f"dtype {dtype} was asked for, but this store keeps {own}: leave dtype out, or "
                "make a new store"
            )

    def index_images(
        self,
        sources: PathLike | Sequence[PathLike],
        *,
        model: ModelLike | None = None,
        metadata: TableLike | None = None,
        metadata_column: str | None = None,
        labels_from_folders: bool = False,
        rehash: bool = False,
        include: Sequence[str] = (),
        exclude: Sequence[str] = (),
        follow_links: bool = False,
        prune: bool = False,
        restore: bool = False,
        strict: bool = False,
        allow_bad: int | str = DEFAULT_ALLOWANCE,
        condition: Value = None,
        ray: str | None = None,
        report: Report | None = None,
    ) -> IndexReport:
        """Encode the new and changed images of folders into the store.

        Parameters
        ----------
        sources
            Folders and image files.  The id of an image is its path relative to the
            folder that was given first: see `latentdb.ingest.roots.plan_roots`.  Archives
            (.tar, .tar.gz, .zip), arrays (.npz, .npy, IDX) and .parquet with images, and
            folders of only these: the id is the name in the archive.
        model
            Raise `ModelMismatchError` if the store was made with another model than this.
        metadata
            A table with a column that names the image: a .csv, .tsv, .json, .jsonl or
            .parquet file, a dict of columns or by image, a list of dicts, a DataFrame.
        metadata_column
            Name of that column, if it is not a usual one.
        labels_from_folders
            Give each image its topmost folder as ``label``; where these are only train,
            val, test and the like, the folder it lies in.
        rehash
            Compare the content of every file, also where size and time are as stored.
        include, exclude
            Patterns such as ``"*.png"`` and ``"cat/*"`` of wanted and unwanted files:
            see `latentdb.images.selection.Selection`.
        follow_links
            Follow links that lead out of their folder.
        prune
            Delete rows whose files were in the sources and are gone.
        restore
            Take images in that were deleted from the store.
        strict
            Raise on the first unreadable file instead of skipping it.
        allow_bad
            Number of unreadable files, or share of all as ``"P%"``, beyond which the
            report says that the run failed.
        condition
            Of a conditional model: the value of all these images, instead of that in their
            metadata.
        ray
            Encode on a Ray cluster: its ``HOST:PORT``, ``"auto"`` for the one of this machine,
            or ``""`` for one that is started for this run.  See `latentdb.cluster`.
        report
            Called with the progress.

        Raises
        ------
        ModelMismatchError
            If `model` is not the store's.
        ClusterError, MissingExtraError
            If the cluster cannot be reached or is lost, or its extra is not installed.
        LockedError
            If another process is writing.
        ImageError, InvalidInputError, NotFoundError
            See `latentdb.ingest.ingest.index_images`.
        """
        paths = [sources] if isinstance(sources, str | os.PathLike) else list(sources)
        self._check_model(model)
        split_sources(paths)  # report a missing source before the model is loaded
        selection = make_selection(include, exclude, follow_links=follow_links)
        table = (
            None
            if metadata is None
            else read_table(metadata, metadata_column, held_types(self._snapshot()))
        )
        codec = self.codec
        codec.check_precision()
        with self._executor(ray) as executor, self._writing(report) as writer:
            done = index_images(
                writer,
                codec,
                paths,
                table=table,
                labels_from_folders=labels_from_folders,
                selection=selection,
                rehash=rehash,
                restore=restore,
                prune=prune,
                strict=strict,
                allow_bad=allow_bad,
                condition=condition,
                report=report,
                executor=executor,
            )
            self._codec = store_compiled(writer, codec)
        return done

    def _executor(self, ray: str | None) -> AbstractContextManager[Executor]:
        """What encodes the images of a run: this process, or a Ray cluster."""
        if ray is None:
            return nullcontext(LocalExecutor())
        from latentdb.cluster.executor import ClusterExecutor
        from latentdb.cluster.ray_pool import check_address, ray_pool, require_ray

        require_ray()
        check_address(ray)
        store = os.path.abspath(self._open_store().path)
        open_codec = partial(codec_of, trust_model=self._trust_model)
        return ClusterExecutor(partial(ray_pool, ray, store, open_codec))

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
            ``n`` different texts.
        z_mean
            ``[n, d]``, finite, and small enough for float32 distances (about 1e18).
        z_log_var
            ``[n, d]``; all rows of a store have it, or none.
        metadata
            ``{key: n values}``; None for a missing value.
        on_conflict
            What to do with an id that is in the store: ``"error"``, ``"skip"``
            or ``"replace"``.

        Returns
        -------
        int
            Number of rows written.

        Raises
        ------
        InvalidInputError
            If an argument is invalid; nothing is added then.
        LockedError
            If another process is writing.
        """
        names = check_ids(ids)
        dim = self._snapshot().dim
        means = as_latents(z_mean, dim, "z_mean")
        reason = too_large(means, "z_mean")
        if reason is not None:
            raise InvalidInputError(reason)
        log_vars = None if z_log_var is None else as_latents(z_log_var, dim, "z_log_var")
        for name, array in (("z_mean", means), ("z_log_var", log_vars)):
            if array is not None and len(array) != len(names):
                raise InvalidInputError(f"{name} has {len(array)} rows for {len(names)} ids")
        rows = Rows(names, means, log_vars, columns=make_columns(metadata, len(names)))
        with self._writing(None) as writer:
            return add_rows(writer, rows, on_conflict)

    def add_images(
        self,
        ids: Sequence[str],
        images: Iterable[ImageLike],
        *,
        metadata: Mapping[str, Sequence[Value]] | None = None,
        on_conflict: str = "error",
        report: Report | None = None,
    ) -> int:
        """Encode images that are in memory, or at paths, and add them.

        They are resized and encoded as those of `index_images`, as they come: a generator
        is never held in memory.  A commit is made every 16,384 rows.

        Parameters
        ----------
        ids
            ``n`` different texts.
        images
            n of: arrays of uint8 or of floats in 0..1 (``[h, w]``, ``[h, w, 1 to 4]``), so
            also one array ``[n, h, w, c]``; PIL images; the bytes of image files; paths.
        metadata, on_conflict
            As in `add`; with ``"skip"``, rows that are in the store are not encoded.
        report
            Called with the progress.

        Returns
        -------
        int
            Number of rows written.

        Raises
        ------
        InvalidInputError, ImageError
            If an argument is invalid, or an image cannot be read: rows of earlier commits stay.
        ModelError
            If the store has no model.
        LockedError
            If another process is writing.
        """
        codec, names = self.codec, check_ids(ids)
        codec.check_precision()
        with self._writing(report) as writer:
            written = add_images(
                writer,
                codec,
                names,
                images,
                metadata=metadata,
                on_conflict=on_conflict,
                report=report,
            )
            self._codec = store_compiled(writer, codec)
        return written

    def import_file(
        self,
        file: PathLike,
        *,
        on_conflict: str = "error",
        ids: PathLike | None = None,
        id_column: str | None = None,
        vector_column: str | None = None,
        report: Report | None = None,
    ) -> ImportReport:
        """Add the ready-made vectors of a file, with ids and metadata, in one commit.

        Parameters
        ----------
        file
            ``.h5``, ``.npy``, ``.npz``, ``.parquet`` or ``.csv``: ``exchange/README.md``.
        on_conflict
            As in `add`.
        ids
            For ``.npy``: a text file with one id per line; row numbers by default.
        id_column, vector_column
            Columns of the ids and the vectors, of a CSV what comes before ``_0``, ``_1``..;
            by default found by their names, see `latentdb.exchange.naming`.
        report
            Called with the progress.

        Raises
        ------
        InvalidInputError, NotFoundError, MissingExtraError, ModelMismatchError
            If the file cannot be used; nothing is added then.
        LockedError
            If another process is writing.
        """
        columns = ColumnNames(id_column, vector_column)
        with opened(file, ids, columns) as source, self._writing(report) as writer:
            return import_rows(
                writer,
                source,
                on_conflict=on_conflict,
                is_own_encoder=is_own_encoder,
                report=report,
            )

    @classmethod
    def import_into(
        cls,
        path: PathLike,
        file: PathLike,
        *,
        on_conflict: str = "error",
        ids: PathLike | None = None,
        id_column: str | None = None,
        vector_column: str | None = None,
        model: ModelLike | None = None,
        dtype: str | None = None,
        report: Report | None = None,
    ) -> ImportReport:
        """Import a file as `import_file` does, and make the store if there is none.

        A new store has the dimensions of the file, and the model if one is given: whose
        latents the file holds, so that they can be decoded; and the dtype (see `create`).
        It is removed again if the import fails.

        Raises
        ------
        ModelMismatchError
            If the store was made without this model.
        """
        columns = ColumnNames(id_column, vector_column)

        def fill(db: LatentDB) -> ImportReport:
            return db.import_file(
                file,
                on_conflict=on_conflict,
                ids=ids,
                id_column=id_column,
                vector_column=vector_column,
                report=report,
            )

        if cls.exists(path):
            with cls.open(path) as db:
                db.check_dtype(dtype)
                codec = db.read_model(model)
                if codec is not None:
                    check_same_model(db._snapshot(), codec)
                return fill(db)
        with opened(file, ids, columns) as source:
            dim = source.dim
        existed = os.path.exists(path)
        own = dim if model is None else None
        with cls.create(path, model, dim=own, dtype=dtype or FLOAT32) as db:
            try:
                return fill(db)
            except BaseException:
                undo_creation(as_path(path), existed=existed)
                raise
