"""The recurrent policy of MnasNet's controller (Tan et al. 2019, section 4.2; Zoph and Le 2017, section 3.1).

A candidate is a sequence of tokens, one for each active choice, in the domain's order. An LSTM cell reads the
embedding of the previous token, and a linear head for each choice gives the probabilities of its values. Inactive
choices are skipped.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from nas.spaces.encoding import EncodedSpace, Indices

HIDDEN = 64
SAMPLES = 8
"""Candidates drawn for each proposal, to find a fresh one. As a batch they cost little more than one."""


class Policy(nn.Module):
    """The probabilities of candidates. The vocabulary contains all values of all choices; each choice owns a slice.

    The initial weights are always the same. They are on the CPU, where such a small network is fastest.
    """

    def __init__(self, domain: EncodedSpace):
        super().__init__()
        self._domain = domain
        widths = domain.widths.astype(np.int64)
        self._first = np.cumsum(widths) - widths
        size = int(widths.sum())
        place_of = torch.from_numpy(np.repeat(np.arange(len(widths)), widths))
        self.register_buffer("offered", place_of == torch.arange(len(widths))[:, None])  # (choices, vocabulary)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.embedding = nn.Embedding(size + 1, HIDDEN)  # the last embedding starts a sequence
            self.cell = nn.LSTM(HIDDEN, HIDDEN, batch_first=True)
            self.head = nn.Linear(HIDDEN, size)
        nn.init.zeros_(self.head.weight)  # start uniform
        nn.init.zeros_(self.head.bias)

    @torch.no_grad()
    def sample(self, seed: int, count: int = SAMPLES) -> Indices:
        """Draw rows, (count, choices), with a generator of this seed."""
        generator = torch.Generator(self.head.bias.device).manual_seed(seed)
        rows = np.full((count, len(self._first)), -1, np.int16)
        token = torch.full((count, 1), self.head.out_features, device=self.head.bias.device)
        state = tuple(torch.zeros(1, count, HIDDEN, device=self.head.bias.device) for _ in range(2))
        for place in range(len(self._first)):
            active = self._domain.active(rows, place)
            if not active.any():
                continue
            output, after = self.cell(self.embedding(token), state)
            low, high = int(self._first[place]), int(self._first[place] + self._domain.widths[place])
            logits = nn.functional.linear(output[:, 0], self.head.weight[low:high], self.head.bias[low:high])
            drawn = torch.multinomial(logits.softmax(dim=1), 1, generator=generator)
            rows[active, place] = drawn[:, 0].cpu().numpy()[active]
            steps = torch.from_numpy(active).to(token.device)[:, None]
            token = torch.where(steps, drawn + low, token)
            state = tuple(torch.where(steps, new, old) for new, old in zip(after, state, strict=True))
        return rows

    def forward(self, rows: Indices) -> tuple[Tensor, Tensor]:
        """Return the log-probability of each row, (N,), and the mean entropy of its choices, (N,)."""
        device = self.head.bias.device
        order = np.argsort(rows < 0, axis=1, kind="stable")  # active choices first, in order
        active = torch.from_numpy(np.take_along_axis(rows, order, 1) >= 0).to(device)
        tokens = np.take_along_axis(self._first + np.maximum(rows, 0), order, 1)
        begin = np.full((len(rows), 1), self.head.out_features)
        before = torch.from_numpy(np.concatenate([begin, tokens[:, :-1]], axis=1)).to(device)
        output, _ = self.cell(self.embedding(before))
        offered = self.get_buffer("offered")[torch.from_numpy(order).to(device)]
        logs = self.head(output).masked_fill(~offered, -torch.inf).log_softmax(dim=2)
        chosen = logs.gather(2, torch.from_numpy(tokens).to(device)[:, :, None])[:, :, 0]
        entropy = -(logs.exp() * logs.masked_fill(~offered, 0.0)).sum(dim=2)
        count = active.sum(dim=1)
        return (chosen * active).sum(dim=1), (entropy * active).sum(dim=1) / count
