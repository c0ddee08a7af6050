"""A plot by a program as for AutoGen 0.2: it is saved in the directory coding/. Needs OPENAI_API_KEY."""

from __future__ import annotations

from agent_client import ConversableAgent, UserProxyAgent

artist = ConversableAgent(
    "artist",
    system_message="You draw with matplotlib. Reply with one Python code block. TERMINATE when it is done.",
    llm_config={"model": "gpt-4.1-mini"},
    human_input_mode="NEVER",
)
runner = UserProxyAgent("runner", human_input_mode="NEVER", code_execution_config={"work_dir": "coding"})
result = runner.initiate_chat(artist, message="Draw a damped oscillation and save it as oscillation.png.")
for artifact in result.artifacts:
    print("Made:", artifact.name, artifact.mime)
print("Ended:", result.stop_reason)
