"""Upload an exported directory to the Hugging Face hub."""

import os
import re
import tempfile
from dataclasses import replace
from pathlib import Path

from huggingface_hub import HfApi, get_token

from ..text import one_line
from .card import card
from .model import ExportModel, ExportResult

NAME = re.compile(r"[\w][\w.-]*/[\w][\w.-]*")


def check_name(name: str) -> None:
    """Raise ValueError for what is no OWNER/NAME, and when nobody is logged in: before anything is written."""
    if not NAME.fullmatch(name):
        raise ValueError(f"--push {name}: OWNER/NAME is wanted, of letters, digits, '-', '_' and '.'")
    if not get_token():
        raise ValueError(f"--push {name}: nobody is logged in to the hub; `hf auth login`, or set HF_TOKEN")


def push(model: ExportModel, result: ExportResult, out: Path, name: str, *, public: bool) -> str:
    """Upload the directory `out` with a card that loads it from the hub; returns its address there.

    ValueError in one line when the hub does not answer or refuses; what was exported stays as it is.
    """
    load = hub_code(result.load, str(out), name)
    api = HfApi(endpoint=os.environ.get("HF_ENDPOINT"))
    try:
        url = api.create_repo(name, private=not public, exist_ok=True, repo_type="model")
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "README.md"
            file.write_text(card(model, replace(result, load=load)), encoding="utf-8")
            api.upload_folder(repo_id=name, folder_path=out, ignore_patterns=["README.md"], commit_message="Weights")
            api.upload_file(path_or_fileobj=file, path_in_repo="README.md", repo_id=name, commit_message="Model card")
    except Exception as e:  # the hub's own, and those of whichever HTTP client it uses
        raise ValueError(f"--push {name}: the hub did not take it, {out} is complete here: {one_line(e)}") from e
    return str(url)


def hub_code(load: str, out: str, name: str) -> str:
    """Rewrite the lines that load a directory to load the same from the hub."""
    if "local-dir:" in load:
        return load.replace(f"local-dir:{out}", f"hf-hub:{name}")
    if f'"{out}/' in load:
        load = load.replace(f'"{out}/', f'snapshot_download("{name}") + "/')
        return f"from huggingface_hub import snapshot_download\n{load}"
    return load.replace(f'"{out}"', f'"{name}"')
