#!/bin/bash
# Installs what a purpose needs from Debian's packages: deploy/deps.sh [run|build|check|test|lint]...  (no argument: run and build)
#
#   run    a private PostgreSQL for `txbroker dev` and `txbroker demo`
#   build  compiler, CMake and the libraries that txbroker links
#   check  what the tests without servers need
#   test   check, run, build, and what the tests on real servers need (Kafka runs on the JVM; its jars come by Maven)
#   lint   the pinned formatter and checkers
#
# When everything is there it asks dpkg once and is done. Otherwise it prints what it installs, and needs root or sudo. A word `a|b` is satisfied by
# either package; the first one is installed. docs/dependencies.md gives the reason for each.
set -euo pipefail

run='postgresql|postgresql-14|postgresql-15|postgresql-16|postgresql-17|postgresql-18'
build='gcc libc6-dev make cmake ninja-build pkg-config|pkgconf libpq-dev librdkafka-dev libjansson-dev libssl-dev'
check='libcriterion-dev python3 python3-pytest'
test='clang openjdk-17-jre-headless|default-jre-headless maven python3-pytest-xdist python3-psycopg2 python3-confluent-kafka'
lint='clang-format-14 clang-tidy-14 shellcheck make'

say() { printf 'deps: %s\n' "$*" >&2; }

words=''
for purpose in "${@:-default}"; do
  case $purpose in
    default) words+=" $run $build" ;;
    run) words+=" $run" ;;
    build) words+=" $build" ;;
    check) words+=" $build $check" ;;
    test) words+=" $run $build $check $test" ;;
    lint) words+=" $build $lint" ;;
    *)
      say "unknown purpose '$purpose': run, build, check, test or lint"
      exit 2
      ;;
  esac
done
read -ra wanted <<<"$words"

if ! command -v dpkg-query >/dev/null || ! command -v apt-get >/dev/null; then
  say "this is not a Debian system, so nothing is installed. Needed, by Debian's names: ${wanted[*]}"
  exit 0
fi

mapfile -t names < <(tr '|' '\n' <<<"${wanted[*]}" | tr ' ' '\n' | sort -u)
# dpkg-query complains about names it has never heard of; they are simply not installed.
installed=" $(dpkg-query -W -f '${db:Status-Status}/${Package} ' "${names[@]}" 2>/dev/null || true)"
missing=()
for word in "${wanted[@]}"; do
  found=no
  for name in ${word//|/ }; do
    [[ $installed == *" installed/$name "* ]] && found=yes
  done
  [[ $found == yes || " ${missing[*]-} " == *" ${word%%|*} "* ]] || missing+=("${word%%|*}")
done
if ((${#missing[@]} == 0)); then
  exit 0
fi

root=()
if ((EUID != 0)); then
  if command -v sudo >/dev/null && { [[ -t 0 ]] || sudo -n true 2>/dev/null; }; then
    root=(sudo)
  else
    say "not installed: ${missing[*]}"
    say "and this user is neither root nor may use sudo here. Let an administrator run:"
    say "  apt-get install --no-install-recommends ${missing[*]}"
    exit 1
  fi
fi
as_root() { "${root[@]}" env DEBIAN_FRONTEND=noninteractive "$@"; }
apt() { as_root apt-get -q -y -o DPkg::Lock::Timeout=300 "$@"; }

# Debian's postgresql creates and starts a cluster of its own at first install. Nobody asked for one: txbroker's are private.
no_cluster=/etc/postgresql-common/createcluster.d/txbroker-deps.conf
if [[ " ${missing[*]} " == *" postgresql "* && ! -e $no_cluster ]]; then
  trap 'as_root rm -f "$no_cluster"' EXIT
  as_root mkdir -p "${no_cluster%/*}"
  printf 'create_main_cluster = false\n' | as_root tee "$no_cluster" >/dev/null
fi

say "installing ${missing[*]}"
apt update || say "apt-get update failed; trying with the package lists that are there"
apt install --no-install-recommends "${missing[@]}" </dev/null
say "installed ${missing[*]}"
