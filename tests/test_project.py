"""What surrounds the code: the Makefile, the pins, and that the files name no machine."""

import configparser
import pathlib
import re
import shutil
import subprocess

import pytest

ROOT = pathlib.Path(__file__).parent.parent
TARGETS = [
    "help",
    "env",
    "demo",
    "test",
    "test-all",
    "lint",
    "format",
    "bench",
    "bench-transformer",
    "golden",
    "report-full",
    "staleness-full",
    "notebooks",
    "clean",
]

# One machine's folders, and settings that point an installer at an index. Written so that this file
# does not match.
PLACES = re.compile(
    r"(?<![\w.~-])/(root|home|work|Users|opt/(wheels|pypi))/|(extra-)?index[-_]url|find[-_]links"
)


def read(name):
    return (ROOT / name).read_text(encoding="utf-8")


def config():
    parser = configparser.RawConfigParser()
    parser.read_string(read("setup.cfg"))
    return parser


def requirements():
    options = config()
    lists = [options["options"]["install_requires"], *options["options.extras_require"].values()]
    return {line for lines in lists for line in lines.splitlines() if line}


def tracked():
    git = shutil.which("git")
    if git is None or not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    listed = subprocess.run(
        [git, "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return [ROOT / name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]


@pytest.mark.parametrize("target", TARGETS)
def test_makefile_has_target_and_help(target):
    assert re.search(rf"^{target}:.*## \w", read("Makefile"), re.MULTILINE)


@pytest.mark.parametrize("extra", ["cuda12", "cuda13", "test", "notebooks"])
def test_extra_exists(extra):
    assert extra in config()["options.extras_require"]


def test_what_the_tests_install_is_pinned():
    options = config()
    wanted = options["options"]["install_requires"] + options["options.extras_require"]["test"]
    names = {re.split(r"[<>=\[]", line)[0] for line in wanted.splitlines() if line}
    pinned = {line.split("==")[0] for line in read("constraints.txt").splitlines()}
    assert names <= pinned


def test_no_file_names_a_machine():
    found = []
    for path in tracked():
        content = path.read_bytes()
        if b"\0" not in content:  # text
            hits = PLACES.finditer(content.decode("utf-8", errors="ignore"))
            found += [f"{path.relative_to(ROOT)}: {hit.group()}" for hit in hits]
    assert found == []


def test_places_are_recognised():
    assert PLACES.search("cd " + "/".join(["", "home", "ada", "flowjax"]))
    assert PLACES.search("--index" + "-url https://example.org")
    assert not PLACES.search("https://example.org/home/page")


@pytest.mark.parametrize("command", ["make demo", "make test"])
def test_readme_mentions(command):
    assert command in read("README.md")
