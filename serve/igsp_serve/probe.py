"""Is the server of this container alive? For a health check that sees its variables, and its command line on Linux.

python -m igsp_serve.probe      exit code 0: /health/live answers 200
"""

import http.client
import ipaddress
import ssl
import sys
from collections.abc import Sequence
from pathlib import Path

from igsp_deploy.errors import UserError
from igsp_serve.settings import Settings

OPTIONS = ("host", "port", "tls_certificate", "tls_key", "config")
"""Options that say where the server listens."""
TIMEOUT_S = 4.0
_FIRST_PROCESS = Path("/proc/1/cmdline")


def alive(settings: Settings) -> bool:
    """Whether /health/live answers 200, at the address that the server listens on."""
    host = settings.host
    try:
        address = ipaddress.ip_address(host)
        if address.is_unspecified:
            host = "127.0.0.1" if address.version == 4 else "::1"
    except ValueError:
        pass  # a name
    connection: http.client.HTTPConnection
    if settings.tls_certificate is None:
        connection = http.client.HTTPConnection(host, settings.port, timeout=TIMEOUT_S)
    else:
        # The certificate is for the name clients use, which is not the address asked here.
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        connection = http.client.HTTPSConnection(host, settings.port, timeout=TIMEOUT_S, context=context)
    try:
        connection.request("GET", "/health/live")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def given(arguments: Sequence[str]) -> dict[str, str]:
    """Those of `OPTIONS` that a command line has."""
    found: dict[str, str] = {}
    for name in OPTIONS:
        flag = f"--{name.replace('_', '-')}"
        for index, argument in enumerate(arguments):
            if argument == flag and index + 1 < len(arguments):
                found[name] = arguments[index + 1]
            elif argument.startswith(f"{flag}="):
                found[name] = argument.partition("=")[2]
    return found


def main() -> int:
    """Exit code: 0 alive, 1 not."""
    try:
        arguments = _FIRST_PROCESS.read_bytes().decode(errors="replace").split("\0")
    except OSError:
        arguments = []
    try:
        settings = Settings.read(given(arguments) if "serve" in arguments else {})
    except UserError as error:
        print(error, file=sys.stderr)
        return 1
    return 0 if alive(settings) else 1


if __name__ == "__main__":
    sys.exit(main())
