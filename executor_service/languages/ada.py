"""Ada, by GNAT; the main procedure is called Main."""

from __future__ import annotations

from executor_service.languages.base import Language

_BUILD = 'gnatmake -q -O2 -D /tmp -o "$2" "$1"'
_SMOKE = """\
with Ada.Text_IO;
procedure Main is
   Sum : constant Integer := 40 + 2;
begin
   Ada.Text_IO.Put_Line ("codecell" & Integer'Image (Sum));
end Main;
"""

ADA = Language(
    name="ada",
    aliases=("gnat",),
    extensions=(".adb",),
    compile=("sh", "-c", _BUILD, "sh", "{source}", "{binary}"),
    run=("{binary}",),
    needs=("gnatmake",),
    smoke=_SMOKE,
    version_argv=("gnatmake", "--version"),
)
