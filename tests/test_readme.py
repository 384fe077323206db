"""What README.md and docs/ show is true: each program runs, each command and link names something that exists."""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path

import pytest

import unirun
from unirun import DecisionTrace, RuntimeConfig, config

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
#: On the line above a block that goes on where the Python block before it ended.
CONTINUES = "<!-- test: continues -->"
#: Seconds after which a program counts as hanging.
TIMEOUT = 60

#: The snippets that the README owes its readers, to the letter.
BEFORE = """\
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

def crunch(payloads):
    try:
        with ProcessPoolExecutor(max_workers=4) as pool:
            return list(pool.map(expensive_fn, payloads))
    except OSError:
        with ThreadPoolExecutor(max_workers=4) as fallback:
            return list(fallback.map(expensive_fn, payloads))
"""
AFTER = """\
from unirun import Run, RuntimeConfig, map, reset, to_process
from unirun.compat.concurrent import futures as compat_futures

def crunch(payloads):
    config = RuntimeConfig(cpu_bound=True, force_process=True, max_workers=4)
    with Run(flavor="processes", config=config, trace=True) as executor:
        return list(map(executor, expensive_fn, payloads))

def crunch_via_compat(payloads):
    with compat_futures.ProcessPoolExecutor(max_workers=4) as pool:
        return list(pool.map(expensive_fn, payloads))

async def crunch_async(payloads):
    return await asyncio.gather(*(to_process(expensive_fn, payload) for payload in payloads))

def teardown():
    reset()
"""


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block of a document."""

    document: str
    line: int
    language: str
    text: str
    continues: bool

    def __str__(self) -> str:
        return f"{self.document}:{self.line}"


def read_blocks() -> Iterator[Block]:
    """Yield all fenced blocks of all documents."""
    for path in DOCUMENTS:
        lines = path.read_text(encoding="utf-8").splitlines()
        start = None
        for number, line in enumerate(lines):
            if not line.startswith("```"):
                continue
            if start is None:
                start = number
                continue
            language, text = lines[start].removeprefix("```"), "\n".join(lines[start + 1 : number]) + "\n"
            continues = start > 0 and lines[start - 1] == CONTINUES
            yield Block(path.relative_to(ROOT).as_posix(), start + 1, language, text, continues)
            start = None
        assert start is None, f"{path}: the block that begins on line {start} has no end"


BLOCKS = list(read_blocks())


def programs() -> list[Block]:
    """Return the Python programs: each block with those that continue it."""
    found: list[Block] = []
    for block in BLOCKS:
        if block.language != "python":
            continue
        if block.continues:
            first = found.pop()
            block = Block(first.document, first.line, first.language, first.text + "\n\n" + block.text, False)
        found.append(block)
    return found


def commands() -> list[str]:
    """Return the shell commands of all ``bash`` blocks."""
    lines = [line for block in BLOCKS if block.language == "bash" for line in block.text.splitlines()]
    return [command.strip() for line in lines for command in line.split("&&")]


def run(*argv: str, cwd: Path = ROOT, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run this interpreter with none of the caller's settings, on the package under test."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("UNIRUN_")}
    env |= {"PYTHONPATH": str(Path(unirun.__file__).parents[1])} | variables
    return subprocess.run(
        [sys.executable, *argv], cwd=cwd, env=env, capture_output=True, text=True, timeout=TIMEOUT, check=False
    )


@pytest.mark.parametrize("program", programs(), ids=str)
def test_program_runs_as_it_stands(program: Block, tmp_path: Path) -> None:
    """Saved as a script it runs to its end, and deprecated things are errors."""
    script = tmp_path / "snippet.py"
    script.write_text(program.text, encoding="utf-8")
    # A host that refuses something may run these tests: it is then no error that a lower rung serves.
    done = run("-W", "error", str(script), cwd=tmp_path, UNIRUN_DOWNGRADE="silent")
    assert done.returncode == 0, done.stderr


def test_the_snippets_owed_are_there_to_the_letter() -> None:
    """Before and after, and the program made of the latter calls all of its functions."""
    texts = [block.text for block in BLOCKS if block.document == "README.md"]
    assert BEFORE in texts
    assert AFTER in texts
    [program] = [program.text for program in programs() if program.text.startswith(AFTER)]
    for call in ("crunch(payloads)", "crunch_via_compat(payloads)", "crunch_async(payloads)", "teardown()"):
        assert call in program.removeprefix(AFTER)


def test_problem_and_solution_come_first() -> None:
    """The first program is short, and nothing but words is above it."""
    first = BLOCKS[0]
    assert (first.document, first.language) == ("README.md", "python")
    assert len([line for line in first.text.splitlines() if line]) <= 10
    assert first.line < 20


@pytest.mark.parametrize("command", commands())
def test_commands_name_files_that_exist(command: str) -> None:
    """Every word that looks like a Python file is one, below this folder."""
    for word in shlex.split(command):
        if word.endswith(".py"):
            assert (ROOT / word).is_file(), word


@pytest.mark.parametrize("keyword", ["map", "compat"])
def test_validation_commands_select_tests(keyword: str) -> None:
    """`-k` finds something in the file that the README names."""
    [command] = [command for command in commands() if command.endswith(f"-k {keyword}")]
    arguments = shlex.split(command.partition("pytest ")[2])
    done = run("-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", *arguments)
    assert done.returncode == 0, done.stdout + done.stderr


def test_doctor_has_the_options_that_are_written_about() -> None:
    """Whatever the documents say about `python -m unirun doctor` is in its help."""
    text = "\n".join(path.read_text(encoding="utf-8") for path in DOCUMENTS)
    options = set(re.findall(r"python -m unirun doctor (--\w+)", text)) | {"--json", "--try"}
    done = run("-m", "unirun", "doctor", "--help")
    assert done.returncode == 0, done.stderr
    for option in options:
        assert option in done.stdout


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(path: Path) -> None:
    """Each link to a file of this repository leads to one."""
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", path.read_text(encoding="utf-8")):
        if not target.startswith("https://"):
            assert (path.parent / target).exists(), target


def test_every_setting_is_documented() -> None:
    """All variables, fields of RuntimeConfig and fields of DecisionTrace; and no variable that does not exist."""
    reference = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    known = {*config._FIELD_OF, *config._OTHER}
    for name in [*known, *(f.name for f in (*fields(RuntimeConfig), *fields(DecisionTrace)))]:
        assert f"`{name}" in reference, name
    for path in DOCUMENTS:
        written = set(re.findall(r"UNIRUN_\w*[A-Z]", path.read_text(encoding="utf-8")))
        assert written <= known, path


def test_every_public_name_is_documented() -> None:
    """The README or the reference mentions whatever `unirun` exports."""
    text = "\n".join(path.read_text(encoding="utf-8") for path in DOCUMENTS)
    assert [name for name in unirun.__all__ if not re.search(rf"\b{name}\b", text)] == []
