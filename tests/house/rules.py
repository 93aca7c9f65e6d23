"""The rules that the source keeps, each a function from a tree to the places that break it.

`python3 tests/house/rules.py` prints them; tests/house/test_rules.py runs them in the suite, and proves for each that a planted violation is caught.
"""

import fnmatch
import re
import sys
from pathlib import Path

LAYERS = ["common", "outbox", "consumer", "broker"]
# Text files made at build time (cmake/TxbEmbed.cmake), and the lowest layer that may include each.
EMBEDDED = {"outbox_sql.h": "outbox", "consumer_sql.h": "consumer", "migrations.h": "broker", "json_schemas.h": "broker",
            "cli_sql.h": "broker"}
# Who may see the clients' own types. The public headers name PGconn, and so must the code right behind them.
NATIVE = {
    "libpq-fe.h": ["common/pg*.[ch]", "include/txbroker/outbox.h", "include/txbroker/consumer.h", "include/txbroker/saga.h", "include/txbroker/request.h", "outbox/append.[ch]", "outbox/saga_start.c", "outbox/request.c",
                    "consumer/handler_plugin.c"],
    "rdkafka.h": ["common/kafka*.[ch]"],
    "rdkafka_mock.h": ["common/kafka*.[ch]"],
}
IMPURE = ["common/pg.h", "common/kafka.h", "common/clock.h", "common/log.h", "common/random.h", "common/loop.h", "time.h",
          "sys/time.h", "unistd.h", "poll.h", "pthread.h", "libpq-fe.h", "rdkafka.h"]
BANNED_CALLS = ["strcpy", "strcat", "stpcpy", "sprintf", "vsprintf", "gets", "strtok", "atoi", "atol", "atoll", "atof", "alloca", "system", "popen",
                "sleep", "usleep", "nanosleep", "clock_nanosleep"]
# The one place that may wait by time, for conditions that nothing signals.
SLEEPERS = {"py": ["tests/system/txbtest/process.py"]}
LINES_MAX = {"product": 700, "tests": 900}

_TOKEN = re.compile(r'/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])+\'', re.DOTALL)
_INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*([<"])([^>"]+)[>"]', re.MULTILINE)
# A statement begins with its verb; messages that advise a GRANT have it further on.
_SQL = re.compile(r"^\"\s*(BEGIN;\s*)?(SELECT|INSERT\s+INTO|UPDATE|DELETE\s+FROM|CREATE|ALTER|DROP|GRANT|REVOKE|SET|LOCK|TRUNCATE|CALL|LISTEN|COPY|WITH)\b[^\"]*%[-0-9.*]*s")


class Tree:
    """The project's files, without what builds leave."""

    def __init__(self, root):
        self.root = Path(root)

    def files(self, *patterns):
        for path in sorted(self.root.rglob("*")):
            name = path.relative_to(self.root).as_posix()
            if path.is_file() and not re.match(r"(build[^/]*|\.git|\.cache)/|.*__pycache__", name):
                if not patterns or any(fnmatch.fnmatch(name, pattern) for pattern in patterns):
                    yield name

    def text(self, name):
        return (self.root / name).read_text(encoding="utf-8", errors="replace")

    def c_files(self, *folders):
        return self.files(*[f"{folder}/*.[ch]" for folder in folders])


def line_of(text, position):
    return text.count("\n", 0, position) + 1


def without_comments(text, strings=True):
    """C code with comments (and string contents, if not `strings`) blanked, line for line as it was."""

    def blank(match):
        token = match.group()
        if token[0] == "/":
            return re.sub(r"[^\n]", " ", token)
        return token if strings else token[0] + " " * (len(token) - 2) + token[0]

    return _TOKEN.sub(blank, text)


def includes(tree, name):
    code = without_comments(tree.text(name))
    return [(line_of(code, m.start(2)), m.group(2)) for m in _INCLUDE.finditer(code)]


def arrows(tree):
    """common <- outbox <- consumer <- broker: a folder includes itself, what is below it, and the public headers."""
    for name in tree.c_files(*LAYERS, "include"):
        layer = name.split("/")[0]
        reach = LAYERS[: LAYERS.index(layer) + 1] if layer in LAYERS else []
        for line, header in includes(tree, name):
            folder, slash, _ = header.partition("/")
            if not slash and header in EMBEDDED:
                if EMBEDDED[header] not in reach:
                    yield f"{name}:{line}: {header} belongs to {EMBEDDED[header]}, which is above {layer}"
            elif slash and folder in LAYERS and folder not in reach:
                yield f"{name}:{line}: {layer} must not include {header}"
            elif folder in ("tests", "schemas"):
                yield f"{name}:{line}: the product must not include {header}"
            elif (tree.root / name).parent.joinpath(header).exists() and not (tree.root / header).exists():
                yield f'{name}:{line}: include "folder/{header}", not a neighbour by its bare name'


def native_types(tree):
    """libpq's and librdkafka's types stay in their ports: neither their headers nor a private header that includes them is seen elsewhere."""
    for native, allowed in NATIVE.items():
        carriers = {name for name in tree.c_files("common") if name.endswith(".h") and any(h.endswith(native) for _, h in includes(tree, name))}
        for name in tree.c_files(*LAYERS, "include"):
            if any(fnmatch.fnmatch(name, pattern) for pattern in allowed):
                continue
            for line, header in includes(tree, name):
                if header.rpartition("/")[2] == native or header in carriers:
                    yield f"{name}:{line}: only {', '.join(allowed)} may include {header}"


def pure_cores(tree):
    """A *_core.c is a step function: no server, clock, log or randomness reaches it (planted bugs may live there)."""
    for name in tree.files("*/*_core.[ch]"):
        if name.split("/")[0] not in LAYERS:
            continue
        for line, header in includes(tree, name):
            if header in IMPURE or header.rpartition("/")[2] in ("libpq-fe.h", "rdkafka.h"):
                yield f"{name}:{line}: a pure core must not include {header}"


def banned_calls(tree):
    """Calls that overflow, run a shell, parse without an error, or wait by time instead of for a condition."""
    pattern = re.compile(r"(?<![\w.>])(" + "|".join(BANNED_CALLS) + r")\s*\(")
    for name in tree.c_files(*LAYERS, "include", "docs", "tests"):
        code = without_comments(tree.text(name), strings=False)
        for match in pattern.finditer(code):
            yield f"{name}:{line_of(code, match.start())}: {match.group(1)}() is banned"
    for name in tree.files("tests/*.py", "tests/run", "tests/bench/run"):
        if name in SLEEPERS["py"] or name.startswith("tests/house/"):
            continue
        for match in re.finditer(r"\btime\.sleep\(", tree.text(name)):
            yield f"{name}:{line_of(tree.text(name), match.start())}: wait for a condition, not for time"


def assembled_sql(tree):
    """SQL is never made with %s: values are parameters, identifiers come from the server's own quoting."""
    for name in tree.c_files(*LAYERS):
        code = without_comments(tree.text(name))
        for match in re.finditer(r'"(?:\\.|[^"\\\n])*"(?:\s*"(?:\\.|[^"\\\n])*")*', code):
            if _SQL.match(re.sub(r'"\s*"', "", match.group())):
                yield f"{name}:{line_of(code, match.start())}: SQL assembled with %s"


def fault_names(tree):
    """Every failpoint and planted bug used in code stands in the tables of common/fault.c, and every name there is used."""
    tables = tree.text("common/fault.c")
    for call, table in (("txb_failpoint", "txb_failpoint_names"), ("txb_bug", "txb_bug_names")):
        body = re.search(re.escape(table) + r"\[\]\s*=\s*\{(.*?)\};", tables, re.DOTALL)
        known = re.findall(r'"([^"]+)"', without_comments(body.group(1))) if body else []
        used = {}
        for name in tree.c_files(*LAYERS):
            if name.startswith("common/fault."):
                continue
            code = without_comments(tree.text(name))
            for match in re.finditer(r"\b" + call + r"\s*\(\s*([^)]*)\)", code):
                place = f"{name}:{line_of(code, match.start())}"
                literal = re.fullmatch(r'"([^"]+)"', match.group(1).strip())
                if literal is None:
                    yield f"{place}: {call}() takes a literal name, so that the tables can be checked"
                else:
                    used.setdefault(literal.group(1), place)
        for unknown in sorted(set(used) - set(known)):
            yield f"{used[unknown]}: {unknown} is missing in {table}"
        for unused in sorted(set(known) - set(used)):
            yield f"common/fault.c: {unused} in {table} is nowhere in the code"
        for double in sorted({name for name in known if known.count(name) > 1}):
            yield f"common/fault.c: {double} stands twice in {table}"


def machine_paths(tree):
    """Nothing names a place of somebody's machine."""
    pattern = re.compile(r"(?<![\w.$}~/-])/(?:home/[a-z]|root/|work/|Users/|tmp/(?![\w.-]*XXXXXX)[a-z])")
    for name in tree.files():
        if re.search(r"\.(png|jpg|gif|ico|webp)$", name) or name.startswith("tests/house/"):
            continue
        text = tree.text(name)
        for match in pattern.finditer(text):
            yield f"{name}:{line_of(text, match.start())}: a path of one machine: {text[match.start():match.start() + 30].splitlines()[0]}"


def leftovers(tree):
    """Nothing is left to be done in a comment."""
    pattern = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b")
    for name in tree.files("*.[ch]", "*.py", "*.sql", "*.sh", "*.md", "*.cmake", "*CMakeLists.txt", "Makefile"):
        if name.startswith("tests/house/"):
            continue
        text = tree.text(name)
        for match in pattern.finditer(text):
            yield f"{name}:{line_of(text, match.start())}: {match.group()}"


def sizes(tree):
    """One file, one concept: what is longer than this holds several."""
    for name in tree.files("*.[ch]", "*.py"):
        lines = tree.text(name).count("\n")
        most = LINES_MAX["tests" if name.startswith("tests/") else "product"]
        if lines > most:
            yield f"{name}: {lines} lines, more than {most}"


def headings(tree):
    """A C file starts with what it is and which crash it survives."""
    for name in tree.c_files(*LAYERS, "include", "docs", "tests"):
        if not tree.text(name).startswith(("/*", "//")):
            yield f"{name}:1: starts without a comment that says what it is"


RULES = [arrows, native_types, pure_cores, banned_calls, assembled_sql, fault_names, machine_paths, leftovers, sizes, headings]

if __name__ == "__main__":
    found = [place for rule in RULES for place in rule(Tree(Path(__file__).resolve().parents[2]))]
    print("\n".join(found))
    sys.exit(1 if found else 0)
