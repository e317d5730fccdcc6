"""The border to a tokenizer's files in a folder, here and in transformers.

    tokenizer.json              all of it; where there is none, GPT-2's own two files:
    vocab.json, merges.txt      the id of each token, and the pairs to join
    tokenizer_config.json       what the special tokens are for; older folders say it in
                                special_tokens_map.json and added_tokens.json too

A folder is opened only where every text that spells no special token gets the ids that
transformers gives it. Anything else is refused, by the names of the file and the key.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mingpt import files
from mingpt.data.tokenizer_checks import check_alphabet, check_is_plain, check_merges, check_steps, refuse
from mingpt.data.vocabulary import BYTE_IDS, END_OF_TEXT, SPLITS, Vocabulary
from mingpt.errors import UserError

LARGEST_ID = 1 << 24  # a larger one is a mistake, for which the table of pieces would fill the memory
CLASSES = (None, "GPT2Tokenizer", "GPT2TokenizerFast", "PreTrainedTokenizerFast", "TokenizersBackend")
DEFAULT_ROLES = dict.fromkeys(("bos_token", "eos_token"), END_OF_TEXT)  # in transformers' GPT2Tokenizer
SPECIAL_KEYS = ("additional_special_tokens", "extra_special_tokens")


# ---- Reading ----


def read_folder(folder: Path) -> Vocabulary:
    """The vocabulary in a folder. Raises UserError where its files are missing, torn or of another kind."""
    config = folder / "tokenizer_config.json"
    settings = read_object(config) or {}
    name, adds_space = settings.get("tokenizer_class"), settings.get("add_prefix_space")
    refuse(
        config,
        ("tokenizer_class", name, name in CLASSES, "GPT2Tokenizer or PreTrainedTokenizerFast"),
        ("add_prefix_space", adds_space, not adds_space, "false"),
    )
    path = pairs_path = folder / "tokenizer.json"
    content = read_object(path)
    if content is None:
        check_is_there(folder)
        keys = ("add_bos_token", "add_eos_token")  # beside a tokenizer.json they have no effect
        refuse(config, *((key, settings.get(key), not settings.get(key), "false") for key in keys))
        path, pairs_path = folder / "vocab.json", folder / "merges.txt"
        model = {"vocab": read_object(path), "merges": read_merges(pairs_path)}
        content = {"model": model, "pre_tokenizer": SPLITS["bpe"]}
    with reading(path):
        kind = check_steps(path, content)
        ids = checked_ids(content["model"]["vocab"])
        merges = [as_pair(merge) for merge in content["model"]["merges"]]
        listed = [(path, checked_token(token)) for token in content.get("added_tokens") or []]
    if kind == "bpe":
        check_alphabet(path, ids)
        check_merges(pairs_path, ids, merges)
    vocabulary = with_special_tokens(folder, settings, Vocabulary(kind, ids, merges), listed)
    if kind != "bpe":
        check_is_written_here(path, vocabulary)
    return vocabulary


def check_is_written_here(path: Path, vocabulary: Vocabulary) -> None:
    """Raise UserError where a vocabulary of characters or bytes has anything but those and special tokens."""
    kind = vocabulary.kind
    ids = {token: i for token, i in vocabulary.ids.items() if token not in vocabulary.special}
    is_ours = ids == (BYTE_IDS if kind == "byte" else {token: i for i, token in enumerate(sorted(ids))})
    if not (is_ours and ids and all(len(token) == 1 for token in ids)) or vocabulary.merges or vocabulary.added:
        raise UserError(f"{path}: is neither GPT-2's kind of BPE nor one of {kind}s as it is written here")


def check_is_there(folder: Path) -> None:
    """Raise UserError where a folder without tokenizer.json has not GPT-2's two files either."""
    found = [name for name in ("vocab.json", "merges.txt") if (folder / name).exists()]
    if len(found) == 2:
        return
    accepted = "accepted is a byte-level BPE, as tokenizer.json, or as vocab.json with merges.txt"
    for pattern, what in {"vocab.txt": "a WordPiece vocabulary", "*.model": "a SentencePiece model"}.items():
        for path in sorted(folder.glob(pattern)):
            raise UserError(f"{path}: is {what}; {accepted}")
    what = f"only {found[0]}" if found else "no tokenizer"
    raise UserError(f"{folder}: holds {what}; {accepted}")


def with_special_tokens(
    folder: Path, settings: dict[str, Any], vocabulary: Vocabulary, listed: list[tuple[Path, dict[str, Any]]]
) -> Vocabulary:
    """The vocabulary with the special and added tokens that the folder names beside its pieces of words.

    `settings` are those of tokenizer_config.json; `listed` are the added tokens known so far, each with its file.
    """
    config = folder / "tokenizer_config.json"
    roles, special = special_names(config, settings)
    roles = DEFAULT_ROLES | roles
    with reading(config):
        decoder = settings.get("added_tokens_decoder")
        listed = listed + [(config, checked_token({**token, "id": int(i)})) for i, token in (decoder or {}).items()]
    if decoder is None:  # where there is one, transformers does not look at the older files
        older = folder / "special_tokens_map.json"
        more_roles, more = special_names(older, read_object(older) or {})
        roles, special = roles | more_roles, special | more
        older = folder / "added_tokens.json"
        with reading(older):
            found = read_object(older) or {}
            listed += [(older, checked_token(dict(content=token, id=i))) for token, i in found.items()]
    special |= {*roles.values(), *(token["content"] for _, token in listed if token.get("special"))}
    ids, added = dict(vocabulary.ids), set()
    template = settings.get("chat_template")
    tokens = {i: token for token, i in ids.items()}
    for path, token in listed:
        content, i = token["content"], token["id"]
        if ids.setdefault(content, i) != i:
            raise UserError(f"{path}: the token {content!r} has two ids, {ids[content]} and {i}")
        if tokens.setdefault(i, content) != content:
            raise UserError(f"{path}: the id {i} has two tokens, {tokens[i]!r} and {content!r}")
        if content not in special:
            check_is_plain(path, token)
            added.add(content)
    return Vocabulary(
        vocabulary.kind,
        ids,
        vocabulary.merges,
        special=tuple(sorted(special & ids.keys(), key=ids.__getitem__)),
        added=tuple(sorted(added, key=ids.__getitem__)),
        roles={role: token for role, token in roles.items() if token in ids},
        chat_template=template if isinstance(template, str) else "",  # some folders have a list of them
    )


def special_names(path: Path, settings: dict[str, Any]) -> tuple[dict[str, str | None], set[str | None]]:
    """What tokens are for, and those that are special for another reason, as tokenizer_config.json says it."""
    with reading(path):
        named = {key: value for key, value in settings.items() if key.endswith("_token")}
        roles = {key: spelling(value) for key, value in named.items() if isinstance(value, str | dict | None)}
        more: set[str | None] = set()
        for key in SPECIAL_KEYS:
            values = settings.get(key) or []
            more |= {spelling(value) for value in (values.values() if isinstance(values, dict) else values)}
        return roles, more


def spelling(token: str | dict[str, Any] | None) -> str | None:
    content = token["content"] if isinstance(token, dict) else token
    if not isinstance(content, str | None):
        raise ValueError(f"{content!r} is no token")
    return content


def checked_token(token: dict[str, Any]) -> dict[str, Any]:
    """The same, once it is an added token. Raises ValueError, KeyError or TypeError where it is not."""
    checked_ids({token["content"]: token["id"]})
    return token


def checked_ids(ids: dict[str, int]) -> dict[str, int]:
    """The same, once it is one id for each token. Raises ValueError, TypeError or AttributeError where it is not."""
    tokens: dict[int, str] = {}
    for token, i in ids.items():
        if type(i) is not int or not 0 <= i < LARGEST_ID:
            raise ValueError(f"{i!r} is no id")
        if not token.encode("utf-8") or tokens.setdefault(i, token) != token:
            raise ValueError(f"{token!r} has the id {i}, which is that of {tokens.get(i, 'no token')!r}")
    return ids


def as_pair(merge: str | list[str] | tuple[str, str]) -> tuple[str, str]:
    left, right = merge.split(" ") if isinstance(merge, str) else merge
    if not (isinstance(left, str) and isinstance(right, str)):
        raise ValueError(f"the merge {merge!r} is no pair of tokens")
    return left, right


def read_merges(path: Path) -> list[tuple[str, str]]:
    """The pairs in a merges.txt. Only its first line may be a comment: a pair, too, may begin with #."""
    with reading(path):
        lines = path.read_text(encoding="utf-8").split("\n")
        return [as_pair(line) for line in lines[lines[0].startswith("#version") :] if line]


def read_object(path: Path) -> dict[str, Any] | None:
    """The object in a JSON file, or None where there is no file."""
    with reading(path):
        try:
            return files.read_json_object(path)
        except (FileNotFoundError, NotADirectoryError):
            return None


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """What is wrong with a file's content becomes a UserError of one line that names it."""
    try:
        yield
    except UserError:
        raise
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: is torn or no tokenizer file ({type(error).__name__}: {error})") from None


# ---- Writing ----


def write_folder(folder: Path, vocabulary: Vocabulary) -> None:
    """tokenizer.json and tokenizer_config.json, and of a BPE also GPT-2's two files, each whole or not there."""
    folder.mkdir(parents=True, exist_ok=True)
    split = SPLITS[vocabulary.kind]
    config: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    config |= dict.fromkeys(DEFAULT_ROLES) | vocabulary.roles
    if vocabulary.chat_template:
        config["chat_template"] = vocabulary.chat_template
    if vocabulary.kind == "bpe":
        files.write_json(folder / "vocab.json", vocabulary.ids, indent=None)
        write_merges(folder / "merges.txt", vocabulary.merges)
    tokenizer = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            added_token(vocabulary.ids[token], token, is_special=token in vocabulary.special)
            for token in sorted((*vocabulary.special, *vocabulary.added), key=vocabulary.ids.__getitem__)
        ],
        "normalizer": None,
        "pre_tokenizer": split,
        "post_processor": None,
        "decoder": split or {"type": "Fuse"},
        "model": {"type": "BPE", "vocab": vocabulary.ids, "merges": vocabulary.merges},
    }
    files.write_json(folder / "tokenizer.json", tokenizer, indent=None)
    files.write_json(folder / "tokenizer_config.json", config)


def added_token(i: int, content: str, is_special: bool) -> dict[str, Any]:
    anywhere = dict(single_word=False, lstrip=False, rstrip=False, normalized=not is_special)
    return {"id": i, "content": content, **anywhere, "special": is_special}


def write_merges(path: Path, merges: list[tuple[str, str]]) -> None:
    with files.written_whole(path) as beside:
        lines = (f"{left} {right}\n" for left, right in merges)
        beside.write_text("".join(["#version: 0.2\n", *lines]), encoding="utf-8")
