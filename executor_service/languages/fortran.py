"""Fortran, by GNU Fortran."""

from __future__ import annotations

from executor_service.languages.base import Language

_SMOKE = """\
program smoke
  implicit none
  integer :: values(2) = [40, 2]
  print '(a, 1x, i0)', 'codecell', sum(values)
end program smoke
"""

FORTRAN = Language(
    name="fortran",
    aliases=("f90", "f95", "gfortran"),
    extensions=(".f90", ".f95", ".f03", ".f08", ".f", ".for"),
    compile=("gfortran", "-O2", "-J/tmp", "-o", "{binary}", "{source}"),
    run=("{binary}",),
    needs=("gfortran",),
    smoke=_SMOKE,
    version_argv=("gfortran", "-dumpfullversion"),
)
