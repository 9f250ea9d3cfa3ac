"""Good and bad distributions of third parties, made of real files and found as those that pip installs."""

from __future__ import annotations

import gc
import json
import locale
import logging
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import dedent

import click.testing
import numpy as np
import pytest
import torch

from vedcore import builtin, plugins
from vedcore.cli.app import group
from vedcore.errors import (
    PluginApiError,
    PluginConflictError,
    PluginContractError,
    PluginLoadError,
    PluginMissingError,
    UnknownComponentError,
    UsageError,
)
from vedcore.plugins.scan import scan

Make = Callable[..., Path]

GOOD = """
from vedcore.hookspecs import hookimpl
from vedcore.registry import Entry

@hookimpl
def register_projectors():
    return [Entry("{name}", "{module}_parts:Part", "a part")]
"""


def write_distribution(
    site: Path, name: str, code: str | None = None, entry_points: str | None = None, version: str = "1.0"
) -> None:
    """Write a distribution as pip installs it: metadata, entry points, one module."""
    module = name.replace("-", "_")
    info = site / f"{module}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    lines = f"[vedcore]\nmain = {module}\n" if entry_points is None else entry_points
    (info / "entry_points.txt").write_text(lines)
    code = GOOD.format(name=name, module=module) if code is None else dedent(code)
    (site / f"{module}.py").write_text(code)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder on sys.path to install into; its modules are forgotten afterwards."""
    for variable in ("VEDCORE_PLUGINS", "VEDCORE_DISABLE_PLUGINS", "VEDCORE_DISABLE_PLUGIN_AUTOLOAD"):
        monkeypatch.delenv(variable, raising=False)
    folder, before = tmp_path / "site", set(sys.modules)
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    plugins.configure()
    yield folder
    plugins.configure()
    for module in set(sys.modules) - before:
        if str(folder) in str(getattr(sys.modules[module], "__file__", "")):
            del sys.modules[module]


def status(distribution: str) -> plugins.PluginInfo:
    return next(info for info in plugins.list_plugins() if info.distribution == distribution)


def run_cli(site: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    code = "from vedcore.cli import main; main()"
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": str(site), **environment},
    )


def test_built_ins_come_first_and_strangers_by_distribution_and_name(site: Path) -> None:
    write_distribution(site, "zeta")
    write_distribution(site, "alpha", entry_points="[vedcore]\nb = zeta\na = alpha\n")
    points = scan()
    assert [p.built_in for p in points] == sorted((p.built_in for p in points), reverse=True)
    assert [(p.owner.distribution, p.name) for p in points if p.owner.distribution in ("alpha", "zeta")] == [
        ("alpha", "a"),
        ("alpha", "b"),
        ("zeta", "main"),
    ]


def test_a_broken_plugin_stops_nobody_else(site: Path) -> None:
    write_distribution(site, "aaa")
    write_distribution(site, "mmm", "import does_not_exist")
    write_distribution(site, "zzz")
    assert {"aaa", "zzz", "linear"} <= set(plugins.list_projectors())
    assert status("aaa").status == status("zzz").status == "loaded"
    assert status("mmm").status == "failed"
    with pytest.raises(UnknownComponentError, match=r"mmm==1\.0") as error:
        plugins.resolve("projector", "quux")
    assert len(str(error.value)) <= 300
    with pytest.raises(PluginLoadError, match=r"mmm==1\.0") as failure:
        plugins.resolve("projector", "mmm:quux")
    assert failure.value.plugin == "mmm"
    assert str(status("mmm")).startswith("✗ mmm==1.0 (main = mmm)")


@pytest.mark.parametrize(
    ("code", "entry_points", "expected"),
    [
        ("def broken(:", None, "SyntaxError"),
        ("x = 1", "[vedcore]\nmain = bad:nothing\n", "AttributeError"),
        ("x = 1", "[vedcore]\nmain = not valid!!\n", "not of the form module or module:object"),
        ("x = 1", "[vedcore]\nmain =\n", "not of the form module or module:object"),
        ("raise SystemExit(3)", None, "SystemExit"),
        ("class V:\n  def __str__(self): raise KeyError\nvedcore_api = V()", None, "KeyError"),
        ("class E(Exception):\n  def __str__(self): raise KeyError\nraise E()", None, "does not load: E"),
        ("from bad import x", None, "ImportError"),
        ("raise BaseException('odd')", None, "odd"),
        ("def f(): f()\nf()", None, "RecursionError"),
    ],
)
def test_a_plugin_that_does_not_import_is_named_with_version_and_entry_point(
    site: Path, code: str, entry_points: str | None, expected: str
) -> None:
    write_distribution(site, "bad", code, entry_points)
    info = status("bad")
    assert info.status == "failed"
    assert "bad==1.0 (main =" in info.reason
    assert expected in info.reason
    assert len(info.reason) <= 300
    assert plugins.list_projectors("linear") == ["linear"]


@pytest.mark.parametrize("error", ["KeyboardInterrupt", "MemoryError"])
def test_interrupts_pass_and_leave_nothing_half_done(site: Path, error: str) -> None:
    write_distribution(site, "stops", f"raise {error}")
    with pytest.raises((KeyboardInterrupt, MemoryError)):
        plugins.list_projectors()
    plugins.configure(block=["stops"])
    assert "linear" in plugins.list_projectors()


HEAD = "from vedcore.hookspecs import hookimpl\nfrom vedcore.registry import Entry\n"


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("@hookimpl\ndef register_encodrs(): return []", "did you mean 'register_encoders'"),
        ("@hookimpl\ndef register_encoders(config): return []", "config"),
        ("def register_encoders(): return []", "not marked as a hook"),
        ("x = 1", "implements no hook"),
        ("@hookimpl\ndef register_encoders(): return 7", "gave int"),
        ("@hookimpl\ndef register_encoders(): return 'vit'", "gave str"),
        ("@hookimpl\ndef register_encoders(): return ['vit']", "gave str, not Entry"),
        ("@hookimpl\ndef register_encoders(): return [Entry('a b', 'm:C')]", "is not a name"),
        ("@hookimpl\ndef register_encoders(): return [Entry('', 'm:C')]", "is not a name"),
        ("@hookimpl\ndef register_encoders(): return [Entry('ok', 'm.C')]", "package.module:Attribute"),
        ("@hookimpl\ndef register_encoders(): return [Entry('ok', 'm:C', variants='abc')]", "variants"),
        ("@hookimpl\ndef register_encoders(): return [Entry('ok', 'm:C'), Entry('ok', 'm:D')]", "twice"),
        ("@hookimpl\ndef register_encoders():\n    yield Entry('ok', 'm:C')\n    raise KeyError('half')", "KeyError"),
    ],
)
def test_a_plugin_that_breaks_the_contract_registers_nothing(site: Path, body: str, expected: str) -> None:
    good = "\n@hookimpl\ndef register_decoders(): return [Entry('innocent', 'm:C')]\n" if "@hookimpl" in body else ""
    write_distribution(site, "bad", HEAD + good + body)
    info = status("bad")
    assert info.status == "failed"
    assert expected in info.reason
    assert not {"ok", "innocent"} & {*plugins.list_encoders(), *plugins.list_decoders()}
    kind = PluginLoadError if "KeyError" in expected else PluginContractError
    assert isinstance(plugins.registry().failures["bad"], kind)


@pytest.mark.parametrize(
    ("version", "works"), [("1", True), ("'1'", True), ("'1.4'", True), ("2", False), ("'x'", False)]
)
def test_the_version_of_the_hooks(site: Path, version: str, works: bool) -> None:
    write_distribution(site, "versioned", f"vedcore_api = {version}\n" + GOOD.format(name="v", module="v"))
    info = status("versioned")
    assert (info.status == "loaded") is works
    if not works:
        assert isinstance(plugins.registry().failures["versioned"], PluginApiError)
        assert "versioned==1.0" in info.reason
        assert "plugin API" in info.reason
        assert "has 1" in info.reason


def test_a_name_of_two_plugins_is_ambiguous(site: Path) -> None:
    for name in ("one", "two"):
        write_distribution(site, name, GOOD.format(name="shared", module=name))
    with pytest.raises(PluginConflictError) as error:
        plugins.resolve("projector", "shared")
    for part in ("one==1.0", "two==1.0", "one:shared", "VEDCORE_DISABLE_PLUGINS=two"):
        assert part in str(error.value)
    assert plugins.resolve("projector", "two:shared").entry.owner.distribution == "two"
    assert {"one:shared", "two:shared"} <= set(plugins.list_projectors())
    plugins.configure(block=["two"])
    assert plugins.resolve("projector", "shared").entry.owner.distribution == "one"


@pytest.mark.parametrize(
    "entry",
    ["Entry('linear', 'm:C')", "Entry('mine', 'm:C', aliases=('linear',))", "Entry('mine', 'm:C', variants=('lin*',))"],
)
def test_names_of_built_ins_are_reserved(site: Path, entry: str) -> None:
    write_distribution(site, "thief", HEAD + f"@hookimpl\ndef register_projectors(): return [{entry}]")
    assert plugins.resolve("projector", "linear").entry.owner.distribution == "vedcore"
    assert plugins.resolve("projector", "thief:linear").entry.owner.distribution == "thief"
    assert plugins.resolve("projector", "vedcore:linear").entry.owner.distribution == "vedcore"
    assert status("thief").status == "loaded"
    if "lin*" not in entry:
        assert "built-in" in status("thief").problems[0]
        assert "thief:" in status("thief").problems[0]


def test_a_plugin_cannot_pose_as_vedcore(site: Path) -> None:
    body = "from vedcore.registry import Owner\n@hookimpl\ndef register_projectors():\n"
    write_distribution(site, "poser", HEAD + body + "    return [Entry('p', 'm:C', owner=Owner('vedcore', '9'))]")
    assert plugins.resolve("projector", "p").entry.owner.distribution == "poser"


def test_one_object_is_called_once(site: Path) -> None:
    write_distribution(site, "twice", entry_points="[vedcore]\na = twice\nb = twice\n")
    infos = [info for info in plugins.list_plugins() if info.distribution == "twice"]
    assert [info.status for info in infos] == ["loaded", "loaded"]
    assert [bool(info.registered) for info in infos] == [True, False]


def test_of_a_distribution_twice_on_the_path_the_first_counts(
    site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    later = tmp_path / "later"
    write_distribution(later, "dup", "raise RuntimeError", version="2.0")
    monkeypatch.setattr(sys, "path", [*sys.path, str(later), str(site)])
    write_distribution(site, "dup")
    assert [(i.version, i.status) for i in plugins.list_plugins() if i.distribution == "dup"] == [("1.0", "loaded")]


def test_a_newer_copy_without_a_plugin_hides_an_older_one_with_it(
    site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    later = tmp_path / "later"
    write_distribution(later, "dup")
    monkeypatch.setattr(sys, "path", [*sys.path, str(later)])
    write_distribution(site, "dup", entry_points="[console_scripts]\nx = a:b\n", version="2.0")
    assert not [i for i in plugins.list_plugins() if i.distribution == "dup"]


def test_damaged_metadata_of_others_does_no_harm(site: Path) -> None:
    for name, data in (("binary", b"[vedcore]\n\xff\xfe = a"), ("nul", b"[vedcore]\n\0 = \0"), ("empty", b"")):
        info = site / f"{name}-1.0.dist-info"
        info.mkdir()
        (info / "entry_points.txt").write_bytes(data)
    write_distribution(site, "fine")
    assert "fine" in plugins.list_projectors()


def test_a_plugin_leaves_the_process_as_it_was(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_distribution(
        site,
        "messy",
        """
        import logging, os, warnings
        print("hello from messy")
        os.chdir("/")
        os.environ["MESSY"] = "1"
        warnings.simplefilter("error")
        logging.basicConfig(level=logging.DEBUG, force=True)
        logging.disable(logging.CRITICAL)
    """
        + GOOD.format(name="messy", module="messy").replace("\n", "\n        "),
    )
    root = logging.getLogger()
    before = (os.getcwd(), list(warnings.filters), root.level, root.handlers[:], root.manager.disable)
    try:
        info = status("messy")
    finally:
        os.environ.pop("MESSY", None)
    assert info.status == "loaded"
    assert (os.getcwd(), list(warnings.filters), root.level, root.handlers[:], root.manager.disable) == before
    out, err = capsys.readouterr()
    assert out == ""
    assert "hello from messy" in err
    assert any("MESSY" in problem for problem in info.problems)


CHANGES = {
    "torch.set_num_threads(torch.get_num_threads() + 1)": lambda: torch.get_num_threads(),
    "torch.set_default_dtype(torch.float64)": lambda: torch.get_default_dtype(),
    "torch.set_default_device('meta')": lambda: torch.get_default_device(),
    "torch.set_grad_enabled(False)": lambda: torch.is_grad_enabled(),
    "torch.use_deterministic_algorithms(True)": lambda: torch.are_deterministic_algorithms_enabled(),
    "torch.set_float32_matmul_precision('medium')": lambda: torch.get_float32_matmul_precision(),
    "torch.autograd.set_detect_anomaly(True)": lambda: torch.is_anomaly_enabled(),
    "torch.manual_seed(3)": lambda: torch.get_rng_state().tolist(),
    "torch.backends.cudnn.benchmark = True": lambda: torch.backends.cudnn.benchmark,
    "np.random.seed(3)": lambda: np.random.get_state()[1].tolist(),
    "np.seterr(all='raise')": lambda: np.geterr(),
    "random.seed(3)": lambda: random.getstate(),
    "os.environ['CHANGED_BY'] = 'a plugin'": lambda: dict(os.environ),
    "os.environ.pop('PATH')": lambda: dict(os.environ),
    "sys.path.insert(0, 'nowhere')": lambda: sys.path[:],
    "sys.argv[:] = []": lambda: sys.argv[:],
    "sys.excepthook = print": lambda: sys.excepthook,
    "sys.setrecursionlimit(4321)": lambda: sys.getrecursionlimit(),
    "signal.signal(signal.SIGINT, signal.SIG_IGN)": lambda: signal.getsignal(signal.SIGINT),
    "gc.disable()": lambda: gc.isenabled(),
    "locale.setlocale(locale.LC_ALL, 'C.UTF-8')": lambda: locale.setlocale(locale.LC_ALL),
    "warnings.showwarning = print": lambda: warnings.showwarning,
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("when", ["registering", "use"])
def test_what_a_plugin_changes_at_import_is_put_back(site: Path, change: str, when: str) -> None:
    bad = f"import gc, locale, os, random, signal, sys, warnings\nimport numpy as np\nimport torch\n{change}\n"
    good = GOOD.format(name="tuner", module="tuner")
    write_distribution(site, "tuner", bad + good if when == "registering" else good)
    part = "from vedcore.projectors import LinearProjector\nclass Part(LinearProjector): pass\n"
    (site / "tuner_parts.py").write_text(part if when == "registering" else bad + part)
    before = CHANGES[change]()
    try:
        assert status("tuner").status == "loaded"
        plugins.load_component("projector", "tuner")
        assert CHANGES[change]() == before
    finally:
        torch.set_default_device(None)
        torch.set_grad_enabled(True)


def test_a_plugin_that_imports_torch_first_leaves_its_modes(site: Path) -> None:
    code = "import torch\ntorch.set_grad_enabled(False)\ntorch.set_default_dtype(torch.float64)\n"
    write_distribution(site, "tuner", code + GOOD.format(name="tuner", module="tuner"))
    check = "import vedcore; vedcore.list_encoders(); import torch; print(torch.is_grad_enabled(), torch.rand(1).dtype)"
    done = subprocess.run(
        [sys.executable, "-c", check], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(site)}
    )
    assert done.stdout.split() == ["True", "torch.float32"], done.stderr


def test_a_slow_plugin_is_named_and_help_does_not_wait_for_it(
    site: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Clock:
        now = 0.0

        def __call__(self) -> float:
            return self.now

    marked = f"open({str(site / 'imported')!r}, 'w').close()\n"
    slow = marked + "import time\ntime.perf_counter.now += 1.2\n" + GOOD.format(name="slow", module="slow")
    write_distribution(site, "slow", slow)
    help_text = run_cli(site, "--help")
    assert not (site / "imported").exists()
    assert "slow==1.0" in help_text.stdout
    monkeypatch.setattr(time, "perf_counter", Clock())
    with caplog.at_level(logging.WARNING):
        assert any("1.2 s to import" in problem for problem in status("slow").problems)
    assert "slow==1.0 takes" in caplog.text


@pytest.mark.parametrize("command", [[], *([entry.name] for entry in builtin.register_commands())])
def test_help_imports_no_plugin(site: Path, command: list[str]) -> None:
    write_distribution(
        site, "loud", f"open({str(site / 'imported')!r}, 'w').close()\n" + GOOD.format(name="l", module="l")
    )
    done = run_cli(site, *command, "--help")
    assert (done.returncode, "Usage: vedcore" in done.stdout) == (0, True)
    assert not (site / "imported").exists()


def test_lists_show_the_time_that_a_plugin_takes_to_import(site: Path) -> None:
    code = "import time\ntime.sleep(0.06)\n"
    write_distribution(site, "slow", code + GOOD.format(name="slow", module="slow"))
    shown = run_cli(site, "plugins").stdout
    assert re.search(r"slow==1\.0 .*\n    0\.\d\d s to import\n", shown)
    assert re.search(r"slow +a part \(slow==1\.0, 0\.\d\d s to import\)", run_cli(site, "list", "projectors").stdout)
    records = json.loads(run_cli(site, "plugins", "--json").stdout)
    assert max(records, key=lambda record: record["import_seconds"])["distribution"] == "slow"
    parts = json.loads(run_cli(site, "list", "projectors", "--json").stdout)
    assert max(parts, key=lambda part: part["import_seconds"])["name"] == "slow"


@pytest.mark.parametrize(
    ("kind", "target", "says"),
    [
        ("encoder", "missing_module:Part", "ModuleNotFoundError"),
        ("decoder", "mine_parts:Absent", "AttributeError"),
        ("projector", "mine_parts:number", "not a subclass of torch.nn.Module"),
        ("format", "mine_parts:Halfway", "its constructor fails"),
        ("format", "mine_parts:Empty", "it lacks recognises"),
        ("model", "mine_parts:number", "cannot be called"),
        ("command", "mine_parts:function", "is not a click.Command"),
    ],
)
def test_check_imports_the_targets(site: Path, kind: str, target: str, says: str) -> None:
    code = HEAD + f"@hookimpl\ndef register_{kind}s(): return [Entry('mine-{kind}', '{target}')]"
    write_distribution(site, "mine", code)
    (site / "mine_parts.py").write_text(
        "number = 7\ndef function(): pass\nclass Empty: pass\nclass Halfway:\n    def __init__(self): 1 / 0\n"
    )
    assert status("mine").status == "loaded"
    mine = next(plugin for plugin in plugins.check_targets() if plugin.distribution == "mine")
    assert (mine.status, says in mine.reason) == ("failed", True), mine.reason


def test_check_passes_what_works_and_fails_what_does_not_load(site: Path) -> None:
    def check(*arguments: str) -> click.testing.Result:
        return click.testing.CliRunner().invoke(
            group, [*arguments, "plugins", "--check", "--json"], standalone_mode=False
        )

    write_distribution(site, "mine")
    (site / "mine_parts.py").write_text("from vedcore.projectors import LinearProjector as Part\n")
    assert check("-p", "mine").return_value == 0
    del sys.modules["mine_parts"]
    (site / "mine_parts.py").write_text("Part = 7  # no class\n")
    assert status("mine").status == "loaded"
    done = check("-p", "mine")
    assert done.return_value == 1
    assert {r["distribution"]: r["status"] for r in json.loads(done.stdout)}["mine"] == "failed"
    write_distribution(site, "broken", "import does_not_exist")
    assert check("-p", "broken").return_value == 1
    assert check("-p", "no:broken", "-p", "no:mine").return_value == 0


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("return None", "gives NoneType, not a path"),
        ("return 7", "gives int, not a path"),
        ("return ''", "which is not a folder"),
        ("return '/nowhere/at/all'", "which is not a folder"),
        ("return __file__", "which is not a folder"),
        ("raise KeyError('no')", "its function fails: KeyError"),
        ("raise SystemExit", "its function fails: SystemExit"),
    ],
)
def test_a_model_function_that_gives_no_path(site: Path, body: str, says: str) -> None:
    import vedcore

    code = HEAD + "@hookimpl\ndef register_models(): return [Entry('mine-model', 'mine:model')]\n"
    write_distribution(site, "mine", f"{code}def model(): {body}\n")
    plugins.reset()
    with pytest.raises(PluginContractError, match=r"model 'mine-model' of mine==1\.0") as error:
        vedcore.load("mine-model")
    assert says in str(error.value)
    assert error.value.plugin == "mine"


def test_a_plugin_that_asks_for_parts_while_it_is_imported(site: Path) -> None:
    write_distribution(site, "eager", "import vedcore.plugins\nvedcore.plugins.list_encoders()")
    assert "while it is imported" in status("eager").reason


@pytest.mark.parametrize(
    ("allow", "block", "environment", "loaded"),
    [
        ((), (), {}, {"one", "two"}),
        ((), (), {"VEDCORE_DISABLE_PLUGIN_AUTOLOAD": "1"}, set()),
        (("two",), (), {"VEDCORE_DISABLE_PLUGIN_AUTOLOAD": "1"}, {"two"}),
        ((), (), {"VEDCORE_PLUGINS": "one"}, {"one"}),
        (("two",), (), {}, {"two"}),
        ((), ("two",), {}, {"one"}),
        ((), (), {"VEDCORE_DISABLE_PLUGINS": "one, two"}, set()),
        ((), ("entry-two",), {}, {"one"}),
    ],
)
def test_which_plugins_are_loaded(
    site: Path,
    monkeypatch: pytest.MonkeyPatch,
    allow: tuple[str, ...],
    block: tuple[str, ...],
    environment: dict[str, str],
    loaded: set[str],
) -> None:
    for name in ("one", "two"):
        write_distribution(site, name, entry_points=f"[vedcore]\nentry_{name} = {name}\n")
    for key, value in environment.items():
        monkeypatch.setenv(key, value)
    plugins.configure(allow, block)
    assert {i.distribution for i in plugins.list_plugins() if i.status == "loaded"} & {"one", "two"} == loaded
    assert {"one", "two"} & set(sys.modules) == loaded
    assert "linear" in plugins.list_projectors()


def test_allowed_plugins_must_be_there_and_vedcore_cannot_be_blocked(site: Path) -> None:
    write_distribution(site, "present")
    plugins.configure(allow=["presnt"])
    with pytest.raises(UsageError, match="did you mean 'present'"):
        plugins.registry()
    plugins.configure(block=["vedcore"])
    with pytest.raises(UsageError, match="cannot be blocked"):
        plugins.registry()


@pytest.mark.parametrize("name", ["os:system", "a.b.C", "victim", "victim:Part", "", "x" * 10_000, "\x1b[31m\n"])
def test_a_name_imports_nothing(site: Path, name: str) -> None:
    (site / "victim.py").write_text("raise AssertionError('imported')")
    plugins.registry()
    before = set(sys.modules)
    with pytest.raises(UnknownComponentError) as error:
        plugins.load_component("encoder", name)
    assert set(sys.modules) == before
    assert str(error.value).isprintable()
    assert len(str(error.value)) <= 300


def test_a_part_that_does_not_import_or_is_not_a_part(site: Path) -> None:
    entries = "Entry('gone', 'nowhere:C'), Entry('number', 'parts_x:number'), Entry('bare', 'parts_x:Bare')"
    write_distribution(site, "parts", HEAD + f"@hookimpl\ndef register_encoders(): return [{entries}]")
    (site / "parts_x.py").write_text(
        "import torch\nnumber = 7\nclass Bare(torch.nn.Module):\n    def forward(self, x): return x\n"
    )
    with pytest.raises(PluginLoadError, match=r"parts==1.0.*ModuleNotFoundError"):
        plugins.load_component("encoder", "gone")
    with pytest.raises(PluginContractError, match="not a subclass of torch"):
        plugins.load_component("encoder", "number")
    with pytest.raises(PluginContractError, match=r"lacks make_config, num_tokens"):
        plugins.load_component("encoder", "bare")


def test_a_saved_part_whose_plugin_is_gone_other_or_broken(site: Path, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(PluginMissingError) as error:
        plugins.load_component("encoder", "fancy", recorded="vedcore-fancy==2.1")
    assert "'fancy'" in str(error.value)
    assert "pip install vedcore-fancy==2.1" in str(error.value)
    with pytest.raises(UnknownComponentError):  # not a requirement to give to pip
        plugins.load_component("encoder", "fancy", recorded="x; rm -rf ~")

    write_distribution(site, "broken", "raise ValueError")
    parts = HEAD + "@hookimpl\ndef register_projectors(): return [Entry('p', 'vedcore.projectors:LinearProjector')]"
    write_distribution(site, "other", parts)
    write_distribution(site, "mine", parts)
    plugins.reset()
    with pytest.raises(PluginLoadError):
        plugins.load_component("projector", "x", recorded="broken==1.0")
    with caplog.at_level(logging.WARNING):  # the part of the plugin that it was saved with is meant
        assert plugins.load_component("projector", "p", recorded="mine==0.9")[1].entry.owner.distribution == "mine"
    assert "saved with mine==0.9, and version 1.0 is installed" in caplog.text


def test_threads_find_plugins_once(site: Path) -> None:
    code = "import pathlib, time\ntime.sleep(0.05)\nwith open(__file__ + '.log', 'a') as f: f.write('x')\n"
    write_distribution(site, "counted", code + GOOD.format(name="counted", module="counted"))
    found: list[object] = []
    threads = [threading.Thread(target=lambda: found.append(plugins.registry())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(map(id, found))) == 1
    assert (site / "counted.py.log").read_text() == "x"


def test_a_thousand_distributions(site: Path) -> None:
    for i in range(1000):
        info = site / f"unrelated{i}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: unrelated{i}\nVersion: 1.0\n")
        if i % 2:
            (info / "entry_points.txt").write_text("[console_scripts]\nx = a:b\n")
    write_distribution(site, "needle")
    assert "needle" in [p.owner.distribution for p in scan()]
    assert not [p for p in scan() if p.owner.distribution.startswith("unrelated")]


def test_the_command_line_of_a_plugin_and_clean_stdout(site: Path) -> None:
    write_distribution(
        site,
        "noisy",
        """
        print("noise")
        import click
        from vedcore.hookspecs import hookimpl
        from vedcore.registry import Entry

        @hookimpl
        def register_commands():
            return [Entry("shout", "noisy:shout"), Entry("list", "noisy:shout"), Entry("seven", "noisy:seven")]

        @click.command()
        def shout():
            click.echo("HELLO")

        seven = len
    """,
    )
    write_distribution(site, "broken", "import does_not_exist")
    assert run_cli(site, "shout").stdout == "HELLO\n"
    listed = run_cli(site, "list", "projectors", "--json")
    assert {"linear", "mlp"} <= {part["name"] for part in json.loads(listed.stdout)}
    assert "broken==1.0" in listed.stderr
    records = {record["distribution"]: record for record in json.loads(run_cli(site, "plugins", "--json").stdout)}
    assert records["broken"]["status"] == "failed"
    assert records["noisy"]["registered"]["command"] == ["noisy:list", "seven", "shout"]
    assert "✗ broken==1.0" in run_cli(site, "plugins").stdout
    seven = run_cli(site, "seven")
    assert (seven.returncode, "is not a click.Command" in seven.stderr) == (1, True)
    unknown = run_cli(site, "shuot")
    assert (unknown.returncode, "'shout'" in unknown.stderr) == (2, True)
    assert run_cli(site, "-p", "no:noisy", "shout").returncode == 2
    assert run_cli(site, "shout", VEDCORE_DISABLE_PLUGIN_AUTOLOAD="1").returncode == 2
    assert run_cli(site, "-p", "noisy", "shout", VEDCORE_DISABLE_PLUGIN_AUTOLOAD="1").stdout == "HELLO\n"
