"""README and docs/ as the tests read them: blocks of code, commands, links, and how blocks are run.

A Python block runs as it stands, after the blocks above it on its page. From the first block on
that imports a module of an extra that is not installed, the blocks of a page are only compiled. A
comment on the line above a block says what else is special about it:

    <!-- file: mine.py -->        the reader saves the block as this file
    <!-- slow -->                 the page takes more than ten seconds
    <!-- not run: REASON -->      is only compiled

Fences mark blocks. Four spaces mark Python too, on a page where such a block imports something, and
commands.
"""

import ast
import importlib.util
import json
import os
import pathlib
import re
import subprocess
import sys
import textwrap
from typing import NamedTuple

ROOT = pathlib.Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]

FENCE = re.compile(r"^( *)```(\w*)[^`]*$")
NOTE = re.compile(r"<!-- *(file|slow|not run)\b:? *(.*?) *-->")
SHELLS = ("bash", "sh", "shell", "console")
COMMAND = re.compile(r"(\.venv/bin/)?(python3? -m|make|pip install) \S")
OPTIONAL = ("torch", "diffusers", "huggingface_hub")  # modules of extras that tests can do without


class Block(NamedTuple):
    """A block of a page.

    Attributes:
      line: the number of its first line of code.
      language: of its fence; "" without one; "indented" where four spaces mark it.
      source: its text.
      note: (kind, value) of the comment above it, or None.
    """

    line: int
    language: str
    source: str
    note: tuple[str, str] | None


def read(page: pathlib.Path) -> list[str]:
    return page.read_text(encoding="utf-8").splitlines()


def name_of(page: pathlib.Path) -> str:
    return str(page.relative_to(ROOT))


def blocks(page: pathlib.Path) -> list[Block]:
    """All blocks of a page, in order."""
    lines = read(page)
    found = []
    i = 0
    while i < len(lines):
        fence = FENCE.match(lines[i])
        # A block between two fences
        if fence:
            end = next(j for j in range(i + 1, len(lines)) if lines[j].strip() == "```")
            source = textwrap.dedent("\n".join(lines[i + 1 : end]))
            found.append(Block(i + 2, fence[2], source, _note(lines, i)))
            i = end + 1
        # A block of indented lines, after a blank one
        elif lines[i].startswith("    ") and (i == 0 or not lines[i - 1].strip()):
            end = i
            while end < len(lines) and (lines[end].startswith("    ") or not lines[end].strip()):
                end += 1
            source = textwrap.dedent("\n".join(lines[i:end])).rstrip()
            found.append(Block(i + 1, "indented", source, _note(lines, i)))
            i = end
        else:
            i += 1
    return found


def _note(lines, i):
    """The note on the last line above line `i` that is not blank."""
    above = next((line for line in reversed(lines[:i]) if line.strip()), "")
    match = NOTE.fullmatch(above.strip())
    return (match[1], match[2]) if match else None


def _tree(block):
    """The syntax tree of a block, or None where it is no Python."""
    try:
        return ast.parse(block.source)
    except SyntaxError:
        return None


def _imports(block):
    """The modules that a block imports, by the first part of their names."""
    found = set()
    for node in ast.walk(_tree(block) or ast.Module([], [])):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module.split(".")[0])
    return found


def python_blocks(page: pathlib.Path) -> list[Block]:
    found = blocks(page)
    indented = [block for block in found if block.language == "indented" and _tree(block)]
    if not any(_imports(block) for block in indented):
        indented = []
    return [block for block in found if block.language == "python" or block in indented]


def printed_blocks(page: pathlib.Path) -> dict[int, str]:
    """{line of a Python block: the text block right below it, which is what it prints}."""
    found = blocks(page)
    pairs = zip(found, found[1:], strict=False)
    lines = read(page)
    code = python_blocks(page)
    printed = {}
    for above, below in pairs:
        # Only the closing fence, blank lines and the opening fence stand between the two.
        between = lines[above.line - 1 + above.source.count("\n") + 1 : below.line - 1]
        adjacent = all(not line.strip() or line.startswith("```") for line in between)
        if above in code and below.language == "text" and adjacent:
            printed[above.line] = below.source
    return printed


def has_slow_block(page: pathlib.Path) -> bool:
    return any(block.note and block.note[0] == "slow" for block in python_blocks(page))


# Runs the blocks of one page in one namespace; prints what each of them printed, as JSON.
RUNNER = r"""
import contextlib, io, json, sys

page, blocks = json.load(sys.stdin)
namespace = {"__name__": "__main__"}
printed = []
for line, source in blocks:
    code = compile("\n" * (line - 1) + source, page, "exec")
    with contextlib.redirect_stdout(io.StringIO()) as text:
        exec(code, namespace)
    printed.append([line, text.getvalue()])
json.dump(printed, sys.stdout)
"""


def run(page: pathlib.Path, folder: pathlib.Path, cache: str | None) -> dict[int, str]:
    """{line of a block: what it printed}, of the Python blocks of a page, run in order.

    Args:
      page: README.md or a page of docs/.
      folder: an empty directory, in which the blocks run.
      cache: the directory of compiled programs, or None.

    Raises:
      AssertionError: a block raised; the text is its traceback, with the page's line numbers.
    """
    # What a reader has at the top of a clone.
    for name in ("configs", "results"):
        (folder / name).symlink_to(ROOT / name)
    todo, only_compiled = [], False
    # Each block is compiled; those that are the reader's files are written, the others run.
    for block in python_blocks(page):
        kind, value = block.note or ("", "")
        compile(block.source, name_of(page), "exec")
        wanted = _imports(block).intersection(OPTIONAL)
        only_compiled |= any(importlib.util.find_spec(module) is None for module in wanted)
        if kind == "file":
            (folder / value).write_text(block.source + "\n", encoding="utf-8")
        elif kind != "not run" and not only_compiled:
            todo.append((block.line, block.source))
    # The page alone chooses devices and precision.
    ours = ("XLA_FLAGS", "JAX_ENABLE_X64")
    environment = {name: value for name, value in os.environ.items() if name not in ours}
    environment |= {"PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", "MPLBACKEND": "Agg"}
    if cache:
        environment["JAX_COMPILATION_CACHE_DIR"] = cache
        environment["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    done = subprocess.run(
        [sys.executable, "-c", RUNNER],
        input=json.dumps([str(page), todo]),
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, f"{name_of(page)}:\n{done.stderr[-3000:]}"
    return dict(json.loads(done.stdout))


# ---- commands


def commands(page: pathlib.Path) -> list[str]:
    """The commands of a page: those of its shell blocks, and code spans that are one."""
    found = []
    for block in blocks(page):
        lines = block.source.replace("\\\n", " ").splitlines()
        if block.language == "console":  # the other lines are output
            found += [line[2:] for line in lines if line.startswith("$ ")]
        elif block.language in SHELLS:
            found += lines
        elif block.language == "indented":
            found += filter(COMMAND.match, lines)
    # Code spans in the text may continue on the next line.
    outside = _without_blocks(page)
    spans = [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", outside)]
    found += filter(COMMAND.match, spans)
    # Three dots stand for the rest of a command.
    return [line for line in found if line.strip() and "…" not in line and "..." not in line]


def _without_blocks(page):
    lines = read(page)
    for block in blocks(page):
        for i in range(block.line - 2, block.line + block.source.count("\n") + 1):
            if 0 <= i < len(lines):
                lines[i] = ""
    return "\n".join(lines)


# ---- links


def links(page: pathlib.Path) -> list[str]:
    """The targets of a page's links and pictures that lie in this project."""
    targets = re.findall(r"\]\(([^)\s]+)\)", _without_blocks(page))
    return [target for target in targets if not re.match(r"\w+:", target)]


def anchors(page: pathlib.Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ +(.*)$", _without_blocks(page), re.MULTILINE)
    # Marks and the targets of links are no part of the anchor.
    plain = [re.sub(r"[`*]|\[([^]]*)\]\([^)]*\)", r"\1", heading) for heading in headings]
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in plain}
