"""The demo: an assistant plots real data, its first program fails, it mends it, the plot comes out.

The code and the sandbox are real. Without `OPENAI_API_KEY` the assistant's words are replayed, with it
a model writes them.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from pathlib import Path

from agent_client.agents import AssistantAgent, UserProxyAgent
from agent_client.autostart import OwnService
from agent_client.conversation import ChatResult
from agent_client.executors import RemoteCodeExecutor
from agent_client.models import ModelClient, OpenAIChatCompletionClient, ReplayChatCompletionClient

TASK = (
    "Compare the gains of MSFT and AAPL over the last year in the data and plot them."
    "\n\nThe data is in stocks.csv: monthly prices of five companies. Save the plot as a PNG file."
)
PLOT = "msft_aapl_gains.png"

_REPLY = re.compile(r"^## Reply \d+\n", re.MULTILINE)
_DATA = Path(__file__).with_name("data")


def run_demo(out: Path, *, service: OwnService | None = None) -> int:
    """Run the demo with a service of its own; 0 if a plot came out of it."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(_DATA / "stocks.csv", out / "stocks.csv")
    except OSError as error:
        sys.stderr.write(f"codecell: cannot write to {out} ({error}): choose another directory with --out\n")
        return 2
    _print("Codecell's demo. A service is started for it on a free port; code runs in a sandbox there.")
    with service or OwnService() as found:
        _print(f"The service listens on {found.url}.")
        executor = RemoteCodeExecutor(base_url=found.url, api_key=found.api_key, work_dir=out)
        user_proxy = UserProxyAgent(
            "user_proxy",
            human_input_mode="NEVER",
            max_consecutive_auto_reply=10,
            code_execution_config={"executor": executor},
        )
        assistant = AssistantAgent("assistant", model_client=_model())
        result = user_proxy.initiate_chat(assistant, message=TASK)
    return _report(result)


def _model() -> ModelClient:
    if os.environ.get("OPENAI_API_KEY"):
        model = os.environ.get("OPENAI_MODEL", "gpt-4.1-mini")
        _print(f"OPENAI_API_KEY is set: the assistant's replies are written by {model}.\n")
        return OpenAIChatCompletionClient(model)
    _print("OPENAI_API_KEY is not set: the assistant's replies are replayed. Code and sandbox are real.\n")
    _, *replies = _REPLY.split((_DATA / "demo.md").read_text(encoding="utf-8"))
    return ReplayChatCompletionClient([reply.strip() for reply in replies])


def _report(result: ChatResult) -> int:
    paths = [made.path for made in result.artifacts if made.path is not None and made.path.suffix == ".png"]
    plots = [path for path in paths if path.read_bytes().startswith(b"\x89PNG")]
    if not plots:
        sys.stderr.write("No plot was saved (see above).\n")
        return 1
    _print("\n" + "\n".join(f"The plot: {path}" for path in plots))
    return 0


def _print(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
