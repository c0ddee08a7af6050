"""Code blocks out of Markdown, as models write it.

Fences are three or more backticks or tildes, may be indented, and end at a fence of the same
character that is at least as long; a fence inside a longer fence is text. What is data or prose
(json, yaml, output, markdown ...) is never code. The rest follows CommonMark 0.31 section 4.5,
relaxed where models are sloppy: any indentation (fences in lists), tabs, CRLF.
"""

from __future__ import annotations

import ast
import re
import shlex
import warnings
from dataclasses import dataclass, replace

_OPEN = re.compile(r"^(?P<indent>[ \t]*(?:>[ \t]?)*)(?P<fence>`{3,}|~{3,})(?P<info>.*)$")
_LIST = re.compile(r"^(?P<indent>[ \t]*(?:[-*+]|\d{1,9}[.)])[ \t]+)(?=`{3,}|~{3,})")

ALIASES = {
    "py": "python", "python3": "python", "python2": "python", "py3": "python", "ipython": "python",
    "ipython3": "python", "pycon": "python", "jupyter": "python",
    "shell": "sh", "bash": "sh", "zsh": "sh", "console": "sh", "shell-session": "sh", "shellscript": "sh",
    "js": "javascript", "node": "javascript", "mjs": "javascript", "nodejs": "javascript",
    "ts": "typescript", "c++": "cpp", "cc": "cpp", "cxx": "cpp", "golang": "go", "rs": "rust",
    "rb": "ruby", "pl": "perl",
}  # fmt: skip
NOT_CODE = frozenset([
    "json", "json5", "jsonc", "jsonl", "yaml", "yml", "toml", "ini", "cfg", "conf", "xml", "html", "htm",
    "svg", "css", "csv", "tsv", "text", "txt", "plain", "plaintext", "output", "out", "log", "stdout",
    "stderr", "result", "results", "traceback", "markdown", "md", "rst", "tex", "latex", "bibtex", "diff",
    "patch", "http", "mermaid", "dot", "graphviz", "math", "none", "dockerfile", "makefile", "properties",
    "env", "sql", "graphql", "gitignore", "requirements", "pytb",
])  # fmt: skip

_SHELL_WORDS = frozenset([
    "pip", "pip3", "python", "python3", "ls", "cat", "cd", "mkdir", "cp", "mv", "rm", "echo", "touch",
    "head", "tail", "grep", "find", "wc", "sort", "uniq", "curl", "wget", "git", "apt", "apt-get", "npm",
    "npx", "node", "tar", "unzip", "zip", "chmod", "chown", "export", "pwd", "which", "env", "du", "df",
    "ps", "kill", "sed", "awk", "make", "conda", "uv", "sudo", "bash", "sh", "whoami", "date", "uname",
    "tree", "diff",
])  # fmt: skip
_FILENAME = re.compile(
    r"^\s*(?:#|//|--|;|%|<!--|/\*)\s*filename:\s*(?P<path>[^\r\n]*?)\s*(?:-->|\*/)?\s*$", re.IGNORECASE
)


@dataclass(frozen=True, kw_only=True)
class CodeBlock:
    """A block to run: its language (one word, lower case) and its code.

    `filename` is the workspace path that its first line names (`# filename: x`), unchecked.
    """

    code: str
    language: str
    filename: str | None = None


@dataclass(frozen=True, kw_only=True)
class Fence:
    """One fenced block as written: the info string's first word ("" if none) and the text."""

    info: str
    text: str
    closed: bool = True


def extract_code_blocks(markdown: str) -> list[CodeBlock]:
    """The blocks of `markdown` that are programs, in order. An unclosed last fence counts."""
    found = (_block(fence) for fence in fences(markdown))
    return [block for block in found if block is not None]


def fences(markdown: str) -> list[Fence]:
    """Every fenced block of `markdown`, programs or not."""
    found: list[Fence] = []
    lines = markdown.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    at = 0
    while at < len(lines):
        opened = opening(lines[at])
        at += 1
        if opened is None:
            continue
        indent, fence, info = opened
        body: list[str] = []
        while at < len(lines) and not closes(lines[at], fence):
            body.append(_unindent(lines[at], indent))
            at += 1
        found.append(Fence(info=info, text="\n".join(body), closed=at < len(lines)))
        at += 1
    return found


def opening(line: str) -> tuple[str, str, str] | None:
    """The indentation, fence and info string of a line that begins a block, or None."""
    listed = _LIST.match(line)
    if listed:  # "- ```python": the content stands where the fence stands
        line = " " * len(listed["indent"]) + line[listed.end() :]
    match = _OPEN.match(line)
    if match is None:
        return None
    info = match["info"].strip()
    if match["fence"][0] == "`" and "`" in info:  # inline code such as ```x``` is no fence
        return None
    return match["indent"], match["fence"], info


def closes(line: str, fence: str) -> bool:
    """Whether the line ends the block that `fence` began."""
    bare = line.lstrip(" \t>").rstrip()
    return len(bare) >= len(fence) and bare == fence[0] * len(bare)


def _unindent(line: str, indent: str) -> str:
    """Take off at most as much as the opening fence was indented (quote marks included)."""
    if ">" in indent:
        return re.sub(rf"^[ \t]*(?:>[ \t]?){{1,{indent.count('>')}}}", "", line)
    width = 0
    while width < len(indent) and width < len(line) and line[width] in " \t":
        width += 1
    return line[width:]


def language_of(info: str) -> str:
    """`Python {.numberLines}`, `{.python}`, `python title="x"`, `c++`, `lang=py`: the language."""
    word = info.strip().strip("{}").strip()
    word = re.split(r"[\s,;:{(]", word, maxsplit=1)[0].lstrip(".")
    word = word.removeprefix("language-").removeprefix("lang=").strip("\"'").lower()
    return ALIASES.get(word, word)


def _block(fence: Fence) -> CodeBlock | None:
    code = fence.text
    if not code.strip():
        return None
    language = language_of(fence.info)
    named = _filename_in_info(fence.info)
    if not language:
        language = infer_language(code)
    if not language or language in NOT_CODE or not re.fullmatch(r"[a-z0-9][a-z0-9+#._-]*", language):
        return None
    if _raw(fence.info) in ("", "console", "shell-session", "pycon"):
        code = _without_prompts(code)
    block = CodeBlock(code=code, language=language)
    filename = named or filename_of(code)
    return replace(block, filename=filename) if filename else block


def _raw(info: str) -> str:
    return info.strip().split(" ", 1)[0].lower()


def _filename_in_info(info: str) -> str | None:
    match = re.search(r"\bfilename:\s*([^\s}]+)", info)
    return match[1] if match else None


def filename_of(code: str) -> str | None:
    """The path in a first line such as `# filename: plot.py`; only with the word `filename:`."""
    match = _FILENAME.match(code.lstrip("\n").split("\n", 1)[0])
    return (match["path"] or None) if match else None


def infer_language(code: str) -> str:
    """The language of an untagged block: python if it compiles, sh if it looks like it, else ""."""
    if _looks_like_shell(code):
        return "sh"
    if _is_python(code):
        return "python"
    return ""


def _is_python(code: str) -> bool:
    """Whether it compiles (as a notebook cell may: top-level await) and is more than bare words or data."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return any(not _says_nothing(node) for node in tree.body)


def _says_nothing(node: ast.stmt) -> bool:
    """A bare name, literal or arithmetic on them: as likely prose, numbers or output as a program."""
    if isinstance(node, ast.AnnAssign) and node.value is None:  # "name: value" is a key and a word
        return True
    if not isinstance(node, ast.Expr):
        return False
    return not any(isinstance(n, ast.Call | ast.Await | ast.Yield) for n in ast.walk(node))


def _looks_like_shell(code: str) -> bool:
    lines = [line.strip() for line in code.splitlines() if line.strip()]
    if lines and re.match(r"#!.*\b(ba|z|da)?sh\b", lines[0]):
        return True
    words = [line for line in lines if not line.startswith("#")]
    return bool(words) and all(_shell_line(line) for line in words)


_MAX_SHELL_LINE = 10_000  # characters: splitting takes time in proportion to their square


def _shell_line(line: str) -> bool:
    if line.startswith("$ "):
        return True
    if len(line) > _MAX_SHELL_LINE:
        return False
    try:
        parts = shlex.split(line.rstrip("\\"), comments=True)
    except ValueError:
        return False
    if not parts or parts[0].split("/")[-1] not in _SHELL_WORDS:
        return False
    return len(parts) == 1 or not re.match(r"(=|\(|\.|\[|,|in$|is$|and$|or$|if$|\+|\*)", parts[1])


def _without_prompts(code: str) -> str:
    """A transcript's input lines alone, without their `$ `, `>>> ` and `... `."""
    lines = code.split("\n")
    prompts = ("$ ", "% ", ">>> ", "... ")
    if not any(line.startswith(prompts) or line in ("...", ">>>") for line in lines):
        return code
    kept = [line for line in lines if line.startswith(prompts) or line in ("...", ">>>")]
    return "\n".join(line[4:] if line.startswith((">>>", "...")) else line[2:] for line in kept)
