from __future__ import annotations

import base64
import hashlib
import os
import shutil
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from executor_service import cli, image_build, image_elf, image_hook, images, languages
from executor_service.errors import ImageNotFound

BINDS = ("usr", "bin", "sbin", "lib", "lib64", "etc/ld.so.cache", "etc/alternatives", "dev")


def make_wheel(directory: Path, name: str, version: str) -> Path:
    """A wheel with one module, a requirement that is there, and a script."""
    info = f"{name}-{version}.dist-info"
    files = {
        f"{name}.py": f"VERSION = {version!r}\ndef main():\n    print('script', VERSION)\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\nRequires-Dist: pip\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": f"[console_scripts]\n{name}-script = {name}:main\n",
    }
    record = f"{info}/RECORD,,\n"
    for path, text in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
        record += f"{path},sha256={digest},{len(text)}\n"
    wheel = directory / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for path, text in {**files, f"{info}/RECORD": record}.items():
            archive.writestr(path, text)
    return wheel


def pip_wheel() -> Path:
    """The pip that comes with the interpreter: no test needs a network."""
    base = Path(sys.base_prefix)
    libraries = base / "lib" / images.this_interpreter().tag / "ensurepip" / "_bundled"
    for directory in (libraries, base / "share" / "python-wheels"):
        for wheel in directory.glob("pip-*.whl"):
            return wheel
    pytest.skip("this interpreter has no bundled pip")


def define(
    directory: Path, requirements: str, toml: str = 'description = "Tiny"\n'
) -> images.ImageDefinition:
    """A definition on disk."""
    directory.mkdir(parents=True)
    (directory / "image.toml").write_text(toml)
    (directory / "requirements.txt").write_text(requirements)
    return images.read_definition(directory)


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    """A directory in a short path that every user may read."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PIP_NO_INDEX", "1")
        # Not below /tmp: a sandbox has a /tmp of its own.
        root = Path("/var/tmp" if os.access("/var/tmp", os.W_OK) else "/tmp")
        directory = root / f"codecell-test-images-{os.getpid()}"
        directory.mkdir()
        yield directory
        shutil.rmtree(directory)


@pytest.fixture(scope="module")
def tiny(place: Path) -> images.ImageDefinition:
    """An image of pip and one package of ours."""
    wheel = make_wheel(place, "ccimage", "1.0")
    return define(place / "definitions" / "tiny", f"{pip_wheel()}\n{wheel}\n", 'preload = ["json"]\n')


@pytest.fixture(scope="module")
def built(place: Path, tiny: images.ImageDefinition) -> images.BuiltImage:
    """That image, built by two at once."""
    said: list[str] = []
    made: list[images.BuiltImage] = []

    def build() -> None:
        made.append(image_build.build(tiny, directory=place / "cache", progress=said.append))

    threads = [threading.Thread(target=build) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert made[0] == made[1]
    assert len([line for line in said if "building in" in line]) == 1, said
    return made[0]


def test_the_projects_image_is_defined_with_every_version_pinned() -> None:
    """`python` has the packages that it promises, each with one exact version."""
    python = images.definitions()["python"]
    lines = [line for line in python.requirements.read_text().splitlines() if line and line[0] != "#"]
    assert all(line.count("==") == 1 for line in lines)
    names = {line.split("==")[0] for line in lines}
    promised = (
        "numpy pandas scipy matplotlib scikit-learn sympy pillow requests openpyxl seaborn plotly polars"
    )
    assert {"ipykernel", "pip", *promised.split()} <= names
    assert python.preload[:2] == ("numpy", "pandas")
    assert python.languages == tuple(each.name for each in languages.ALL)


@pytest.mark.parametrize(
    ("name", "toml", "problem"),
    [
        ("tiny", "descriptio = 'x'", "unknown: descriptio"),
        ("tiny", "preload = 'numpy'", "preload is a list of names"),
        ("tiny", "preload = [", "image.toml"),
        ("tiny", "[limits]\nmemory_bytes = 'much'", "table of numbers"),
        ("Tiny Image", "", "an image's name is"),
    ],
)
def test_a_malformed_definition_is_refused_with_its_file_named(
    tmp_path: Path, name: str, toml: str, problem: str
) -> None:
    """Each mistake in image.toml has its own message."""
    with pytest.raises(images.ImageDefinitionError, match=problem) as caught:
        define(tmp_path / name, "", toml)
    assert name in str(caught.value)


def test_an_image_that_names_no_language_has_two(tmp_path: Path) -> None:
    """Python and bash, in Docker too; an empty list is another thing, and `docker_languages` stands alone."""
    usual = ("python", "bash")
    plain = define(tmp_path / "plain", "", "")
    assert (plain.languages, plain.docker_languages) == (usual, usual)
    assert define(tmp_path / "none", "", "languages = []").docker_languages == ()
    own = define(tmp_path / "own", "", 'docker_languages = ["perl"]')
    assert (own.languages, own.docker_languages) == (usual, ("perl",))


def test_a_directory_that_is_nearly_an_image_is_told_what_it_lacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its image.toml; and that a directory of images is not there is told once."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/requirements.txt").touch()
    monkeypatch.setenv("CODECELL_IMAGES_PATH", f"{tmp_path}{os.pathsep}{tmp_path}/gone")
    assert cli.main(["images", "build", "mine", "--backend", "local"]) == 2
    assert cli.main(["images", "build", "other", "--backend", "local"]) == 2
    warning, mine, other = capsys.readouterr().err.splitlines()
    assert warning.endswith(f"CODECELL_IMAGES_PATH: there is no directory {tmp_path}/gone")
    assert mine.endswith(f"; {tmp_path}/mine has no image.toml (an empty one will do)")
    assert "there is no image 'other'; there are " in other


def test_definitions_of_the_operator_come_first(tmp_path: Path) -> None:
    """CODECELL_IMAGES_PATH is searched before the project's own images."""
    define(tmp_path / "python", "", 'description = "Mine"')
    directories = images.definition_directories({"CODECELL_IMAGES_PATH": str(tmp_path)})
    assert images.definitions(directories)["python"].description == "Mine"


def test_an_image_without_requirements_is_refused(tmp_path: Path) -> None:
    """A directory with image.toml alone is no definition."""
    (tmp_path / "image.toml").touch()
    with pytest.raises(images.ImageDefinitionError, match="no such file"):
        images.read_definition(tmp_path)


def test_builds_go_where_the_user_may_write_and_the_service_may_read() -> None:
    """The variable wins; root builds for all; anybody else in their own cache."""
    assert images.cache_dir({"CODECELL_IMAGE_DIR": "/x"}) == Path("/x")
    assert images.search_path({"CODECELL_IMAGE_DIR": "/x"}) == [Path("/x")]
    if os.geteuid() == 0:
        assert images.cache_dir({"HOME": "/root"}) == images.SYSTEM_CACHE
    else:
        assert images.cache_dir({"HOME": "/h"}) == Path("/h/.cache/codecell/images")
        assert images.cache_dir({"XDG_CACHE_HOME": "/c"}) == Path("/c/codecell/images")
        assert images.search_path({"HOME": "/h"})[-1] == images.SYSTEM_CACHE


def test_an_image_that_is_not_built_names_the_command_that_builds_it(
    tmp_path: Path, tiny: images.ImageDefinition
) -> None:
    """ImageNotFound says what to do."""
    with pytest.raises(ImageNotFound, match="codecell-executor images build tiny"):
        images.find_built(tiny, [tmp_path])


def test_a_built_image_is_found_and_not_built_again(
    built: images.BuiltImage, tiny: images.ImageDefinition
) -> None:
    """A second build says nothing and gives the same."""
    said: list[str] = []
    cache = built.directory.parent
    assert images.find_built(tiny, [cache]) == built
    assert image_build.build(tiny, directory=cache, progress=said.append) == built
    assert said == []
    assert built.preload == ("json",)


def test_another_requirement_is_another_build(built: images.BuiltImage, tiny: images.ImageDefinition) -> None:
    """The key depends on the requirements and on the interpreter."""
    interpreter = images.this_interpreter()
    key = images.build_key(tiny, interpreter)
    assert built.directory.name == f"tiny-{key}"
    other = images.Interpreter(
        executable=interpreter.executable, version="3.11.999", base_prefix=interpreter.base_prefix
    )
    assert images.build_key(tiny, other) != key


def test_nothing_in_the_image_names_a_place_of_the_host(built: images.BuiltImage) -> None:
    """Scripts, links, configuration and compiled modules name the paths that a sandbox sees."""
    host = str(built.directory).encode()
    named = []
    for path in built.env_dir.rglob("*"):
        if path.is_symlink():
            if host in os.readlink(path).encode():
                named.append(path)
        elif path.is_file() and host in path.read_bytes():
            named.append(path)
    assert named == []
    script = (built.env_dir / "bin" / "ccimage-script").read_text()
    assert script.startswith("#!/opt/codecell/env/bin/python")


def test_the_packages_run_on_the_host_for_benchmarks(built: images.BuiltImage) -> None:
    """host_command starts the real interpreter with the image's packages."""
    argv, env = images.host_command(built)
    ask = "import ccimage, sys; print(ccimage.VERSION, sys.base_prefix)"
    done = subprocess.run([*argv, "-c", ask], env=env, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1.0", sys.base_prefix]


def test_a_failed_build_says_why_and_leaves_nothing(place: Path, tmp_path: Path) -> None:
    """The error holds pip's own words; no directory stays that could pass for an image."""
    broken = define(tmp_path / "broken", "no-such-package-of-codecell==1\n")
    with pytest.raises(image_build.ImageBuildError, match="no-such-package-of-codecell"):
        image_build.build(broken, directory=tmp_path / "cache")
    assert list((tmp_path / "cache").glob("broken*")) == []


def test_a_cache_that_cannot_be_written_is_a_clear_error(
    tmp_path: Path, tiny: images.ImageDefinition
) -> None:
    """A file where the directory should be is named."""
    (tmp_path / "cache").touch()
    with pytest.raises(image_build.ImageBuildError, match=r"image tiny: .*cache"):
        image_build.build(tiny, directory=tmp_path / "cache")


def test_what_an_interrupted_build_left_does_not_count(place: Path, tmp_path: Path) -> None:
    """Without its marker a directory is no image, and the next build replaces it."""
    empty = define(tmp_path / "empty", "")
    left = tmp_path / "cache" / f"empty-{images.build_key(empty, images.this_interpreter())}"
    (left / "env" / "half").mkdir(parents=True)
    with pytest.raises(ImageNotFound):
        images.find_built(empty, [left.parent])
    image = image_build.build(empty, directory=left.parent)
    assert image.directory == left
    assert not (left / "env" / "half").exists()


def test_an_image_whose_interpreter_is_gone_does_not_count(
    built: images.BuiltImage, tiny: images.ImageDefinition, tmp_path: Path
) -> None:
    """An upgrade of the system must not leave a service with an image that cannot start."""
    copy = tmp_path / built.directory.name
    copy.mkdir()
    marker = (built.directory / images.MARKER).read_text()
    (copy / images.MARKER).write_text(marker.replace(str(built.base_python), "/gone/python"))
    assert images.read_built(copy, tiny) is None


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("  Downloading https://x.invalid/a/b/numpy-2.whl (16.9 MB)\n", "downloading numpy-2.whl (16.9 MB)"),
        ("Downloading numpy-2.whl.metadata (6.6 kB)\n", None),
        ("Installing collected packages: a, b, c\n", "installing 3 packages"),
        ("Requirement already satisfied: a\n", None),
    ],
)
def test_progress_names_no_registry(line: str, told: str | None) -> None:
    """Of pip's output only milestones are told, files without their addresses."""
    assert image_build.milestone(line) == told


def test_interpreters_are_described_through_environments() -> None:
    """The environment that runs the tests leads to the same base as this process."""
    assert image_build.describe_interpreter(sys.executable) == images.this_interpreter()


def test_what_is_no_interpreter_is_refused() -> None:
    """Another program gives a clear error."""
    with pytest.raises(image_build.ImageBuildError, match=r"no Python 3\.11 or later"):
        image_build.describe_interpreter(shutil.which("true") or "true")


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("python -m pip install x", True),
        ("python -mpip install x", True),
        ("python -Im pip install x", True),
        ("python -X utf8 -W ignore -m pip list", True),
        ("/opt/codecell/env/bin/python /opt/codecell/env/bin/pip install x", True),
        ("python bin/pip3.11 list", True),
        ("python -m pipx run pip", False),
        ("python main.py -m pip", False),
        ("python -c pip", False),
        ("python -cm pip", False),
        ("python", False),
        ("python -m venv x", False),
    ],
)
def test_pip_is_recognised_by_its_command_line(command: str, expected: bool) -> None:
    """Only a process that is pip itself changes its prefix."""
    assert image_hook.runs_pip(command.split()) is expected


def test_a_run_path_is_read_and_replaced() -> None:
    """The changed program has the new run path, and the same length."""
    program = images.this_interpreter().executable.read_bytes()
    path = image_elf.run_path(program)
    if path is None:
        with pytest.raises(ValueError, match="no run path"):
            image_elf.with_run_path(program, "$ORIGIN")
        return
    changed = image_elf.with_run_path(program, "$ORIGIN")
    assert image_elf.run_path(changed) == "$ORIGIN"
    assert len(changed) == len(program)
    with pytest.raises(ValueError, match="longer"):
        image_elf.with_run_path(program, "x" * (len(path) + 1))


def test_what_is_no_program_has_no_run_path() -> None:
    """A script is not mistaken for an ELF file."""
    assert image_elf.run_path(b"#!/bin/sh\n") is None


Inside = Callable[[str], str]


@pytest.fixture
def inside(built: images.BuiltImage, tmp_path: Path) -> Inside:
    """Run a shell script where an image's paths are what a sandbox makes them, isolated from nothing."""
    root = tmp_path / "root"
    for name in ("opt/codecell/env", "opt/codecell/base", "workspace", "tmp", "proc", "etc", "dev"):
        (root / name).mkdir(parents=True)
    lines = [f"mount -t tmpfs none {root / 'workspace'}", f"mount -t tmpfs none {root / 'tmp'}"]
    for name in BINDS:
        source = Path("/", name)
        if source.is_symlink():
            (root / name).symlink_to(os.readlink(source))
        elif source.exists():
            (root / name).touch() if source.is_file() else (root / name).mkdir(exist_ok=True)
            lines.append(f"mount --rbind {source} {root / name}")
    lines.append(f"mount --rbind /proc {root / 'proc'}")
    lines.append(f"mount --bind {built.env_dir} {root}/opt/codecell/env")
    lines.append(f"mount -o remount,bind,ro {root}/opt/codecell/env")
    lines.append(f"mount --bind {built.base_prefix} {root}/opt/codecell/base")
    for version in ("2.0", "3.0"):
        wheel = make_wheel(tmp_path, "ccsite", version)
        lines.append(f"cp {wheel} {root}/workspace")
    lines.append(f"cp {make_wheel(tmp_path, 'ccimage', '9.0')} {root}/workspace")
    env = {**images.SITE_ENV, **images.OFFLINE_ENV, "PATH": images.SANDBOX_PATH, "HOME": "/workspace"}
    assignments = " ".join(f"{key}={value}" for key, value in env.items())
    lines.append(f'exec chroot {root} /usr/bin/env -i {assignments} bash -c "cd /workspace; $1"')

    def run(script: str) -> str:
        # chroot lies where an ordinary user's PATH does not lead.
        env = {**os.environ, "PATH": "/usr/bin:/bin:/usr/sbin:/sbin"}
        argv = ["unshare", "-Urm", "bash", "-ec", "\n".join(lines), "bash", script]
        done = subprocess.run(argv, env=env, capture_output=True, text=True, check=False)
        if "unshare failed" in done.stderr:
            pytest.skip(f"this host refuses namespaces: {done.stderr.strip()}")
        return done.stdout + done.stderr

    return run


def test_the_image_works_where_a_sandbox_sees_it(inside: Inside) -> None:
    """Its interpreter starts there without any environment, and its scripts find it."""
    ask = "import ccimage, sys; print(ccimage.__file__, sys.prefix, sys.executable)"
    seen = inside(f"env -i /opt/codecell/env/bin/python -c '{ask}'; ccimage-script")
    env = images.ENV_PATH
    site = f"{env}/lib/{images.this_interpreter().tag}/site-packages"
    assert seen == f"{site}/ccimage.py {env} {env}/bin/python\nscript 1.0\n"


def test_what_pip_installs_is_seen_at_once_and_replaced_by_another_version(inside: Inside) -> None:
    """A running process imports it, its script is on PATH, a later version takes its place."""
    script = """
import subprocess, os
try:
    import ccsite
except ImportError:
    print("absent")
def pip(*words):
    done = subprocess.run(["pip", *words], capture_output=True, text=True)
    print(done.returncode, done.stderr)
pip("install", "./ccsite-2.0-py3-none-any.whl")
import ccsite
print(ccsite.__file__)
print(subprocess.run(["ccsite-script"], capture_output=True, text=True).stdout)
pip("install", "--user", "./ccsite-3.0-py3-none-any.whl")
print(subprocess.run(["ccsite-script"], capture_output=True, text=True).stdout)
print(sorted(name for name in os.listdir(os.path.dirname(ccsite.__file__)) if name.endswith("info")))
pip("uninstall", "-y", "ccsite")
print(os.path.exists(ccsite.__file__))
"""
    seen = inside(f"python - <<'END'\n{script}\nEND")
    site = f"{images.SITE_PREFIX}/lib/{images.this_interpreter().tag}/site-packages"
    assert [line for line in seen.splitlines() if line] == [
        "absent",
        "0 ",
        f"{site}/ccsite.py",
        "script 2.0",
        "0 ",
        "script 3.0",
        "['ccsite-3.0.dist-info']",
        "0 ",
        "False",
    ]


def test_another_version_of_an_images_package_is_refused_by_pip(inside: Inside) -> None:
    """It would be installed behind the image's and never be imported; pip says that it conflicts."""
    seen = inside("pip install ./ccimage-9.0-py3-none-any.whl || echo refused; ccimage-script")
    assert "ccimage==1.0" in seen
    assert "refused\nscript 1.0\n" in seen
