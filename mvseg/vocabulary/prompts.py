"""Turning words into sentences for a text encoder, and several sentences into one embedding for each word."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import Literal

import torch
from torch import Tensor

from .encoders import TextEncoder
from .suggestions import did_you_mean
from .vocabulary import Vocabulary
from .wording import Parentheses, spoken, spoken_names

DEFAULT_TEMPLATE = "a {}"

Average = Literal["normalized", "raw"]


@dataclass(frozen=True)
class PromptSet:
    """Prompt templates that are used together, one embedding for a word being the average over them.

    A template has one ``{}`` for the word; ``{a}`` in it becomes "a" or "an", by the word's first letter.

    Args:
        name: name of the set.
        source: the templates, or a function that returns them when they are first asked for.
        lower: whether words are put in lower case, as the published set does.
    """

    name: str
    source: tuple[str, ...] | Callable[[], tuple[str, ...]]
    lower: bool = False

    @cached_property
    def templates(self) -> tuple[str, ...]:
        """The prompt templates.

        Returns:
            At least one template.
        """
        return self.source() if callable(self.source) else self.source


def _clip_templates() -> tuple[str, ...]:
    """The 80 templates that CLIP's authors chose for ImageNet; open_clip carries them as functions of the word."""
    from open_clip import OPENAI_IMAGENET_TEMPLATES

    return tuple(template("{}") for template in OPENAI_IMAGENET_TEMPLATES)


def _vild_templates() -> tuple[str, ...]:
    """The 63 templates of ViLD from their grammar: articles times adjectives; "this is" makes a phrase a sentence."""
    either, fixed = ("{a}", "the"), ("a", "the")
    in_scene = [f"There is {article} {{}} in the scene." for article in either]
    in_scene += [f"This is a photo of {article} {{}} in the scene." for article in (*either, "one")]
    taken = [f"itap of {article} {{}}." for article in ("{a}", "my", "the")]
    photos = [f"a photo of {article} {{}}." for article in ("{a}", "my", "the", "one", "many")]
    photos += [f"a {kind} photo of {article} {{}}." for kind, article in product(("good", "bad"), either)]
    looks = ("nice", "cool", "weird", "small", "large", "clean", "dirty")
    photos += [f"a photo of {article} {look} {{}}." for look, article in product(looks, fixed)]
    photos += [f"a {light} photo of {article} {{}}." for light, article in product(("bright", "dark"), either)]
    photos += [f"a photo of {article} hard to see {{}}." for article in fixed]
    flaws = ("low resolution", "cropped", "close-up", "jpeg corrupted", "blurry", "pixelated", "black and white")
    photos += [f"a {flaw} photo of {article} {{}}." for flaw, article in product(flaws, either)]
    renditions = ("plastic", "toy", "plushie", "cartoon")
    made = [f"{article} {rendition} {{}}." for rendition, article in product(renditions, fixed)]
    made += ["an embroidered {}.", "the embroidered {}.", "a painting of the {}.", "a painting of a {}."]
    return (*in_scene, *taken, *(f"This is {phrase}" for phrase in (*photos, *made)))


PROMPTS: dict[str, PromptSet] = {
    prompts.name: prompts
    for prompts in (
        PromptSet("name", ("{}",)),
        PromptSet("single", (DEFAULT_TEMPLATE,)),
        PromptSet("photo", ("a photo of a {}",)),
        PromptSet("clip_80", _clip_templates),
        PromptSet("vild_63", _vild_templates, lower=True),
    )
}


def get_prompts(text: str) -> PromptSet:
    """Find prompts by what a config or a command line says.

    Args:
        text: name of a set of :data:`PROMPTS`, or templates separated by ``;``, such as ``"a {}; a photo of a {}."``;
            a set's name may stand among templates (``"clip_80; {}."``).

    Returns:
        The prompts.

    Raises:
        ValueError: if a part is neither the name of a set nor a template with one ``{}``.
    """
    parts = [part.strip() for part in text.split(";") if part.strip()]
    if len(parts) == 1 and parts[0] in PROMPTS:
        return PROMPTS[parts[0]]
    templates: list[str] = []
    for part in parts:
        if part in PROMPTS:
            templates += PROMPTS[part].templates
        elif part.count("{}") == 1:
            templates.append(part)
        else:
            known = f"the name of a set ({', '.join(PROMPTS)})"
            raise ValueError(
                f"prompts {part!r}: neither {known} nor a template with one {{}}{did_you_mean(part, PROMPTS)}"
            )
    if not templates:
        raise ValueError(f"prompts {text!r} are empty: name a set ({', '.join(PROMPTS)}) or write templates")
    lower = any(PROMPTS[part].lower for part in parts if part in PROMPTS)
    return PromptSet("; ".join(parts), tuple(templates), lower)


def fill_template(template: str, word: str) -> str:
    """Put a word into a prompt template.

    Args:
        template: text with one ``{}``, and perhaps ``{a}`` for the article.
        word: the word; underscores become spaces.

    Returns:
        The sentence.

    Raises:
        ValueError: if the template has not exactly one ``{}``.
    """
    if template.count("{}") != 1:
        raise ValueError(f"prompt template {template!r} needs exactly one {{}}")
    word = word.replace("_", " ")
    article = "an" if word[:1].lower() in tuple("aeiou") else "a"
    return template.replace("{a}", article).replace("{}", word)


def embed_words(
    encoder: TextEncoder,
    words: Sequence[str],
    templates: Sequence[str] | PromptSet = (DEFAULT_TEMPLATE,),
    average: Average = "normalized",
) -> Tensor:
    """Embed words, each with all prompts, and average over the prompts.

    Source: prompt ensembling of CLIP, Radford et al. 2021, arXiv 2103.00020, section 3.1.4.

    Args:
        encoder: the text encoder, of width D.
        words: n words, said as they are (underscores become spaces).
        templates: prompt templates with one ``{}``, a set of prompts, or a text for :func:`get_prompts`.
        average: "normalized": every embedding is brought to length 1, then the mean is (CLIP, ViLD); "raw": the mean
            of the encoder's embeddings as they are (UniDetector, Detic's published tables of one prompt).

    Returns:
        Embeddings (n, D), float32; for "normalized" each of length 1.
    """
    return _embed_groups(encoder, [[word] for word in words], templates, average)


def embed_vocabulary(
    encoder: TextEncoder,
    vocabulary: Vocabulary,
    prompts: str | Sequence[str] | PromptSet = "single",
    synonyms: Literal["ignore", "average"] = "ignore",
    average: Average = "normalized",
    parentheses: Parentheses = "keep",
) -> Vocabulary:
    """Give a vocabulary the text embeddings of its words as :func:`spoken`.

    Args:
        encoder: the text encoder, of width D.
        vocabulary: the n words.
        prompts: a set of prompts, or as in :func:`get_prompts`, or a list of templates.
        synonyms: "ignore": the name alone; "average": the mean over all sentences of name and synonyms.
        average: whether embeddings are averaged at length 1 ("normalized") or as they are ("raw").
        parentheses: what happens to explanations in parentheses, as in :func:`spoken`.

    Returns:
        A copy of the vocabulary with ``embeddings`` (n, D), float32.

    Raises:
        ValueError: if an option has an unknown value.
    """
    if synonyms not in ("ignore", "average"):
        raise ValueError(f"synonyms={synonyms!r}: choose 'ignore' or 'average'")
    groups = [
        spoken_names(name, others, parentheses) if synonyms == "average" else [spoken(name, parentheses)]
        for name, others in zip(vocabulary.names, vocabulary.synonyms, strict=True)
    ]
    return dataclasses.replace(vocabulary, embeddings=_embed_groups(encoder, groups, prompts, average))


def _embed_groups(
    encoder: TextEncoder, groups: Sequence[Sequence[str]], prompts: str | Sequence[str] | PromptSet, average: Average
) -> Tensor:
    """Average over the sentences of each group of names, (groups, D)."""
    if average not in ("normalized", "raw"):
        raise ValueError(f"average={average!r}: choose 'normalized' or 'raw'")
    if isinstance(prompts, str):
        prompts = get_prompts(prompts)
    elif not isinstance(prompts, PromptSet):
        prompts = PromptSet("templates", tuple(prompts))
    if not prompts.templates:
        raise ValueError("words are embedded with at least one prompt template, found none")
    said = [name.lower() if prompts.lower else name for group in groups for name in group]
    sizes = torch.tensor([len(group) for group in groups])
    owner = torch.repeat_interleave(torch.arange(len(groups)), sizes)
    total = torch.zeros(())  # float64: a sum over hundreds of sentences should not depend on their order
    for template in prompts.templates:
        rows = encoder.encode([fill_template(template, name) for name in said]).double()
        if average == "normalized":
            rows = torch.nn.functional.normalize(rows, dim=1)
        total = total + torch.zeros(len(groups), rows.shape[1], dtype=torch.float64).index_add_(0, owner, rows)
    mean = total / (sizes[:, None] * len(prompts.templates))
    return (torch.nn.functional.normalize(mean, dim=1) if average == "normalized" else mean).float()
