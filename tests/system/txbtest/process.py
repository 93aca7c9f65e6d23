"""Processes, ports and directories of the fixtures: nothing outlives the test run, not even its kill -9.

Three nets, since each alone has a hole: atexit for an ordinary end, PR_SET_PDEATHSIG for a killed test run, and a sweep at the next start for
directories and processes whose owner is gone.
"""

import atexit
import ctypes
import glob
import os
import pwd
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time

PREFIX = "txbtest-"
MEMORY, MEMORY_BYTES = "/dev/shm", 2 << 30  # a file system in memory, and what has to be free there
PORTS = range(12000, 32000)  # below the ephemeral range: a client's socket must not take a server's port while that is restarted
PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)
_pause = threading.Event()
_claims = []
_waiting = threading.local()


class Timeout(AssertionError):
    """A condition did not come true before its deadline."""


def kept_while_waiting():
    """What a condition may keep from one look to the next, by name: things with close(). None outside wait_for."""
    return getattr(_waiting, "kept", None)


def wait_for(condition, what, deadline_s=60.0, every_s=0.02, alive=None):
    """Calls condition() until it answers something true, and returns that. `alive`, if given, raises when waiting has become useless.

    What a condition asks a server on a connection that is kept for the wait (Postgres.ask) is asked again when the server was away meanwhile."""
    if kept_while_waiting() is not None:
        return _wait_for(condition, what, deadline_s, every_s, alive)
    _waiting.kept = {}
    try:
        return _wait_for(condition, what, deadline_s, every_s, alive)
    finally:
        for thing in _waiting.kept.values():
            thing.close()
        _waiting.kept = None


def _wait_for(condition, what, deadline_s, every_s, alive):
    end = time.monotonic() + deadline_s
    while True:
        answer = condition()
        if answer:
            return answer
        if alive is not None:
            alive()
        if time.monotonic() > end:
            raise Timeout(f"not within {deadline_s:g} s: {what() if callable(what) else what}")
        _pause.wait(every_s)


def free_port():
    """A loopback port nobody listens on, kept from other test runs by an abstract socket that vanishes with this process."""
    candidates = list(PORTS)
    random.SystemRandom().shuffle(candidates)
    for port in candidates:
        claim = socket.socket(socket.AF_UNIX)
        try:
            claim.bind(f"\0{PREFIX}port-{port}")
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(("127.0.0.1", port))
        except OSError:
            claim.close()
            continue
        _claims.append(claim)
        return port
    raise RuntimeError(f"no free port in {PORTS}")


def start_time(pid):
    """The kernel's start time of a process, which tells it from a later one with the same pid; None when it is gone."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as stat:
            fields = stat.read().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else fields[19]


def children(pid):
    """The pids whose parent is `pid`."""
    found = []
    for path in glob.glob("/proc/[0-9]*/stat"):
        try:
            with open(path, encoding="ascii", errors="replace") as stat:
                text = stat.read()
        except OSError:
            continue
        if text.rpartition(")")[2].split()[1] == str(pid):
            found.append(int(text.partition(" ")[0]))
    return found


def kill_quietly(pid, number):
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass


def unprivileged_user():
    """Whom a server that refuses root runs as: None when we aren't root."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise RuntimeError("running as root, and there is neither a user postgres nor a user nobody to run a private PostgreSQL")


def child_setup(user=None, death_signal=signal.SIGKILL):
    """For Popen's preexec_fn: drops to `user`, then asks to die with the starting thread (a change of user would clear that request).

    So whoever starts a process must outlive it: start servers from the main thread.
    """
    parent = os.getpid()

    def setup():
        if user is not None:
            os.initgroups(user.pw_name, user.pw_gid)
            os.setgid(user.pw_gid)
            os.setuid(user.pw_uid)
        _libc.prctl(PR_SET_PDEATHSIG, death_signal, 0, 0, 0)
        if os.getppid() != parent:
            os.kill(os.getpid(), signal.SIGKILL)

    return setup


class TempDir:
    """A directory whose name says who owns it; `pids` in it lists processes to end with it."""

    live = []

    def __init__(self, kind, user=None, memory=False):
        """memory: in memory where there is room, for what is no worse if a machine that loses its power loses it."""
        me = os.getpid()
        parent = MEMORY if memory and os.access(MEMORY, os.W_OK) and shutil.disk_usage(MEMORY).free >= MEMORY_BYTES else None
        self.path = tempfile.mkdtemp(prefix=f"{PREFIX}{kind}-{me}-{start_time(me)}-", dir=parent)
        os.chmod(self.path, 0o755)
        self.user = user
        if user is not None:
            os.chown(self.path, user.pw_uid, user.pw_gid)
        TempDir.live.append(self)

    def sub(self, name):
        path = os.path.join(self.path, name)
        os.mkdir(path, 0o700)
        if self.user is not None:
            os.chown(path, self.user.pw_uid, self.user.pw_gid)
        return path

    def note_pid(self, pid):
        """Written before anybody can kill us, so that the next run finds the process."""
        with open(os.path.join(self.path, "pids"), "a", encoding="ascii") as pids:
            pids.write(f"{pid} {start_time(pid)}\n")

    def remove(self):
        if self in TempDir.live:
            TempDir.live.remove(self)
        _remove(self.path)


def _remove(path):
    try:
        with open(os.path.join(path, "pids"), encoding="ascii") as pids:
            entries = [line.split() for line in pids]
    except OSError:
        entries = []
    for entry in entries:
        if len(entry) != 2 or entry[1] == "None" or start_time(entry[0]) != entry[1]:
            continue
        family = [int(entry[0])] + children(entry[0])
        for pid in family:
            kill_quietly(pid, signal.SIGCONT)
            kill_quietly(pid, signal.SIGKILL)
        wait_for(lambda: all(start_time(pid) is None for pid in family), f"end of {family}", 10)
    # Large ones take their time on a busy disk. Nobody waits for it; what it should not finish, the next sweep does.
    subprocess.Popen(["rm", "-rf", "--", path], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)


def sweep():
    """Removes what test runs left that were killed."""
    for path in (path for parent in (tempfile.gettempdir(), MEMORY) for path in glob.glob(os.path.join(parent, f"{PREFIX}*-*-*-*"))):
        parts = os.path.basename(path).split("-")
        if len(parts) < 5 or not parts[2].isdigit() or not os.access(path, os.W_OK):
            continue
        if start_time(parts[2]) != parts[3]:
            _remove(path)


def run(args, user=None, timeout_s=120, **more):
    """A command that must succeed; its output is in the exception when it doesn't."""
    done = subprocess.run([str(a) for a in args], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, text=True,
                          errors="replace", timeout=timeout_s, preexec_fn=child_setup(user), check=False, **more)
    if done.returncode != 0:
        raise RuntimeError(f"{args[0]} ended with {done.returncode}:\n{done.stdout}")
    return done.stdout


def _end():
    for directory in list(TempDir.live):
        directory.remove()


atexit.register(_end)
