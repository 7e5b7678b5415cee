"""Language models that can be timed beside ours: ours, llama.cpp, CTranslate2, PyTorch.

Every one prefills token ids and appends one token at a time, giving the likeliest next one. What
another library needs is imported where it is used, so that a missing one is missed by name only.
"""

from __future__ import annotations

import ctypes
import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from kokanee.engine.decoder import Decoder
from kokanee.engine.embedding import Embedding
from kokanee.engine.manifest import Dims
from kokanee.engine.onnx import SPIN_US, open_graph


class Contender(Protocol):
    """A decoder that can be put back to the end of its prompt."""

    name: str

    def prefill(self, ids: Sequence[int]) -> None:
        """Forget everything, then take the prompt."""
        ...

    def step(self, token: int) -> int:
        """Append a token; the likeliest next one."""
        ...


class Kokanee:
    """An LLM graph, adapter included."""

    def __init__(
        self,
        name: str,
        graph: Path,
        embedding: Embedding,
        dims: Dims,
        *,
        n_ctx: int,
        threads: int,
        lora_scale: float = 4.0,
        spin_us: int = SPIN_US,
        kv_scales: dict[str, Any] | None = None,
    ) -> None:
        self.name = name
        self.decoder = Decoder(
            open_graph(graph, device="cpu", threads=threads, spin_us=spin_us),
            embedding,
            dims,
            n_ctx=n_ctx,
            lora_scale=lora_scale,
            kv_scales=kv_scales,
        )

    def prefill(self, ids: Sequence[int]) -> None:
        """Forget everything, then take the prompt."""
        self.decoder.cache.trim(0)
        self.decoder.prefill(self.decoder.embed(ids))

    def step(self, token: int) -> int:
        """Append a token; the likeliest next one."""
        return int(self.decoder.step(token).argmax())


class LlamaCpp:
    """A GGUF file through llama.cpp's own C interface: no Python between two tokens but this."""

    def __init__(self, path: Path, name: str, *, threads: int, n_ctx: int = 512) -> None:
        """Open it.

        Raises:
            RuntimeError: llama.cpp cannot read it, or has no memory for it; it does not say which.
        """
        self.name, self._cpp = name, llama_cpp()
        cpp = self._cpp
        self.model = cpp.llama_model_load_from_file(
            str(path).encode(), cpp.llama_model_default_params()
        )
        if not self.model:
            raise RuntimeError(f"llama_model_load_from_file: {path} could not be loaded")
        params = cpp.llama_context_default_params()
        params.n_ctx = params.n_batch = n_ctx
        params.n_threads = params.n_threads_batch = threads
        self.context = cpp.llama_init_from_model(self.model, params)
        if not self.context:
            raise RuntimeError(f"llama_init_from_model: {path} with {n_ctx} positions")
        self._memory = cpp.llama_get_memory(self.context)
        self._vocab = cpp.llama_model_get_vocab(self.model)
        self._n_vocab = cpp.llama_vocab_n_tokens(self._vocab)

    def prefill(self, ids: Sequence[int]) -> None:
        """Forget everything, then take the prompt."""
        self.trim(0)
        self.append(ids)

    def step(self, token: int) -> int:
        """Append a token; the likeliest next one."""
        self.append([token])
        return self.likeliest()

    @property
    def length(self) -> int:
        """Positions in the cache."""
        return int(self._cpp.llama_memory_seq_pos_max(self._memory, 0)) + 1

    def trim(self, length: int) -> None:
        """Forget all positions behind so many."""
        if not self._cpp.llama_memory_seq_rm(self._memory, 0, length, -1):
            raise RuntimeError(f"llama_memory_seq_rm: from {length}")

    def append(self, ids: Sequence[int]) -> None:
        """Take tokens behind what is there; the logits are those of the last."""
        tokens = (self._cpp.llama_token * len(ids))(*ids)
        status = self._cpp.llama_decode(
            self.context, self._cpp.llama_batch_get_one(tokens, len(ids))
        )
        if status != 0:
            raise RuntimeError(f"llama_decode: {status}")

    def likeliest(self) -> int:
        """The token that the last logits are for."""
        logits = self._cpp.llama_get_logits_ith(self.context, -1)
        return int(np.ctypeslib.as_array(logits, (self._n_vocab,)).argmax())

    def tokenise(self, text: str) -> list[int]:
        """Ids of a text in which special tokens are spelled out; no BOS."""
        said = text.encode()
        room = len(said) + 1
        ids = (self._cpp.llama_token * room)()
        n = self._cpp.llama_tokenize(self._vocab, said, len(said), ids, room, False, True)
        return list(ids[:n])

    def piece(self, token: int) -> bytes:
        """The bytes of a token; they may be a part of a character."""
        room = ctypes.create_string_buffer(256)
        n = self._cpp.llama_token_to_piece(self._vocab, token, room, len(room), 0, False)
        return room.raw[: max(0, n)]

    def ends(self, token: int) -> bool:
        """Whether an answer is over with it."""
        return bool(self._cpp.llama_vocab_is_eog(self._vocab, token))


# llama.cpp keeps the callback's address: it must live as long as the module.
_QUIET = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)(lambda *_: None)


def llama_cpp() -> Any:
    """The module, silenced."""
    cpp = importlib.import_module("llama_cpp")
    cpp.llama_log_set(_QUIET, ctypes.c_void_p(0))
    cpp.llama_backend_init()
    return cpp


def requantized(master: Path, target: Path, kind: str = "Q4_0") -> Path:
    """`master` in one of llama.cpp's own types, made once."""
    if not target.is_file():
        cpp = llama_cpp()
        params = cpp.llama_model_quantize_default_params()
        params.ftype = getattr(cpp, f"LLAMA_FTYPE_MOSTLY_{kind}")
        params.allow_requantize = True
        partial = target.with_suffix(".partial")
        status = cpp.llama_model_quantize(
            str(master).encode(), str(partial).encode(), ctypes.byref(params)
        )
        if status != 0:
            raise RuntimeError(f"llama_model_quantize: {status}")
        partial.rename(target)
    return target


class Torch:
    """transformers' LLaMA with random weights, its KV cache included."""

    def __init__(self, config: Any, kind: str, *, threads: int) -> None:
        """Make it.

        Args:
            config: a LlamaConfig of `kokanee.export.dims`.
            kind: "float32", "bfloat16", or "nf4" through bitsandbytes.
            threads: of PyTorch.
        """
        import torch
        import transformers

        torch.set_num_threads(threads)
        torch.set_grad_enabled(False)
        self.name, self._torch = f"PyTorch {kind}", torch
        shape = transformers.LlamaConfig(
            hidden_size=config.d_model,
            num_hidden_layers=config.n_layers,
            num_attention_heads=config.n_heads,
            num_key_value_heads=config.n_kv_heads,
            intermediate_size=config.d_ffn,
            vocab_size=config.n_vocab,
            max_position_embeddings=config.n_positions,
            tie_word_embeddings=config.tied_head,
        )
        dtype = torch.float32 if kind == "float32" else torch.bfloat16
        self._model: Any = transformers.LlamaForCausalLM(shape).to(dtype).eval()
        if kind == "nf4":
            self.name = "bitsandbytes NF4"
            self._to_nf4(self._model)
        self._past: Any = None

    def prefill(self, ids: Sequence[int]) -> None:
        """Forget everything, then take the prompt."""
        self._past = None
        self._append(ids)

    def step(self, token: int) -> int:
        """Append a token; the likeliest next one."""
        return int(self._append([token]).argmax())

    def _append(self, ids: Sequence[int]) -> Any:
        out = self._model(
            input_ids=self._torch.tensor([list(ids)]),
            past_key_values=self._past,
            use_cache=True,
            logits_to_keep=1,
        )
        self._past = out.past_key_values
        return out.logits[0, -1]

    def _to_nf4(self, module: Any) -> None:
        import bitsandbytes as bnb

        for name, child in module.named_children():
            if isinstance(child, self._torch.nn.Linear) and name != "lm_head":
                made = bnb.nn.Linear4bit(
                    child.in_features,
                    child.out_features,
                    bias=False,
                    compute_dtype=self._torch.bfloat16,
                    quant_type="nf4",
                )
                made.weight = bnb.nn.Params4bit(
                    child.weight.data, requires_grad=False, quant_type="nf4"
                )
                setattr(module, name, made.to("cpu"))
            else:
                self._to_nf4(child)
