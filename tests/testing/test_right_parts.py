"""Right parts, vedcore's own and of other makes, pass every check."""

from __future__ import annotations

from typing import Any

from tests.decoders.conftest import ENTRIES, FAMILIES, TINY, cases
from tests.encoders.conftest import SMALL, encoder_class
from tests.testing.right_parts import RIGHT
from vedcore.config import ProjectorConfig
from vedcore.projectors import IdentityProjector, LinearProjector, MLPProjector, MLPProjectorConfig
from vedcore.testing import parametrize_with_checks


def _decoder(family: str, fields: dict[str, Any]) -> Any:
    cls = ENTRIES[family].load()
    return lambda: cls(cls.make_config(None, {**TINY[family], **fields}))


def _encoder(name: str) -> Any:
    cls, (variant, fields) = encoder_class(name), SMALL[name]
    return lambda: cls(cls.make_config(variant, fields))


PROJECTORS = {
    "identity": lambda: IdentityProjector(ProjectorConfig(), 12, 12),
    "linear": lambda: LinearProjector(ProjectorConfig(), 12, 8),
    "mlp": lambda: MLPProjector(MLPProjectorConfig(num_hidden_layers=2), 12, 8),
}


@parametrize_with_checks(RIGHT)
def test_parts_of_other_makes(part: Any, check: Any) -> None:
    check(part)


SETTINGS = ("bert, untied", "gpt2, upcast", "roberta, pad 4", "trocr, as large-printed")
DECODERS = {**FAMILIES, **{name: cases()[name] for name in SETTINGS}}


@parametrize_with_checks({name: _decoder(case.name, case.fields) for name, case in DECODERS.items()})
def test_decoders(part: Any, check: Any) -> None:
    check(part)


@parametrize_with_checks({name: _encoder(name) for name in SMALL})
def test_encoders(part: Any, check: Any) -> None:
    check(part)


@parametrize_with_checks(PROJECTORS)
def test_projectors(part: Any, check: Any) -> None:
    check(part)
