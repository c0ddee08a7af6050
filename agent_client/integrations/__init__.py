"""Codecell inside other agent frameworks: one file each, imported only by who uses that framework."""
