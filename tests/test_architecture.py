"""The laws of the house, held by walking the source and the classes."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import equinox as eqx

import forethought

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "forethought"
FILES = sorted(SOURCE.rglob("*.py"))
TREES = {path: ast.parse(path.read_text(encoding="utf-8")) for path in FILES}

MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 40
MAX_POSITIONAL = 6
MORE_POSITIONAL = {"ilqr", "kl_lqr"}
"""The public face of optimal control, whose order is that of the textbook's problem."""
FORBIDDEN_IMPORTS = {"pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
FORBIDDEN_CALLS = {"eval", "exec", "compile", "__import__"}

Function = ast.FunctionDef | ast.AsyncFunctionDef


def where(path: Path, node: ast.AST | None = None) -> str:
    """`file:line` as an editor opens it."""
    return f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 1)}"


def nodes(*kinds: type) -> Iterator[tuple[Path, ast.AST]]:
    """Every node of these kinds in the source."""
    for path, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, kinds):
                yield path, node


def module_names() -> list[str]:
    """Every module of the library, by walking its packages."""
    walked = pkgutil.walk_packages(forethought.__path__, "forethought.")
    return sorted(m.name for m in walked if not m.name.endswith("__main__"))


def module_name(path: Path) -> str:
    """forethought.a.b for src/forethought/a/b.py."""
    parts = path.relative_to(SOURCE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def lineage(cls: type) -> list[type]:
    """The class and its ancestors that this library defines."""
    return [c for c in cls.__mro__ if c.__module__.split(".")[0] == "forethought"]


def classes() -> list[type]:
    """Every Equinox module of the library."""
    found = []
    for name in module_names():
        for value in vars(importlib.import_module(name)).values():
            if inspect.isclass(value) and value.__module__ == name and issubclass(value, eqx.Module):
                found.append(value)
    return found


def is_abstract(cls: type) -> bool:
    """By its name, or because something is left to be implemented."""
    return cls.__name__.startswith("Abstract") or inspect.isabstract(cls)


def is_declaration(attribute: object) -> bool:
    """Whether a method or property is abstract."""
    return getattr(attribute, "__isabstractmethod__", False)


def is_method(attribute: object) -> bool:
    """Whether a class attribute is code: a function, a property, a class method or a static method."""
    return inspect.isfunction(attribute) or isinstance(attribute, (property, classmethod, staticmethod))


def test_the_walk_sees_the_library() -> None:
    """The tests below would hold of an empty list."""
    assert {"forethought.types", "forethought.core", "forethought.math.gaussian"} <= set(module_names())
    assert {module_name(p) for p in FILES if p.name != "__main__.py"} == {"forethought", *module_names()}
    names = {cls.__name__ for cls in classes()}
    assert {"AbstractPlanner", "AbstractDynamics", "Problem", "DiagonalGaussian"} <= names


def test_classes_are_abstract_or_final() -> None:
    """A concrete class has no children: wrap it."""
    wrong = [
        f"{cls.__module__}.{cls.__name__} subclasses {parent.__name__}, which is concrete"
        for cls in classes()
        for parent in lineage(cls)[1:]
        if not is_abstract(parent)
    ]
    assert not wrong, wrong


def test_abstract_classes_say_so() -> None:
    """A class that leaves something open is called AbstractX, and only such a class is."""
    for cls in classes():
        open_ends = inspect.isabstract(cls) or bool(getattr(cls, "__abstractvars__", ()))
        assert open_ends == cls.__name__.startswith("Abstract"), f"{cls.__module__}.{cls.__name__}"


def test_abstract_variables_are_seen() -> None:
    """Equinox reads AbstractVar only where annotations are not strings; otherwise it becomes a field, in silence."""
    wrong = []
    for path, tree in TREES.items():
        postponed = any(isinstance(n, ast.ImportFrom) and n.module == "__future__" for n in tree.body)
        uses = [
            n for n in ast.walk(tree) if isinstance(n, ast.AnnAssign) and "AbstractVar[" in ast.unparse(n.annotation)
        ]
        wrong += [where(path, n) for n in uses if postponed or isinstance(n.annotation, ast.Constant)]
    assert not wrong, f"drop `from __future__ import annotations` there: {wrong}"


def test_methods_are_implemented_once() -> None:
    """What an ancestor implements, no descendant implements again."""
    wrong = []
    for cls in classes():
        for name, attribute in vars(cls).items():
            if name.startswith("__") or not is_method(attribute):
                continue
            for parent in lineage(cls)[1:]:
                inherited = vars(parent).get(name)
                if is_method(inherited) and not is_declaration(inherited):
                    wrong.append(f"{cls.__module__}.{cls.__name__}.{name} overrides {parent.__name__}.{name}")
    assert not wrong, wrong


def test_files_are_short() -> None:
    """At most 400 lines."""
    lengths = {where(p): len(p.read_text(encoding="utf-8").splitlines()) for p in FILES}
    assert not {p: n for p, n in lengths.items() if n > MAX_FILE_LINES}


def lines_of_code(path: Path, function: Function) -> int:
    """Lines from `def` to the end that are neither blank, nor comment, nor docstring."""
    first, last = function.lineno, function.end_lineno or function.lineno
    skipped: set[int] = set()
    if ast.get_docstring(function, clean=False) is not None:
        skipped.update(range(function.body[0].lineno, (function.body[0].end_lineno or 0) + 1))
    lines = path.read_text(encoding="utf-8").splitlines()
    texts = [lines[i - 1].strip() for i in range(first, last + 1) if i not in skipped]
    return sum(bool(text) and not text.startswith("#") for text in texts)


def test_functions_are_short() -> None:
    """At most 40 lines of code."""
    functions = list(nodes(ast.FunctionDef, ast.AsyncFunctionDef))
    lengths = {f"{where(p, f)} {f.name}": lines_of_code(p, f) for p, f in functions}
    assert not {f: n for f, n in lengths.items() if n > MAX_FUNCTION_LINES}


def test_at_most_six_positional_arguments() -> None:
    """Beyond six, an argument has to be named at the call."""
    wrong = []
    for path, function in nodes(ast.FunctionDef, ast.AsyncFunctionDef):
        given = [a.arg for a in [*function.args.posonlyargs, *function.args.args]]
        count = len(given) - (given[:1] in (["self"], ["cls"]))
        if count > MAX_POSITIONAL and function.name not in MORE_POSITIONAL:
            wrong.append(f"{where(path, function)} {function.name} takes {count}")
    assert not wrong, wrong


def test_no_drawers() -> None:
    """No file that collects what has no home, and interfaces live in core.py."""
    assert not [where(p) for p in FILES if p.stem in {"utils", "util", "helpers", "misc", "common", "base"}]


def test_package_files_are_empty() -> None:
    """Only the top __init__.py says anything."""
    packages = [p for p in FILES if p.name == "__init__.py" and p.parent != SOURCE]
    assert packages
    assert not [where(p) for p in packages if p.read_text(encoding="utf-8").strip()]
    folders = {p.parent for p in FILES}
    assert not [f for f in folders if not (f / "__init__.py").exists()]


def has_docstring(path: Path, cls: ast.ClassDef, method: Function) -> bool:
    """Whether a method says what it does, itself or in the declaration that it implements."""
    if ast.get_docstring(method):
        return True
    found = getattr(importlib.import_module(module_name(path)), cls.name)
    return any(getattr(vars(c).get(method.name), "__doc__", None) for c in lineage(found)[1:])


def undocumented(path: Path, tree: ast.Module) -> Iterator[str]:
    """Public names of a module that say nothing."""
    if path.stat().st_size and not ast.get_docstring(tree):
        yield where(path)
    for node in tree.body:
        if not isinstance(node, (*Function.__args__, ast.ClassDef)) or node.name.startswith("_"):
            continue
        if not ast.get_docstring(node):
            yield f"{where(path, node)} {node.name}"
        if isinstance(node, ast.ClassDef):
            methods = [m for m in node.body if isinstance(m, Function) and not m.name.startswith("_")]
            yield from (f"{where(path, m)} {node.name}.{m.name}" for m in methods if not has_docstring(path, node, m))


def test_public_names_have_docstrings() -> None:
    """Modules, functions, classes and methods; a method may inherit the docstring of its declaration."""
    wrong = [name for path, tree in TREES.items() for name in undocumented(path, tree)]
    assert not wrong, wrong


def test_methods_are_not_jitted_anew() -> None:
    """`jax.jit(self.method)` compiles again at every call."""
    wrong = []
    for path, call in nodes(ast.Call):
        name = ast.unparse(call.func).rsplit(".", 1)[-1]
        arguments = [*call.args, *(k.value for k in call.keywords)]
        if name in {"jit", "filter_jit", "pmap", "filter_pmap"} and any(
            ast.unparse(a).startswith("self.") for a in arguments
        ):
            wrong.append(f"{where(path, call)} {ast.unparse(call)}")
    assert not wrong, wrong


def test_nothing_executes_data() -> None:
    """No pickle, no eval: a run directory holds data, never code."""
    wrong = []
    for path, node in nodes(ast.Import):
        wrong += [where(path, node) for a in node.names if a.name.split(".")[0] in FORBIDDEN_IMPORTS]
    for path, node in nodes(ast.ImportFrom):
        wrong += [where(path, node)] * ((node.module or "").split(".")[0] in FORBIDDEN_IMPORTS)
    for path, call in nodes(ast.Call):
        wrong += [where(path, call)] * (isinstance(call.func, ast.Name) and call.func.id in FORBIDDEN_CALLS)
        wrong += [
            where(path, call) for k in call.keywords if k.arg == "allow_pickle" and ast.unparse(k.value) != "False"
        ]
    assert not wrong, wrong


def run_python(code: str) -> None:
    """Run code in a process of its own, and show what it said if it fails."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_import_does_not_import_jax() -> None:
    """What does not compute should not wait for jax."""
    run_python("import sys, forethought; assert 'jax' not in sys.modules")


def test_help_does_not_import_jax() -> None:
    """`forethought --help` answers at once."""
    assert (SOURCE / "cli.py").exists()
    run_python(
        "import sys\n"
        "from forethought.cli import main\n"
        "sys.argv = ['forethought', '--help']\n"
        "try:\n"
        "    status = main()\n"
        "except SystemExit as stop:\n"
        "    status = stop.code\n"
        "assert not status, status\n"
        "assert 'jax' not in sys.modules\n"
    )


def test_imports_change_no_setting_and_start_no_device() -> None:
    """Importing every module leaves jax as it was; arrays are made when they are needed, not at import."""
    run_python(
        "import importlib, os, jax\n"
        "from jax._src import xla_bridge\n"
        "def state():\n"
        "    flags = {k: v for k, v in os.environ.items() if k.startswith(('JAX_', 'XLA_'))}\n"
        "    return dict(jax.config.values), flags\n"
        "before = state()\n"
        f"for name in {module_names()!r}:\n"
        "    importlib.import_module(name)\n"
        "assert state() == before\n"
        "assert not xla_bridge._backends, 'a device was started'\n"
    )


def test_tests_mirror_the_source() -> None:
    """tests/x/ tests src/forethought/x/, but for laws (Hypothesis) and refusals that concern the whole library; no
    __init__.py, which would let tests/math shadow the standard library's."""
    whole = {ROOT / "tests" / name for name in ("properties", "negative")}
    folders = [p for p in (ROOT / "tests").rglob("*") if p.is_dir() and not p.name.startswith((".", "__"))]
    folders = [p for p in folders if p not in whole]
    missing = [str(f.relative_to(ROOT)) for f in folders if not (SOURCE / f.relative_to(ROOT / "tests")).is_dir()]
    assert not missing, missing
    assert not list((ROOT / "tests").rglob("__init__.py"))
