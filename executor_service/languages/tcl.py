"""Tcl."""

from __future__ import annotations

from executor_service.languages.base import Language

TCL = Language(
    name="tcl",
    aliases=("tclsh",),
    extensions=(".tcl",),
    run=("tclsh", "{source}"),
    needs=("tclsh",),
    smoke='package require Tcl\nputs "codecell [expr {40 + 2}]"\n',
    version_argv=("sh", "-c", "echo 'puts $tcl_patchLevel' | tclsh"),
)
