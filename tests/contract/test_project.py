"""Claims about the project as a whole that neither the linter nor the layers check."""

import re
import socket
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from distildet.class_aliases import SYNONYMS

TEXT_SUFFIXES = {".py", ".md", ".toml", ".txt", ".yml", ".yaml", ".j2", ""}
TEXT_FOLDERS = ("src", "tests", "docs", "examples", "benchmarks", ".github", ".ci")
HOME_OF_SOMEBODY = re.compile(r"(?<![\w.])/(?:home|root|work|Users)/[\w.]")
VAGUE_MODULES = {"utils", "util", "helpers", "misc", "common"}
ADR_SECTIONS = ("Status", "Context", "Options", "Decision", "Consequences")


@pytest.fixture(scope="module")
def pyproject(project: Path) -> dict:
    return tomllib.loads((project / "pyproject.toml").read_text())


@pytest.fixture(scope="module")
def pins(project: Path) -> dict[str, Version]:
    lines = (project / "constraints.txt").read_text().splitlines()
    return {canonicalize_name(n): Version(v) for n, v in (line.split("==") for line in lines)}


@pytest.fixture(scope="module")
def requirements(pyproject: dict) -> list[Requirement]:
    extras = pyproject["project"]["optional-dependencies"]
    return [Requirement(line) for line in pyproject["project"]["dependencies"] + extras["dev"]]


@pytest.fixture(scope="module")
def text_files(project: Path) -> list[Path]:
    inner = [path for folder in TEXT_FOLDERS for path in (project / folder).rglob("*")]
    candidates = [*project.glob("*"), *inner]
    return [path for path in candidates if path.suffix in TEXT_SUFFIXES and path.is_file()]


def test_no_file_names_a_path_of_one_machine(text_files):
    found = [path for path in text_files if HOME_OF_SOMEBODY.search(path.read_text())]

    assert found == []


def test_no_module_has_a_name_that_says_nothing(project):
    modules = [path for path in (project / "src").rglob("*.py") if path.stem in VAGUE_MODULES]

    assert modules == []


def test_every_constraint_is_a_plain_pin(project):
    plain = re.compile(r"[A-Za-z0-9][\w.-]*==[\w.!+]+")
    lines = (project / "constraints.txt").read_text().splitlines()

    assert [line for line in lines if not plain.fullmatch(line)] == []


def test_every_requirement_is_pinned_within_its_bounds(requirements, pins):
    versions = {r.name: pins.get(canonicalize_name(r.name)) for r in requirements}

    assert [n for n, v in versions.items() if v is None] == []
    assert [str(r) for r in requirements if versions[r.name] not in r.specifier] == []


@pytest.mark.parametrize(("name", "version"), [("torch", "2.11.0"), ("torchvision", "0.26.0")])
def test_the_lowest_supported_torch_is_within_the_bounds(requirements, name, version):
    specifier = next(r.specifier for r in requirements if r.name == name)

    assert version in specifier


def test_changelog_opens_with_unreleased_and_names_no_later_version(project, pyproject):
    headings = re.findall(r"^## \[(.+?)\]", (project / "CHANGELOG.md").read_text(), re.MULTILINE)
    released = [Version(heading) for heading in headings[1:]]

    assert headings[0] == "Unreleased"
    assert released == sorted(released, reverse=True)
    assert all(version <= Version(pyproject["project"]["version"]) for version in released)


def test_decision_records_have_distinct_numbers_and_all_sections(project):
    records = sorted((project / "docs" / "adr").glob("*.md"))
    numbers = [re.match(r"(\d{4})-[a-z0-9-]+\.md$", path.name)[1] for path in records]
    missing = [
        (path.name, section)
        for path in records
        for section in ADR_SECTIONS
        if not re.search(rf"^## {section}$", path.read_text(), re.MULTILINE)
    ]

    assert len(set(numbers)) == len(records) > 0
    assert missing == []


def test_the_page_of_detectors_lists_every_alias(project):
    page = (project / "docs" / "detectors.md").read_text(encoding="utf-8")

    assert [group for group in SYNONYMS if f"\n| {', '.join(group)} |\n" not in page] == []


def test_contributing_names_only_targets_that_the_makefile_has(project):
    named = set(re.findall(r"`make ([a-z-]+)", (project / "CONTRIBUTING.md").read_text()))
    targets = set(re.findall(r"^([a-z-]+):", (project / "Makefile").read_text(), re.MULTILINE))

    assert named
    assert named - targets == set()


def test_workflow_pins_actions_by_commit_and_reads_no_secret(project):
    workflow = (project / ".github" / "workflows" / "ci.yml").read_text()
    actions = re.findall(r"uses: (\S+)", workflow)

    assert [a for a in actions if not re.fullmatch(r"[\w/-]+@[0-9a-f]{40}", a)] == []
    assert "secrets." not in workflow


def test_wheel_holds_the_whole_package_and_the_licence(project, tmp_path):
    source = project / "src"
    expected = {
        path.relative_to(source).as_posix()
        for path in (source / "distildet").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }

    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path]
    subprocess.run(build, cwd=project, check=True, capture_output=True)
    names = set(zipfile.ZipFile(next(tmp_path.glob("*.whl"))).namelist())

    assert {name for name in names if name.startswith("distildet/")} == expected
    assert {Path(name).name for name in names if "/licenses/" in name} == {"LICENSE", "NOTICE"}


def test_tests_cannot_reach_the_network():
    with (
        socket.socket(socket.AF_INET, socket.SOCK_STREAM) as connection,
        pytest.raises(RuntimeError, match="tests use no network"),
    ):
        connection.connect(("127.0.0.1", 9))


def test_tests_run_in_a_folder_of_their_own(tmp_path):
    assert Path.cwd() == tmp_path
