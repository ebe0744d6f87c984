"""Which options of `igsp export` go together."""

from pathlib import Path

from igsp_deploy.errors import UsageError


def check_shapes(
    *,
    fold: str | None,
    batch: int | None,
    with_text: bool,
    experts: str | None,
    onnx_adapter: bool,
    standalone: Path | None,
    triton: Path | None,
    triton_device: str,
    push: str | None,
    private: bool,
) -> None:
    """Refuse what does not go together, before anything long begins.

    Raises:
        UsageError: names the options.
    """
    others = {
        "--onnx-adapter": onnx_adapter,
        "--standalone": standalone is not None,
        "--triton": triton is not None,
        "--push": push is not None,
        "--experts": experts is not None,
    }
    if fold is not None:
        given = [name for name, value in others.items() if value]
        if given:
            raise UsageError(f"--fold writes one task instead of a bundle: leave {' and '.join(given)} away.")
    elif batch is not None or with_text:
        raise UsageError("--batch and --with-text go with --fold TASK; a bundle takes any batch, and texts.")
    if triton_device not in ("gpu", "cpu"):
        raise UsageError(f"--triton-device must be gpu or cpu, got {triton_device!r}.")
    for name, folder in (("--standalone", standalone), ("--triton", triton)):
        if folder is not None and folder.exists():
            raise UsageError(f"{name} {folder} exists already. Choose another folder or remove it.")
    if private and push is None:
        raise UsageError("--private goes with --push USER/NAME.")
    if push is not None:
        from igsp_export.hub import check_repo_id

        check_repo_id(push)
