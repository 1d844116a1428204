"""The documents are true: their commands and code run, their links lead somewhere."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import re
import shlex
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner
from PIL import Image

from latentdb.cli.main import main
from latentdb.database import LatentDB
from latentdb.model.training import train_model
from tests.conftest import make_images

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
DOCUMENTS = {
    str(path.relative_to(ROOT)): path
    for path in (README, *sorted(ROOT.glob("latentdb/*/README.md")), *ROOT.glob("*s/README.md"))
}


def blocks(document: Path, *kinds: str) -> list[tuple[str, str]]:
    """Kind and text of the code blocks of a document, in order."""
    pattern = rf"^```({'|'.join(kinds)})\n(.*?)^```"
    return re.findall(pattern, document.read_text(), re.MULTILINE | re.DOTALL)


def commands(text: str) -> list[list[str]]:
    """The latentdb commands of a block, continuation lines joined, without `latentdb`."""
    lines = text.replace("\\\n", " ").splitlines()
    return [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("latentdb ")]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the packages' documents speak of: photos, a model, a store of them, and small files."""
    folder = tmp_path_factory.mktemp("documents")
    make_images(folder / "photos", 15)
    (folder / "photos/disc").rename(folder / "photos/cat")
    (folder / "photos/square").rename(folder / "photos/dog")
    Image.open(folder / "photos/cat/003.png").rotate(5).save(folder / "new.jpg")
    (folder / "wanted.txt").write_text("cat/003.png\ndog/001.png\n")
    (folder / "years.csv").write_text(
        "id,year\n" + "".join(f"cat/{n:03d}.png,{1990 + n}\n" for n in range(15))
    )
    train_model([folder / "photos"], folder / "my-model", latent_dim=4, epochs=1)
    with LatentDB.create(folder / "photos.ldb", model=folder / "my-model") as db:
        db.index_images(folder / "photos", labels_from_folders=True)
    return folder


@pytest.fixture(scope="module")
def digits(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the README speaks of: the folder that scripts/quickstart leaves, with fewer images."""
    folder = tmp_path_factory.mktemp("readme")
    made = folder / "quickstart"
    for label in range(10):
        (made / "digits" / str(label)).mkdir(parents=True)
    for number, source in enumerate(sorted((photos / "photos/cat").glob("*.png"))):
        for label in range(10):
            shutil.copy(source, made / f"digits/{label}/{500 * label + number:04d}.png")
    shutil.copytree(photos / "my-model", made / "model")
    with LatentDB.create(made / "store.ldb", model=made / "model") as db:
        db.index_images(made / "digits", labels_from_folders=True)
    (made / "pictures").mkdir()
    shutil.copy(photos / "photos/dog/001.png", made / "pictures/blend.png")
    for name in ("photos", "new.jpg"):
        copy = shutil.copytree if (photos / name).is_dir() else shutil.copy
        copy(photos / name, folder / name)
    return folder


@pytest.mark.parametrize("name", DOCUMENTS)
def test_commands_and_code_run_in_order(
    name: str,
    photos: Path,
    digits: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    document = DOCUMENTS[name]
    shutil.copytree(digits if document == README else photos, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    variables: dict[str, object] = {}
    for kind, text in blocks(document, "sh", "python"):
        if kind == "python":
            exec(compile(text, name, "exec"), variables)
        for words in commands(text) if kind == "sh" else ():
            if words[0] == "train":  # the same command, for one epoch of a small model
                small = () if "--from" in words else ("--latent-dim", "4")
                words = [*words, "--epochs", "1", *small]
            if words[0] == "serve":  # it would not end; tests/explorer runs it
                words = [*words, "--help"]
            if words[0] == "duplicates" and "--sheet" in words:  # these photos have none
                words = [*words, "--threshold", "100"]
            result = CliRunner().invoke(main, words)
            assert result.exit_code == 0, f"{shlex.join(words)}\n{result.output}"
            for option in ("--out", "--sheet"):
                if option in words:
                    made = Path(words[words.index(option) + 1])
                    assert made.exists(), f"{shlex.join(words)} made no {made}"
    capsys.readouterr()


def test_every_command_is_shown() -> None:
    shown = {
        words[0]
        for document in DOCUMENTS.values()
        for _, text in blocks(document, "sh")
        for words in commands(text)
    }
    assert shown == set(main.commands)


def test_the_help_texts_are_those_of_now() -> None:
    loader = importlib.machinery.SourceFileLoader("readme", str(ROOT / "scripts/readme"))
    spec = importlib.util.spec_from_loader("readme", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    text = module.README.read_text()
    assert module.renewed(text) == text, "run scripts/readme"


@pytest.mark.parametrize("name", DOCUMENTS)
def test_links_pictures_and_scripts_are_there(name: str) -> None:
    document = DOCUMENTS[name]
    text = document.read_text()
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
        assert (document.parent / target).exists(), target
    for script in set(re.findall(r"\bscripts/([a-z_]+)(?![\w/])", text)):
        path = ROOT / "scripts" / script
        assert path.is_dir() or path.stat().st_mode & 0o111, script


def test_the_readme_can_be_finished() -> None:
    text = README.read_text()
    assert len(text.splitlines()) <= 200
    assert len(text.encode()) <= 10_000


def test_every_package_says_what_it_is() -> None:
    for folder in sorted((ROOT / "latentdb").glob("*/__init__.py")):
        assert folder.read_text().startswith('"""'), folder
