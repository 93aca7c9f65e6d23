"""Builds a plugin handler of the tests with the system's compiler, against the public headers alone."""

import os
import shlex
import threading

from txbtest import process
from txbtest.program import ROOT

HERE = os.path.dirname(os.path.abspath(__file__))
_built = {}
_lock = threading.Lock()


def build_plugin(source):
    """Path of the shared object; built once a test run. source: a file of this folder, or an absolute path."""
    with _lock:
        if source not in _built:
            directory = process.TempDir("plugin")
            target = os.path.join(directory.path, os.path.splitext(os.path.basename(source))[0] + ".so")
            flags = shlex.split(process.run(["pkg-config", "--cflags", "--libs", "libpq"]))
            process.run([os.environ.get("CC", "cc"), "-std=c11", "-D_GNU_SOURCE", "-shared", "-fPIC", "-Wall", "-Wextra", "-Werror", "-o", target,
                         os.path.join(HERE, source), "-I", os.path.join(ROOT, "include"), *flags])
            _built[source] = target
        return _built[source]
