"""How fast it is, beside the same thing without us, in one run: ``python -m benchmarks``.

Quote ratios: absolute times are those of one machine. docs/performance.md has a table and how it was made.
"""
