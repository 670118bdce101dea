"""Rows that begin alike are read once: a group's shared prompt, the two answers of a vote.

The idea: eight answers to one prompt are eight rows that begin with the same hundred tokens. Packed into one row, the
prompt stands once at its front (the *trunk*) and the answers behind each other (the *branches*); each branch sees the
trunk and itself, and its positions go on from the trunk's end. Every token then sees just what it would have seen in a
row of its own, so hidden states and gradients are the same, up to rounding, for two to three times fewer tokens.

A cached prefix does the same, and was no quicker: it pads the branches to one length, and writes keys and values of the
trunk once per branch. Nothing is padded here but the last of a few packed rows.

Simplification: all attention scores of a packed row are computed, those between branches too, and then masked.
So rows stay short (`LONGEST`), and a larger group is split over several.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

LONGEST = 512
"""Tokens of a packed row, at most, where there is a choice: attention costs with the square of it."""


class Packed(NamedTuple):
    """R packed rows of L tokens, and where the tokens of the B original rows stand in them."""

    tokens: Tensor
    """[R, L], padded on the right."""
    layout: tuple[Tensor, Tensor]
    """Positions [R, L], and who may look at whom [R, 1, L, L]: what a decoder takes."""
    place: Tensor
    """[B, T] indices into the R · L packed tokens; past the end of an original row, any."""

    def to(self, device: torch.device) -> Packed:
        positions, allowed = self.layout
        return Packed(self.tokens.to(device), (positions.to(device), allowed.to(device)), self.place.to(device))


def pack(sequences: Sequence[list[int]], bundles: Sequence[Sequence[int]]) -> Packed:
    """The B sequences, each bundle of them in one row; `bundles` names every sequence once."""
    trunks = [shared_length([sequences[index] for index in bundle]) for bundle in bundles]
    lengths = [
        trunk + sum(len(sequences[index]) - trunk for index in bundle)
        for trunk, bundle in zip(trunks, bundles, strict=True)
    ]
    longest = max(lengths)
    tokens = torch.zeros(len(bundles), longest, dtype=torch.long)
    positions = torch.zeros(len(bundles), longest, dtype=torch.long)
    branch = torch.full((len(bundles), longest), -1)  # padding sees the trunk and itself, and nobody sees it
    place = torch.zeros(len(sequences), max(map(len, sequences)), dtype=torch.long)
    for row, (bundle, trunk) in enumerate(zip(bundles, trunks, strict=True)):
        first = row * longest
        tokens[row, :trunk] = torch.tensor(sequences[bundle[0]][:trunk])
        positions[row, :trunk] = torch.arange(trunk)
        branch[row, :trunk] = 0
        start = trunk
        for number, index in enumerate(bundle, start=1):
            own = sequences[index][trunk:]
            stop = start + len(own)
            tokens[row, start:stop] = torch.tensor(own, dtype=torch.long)
            positions[row, start:stop] = torch.arange(trunk, trunk + len(own))
            branch[row, start:stop] = number
            place[index, :trunk] = torch.arange(first, first + trunk)
            place[index, trunk : trunk + len(own)] = torch.arange(first + start, first + stop)
            start = stop
    looks, at = branch.unsqueeze(2), branch.unsqueeze(1)  # (R, L, 1), (R, 1, L)
    allowed = ((at == 0) | (looks == at)).tril()
    return Packed(tokens, (positions, allowed.unsqueeze(1)), place)


def bundles(sequences: Sequence[list[int]], prompts: Sequence[tuple[int, ...]]) -> list[list[int]]:
    """Numbers of the sequences that share a prompt, in bundles that make a packed row of at most `LONGEST` tokens."""
    found: list[list[int]] = []
    open_: dict[tuple[int, ...], tuple[list[int], int]] = {}
    for index, (sequence, prompt) in enumerate(zip(sequences, prompts, strict=True)):
        own = len(sequence) - len(prompt)
        bundle, length = open_.get(prompt, ([], len(prompt)))
        if not bundle or length + own > LONGEST:
            bundle, length = [], len(prompt)
            found.append(bundle)
        bundle.append(index)
        open_[prompt] = (bundle, length + own)
    return found


def shared_length(sequences: Sequence[list[int]]) -> int:
    """How many tokens all of them begin with."""
    shortest, longest = min(sequences), max(sequences)  # in the order of a dictionary these two differ first
    for index, (one, other) in enumerate(zip(shortest, longest, strict=False)):
        if one != other:
            return index
    return min(len(shortest), len(longest))
