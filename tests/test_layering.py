"""Imports inside flowjax go one way, and `import flowjax` stays light."""

import ast
import importlib
import inspect
import json
import pathlib
import pkgutil
import subprocess
import sys

import pytest

import flowjax

ROOT = pathlib.Path(__file__).parent.parent
PACKAGE = ROOT / "flowjax"

# What each unit may import from flowjax. A unit is a file of the package, or a folder such as
# models/.
ALLOWED = {
    "errors": set(),  # shared checks and their sentences, open to all
    "types": set(),  # what signatures name, open to all
    "files": set(),  # the one atomic writer, open to all
    "seeds": set(),
    "schedules": set(),
    "grids": {"schedules"},
    "plans": {"schedules", "grids"},
    "sampling": {"schedules", "grids", "plans"},
    "adaptive": {"schedules", "grids", "plans", "sampling"},
    "guidance": {"schedules"},
    "fields": {"schedules", "grids", "data"},
    "geometry": {"schedules", "grids", "plans"},  # it compares the updates of successive orders
    "distances": {"schedules", "grids"},
    "tune": {"schedules", "grids", "plans", "sampling", "distances"},
    "data": {"seeds"},
    "checkpoint": {"records"},
    "train": {"schedules", "models"},
    "parallel": {
        "schedules",
        "grids",
        "plans",
        "sampling",
        "adaptive",
        "guidance",
        "fields",
        "models",
    },
}
SAMPLERS = {"sampling", "adaptive", "parallel", "plans", "tune"}
NEVER = {"configs", "experiments", "tests", "absl", "matplotlib"}
NEVER_AT_IMPORT = {"tensorflow", "torch"}  # a reader of checkpoints may import them in a function
# A file that users copy beside their own script. It imports torch and nothing of flowjax, and
# nothing of flowjax imports it.
STANDALONE = PACKAGE / "compat" / "torch_scheduler.py"

FILES = sorted(PACKAGE.rglob("*.py"))


def unit(path):
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def walk(node, inside_functions):
    """All nodes below `node`, or those that run when the file is imported."""
    for child in ast.iter_child_nodes(node):
        if inside_functions or not isinstance(
            child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda
        ):
            yield child
            yield from walk(child, inside_functions)


def imported(source, package, inside_functions=True):
    """Full dotted names that `source`, a file of `package`, imports."""
    names = set()
    for node in walk(ast.parse(source), inside_functions):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = []
            if node.level:  # relative: one level is the package itself
                parts = package.split(".")
                above = parts[: len(parts) + 1 - node.level]
            base = ".".join([*above, *([node.module] if node.module else [])])
            names |= {f"{base}.{alias.name}" for alias in node.names}
    return names


def imports_of(path, inside_functions=True):
    package = ".".join(path.relative_to(ROOT).parent.parts)
    return imported(path.read_text(encoding="utf-8"), package, inside_functions)


def units_of(names):
    """The units of flowjax among `names`; the package itself counts as the unit `flowjax`."""
    return {(name.split(".") + ["flowjax"])[1] for name in names if name.split(".")[0] == "flowjax"}


def test_every_form_of_import_is_read():
    source = (
        "import flowjax.plans as p, numpy\n"
        "from flowjax import grids\n"
        "from . import dit\n"
        "from .. import sample\n"
        "from ..schedules import Linear\n"
        "def f():\n    import torch\n    return lambda: 1\n"
    )
    names = {
        "flowjax.plans",
        "numpy",
        "flowjax.grids",
        "flowjax.models.dit",
        "flowjax.sample",
        "flowjax.schedules.Linear",
    }
    assert imported(source, "flowjax.models") == names | {"torch"}
    assert imported(source, "flowjax.models", inside_functions=False) == names
    assert units_of(names | {"flowjax"}) == {
        "plans",
        "grids",
        "models",
        "sample",
        "schedules",
        "flowjax",
    }


@pytest.mark.parametrize(
    "path", [f for f in FILES if unit(f) in ALLOWED], ids=lambda f: str(f.relative_to(PACKAGE))
)
def test_imports_go_one_way(path):
    open_to_all = {unit(path), "errors", "types", "files"}
    assert units_of(imports_of(path)) <= ALLOWED[unit(path)] | open_to_all


@pytest.mark.parametrize(
    "path", [f for f in FILES if unit(f) == "models"], ids=lambda f: str(f.relative_to(PACKAGE))
)
def test_models_import_no_sampler(path):
    assert not units_of(imports_of(path)) & (SAMPLERS | {"flowjax"})


PARALLEL = PACKAGE / "parallel"
ORACLES = ("flowjax.parallel.emulation", "flowjax.parallel.analysis")


@pytest.mark.parametrize(
    "path", sorted(PARALLEL.rglob("*.py")), ids=lambda f: str(f.relative_to(PARALLEL))
)
def test_parallel_production_imports_neither_emulation_nor_analysis(path):
    """An oracle that production used could not show its faults. Nothing imports the analysis."""
    folder = path.relative_to(PARALLEL).parts[0]
    emulation, analysis = (
        {name for name in imports_of(path) if name.startswith(oracle)} for oracle in ORACLES
    )
    assert folder == "emulation" or not emulation
    assert folder == "analysis" or not analysis


@pytest.mark.parametrize("path", FILES, ids=lambda f: str(f.relative_to(PACKAGE)))
def test_library_stands_without_experiments_and_other_frameworks(path):
    assert not {name.split(".")[0] for name in imports_of(path)} & NEVER
    at_import = imports_of(path, inside_functions=False)
    frameworks = {name.split(".")[0] for name in at_import} & NEVER_AT_IMPORT
    assert not frameworks or path == STANDALONE


def test_nothing_imports_the_file_that_stands_alone():
    name = "flowjax.compat.torch_scheduler"
    importers = [
        path for path in FILES if any(found.startswith(name) for found in imports_of(path))
    ]
    assert importers == [] and units_of(imports_of(STANDALONE)) == set()


# Imported when it is first needed, since it is heavy or wanted by few.
HEAVY = [
    "matplotlib",
    "sklearn",
    "flax",
    "orbax",
    "optax",
    "clu",
    "tensorflow",
    "torch",
    "scipy.stats",
]
PUBLIC = [
    "adaptive",
    "checkpoint",
    "compat",
    "data",
    "distances",
    "errors",
    "fields",
    "geometry",
    "grids",
    "guidance",
    "models",
    "parallel",
    "plans",
    "records",
    "sampling",
    "schedules",
    "seeds",
    "train",
    "tune",
    "types",
]


def printed(program):
    """What a fresh interpreter prints for `program`, read as JSON."""
    command = [sys.executable, "-c", f"import json, sys\n{program}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def test_import_is_light():
    program = "import flowjax\nprint(json.dumps([name for name in {} if name in sys.modules]))"
    assert printed(program.format(HEAVY)) == []


def test_import_gives_every_public_submodule_by_name():
    program = "import flowjax\nprint(json.dumps([getattr(flowjax, name).__name__ for name in {}]))"
    assert printed(program.format(PUBLIC)) == [f"flowjax.{name}" for name in PUBLIC]


def test_dir_lists_every_submodule_before_it_is_imported():
    listed, imported_too = printed(
        "import flowjax\nprint(json.dumps([dir(flowjax), 'flowjax.models' in sys.modules]))"
    )
    files = {path.relative_to(PACKAGE).parts[0].removesuffix(".py") for path in FILES}
    assert files - {"__init__"} <= set(listed) and set(PUBLIC) <= set(listed)
    assert {"sample", "Linear"} <= set(listed) and not imported_too


def test_an_unknown_attribute_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'flowjax' has no attribute 'modles'"):
        _ = flowjax.modles


@pytest.mark.parametrize("name", getattr(flowjax, "__all__", ["__all__"]))
def test_public_name_has_docstring(name):
    doc = inspect.getdoc(getattr(flowjax, name)) or ""
    generated = f"{name}("  # what a NamedTuple or a dataclass writes where its author wrote nothing
    assert doc.strip() and not doc.startswith(generated)


def modules_of(package):
    """The dotted names of all modules in `package`, but for commands and the file for torch."""
    found = pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
    left_out = ("__main__", STANDALONE.stem)
    return [module.name for module in found if not module.name.endswith(left_out)]


@pytest.mark.parametrize("name", modules_of(flowjax))
def test_no_public_name_hides_a_module(name):
    module = importlib.import_module(name)
    parent, last = name.rsplit(".", 1)
    assert getattr(importlib.import_module(parent), last) is module
