"""A program as for AutoGen 0.2; only where it imports from is another. It reads its models from the
environment variable or the file OAI_CONFIG_LIST: [{"model": "gpt-4.1-mini", "api_key": "..."}].
"""

from __future__ import annotations

from agent_client import AssistantAgent, UserProxyAgent, config_list_from_json

config_list = config_list_from_json(env_or_file="OAI_CONFIG_LIST")

assistant = AssistantAgent(name="assistant", llm_config={"config_list": config_list, "temperature": 0})
user_proxy = UserProxyAgent(
    name="user_proxy",
    human_input_mode="NEVER",
    max_consecutive_auto_reply=10,
    is_termination_msg=lambda message: message.get("content", "").rstrip().endswith("TERMINATE"),
    code_execution_config={"work_dir": "coding", "use_docker": False},
)
result = user_proxy.initiate_chat(
    assistant,
    message="How many days are left in this year, and how many of them are Sundays?",
    summary_method="last_msg",
)
print("Summary:", result.summary)
print("Cost:", result.cost["usage_including_cached_inference"]["total_cost"])
