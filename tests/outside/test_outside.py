"""The installed library as applications meet it: by pkg-config, by CMake, shared and static; and what it exports.

TXB_BUILD names the build directory that is installed from, TXB_CC the compiler.
"""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
BUILD = Path(os.environ.get("TXB_BUILD", ROOT / "build-dev"))
CC = os.environ.get("TXB_CC", "cc")
STRICT = ["-std=c11", "-Wall", "-Wextra", "-Wpedantic", "-Werror"]


def run(*command, **more):
    done = subprocess.run([str(word) for word in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, **more)
    assert done.returncode == 0, f"{' '.join(map(str, command))}\n{done.stdout}"
    return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The tree installed to a place that no configure step has heard of."""
    prefix = tmp_path_factory.mktemp("prefix")
    run("cmake", "--install", BUILD, "--prefix", prefix)
    return prefix


@pytest.fixture(scope="module")
def libdir(installed):
    return next(installed.rglob("libtxbroker.so")).parent


def public_functions():
    """The functions that the headers mark as exported."""
    text = "".join(header.read_text() for header in (ROOT / "include/txbroker").glob("*.h"))
    return set(re.findall(r"^TXB_EXPORT[^;{]*?\b(txb_\w+)\s*\(", text, re.MULTILINE))


def exported_names(nm_output):
    """Defined dynamic symbols, without the version's own name."""
    names = {line.split()[-1].split("@")[0] for line in nm_output.splitlines() if line.strip()}
    return {name for name in names if not re.fullmatch(r"TXBROKER_\d+", name)}


def pkg_config(libdir, *arguments):
    return run("pkg-config", *arguments, "txbroker", env={**os.environ, "PKG_CONFIG_PATH": str(libdir / "pkgconfig")}).split()


def test_everything_is_installed(installed, libdir):
    for name in ["bin/txbroker", "include/txbroker/outbox.h", "include/txbroker/consumer.h", "include/txbroker/saga.h", "include/txbroker/request.h", "include/txbroker/error.h", "include/txbroker/slice.h"]:
        assert (installed / name).is_file(), name
    for name in ["man/man1/txbroker.1", "bash-completion/completions/txbroker", "zsh/site-functions/_txbroker", "fish/vendor_completions.d/txbroker.fish"]:
        assert (installed / "share" / name).stat().st_size > 100, name
    schema = json.loads((installed / "share/txbroker/saga.schema.json").read_text())
    assert schema["$id"] == "urn:txbroker:schema:saga:1"
    for name in ["libtxbroker.so", "libtxbroker.so.0", "libtxbroker.a", "pkgconfig/txbroker.pc", "cmake/txbroker/txbrokerConfig.cmake"]:
        assert (libdir / name).exists(), name


def test_the_program_runs_from_there(installed):
    assert re.search(r"\b\d+\.\d+\.\d+\b", run(installed / "bin/txbroker", "--version"))


def test_no_installed_text_names_the_build_or_the_source(installed):
    for path in installed.rglob("*"):
        if path.is_file() and path.suffix in (".h", ".pc", ".cmake", ".1"):
            text = path.read_text()
            assert str(BUILD) not in text and str(ROOT) not in text and str(installed) not in text, path


def test_the_library_exports_the_public_functions_and_nothing_else(libdir):
    exported = exported_names(run("nm", "-D", "--defined-only", libdir / "libtxbroker.so"))
    assert exported == public_functions()
    assert "txb_publish" in exported


def test_a_planted_export_is_seen(tmp_path):
    (tmp_path / "leak.c").write_text("int txb_publish(void);\nint txb_publish(void) { return 0; }\nint leaked(void);\nint leaked(void) { return 0; }\n")
    run(CC, "-shared", "-fPIC", tmp_path / "leak.c", "-o", tmp_path / "leak.so")
    assert exported_names(run("nm", "-D", "--defined-only", tmp_path / "leak.so")) >= {"leaked", "txb_publish"}


def test_the_library_is_found_by_its_versioned_name(libdir):
    assert "libtxbroker.so.0" in run("readelf", "-d", libdir / "libtxbroker.so")


def test_built_by_pkg_config(installed, libdir, tmp_path):
    program = tmp_path / "outside"
    run(CC, *STRICT, HERE / "program.c", "-o", program, *pkg_config(libdir, "--cflags", "--libs"))
    assert "faults 0:" in run(program, env={**os.environ, "LD_LIBRARY_PATH": str(libdir)})


def test_built_by_pkg_config_static(installed, libdir, tmp_path):
    program = tmp_path / "outside"
    words = pkg_config(libdir, "--cflags", "--libs", "--static")
    words = [str(libdir / "libtxbroker.a") if word == "-ltxbroker" else word for word in words]
    # Without the libraries of libraries that --static drags in from other packages: those stay shared.
    wanted = [word for word in words if not word.startswith("-l") or word in ("-lpq", "-lrdkafka", "-ljansson", "-lcrypto", "-lm")]
    run(CC, *STRICT, HERE / "program.c", "-o", program, *wanted, "-pthread")
    assert "libtxbroker" not in run("ldd", program)
    assert "faults 0:" in run(program)


def test_built_by_cmake(installed, tmp_path):
    build = tmp_path / "build"
    run("cmake", "-S", HERE, "-B", build, "-G", "Ninja", f"-DCMAKE_PREFIX_PATH={installed}", f"-DCMAKE_C_COMPILER={CC}",
        f"-DCMAKE_C_FLAGS={' '.join(STRICT)}")
    run("cmake", "--build", build)
    for program in ["outside_shared", "outside_static"]:
        assert "faults 0:" in run(build / program)


@pytest.mark.parametrize("header", sorted(path.name for path in (ROOT / "include/txbroker").glob("*.h")))
def test_a_header_stands_alone(header, installed, libdir, tmp_path):
    source = tmp_path / "header.c"
    source.write_text(f"#include <txbroker/{header}>\nint main(void) {{ return 0; }}\n")
    run(CC, *STRICT, "-fsyntax-only", source, *pkg_config(libdir, "--cflags"))


def test_headers_are_cplusplus_too(installed, libdir, tmp_path):
    """Debian's clang reads C++ without a C++ library; a compiler without its C++ half is no reason to skip, since gcc's is optional."""
    compiler = shutil.which("clang") or shutil.which("g++")
    if compiler is None:
        assert os.environ.get("CI") != "true", "CI has clang"
        return
    source = tmp_path / "header.cc"
    source.write_text("".join(f"#include <txbroker/{path.name}>\n" for path in sorted((ROOT / "include/txbroker").glob("*.h")))
                      + "int main() { return txb_rc_name(TXB_OK) == nullptr; }\n")
    run(compiler, "-x", "c++", "-std=c++17", "-Wall", "-Wextra", "-Werror", "-fsyntax-only", source, *pkg_config(libdir, "--cflags"))


def test_a_staged_install_is_the_same(installed, tmp_path):
    """Packagers install below DESTDIR."""
    run("cmake", "--install", BUILD, "--prefix", "/usr", env={**os.environ, "DESTDIR": str(tmp_path)})
    staged = {path.relative_to(tmp_path / "usr") for path in (tmp_path / "usr").rglob("*")}
    assert staged == {path.relative_to(installed) for path in installed.rglob("*")}
