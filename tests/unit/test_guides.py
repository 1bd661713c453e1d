"""What the guides tell a user to type exists: commands, options, make targets, modules, and the targets of links."""

import importlib.util
import itertools
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import botocore.session
import pytest
from botocore import xform_name
from media_worker_cli.main import build_parser

ROOT = Path(__file__).resolve().parents[2]
GUIDES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/*.md"))]
PAGES = [*GUIDES, ROOT / "CHANGELOG.md", ROOT / "layers/ffmpeg/README.md", *sorted(ROOT.glob("docs/decisions/*.md"))]
FENCED = re.compile(r"^ *```\w*\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"(?<!`)`([^`]+)`(?!`)")
# Operators that end a simple command.
OPERATORS = re.compile(r"[();<>|&]+")
# Commands of the AWS command line that are not operations of a service.
NOT_OPERATIONS = {("configure",), ("s3", "cp"), ("s3", "ls"), ("cloudformation", "deploy")}


def whole_lines(block: str) -> Iterator[str]:
    """The lines of a block. Those that go on after a backslash, a pipe or inside quotes are joined."""
    line = ""
    for part in block.splitlines():
        line = f"{line.removesuffix('\\')} {part.strip()}".strip()
        if not line.endswith(("\\", "|")) and line.count("'") % 2 == 0:
            yield line
            line = ""


def lines_of(text: str) -> Iterator[str]:
    """Lines that may be commands: behind a prompt in a block that has prompts, indented, and code in the prose."""
    for block in FENCED.findall(text):
        lines = list(whole_lines(block))
        yield from [line[2:] for line in lines if line.startswith("$ ")] or lines
    prose = FENCED.sub("", text)
    yield from re.findall(r"^    (\S.*)$", prose, re.MULTILINE)
    yield from (" ".join(inline.split()) for inline in INLINE.findall(prose))


def commands(path: Path) -> Iterator[list[str]]:
    """The simple commands of a page, as words."""
    for line in lines_of(path.read_text()):
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        try:
            words = [*lexer]
        except ValueError:
            continue  # prose or output with an apostrophe
        for is_operator, command in itertools.groupby(words, lambda word: bool(OPERATORS.fullmatch(word))):
            if not is_operator:
                yield list(command)


def typed(program: str) -> list[tuple[str, list[str]]]:
    """The arguments of each command of a program in the guides, with the name of the page."""
    found = [(path.name, words) for path in GUIDES for words in commands(path)]
    return [(page, words[1:]) for page, words in found if words[0].rpartition("/")[2] == program and len(words) > 1]


@pytest.mark.parametrize(("page", "arguments"), typed("media-worker"))
def test_the_command_line_takes_what_the_guides_type(page: str, arguments: list[str]) -> None:
    """A command that is only named (`media-worker retry`) exists; one with arguments is parsed. N is a number."""
    parser = build_parser()
    assert arguments[0] in re.findall(r"^    ([a-z]+)", parser.format_help(), re.MULTILINE), page
    if len(arguments) > 1 and "--help" not in arguments:
        parser.parse_args(["1" if word == "N" else word for word in arguments])


def test_make_has_the_targets_that_the_guides_name() -> None:
    """In the Makefile or in a file that it includes."""
    makefiles = [ROOT / "Makefile", *(path for path in ROOT.glob("*/**/*.mk") if ".venv" not in path.parts)]
    targets = {name for path in makefiles for name in re.findall(r"^([a-z-]+):", path.read_text(), re.MULTILINE)}
    named = {word for _, words in typed("make") for word in words if re.fullmatch(r"[a-z-]+", word)}
    assert len(named) > 10
    assert named <= targets


def test_the_modules_that_the_guides_run_exist() -> None:
    """`python -m MODULE`."""
    named = {words[1] for program in ("python", "python3") for _, words in typed(program) if words[0] == "-m"}
    assert "media_worker.main" in named
    assert [name for name in named if importlib.util.find_spec(name) is None] == []


def test_aws_has_the_operations_and_parameters_that_the_guides_use() -> None:
    """Compared with the service models of botocore, from which the AWS command line is made."""
    checked = []
    for page, words in typed("aws"):
        if {tuple(words[:1]), tuple(words[:2])} & NOT_OPERATIONS:
            continue
        service = botocore.session.get_session().get_service_model(words[0].removesuffix("api"))
        operations = {xform_name(name, "-"): name for name in service.operation_names}
        shape = service.operation_model(operations[words[1]]).input_shape
        options = {f"--{xform_name(name, '-')}" for name in (shape.members if shape else ())} | {"--query", "--output"}
        assert {word for word in words if word.startswith("--")} <= options, f"{page}: {words}"
        checked.append(words[1])
    assert "put-item" in checked


def anchors(path: Path) -> set[str]:
    """The anchors of the headings of a page, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", FENCED.sub("", path.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    """To a file of the checkout and, with an anchor, to a heading in it."""
    for target in re.findall(r"\]\(([^)\s]+)\)", FENCED.sub("", page.read_text())):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        linked = page.parent / name if name else page
        assert linked.exists(), target
        assert not anchor or anchor in anchors(linked), target
