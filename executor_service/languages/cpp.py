"""C++, by G++."""

from __future__ import annotations

from executor_service.languages.base import Language

_SMOKE = """\
#include <iostream>
#include <vector>
int main() {
    std::vector<int> v{40, 2};
    int sum = 0;
    for (int i : v) sum += i;
    std::cout << "codecell " << sum << std::endl;
}
"""

CPP = Language(
    name="cpp",
    aliases=("c++", "cxx", "cplusplus"),
    extensions=(".cpp", ".cc", ".cxx", ".c++"),
    compile=("g++", "-std=gnu++20", "-O2", "-o", "{binary}", "{source}", "-pthread"),
    run=("{binary}",),
    needs=("g++",),
    smoke=_SMOKE,
    version_argv=("g++", "-dumpfullversion"),
)
