"""`vedcore export --to savedmodel` and `--to tflite`: the proof holds, and the files run without us."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from models import PAIRS, images, tiny

import vedcore
import vedcore_tensorflow

PLAIN = """
import sys
sys.modules["torch"] = sys.modules["vedcore"] = None
import numpy as np, tensorflow as tf
pixels = np.load("pixels.npy")
saved = tf.saved_model.load(sys.argv[1])
states = saved.signatures["encode"](pixel_values=tf.constant(pixels))["encoder_hidden_states"]
assert states.shape[0] == len(pixels)
served = saved.signatures["serving_default"](pixel_values=tf.constant(pixels))["sequences"].numpy()
np.save("ids.npy", served)
for count in (1, 2):
    given = {"pixel_values": tf.constant(pixels[:count]), "max_new_tokens": tf.constant(4)}
    assert saved.signatures["generate"](**given)["sequences"].shape == (count, 5)
"""


@pytest.mark.parametrize("pair", PAIRS, ids="-".join)
def test_the_proof_of_a_saved_model_holds(pair: tuple[str, str], tmp_path: Path) -> None:
    """Numbers, loss, gradients with ties, five steps of AdamW, ids at three sizes, without torch."""
    report = tiny(*pair).export(tmp_path / "out", to="savedmodel")
    assert report["holds"]
    assert not report["left_out"]
    assert (tmp_path / "out/saved_model/saved_model.pb").stat().st_size


@pytest.mark.parametrize("pair", PAIRS[::2], ids="-".join)
def test_the_proof_of_a_file_for_lite_holds(pair: tuple[str, str], tmp_path: Path) -> None:
    report = tiny(*pair).export(tmp_path / "out", to="tflite")
    assert report["holds"]
    assert {check["method"] for check in report["checks"]} == {"encode", "generate"}


def test_a_saved_model_runs_without_vedcore(recorded: Callable[..., tuple[Any, Path]], tmp_path: Path) -> None:
    theirs, folder = recorded()
    options = {"num_beams": 3, "max_new_tokens": 7}
    vedcore_tensorflow.write_saved_model(vedcore_tensorflow.load(folder), tmp_path / "saved", **options)
    pixels = images(theirs, 3)
    np.save(tmp_path / "pixels.npy", pixels.numpy())
    code = [sys.executable, "-c", PLAIN, tmp_path / "saved"]
    done = subprocess.run(code, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    np.testing.assert_array_equal(np.load(tmp_path / "ids.npy"), theirs.generate(pixels, **options).numpy())


def test_what_a_file_for_lite_cannot_hold_is_refused(recorded: Callable[..., tuple[Any, Path]], tmp_path: Path) -> None:
    ours = vedcore_tensorflow.load(recorded()[1])
    for options, said in (({"num_beams": 2}, "num_beams: a file"), ({"do_sample": True}, "do_sample: a file")):
        with pytest.raises(vedcore.UsageError, match=said):
            vedcore_tensorflow.write_tflite(ours, tmp_path / "model.tflite", **options)
    assert not (tmp_path / "model.tflite").exists()
