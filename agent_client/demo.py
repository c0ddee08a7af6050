"""The demo: an assistant plots real data, its first program fails, it mends it, the plot comes out.

The code and the sandbox are real. Without `OPENAI_API_KEY` the assistant's words are replayed, with it
a model writes them.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from agent_client.agents import AssistantAgent, UserProxyAgent
from agent_client.autostart import OwnService
from agent_client.conversation import ChatResult
from agent_client.executors import RemoteCodeExecutor
from agent_client.messages import Artifact
from agent_client.models import ModelClient, OpenAIChatCompletionClient, ReplayChatCompletionClient

TASK = (
    "Compare the gains of MSFT and AAPL over the last year in the data and plot them."
    "\n\nThe data is in stocks.csv: monthly prices of five companies. Save the plot as a PNG file."
)
PLOT = "msft_aapl_gains.png"

_FIRST = """I read the data, take the last twelve months of both companies, and look at their gains.

```python
import csv

prices = {"MSFT": [], "AAPL": []}
with open("stocks.csv") as file:
    for row in csv.DictReader(file):
        if row["Symbol"] in prices:
            prices[row["Symbol"]].append(float(row["Price"]))
for company, known in prices.items():
    print(f"{company}: {known[-1] / known[-13] - 1:+.1%}")
```
"""
_SECOND = f"""There is no column `Symbol`: I guessed the names. I look at the header, and use what is there.

```python
import pandas as pd
import matplotlib.pyplot as plt

stocks = pd.read_csv("stocks.csv")
print("columns:", list(stocks.columns))

stocks["date"] = pd.to_datetime(stocks["date"], format="%b %d %Y")
last_year = stocks[stocks["date"] >= stocks["date"].max() - pd.DateOffset(years=1)]
prices = last_year.pivot(index="date", columns="symbol", values="price")[["MSFT", "AAPL"]]
gains = (prices / prices.iloc[0] - 1) * 100

print(f"from {{prices.index[0]:%B %Y}} to {{prices.index[-1]:%B %Y}}")
for symbol in gains:
    print(f"{{symbol}}: {{gains[symbol].iloc[-1]:+.1f}} %")

axes = gains.plot(marker="o", figsize=(8, 4.5), title="Gain over the last year in the data")
axes.set_xlabel("")
axes.set_ylabel("gain in %")
axes.grid(alpha=0.3)
plt.tight_layout()
plt.savefig("{PLOT}", dpi=120)
plt.close()
```
"""
_THIRD = f"""Over the last year in the data (March 2009 to March 2010) both gained, Apple about twice as much:

- MSFT: +60.1 %
- AAPL: +112.2 %

The plot is in {PLOT}.

TERMINATE"""


def run_demo(out: Path, *, service: OwnService | None = None) -> int:
    """Run the demo with a service of its own; 0 if a plot came out of it."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(Path(__file__).with_name("data") / "stocks.csv", out / "stocks.csv")
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
    return ReplayChatCompletionClient([_FIRST, _SECOND, _THIRD])


def _report(result: ChatResult) -> int:
    plots = [made for made in result.artifacts if _is_plot(made)]
    if not plots:
        sys.stderr.write("No plot was saved (see above).\n")
        return 1
    _print("")
    for plot in plots:
        _print(f"The plot: {plot.path}")
    return 0


def _is_plot(made: Artifact) -> bool:
    return made.path is not None and made.path.suffix == ".png" and made.path.read_bytes()[:4] == b"\x89PNG"


def _print(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
