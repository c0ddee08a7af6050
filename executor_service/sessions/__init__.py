"""Sessions and runs: what a caller may ask of a sandbox, how it is recorded, and when it ends.

Backend-neutral and without HTTP: requests come in as frozen values (:mod:`.requests`), what happens
goes into numbered journals (:mod:`.journal`), and :mod:`.fold` turns a journal into the JSON bodies
of docs/api.md.
"""
