"""The executor service from Python: a run, a session with state, streamed output, files."""

from __future__ import annotations

from agent_client import ExecutorClient

with ExecutorClient() as client:
    result = client.run("print(sum(range(10)))")
    print(result.outcome, result.stdout)

    with client.create_session() as session:
        session.files.write("data.csv", "a,b\n1,2\n3,4\n")
        session.execute("import pandas as pd; table = pd.read_csv('data.csv')")
        print(session.execute("table.sum()").text)
        for event in session.stream("import time\nfor i in range(3): print(i, flush=True); time.sleep(0.2)"):
            print(event)
        print(session.command("wc -l data.csv").stdout)
