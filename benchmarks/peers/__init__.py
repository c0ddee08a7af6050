"""Other ways to run code, driven the way their documentation drives them.

Each has pinned requirements (`NAME.txt`) and a script (`NAME.py`) that runs in an environment of its own,
which `benchmarks.peer_runs` makes and keeps. A script is given its counts as JSON and prints one JSON object
of lists of milliseconds: `start`, `print`, `pandas` (the first import of it, where state is kept), `stop`.
"""
