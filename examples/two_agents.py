"""An assistant with a real model, and a user proxy that runs its code. Needs OPENAI_API_KEY."""

from __future__ import annotations

from agent_client import AssistantAgent, OpenAIChatCompletionClient, UserProxyAgent

assistant = AssistantAgent("assistant", model_client=OpenAIChatCompletionClient("gpt-4.1-mini"))
user_proxy = UserProxyAgent(
    "user_proxy", human_input_mode="NEVER", code_execution_config={"work_dir": "coding", "timeout": 60}
)
result = user_proxy.initiate_chat(assistant, message="Plot a sine wave and save it as sine.png")
print(result.summary)
print("ended because of", result.stop_reason)
