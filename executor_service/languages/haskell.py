"""Haskell, by GHC and its base libraries."""

from __future__ import annotations

from executor_service.languages.base import Language

HASKELL = Language(
    name="haskell",
    aliases=("hs", "ghc"),
    extensions=(".hs",),
    compile=("ghc", "-O", "-v0", "-outputdir", "/tmp/ghc", "-o", "{binary}", "{source}"),
    run=("{binary}",),
    needs=("ghc",),
    smoke='main :: IO ()\nmain = putStrLn ("codecell " ++ show (foldr (+) 0 [40, 2 :: Int]))\n',
    version_argv=("ghc", "--numeric-version"),
    limits={"compile_time": 60, "memory_bytes": 1 << 30},
)
