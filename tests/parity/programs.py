"""Programs in the style of AutoGen 0.2. Each is run by both frameworks, which must come to the same.

A program is a function of a `World` (world.py) and returns what is to be compared.
"""

# ruff: noqa: D103 - their names say what they are about

from __future__ import annotations

from itertools import pairwise

from autogen import (
    AssistantAgent,
    ConversableAgent,
    GroupChat,
    GroupChatManager,
    UserProxyAgent,
    initiate_chats,
    register_function,
)

CODE = "Try:\n```python\nprint(1)\n```"


def _done(message):
    return (message.get("content") or "").rstrip().endswith("TERMINATE")


def _pair(w, *replies, **options):
    """A user proxy that runs no code, and an assistant with these replies."""
    options = {
        "human_input_mode": "NEVER",
        "code_execution_config": False,
        "is_termination_msg": _done,
    } | options
    return UserProxyAgent("user", **options), AssistantAgent("bot", llm_config=w.llm(*replies))


def _echo(name, text=None, **options):
    """An agent without a model that says `text`."""
    options = {"human_input_mode": "NEVER", "default_auto_reply": text or f"I am {name}."} | options
    return ConversableAgent(name, **options)


def _coder(w, *replies, **config):
    """A user proxy that runs code, and an assistant."""
    user = UserProxyAgent(
        "user",
        human_input_mode="NEVER",
        is_termination_msg=_done,
        max_consecutive_auto_reply=5,
        code_execution_config={"executor": w.executor(), **config},
    )
    return user, AssistantAgent("bot", llm_config=w.llm(*replies))


def _member(w, name, **options):
    """An agent that never says the same."""
    return AssistantAgent(name, llm_config=w.llm(*(f"{name}{turn}" for turn in range(1, 9))), **options)


def _group(w, names, selector=(), message="Begin", manager=None, members=None, **options):
    """What the first of a group begins; its members never say the same unless they are given."""
    w.notes_models = False
    members = members or [_member(w, name) for name in names]
    group = GroupChat(agents=members, messages=[], **options)
    chief = GroupChatManager(group, llm_config=w.llm(*selector) if selector else False, **(manager or {}))
    result = members[0].initiate_chat(chief, message=message, silent=True)
    return group, chief, members, result


# --- whether a human is asked ---------------------------------------------------------------


def always_empty_answers_auto_reply(w):
    w.types("", "", "exit")
    user, bot = _pair(w, "one", "two", "three", human_input_mode="ALWAYS")
    return w.chat(user.initiate_chat(bot, message="Task"))


def always_text_is_sent(w):
    w.types("Do it again", "exit")
    user, bot = _pair(w, "one", "two", human_input_mode="ALWAYS")
    return w.chat(user.initiate_chat(bot, message="Task"))


def always_exit_at_once(w):
    w.types("exit")
    user, bot = _pair(w, "one", human_input_mode="ALWAYS")
    return w.chat(user.initiate_chat(bot, message="Task"))


def always_empty_at_a_termination_message_ends(w):
    w.types("")
    user, bot = _pair(w, "All done. TERMINATE", human_input_mode="ALWAYS")
    return w.chat(user.initiate_chat(bot, message="Task"))


def always_text_at_a_termination_message_goes_on(w):
    w.types("Not yet", "")
    user, bot = _pair(w, "All done. TERMINATE", "Now. TERMINATE", human_input_mode="ALWAYS")
    return w.chat(user.initiate_chat(bot, message="Task"))


def always_does_not_heed_the_limit(w):
    w.types("", "", "", "exit")
    user, bot = _pair(
        w, "one", "two", "three", "four", human_input_mode="ALWAYS", max_consecutive_auto_reply=1
    )
    return w.chat(user.initiate_chat(bot, message="Task"))


def always_with_no_auto_replies_says_nothing(w):
    w.types("", "exit")
    user, bot = _pair(w, "one", "two", human_input_mode="ALWAYS", max_consecutive_auto_reply=0)
    return w.chat(user.initiate_chat(bot, message="Task"))


def always_text_comes_before_code(w):
    w.types("Do not run that", "exit")
    user, bot = _coder(w, CODE, "two")
    user.human_input_mode = "ALWAYS"
    return w.chat(user.initiate_chat(bot, message="Task"))


def always_empty_runs_the_code(w):
    w.types("", "exit")
    user, bot = _coder(w, CODE, "two")
    user.human_input_mode = "ALWAYS"
    return w.chat(user.initiate_chat(bot, message="Task"))


def terminate_asks_at_a_termination_message(w):
    w.types("Go on", "")
    user, bot = _pair(w, "one", "TERMINATE", "three. TERMINATE", human_input_mode="TERMINATE")
    return w.chat(user.initiate_chat(bot, message="Task"))


def terminate_exit_at_a_termination_message(w):
    w.types("exit")
    user, bot = _pair(w, "one", "TERMINATE", human_input_mode="TERMINATE")
    return w.chat(user.initiate_chat(bot, message="Task"))


def terminate_empty_at_the_limit_is_one_more_reply(w):
    w.types("", "", "exit")
    user, bot = _pair(
        w, "one", "two", "three", "four", human_input_mode="TERMINATE", max_consecutive_auto_reply=1
    )
    return w.chat(user.initiate_chat(bot, message="Task"))


def terminate_text_at_the_limit_resets_it(w):
    w.types("more", "exit")
    user, bot = _pair(
        w, "one", "two", "three", "four", "five", human_input_mode="TERMINATE", max_consecutive_auto_reply=2
    )
    return w.chat(user.initiate_chat(bot, message="Task"))


def terminate_at_the_limit_and_a_termination_message(w):
    w.types("")
    user, bot = _pair(w, "one", "TERMINATE", human_input_mode="TERMINATE", max_consecutive_auto_reply=1)
    return w.chat(user.initiate_chat(bot, message="Task"))


def terminate_with_no_auto_replies(w):
    w.types("", "more", "exit")
    user, bot = _pair(w, "one", "two", "three", human_input_mode="TERMINATE", max_consecutive_auto_reply=0)
    return w.chat(user.initiate_chat(bot, message="Task"))


def never_ends_at_a_termination_message(w):
    user, bot = _pair(w, "one", "two. TERMINATE", "three")
    return w.chat(user.initiate_chat(bot, message="Task"))


def never_with_no_auto_replies(w):
    user, bot = _pair(w, "one", "two", max_consecutive_auto_reply=0)
    return w.chat(user.initiate_chat(bot, message="Task"))


def never_with_one_auto_reply(w):
    user, bot = _pair(w, "one", "two", "three", max_consecutive_auto_reply=1)
    return w.chat(user.initiate_chat(bot, message="Task"))


def never_with_two_auto_replies(w):
    user, bot = _pair(w, "one", "two", "three", "four", max_consecutive_auto_reply=2)
    return w.chat(user.initiate_chat(bot, message="Task"))


def the_limit_counts_anew_in_each_chat(w):
    user, bot = _pair(w, max_consecutive_auto_reply=1)
    first = w.chat(user.initiate_chat(bot, message="Task"))
    return [first, w.chat(user.initiate_chat(bot, message="Again"))]


def the_limit_is_that_of_each_agent(w):
    user, bot = _member(w, "user"), _echo("bot", max_consecutive_auto_reply=2)
    return w.chat(user.initiate_chat(bot, message="Task"))


def defaults_of_the_user_proxy(w):
    w.types("exit")
    user, bot = (
        UserProxyAgent("user", code_execution_config=False),
        AssistantAgent("bot", llm_config=w.llm("one")),
    )
    return [user.human_input_mode, bot.human_input_mode, w.chat(user.initiate_chat(bot, message="Task"))]


def the_first_message_is_asked_for(w):
    w.types("What is 2 + 2?", "exit")
    user, bot = _pair(w, "4", human_input_mode="ALWAYS")
    return w.chat(user.initiate_chat(bot))


# --- when a chat ends -----------------------------------------------------------------------


def max_turns_one(w):
    user, bot = _pair(w, "one", "two")
    return w.chat(user.initiate_chat(bot, message="Task", max_turns=1))


def max_turns_two(w):
    user, bot = _pair(w, "one", "two", "three")
    return w.chat(user.initiate_chat(bot, message="Task", max_turns=2))


def max_turns_and_an_earlier_end(w):
    user, bot = _pair(w, "TERMINATE", "two")
    return w.chat(user.initiate_chat(bot, message="Task", max_turns=3))


def no_reply_ends(w):
    user, bot = _echo("user"), _echo("bot")
    bot.register_reply([ConversableAgent, None], lambda *args, **kwargs: (True, None))
    return w.chat(user.initiate_chat(bot, message="Task"))


def default_auto_reply_is_said(w):
    user, bot = _pair(w, "one", "two", "TERMINATE", default_auto_reply="Go on.")
    return w.chat(user.initiate_chat(bot, message="Task"))


def empty_default_auto_reply_is_said(w):
    user, bot = _pair(w, "one", "two", "TERMINATE")
    return w.chat(user.initiate_chat(bot, message="Task"))


def termination_is_asked_of_the_receiver(w):
    user, bot = _pair(w, "one", "two")
    bot._is_termination_msg = bot._is_termination = lambda message: "stop" in message["content"]
    user.register_reply(bot, lambda r, messages, sender, config: (True, "please stop"))
    return w.chat(user.initiate_chat(bot, message="Task"))


def termination_sees_the_whole_message(w):
    seen = []

    def ends(message):
        seen.append([message.get("name"), message.get("role"), message["content"]])
        return message["content"] == "two"

    user, bot = _pair(w, "one", "two", "three", is_termination_msg=ends)
    user.initiate_chat(bot, message="Task")
    return seen


def terminate_alone_ends_by_default(w):
    user = UserProxyAgent("user", human_input_mode="NEVER", code_execution_config=False)
    bot = AssistantAgent("bot", llm_config=w.llm("one", "TERMINATE", "three"))
    return w.chat(user.initiate_chat(bot, message="Task"))


def terminate_as_the_last_word_ends_by_default(w):
    user = UserProxyAgent(
        "user", human_input_mode="NEVER", code_execution_config=False, max_consecutive_auto_reply=2
    )
    bot = AssistantAgent("bot", llm_config=w.llm("All done. TERMINATE"))
    return w.chat(user.initiate_chat(bot, message="Task"))


def the_tasks_own_text_may_say_terminate(w):
    user = UserProxyAgent(
        "user", human_input_mode="NEVER", code_execution_config=False, is_termination_msg=_done
    )
    bot = AssistantAgent("bot", llm_config=w.llm("Done. TERMINATE"), is_termination_msg=_done)
    return w.chat(user.initiate_chat(bot, message="When all is done, say TERMINATE"))


def politeness_goes_on_to_the_limit(w):
    user, bot = _echo("user", "You are welcome!"), _echo("bot", "Thank you!", max_consecutive_auto_reply=4)
    return w.said(user.initiate_chat(bot, message="Task").chat_history)


# --- reply functions ------------------------------------------------------------------------


def registered_later_is_asked_first(w):
    user, bot = _echo("user"), _echo("bot")
    order = []

    def first(recipient, messages=None, sender=None, config=None):
        order.append(["first", config, messages[-1]["content"], sender.name, recipient.name])
        return True, "from the first"

    def second(recipient, messages=None, sender=None, config=None):
        order.append(["second", config, messages[-1]["content"], sender.name, recipient.name])
        return False, None

    bot.register_reply([ConversableAgent, None], first, config={"a": 1})
    bot.register_reply(ConversableAgent, reply_func=second, config=2)
    return [w.said(user.initiate_chat(bot, message="Task", max_turns=1).chat_history), order]


def arguments_go_by_name(w):
    user, bot = _echo("user"), _echo("bot")

    def reply(recipient, sender, config, messages):
        return True, f"{sender.name} said {messages[-1]['content']}"

    bot.register_reply(ConversableAgent, reply)
    return w.said(user.initiate_chat(bot, message="Task", max_turns=1).chat_history)


def triggers(w):
    user, bot = _echo("user"), _echo("bot")
    hits = []

    def note(name):
        def reply(recipient, messages=None, sender=None, config=None):
            hits.append(name)
            return False, None

        return reply

    bot.register_reply(user, note("the agent"))
    bot.register_reply(bot, note("another agent"))
    bot.register_reply("user", note("its name"))
    bot.register_reply("nobody", note("another name"))
    bot.register_reply(ConversableAgent, note("its class"))
    bot.register_reply(GroupChatManager, note("another class"))
    bot.register_reply(lambda sender: sender is user, note("a callable"))
    bot.register_reply(lambda sender: False, note("a callable that says no"))
    bot.register_reply([None, user], note("a list"))
    user.initiate_chat(bot, message="Task", max_turns=1)
    return hits


def a_registered_reply_comes_before_the_human(w):
    user, bot = _pair(w, "one", "two", human_input_mode="ALWAYS")
    user.register_reply(bot, lambda r, messages, sender, config: (len(messages) > 2, None))
    w.types("more")
    return w.chat(user.initiate_chat(bot, message="Task"))


def position_two_comes_after_the_human(w):
    w.types("", "typed", "exit")
    user, bot = _pair(w, "one", "two", "three", human_input_mode="ALWAYS")
    user.register_reply(bot, lambda r, messages, sender, config: (True, "registered"), position=2)
    return w.chat(user.initiate_chat(bot, message="Task"))


def other_reply_functions_removed(w):
    w.types()
    user, bot = _pair(w, "one", "two", human_input_mode="ALWAYS")
    user.register_reply(bot, lambda r, messages, sender, config: (False, None), remove_other_reply_funcs=True)
    return w.said(user.initiate_chat(bot, message="Task", max_turns=2).chat_history)


def a_late_registered_reply_counts(w):
    user, bot = _member(w, "user"), _echo("bot", max_consecutive_auto_reply=2)
    bot.register_reply(user, lambda r, messages, sender, config: (True, f"{len(messages)}"), position=2)
    return w.said(user.initiate_chat(bot, message="Task").chat_history)


def a_registered_reply_counts_no_auto_reply(w):
    user, bot = _echo("user", max_consecutive_auto_reply=1), _echo("bot", max_consecutive_auto_reply=1)
    bot.register_reply(user, lambda r, messages, sender, config: (True, f"reply {len(messages)}"))
    user.register_reply(bot, lambda r, messages, sender, config: (len(messages) < 7, f"user {len(messages)}"))
    return w.said(user.initiate_chat(bot, message="Task").chat_history)


def reply_as_a_dict(w):
    user, bot = _echo("user"), _echo("bot")
    bot.register_reply(user, lambda r, messages, sender, config: (True, {"content": "a dict"}))
    return w.chat(user.initiate_chat(bot, message="Task", max_turns=1))


def hooks(w):
    user, bot = _pair(w, "one", "two")
    bot.register_hook("process_last_received_message", lambda text: text + " (read)")
    bot.register_hook("process_all_messages_before_reply", lambda messages: messages[-1:])
    user.register_hook(
        "process_message_before_send", lambda sender, message, recipient, silent: f"{message} (sent)"
    )
    return w.chat(user.initiate_chat(bot, message="Task", max_turns=2))


def generate_reply_alone(w):
    bot = AssistantAgent("bot", llm_config=w.llm("one", "two"))
    echo = _echo("echo")
    return [
        bot.generate_reply(messages=[{"role": "user", "content": "Hi"}]),
        bot.generate_reply([{"role": "user", "content": "Hi", "name": "someone"}]),
        echo.generate_reply(messages=[{"role": "user", "content": "Hi"}]),
        echo.generate_reply(messages=[{"role": "user", "content": "TERMINATE"}]),
    ]


# --- code -----------------------------------------------------------------------------------


def code_is_run(w):
    user, bot = _coder(w, CODE, "It is 1. TERMINATE")
    return w.chat(user.initiate_chat(bot, message="Task"))


def several_blocks_in_order(w):
    blocks = "```python\na = 1\n```\nand\n```sh\nls\n```"
    user, bot = _coder(w, blocks, "TERMINATE")
    return w.chat(user.initiate_chat(bot, message="Task"))


def a_failing_block_is_told(w):
    user, bot = _coder(w, "```python\nfail\n```\n```python\nnever\n```", CODE, "TERMINATE")
    return w.chat(user.initiate_chat(bot, message="Task"))


def a_message_with_code_and_terminate_is_not_run(w):
    user, bot = _coder(w, CODE + "\nTERMINATE")
    return w.chat(user.initiate_chat(bot, message="Task"))


def auto_reads_what_came_since_it_spoke(w):
    user, bot = _coder(w, CODE, "No code now.", "TERMINATE")
    return w.chat(user.initiate_chat(bot, message="Task"))


def last_n_messages_reads_further_back(w):
    user, bot = _coder(w, CODE, "No code now.", "TERMINATE", last_n_messages=3)
    return w.chat(user.initiate_chat(bot, message="Task"))


def last_n_messages_one(w):
    user, bot = _coder(w, CODE, "No code now.", "TERMINATE", last_n_messages=1)
    return w.chat(user.initiate_chat(bot, message="Task"))


def code_in_an_earlier_message_of_a_group(w):
    user = UserProxyAgent("user", human_input_mode="NEVER", code_execution_config={"executor": w.executor()})
    members = [user, _echo("coder", CODE), _echo("critic", "Looks right to me?")]
    *_, result = _group(w, [], members=members, max_round=6, speaker_selection_method="round_robin")
    return w.said(result.chat_history)


def untagged_and_data_blocks(w):
    user, bot = _coder(w, "```\nimport os\n```", "```PYTHON\nx = 1\n```", "TERMINATE")
    return w.chat(user.initiate_chat(bot, message="Task"))


def data_is_no_code(w):
    user, bot = _coder(w, '```json\n{"a": 1}\n```', "TERMINATE")
    return w.chat(user.initiate_chat(bot, message="Task"))


def code_comes_before_the_model(w):
    user = UserProxyAgent(
        "user",
        human_input_mode="NEVER",
        is_termination_msg=_done,
        code_execution_config={"executor": w.executor()},
        llm_config=w.llm("The user's model speaks", "again"),
    )
    bot = AssistantAgent("bot", llm_config=w.llm(CODE, "no code", "TERMINATE"))
    return w.chat(user.initiate_chat(bot, message="Task"))


# --- tools ----------------------------------------------------------------------------------


def _tooled(w, *replies, functions=(), **options):
    user, bot = _pair(w, *replies, **options)
    for function in functions:
        register_function(function, caller=bot, executor=user, description="A tool.")
    return user, bot


def a_tool_is_called(w):
    def add(a: int, b: int) -> int:
        return a + b

    user, bot = _tooled(w, [("add", '{"a": 1, "b": 2}')], "It is 3. TERMINATE", functions=[add])
    return w.chat(user.initiate_chat(bot, message="Task"))


def two_tools_at_once(w):
    def add(a: int, b: int) -> int:
        return a + b

    def greet(name: str) -> str:
        return f"Hello {name}"

    calls = [("add", '{"a": 1, "b": 2}'), ("greet", '{"name": "Ada"}')]
    user, bot = _tooled(w, calls, "TERMINATE", functions=[add, greet])
    return w.chat(user.initiate_chat(bot, message="Task"))


def what_tools_return(w):
    def number() -> float:
        return 1.5

    def yes() -> bool:
        return True

    def nothing() -> None:
        return None

    def table() -> dict:
        return {"a": [1, 2]}

    calls = [(name, "{}") for name in ("number", "yes", "nothing", "table")]
    user, bot = _tooled(w, calls, "TERMINATE", functions=[number, yes, nothing, table])
    return w.chat(user.initiate_chat(bot, message="Task"))


def a_tool_that_raises(w):
    def divide(a: int) -> float:
        return a / 0

    user, bot = _tooled(w, [("divide", '{"a": 1}')], "TERMINATE", functions=[divide])
    return w.chat(user.initiate_chat(bot, message="Task"))


def a_tool_that_nobody_has(w):
    def add(a: int, b: int) -> int:
        return a + b

    user, bot = _tooled(w, [("multiply", '{"a": 1}')], "TERMINATE", functions=[add])
    return w.chat(user.initiate_chat(bot, message="Task"))


def arguments_that_are_no_json(w):
    def add(a: int, b: int) -> int:
        return a + b

    user, bot = _tooled(w, [("add", '{"a": 1, "b"')], "TERMINATE", functions=[add])
    return w.chat(user.initiate_chat(bot, message="Task"))


def a_human_comes_before_tools(w):
    def add(a: int, b: int) -> int:
        return a + b

    w.types("Do not add", "exit")
    user, bot = _tooled(w, [("add", '{"a": 1, "b": 2}')], "two", functions=[add], human_input_mode="ALWAYS")
    return w.chat(user.initiate_chat(bot, message="Task"))


def tools_by_decorators(w):
    user, bot = _pair(w, [("plus", '{"a": 1, "b": 2}')], "TERMINATE")

    @user.register_for_execution()
    @bot.register_for_llm(name="plus", description="Adds.")
    def add(a: int, b: int = 0) -> int:
        return a + b

    return [w.chat(user.initiate_chat(bot, message="Task")), add(2, 3)]


def a_tool_call_in_a_group_goes_to_who_can_run_it(w):
    def add(a: int, b: int) -> int:
        return a + b

    caller = AssistantAgent("caller", llm_config=w.llm([("add", '{"a": 1, "b": 2}')], "It is 3."))
    members = [_echo("user"), caller, _echo("critic"), _echo("runner")]
    register_function(add, caller=caller, executor=members[3], description="Adds.")
    *_, result = _group(w, [], members=members, max_round=6, speaker_selection_method="round_robin")
    return w.plain(result.chat_history)


# --- summaries, carry-over, several chats -----------------------------------------------------


def the_last_message_is_the_summary(w):
    user, bot = _pair(w, "The result: 42. TERMINATE")
    return w.chat(user.initiate_chat(bot, message="Task", summary_method="last_msg"))


def a_model_reflects(w):
    user, bot = _pair(w, "one. TERMINATE", "The takeaway.")
    args = {"summary_prompt": "In one word?"}
    return w.chat(
        user.initiate_chat(bot, message="Task", summary_method="reflection_with_llm", summary_args=args)
    )


def a_function_sums_up(w):
    def summary(sender, recipient, summary_args):
        return (
            f"{sender.name} {recipient.name} {recipient.last_message(sender)['content']} {summary_args['x']}"
        )

    user, bot = _pair(w, "one. TERMINATE")
    return w.chat(user.initiate_chat(bot, message="Task", summary_method=summary, summary_args={"x": 1}))


def carryover_as_a_text_and_a_list(w):
    user, bot = _pair(w)
    return [
        w.said(user.initiate_chat(bot, message="Task", max_turns=1, carryover=given).chat_history)
        for given in ("one text", ["one", "two"], "", [])
    ]


def carryover_and_a_dict(w):
    user, bot = _pair(w)
    message = {"content": "Task", "role": "user"}
    return w.said(user.initiate_chat(bot, message=message, max_turns=1, carryover="more").chat_history)


def a_callable_makes_the_message(w):
    user, bot = _pair(w)

    def message(sender, recipient, context):
        return f"{sender.name} to {recipient.name}: {context['x']}, {context.get('carryover')}"

    chat = user.initiate_chat(bot, message=message, max_turns=1, x=1, carryover="more")
    return w.said(chat.chat_history)


def a_callable_makes_a_dict(w):
    user, bot = _pair(w)
    chat = user.initiate_chat(bot, message=lambda s, r, c: {"content": "made"}, max_turns=1)
    return w.said(chat.chat_history)


def chats_in_sequence_carry_over(w):
    user = _echo("user")
    chats = [
        {"sender": user, "recipient": _echo(name), "message": f"Task {name}", "max_turns": 1, **more}
        for name, more in (
            ("a", {}),
            ("b", {"carryover": "given"}),
            ("c", {"finished_chat_indexes_to_exclude_from_carryover": [0]}),
        )
    ]
    return [w.chat(result) for result in initiate_chats(chats)]


def chats_of_one_agent(w):
    user = _echo("user")
    chats = [{"recipient": _echo(n), "message": f"Task {n}", "max_turns": 1} for n in ("a", "b")]
    return [w.chat(result) for result in user.initiate_chats(chats)]


# --- nested chats -----------------------------------------------------------------------------


def a_nested_chat_gives_the_reply(w):
    user, bot, critic = _echo("user"), _echo("bot"), _echo("critic", "A nested word.")
    bot.register_nested_chats([{"recipient": critic, "max_turns": 1}], trigger=user)
    return w.chat(user.initiate_chat(bot, message="Task", max_turns=2))


def _to_b(recipient, messages, sender, config):
    return f"To b, from {recipient.name} and {sender.name}: {messages[-1]['content']}"


def nested_chats_in_sequence(w):
    user, bot = _echo("user"), _echo("bot")
    a, b = _echo("a", "Said a."), _echo("b", "Said b.")
    bot.register_nested_chats(
        [
            {"recipient": a, "max_turns": 1, "message": "To a"},
            {"recipient": b, "max_turns": 1, "message": _to_b},
        ],
        trigger=user,
    )
    chat = w.chat(user.initiate_chat(bot, message="Task", max_turns=1))
    return [chat, w.plain(bot.chat_messages[a]), w.plain(bot.chat_messages[b])]


def nested_chats_without_a_message_are_skipped(w):
    user, bot = _echo("user"), _echo("bot")
    a, b, c = _echo("a", "Said a."), _echo("b", "Said b."), _echo("c", "Said c.")
    bot.register_nested_chats(
        [
            {"recipient": a, "max_turns": 1},
            {"recipient": b, "max_turns": 1},
            {"recipient": c, "max_turns": 1, "message": lambda *args: ""},
        ],
        trigger=user,
    )
    chat = w.chat(user.initiate_chat(bot, message="Task", max_turns=1))
    return [chat, *(w.said(bot.chat_messages[other]) for other in (a, b, c))]


def the_first_nested_chat_is_skipped(w):
    user, bot = _echo("user"), _echo("bot")
    a, b, c = _echo("a", "Said a."), _echo("b", "Said b."), _echo("c", "Said c.")
    bot.register_nested_chats(
        [
            {"recipient": a, "max_turns": 1, "message": lambda *args: None},
            {"recipient": b, "max_turns": 1},
            {"recipient": c, "max_turns": 1, "message": "To c"},
        ],
        trigger=user,
    )
    chat = w.chat(user.initiate_chat(bot, message="Task", max_turns=1))
    return [chat, *(w.said(bot.chat_messages[other]) for other in (a, b, c))]


def no_nested_chat_to_hold_ends(w):
    user, bot = _echo("user"), _echo("bot")
    bot.register_nested_chats(
        [{"recipient": _echo("a"), "max_turns": 1, "message": lambda *args: None}], trigger=user
    )
    return w.chat(user.initiate_chat(bot, message="Task"))


def termination_comes_before_nested_chats(w):
    user, bot = _echo("user", "Enough. TERMINATE"), _echo("bot", is_termination_msg=_done)
    bot.register_nested_chats([{"recipient": _echo("a"), "max_turns": 1}], trigger=user)
    return w.chat(user.initiate_chat(bot, message="Task"))


def nested_chats_count_as_auto_replies(w):
    user, bot = _member(w, "user"), _echo("bot", max_consecutive_auto_reply=2)
    bot.register_nested_chats([{"recipient": _member(w, "a"), "max_turns": 1}], trigger=user)
    return w.chat(user.initiate_chat(bot, message="Task"))


# --- history, send, what agents know --------------------------------------------------------


def history_is_cleared(w):
    user, bot = _pair(w, "one", "two")
    user.initiate_chat(bot, message="First", max_turns=1)
    return w.chat(user.initiate_chat(bot, message="Second", max_turns=1))


def history_is_kept(w):
    user, bot = _pair(w, "one", "two")
    user.initiate_chat(bot, message="First", max_turns=1)
    result = user.initiate_chat(bot, message="Second", max_turns=1, clear_history=False)
    return [w.chat(result), [len(body["messages"]) for body in w.asked]]


def both_sides_know_the_chat(w):
    user, bot = _pair(w, "one", "TERMINATE")
    user.initiate_chat(bot, message="Task")
    return {
        "user": w.plain(user.chat_messages[bot]),
        "bot": w.plain(bot.chat_messages[user]),
        "last of user": user.last_message(bot)["content"],
        "last of bot": bot.last_message()["content"],
        "agents": [agent.name for agent in user.chat_messages],
    }


def send_after_a_chat_goes_on(w):
    user, bot = _pair(w, "one. TERMINATE", "two. TERMINATE")
    user.initiate_chat(bot, message="Task")
    user.send("And then?", bot)
    return w.plain(user.chat_messages[bot])


def send_without_a_chat(w):
    user, bot = _pair(w, "one", "two. TERMINATE")
    user.send("For your information", bot)
    quiet = w.said(bot.chat_messages[user])
    user.send("Now answer", bot, request_reply=True)
    return [quiet, w.said(user.chat_messages[bot])]


def send_without_asking_for_a_reply(w):
    user, bot = _pair(w, "one. TERMINATE", "two. TERMINATE")
    user.initiate_chat(bot, message="Task")
    user.send("No need to answer", bot, request_reply=False)
    return w.said(user.chat_messages[bot])


def receive(w):
    user, bot = _pair(w, "one. TERMINATE")
    bot.receive("Hello", user, request_reply=True)
    return [w.said(bot.chat_messages[user]), user.last_message(bot)["content"]]


def send_after_max_turns_is_not_answered(w):
    user, bot = _pair(w, "one", "two")
    user.initiate_chat(bot, message="Task", max_turns=1)
    user.send("And then?", bot)
    return w.said(user.chat_messages[bot])


def send_back_from_the_other_side(w):
    user, bot = _pair(w, "one. TERMINATE", "two. TERMINATE")
    user.initiate_chat(bot, message="Task")
    bot.send("One thing more", user)
    return w.said(bot.chat_messages[user])


def history_is_forgotten(w):
    user, bot = _pair(w, "one")
    user.initiate_chat(bot, message="Task", max_turns=1)
    user.clear_history()
    return [len(user.chat_messages[bot]), len(bot.chat_messages[user])]


def reset(w):
    user, bot = _pair(w, "one")
    user.initiate_chat(bot, message="Task", max_turns=1)
    user.reset()
    return len(user.chat_messages[bot])


def the_system_message_can_be_changed(w):
    user, bot = _pair(w, "one", "two")
    bot.update_system_message("Speak Latin.")
    user.initiate_chat(bot, message="Task", max_turns=1)
    return [bot.system_message, w.asked[0]["messages"][0]]


def the_limit_can_be_changed(w):
    user, bot = _pair(w)
    user.update_max_consecutive_auto_reply(1)
    return w.said(user.initiate_chat(bot, message="Task").chat_history)


def a_human_by_overriding(w):
    class Typing(UserProxyAgent):
        def get_human_input(self, prompt):
            return "exit" if self.last_message(bot)["content"] == "two" else "typed"

    user = Typing("user", code_execution_config=False)
    bot = AssistantAgent("bot", llm_config=w.llm("one", "two"))
    return w.said(user.initiate_chat(bot, message="Task").chat_history)


def models_hear_both(w):
    user, bot = _pair(w, "one", "two")
    bot.update_system_message("Be short.")
    user.initiate_chat(bot, message="Task", max_turns=2)
    return [[m["role"], m["content"]] for m in w.asked[1]["messages"]]


def cost_of_one_chat(w):
    user, bot = _pair(w, "one", "two")
    cost = user.initiate_chat(bot, message="Task", max_turns=2).cost
    return {kind: sorted(told) for kind, told in cost.items()}, [
        {key: value for key, value in told.items() if key != "total_cost"} for told in cost.values()
    ]


def an_image_in_a_message(w):
    user, bot = _pair(w, "A cat.")
    parts = [
        {"type": "text", "text": "What is it?"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,aGk="}},
    ]
    chat = user.initiate_chat(bot, message={"content": parts}, max_turns=1)
    return [w.plain(chat.chat_history), w.asked[0]["messages"][-1]["content"]]


async def chat_async(w):
    user, bot = _pair(w, "one", "TERMINATE")
    return w.chat(await user.a_initiate_chat(bot, message="Task"))


async def async_replies(w):
    user, bot = _echo("user"), _echo("bot")

    async def reply(recipient, messages=None, sender=None, config=None):
        return True, "async"

    bot.register_reply(ConversableAgent, reply)
    return w.said((await user.a_initiate_chat(bot, message="Task", max_turns=1)).chat_history)


# --- groups -----------------------------------------------------------------------------------


def group_round_robin(w):
    group, chief, members, result = _group(w, "abc", max_round=6, speaker_selection_method="round_robin")
    return {
        "chat": w.chat(result),
        "group": w.said(group.messages),
        "b": w.plain(members[1].chat_messages[chief]),
        "chief": w.said(chief.chat_messages[members[0]]),
    }


def group_of_one_round(w):
    *_, result = _group(w, "abc", max_round=1, speaker_selection_method="round_robin")
    return w.chat(result)


def group_begun_from_outside(w):
    user, members = _echo("user"), [_member(w, name) for name in "ab"]
    group = GroupChat(agents=members, messages=[], max_round=4, speaker_selection_method="round_robin")
    chief = GroupChatManager(group, llm_config=False)
    return [w.chat(user.initiate_chat(chief, message="Begin")), w.said(group.messages)]


def group_begun_from_outside_with_max_turns(w):
    user, members = _echo("user"), [_member(w, name) for name in "ab"]
    group = GroupChat(agents=members, messages=[], max_round=6, speaker_selection_method="round_robin")
    user.initiate_chat(GroupChatManager(group, llm_config=False), message="Begin", max_turns=1)
    return w.said(group.messages)


def group_auto(w):
    group, *_ = _group(w, "abc", ["c", "The next is b.", "a"], max_round=4)
    return w.said(group.messages)


def group_auto_unclear_names(w):
    answers = ["either b or c", "nobody", "c", "zzz", "zzz", "zzz", "b and a", "b"]
    group, *_ = _group(w, "abc", answers, max_round=4)
    return [w.said(group.messages), len(w.asked)]


def group_auto_names_with_underscores(w):
    group, *_ = _group(
        w, ["the_user", "the_writer", "a_critic"], ["the writer", r"a\_critic", "**the_writer**"], max_round=4
    )
    return w.said(group.messages)


def group_auto_asks_nobody_where_one_is_left(w):
    group, *_ = _group(w, "ab", ["b"], max_round=4, allow_repeat_speaker=False)
    return [w.said(group.messages), len(w.asked)]


def group_auto_without_repeating(w):
    group, *_ = _group(w, "abc", ["b", "b", "c", "b"], max_round=4, allow_repeat_speaker=False)
    return [w.said(group.messages), len(w.asked)]


def group_repeating_is_allowed_to_some(w):
    members = [_member(w, name) for name in "ab"]
    group, *_ = _group(
        w, [], ["b", "b", "b"], members=members, max_round=4, allow_repeat_speaker=[members[1]]
    )
    return [w.said(group.messages), len(w.asked)]


def group_random_never_repeats(w):
    group, *_ = _group(w, "abc", max_round=9, speaker_selection_method="random", allow_repeat_speaker=False)
    names = [message["name"] for message in group.messages]
    return [len(names), any(a == b for a, b in pairwise(names))]


def group_manual(w):
    w.types("2", "", "q")
    group, *_ = _group(w, "abc", max_round=3, speaker_selection_method="manual")
    return w.said(group.messages)


def group_callable(w):
    def choose(last, group):
        said = {"a": "c", "c": "b", "b": None}[last.name]
        return said and group.agent_by_name(said)

    group, *_ = _group(w, "abc", max_round=9, speaker_selection_method=choose)
    return w.said(group.messages)


def group_callable_gives_a_method(w):
    def choose(last, group):
        return "round_robin" if len(group.messages) < 3 else group.agents[0]

    group, *_ = _group(w, "abc", max_round=5, speaker_selection_method=choose)
    return w.said(group.messages)


def group_callable_gives_a_stranger(w):
    _group(w, "abc", max_round=5, speaker_selection_method=lambda last, group: _echo("z"))


def group_transitions_allowed(w):
    a, b, c = members = [_member(w, name) for name in "abc"]
    group, *_ = _group(
        w,
        [],
        members=members,
        max_round=6,
        speaker_selection_method="round_robin",
        allowed_or_disallowed_speaker_transitions={a: [c], c: [a, b], b: [a]},
        speaker_transitions_type="allowed",
    )
    return w.said(group.messages)


def group_transitions_disallowed(w):
    a, b, c = members = [_member(w, name) for name in "abc"]
    group, *_ = _group(
        w,
        [],
        members=members,
        max_round=6,
        speaker_selection_method="round_robin",
        allowed_or_disallowed_speaker_transitions={a: [b, a], b: [b], c: [a, c]},
        speaker_transitions_type="disallowed",
    )
    return w.said(group.messages)


def group_no_successor_ends(w):
    a, b, c = members = [_member(w, name) for name in "abc"]
    group, *_ = _group(
        w,
        [],
        members=members,
        max_round=6,
        speaker_selection_method="round_robin",
        allowed_or_disallowed_speaker_transitions={a: [b], b: [c]},
        speaker_transitions_type="allowed",
    )
    return w.said(group.messages)


def group_an_empty_list_of_successors(w):
    a, b, c = members = [_member(w, name) for name in "abc"]
    group, *_ = _group(
        w,
        [],
        members=members,
        max_round=6,
        speaker_selection_method="round_robin",
        allowed_or_disallowed_speaker_transitions={a: [b], b: [c], c: []},
        speaker_transitions_type="allowed",
    )
    return w.said(group.messages)


def group_auto_with_transitions(w):
    a, b, c = members = [_member(w, name) for name in "abc"]
    group, *_ = _group(
        w,
        [],
        ["a", "a", "c"],
        members=members,
        max_round=4,
        allowed_or_disallowed_speaker_transitions={a: [b, c], b: [a], c: [a]},
        speaker_transitions_type="allowed",
    )
    return [w.said(group.messages), len(w.asked)]


def group_ends_by_the_managers_word(w):
    members = [_echo("a"), _echo("b", "Enough. TERMINATE"), _echo("c")]
    group, *_ = _group(
        w, [], members=members, speaker_selection_method="round_robin", manager={"is_termination_msg": _done}
    )
    return w.said(group.messages)


def group_ends_by_a_members_word(w):
    members = [_echo("a"), _echo("b", "Enough. TERMINATE"), _echo("c", is_termination_msg=_done)]
    group, *_ = _group(w, [], members=members, speaker_selection_method="round_robin")
    return w.said(group.messages)


def group_ends_by_a_human(w):
    w.types("", "exit")
    members = [_echo("a", human_input_mode="ALWAYS"), _echo("b")]
    group, *_ = _group(w, [], members=members, speaker_selection_method="round_robin")
    return w.said(group.messages)


def group_members_have_limits(w):
    members = [_member(w, "a"), _echo("b", max_consecutive_auto_reply=1), _member(w, "c")]
    group, *_ = _group(w, [], members=members, speaker_selection_method="round_robin")
    return w.said(group.messages)


def group_introductions(w):
    members = [
        _echo("a", description="Begins."),
        _echo("b", description="Goes on."),
        _echo("c", description="Ends."),
    ]
    group, chief, members, result = _group(
        w, [], members=members, max_round=3, speaker_selection_method="round_robin", send_introductions=True
    )
    return [w.said(group.messages), w.said(members[1].chat_messages[chief]), len(result.chat_history)]


def group_members_models_hear_all(w):
    members = [
        _echo("a"),
        AssistantAgent("b", llm_config=w.llm("one")),
        AssistantAgent("c", llm_config=w.llm("two")),
    ]
    _group(w, [], members=members, max_round=4, speaker_selection_method="round_robin")
    return [[m["role"], m["content"]] for m in w.asked[-1]["messages"][1:]]


def group_a_member_that_says_nothing(w):
    members = [_echo("a"), _echo("b", is_termination_msg=lambda m: True), _echo("c")]
    group, *_ = _group(w, [], members=members, speaker_selection_method="round_robin")
    return w.said(group.messages)


def group_reflection(w):
    members = [_echo("a"), _echo("b")]
    group = GroupChat(agents=members, messages=[], max_round=2, speaker_selection_method="round_robin")
    chief = GroupChatManager(group, llm_config=w.llm("The takeaway."))
    result = members[0].initiate_chat(chief, message="Begin", summary_method="reflection_with_llm")
    return [result.summary, len(w.asked)]


def group_begun_twice(w):
    members = [_member(w, name) for name in "ab"]
    group = GroupChat(agents=members, messages=[], max_round=2, speaker_selection_method="round_robin")
    chief = GroupChatManager(group, llm_config=False)
    members[0].initiate_chat(chief, message="First")
    members[0].initiate_chat(chief, message="Second", clear_history=False)
    kept = w.said(group.messages)
    members[0].initiate_chat(chief, message="Third")
    return [kept, w.said(group.messages)]


def group_in_a_nested_chat(w):
    user, front = _echo("user"), _echo("front")
    group = GroupChat(
        agents=[_echo("a"), _echo("b")], messages=[], max_round=3, speaker_selection_method="round_robin"
    )
    chief = GroupChatManager(group, llm_config=False)
    front.register_nested_chats([{"recipient": chief, "summary_method": "last_msg"}], trigger=user)
    return w.chat(user.initiate_chat(front, message="Task", max_turns=1))
