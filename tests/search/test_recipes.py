"""Recipes: every form against NumPy, and what is refused with its place."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from latentdb.base.errors import (
    FilterError,
    IdNotFoundError,
    InvalidInputError,
    LatentDBError,
    NotFoundError,
    RecipeError,
)
from latentdb.database import LatentDB
from latentdb.model.arithmetic import slerp
from latentdb.model.codec import Codec
from latentdb.search.targets import compose
from latentdb.store.snapshot import Snapshot
from latentdb.store.store import Store

DIM = 4
IDS = ["a", "cat/b-1.png", "with blank", "both \"' of it", "recipe:x", "größe(1)", "42"]
VECTORS = np.random.default_rng(0).normal(size=(len(IDS), DIM)).astype(np.float32)
LABELS = ["x", "x", "y", "y", "y", None, "x"]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    LatentDB.create(tmp_path / "s.ldb", dim=DIM).add(IDS, VECTORS, metadata={"label": LABELS})
    return tmp_path / "s.ldb"


@pytest.fixture
def snapshot(path: Path) -> Snapshot:
    return Store.open(path).snapshot()


def no_codec() -> Codec:
    raise AssertionError("the model was loaded without an image")


def vector(snapshot: Snapshot, text: str) -> np.ndarray:
    return compose(snapshot, no_codec, text).vector


def row(name: str) -> np.ndarray:
    return VECTORS[IDS.index(name)].astype(np.float64)


def mean(label: str) -> np.ndarray:
    return VECTORS[[other == label for other in LABELS]].astype(np.float64).mean(axis=0)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("id:a", row("a")),
        ("id:42", row("42")),
        (" - id:a ", -row("a")),
        ("id:cat/b-1.png", row("cat/b-1.png")),
        ('id:"with blank" * 2', 2 * row("with blank")),
        (r"""id:"both \"' of it" """, row("both \"' of it")),
        (r"""id:'both "\' of it'""", row("both \"' of it")),
        ("id:recipe:x", row("recipe:x")),
        ("id:'größe(1)' + id:a", row("größe(1)") + row("a")),
        ("mean()", VECTORS.mean(axis=0)),
        ("mean(label == 'x')", mean("x")),
        ("mean((label == 'x') and id != 'id:b')", mean("x")),
        ("mean(label == 'x')-mean(label == \"y\")+id:42", mean("x") - mean("y") + row("42")),
        ("(id:a+id:42)/2", (row("a") + row("42")) / 2),
        ("1.5e0*(mean(label=='x') - id:a)", 1.5 * (mean("x") - row("a"))),
        ("2 * 3 - 5 + 0 * 1", None),
        ("(2 * 3 - 5) * id:a", row("a")),
        ("id:a - id:42 - id:a", -row("42")),
        ("id:a / 2 / 4", row("a") / 8),
        ("norm(id:a)", row("a") / np.linalg.norm(row("a"))),
        ("slerp(id:a, id:42, 0.25)", slerp(row("a"), row("42"), 0.25)),
        ("slerp(id:a, id:42, 1/4)", slerp(row("a"), row("42"), 0.25)),
    ],
)
def test_a_recipe_is_what_numpy_says(
    snapshot: Snapshot, text: str, expected: np.ndarray | None
) -> None:
    if expected is None:
        with pytest.raises(RecipeError, match="is a number, not a latent"):
            vector(snapshot, text)
        return
    found = vector(snapshot, text)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_axes_are_one_standard_deviation_long(snapshot: Snapshot) -> None:
    values = VECTORS.astype(np.float64)
    expected = np.zeros(DIM)
    expected[2] = values[:, 2].std()
    np.testing.assert_allclose(vector(snapshot, "axis(2)"), expected, rtol=1e-5)
    _, sizes, axes = np.linalg.svd(values - values.mean(axis=0), full_matrices=False)
    for number in range(DIM):
        step = vector(snapshot, f"pc({number})").astype(np.float64)
        assert step[np.abs(step).argmax()] > 0
        length = sizes[number] / np.sqrt(len(IDS))
        np.testing.assert_allclose(np.abs(step @ axes[number]), length, rtol=1e-5)
        np.testing.assert_allclose(np.linalg.norm(step), length, rtol=1e-5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the recipe is empty"),
        ("42", "is a number, not a latent"),
        ("a + id:a", "has 'a', which is no part of it: write id:a"),
        ("__import__('os')", "calls '__import__', which is not accepted"),
        ("mean(label = 'x')", "has =, which assigns: == compares"),
        ("mean.real", "has Attribute, which is not accepted"),
        ("id:a ** 2", "has BinOp, which is not accepted"),
        ("id:a + True", "has Constant, which is not accepted"),
        ("id:a if 1 else id:42", "has IfExp, which is not accepted"),
        ("[id:a for x in mean()]", "has ListComp, which is not accepted"),
        ("id:a + 1", r"has a latent \+ a number"),
        ("id:a * id:42", "multiplies two latents"),
        ("1 / id:a", "divides by a latent"),
        ("id:a / (1 - 1)", "divides by zero"),
        ("1e999 * id:a", "has a number that is too large"),
        ("1" + "0" * 400 + " * id:a", "has a number that is too large"),
        ("1e300 * id:a", "has no finite result"),
        ("1e300 * 1e300 * id:a", "has no finite result"),
        ("mean(label == 'x', label == 'y')", "calls mean with 2 arguments"),
        ("slerp(id:a, id:42)", "calls slerp with 2 arguments"),
        ("slerp(id:a, id:42, id:a)", "has a latent where a number is expected"),
        ("norm(2)", "has a number where a latent is expected"),
        ("norm(id:a - id:a)", "of a latent of length 0"),
        ("axis(4)", "has no whole number from 0 to 3"),
        ("pc(-1)", "has no whole number from 0 to 3"),
        ("axis(1.0)", "has no whole number from 0 to 3"),
        ("id:a id:42", "cannot be read"),
        ("id:a +", "cannot be read"),
        ("(" * 300 + "id:a" + ")" * 300, "cannot be read"),
        ("-" * 150 + "id:a", "nested too deeply"),
        ("id:a" + " + id:a" * 3_000, "characters: at most 20,000"),
        ("id:a + \0", "cannot be read"),
        ("id:'a", "cannot be read"),
    ],
)
def test_what_is_no_recipe_is_refused(snapshot: Snapshot, text: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message) as caught:
        vector(snapshot, text)
    assert "\n" not in str(caught.value)


def test_errors_quote_the_place(snapshot: Snapshot) -> None:
    with pytest.raises(RecipeError, match=r"at \"id:'größe\(1\)' \+ foo\(2\)\""):
        vector(snapshot, "id:'größe(1)' + foo(2)")


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("id:nothing", IdNotFoundError, "no id 'nothing'"),
        ("id:a/2", NotFoundError, "put blanks around"),
        ("id:a-id:42", NotFoundError, "put blanks around"),
        ("mean(label == 'z')", NotFoundError, "no row matches \"label == 'z'\""),
        ("mean(hue == 3)", FilterError, "columns are: id, label, path"),
        ("mean(id:a)", FilterError, "cannot be read"),
        ("@nothing", NotFoundError, "no recipe @nothing"),
        ("@Smile", InvalidInputError, "lower-case"),
        ("@../x", LatentDBError, "cannot be read"),
    ],
)
def test_what_is_missing_is_named(
    snapshot: Snapshot, text: str, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        vector(snapshot, text)


@given(st.text("iaxp dc:@+-*/()'\"\\0123.,=m\n\r\x0c\u2028ß", max_size=30))
def test_any_text_is_a_latent_or_an_error_of_one_line(text: str) -> None:
    snapshot = _shared()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SyntaxWarning)
        problem = ""
        try:
            assert vector(snapshot, text).shape == (DIM,)
        except LatentDBError as error:
            problem = str(error)
    assert len(problem.splitlines()) <= 1


_SNAPSHOTS: list[Snapshot] = []


def _shared() -> Snapshot:
    if not _SNAPSHOTS:
        import tempfile

        folder = tempfile.TemporaryDirectory()
        LatentDB.create(f"{folder.name}/s.ldb", dim=DIM).add(["a", "0"], VECTORS[:2])
        _SNAPSHOTS.append(Store.open(f"{folder.name}/s.ldb").snapshot())
        _FOLDERS.append(folder)
    return _SNAPSHOTS[0]


_FOLDERS: list[object] = []


# --- as targets --------------------------------------------------------------------


def test_a_recipe_is_a_target_everywhere(path: Path) -> None:
    with LatentDB.open(path) as db:
        same = db.query("recipe:id:a", k=1)
        assert (same[0].id, same[0].distance, same.exact) == ("a", 0, True)
        assert db.query("id:recipe:x", k=1)[0].id == "recipe:x"  # the prefix wins, id: names it
        half = db.blend(["recipe:2 * id:a", "recipe:0 * id:a"])
        np.testing.assert_allclose(half, row("a"), rtol=1e-6)
        ends = db.interpolate("recipe:id:a", "recipe:id:42", steps=2)
        np.testing.assert_array_equal(ends, VECTORS[[0, 6]])
        rest = db.query("recipe:mean(label == 'x')", exclude_self=True)
        assert len(rest) == len(IDS)
        with pytest.raises(RecipeError):
            db.query("recipe:x")


# --- saved -------------------------------------------------------------------------


def test_a_saved_recipe_stays_and_says_when_it_would_differ(path: Path) -> None:
    with LatentDB.open(path) as db:
        saved = db.save_recipe("x_to_y", "mean(label == 'y') - mean(label == 'x')")
        assert (saved.rows, db.recipes()[0].text) == (6, saved.text)
        moved = db.recipe("id:a + @x_to_y")
        assert moved.notes == ()
        np.testing.assert_allclose(moved.vector, row("a") + mean("y") - mean("x"), rtol=1e-5)
        db.add(["more"], VECTORS[:1] + 1, metadata={"label": ["y"]})
        later = db.recipe("id:a + @x_to_y")
        np.testing.assert_array_equal(later.vector, moved.vector)
        assert later.notes == (
            "@x_to_y is as it was saved, of 6 rows, and would differ now: it would be made of 7",
        )
        with pytest.warns(UserWarning, match="would differ now"):
            db.query("recipe:@x_to_y")
        db.delete(where="label == 'y'")
        assert "could not be made now: no row matches" in db.recipe("@x_to_y").notes[0]
        db.delete_recipe("x_to_y")
        assert db.recipes() == ()
        with pytest.raises(NotFoundError):
            db.delete_recipe("x_to_y")


def test_a_recipe_may_name_itself_as_it_was(path: Path) -> None:
    with LatentDB.open(path) as db:
        db.save_recipe("it", "id:a")
        db.save_recipe("it", "@it * 2", overwrite=True)
        db.save_recipe("it", "@it * 2", overwrite=True)
        np.testing.assert_allclose(db.recipe("@it").vector, 4 * row("a"), rtol=1e-6)
