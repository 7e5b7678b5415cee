"""What the first stage reads out of soft tokens; thrown away with it."""

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from training.shards import N_TAUGHT

# What the cosines are multiplied by. A learnt factor grows to 40, where tokens are told apart at a
# cosine of 0.38 to their words, and the LLM, which reads the vectors themselves, then misreads half
# of what CTC spells right (docs/nano-log.md). At 16 nothing is certain before it is near.
SHARPNESS = 16.0


class WordHead(nn.Module):
    """Soft tokens to log-probabilities over [blank, token 0, token 1, ...]."""

    mean: Tensor
    words: Tensor
    norm: Tensor

    def __init__(self, rows: Tensor) -> None:
        super().__init__()
        mean = rows.mean(0)
        self.register_buffer("mean", mean)
        self.register_buffer("words", F.normalize(rows - mean, dim=-1))
        self.register_buffer("norm", (rows - mean).norm(dim=-1).mean())
        self.blank = nn.Parameter(torch.randn(rows.shape[1]) * 0.02)

    def load(self, path: Path) -> None:
        """The blank that a run ended with; what is kept for others to go on from is float16."""
        self.blank.data = load_file(path)["blank"].float()

    def forward(self, soft: Tensor) -> tuple[Tensor, Tensor]:
        """[batch, n, d] -> log-probabilities [batch, n, 1 + n_tokens], mean norm error."""
        centred = soft - self.mean
        norm = centred.norm(dim=-1, keepdim=True)
        unit = SHARPNESS * centred / norm
        # Apart from the words, which need no gradient.
        blank = unit @ F.normalize(self.blank, dim=0)[:, None]
        logits = torch.cat([blank, unit @ self.words.T], -1)
        return logits.log_softmax(-1), (norm / self.norm - 1).square().mean()

    @torch.no_grad()
    def written(self, ids: list[int]) -> Tensor:
        """Words as soft tokens would spell them, [n_soft, d]: near their rows, blanks between.

        `ids` count from 1, as in the log-probabilities. So the LLM can be taught to answer more
        questions than anybody has spoken.
        """
        spaced: list[int] = []
        for i in ids:
            spaced += [i] + [0] * int(torch.randint(4, ()))
        table = torch.cat([F.normalize(self.blank, dim=0)[None], self.words])
        right = table[spaced]
        wrong = F.normalize(torch.randn_like(right), dim=-1)
        cosine = torch.empty(len(right), 1).uniform_(0.6, 0.85)  # as the first stage ends with
        return self.mean + self.norm * (cosine * right + (1 - cosine**2).sqrt() * wrong)

    def nearness(self, soft: Tensor, log_probs: Tensor) -> float:
        """Mean cosine of the tokens that spell something to the rows they spell."""
        best = log_probs.argmax(-1)
        directions = F.normalize(soft - self.mean, dim=-1)[best > 0]
        return float((directions * self.words[best[best > 0] - 1]).sum(-1).mean())


def ctc(log_probs: Tensor, targets: list[list[int]]) -> Tensor:
    """[batch, n_soft, 1 + n_tokens] -> CTC loss of each clip [batch].

    torch's goes over all tokens that there are, forth and back: seven times as long as over the
    blank and the target's own, which are all that the loss depends on.
    """
    width = max(len(ids) for ids in targets)
    own = torch.zeros(len(targets), 1 + width, dtype=torch.long)
    placed: list[int] = []
    for row, ids in enumerate(targets):
        own[row, 1 : 1 + len(ids)] = torch.tensor(ids)
        for k, token in enumerate(ids):  # a repeat must be seen to be one: a blank stands between
            placed.append(placed[-1] if k and token == ids[k - 1] else k + 1)
    own_log_probs = log_probs.gather(2, own[:, None].expand(-1, log_probs.shape[1], -1))
    loss = F.ctc_loss(
        own_log_probs.transpose(0, 1),
        torch.tensor(placed),
        torch.full((len(targets),), log_probs.shape[1]),
        torch.tensor([len(ids) for ids in targets]),
        reduction="none",
        zero_infinity=True,
    )
    # Its gradient adds the probabilities themselves, as if these tokens were all there are.
    added = own_log_probs.exp().sum((1, 2)) * (loss > 0)
    return loss - (added - added.detach())


class TeacherHead(nn.Module):
    """Soft tokens to the logits of the teacher's classes for the clip as a whole."""

    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.linear = nn.Linear(2 * d_model, N_TAUGHT)
        nn.init.constant_(self.linear.bias, -6.0)

    def forward(self, soft: Tensor) -> Tensor:
        """[batch, n, d] -> [batch, 521]."""
        logits: Tensor = self.linear(torch.cat([soft.mean(1), soft.amax(1)], -1))
        return logits
