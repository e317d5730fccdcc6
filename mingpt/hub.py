"""Where a model lies: in a folder, or under a name on the Hugging Face Hub, which is fetched once and kept.

huggingface_hub does the fetching, so that its cache, mirrors, tokens and offline mode (HF_HOME,
HF_ENDPOINT, HF_TOKEN, HF_HUB_OFFLINE) are what they are everywhere, and what transformers has
fetched is not fetched again.
"""

from __future__ import annotations

import re
from pathlib import Path

from mingpt import gpt2, weights
from mingpt.errors import UserError
from mingpt.settings import nearest

KNOWN = ("gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl", "distilgpt2")
OWNER_AND_NAME = re.compile(r"[A-Za-z0-9_.-]+/[A-Za-z0-9_.-]+")
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
)


def locate(name_or_folder: str | Path) -> Path:
    """The folder of a model: the one given, or the one in the hub's cache after what it lacks was fetched.

    Raises UserError, with what to do about it, where there is neither.
    """
    name = str(name_or_folder)
    if is_folder(name):
        return Path(name)
    if name not in KNOWN and not OWNER_AND_NAME.fullmatch(name):
        known = ", ".join(KNOWN)
        raise UserError(
            f"{name}: is neither a folder nor a known model; known are {known}, and OWNER/NAME on the hub"
            f"{nearest(name, KNOWN)}"
        )
    owner = name.partition("/")[0]
    if owner != name and is_folder(owner):  # a path, most likely, and no business of the hub's
        raise UserError(f"{name}: is no folder; the hub is not asked, since {owner} is a folder here")
    return fetch(name)


def is_folder(name: str) -> bool:
    try:
        return Path(name).is_dir()
    except OSError:  # no file's name may be so long
        return False


def fetch(name: str) -> Path:
    """The folder in the hub's cache with the model of that name; all of its files are of one commit.

    The settings come first, since most models of the hub are none of this kind.
    """
    obstacle = why_unreachable(name)
    config = download(name, "config.json", obstacle)
    if config is None:
        raise UserError(f"{name}: has no config.json on the hub, so it is no model of this kind")
    gpt2.read_config(config)
    folder, commit = config.parent, config.parent.name
    candidates = [file for file in weights.NAMES if (folder / file).exists()] or weights.NAMES
    found = next(filter(None, (download(name, file, obstacle, commit) for file in candidates)), None)
    if found is None:
        raise UserError(f"{name}: has no weights on the hub that can be read here; {weights.ACCEPTED} can")
    for shard in weights.shards(found):
        if download(name, shard.name, obstacle, commit) is None:
            raise UserError(f"{name}: {shard.name}, which {found.name} names, is not on the hub")
    if not obstacle:  # else those in the cache must do: a model opens without
        for file in TOKENIZER_FILES:
            download(name, file, obstacle, commit)
    return folder


def why_unreachable(name: str) -> str:
    """Why the hub cannot be asked now, or nothing: one question, where a download would try for half a minute."""
    from huggingface_hub import constants, errors, get_hf_file_metadata, hf_hub_url

    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    try:
        get_hf_file_metadata(hf_hub_url(name, "config.json"), timeout=constants.HF_HUB_ETAG_TIMEOUT)
    except errors.HFValidationError:
        raise UserError(f"{name}: is no folder, and no name that a model on the hub can have") from None
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        return f"the hub has a problem of its own (it answers {status})" if status == 429 or status >= 500 else ""
    except Exception as error:  # each version of the library stands on other classes of network errors
        return f"the hub cannot be reached ({type(error).__name__}: {first_line(error)})"
    return ""


def download(name: str, file: str, obstacle: str, commit: str | None = None) -> Path | None:
    """A file of a model's in the cache, fetched if need be and if no obstacle is known; None where the hub has none."""
    from huggingface_hub import _CACHED_NO_EXIST, errors, hf_hub_download, try_to_load_from_cache

    if commit is not None and try_to_load_from_cache(name, file, revision=commit) is _CACHED_NO_EXIST:
        return None
    try:
        return Path(hf_hub_download(name, file, revision=commit, local_files_only=bool(obstacle)))
    except errors.LocalEntryNotFoundError:
        obstacle = obstacle or "the connection to the hub is lost"
        problem = f"is no folder, and its {file} is not in the hub's cache; {obstacle}, and the network is needed once"
    except errors.EntryNotFoundError:
        return None
    except errors.GatedRepoError:
        problem = "is gated; accept its terms on the hub, then log in with `hf auth login` or set HF_TOKEN"
    except errors.RepositoryNotFoundError:
        problem = "is neither a folder nor on the hub, unless it is private: then `hf auth login` or set HF_TOKEN"
    except Exception as error:  # a full disk, a broken connection: what they raise has no class in common
        problem = f"{file} could not be fetched from the hub ({type(error).__name__}: {first_line(error)})"
    raise UserError(f"{name}: {problem}")


def first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
