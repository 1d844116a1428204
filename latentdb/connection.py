"""An open store: its version, its model, its index; closed once for all."""

from __future__ import annotations

import os
from types import TracebackType
from typing import TYPE_CHECKING, TypeVar

from latentdb.base.errors import (
    ClosedError,
    ModelMismatchError,
)
from latentdb.search.manager import IndexManager
from latentdb.store.manifest import MANIFEST
from latentdb.store.snapshot import Snapshot
from latentdb.store.store import Store

# A query by id needs no model: what reads one is imported where one is asked for.
if TYPE_CHECKING:
    from latentdb.model.codec import Codec
    from latentdb.model.config import ModelOptions
    from latentdb.stored_model import ModelLike

PathLike = str | os.PathLike[str]
Opened = TypeVar("Opened", bound="Connection")


class Connection:
    """An open store; a context manager."""

    def __init__(self, store: Store, *, trust_model: bool = False) -> None:
        self._store: Store | None = store
        self._trust_model = trust_model
        self._process = os.getpid()
        self._codec: Codec | None = None
        self._index_manager = IndexManager()

    # --- open and close ---------------------------------------------------------

    @classmethod
    def open(cls: type[Opened], path: PathLike, *, trust_model: bool = False) -> Opened:
        """Open a store.

        Parameters
        ----------
        path
            Its folder.
        trust_model
            Run the code of a model that was taken in with --trust-model; any
            other needs none.

        Raises
        ------
        NotFoundError
            If there is none.
        CorruptStoreError
            If it is damaged; says which file.
        """
        return cls(Store.open(path), trust_model=trust_model)

    @staticmethod
    def exists(path: PathLike) -> bool:
        """Whether there is a store at a path."""
        return os.path.exists(os.path.join(path, MANIFEST))

    def close(self) -> None:
        """Forget the open files; a second time does nothing."""
        self._store = None
        self._codec = None
        self._index_manager = IndexManager()

    def __enter__(self: Opened) -> Opened:
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
        from latentdb.stored_model import codec_of

        if self._codec is None:
            self._codec = codec_of(self._snapshot(), trust_model=self._trust_model)
        return self._codec

    def read_model(
        self,
        model: ModelLike | None = None,
        *,
        encoder: PathLike | None = None,
        decoder: PathLike | None = None,
        options: ModelOptions | None = None,
    ) -> Codec | None:
        """A model to compare with this store's (see `check_model`), read as the store's was.

        Parameters
        ----------
        model, encoder, decoder
            As in `LatentDB.create`; None for all of them gives None.
        options
            Pixel range and resize rule are the store's where the options have none.
        """
        from latentdb.model.calibration import import_model, is_file
        from latentdb.model.config import ModelOptions
        from latentdb.stored_model import config_of, load_model

        options = options or ModelOptions()
        config = config_of(self._snapshot())
        if (encoder is not None or is_file(model)) and config is not None:
            options = options.with_defaults(config.preprocessing)
        if encoder is not None:
            return import_model(encoder, decoder, options=options)
        return None if model is None else load_model(model, options=options)

    def check_model(self, model: ModelLike) -> None:
        """Refuse any model but the store's own.

        Raises
        ------
        ModelMismatchError
            Names both fingerprints.
        """
        from latentdb.model.config import ModelOptions
        from latentdb.stored_model import check_same_model

        given = self.read_model(model, options=ModelOptions(trust_model=self._trust_model))
        if given is not None:
            check_same_model(self._snapshot(), given)

    def check_precision(self, precision: str | None) -> None:
        """Refuse any precision but the one the store's images are encoded in.

        Raises
        ------
        ModelMismatchError
            Names both.  None is never refused.
        """
        from latentdb.stored_model import config_of

        config = config_of(self._snapshot())
        if precision is not None and config is not None and precision != config.precision:
            raise ModelMismatchError(
                f"precision {precision} was asked for, the images of this store are encoded in "
                f"{config.precision}: leave --precision out, or index into a new store"
            )
