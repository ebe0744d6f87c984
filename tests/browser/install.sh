#!/bin/sh
# Installs what tests need of Debian and pip cannot bring, where it is missing and may be installed:
# chromium for the browser tests, nginx for the test of a server behind a proxy.
set -eu
missing=""
[ -x /usr/bin/chromium ] || missing="$missing chromium"
[ -x /usr/sbin/nginx ] || missing="$missing nginx-light"
if [ -z "$missing" ]; then
    echo "chromium and nginx are installed"
    exit 0
fi
if [ "$(id -u)" -ne 0 ]; then
    echo "error: missing, and only root may install:$missing. Run: sudo apt-get install -y$missing" >&2
    exit 1
fi
apt-get update
# shellcheck disable=SC2086
DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends $missing
