"""The only code that runs inside a sandbox on our behalf; it imports nothing of the service.

Standard library only, Python 3.11 or later, run with ``-I`` from a read-only path.
"""
