"""Bundles on the Hugging Face Hub, named `hf:USER/NAME` or `hf:USER/NAME@REVISION` where a folder is asked for."""

import re
import sys
from pathlib import Path

from igsp_deploy.bundle.manifest import MANIFEST, check_files, read_manifest
from igsp_deploy.errors import UsageError, UserError
from igsp_deploy.installed import install_command

PREFIX = "hf:"
_NAME = re.compile(r"hf:(?P<repo>[\w.-]+/[\w.-]+)(@(?P<revision>[^@\s]+))?")


def local_bundle(bundle: Path) -> Path:
    """The folder of a bundle: the one given, or for `hf:USER/NAME[@REVISION]` the one it is fetched to.

    Raises:
        UsageError: it begins with `hf:` and is not of that form.
        UserError: it cannot be fetched, or what came is not what the manifest says.
    """
    text = str(bundle)
    if not text.startswith(PREFIX):
        return bundle
    match = _NAME.fullmatch(text)
    if match is None:
        raise UsageError(f"a bundle on the Hub is hf:USER/NAME or hf:USER/NAME@REVISION, got {text!r}.")
    return fetch(match["repo"], match["revision"])


def fetch(repo_id: str, revision: str | None = None, *, endpoint: str | None = None) -> Path:
    """Fetch a bundle into the Hub's cache on this machine, where what is there already stays; checked by its manifest.

    Only the manifest and the files that it names are fetched, all of one commit. HF_TOKEN, HF_ENDPOINT, HF_HOME and
    HF_HUB_OFFLINE mean what they do for other programs.

    Args:
        repo_id: `USER/NAME`.
        revision: branch, tag or commit; the newest by default.
        endpoint: address of another Hub; default HF_ENDPOINT, else huggingface.co.

    Returns:
        The folder.

    Raises:
        UserError: there is no such repository or revision, the Hub cannot be reached, it holds no bundle, or a file is
            not what the manifest says.
    """
    try:
        from httpx2 import TransportError
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import (
            HfHubHTTPError,
            LocalEntryNotFoundError,
            RemoteEntryNotFoundError,
            RepositoryNotFoundError,
            RevisionNotFoundError,
        )
        from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
    except ImportError as error:
        raise UserError(
            f"fetching a bundle needs huggingface_hub 2. Install it with: {install_command('hub')}"
        ) from error
    named = f"{PREFIX}{repo_id}{'' if revision is None else f'@{revision}'}"
    quiet = not sys.stderr.isatty() and not are_progress_bars_disabled()
    if quiet:
        disable_progress_bars()
    try:
        folder = Path(hf_hub_download(repo_id, MANIFEST, revision=revision, endpoint=endpoint)).parent
        manifest = read_manifest(folder)
        for name in manifest.files:
            # The folder is called after its commit: the files of a bundle that is being replaced are not mixed.
            hf_hub_download(repo_id, name, revision=folder.name, endpoint=endpoint)
    except RepositoryNotFoundError as error:
        raise UserError(
            f"{named}: there is no such repository, or it is private. Check the name, or log in with `hf auth login`."
        ) from error
    except RevisionNotFoundError as error:
        raise UserError(f"{named}: the repository has no such revision. Give a branch, tag or commit.") from error
    except RemoteEntryNotFoundError as error:
        raise UserError(f"{named} is no whole bundle: a file is missing ({_said(error)}).") from error
    except LocalEntryNotFoundError as error:
        raise UserError(
            f"{named} is not in the cache of this machine and the Hub cannot be reached ({_said(error)}). "
            "Check the network, and whether HF_HUB_OFFLINE is set."
        ) from error
    except (HfHubHTTPError, TransportError, OSError, RuntimeError, ValueError) as error:
        raise UserError(f"{named} cannot be fetched: {_said(error)}. Repeat the command to go on.") from error
    finally:
        if quiet:
            enable_progress_bars()
    try:
        check_files(folder, manifest)
    except UserError as error:
        raise UserError(f"{error} It came from {named}; remove {folder} to fetch it again.") from error
    return folder


def _said(error: BaseException) -> str:
    """An error's text in one line."""
    return (" ".join(str(error).split()) or type(error).__name__).rstrip(".")[:300]
