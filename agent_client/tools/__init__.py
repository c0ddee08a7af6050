"""Tools: what a model may call, typed from Python functions, and running code as a tool."""

from __future__ import annotations
