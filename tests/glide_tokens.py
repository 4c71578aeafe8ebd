"""A tokenizer of GPT-2's kind with a small vocabulary: all bytes, and a few pairs that are merged."""

import gzip
import json

MERGES = [("c", "a"), ("ca", "t"), ("Ġ", "cat"), ("Ġ", "d"), ("o", "g"), ("Ġd", "og"), ("Ã", "¶"), ("#", "#")]
"""Of "cat", " cat", " dog", "ö" and "##"; Ġ stands for a space."""


def letters():
    """The letter that stands for each byte, in GPT-2's order: bytes that can be printed first, as themselves."""
    printed = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printed]
    return [*map(chr, printed), *(chr(256 + n) for n in range(len(others)))]


VOCABULARY = {token: n for n, token in enumerate([*letters(), *("".join(pair) for pair in MERGES)])}
N_VOCAB = len(VOCABULARY) + 1


def write(folder, names=("vocab.json", "merges.txt"), vocabulary=VOCABULARY):
    """Write the two files, compressed where their names say so."""
    folder.mkdir(parents=True, exist_ok=True)
    merges = "#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in MERGES)
    for name, content in zip(names, (json.dumps(vocabulary), merges), strict=True):
        content = content.encode()
        (folder / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    return folder
