"""OCaml, compiled to native code; `str` and `unix` are linked."""

from __future__ import annotations

from executor_service.languages.base import Language

# Its objects go where the source lies, which must stay the caller's: a copy is compiled.
_BUILD = (
    'mkdir -p "$2.d" && cp "$1" "$2.d/main.ml" && cd "$2.d"'
    ' && ocamlopt -I +unix -I +str -o "$2" unix.cmxa str.cmxa main.ml'
)

OCAML = Language(
    name="ocaml",
    aliases=("ml",),
    extensions=(".ml",),
    compile=("sh", "-c", _BUILD, "sh", "{source}", "{binary}"),
    run=("{binary}",),
    needs=("ocamlopt",),
    smoke='let () = Printf.printf "codecell %d\\n" (List.fold_left ( + ) 0 [40; 2])\n',
    version_argv=("ocamlopt", "-version"),
)
