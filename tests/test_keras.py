"""`LatentCallback` in a real training."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from latentdb.base.errors import InvalidInputError
from latentdb.database import LatentDB

CODE = """
import sys, warnings, numpy as np, keras
from latentdb.keras import LatentCallback
images = np.random.default_rng(0).random((64, 4)).astype("f4")
class Model(keras.Model):
    def __init__(self):
        super().__init__()
        inputs = keras.Input((4,))
        hidden = keras.layers.Dense(3)(inputs)
        self.encoder = keras.Model(inputs, [hidden, keras.layers.Dense(3)(inputs), hidden])
        self.last = keras.layers.Dense(4)
    def call(self, x):
        return self.last(self.encoder(x)[0])
model = Model()
model.compile("sgd", "mse")
where = sys.argv[1]
labels = {"label": [n % 2 for n in range(20)]}
watch = LatentCallback(where + "/run.ldb", images[:20], every=2, metadata=labels)
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    bad = [
        LatentCallback(where + "/bad.ldb", images[:20, :2]),        # not what the encoder takes
        LatentCallback("/proc/nothing/run.ldb", images[:20]),       # not to be written
        LatentCallback(where + "/c.ldb", images[:20], encoder=lambda x: x[:, :, None]),
    ]
    model.fit(images, images, epochs=4, verbose=0, callbacks=[watch, *bad])
    again = LatentCallback(where + "/run.ldb", images[:20], every=4)
    model.fit(images, images, epochs=4, verbose=0, callbacks=[again])
print(len(watch.seconds), len(again.seconds))
for one in said:
    if one.category is RuntimeWarning:
        print(str(one.message).splitlines()[0][:150])
"""


def test_a_training_is_watched_and_never_ended(tmp_path: Path) -> None:
    # In a process of its own: it imports keras, which the other tests do without.
    done = subprocess.run(
        [sys.executable, "-c", CODE, str(tmp_path)], capture_output=True, text=True, check=True
    )
    lines = done.stdout.splitlines()
    assert lines[0] == "2 0"
    assert len(lines) == 5, lines
    assert all(line.startswith("the latents of epoch ") for line in lines[1:])
    assert "AlreadyExistsError" in lines[-1]
    assert sorted(path.name for path in (tmp_path / "run.ldb").iterdir()) == [
        "epoch-0002.ldb",
        "epoch-0004.ldb",
    ]
    with LatentDB.open(tmp_path / "run.ldb/epoch-0002.ldb") as db:
        assert db.ids()[:2] == ["00", "01"]
        assert db.log_vars() is not None
        assert db.count("label == 1") == 10
        assert db.compare(tmp_path / "run.ldb/epoch-0004.ldb").overlap > 0.5


def test_what_does_not_go_together_is_refused_before_the_training() -> None:
    from latentdb.keras import LatentCallback

    images = np.zeros((3, 2, 2, 1), np.float32)
    for arguments, message in (
        ({"images": images[:0]}, "no images"),
        ({"images": images, "every": 0}, "every 0"),
        ({"images": images, "ids": ["a"]}, "ids has 1 values for 3"),
        ({"images": images, "metadata": {"label": [1]}}, "label has 1 values for 3"),
    ):
        with pytest.raises(InvalidInputError, match=message):
            LatentCallback("run.ldb", **arguments)
