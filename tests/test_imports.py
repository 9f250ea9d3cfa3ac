"""Imports run strictly downward, never to the built-in packages, and import nothing heavy before it is needed."""

from __future__ import annotations

import ast
import graphlib
import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import vedcore

ROOT = Path(vedcore.__file__).parent

# A module imports from rows above its own, and from what stands to its left in it.
ROWS = [
    ["errors", "deprecated_names", "transformers_names", "files", "model_files", "extras", "notebook"],
    ["config_files", "config", "fields", "layers", "outputs", "pytrees"],
    ["weights", "transformers_class", "token_grids", "components", "text_inputs", "text_decoder"],
    ["registry", "hookspecs", "projectors", "builtin", "plugins"],
    ["hub", "processing"],
    ["generation", "hf"],
    ["loss", "explaining", "model"],
    ["composer"],
    ["checkpoints", "adapters", "testing"],
    ["data", "evaluation", "training", "export"],
    ["nn", "formats", "transformers_checkpoints", "__init__", "distributions", "cli", "__main__"],
]
PLACE = {name: (row, column) for row, names in enumerate(ROWS) for column, name in enumerate(names)}


def modules() -> dict[str, Path]:
    """Dotted names below ``vedcore`` to files; a package's own name is that of its ``__init__``."""
    found = {}
    for path in sorted(ROOT.rglob("*.py")):
        parts = list(path.relative_to(ROOT).with_suffix("").parts)
        found[".".join(parts[:-1] if len(parts) > 1 and parts[-1] == "__init__" else parts)] = path
    return found


def imports(path: Path) -> Iterator[tuple[str, int]]:
    """Dotted names that a file imports, with their lines; in functions and for type checkers too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            yield from ((f"{node.module}.{alias.name}", node.lineno) for alias in node.names)


def inside(name: str, known: dict[str, Path]) -> str | None:
    """The module of vedcore that an imported name lies in; None for other packages."""
    first, _, rest = name.partition(".")
    if first != "vedcore":
        return None
    while rest and rest not in known:
        rest = rest.rpartition(".")[0]
    return rest or "__init__"


def graph() -> dict[str, set[str]]:
    known = modules()
    found = {m: {inside(name, known) for name, _ in imports(path)} for m, path in known.items()}
    return {m: {target for target in targets if target is not None} for m, targets in found.items()}


def test_every_module_has_its_row() -> None:
    assert {name.partition(".")[0] for name in modules()} <= set(PLACE)


def test_imports_run_strictly_downward() -> None:
    wrong = []
    for module, targets in graph().items():
        for target in targets:
            here, there = module.partition(".")[0], target.partition(".")[0]
            if here != there and PLACE[there] >= PLACE[here]:
                wrong.append(f"{module} imports {target}")
    assert not wrong


GENERATION = [
    ["options"],
    ["constraints", "arguments", "streaming"],
    ["processors"],
    ["request", "state", "protocol"],
    ["stopping", "results", "own_criteria"],
    ["search"],
    ["call"],
    ["generate"],
]
"""The rooms of ``vedcore/generation``, from the bottom up."""


def test_the_rooms_of_generation_import_downward() -> None:
    row = {name: number for number, names in enumerate(GENERATION) for name in names}
    wrong = []
    for module, targets in graph().items():
        for target in targets:
            here, there = (name.removeprefix("generation.").partition(".")[0] for name in (module, target))
            inside = module.startswith("generation.") and target.startswith("generation.")
            if inside and here != there and row[there] >= row[here]:
                wrong.append(f"{module} imports {target}")
    assert not wrong


def test_no_two_modules_import_each_other() -> None:
    assert list(graphlib.TopologicalSorter(graph()).static_order())


def test_the_core_imports_neither_the_built_in_parts_nor_test_tools() -> None:
    banned = {"vedcore_encoders", "vedcore_decoders", "vedcore_printed", "transformers", "pytest"}
    found = [
        f"{path.name}:{line}: {name}"
        for path in modules().values()
        for name, line in imports(path)
        if name.partition(".")[0] in banned
    ]
    assert not found


def test_the_core_names_the_built_in_parts_nowhere_in_its_code() -> None:
    for path in modules().values():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                assert not node.value.startswith(("vedcore_encoders", "vedcore_decoders")), f"{path}:{node.lineno}"


def test_every_public_name_can_be_imported() -> None:
    assert len(vedcore.__all__) == len(set(vedcore.__all__))
    for name in vedcore.__all__:
        assert getattr(vedcore, name) is not None
    with pytest.raises(AttributeError, match="nonsense"):
        vedcore.nonsense  # noqa: B018
    assert set(vedcore.__all__) <= set(dir(vedcore))


@pytest.mark.parametrize("module", sorted(name for name in modules() if name != "__main__"))
def test_the_all_of_each_module_is_what_it_has(module: str) -> None:
    loaded = importlib.import_module("vedcore" if module == "__init__" else f"vedcore.{module}")
    for name in getattr(loaded, "__all__", []):
        assert hasattr(loaded, name), f"{module}.{name}"


HEAVY = ("torch", "timm", "torchvision", "transformers", "numpy", "PIL", "pydantic", "tokenizers", "huggingface_hub")


@pytest.mark.parametrize(
    "code",
    [
        "import vedcore",
        "import vedcore; assert vedcore.fields.parse('<s_a>1</s_a>') == {'a': '1'}",
        "import vedcore; assert vedcore.list_encoders() and vedcore.list_decoders() and vedcore.list_projectors()",
        "import vedcore; vedcore.list_models(); vedcore.ConfigError; vedcore.Entry; vedcore.hookimpl",
        "from vedcore.cli.app import group; group(['list', 'encoders'], standalone_mode=False)",
        "from vedcore.cli.app import group; group(['plugins', '--json'], standalone_mode=False)",
        "from vedcore.cli.app import group; group(['--help'], standalone_mode=False)",
        "from vedcore.cli.app import group; group(['generate', '--help'], standalone_mode=False)",
    ],
)
def test_nothing_heavy_is_imported_to_look_around(code: str) -> None:
    check = f"\nimport sys\nprint([m for m in {HEAVY!r} if m in sys.modules], file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code + check], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr.strip().splitlines()[-1:]) == (0, ["[]"]), done.stderr
