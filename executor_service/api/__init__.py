"""HTTP at the wire: docs/api.md as routes, nothing more.

Requests become the frozen values of :mod:`executor_service.sessions.requests`, operations become
folded JSON or server-sent events, errors become problem+json. What anything *means* is decided in
the rooms below.
"""
