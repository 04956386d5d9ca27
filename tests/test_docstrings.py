"""Every public function of three or more arguments documents them in a numpydoc section "Parameters"."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SRC = Path(__file__).parents[1] / "src"
IMPLICIT = {"self", "cls"}


def find_undocumented(body: list[ast.stmt], owner: str = "") -> Iterator[str]:
    """Yield the public functions and methods without the section, by qualified name."""
    for node in body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield from find_undocumented(node.body, f"{owner}{node.name}.")
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not node.name.startswith("_"):
            arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            arguments += [each for each in (node.args.vararg, node.args.kwarg) if each]
            count = sum(argument.arg not in IMPLICIT for argument in arguments)
            if count >= 3 and "Parameters\n----------\n" not in (ast.get_docstring(node) or ""):
                yield f"{owner}{node.name}"


@pytest.mark.parametrize("package", ["comir_search", "napari_comir_search"])
def test_arguments_are_documented(package):
    paths = [path.relative_to(SRC) for path in sorted((SRC / package).rglob("*.py"))]
    assert paths
    undocumented = [
        f"{path}: {name}"
        for path in paths
        for name in find_undocumented(ast.parse((SRC / path).read_text(encoding="utf-8")).body)
    ]
    assert undocumented == []


@pytest.mark.parametrize(
    ("code", "undocumented"),
    [
        ('def f(a, b, c): "Do it."', ["f"]),
        ('def f(a, *, b, **c): "Do it."', ["f"]),
        ('def f(a, b): "Do it."', []),
        ('def _f(a, b, c): "Do it."', []),
        ('class A:\n  def f(self, a, b): "Do it."\n  def g(self, a, b, c): "Do it."', ["A.g"]),
        ('def f(a, b, c):\n  """Do it.\n\n  Parameters\n  ----------\n  a, b, c : int\n  """', []),
    ],
)
def test_missing_sections_are_found(code, undocumented):
    assert list(find_undocumented(ast.parse(code).body)) == undocumented
