"""What a process gives up before it runs foreign code: memory, file size, new processes, the network, other folders.

Only Python's standard library is imported, and the file runs on its own inside a sandbox that shows no more of LeMa:
``python -I -S confine.py JSON PROGRAM ...`` confines itself and becomes the program. All of it is Linux's and needs no
rights: resource limits, ``no_new_privs``, a seccomp filter on x86-64 and arm64, Landlock from kernel 5.13 on. Each
function says whether the kernel did it.
"""

import contextlib
import ctypes
import json
import os
import platform
import resource
import shutil
import struct
import sys
from collections.abc import Sequence

_PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS, _FILTER = 22, 38, 2
_ALLOW, _ERRNO, _KILL = 0x7FFF0000, 0x00050000, 0x80000000
_EPERM, _ENOSYS = 1, 38
_CLONE_THREAD = 0x00010000
_LOAD, _EQUAL, _AT_LEAST, _HAS_BITS, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
"""Classic BPF: load a word, the jumps, and return (linux/bpf_common.h)."""
_X32 = 0x40000000

# Numbers of system calls (linux/unistd.h of each architecture).
_CALLS = {
    "x86_64": (0xC000003E, {
        "clone": 56, "fork": 57, "vfork": 58, "clone3": 435, "socket": 41, "kill": 62, "tkill": 200, "ptrace": 101,
        "process_vm_readv": 310, "process_vm_writev": 311, "io_uring_setup": 425, "pidfd_open": 434,
        "pidfd_send_signal": 424, "pidfd_getfd": 438, "unshare": 272, "setns": 308, "mount": 165, "umount2": 166,
        "bpf": 321, "perf_event_open": 298, "userfaultfd": 323, "add_key": 248, "request_key": 249, "keyctl": 250,
        "rt_sigqueueinfo": 129, "rt_tgsigqueueinfo": 297,
    }),
    "aarch64": (0xC00000B7, {
        "clone": 220, "clone3": 435, "socket": 198, "kill": 129, "tkill": 130, "ptrace": 117, "process_vm_readv": 270,
        "process_vm_writev": 271, "io_uring_setup": 425, "pidfd_open": 434, "pidfd_send_signal": 424,
        "pidfd_getfd": 438, "unshare": 97, "setns": 268, "mount": 40, "umount2": 39, "bpf": 280,
        "perf_event_open": 241, "userfaultfd": 282, "add_key": 217, "request_key": 218, "keyctl": 219,
        "rt_sigqueueinfo": 138, "rt_tgsigqueueinfo": 240,
    }),
}  # fmt: skip
_PROCESSES = {"fork", "vfork"}
"""Refused everywhere; ``clone`` is looked at, for threads are made by it."""

_LANDLOCK_CREATE, _LANDLOCK_ADD, _LANDLOCK_RESTRICT = 444, 445, 446
_WRITES = 0x1FF2
"""LANDLOCK_ACCESS_FS_*: write a file, remove, make of any kind; reading and executing are bits 0, 2 and 3."""
_REFER, _TRUNCATE, _DEVICE_CONTROL = 1 << 13, 1 << 14, 1 << 15


def limit(*, memory_mib: int, file_mib: int, seconds: float | None = None, open_files: int = 256) -> None:
    """Set resource limits: address space, size of a file, CPU time, open files; no core dump."""
    for name, value in (
        (resource.RLIMIT_AS, memory_mib << 20),
        (resource.RLIMIT_FSIZE, file_mib << 20),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, open_files),
        *([(resource.RLIMIT_CPU, int(seconds) + 1)] if seconds else []),
    ):
        _, most = resource.getrlimit(name)
        allowed = value if most == resource.RLIM_INFINITY else min(value, most)
        with contextlib.suppress(OSError, ValueError):  # macOS knows no limit of address space
            resource.setrlimit(name, (allowed, allowed))


def no_new_privileges() -> bool:
    """Make set-user-ID programs harmless for this process and all that follow; the filters below need it."""
    return _prctl(_PR_SET_NO_NEW_PRIVS, 1) == 0


def filter_calls(*, network: bool) -> bool:
    """Refuse new processes (threads are allowed), tracing and signalling others and, without ``network``, sockets."""
    machine = platform.machine()
    if machine not in _CALLS or not no_new_privileges():
        return False
    architecture, calls = _CALLS[machine]
    refused = sorted(
        number
        for name, number in calls.items()
        if name not in {"clone", "clone3"} and (name in _PROCESSES or not network)
    )
    code = [
        _step(_LOAD, 4), _step(_EQUAL, architecture, 1, 0), _step(_RETURN, _KILL), _step(_LOAD, 0),
        *([_step(_AT_LEAST, _X32, 0, 1), _step(_RETURN, _ERRNO | _ENOSYS)] if machine == "x86_64" else []),
    ]  # fmt: skip
    for number in refused:
        code += [_step(_EQUAL, number, 0, 1), _step(_RETURN, _ERRNO | _EPERM)]
    # clone3 hides its flags behind a pointer. The C library takes ENOSYS for an old kernel and calls clone.
    code += [_step(_EQUAL, calls["clone3"], 0, 1), _step(_RETURN, _ERRNO | _ENOSYS)]
    code += [_step(_EQUAL, calls["clone"], 0, 3), _step(_LOAD, 16)]
    code += [_step(_HAS_BITS, _CLONE_THREAD, 1, 0), _step(_RETURN, _ERRNO | _EPERM), _step(_RETURN, _ALLOW)]
    data = ctypes.create_string_buffer(b"".join(code))
    program = ctypes.create_string_buffer(struct.pack("HP", len(code), ctypes.addressof(data)))
    return _prctl(_PR_SET_SECCOMP, _FILTER, ctypes.addressof(program)) == 0


def _step(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("HBBI", code, if_true, if_false, value)


def _prctl(*arguments: int) -> int:
    call = getattr(ctypes.CDLL(None, use_errno=True), "prctl", None)
    words = [ctypes.c_ulong(value) for value in (*arguments[1:], 0, 0, 0, 0)][:4]
    return -1 if call is None else int(call(ctypes.c_int(arguments[0]), *words))


def landlock_version() -> int:
    """Return the version of Landlock that the kernel offers, 0 without one."""
    if platform.machine() not in _CALLS or sys.platform != "linux":
        return 0
    return max(0, int(ctypes.CDLL(None, use_errno=True).syscall(_LANDLOCK_CREATE, None, ctypes.c_size_t(0), 1)))


def allow_writing(folders: Sequence[str]) -> bool:
    """Refuse every change to files outside these folders but /dev/null, and signals to other processes."""
    version = landlock_version()
    if version < 1 or not no_new_privileges():
        return False
    handled = _WRITES | (_REFER if version >= 2 else 0) | (_TRUNCATE if version >= 3 else 0)
    handled |= _DEVICE_CONTROL if version >= 5 else 0
    # Size grows with the version: file accesses, TCP (4), scopes (6): abstract sockets and signals.
    attributes = struct.pack("QQQ", handled, 0, 3 if version >= 6 else 0)[: 24 if version >= 6 else 8]
    libc = ctypes.CDLL(None, use_errno=True)
    rules = libc.syscall(_LANDLOCK_CREATE, attributes, ctypes.c_size_t(len(attributes)), 0)
    if rules < 0:
        return False
    try:
        for place, allowed in [*((folder, handled) for folder in folders), ("/dev/null", _WRITES & 2 | _TRUNCATE)]:
            at = os.open(place, os.O_PATH | os.O_CLOEXEC)
            try:
                rule = struct.pack("=Qi", allowed & handled, at)
                if libc.syscall(_LANDLOCK_ADD, rules, 1, rule, 0) < 0:
                    return False
            finally:
                os.close(at)
        return bool(libc.syscall(_LANDLOCK_RESTRICT, rules, 0) == 0)
    finally:
        os.close(rules)


def become_nobody(user: int = 65534) -> None:
    """Leave root for the user ``nobody``: root's files and processes are then another user's."""
    with contextlib.suppress(OSError):
        os.setgroups([])
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)


def drop_capabilities() -> None:
    """Give up what root may do beyond other users; with ``no_new_privs`` no program gives it back."""
    header = ctypes.create_string_buffer(struct.pack("Ii", 0x20080522, 0))
    none = ctypes.create_string_buffer(24)
    with contextlib.suppress(AttributeError):
        ctypes.CDLL(None, use_errno=True).capset(header, none)


def main() -> None:
    """Confine this process as the first argument says, and become the program that the others name."""
    given = json.loads(sys.argv[1])
    if given["copy"]:
        shutil.copytree(given["copy"], ".", dirs_exist_ok=True)
    limit(memory_mib=given["memory_mib"], file_mib=given["file_mib"], seconds=given["seconds"])
    if given["alone"]:
        if given["nobody"]:
            become_nobody()
        drop_capabilities()
        allow_writing(["."])
    no_new_privileges()
    filter_calls(network=False)
    try:
        os.execvpe(sys.argv[2], sys.argv[2:], dict(os.environ))  # noqa: S606
    except OSError as error:
        sys.stderr.write(f"{sys.argv[2]}: {error.strerror}\n")
        sys.exit(127)


if __name__ == "__main__":
    main()
