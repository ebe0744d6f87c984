"""A bundle on the Hugging Face Hub: `igsp push BUNDLE USER/NAME`, `igsp export MODEL BUNDLE --push USER/NAME`.

The bundle's `README.md` is the model card there; what users of the Hub search by is at its top.
"""

import glob
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from igsp_deploy.bundle.manifest import MANIFEST, check_files, read_manifest
from igsp_deploy.errors import UsageError, UserError
from igsp_deploy.installed import install_command

LOGIN = "Log in with `hf auth login`, or set HF_TOKEN to a token that may write (huggingface.co/settings/tokens)."
_PART = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_])?")


def push(
    bundle: Path, repo_id: str, *, private: bool = False, token: str | None = None, endpoint: str | None = None
) -> str:
    """Upload a bundle as a model repository, which is made if it is not there.

    Only the files that the manifest names are uploaded, with the manifest. Files of the same names are replaced, others
    in the repository stay. An interrupted upload goes on when it is repeated, whichever command began it.

    Args:
        bundle: compared with its checksums before anything is sent.
        repo_id: `USER/NAME` or `ORGANISATION/NAME`.
        private: the repository must be visible to its owner only.
        token: of the Hub; default HF_TOKEN, else the one that `hf auth login` saved.
        endpoint: address of another Hub; default HF_ENDPOINT, else huggingface.co.

    Returns:
        Address of the repository.

    Raises:
        UsageError: `repo_id` is not of that form.
        UserError: the bundle is damaged, there is no token or it may not write there, the repository is of another kind
            or public though `private` was asked for, or the Hub cannot be reached.
    """
    check_repo_id(repo_id)
    manifest = read_manifest(bundle)
    check_files(bundle, manifest)
    with _hub(repo_id, token, endpoint) as api:
        _check(api, repo_id, private)
        url = api.create_repo(repo_id, private=private, exist_ok=True)
        if private and not api.model_info(repo_id).private:
            raise _public(repo_id)
        api.upload_folder(
            repo_id=repo_id,
            folder_path=bundle,
            allow_patterns=[glob.escape(name) for name in sorted([MANIFEST, *manifest.files])],
            commit_message="Upload bundle",
        )
    return str(url)


def check_push(repo_id: str, *, private: bool = False, token: str | None = None, endpoint: str | None = None) -> None:
    """Find out what would stop `push`, before a long export instead of after it. Nothing is made on the Hub.

    Args:
        repo_id: as for `push`.
        private: as for `push`.
        token: as for `push`.
        endpoint: as for `push`.

    Raises:
        UsageError: `repo_id` is not of that form.
        UserError: the Hub cannot be reached, there is no token or it may not write there, or the repository is public
            though `private` was asked for.
    """
    check_repo_id(repo_id)
    with _hub(repo_id, token, endpoint) as api:
        _check(api, repo_id, private)


def check_repo_id(repo_id: str) -> None:
    """Refuse what cannot be a repository's name: before a long export, not after it.

    Raises:
        UsageError: it is not `USER/NAME`.
    """
    parts = repo_id.split("/")
    named = len(parts) == 2 and all(_PART.fullmatch(part) for part in parts) and len(repo_id) <= 96
    if not named or "--" in repo_id or ".." in repo_id or repo_id.endswith(".git"):
        raise UsageError(
            f"a repository on the Hub is USER/NAME, of letters, digits, single -, _ and . and at most 96 characters, "
            f"got {repo_id!r}. Example: me/shoes"
        )


@contextmanager
def _hub(repo_id: str, token: str | None, endpoint: str | None) -> Iterator[Any]:
    """huggingface_hub's `HfApi`, whose errors become ones that say what to do."""
    try:
        from httpx2 import TransportError
        from huggingface_hub import HfApi, get_token
        from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled
        from huggingface_hub.utils.tqdm import (
            are_progress_bars_disabled,
            disable_progress_bars,
            enable_progress_bars,
        )
    except ImportError as error:
        raise UserError(f"pushing needs huggingface_hub 2. Install it with: {install_command('hub')}") from error

    token = token or get_token()
    if token is None:
        raise UserError(f"no token of the Hub was given or saved. {LOGIN}")
    api = HfApi(endpoint=endpoint, token=token)
    quiet = not sys.stderr.isatty() and not are_progress_bars_disabled()
    if quiet:
        disable_progress_bars()
    try:
        yield api
    except OfflineModeIsEnabled as error:
        raise UserError("HF_HUB_OFFLINE is set, so nothing can be uploaded. Unset it to push.") from error
    except HfHubHTTPError as error:
        raise _refused(error, repo_id) from error
    except (TransportError, OSError, RuntimeError, ValueError) as error:
        raise _broken(error, repo_id, api.endpoint) from error
    finally:
        if quiet:
            enable_progress_bars()


def _check(api: Any, repo_id: str, private: bool) -> None:
    """Whose token it is, whether it may write there, and whether what is there may take the bundle."""
    from huggingface_hub.errors import RepositoryNotFoundError

    account, owner = api.whoami(), repo_id.split("/")[0]
    role = account.get("auth", {}).get("accessToken", {}).get("role")
    owners = [account["name"], *(organisation["name"] for organisation in account.get("orgs", []))]
    # Fine-grained tokens may name other owners, and say so only when they are used.
    if role == "read" or (role != "fineGrained" and owner.lower() not in map(str.lower, owners)):
        reason = "it is one for reading" if role == "read" else f"it is of {', '.join(owners)}"
        raise _no_right(repo_id, reason)
    try:
        there = api.model_info(repo_id)
    except RepositoryNotFoundError:
        return
    if private and not there.private:
        raise _public(repo_id)


def _public(repo_id: str) -> UserError:
    return UserError(
        f"{repo_id} is there already and public; --private was asked for. Nothing was uploaded. "
        "Choose another name, or make it private in its settings."
    )


def _no_right(repo_id: str, reason: str) -> UserError:
    owner = repo_id.split("/")[0]
    return UserError(f"the token may not write to {repo_id} ({reason}). Use a token with write access to {owner}.")


def _refused(error: Any, repo_id: str) -> UserError:
    """What to do about an answer of the Hub that says no."""
    status, said = error.response.status_code, error.server_message or _said(error)
    if status == 401:
        return UserError(f"the Hub does not accept the token ({said}). {LOGIN}")
    if status == 403:
        return _no_right(repo_id, said)
    if status == 404:
        return UserError(
            f"{repo_id} is not a model repository that this token can see: the name belongs to another kind of "
            f"repository, or to somebody's private one ({said}). Choose another name."
        )
    return UserError(f"the Hub refused the upload to {repo_id}: {status}, {said}. Repeat the command to go on.")


def _broken(error: Exception, repo_id: str, endpoint: str) -> UserError:
    """What to do about an upload that broke off."""
    return UserError(
        f"uploading to {repo_id} at {endpoint} failed: {_said(error.__cause__ or error)}. "
        "Check the network and the address, then repeat the command: it goes on where it stopped."
    )


def _said(error: BaseException) -> str:
    """An error's text in one line."""
    return (" ".join(str(error).split()) or type(error).__name__).rstrip(".")[:300]
