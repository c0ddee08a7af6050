"""Rust, by rustc alone: the standard library and no crates."""

from __future__ import annotations

from executor_service.languages.base import Language

RUST = Language(
    name="rust",
    aliases=("rs",),
    extensions=(".rs",),
    compile=("rustc", "--edition", "2021", "-O", "-o", "{binary}", "{source}"),
    run=("{binary}",),
    needs=("rustc", "cc"),
    smoke='fn main() {\n    println!("codecell {}", (1..=6).sum::<i32>() * 2);\n}\n',
    version_argv=("rustc", "--version"),
    limits={"memory_bytes": 1 << 30},
)
