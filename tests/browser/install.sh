#!/bin/sh
# Installs Debian's chromium for the browser tests, where it is missing and may be installed.
set -eu
if [ -x /usr/bin/chromium ]; then
    echo "chromium is installed: /usr/bin/chromium"
    exit 0
fi
if [ "$(id -u)" -ne 0 ]; then
    echo "error: chromium is missing and only root may install it. Run: sudo apt-get install -y chromium" >&2
    exit 1
fi
apt-get update
DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends chromium
