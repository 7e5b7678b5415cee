"""SmolLM2 frozen, with LoRA beside its query and value projections, fed with embeddings.

The frozen weights and all of the arithmetic but the norms, the logits' softmax and the LoRA's own
numbers are `precision.FAST`.
"""

from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from transformers import LlamaConfig, LlamaModel

from training.lora import RANK, LoraLinear, cut
from training.precision import FAST
from training.weights import smollm2_state, smollm2_tokenizer

BEFORE = "<|im_start|>user\n"
AFTER = "\n{}<|im_end|>\n<|im_start|>assistant\n"
END = 2  # <|im_end|>
KEY = "llama_model.base_model.model.model.layers.{}.self_attn.{}_proj.lora_{}.weight"


class SpeakingLlm(nn.Module):
    """The LLM as nano runs it: soft tokens inside its chat template."""

    def __init__(self, gguf: Path, *, dtype: torch.dtype = FAST) -> None:
        super().__init__()
        config = LlamaConfig(
            vocab_size=49152,
            hidden_size=576,
            intermediate_size=1536,
            num_hidden_layers=30,
            num_attention_heads=9,
            num_key_value_heads=3,
            max_position_embeddings=2048,
            rms_norm_eps=1e-5,
            rope_theta=100_000.0,
            rope_parameters={"rope_type": "default", "rope_theta": 100_000.0},
        )
        self.model = LlamaModel(config)
        state = {k.removeprefix("model."): v for k, v in smollm2_state(gguf).items()}
        self.model.load_state_dict(state)
        self.embeddings: Tensor = state["embed_tokens.weight"].clone()
        self.model.to(dtype).requires_grad_(False)
        self.dtype = dtype
        self.rows = self.embeddings.to(dtype)  # of the output
        for layer in self.model.layers:
            layer.self_attn.q_proj = LoraLinear(layer.self_attn.q_proj)
            layer.self_attn.v_proj = LoraLinear(layer.self_attn.v_proj)
        self.tokenizer: Tokenizer = smollm2_tokenizer(gguf)
        self._before = self._rows(BEFORE)

    def _rows(self, text: str) -> Tensor:
        return self.embeddings[self.tokenizer.encode(text).ids]

    def hidden(self, x: Tensor, **options: object) -> tuple[Tensor, object]:
        """[batch, n, d] -> last hidden states [batch, n, d] in `dtype`, and the cache."""
        with torch.autocast("cpu", torch.bfloat16, enabled=self.dtype is torch.bfloat16):
            out = self.model(inputs_embeds=x.to(self.dtype), **options)
        return out.last_hidden_state.to(self.dtype), out.past_key_values

    def lora(self) -> list[nn.Parameter]:
        return [p for n, p in self.named_parameters() if n.endswith((".a", ".b"))]

    def set_scale(self, scale: float) -> None:
        for module in self.modules():
            if isinstance(module, LoraLinear):
                module.scale = scale

    def lora_state(self) -> dict[str, Tensor]:
        """The LoRA under the names of SALMONN's checkpoints."""
        return {
            KEY.format(i, name, half.upper()): getattr(
                getattr(layer.self_attn, f"{name}_proj"), half
            ).detach()
            for i, layer in enumerate(self.model.layers)
            for name in "qv"
            for half in "ab"
        }

    def load_lora(self, state: dict[str, Tensor]) -> None:
        """An adapter; of a higher rank than ours, what of it is largest; of a lower, with more."""
        if min(next(iter(state.values())).shape) > RANK:
            state = cut(state, RANK)
        for key, tensor in self.lora_state().items():
            given = state[key].float()
            if "lora_B" in key:
                tensor.zero_()  # what the given one does not have does nothing yet
            tensor[tuple(slice(n) for n in given.shape)] = given

    def prompt(self, soft: Tensor, question: str) -> Tensor:
        """Soft tokens [n_soft, d] of a clip -> embeddings [n, d] up to where the answer starts."""
        return torch.cat([self._before, soft, self._rows(AFTER.format(question))])

    def loss(self, soft: list[Tensor], questions: list[str], answers: list[str]) -> Tensor:
        """Mean cross-entropy of the answers' tokens; logits only where there are targets."""
        rows, labels = [], []
        for tokens, question, answer in zip(soft, questions, answers, strict=True):
            ids = [*self.tokenizer.encode(answer).ids, END]
            prompt = self.prompt(tokens, question)
            rows.append(torch.cat([prompt, self.embeddings[ids[:-1]]]))
            labels.append([-1] * (len(prompt) - 1) + ids)
        width = max(len(r) for r in rows)
        # Padding on the right: under a causal mask no target sees it.
        x = torch.stack([F.pad(r, (0, 0, 0, width - len(r))) for r in rows])
        y = torch.tensor([row + [-1] * (width - len(row)) for row in labels])
        hidden, _ = self.hidden(x, use_cache=False)
        return F.cross_entropy((hidden[y >= 0] @ self.rows.T).float(), y[y >= 0])

    def answers(self, soft: list[Tensor], questions: list[str], most: int = 60) -> list[str]:
        """Greedy answers."""
        return self._greedy([self.prompt(s, q) for s, q in zip(soft, questions, strict=True)], most)

    def written_answers(self, questions: list[str], most: int = 40) -> list[str]:
        """The LLM alone, without its LoRA, to questions as text."""
        scales = {m: m.scale for m in self.modules() if isinstance(m, LoraLinear)}
        self.set_scale(0.0)
        said = self._greedy([self._rows(BEFORE + q + AFTER[3:]) for q in questions], most)
        for module, scale in scales.items():
            module.scale = scale
        return said

    @torch.no_grad()
    def _greedy(self, prompts: list[Tensor], most: int) -> list[str]:
        width = max(len(p) for p in prompts)
        # Padding on the left, masked: rotary positions are relative, so it changes nothing else.
        x = torch.stack([F.pad(p, (0, 0, width - len(p), 0)) for p in prompts])
        mask = torch.stack([torch.arange(width) >= width - len(p) for p in prompts]).long()
        hidden, past = self.hidden(x, attention_mask=mask, use_cache=True)
        ids: list[list[int]] = [[] for _ in prompts]
        live = [True] * len(prompts)
        for _ in range(most):
            best = (hidden[:, -1] @ self.rows.T).argmax(-1)
            for row, token in enumerate(best.tolist()):
                live[row] = live[row] and token != END
                if live[row]:
                    ids[row].append(token)
            if not any(live):
                break
            mask = F.pad(mask, (0, 1), value=1)
            hidden, past = self.hidden(
                self.embeddings[best][:, None],
                attention_mask=mask,
                past_key_values=past,
                use_cache=True,
            )
        return [self.tokenizer.decode(row).strip() for row in ids]
