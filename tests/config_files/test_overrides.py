"""``KEY=VALUE`` on top of data."""

from __future__ import annotations

import json

import pytest

from vedcore.config_files import apply_overrides
from vedcore.errors import UsageError


def test_overrides() -> None:
    data = {"encoder": {"name": "vit", "sizes": [1]}, "seed": 1}
    before = json.dumps(data)
    changes = ["encoder.hidden_size=32", "encoder.name = swin", "decoder.lr=1e-4", "size=[64, 512]", "x.y.z={a: no}"]
    changes += ["seed=null", "eq=a=b", "id=hub:me/x", "quoted='1'", "seed=2"]
    assert apply_overrides(data, changes) == {
        "encoder": {"name": "swin", "sizes": [1], "hidden_size": 32},
        "decoder": {"lr": 1e-4},
        "size": [64, 512],
        "x": {"y": {"z": {"a": "no"}}},
        "eq": "a=b",
        "id": "hub:me/x",
        "quoted": "1",
        "seed": 2,
    }
    assert json.dumps(data) == before


@pytest.mark.usefixtures("each_yaml_parser")
@pytest.mark.parametrize(
    "text",
    [
        "",
        "a",
        "=1",
        ".a=1",
        "a.=1",
        "a..b=1",
        "__class__=x",
        "a.__init__.b=x",
        "a b=1",
        "é=1",
        "a=",
        "a= # no",
        "a=[1",
        "a=*x",
        "a=1\n---\n2",
        "a=&x 1",
        "a=!!python/name:os.system",
        "a=b: c",
        "a=- b",
        "a=|\n b",
        "a=.inf",
        "a={1: 2}",
        "seed.x=1",
        "a=" + "[" * 10_000,
        "a=" + "9" * 5000,
        "a=\udcff",
        "a=\x1b[31m",
        "k" * 10_000,
        "a={b: 1, b: 2}",
        "a=%x",
    ],
)
def test_bad_overrides(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        apply_overrides({"seed": 1}, [text])
    message = str(caught.value)
    assert message.startswith("--set ")
    assert repr(text)[1:3].strip("'") in message
    assert len(message) <= 300
    assert message.isprintable()
