"""Code blocks out of Markdown, as a table of what models write."""

from __future__ import annotations

import pytest

from agent_client.code_blocks import extract_code_blocks, fences

F, T = "```", "~~~"


def found(text: str) -> list[tuple[str, str]]:
    """Languages and codes of the blocks."""
    return [(block.language, block.code) for block in extract_code_blocks(text)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"Hi\n{F}python\nprint(1)\n{F}\nbye", [("python", "print(1)")]),
        (f"{F}py\nx=1\n{F}", [("python", "x=1")]),
        (f"{F}Python\nx=1\n{F}", [("python", "x=1")]),
        (f"{F}PYTHON3  \nx=1\n{F}   ", [("python", "x=1")]),
        (f"{T}python\nx=1\n{T}", [("python", "x=1")]),
        (f"{F}`python\nx=1\n{F}`", [("python", "x=1")]),
        (f"{F}python\r\nx=1\r\ny=2\r\n{F}\r\n", [("python", "x=1\ny=2")]),
        (f"  {F}python\n  x=1\n    y=2\n  {F}", [("python", "x=1\n  y=2")]),
        (f"1. Do:\n   {F}python\n   if x:\n       y()\n   {F}", [("python", "if x:\n    y()")]),
        (f"- {F}python\n  f()\n  {F}", [("python", "f()")]),
        (f"\t{F}python\n\tf()\n\t{F}", [("python", "f()")]),
        (f"> {F}python\n> f()\n> {F}", [("python", "f()")]),
        (f"{F}bash\nls\n{F}", [("sh", "ls")]),
        (f"{F}shell\nls\n{F}", [("sh", "ls")]),
        (f"{F}console\n$ ls\nfile\n{F}", [("sh", "ls")]),
        (f"{F}pycon\n>>> f(\n... 1)\n2\n{F}", [("python", "f(\n1)")]),
        (f"{F}c++\nint main(){{}}\n{F}", [("cpp", "int main(){}")]),
        (f"{F}js\nf()\n{F}", [("javascript", "f()")]),
        (f'{F}python title="a.py" {{1,2}}\nf()\n{F}', [("python", "f()")]),
        (f"{F}python{{.line-numbers}}\nf()\n{F}", [("python", "f()")]),
        (f"{F}{{.python .numberLines}}\nf()\n{F}", [("python", "f()")]),
        (f"{F}python\nf()\n{F}\nthen\n{F}sh\nls\n{F}", [("python", "f()"), ("sh", "ls")]),
        # a fence inside a longer fence is text
        (f"{F}`markdown\n{F}python\nf()\n{F}\n{F}`", []),
        (f"{F}`python\ns = '''\n{F}\n'''\n{F}`", [("python", f"s = '''\n{F}\n'''")]),
        (f"{T}\n{F}python\nf()\n{F}\n{T}", []),
        # a closing fence is of the same character, at least as long, and bare
        (f"{F}python\nf()\n{T}\ng()\n{F}", [("python", f"f()\n{T}\ng()")]),
        (f"{F}python\nf()\n{F}python\n{F}`", [("python", f"f()\n{F}python")]),
        # unclosed: the model was cut off or forgot
        (f"{F}python\nf()", [("python", "f()")]),
        # untagged
        (f"{F}\nprint(1)\n{F}", [("python", "print(1)")]),
        (f"{F}\nimport os\nx = 1\n{F}", [("python", "import os\nx = 1")]),
        (f"{F}\nawait f()\n{F}", [("python", "await f()")]),
        (f"{F}\npip install pandas\n{F}", [("sh", "pip install pandas")]),
        (f"{F}\n$ ls -la\n{F}", [("sh", "ls -la")]),
        (f"{F}\n#!/bin/bash\nfoo --bar\n{F}", [("sh", "#!/bin/bash\nfoo --bar")]),
        (f"{F}\ncd data && ls\n{F}", [("sh", "cd data && ls")]),
        (f"{F}\nMSFT: 60.1 %\nAAPL: 112.2 %\n{F}", []),
        (f"{F}\n42\n{F}", []),
        (f"{F}\nHello\n{F}", []),
        (f"{F}\nname: value\n{F}", []),
        (f'{F}\n{{"a": 1}}\n{F}', []),
        (f"{F}\nTraceback (most recent call last):\n  File x\n{F}", []),
        (f"{F}\ndate = 5\n{F}", [("python", "date = 5")]),
        # never code
        *[
            (f"{F}{tag}\nprint(1)\n{F}", [])
            for tag in (
                "json",
                "yaml",
                "text",
                "output",
                "markdown",
                "md",
                "csv",
                "html",
                "xml",
                "diff",
                "JSON",
            )
        ],
        (f"{F}python\n\n{F}", []),
        (f"{F}python\n{F}", []),
        ("no code at all", []),
        ("", []),
        (f"inline {F}x{F} code", []),
        (f"{F}x = 1{F}", []),
        (f"{F}python f(){F}", []),
        ("``\nprint(1)\n``", []),
        (f"{F}../../etc/passwd\nf()\n{F}", []),
    ],
)
def test_blocks(text: str, expected: list[tuple[str, str]]) -> None:
    """Each text gives exactly these programs."""
    assert found(text) == expected


@pytest.mark.parametrize(
    ("first_line", "filename"),
    [
        ("# filename: plot.py", "plot.py"),
        ("#filename:plot.py", "plot.py"),
        ("# Filename: a/b c.py  ", "a/b c.py"),
        ("// filename: x.js", "x.js"),
        ("<!-- filename: x.html -->", "x.html"),
        ("# filename: ../../etc/passwd", "../../etc/passwd"),  # refused by the executor, not here
        ("# plot.py", None),
        ("# the filename is x.py", None),
        ("# filename:", None),
        ("x = 1  # filename: x.py", None),
        ("\n# filename: late.py", "late.py"),
    ],
)
def test_filenames(first_line: str, filename: str | None) -> None:
    """A block is named only by the word `filename:` in its first line."""
    (block,) = extract_code_blocks(f"{F}python\n{first_line}\nf()\n{F}")
    assert block.filename == filename


def test_a_filename_further_down_is_a_comment() -> None:
    """Only the first line names a file."""
    (block,) = extract_code_blocks(f"{F}python\nf()\n# filename: x.py\n{F}")
    assert block.filename is None


def test_fences_keep_what_is_not_code() -> None:
    """All fences are seen, with their info string, programs or not."""
    (fence,) = fences(f"{F}json\n{{}}\n{F}")
    assert (fence.info, fence.text, fence.closed) == ("json", "{}", True)


def test_hostile_markdown_takes_no_time() -> None:
    """Long and deep nonsense is scanned in reasonable time."""
    extract_code_blocks("`" * 200_000 + "\n" + "~" * 200_000)
    extract_code_blocks(f"{F}\n" + "(" * 100_000 + f"\n{F}")
    extract_code_blocks((f"{F}\n" * 5_000) + "x")
