"""The first stage's head: CTC over the LLM's own word vectors."""

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch.nn import functional as F  # noqa: N812
from training.heads import WordHead, ctc


def words() -> torch.Tensor:
    return torch.randn(4000, 576, generator=torch.Generator().manual_seed(0)) * 0.1


def test_a_soft_token_that_is_a_word_spells_it_and_is_as_near_as_can_be() -> None:
    rows = words()
    head = WordHead(rows)
    soft = rows[[3, 7, 3]][None]
    log_probs, _ = head(soft)
    assert log_probs.argmax(-1).tolist() == [[4, 8, 4]]  # 0 is the blank
    assert log_probs.exp().sum(-1).allclose(torch.ones(1, 3))
    assert abs(head.nearness(soft, log_probs) - 1) < 1e-5


def test_no_more_than_a_near_word_is_certain() -> None:
    rows = words()
    head = WordHead(rows)
    direction = F.normalize(rows[3] - rows.mean(0), dim=0)
    other = torch.randn(576, generator=torch.Generator().manual_seed(1))
    away = F.normalize(other - (other @ direction) * direction, dim=0)
    certain = []
    for cosine in (0.4, 0.9):
        unit = cosine * direction + (1 - cosine**2) ** 0.5 * away
        log_probs, _ = head((rows.mean(0) + unit)[None, None])
        certain.append(log_probs[0, 0, 4].exp().item())
    assert certain[0] < 0.6 < 0.95 < certain[1]


def test_written_words_look_like_soft_tokens_that_spell_them() -> None:
    torch.manual_seed(1)
    head = WordHead(words())
    soft = head.written([4, 8, 4])
    log_probs, norm_error = head(soft[None])
    best = log_probs[0].argmax(-1).tolist()
    assert [t for t in best if t] == [4, 8, 4]
    assert 3 <= len(best) <= 12
    assert norm_error < 1e-3  # rows differ in length
    assert 0.6 < head.nearness(soft[None], log_probs) < 0.85


def test_goes_on_with_a_blank_that_was_kept_in_half_precision(tmp_path: Path) -> None:
    head, kept = WordHead(words()), torch.randn(576)
    save_file({"blank": kept.half()}, tmp_path / "head.safetensors")
    head.load(tmp_path / "head.safetensors")
    assert head.blank.equal(kept.half().float())
    with torch.autocast("cpu", torch.bfloat16):  # mixed with float16 it fails here
        head(torch.randn(1, 3, 576))


def test_ctc_over_a_target_s_own_tokens_is_ctc_over_all_of_them() -> None:
    targets = [[1, 2, 3], [5, 5, 6], [7], [8, 9, 8, 8], [3, 3, 3], [3, 4, 3, 4], [2] * 9]
    lengths = torch.tensor([len(ids) for ids in targets])
    logits = torch.randn(len(targets), 12, 40, generator=torch.Generator().manual_seed(0))
    logits.requires_grad_()
    log_probs = logits.log_softmax(-1)
    whole = F.ctc_loss(
        log_probs.transpose(0, 1),
        torch.tensor([token for ids in targets for token in ids]),
        torch.full((len(targets),), 12),
        lengths,
        reduction="none",
        zero_infinity=True,  # the last one is too long
    )
    own = ctc(log_probs, targets)
    torch.testing.assert_close(own, whole)
    (wanted,) = torch.autograd.grad((whole / lengths).mean(), logits, retain_graph=True)
    (found,) = torch.autograd.grad((own / lengths).mean(), logits)
    torch.testing.assert_close(found, wanted)
