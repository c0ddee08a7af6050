"""Codecell inside other agent frameworks: one file each, imported only by who uses that framework."""

from __future__ import annotations
