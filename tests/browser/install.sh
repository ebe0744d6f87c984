#!/bin/sh
# Installs what tests need and pip cannot bring, where it is missing and may be installed: of Debian chromium and node
# for the browser tests and nginx for the test of a server behind a proxy, of npm onnxruntime for JavaScript.
set -eu
missing=""
[ -x /usr/bin/chromium ] || missing="$missing chromium"
[ -x /usr/sbin/nginx ] || missing="$missing nginx-light"
command -v npm >/dev/null || missing="$missing nodejs npm"
if [ -n "$missing" ]; then
    if [ "$(id -u)" -ne 0 ]; then
        echo "error: missing, and only root may install:$missing. Run: sudo apt-get install -y$missing" >&2
        exit 1
    fi
    apt-get update
    # shellcheck disable=SC2086
    DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends $missing
fi
cd "$(dirname "$0")"
stamp=node_modules/.installed
if [ ! -e "$stamp" ] || [ package.json -nt "$stamp" ]; then
    # Without scripts: one would fetch GPU libraries.
    npm install --no-package-lock --no-audit --no-fund --ignore-scripts --loglevel=error
    touch "$stamp"
fi
echo "chromium, nginx, node and onnxruntime for JavaScript are installed"
