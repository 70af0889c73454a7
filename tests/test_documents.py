"""What README and docs/ show works: blocks run as they stand, commands parse, links lead somewhere.

How a page marks a block that is a file, is slow or cannot run here: `tests/documents.py`.
"""

import importlib.util
import re
import shlex

import jax
import pytest

from experiments.cli import flags
from tests import documents
from tests.documents import PAGES, ROOT, name_of

PYTHONS = ("python", "python3", ".venv/bin/python")
# Programs of others, whose arguments are not ours to check.
OTHERS = ("hf", "git", "cd", "srun", "jupyter", ".venv/bin/jupyter", "export")
# Commands that make a work directory of their own; all others want --workdir.
WITHOUT_WORKDIR = ("experiments.sample", "experiments.embed")
# The first folder of a path that this project must hold.
HELD = ("configs", "docs", "notebooks", "results", "tests", "experiments", "flowjax")


def _marked(page):
    marks = [pytest.mark.slow] if documents.has_slow_block(page) else []
    return pytest.param(page, id=name_of(page), marks=marks)


RUN = [_marked(page) for page in PAGES if documents.python_blocks(page)]
COMMANDS = sorted({(name_of(page), line) for page in PAGES for line in documents.commands(page)})
each_page = pytest.mark.parametrize("page", PAGES, ids=name_of)


@pytest.mark.parametrize("page", RUN)
def test_blocks_run_as_they_stand(page, tmp_path):
    printed = documents.run(page, tmp_path, jax.config.jax_compilation_cache_dir)
    for line, text in documents.printed_blocks(page).items():
        if line in printed:
            shown = [row.rstrip() for row in text.strip().splitlines()]
            assert [row.rstrip() for row in printed[line].strip().splitlines()] == shown


@pytest.mark.parametrize("name, line", COMMANDS)
def test_command_parses(name, line):
    # Variables of the environment stand before the program.
    words = shlex.split(line, comments=True)
    words = words[next((i for i, word in enumerate(words) if not re.match(r"\w+=", word)), 0) :]
    if not words:  # a comment
        return
    program, *rest = words
    for word in rest:
        _check_path(word)
    if program in PYTHONS:
        _check_python(rest)
    elif program == "make":
        _check_make(rest)
    elif program == "pip":
        _check_extras(",".join(re.findall(r"\[([\w,]+)\]", line)))
    else:
        assert program in OTHERS


def _check_path(word):
    """A path in this project exists."""
    path = word.split("=")[-1].split(":")[0]
    if path.split("/")[0] in HELD and "/" in path:
        assert (ROOT / path).exists(), f"there is no {path}"


def _check_python(rest):
    """The module exists; the fields of its configuration do, and take these values."""
    if rest[0] != "-m":
        return  # a script of the reader's
    module, *arguments = rest[1:]
    assert importlib.util.find_spec(module), f"there is no module {module}"
    # The same parser as the command's: it refuses a misspelt field, and a value of another type.
    if any(word.startswith("--config") for word in arguments):
        default = (lambda path: "runs/documents") if module in WITHOUT_WORKDIR else None
        flags.parse([module, *arguments], workdir=default)


def _check_make(words):
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for word in words:
        # EXTRAS=test sets a variable of the Makefile; all other words are targets.
        name, is_variable, value = word.partition("=")
        pattern = rf"^{name} \?=" if is_variable else rf"^{name}:"
        assert re.search(pattern, makefile, re.MULTILINE), f"the Makefile has no {name}"
        if name == "EXTRAS":
            _check_extras(value)


def _check_extras(names):
    setup = (ROOT / "setup.cfg").read_text(encoding="utf-8")
    for name in re.split(r"[ ,]+", names):
        assert not name or re.search(rf"^{name} =", setup, re.MULTILINE), f"no extra {name}"


@each_page
def test_links_lead_somewhere(page):
    for target in documents.links(page):
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        assert there.exists(), f"{name_of(page)} links to {target}"
        if anchor and there.suffix == ".md":
            assert anchor in documents.anchors(there), f"{name_of(page)} links to {target}"


def test_index_lists_every_page():
    index = ROOT / "docs" / "README.md"
    listed = set(documents.links(index))
    pages = {page.name for page in (ROOT / "docs").glob("*.md")} - {"README.md"}
    assert pages - listed == set()


def test_readme_is_short():
    assert len(documents.read(ROOT / "README.md")) <= 200


def test_blocks_and_commands_are_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "# A *title*\n\n<!-- slow -->\n```python\nx = 1\nprint(x)\n```\n\n```text\n1\n```\n\n"
        "    import os\n\n```console\n$ make test\noutput\n```\n\n`make demo`, `make x ...`\n\n"
        "    make env \\\n        EXTRAS=test\n",
        encoding="utf-8",
    )
    assert [block.line for block in documents.python_blocks(page)] == [5, 13]
    assert documents.has_slow_block(page)
    assert documents.printed_blocks(page) == {5: "1"}
    assert documents.commands(page) == ["make test", "make env      EXTRAS=test", "make demo"]
    assert documents.anchors(page) == {"a-title"}
