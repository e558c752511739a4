"""The 1,000 words of ImageNet-1k, put together at run time from what open_clip and timm carry."""

from __future__ import annotations

from collections import Counter
from typing import Any

from .suggestions import normalize


def imagenet_columns() -> dict[str, Any]:
    """Make the class-name table of ImageNet-1k, in the order of the 1,000 outputs of its classifiers.

    The name is the one that CLIP's authors chose (open_clip carries them); where two classes got the same one, the
    first of WordNet's lemmas (timm carries them) that only this class has. The other lemmas are synonyms, if only one
    class has them.

    Returns:
        Columns ``names``, ``keys`` (WordNet ids such as n01440764, the folder names of the dataset) and ``synonyms``.

    Raises:
        ValueError: if the installed packages disagree about the number of classes.
    """
    from open_clip.zero_shot_metadata import IMAGENET_CLASSNAMES
    from timm.data import ImageNetInfo

    info = ImageNetInfo("imagenet-1k")
    lemmas = [[part.strip() for part in text.split(",")] for text in info.label_descriptions()]
    names, keys = list(IMAGENET_CLASSNAMES), info.label_names()
    if not len(names) == len(lemmas) == len(keys) == 1000:
        raise ValueError(f"ImageNet-1k: open_clip has {len(names)} names, timm has {len(lemmas)} classes, not 1,000")
    owners = Counter(normalize(lemma) for group in lemmas for lemma in {normalize(lemma): lemma for lemma in group})
    repeated = {name for name, count in Counter(names).items() if count > 1}
    for index, name in enumerate(names):
        free = [lemma for lemma in lemmas[index] if owners[normalize(lemma)] == 1]
        if name in repeated and free and names.count(name) > 1:
            names[index] = free[0]
    taken = {normalize(name) for name in names}
    synonyms = [
        [lemma for lemma in group if owners[normalize(lemma)] == 1 and normalize(lemma) not in taken]
        for group in lemmas
    ]
    return {"names": names, "keys": keys, "synonyms": synonyms}
