"""x86-64 assembly by NASM, linked without a C library: the program starts at `_start`."""

from __future__ import annotations

from executor_service.languages.base import Language

_BUILD = 'nasm -f elf64 -o "$2.o" "$1" && ld -o "$2" "$2.o"'
_SMOKE = """\
section .data
text: db "codecell 42", 10
section .text
global _start
_start:
    mov rax, 1
    mov rdi, 1
    mov rsi, text
    mov rdx, 12
    syscall
    mov rax, 60
    xor rdi, rdi
    syscall
"""

ASSEMBLY = Language(
    name="assembly",
    aliases=("asm", "nasm"),
    extensions=(".asm", ".nasm"),
    compile=("sh", "-c", _BUILD, "sh", "{source}", "{binary}"),
    run=("{binary}",),
    needs=("nasm", "ld"),
    smoke=_SMOKE,
    version_argv=("nasm", "-v"),
)
