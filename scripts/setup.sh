#!/bin/sh
# All the set-up that a make target needs, on a fresh Debian machine or on one that has it all.
# Quick when nothing is to be done. Starts no system service.
set -eu
cd "$(dirname "$0")/.."

PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin:/opt/rabbitmq/sbin"
venv=.venv
stamp="$venv/.set-up"
python="${PYTHON:-python3}"

say() { printf '%s\n' "$*" >&2; }

missing_packages() {
    command -v rabbitmq-server >/dev/null 2>&1 || printf 'rabbitmq-server '
    command -v redis-server >/dev/null 2>&1 || printf 'redis-server '
    command -v "$python" >/dev/null 2>&1 || printf 'python3 '
    # NVML's code path is tested against a small stub of its library that the tests compile.
    command -v cc >/dev/null 2>&1 || printf 'gcc libc6-dev '
    # Tests of TLS make their own certificates.
    command -v openssl >/dev/null 2>&1 || printf 'openssl '
    [ -x "$venv/bin/python" ] || "$python" -c 'import venv, ensurepip' >/dev/null 2>&1 ||
        printf 'python3-venv '
}

install_packages() {
    if ! command -v apt-get >/dev/null 2>&1; then
        say "Missing on this machine: $*"
        say "Install RabbitMQ (3.9 or later), Redis (6.2 or later), a C compiler and Python 3.10 or"
        say "later with venv by your system's means (macOS: brew install rabbitmq redis python),"
        say "then run make again."
        exit 1
    fi
    if [ "$(id -u)" != 0 ]; then
        say "Missing on this machine: $*"
        say "Install them as root, then run make again:"
        say "    sudo apt-get update && sudo apt-get install --no-install-recommends $*"
        exit 1
    fi
    say "Installing Debian packages: $*"
    # The servers' packages start services; ours run privately, so that these must not.
    policy=/usr/sbin/policy-rc.d
    ours=
    if [ ! -e "$policy" ]; then
        ours=yes
        trap 'rm -f "$policy"' EXIT INT TERM
        printf '#!/bin/sh\nexit 101\n' >"$policy"
        chmod 755 "$policy"
    fi
    apt-get -q update
    # shellcheck disable=SC2086 -- a list of words
    DEBIAN_FRONTEND=noninteractive apt-get -qy install --no-install-recommends $*
    if [ -n "$ours" ]; then
        rm -f "$policy"
        trap - EXIT INT TERM
    fi
}

wanted=$(missing_packages)
# shellcheck disable=SC2086 -- a list of words
[ -z "$wanted" ] || install_packages $wanted

key=$(cat pyproject.toml requirements.txt | sha256sum | cut -d' ' -f1)
if [ -x "$venv/bin/python" ] && [ "$(cat "$stamp" 2>/dev/null)" = "$key $PWD" ]; then
    exit 0
fi
[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
say "Installing the package, its extras and test tools in $venv"
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    -r requirements.txt -e '.[examples,flower,dev]'
printf '%s\n' "$key $PWD" >"$stamp"
