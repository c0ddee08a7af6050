"""AutoGen 0.2 and AG2: the same program, whichever of them is called `autogen` here."""

from __future__ import annotations

from pathlib import Path

import harness
from autogen import AssistantAgent, UserProxyAgent
from autogen.coding import CodeBlock, CodeExecutor, CodeResult

from agent_client.integrations.autogen_classic import CodecellCodeExecutor


def run(executor: CodecellCodeExecutor, code: str, language: str = "python") -> CodeResult:
    """One block."""
    return executor.execute_code_blocks([CodeBlock(code=code, language=language)])


def case_two_agents_write_code_mend_it_and_keep_its_file(here: Path) -> None:
    """The loop that everybody starts with: state from turn to turn, a failure, a shell, a file."""
    replies = [
        "First:\n```python\nx = 41\nprint(undefined)\n```",
        "```python\nopen('out.txt', 'w').write(str(x + 1))\nprint(x + 1)\n```\n```sh\ncat out.txt\n```",
        "It is 42. TERMINATE",
    ]
    with (
        harness.scripted_model(*replies) as url,
        CodecellCodeExecutor(work_dir=here / "work") as executor,
    ):
        config = {"config_list": [{"model": "scripted", "base_url": url, "api_key": "none"}]}
        bot = AssistantAgent("bot", llm_config={**config, "cache_seed": None})
        user = UserProxyAgent(
            "user",
            human_input_mode="NEVER",
            max_consecutive_auto_reply=5,
            is_termination_msg=lambda message: "TERMINATE" in (message["content"] or ""),
            code_execution_config={"executor": executor},
        )
        said = [m["content"] for m in user.initiate_chat(bot, message="Task").chat_history]
        assert said[2].startswith("exitcode: 1 (execution failed)\nCode output: "), said
        assert "NameError" in said[2], said
        assert said[4] == "exitcode: 0 (execution succeeded)\nCode output: 42\n42\n", said
        assert [a.name for a in executor.artifacts] == ["out.txt"]
    assert (here / "work" / "out.txt").read_text() == "42"


def case_the_protocol(here: Path) -> None:
    """It is what both packages check for, and its results are of their classes."""
    with CodecellCodeExecutor() as executor:
        assert isinstance(executor, CodeExecutor)
        result = run(executor, "open('a.txt', 'w').write('a'); print('hello')")
        assert isinstance(result, CodeResult)
        assert (result.exit_code, result.output, result.output_files) == (0, "hello\n", ["a.txt"])


def case_code_blocks_are_found_as_codecell_finds_them(here: Path) -> None:
    """Data is no code, and content may be parts or nothing at all."""
    extractor = CodecellCodeExecutor().code_extractor
    text = "```json\n{}\n```\n```Py\nprint(1)\n```"
    assert extractor.extract_code_blocks(text) == [CodeBlock(code="print(1)", language="python")]
    parts = [
        {"type": "image_url", "image_url": {"url": "data:,"}},
        {"type": "text", "text": "```sh\nls\n```"},
    ]
    assert extractor.extract_code_blocks(parts) == [CodeBlock(code="ls", language="sh")]
    assert extractor.extract_code_blocks(None) == []


def case_what_cannot_be_run_is_a_reply(here: Path) -> None:
    """Unknown languages and failing programs are results; after the first failure nothing runs."""
    with CodecellCodeExecutor() as executor:
        for language in ("klingon", "no such/language", "x" * 1000):
            result = run(executor, "x", language)
            assert result.exit_code == 1, result
            assert "cannot be run here" in result.output, result
        assert run(executor, "print('guessed')", "").output == "guessed\n"
        assert run(executor, "exit 3", "bash").exit_code == 3
        blocks = [CodeBlock(code=code, language="python") for code in ("1/0", "print('never')")]
        result = executor.execute_code_blocks(blocks)
        assert result.exit_code == 1
        assert "ZeroDivisionError" in result.output
        assert "never" not in result.output


def case_a_timeout_is_a_reply_and_the_session_works_on(here: Path) -> None:
    """What was printed before is in the reply."""
    with CodecellCodeExecutor(timeout=1) as executor:
        result = run(executor, "print('before', flush=True)\nwhile True: pass")
        assert result.exit_code == 124
        assert result.output.startswith("before\n"), result
        assert run(executor, "print('after')").output == "after\n"


def case_ten_megabytes_of_output(here: Path) -> None:
    """They become a text that a model can be given, with the end in it."""
    with CodecellCodeExecutor() as executor:
        output = run(executor, harness.NOISE).output
        assert len(output) < 25_000
        assert "left out" in output or "limit" in output, output[-500:]


def case_ctrl_c_stops_the_code_at_once(here: Path) -> None:
    """The call raises, the code is dead, and its session works on with its state."""
    with CodecellCodeExecutor(timeout=300) as executor, harness.at_once():
        with harness.when_begun(harness.press_ctrl_c):
            harness.error_of(KeyboardInterrupt, lambda: run(executor, harness.FOREVER))
        assert run(executor, "print(x + 1)").output == "42\n"


def case_restart_starts_over(here: Path) -> None:
    """No variable, no file, no artifact is left, and there is one session, not two."""
    with CodecellCodeExecutor() as executor:
        run(executor, "x = 1; open('a.txt', 'w').write('a')")
        executor.restart()
        assert executor.artifacts == []
        result = run(executor, "import os; print(os.path.exists('a.txt')); print(x)")
        assert result.output.startswith("False\n"), result
        assert "NameError" in result.output
        assert len(harness.sessions()) == 1


def case_a_session_that_went_away(here: Path) -> None:
    """The reply says that state was lost, and the block runs in a new one."""
    with CodecellCodeExecutor() as executor:
        run(executor, "x = 1")
        with harness.ExecutorClient() as client:
            client.close_session(harness.sessions()[0])
        result = run(executor, "print('here')")
        assert result.exit_code == 0
        assert "without its variables" in result.output, result
        assert result.output.endswith("here\n"), result


def case_the_guide(here: Path) -> None:
    """What the page shows works as it is written."""
    with harness.scripted_model(f"```python\n{harness.MADE}\n```") as url:
        config = {
            "config_list": [{"model": "scripted", "base_url": url, "api_key": "none"}],
            "cache_seed": None,
        }
        assert "['out.txt']" in harness.guide("AutoGen 0.2 and AG2", model_config=config)
    assert (here / "coding" / "out.txt").read_text() == "made"


if __name__ == "__main__":
    harness.main(dict(globals()))
