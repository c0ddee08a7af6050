"""What a container engine enforces, and by what: for `GET /v1/info` and the doctor. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from executor_service.sandboxes.docker_engine import About


def describe(about: About, runtime: str | None) -> Mapping[str, Mapping[str, str]]:
    """The answer of `DockerBackend.isolation`, as a function of the engine."""

    def aspect(by: str, enforced: str = "exact", detail: str | None = None) -> dict[str, str]:
        return {"by": by, "enforced": enforced} | ({"detail": detail} if detail else {})

    used = runtime or about.default_runtime
    modules = [name for name in about.security if name in {"apparmor", "selinux"}]
    remapped = {"userns", "rootless"} & {*about.security}
    return {
        "container": aspect(
            f"runtime {used}", detail=f"engine {about.version}, control groups version {about.cgroup_version}"
        ),
        "filesystem": aspect("read-only root of the image; tmpfs for the workspace, /tmp and /dev/shm"),
        "processes_seen": aspect("pid namespace"),
        "network": aspect("network namespace without a device but loopback"),
        "ipc": aspect("ipc and uts namespaces"),
        "users": aspect(
            "uid 1000" + (", in a user namespace of the engine's" if remapped else ""),
            detail=None if remapped else "the same host uid in every container",
        ),
        "system_calls": aspect(
            "seccomp allow-list, no_new_privs, no capabilities" + "".join(f", {name}" for name in modules)
        ),
        "memory": aspect("cgroup, swap included"),
        "processes": aspect("cgroup", detail="threads included; a few more for the guest"),
        "cpus": aspect("cgroup quota"),
        "cpu_time": aspect("RLIMIT_CPU a process, sum read every 100 ms", "sampled"),
        "wall_time": aspect("the guest's clock, then SIGKILL to the whole tree"),
        "disk": aspect("tmpfs size and inodes"),
        "output": aspect("counted in the guest"),
        "open_files": aspect("RLIMIT_NOFILE"),
    }
