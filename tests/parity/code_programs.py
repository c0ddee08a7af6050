"""Programs whose code really runs: natively by AutoGen, in a service's sandbox by Codecell."""

# ruff: noqa: D103 - their names say what they are about

from __future__ import annotations

import os

from autogen import AssistantAgent, UserProxyAgent


def _results(w, *replies, **config):
    """What the assistant was told of its code."""
    user = UserProxyAgent(
        "user",
        human_input_mode="NEVER",
        max_consecutive_auto_reply=len(replies),
        is_termination_msg=lambda message: "TERMINATE" in message["content"],
        code_execution_config={"work_dir": "coding", "use_docker": False, **config},
    )
    bot = AssistantAgent("bot", llm_config=w.llm(*replies, "TERMINATE"))
    w.notes_models = False
    history = user.initiate_chat(bot, message="Task").chat_history
    return [_told(message["content"]) for message in history[2::2]]


def _told(text):
    """The line with the exit code, and the lines of the output; of a traceback the error's name alone."""
    how, _, output = text.partition("Code output: ")
    lines = [line for line in output.splitlines() if line]
    if any("Traceback" in line for line in lines):
        lines = [lines[-1].split(":")[0]]
    return [how.strip(), *lines]


def python_prints(w):
    return _results(w, "```python\nprint('a')\nprint('b')\n```")


def shell_prints(w):
    return _results(w, "```sh\necho hello; echo world\n```")


def several_blocks(w):
    return _results(w, "```python\nprint(1)\n```\nthen\n```sh\necho 2\n```")


def the_first_failing_block_ends(w):
    return _results(w, "```python\nprint(1)\n```\n```python\n1/0\n```\n```python\nprint(3)\n```")


def the_exit_code_of_a_shell(w):
    return _results(w, "```sh\necho before; exit 3\n```")


def a_file_is_saved_under_its_name(w):
    saved = _results(
        w, "```python\n# filename: made/hello.py\nprint('hi')\n```", "```sh\ncat made/hello.py\n```"
    )
    return [saved, os.path.exists("coding/made/hello.py")]


def code_writes_a_file(w):
    code = "with open('out.txt', 'w') as file:\n    file.write('made')\nprint('done')"
    told = _results(w, f"```python\n{code}\n```")
    return [told, open("coding/out.txt").read()]


def files_of_the_work_dir_are_there(w):
    os.mkdir("coding")
    with open("coding/in.txt", "w") as file:
        file.write("given")
    return _results(w, "```python\nprint(open('in.txt').read())\n```")


def unknown_languages(w):
    return _results(w, "```klingon\nQapla\n```")[0][:1]


def a_timeout(w):
    return _results(w, "```python\nimport time\ntime.sleep(4)\n```", timeout=1)[0][:1]


def no_code_at_all(w):
    return _results(w, "Just words.")
