"""The README is true: its commands and code run, its help texts are those of now."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from latentdb.cli.main import main
from tests.conftest import make_images

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()


def blocks(kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the README's examples speak of, after its commands have run."""
    folder = tmp_path_factory.mktemp("readme")
    make_images(folder / "photos", 15)
    (folder / "photos/disc").rename(folder / "photos/cat")
    (folder / "photos/square").rename(folder / "photos/dog")
    Image.open(folder / "photos/cat/003.png").rotate(5).save(folder / "new.jpg")
    (folder / "wanted.txt").write_text("cat/003.png\ndog/001.png\n")
    (folder / "years.csv").write_text(
        "id,year\n" + "".join(f"cat/{n:03d}.png,{1990 + n}\n" for n in range(15))
    )
    return folder


def lines() -> list[str]:
    """Every latentdb command of the README's sh blocks, continuation lines joined."""
    text = "\n".join(blocks("sh")).replace("\\\n", " ")
    return [line for line in text.splitlines() if line.startswith("latentdb ")]


def test_the_commands_run_in_order(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    assert len(lines()) >= 12
    for line in lines():
        words = shlex.split(line, comments=True)[1:]
        if words[0] == "train":
            # The same command, for one epoch of a small model.
            words = [*words, "--epochs", "1", "--latent-dim", "4"]
        result = CliRunner().invoke(main, words)
        assert result.exit_code == 0, f"{line}\n{result.output}"
        for word in words:
            if word.endswith((".png", ".gif", ".npy", ".h5")) and words[0] != "query":
                named = word if "/" not in word or Path(word).exists() else f"photos/{word}"
                assert Path(named).exists(), f"{line} made no {word}"


def test_the_python_runs_in_order(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    if not (place / "photos.ldb").exists():
        pytest.skip("the commands that make its store did not run")
    names: dict[str, object] = {}
    assert len(blocks("python")) >= 2
    for block in blocks("python"):
        exec(compile(block, "README.md", "exec"), names)
    assert isinstance(names["pixels"], np.ndarray)


def test_the_help_texts_are_those_of_now() -> None:
    loader = importlib.machinery.SourceFileLoader("readme", str(ROOT / "scripts/readme"))
    spec = importlib.util.spec_from_loader("readme", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    assert module.renewed(README) == README, "run scripts/readme"


def test_every_command_is_shown() -> None:
    shown = {shlex.split(line)[1] for line in lines()}
    assert shown == set(main.commands)


def test_links_and_pictures_are_there() -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / target).exists(), target


def test_scripts_named_are_there_and_executable() -> None:
    for name in set(re.findall(r"scripts/([a-z_]+)", README)):
        assert (ROOT / "scripts" / name).stat().st_mode & 0o111, name
