"""Docker images: how builds are named and what they are sent, and on a real engine what comes out."""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import docker
import engine
import pytest
from test_images import make_wheel

from executor_service import cli, docker_bootstrap, docker_build, docker_context, docker_images, images
from executor_service import image_check as inside
from executor_service.docker_steps import explained, told
from executor_service.errors import ImageNotFound
from executor_service.image_build import ImageBuildError

MARK = b"# codecell-test: no image may hold this line\n"
TAKE_FILES = {"Dockerfile": "FROM codecell/base\nCOPY greeting /usr/share/greeting\nRUN codecell-finish\n"}

MADE_BY_THE_ENGINE = {".dockerenv", "dev/console", "etc/hostname", "etc/hosts", "etc/mtab", "etc/resolv.conf"}

Known = dict[str, images.ImageDefinition]
Define = Callable[[str, dict[str, str]], images.ImageDefinition]


@pytest.fixture
def known() -> Known:
    """The project's definitions, to which a test may add."""
    return images.definitions([Path(__file__).parent.parent / "sandbox_images"])


@pytest.fixture
def define(tmp_path: Path, known: Known) -> Define:
    """Add a definition with these files."""

    def add(name: str, files: dict[str, str]) -> images.ImageDefinition:
        for path, text in {"image.toml": "", **files}.items():
            (tmp_path / name / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name / path).write_text(text)
        known[name] = images.read_definition(tmp_path / name)
        return known[name]

    return add


# --- names -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("FROM codecell/base\n", ["base"]),
        (
            "FROM codecell/base:latest AS build\nRUN x\nfrom --platform=a codecell/python\n",
            ["base", "python"],
        ),
        ("FROM codecell/base AS a\nFROM codecell/base\n", ["base"]),
        ("FROM debian:trixie-slim\n# FROM codecell/base\n", []),
        ("FROM codecell/base:0123\nFROM mine/codecell/base\nFROM codecell/base2x/y\n", []),
    ],
)
def test_parents_are_read_from_a_dockerfile(text: str, expected: list[str]) -> None:
    """Every image of ours that a stage stands on; one that is named by its build is left alone."""
    assert docker_images.parents(text) == expected


def test_a_build_stands_on_its_parents_exact_builds() -> None:
    """Nobody else's newer `latest` can slip in between."""
    text = "FROM codecell/base AS build\nFROM codecell/base:latest\nFROM codecell/other\n"
    pinned = docker_images.pinned(text, {"base": "codecell/base:12ab"})
    assert pinned == "FROM codecell/base:12ab AS build\nFROM codecell/base:12ab\nFROM codecell/other\n"


def test_each_stage_says_whose_build_it_is_a_part_of() -> None:
    """So that what a build leaves can be told from what another needs right now."""
    marked = docker_images.marked("ARG A=b\nFROM ${A} AS x\nRUN y\nFROM x\n", "mine")
    label = "LABEL codecell.stage=mine"
    assert marked == f"ARG A=b\nFROM ${{A}} AS x\n{label}\nRUN y\nFROM x\n{label}\n"


def test_a_key_is_of_what_goes_into_the_image(define: Define, known: Known, tmp_path: Path) -> None:
    """A file, its name, a parent's file: another key. What is said of the image, its place: the same."""
    child = define("child", {"Dockerfile": "FROM codecell/parent\n", "a": "1"})
    define("parent", {"Dockerfile": "FROM codecell/base\n"})
    first = docker_images.build_key(child, known)
    for path, text in (("image.toml", "description = 'x'"), ("README.md", "x"), (".hidden", "x")):
        (child.directory / path).write_text(text)
    os.utime(child.directory / "a", (1, 1))
    child.directory.rename(tmp_path / "elsewhere")
    (tmp_path / "elsewhere").rename(child.directory)
    assert docker_images.build_key(child, known) == first
    keys = {first}
    for path in ("child/a", "child/b", "child/Dockerfile", "parent/c"):
        with (tmp_path / path).open("a") as file:
            file.write("\n# more")
        keys.add(docker_images.build_key(child, known))
    assert len(keys) == 5


def test_an_image_on_itself_or_on_nothing_is_refused(define: Define, known: Known) -> None:
    """Both are said before anything is built."""
    one = define("one", {"Dockerfile": "FROM codecell/two\n"})
    with pytest.raises(images.ImageDefinitionError, match="no image 'two'"):
        docker_images.build_key(one, known)
    define("two", {"Dockerfile": "FROM codecell/one\n"})
    with pytest.raises(images.ImageDefinitionError, match="stands on itself"):
        docker_images.build_key(one, known)


def test_a_directory_of_requirements_alone_is_built_as_python_is(define: Define) -> None:
    """One file is enough for an image of one's own."""
    own = define("own", {"requirements.txt": "requests==2.34.2\n"})
    text = docker_images.dockerfile_of(own)
    assert "pip install -r" in text
    assert docker_images.parents(text) == ["base"]


def test_stale_builds_are_those_that_no_definition_asks_for(known: Known) -> None:
    """Of images that are not defined here, and of others' repositories, nothing is touched."""
    key = docker_images.build_key(known["base"], known)
    kept = [f"codecell/base:{key}", "codecell/base:latest", "codecell/theirs:0123", "mine/base:0123"]
    tags = [*kept, "codecell/base:0123", "codecell/base:unchecked-0123", "codecell/bootstrap:trixie-0123"]
    assert docker_images.stale_tags(tags, known) == ["codecell/base:0123", "codecell/base:unchecked-0123"]


@pytest.mark.parametrize("labels", [None, {}, {"codecell.meta": "no json"}, {"codecell.meta": "{}"}])
def test_an_image_that_is_not_of_our_making_is_refused(known: Known, labels: dict[str, str] | None) -> None:
    """`docker = "..."` may name anything; what has no label of ours gives a clear error."""
    with pytest.raises(docker_images.WrongImage, match="FROM one of Codecell's images"):
        docker_images.described(known["base"], "x:y", {"Id": "sha256:1", "Config": {"Labels": labels}})


def test_what_an_image_offers_is_its_definitions_word(known: Known) -> None:
    """A better description needs no build; Python's version is the image's own."""
    labels = {"codecell.meta": json.dumps({"python_version": "3.13.5", "languages": ["cobol"]})}
    found = docker_images.described(known["python"], "x:y", {"Id": "sha256:1", "Config": {"Labels": labels}})
    assert (found.python_version, found.fingerprint) == ("3.13.5", "sha256:1")
    assert found.languages == known["python"].docker_languages != known["python"].languages


def test_the_projects_images_agree_on_versions(known: Known) -> None:
    """A package that two images have is the same in both: a child may not replace its parent's."""
    pins: dict[str, set[str]] = {}
    for definition in known.values():
        for line in definition.requirements.read_text().splitlines():
            if line and not line.startswith("#"):
                name, _, version = line.partition("==")
                pins.setdefault(name.lower(), set()).add(version)
    assert {name: found for name, found in pins.items() if len(found) > 1 or "" in found} == {}


# --- what a build is sent --------------------------------------------------------------------


def context(bundle: bytes = b"authorities") -> docker_context.Context:
    """One that needs no host."""
    return docker_context.Context(ca_bundle=bundle, pip={})


def test_a_context_says_nothing_of_when_and_by_whom_it_was_made(define: Define) -> None:
    """The same files give the same bytes: the engine's cache knows them again."""
    own = define("own", {**TAKE_FILES, "greeting": "hello", "sub/script": "#!/bin/sh\n", "README.md": "x"})
    first = docker_context.archive(own.directory, "FROM x\n", context())
    os.utime(own.directory / "greeting", (1, 1))
    (own.directory / "sub/script").chmod(0o600)
    assert docker_context.archive(own.directory, "FROM x\n", context()) == first
    with tarfile.open(fileobj=io.BytesIO(first)) as archive:
        entries = {entry.name: (entry.mode, entry.uid, entry.mtime) for entry in archive}
    assert set(entries) == {
        ".codecell", ".codecell/ca.crt", ".codecell/image_hook.py", ".codecell/pip.conf", "Dockerfile",
        "greeting", "sub", "sub/script",
    }  # fmt: skip
    assert {uid for _, uid, _ in entries.values()} == {0}
    assert {time for _, _, time in entries.values()} == {docker_context.EPOCH}
    assert (entries["greeting"][0], entries["sub/script"][0]) == (0o644, 0o755)


def test_an_empty_bundle_counts_as_none(tmp_path: Path) -> None:
    """A compose file must mount something; the host's own bundle is taken then."""
    (tmp_path / "ca.crt").touch()
    given = docker_context.host_context(tmp_path / "ca.crt", {})
    assert given == docker_context.host_context(None, {})
    assert b"BEGIN CERTIFICATE" in given.ca_bundle
    (tmp_path / "ca.crt").write_text("mine")
    assert docker_context.host_context(tmp_path / "ca.crt", {}).ca_bundle == b"mine"


def test_pips_indexes_are_passed_on_unless_they_are_this_machines() -> None:
    """An index on the network means something inside a build; a directory here does not."""
    options = {"index-url": "https://a.invalid/simple", "extra-index-url": "file:///x https://b.invalid/s",
               "find-links": "/opt/wheels", "cert": "/etc/x"}  # fmt: skip
    passed = docker_context.pip_passed_on(options)
    assert passed == {"index-url": "https://a.invalid/simple", "extra-index-url": "https://b.invalid/s"}


def test_a_base_from_packages_is_named_by_what_it_is_made_of(tmp_path: Path) -> None:
    """The same options give the same name, wherever they lie; others another."""
    names = []
    for directory, text in (
        ("a", "path-exclude=/x\n"),
        ("b", "path-exclude=/x\n"),
        ("c", "path-exclude=/y\n"),
    ):
        (tmp_path / directory).mkdir()
        (tmp_path / directory / "options").write_text(text)
        names.append(docker_bootstrap.reference(tmp_path / directory / "options"))
    assert names[0] == names[1] != names[2]
    assert names[0].startswith("codecell/bootstrap:trixie-")


def test_without_mmdebstrap_the_error_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is one package away."""
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ImageBuildError, match="apt-get install mmdebstrap"):
        docker_bootstrap._make(tmp_path / "base.tar", tmp_path / "options")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("Step 3/9 : RUN apt-get  update\n", "3/9 RUN apt-get update"),
        ("Step 4/9 : LABEL codecell.stage=x\n", None),
        (" ---> Running in 0123\n", None),
        ("Installing collected packages: a, b\n", "installing 2 packages"),
    ],
)
def test_of_a_builds_output_its_steps_are_told(line: str, expected: str | None) -> None:
    """The rest is shown only where the build fails."""
    assert told(line) == expected


def test_where_no_registry_answers_the_error_names_the_way_around() -> None:
    """`--bootstrap` is what a machine without a registry needs; other errors stay as they are."""
    assert "--bootstrap" in explained("lookup some.invalid on 192.0.2.1:53: no such host")
    assert explained(" the command returned 1\n") == "the command returned 1"


def test_files_that_give_rights_are_found(tmp_path: Path) -> None:
    """A set-id bit on a file counts, a sticky directory does not."""
    (tmp_path / "fine").touch(0o755)
    (tmp_path / "sudo").touch()
    (tmp_path / "sudo").chmod(0o4755)
    (tmp_path / "d").mkdir()
    (tmp_path / "d").chmod(0o1777)
    assert inside.privileged(str(tmp_path)) == [str(tmp_path / "sudo")]
    assert inside.wrong_directory(str(tmp_path / "no"), 0, 0o700) == [f"{tmp_path / 'no'} is not there"]
    assert "mode 0700" in inside.wrong_directory(str(tmp_path / "d"), os.getuid(), 0o700)[0]


# --- on a real engine ------------------------------------------------------------------------


@pytest.fixture
def client(docker_image: docker_images.DockerImage) -> Iterator[docker.APIClient]:
    """The engine, which has the python image and so its base; what a test builds in it is removed."""
    with engine.client() as found:
        before = tags(found)
        yield found
        for tag in tags(found) - before:
            if tag.startswith("codecell/own"):
                found.remove_image(tag, force=True)


def tags(client: docker.APIClient) -> set[str]:
    """All names of images."""
    return {tag for image in client.images() for tag in image["RepoTags"] or ()}


def build(
    client: docker.APIClient, known: Known, name: str = "own", **more: object
) -> docker_images.DockerImage:
    """Build one, with the host's authorities and a line of ours among them."""
    authorities = docker_context.host_context(None, {}).ca_bundle
    network = os.environ.get("CODECELL_BUILD_NETWORK") or None
    options = docker_build.Options(context=context(authorities + MARK), network=network, **more)  # type: ignore[arg-type]
    return docker_build.build(client, known[name], known, options, print)


def output(client: docker.APIClient, reference: str, *argv: str, user: str = "1000") -> str:
    """What a command prints in a container without a network."""
    made = client.create_container(reference, list(argv), user=user, network_disabled=True)
    try:
        client.start(made)
        client.wait(made)
        return str(client.logs(made).decode())
    finally:
        client.remove_container(made, force=True)


@pytest.mark.docker
def test_the_image_has_what_sandboxes_need(
    client: docker.APIClient, docker_image: docker_images.DockerImage
) -> None:
    """Users, directories, no file that gives rights, and the environment's Python first."""
    check = Path(inside.__file__).read_text()
    said = json.loads(output(client, docker_image.reference, "python3", "-Ic", check, user="0"))
    assert said == {"python_version": docker_image.python_version, "problems": []}
    ask = "import sys, numpy, pandas; print(sys.prefix, sys.path[-1])"
    site = f"/workspace/.local/lib/python{docker_image.python_version.rpartition('.')[0]}/site-packages"
    assert output(client, docker_image.reference, "python", "-c", ask) == f"/opt/codecell/env {site}\n"


@pytest.mark.docker
def test_no_image_holds_a_trace_of_the_hosts_certificate_authorities(
    client: docker.APIClient, define: Define, known: Known
) -> None:
    """Neither history nor any layer has a line of the bundle; the stages that had it are gone."""
    define("own", {"requirements.txt": "six==1.17.0\n"})
    image = build(client, known)
    assert "six" in output(client, image.reference, "pip", "list")
    assert MARK.decode().strip() not in json.dumps(client.history(image.reference))
    tail = b""
    for chunk in client.get_image(image.reference):
        assert MARK not in tail + chunk
        tail = chunk[-len(MARK) :]
    assert client.images(filters={"dangling": True, "label": "codecell.stage=own"}) == []


@pytest.mark.docker
def test_what_is_built_is_not_built_again(
    client: docker.APIClient, define: Define, known: Known, capsys: pytest.CaptureFixture[str]
) -> None:
    """A second build says nothing and gives the same; it is found by what it was made of."""
    own = define("own", {**TAKE_FILES, "greeting": "hello"})
    with pytest.raises(ImageNotFound, match="images build own --backend docker"):
        docker_images.find_image(client, own, known)
    image = build(client, known)
    capsys.readouterr()
    assert build(client, known) == image == docker_images.find_image(client, own, known)
    assert capsys.readouterr().out == ""
    assert output(client, image.reference, "cat", "/usr/share/greeting") == "hello"
    (own.directory / "greeting").write_text("changed")
    with pytest.raises(ImageNotFound):
        docker_images.find_image(client, own, known)


def exported(client: docker.APIClient, reference: str) -> dict[str, tuple[object, ...]]:
    """Every file and link of an image: its mode, owner, time and content."""
    made = client.create_container(reference, ["true"], network_disabled=True)
    found: dict[str, tuple[object, ...]] = {}
    with tempfile.TemporaryFile() as held:
        for chunk in client.export(made):
            held.write(chunk)
        client.remove_container(made, force=True)
        held.seek(0)
        with tarfile.open(fileobj=held) as archive:
            for entry in archive:
                content = archive.extractfile(entry) if entry.isfile() else None
                told = hashlib.sha256(content.read()).hexdigest() if content else entry.linkname
                time = None if entry.isdir() else entry.mtime
                found[entry.name] = (entry.type, entry.mode, entry.uid, entry.gid, time, told)
    return {name: each for name, each in found.items() if name not in MADE_BY_THE_ENGINE}


@pytest.mark.docker
def test_the_same_files_give_the_same_image(client: docker.APIClient, define: Define, known: Known) -> None:
    """Built twice without any cache: contents, owners, modes and times; of directories not the times."""
    define("own", {"requirements.txt": "six==1.17.0\n"})
    first, second = (exported(client, build(client, known, rebuild=True).reference) for _ in range(2))
    assert {name: (each, second.get(name)) for name, each in first.items() if second.get(name) != each} == {}
    assert second.keys() == first.keys()


@pytest.mark.docker
def test_an_image_of_ones_own_may_add_packages_and_is_labelled(
    client: docker.APIClient, define: Define, known: Known, tmp_path: Path
) -> None:
    """`FROM codecell/base` and pip: its packages are the environment's, pinned and compiled."""
    text = "FROM codecell/base\nCOPY *.whl /tmp/\nRUN pip install --no-deps /tmp/*.whl && codecell-finish\n"
    own = define("own", {"Dockerfile": text, "image.toml": 'description = "a $5 \\"thing\\""\n'})
    make_wheel(own.directory, "ccown", "1.0")
    image = build(client, known)
    script = "import ccown as c, os; print(c.__cached__, os.path.exists(c.__cached__), os.listdir('/tmp'))"
    cached = "/opt/codecell/env/lib/python3.13/site-packages/__pycache__/ccown.cpython-313.pyc"
    assert output(client, image.reference, "python", "-c", script) == f"{cached} True []\n"
    assert "ccown==1.0" in output(
        client, image.reference, "cat", "/opt/codecell/env/share/codecell/constraints.txt"
    )
    labels = client.inspect_image(image.reference)["Config"]["Labels"]
    assert labels["codecell.image"] == "own"
    assert json.loads(labels["codecell.meta"])["description"] == 'a $5 "thing"'


@pytest.mark.docker
def test_an_image_with_a_program_that_gains_rights_does_not_count(
    client: docker.APIClient, define: Define, known: Known
) -> None:
    """The build fails, names the file, and leaves nothing that could pass for the image."""
    own = define("own", {"Dockerfile": "FROM codecell/base\nRUN chmod u+s /usr/bin/python3.13\n"})
    with pytest.raises(ImageBuildError, match=r"/usr/bin/python3\.13 has a setuid"):
        build(client, known)
    assert not {tag for tag in tags(client) if tag.startswith("codecell/own")}
    (own.directory / "Dockerfile").write_text(
        "FROM codecell/base\nRUN chmod u+s /usr/bin/python3.13 && codecell-finish\n"
    )
    build(client, known)


@pytest.mark.docker
def test_a_failed_build_says_why(client: docker.APIClient, define: Define, known: Known) -> None:
    """The error holds what the step said."""
    define("own", {"Dockerfile": "FROM codecell/base\nRUN echo the reason; exit 3\n"})
    with pytest.raises(ImageBuildError, match=r"(?s)image own: .*returned a non-zero code: 3.*the reason"):
        build(client, known)


@pytest.mark.docker
def test_pruning_removes_what_no_definition_asks_for(
    client: docker.APIClient, define: Define, known: Known
) -> None:
    """A build of yesterday's files goes, today's stays."""
    own = define("own", {**TAKE_FILES, "greeting": "one"})
    old = build(client, known)
    (own.directory / "greeting").write_text("two")
    new = build(client, known)
    assert docker_build.prune(client, {"own": own, "base": known["base"]})[-1:] == [old.reference]
    assert new.reference in tags(client)
    assert old.reference not in tags(client)


@pytest.mark.docker
def test_the_command_builds_and_lists(
    client: docker.APIClient, define: Define, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """`images build` prints references alone; `images list` says which backend has what."""
    define("own", {**TAKE_FILES, "greeting": "hello"})
    monkeypatch.setenv("CODECELL_IMAGES_PATH", str(tmp_path))
    assert cli.main(["images", "build", "own", "--backend", "docker"]) == 0
    reference = capsys.readouterr().out.strip()
    assert reference.startswith("codecell/own:")
    assert cli.main(["images", "list"]) == 0
    assert f"own\tdocker {reference}\n" in capsys.readouterr().out


def test_an_engine_that_does_not_answer_is_a_clear_error() -> None:
    """Asked for Docker, nothing else is built in its place."""
    # A process of its own: the package leaks a socket where it cannot connect.
    argv = [sys.executable, "-m", "executor_service", "images", "build", "python", "--backend", "docker"]
    argv += ["--docker-host", "unix:///no/such/docker.sock"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    said = "no container engine answers at unix:///no/such/docker.sock: No such file or directory; start it, "
    assert said in done.stderr


@pytest.mark.docker
@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_polyglot_takes_one_gigabyte_at_most(client: docker.APIClient) -> None:
    """All its layers together; what it stands on is counted too."""
    size = client.inspect_image(engine.image("polyglot").reference)["Size"]
    print(f"polyglot: {size / 1e6:.0f} MB")
    assert size <= 1e9
