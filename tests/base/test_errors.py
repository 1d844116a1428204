"""Exceptions: one parent for all, the standard parent of each, one-line messages."""

from __future__ import annotations

import copy
import inspect
import pickle

import pytest

from latentdb.base import errors
from latentdb.base.errors import (
    CorruptStoreError,
    IdNotFoundError,
    ImageError,
    LatentDBError,
    LockedError,
    MissingExtraError,
    ModelError,
    ModelMismatchError,
    NotFoundError,
    StoreError,
    StoreNotFoundError,
)

STANDARD: dict[str, type[Exception]] = {
    "LatentDBError": Exception,
    "InvalidInputError": ValueError,
    "NotFoundError": LookupError,
    "IdNotFoundError": KeyError,
    "StoreNotFoundError": FileNotFoundError,
    "AlreadyExistsError": FileExistsError,
    "ImageError": ValueError,
    "FilterError": ValueError,
    "RecipeError": ValueError,
    "ModelError": ValueError,
    "LayerError": ValueError,
    "UntrustedModelError": ValueError,
    "ModelMismatchError": ValueError,
    "StoreError": OSError,
    "CorruptStoreError": OSError,
    "LockedError": OSError,
    "ClusterError": RuntimeError,
    "EngineError": RuntimeError,
    "ClosedError": RuntimeError,
    "MissingExtraError": ImportError,
}
CLASSES = {
    name: value
    for name, value in vars(errors).items()
    if inspect.isclass(value) and value.__module__ == errors.__name__
}


def made(name: str) -> LatentDBError:
    """One of that class, with the arguments it takes."""
    if name == "ImageError":
        return ImageError("a.jpg", "empty file")
    if name == "MissingExtraError":
        return MissingExtraError("drawing a model", "plot")
    error: LatentDBError = CLASSES[name]("what was wrong")
    return error


def test_the_table_of_parents_names_every_exception() -> None:
    assert set(CLASSES) == set(STANDARD)


@pytest.mark.parametrize("name", STANDARD)
def test_each_is_caught_as_ours_and_as_its_standard_parent(name: str) -> None:
    for parent in (LatentDBError, STANDARD[name]):
        with pytest.raises(parent) as caught:
            raise made(name)
        assert type(caught.value) is CLASSES[name]


@pytest.mark.parametrize("name", sorted(set(STANDARD) - {"ImageError", "MissingExtraError"}))
def test_the_text_is_the_message_without_quotes(name: str) -> None:
    assert str(made(name)) == "what was wrong"


def test_a_key_error_does_not_show_a_repr() -> None:
    # KeyError by itself would say "'it\\'s gone'".
    assert str(IdNotFoundError("it's gone")) == "it's gone"


def test_narrower_errors_are_caught_as_the_wider() -> None:
    assert issubclass(ModelMismatchError, ModelError)
    assert issubclass(CorruptStoreError, StoreError)
    assert issubclass(LockedError, StoreError)
    assert issubclass(IdNotFoundError, NotFoundError)
    assert issubclass(StoreNotFoundError, NotFoundError)


def test_a_missing_store_is_no_missing_id() -> None:
    assert not issubclass(StoreNotFoundError, KeyError)
    assert not issubclass(IdNotFoundError, OSError)


def test_an_image_error_keeps_path_and_reason_apart() -> None:
    error = ImageError("folder/a.jpg", "empty file")
    assert (error.path, error.reason) == ("folder/a.jpg", "empty file")
    assert str(error) == "folder/a.jpg: empty file"


def test_a_missing_extra_tells_the_command_to_run() -> None:
    error = MissingExtraError("drawing a model", "plot")
    assert str(error) == "drawing a model needs an extra: pip install 'latentdb[plot]'"


@pytest.mark.parametrize("kind", [ModelError, IdNotFoundError])
@pytest.mark.parametrize("odd", ["a\nb", "a\r\nb", "a\u2028b"])
def test_a_message_is_one_line_whatever_it_quotes(kind: type[LatentDBError], odd: str) -> None:
    assert len(str(kind(f"key {odd} is unknown")).splitlines()) == 1
    assert len(str(ImageError(odd, f"has no {odd}")).splitlines()) == 1


@pytest.mark.parametrize("name", STANDARD)
def test_each_survives_a_pickle_and_a_copy(name: str) -> None:
    error = made(name)
    for again in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(again) is type(error)
        assert str(again) == str(error)
        assert vars(again) == vars(error)
