"""The distribution as a whole: what it holds and what it imports."""

from __future__ import annotations

import ast
import importlib
import pkgutil
import subprocess
from importlib import resources
from importlib.metadata import distribution, version
from pathlib import Path

import pytest

import comir_search
import napari_comir_search

CHECKOUT = Path(__file__).resolve().parent.parent
PACKAGES = (comir_search, napari_comir_search)
MODULES = sorted(path for package in PACKAGES for path in Path(package.__path__[0]).rglob("*.py"))


def _module_name(path: Path) -> str:
    return f"{path.parent.name}/{path.name}"


def _public_definitions(path: Path):
    """Yield the public functions, classes and methods of a module."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            yield node.name, node
            if isinstance(node, ast.ClassDef):
                for part in node.body:
                    is_setter = any(
                        ast.unparse(d).endswith(".setter") for d in getattr(part, "decorator_list", ())
                    )
                    if isinstance(part, ast.FunctionDef) and not part.name.startswith("_") and not is_setter:
                        yield f"{node.name}.{part.name}", part


@pytest.mark.parametrize("path", MODULES, ids=_module_name)
def test_everything_public_is_documented(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    undocumented = [name for name, node in _public_definitions(path) if not ast.get_docstring(node)]
    assert tree.body == [] or ast.get_docstring(tree), "the module has no docstring"
    assert undocumented == []


@pytest.mark.parametrize("path", [m for m in MODULES if "napari_comir_search" in m.parts], ids=_module_name)
def test_the_plugin_names_no_qt_binding(path):
    imported = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            imported |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            imported.add(node.module.split(".")[0])
    assert not imported & {"PyQt5", "PyQt6", "PySide2", "PySide6"}


def test_the_engine_imports_neither_qt_nor_napari(run_python):
    printed = run_python(
        "import importlib, pkgutil, sys, comir_search\n"
        "for module in pkgutil.walk_packages(comir_search.__path__, 'comir_search.'):\n"
        "    importlib.import_module(module.name)\n"
        "unwanted = {'napari', 'napari_comir_search', 'qtpy', 'PyQt5', 'PyQt6', 'magicgui', 'vispy'}\n"
        "print(sorted({name.split('.')[0] for name in sys.modules} & unwanted))"
    )
    assert printed.strip() == "[]"


def test_slides_import_no_torch(run_python):
    printed = run_python(
        "import importlib, pkgutil, sys, comir_search.slides as slides\n"
        "for module in pkgutil.walk_packages(slides.__path__, slides.__name__ + '.'):\n"
        "    importlib.import_module(module.name)\n"
        "print('torch' in sys.modules)"
    )
    assert printed.strip() == "False"


def test_importing_the_package_loads_nothing_heavy(run_python):
    printed = run_python(
        "import sys, comir_search\n"
        "from comir_search.cli import main\n"
        "main(['--help'])\n"
        "heavy = {'numpy', 'torch', 'cv2', 'zarr', 'dask', 'sklearn', 'tifffile'}\n"
        "print('heavy:', sorted(heavy & set(sys.modules)))"
    )
    assert printed.strip().endswith("heavy: []")


def test_help_loads_little(run_python):
    """Which is why it answers at once: importing a module takes about a millisecond."""
    printed = run_python(
        "import sys\nfrom comir_search.cli import main\nmain(['--help'])\nprint('modules:', len(sys.modules))"
    )
    assert int(printed.split()[-1]) < 300  # 184 today


@pytest.mark.parametrize("name", comir_search.__all__)
def test_public_names_are_there(name):
    assert getattr(comir_search, name) is not None
    assert name in dir(comir_search)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="nonsense"):
        comir_search.nonsense  # noqa: B018


def test_the_version_is_the_distributions():
    assert comir_search.__version__ == version("napari-comir-search")


def test_the_manifest_lies_in_the_installed_plugin():
    entry_point = distribution("napari-comir-search").entry_points.select(group="napari.manifest")
    assert [entry.value for entry in entry_point] == ["napari_comir_search:napari.yaml"]
    manifest = resources.files("napari_comir_search") / "napari.yaml"
    assert manifest.read_text(encoding="utf-8").startswith("name: napari-comir-search")


def test_the_installed_engine_holds_the_default_model_and_its_card():
    models = resources.files("comir_search") / "resources" / "models"
    names = {Path(entry.name).suffix for entry in models.iterdir()}
    assert {".safetensors", ".md"} <= names


@pytest.mark.parametrize(
    ("link", "target"),
    [("napari.yaml", "src/napari_comir_search/napari.yaml"), ("resources", "src/comir_search/resources")],
)
def test_the_links_at_the_top_resolve(link, target):
    if not (CHECKOUT / ".git").exists():
        pytest.skip("links are tracked in a checkout only")
    listed = subprocess.run(
        ["git", "ls-files", "-s", link], cwd=CHECKOUT, capture_output=True, text=True, check=True
    )
    assert listed.stdout.startswith("120000"), f"{link} is not a tracked symbolic link"
    assert (CHECKOUT / link).resolve(strict=True) == CHECKOUT / target


def test_every_subcommand_is_a_documented_module():
    import comir_search.cli as cli

    modules = {module.name for module in pkgutil.iter_modules(cli.__path__)} - {"arguments", "progress"}
    assert modules == {name.replace("-", "_") for name in cli.COMMANDS}
    for name in modules:
        module = importlib.import_module(f"comir_search.cli.{name}")
        assert module.HELP and module.HELP[0].islower() and not module.HELP.endswith(".")
